package network

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"vortex"
	"vortex/internal/runtime"
)

// hostPort is a port of the node.
type hostPort struct {
	number uint16
	udp    bool
}

func (p hostPort) String() string {
	if p.udp {
		return strconv.Itoa(int(p.number)) + "/udp"
	}
	return strconv.Itoa(int(p.number)) + "/tcp"
}

// hostPorts knows which instance has which port of the node, and holds each with a socket, so that no other process
// takes a port whose traffic the firewall would turn away from it. It is not safe for concurrent use.
type hostPorts struct {
	holders map[hostPort]string // instance
	sockets map[hostPort]int
}

func newHostPorts() *hostPorts {
	return &hostPorts{holders: map[hostPort]string{}, sockets: map[hostPort]int{}}
}

// claim takes all ports for an instance, or none. The error is Exists and names the holder.
func (h *hostPorts) claim(id string, ports []runtime.PortMapping) error {
	for i, m := range ports {
		p := hostPort{m.HostPort, m.UDP}
		err := h.claimOne(id, p)
		if err != nil {
			for _, done := range ports[:i] {
				h.releaseOne(hostPort{done.HostPort, done.UDP})
			}
			return err
		}
	}
	return nil
}

func (h *hostPorts) claimOne(id string, p hostPort) error {
	if other, taken := h.holders[p]; taken {
		return vortex.Errorf(vortex.Exists, "host port %s is held by instance %s: choose another host port", p, other)
	}
	fd, err := holdPort(p)
	if errors.Is(err, unix.EADDRINUSE) {
		return vortex.Errorf(vortex.Exists, "host port %s is in use by %s: stop it or choose another host port", p, portUser(p))
	}
	if err != nil {
		return err
	}
	h.holders[p], h.sockets[p] = id, fd
	return nil
}

// release frees all ports of an instance.
func (h *hostPorts) release(id string) {
	for p, holder := range h.holders {
		if holder == id {
			h.releaseOne(p)
		}
	}
}

func (h *hostPorts) releaseOne(p hostPort) {
	_ = unix.Close(h.sockets[p])
	delete(h.holders, p)
	delete(h.sockets, p)
}

func (h *hostPorts) close() {
	for p := range h.holders {
		h.releaseOne(p)
	}
}

// holdPort occupies a port on all IPv4 addresses. A TCP socket must listen, or others could bind beside it with SO_REUSEADDR,
// which in turn is needed to get a port that has connections in TIME_WAIT.
func holdPort(p hostPort) (int, error) {
	kind := unix.SOCK_STREAM
	if p.udp {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("open socket for host port: %w", err)
	}
	if !p.udp {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Port: int(p.number)})
	}
	if err == nil && !p.udp {
		err = unix.Listen(fd, 1)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("hold host port: %w", err)
	}
	return fd, nil
}

// portUser names the process that has a port open, as far as that can be seen.
func portUser(p hostPort) string {
	unknown := "another process on this node"
	proto := "tcp"
	if p.udp {
		proto = "udp"
	}
	for _, table := range []string{proto, proto + "6"} {
		inode := portInode("/proc/net/"+table, p.number)
		if inode == "" {
			continue
		}
		if pid := inodeProcess(inode); pid != "" {
			name, _ := os.ReadFile("/proc/" + pid + "/comm") // it may just have ended
			return fmt.Sprintf("process %s (%s)", pid, strings.TrimSpace(string(name)))
		}
	}
	return unknown
}

// portInode finds the socket's inode in a table of proc(5): fields are slot, local address:port in
// hexadecimal, remote address, state (0A listens, 07 is an open UDP socket), …, the tenth is the inode.
func portInode(table string, port uint16) string {
	f, err := os.Open(table)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	suffix := fmt.Sprintf(":%04X", port)
	for sc := bufio.NewScanner(f); sc.Scan(); {
		fields := strings.Fields(sc.Text())
		if len(fields) > 9 && strings.HasSuffix(fields[1], suffix) && (fields[3] == "0A" || fields[3] == "07") {
			return fields[9]
		}
	}
	return ""
}

func inodeProcess(inode string) string {
	fds, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return ""
	}
	want := "socket:[" + inode + "]"
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil && target == want {
			return strings.Split(fd, "/")[2]
		}
	}
	return ""
}
