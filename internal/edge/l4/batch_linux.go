package l4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	batchSize   = 64 // what one system call receives at most
	maxDatagram = 64 << 10
	controlSize = 128
	// gatherSlots and gatherBytes are how much is received before any of it is sent: the more there is of a session in a row, the less each
	// datagram costs, as long as it stays in the processor's caches and nobody else waits for long.
	gatherSlots = 4 * batchSize
	gatherBytes = 256 << 10
)

// sockaddr is an address as the kernel writes it.
type sockaddr struct {
	raw    [unix.SizeofSockaddrInet6]byte
	length uint32
}

// key returns what a client is known by.
func (a *sockaddr) key() (k clientKey) {
	k.port = binary.BigEndian.Uint16(a.raw[2:])
	if binary.NativeEndian.Uint16(a.raw[:]) == unix.AF_INET {
		k.addr = [16]byte{10: 0xff, 11: 0xff, 12: a.raw[4], 13: a.raw[5], 14: a.raw[6], 15: a.raw[7]}
		return k
	}
	copy(k.addr[:], a.raw[8:24])
	k.zone = binary.NativeEndian.Uint32(a.raw[24:])
	return k
}

// control is what the kernel is told beside an answer.
type control struct {
	raw    [controlSize]byte
	length int
}

// take keeps which of our addresses a datagram was sent to, so that it is the one to answer from. By which interface the answer
// leaves is for the routes to say, except on a link-local address, which means nothing without its interface.
func (c *control) take(all []byte) {
	for part, data := range controls(all) {
		switch {
		case part.Level == unix.IPPROTO_IP && part.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			(*unix.Inet4Pktinfo)(c.put(part, data[:unix.SizeofInet4Pktinfo])).Ifindex = 0
		case part.Level == unix.IPPROTO_IPV6 && part.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			info := (*unix.Inet6Pktinfo)(c.put(part, data[:unix.SizeofInet6Pktinfo]))
			if linkLocal := info.Addr[0] == 0xfe && info.Addr[1]&0xc0 == 0x80; !linkLocal {
				info.Ifindex = 0
			}
		}
	}
}

// put appends a part and returns where its data is.
func (c *control) put(part unix.Cmsghdr, data []byte) unsafe.Pointer {
	h := (*unix.Cmsghdr)(unsafe.Pointer(&c.raw[c.length]))
	h.Level, h.Type = part.Level, part.Type
	h.SetLen(unix.CmsgLen(len(data)))
	at := c.length + unix.CmsgLen(0)
	copy(c.raw[at:], data)
	c.length += unix.CmsgSpace(len(data))
	return unsafe.Pointer(&c.raw[at])
}

// controls yields what stands beside a datagram, part by part.
func controls(all []byte) iter.Seq2[unix.Cmsghdr, []byte] {
	return func(yield func(unix.Cmsghdr, []byte) bool) {
		head := unix.CmsgLen(0)
		for len(all) >= head {
			h := (*unix.Cmsghdr)(unsafe.Pointer(&all[0]))
			end := int(h.Len) //nolint:gosec // the kernel's
			if end < head || end > len(all) || !yield(*h, all[head:end]) {
				return
			}
			all = all[min(unix.CmsgSpace(end-head), len(all)):]
		}
	}
}

// segment returns the size of the datagrams that the kernel has put together into one, 0 when it is one alone.
func segment(all []byte) int {
	for part, data := range controls(all) {
		if part.Level == unix.SOL_UDP && part.Type == unix.UDP_GRO && len(data) >= 4 {
			return int(binary.NativeEndian.Uint32(data))
		}
	}
	return 0
}

// message is the kernel's struct mmsghdr.
type message struct {
	head   unix.Msghdr
	length uint32
}

// batch is slots, each of which holds a datagram, or several of one client in a row that the kernel has put together (UDP_GRO). Use init.
type batch struct {
	messages []message
	vectors  []unix.Iovec
	names    []sockaddr
	controls [][controlSize]byte
	data     []byte // maxDatagram for each slot, of which only what datagrams fill is ever touched
	used     int
}

// init makes a number of slots. Their data is not of the heap, which would grow by all of it.
func (b *batch) init(slots int) (err error) {
	b.data, err = unix.Mmap(-1, 0, slots*maxDatagram, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("map buffers for datagrams: %w", err)
	}
	b.messages, b.vectors = make([]message, slots), make([]unix.Iovec, slots)
	b.names, b.controls = make([]sockaddr, slots), make([][controlSize]byte, slots)
	for i := range b.messages {
		b.vectors[i].Base = &b.data[i*maxDatagram]
		b.vectors[i].SetLen(maxDatagram)
		h := &b.messages[i].head
		h.Iov = &b.vectors[i]
		h.SetIovlen(1)
		h.Control = &b.controls[i][0]
	}
	return nil
}

// free gives the memory back, where there is some.
func (b *batch) free() {
	if b.data != nil {
		_ = unix.Munmap(b.data) // it is mapped
	}
	*b = batch{}
}

// bytes returns what a slot holds.
func (b *batch) bytes(i int) []byte {
	return b.data[i*maxDatagram:][:b.messages[i].length]
}

// control returns what stands beside it.
func (b *batch) control(i int) []byte { return b.controls[i][:b.messages[i].head.Controllen] }

// gather fills the slots from the beginning with what clients sent to a socket, until nothing more is there or it is enough. It returns how many.
func (b *batch) gather(fd int) (n int) {
	for bytes := 0; n < len(b.messages) && bytes < gatherBytes; {
		got := b.receive(fd, n, min(batchSize, len(b.messages)-n), true)
		for i := n; i < n+got; i++ {
			bytes += len(b.bytes(i))
		}
		n += max(got, 0)
		if got < batchSize {
			break
		}
	}
	return n
}

// receive fills the slots from first on, up to n of them. It returns how many, or the error's number below 0. Who sent them is asked for
// with named.
func (b *batch) receive(fd, first, n int, named bool) int {
	for i := first; i < first+n; i++ {
		h := &b.messages[i].head
		h.Name, h.Namelen = nil, 0
		if named {
			h.Name, h.Namelen = &b.names[i].raw[0], unix.SizeofSockaddrInet6
		}
		h.SetControllen(controlSize)
	}
	for {
		got, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&b.messages[first])), uintptr(n), unix.MSG_DONTWAIT, 0, 0)
		switch {
		case errno == 0:
			for i := first; i < first+int(got); i++ {
				b.names[i].length = b.messages[i].head.Namelen
			}
			return int(got)
		case errors.Is(errno, unix.EINTR):
		case errors.Is(errno, unix.EAGAIN):
			return 0
		default:
			return -int(errno)
		}
	}
}
