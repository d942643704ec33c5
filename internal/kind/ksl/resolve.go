package ksl

import (
	"maps"
	"slices"
	"strings"
)

// builtin finds a scalar by its name.
func builtin(name string) (Scalar, bool) {
	i := slices.Index(scalarNames[:], name)
	return Scalar(max(i, 0)), i >= 0
}

// resolve gives every mention of a type its meaning and checks what needs the whole schema.
func (p *parser) resolve() {
	p.schema.index()
	for i := range p.extends {
		p.extend(&p.extends[i])
	}
	p.schema.build()
	unknown := false
	for _, ref := range p.refs {
		if len(p.errs) >= maxErrors {
			return
		}
		if !p.schema.link(ref.ft) {
			p.errorf(ref.at, "there is no type %s%s", ref.at.text, nearestType(ref.at.text, p.typeNames()))
			unknown = true
		}
	}
	if unknown {
		return
	}
	for _, t := range p.schema.Types {
		for _, f := range t.Fields {
			p.checkField(t, f)
		}
	}
	for _, d := range p.defaults {
		p.setDefault(d)
	}
	if len(p.errs) == 0 {
		p.checkRecursion()
	}
	p.schema.build()
}

// extend gives a type the fields of the one it extends, after its own. That one comes first, if it extends another itself.
func (p *parser) extend(e *extension) {
	if e.state != extendsLater {
		return
	}
	e.state = extendsNow
	defer func() { e.state = extended }()
	base, ok := p.schema.types[e.base]
	if !ok {
		p.errorf(e.at, "there is no type %s%s", e.base, nearestType(e.base, p.typeNames()))
		return
	}
	for i := range p.extends {
		if p.extends[i].t == base {
			p.extend(&p.extends[i])
			if p.extends[i].state == extendsNow {
				p.errorf(e.at, "%s cannot extend %s, which extends %s itself", e.t.Name, base.Name, e.t.Name)
				return
			}
		}
	}
	if base.Prefix != "" {
		p.errorf(e.at, "%s cannot extend %s, which is a record", e.t.Name, base.Name)
		return
	}
	for _, f := range base.Fields {
		if i := slices.IndexFunc(e.t.Fields, func(own *Field) bool { return own.Name == f.Name }); i >= 0 {
			p.errorf(p.tokenOf[e.t.Fields[i]], "%s has the field %s of %s already", e.t.Name, f.Name, base.Name)
		}
	}
	if len(e.t.Fields)+len(base.Fields) > maxFields {
		p.errorf(e.at, "a type has at most %d fields", maxFields)
		return
	}
	e.t.Own, e.t.Base = len(e.t.Fields), base
	e.t.Fields = append(e.t.Fields, base.Fields...)
}

// link sets what ft means in this schema by its name and reports whether the name exists.
func (s *Schema) link(ft *FieldType) bool {
	if scalar, ok := builtin(ft.name); ok {
		ft.Kind, ft.Scalar = KindScalar, scalar
		return true
	}
	if e, ok := s.enums[ft.name]; ok {
		ft.Kind, ft.Enum, ft.Struct = KindEnum, e, nil
		return true
	}
	if t, ok := s.types[ft.name]; ok {
		ft.Kind, ft.Enum, ft.Struct = KindStruct, nil, t
		return true
	}
	return false
}

func (p *parser) typeNames() []string {
	return slices.Concat(scalarNames[:], []string{"List", "Map"}, slices.Sorted(maps.Keys(p.names)))
}

func (p *parser) checkField(t *Type, f *Field) {
	if (f.Indexed || f.Unique) && !f.Type.indexable() {
		p.errorf(p.tokenOf[f], "%s.%s cannot be indexed: only scalars and enums can, not %s", t.Name, f.Name, f.Type)
	}
}

// indexable reports whether a value of this type is one string to look up.
func (ft FieldType) indexable() bool {
	switch ft.Kind {
	case KindScalar:
		return ft.Scalar != Bytes && ft.Scalar != Json
	default:
		return ft.Kind == KindEnum
	}
}

func (p *parser) setDefault(d defaultRef) {
	ft := &d.field.Type
	if ft.Kind == KindStruct || ft.Kind == KindMap {
		p.errorf(d.value.at, "%s.%s cannot have a default: its type is %s", d.owner.Name, d.field.Name, ft)
		return
	}
	value := d.value.json(ft)
	s := scanner{data: value}
	if fault := s.document(ft); fault != nil {
		p.errorf(d.value.at, "the default of %s.%s%s does not fit: %s", d.owner.Name, d.field.Name, fault.where(), fault.msg)
		return
	}
	d.field.Default = value
}

// checkRecursion refuses types that always contain themselves: no value of them could ever end.
func (p *parser) checkRecursion() {
	const open, closed = 1, 2
	state := make(map[*Type]int)
	var trail []string
	var visit func(t *Type)
	visit = func(t *Type) {
		state[t] = open
		for _, f := range t.Fields {
			if f.Type.Kind != KindStruct || !f.Required() || state[f.Type.Struct] == closed {
				continue
			}
			trail = append(trail, t.Name+"."+f.Name)
			if state[f.Type.Struct] == open {
				p.errorf(p.tokenOf[f], "%s would contain itself without end (%s): make a field on the way optional",
					f.Type.Struct.Name, strings.Join(trail, " → "))
			} else {
				visit(f.Type.Struct)
			}
			trail = trail[:len(trail)-1]
		}
		state[t] = closed
	}
	for _, t := range p.schema.Types {
		if state[t] == 0 {
			visit(t)
		}
	}
}
