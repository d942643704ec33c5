package kind

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"time"

	"vortex"
	"vortex/internal/kind/engine"
)

// Op is one write of a transaction: a put, or a delete when Delete is set.
type Op struct {
	Key    string
	Value  []byte
	TTL    time.Duration // 0 never expires; counted in whole milliseconds
	Delete bool

	forced bool // of a schema text: although it is breaking
}

// Condition must hold for a transaction to happen. It compares the record's revision when ByRevision is
// set, 0 meaning absent, and its value otherwise, empty meaning absent. An expired record is absent, unless the condition
// is Exact.
type Condition struct {
	Key        string
	Value      []byte
	Revision   int64
	ByRevision bool
	Exact      bool // a record that has expired and was not deleted yet is there
}

// IfRevision is the condition that the key's last change is revision, 0 meaning that it is absent.
func IfRevision(key string, revision int64) Condition {
	return Condition{Key: key, Revision: revision, ByRevision: true}
}

// IfValue is the condition that the key holds exactly value, empty meaning that it is absent.
func IfValue(key string, value []byte) Condition { return Condition{Key: key, Value: value} }

// Txn is a set of writes that happens whole, when every condition holds, or not at all.
type Txn struct {
	If  []Condition
	Ops []Op
}

// maxAttempts bounds how often a transaction is tried again because a record it
// compares changed between reading it and committing.
const maxAttempts = 64

// Commit validates a transaction and makes it durable. It returns the revision at which it happened,
// and the store has taken it in. A condition that does not hold is an error of kind Conflict; a value its
// schema refuses is Invalid; a @unique value that another record holds is Exists; all leave everything as it was. After
// Unavailable it is not known whether it happened.
func (s *Store) Commit(ctx context.Context, txn Txn) (int64, error) {
	if len(txn.Ops) == 0 && len(txn.If) == 0 {
		return s.Revision(), nil
	}
	plan, err := s.prepare(txn)
	if err != nil {
		return 0, err
	}
	if err := s.present(); err != nil {
		return 0, err
	}
	if err := s.awaitIndexes(ctx, plan.claims); err != nil {
		return 0, err
	}
	for range maxAttempts {
		guard, err := s.guardSchema(ctx, plan.schemas)
		if err != nil {
			return 0, err
		}
		ready, err := s.judge(ctx, plan)
		if err != nil {
			return 0, err
		}
		if guard.Key != "" {
			ready.Compares = append(ready.Compares, guard)
			ready.Writes = append(slices.Clip(ready.Writes), engine.Write{Key: guard.Key, Value: seal(nil, 0)})
		}
		known := s.Revision()
		result, err := s.commit(ctx, ready)
		if err != nil {
			return 0, s.noticed(err)
		}
		if result.Committed && len(ready.Writes) > 0 {
			return result.Revision, s.noticed(s.reach(ctx, known, result.Revision))
		}
		if err := s.Sync(ctx); err != nil {
			return 0, err
		}
		if result.Committed {
			return result.Revision, nil
		}
		// A compared record changed under us. Our memory has caught up with
		// the change, so the conditions are judged anew.
	}
	return 0, vortex.Errorf(vortex.Conflict, "the records compared change too often; retry later")
}

// plan is a transaction whose values were checked.
type plan struct {
	conditions []Condition
	writes     []engine.Write
	written    map[string]struct{}
	claims     []claim
	schemas    []Op // those that write schema texts
}

// prepare checks the writes and turns them into the engine's.
func (s *Store) prepare(txn Txn) (*plan, error) {
	p := &plan{
		conditions: txn.If, writes: make([]engine.Write, len(txn.Ops)), written: make(map[string]struct{}, len(txn.Ops)),
	}
	schema := s.Schema()
	for i, op := range txn.Ops {
		if _, twice := p.written[op.Key]; twice {
			return nil, vortex.Errorf(vortex.Invalid, "a transaction writes %q twice; write each key once", op.Key)
		}
		p.written[op.Key] = struct{}{}
		if err := s.checkSize(op); err != nil {
			return nil, err
		}
		if strings.HasPrefix(op.Key, SchemaPrefix) {
			p.schemas = append(p.schemas, op)
		}
		if op.Delete {
			p.writes[i] = engine.Write{Key: op.Key, Delete: true}
			continue
		}
		if typ, ok := schema.TypeOf(op.Key); ok {
			if err := typ.Validate(op.Value); err != nil {
				return nil, err
			}
			p.claims = claims(typ, op, p.claims)
		}
		p.writes[i] = engine.Write{Key: op.Key, Value: seal(op.Value, s.expiry(op.TTL)), TTL: op.TTL}
	}
	return p, nil
}

func (s *Store) checkSize(op Op) error {
	switch {
	case op.Key == "":
		return vortex.Errorf(vortex.Invalid, "a key must not be empty")
	case Hidden(op.Key):
		return vortex.Errorf(vortex.Invalid, "%q is the store's own; choose another key", op.Key)
	case len(op.Key) > s.cfg.MaxKeyBytes:
		return vortex.Errorf(vortex.Invalid, "a key may have %d bytes, got %d", s.cfg.MaxKeyBytes, len(op.Key))
	case len(op.Value) > s.cfg.MaxValueBytes:
		return vortex.Errorf(vortex.Invalid, "the value of %q has %d bytes; at most %d are allowed", op.Key, len(op.Value), s.cfg.MaxValueBytes)
	case op.TTL < 0:
		return vortex.Errorf(vortex.Invalid, "the TTL of %q is negative", op.Key)
	}
	return nil
}

// expiry turns a time to live into the moment it ends, in Unix milliseconds.
func (s *Store) expiry(ttl time.Duration) int64 {
	if ttl == 0 {
		return 0
	}
	return s.now() + max(ttl.Milliseconds(), 1)
}

// judge resolves a plan; what stands in its way is looked at again with memory as new
// as the engine, so that a server that lags behind does not refuse in error.
func (s *Store) judge(ctx context.Context, p *plan) (engine.Txn, error) {
	txn, err := s.resolve(p)
	if err == nil {
		return txn, nil
	}
	if err := s.Sync(ctx); err != nil {
		return engine.Txn{}, err
	}
	return s.resolve(p)
}

// resolve judges the conditions and claims against memory and returns what the engine has to do,
// with the compares that hold it to that memory.
func (s *Store) resolve(p *plan) (engine.Txn, error) {
	s.state.mu.RLock()
	defer s.state.mu.RUnlock()
	now := s.now()
	txn := engine.Txn{Compares: make([]engine.Compare, 0, len(p.conditions)), Writes: p.writes}
	for _, c := range p.conditions {
		var raw int64 // the engine's revision of the key, expired or not
		rec, ok := s.state.records.Get(c.Key)
		if ok {
			raw = rec.ModRevision
		}
		if !c.holds(rec, now) {
			return engine.Txn{}, vortex.Errorf(vortex.Conflict, "%q is not what the transaction expects; read it again", c.Key)
		}
		txn.Compares = append(txn.Compares, engine.Compare{Key: c.Key, ModRevision: raw})
	}
	if len(p.claims) == 0 {
		return txn, nil
	}
	compares, writes, err := s.state.hold(p.claims, p.written, now)
	if err != nil {
		return engine.Txn{}, err
	}
	txn.Compares = append(txn.Compares, compares...)
	txn.Writes = append(slices.Clip(p.writes), writes...)
	return txn, nil
}

// holds judges the condition for a record, nil when there is none, at a time in Unix milliseconds.
func (c Condition) holds(rec *Record, now int64) bool {
	if rec != nil && !c.Exact && rec.expired(now) {
		rec = nil
	}
	switch {
	case c.ByRevision && rec == nil:
		return c.Revision == 0
	case c.ByRevision:
		return c.Revision == rec.ModRevision
	case rec == nil:
		return len(c.Value) == 0
	default:
		return len(c.Value) > 0 && bytes.Equal(c.Value, rec.Value)
	}
}

// Put writes one record.
func (s *Store) Put(ctx context.Context, key string, value []byte, ttl time.Duration) (int64, error) {
	return s.Commit(ctx, Txn{Ops: []Op{{Key: key, Value: value, TTL: ttl}}})
}

// Delete removes the record at key and reports whether there was one.
func (s *Store) Delete(ctx context.Context, key string) (bool, error) {
	for range maxAttempts {
		rec, err := s.Get(key)
		if err != nil {
			if err := s.Sync(ctx); err != nil {
				return false, err
			}
			if rec, err = s.Get(key); err != nil {
				return false, nil //nolint:nilerr // it is certain now that there is none
			}
		}
		_, err = s.Commit(ctx, Txn{If: []Condition{IfRevision(key, rec.ModRevision)}, Ops: []Op{{Key: key, Delete: true}}})
		if !vortex.IsKind(err, vortex.Conflict) {
			return err == nil, err
		}
	}
	return false, vortex.Errorf(vortex.Conflict, "%q changes too often to be deleted; retry later", key)
}

// Swap puts value at key if the key holds exactly expected, empty meaning absent or expired, and
// reports whether it did. Losing is no error.
func (s *Store) Swap(ctx context.Context, key string, expected, value []byte, ttl time.Duration) (bool, error) {
	_, err := s.Commit(ctx, Txn{If: []Condition{IfValue(key, expected)}, Ops: []Op{{Key: key, Value: value, TTL: ttl}}})
	if vortex.IsKind(err, vortex.Conflict) {
		return false, nil
	}
	return err == nil, err
}
