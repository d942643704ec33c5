package kind

import (
	"strings"

	"github.com/tidwall/btree"

	"vortex/internal/kind/ksl"
)

// indexes find records by the values of their indexed fields. They live in memory only. The state's lock guards them.
type indexes struct {
	byField map[fieldKey]*index
	byType  map[*ksl.Type][]*index // in the order of Type.Indexed
	before  [][]byte               // room for the values of the record that is replaced
	after   [][]byte               // room for the values of the one that comes
}

// fieldKey names an indexed field.
type fieldKey struct{ typ, field string }

// index holds the records of one type by the value of one field. While it is being built it holds exactly those with
// keys up to built, each as it is now.
type index struct {
	key    fieldKey
	prefix string
	inner  string // the prefixes of other types below prefix: records there are not in the index
	at     int    // the field's place in Type.Indexed
	unique bool
	built  string
	done   chan struct{} // closed once every record is in it
	sets   map[string]*set
}

// newIndexes returns the empty indexes of a schema, complete for a store without records.
func newIndexes(schema *ksl.Schema) indexes {
	x := indexes{byField: make(map[fieldKey]*index), byType: make(map[*ksl.Type][]*index)}
	for _, typ := range schema.Types {
		if typ.Prefix == "" {
			continue
		}
		inner := innerPrefixes(schema, typ)
		for at, f := range typ.Indexed() {
			idx := &index{
				key: fieldKey{typ.Name, f.Name}, prefix: typ.Prefix, inner: inner, at: at, unique: f.Unique,
				done: make(chan struct{}), sets: make(map[string]*set),
			}
			close(idx.done)
			x.byField[idx.key] = idx
			x.byType[typ] = append(x.byType[typ], idx)
		}
	}
	return x
}

// innerPrefixes joins the prefixes of the other types below that of typ.
func innerPrefixes(schema *ksl.Schema, typ *ksl.Type) string {
	var inner []string
	for _, other := range schema.Types {
		if strings.HasPrefix(other.Prefix, typ.Prefix+":") {
			inner = append(inner, other.Prefix)
		}
	}
	return strings.Join(inner, "\x00")
}

// ready reports whether every record is in the index.
func (x *index) ready() bool {
	select {
	case <-x.done:
		return true
	default:
		return false
	}
}

// has reports whether the record at key is in the index already, or would be.
func (x *index) has(key string) bool { return key <= x.built || x.ready() }

// reindex moves the record at key from where prev was found to where rec is found; either may be nil. The
// caller holds the lock.
func (s *state) reindex(key string, prev, rec *Record) {
	typ, ok := s.schema.TypeOf(key)
	if !ok {
		return
	}
	fields := s.indexes.byType[typ]
	if len(fields) == 0 {
		return
	}
	x := &s.indexes
	if prev != nil {
		x.before = typ.IndexValues(prev.Value, x.before[:0])
	}
	if rec != nil {
		x.after = typ.IndexValues(rec.Value, x.after[:0])
	}
	for i, idx := range fields {
		if !idx.has(key) {
			continue
		}
		if prev != nil && (rec == nil || string(x.before[i]) != string(x.after[i])) {
			idx.remove(x.before[i], key)
		}
		if rec != nil {
			idx.put(x.after[i], rec)
		}
	}
}

func (x *index) put(value []byte, rec *Record) {
	if s := x.sets[string(value)]; s != nil {
		s.put(rec)
		return
	}
	x.sets[string(value)] = &set{one: rec}
}

func (x *index) remove(value []byte, key string) {
	s := x.sets[string(value)]
	if s == nil {
		return
	}
	if s.remove(key) == 0 {
		delete(x.sets, string(value))
	}
}

// set is the records that share a value: one, as is usual where values differ, or more.
type set struct {
	one  *Record
	more *btree.Map[string, *Record]
}

func (s *set) put(rec *Record) {
	if s.more == nil {
		if s.one.Key == rec.Key {
			s.one = rec
			return
		}
		s.more = &btree.Map[string, *Record]{}
		s.more.Set(s.one.Key, s.one)
		s.one = nil
	}
	s.more.Set(rec.Key, rec)
}

// remove takes out the record at key and returns how many are left.
func (s *set) remove(key string) int {
	if s.more != nil {
		s.more.Delete(key)
		return s.more.Len()
	}
	if s.one.Key == key {
		return 0
	}
	return 1
}

// each calls yield for every record in key order until it returns false.
func (s *set) each(yield func(*Record) bool) {
	switch {
	case s == nil:
	case s.more == nil:
		yield(s.one)
	default:
		s.more.Scan(func(_ string, rec *Record) bool { return yield(rec) })
	}
}

// Find calls yield, in key order, for every record of a type whose field holds value, until it returns false. When
// the field is indexed, its cost does not depend on the number of other records; without an index, and until a
// new one is complete, all records of the type are looked at.
func (v View) Find(typeName, field, value string, yield func(*Record) bool) {
	visible := func(rec *Record) bool { return rec.expired(v.now) || yield(rec) }
	if idx := v.s.indexes.byField[fieldKey{typeName, field}]; idx != nil && idx.ready() {
		idx.sets[value].each(visible)
		return
	}
	typ, ok := v.s.schema.Type(typeName)
	if !ok || typ.Prefix == "" {
		return
	}
	v.s.eachBelow(typ.Prefix, "", func(rec *Record) bool {
		owner, _ := v.s.schema.TypeOf(rec.Key)
		return owner != typ || string(ksl.Text(rec.Value, field)) != value || visible(rec)
	})
}

// eachBelow calls yield, in key order, for the records after a key that a type with that prefix may own, until it
// returns false. The caller holds the lock.
func (s *state) eachBelow(prefix, after string, yield func(*Record) bool) {
	end := prefix + ";" // follows every key that starts with the prefix and a colon
	s.records.Ascend(max(after, prefix), func(key string, rec *Record) bool {
		return key < end && (key <= after || yield(rec))
	})
}
