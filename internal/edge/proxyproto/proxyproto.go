// Package proxyproto reads and writes the PROXY protocol, versions 1 and 2: the few bytes with which a proxy tells, before anything
// else on a connection, who the client is.
//
// It knows bytes, not connections, and keeps nothing:
//
//	header, n, err := proxyproto.Parse(received) // ErrShort: receive more and parse again
//	out := proxyproto.AppendV2(nil, header)
//
// It guarantees that what Parse takes is exactly what the specification allows: no other spelling of an address, no byte too many,
// no length that does not fit, and a checksum that is right where there is one. It never decides who may be believed: that is
// for whoever knows where the connection came from.
//
// The protocol is specified in https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt.
package proxyproto

import (
	"errors"
	"fmt"
	"net/netip"
)

// MaxHeader is the length of the longest header Parse takes; the specification allows more, but nobody sends that.
const MaxHeader = 4096

// MaxV1 is the length of the longest header of version 1.
const MaxV1 = 107

// Why a header is not taken.
var (
	// ErrShort says that what was given is the beginning of a header. More bytes decide.
	ErrShort = errors.New("the PROXY protocol header is not complete")
	// ErrNone says that what was given is no header of the PROXY protocol at all.
	ErrNone = errors.New("expected a PROXY protocol header, got something else")
)

// malformed is the error of a header that begins like one and goes wrong.
func malformed(format string, args ...any) error {
	return fmt.Errorf("malformed PROXY protocol header: "+format, args...)
}

// Transport is what the client's connection is made of.
type Transport byte

// The transports. Unspecified has no addresses that this package knows.
const (
	Unspecified Transport = iota
	TCP
	UDP
)

// Header is what a proxy says about a connection.
type Header struct {
	// Local is a connection the proxy made on its own behalf, such as a health check: the addresses are those of the
	// connection itself. Version 1 says UNKNOWN.
	Local     bool
	Transport Transport
	// Source is the client, Destination what it connected to. Both are of one family; neither is valid when the connection is
	// Local or the Transport Unspecified.
	Source, Destination netip.AddrPort
	// TLVs are the extensions of version 2 as they were received, checked for their shape; see All. They point into what
	// was parsed.
	TLVs []byte
}

// Parse takes the header at the start of b and returns how many bytes it is long. It decides as early as it can: ErrShort means that b
// is the beginning of a header, ErrNone that it is not.
func Parse(b []byte) (Header, int, error) {
	switch {
	case len(b) == 0:
		return Header{}, 0, ErrShort
	case b[0] == signatureV2[0]:
		return parseV2(b)
	case b[0] == 'P':
		return parseV1(b)
	}
	return Header{}, 0, ErrNone
}

// plain returns an address without the form that puts an IPv4 address into an IPv6 one, and without a zone.
func plain(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// pair returns both addresses in one family, IPv6 when they differ; ok is false when there is one missing.
func pair(h Header) (source, destination netip.AddrPort, ok bool) {
	if h.Local || h.Transport == Unspecified || !h.Source.IsValid() || !h.Destination.IsValid() {
		return source, destination, false
	}
	source, destination = plain(h.Source), plain(h.Destination)
	if source.Addr().Is4() != destination.Addr().Is4() {
		source, destination = mapped(source), mapped(destination)
	}
	return source, destination, true
}

func mapped(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(a.Addr().As16()), a.Port())
}
