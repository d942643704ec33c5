package spec

import (
	"encoding/json"
	"fmt"
	"strconv"

	"go.yaml.in/yaml/v4"

	"vortex"
	"vortex/internal/kind/ksl"
)

const (
	maxDepth  = 64      // objects and lists inside each other
	maxValues = 100_000 // of one document, its aliases expanded
)

// decoder makes a value of a document as a type of the schema demands it. It reports every fault and goes on.
type decoder struct {
	src    *source
	root   *ksl.Type // of the document
	at     places
	budget int // values that may still be read
	depth  int
}

// object holds decoded fields by their names.
type object map[string]any

// document decodes an App spec. The result counts only when no fault was added.
func (d *decoder) document(doc *yaml.Node) object {
	if doc.Kind == yaml.MappingNode && !d.knownKind(doc) {
		return nil
	}
	ft := ksl.FieldType{Kind: ksl.KindStruct, Struct: d.root}
	value, _ := d.value(doc, &ft, "").(object)
	return value
}

// knownKinds are what kind: may be.
var knownKinds = []string{"App"}

// knownKind tells a document of another kind before its fields are held against those of App.
func (d *decoder) knownKind(doc *yaml.Node) bool {
	for i := 0; i+1 < len(doc.Content); i += 2 {
		kind := doc.Content[i+1]
		if doc.Content[i].Value != "kind" || kind.Kind != yaml.ScalarNode || kind.Value == "App" {
			continue
		}
		d.src.fault(kind, "kind: %q is not supported by this version; expected %s%s", kind.Value, knownKinds[0], meant(kind.Value, knownKinds))
		return false
	}
	return true
}

// app makes an app of a decoded document.
func (d *decoder) app(value object) (vortex.App, error) {
	data, err := json.Marshal(value)
	if err != nil {
		return vortex.App{}, fmt.Errorf("encode document: %w", err)
	}
	if err := d.root.Validate(data); err != nil {
		return vortex.App{}, err
	}
	var app vortex.App
	if err := json.Unmarshal(data, &app); err != nil {
		return vortex.App{}, fmt.Errorf("decode document: %w", err)
	}
	app.SetDefaults()
	return app, nil
}

// value decodes any value. It returns nil when there is none or it is wrong.
func (d *decoder) value(n *yaml.Node, ft *ksl.FieldType, path string) any {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if !d.enter(n) {
		return nil
	}
	defer func() { d.depth-- }()
	switch ft.Kind {
	case ksl.KindStruct:
		return d.structure(n, ft, path)
	case ksl.KindMap:
		return d.mapping(n, ft, path)
	case ksl.KindList:
		return d.list(n, ft, path)
	case ksl.KindEnum:
		return d.enum(n, ft.Enum, path)
	default:
		return d.scalar(n, ft.Scalar, path)
	}
}

// enter counts a value and refuses it when there are too many.
func (d *decoder) enter(n *yaml.Node) bool {
	if d.src.full() || d.budget <= 0 {
		return false
	}
	d.budget--
	switch {
	case d.budget == 0:
		d.src.fault(n, "expected at most %d values, aliases counted each time they are used, got more", maxValues)
		return false
	case d.depth >= maxDepth:
		d.src.fault(n, "expected at most %d objects and lists inside each other", maxDepth)
		d.budget = 0
		return false
	}
	d.depth++
	return true
}

func (d *decoder) structure(n *yaml.Node, ft *ksl.FieldType, path string) any {
	t := ft.Struct
	if n.Kind != yaml.MappingNode {
		d.src.fault(n, "%sexpected an object with the fields %s, got %s", prefix(path), enumerate(t.FieldNames()), describe(n))
		return nil
	}
	out := make(object, len(t.Fields))
	for key, value := range d.pairs(n, path) {
		field, ok := t.Field(key.Value)
		if !ok {
			d.src.fault(key, "unknown field %q in %s%s", key.Value, section(path), d.suggest(t, path, key.Value))
			continue
		}
		at := join(path, field.Name)
		d.at[at] = place{key, value}
		if isNull(value) && !field.Required() {
			continue
		}
		out[field.Name] = d.value(value, &field.Type, at)
	}
	for _, field := range t.Fields {
		if _, ok := out[field.Name]; !ok && field.Required() {
			d.src.fault(d.at.of(join(path, field.Name)), "%sthe field %q is required", prefix(path), field.Name)
			out[field.Name] = nil
		}
	}
	return out
}

func (d *decoder) mapping(n *yaml.Node, ft *ksl.FieldType, path string) any {
	if n.Kind != yaml.MappingNode {
		d.src.fault(n, "%sexpected names with values, as in {name: value}, got %s", prefix(path), describe(n))
		return nil
	}
	out := make(object)
	for key, value := range d.pairs(n, path) {
		at := join(path, key.Value)
		d.at[at] = place{key, value}
		out[key.Value] = d.value(value, ft.Elem, at)
	}
	return out
}

func (d *decoder) list(n *yaml.Node, ft *ksl.FieldType, path string) any {
	if n.Kind != yaml.SequenceNode {
		d.src.fault(n, "%sexpected a list, as in [%s] or with a hyphen before each item, got %s", prefix(path), example(ft.Elem), describe(n))
		return nil
	}
	out := make([]any, 0, len(n.Content))
	for i, item := range n.Content {
		at := path + "[" + strconv.Itoa(i) + "]"
		d.at[at] = place{value: item}
		out = append(out, d.value(item, ft.Elem, at))
		if d.src.full() {
			break
		}
	}
	return out
}

// join returns the path of a field.
func join(path, field string) string {
	if path == "" {
		return field
	}
	return path + "." + field
}

// prefix returns the path as the beginning of a message.
func prefix(path string) string {
	if path == "" {
		return ""
	}
	return path + ": "
}

// section names the object at a path.
func section(path string) string {
	if path == "" {
		return "the document"
	}
	return path
}
