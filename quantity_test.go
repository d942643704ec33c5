package vortex_test

import (
	"math"
	"strings"
	"testing"

	"vortex"
)

func TestParseCPU(t *testing.T) {
	for text, want := range map[string]uint64{
		"500m": 500, "2": 2000, "0.5": 500, "0.001": 1, "1.25": 1250, "0": 0, "0m": 0, "1000m": 1000, "10.100": 10100,
		"1000000": vortex.MaxCPUMillis,
	} {
		if got, err := vortex.ParseCPU(text); err != nil || got != want {
			t.Errorf("ParseCPU(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "m", "-1", "+1", "1.", ".5", "1,5", "0.0001", "1e3", "1.5m", "lots", "1000001", "99999999999999999999", "99999999999999999999m",
		" 1", "1 ", "0x10", "١", "NaN", "inf", "1.9999999999999999999",
	} {
		if got, err := vortex.ParseCPU(text); !vortex.IsKind(err, vortex.Invalid) {
			t.Errorf("ParseCPU(%q) = %d, %v; want an Invalid error", text, got, err)
		}
	}
}

func TestParseMemory(t *testing.T) {
	for text, want := range map[string]uint64{
		"256Mi": 256 << 20, "1Gi": 1 << 30, "512M": 512e6, "1k": 1000, "1K": 1000, "1Ki": 1024, "1.5Gi": 3 << 29, "0.5Ki": 512,
		"1073741824": 1 << 30, "0": 0, "1Ti": 1 << 40, "2T": 2e12, "0.1Ki": 103, "8Pi": 1 << 53, "0.000000000000000001Pi": 1,
	} {
		if got, err := vortex.ParseMemory(text); err != nil || got != want {
			t.Errorf("ParseMemory(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
	for text, hint := range map[string]string{
		"": "", "Mi": "", "-1Mi": "", "512m": `"512Mi"`, "512MB": `"512Mi"`, "1gb": `"1Gi"`, "64b": `"64"`, "1 Gi": `"1Gi"`, "big": "", "9Pi": "8 PiB",
		"99999999999999999999Gi": "8 PiB", "1.0000000000000000001Gi": "", "1e6": "",
	} {
		got, err := vortex.ParseMemory(text)
		if !vortex.IsKind(err, vortex.Invalid) || !strings.Contains(err.Error(), hint) {
			t.Errorf("ParseMemory(%q) = %d, %v; want an Invalid error with %s", text, got, err, hint)
		}
	}
}

func TestFormatReadsBack(t *testing.T) {
	for _, n := range []uint64{0, 1, 999, 1000, 1024, 1536, 64 << 20, 3 << 29, 1 << 40, 5 << 40, vortex.MaxMemoryBytes} {
		if got, err := vortex.ParseMemory(vortex.FormatMemory(n)); err != nil || got != n {
			t.Errorf("FormatMemory(%d) = %q reads back as %d, %v", n, vortex.FormatMemory(n), got, err)
		}
	}
	for _, n := range []uint64{0, 1, 500, 1000, 1500, 64000} {
		if got, err := vortex.ParseCPU(vortex.FormatCPU(n)); err != nil || got != n {
			t.Errorf("FormatCPU(%d) = %q reads back as %d, %v", n, vortex.FormatCPU(n), got, err)
		}
	}
	if got := vortex.FormatMemory(256 << 20); got != "256Mi" {
		t.Errorf("FormatMemory(256 MiB) = %q", got)
	}
}

func FuzzQuantities(f *testing.F) {
	for _, seed := range []string{"500m", "0.5", "1.5Gi", "512MB", "", "m", "18446744073709551615", "0.000000000000000001Pi"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if n, err := vortex.ParseCPU(text); err == nil && n > vortex.MaxCPUMillis {
			t.Errorf("ParseCPU(%q) = %d", text, n)
		}
		n, err := vortex.ParseMemory(text)
		if err != nil {
			return
		}
		if back, err := vortex.ParseMemory(vortex.FormatMemory(n)); err != nil || back != n || n > math.MaxInt64 {
			t.Errorf("ParseMemory(%q) = %d, which reads back as %d, %v", text, n, back, err)
		}
	})
}
