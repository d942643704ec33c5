package ksl_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestMomentsAreThoseOfTheLibrary holds texts that nearly are moments against the parser that reads them in the end.
func TestMomentsAreThoseOfTheLibrary(t *testing.T) {
	typ := typeNamed(t, parse(t, "type T { at: Timestamp }"), "T")
	rapid.Check(t, func(rt *rapid.T) {
		text := []byte(time.Unix(rapid.Int64Range(-1<<36, 1<<37).Draw(rt, "s"), rapid.SampledFrom([]int64{0, 1, 500_000_000}).Draw(rt, "ns")).
			UTC().Format(time.RFC3339Nano))
		for range rapid.IntRange(0, 2).Draw(rt, "changes") {
			at := rapid.IntRange(0, len(text)-1).Draw(rt, "at")
			text[at] = rapid.SampledFrom([]byte("0123456789-:.TZ+, tz")).Draw(rt, "to")
		}
		if rapid.IntRange(0, 9).Draw(rt, "shorter") == 0 {
			text = text[:rapid.IntRange(0, len(text)).Draw(rt, "length")]
		}
		var moment time.Time
		want := moment.UnmarshalText(text)
		if err := typ.Validate([]byte(`{"at":` + quote(string(text)) + `}`)); (err == nil) != (want == nil) {
			rt.Fatalf("%s: %v; the library says %v", text, err, want)
		}
	})
}
