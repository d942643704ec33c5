package proxyproto

import (
	"bytes"
	"net/netip"
	"strconv"
)

var prefixV1 = []byte("PROXY ")

// parseV1 takes a header of version 1: one line of text.
func parseV1(b []byte) (Header, int, error) {
	if head := b[:min(len(b), len(prefixV1))]; !bytes.HasPrefix(prefixV1, head) {
		return Header{}, 0, ErrNone
	}
	line := b[:min(len(b), MaxV1)]
	end := bytes.IndexByte(line, '\n')
	switch {
	case end < 0 && len(line) == MaxV1:
		return Header{}, 0, malformed("expected a line of at most %d bytes", MaxV1)
	case end < 0 && bytes.IndexByte(line[:len(line)-1], '\r') >= 0:
		return Header{}, 0, malformed("a carriage return without a line feed")
	case end < 0:
		return Header{}, 0, ErrShort
	case line[end-1] != '\r':
		return Header{}, 0, malformed("a line feed without a carriage return")
	}
	h, err := parseLine(line[len(prefixV1) : end-1])
	return h, end + 1, err
}

// parseLine takes what stands between "PROXY " and the end of the line.
func parseLine(line []byte) (Header, error) {
	fields := bytes.Split(line, []byte(" "))
	protocol := string(fields[0])
	if protocol == "UNKNOWN" {
		return Header{Local: true}, nil // what follows means nothing
	}
	if protocol != "TCP4" && protocol != "TCP6" {
		return Header{}, malformed("expected TCP4, TCP6 or UNKNOWN, got %.20q", protocol)
	}
	if len(fields) != 5 {
		return Header{}, malformed("expected two addresses and two ports, got %d fields", len(fields)-1)
	}
	h := Header{Transport: TCP}
	var err error
	if h.Source, err = parseAddr(fields[1], fields[3], protocol == "TCP4"); err != nil {
		return Header{}, err
	}
	h.Destination, err = parseAddr(fields[2], fields[4], protocol == "TCP4")
	return h, err
}

func parseAddr(addr, port []byte, is4 bool) (netip.AddrPort, error) {
	a, err := netip.ParseAddr(string(addr))
	if err != nil || a.Is4() != is4 || a.Zone() != "" {
		return netip.AddrPort{}, malformed("expected an address of the family it names, got %.50q", addr)
	}
	p, err := strconv.ParseUint(string(port), 10, 16)
	if err != nil || len(port) > 1 && port[0] == '0' || port[0] == '+' {
		return netip.AddrPort{}, malformed("expected a port from 0 to 65535, got %.20q", port)
	}
	return netip.AddrPortFrom(a, uint16(p)), nil
}

// AppendV1 appends a header of version 1. One that is not of TCP says UNKNOWN.
func AppendV1(b []byte, h Header) []byte {
	source, destination, ok := pair(h)
	if !ok || h.Transport != TCP {
		return append(b, "PROXY UNKNOWN\r\n"...)
	}
	family := "TCP6 "
	if source.Addr().Is4() {
		family = "TCP4 "
	}
	b = append(append(b, prefixV1...), family...)
	b = append(appendAddr(b, source.Addr()), ' ')
	b = append(appendAddr(b, destination.Addr()), ' ')
	b = append(strconv.AppendUint(b, uint64(source.Port()), 10), ' ')
	b = strconv.AppendUint(b, uint64(destination.Port()), 10)
	return append(b, "\r\n"...)
}

// appendAddr writes an address with hexadecimal digits and colons alone: not every reader knows ::ffff:192.0.2.1.
func appendAddr(b []byte, a netip.Addr) []byte {
	if !a.Is4In6() {
		return a.AppendTo(b)
	}
	octets := a.As4()
	b = append(b, "::ffff:"...)
	b = strconv.AppendUint(b, uint64(octets[0])<<8|uint64(octets[1]), 16)
	b = append(b, ':')
	return strconv.AppendUint(b, uint64(octets[2])<<8|uint64(octets[3]), 16)
}
