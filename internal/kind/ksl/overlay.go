package ksl

import "vortex"

// Overlay returns this schema with the types and enums of newer added, in the place of those with the same names.
// Whether records still fit is for Compare to say. It fails, with a Precondition vortex.Error, only where the
// result would be no schema: a prefix with two owners, a type that is also an enum. Neither schema is changed.
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
	c.Base, c.Own = nil, 0 // the fields of a copy are its own
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
