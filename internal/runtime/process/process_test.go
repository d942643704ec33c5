package process_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"vortex"
	"vortex/internal/runtime"
	"vortex/internal/runtime/process"
	"vortex/internal/runtime/runtimetest"
)

var shimPath, probePath string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	if dir := os.Getenv("VORTEX_TEST_BUILT"); dir != "" {
		shimPath, probePath = filepath.Join(dir, "shim"), filepath.Join(dir, "probe")
		return m.Run()
	}
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

// TestPorts gives instances of one app a port each, tells them in PORT, and keeps them apart after a restart.
func TestPorts(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	seen := map[uint16]bool{}
	for i := range 10 {
		if i == 5 {
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			d = open(t, dir)
		}
		s, err := d.Start(t.Context(), runtime.InstanceSpec{ID: fmt.Sprintf("p%d", i), Command: []string{probePath, "sleep"}, Port: 8080})
		if err != nil {
			t.Fatal(err)
		}
		if s.Address != "127.0.0.1" || s.Port == 0 || seen[s.Port] {
			t.Errorf("instance %d is at %s:%d", i, s.Address, s.Port)
		}
		seen[s.Port] = true
		var out strings.Builder
		if _, err := d.Exec(t.Context(), s.ID, runtime.ExecSpec{Command: []string{probePath, "env"}, Stdout: &out}); err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("PORT=%d\n", s.Port); !strings.Contains(out.String(), want) {
			t.Errorf("environment %q lacks %q", out.String(), want)
		}
	}
	for i := range 10 {
		if err := d.Remove(t.Context(), fmt.Sprintf("p%d", i)); err != nil {
			t.Error(err)
		}
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// TestRefused holds that what a bare process cannot have is refused and not ignored.
func TestRefused(t *testing.T) {
	d := open(t, t.TempDir())
	defer d.Close()
	command := []string{probePath, "sleep"}
	for name, spec := range map[string]runtime.InstanceSpec{
		"an image alone":   {ID: "a", Image: "nginx"},
		"relative command": {ID: "a", Command: []string{"sh"}},
		"no program":       {ID: "a", Command: []string{"/no/such/program"}},
		"not executable":   {ID: "a", Command: []string{"/etc/passwd"}},
		"a volume":         {ID: "a", Command: command, Mounts: []runtime.Mount{{Source: "/tmp", Target: "/data"}}},
		"unknown user":     {ID: "a", Command: command, User: "no-such-user"},
	} {
		if _, err := d.Start(t.Context(), spec); !vortex.IsKind(err, vortex.Invalid) {
			t.Errorf("%s: %v, want Invalid", name, err)
		}
	}
}

// TestUser runs a program as another user when the agent may.
func TestUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can run programs as others")
	}
	dir, err := os.MkdirTemp("/tmp", "vortex-user-") //nolint:usetesting // the test's own directory is closed to that user
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	b, err := os.ReadFile(probePath)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(filepath.Join(dir, "probe"), b, 0o755)); err != nil {
		t.Fatal(err)
	}
	d := open(t, t.TempDir())
	defer d.Close()
	spec := runtime.InstanceSpec{ID: "a", Command: []string{filepath.Join(dir, "probe"), "id"}, User: "1234:2345"}
	if _, err := d.Start(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	defer d.Remove(context.WithoutCancel(t.Context()), "a")
	seq, err := d.Logs(t.Context(), "a", runtime.LogOptions{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for e, err := range seq {
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, e.Line)
	}
	if len(lines) != 1 || !strings.HasPrefix(lines[0], "1234 2345 ") {
		t.Errorf("id printed %q, want 1234 2345", lines)
	}
}

// TestWithoutRoot runs the whole suite again as a user with no rights.
func TestWithoutRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("this run is without root already")
	}
	dir, err := os.MkdirTemp("/tmp", "vortex-nobody-") //nolint:usetesting // the test's own directory is closed to nobody
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	for name, from := range map[string]string{"shim": shimPath, "probe": probePath, "test": os.Args[0]} {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	const nobody = 65534
	if err := errors.Join(os.Chmod(dir, 0o755), os.Mkdir(filepath.Join(dir, "tmp"), 0o700), os.Chown(filepath.Join(dir, "tmp"), nobody, nobody)); err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), filepath.Join(dir, "test"), "-test.run=TestDriver|TestPorts|TestRefused", "-test.v")
	c.Dir = dir
	c.Env = []string{"VORTEX_TEST_BUILT=" + dir, "TMPDIR=" + filepath.Join(dir, "tmp"), "PATH=/usr/bin:/bin"}
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	if out, err := c.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestDriver ") {
		t.Errorf("as nobody: %v\n%s", err, out)
	}
}
