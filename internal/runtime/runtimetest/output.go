package runtimetest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/go-cmp/cmp"

	"vortex"
	"vortex/internal/runtime"
)

func linesOf(entries []runtime.LogEntry, stream runtime.Stream) []string {
	var out []string
	for _, e := range entries {
		if e.Stream == stream {
			out = append(out, e.Line)
		}
	}
	return out
}

func testLogsBothStreams(b *bench) {
	t := b.T
	spec := b.spec(t, "", "print", "3")
	b.start(t, spec)
	b.printed(t, spec.ID, "err 2")
	b.printed(t, spec.ID, "ready")
	got := b.logs(t, spec.ID, runtime.LogOptions{})
	if diff := cmp.Diff([]string{"out 0", "out 1", "out 2", "ready"}, linesOf(got, runtime.Stdout)); diff != "" {
		t.Errorf("stdout (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"err 0", "err 1", "err 2"}, linesOf(got, runtime.Stderr)); diff != "" {
		t.Errorf("stderr (-want +got):\n%s", diff)
	}
	for _, e := range got {
		if d := time.Since(e.Time); d < -time.Minute || d > time.Hour {
			t.Errorf("entry %+v has no sensible time", e)
		}
	}
}

func testLogsTailSince(b *bench) {
	t := b.T
	spec := b.spec(t, "", "flood", "50")
	b.run(t, spec)
	all := b.logs(t, spec.ID, runtime.LogOptions{})
	if len(all) != 50 {
		t.Fatalf("%d entries, want 50", len(all))
	}
	for _, n := range []int{1, 7, 50, 1000} {
		want := all[max(0, len(all)-n):]
		if diff := cmp.Diff(want, b.logs(t, spec.ID, runtime.LogOptions{Tail: n})); diff != "" {
			t.Errorf("Tail %d (-want +got):\n%s", n, diff)
		}
	}
	if got := b.logs(t, spec.ID, runtime.LogOptions{Since: all[0].Time}); len(got) != 50 {
		t.Errorf("Since the first entry gives %d entries, want 50", len(got))
	}
	if got := b.logs(t, spec.ID, runtime.LogOptions{Since: all[49].Time.Add(time.Second)}); len(got) != 0 {
		t.Errorf("Since after the last entry gives %d entries", len(got))
	}
}

func testLogsFollow(b *bench) {
	t := b.T
	spec := b.spec(t, "", "tick")
	b.start(t, spec)
	seq, err := b.d.Logs(t.Context(), spec.ID, runtime.LogOptions{Follow: true})
	if err != nil {
		t.Fatalf("Logs: %v", err)
	}
	n := 0
	for e, err := range seq {
		if err != nil {
			t.Fatalf("Logs: %v", err)
		}
		if want := fmt.Sprintf("tick %d", n); e.Line != want {
			t.Fatalf("entry %q, want %q", e.Line, want)
		}
		if n++; n == 5 {
			b.kill(t, spec.ID) // the reader must end by itself
		}
	}
	if n < 5 {
		t.Errorf("the reader ended after %d entries", n)
	}
}

func testLogsFollowContext(b *bench) {
	t := b.T
	spec := b.spec(t, "", "sleep")
	b.start(t, spec)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seq, err := b.d.Logs(ctx, spec.ID, runtime.LogOptions{Follow: true})
	if err != nil {
		t.Fatalf("Logs: %v", err)
	}
	for e, err := range seq {
		if err != nil {
			break
		}
		if e.Line == "ready" {
			cancel()
		}
	}
}

// testLogsLongLine writes one line of a megabyte without a line break: nothing of it may be lost.
func testLogsLongLine(b *bench) {
	t := b.T
	spec := b.spec(t, "", "long", "1000000")
	b.run(t, spec)
	total := 0
	for _, e := range b.logs(t, spec.ID, runtime.LogOptions{}) {
		total += strings.Count(e.Line, "x")
	}
	if total != 1_000_000 {
		t.Errorf("%d bytes of the line came back, want 1000000", total)
	}
}

// testLogsFlood writes more than a driver need keep: what is kept is the newest, whole and in order.
func testLogsFlood(b *bench) {
	t := b.T
	const n = 400_000 // 40 MB
	spec := b.spec(t, "", "flood", strconv.Itoa(n))
	if s, _ := b.run(t, spec); s.ExitCode != 0 {
		t.Fatalf("%+v: logging disturbed the instance", s)
	}
	next := -1
	for i, line := range b.stdout(t, spec.ID) {
		var at int
		if _, err := fmt.Sscanf(line, "line %d ", &at); err != nil || len(line) != 99 {
			t.Fatalf("entry %d is torn: %q", i, line)
		}
		if next >= 0 && at != next {
			t.Fatalf("line %d follows line %d", at, next-1)
		}
		next = at + 1
	}
	if next != n {
		t.Errorf("the last line kept is %d, want %d", next-1, n-1)
	}
}

// testOrphan ends the first process while another still holds its output open.
func testOrphan(b *bench) {
	t := b.T
	spec := b.spec(t, "", "orphan")
	s, out := b.run(t, spec)
	if s.ExitCode != 0 || len(out) == 0 || !strings.HasPrefix(out[0], "left ") {
		t.Fatalf("%+v printed %q", s, out)
	}
}

func testExec(b *bench) {
	t := b.T
	spec := b.spec(t, "", "sleep")
	spec.Env = []string{"FROM=instance"}
	b.start(t, spec)
	b.printed(t, spec.ID, "ready")
	for _, code := range []int{0, 3, 200} {
		got, err := b.d.Exec(t.Context(), spec.ID, runtime.ExecSpec{Command: []string{b.Probe, "exit", strconv.Itoa(code)}})
		if err != nil || got != code {
			t.Errorf("exit %d: got %d, %v", code, got, err)
		}
	}
	var out bytes.Buffer
	code, err := b.d.Exec(t.Context(), spec.ID, runtime.ExecSpec{
		Command: []string{b.Probe, "cat"}, Stdin: strings.NewReader(strings.Repeat("line\n", 50_000)), Stdout: &out,
	})
	if err != nil || code != 0 || out.Len() != 250_000 {
		t.Errorf("cat: code %d, %v, %d bytes; want 0, nil, 250000", code, err, out.Len())
	}
	testExecOutput(b, spec.ID)
	if err := b.d.Stop(t.Context(), spec.ID, patience); err != nil {
		t.Fatalf("Stop: %v", err)
	}
	_, err = b.d.Exec(t.Context(), spec.ID, runtime.ExecSpec{Command: []string{b.Probe, "exit", "0"}})
	wantKind(t, "Exec in an exited instance", err, vortex.Precondition)
}

// testExecOutput looks at what a command sees and says.
func testExecOutput(b *bench, id string) {
	t := b.T
	var out, errOut bytes.Buffer
	_, err := b.d.Exec(t.Context(), id, runtime.ExecSpec{Command: []string{b.Probe, "env"}, Env: []string{"EXTRA=1"}, Stdout: &out})
	env := strings.Split(out.String(), "\n")
	if err != nil || !slices.Contains(env, "FROM=instance") || !slices.Contains(env, "EXTRA=1") {
		t.Errorf("env: %v, %q; want the instance's and the exec's own", err, env)
	}
	code, err := b.d.Exec(t.Context(), id, runtime.ExecSpec{Command: []string{b.Probe, "nonsense"}, Stderr: &errOut})
	if err != nil || code != 2 || !strings.Contains(errOut.String(), "unknown mode") {
		t.Errorf("stderr: code %d, %v, %q", code, err, errOut.String())
	}
	code, err = b.d.Exec(t.Context(), id, runtime.ExecSpec{Command: []string{"/no/such/program"}})
	if err == nil && code != 126 && code != 127 {
		t.Errorf("a missing program: code %d and no error", code)
	}
}

func testExecTTY(b *bench) {
	t := b.T
	spec := b.spec(t, "", "sleep")
	b.start(t, spec)
	resize := make(chan runtime.WindowSize, 1)
	resize <- runtime.WindowSize{Rows: 31, Cols: 97}
	out := &lockedBuffer{}
	type result struct {
		code int
		err  error
	}
	done := make(chan result, 1)
	go func() {
		code, err := b.d.Exec(t.Context(), spec.ID, runtime.ExecSpec{
			Command: []string{b.Probe, "tty", "resize"}, TTY: true, Stdout: out, Resize: resize,
		})
		done <- result{code, err}
	}()
	eventually(t, "the terminal's size", func() bool { return strings.Contains(out.String(), "tty 31 97\r\n") })
	resize <- runtime.WindowSize{Rows: 50, Cols: 120}
	select {
	case r := <-done:
		if r.err != nil || r.code != 0 || !strings.Contains(out.String(), "tty 50 120\r\n") {
			t.Errorf("code %d, %v, printed %q; want the new size", r.code, r.err, out.String())
		}
	case <-time.After(patience):
		t.Fatal("Exec did not return")
	}
}

// testExecContext ends the context of a command that never ends by itself.
func testExecContext(b *bench) {
	t := b.T
	spec := b.spec(t, "", "sleep")
	b.start(t, spec)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := &lockedBuffer{}
	done := make(chan error, 1)
	go func() {
		_, err := b.d.Exec(ctx, spec.ID, runtime.ExecSpec{Command: []string{b.Probe, "stubborn"}, Stdout: out})
		done <- err
	}()
	eventually(t, "the command to run", func() bool { return strings.Contains(out.String(), "ready") })
	cancel()
	select {
	case err := <-done:
		if err == nil {
			t.Error("Exec returned no error although its context ended")
		}
	case <-time.After(patience):
		t.Fatal("Exec did not return with its context")
	}
}

// lockedBuffer is a bytes.Buffer for a writer and a reader at once.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
