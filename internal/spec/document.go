package spec

import (
	"encoding/json"
	"fmt"

	"go.yaml.in/yaml/v4"

	"vortex"
	"vortex/internal/kind/ksl"
)

// Checked is what Decode reads into: a value of a type of the schema, which knows what is wrong with itself.
type Checked interface {
	// Problems returns what is wrong with the value as it was written, in the order of the document.
	Problems() []vortex.Problem
	// SetDefaults fills in what is absent.
	SetDefaults()
}

// Decode reads the one document of a file, in YAML or JSON, as a type of the schema into value, which must be empty, checks it and sets
// its defaults. It is as strict as Parse, and the error is Invalid and tells every fault with its place in the file.
func Decode(file string, data []byte, typ string, value Checked) error {
	src, err := Parser{}.open(file, data)
	if err != nil {
		return err
	}
	var docs []*yaml.Node
	if src.json() {
		docs = src.jsonDocuments()
	} else {
		docs = src.yamlDocuments()
	}
	if err := src.err(); err != nil {
		return err
	}
	switch len(docs) {
	case 0:
		return vortex.Errorf(vortex.Invalid, "%s: expected %s, got an empty file", file, enumerate(builtin(typ).FieldNames()))
	case 1:
	default:
		src.fault(docs[1], "expected one document in the file, got another one here")
		return src.err()
	}
	return src.decode(docs[0], typ, value)
}

// decode reads a document into value.
func (s *source) decode(doc *yaml.Node, typ string, value Checked) error {
	d := s.decoder(builtin(typ), doc)
	fields, _ := d.structure(doc, &ksl.FieldType{Kind: ksl.KindStruct, Struct: d.root}, "").(object)
	if err := s.err(); err != nil {
		return err
	}
	text, err := json.Marshal(fields)
	if err != nil {
		return fmt.Errorf("encode document: %w", err)
	}
	if err := d.root.Validate(text); err != nil {
		s.fault(doc, "%s", err)
		return s.err()
	}
	if err := json.Unmarshal(text, value); err != nil {
		return fmt.Errorf("decode document: %w", err)
	}
	for _, p := range value.Problems() {
		s.fault(d.at.of(p.Path), "%s", p)
	}
	if err := s.err(); err != nil {
		return err
	}
	value.SetDefaults()
	return nil
}
