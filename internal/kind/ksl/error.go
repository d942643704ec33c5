package ksl

import (
	"fmt"
	"strings"
)

const (
	maxErrors     = 50  // faults reported of one schema
	maxSourceCols = 120 // characters of a source line that are shown
)

// Error is one fault in a schema and the token it stands at.
type Error struct {
	File   string // as given to Parse
	Line   int    // from 1
	Col    int    // from 1, in characters
	Source string // the whole line
	Width  int    // how many characters the token has, at least 1
	Msg    string // what is wrong, without the place
}

// place is where something stands in a source.
type place struct {
	file, source     string
	line, col, width int
}

func (p place) fault(msg string) *Error {
	return &Error{File: p.file, Line: p.line, Col: p.col, Source: p.source, Width: p.width, Msg: msg}
}

// Error returns the place, the message, the source line and a marker beneath the token.
func (e *Error) Error() string {
	source, col := e.window()
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%d:%d: %s\n  %s\n  ", e.File, e.Line, e.Col, e.Msg, string(source))
	for _, r := range source[:min(col-1, len(source))] {
		if r != '\t' {
			r = ' '
		}
		b.WriteRune(r)
	}
	width := min(e.Width, max(1, len(source)-col+1))
	b.WriteString(strings.Repeat("^", max(1, width)))
	return b.String()
}

// window returns the part of the source line that is worth showing and the token's column in it.
func (e *Error) window() (source []rune, col int) {
	source = []rune(e.Source)
	if len(source) <= maxSourceCols {
		return source, e.Col
	}
	start := max(0, e.Col-1-maxSourceCols/2)
	end := min(len(source), start+maxSourceCols)
	return source[start:end], e.Col - start
}

// Errors are all the faults found in one schema, in the order they were found. It is never empty.
type Errors []*Error

// Error returns the faults one below the other.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, err := range e {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the faults one by one.
func (e Errors) Unwrap() []error {
	errs := make([]error, len(e))
	for i, err := range e {
		errs[i] = err
	}
	return errs
}
