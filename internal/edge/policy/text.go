package policy

import (
	"strings"

	"vortex"
)

// text is a text with variables, and maybe with the groups of a regular expression.
type text []part

// part is one of a literal, a variable and a group.
type part struct {
	literal  string
	variable string
	group    int
}

// compileText reads variables in braces and, with groups, $1 to $9. A variable that is not known stands for itself.
func compileText(from string, groups bool) text {
	var t text
	for from != "" {
		name, end, ok := vortex.NextVariable(from)
		if !ok {
			return t.literal(from, groups)
		}
		t = t.literal(from[:end-len(name)-2], groups)
		t = append(t, part{variable: name})
		from = from[end:]
	}
	return t
}

func (t text) literal(s string, groups bool) text {
	for groups {
		i := strings.IndexByte(s, '$')
		if i < 0 || i+1 == len(s) {
			break
		}
		next := s[i+1]
		switch {
		case next >= '0' && next <= '9':
			t = t.plain(s[:i])
			t = append(t, part{group: int(next - '0'), variable: "$"})
		case next == '$':
			t = t.plain(s[:i+1])
		default:
			t = t.plain(s[:i+1])
			s = s[i+1:]
			continue
		}
		s = s[i+2:]
	}
	return t.plain(s)
}

func (t text) plain(s string) text {
	if s == "" {
		return t
	}
	return append(t, part{literal: s})
}

// appendTo appends the text as an exchange makes it. match are the places of a regular expression's groups in the path.
func (t text) appendTo(b []byte, x *Exchange, match []int) []byte {
	for i := range t {
		p := &t[i]
		switch p.variable {
		case "":
			b = append(b, p.literal...)
		case "$":
			if n := 2 * p.group; n+1 < len(match) && match[n] >= 0 {
				b = append(b, x.path[match[n]:match[n+1]]...)
			}
		default:
			b = x.appendVariable(b, p.variable)
		}
	}
	return b
}

func (x *Exchange) appendVariable(b []byte, name string) []byte {
	switch name {
	case "client":
		return x.Client.AppendTo(b)
	case "host":
		return append(b, x.Host...)
	case "scheme":
		if x.Secure {
			return append(b, "https"...)
		}
		return append(b, "http"...)
	case "request_id":
		return append(b, x.id...)
	case "app":
		return append(b, x.App...)
	case "method":
		return append(b, x.verb...)
	case "path":
		return append(b, x.path...)
	case "query":
		return append(b, x.query...)
	}
	return append(append(append(b, '{'), name...), '}')
}

// needsID reports whether a text holds {request_id}.
func (t text) needsID() bool {
	for i := range t {
		if t[i].variable == "request_id" {
			return true
		}
	}
	return false
}
