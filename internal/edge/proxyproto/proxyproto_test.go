package proxyproto_test

import (
	"bytes"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vortex/internal/edge/proxyproto"
)

var (
	four = proxyproto.Header{
		Transport: proxyproto.TCP, Source: netip.MustParseAddrPort("192.0.2.1:56324"), Destination: netip.MustParseAddrPort("198.51.100.7:443"),
	}
	six = proxyproto.Header{
		Transport: proxyproto.TCP, Source: netip.MustParseAddrPort("[2001:db8::1]:65535"), Destination: netip.MustParseAddrPort("[2001:db8::2]:1"),
	}
)

const signature = "\r\n\r\n\x00\r\nQUIT\n"

// net6 are the bytes of an address in 2001:db8::/32.
func net6(last byte) string {
	return "\x20\x01\x0d\xb8" + strings.Repeat("\x00", 11) + string([]byte{last})
}

// exact are the bytes of headers, as the specification gives them.
var exact = map[string]proxyproto.Header{
	"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n": four,
	"PROXY TCP6 2001:db8::1 2001:db8::2 65535 1\r\n":  six,
	"PROXY UNKNOWN\r\n": {Local: true},
	"PROXY UNKNOWN ffff:f...f:ffff ffff::1 65535 1\r\n":                            {Local: true},
	signature + "\x20\x00\x00\x00":                                                 {Local: true},
	signature + "\x20\xff\x00\x03abc":                                              {Local: true},
	signature + "\x21\x00\x00\x00":                                                 {},
	signature + "\x21\x11\x00\x0c\xc0\x00\x02\x01\xc6\x33\x64\x07\xdc\x04\x01\xbb": four,
	signature + "\x21\x21\x00\x24" + net6(1) + net6(2) + "\xff\xff\x00\x01":        six,
	signature + "\x21\x31\x00\xd8" + strings.Repeat("x", 216):                      {},
}

func TestParsesWhatTheSpecificationGives(t *testing.T) {
	for text, want := range exact {
		got, n, err := proxyproto.Parse([]byte(text + "GET / and more"))
		got.TLVs = nil
		if err != nil || n != len(text) || !cmp.Equal(got, want, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })) {
			t.Errorf("%q: %+v, %d, %v; want %+v", text, got, n, err, want)
		}
	}
}

func TestEveryBeginningIsShort(t *testing.T) {
	for text := range exact {
		for n := range len(text) {
			if _, _, err := proxyproto.Parse([]byte(text[:n])); !errors.Is(err, proxyproto.ErrShort) {
				t.Fatalf("%q: %v, want ErrShort", text[:n], err)
			}
		}
	}
}

func TestRefusesEverythingElse(t *testing.T) {
	for _, text := range []string{
		"GET / HTTP/1.1\r\n", "\x16\x03\x01", "PRI * HTTP/2.0\r\n", "proxy TCP4 ", "\r\n\r\nGET", "\r\n\r\n\x00\r\nQUIT\r",
		"PROXY \r\n", "PROXY  TCP4 192.0.2.1 198.51.100.7 1 2\r\n", "PROXY TCP4\r\n",
		"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\n", "PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\rx",
		"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443 \r\n", "PROXY TCP4 192.0.2.1 198.51.100.7 56324\r\n",
		"PROXY TCP4 192.0.2.1  198.51.100.7 56324 443\r\n", "PROXY TCP4 192.0.2.1\t198.51.100.7 56324 443\r\n",
		"PROXY TCP4 192.0.2.01 198.51.100.7 56324 443\r\n", "PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
		"PROXY TCP6 192.0.2.1 198.51.100.7 1 2\r\n", "PROXY TCP6 fe80::1%eth0 fe80::2 1 2\r\n",
		"PROXY TCP4 192.0.2.1 198.51.100.7 056324 443\r\n", "PROXY TCP4 192.0.2.1 198.51.100.7 65536 443\r\n",
		"PROXY TCP4 192.0.2.1 198.51.100.7 -1 443\r\n", "PROXY TCP4 192.0.2.1 198.51.100.7 +1 443\r\n", "PROXY TCP4 192.0.2.1 198.51.100.7  443\r\n",
		"PROXY UDP4 192.0.2.1 198.51.100.7 1 2\r\n", "PROXY UNKNOWN " + strings.Repeat("x", 107) + "\r\n",
		signature + "\x11\x11\x00\x00", signature + "\x22\x11\x00\x00", signature + "\x21\x41\x00\x00", signature + "\x21\x13\x00\x0c",
		signature + "\x21\x11\x00\x0b" + strings.Repeat("x", 11), signature + "\x21\x11\xff\xff",
		signature + "\x21\x00\x00\x02\x04\x00", signature + "\x21\x00\x00\x04\x04\x00\x02x",
		signature + "\x21\x00\x00\x07\x03\x00\x04\x00\x00\x00\x00", signature + "\x21\x00\x00\x06\x03\x00\x03\x00\x00\x00",
	} {
		_, _, err := proxyproto.Parse([]byte(text + strings.Repeat(" ", 40)))
		if err == nil || errors.Is(err, proxyproto.ErrShort) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestTLVsAreKept(t *testing.T) {
	h := four
	h.TLVs = proxyproto.AppendTLV(proxyproto.AppendTLV(nil, proxyproto.TypeAuthority, []byte("example.com")), proxyproto.TypeNoop, nil)
	h.TLVs = proxyproto.AppendTLV(h.TLVs, 0xe0, []byte{1, 2})
	got, _, err := proxyproto.Parse(proxyproto.AppendV2(nil, h))
	if err != nil || !bytes.Equal(got.TLVs, h.TLVs) {
		t.Fatalf("%+v, %v", got, err)
	}
	if v, ok := got.TLV(proxyproto.TypeAuthority); !ok || string(v) != "example.com" {
		t.Errorf("authority %q, %v", v, ok)
	}
	if v, ok := got.TLV(0xe0); !ok || len(v) != 2 {
		t.Errorf("own type %v, %v", v, ok)
	}
	if _, ok := got.TLV(proxyproto.TypeUniqueID); ok {
		t.Error("found what is not there")
	}
}

func TestChecksumIsChecked(t *testing.T) {
	// CRC-32C of this header, computed by an independent program.
	h := four
	h.TLVs = proxyproto.AppendTLV(nil, proxyproto.TypeCRC32C, []byte{0, 0, 0, 0})
	b := proxyproto.AppendV2(nil, h)
	sum := crc32c(b)
	copy(b[len(b)-4:], []byte{byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)})
	if _, _, err := proxyproto.Parse(b); err != nil {
		t.Fatal(err)
	}
	b[20] ^= 1
	if _, _, err := proxyproto.Parse(b); err == nil {
		t.Error("a header with a wrong checksum was taken")
	}
}

// crc32c is the checksum bit by bit, as RFC 4960 appendix B describes it.
func crc32c(b []byte) uint32 {
	crc := ^uint32(0)
	for _, x := range b {
		crc ^= uint32(x)
		for range 8 {
			low := crc & 1
			crc >>= 1
			if low != 0 {
				crc ^= 0x82f63b78
			}
		}
	}
	return ^crc
}

func TestFamiliesAreMadeOne(t *testing.T) {
	mixed := proxyproto.Header{Transport: proxyproto.TCP, Source: four.Source, Destination: six.Destination}
	for name, b := range map[string][]byte{"v1": proxyproto.AppendV1(nil, mixed), "v2": proxyproto.AppendV2(nil, mixed)} {
		got, _, err := proxyproto.Parse(b)
		if err != nil || got.Source.Addr().Unmap() != four.Source.Addr() || got.Destination != six.Destination {
			t.Errorf("%s: %q gives %+v, %v", name, b, got, err)
		}
	}
	mapped := proxyproto.Header{
		Transport: proxyproto.TCP, Source: netip.AddrPortFrom(netip.MustParseAddr("::ffff:192.0.2.1"), 56324), Destination: four.Destination,
	}
	if got := string(proxyproto.AppendV1(nil, mapped)); !strings.HasPrefix(got, "PROXY TCP4 192.0.2.1 ") {
		t.Errorf("a mapped address is told as %q", got)
	}
}

func FuzzParse(f *testing.F) {
	for text := range exact {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, n, err := proxyproto.Parse(b)
		if err != nil {
			return
		}
		if n <= 0 || n > len(b) || n > proxyproto.MaxHeader {
			t.Fatalf("%d bytes of %d", n, len(b))
		}
		for range h.All() {
		}
		if len(h.TLVs) == 0 && h.Transport != proxyproto.UDP {
			same(t, h, proxyproto.AppendV1(nil, h))
		}
		if _, summed := h.TLV(proxyproto.TypeCRC32C); !summed {
			same(t, h, proxyproto.AppendV2(nil, h))
		}
	})
}

// same holds that a header means what it was written for.
func same(t *testing.T, want proxyproto.Header, written []byte) {
	t.Helper()
	got, n, err := proxyproto.Parse(written)
	if err != nil || n != len(written) {
		t.Fatalf("%q: %d, %v", written, n, err)
	}
	if got.Source.Addr().Unmap() != want.Source.Addr().Unmap() || got.Source.Port() != want.Source.Port() || !bytes.Equal(got.TLVs, want.TLVs) {
		t.Fatalf("%+v was written as %q, which says %+v", want, written, got)
	}
}
