package pulse

import (
	"bytes"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Now is the time on the clock that pulses and their parents share: monotonic, in nanoseconds.
func Now() int64 { return now() }

func now() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // never fails
	return ts.Nano()
}

const (
	schedFIFO = 1
	priority  = 50
	bestNice  = -20
)

// raise gives the calling thread the best priority it may have.
func raise(realTime bool) uint32 {
	if !realTime {
		if unix.Setpriority(unix.PRIO_PROCESS, 0, bestNice) == nil {
			return Nice
		}
		return Normal
	}
	if err := unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: schedFIFO, Priority: priority}, 0); err == nil {
		return RealTime
	}
	return raise(false)
}

// Hurry gives the calling thread the best priority it may have.
func Hurry() { raise(true) }

// Lock keeps the process's memory from being paged out: its program, and the rest as it comes into use. Whole it would be forty times as much, for Go
// sets tables aside that so small a program never fills. Not to be allowed it is no failure.
func Lock() {
	_ = unix.Mlockall(unix.MCL_CURRENT | unix.MCL_ONFAULT)
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return
	}
	const path = 5 // the field of a mapping that has its file
	for line := range strings.Lines(string(maps)) {
		fields := strings.Fields(line)
		if len(fields) <= path || !strings.HasPrefix(fields[path], "/") {
			continue
		}
		first, last, _ := strings.Cut(fields[0], "-")
		from, err1 := strconv.ParseUint(first, 16, 64)
		to, err2 := strconv.ParseUint(last, 16, 64)
		if err1 == nil && err2 == nil {
			_, _, _ = unix.Syscall(unix.SYS_MLOCK, uintptr(from), uintptr(to-from), 0)
		}
	}
}

// openStat opens what the kernel says of a process's first thread, -1 when it says nothing.
func openStat(pid int) int {
	id := strconv.Itoa(pid)
	fd, err := unix.Open("/proc/"+id+"/task/"+id+"/stat", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	return fd
}

// openThread opens a thread, to be told of its end; -1 where the kernel cannot (before Linux 6.9).
func openThread(id int) int {
	const ofThread = unix.O_EXCL // PIDFD_THREAD
	fd, err := unix.PidfdOpen(id, ofThread)
	if err != nil {
		return -1
	}
	return fd
}

// Urgent divides a port between two sockets: what cannot wait for the next round goes to the second one, which has to be bound after the first. Both have SO_REUSEPORT.
func Urgent(second int) error {
	const (
		first  = 0 // the sockets' places
		next   = 1
		kindAt = 3 // in a datagram
	)
	program := [...]unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: kindAt},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: kindBye, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: next},
		{Code: unix.BPF_RET | unix.BPF_K, K: first},
	}
	return unix.SetsockoptSockFprog(second, unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF, &unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
}

// stoppedNow reports whether the process of an open stat was stopped by a signal or a debugger.
func stoppedNow(fd int, buf []byte) bool {
	n, err := unix.Pread(fd, buf, 0)
	if err != nil {
		return false
	}
	end := bytes.LastIndexByte(buf[:n], ')') // of the name
	if end < 0 || end+2 >= n {
		return false
	}
	return buf[end+2] == 'T' || buf[end+2] == 't'
}

// sockaddr is an address as the kernel wants it.
type sockaddr struct {
	raw  unix.RawSockaddrInet6 // the larger one
	size uint32
}

func newSockaddr(ap netip.AddrPort, ipv6 bool) (s sockaddr) {
	port := ap.Port()<<8 | ap.Port()>>8 // network order, which is not ours
	if ipv6 {
		s.raw = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: port, Addr: ap.Addr().As16()}
		s.size = unix.SizeofSockaddrInet6
		return s
	}
	s.size = unix.SizeofSockaddrInet4
	if ap.Addr().Unmap().Is4() {
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(&s.raw))
		v4.Family, v4.Port, v4.Addr = unix.AF_INET, port, ap.Addr().Unmap().As4()
	}
	return s
}

// sendTo sends a datagram. One that cannot be sent is one that is lost.
func (e *engine) sendTo(to *sockaddr, d []byte) {
	_, _, _ = unix.Syscall6(unix.SYS_SENDTO, uintptr(e.Socket), uintptr(unsafe.Pointer(&d[0])), uintptr(len(d)),
		unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, uintptr(unsafe.Pointer(&to.raw)), uintptr(to.size))
}

// inboxSize is how many datagrams are taken at a time.
const inboxSize = 64

// message is the kernel's mmsghdr.
type message struct {
	head unix.Msghdr
	size uint32
	_    [4]byte
}

// inbox is room for the datagrams of one call.
type inbox struct {
	messages [inboxSize]message
	vectors  [inboxSize]unix.Iovec
	from     [inboxSize]sockaddr
	data     [inboxSize][DatagramSize + 1]byte // one more shows what is too long
}

func (b *inbox) init() {
	for i := range b.messages {
		b.vectors[i].Base = &b.data[i][0]
		b.vectors[i].SetLen(len(b.data[i]))
		b.messages[i].head.Iov = &b.vectors[i]
		b.messages[i].head.SetIovlen(1)
		b.messages[i].head.Name = (*byte)(unsafe.Pointer(&b.from[i].raw))
	}
}

// fill takes what has come and returns how much.
func (b *inbox) fill(socket int) int {
	for i := range b.messages {
		b.messages[i].head.Namelen = unix.SizeofSockaddrInet6
	}
	n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(socket), uintptr(unsafe.Pointer(&b.messages[0])), inboxSize, unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0
	}
	return int(n)
}

func (b *inbox) at(i int) (data []byte, from *sockaddr) {
	b.from[i].size = b.messages[i].head.Namelen
	return b.data[i][:b.messages[i].size], &b.from[i]
}
