package process_test

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"vortex/internal/runtime"
	"vortex/internal/runtime/process"
	"vortex/internal/runtime/runtimetest"
)

var shimPath, probePath string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "vortex-process-")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer os.RemoveAll(dir)
	shimPath = filepath.Join(dir, "shim")
	c := exec.Command("go", "build", "-o", shimPath, "-ldflags", "-s -w", "vortex/internal/runtime/shim/cmd")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		fmt.Println(err, string(out))
		return 1
	}
	if probePath, err = runtimetest.BuildProbe(dir); err != nil {
		fmt.Println(err)
		return 1
	}
	return m.Run()
}

func open(t *testing.T, dir string) *process.Driver {
	t.Helper()
	d, err := process.Open(t.Context(), process.Config{
		Root: dir, Shim: shimPath, Log: slog.New(slog.DiscardHandler), LogBytes: 4 << 20,
	})
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return d
}

func leaks(*testing.T) []string {
	var found []string
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		b, _ := os.ReadFile(p)
		if strings.HasPrefix(string(b), shimPath) || strings.HasPrefix(string(b), probePath) {
			found = append(found, "process "+p+" "+strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	return found
}

func TestDriver(t *testing.T) {
	const none = "a bare process has no isolation"
	runtimetest.Run(t, runtimetest.Harness{
		Open:  func(t *testing.T, dir string) runtime.Driver { t.Helper(); return open(t, dir) },
		Probe: probePath,
		Lacks: map[runtimetest.Feature]string{
			runtimetest.Users: "there is no image to name users", runtimetest.Hostnames: none, runtimetest.Memory: none,
			runtimetest.Pids: none, runtimetest.Mounts: none, runtimetest.Isolation: none,
		},
		Leaks: leaks,
	})
}
