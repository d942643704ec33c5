package ksl

import (
	"fmt"
	"strings"

	"vortex"
)

// Merge returns this schema with the types and enums of newer added. Those that exist already take the newer
// form, which must be a compatible evolution: every value that was valid stays valid and keeps its meaning.
// New optional fields, fields with a default, enum values, types, enums and indexes are. The error is a
// Precondition vortex.Error that names all that is not. Neither schema is changed.
func (s *Schema) Merge(newer *Schema) (*Schema, error) {
	var c changes
	for _, e := range newer.Enums {
		c.enum(s, e)
	}
	for _, t := range newer.Types {
		c.typ(s, t)
	}
	if len(c.refused) > 0 {
		return nil, vortex.Errorf(vortex.Precondition, "the schema is no compatible change of the running one:\n  %s",
			strings.Join(c.refused, "\n  "))
	}
	return s.Overlay(newer)
}

// Overlay is Merge without the demand for compatibility: for changes that are forced. It fails, with a Precondition
// vortex.Error, only where the result would be no schema: a prefix with two owners, a type that is also an enum.
func (s *Schema) Overlay(newer *Schema) (*Schema, error) {
	merged := &Schema{}
	for _, e := range s.Enums {
		if _, ok := newer.enums[e.Name]; !ok {
			merged.Enums = append(merged.Enums, e)
		}
	}
	merged.Enums = append(merged.Enums, newer.Enums...)
	for _, t := range s.Types {
		if _, ok := newer.types[t.Name]; !ok {
			merged.Types = append(merged.Types, t.clone())
		}
	}
	for _, t := range newer.Types {
		merged.Types = append(merged.Types, t.clone())
	}
	if err := merged.distinct(); err != nil {
		return nil, err
	}
	merged.build()
	for _, t := range merged.Types {
		for _, f := range t.Fields {
			merged.relink(&f.Type)
		}
	}
	return merged, nil
}

// distinct checks that no name and no prefix is used twice.
func (s *Schema) distinct() error {
	names, prefixes := make(map[string]bool), make(map[string]string)
	for _, e := range s.Enums {
		names[e.Name] = true
	}
	for _, t := range s.Types {
		if names[t.Name] {
			return vortex.Errorf(vortex.Precondition, "%s is an enum in one schema and a type in the other", t.Name)
		}
		if other, ok := prefixes[t.Prefix]; ok && t.Prefix != "" {
			return vortex.Errorf(vortex.Precondition, "the prefix %q belongs to %s; %s cannot have it too", t.Prefix, other, t.Name)
		}
		prefixes[t.Prefix] = t.Name
	}
	return nil
}

// relink makes ft point into this schema.
func (s *Schema) relink(ft *FieldType) {
	if ft.Elem != nil {
		s.relink(ft.Elem)
		return
	}
	s.link(ft)
}

func (t *Type) clone() *Type {
	c := *t
	c.Fields = make([]*Field, len(t.Fields))
	for i, f := range t.Fields {
		field := *f
		field.Type = f.Type.clone()
		c.Fields[i] = &field
	}
	return &c
}

func (ft FieldType) clone() FieldType {
	if ft.Elem != nil {
		elem := ft.Elem.clone()
		ft.Elem = &elem
	}
	return ft
}

// changes collects what is not compatible.
type changes struct{ refused []string }

func (c *changes) refuse(format string, args ...any) {
	c.refused = append(c.refused, fmt.Sprintf(format, args...))
}

func (c *changes) enum(old *Schema, e *Enum) {
	if _, ok := old.types[e.Name]; ok {
		c.refuse("%s is a type and cannot become an enum", e.Name)
	}
	was, ok := old.enums[e.Name]
	if !ok {
		return
	}
	for _, v := range was.Values {
		now, ok := e.Value(v.Name)
		switch {
		case !ok:
			c.refuse("%s: the value %s is removed; records may have it", e.Name, v.Name)
		case now.Wire != v.Wire:
			c.refuse("%s.%s: its form changes from %q to %q", e.Name, v.Name, v.Wire, now.Wire)
		}
	}
}

func (c *changes) typ(old *Schema, t *Type) {
	if _, ok := old.enums[t.Name]; ok {
		c.refuse("%s is an enum and cannot become a type", t.Name)
	}
	was, ok := old.types[t.Name]
	if !ok {
		c.newType(old, t)
		return
	}
	if was.Prefix != t.Prefix {
		c.refuse("%s: its prefix changes from %q to %q", t.Name, was.Prefix, t.Prefix)
	}
	for _, f := range was.Fields {
		now, ok := t.Field(f.Name)
		if !ok {
			c.refuse("%s.%s: the field is removed", t.Name, f.Name)
			continue
		}
		c.field(t.Name+"."+f.Name, f, now)
	}
	for _, f := range t.Fields {
		if _, ok := was.Field(f.Name); !ok && f.Required() {
			c.refuse("%s.%s: the new field is required; make it optional or give it a default", t.Name, f.Name)
		}
	}
}

// newType refuses a record type that would take keys from a type that owns them now.
func (c *changes) newType(old *Schema, t *Type) {
	if t.Prefix == "" {
		return
	}
	if owner, ok := old.TypeOf(t.Prefix); ok {
		c.refuse("%s: its keys %s belong to %s, which has the prefix %q", t.Name, t.Prefix, owner.Name, owner.Prefix)
	}
}

func (c *changes) field(path string, was, now *Field) {
	if was.Type.String() != now.Type.String() {
		c.refuse("%s: its type changes from %s to %s", path, was.Type, now.Type)
		return
	}
	if !was.Required() && now.Required() {
		c.refuse("%s: the field becomes required; records may lack it", path)
	}
	if (was.Indexed || was.Unique) && !now.Indexed && !now.Unique {
		c.refuse("%s: its index is removed; queries need it", path)
	}
	if was.Unique && !now.Unique {
		c.refuse("%s: its values stop being unique", path)
	}
}
