package oci_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"vortex"
	"vortex/internal/runtime"
	"vortex/internal/runtime/oci"
)

const patience = time.Minute

// agentProcess is the driver in a process of its own, for tests that kill it. It starts what VORTEX_TEST_START lists, as
// id=mode pairs, all at once, says so, and then does nothing.
func agentProcess(dir string) int {
	built.shim, built.runner, built.image = os.Getenv("VORTEX_TEST_SHIM"), os.Getenv("VORTEX_TEST_RUNNER"), os.Getenv("VORTEX_TEST_IMAGE")
	cgroupParent = os.Getenv("VORTEX_TEST_CGROUP")
	d, err := oci.Open(context.Background(), config(dir, nil))
	if err != nil {
		fmt.Println("failed:", err)
		return 1
	}
	fmt.Println("open")
	var wg sync.WaitGroup
	for pair := range strings.SplitSeq(os.Getenv("VORTEX_TEST_START"), ",") {
		id, mode, _ := strings.Cut(pair, "=")
		wg.Go(func() {
			s, err := d.Start(context.Background(), runtime.InstanceSpec{ID: id, Image: "probe", Args: strings.Fields(mode)})
			fmt.Println("started", id, s.PID, err)
		})
	}
	wg.Wait()
	fmt.Println("done")
	select {}
}

// agent is a running agentProcess.
type agent struct {
	cmd   *exec.Cmd
	lines *bufio.Scanner
}

func startAgent(t *testing.T, dir, start string) *agent {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), "VORTEX_TEST_AGENT="+dir, "VORTEX_TEST_START="+start, "VORTEX_TEST_SHIM="+built.shim,
		"VORTEX_TEST_RUNNER="+built.runner, "VORTEX_TEST_IMAGE="+built.image, "VORTEX_TEST_CGROUP="+cgroupParent)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	a := &agent{cmd, bufio.NewScanner(out)}
	t.Cleanup(a.kill)
	return a
}

// until reads the agent's output up to a line.
func (a *agent) until(t *testing.T, want string) {
	t.Helper()
	for a.lines.Scan() {
		if a.lines.Text() == want {
			return
		}
		if strings.HasPrefix(a.lines.Text(), "failed") || strings.HasPrefix(a.lines.Text(), "started") && !strings.HasSuffix(a.lines.Text(), "<nil>") {
			t.Errorf("agent: %s", a.lines.Text())
		}
	}
	t.Fatalf("the agent ended before it said %q", want)
}

func (a *agent) kill() {
	_ = a.cmd.Process.Kill()
	_ = a.cmd.Wait()
}

// removeAll removes every instance and checks that nothing is left in the kernel.
func removeAll(t *testing.T, d *oci.Driver) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	all, err := d.List(ctx)
	if err != nil {
		t.Errorf("List: %v", err)
	}
	for _, s := range all {
		if err := d.Remove(ctx, s.ID); err != nil {
			t.Errorf("Remove(%s): %v", s.ID, err)
		}
	}
	if err := d.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	var left []string
	wait(func() bool { left = leaks(t); return len(left) == 0 })
	for _, l := range left {
		t.Errorf("leaked: %s", l)
	}
}

func wait(ok func() bool) bool {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-tick.C {
		if ok() {
			return true
		}
	}
	return false
}

func find(t *testing.T, d *oci.Driver, id string) runtime.Status {
	t.Helper()
	all, err := d.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		if s.ID == id {
			return s
		}
	}
	return runtime.Status{}
}

func output(t *testing.T, d *oci.Driver, id string) []string {
	t.Helper()
	seq, err := d.Logs(t.Context(), id, runtime.LogOptions{})
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
	return lines
}

func next(t *testing.T, d *oci.Driver) runtime.Status {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for s := range d.Watch(ctx) {
		return s
	}
	t.Fatal("Watch yielded nothing")
	return runtime.Status{}
}

// TestAgentKilled kills the agent with its containers running: they go on, and the next agent has everything.
func TestAgentKilled(t *testing.T) {
	dir := t.TempDir()
	a := startAgent(t, dir, "ticks=tick,ends=term 6,lives=sleep")
	a.until(t, "done")
	a.kill()
	d := open(t, dir, nil)
	defer removeAll(t, d)
	for _, id := range []string{"ticks", "ends", "lives"} {
		if s := find(t, d, id); s.State != runtime.Running || s.PID <= 0 {
			t.Fatalf("%s is %+v after the agent was killed, want running", id, s)
		}
	}
	if !wait(func() bool { return len(output(t, d, "ends")) > 0 }) {
		t.Fatal("no output")
	}
	n := len(output(t, d, "ticks"))
	if !wait(func() bool { return len(output(t, d, "ticks")) > n }) {
		t.Error("output stopped with the agent")
	}
	for i, line := range output(t, d, "ticks") {
		if line != fmt.Sprintf("tick %d", i) {
			t.Fatalf("line %d is %q: output was lost", i, line)
		}
	}
	if code, err := d.Exec(t.Context(), "lives", runtime.ExecSpec{Command: []string{"/probe", "exit", "4"}}); err != nil || code != 4 {
		t.Errorf("Exec in an adopted container: %d, %v", code, err)
	}
	if err := d.Stop(t.Context(), "ends", patience); err != nil {
		t.Fatal(err)
	}
	if s := next(t, d); s.ID != "ends" || s.ExitCode != 6 {
		t.Errorf("Watch yielded %+v, want ends with 6", s)
	}
}

// TestAgentKilledWhileStarting kills the agent at random moments of many starts. Whatever it had not reported is either gone or
// running properly, and nothing is left in the kernel.
func TestAgentKilledWhileStarting(t *testing.T) {
	rounds := 6
	if testing.Short() {
		rounds = 2
	}
	for round := range rounds {
		dir := t.TempDir()
		a := startAgent(t, dir, "a=sleep,b=sleep,c=sleep,d=sleep")
		a.until(t, "open")
		timer := time.NewTimer(time.Duration(rand.IntN(20)) * time.Millisecond)
		<-timer.C
		a.kill()
		d := open(t, dir, nil)
		all, err := d.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("round %d: %d of 4 survived", round, len(all))
		for _, s := range all {
			if s.State != runtime.Running {
				t.Errorf("%+v, want running", s)
				continue
			}
			code, err := d.Exec(t.Context(), s.ID, runtime.ExecSpec{Command: []string{"/probe", "exit", "0"}})
			if err != nil || code != 0 {
				t.Errorf("Exec in %s: %d, %v", s.ID, code, err)
			}
		}
		for _, id := range []string{"a", "b", "c", "d"} { // every id can be used or is in use
			_, err := d.Start(t.Context(), runtime.InstanceSpec{ID: id, Image: "probe"})
			if err != nil && !vortex.IsKind(err, vortex.Exists) {
				t.Errorf("Start(%s): %v", id, err)
			}
		}
		removeAll(t, d)
	}
}

// shimOf returns the pid of the shim of an instance: the parent of its first process.
func shimOf(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "PPid:\t")
	line, _, _ := strings.Cut(rest, "\n")
	shim, err := strconv.Atoi(line)
	if err != nil {
		t.Fatal(err)
	}
	return shim
}

func TestShimKilled(t *testing.T) {
	d := open(t, t.TempDir(), nil)
	defer removeAll(t, d)
	s, err := d.Start(t.Context(), runtime.InstanceSpec{ID: "a", Image: "probe"})
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(shimOf(t, s.PID), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	got := next(t, d)
	if got.State != runtime.Exited || got.ExitCode != -1 || got.Reason == "" {
		t.Errorf("%+v, want exited with -1 and a reason", got)
	}
	if !wait(func() bool { return syscall.Kill(s.PID, 0) != nil }) {
		t.Error("the container outlived its shim and nobody reads its output")
	}
}

// TestShimCost holds what stays beside each container to its promise.
func TestShimCost(t *testing.T) {
	d := open(t, t.TempDir(), nil)
	defer removeAll(t, d)
	s, err := d.Start(t.Context(), runtime.InstanceSpec{ID: "a", Image: "probe", Args: []string{"print", "20000"}})
	if err != nil {
		t.Fatal(err)
	}
	if !wait(func() bool { return len(output(t, d, "a")) == 40001 }) {
		t.Fatal("no output")
	}
	shim := shimOf(t, s.PID)
	rss, pss := memory(t, shim, "Rss:"), memory(t, shim, "Pss:")
	t.Logf("shim after 40,000 lines: RSS %d kB, PSS %d kB", rss, pss)
	if const4MB := 4000; rss > const4MB {
		t.Errorf("the shim takes %d kB, want under %d", rss, const4MB)
	}
}

func memory(t *testing.T, pid int, key string) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == key {
			n, _ := strconv.Atoi(f[1])
			return n
		}
	}
	return 0
}

// TestDiskFull fills the disk with a container's own output: the container is not disturbed and its exit is known.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=3m"); err != nil {
		t.Skip("no tmpfs:", err)
	}
	defer syscall.Unmount(dir, syscall.MNT_DETACH)
	cfg := config(dir, nil)
	cfg.LogBytes = 100 << 20
	d, err := oci.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer removeAll(t, d)
	if _, err := d.Start(t.Context(), runtime.InstanceSpec{ID: "a", Image: "probe", Args: []string{"flood", "300000"}}); err != nil {
		t.Fatal(err)
	}
	if s := next(t, d); s.ExitCode != 0 {
		t.Errorf("%+v, want exit code 0", s)
	}
	lines := output(t, d, "a")
	if len(lines) == 0 || len(lines) == 300_000 {
		t.Fatalf("%d lines were kept on a disk of 3 MiB", len(lines))
	}
	last, noted := -1, false
	for i, l := range lines {
		if strings.Contains(l, "bytes of output were dropped") {
			noted = true
			continue
		}
		var n int
		if _, err := fmt.Sscanf(l, "line %d ", &n); err != nil || n != last+1 && !noted || n <= last || len(l) != 99 {
			t.Fatalf("entry %d after line %d is %q", i, last, l)
		}
		last = n
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if d, err = oci.Open(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if s := find(t, d, "a"); s.State != runtime.Exited || s.ExitCode != 0 {
		t.Errorf("after a restart: %+v, want exit code 0", s)
	}
}

// TestStartCancelled ends the context at random moments of a start.
func TestStartCancelled(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir, nil)
	defer removeAll(t, d)
	failed := 0
	for i := range 12 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.IntN(60))*time.Millisecond)
		id := fmt.Sprintf("c%d", i)
		_, err := d.Start(ctx, runtime.InstanceSpec{ID: id, Image: "probe"})
		cancel()
		if err == nil {
			continue
		}
		failed++
		if s := find(t, d, id); s.ID != "" {
			t.Errorf("a cancelled start is listed: %+v", s)
		}
		if _, err := os.Stat(filepath.Join(dir, "instances", id)); !os.IsNotExist(err) {
			t.Errorf("a cancelled start left its directory: %v", err)
		}
	}
	t.Logf("%d of 12 starts were cut short", failed)
}
