package pulse

import (
	"sync/atomic"
	"unsafe"
)

// MaxLinks is how many links there may be.
const MaxLinks = 2048

// State is what is known of a link's peer.
type State uint32

// The states. The zero State is that of a link that does not watch.
const (
	Unwatched State = iota
	Unheard         // no beat has come yet: that says nothing
	Alive
	Silent // it should have been heard
	Held   // as Silent, but so are more than half of all: the fault is taken to be here
	Hung   // it beats, but its parent does not run
	Ended  // it said that its parent has ended
)

func (s State) String() string {
	return [...]string{"unwatched", "unheard", "alive", "silent", "held", "hung", "ended"}[min(s, Ended)]
}

// Page is the memory that a pulse shares with its parent. Each word has one writer.
type Page struct {
	Touched    atomic.Int64 // by the parent: when it last ran, on the monotonic clock
	Thread     atomic.Int64 // by the parent: the thread that lives as long as it does; 0 is none yet
	Started    atomic.Int64 // by the pulse, as all below: when it began
	Priority   atomic.Uint32
	Panicking  atomic.Uint32
	Stalls     atomic.Uint64 // times it was kept from running for longer than a beat allows
	WorstStall atomic.Int64
	Refused    atomic.Uint64 // datagrams that were none, or not for us
	Rounds     atomic.Uint64
	_          [PageHead - 8*8]byte

	Links [MaxLinks]LinkPage
}

// LinkPage is what is known of one link.
type LinkPage struct {
	Generation atomic.Uint32 // of the link that is told about
	State      atomic.Uint32
	Heard      atomic.Int64 // when its peer's last beat came
	Relayed    atomic.Int64 // when its peer last answered through somebody else
	Timeout    atomic.Int64
	Stall      atomic.Int64 // the longest that its peer said it was kept from running
	Beats      atomic.Uint64
	Lost       atomic.Uint64
	Changed    atomic.Int64 // when State did
	Suspicions atomic.Uint64
	Seq        atomic.Uint64 // of its peer's last datagram
}

const (
	// PageHead is where the links begin.
	PageHead = 128
	// PageSize is the size of a Page.
	PageSize = int(unsafe.Sizeof(Page{}))
)

// The priorities a pulse may have got.
const (
	Normal uint32 = iota
	Nice          // the best of the ordinary ones
	RealTime
)
