package policy

import (
	"encoding/hex"
	"math/rand/v2"
	"net/netip"
	"strconv"
)

// Exchange is one request under a Rule, from its head to the end of its response. The zero value is ready for Begin, which can be
// called again for the next request and then uses the same memory.
type Exchange struct {
	Request

	rule   *Rule
	verb   []byte
	path   []byte // as the app would get it without a rewrite; valid while the head is
	query  []byte // likewise, without the question mark
	id     []byte
	origin []byte // of a script that asks; "" is none
	coding Coding // what the response may be compressed with
}

// Request is what an Exchange has to be told. Its slices are used until the request is sent on, Host until the response has ended.
type Request struct {
	Head    Head
	Client  netip.Addr // nearest address that is no trusted proxy's
	Trusted bool       // the peer is a trusted proxy
	Secure  bool       // the client's request came over TLS
	App     string
	Host    []byte // in lower case, without a port
	Target  []byte // path and query as sent, without what the route strips
	Path    int    // the path's length in Target
}

// Begin takes in a request that a rule holds for.
func (x *Exchange) Begin(r *Rule, q Request) {
	x.Request, x.rule = q, r
	x.verb, x.path, x.query = q.Head.Verb(), q.Target[:q.Path], nil
	if len(q.Target) > q.Path {
		x.query = q.Target[q.Path+1:]
	}
	x.id, x.origin, x.coding = x.id[:0], x.origin[:0], 0
	if r.requestID || r.Request.needsID() || r.Response.needsID() {
		x.takeID()
	}
	if r.cors != nil {
		if origin, ok := q.Head.Field("origin", 0); ok {
			x.origin = append(x.origin, origin...)
		}
	}
	if r.compress != nil {
		x.coding = r.compress.choose(q.Head)
	}
}

// Rule returns the rule that holds; nil after End.
func (x *Exchange) Rule() *Rule { return x.rule }

// Quick reports whether nothing about the exchange takes long: Answer has no password to check that was not right before, and no response is
// compressed, and that the backend's connection need not be the client's alone. It is valid until Sent.
func (x *Exchange) Quick() bool {
	return x.coding == 0 && x.rule.Proxy == "" && (x.rule.auth == nil || x.rule.auth.quick(x.Head))
}

// Sent tells that the request's head is no longer there.
func (x *Exchange) Sent() { x.Head, x.Target, x.verb, x.path, x.query = nil, nil, nil, nil, nil }

// ID returns the request's id; none when no rule asks for one.
func (x *Exchange) ID() []byte { return x.id }

// maxID is how long an id of a trusted proxy may be.
const maxID = 128

// takeID takes over the id a trusted proxy gave the request, or makes one.
func (x *Exchange) takeID() {
	if given, ok := x.Head.Field("x-request-id", 0); ok && x.Trusted && len(given) > 0 && len(given) <= maxID && plain(given) {
		x.id = append(x.id, given...)
		return
	}
	x.id = AppendID(x.id)
}

func plain(b []byte) bool {
	for _, c := range b {
		if c <= ' ' || c >= 0x7f || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

// AppendID appends a new request id: 128 random bits in hexadecimal.
func AppendID(b []byte) []byte {
	var bits [16]byte
	high, low := rand.Uint64(), rand.Uint64()
	for i := range 8 {
		bits[i], bits[8+i] = byte(high>>(8*i)), byte(low>>(8*i))
	}
	return hex.AppendEncode(b, bits[:])
}

// DropsRequest reports whether a field of the request is not sent on.
func (x *Exchange) DropsRequest(name []byte) bool {
	return x.rule.Request.Drops(name) || x.rule.requestID && equalFold(name, "x-request-id")
}

// AppendRequest appends the header lines that the request gets.
func (x *Exchange) AppendRequest(b []byte) []byte {
	if x.rule.requestID {
		b = append(append(append(b, "X-Request-Id: "...), x.id...), '\r', '\n')
	}
	return x.rule.Request.appendTo(b, x)
}

// DropsResponse reports whether a field of the response is not sent on.
func (x *Exchange) DropsResponse(name []byte) bool {
	return x.rule.Response.Drops(name) || x.rule.requestID && equalFold(name, "x-request-id") ||
		x.rule.cors != nil && len(name) > 15 && equalFold(name[:15], "access-control-")
}

// AppendResponse appends the header lines that the response gets, whoever gives it.
func (x *Exchange) AppendResponse(b []byte) []byte {
	if x.rule.requestID {
		b = append(append(append(b, "X-Request-Id: "...), x.id...), '\r', '\n')
	}
	b = x.rule.cors.appendTo(b, x.origin)
	return x.rule.Response.appendTo(b, x)
}

// Forwarded reports whether the request gets a Forwarded field.
func (x *Exchange) Forwarded() bool { return x.rule.forwarded }

// AppendForwarded appends an element of a Forwarded field (RFC 7239): who sent the request to the edge, for which host, and how.
func AppendForwarded(b []byte, client netip.Addr, host []byte, secure bool) []byte {
	b = append(b, "for="...)
	if client.Is6() {
		b = append(b, `"[`...)
		b = client.WithZone("").AppendTo(b)
		b = append(b, `]"`...)
	} else {
		b = client.AppendTo(b)
	}
	if len(host) > 0 {
		b = append(b, ";host="...)
		b = appendQuoted(b, host)
	}
	if secure {
		return append(b, ";proto=https"...)
	}
	return append(b, ";proto=http"...)
}

// appendQuoted appends a value as a quoted string, which a host with a port has to be.
func appendQuoted(b, value []byte) []byte {
	b = append(b, '"')
	for _, c := range value {
		if c == '"' || c == '\\' {
			b = append(b, '\\')
		}
		b = append(b, c)
	}
	return append(b, '"')
}

// ParseForwarded returns the address in the for= of a Forwarded element, false when it has none or hides it.
func ParseForwarded(element []byte) (netip.Addr, bool) {
	for len(element) > 0 {
		pair := element
		element = nil
		for i, quoted := 0, false; i < len(pair); i++ {
			if pair[i] == '"' {
				quoted = !quoted
			}
			if pair[i] == ';' && !quoted {
				pair, element = pair[:i], pair[i+1:]
				break
			}
		}
		pair = trim(pair)
		if len(pair) > 4 && equalFold(pair[:4], "for=") {
			return parseNode(pair[4:])
		}
	}
	return netip.Addr{}, false
}

// parseNode reads 192.0.2.1, "192.0.2.1:80", "[2001:db8::1]" or "[2001:db8::1]:80".
func parseNode(node []byte) (netip.Addr, bool) {
	if n := len(node); n >= 2 && node[0] == '"' && node[n-1] == '"' {
		node = node[1 : n-1]
	}
	if addr, err := netip.ParseAddrPort(string(node)); err == nil {
		return addr.Addr().Unmap(), true
	}
	if n := len(node); n >= 2 && node[0] == '[' && node[n-1] == ']' {
		node = node[1 : n-1]
	}
	addr, err := netip.ParseAddr(string(node))
	return addr.Unmap(), err == nil
}

func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

func appendInt(b []byte, n int64) []byte { return strconv.AppendInt(b, n, 10) }
