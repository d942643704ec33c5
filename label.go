package vortex

import (
	"maps"
	"slices"
	"strings"
)

// ZoneLabel is the label of a node that names its zone.
const ZoneLabel = "zone"

// CheckLabel returns an Invalid Error unless key and value can be a node's label: 1 to 63 letters, digits and . _ - / for the key, at most 63 of
// them, or none, for the value.
func CheckLabel(key, value string) error {
	const expected = "of at most 63 letters, digits, dots, slashes, hyphens and underscores"
	switch {
	case key == "":
		return Errorf(Invalid, "expected a label such as zone=eu, got %q without a name", "="+value)
	case len(key) > 63 || strings.ContainsFunc(key, notInLabel):
		return Errorf(Invalid, "expected a label's name %s, got %q", expected, key)
	case len(value) > 63 || strings.ContainsFunc(value, notInLabel):
		return Errorf(Invalid, "expected a label's value %s, got %s=%q", expected, key, value)
	}
	return nil
}

func notInLabel(r rune) bool {
	return notLabel(r) && (r < 'A' || r > 'Z') && r != '.' && r != '_' && r != '/'
}

// OverLabels returns a node's own labels with those that operators gave it over them.
func OverLabels(own, given map[string]string) map[string]string {
	all := make(map[string]string, len(own)+len(given))
	maps.Copy(all, own)
	maps.Copy(all, given)
	return all
}

// LabelsText returns labels as key=value,key=value, in the order of their keys.
func LabelsText(labels map[string]string) string {
	pairs := make([]string, 0, len(labels))
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		pairs = append(pairs, key+"="+labels[key])
	}
	return strings.Join(pairs, ",")
}
