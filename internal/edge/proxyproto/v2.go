package proxyproto

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"iter"
	"net/netip"
)

var signatureV2 = []byte("\r\n\r\n\x00\r\nQUIT\n")

// The parts of a header of version 2, in bytes.
const (
	fixedLength = 16
	length4     = 12
	length6     = 36
	lengthUnix  = 216
	tlvHead     = 3
)

// The types of TLVs that a reader may care for. Others are kept as they are.
const (
	TypeALPN      = 0x01 // the protocol agreed on
	TypeAuthority = 0x02 // the host the client asked for
	TypeCRC32C    = 0x03 // a checksum of the header, checked by Parse
	TypeNoop      = 0x04 // padding
	TypeUniqueID  = 0x05 // names the connection
	TypeTLS       = 0x20 // what the proxy knows of the client's TLS
	TypeNetNS     = 0x30 // the network namespace
)

const (
	commandLocal = 0x20
	commandProxy = 0x21
)

// parseV2 takes a header of version 2.
func parseV2(b []byte) (Header, int, error) {
	if head := b[:min(len(b), len(signatureV2))]; !bytes.HasPrefix(signatureV2, head) {
		return Header{}, 0, ErrNone
	}
	if len(b) < fixedLength {
		return Header{}, 0, ErrShort
	}
	command, family := b[12], b[13]
	if command != commandLocal && command != commandProxy {
		return Header{}, 0, malformed("expected version 2 with the command LOCAL or PROXY, got %#x", command)
	}
	n := fixedLength + int(binary.BigEndian.Uint16(b[14:]))
	if n > MaxHeader {
		return Header{}, 0, malformed("expected at most %d bytes, got %d", MaxHeader, n)
	}
	if len(b) < n {
		return Header{}, 0, ErrShort
	}
	b = b[:n]
	if command == commandLocal {
		return Header{Local: true}, n, nil // what follows means nothing
	}
	h, rest, err := parseAddrs(family, b[fixedLength:])
	if err != nil {
		return Header{}, 0, err
	}
	if err := checkTLVs(b, n-len(rest)); err != nil {
		return Header{}, 0, err
	}
	h.TLVs = rest
	return h, n, nil
}

// parseAddrs takes the addresses and returns what follows them.
func parseAddrs(family byte, b []byte) (h Header, rest []byte, err error) {
	length := 0
	switch family >> 4 {
	case 0:
	case 1:
		length = length4
	case 2:
		length = length6
	case 3:
		length = lengthUnix
	default:
		return h, nil, malformed("unknown address family %#x", family>>4)
	}
	transport := Transport(family & 0xf)
	if transport > UDP {
		return h, nil, malformed("unknown transport %#x", family&0xf)
	}
	if len(b) < length {
		return h, nil, malformed("expected %d bytes of addresses, got %d", length, len(b))
	}
	if transport == Unspecified {
		return h, b[length:], nil
	}
	switch length {
	case length4:
		h.Source = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b)), binary.BigEndian.Uint16(b[8:]))
		h.Destination = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:])), binary.BigEndian.Uint16(b[10:]))
		h.Transport = transport
	case length6:
		h.Source = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b)), binary.BigEndian.Uint16(b[32:]))
		h.Destination = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[16:])), binary.BigEndian.Uint16(b[34:]))
		h.Transport = transport
	}
	return h, b[length:], nil
}

// checkTLVs checks the shape of the TLVs that begin at an offset of the header, and its checksum where there is one.
func checkTLVs(header []byte, at int) error {
	sum := -1
	for at < len(header) {
		if len(header)-at < tlvHead {
			return malformed("%d bytes behind the last TLV", len(header)-at)
		}
		kind, length := header[at], int(binary.BigEndian.Uint16(header[at+1:]))
		at += tlvHead
		if length > len(header)-at {
			return malformed("a TLV of %d bytes where %d are left", length, len(header)-at)
		}
		if kind == TypeCRC32C {
			if length != 4 || sum >= 0 {
				return malformed("expected one checksum of 4 bytes")
			}
			sum = at
		}
		at += length
	}
	if sum >= 0 && binary.BigEndian.Uint32(header[sum:]) != checksum(header, sum) {
		return malformed("the checksum is wrong")
	}
	return nil
}

var zeros [4]byte

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum is CRC-32C over the header with the checksum's own four bytes as zeros.
func checksum(header []byte, at int) uint32 {
	crc := crc32.Update(0, castagnoli, header[:at])
	crc = crc32.Update(crc, castagnoli, zeros[:])
	return crc32.Update(crc, castagnoli, header[at+4:])
}

// All yields the type and value of each TLV.
func (h Header) All() iter.Seq2[byte, []byte] {
	return func(yield func(byte, []byte) bool) {
		for b := h.TLVs; len(b) >= tlvHead; {
			end := tlvHead + int(binary.BigEndian.Uint16(b[1:]))
			if end > len(b) || !yield(b[0], b[tlvHead:end]) {
				return
			}
			b = b[end:]
		}
	}
}

// TLV returns the value of the first TLV of a type.
func (h Header) TLV(kind byte) (value []byte, ok bool) {
	for k, v := range h.All() {
		if k == kind {
			return v, true
		}
	}
	return nil, false
}

// AppendTLV appends a TLV to those of a Header. A value of more than 65535 bytes is cut.
func AppendTLV(b []byte, kind byte, value []byte) []byte {
	value = value[:min(len(value), 0xffff)]
	b = append(b, kind)
	b = binary.BigEndian.AppendUint16(b, uint16(len(value)))
	return append(b, value...)
}

// AppendV2 appends a header of version 2 with its TLVs, which must not hold a checksum.
func AppendV2(b []byte, h Header) []byte {
	b = append(b, signatureV2...)
	source, destination, ok := pair(h)
	switch {
	case h.Local:
		return append(b, commandLocal, 0, 0, 0)
	case !ok:
		b = append(b, commandProxy, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(len(h.TLVs)))
	case source.Addr().Is4():
		b = append(b, commandProxy, 0x10|byte(h.Transport))
		b = binary.BigEndian.AppendUint16(b, uint16(length4+len(h.TLVs)))
		b = appendPair(b, source, destination)
	default:
		b = append(b, commandProxy, 0x20|byte(h.Transport))
		b = binary.BigEndian.AppendUint16(b, uint16(length6+len(h.TLVs)))
		b = appendPair(b, source, destination)
	}
	return append(b, h.TLVs...)
}

func appendPair(b []byte, source, destination netip.AddrPort) []byte {
	b = append(b, source.Addr().AsSlice()...)
	b = append(b, destination.Addr().AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, source.Port())
	return binary.BigEndian.AppendUint16(b, destination.Port())
}
