package ksl

import (
	"cmp"
	"slices"
	"strings"

	"vortex"
)

const (
	maxSchema       = 1 << 20 // bytes of source
	maxDeclarations = 4096    // types and enums of one schema
	maxEnumValues   = 1024
	maxTypeNest     = 8 // lists and maps inside each other
)

// Parse reads a schema. file is only used in messages. The error is an Invalid vortex.Error that wraps
// Errors: all the faults found, each with its place.
func Parse(file string, src []byte) (*Schema, error) {
	if len(src) > maxSchema {
		return nil, vortex.Errorf(vortex.Invalid, "%s: a schema has at most %d bytes, this one has %d", file, maxSchema, len(src))
	}
	p := &parser{
		source: lex(file, src), schema: &Schema{}, tokenOf: make(map[*Field]token), names: make(map[string]int),
		prefixes: make(map[string]*Type),
	}
	for p.peek().kind != tokEnd && len(p.errs) < maxErrors {
		p.declaration()
	}
	p.resolve()
	if len(p.errs) > 0 {
		slices.SortStableFunc(p.errs, func(a, b *Error) int { return cmp.Or(a.Line-b.Line, a.Col-b.Col) })
		return nil, vortex.Errorf(vortex.Invalid, "%w", p.errs)
	}
	return p.schema, nil
}

// parser reads declarations from tokens and keeps what resolve needs to finish them.
type parser struct {
	*source
	pos      int
	schema   *Schema
	names    map[string]int   // line of every declared type and enum
	prefixes map[string]*Type // owner of every prefix
	refs     []typeRef
	defaults []defaultRef
	extends  []extension
	tokenOf  map[*Field]token // the field's name
}

// typeRef is a mention of a type that may be declared further down.
type typeRef struct {
	ft *FieldType
	at token
}

// defaultRef is a default whose field's type is not known yet.
type defaultRef struct {
	owner *Type
	field *Field
	value literal
}

// extension is a type that has the fields of another one too.
type extension struct {
	t     *Type
	base  string
	at    token
	state extensionState
}

// extensionState is how far an extension is made.
type extensionState uint8

const (
	extendsLater extensionState = iota
	extendsNow
	extended
)

func (p *parser) peek() token { return p.tokens[p.pos] }

// peekAt returns the token n further on.
func (p *parser) peekAt(n int) token { return p.tokens[min(p.pos+n, len(p.tokens)-1)] }

func (p *parser) next() token {
	t := p.peek()
	if t.kind != tokEnd {
		p.pos++
	}
	return t
}

// accept consumes mark if it comes next.
func (p *parser) accept(mark string) bool {
	if !p.peek().isMark(mark) {
		return false
	}
	p.next()
	return true
}

// expect consumes mark or reports that it is missing; where completes the message.
func (p *parser) expect(mark, where string) bool {
	if p.accept(mark) {
		return true
	}
	p.errorf(p.peek(), "expected %q %s, got %s", mark, where, p.peek())
	return false
}

// name consumes a name or reports that one is missing.
func (p *parser) name(what string) (token, bool) {
	if p.peek().kind != tokName {
		p.errorf(p.peek(), "expected %s, got %s", what, p.peek())
		return token{}, false
	}
	return p.next(), true
}

// doc returns the comment of what starts with token from and ends with the last one read: the lines
// right above it, and what stands beside its end. Of several things in one line, the first has the lines above.
func (p *parser) doc(from int) string {
	var lines []string
	line := p.tokens[from].line
	if from == 0 || p.tokens[from-1].line != line {
		for above := line - 1; p.comments[above].own; above-- {
			lines = append(lines, p.comments[above].text)
		}
	}
	slices.Reverse(lines)
	last := p.tokens[max(0, p.pos-1)].line
	if beside, ok := p.comments[last]; ok && !beside.own && p.peek().line != last {
		lines = append(lines, beside.text)
	}
	return strings.TrimSpace(strings.Join(lines, "\n"))
}

func (p *parser) declaration() {
	start := p.pos
	attrs := p.attributes()
	word := p.peek()
	switch {
	case word.isName("type"):
		p.typeDecl(start, attrs)
	case word.isName("enum"):
		p.enumDecl(start, attrs)
	case word.kind == tokName:
		p.misspelt(start, attrs, word)
	default:
		p.errorf(word, "expected type or enum, got %s", word)
		p.skipDeclaration()
	}
}

// misspelt reports a word that is neither type nor enum, and goes on as if it were the one that was meant.
func (p *parser) misspelt(start int, attrs []attribute, word token) {
	keywords := []string{"type", "enum"}
	p.errorf(word, "expected type or enum, got %s%s", word, didYouMean(word.text, keywords))
	follows := p.peekAt(1).kind == tokName && p.peekAt(2).isMark("{")
	switch meant := Nearest(word.text, keywords); {
	case follows && meant == "type":
		p.typeDecl(start, attrs)
	case follows && meant == "enum":
		p.enumDecl(start, attrs)
	default:
		p.skipDeclaration()
	}
}

// skipDeclaration moves to the next line that looks like the start of a declaration.
func (p *parser) skipDeclaration() {
	for p.next(); p.peek().kind != tokEnd; p.next() {
		if t := p.peek(); t.col == 1 && (t.isMark("@") || t.isName("type") || t.isName("enum")) {
			return
		}
	}
}

// startsDeclaration reports whether a type or enum, or an attribute that only they have, comes next.
func (p *parser) startsDeclaration() bool {
	t := p.peek()
	if t.isMark("@") {
		return p.peekAt(1).isName("prefix") || p.peekAt(1).isName("table")
	}
	return (t.isName("type") || t.isName("enum")) && p.peekAt(1).kind == tokName
}

// declare takes a name for a type or enum and reports when it is not free.
func (p *parser) declare(name token) {
	if line, ok := p.names[name.text]; ok {
		p.errorf(name, "%s is already declared in line %d", name.text, line)
		return
	}
	if len(p.names) == maxDeclarations {
		p.errorf(name, "a schema has at most %d types and enums", maxDeclarations)
	}
	p.names[name.text] = name.line
	if _, ok := builtin(name.text); ok || name.text == "List" || name.text == "Map" {
		p.errorf(name, "%s is the name of a built-in type", name.text)
	}
}

func (p *parser) typeDecl(start int, attrs []attribute) {
	p.next()
	name, ok := p.name("the name of the type")
	if !ok {
		p.skipDeclaration()
		return
	}
	t := &Type{Name: name.text, Line: name.line, at: p.place(name)}
	p.declare(name)
	p.typeAttributes(t, attrs)
	if !p.expect("{", "after the type's name") {
		p.skipDeclaration()
		return
	}
	headed := p.doc(start)
	p.body("type "+t.Name, name, func() *string { return p.field(t) })
	t.Doc = p.declDoc(start, headed)
	p.schema.Types = append(p.schema.Types, t)
}

// declDoc is the comment of a declaration: above and beside its opening line, else beside its end.
func (p *parser) declDoc(start int, headed string) string {
	if headed != "" {
		return headed
	}
	return p.doc(start)
}

func (p *parser) enumDecl(start int, attrs []attribute) {
	p.next()
	for _, a := range attrs {
		p.errorf(a.at, "an enum has no attributes, got @%s", a.name)
	}
	name, ok := p.name("the name of the enum")
	if !ok {
		p.skipDeclaration()
		return
	}
	e := &Enum{Name: name.text, Line: name.line, at: p.place(name)}
	p.declare(name)
	if !p.expect("{", "after the enum's name") {
		p.skipDeclaration()
		return
	}
	headed, faults := p.doc(start), len(p.errs)
	p.body("enum "+e.Name, name, func() *string { return p.enumValue(e) })
	e.Doc = p.declDoc(start, headed)
	if len(e.Values) == 0 && len(p.errs) == faults {
		p.errorf(name, "enum %s has no values", e.Name)
	}
	p.schema.Enums = append(p.schema.Enums, e)
}

// body reads items, separated by commas, up to the closing brace. item reads one and returns where its
// comment belongs, or nil when it reported an error.
func (p *parser) body(what string, name token, item func() *string) {
	for {
		start, from := p.peek(), p.pos
		switch {
		case p.accept("}"), len(p.errs) >= maxErrors:
			return
		case start.kind == tokEnd:
			p.errorf(name, "%s is not closed: expected \"}\" before the end of the file", what)
			return
		case p.startsDeclaration():
			p.errorf(start, "expected \"}\" at the end of %s, got %s", what, start)
			return
		}
		doc := item()
		if doc == nil {
			p.skipItem(from)
			p.accept(",")
			continue
		}
		if next := p.peek(); !p.accept(",") && !next.isMark("}") && next.kind != tokEnd && !p.startsDeclaration() {
			p.errorf(next, "expected \",\" or \"}\" in %s, got %s", what, next)
			if next.line == start.line || next.kind != tokName && !next.isMark("@") {
				p.skipItem(p.pos)
				p.accept(",")
			}
		}
		*doc = p.doc(from)
	}
}

// skipItem moves to the end of an item that started at token from: a comma, the closing brace, or a new line.
func (p *parser) skipItem(from int) {
	line := p.tokens[from].line
	for {
		t := p.peek()
		if t.kind == tokEnd || t.isMark(",") || t.isMark("}") || t.line > line && p.pos > from {
			return
		}
		p.next()
	}
}

func (p *parser) enumValue(e *Enum) *string {
	name, ok := p.name("the name of a value")
	if !ok {
		return nil
	}
	v := EnumValue{Name: name.text, Wire: name.text, Line: name.line, at: p.place(name)}
	at := name
	if p.accept("=") {
		at = p.next()
		if at.kind != tokString {
			p.errorf(at, "expected the value's string after \"=\", got %s", at)
			return nil
		}
		v.Wire = at.text
	}
	for _, other := range e.Values {
		if other.Name == v.Name {
			p.errorf(name, "%s has a value %s already, in line %d", e.Name, v.Name, other.Line)
		} else if other.Wire == v.Wire {
			p.errorf(at, "%s and %s of %s would both be %q", other.Name, v.Name, e.Name, v.Wire)
		}
	}
	if len(e.Values) == maxEnumValues {
		p.errorf(name, "an enum has at most %d values", maxEnumValues)
		return nil
	}
	e.Values = append(e.Values, v)
	return &e.Values[len(e.Values)-1].Doc
}

func (p *parser) field(t *Type) *string {
	attrs := p.attributes()
	name, ok := p.name("the name of a field")
	if !ok {
		return nil
	}
	f := &Field{Name: name.text, Line: name.line, at: p.place(name)}
	if !p.expect(":", "after the field's name") || !p.fieldType(&f.Type, 0) {
		return nil
	}
	f.Optional = p.accept("?")
	attrs = append(attrs, p.attributes()...)
	for _, other := range t.Fields {
		if other.Name == f.Name {
			p.errorf(name, "%s has a field %s already, in line %d", t.Name, f.Name, other.Line)
			return &f.Doc
		}
	}
	if len(t.Fields) == maxFields {
		p.errorf(name, "a type has at most %d fields", maxFields)
		return nil
	}
	p.tokenOf[f] = name
	t.Fields = append(t.Fields, f)
	p.fieldAttributes(t, f, attrs)
	return &f.Doc
}

// fieldType reads the type of a field. What is inside is resolved later.
func (p *parser) fieldType(ft *FieldType, depth int) bool {
	name, ok := p.name("a type")
	if !ok {
		return false
	}
	if depth > maxTypeNest {
		p.errorf(name, "lists and maps are nested deeper than %d", maxTypeNest)
		return false
	}
	switch name.text {
	case "List":
		ft.Kind = KindList
	case "Map":
		ft.Kind = KindMap
	default:
		ft.name = name.text
		p.refs = append(p.refs, typeRef{ft, name})
		return true
	}
	if !p.expect("<", "after "+name.text+", as in List<String> or Map<String, String>") {
		return false
	}
	if ft.Kind == KindMap && !p.mapKey() {
		return false
	}
	ft.Elem = &FieldType{}
	if !p.fieldType(ft.Elem, depth+1) {
		return false
	}
	if t := p.peek(); p.accept("?") {
		p.errorf(t, "what is in a %s cannot be optional; a field can, with ? at its end", name.text)
	}
	return p.expect(">", "at the end of "+name.text)
}

// mapKey reads the first half of a map's type.
func (p *parser) mapKey() bool {
	key, ok := p.name("the type of the keys, String")
	if !ok {
		return false
	}
	if key.text != "String" {
		p.errorf(key, "the keys of a Map are of type String, got %s", key)
	}
	return p.expect(",", "after the type of the keys, as in Map<String, String>")
}
