package spec

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// json reports whether the file is JSON: by its name, or because it is an object that JSON accepts whole.
func (s *source) json() bool {
	if strings.EqualFold(filepath.Ext(s.file), ".json") {
		return true
	}
	start := bytes.TrimLeft(s.data, " \t\r\n")
	return bytes.HasPrefix(start, []byte("{")) && json.Valid(start)
}

// jsonDocuments returns the values of a JSON file as nodes. What cannot be read is a fault.
func (s *source) jsonDocuments() []*yaml.Node {
	r := jsonReader{data: s.data, decoder: json.NewDecoder(bytes.NewReader(s.data)), line: 1}
	r.decoder.UseNumber()
	var docs []*yaml.Node
	for {
		doc, err := r.value(0)
		switch syntax, ok := errors.AsType[*json.SyntaxError](err); {
		case errors.Is(err, io.EOF):
			return docs
		case ok:
			s.faultOffset(int(syntax.Offset)-1, "this is not valid JSON: "+syntax.Error())
			return nil
		case errors.Is(err, errDeep):
			s.faultOffset(r.start, errDeep.Error())
			return nil
		case err != nil:
			s.faultOffset(len(s.data), "this is not valid JSON: "+strings.TrimPrefix(err.Error(), "json: "))
			return nil
		}
		docs = append(docs, doc)
	}
}

// jsonReader makes nodes of JSON, so that both languages are decoded by the same rules.
type jsonReader struct {
	data    []byte
	decoder *json.Decoder
	start   int // of the token last read
	seen    int // the byte that line and column belong to
	line    int // from 1
	column  int // characters before it on the line
}

var errDeep = errors.New("expected at most 64 objects and lists inside each other")

// token reads one token and notes where it stands.
func (r *jsonReader) token() (json.Token, *yaml.Node, error) {
	start := int(r.decoder.InputOffset())
	token, err := r.decoder.Token()
	if err != nil {
		return nil, nil, err
	}
	for start < len(r.data) && bytes.IndexByte([]byte(" \t\r\n,:"), r.data[start]) >= 0 {
		start++
	}
	r.start = start
	r.advance(start)
	return token, &yaml.Node{Line: r.line, Column: r.column + 1}, nil
}

// advance moves line and column to a byte further on.
func (r *jsonReader) advance(to int) {
	passed := r.data[r.seen:to]
	r.seen = to
	if i := bytes.LastIndexByte(passed, '\n'); i >= 0 {
		r.line += bytes.Count(passed, []byte("\n"))
		r.column = 0
		passed = passed[i+1:]
	}
	r.column += utf8.RuneCount(passed)
}

func (r *jsonReader) value(depth int) (*yaml.Node, error) {
	token, node, err := r.token()
	if err != nil {
		return nil, err
	}
	if depth > maxDepth {
		return nil, errDeep
	}
	switch t := token.(type) {
	case json.Delim:
		return node, r.children(node, t, depth)
	case string:
		*node = yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: t, Style: yaml.DoubleQuotedStyle, Line: node.Line, Column: node.Column}
	case json.Number:
		node.Kind, node.Tag, node.Value = yaml.ScalarNode, "!!float", t.String()
		if strings.Trim(node.Value, "-0123456789") == "" {
			node.Tag = "!!int"
		}
	case bool:
		node.Kind, node.Tag, node.Value = yaml.ScalarNode, "!!bool", "false"
		if t {
			node.Value = "true"
		}
	default:
		node.Kind, node.Tag, node.Value = yaml.ScalarNode, "!!null", "null"
	}
	return node, nil
}

// children reads what stands inside an object or a list, and its end.
func (r *jsonReader) children(node *yaml.Node, open json.Delim, depth int) error {
	node.Kind, node.Tag = yaml.SequenceNode, "!!seq"
	if open == '{' {
		node.Kind, node.Tag = yaml.MappingNode, "!!map"
	}
	for r.decoder.More() {
		child, err := r.value(depth + 1)
		if err != nil {
			return unexpectedEnd(err)
		}
		node.Content = append(node.Content, child)
	}
	_, _, err := r.token()
	return unexpectedEnd(err)
}

// unexpectedEnd tells the end of the file inside a value from its end behind one.
func unexpectedEnd(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
