package kind

import (
	"fmt"
	"hash/fnv"
	"strconv"

	"vortex"
	"vortex/internal/kind/engine"
	"vortex/internal/kind/ksl"
)

// guardBuckets is how many guards a field has: enough that different values seldom meet, few enough to keep for good.
//
// A guard is a hidden key below guardPrefix without content: every transaction that writes a value of its bucket compares
// its revision and rewrites it. So of two servers that add the same value at the same time one loses the
// compare, catches up, and finds the other's record.
const guardBuckets = 256

// claim is a value of a @unique field that a transaction writes.
type claim struct {
	typ, field, value string
	key               string // of the record
}

// guard is the key that a claim's transactions meet at.
func (c claim) guard() string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(c.value))
	return fmt.Sprintf("%s%s:%s:%02x", guardPrefix, c.typ, c.field, h.Sum32()%guardBuckets)
}

// claims adds what a put of a typ record claims. An absent or empty value claims nothing.
func claims(typ *ksl.Type, op Op, to []claim) []claim {
	var values [][]byte
	for i, f := range typ.Indexed() {
		if !f.Unique {
			continue
		}
		if values == nil {
			values = typ.IndexValues(op.Value, nil)
		}
		if len(values[i]) > 0 {
			to = append(to, claim{typ: typ.Name, field: f.Name, value: string(values[i]), key: op.Key})
		}
	}
	return to
}

// TakenError is the key of the record that holds a value which has to be unique; errors of kind Exists wrap it.
type TakenError string

// Error implements error.
func (t TakenError) Error() string { return strconv.Quote(string(t)) }

// hold returns the compares and writes that keep claims true, or an error of kind Exists when another record than the
// ones in written, which the same transaction writes, holds such a value. The caller holds the lock.
func (s *state) hold(held []claim, written map[string]struct{}, now int64) ([]engine.Compare, []engine.Write, error) {
	var compares []engine.Compare
	var writes []engine.Write
	holders, guards := map[claim]string{}, map[string]struct{}{}
	for _, c := range held {
		k := claim{typ: c.typ, field: c.field, value: c.value}
		other := holders[k]
		if other == "" {
			View{s: s, now: now}.Find(c.typ, c.field, c.value, func(rec *Record) bool {
				if _, ours := written[rec.Key]; !ours {
					other = rec.Key
				}
				return other == ""
			})
		}
		if other != "" {
			return nil, nil, vortex.Errorf(vortex.Exists, "%s.%s %q is taken by %w; it has to be unique", c.typ, c.field, c.value, TakenError(other))
		}
		holders[k] = c.key
		guard := c.guard()
		if _, done := guards[guard]; done {
			continue
		}
		guards[guard] = struct{}{}
		compares = append(compares, engine.Compare{Key: guard, ModRevision: s.guards[guard]})
		writes = append(writes, engine.Write{Key: guard, Value: seal(nil, 0)})
	}
	return compares, writes, nil
}
