package ksl

import (
	"encoding/json"
	"slices"
	"strings"
)

// attribute is one @name or @name(argument).
type attribute struct {
	name string
	at   token
	arg  *literal // nil when there is none
}

// literal is what may stand between an attribute's parentheses.
type literal struct {
	at   token
	list []literal // the elements, when at is "["
}

func (l literal) isList() bool { return l.at.isMark("[") }

const maxAttributes = 16 // of one type or field

var (
	typeAttributes  = []string{"prefix", "table", "extends"}
	fieldAttributes = []string{"indexed", "unique", "default"}
)

// attributes reads all the attributes that come next.
func (p *parser) attributes() []attribute {
	var attrs []attribute
	for p.peek().isMark("@") && len(attrs) < maxAttributes {
		p.next()
		name, ok := p.name("the name of an attribute")
		if !ok {
			return attrs
		}
		a := attribute{name: name.text, at: name}
		if p.accept("(") {
			a.arg = &literal{}
			if !p.literal(a.arg, 0) || !p.expect(")", "after the attribute's argument") {
				return attrs
			}
		}
		for _, other := range attrs {
			if other.name == a.name {
				p.errorf(name, "@%s stands here twice", a.name)
			}
		}
		attrs = append(attrs, a)
	}
	return attrs
}

func (p *parser) literal(l *literal, depth int) bool {
	l.at = p.peek()
	switch {
	case l.at.kind == tokName, l.at.kind == tokNumber, l.at.kind == tokString:
		p.next()
		return true
	case !l.at.isMark("["), depth > maxTypeNest:
		p.errorf(l.at, "expected a string, a number, a name or a list, got %s", l.at)
		return false
	}
	p.next()
	for !p.accept("]") {
		var elem literal
		if !p.literal(&elem, depth+1) {
			return false
		}
		l.list = append(l.list, elem)
		if !p.accept(",") && !p.peek().isMark("]") {
			p.errorf(p.peek(), "expected \",\" or \"]\" in the list, got %s", p.peek())
			return false
		}
	}
	return true
}

func (p *parser) typeAttributes(t *Type, attrs []attribute) {
	for _, a := range attrs {
		switch a.name {
		case "prefix":
			t.Prefix = p.prefix(t, a)
		case "table":
			t.Table = p.stringArg(a, `@table("Pots")`)
		case "extends":
			if base := p.stringArg(a, `@extends("Pot")`); base != "" {
				p.extends = append(p.extends, extension{t: t, base: base, at: a.arg.at})
			}
		default:
			p.unknownAttribute(a, "type", typeAttributes, fieldAttributes)
		}
	}
}

// prefix checks the argument of t's @prefix. It returns "" when it reported an error.
func (p *parser) prefix(t *Type, a attribute) string {
	prefix := p.stringArg(a, `@prefix("shop:pot")`)
	if prefix == "" {
		return ""
	}
	if strings.HasPrefix(prefix, ":") || strings.HasSuffix(prefix, ":") || strings.Contains(prefix, "::") {
		p.errorf(a.arg.at, "a prefix is words with one colon between them, got %q", prefix)
		return ""
	}
	if other, ok := p.prefixes[prefix]; ok {
		p.errorf(a.arg.at, "type %s has the prefix %q already, in line %d", other.Name, prefix, other.Line)
		return ""
	}
	p.prefixes[prefix] = t
	return prefix
}

// stringArg returns a's argument, which must be a string that is not empty.
func (p *parser) stringArg(a attribute, example string) string {
	if a.arg == nil || a.arg.at.kind != tokString || a.arg.at.text == "" {
		at := a.at
		if a.arg != nil {
			at = a.arg.at
		}
		p.errorf(at, "@%s takes one string, as in %s", a.name, example)
		return ""
	}
	return a.arg.at.text
}

func (p *parser) fieldAttributes(t *Type, f *Field, attrs []attribute) {
	for _, a := range attrs {
		switch {
		case a.name == "default" && a.arg == nil:
			p.errorf(a.at, "@default takes one value, as in @default(5)")
		case a.name == "default":
			p.defaults = append(p.defaults, defaultRef{t, f, *a.arg})
		case a.name != "indexed" && a.name != "unique":
			p.unknownAttribute(a, "field", fieldAttributes, typeAttributes)
		case a.arg != nil:
			p.errorf(a.arg.at, "@%s takes no argument", a.name)
		case t.Prefix == "":
			p.errorf(a.at, "@%s needs a record: type %s has no @prefix", a.name, t.Name)
		default:
			f.Indexed = f.Indexed || a.name == "indexed"
			f.Unique = f.Unique || a.name == "unique"
		}
	}
}

// unknownAttribute reports an attribute that does not exist on a what, or only elsewhere.
func (p *parser) unknownAttribute(a attribute, what string, here, elsewhere []string) {
	if slices.Contains(elsewhere, a.name) {
		p.errorf(a.at, "a %s cannot have @%s; it can have @%s", what, a.name, strings.Join(here, ", @"))
		return
	}
	p.errorf(a.at, "there is no attribute @%s on a %s%s", a.name, what, didYouMean(a.name, here))
}

// json returns the JSON of a literal for a field of type ft. Whether it fits is for the validator to say.
func (l literal) json(ft *FieldType) []byte {
	switch {
	case l.isList():
		elem := ft
		if ft.Kind == KindList {
			elem = ft.Elem
		}
		parts := make([]string, len(l.list))
		for i, e := range l.list {
			parts[i] = string(e.json(elem))
		}
		return []byte("[" + strings.Join(parts, ",") + "]")
	case l.at.kind == tokNumber, l.at.isName("true"), l.at.isName("false"):
		return []byte(l.at.text)
	}
	text := l.at.text
	if ft.Kind == KindEnum && l.at.kind == tokName {
		if v, ok := ft.Enum.Value(text); ok {
			text = v.Wire
		}
	}
	quoted, _ := json.Marshal(text) //nolint:errchkjson // a string always has a JSON form
	return quoted
}
