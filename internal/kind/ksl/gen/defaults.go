package gen

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"vortex/internal/kind/ksl"
)

// findDefaults marks the types that have a default somewhere inside.
func (g *generator) findDefaults() {
	g.defaults = make(map[*ksl.Type]bool)
	for changed := true; changed; {
		changed = false
		for _, t := range g.schema.Types {
			if !g.defaults[t] && g.hasDefault(t) {
				g.defaults[t] = true
				changed = true
			}
		}
	}
}

func (g *generator) hasDefault(t *ksl.Type) bool {
	for _, f := range t.Fields {
		if f.Default != nil || g.defaults[innermost(f.Type).Struct] {
			return true
		}
	}
	return false
}

// setDefaults writes t's method SetDefaults when it has something to do.
func (g *generator) setDefaults(t *ksl.Type) {
	if !g.defaults[t] {
		return
	}
	name := goName(t.Name)
	g.printf("\n// SetDefaults gives every field that is absent and has a default in the schema that value,\n")
	g.printf("// in what %s contains too. Call it after decoding.\nfunc (x *%s) SetDefaults() {\n", name, name)
	if g.defaults[t.Base] {
		g.printf("x.%s.SetDefaults()\n", goName(t.Base.Name))
	}
	for _, f := range own(t) {
		field := "x." + goName(f.Name)
		switch {
		case f.Default != nil:
			g.setDefault(f, field)
		case pointer(f) && g.defaults[f.Type.Struct]:
			g.printf("if %s != nil {\n%s.SetDefaults()\n}\n", field, field)
		case g.defaults[innermost(f.Type).Struct]:
			g.descend(f.Type, field, 0)
		}
	}
	g.printf("}\n")
}

// setDefault writes the assignment of one default.
func (g *generator) setDefault(f *ksl.Field, field string) {
	value := g.goValue(f.Type, f.Default)
	switch {
	case pointer(f) && f.Type.Scalar == ksl.Duration:
		g.printf("if %s == nil {\n%s = new(%s)\n}\n", field, field, value)
	case pointer(f):
		g.printf("if %s == nil {\n%s = new(%s(%s))\n}\n", field, field, g.goType(f.Type), value)
	case nilIsAbsent(f):
		g.printf("if %s == nil {\n%s = %s\n}\n", field, field, value)
	case f.Type.Kind == ksl.KindScalar && f.Type.Scalar == ksl.Timestamp:
		g.printf("if %s.IsZero() {\n%s = %s\n}\n", field, field, value)
	default:
		g.printf("if %s == \"\" {\n%s = %s\n}\n", field, field, value)
	}
}

// descend writes the loops that reach the structs in a list or map.
func (g *generator) descend(ft ksl.FieldType, expr string, depth int) {
	i := "i" + strconv.Itoa(depth)
	switch ft.Kind {
	case ksl.KindList:
		g.printf("for %s := range %s {\n", i, expr)
		g.descend(*ft.Elem, expr+"["+i+"]", depth+1)
		g.printf("}\n")
	case ksl.KindMap:
		v := "v" + strconv.Itoa(depth)
		g.printf("for %s, %s := range %s {\n", i, v, expr)
		g.descend(*ft.Elem, v, depth+1)
		g.printf("%s[%s] = %s\n}\n", expr, i, v)
	default:
		g.printf("%s.SetDefaults()\n", expr)
	}
}

// goValue returns the Go expression of a default, which the parser has found to fit its type.
func (g *generator) goValue(ft ksl.FieldType, value []byte) string {
	var text string
	_ = json.Unmarshal(value, &text) // only strings are read from it
	if ft.Kind == ksl.KindList {
		return g.listValue(ft, value)
	}
	if ft.Kind == ksl.KindEnum {
		i := slices.Index(ft.Enum.Wires(), text)
		return goName(ft.Enum.Name) + goName(ft.Enum.Values[i].Name)
	}
	switch ft.Scalar {
	case ksl.String:
		return strconv.Quote(text)
	case ksl.Bytes:
		var b []byte
		_ = json.Unmarshal(value, &b) // checked by the parser
		return fmt.Sprintf("[]byte(%q)", b)
	case ksl.Json:
		return fmt.Sprintf("json.RawMessage(%q)", value)
	case ksl.Timestamp:
		var t time.Time
		_ = t.UnmarshalText([]byte(text)) // checked by the parser
		return fmt.Sprintf("time.Unix(%d, %d).UTC()", t.Unix(), t.Nanosecond())
	case ksl.Duration:
		d, _ := time.ParseDuration(text) // checked by the parser
		return fmt.Sprintf("%s(%d)", g.qualified("Duration"), d)
	default:
		return string(value)
	}
}

func (g *generator) listValue(ft ksl.FieldType, value []byte) string {
	var elems []json.RawMessage
	_ = json.Unmarshal(value, &elems) // checked by the parser
	parts := make([]string, len(elems))
	for i, e := range elems {
		parts[i] = g.goValue(*ft.Elem, e)
	}
	return g.goType(ft) + "{" + strings.Join(parts, ", ") + "}"
}
