package ksl_test

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"vortex/internal/kind/ksl"
)

// node is one value of a generated document.
type node struct {
	ft   ksl.FieldType
	text string   // JSON of a scalar or enum
	keys []string // names of kids in an object
	kids []*node
}

func (n *node) String() string {
	parts := make([]string, len(n.kids))
	for i, kid := range n.kids {
		parts[i] = kid.String()
		if n.keys != nil {
			parts[i] = quote(n.keys[i]) + ": " + parts[i]
		}
	}
	switch {
	case n.text != "":
		return n.text
	case n.ft.Kind == ksl.KindList:
		return "[" + strings.Join(parts, " ,") + "]"
	default:
		return "{" + strings.Join(parts, ", ") + "}"
	}
}

func quote(s string) string {
	return marshal(s)
}

// all returns the nodes of the tree that can be made wrong.
func (n *node) all() []*node {
	var nodes []*node
	if n.ft.Kind != ksl.KindScalar || n.ft.Scalar != ksl.Json {
		nodes = append(nodes, n)
	}
	for _, kid := range n.kids {
		nodes = append(nodes, kid.all()...)
	}
	return nodes
}

func draw(rt *rapid.T, ft ksl.FieldType, depth int) *node {
	n := &node{ft: ft}
	few := rapid.IntRange(0, max(0, 3-depth))
	switch ft.Kind {
	case ksl.KindScalar:
		n.text = drawScalar(rt, ft.Scalar)
	case ksl.KindEnum:
		n.text = quote(rapid.SampledFrom(ft.Enum.Wires()).Draw(rt, "enum"))
	case ksl.KindList:
		for range few.Draw(rt, "length") {
			n.kids = append(n.kids, draw(rt, *ft.Elem, depth+1))
		}
	case ksl.KindMap:
		n.keys = rapid.SliceOfNDistinct(rapid.String(), 0, max(0, 3-depth), rapid.ID).Draw(rt, "keys")
		for range n.keys {
			n.kids = append(n.kids, draw(rt, *ft.Elem, depth+1))
		}
	case ksl.KindStruct:
		for _, f := range rapid.Permutation(ft.Struct.Fields).Draw(rt, "fields") {
			if f.Required() || depth < 4 && rapid.Bool().Draw(rt, "present") {
				n.keys = append(n.keys, f.Name)
				n.kids = append(n.kids, draw(rt, f.Type, depth+1))
			}
		}
	}
	return n
}

func drawScalar(rt *rapid.T, s ksl.Scalar) string {
	switch s {
	case ksl.String:
		return quote(rapid.String().Draw(rt, "string"))
	case ksl.Bool:
		return strconv.FormatBool(rapid.Bool().Draw(rt, "bool"))
	case ksl.U8:
		return marshal(rapid.Uint8().Draw(rt, "u8"))
	case ksl.U16:
		return marshal(rapid.Uint16().Draw(rt, "u16"))
	case ksl.U32:
		return marshal(rapid.Uint32().Draw(rt, "u32"))
	case ksl.U64:
		return marshal(rapid.Uint64().Draw(rt, "u64"))
	case ksl.I8:
		return marshal(rapid.Int8().Draw(rt, "i8"))
	case ksl.I16:
		return marshal(rapid.Int16().Draw(rt, "i16"))
	case ksl.I32:
		return marshal(rapid.Int32().Draw(rt, "i32"))
	case ksl.I64:
		return marshal(rapid.Int64().Draw(rt, "i64"))
	case ksl.F32:
		return marshal(rapid.Float32().Draw(rt, "f32"))
	case ksl.F64:
		return marshal(rapid.Float64().Draw(rt, "f64"))
	case ksl.Bytes:
		return marshal(rapid.SliceOf(rapid.Byte()).Draw(rt, "bytes"))
	case ksl.Timestamp:
		return marshal(time.Unix(rapid.Int64Range(0, 1<<37).Draw(rt, "s"), rapid.Int64Range(0, 999_999_999).Draw(rt, "ns")).UTC())
	case ksl.Duration:
		return quote(time.Duration(rapid.Int64().Draw(rt, "d")).String())
	default:
		return rapid.SampledFrom([]string{`null`, `{"a": [1, {}, "x"]}`, `-1.5e3`, `"text"`}).Draw(rt, "json")
	}
}

func marshal(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// spoil makes n wrong in a way that shows nowhere else and says how.
func spoil(rt *rapid.T, n *node) string {
	if n.ft.Kind == ksl.KindStruct {
		switch how := rapid.IntRange(0, 2).Draw(rt, "how"); {
		case how == 0:
			n.keys, n.kids = append(n.keys, "no_such_field"), append(n.kids, &node{text: "1"})
			return "an unknown field"
		case how == 1 && len(n.keys) > 0:
			n.keys, n.kids = append(n.keys, n.keys[0]), append(n.kids, n.kids[0])
			return "a field twice"
		}
		for i, key := range n.keys {
			if f, _ := n.ft.Struct.Field(key); f.Required() {
				n.keys, n.kids = slices.Delete(n.keys, i, i+1), slices.Delete(n.kids, i, i+1)
				return "without " + key
			}
		}
	}
	wrong := []string{"1e999", `"\ud83d no such value"`, "[[]]", "[", "nul", "}", "{}}"}
	if n.ft.Kind == ksl.KindScalar && n.ft.Scalar == ksl.String {
		wrong[1] = "tru"
	}
	n.text = rapid.SampledFrom(wrong).Draw(rt, "wrong")
	return n.text
}

func TestGeneratedValuesValidateAndSpoiltOnesDoNot(t *testing.T) {
	types := slices.Concat(parse(t, everything).Types, cluster(t).Types)
	rapid.Check(t, func(rt *rapid.T) {
		typ := rapid.SampledFrom(types).Draw(rt, "type")
		doc := draw(rt, ksl.FieldType{Kind: ksl.KindStruct, Struct: typ}, 0)
		value := doc.String()
		if err := typ.Validate([]byte(value)); err != nil {
			rt.Fatalf("%s: %v", value, err)
		}
		how := spoil(rt, rapid.SampledFrom(doc.all()).Draw(rt, "node"))
		value = doc.String()
		if err := typ.Validate([]byte(value)); err == nil {
			rt.Fatalf("accepted with %s: %s", how, value)
		}
	})
}

func TestIndexValuesAreThoseOfTheDocument(t *testing.T) {
	types := slices.DeleteFunc(cluster(t).Types, func(t *ksl.Type) bool { return len(t.Indexed()) == 0 })
	rapid.Check(t, func(rt *rapid.T) {
		typ := rapid.SampledFrom(types).Draw(rt, "type")
		value := draw(rt, ksl.FieldType{Kind: ksl.KindStruct, Struct: typ}, 0).String()
		var decoded map[string]any
		if err := json.Unmarshal([]byte(value), &decoded); err != nil {
			rt.Fatal(err)
		}
		got := typ.IndexValues([]byte(value), nil)
		for i, f := range typ.Indexed() {
			want, _ := decoded[f.Name].(string)
			if string(got[i]) != want {
				rt.Fatalf("%s of %s is %q, want %q", f.Name, value, got[i], want)
			}
		}
	})
}
