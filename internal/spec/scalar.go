package spec

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"vortex"
	"vortex/internal/kind/ksl"
)

// scalar decodes a single value. It returns nil when it is wrong.
func (d *decoder) scalar(n *yaml.Node, kind ksl.Scalar, path string) any {
	switch {
	case kind == ksl.Bool:
		return d.boolean(n, path)
	case kind.Numeric():
		return d.number(n, kind, path)
	case kind == ksl.Duration:
		return d.duration(n, path)
	default:
		return d.text(n, path)
	}
}

// text decodes a string. A number or a truth value is taken as it is written where that cannot be a mistake.
func (d *decoder) text(n *yaml.Node, path string) any {
	if n.Kind == yaml.ScalarNode {
		switch n.ShortTag() {
		case "!!str":
			return n.Value
		case "!!int", "!!float", "!!bool", "!!timestamp":
			if lenient(path) {
				return n.Value
			}
			d.src.fault(n, "%sexpected a string, got %s; write it in quotes: %q", prefix(path), describe(n), n.Value)
			return nil
		}
	}
	d.src.fault(n, "%sexpected a string, got %s", prefix(path), describe(n))
	return nil
}

// duration decodes a time such as 1m30s.
func (d *decoder) duration(n *yaml.Node, path string) any {
	var v vortex.Duration
	if n.Kind == yaml.ScalarNode && v.UnmarshalText([]byte(n.Value)) == nil {
		return v.String()
	}
	d.src.fault(n, `%sexpected a duration such as "5s" or "1h30m", got %s`, prefix(path), describe(n))
	return nil
}

// lenientFields are the strings that often look like numbers or truth values.
var lenientFields = map[string]bool{
	"cpu": true, "memory": true, "size": true, "minSize": true, "value": true, "user": true, "body": true, "args": true, "command": true,
}

// lenient reports whether a number is as good as a string at path.
func lenient(path string) bool {
	if strings.HasPrefix(path, "metadata.labels.") {
		return true
	}
	name := path[strings.LastIndexByte(path, '.')+1:]
	name, _, _ = strings.Cut(name, "[")
	return lenientFields[name]
}

func (d *decoder) boolean(n *yaml.Node, path string) any {
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!bool" {
		if b, err := strconv.ParseBool(strings.ToLower(n.Value)); err == nil {
			return b
		}
	}
	d.src.fault(n, "%sexpected true or false, got %s", prefix(path), describe(n))
	return nil
}

// bounds are what the numbers of each scalar may be.
var bounds = map[ksl.Scalar][2]float64{
	ksl.U8: {0, math.MaxUint8}, ksl.U16: {0, math.MaxUint16}, ksl.U32: {0, math.MaxUint32}, ksl.U64: {0, 1 << 53},
	ksl.I8: {math.MinInt8, math.MaxInt8}, ksl.I16: {math.MinInt16, math.MaxInt16}, ksl.I32: {math.MinInt32, math.MaxInt32},
	ksl.I64: {-1 << 53, 1 << 53}, ksl.F32: {-math.MaxFloat32, math.MaxFloat32}, ksl.F64: {-math.MaxFloat64, math.MaxFloat64},
}

func (d *decoder) number(n *yaml.Node, kind ksl.Scalar, path string) any {
	value, ok := parseNumber(n)
	whole := kind != ksl.F32 && kind != ksl.F64
	low, high := bounds[kind][0], bounds[kind][1]
	if ok && value >= low && value <= high && (!whole || value == math.Trunc(value)) {
		if whole {
			return json.Number(strconv.FormatInt(int64(value), 10))
		}
		return value
	}
	expected := "a number"
	if whole {
		expected = fmt.Sprintf("a whole number from %.0f to %.0f", low, high)
	}
	hint := ""
	if _, quoted := parseNumber(&yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: n.Value}); quoted && n.ShortTag() == "!!str" {
		hint = "; remove the quotes"
	}
	d.src.fault(n, "%sexpected %s, got %s%s", prefix(path), expected, describe(n), hint)
	return nil
}

// parseNumber reads a number as YAML writes them: 8080, 0x1F, 0o17, 1_000, 1.5, 1e3. Infinity is none.
func parseNumber(n *yaml.Node) (float64, bool) {
	if tag := n.ShortTag(); n.Kind != yaml.ScalarNode || tag != "!!int" && tag != "!!float" {
		return 0, false
	}
	text := strings.ReplaceAll(n.Value, "_", "")
	if i, err := strconv.ParseInt(text, 0, 64); err == nil {
		return float64(i), true
	}
	f, err := strconv.ParseFloat(text, 64)
	return f, err == nil && !math.IsInf(f, 0) && !math.IsNaN(f)
}

func (d *decoder) enum(n *yaml.Node, e *ksl.Enum, path string) any {
	wires := e.Wires()
	if n.Kind == yaml.ScalarNode {
		for _, wire := range wires {
			if n.Value == wire {
				return wire
			}
		}
	}
	hint := ""
	if n.Kind == yaml.ScalarNode {
		hint = meant(n.Value, wires)
	}
	d.src.fault(n, "%sexpected one of %s, got %s%s", prefix(path), strings.Join(wires, ", "), describe(n), hint)
	return nil
}

// isNull reports whether a value is there in name only.
func isNull(n *yaml.Node) bool {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null"
}

// describe says what a node is, for messages.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "an object"
	case yaml.SequenceNode:
		return "a list"
	default:
		return describeScalar(n)
	}
}

func describeScalar(n *yaml.Node) string {
	value := n.Value
	if runes := []rune(value); len(runes) > 60 {
		value = string(runes[:60]) + "…"
	}
	switch n.ShortTag() {
	case "!!null":
		return "nothing"
	case "!!int", "!!float":
		return "the number " + value
	case "!!bool":
		return value
	case "!!str", "!!timestamp":
		return "the string " + strconv.Quote(value)
	default:
		return "a value with the tag " + n.Tag
	}
}
