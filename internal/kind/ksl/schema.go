package ksl

import (
	"slices"
	"strings"
)

// Schema is a set of types and enums that refer to nothing outside it. It is made by Parse and Merge
// and does not change afterwards; treat everything reachable from it as read-only.
type Schema struct {
	Types []*Type // in source order
	Enums []*Enum // in source order

	types    map[string]*Type
	enums    map[string]*Enum
	prefixes map[string]*Type
	longest  int // length of the longest prefix
}

// Type is one type of a schema. With a Prefix it is a record: it owns the keys <Prefix> and <Prefix>:….
// Without one it is a part of other types.
type Type struct {
	Name   string
	Prefix string // "" for a part
	Table  string // the name of the generated key table from @table; "" leaves it to the generator
	Doc    string // the comment above or beside it, without its markers; lines are separated by \n
	Fields []*Field
	Base   *Type // from @extends: whose fields follow its own in Fields; nil is none
	Own    int   // with a Base: how many fields are its own
	Line   int   // in the source, from 1

	at       place
	byName   map[string]int
	required fieldSet
	indexed  []*Field
	indexAt  []int // of each field, its place in indexed, or -1
}

// Field is one field of a type.
type Field struct {
	Name     string // as it stands in JSON
	Type     FieldType
	Optional bool   // declared with ?
	Indexed  bool   // @indexed
	Unique   bool   // @unique: indexed, and no two records share a value
	Default  []byte // JSON of @default; nil when there is none
	Doc      string // the comment above or beside it
	Line     int    // in the source, from 1

	at place
}

// Required reports whether a value without the field is refused.
func (f *Field) Required() bool { return !f.Optional && f.Default == nil }

// Kind tells what sort of type a FieldType is.
type Kind uint8

// The kinds of field types.
const (
	KindScalar Kind = iota // FieldType.Scalar says which
	KindList               // of FieldType.Elem
	KindMap                // from strings to FieldType.Elem
	KindEnum               // FieldType.Enum
	KindStruct             // FieldType.Struct
)

// Scalar is a built-in type.
type Scalar uint8

// The scalars. In JSON, Bytes is a base64 string (standard alphabet, padded), Timestamp an RFC 3339 string,
// Duration a string such as "1m30s", and Json any value.
const (
	String Scalar = iota
	Bool
	U8
	U16
	U32
	U64
	I8
	I16
	I32
	I64
	F32
	F64
	Bytes
	Timestamp
	Duration
	Json //nolint:revive // the schema language spells it so
	scalars
)

var scalarNames = [scalars]string{
	"String", "Bool", "U8", "U16", "U32", "U64", "I8", "I16", "I32", "I64", "F32", "F64", "Bytes", "Timestamp",
	"Duration", "Json",
}

// String returns the name the schema language has for it.
func (s Scalar) String() string { return scalarNames[s] }

// Numeric reports whether values are JSON numbers.
func (s Scalar) Numeric() bool { return s >= U8 && s <= F64 }

// FieldType is the type of a field, of a list's elements or of a map's values.
type FieldType struct {
	Kind   Kind
	Scalar Scalar     // for KindScalar
	Elem   *FieldType // for KindList and KindMap
	Enum   *Enum      // for KindEnum
	Struct *Type      // for KindStruct

	name string // what the source calls it; "" for lists and maps
}

// String returns the type as a schema spells it, for example List<Port>.
func (ft FieldType) String() string {
	switch ft.Kind {
	case KindList:
		return "List<" + ft.Elem.String() + ">"
	case KindMap:
		return "Map<String, " + ft.Elem.String() + ">"
	default:
		return ft.name
	}
}

// Enum is a closed set of strings.
type Enum struct {
	Name   string
	Doc    string
	Values []EnumValue // in source order
	Line   int

	at place
}

// EnumValue is one value of an enum.
type EnumValue struct {
	Name string // its name in the schema
	Wire string // how it stands in JSON: Name, unless the schema says otherwise
	Doc  string
	Line int

	at place
}

// Wires returns the values as they stand in JSON, in source order.
func (e *Enum) Wires() []string {
	wires := make([]string, len(e.Values))
	for i, v := range e.Values {
		wires[i] = v.Wire
	}
	return wires
}

// Value finds a value by its name in the schema.
func (e *Enum) Value(name string) (EnumValue, bool) {
	i := slices.IndexFunc(e.Values, func(v EnumValue) bool { return v.Name == name })
	if i < 0 {
		return EnumValue{}, false
	}
	return e.Values[i], true
}

// Type finds a type by its name.
func (s *Schema) Type(name string) (*Type, bool) {
	t, ok := s.types[name]
	return t, ok
}

// Enum finds an enum by its name.
func (s *Schema) Enum(name string) (*Enum, bool) {
	e, ok := s.enums[name]
	return e, ok
}

// TypeOf returns the record type that owns key: the one with the longest prefix p such that key is p or
// starts with p and a colon. It does not allocate.
func (s *Schema) TypeOf(key string) (*Type, bool) {
	if len(key) <= s.longest {
		if t, ok := s.prefixes[key]; ok {
			return t, true
		}
	}
	end := min(len(key), s.longest+1)
	for {
		end = strings.LastIndexByte(key[:end], ':')
		if end < 0 {
			return nil, false
		}
		if t, ok := s.prefixes[key[:end]]; ok {
			return t, true
		}
	}
}

// Field finds a field by its name.
func (t *Type) Field(name string) (*Field, bool) {
	i, ok := t.byName[name]
	if !ok {
		return nil, false
	}
	return t.Fields[i], true
}

// FieldNames returns the names of the fields in source order.
func (t *Type) FieldNames() []string {
	names := make([]string, len(t.Fields))
	for i, f := range t.Fields {
		names[i] = f.Name
	}
	return names
}

// Indexed returns the @indexed and @unique fields in source order. The caller must not change the slice.
func (t *Type) Indexed() []*Field { return t.indexed }

// build fills what lookups need. Names and prefixes must be unique already.
func (s *Schema) build() {
	s.index()
	for _, t := range s.Types {
		t.build()
	}
}

// index fills what finds types and enums.
func (s *Schema) index() {
	s.types = make(map[string]*Type, len(s.Types))
	s.enums = make(map[string]*Enum, len(s.Enums))
	s.prefixes = make(map[string]*Type)
	s.longest = 0
	for _, e := range s.Enums {
		s.enums[e.Name] = e
	}
	for _, t := range s.Types {
		s.types[t.Name] = t
		if t.Prefix != "" {
			s.prefixes[t.Prefix] = t
			s.longest = max(s.longest, len(t.Prefix))
		}
	}
}

func (t *Type) build() {
	t.byName = make(map[string]int, len(t.Fields))
	t.required = fieldSet{}
	t.indexed = nil
	t.indexAt = make([]int, len(t.Fields))
	for i, f := range t.Fields {
		t.byName[f.Name] = i
		if f.Required() {
			t.required.add(i)
		}
		t.indexAt[i] = -1
		if f.Indexed || f.Unique {
			t.indexAt[i] = len(t.indexed)
			t.indexed = append(t.indexed, f)
		}
	}
}

// maxFields is how many fields a type may have.
const maxFields = 256

// fieldSet is a set of positions in Type.Fields.
type fieldSet [maxFields / 64]uint64

// add reports whether i was not in the set before.
func (s *fieldSet) add(i int) bool {
	word, bit := &s[i/64], uint64(1)<<(i%64)
	if *word&bit != 0 {
		return false
	}
	*word |= bit
	return true
}

func (s *fieldSet) has(i int) bool { return s[i/64]&(1<<(i%64)) != 0 }

// covers reports whether every member of other is in the set.
func (s *fieldSet) covers(other *fieldSet) bool {
	for i := range s {
		if other[i]&^s[i] != 0 {
			return false
		}
	}
	return true
}
