package http1

import (
	"bytes"
	"fmt"
	"net/netip"
	"strconv"

	"vortex/internal/edge/policy"
)

// request is a client's request head. Its slices point into the receive buffer and are valid until the head is consumed.
type request struct {
	framing

	method []byte
	target []byte // origin form: path and query
	path   []byte // target without its query
	host   []byte // as sent
	name   []byte // host in lower case, without port and trailing dot
	minor  byte   // of HTTP/1.x
	fields []field
	expect bool // the client waits for 100 Continue
	kind   methodKind

	nameBuf [256]byte
}

// methodKind is what the proxy must know of a method after the head is gone.
type methodKind uint8

const (
	methodUnsafe     methodKind = iota // sending it twice may do it twice
	methodIdempotent                   // sending it twice is as good as once (RFC 9110, 9.2.2)
	methodHead                         // idempotent, and its response has no body
)

func kindOfMethod(method []byte) methodKind {
	switch string(method) {
	case "GET", "OPTIONS", "TRACE", "PUT", "DELETE":
		return methodIdempotent
	case "HEAD":
		return methodHead
	}
	return methodUnsafe
}

// parse reads a complete head. It refuses whatever two programs might understand differently.
func (r *request) parse(head []byte) error {
	line, rest, err := cutLine(head, true)
	if err != nil {
		return err
	}
	r.forget()
	if err := r.parseLine(line); err != nil {
		return err
	}
	if r.fields, err = parseFields(r.fields, rest, true); err != nil {
		return err
	}
	if r.framing, err = readFraming(r.fields); err != nil {
		return err
	}
	if err := r.checkFraming(); err != nil {
		return err
	}
	return r.checkFields()
}

// forget drops what was known of the request before.
func (r *request) forget() {
	r.fields, r.expect = r.fields[:0], false
	r.method, r.target, r.path, r.host, r.name = nil, nil, nil, nil, nil
}

// parseBeginning reads what can be known of a head that is not whole: its first line.
func (r *request) parseBeginning(head []byte) {
	r.forget()
	if line, _, err := cutLine(head, true); err == nil {
		_ = r.parseLine(line) // what it refuses stays unknown
	}
}

func (r *request) parseLine(line []byte) error {
	first := bytes.IndexByte(line, ' ')
	last := bytes.LastIndexByte(line, ' ')
	if first <= 0 || last == first {
		return malformed("the request line is not method, target and version")
	}
	r.method, r.target = line[:first], line[first+1:last]
	version := line[last+1:]
	if len(version) != 8 || string(version[:7]) != "HTTP/1." || version[7] < '0' || version[7] > '1' {
		return malformed(fmt.Sprintf("the version %q is neither HTTP/1.0 nor HTTP/1.1", version))
	}
	r.minor = version[7] - '0'
	for _, c := range r.method {
		if !isToken[c] {
			return malformed("the method has a character that methods cannot have")
		}
	}
	r.kind = kindOfMethod(r.method)
	return r.parseTarget()
}

// parseTarget brings the target into origin form.
func (r *request) parseTarget() error {
	for _, c := range r.target {
		if c <= ' ' || c == 0x7f || c == '#' {
			return malformed("the request target has a character that must be percent-encoded")
		}
	}
	switch {
	case len(r.target) == 0 || string(r.method) == "CONNECT":
		return malformed("the edge is no forward proxy")
	case r.target[0] == '/':
	case string(r.target) == "*" && string(r.method) == "OPTIONS":
	default:
		if err := r.parseAbsolute(); err != nil {
			return err
		}
	}
	return r.cleanPath()
}

// parseAbsolute takes host and path out of http://host/path. Such a host outranks the Host field (RFC 9112, 3.2.2).
func (r *request) parseAbsolute() error {
	colon := bytes.Index(r.target, []byte("://"))
	if colon < 0 || !equalFold(r.target[:colon], "http") && !equalFold(r.target[:colon], "https") {
		return malformed("the request target does not begin with a slash")
	}
	authority := r.target[colon+3:]
	end := bytes.IndexAny(authority, "/?")
	if end < 0 && len(authority) > 0 {
		r.host, r.target = authority, []byte("/")
		return nil
	}
	if end <= 0 {
		return malformed("the request target has no host")
	}
	if authority[end] == '?' {
		return malformed("the request target has no path")
	}
	r.host, r.target = authority[:end], authority[end:]
	return nil
}

// checkFraming refuses bodies whose end is in doubt.
func (r *request) checkFraming() error {
	switch {
	case r.chunked && r.length >= 0:
		return malformed("there is both a Content-Length and a Transfer-Encoding")
	case r.otherCoding:
		return malformed("the only transfer coding understood is chunked, once")
	case r.chunked && r.minor == 0:
		return malformed("HTTP/1.0 has no Transfer-Encoding")
	}
	return nil
}

// checkFields takes in Host and Expect.
func (r *request) checkFields() error {
	hosts := 0
	for i := range r.fields {
		f := &r.fields[i]
		switch f.kind {
		case kindHost:
			hosts++
			if r.host == nil {
				r.host = f.value
			}
		case kindExpect:
			if !equalFold(f.value, "100-continue") {
				return malformed(fmt.Sprintf("the expectation %q is not known", f.value))
			}
			r.expect = r.minor == 1 && r.hasBody()
		case kindUpgrade:
			if namesHTTP2(f.value) { // a tunnel whose requests the edge would not see
				r.upgrade = false
			}
		default:
		}
	}
	switch {
	case hosts > 1:
		return malformed("there is more than one Host")
	case hosts == 0 && r.minor == 1:
		return malformed("there is no Host")
	}
	return r.parseHost()
}

// namesHTTP2 reports whether HTTP/2 is among the protocols of an Upgrade field.
func namesHTTP2(value []byte) bool {
	for protocol := range bytes.SplitSeq(value, []byte(",")) {
		protocol = trimSpace(protocol)
		if len(protocol) >= 3 && equalFold(protocol[:3], "h2c") || len(protocol) >= 4 && equalFold(protocol[:4], "http") {
			return true
		}
	}
	return false
}

// parseHost sets name from host.
func (r *request) parseHost() error {
	host := r.host
	if end := bytes.LastIndexByte(host, ':'); end >= 0 && bytes.IndexByte(host[end:], ']') < 0 {
		if port, ok := parseDecimal(host[end+1:]); (!ok || port > 65535) && end+1 < len(host) {
			return malformed(fmt.Sprintf("the port in Host %q is not a number from 0 to 65535", r.host))
		}
		host = host[:end]
	}
	if !bracketed(host) {
		return malformed(fmt.Sprintf("the brackets in Host %q enclose no address", r.host))
	}
	host = bytes.TrimSuffix(host, []byte("."))
	if len(host) > len(r.nameBuf) {
		return malformed("the Host is too long")
	}
	for i, c := range host {
		if !isHost[c] {
			return malformed(fmt.Sprintf("the Host %q has a character that hosts cannot have", r.host))
		}
		r.nameBuf[i] = lowerByte(c)
	}
	r.name = r.nameBuf[:len(host)]
	return nil
}

// bracketed reports whether brackets, if there are any, stand around the whole of a host; and so do colons only within them.
func bracketed(host []byte) bool {
	if len(host) > 1 && host[0] == '[' && host[len(host)-1] == ']' {
		host = host[1 : len(host)-1]
		return bytes.IndexByte(host, '[') < 0 && bytes.IndexByte(host, ']') < 0
	}
	return bytes.IndexByte(host, '[') < 0 && bytes.IndexByte(host, ']') < 0 && bytes.IndexByte(host, ':') < 0
}

// isHost are the characters of a host without its port.
var isHost = func() (table [256]bool) {
	for c := range table {
		letter := c|0x20 >= 'a' && c|0x20 <= 'z'
		table[c] = letter || c >= '0' && c <= '9' || c >= 0x80
	}
	for _, c := range "-._~!$&'()*+;=:[]%" {
		table[c] = true
	}
	return table
}()

// hasBody reports whether anything follows the head.
func (r *request) hasBody() bool { return r.chunked || r.length > 0 }

// forward is what the proxy adds to a request.
type forward struct {
	client  netip.Addr // nearest address that is not one of our own proxies
	strip   int        // bytes of the path to leave out
	trusted bool       // the client is a proxy of ours: what it says about its client stands
	secure  bool       // it came over TLS

	rules *policy.Exchange // what the route's rules change; nil is nothing
}

// appendTo appends the head as the backend gets it.
func (r *request) appendTo(b []byte, fw forward) []byte {
	b = append(b, r.method...)
	b = append(b, ' ')
	if fw.rules != nil {
		b = fw.rules.AppendTarget(b)
	} else {
		b = append(b, r.target[fw.strip:]...)
	}
	b = append(b, " HTTP/1.1\r\nHost: "...)
	if host := fw.host(); host != "" {
		b = append(b, host...)
	} else {
		b = append(b, r.host...)
	}
	b = append(b, '\r', '\n')
	upgrade := r.upgrade && r.minor == 1
	for i := range r.fields {
		f := &r.fields[i]
		if r.passes(f, fw.trusted, upgrade) && (fw.rules == nil || !fw.rules.DropsRequest(f.name)) {
			b = appendField(b, f.name, f.value)
		}
	}
	if upgrade {
		b = append(b, "Connection: Upgrade\r\n"...)
	}
	switch { // as every parser reads it, however the client spelt it
	case r.chunked:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	case r.length >= 0:
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, r.length, 10)
		b = append(b, '\r', '\n')
	}
	b = r.appendForwarded(b, fw)
	if fw.rules != nil {
		b = fw.rules.AppendRequest(b)
	}
	return append(b, '\r', '\n')
}

// host returns the Host that the route's rules name, "" when it is the client's.
func (fw *forward) host() string {
	if fw.rules == nil {
		return ""
	}
	return fw.rules.NewHost()
}

// stripped returns the prefix that the route's rules take from the path.
func (fw *forward) stripped() string {
	if fw.rules == nil {
		return ""
	}
	return fw.rules.Stripped()
}

// passes reports whether a field goes on to the backend as it is.
func (r *request) passes(f *field, trusted, upgrade bool) bool {
	switch f.kind {
	case kindHost, kindConnection, kindHop, kindForwardedFor, kindContentLength, kindTransferEncoding:
		return false
	case kindUpgrade:
		return upgrade
	case kindForwarded:
		return trusted && !equalFold(f.name, "forwarded") // which appendForwarded adds to
	case kindExpect:
		return r.expect // without a body there is nothing to wait for
	case kindOther:
	}
	return !r.nominated || !isNominated(r.fields, f.name)
}

// appendForwarded appends who asked, for what, and how.
func (r *request) appendForwarded(b []byte, fw forward) []byte {
	b = append(b, "X-Forwarded-For: "...)
	if fw.trusted {
		for i := range r.fields {
			if r.fields[i].kind == kindForwardedFor {
				b = append(b, r.fields[i].value...)
				b = append(b, ", "...)
			}
		}
	}
	b = fw.client.AppendTo(b)
	b = append(b, '\r', '\n')
	if !fw.trusted || !r.has("x-forwarded-proto") {
		if fw.secure {
			b = append(b, "X-Forwarded-Proto: https\r\n"...)
		} else {
			b = append(b, "X-Forwarded-Proto: http\r\n"...)
		}
	}
	if len(r.host) > 0 && (!fw.trusted || !r.has("x-forwarded-host")) {
		b = append(b, "X-Forwarded-Host: "...)
		b = append(b, r.host...)
		b = append(b, '\r', '\n')
	}
	if stripped := fw.stripped(); fw.strip > 0 || stripped != "" {
		b = append(b, "X-Forwarded-Prefix: "...)
		b = append(append(append(b, r.path[:fw.strip]...), stripped...), '\r', '\n')
	}
	return r.appendStandard(b, fw)
}

// appendStandard appends Forwarded (RFC 7239) when the rules ask for it, and when a trusted proxy has begun one: it must not
// lack the hop to the edge.
func (r *request) appendStandard(b []byte, fw forward) []byte {
	begun := fw.trusted && r.has("forwarded")
	if !begun && (fw.rules == nil || !fw.rules.Forwarded()) {
		return b
	}
	b = append(b, "Forwarded: "...)
	for n := 0; begun; n++ {
		value, ok := nth(r.fields, "forwarded", n)
		if !ok {
			break
		}
		b = append(append(b, value...), ", "...)
	}
	b = policy.AppendForwarded(b, fw.client, r.host, fw.secure)
	return append(b, '\r', '\n')
}

func (r *request) has(lower string) bool {
	_, ok := nth(r.fields, lower, 0)
	return ok
}

// Verb implements policy.Head.
func (r *request) Verb() []byte { return r.method }

// Field implements policy.Fields.
func (r *request) Field(lower string, n int) (value []byte, ok bool) { return nth(r.fields, lower, n) }

// nth returns the value of the n-th field of a name.
func nth(fields []field, lower string, n int) (value []byte, ok bool) {
	for i := range fields {
		if equalFold(fields[i].name, lower) {
			if n == 0 {
				return fields[i].value, true
			}
			n--
		}
	}
	return nil, false
}

func appendField(b, name, value []byte) []byte {
	b = append(b, name...)
	b = append(b, ':', ' ')
	b = append(b, value...)
	return append(b, '\r', '\n')
}

func appendLength(b []byte, n int) []byte {
	b = append(b, "Content-Length: "...)
	b = strconv.AppendInt(b, int64(n), 10)
	return append(b, '\r', '\n')
}
