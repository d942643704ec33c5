package cli

import (
	"testing"
	"time"

	"vortex"
)

func TestParseMoment(t *testing.T) {
	zone := time.FixedZone("there", 2*60*60)
	now := time.Date(2026, 11, 21, 14, 30, 0, 0, zone)
	at := func(hour, minute, sec, ms int) moment {
		return moment{time: time.Date(2026, 11, 21, hour, minute, sec, ms*int(time.Millisecond), zone)}
	}
	for text, want := range map[string]moment{
		"1234":                         {revision: 1234},
		"10m":                          at(14, 20, 0, 0),
		"0s":                           at(14, 30, 0, 0),
		"13:00:05":                     at(13, 0, 5, 999),
		"13:00:05.250":                 at(13, 0, 5, 250),
		"13:00":                        at(13, 0, 0, 999),
		"2026-11-21 13:00:05":          at(13, 0, 5, 999),
		"2026-11-21T13:00:05":          at(13, 0, 5, 999),
		"2026-11-21T11:00:05Z":         at(13, 0, 5, 999),
		"2026-11-21T11:00:05.123Z":     at(13, 0, 5, 123),
		"2026-11-21T13:00:05.01+02:00": at(13, 0, 5, 10),
		"2026-11-21":                   at(0, 0, 0, 999),
	} {
		got, err := parseMoment(text, now)
		if err != nil || got.revision != want.revision || !got.time.Equal(want.time) {
			t.Errorf("%s: %+v, %v; want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "0", "-1", "-5m", "yesterday", "25:00:00", "2026-13-01"} {
		if got, err := parseMoment(text, now); !vortex.IsKind(err, vortex.Invalid) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
}
