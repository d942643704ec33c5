package cluster

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// beat is a line of tick.
type beat struct {
	clock time.Time
	since time.Duration
}

// beats reads what tick printed.
func beats(t *testing.T, p *Process) (list []beat) {
	t.Helper()
	for line := range strings.Lines(p.Log()) {
		var clock, since int64
		if n, _ := fmt.Sscanf(line, "tick %d %d\n", &clock, &since); n == 2 {
			list = append(list, beat{time.Unix(clock, 0), time.Duration(since) * time.Millisecond})
		}
	}
	return list
}

// ticks waits until a program ticks more than it did.
func ticks(t *testing.T, p *Process) {
	t.Helper()
	before := len(beats(t, p))
	eventually(t, "ticks", func() bool { return len(beats(t, p)) > before+1 })
}

func TestFreezeStopsEveryProcess(t *testing.T) {
	t.Parallel()
	n := New(t, 2)
	h := n.Host(1)
	frozen := []*Process{start(t, h, "tick"), start(t, h, "parent", "tick"), start(t, h, "box")}
	other := start(t, n.Host(2), "tick")
	for _, p := range append(frozen, other) {
		ticks(t, p)
	}
	h.Suspend()
	var before []int
	for _, p := range frozen {
		before = append(before, len(beats(t, p)))
	}
	ticks(t, other)
	if _, err := h.Start(program("tick")); err == nil {
		t.Error("a program was started on a frozen host")
	}
	time.Sleep(100 * time.Millisecond) // that is the experiment
	for i, p := range frozen {
		if after := len(beats(t, p)); after != before[i] {
			t.Errorf("process %d ticked %d times while it was frozen", i, after-before[i])
		}
	}
	h.Resume()
	for _, p := range frozen {
		ticks(t, p)
	}

	const length = 200 * time.Millisecond
	h.Freeze(length)
	for i, p := range frozen {
		ticks(t, p)
		longest := time.Duration(0)
		list := beats(t, p)
		for k := range list[1:] {
			longest = max(longest, list[k+1].since-list[k].since)
		}
		if longest < length {
			t.Errorf("process %d never paused longer than %s; want %s", i, longest, length)
		}
	}
}

func TestKillKillsWhatWasStartedAlone(t *testing.T) {
	t.Parallel()
	n := New(t, 2)
	h := n.Host(1)
	parent := start(t, h, "parent", "tick")
	server := start(t, h, "echo")
	ticks(t, parent)
	eventually(t, "the echo listens", func() bool { return strings.Contains(server.Log(), "ready") })
	c := connect(t, n.Host(2), "tcp", h)
	exchange(t, c, "before")
	h.Kill()
	if !parent.Ended() || !server.Ended() || len(h.Running()) != 0 {
		t.Error("what was started still runs")
	}
	ticks(t, parent) // by its child
	_ = c.SetReadDeadline(time.Now().Add(patience))
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a peer of a killed process reads %v; its host's kernel ends the connection", err)
	}
}

func TestPowerOffTellsNobodyAndKeepsTheDisk(t *testing.T) {
	t.Parallel()
	n := New(t, 2)
	h := n.Host(1)
	parent, server := start(t, h, "parent", "box"), start(t, h, "echo")
	ticks(t, parent)
	eventually(t, "the echo listens", func() bool { return strings.Contains(server.Log(), "ready") })
	if _, err := h.Output(soon(t), program("write", filepath.Join(h.Data, "kept"), "5")); err != nil {
		t.Fatal(err)
	}
	c := connect(t, n.Host(2), "tcp", h)
	exchange(t, c, "before")

	h.PowerOff()
	dead := len(beats(t, parent))
	_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a peer of a host without power reads %v; it should not be told", err)
	}
	if after := len(beats(t, parent)); after != dead {
		t.Error("something still ticks on a host without power")
	}
	if _, err := h.Start(program("tick")); err == nil {
		t.Error("a program was started on a host without power")
	}

	h.PowerOn()
	if data, err := os.ReadFile(filepath.Join(h.Data, "kept")); err != nil || len(data) != 5 {
		t.Errorf("the disk after the power was off: %d bytes, %v", len(data), err)
	}
	again := start(t, h, "echo")
	eventually(t, "the echo listens again", func() bool { return strings.Contains(again.Log(), "ready") })
	exchange(t, connect(t, n.Host(2), "tcp", h), "after")
	ticks(t, start(t, h, "box"))
	_ = c.SetReadDeadline(time.Now().Add(patience))
	_, _ = c.Write([]byte("anyone?"))
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("a connection to what is no more: %v; want a reset", err)
	}
}

// TestDisksMove has each host write to the disks of all, as if they had been put into it.
func TestDisksMove(t *testing.T) {
	t.Parallel()
	n := New(t, 4)
	writes := func(h, of *Host) {
		t.Helper()
		file := filepath.Join(of.Data, "by-"+h.Name)
		if _, err := h.Output(soon(t), program("write", file, "5")); err != nil {
			t.Errorf("%s writes to the disk of %s: %v", h.Name, of.Name, err)
		}
		if data, err := os.ReadFile(file); err != nil || len(data) != 5 {
			t.Errorf("%s wrote to the disk of %s: %d bytes, %v", h.Name, of.Name, len(data), err)
		}
	}
	for _, h := range n.Hosts() {
		for _, of := range n.Hosts() {
			writes(h, of)
		}
	}
	late := n.Add()
	for _, of := range n.Hosts() {
		writes(late, of)
	}
}

func TestFrozenHostLosesItsPower(t *testing.T) {
	t.Parallel()
	h := New(t, 1).Host(1)
	p := start(t, h, "parent", "box")
	ticks(t, p)
	h.Suspend()
	h.PowerOff()
	if !p.Ended() {
		t.Error("a process outlived its host")
	}
	h.PowerOn()
	ticks(t, start(t, h, "tick"))
}

func TestClockIsOff(t *testing.T) {
	t.Parallel()
	n := New(t, 1)
	h := n.Host(1)
	right := start(t, h, "tick")
	h.Clock(time.Hour)
	wrong := start(t, h, "tick")
	off := func(p *Process) time.Duration {
		ticks(t, p)
		list := beats(t, p)
		return time.Until(list[len(list)-1].clock).Round(10 * time.Minute)
	}
	if got := off(wrong); got != time.Hour {
		t.Errorf("the clock is off by %s; want an hour", got)
	}
	h.Clock(-2 * time.Hour)
	if got := off(wrong); got != -2*time.Hour {
		t.Errorf("the moved clock is off by %s; want -2 hours", got)
	}
	if got := off(right); got != 0 {
		t.Errorf("the clock of what ran before is off by %s", got)
	}
	list := beats(t, wrong)
	for i := range list[1:] {
		if list[i+1].since < list[i].since || list[i+1].since-list[i].since > patience {
			t.Errorf("the monotonic clock went from %s to %s", list[i].since, list[i+1].since)
		}
	}
	// What others than Go ask for the time is told the same.
	out, err := h.Output(soon(t), exec.Command("date", "+%s"))
	if err != nil {
		t.Fatal(err)
	}
	var told int64
	if _, err := fmt.Sscan(out, &told); err != nil || time.Until(time.Unix(told, 0)).Round(10*time.Minute) != -2*time.Hour {
		t.Errorf("date says %q, %v", out, err)
	}
}

func TestDiskIsFull(t *testing.T) {
	t.Parallel()
	n := New(t, 2)
	h := n.Host(1)
	file := func(name string) string { return filepath.Join(h.Data, name) }
	if _, err := h.Output(soon(t), program("write", file("before"), "100000")); err != nil {
		t.Fatal(err)
	}
	h.DiskFull()
	if _, err := h.Output(soon(t), program("write", file("more"), "100000")); err == nil || !strings.Contains(err.Error(), "no space left on device") {
		t.Errorf("on a full disk: %v", err)
	}
	other := n.Host(2)
	if _, err := other.Output(soon(t), program("write", filepath.Join(other.Data, "file"), "100000")); err != nil {
		t.Errorf("the other host's disk: %v", err)
	}
	h.DiskFree()
	if _, err := h.Output(soon(t), program("write", file("more"), "100000")); err != nil {
		t.Errorf("with room again: %v", err)
	}
}
