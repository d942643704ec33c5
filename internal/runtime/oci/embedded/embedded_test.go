package embedded_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vortex/internal/runtime/oci/embedded"
)

func TestUnpack(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "bin")
	shim, runner, err := embedded.Unpack(dir)
	if !embedded.Present() {
		if err == nil || !strings.Contains(err.Error(), "make build") {
			t.Errorf("without helpers: %v, want what to do", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{shim, runner} {
		fi, err := os.Stat(p)
		if err != nil || fi.Mode().Perm() != 0o700 || fi.Size() == 0 {
			t.Errorf("%s: %v, %v", p, fi, err)
		}
	}
	if err := os.Truncate(shim, 10); err != nil { // as a crash while unpacking could leave it
		t.Fatal(err)
	}
	again, _, err := embedded.Unpack(dir)
	if err != nil || again != shim {
		t.Fatalf("second Unpack: %s, %v; want %s", again, err, shim)
	}
	if fi, err := os.Stat(shim); err != nil || fi.Size() == 10 {
		t.Error("a torn helper was not written again")
	}
	left, _ := filepath.Glob(filepath.Join(dir, ".*"))
	if len(left) > 0 {
		t.Errorf("left over: %q", left)
	}
}

func TestUnpackPulse(t *testing.T) {
	pulse, err := embedded.UnpackPulse(filepath.Join(t.TempDir(), "bin"))
	switch {
	case err != nil && !strings.Contains(err.Error(), "make build"):
		t.Errorf("without the program: %v, want what to do", err)
	case err == nil:
		if fi, err := os.Stat(pulse); err != nil || fi.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", pulse, fi, err)
		}
	}
}
