package vortex_test

import (
	"encoding/json"
	"testing"
	"time"

	"vortex"
)

func TestDurationText(t *testing.T) {
	for text, want := range map[string]time.Duration{
		`"5s"`: 5 * time.Second, `"1m30s"`: 90 * time.Second, `"0s"`: 0, `"-1.5ms"`: -1500 * time.Microsecond,
	} {
		var d vortex.Duration
		if err := json.Unmarshal([]byte(text), &d); err != nil || d.Std() != want {
			t.Errorf("%s decodes to %v, %v; want %v", text, d, err, want)
		}
		if again, err := json.Marshal(d); err != nil || string(again) != text {
			t.Errorf("%v encodes to %s, %v; want %s", want, again, err, text)
		}
	}
}

func TestDurationRefusesNumbers(t *testing.T) {
	var d vortex.Duration
	err := d.UnmarshalText([]byte("5"))
	if !vortex.IsKind(err, vortex.Invalid) || err.Error() != `expected a duration such as "5s" or "1h30m", got "5"` {
		t.Errorf("UnmarshalText returned %v", err)
	}
}
