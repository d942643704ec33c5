package ksl

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
)

// enumLine is how long a line with all the values of an enum may be.
const enumLine = 100

// String returns the schema as KSL: enums first, then types, comments above what they belong to. Parse makes the
// same schema of it.
func (s *Schema) String() string {
	p := printer{}
	for _, e := range s.Enums {
		p.enum(e)
	}
	for _, t := range s.Types {
		p.typ(t)
	}
	return p.String()
}

// Definition returns a type as KSL that can be parsed on its own: with all the types and enums it mentions.
func (s *Schema) Definition(t *Type) string {
	part := &Schema{}
	part.reach(t)
	whole := &Schema{}
	for _, e := range s.Enums {
		if slices.Contains(part.Enums, e) {
			whole.Enums = append(whole.Enums, e)
		}
	}
	whole.Types = part.Types
	return whole.String()
}

// reach adds t and what it mentions.
func (s *Schema) reach(t *Type) {
	if slices.Contains(s.Types, t) {
		return
	}
	s.Types = append(s.Types, t)
	for _, f := range t.Fields {
		ft := f.Type
		for ft.Elem != nil {
			ft = *ft.Elem
		}
		switch ft.Kind {
		case KindEnum:
			if !slices.Contains(s.Enums, ft.Enum) {
				s.Enums = append(s.Enums, ft.Enum)
			}
		case KindStruct:
			s.reach(ft.Struct)
		default:
		}
	}
}

type printer struct{ strings.Builder }

func (p *printer) line(parts ...string) {
	for _, part := range parts {
		p.WriteString(part)
	}
	p.WriteByte('\n')
}

// doc writes a comment above what it belongs to.
func (p *printer) doc(indent, doc string) {
	if doc == "" {
		return
	}
	for line := range strings.SplitSeq(doc, "\n") {
		p.line(indent, strings.TrimSpace("# "+line))
	}
}

// declaration leaves a line free between declarations, so that no comment is taken for that of the one before.
func (p *printer) declaration(doc string) {
	if p.Len() > 0 {
		p.line()
	}
	p.doc("", doc)
}

func (p *printer) enum(e *Enum) {
	p.declaration(e.Doc)
	values, documented := make([]string, len(e.Values)), false
	for i, v := range e.Values {
		values[i] = v.Name
		if v.Wire != v.Name {
			values[i] += " = " + strconv.Quote(v.Wire)
		}
		documented = documented || v.Doc != ""
	}
	inline := "enum " + e.Name + " { " + strings.Join(values, ", ") + " }"
	if !documented && len(inline) <= enumLine {
		p.line(inline)
		return
	}
	p.line("enum ", e.Name, " {")
	for i, v := range e.Values {
		p.doc("    ", v.Doc)
		p.line("    ", values[i], comma(i, len(values)))
	}
	p.line("}")
}

func (p *printer) typ(t *Type) {
	p.declaration(t.Doc)
	if t.Prefix != "" {
		p.line("@prefix(", strconv.Quote(t.Prefix), ")")
	}
	if t.Table != "" {
		p.line("@table(", strconv.Quote(t.Table), ")")
	}
	p.line("type ", t.Name, " {")
	for i, f := range t.Fields {
		p.doc("    ", f.Doc)
		p.line("    ", f.String(), comma(i, len(t.Fields)))
	}
	p.line("}")
}

func comma(i, n int) string {
	if i == n-1 {
		return ""
	}
	return ","
}

// String returns the field as KSL, without its comment.
func (f *Field) String() string {
	var b strings.Builder
	if f.Indexed {
		b.WriteString("@indexed ")
	}
	if f.Unique {
		b.WriteString("@unique ")
	}
	b.WriteString(f.Name + ": " + f.Type.String())
	if f.Optional {
		b.WriteByte('?')
	}
	if f.Default != nil {
		b.WriteString(" @default(" + literalOf(f.Type, f.Default) + ")")
	}
	return b.String()
}

// literalOf returns the JSON of a default as the schema language has it.
func literalOf(ft FieldType, value []byte) string {
	switch value[0] {
	case '[':
		return listLiteral(ft, value)
	case '"':
		var text string
		_ = json.Unmarshal(value, &text) // it is a string that Parse made
		if ft.Kind == KindEnum {
			if name := ft.Enum.nameOf(text); name != "true" && name != "false" {
				return name
			}
		}
		return strconv.Quote(text)
	default:
		return string(value)
	}
}

func listLiteral(ft FieldType, value []byte) string {
	elem := ft
	if ft.Kind == KindList {
		elem = *ft.Elem
	}
	var elems []json.RawMessage
	_ = json.Unmarshal(value, &elems) // it is a list that Parse made
	parts := make([]string, len(elems))
	for i, e := range elems {
		parts[i] = literalOf(elem, e)
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

// nameOf finds the name of a value by how it stands in JSON.
func (e *Enum) nameOf(wire string) string {
	for _, v := range e.Values {
		if v.Wire == wire {
			return v.Name
		}
	}
	return wire
}
