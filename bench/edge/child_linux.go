package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"vortex/bench/process"
)

// layout is which cores the proxy runs on and which everything else, client and backend; none is all of them.
type layout struct {
	name        string
	proxy, rest []int
}

// workers is how many threads or processes a proxy should have.
func (l layout) workers() int {
	if len(l.proxy) > 0 {
		return len(l.proxy)
	}
	return runtime.NumCPU()
}

// apart gives the proxy a core of its own, so that only its own work bounds it.
func apart() layout {
	l := layout{name: "one_core"}
	if runtime.NumCPU() == 1 {
		return l
	}
	l.proxy = []int{0}
	for c := 1; c < runtime.NumCPU(); c++ {
		l.rest = append(l.rest, c)
	}
	return l
}

// together lets all share all cores.
func together() layout { return layout{name: "all_cores"} }

// child is a running program.
type child struct {
	name  string
	cmd   *exec.Cmd
	stdin io.WriteCloser
	log   bytes.Buffer // read it only when the program has ended
	ended chan struct{}
}

// start runs a program on some cores.
func start(name string, cores []int, command ...string) (*child, error) {
	if len(cores) > 0 {
		list := make([]string, len(cores))
		for i, c := range cores {
			list[i] = strconv.Itoa(c)
		}
		command = append([]string{"taskset", "-c", strings.Join(list, ",")}, command...)
	}
	c := &child{name: name, cmd: exec.Command(command[0], command[1:]...), ended: make(chan struct{})} //nolint:noctx // it is ended by stop
	c.cmd.Stdout, c.cmd.Stderr = &c.log, &c.log
	var err error
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		_ = c.cmd.Wait() // how it ended is in its log
		close(c.ended)
	}()
	return c, nil
}

// patience is how long a program may take to start, to answer and to end, on an emulated processor too.
const patience = 3 * time.Minute

// stop ends the program, in good order where it can.
func (c *child) stop() {
	_ = c.stdin.Close()
	_ = c.cmd.Process.Signal(os.Interrupt)
	select {
	case <-c.ended:
	case <-time.After(patience):
		_ = c.cmd.Process.Kill()
		<-c.ended
	}
}

// await waits until ok, as long as the program runs.
func (c *child) await(ctx context.Context, what string, ok func() error) error {
	const pause = 5 * time.Millisecond
	deadline := time.After(patience)
	for {
		err := ok()
		if err == nil {
			return nil
		}
		select {
		case <-c.ended:
			return fmt.Errorf("%s ended before %s:\n%s", c.name, what, c.log.String())
		case <-deadline:
			return fmt.Errorf("%s: not within %s: %s: %w", c.name, patience, what, err)
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// pids returns the program's processes: its own and its children.
func (c *child) pids() ([]int, error) {
	pid := c.cmd.Process.Pid
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.name, err)
	}
	pids := []int{pid}
	for field := range strings.FieldsSeq(string(data)) {
		n, err := strconv.Atoi(field)
		if err != nil {
			return nil, err
		}
		pids = append(pids, n)
	}
	return pids, nil
}

// cpu is the CPU time the program has used.
func (c *child) cpu() (total time.Duration, err error) {
	pids, err := c.pids()
	for _, pid := range pids {
		used, cerr := process.CPU(pid)
		total, err = total+used, errors.Join(err, cerr)
	}
	return total, err
}

// resident is the program's memory in bytes.
func (c *child) resident() (total float64, err error) {
	const mega = 1e6
	pids, err := c.pids()
	for _, pid := range pids {
		m, merr := process.ReadMemory(pid)
		total, err = total+m.Anonymous*mega, errors.Join(err, merr)
	}
	return total, err
}

// freePorts returns n ports nobody listens on now.
func freePorts(ctx context.Context, n int) ([]uint16, error) {
	ports := make([]uint16, n)
	for i := range ports {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer func() { _ = l.Close() }()
		if addr, ok := l.Addr().(*net.TCPAddr); ok {
			ports[i] = addr.AddrPort().Port()
		}
	}
	return ports, nil
}

// list writes ports with commas.
func list(ports []uint16) string {
	var s []string
	for _, p := range ports {
		s = append(s, strconv.Itoa(int(p)))
	}
	return strings.Join(s, ",")
}
