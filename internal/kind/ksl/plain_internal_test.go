package ksl

import (
	"testing"

	"pgregory.net/rapid"
)

// TestPlainStopsAtTheFirstSpecialByte compares it with looking at each byte.
func TestPlainStopsAtTheFirstSpecialByte(t *testing.T) {
	special := func(c byte) bool { return c < ' ' || c == '"' || c == '\\' || c >= 0x80 }
	rapid.Check(t, func(rt *rapid.T) {
		near := rapid.SampledFrom([]byte{0, 1, 0x1f, ' ', '!', '"', '#', '[', '\\', ']', 'a', 0x7f, 0x80, 0x81, 0xff})
		b := rapid.SliceOfN(rapid.OneOf(near, rapid.ByteRange('a', 'z')), 0, 40).Draw(rt, "bytes")
		want := 0
		for want < len(b) && !special(b[want]) {
			want++
		}
		got := plain(b)
		if got > want || got < want && len(b)-got >= 8 {
			rt.Fatalf("plain(%q) = %d, want %d", b, got, want)
		}
	})
}
