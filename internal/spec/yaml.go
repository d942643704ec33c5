package spec

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// yamlDocuments returns the documents of the file that are not empty. What cannot be read is a fault.
func (s *source) yamlDocuments() []*yaml.Node {
	if !s.printable() {
		return nil
	}
	var docs []*yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(s.data))
	for {
		var doc yaml.Node
		switch err := decoder.Decode(&doc); {
		case errors.Is(err, io.EOF):
			return docs
		case err != nil:
			s.yamlFault(err)
			return nil
		}
		if doc.Kind != yaml.DocumentNode || len(doc.Content) == 0 {
			continue
		}
		if root := doc.Content[0]; root.Kind != yaml.ScalarNode || root.ShortTag() != "!!null" {
			docs = append(docs, root)
		}
	}
}

// printable reports whether the file is text, and where it is not.
func (s *source) printable() bool {
	for i := 0; i < len(s.data); {
		r, size := utf8.DecodeRune(s.data[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			s.faultOffset(i, "expected text in UTF-8, got another encoding or a binary file")
			return false
		case r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == 0x7f:
			s.faultOffset(i, fmt.Sprintf("expected text, got the control character %U", r))
			return false
		}
		i += size
	}
	return true
}

// yamlPlace is how the YAML library writes where an error stands.
var yamlPlace = regexp.MustCompile(`line (\d+)(?:, column (\d+))?: `)

// yamlFault adds what the YAML library complains about.
func (s *source) yamlFault(err error) {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	line, col := 1, 1
	if all := yamlPlace.FindAllStringSubmatchIndex(text, -1); all != nil {
		last := all[len(all)-1]
		line, _ = strconv.Atoi(text[last[2]:last[3]])
		if last[4] >= 0 {
			col, _ = strconv.Atoi(text[last[4]:last[5]])
		}
		text = text[last[1]:]
	}
	s.faultAt(line, col, 1, "this is not valid YAML: "+text+s.yamlHint(line))
}

// yamlHint tells about the most common slip: tabs.
func (s *source) yamlHint(line int) string {
	lines := bytes.Split(s.data, []byte("\n"))
	text := lines[min(line, len(lines))-1]
	indent := text[:len(text)-len(bytes.TrimLeft(text, " \t"))]
	if bytes.ContainsRune(indent, '\t') {
		return "; indent with spaces, not with tabs"
	}
	return ""
}
