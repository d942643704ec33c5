package e2e

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"

	"vortex/test/harness"
)

// follow runs a command that goes on, and returns its lines and what interrupts it as Ctrl-C does and tells its exit code.
func follow(t *testing.T, v *harness.Vortex, args ...string) (lines <-chan string, interrupt func() int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, v.Bin, args...)
	cmd.Env = append(os.Environ(), "VORTEX_SERVER="+v.Run.API, "VORTEX_TOKEN="+v.Run.Token, "NO_COLOR=1")
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var errs strings.Builder
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	out := make(chan string, 1)
	go func() {
		defer close(out)
		for scanner := bufio.NewScanner(pipe); scanner.Scan(); {
			select {
			case out <- scanner.Text():
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, func() int {
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Error(err)
		}
		for range out { // what is under way
		}
		_ = cmd.Wait()
		if text := errs.String(); strings.Contains(text, "goroutine") || strings.Contains(text, "error") {
			t.Errorf("vortex %s, interrupted: %s", strings.Join(args, " "), text)
		}
		return cmd.ProcessState.ExitCode()
	}
}

// TestFollowedLogsGoOnWithTheReplacement holds that -n counts the lines of all instances, dead ones included, and that
// what comes after is of the living ones, those that start later too.
func TestFollowedLogsGoOnWithTheReplacement(t *testing.T) {
	v := startProbe(t)
	apply(t, v, probeSpec("web", "v1", tcpCheck))
	replace := func() (before, after string) {
		before = running(t, v, "web")[0].ID
		eventually(t, "it writes", func() bool { return strings.Contains(run(t, v, "logs", "web", "-n", "1"), "of "+before) })
		if err := killProcess(t, v, before); err != nil {
			t.Fatal(err)
		}
		eventually(t, "a replacement writes", func() bool {
			line := run(t, v, "logs", "web", "-n", "1")
			return !strings.Contains(line, before)
		})
		return before, running(t, v, "web")[0].ID
	}
	dead, _ := replace()
	lines, interrupt := follow(t, v, "logs", "-f", "-n", "2", "web")
	first := <-lines
	_, last := replace()
	for line := range lines {
		if strings.HasPrefix(line, dead+" ") {
			t.Fatalf("after %q came %q, of an instance that was dead before", first, line)
		}
		if strings.HasPrefix(line, last+" tick 3 ") {
			break
		}
	}
	if code := interrupt(); code != 130 {
		t.Errorf("logs -f ends with %d", code)
	}
	if all := strings.Count(run(t, v, "logs", "web", "-n", "0"), "\n"); all < 6 {
		t.Errorf("-n 0 prints %d lines; want all", all)
	}
	if recent := run(t, v, "logs", "web", "-n", "0", "--since", "1ms"); strings.Contains(recent, dead) {
		t.Errorf("--since prints old lines:\n%s", recent)
	}
}

// TestInterruptedWatchEndsQuietly holds it for every command that goes on.
func TestInterruptedWatchEndsQuietly(t *testing.T) {
	v := startProbe(t)
	apply(t, v, probeSpec("web", "v1", tcpCheck))
	for _, args := range [][]string{{"ps", "-w"}, {"apps", "-w"}, {"events", "-w"}, {"nodes", "-w"}, {"status", "web", "-w"}} {
		lines, interrupt := follow(t, v, args...)
		if _, ok := <-lines; !ok {
			t.Errorf("%v prints nothing", args)
		}
		if code := interrupt(); code != 0 && code != 130 {
			t.Errorf("%v: exit %d", args, code)
		}
	}
}
