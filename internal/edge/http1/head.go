package http1

import (
	"bytes"
	"errors"
	"fmt"
)

// malformed is why a message is refused, for people.
type malformed string

func (m malformed) Error() string { return string(m) }

// isMalformed reports whether err is a fault of the message, not of the connection.
func isMalformed(err error) bool {
	_, ok := errors.AsType[malformed](err)
	return ok
}

// maxFields is how many header fields one message may have.
const maxFields = 256

// field is one header field. Both parts point into the receive buffer.
type field struct {
	name, value []byte
	kind        kind
}

// kind tells the fields the proxy itself looks at from the rest.
type kind uint8

const (
	kindOther kind = iota
	kindHost
	kindContentLength
	kindTransferEncoding
	kindConnection
	kindUpgrade
	kindExpect
	kindHop       // belongs to one connection and is never passed on
	kindForwarded // says who the client is: believed only from trusted proxies
	kindForwardedFor
)

// classify returns a field name's kind.
func classify(name []byte) kind {
	var lower [24]byte
	if len(name) > len(lower) {
		return kindOther
	}
	for i, c := range name {
		lower[i] = lowerByte(c)
	}
	switch string(lower[:len(name)]) {
	case "host":
		return kindHost
	case "content-length":
		return kindContentLength
	case "transfer-encoding":
		return kindTransferEncoding
	case "connection":
		return kindConnection
	case "upgrade":
		return kindUpgrade
	case "expect":
		return kindExpect
	case "keep-alive", "proxy-connection", "te", "proxy-authenticate", "proxy-authorization", "http2-settings":
		return kindHop
	case "x-forwarded-for":
		return kindForwardedFor
	case "forwarded", "x-real-ip":
		return kindForwarded
	}
	return classifyForwarded(lower[:len(name)])
}

// classifyForwarded catches the spellings that CGI-like apps cannot tell from X-Forwarded-… and from the fields that frame a message.
func classifyForwarded(lower []byte) kind {
	for i, c := range lower {
		if c == '_' {
			lower[i] = '-'
		}
	}
	if bytes.HasPrefix(lower, []byte("x-forwarded-")) || string(lower) == "x-real-ip" {
		return kindForwarded
	}
	switch string(lower) { // with underscores, or classify would have known them
	case "content-length", "transfer-encoding":
		return kindHop
	}
	return kindOther
}

// trailerKind tells the fields that must not come behind a body because they say how to take the message in, who sent it or what may be done
// with it (RFC 9110, 6.5.1): some backends merge trailers into the head.
func trailerKind(f field) kind {
	var lower [24]byte
	if f.kind != kindOther || len(f.name) > len(lower) {
		return f.kind
	}
	for i, c := range f.name {
		lower[i] = lowerByte(c)
		if c == '_' {
			lower[i] = '-'
		}
	}
	switch string(lower[:len(f.name)]) {
	case "age", "authorization", "cache-control", "content-encoding", "content-location", "content-range", "content-type", "cookie",
		"date", "expires", "host", "location", "max-forwards", "pragma", "range", "retry-after", "set-cookie", "trailer", "vary",
		"www-authenticate", "if-match", "if-none-match", "if-range", "if-modified-since", "if-unmodified-since", "expect", "connection", "upgrade":
		return kindHop
	}
	return kindOther
}

func lowerByte(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + ('a' - 'A')
	}
	return c
}

// cutLine splits off the first line of a head without its end. strict demands CRLF.
func cutLine(head []byte, strict bool) (line, rest []byte, err error) {
	end := bytes.IndexByte(head, '\n')
	if end < 0 {
		return nil, nil, malformed("a line has no end")
	}
	line, rest = head[:end], head[end+1:]
	if end > 0 && line[end-1] == '\r' {
		return line[:end-1], rest, nil
	}
	if strict {
		return nil, nil, malformed("a line does not end in CRLF")
	}
	return line, rest, nil
}

// parseFields appends the header fields of a block that ends with an empty line; with an error those before it.
func parseFields(fields []field, block []byte, strict bool) ([]field, error) {
	for {
		line, rest, err := cutLine(block, strict)
		if err != nil {
			return fields, err
		}
		if len(line) == 0 {
			return fields, nil
		}
		if len(fields) >= maxFields {
			return fields, errTooLarge
		}
		f, err := parseField(line)
		if err != nil {
			return fields, err
		}
		fields = append(fields, f)
		block = rest
	}
}

func parseField(line []byte) (field, error) {
	colon := bytes.IndexByte(line, ':')
	if colon <= 0 {
		return field{}, malformed("a header field has no name")
	}
	name := line[:colon]
	for _, c := range name {
		if !isToken[c] {
			return field{}, malformed(fmt.Sprintf("the header name %q has a character that names cannot have", name))
		}
	}
	value := trimSpace(line[colon+1:])
	if hasControl(value) {
		return field{}, malformed(fmt.Sprintf("the value of header %q has a control character", name))
	}
	return field{name, value, classify(name)}, nil
}

// hasControl reports whether text has a control character other than a tab.
func hasControl(text []byte) bool {
	for _, c := range text {
		if c < ' ' && c != '\t' || c == 0x7f {
			return true
		}
	}
	return false
}

func trimSpace(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

// isToken are the characters of methods and header names (RFC 9110, 5.6.2).
var isToken = func() (table [256]bool) {
	for c := '0'; c <= '9'; c++ {
		table[c] = true
	}
	for c := 'a'; c <= 'z'; c++ {
		table[c], table[c-'a'+'A'] = true, true
	}
	for _, c := range "!#$%&'*+-.^_`|~" {
		table[c] = true
	}
	return table
}()

// framing is how a message's end is found, and what becomes of its connection.
type framing struct {
	length      int64 // of the body; -1 when no Content-Length says
	chunked     bool
	otherCoding bool // a transfer coding other than chunked
	close       bool // Connection: close
	keepAlive   bool // Connection: keep-alive
	upgrade     bool // Connection: upgrade
	nominated   bool // Connection names fields that must not be passed on
}

// readFraming takes in the fields that frame a message.
func readFraming(fields []field) (framing, error) {
	f := framing{length: -1}
	for i := range fields {
		var err error
		switch fields[i].kind {
		case kindContentLength:
			err = f.addLength(fields[i].value)
		case kindTransferEncoding:
			if f.chunked || f.otherCoding || !equalFold(fields[i].value, "chunked") {
				f.otherCoding = true
			}
			f.chunked = true
		case kindConnection:
			f.addConnection(fields[i].value)
		default:
		}
		if err != nil {
			return f, err
		}
	}
	return f, nil
}

func (f *framing) addLength(value []byte) error {
	if f.length >= 0 {
		return malformed("there is more than one Content-Length")
	}
	n, ok := parseDecimal(value)
	if !ok {
		return malformed(fmt.Sprintf("Content-Length %q is not a number of bytes", value))
	}
	f.length = n
	return nil
}

func (f *framing) addConnection(value []byte) {
	for token := range bytes.SplitSeq(value, []byte(",")) {
		token = trimSpace(token)
		switch {
		case equalFold(token, "close"):
			f.close = true
		case equalFold(token, "keep-alive"):
			f.keepAlive = true
		case equalFold(token, "upgrade"):
			f.upgrade = true
		case len(token) > 0:
			f.nominated = true
		}
	}
}

// isNominated reports whether a Connection field names this field as belonging to the connection.
func isNominated(fields []field, name []byte) bool {
	for i := range fields {
		if fields[i].kind != kindConnection {
			continue
		}
		for token := range bytes.SplitSeq(fields[i].value, []byte(",")) {
			if bytes.EqualFold(trimSpace(token), name) {
				return true
			}
		}
	}
	return false
}

func parseDecimal(b []byte) (int64, bool) {
	if len(b) == 0 || len(b) > 18 {
		return 0, false
	}
	var n int64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// equalFold compares with lower, which is in lower case.
func equalFold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if lowerByte(c) != lower[i] {
			return false
		}
	}
	return true
}
