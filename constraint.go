package vortex

import (
	"slices"
	"strings"
)

// Constraint is one condition that a node must meet to run an app. Its zero value is met by every node.
type Constraint struct {
	Attribute string // "node.id", "node.name", "node.os", "node.arch" or "node.labels.<label>"
	Not       bool   // written with != instead of ==
	Value     string
}

// constraintAttributes are the attributes beside the labels.
var constraintAttributes = []string{"node.id", "node.name", "node.os", "node.arch"}

const labelAttribute = "node.labels."

// ParseConstraint reads a condition as it stands in a spec: an attribute of the node, == or !=, and a value,
// for example "node.labels.zone == eu" or "node.arch != arm64". The value may stand in quotes. The error is Invalid.
func ParseConstraint(text string) (Constraint, error) {
	var c Constraint
	left, right, ok := strings.Cut(text, "==")
	if before, after, not := strings.Cut(text, "!="); not && len(before) < len(left) {
		left, right, ok, c.Not = before, after, true, true
	}
	if !ok {
		return Constraint{}, Errorf(Invalid,
			`expected an attribute, == or !=, and a value, such as "node.labels.zone == eu", got %q`, text)
	}
	c.Attribute, c.Value = strings.TrimSpace(left), unquote(strings.TrimSpace(right))
	if err := c.check(text); err != nil {
		return Constraint{}, err
	}
	return c, nil
}

func (c Constraint) check(text string) error {
	label, isLabel := strings.CutPrefix(c.Attribute, labelAttribute)
	switch {
	case isLabel && label == "":
		return Errorf(Invalid, `expected the name of a label after "node.labels.", got %q`, text)
	case isLabel && strings.ContainsAny(label, " \t\"'=!"):
		return Errorf(Invalid, "expected the name of a label without spaces and quotes, got %q", label)
	case !isLabel && !slices.Contains(constraintAttributes, c.Attribute):
		return Errorf(Invalid, "expected an attribute that is one of %s or node.labels.<label>, got %q",
			strings.Join(constraintAttributes, ", "), c.Attribute)
	case c.Value == "":
		return Errorf(Invalid, "expected a value after the operator, got %q", text)
	case strings.ContainsAny(c.Value, "=\"'"):
		return Errorf(Invalid, "expected one condition with one value; write each condition as an entry of its own, got %q", text)
	}
	return nil
}

func unquote(text string) string {
	if n := len(text); n >= 2 && (text[0] == '"' || text[0] == '\'') && text[n-1] == text[0] {
		return text[1 : n-1]
	}
	return text
}

// Match reports whether node meets the condition. A label the node does not have equals no value.
func (c Constraint) Match(node NodeRecord) bool {
	if c.Attribute == "" {
		return true
	}
	value, ok := c.value(node)
	return (ok && value == c.Value) != c.Not
}

// value returns the node's value of the attribute and whether it has one.
func (c Constraint) value(node NodeRecord) (string, bool) {
	switch c.Attribute {
	case "node.id":
		return node.ID, true
	case "node.name":
		return node.Name, true
	case "node.os":
		return node.OS, true
	case "node.arch":
		return node.Arch, true
	default:
		value, ok := node.Labels[strings.TrimPrefix(c.Attribute, labelAttribute)]
		return value, ok
	}
}

// String returns the condition as ParseConstraint reads it.
func (c Constraint) String() string {
	operator := " == "
	if c.Not {
		operator = " != "
	}
	return c.Attribute + operator + c.Value
}
