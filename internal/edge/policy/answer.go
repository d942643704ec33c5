package policy

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"vortex"
)

// Answer is what the edge answers itself. Fields are header lines, each with its end.
type Answer struct {
	Status int
	Fields string

	Code, Error, Details string // for programs and people; or
	Type                 string // of Body; "" is none
	Body                 string
}

// Answer returns what the edge answers instead of the app; ok is whether there is such an answer. headers is the size of the request's
// head, body that of its body as it says, -1 when it does not.
func (x *Exchange) Answer(headers int, body int64) (a Answer, ok bool) {
	r := x.rule
	switch {
	case r.broken:
		return Answer{Status: 503, Code: "ROUTE_INVALID", Error: "the route's rules cannot be read; the edge's log says why"}, true
	case r.Limits.Headers > 0 && headers > r.Limits.Headers:
		return Answer{
			Status: 431, Code: "HEADERS_TOO_LARGE", Error: "the request's headers are too large",
			Details: fmt.Sprintf("At most %d bytes are taken.", r.Limits.Headers),
		}, true
	case r.maintenance != nil && !r.maintenance.lets(x.Client):
		return r.maintenance.answer, true
	}
	if r.redirect != nil {
		if a, ok = r.redirect.answer(x); ok {
			return a, true
		}
	}
	if r.cors != nil {
		if a, ok = r.cors.preflight(x); ok {
			return a, true
		}
	}
	if r.auth != nil {
		if a, ok = r.auth.refuse(x.Head); ok {
			return a, true
		}
	}
	if r.Limits.Body > 0 && body > r.Limits.Body {
		return x.TooLarge(), true
	}
	return Answer{}, false
}

// TooLarge is the answer to a body that is larger than the rule allows.
func (x *Exchange) TooLarge() Answer {
	return Answer{
		Status: 413, Code: "BODY_TOO_LARGE", Error: "the request's body is too large",
		Details: fmt.Sprintf("At most %d bytes are taken.", x.rule.Limits.Body),
	}
}

// redirect sends clients elsewhere.
type redirect struct {
	to        text
	regex     *regexp.Regexp
	https     bool
	port      string // ":8443"; "" is the usual one
	status    int
	keepQuery bool
}

func compileRedirect(from *vortex.Redirect) (*redirect, error) {
	if from == nil {
		return nil, nil
	}
	r := &redirect{to: compileText(from.To, true), https: truth(from.HTTPS, false), status: 308, keepQuery: truth(from.KeepQuery, true)}
	if from.Status != nil {
		r.status = int(*from.Status)
	}
	if from.Port != nil && *from.Port != 443 {
		r.port = ":" + strconv.Itoa(int(*from.Port))
	}
	if from.Regex != "" {
		regex, err := regexp.Compile(from.Regex)
		if err != nil {
			return nil, fmt.Errorf("redirect.regex: %w", err)
		}
		r.regex = regex
	}
	return r, nil
}

func (r *redirect) answer(x *Exchange) (Answer, bool) {
	var match []int
	if r.regex != nil {
		if match = r.regex.FindSubmatchIndex(x.path); match == nil {
			return Answer{}, false
		}
	}
	var location []byte
	switch {
	case !r.https:
		location = r.to.appendTo(nil, x, match)
	case x.Secure || len(x.Host) == 0:
		return Answer{}, false
	default:
		location = append(location, "https://"...)
		location = append(location, x.Host...)
		location = append(location, r.port...)
		location = append(location, x.path...)
	}
	if len(location) == 0 || location[0] == '/' {
		// Two slashes would name another host.
		location = append([]byte("/"), strings.TrimLeft(string(location), `/\`)...)
	}
	if r.keepQuery && len(x.query) > 0 {
		separator := byte('?')
		if slices.Contains(location, '?') {
			separator = '&'
		}
		location = append(append(location, separator), x.query...)
	}
	return Answer{
		Status: r.status, Fields: "Location: " + string(location) + "\r\n",
		Type: "text/plain; charset=utf-8", Body: "see " + string(location) + "\n",
	}, true
}

// maintenance answers instead of an app that is worked on.
type maintenance struct {
	allow  []netip.Prefix
	answer Answer
}

func compileMaintenance(from *vortex.Maintenance) (*maintenance, error) {
	if from == nil || !truth(from.Enabled, true) {
		return nil, nil
	}
	m := &maintenance{answer: Answer{Status: 503, Fields: "Cache-Control: no-store\r\n", Type: from.ContentType, Body: from.Body}}
	if from.Status != nil {
		m.answer.Status = int(*from.Status)
	}
	if from.RetryAfter > 0 {
		m.answer.Fields += "Retry-After: " + strconv.FormatInt(int64(max(from.RetryAfter.Std().Seconds(), 1)), 10) + "\r\n"
	}
	switch {
	case from.Body == "":
		m.answer.Type, m.answer.Code = "", "MAINTENANCE"
		m.answer.Error = "the app is being worked on; please come back later"
	case from.ContentType == "":
		m.answer.Type = "text/html; charset=utf-8"
	}
	for _, entry := range from.Allow {
		prefix, err := vortex.ParsePrefix(entry)
		if err != nil {
			return nil, fmt.Errorf("maintenance.allow: %w", err)
		}
		m.allow = append(m.allow, prefix)
	}
	return m, nil
}

// lets reports whether a client sees the app all the same.
func (m *maintenance) lets(client netip.Addr) bool {
	for _, prefix := range m.allow {
		if prefix.Contains(client) {
			return true
		}
	}
	return false
}
