package ksl

import (
	"fmt"
	"strings"
)

// Difference is one thing in which a schema is not as another.
type Difference struct {
	Path string // Type, Type.field, Enum or Enum.value
	What string // for people
	// Breaking is true when a record that fitted may not fit any more, or may not be found any more.
	Breaking bool

	more bool // newer has something that old has not
}

// String returns the difference as one line.
func (d Difference) String() string { return d.Path + ": " + d.What }

// Breaking returns those of the differences that are.
func Breaking(differences []Difference) []Difference {
	var breaking []Difference
	for _, d := range differences {
		if d.Breaking {
			breaking = append(breaking, d)
		}
	}
	return breaking
}

// Compare returns all that changes when newer takes the place of old, in the order of newer and
// then what is gone in the order of old. Comments and the order of things make no difference. Optional fields, fields with
// a default, enum values, types and indexes may be added without breaking anything; whether the records have
// different values in a field that becomes @unique is not for the schema to know.
func Compare(old, newer *Schema) []Difference {
	c := comparison{old: old, newer: newer}
	for _, e := range newer.Enums {
		c.enum(e)
	}
	for _, t := range newer.Types {
		c.typ(t)
	}
	for _, e := range old.Enums {
		if !newer.declares(e.Name) {
			c.add(e.Name, "the enum is removed")
		}
	}
	for _, t := range old.Types {
		switch {
		case newer.declares(t.Name):
		case t.Prefix != "":
			c.breaks(t.Name, "the type is removed; the records below %s lose it", t.Prefix)
		default:
			c.add(t.Name, "the type is removed")
		}
	}
	return c.found
}

// declares reports whether the schema has a type or an enum of that name.
func (s *Schema) declares(name string) bool {
	_, isType := s.types[name]
	_, isEnum := s.enums[name]
	return isType || isEnum
}

// comparison collects differences.
type comparison struct {
	old, newer *Schema
	found      []Difference
}

func (c *comparison) add(path, format string, args ...any) {
	c.found = append(c.found, Difference{Path: path, What: fmt.Sprintf(format, args...)})
}

// gains is add and breaks for what only newer has.
func (c *comparison) gains(path, what string, breaking bool) {
	c.found = append(c.found, Difference{Path: path, What: what, Breaking: breaking, more: true})
}

func (c *comparison) breaks(path, format string, args ...any) {
	c.found = append(c.found, Difference{Path: path, What: fmt.Sprintf(format, args...), Breaking: true})
}

func (c *comparison) enum(e *Enum) {
	if _, ok := c.old.types[e.Name]; ok {
		c.breaks(e.Name, "it is a type and cannot become an enum")
		return
	}
	was, ok := c.old.enums[e.Name]
	if !ok {
		c.gains(e.Name, "the enum is new", false)
		return
	}
	for _, v := range e.Values {
		before, ok := was.Value(v.Name)
		switch {
		case !ok:
			c.gains(e.Name+"."+v.Name, "the value is new", false)
		case before.Wire != v.Wire:
			c.breaks(e.Name+"."+v.Name, "its form changes from %q to %q", before.Wire, v.Wire)
		}
	}
	for _, v := range was.Values {
		if _, ok := e.Value(v.Name); !ok {
			c.breaks(e.Name+"."+v.Name, "the value is removed; records may have it")
		}
	}
}

func (c *comparison) typ(t *Type) {
	if _, ok := c.old.enums[t.Name]; ok {
		c.breaks(t.Name, "it is an enum and cannot become a type")
		return
	}
	was, ok := c.old.types[t.Name]
	if !ok {
		c.gains(t.Name, "the type is new", false)
		c.prefix(t)
		return
	}
	if was.Prefix != t.Prefix {
		c.breaks(t.Name, "its prefix changes from %q to %q", was.Prefix, t.Prefix)
		c.prefix(t)
	}
	for _, f := range t.Fields {
		if before, ok := was.Field(f.Name); ok {
			c.field(t.Name+"."+f.Name, before, f)
		} else {
			c.newField(t.Name+"."+f.Name, f)
		}
	}
	for _, f := range was.Fields {
		if _, ok := t.Field(f.Name); !ok {
			c.breaks(t.Name+"."+f.Name, "the field is removed; records may have it")
		}
	}
}

// prefix looks whether a record type takes keys from a type that owns them now.
func (c *comparison) prefix(t *Type) {
	if t.Prefix == "" {
		return
	}
	owner, ok := c.old.TypeOf(t.Prefix)
	if !ok || owner.Name == t.Name {
		return
	}
	if now, ok := c.newer.types[owner.Name]; ok && now.Prefix == owner.Prefix {
		c.breaks(t.Name, "its keys %s belong to %s, which has the prefix %q", t.Prefix, owner.Name, owner.Prefix)
	}
}

func (c *comparison) newField(path string, f *Field) {
	if f.Required() {
		c.gains(path, "the new field is required; make it optional or give it a default", true)
		return
	}
	c.gains(path, "the field is new", false)
}

func (c *comparison) field(path string, was, now *Field) {
	if was.Type.String() != now.Type.String() {
		c.breaks(path, "its type changes from %s to %s", was.Type, now.Type)
		return
	}
	switch {
	case !was.Required() && now.Required():
		c.breaks(path, "the field becomes required; records may lack it")
	case was.Required() && !now.Required():
		c.add(path, "the field need not be there any more")
	}
	c.defaultOf(path, was, now)
	c.index(path, was, now)
}

func (c *comparison) defaultOf(path string, was, now *Field) {
	before, after := string(was.Default), string(now.Default)
	switch {
	case before == after:
	case before == "":
		c.add(path, "it gets the default %s", after)
	case after == "":
		c.add(path, "it loses its default %s", before)
	default:
		c.add(path, "its default changes from %s to %s", before, after)
	}
}

func (c *comparison) index(path string, was, now *Field) {
	before, after := was.Indexed || was.Unique, now.Indexed || now.Unique
	switch {
	case before && !after:
		c.breaks(path, "its index is removed; queries need it")
	case after && !before:
		c.gains(path, "it gets an index", false)
	}
	switch {
	case was.Unique && !now.Unique:
		c.breaks(path, "its values stop being unique")
	case now.Unique && !was.Unique:
		c.add(path, "its values have to be unique")
	}
}

// Fault returns msg as an error at what path names: Type, Type.field, Enum or Enum.value. Where there is no such
// field or value it points at the type or enum; nil when there is none either.
func (s *Schema) Fault(path, msg string) *Error {
	name, part, _ := strings.Cut(path, ".")
	if t, ok := s.types[name]; ok {
		if f, ok := t.Field(part); ok {
			return f.at.fault(msg)
		}
		return t.at.fault(msg)
	}
	if e, ok := s.enums[name]; ok {
		if v, ok := e.Value(part); ok {
			return v.at.fault(msg)
		}
		return e.at.fault(msg)
	}
	return nil
}
