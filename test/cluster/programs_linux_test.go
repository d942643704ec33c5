package cluster

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// programEnv names the program that this binary is asked to be.
const programEnv = "VORTEX_CLUSTER_PROGRAM"

// programs are what the tests run on hosts. Each returns its exit code.
var programs = map[string]func(args []string) int{
	"echo":   echo,
	"tick":   tick,
	"parent": parent,
	"box":    box,
	"whoami": whoami,
	"write":  write,
}

// echoPort is where echo listens, for TCP and UDP.
const echoPort = ":7"

// echo sends back what it gets, and says what came.
func echo([]string) int {
	l, err := net.Listen("tcp", echoPort)
	if err != nil {
		return complain(err)
	}
	u, err := net.ListenPacket("udp", echoPort)
	if err != nil {
		return complain(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c) }()
		}
	}()
	buf := make([]byte, 1500)
	fmt.Println("ready")
	for {
		n, from, err := u.ReadFrom(buf)
		if err != nil {
			return complain(err)
		}
		fmt.Printf("got %s\n", buf[:n])
		_, _ = u.WriteTo(buf[:n], from)
	}
}

func complain(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// tick prints, each millisecond or so, the time of day in seconds and the monotonic one in milliseconds.
func tick([]string) int {
	began := time.Now()
	for {
		fmt.Println("tick", time.Now().Unix(), time.Since(began).Milliseconds())
		time.Sleep(time.Millisecond)
	}
}

// parent starts a program that has nothing more to do with it, as a container's shim has not.
func parent(args []string) int {
	child := program(args[0], args[1:]...)
	child.Stdout, child.Stderr = os.Stdout, os.Stderr
	if err := child.Start(); err != nil {
		return complain(err)
	}
	fmt.Println("child", child.Process.Pid)
	select {}
}

// box ticks in a cgroup of its own below what this host takes for the root, as a container does.
func box([]string) int {
	for _, h := range hierarchies() {
		dir := filepath.Join(h.path, "box")
		if err := os.Mkdir(dir, 0o755); err != nil {
			return complain(err)
		}
		prepare(dir)
		if err := overwrite(filepath.Join(dir, "cgroup.procs"), strconv.Itoa(os.Getpid())); err != nil {
			return complain(err)
		}
	}
	return tick(nil)
}

// whoami says what the program sees of its host.
func whoami([]string) int {
	name, _ := os.Hostname()
	run, _ := os.ReadDir("/run")
	addrs, _ := net.InterfaceAddrs()
	group, _ := os.ReadFile("/proc/self/cgroup")
	processes, _ := filepath.Glob("/proc/[0-9]*")
	fmt.Printf("name %s, pid %d of %d, %d in /run, addresses %v in\n%s", name, os.Getpid(), len(processes), len(run), addrs, group)
	return 0
}

// write writes a file of so many bytes, and says what became of it.
func write(args []string) int {
	n, _ := strconv.Atoi(args[1])
	if err := os.WriteFile(args[0], make([]byte, n), 0o600); err != nil {
		return complain(err)
	}
	return 0
}
