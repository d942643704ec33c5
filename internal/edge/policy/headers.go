package policy

import (
	"maps"
	"slices"
	"strings"

	"vortex"
)

// Edits change a header. A nil *Edits changes nothing.
type Edits struct {
	drop  []string // names in lower case
	lines []line
}

type line struct {
	name  string // with its colon and space
	value text
}

func compileEdits(from *vortex.HeaderEdits) (*Edits, error) {
	if from == nil {
		return nil, nil
	}
	e := &Edits{}
	for _, name := range from.Remove {
		e.drop = append(e.drop, strings.ToLower(name))
	}
	for _, name := range slices.Sorted(maps.Keys(from.Set)) {
		e.drop = append(e.drop, strings.ToLower(name))
		e.lines = append(e.lines, line{name + ": ", compileText(from.Set[name], false)})
	}
	for _, name := range slices.Sorted(maps.Keys(from.Add)) {
		e.lines = append(e.lines, line{name + ": ", compileText(from.Add[name], false)})
	}
	return e, nil
}

// Drops reports whether a field is not passed on.
func (e *Edits) Drops(name []byte) bool {
	if e == nil {
		return false
	}
	for _, drop := range e.drop {
		if equalFold(name, drop) {
			return true
		}
	}
	return false
}

func (e *Edits) appendTo(b []byte, x *Exchange) []byte {
	if e == nil {
		return b
	}
	for i := range e.lines {
		b = append(b, e.lines[i].name...)
		b = e.lines[i].value.appendTo(b, x, nil)
		b = append(b, '\r', '\n')
	}
	return b
}

func (e *Edits) needsID() bool {
	return e != nil && slices.ContainsFunc(e.lines, func(l line) bool { return l.value.needsID() })
}

// equalFold compares with lower, which is in lower case.
func equalFold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}
