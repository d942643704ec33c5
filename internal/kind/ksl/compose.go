package ksl

import (
	"slices"
	"strings"

	"vortex"
)

// Compose returns a schema with the types and enums of a text added. What protected declares stays as it is there, and the
// text may only extend it: by optional fields, fields with a default, indexes and enum values. Everything else of the
// text takes the place of what had its name. The error is a Precondition vortex.Error, and it is for both to say whether the
// result would be no schema or the text would take keys from a protected type.
//
// So a text that was accepted once fits a program that comes with newer protected types too, or it is refused whole.
func Compose(running, protected, text *Schema) (*Schema, error) {
	extended := &Schema{Enums: slices.Clone(text.Enums), Types: slices.Clone(text.Types)}
	for i, e := range extended.Enums {
		if base, ok := protected.enums[e.Name]; ok {
			extended.Enums[i] = extendEnum(base, e)
		}
	}
	for i, t := range extended.Types {
		if base, ok := protected.types[t.Name]; ok {
			extended.Types[i] = extendType(base, t)
			continue
		}
		if owner, ok := protected.TypeOf(t.Prefix); ok && t.Prefix != "" {
			return nil, vortex.Errorf(vortex.Precondition, "%s: its keys %s belong to %s, which is built in; choose another prefix",
				t.Name, t.Prefix, owner.Name)
		}
	}
	extended.index()
	return running.Overlay(extended)
}

// extendEnum returns base with the values that only e has.
func extendEnum(base, e *Enum) *Enum {
	extended := *base
	extended.Values = slices.Clone(base.Values)
	for _, v := range e.Values {
		taken := slices.ContainsFunc(base.Values, func(b EnumValue) bool { return b.Name == v.Name || b.Wire == v.Wire })
		if !taken {
			extended.Values = append(extended.Values, v)
		}
	}
	return &extended
}

// extendType returns base with the fields and indexes that only t has.
func extendType(base, t *Type) *Type {
	extended := base.clone()
	for _, f := range t.Fields {
		i, ok := base.byName[f.Name]
		switch {
		case ok:
			extended.Fields[i].Indexed = extended.Fields[i].Indexed || f.Indexed && f.Type.String() == base.Fields[i].Type.String()
		case !f.Required() && len(extended.Fields) < maxFields:
			field := *f
			field.Unique = false // the program writes these records, and knows no other unique fields than its own
			field.Indexed = f.Indexed || f.Unique
			extended.Fields = append(extended.Fields, &field)
		}
	}
	return extended
}

// Ineffective returns what Compose did not take over from a text because a protected type says otherwise, as the
// differences from the text to what is in force. What the protected type has more is none.
func Ineffective(text, composed *Schema) []Difference {
	var found []Difference
	for _, d := range Compare(text, composed) {
		name, _, _ := strings.Cut(d.Path, ".")
		if text.declares(name) && !d.more {
			found = append(found, d)
		}
	}
	return found
}
