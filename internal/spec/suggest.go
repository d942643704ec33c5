package spec

import (
	"fmt"
	"slices"
	"strings"

	"vortex/internal/kind/ksl"
)

// foreign maps what other systems call a field to its path here.
var foreign = map[string]string{
	"env":                           "spec.environment",
	"entrypoint":                    "spec.command",
	"build":                         "spec.path",
	"volumeMounts":                  "spec.volumes",
	"depends_on":                    "spec.dependsOn",
	"stop_grace_period":             "spec.stopGracePeriodSeconds",
	"livenessProbe":                 "healthCheck",
	"readinessProbe":                "healthCheck",
	"startupProbe":                  "healthCheck",
	"requests":                      "spec.resources.cpu and spec.resources.memory",
	"terminationGracePeriodSeconds": "spec.stopGracePeriodSeconds",
}

// suggest returns the end of a message about a field that is not there: the nearest name beside it, or where
// a field of that name belongs.
func (d *decoder) suggest(t *ksl.Type, path, name string) string {
	if name := ksl.Nearest(name, t.FieldNames()); name != "" {
		return fmt.Sprintf("; did you mean %q?", name)
	}
	if elsewhere, ok := foreign[name]; ok && d.root == appType() {
		return "; use " + elsewhere
	}
	for _, p := range fieldPaths(d.root) {
		if strings.HasSuffix(p, "."+name) && !strings.Contains(p, "[]") || p == name {
			return "; it belongs at " + p
		}
	}
	return "; known are " + enumerate(t.FieldNames())
}

// fieldPaths returns the paths of all fields of a type, in the order of the schema.
func fieldPaths(root *ksl.Type) []string {
	var paths []string
	var visit func(t *ksl.Type, at string)
	visit = func(t *ksl.Type, at string) {
		for _, f := range t.Fields {
			p, ft := join(at, f.Name), f.Type
			paths = append(paths, p)
			for ft.Elem != nil {
				p, ft = p+"[]", *ft.Elem
			}
			if ft.Struct != nil {
				visit(ft.Struct, p)
			}
		}
	}
	visit(root, "")
	return paths
}

// meant returns the end of a message that names the nearest known value, or "".
func meant(word string, known []string) string {
	if name := ksl.Nearest(word, known); name != "" {
		return fmt.Sprintf("; did you mean %q?", name)
	}
	return ""
}

// enumerate joins names for people: "a, b and c".
func enumerate(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	last := len(names) - 1
	return strings.Join(slices.Clone(names[:last]), ", ") + " and " + names[last]
}

// example returns what an item of a list may look like.
func example(ft *ksl.FieldType) string {
	if ft.Kind != ksl.KindStruct {
		return "a, b"
	}
	names := ft.Struct.FieldNames()
	return "{" + names[0] + ": …}"
}
