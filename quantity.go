package vortex

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
)

// The largest quantities a spec may ask for. They are far beyond any machine and keep sums over a
// cluster within 64 bits.
const (
	MaxCPUMillis   = 1_000_000_000 // a million cores
	MaxMemoryBytes = 1 << 53       // 8 PiB, exact in JSON numbers
)

// ParseCPU returns the thousandths of a core that text asks for: "500m" and "0.5" are 500, "2" is 2000.
// Anything finer than a thousandth is refused. The error is Invalid and does not repeat where text stood.
func ParseCPU(text string) (millis uint64, err error) {
	expected := func() error {
		return Errorf(Invalid, `expected cores such as "2" or "0.5", or thousandths such as "500m", got %q`, text)
	}
	if whole, ok := strings.CutSuffix(text, "m"); ok {
		n, perr := strconv.ParseUint(whole, 10, 64)
		if perr != nil {
			return 0, expected()
		}
		return capped(n, MaxCPUMillis, text, "a million cores")
	}
	n, exact, ok := scale(text, 1000)
	switch {
	case !ok:
		return 0, expected()
	case !exact:
		return 0, Errorf(Invalid, `expected no part finer than a thousandth of a core ("1m"), got %q`, text)
	}
	return capped(n, MaxCPUMillis, text, "a million cores")
}

// memoryUnits are the suffixes ParseMemory knows. The longer one of two that fit stands first.
var memoryUnits = []struct {
	suffix string
	bytes  uint64
}{
	{"Ki", 1 << 10},
	{"Mi", 1 << 20},
	{"Gi", 1 << 30},
	{"Ti", 1 << 40},
	{"Pi", 1 << 50},
	{"k", 1e3},
	{"K", 1e3},
	{"M", 1e6},
	{"G", 1e9},
	{"T", 1e12},
	{"P", 1e15},
	{"", 1},
}

// ParseMemory returns the bytes that text asks for: "256Mi", "1.5Gi" (powers of 1024), "512M" (powers of 1000) or
// a plain number of bytes. A part of a byte counts as one. The error is Invalid and does not repeat where text stood.
func ParseMemory(text string) (bytes uint64, err error) {
	for _, unit := range memoryUnits {
		number, ok := strings.CutSuffix(text, unit.suffix)
		if !ok {
			continue
		}
		n, exact, ok := scale(number, unit.bytes)
		if !ok {
			break
		}
		if !exact {
			n++
		}
		return capped(n, MaxMemoryBytes, text, "8 PiB")
	}
	return 0, Errorf(Invalid, `expected a size such as "256Mi", "1Gi", "512M" or a number of bytes, got %q%s`, text, memoryHint(text))
}

// memoryHint guesses what an unknown size was meant to be.
func memoryHint(text string) string {
	number := strings.TrimRight(text, "bBiImMgGkKtT \t")
	if _, _, ok := scale(number, 1); !ok {
		return ""
	}
	switch unit := strings.ToUpper(strings.Trim(text[len(number):], "bBiI \t")); unit {
	case "":
		return fmt.Sprintf(" (did you mean %q?)", number)
	case "K", "M", "G", "T":
		return fmt.Sprintf(" (did you mean %q?)", number+unit+"i")
	default:
		return ""
	}
}

// capped refuses what is more than limit.
func capped(n, limit uint64, text, name string) (uint64, error) {
	if n > limit {
		return 0, Errorf(Invalid, "expected at most %s, got %q", name, text)
	}
	return n, nil
}

// scale returns the decimal number in text times factor, cut to a whole number; exact is false when something was
// cut off. Numbers too large for 64 bits come out as the largest.
func scale(text string, factor uint64) (n uint64, exact, ok bool) {
	whole, fraction, dotted := strings.Cut(text, ".")
	if dotted && fraction == "" || !digits(whole) || !digits(fraction) || whole == "" || len(fraction) > 18 {
		return 0, false, false
	}
	const most = 1<<64 - 1
	w, err := strconv.ParseUint(whole, 10, 64)
	if err != nil {
		return most, true, true
	}
	hi, lo := bits.Mul64(w, factor)
	if hi > 0 {
		return most, true, true
	}
	if fraction == "" {
		return lo, true, true
	}
	f, _ := strconv.ParseUint(fraction, 10, 64) // 18 digits always fit
	hi, part := bits.Mul64(f, factor)
	quotient, rest := bits.Div64(hi, part, pow10(len(fraction))) // hi < divisor because f < divisor
	sum, carry := bits.Add64(lo, quotient, 0)
	if carry > 0 {
		return most, true, true
	}
	return sum, rest == 0, true
}

func pow10(n int) uint64 {
	p := uint64(1)
	for range n {
		p *= 10
	}
	return p
}

func digits(text string) bool {
	return strings.Trim(text, "0123456789") == ""
}

// FormatCPU returns millis as ParseCPU reads it: whole cores as "2", anything else as "500m".
func FormatCPU(millis uint64) string {
	if millis%1000 == 0 {
		return strconv.FormatUint(millis/1000, 10)
	}
	return strconv.FormatUint(millis, 10) + "m"
}

// FormatMemory returns bytes as ParseMemory reads it, without loss, in the largest binary unit that
// divides it: "256Mi", "1536Mi", "1000".
func FormatMemory(bytes uint64) string {
	for _, unit := range []string{"", "Ki", "Mi", "Gi", "Ti"} {
		if bytes == 0 || bytes%1024 != 0 || unit == "Ti" {
			return strconv.FormatUint(bytes, 10) + unit
		}
		bytes /= 1024
	}
	return ""
}
