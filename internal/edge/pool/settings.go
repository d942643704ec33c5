package pool

import (
	"slices"
	"strings"
	"time"
)

// Settings are how a pool spreads requests over its backends. The zero value is round-robin and nothing else.
type Settings struct {
	Balance   Balance
	Hash      HashKey       // what RingHash and Maglev keep together
	Sticky    *Sticky       // nil is no sessions
	SlowStart time.Duration // the weight of a backend that is new, or back from an ejection, grows over this time; not with RingHash and Maglev
	Zone      Zone
	Split     []Part // none is one part: everything
}

// HashKey names what of a request decides about its backend. Without it, and where both are empty, that is the
// client's address.
type HashKey struct{ Header, Cookie string }

// Sticky are sessions: a client stays at the backend that answered it first, as long as that is usable. They are kept in a
// cookie whose value names the backend to whoever has the key, and says nothing to others.
type Sticky struct {
	Cookie string        // its name; "" is DefaultCookie and the pool's name
	TTL    time.Duration // 0 is until the browser ends
	Key    []byte        // none is one of the Fleet's own: cookies of other edges, and those from before a restart, mean nothing
}

// Zone is the preference for backends in the Fleet's own zone. They get every request while their weight is at least
// Enough of their fair share, which is the usable backends' weight over the number of zones. With less they get
// the part of the requests that it is of Enough, and the other zones' backends the rest.
type Zone struct {
	Prefer bool
	Enough float64 // of the fair share; 0 is DefaultEnough
}

// DefaultEnough is how much of its fair share a zone must have to answer its own requests alone.
const DefaultEnough = 0.7

// Part is a share of the requests and the release that gets it. A release that no part names gets nothing
// while another part has a usable backend.
type Part struct {
	Release uint64 // 0 is every release that no other part names
	Weight  uint32 // of the sum of all; 0 is only what is pinned
	Header  Pin
	Cookie  Pin
}

// Pin is a header or cookie whose value sends a request to a part. The zero value pins nothing.
type Pin struct{ Name, Value string }

// hashes reports whether a request's key decides about its backend.
func (s *Settings) hashes() bool { return s.Balance == RingHash || s.Balance == Maglev }

// warms reports whether weights grow.
func (s *Settings) warms() bool { return s.SlowStart > 0 && !s.hashes() }

// reads reports whether anything in a request's header decides about its backend.
func (s *Settings) reads() bool {
	pinned := func(p Part) bool { return p.Header != Pin{} || p.Cookie != Pin{} }
	return s.Sticky != nil || s.hashes() && s.Hash != HashKey{} || slices.ContainsFunc(s.Split, pinned)
}

// clean returns settings in the form that requests are compared with.
func clean(s Settings) *Settings {
	s.Hash.Header = strings.ToLower(s.Hash.Header)
	s.Split = slices.Clone(s.Split)
	for i := range s.Split {
		s.Split[i].Header.Name = strings.ToLower(s.Split[i].Header.Name)
	}
	if s.Zone.Enough <= 0 {
		s.Zone.Enough = DefaultEnough
	}
	return &s
}

// partOf returns which part a release belongs to: an index into Split, or beyond its end what no part names.
func (s *Settings) partOf(release uint64) int {
	rest := len(s.Split)
	for i := range s.Split {
		switch s.Split[i].Release {
		case release:
			return i
		case 0:
			rest = i
		}
	}
	return rest
}
