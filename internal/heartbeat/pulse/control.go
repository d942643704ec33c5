package pulse

import (
	"encoding/binary"
	"net/netip"
	"time"
)

// The file descriptors that a pulse is started with.
const (
	SocketFD  = 3 // UDP
	ControlFD = 4 // a SOCK_SEQPACKET of Orders and Reports
	PageFD    = 5 // a memory file of PageSize
	UrgentFD  = 6 // UDP, for what Urgent says; it may be missing
)

// Verb is what an Order asks for.
type Verb uint32

// The verbs.
const (
	Add     Verb = 1 // hold a link, in the place of the one that has its number
	Drop    Verb = 2 // forget a link
	Pace    Verb = 3 // beat at another interval
	Ask     Verb = 4 // make a ping for others to carry; it comes as a Report
	Carried Verb = 5 // take in a datagram that another node carried here
)

// Order is what a parent asks of its pulse.
type Order struct {
	Verb        Verb
	Link        uint32
	Generation  uint32         // tells this link from earlier ones of the same number
	Peer        netip.AddrPort // where its beats go
	Channel     uint32         // what the peer calls the link
	Send, Watch bool           // whether we beat, and whether we listen
	Out, In     [KeySize]byte
	OutSeq      uint64 // the numbers that come next follow these: no number is used twice under one key, not by two processes either
	InSeq       uint64
	Interval    time.Duration
	Number      uint32 // of a ping
	Datagram    []byte
}

const (
	orderHead = 4 + 4 + 4 + 18 + 4 + 4 + 2*KeySize + 16 + 8 + 4
	orderSize = orderHead + DatagramSize
)

// Append writes the order's form on the wire.
func (o Order) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(o.Verb))
	b = binary.BigEndian.AppendUint32(b, o.Link)
	b = binary.BigEndian.AppendUint32(b, o.Generation)
	ip := o.Peer.Addr().As16()
	b = append(b, ip[:]...)
	b = binary.BigEndian.AppendUint16(b, o.Peer.Port())
	b = binary.BigEndian.AppendUint32(b, o.Channel)
	var flags uint32
	if o.Send {
		flags |= 1
	}
	if o.Watch {
		flags |= 2
	}
	b = binary.BigEndian.AppendUint32(b, flags)
	b = append(append(b, o.Out[:]...), o.In[:]...)
	b = binary.BigEndian.AppendUint64(b, o.OutSeq)
	b = binary.BigEndian.AppendUint64(b, o.InSeq)
	b = binary.BigEndian.AppendUint64(b, uint64(max(o.Interval, 0)))
	b = binary.BigEndian.AppendUint32(b, o.Number)
	return append(b, o.Datagram...)
}

// parseOrder reads an order; ok is false for what is none.
func parseOrder(b []byte) (o Order, ok bool) {
	if len(b) < orderHead || len(b) > orderSize {
		return o, false
	}
	o.Verb, o.Link, o.Generation = Verb(binary.BigEndian.Uint32(b)), binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:])
	addr := netip.AddrFrom16([16]byte(b[12:28])).Unmap()
	o.Peer = netip.AddrPortFrom(addr, binary.BigEndian.Uint16(b[28:]))
	o.Channel = binary.BigEndian.Uint32(b[30:])
	flags := binary.BigEndian.Uint32(b[34:])
	o.Send, o.Watch = flags&1 != 0, flags&2 != 0
	o.Out, o.In = [KeySize]byte(b[38:]), [KeySize]byte(b[38+KeySize:])
	rest := b[38+2*KeySize:]
	o.OutSeq, o.InSeq = binary.BigEndian.Uint64(rest), binary.BigEndian.Uint64(rest[8:])
	o.Interval = time.Duration(binary.BigEndian.Uint64(rest[16:]) & (1<<63 - 1)) //nolint:gosec // bounded
	o.Number = binary.BigEndian.Uint32(rest[24:])
	o.Datagram = b[orderHead:]
	return o, o.Link < MaxLinks
}

// Report is what a pulse tells its parent: a link's new state, or a ping that was asked for.
type Report struct {
	Link, Generation uint32
	State            State
	Ping             []byte // nil: it is about the state
}

// MaxReport is the size of the largest report.
const MaxReport = 12 + DatagramSize

func (r Report) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, r.Link)
	b = binary.BigEndian.AppendUint32(b, r.Generation)
	b = binary.BigEndian.AppendUint32(b, uint32(r.State))
	return append(b, r.Ping...)
}

// ParseReport reads a report; ok is false for what is none.
func ParseReport(b []byte) (r Report, ok bool) {
	if len(b) != 12 && len(b) != MaxReport {
		return r, false
	}
	r = Report{Link: binary.BigEndian.Uint32(b), Generation: binary.BigEndian.Uint32(b[4:]), State: State(binary.BigEndian.Uint32(b[8:]))}
	if len(b) == MaxReport {
		r.Ping = b[12:]
	}
	return r, r.Link < MaxLinks
}
