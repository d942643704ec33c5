package spec

import (
	"bytes"
	"encoding/json"
	"fmt"

	"go.yaml.in/yaml/v4"

	"vortex"
)

// Marshal returns an app as YAML that Parse reads, its fields in the order of the schema. What is absent is left out.
func Marshal(app vortex.App) ([]byte, error) {
	data, err := json.Marshal(app)
	if err != nil {
		return nil, fmt.Errorf("encode app %s: %w", app.Metadata.Name, err)
	}
	src := source{file: "app", data: data}
	docs := src.jsonDocuments()
	if err := src.err(); err != nil {
		return nil, fmt.Errorf("encode app %s: %w", app.Metadata.Name, err)
	}
	plain(docs[0])
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := encoder.Encode(docs[0]); err != nil {
		return nil, fmt.Errorf("encode app %s: %w", app.Metadata.Name, err)
	}
	if err := encoder.Close(); err != nil {
		return nil, fmt.Errorf("encode app %s: %w", app.Metadata.Name, err)
	}
	return out.Bytes(), nil
}

// plain turns the look of JSON into that of YAML: no quotes but where they are needed. The order of the fields is that of
// the schema already, because the Go types are made from it.
func plain(n *yaml.Node) {
	n.Style = 0
	for _, child := range n.Content {
		plain(child)
	}
}
