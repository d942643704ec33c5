package spec

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"

	"vortex"
	"vortex/internal/kind/ksl"
)

const maxFaults = 50 // reported of one file

// source is a file that is being read, and what is wrong with it.
type source struct {
	file   string
	data   []byte
	lines  [][]byte // of data, made when the first fault is found
	faults ksl.Errors
}

// full reports whether enough faults were found to stop looking for more.
func (s *source) full() bool { return len(s.faults) >= maxFaults }

// fault adds a fault at a node.
func (s *source) fault(n *yaml.Node, format string, args ...any) {
	s.faultAt(n.Line, n.Column, width(n), fmt.Sprintf(format, args...))
}

// faultAt adds a fault at a place, counted from 1, in characters.
func (s *source) faultAt(line, col, width int, msg string) {
	if s.full() {
		return
	}
	if s.lines == nil {
		s.lines = bytes.Split(s.data, []byte("\n"))
	}
	line = min(max(line, 1), len(s.lines))
	text := strings.ToValidUTF8(strings.TrimRight(string(s.lines[line-1]), "\r"), "\ufffd")
	s.faults = append(s.faults, &ksl.Error{
		File: s.file, Line: line, Col: min(max(col, 1), utf8.RuneCountInString(text)+1), Width: max(width, 1), Source: text, Msg: msg,
	})
}

// faultOffset adds a fault at a byte of data.
func (s *source) faultOffset(offset int, msg string) {
	line, col := position(s.data, offset)
	s.faultAt(line, col, 1, msg)
}

// position returns the line and the column, in characters, of a byte, both from 1.
func position(data []byte, offset int) (line, col int) {
	before := data[:min(max(offset, 0), len(data))]
	start := bytes.LastIndexByte(before, '\n') + 1
	return bytes.Count(before, []byte("\n")) + 1, utf8.RuneCount(before[start:]) + 1
}

// width returns how many characters to mark for a node.
func width(n *yaml.Node) int {
	if n.Kind != yaml.ScalarNode || strings.ContainsRune(n.Value, '\n') {
		return 1
	}
	w := utf8.RuneCountInString(n.Value)
	if n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0 {
		w += 2
	}
	return w
}

// err returns all faults, in the order of the file, as one Invalid Error, or nil.
func (s *source) err() error {
	if len(s.faults) == 0 {
		return nil
	}
	slices.SortStableFunc(s.faults, func(a, b *ksl.Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
	})
	return vortex.Errorf(vortex.Invalid, "%w", s.faults)
}

// place is where a field stands. Items of lists have no key.
type place struct{ key, value *yaml.Node }

// places holds where each field of a document stands, by its path.
type places map[string]place

// of returns the node to point at for a field: its value when that is a scalar, else its key. A field that is not
// in the document is looked for where it would belong.
func (p places) of(path string) *yaml.Node {
	at, ok := p[path]
	for !ok {
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
		at, ok = p[path]
		if ok && at.key != nil {
			return at.key
		}
	}
	if at.key != nil && at.value.Kind != yaml.ScalarNode {
		return at.key
	}
	return at.value
}
