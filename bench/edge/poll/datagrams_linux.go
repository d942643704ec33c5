package poll

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Datagrams are slots, each for a datagram, or for several that the kernel has put together: one system call fills or sends all of them.
type Datagrams struct {
	messages []message
	vectors  []unix.Iovec
	names    []unix.RawSockaddrInet4
	controls []control
	data     []byte
	size     int
}

// message is struct mmsghdr.
type message struct {
	head   unix.Msghdr
	length uint32
}

// control has room for what the kernel says of a slot, and is told of it: the size of each datagram.
type control struct {
	head unix.Cmsghdr
	data [8]byte
}

// NewDatagrams returns n slots of the given size. With size 0 what is received is only counted.
func NewDatagrams(n, size int) *Datagrams {
	d := &Datagrams{
		messages: make([]message, n), vectors: make([]unix.Iovec, n), names: make([]unix.RawSockaddrInet4, n),
		controls: make([]control, n), data: make([]byte, n*size), size: size,
	}
	for i := range d.messages {
		if size > 0 {
			d.vectors[i].Base = &d.data[i*size]
		}
		d.messages[i].head.Iov = &d.vectors[i]
		d.messages[i].head.SetIovlen(1)
	}
	return d
}

// Receive fills slots with what is there: none when nothing is. It returns how many, and the bytes of all, those that did not fit
// their slots too.
func (d *Datagrams) Receive(fd int) (n, bytes int, err error) {
	for i := range d.messages {
		h := &d.messages[i].head
		d.vectors[i].SetLen(d.size)
		h.Name, h.Namelen = (*byte)(unsafe.Pointer(&d.names[i])), unix.SizeofSockaddrInet4
		h.Control = (*byte)(unsafe.Pointer(&d.controls[i]))
		h.SetControllen(int(unsafe.Sizeof(d.controls[i])))
	}
	n, err = call(unix.SYS_RECVMMSG, fd, d.messages, unix.MSG_DONTWAIT|unix.MSG_TRUNC)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ECONNREFUSED) { // a proxy's port may close and open
		return 0, 0, nil
	}
	for i := range n {
		bytes += int(d.messages[i].length)
	}
	return n, bytes, err
}

// Bytes is what a slot was filled with.
func (d *Datagrams) Bytes(i int) []byte { return d.data[i*d.size:][:min(d.Length(i), d.size)] }

// Length is how many bytes the datagram had that a slot was filled with.
func (d *Datagrams) Length(i int) int { return int(d.messages[i].length) }

// Sender is whom a slot was filled by.
func (d *Datagrams) Sender(i int) netip.AddrPort {
	from := &d.names[i]
	port := (*[2]byte)(unsafe.Pointer(&from.Port))
	return netip.AddrPortFrom(netip.AddrFrom4(from.Addr), binary.BigEndian.Uint16(port[:]))
}

// Fill makes slots hold datagrams to be sent to where a socket is connected to, of the slots' size.
func (d *Datagrams) Fill() {
	for i := range d.messages {
		d.vectors[i].SetLen(d.size)
		h := &d.messages[i].head
		h.Name, h.Namelen, h.Control = nil, 0, nil
		h.SetControllen(0)
	}
}

// Send sends the first n slots. What the socket does not take is lost, as datagrams are.
func (d *Datagrams) Send(fd, n int) error { return d.send(fd, 0, n) }

// Part sends of the first slot, in which many datagrams lie one after the other, so many bytes.
func (d *Datagrams) Part(fd, bytes int) error {
	d.vectors[0].SetLen(bytes)
	return d.send(fd, 0, 1)
}

// Return sends the n slots that were received last to where they came from, those that came together together.
func (d *Datagrams) Return(fd, n int) error {
	for i := range n {
		d.vectors[i].SetLen(min(d.Length(i), d.size))
		d.messages[i].head.SetControllen(d.controls[i].again(int(d.messages[i].head.Controllen))) //nolint:gosec // a small number
	}
	return d.send(fd, 0, n)
}

// Together sends the slots from..to, all of one size, as one message that the kernel cuts apart again, to an address or, without one, to where
// the socket is connected to.
func (d *Datagrams) Together(fd, from, to int, addr netip.AddrPort) error {
	for i := from; i < to; i++ {
		d.vectors[i].SetLen(d.Length(i))
	}
	h := &d.messages[from].head
	if addr.IsValid() {
		d.names[from] = rawAddress(addr)
	} else {
		h.Name, h.Namelen = nil, 0
	}
	h.SetIovlen(to - from)
	h.SetControllen(d.controls[from].cut(d.Length(from)))
	err := d.send(fd, from, from+1)
	h.SetIovlen(1)
	return err
}

// Answer sends text to where a slot came from.
func (d *Datagrams) Answer(fd, i int, text []byte) error {
	d.vectors[i].SetLen(copy(d.data[i*d.size:(i+1)*d.size], text))
	d.messages[i].head.SetControllen(0)
	return d.send(fd, i, i+1)
}

func (d *Datagrams) send(fd, from, to int) error {
	for from < to {
		n, err := call(unix.SYS_SENDMMSG, fd, d.messages[from:to], unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOBUFS):
			return nil
		case errors.Is(err, unix.ECONNREFUSED):
			n = 1
		case err != nil:
			return err
		}
		from += n
	}
	return nil
}

func call(number uintptr, fd int, messages []message, flags uintptr) (int, error) {
	n, _, errno := unix.RawSyscall6(number, uintptr(fd), uintptr(unsafe.Pointer(&messages[0])), uintptr(len(messages)), flags, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// again makes of what the kernel says of datagrams that it has put together what tells it to cut them apart, and returns how long that is.
func (c *control) again(length int) int {
	if length < unix.CmsgLen(4) || c.head.Level != unix.SOL_UDP || c.head.Type != unix.UDP_GRO {
		return 0
	}
	return c.cut(int(binary.NativeEndian.Uint32(c.data[:])))
}

// cut makes it say the size of the datagrams to be cut apart into, and returns how long that is.
func (c *control) cut(size int) int {
	c.head.Level, c.head.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	c.head.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(c.data[:], uint16(size)) //nolint:gosec // of a datagram
	return unix.CmsgSpace(2)
}

func rawAddress(addr netip.AddrPort) unix.RawSockaddrInet4 {
	raw := unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: addr.Addr().As4()}
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&raw.Port))[:], addr.Port())
	return raw
}

// buffer is what the kernel is asked to keep of datagrams until they are received.
const buffer = 4 << 20

// ListenUDP opens a socket for datagrams to addr.
func ListenUDP(addr netip.AddrPort) (int, error) { return openUDP(addr, unix.Bind, "bind") }

// ShareUDP opens a socket for datagrams to addr that others may open as well.
func ShareUDP(addr netip.AddrPort) (int, error) { return openUDP(addr, share, "bind") }

func share(fd int, to unix.Sockaddr) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		return err
	}
	return unix.Bind(fd, to)
}

// CountUDP opens a socket to addr, which others share, for the datagrams of one sender: the kernel drops them and counts them, see Dropped.
func CountUDP(addr, sender netip.AddrPort) (int, error) {
	fd, err := ShareUDP(addr)
	if err != nil {
		return -1, err
	}
	if err := errors.Join(Count(fd), os.NewSyscallError("connect", unix.Connect(fd, sockaddr(sender)))); err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// DialUDP opens a socket for datagrams to and from addr alone.
func DialUDP(addr netip.AddrPort) (int, error) { return openUDP(addr, unix.Connect, "connect") }

func openUDP(addr netip.AddrPort, join func(int, unix.Sockaddr) error, name string) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, buffer) // as much as the system allows
	}
	if err := os.NewSyscallError(name, join(fd, sockaddr(addr))); err != nil {
		return -1, errors.Join(fmt.Errorf("UDP on %s: %w", addr, err), unix.Close(fd))
	}
	return fd, nil
}

// Join has the kernel hand over datagrams of one sender that came together as one, and with a size above 0 cut apart what is sent into
// datagrams of it.
func Join(fd, size int) error {
	err := unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO, 1)
	if size > 0 {
		err = errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_SEGMENT, size))
	}
	return os.NewSyscallError("setsockopt", err)
}

// Yield lets the other threads of this core go first.
func Yield() { _, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }

// Count has the kernel drop the datagrams to a socket and count them, which costs less than to receive them.
func Count(fd int) error { return DropLonger(fd, 0) }

// DropLonger has the kernel drop the datagrams to a socket that are longer than size, and count them.
func DropLonger(fd, size int) error {
	const header = 8 // of UDP, which the filter sees too
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_LEN},
		{Code: unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K, Jf: 1, K: uint32(header + size)}, //nolint:gosec // a small number
		{Code: unix.BPF_RET | unix.BPF_K},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 16},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]} //nolint:gosec // a small number
	return os.NewSyscallError("setsockopt", unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program))
}

// Dropped is how many datagrams the kernel has dropped that came to a socket, modulo 1<<32.
func Dropped(fd int) (uint32, error) {
	const drops = 8 // SK_MEMINFO_DROPS
	var info [drops + 1]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0, os.NewSyscallError("getsockopt", errno)
	}
	return info[drops], nil
}
