package policy

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"

	"vortex"
)

// rewrite changes a request's target and host.
type rewrite struct {
	strip       string // without a trailing slash
	add         string // likewise
	regex       *regexp.Regexp
	replacement text
	host        string
}

func compileRewrite(from *vortex.Rewrite) (*rewrite, error) {
	if from == nil {
		return nil, nil
	}
	w := &rewrite{
		strip: strings.TrimRight(from.StripPrefix, "/"), add: strings.TrimRight(from.AddPrefix, "/"),
		host: from.Host, replacement: compileText(from.Replacement, true),
	}
	if from.Regex != "" {
		regex, err := regexp.Compile(from.Regex)
		if err != nil {
			return nil, fmt.Errorf("rewrite.regex: %w", err)
		}
		w.regex = regex
	}
	return w, nil
}

// Rewrites reports whether the request's target is changed.
func (x *Exchange) Rewrites() bool { return x.rule.rewrite != nil }

// NewHost returns the Host the app sees, "" when it is the client's.
func (x *Exchange) NewHost() string {
	if x.rule.rewrite == nil {
		return ""
	}
	return x.rule.rewrite.host
}

// Stripped returns the prefix the rewrite takes from the path.
func (x *Exchange) Stripped() string {
	if w := x.rule.rewrite; w != nil && w.strip != "" && w.strips(x.path) {
		return w.strip
	}
	return ""
}

func (w *rewrite) strips(path []byte) bool {
	p := Path{Text: w.strip}
	return p.Matches(path)
}

// AppendTarget appends the target as the app gets it.
func (x *Exchange) AppendTarget(b []byte) []byte {
	w := x.rule.rewrite
	if w == nil {
		return append(b, x.Target...)
	}
	start := len(b)
	path := x.path
	if w.strip != "" && w.strips(path) {
		path = path[len(w.strip):]
	}
	if w.add != "" {
		b = append(b, w.add...)
	}
	if len(path) == 0 && w.add == "" {
		b = append(b, '/')
	}
	b = append(b, path...)
	if w.regex != nil {
		b = w.replace(b, start, x)
	}
	if len(b) == start || b[start] != '/' && string(b[start:]) != "*" {
		b = append(b, 0)
		copy(b[start+1:], b[start:])
		b[start] = '/'
	}
	return append(b, x.Target[x.Path:]...)
}

// replace puts the replacement for every match in the path that b ends with, from start on.
func (w *rewrite) replace(b []byte, start int, x *Exchange) []byte {
	matches := w.regex.FindAllSubmatchIndex(b[start:], -1)
	if len(matches) == 0 {
		return b
	}
	path := bytes.Clone(b[start:])
	whole := x.path
	x.path = path // what groups refer to
	defer func() { x.path = whole }()
	b = b[:start]
	last := 0
	for _, m := range matches {
		b = append(b, path[last:m[0]]...)
		b = w.replacement.appendTo(b, x, m)
		last = m[1]
	}
	return append(b, path[last:]...)
}
