package cluster

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
)

// traces lists what is to be seen on this machine of the networks of a process, or of one whose id is given.
func traces(t *testing.T, id string) (found []string) {
	t.Helper()
	for _, h := range hierarchies() {
		groups, _ := filepath.Glob(filepath.Join(h.path, id+"*"))
		found = append(found, groups...)
	}
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), id+"*"))
	found = append(found, dirs...)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, id) {
			found = append(found, "mount "+line)
		}
	}
	environs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range environs {
		if env, _ := os.ReadFile(path); strings.Contains(string(env), groupEnv+"="+id) {
			found = append(found, "process "+path)
		}
	}
	return found
}

func links(t *testing.T) (names []string) {
	t.Helper()
	list, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range list {
		if name := l.Attrs().Name; name == seatPort || name == bridge || name == "h1" {
			names = append(names, name)
		}
	}
	return names
}

func TestNothingStaysBehind(t *testing.T) {
	id, ticking := "", (*Process)(nil)
	t.Run("make", func(t *testing.T) {
		n := New(t, 2)
		id = n.id
		for _, h := range n.Hosts() {
			ticking = start(t, h, "box")
			start(t, h, "parent", "echo")
			ticks(t, ticking)
		}
		n.Cut(n.Host(1), n.Host(2))
		n.Host(1).Suspend()
		if len(traces(t, id)) == 0 {
			t.Error("the traces are not to be seen even while they are there")
		}
		if seen := links(t); len(seen) > 0 {
			t.Errorf("the machine sees the links %v", seen)
		}
	})
	if t.Skipped() || id == "" {
		return
	}
	if left := traces(t, id); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if !ticking.Ended() {
		t.Error("a process outlived the test")
	}
}

// waiterEnv makes TestWaitToBeKilled make hosts and wait.
const waiterEnv = "VORTEX_CLUSTER_WAITER"

func TestWaitToBeKilled(t *testing.T) {
	if os.Getenv(waiterEnv) == "" {
		t.Skip("it is run by TestKilledTestIsSweptUpBehind")
	}
	n := New(t, 2)
	ticks(t, start(t, n.Host(1), "parent", "box"))
	n.Host(2).Suspend()
	fmt.Println("waiting")
	_, _ = io.Copy(io.Discard, os.Stdin) // until who runs it is gone, should that be sooner
}

func TestKilledTestIsSweptUpBehind(t *testing.T) {
	t.Parallel()
	require(t)
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestWaitToBeKilled$", "-test.v")
	cmd.Env = append(os.Environ(), waiterEnv+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := ""
	for lines := bufio.NewScanner(out); !strings.Contains(said, "waiting") && lines.Scan(); {
		said += lines.Text() + "\n"
	}
	id := fmt.Sprintf("%s%d-", prefix, cmd.Process.Pid)
	if !strings.Contains(said, "waiting") || len(traces(t, id)) == 0 {
		_ = cmd.Process.Kill()
		t.Fatalf("no hosts were made: %s", said)
	}
	_ = cmd.Process.Signal(syscall.SIGKILL)
	_ = cmd.Wait()
	sweep()
	eventually(t, "nothing is left of the killed test", func() bool { return len(traces(t, id)) == 0 })
}
