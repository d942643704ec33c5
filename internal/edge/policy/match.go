package policy

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"

	"vortex"
)

// Path is a compiled entry of a route's paths.
type Path struct {
	Match vortex.PathMatch
	Text  string // a prefix without a trailing slash, or the exact path
	regex *regexp.Regexp
}

// String returns the path as people write it; a prefix ends in a slash.
func (p *Path) String() string {
	switch p.Match {
	case vortex.PathExact:
		return "=" + p.Text
	case vortex.PathRegex:
		return "~" + p.Text
	case vortex.PathPrefix:
	}
	return p.Text + "/"
}

// CompilePath reads an entry of a route's paths.
func CompilePath(entry string) (Path, error) {
	match, text := vortex.SplitPath(entry)
	p := Path{Match: match, Text: text}
	switch match {
	case vortex.PathRegex:
		regex, err := regexp.Compile(text)
		if err != nil {
			return p, fmt.Errorf("paths: %w", err)
		}
		p.regex = regex
	case vortex.PathPrefix:
		p.Text = strings.TrimRight("/"+strings.TrimLeft(text, "/"), "/")
	case vortex.PathExact:
	}
	return p, nil
}

// Matches reports whether a path is one of those meant. A prefix ends at a segment's boundary.
func (p *Path) Matches(path []byte) bool {
	switch p.Match {
	case vortex.PathExact:
		return string(path) == p.Text
	case vortex.PathRegex:
		return p.regex.Match(path)
	case vortex.PathPrefix:
	}
	n := len(p.Text)
	if len(path) < n || string(path[:n]) != p.Text {
		return false
	}
	return len(path) == n || n == 0 || path[n] == '/'
}

// Conditions are what a request must meet besides host and path.
type Conditions struct {
	methods []string
	headers []headerCondition
}

type headerCondition struct {
	name   string // in lower case
	value  string
	regex  *regexp.Regexp
	absent bool
}

// CompileConditions reads methods and headers.
func CompileConditions(methods []string, headers []vortex.HeaderMatch) (Conditions, error) {
	c := Conditions{methods: methods}
	for _, h := range headers {
		condition := headerCondition{name: strings.ToLower(h.Name), value: h.Value, absent: truth(h.Absent, false)}
		if h.Regex != "" {
			regex, err := regexp.Compile(h.Regex)
			if err != nil {
				return c, fmt.Errorf("headers: %w", err)
			}
			condition.regex = regex
		}
		c.headers = append(c.headers, condition)
	}
	return c, nil
}

// Len returns how many conditions there are.
func (c *Conditions) Len() int { return min(len(c.methods), 1) + len(c.headers) }

// Met reports whether a request meets all of them. Without a head only no conditions are met.
func (c *Conditions) Met(h Head) bool {
	if len(c.methods) == 0 && len(c.headers) == 0 {
		return true
	}
	if h == nil || len(c.methods) > 0 && !hasMethod(c.methods, h.Verb()) {
		return false
	}
	for i := range c.headers {
		if !c.headers[i].met(h) {
			return false
		}
	}
	return true
}

func hasMethod(methods []string, verb []byte) bool {
	for _, m := range methods {
		if string(verb) == m || m == "GET" && string(verb) == "HEAD" {
			return true
		}
	}
	return false
}

// met reports whether any of the fields of the name has the value.
func (c *headerCondition) met(h Head) bool {
	for n := 0; ; n++ {
		value, ok := h.Field(c.name, n)
		switch {
		case !ok:
			return c.absent && n == 0
		case c.absent:
			return false
		case c.regex != nil:
			if c.regex.Match(value) {
				return true
			}
		case c.value == "" || string(value) == c.value:
			return true
		}
	}
}

// conditions are those of a rule.
type conditions struct {
	paths []Path
	Conditions
}

func compileConditions(paths, methods []string, headers []vortex.HeaderMatch) (c conditions, err error) {
	for _, entry := range paths {
		p, err := CompilePath(entry)
		if err != nil {
			return c, err
		}
		if p.Match != vortex.PathRegex {
			p.Text = string(decode(nil, []byte(p.Text), false))
		}
		c.paths = append(c.paths, p)
	}
	c.Conditions, err = CompileConditions(methods, headers)
	return c, err
}

func (c *conditions) met(path []byte, h Head) bool {
	matched := len(c.paths) == 0
	for i := 0; i < len(c.paths) && !matched; i++ {
		matched = c.paths[i].Matches(path)
	}
	return matched && c.Met(h)
}

// Find returns the first rule a request matches, nil when none does. path is as sent, without the query and what the route strips.
//
// Paths are compared percent-decoded. Programs do not agree on what else a path means: on encoded slashes, dot segments, doubled
// slashes, backslashes and parameters behind a semicolon. When a path has such, the rule is found with and without resolving
// them, and ok is false when that makes a difference, so that no spelling of a path gets around a rule.
func (p *Policy) Find(path []byte, h Head) (r *Rule, ok bool) {
	if p == nil {
		return nil, true
	}
	if !doubtful(path) {
		return p.find(path, h), true
	}
	var decoded, resolved [512]byte
	r = p.find(decode(decoded[:0], path, false), h)
	return r, r == p.find(resolve(resolved[:0], path), h)
}

func (p *Policy) find(path []byte, h Head) *Rule {
	for _, r := range p.rules {
		if r.when.met(path, h) {
			return r
		}
	}
	return nil
}

// doubtful reports whether a path can be spelled in another way.
func doubtful(path []byte) bool {
	for i, c := range path {
		switch c {
		case '%', ';', '\\':
			return true
		case '/', '.':
			if i > 0 && path[i-1] == '/' {
				return true
			}
		}
	}
	return false
}

// decode appends a path with its percent-encodings taken out once; encoded slashes stay unless all are to go.
func decode(b, path []byte, all bool) []byte {
	for i := 0; i < len(path); i++ {
		c := path[i]
		if c == '%' && i+2 < len(path) {
			high, ok1 := unhex(path[i+1])
			low, ok2 := unhex(path[i+2])
			if d := high<<4 | low; ok1 && ok2 && (all || d != '/' && d != '\\') {
				c = d
				i += 2
			}
		}
		b = append(b, c)
	}
	return b
}

func unhex(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10, true
	}
	return 0, false
}

// resolve appends a path as the most accommodating program would understand it.
func resolve(b, path []byte) []byte {
	path = bytes.ReplaceAll(decode(nil, path, true), []byte(`\`), []byte("/"))
	start := len(b)
	for segment := range bytes.SplitSeq(path, []byte("/")) {
		segment, _, _ = bytes.Cut(segment, []byte(";"))
		switch string(segment) {
		case "", ".":
		case "..":
			b = b[:max(start, bytes.LastIndexByte(b[start:], '/')+start)]
		default:
			b = append(append(b, '/'), segment...)
		}
	}
	if len(b) == start || len(path) > 0 && path[len(path)-1] == '/' {
		b = append(b, '/')
	}
	return b
}
