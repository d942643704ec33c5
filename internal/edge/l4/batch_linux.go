package l4

import (
	"encoding/binary"
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	batchSize   = 64
	maxDatagram = 64 << 10
	controlSize = 64
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

// control is what the kernel says beside a datagram, and is told beside an answer.
type control struct {
	raw    [controlSize]byte
	length int
}

// take keeps which of our addresses a datagram was sent to, so that it is the one to answer from. By which interface the answer
// leaves is for the routes to say, except on a link-local address, which means nothing without its interface.
func (c *control) take(raw *[controlSize]byte, length int) {
	head := unix.CmsgLen(0)
	if length < head {
		return
	}
	c.raw, c.length = *raw, length
	h := (*unix.Cmsghdr)(unsafe.Pointer(&c.raw[0]))
	switch {
	case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && length >= head+unix.SizeofInet4Pktinfo:
		(*unix.Inet4Pktinfo)(unsafe.Pointer(&c.raw[head])).Ifindex = 0
	case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && length >= head+unix.SizeofInet6Pktinfo:
		info := (*unix.Inet6Pktinfo)(unsafe.Pointer(&c.raw[head]))
		if linkLocal := info.Addr[0] == 0xfe && info.Addr[1]&0xc0 == 0x80; !linkLocal {
			info.Ifindex = 0
		}
	default:
		c.length = 0
	}
}

// message is the kernel's struct mmsghdr.
type message struct {
	head   unix.Msghdr
	length uint32
}

// batch is up to batchSize datagrams that are received or sent in one system call. Use init.
type batch struct {
	messages [batchSize]message
	vectors  [batchSize]unix.Iovec
	names    []sockaddr
	controls [][controlSize]byte
	data     []byte // batchSize times maxDatagram; nil for one that only points to others' bytes
	used     int
}

func (b *batch) init(owned, named bool) {
	if owned {
		b.data = make([]byte, batchSize*maxDatagram) // memory of which only what datagrams fill is ever touched
	}
	if named {
		b.names = make([]sockaddr, batchSize)
		b.controls = make([][controlSize]byte, batchSize)
	}
	for i := range b.messages {
		h := &b.messages[i].head
		h.Iov = &b.vectors[i]
		h.SetIovlen(1)
	}
}

func (b *batch) bytes(i int) []byte { return b.data[i*maxDatagram : (i+1)*maxDatagram] }

func (b *batch) length(i int) int { return int(b.messages[i].length) }

func (b *batch) controlLength(i int) int { return int(b.messages[i].head.Controllen) }

// receive fills the slots from first on with up to n datagrams. It returns how many came, or the error's number below 0.
func (b *batch) receive(fd, first, n int) int {
	for i := first; i < first+n; i++ {
		h := &b.messages[i].head
		b.vectors[i].Base = &b.bytes(i)[0]
		b.vectors[i].SetLen(maxDatagram)
		h.Name, h.Namelen = &b.names[i].raw[0], unix.SizeofSockaddrInet6
		h.Control = &b.controls[i][0]
		h.SetControllen(controlSize)
		h.Flags = 0
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

// address says where a received datagram is to be sent, and from which of our addresses.
func (b *batch) address(i int, to *sockaddr, from *control) {
	h := &b.messages[i].head
	h.Name, h.Namelen = &to.raw[0], to.length
	h.Control = nil
	if from.length > 0 {
		h.Control = &from.raw[0]
	}
	h.SetControllen(from.length)
	b.vectors[i].SetLen(b.length(i))
}

// sendAll sends the used slots, and returns how many bytes were. A datagram that cannot be sent is lost.
func (b *batch) sendAll(fd int) (bytes int) {
	for i := 0; i < b.used; {
		n, errno := sendMany(fd, b.messages[i:b.used])
		for j := i; j < i+n; j++ {
			bytes += b.length(j)
		}
		i += n
		if errno != 0 {
			i++
		}
	}
	return bytes
}

// sendTo sends slots of another batch to the one a socket is connected with. It returns how many, and their bytes.
func (b *batch) sendTo(fd int, from *batch, slots []int) (sent, bytes int, err error) {
	for k, i := range slots {
		b.vectors[k].Base = &from.bytes(i)[0]
		b.vectors[k].SetLen(from.length(i))
	}
	for sent < len(slots) {
		n, errno := sendMany(fd, b.messages[sent:len(slots)])
		for j := sent; j < sent+n; j++ {
			bytes += from.length(slots[j])
		}
		sent += n
		if errno != 0 {
			return sent, bytes, errno
		}
	}
	return sent, bytes, nil
}

// sendMany sends messages until one cannot be.
func sendMany(fd int, messages []message) (int, unix.Errno) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&messages[0])), uintptr(len(messages)), unix.MSG_DONTWAIT, 0, 0)
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return 0, errno
		}
		return int(n), 0
	}
}
