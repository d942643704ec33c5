package l4

import (
	"bytes"
	"errors"
	"fmt"
)

// maxHello is how many bytes a client may take for its ClientHello, the records around it included.
const maxHello = 16 << 10

// errMore says that what was received is the beginning of a ClientHello. More bytes decide.
var errMore = errors.New("the ClientHello is not complete")

// errNotTLS says that what was received is not TLS.
var errNotTLS = errors.New("expected a TLS ClientHello, got something else")

// badHello is the error of a ClientHello that begins like one and goes wrong.
func badHello(format string, args ...any) error {
	return fmt.Errorf("malformed TLS ClientHello: "+format, args...)
}

// hello is what a client asks for before anything is encrypted.
type hello struct {
	name string // in lower case, without a trailing dot; "" is none
	alpn []byte // the protocols it offers, each behind its length
}

// offers reports whether the client offers a protocol.
func (h hello) offers(protocol string) bool {
	for list := h.alpn; len(list) > 0; {
		n := int(list[0])
		if string(list[1:1+n]) == protocol {
			return true
		}
		list = list[1+n:]
	}
	return false
}

const (
	recordHandshake  = 22
	recordHead       = 5
	maxRecord        = 16 << 10
	maxRecords       = 32 // that one ClientHello is cut into
	clientHello      = 1
	handshakeHead    = 4
	extensionName    = 0
	extensionALPN    = 16
	nameTypeHost     = 0
	maxServerName    = 253
	randomLength     = 32
	maxSessionLength = 32
)

// parseHello takes the ClientHello at the start of b, which may be cut into any number of records. It decides as early as it can:
// errMore means that b is the beginning of one, errNotTLS that it is not. It allocates only for a hello in several records,
// and for the name.
func parseHello(b []byte) (hello, error) {
	message, err := handshake(b)
	if err != nil {
		return hello{}, err
	}
	return parseClientHello(message)
}

// handshake returns the first handshake message in b, without its head.
func handshake(b []byte) ([]byte, error) {
	var joined []byte
	for records := 0; ; records++ {
		if records == maxRecords {
			return nil, badHello("expected at most %d records", maxRecords)
		}
		payload, rest, err := record(b)
		if err != nil {
			return nil, err
		}
		message := payload
		if records > 0 {
			joined = append(joined, payload...)
			message = joined
		}
		if len(message) > 0 && message[0] != clientHello {
			return nil, badHello("expected handshake message 1, got %d", message[0])
		}
		if len(message) >= handshakeHead {
			n := handshakeHead + int(message[1])<<16 + int(message[2])<<8 + int(message[3])
			switch {
			case n > maxHello:
				return nil, badHello("expected at most %d bytes, got %d", maxHello, n)
			case len(message) >= n:
				return message[handshakeHead:n], nil
			}
		}
		if records == 0 {
			joined = bytes.Clone(payload)
		}
		b = rest
	}
}

// record takes the first record of b and returns what follows it.
func record(b []byte) (payload, rest []byte, err error) {
	if len(b) > 0 && b[0] != recordHandshake {
		return nil, nil, errNotTLS
	}
	if len(b) > 1 && b[1] != 3 {
		return nil, nil, errNotTLS
	}
	if len(b) < recordHead {
		return nil, nil, errMore
	}
	n := int(b[3])<<8 | int(b[4])
	switch {
	case n == 0:
		return nil, nil, badHello("an empty record")
	case n > maxRecord:
		return nil, nil, badHello("expected a record of at most %d bytes, got %d", maxRecord, n)
	case len(b) < recordHead+n:
		return nil, nil, errMore
	}
	return b[recordHead : recordHead+n], b[recordHead+n:], nil
}

// reader takes apart what is built of lengths and bytes. After the first thing that does not fit everything is empty.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if n > len(r.b) {
		r.bad, r.b = true, nil
		return nil
	}
	taken := r.b[:n]
	r.b = r.b[n:]
	return taken
}

func (r *reader) number(width int) (n int) {
	for _, x := range r.take(width) {
		n = n<<8 | int(x)
	}
	return n
}

// list takes what stands behind a length of so many bytes.
func (r *reader) list(width int) []byte { return r.take(r.number(width)) }

func parseClientHello(message []byte) (h hello, err error) {
	r := reader{b: message}
	version := r.number(2)
	r.take(randomLength)
	session := r.list(1)
	suites := r.list(2)
	methods := r.list(1)
	switch {
	case r.bad:
		return h, badHello("it ends too early")
	case version>>8 != 3:
		return h, badHello("unknown version %#x", version)
	case len(session) > maxSessionLength:
		return h, badHello("a session id of %d bytes", len(session))
	case len(suites) < 2 || len(suites)%2 != 0:
		return h, badHello("%d bytes of cipher suites", len(suites))
	case len(methods) == 0:
		return h, badHello("no compression method")
	case len(r.b) == 0:
		return h, nil // before there were extensions
	}
	extensions := reader{b: r.list(2)}
	if r.bad || len(r.b) > 0 {
		return h, badHello("the length of the extensions does not fit")
	}
	return parseExtensions(&extensions)
}

func parseExtensions(r *reader) (h hello, err error) {
	var named, offered bool
	for len(r.b) > 0 {
		kind := r.number(2)
		value := r.list(2)
		switch {
		case r.bad:
			return h, badHello("an extension that ends too early")
		case kind == extensionName && named, kind == extensionALPN && offered:
			return h, badHello("extension %d stands there twice", kind)
		case kind == extensionName:
			named = true
			h.name, err = parseName(value)
		case kind == extensionALPN:
			offered = true
			h.alpn, err = parseALPN(value)
		}
		if err != nil {
			return h, err
		}
	}
	return h, nil
}

// parseName takes the extension of RFC 6066, section 3: a list that can hold one name of each type, and there is one type.
func parseName(b []byte) (string, error) {
	outer := reader{b: b}
	list := reader{b: outer.list(2)}
	kind := list.number(1)
	name := list.list(2)
	switch {
	case outer.bad || list.bad || len(outer.b) > 0 || len(list.b) > 0:
		return "", badHello("the length of the server name does not fit")
	case kind != nameTypeHost:
		return "", badHello("unknown type %d of a server name", kind)
	}
	return cleanName(name)
}

// cleanName returns a server name as routes have it.
func cleanName(name []byte) (string, error) {
	lower := bytes.TrimSuffix(bytes.ToLower(name), []byte("."))
	if len(lower) == 0 || len(lower) > maxServerName {
		return "", badHello("a server name of %d bytes", len(name))
	}
	for i, c := range lower {
		letter := c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_'
		if !letter && (c != '.' || i == 0 || lower[i-1] == '.') {
			return "", badHello("the server name %.80q is not a host", name)
		}
	}
	return string(lower), nil
}

// parseALPN takes the extension of RFC 7301, section 3.1.
func parseALPN(b []byte) ([]byte, error) {
	outer := reader{b: b}
	list := outer.list(2)
	if outer.bad || len(outer.b) > 0 || len(list) == 0 {
		return nil, badHello("the length of the protocols does not fit")
	}
	for r := (reader{b: list}); len(r.b) > 0; {
		if protocol := r.list(1); r.bad || len(protocol) == 0 {
			return nil, badHello("a protocol that is empty or ends too early")
		}
	}
	return list, nil
}
