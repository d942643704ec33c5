package vortex

import "time"

// Duration is a time.Duration that stands in JSON and YAML as a string such as "1m30s".
type Duration time.Duration

// Std returns it as the standard library's type.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// String returns it as Go writes durations: "1m30s".
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText returns what String does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads a number with a unit, or several: "300ms", "1h30m". The error is Invalid.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return Errorf(Invalid, "expected a duration such as \"5s\" or \"1h30m\", got %q", text)
	}
	*d = Duration(v)
	return nil
}
