package spec

import (
	"go.yaml.in/yaml/v4"

	"vortex"
)

// isCompose reports whether a document is a compose file: it has services and is of no kind.
func isCompose(doc *yaml.Node) bool {
	services := false
	for i := 0; doc.Kind == yaml.MappingNode && i+1 < len(doc.Content); i += 2 {
		switch doc.Content[i].Value {
		case "services":
			services = true
		case "kind", "metadata", "spec":
			return false
		}
	}
	return services
}

func (s *source) compose(doc *yaml.Node) ([]vortex.App, error) {
	s.fault(doc, "expected an App spec, got a compose file")
	return nil, s.err()
}
