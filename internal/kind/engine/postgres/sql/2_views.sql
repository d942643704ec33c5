-- Views for people with psql. A value is Kind's envelope: a format byte, 1; the expiry in Unix milliseconds as a varint, 0 for
-- never; and the record as JSON.

-- unseal opens an envelope. What Kind did not write comes back as NULL.
CREATE FUNCTION @unseal(envelope bytea, OUT expires_ms bigint, OUT value bytea) LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    at    int := 1;
    shift int := 0;
    part  int;
BEGIN
    IF octet_length(envelope) < 2 OR get_byte(envelope, 0) <> 1 THEN
        RETURN;
    END IF;
    expires_ms := 0;
    LOOP
        part := get_byte(envelope, at);
        expires_ms := expires_ms | ((part & 127)::bigint << shift);
        at := at + 1;
        EXIT WHEN part < 128;
        shift := shift + 7;
    END LOOP;
    value := substr(envelope, at + 1);
END
$$;

-- as_json reads a record; NULL when it is none.
CREATE FUNCTION @as_json(value bytea) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN convert_from(value, 'UTF8')::jsonb;
EXCEPTION WHEN others THEN
    RETURN NULL;
END
$$;

-- as_text reads a key; one that is no text is escaped.
CREATE FUNCTION @as_text(key bytea) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN convert_from(key, 'UTF8');
EXCEPTION WHEN others THEN
    RETURN encode(key, 'escape');
END
$$;

-- as_time reads a moment; NULL when it is none.
CREATE FUNCTION @as_time(moment text) RETURNS timestamptz LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN moment::timestamptz;
EXCEPTION WHEN others THEN
    RETURN NULL;
END
$$;

-- records returns what is below a prefix now, without what is expired. id is the key without the prefix.
CREATE FUNCTION @records(prefix text)
RETURNS TABLE (id text, record jsonb, expires_at timestamptz, revision bigint, changed_at timestamptz) LANGUAGE sql STABLE AS $$
    SELECT @as_text(substr(c.key, octet_length(convert_to(prefix, 'UTF8')) + 1)), @as_json(u.value),
           CASE WHEN u.expires_ms > 0 THEN to_timestamp(u.expires_ms / 1000.0) END, c.revision, c.committed_at
      FROM (
          SELECT DISTINCT ON (l.key) l.key, l.revision, l.deleted, l.value, l.committed_at
            FROM @log l
           WHERE l.key >= convert_to(prefix, 'UTF8') AND l.key < convert_to(prefix, 'UTF8') || '\xff'::bytea
           ORDER BY l.key, l.revision DESC
      ) c
     CROSS JOIN LATERAL @unseal(c.value) u
     WHERE NOT c.deleted AND (u.expires_ms = 0 OR u.expires_ms > extract(epoch FROM clock_timestamp()) * 1000)
     ORDER BY c.key
$$;

CREATE VIEW @applications AS
SELECT a.record ->> 'name' AS name,
       a.record #>> '{spec,spec,type}' AS type,
       coalesce(a.record ->> 'image', a.record #>> '{spec,spec,image}') AS image,
       (a.record ->> 'generation')::bigint AS generation,
       coalesce((a.record ->> 'stopped')::bool, false) AS stopped,
       (a.record ->> 'replicas')::bigint AS replicas,
       a.record ->> 'cause' AS cause,
       @as_time(a.record ->> 'created_at') AS created_at,
       @as_time(a.record ->> 'updated_at') AS updated_at,
       a.record -> 'spec' AS spec,
       a.revision
  FROM @records('vortex:app:') a;

-- A wanted instance, with where it was placed and what its agent observes.
CREATE VIEW @instances AS
SELECT i.record ->> 'id' AS id,
       i.record ->> 'client_id' AS application,
       (i.record ->> 'release')::bigint AS release,
       i.record ->> 'wanted' AS wanted,
       p.record ->> 'node' AS node,
       c.record ->> 'status' AS status,
       c.record ->> 'health' AS health,
       c.record ->> 'ip_address' AS address,
       (c.record ->> 'port')::int AS port,
       c.record ->> 'driver' AS driver,
       coalesce(c.record ->> 'reason', p.record ->> 'explain', i.record ->> 'reason') AS reason,
       @as_time(i.record ->> 'created_at') AS created_at,
       @as_time(c.record ->> 'started_at') AS started_at,
       (c.record ->> 'exit_code')::int AS exit_code,
       greatest(i.revision, p.revision, c.revision) AS revision
  FROM @records('vortex:instance:') i
  LEFT JOIN @records('vortex:placement:') p ON p.id = i.id
  LEFT JOIN @records('vortex:container:') c ON c.id = i.id;

CREATE VIEW @events AS
SELECT @as_time(e.record ->> 'at') AS at,
       e.record ->> 'severity' AS severity,
       e.record ->> 'component' AS component,
       e.record ->> 'type' AS type,
       e.record ->> 'client_id' AS application,
       e.record ->> 'instance' AS instance,
       e.record ->> 'node' AS node,
       e.record ->> 'message' AS message,
       e.record ->> 'cause' AS cause,
       e.record ->> 'id' AS id,
       e.expires_at,
       e.revision
  FROM @records('vortex:event:') e;

CREATE VIEW @metrics AS
SELECT m.record ->> 'client_id' AS application,
       m.record ->> 'edge' AS edge,
       (m.record ->> 'current_rps')::bigint AS current_rps,
       (m.record ->> 'desired_replicas')::bigint AS desired_replicas,
       (m.record ->> 'in_flight')::bigint AS in_flight,
       (m.record ->> 'connections')::bigint AS connections,
       (m.record ->> 'latency_p50_ms')::float8 AS latency_p50_ms,
       (m.record ->> 'latency_p95_ms')::float8 AS latency_p95_ms,
       (m.record ->> 'errors_per_second')::float8 AS errors_per_second,
       coalesce(@as_time(m.record ->> 'observed_at'), m.changed_at) AS observed_at,
       m.expires_at,
       m.revision
  FROM @records('vortex:metrics:') m;
