package ksl

import (
	"slices"
	"strconv"
	"strings"

	"vortex"
)

// MaxDepth is how many objects and lists may stand inside each other in a value.
const MaxDepth = 64

// Validate checks that value is one JSON object that fits the type. The error is an Invalid vortex.Error
// with the path of the first thing that does not fit, what was expected and what came, for example
//
//	ContainerRecord.status: expected one of Running, Dead, Provisioning, got "Runnin" (did you mean "Running"?)
//
// Fields that are optional or have a default may be absent or null; lists, maps and Bytes may be null, which
// means empty. A value that fits is checked in one pass that, as a rule, does not allocate.
func (t *Type) Validate(value []byte) error {
	ft := FieldType{Kind: KindStruct, Struct: t}
	return ft.Validate(t.Name, value)
}

// Validate checks that value is JSON of this type. path is how messages name it. The error is as Type.Validate's.
func (ft FieldType) Validate(path string, value []byte) error {
	s := scanner{data: value}
	if f := s.document(&ft); f != nil {
		return vortex.Errorf(vortex.Invalid, "%s%s: %s", path, f.where(), f.msg)
	}
	return nil
}

// fault is why a value does not fit. The path grows from the inside out while the scanner returns.
type fault struct {
	path []string // innermost first: ".name", "[3]"
	msg  string
}

// in adds the step that leads to where the fault is.
func (f *fault) in(step string) *fault {
	f.path = append(f.path, step)
	return f
}

// where returns the path, or "" for the value itself.
func (f *fault) where() string {
	slices.Reverse(f.path)
	return strings.Join(f.path, "")
}

// document reads the whole input as one value of type ft.
func (s *scanner) document(ft *FieldType) *fault {
	if f := s.value(ft); f != nil {
		return f
	}
	s.space()
	if s.pos < len(s.data) {
		return s.syntax("expected the end of the value")
	}
	return nil
}

// value reads one value of type ft.
func (s *scanner) value(ft *FieldType) *fault {
	s.space()
	switch ft.Kind {
	case KindList:
		return s.list(ft)
	case KindMap:
		return s.mapping(ft)
	case KindEnum:
		return s.enum(ft.Enum)
	case KindStruct:
		return s.object(ft.Struct)
	default:
		return s.scalar(ft.Scalar)
	}
}

func (s *scanner) object(t *Type) *fault {
	if s.peek() != '{' {
		return s.unexpected("an object of type " + t.Name)
	}
	if f := s.enter(); f != nil {
		return f
	}
	var seen fieldSet
	guess := 0
	for first := true; ; first = false {
		done, f := s.closes('}', first)
		if f != nil {
			return f
		}
		if done {
			break
		}
		i, f := s.fieldKey(t, guess)
		if f != nil {
			return f
		}
		if !seen.add(i) {
			return (&fault{msg: "the field stands here twice"}).in("." + t.Fields[i].Name)
		}
		if f := s.fieldValue(t.Fields[i]); f != nil {
			return f.in("." + t.Fields[i].Name)
		}
		guess = i + 1
	}
	if !seen.covers(&t.required) {
		return t.missing(&seen)
	}
	return nil
}

// position returns where in Fields the field called name is, or -1. guess is where to look first: writers
// keep to the order of the schema.
func (t *Type) position(name []byte, guess int) int {
	if guess < len(t.Fields) && t.Fields[guess].Name == string(name) {
		return guess
	}
	if i, ok := t.byName[string(name)]; ok {
		return i
	}
	return -1
}

// fieldKey reads a key and its colon and returns the position of the field it names.
func (s *scanner) fieldKey(t *Type, guess int) (int, *fault) {
	raw, escaped, f := s.key()
	if f != nil {
		return 0, f
	}
	if escaped {
		raw = unescape(raw)
	}
	if i := t.position(raw, guess); i >= 0 {
		return i, nil
	}
	name := string(raw)
	f = &fault{msg: "there is no such field" + didYouMean(name, t.FieldNames())}
	return 0, f.in("." + shorten(name))
}

func (s *scanner) fieldValue(field *Field) *fault {
	s.space()
	if !field.Required() && s.null() {
		return nil
	}
	return s.value(&field.Type)
}

// missing names the required fields that were not seen.
func (t *Type) missing(seen *fieldSet) *fault {
	var missing []*Field
	for i, f := range t.Fields {
		if t.required.has(i) && !seen.has(i) {
			missing = append(missing, f)
		}
	}
	if len(missing) == 1 {
		f := &fault{msg: "the field is required: expected " + missing[0].Type.expectation()}
		return f.in("." + missing[0].Name)
	}
	names := make([]string, len(missing))
	for i, f := range missing {
		names[i] = f.Name
	}
	return &fault{msg: "the fields " + strings.Join(names, ", ") + " are required"}
}

// expectation says what a value of this type looks like.
func (ft FieldType) expectation() string {
	switch ft.Kind {
	case KindList:
		return "a list, " + ft.String()
	case KindMap:
		return "an object, " + ft.String()
	case KindEnum:
		return "one of " + strings.Join(ft.Enum.Wires(), ", ")
	case KindStruct:
		return "an object of type " + ft.Struct.Name
	default:
		return scalarExpectations[ft.Scalar]
	}
}

func (s *scanner) list(ft *FieldType) *fault {
	if s.null() {
		return nil
	}
	if s.peek() != '[' {
		return s.unexpected(ft.expectation())
	}
	if f := s.enter(); f != nil {
		return f
	}
	for i := 0; ; i++ {
		done, f := s.closes(']', i == 0)
		if done || f != nil {
			return f
		}
		if f := s.value(ft.Elem); f != nil {
			return f.in("[" + strconv.Itoa(i) + "]")
		}
	}
}

func (s *scanner) mapping(ft *FieldType) *fault {
	if s.null() {
		return nil
	}
	if s.peek() != '{' {
		return s.unexpected(ft.expectation())
	}
	if f := s.enter(); f != nil {
		return f
	}
	var keys keySet
	for first := true; ; first = false {
		done, f := s.closes('}', first)
		if done || f != nil {
			return f
		}
		key, escaped, f := s.key()
		if f != nil {
			return f
		}
		if escaped {
			key = unescape(key)
		}
		if !keys.add(key) {
			return (&fault{msg: "the key stands here twice"}).in(mapStep(key))
		}
		if f := s.value(ft.Elem); f != nil {
			return f.in(mapStep(key))
		}
	}
}

func mapStep(key []byte) string { return "[" + strconv.Quote(shorten(string(key))) + "]" }

// keySet tells whether a key of a map was seen before. Few keys are compared in place.
type keySet struct {
	few  [8][]byte
	n    int
	many map[string]struct{}
}

// add reports whether key was not in the set before.
func (k *keySet) add(key []byte) bool {
	if k.many == nil {
		for _, other := range k.few[:k.n] {
			if string(other) == string(key) {
				return false
			}
		}
		if k.n < len(k.few) {
			k.few[k.n] = key
			k.n++
			return true
		}
		k.many = make(map[string]struct{})
		for _, other := range k.few {
			k.many[string(other)] = struct{}{}
		}
	}
	if _, ok := k.many[string(key)]; ok {
		return false
	}
	k.many[string(key)] = struct{}{}
	return true
}

func (s *scanner) enum(e *Enum) *fault {
	if s.peek() != '"' {
		return s.unexpected("one of " + strings.Join(e.Wires(), ", "))
	}
	start := s.pos
	raw, escaped, f := s.str()
	if f != nil {
		return f
	}
	if escaped {
		raw = unescape(raw)
	}
	for i := range e.Values {
		if e.Values[i].Wire == string(raw) {
			return nil
		}
	}
	s.pos = start
	f = s.unexpected("one of " + strings.Join(e.Wires(), ", "))
	f.msg += didYouMean(string(raw), e.Wires())
	return f
}
