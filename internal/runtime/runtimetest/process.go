package runtimetest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-cmp/cmp"

	"vortex"
	"vortex/internal/runtime"
)

func testExitCodes(b *bench) {
	t := b.T
	for _, code := range []int{0, 1, 42, 255} {
		s, _ := b.run(t, b.spec(t, strconv.Itoa(code), "exit", strconv.Itoa(code)))
		if s.ExitCode != code || s.OOMKilled {
			t.Errorf("exit code %d (OOM %v), want %d", s.ExitCode, s.OOMKilled, code)
		}
		if s.FinishedAt.Before(s.StartedAt) {
			t.Errorf("finished at %v before it started at %v", s.FinishedAt, s.StartedAt)
		}
	}
}

// testFailedStart asks for a program that is not there: an error that names it, and nothing left.
func testFailedStart(b *bench) {
	t := b.T
	spec := b.spec(t, "", "sleep")
	spec.Command = []string{"/no/such/program"}
	seen := b.watch(t)
	s, err := b.d.Start(t.Context(), spec)
	if err == nil {
		b.ids = append(b.ids, spec.ID)
		t.Fatalf("Start of a missing program returned %+v", s)
	}
	if !strings.Contains(err.Error(), "/no/such/program") {
		t.Errorf("error %q does not name the program", err)
	}
	if s, ok := b.status(t, spec.ID); ok {
		t.Errorf("a failed start is listed: %+v", s)
	}
	b.start(t, b.spec(t, "", "sleep")) // the id is free
	select {
	case s := <-seen.c:
		t.Errorf("a failed start was yielded by Watch: %+v", s)
	default:
	}
}

func testStopGrace(b *bench) {
	t := b.T
	spec := b.spec(t, "", "term", "9")
	b.start(t, spec)
	b.printed(t, spec.ID, "ready")
	if err := b.d.Stop(t.Context(), spec.ID, patience); err != nil {
		t.Fatalf("Stop: %v", err)
	}
	if s, _ := b.status(t, spec.ID); s.ExitCode != 9 {
		t.Errorf("exit code %d, want the 9 the program chose on SIGTERM", s.ExitCode)
	}
}

func testStopStubborn(b *bench) {
	t := b.T
	spec := b.spec(t, "", "stubborn")
	b.start(t, spec)
	b.printed(t, spec.ID, "ready")
	const grace = 300 * time.Millisecond
	begin := time.Now()
	if err := b.d.Stop(t.Context(), spec.ID, grace); err != nil {
		t.Fatalf("Stop: %v", err)
	}
	if took := time.Since(begin); took < grace {
		t.Errorf("killed after %v, before the grace of %v", took, grace)
	}
	if s, _ := b.status(t, spec.ID); s.State != runtime.Exited || s.ExitCode != 137 {
		t.Errorf("%+v, want exited with 137", s)
	}
}

func testEnvironment(b *bench) {
	t := b.T
	spec := b.spec(t, "env", "env")
	spec.Env = []string{"GREETING=hello = world", "EMPTY=", "TWICE=1", "TWICE=2"}
	_, env := b.run(t, spec)
	for _, want := range []string{"GREETING=hello = world", "EMPTY=", "TWICE=2"} {
		if !slices.Contains(env, want) {
			t.Errorf("environment lacks %q: %q", want, env)
		}
	}
	if slices.Contains(env, "TWICE=1") {
		t.Errorf("the earlier value of TWICE is there: %q", env)
	}
	args := []string{"one", "two words", "", "$HOME", "--flag=\"x\""}
	_, got := b.run(t, b.spec(t, "args", append([]string{"args"}, args...)...))
	if diff := cmp.Diff(args, got); diff != "" {
		t.Errorf("arguments (-want +got):\n%s", diff)
	}
	spec = b.spec(t, "cwd", "cwd")
	spec.WorkingDir = "/tmp"
	if _, got := b.run(t, spec); !cmp.Equal(got, []string{"/tmp"}) {
		t.Errorf("working directory %q, want /tmp", got)
	}
}

// testOwnAddress holds that an instance that asks for its address and port gets those of its status, or is refused.
func testOwnAddress(b *bench) {
	t := b.T
	spec := b.spec(t, "own", "env")
	spec.Port, spec.Env, spec.PortEnv = 8080, []string{"AT=8080"}, []string{"AT"}
	status, env := b.run(t, spec)
	if want := fmt.Sprintf("AT=%d", status.Port); !slices.Contains(env, want) {
		t.Errorf("environment lacks %q: %q", want, env)
	}
	spec = b.spec(t, "address", "env")
	spec.Port, spec.AddressEnv = 8080, []string{"SELF"}
	if _, err := b.d.Start(t.Context(), spec); err != nil {
		wantKind(t, "Start that cannot know the address", err, vortex.Invalid)
		return
	}
	b.mu.Lock()
	b.ids = append(b.ids, spec.ID)
	b.mu.Unlock()
	status = b.exited(t, spec.ID)
	if env := b.stdout(t, spec.ID); status.Address == "" || !slices.Contains(env, "SELF="+status.Address) {
		t.Errorf("address %q, environment %q", status.Address, env)
	}
}

func testUser(b *bench) {
	t := b.T
	spec := b.spec(t, "num", "id")
	spec.User = "1234:2345"
	if _, got := b.run(t, spec); len(got) != 1 || !strings.HasPrefix(got[0], "1234 2345 ") {
		t.Errorf("id printed %q, want 1234 2345", got)
	}
	spec = b.spec(t, "name", "id") // the image's /etc/passwd has app:x:1000:1000 and /etc/group extra:x:3000:app
	spec.User = "app"
	if _, got := b.run(t, spec); len(got) != 1 || !strings.HasPrefix(got[0], "1000 1000 ") || !strings.Contains(got[0], "3000") {
		t.Errorf("id printed %q, want 1000 1000 with group 3000", got)
	}
	spec = b.spec(t, "nobody", "id")
	spec.User = "no-such-user"
	if _, err := b.d.Start(t.Context(), spec); err == nil || !strings.Contains(err.Error(), "no-such-user") {
		t.Errorf("Start as an unknown user: %v, want an error that names it", err)
	}
}

func testHostname(b *bench) {
	t := b.T
	spec := b.spec(t, "", "host")
	spec.Hostname = "web-1"
	if _, got := b.run(t, spec); !cmp.Equal(got, []string{"web-1"}) {
		t.Errorf("hostname %q, want web-1", got)
	}
	spec = b.spec(t, "d", "host")
	if _, got := b.run(t, spec); !cmp.Equal(got, []string{spec.ID}) {
		t.Errorf("hostname %q, want the id %s", got, spec.ID)
	}
}

func testMemoryLimit(b *bench) {
	t := b.T
	spec := b.spec(t, "", "eat", strconv.Itoa(200<<20))
	spec.MemoryBytes = 48 << 20
	s, out := b.run(t, spec)
	if !s.OOMKilled || s.ExitCode != 137 {
		t.Errorf("%+v printed %q, want OOM killed with 137", s, out)
	}
	ok := b.spec(t, "ok", "eat", strconv.Itoa(8<<20))
	ok.MemoryBytes = 64 << 20
	b.start(t, ok)
	b.printed(t, ok.ID, "ate")
}

func testPidsLimit(b *bench) {
	t := b.T
	spec := b.spec(t, "", "fork", "100")
	spec.PidsLimit = 40
	b.start(t, spec)
	var n int
	line := b.printed(t, spec.ID, "forked")
	if _, err := fmt.Sscanf(line, "forked %d", &n); err != nil || n >= 40 {
		t.Errorf("%q with a limit of 40 tasks", line)
	}
}

func testMounts(b *bench) {
	t := b.T
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	spec := b.spec(t, "rw", "write", "/data/deep/file")
	spec.Mounts = []runtime.Mount{{Source: dir, Target: "/data/deep"}}
	if _, out := b.run(t, spec); !cmp.Equal(out, []string{"written"}) {
		t.Errorf("write printed %q", out)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(got) != "probe\n" {
		t.Errorf("the node sees %q, %v", got, err)
	}
	spec = b.spec(t, "ro", "write", "/data/other")
	spec.Mounts = []runtime.Mount{{Source: dir, Target: "/data", ReadOnly: true}}
	if _, out := b.run(t, spec); len(out) != 1 || !strings.Contains(out[0], "read-only") {
		t.Errorf("write to a read-only mount printed %q", out)
	}
}

func testServing(b *bench) {
	t := b.T
	spec := b.spec(t, "", "serve")
	spec.Port = 8080
	s := b.start(t, spec)
	if s.Address == "" || s.Port == 0 {
		t.Fatalf("%+v has no address", s)
	}
	url := "http://" + net.JoinHostPort(s.Address, strconv.Itoa(int(s.Port)))
	eventually(t, url+" to answer", func() bool {
		resp, err := http.Get(url) //nolint:noctx // a test's probe
		if err != nil {
			return false
		}
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		return err == nil && string(body) == "hello"
	})
}

func testStats(b *bench) {
	t := b.T
	st, ok := b.d.(runtime.Statter)
	if !ok {
		t.Skip("the driver does not measure")
	}
	spec := b.spec(t, "", "eat", strconv.Itoa(20<<20))
	b.start(t, spec)
	b.printed(t, spec.ID, "ate")
	got, err := st.Stats(t.Context(), spec.ID)
	if err != nil {
		t.Fatalf("Stats: %v", err)
	}
	if got.CPU <= 0 || got.MemoryBytes < 10<<20 || got.Pids < 1 || got.At.IsZero() {
		t.Errorf("Stats %+v of an instance that touched 20 MiB", got)
	}
}

func terminate(pid int) error { return syscall.Kill(pid, syscall.SIGTERM) }

func alive(pid int) bool { return !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }
