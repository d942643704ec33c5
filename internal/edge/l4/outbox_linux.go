package l4

import (
	"encoding/binary"
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// outbox gathers datagrams that one socket sends. Those of one session that follow each other and are of one size are given to the
// kernel as one message, which it cuts apart as late as it can (UDP_SEGMENT): the way through its layers is nearly all
// that sending costs. They stay where they were received until they are sent. Use init.
type outbox struct {
	messages []message
	vectors  []unix.Iovec
	controls []control
	parcels  []parcel
	used     int // messages
	slots    int // vectors
}

// init makes room for what so many slots hold.
func (o *outbox) init(slots int) {
	o.messages, o.vectors = make([]message, slots), make([]unix.Iovec, slots)
	o.controls, o.parcels = make([]control, slots), make([]parcel, slots)
}

// parcel is what a message holds.
type parcel struct {
	session *udpSession
	slot    int  // the first of the batch's
	count   int  // datagrams
	size    int  // of each, but for the last one
	bytes   int  // of all
	ended   bool // the last one is shorter
}

// The most that one message holds, by what every kernel takes.
const (
	maxSegments = 64
	maxParcel   = 64_000
)

// put gathers what a slot holds: datagrams of the given size each, or one when that is 0. They go to where to says, by what from says, or
// to where the socket is connected to. There is room for a whole batch.
func (o *outbox) put(s *udpSession, slot int, data []byte, size int, to *sockaddr, from *control) {
	if size <= 0 || size > len(data) {
		size = len(data)
	}
	next := parcel{session: s, slot: slot, count: 1, size: size, bytes: len(data)}
	if size > 0 {
		next.count = (len(data) + size - 1) / size
		next.ended = len(data)%size != 0
	}
	v := &o.vectors[o.slots]
	v.Base = unsafe.SliceData(data)
	v.SetLen(len(data))
	o.slots++
	if o.used > 0 && o.parcels[o.used-1].join(&next) {
		h := &o.messages[o.used-1].head
		h.SetIovlen(int(h.Iovlen) + 1) //nolint:gosec // a small number
		return
	}
	o.parcels[o.used] = next
	h := &o.messages[o.used].head
	*h = unix.Msghdr{Iov: v}
	h.SetIovlen(1)
	if to != nil {
		h.Name, h.Namelen = &to.raw[0], to.length
	}
	if from != nil && from.length > 0 {
		h.Control = &from.raw[0]
		h.SetControllen(from.length)
	}
	o.used++
}

// join takes in what follows, if that may go in the same message.
func (p *parcel) join(next *parcel) bool {
	if p.session != next.session || p.session.apart || p.ended || p.size == 0 || next.size == 0 ||
		p.count+next.count > maxSegments || p.bytes+next.bytes > maxParcel {
		return false
	}
	if next.size != p.size && (next.count > 1 || next.size > p.size) {
		return false
	}
	p.ended = next.ended || next.size < p.size
	p.count += next.count
	p.bytes += next.bytes
	return true
}

// reset forgets what was gathered.
func (o *outbox) reset() {
	clear(o.parcels[:o.used]) // sessions may end
	o.used, o.slots = 0, 0
}

// send sends the messages from first on. It returns how many bytes were sent, and with an error at which message it stopped.
func (o *outbox) send(fd, first int) (bytes, stopped int, err error) {
	for i := first; i < o.used; {
		if o.cut(i) {
			n, err := o.sendApart(fd, i)
			bytes += n
			if i++; err != nil {
				return bytes, i - 1, err
			}
			continue
		}
		end := i
		for ; end < o.used && !o.cut(end); end++ {
			o.mark(end)
		}
		n, errno := sendMany(fd, o.messages[i:end])
		for _, p := range o.parcels[i : i+n] {
			bytes += p.bytes
		}
		i += n
		switch {
		case errno == 0:
		case o.parcels[i].count > 1 && refusesSegments(errno):
			o.parcels[i].session.apart = true
		default:
			return bytes, i, errno
		}
	}
	return bytes, o.used, nil
}

// cut reports whether a message must be cut apart here, because the kernel would not.
func (o *outbox) cut(i int) bool { return o.parcels[i].count > 1 && o.parcels[i].session.apart }

// mark tells the kernel the size of a message's datagrams.
func (o *outbox) mark(i int) {
	p, h, c := &o.parcels[i], &o.messages[i].head, &o.controls[i]
	if p.count == 1 || h.Control == &c.raw[0] {
		return
	}
	c.length = 0
	if h.Control != nil {
		c.length = copy(c.raw[:], unsafe.Slice(h.Control, int(h.Controllen)))
	}
	var size [2]byte
	binary.NativeEndian.PutUint16(size[:], uint16(p.size)) //nolint:gosec // at most maxDatagram
	c.put(unix.Cmsghdr{Level: unix.SOL_UDP, Type: unix.UDP_SEGMENT}, size[:])
	h.Control = &c.raw[0]
	h.SetControllen(c.length)
}

// refusesSegments reports whether an error may be one of UDP_SEGMENT: datagrams that are longer than the path takes at once, a device
// or a kernel that cannot.
func refusesSegments(errno unix.Errno) bool {
	return errors.Is(errno, unix.EINVAL) || errors.Is(errno, unix.EMSGSIZE) || errors.Is(errno, unix.EIO) || errors.Is(errno, unix.EOPNOTSUPP)
}

// sendApart sends the datagrams of one message one by one, and returns the last error.
func (o *outbox) sendApart(fd, i int) (bytes int, err error) {
	p, h := &o.parcels[i], &o.messages[i].head
	one := [1]message{{head: *h}}
	control := &o.controls[i]
	if h.Control == &control.raw[0] { // it was marked before the kernel refused
		one[0].head.SetControllen(control.length - unix.CmsgSpace(2))
	}
	for _, v := range unsafe.Slice(h.Iov, int(h.Iovlen)) {
		for data := unsafe.Slice(v.Base, int(v.Len)); len(data) > 0; data = data[min(p.size, len(data)):] {
			piece := unix.Iovec{Base: &data[0]}
			piece.SetLen(min(p.size, len(data)))
			one[0].head.Iov = &piece
			one[0].head.SetIovlen(1)
			if _, errno := sendMany(fd, one[:]); errno != 0 {
				err = errno
				continue
			}
			bytes += min(p.size, len(data))
		}
	}
	return bytes, err
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
