package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Host is one machine of a Network.
type Host struct {
	Name string // its host name, such as h1
	Addr string // its address
	Data string // its disk: a directory that survives PowerOff and is the same within and without

	net    *Network
	number int

	mu        sync.Mutex
	first     *exec.Cmd // the first process; nil when the power is off
	pidfd     int       // of it
	ns        int       // its network namespace
	lifeline  io.Closer // what the first process lives by
	frozen    bool
	clock     *time.Duration // what the clock is off by; nil is a clock that was never touched
	processes []*Process     // all that were ever started
}

const (
	patience = 60 * time.Second // for what takes milliseconds on an idle machine
	diskSize = 1 << 30          // a bound: memory is taken as it is written
)

// namespaces are what a host has of its own.
const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC

// install gives the host its disk.
func (h *Host) install() error {
	h.Data = filepath.Join(h.net.dir, h.Name)
	return mountDisk(h.Data)
}

// uninstall takes its power and its disk.
func (h *Host) uninstall() error { return errors.Join(h.powerOff(), unmountDisk(h.Data)) }

// group is the name of the host's cgroup.
func (h *Host) group() string { return h.net.id + "-" + h.Name }

// PowerOn starts the host again after PowerOff: with its disk and its address, and with nothing running.
func (h *Host) PowerOn() {
	h.net.tb.Helper()
	h.net.check(h.powerOn())
}

func (h *Host) powerOn() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.first != nil {
		return fmt.Errorf("%s has power already", h.Name)
	}
	if err := makeCgroup(h.group()); err != nil {
		return err
	}
	said, err := h.startFirst()
	if err != nil {
		return err
	}
	defer func() { _ = said.Close() }()
	if err := join(h.first.Process.Pid, h.group()); err != nil {
		return err
	}
	if _, err := h.lifeline.(io.Writer).Write([]byte{1}); err != nil { //nolint:errcheck // it is a pipe
		return fmt.Errorf("tell the first process: %w", err)
	}
	if h.ns, err = unix.Open(fmt.Sprintf("/proc/%d/ns/net", h.first.Process.Pid), unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	if err := h.net.plug(h.Name, h.ns, h.net.address(firstIP+h.number), hardware(h.net.subnet.Addr().As4()[2], byte(h.number))); err != nil {
		return err
	}
	if answer, err := io.ReadAll(said); err != nil || string(answer) != settled {
		log, _ := os.ReadFile(filepath.Join(h.net.logs, h.Name+".log"))
		return fmt.Errorf("the first process did not come up: %w: %s", err, log)
	}
	return nil
}

// startFirst starts the first process and returns what it says.
func (h *Host) startFirst() (io.ReadCloser, error) {
	log, err := os.OpenFile(filepath.Join(h.net.logs, h.Name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	first := exec.Command("/proc/self/exe") //nolint:noctx // it ends with its lifeline
	first.Args[0] = h.Name
	first.Env = []string{hostEnv + "=" + h.Name, groupEnv + "=" + h.group(), stageEnv + "=" + stageOutside}
	first.Stderr = log
	first.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces, Setsid: true, PidFD: &h.pidfd}
	lifeline, err := first.StdinPipe()
	if err != nil {
		return nil, err
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer func() { _ = writer.Close() }()
	first.Stdout = writer
	if err := first.Start(); err != nil {
		_ = reader.Close()
		return nil, fmt.Errorf("start the first process: %w", err)
	}
	h.first, h.lifeline, h.ns = first, lifeline, -1
	return reader, nil
}

// PowerOff ends the host as a pulled plug does: its link goes dead, so that nobody is told, and every process is killed at once,
// those of containers too. Its disk stays.
func (h *Host) PowerOff() {
	h.net.tb.Helper()
	h.net.check(h.powerOff())
}

func (h *Host) powerOff() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.first == nil {
		return nil
	}
	errs := []error{h.linkDown()}
	_ = h.first.Process.Kill() // the kernel kills all others before this one is gone
	if h.frozen {
		errs = append(errs, freeze(h.group(), false)) // version 1 of cgroups keeps even the killed ones
	}
	_ = h.first.Wait()
	for _, p := range h.processes {
		<-p.done
	}
	_ = h.lifeline.Close()
	for _, fd := range []int{h.pidfd, h.ns} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
	h.first, h.frozen = nil, false
	return errors.Join(append(errs, h.net.unplug(h.Name), removeCgroup(h.group()))...)
}

// linkDown makes the bridge's end of the link dead.
func (h *Host) linkDown() error {
	return inNetwork(h.net.hub, func() error {
		link, err := netlink.LinkByName(h.Name)
		if err != nil {
			return nil //nolint:nilerr // there is none yet
		}
		return gone(netlink.LinkSetDown(link))
	})
}

// Kill kills what was started on the host with Run and Start, alone: what these started in turn, such as containers, goes on.
// It returns when they are gone.
func (h *Host) Kill() {
	h.net.tb.Helper()
	running := h.Running()
	for _, p := range running {
		p.kill()
	}
	for _, p := range running {
		h.net.check(p.gone())
	}
}

// Running returns what was started on the host and has not ended.
func (h *Host) Running() []*Process {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(h.processes), (*Process).Ended)
}

// Freeze stops every process of the host at once, those of containers too, for that long. It returns when they run again.
func (h *Host) Freeze(d time.Duration) {
	h.net.tb.Helper()
	h.Suspend()
	time.Sleep(d) // that is the experiment
	h.Resume()
}

// Suspend stops every process of the host until Resume. The host's kernel goes on: it acknowledges what is sent.
func (h *Host) Suspend() {
	h.net.tb.Helper()
	h.net.check(h.setFrozen(true))
}

// Resume lets the processes of the host go on.
func (h *Host) Resume() {
	h.net.tb.Helper()
	h.net.check(h.setFrozen(false))
}

func (h *Host) setFrozen(frozen bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.first == nil {
		return fmt.Errorf("%s has no power", h.Name)
	}
	h.frozen = frozen
	return freeze(h.group(), frozen)
}

// Dial connects from the host.
func (h *Host) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	h.mu.Lock()
	if h.first == nil {
		h.mu.Unlock()
		return nil, fmt.Errorf("%s has no power", h.Name)
	}
	ns, err := unix.FcntlInt(uintptr(h.ns), unix.F_DUPFD_CLOEXEC, 0)
	h.mu.Unlock()
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(ns) }()
	return dial(ctx, ns, network, addr)
}
