-- The log: every change of every key, in the order of its revision. Rows are added at the end and never changed.
-- Compaction removes what is no longer visible. An empty log is at revision 1.
CREATE TABLE @log (
    revision     bigint      NOT NULL, -- of the transaction; what changed together shares it
    key          bytea       NOT NULL,
    created      bigint      NOT NULL, -- the revision at which the key came into being
    deleted      boolean     NOT NULL,
    value        bytea,                -- NULL when deleted
    committed_at timestamptz NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05);

CREATE UNIQUE INDEX log_by_key ON @log (key, revision DESC);
CREATE INDEX log_by_revision ON @log (revision);
ALTER TABLE @log REPLICA IDENTITY USING INDEX log_by_key;

-- One row: how far the log is compacted, and how far its rows are removed.
CREATE TABLE @compaction (
    one       boolean PRIMARY KEY DEFAULT true CHECK (one),
    compacted bigint NOT NULL DEFAULT 0,
    removed   bigint NOT NULL DEFAULT 0
);
INSERT INTO @compaction DEFAULT VALUES;

-- head is the log's newest revision.
CREATE FUNCTION @head() RETURNS bigint LANGUAGE sql STABLE AS
$$ SELECT coalesce((SELECT l.revision FROM @log l ORDER BY l.revision DESC LIMIT 1), 1) $$;

-- commit_group judges and applies several transactions, numbered from 1, of which none writes a key that another
-- compares or writes. Transaction n happens at revision base + n, or is lost. The lock puts all groups of all servers
-- in order, and is held until the group can be seen: revisions appear in order.
CREATE FUNCTION @commit_group(
    c_txn int[], c_key bytea[], c_revision bigint[], w_txn int[], w_key bytea[], w_value bytea[],
    OUT base bigint, OUT made_at timestamptz, OUT lost int[], OUT changed bytea[], OUT created_at bigint[]
) LANGUAGE plpgsql AS $$
DECLARE
    newest bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(1802071652, '@log'::regclass::oid::int);
    base := @head();
    made_at := clock_timestamp();
    SELECT coalesce(array_agg(DISTINCT c.txn), '{}') INTO lost
      FROM unnest(c_txn, c_key, c_revision) AS c(txn, key, revision)
      LEFT JOIN LATERAL (
          SELECT l.revision, l.deleted FROM @log l WHERE l.key = c.key ORDER BY l.revision DESC LIMIT 1
      ) p ON true
     WHERE c.revision <> CASE WHEN p.deleted THEN 0 ELSE coalesce(p.revision, 0) END;
    WITH done AS (
        INSERT INTO @log AS l (revision, key, created, deleted, value, committed_at)
        SELECT base + w.txn, w.key, CASE WHEN NOT p.deleted THEN p.created ELSE base + w.txn END, w.value IS NULL, w.value, made_at
          FROM unnest(w_txn, w_key, w_value) AS w(txn, key, value)
          LEFT JOIN LATERAL (
              SELECT l.created, l.deleted FROM @log l WHERE l.key = w.key ORDER BY l.revision DESC LIMIT 1
          ) p ON true
         WHERE w.txn <> ALL (lost) AND (w.value IS NOT NULL OR NOT p.deleted)
        RETURNING l.revision, l.key, l.created
    )
    SELECT array_agg(done.key), array_agg(done.created), max(done.revision) INTO changed, created_at, newest FROM done;
    IF newest IS NOT NULL THEN
        PERFORM pg_notify('@channel', newest::text);
    END IF;
END
$$;
