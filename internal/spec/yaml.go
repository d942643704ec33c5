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

var (
	// yamlPlace is how the YAML library writes where an error stands.
	yamlPlace = regexp.MustCompile(`line (\d+)(?:, column (\d+))?: `)
	// yamlOpen is how it writes what was not closed.
	yamlOpen = regexp.MustCompile(`^while parsing a flow (sequence|mapping) at (?:line (\d+)|<unknown position>)`)
)

// yamlFault adds what the YAML library complains about.
func (s *source) yamlFault(err error) {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	line, col, hint := 1, 1, ""
	if open := yamlOpen.FindStringSubmatch(text); open != nil {
		bracket := map[string]string{"sequence": "[", "mapping": "{"}[open[1]]
		start, _ := strconv.Atoi(open[2]) // "" is the first line, 0
		hint = fmt.Sprintf("; the %s on line %d is not closed", bracket, start+1)
	}
	parsing := strings.HasPrefix(text, "while parsing") || strings.Contains(text, "did not find expected <")
	if all := yamlPlace.FindAllStringSubmatchIndex(text, -1); all != nil {
		last := all[len(all)-1]
		line, _ = strconv.Atoi(text[last[2]:last[3]])
		if last[4] >= 0 {
			col, _ = strconv.Atoi(text[last[4]:last[5]])
		}
		if parsing { // its parser counts lines from 0, its scanner from 1
			line++
		}
		text = text[last[1]:]
	}
	s.faultAt(line, col, 1, "this is not valid YAML: "+text+hint+s.yamlHint(line))
}

// yamlHint tells about the most common slip: tabs.
func (s *source) yamlHint(line int) string {
	lines := bytes.Split(s.data, []byte("\n"))
	text := lines[min(max(line, 1), len(lines))-1]
	indent := text[:len(text)-len(bytes.TrimLeft(text, " \t"))]
	if bytes.ContainsRune(indent, '\t') {
		return "; indent with spaces, not with tabs"
	}
	return ""
}
