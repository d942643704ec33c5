package pool

import (
	"bytes"
	"net/netip"
)

// Want is what a request asks of the choice of its backend. The zero value asks for nothing.
type Want struct {
	Key uint64 // hash of what RingHash and Maglev keep together

	stuck *Backend // where its session is
	pin   int      // which part it is pinned to: one more than its index in Settings.Split
}

// Ask gathers what a pool wants to know of one request. It is a value, keeps nothing of what it is shown, and neither locks nor
// allocates:
//
//	ask := p.Ask()
//	if ask.Hashes() { ask.Client(address) }
//	if ask.Reads() {
//		for each header field { ask.Field(name, value) }
//	}
//	b := p.Choose(ask.Want(), now, &tried)
//	…
//	head = p.AppendCookie(head, want, b, secure)
type Ask struct {
	want   Want
	m      *members
	hashed bool
}

// Ask begins to ask about a request.
func (p *Pool) Ask() Ask { return Ask{m: p.members.Load()} }

// Hashes reports whether the client's address may matter.
func (a *Ask) Hashes() bool { return a.m.settings.hashes() }

// Client takes in the client's address. A header or cookie that is to decide outranks it.
func (a *Ask) Client(addr netip.Addr) {
	if !a.hashed {
		a.want.Key = AddrKey(addr)
	}
}

// Reads reports whether the request's header fields matter.
func (a *Ask) Reads() bool { return a.m.reads }

// Field takes in one header field. Of several that would decide the first does.
func (a *Ask) Field(name, value []byte) {
	if equalFold(name, "cookie") {
		a.cookies(value)
	}
	s := a.m.settings
	if s.Hash.Header != "" && equalFold(name, s.Hash.Header) {
		a.hash(value)
	}
	for i := range s.Split {
		if pin := &s.Split[i].Header; pin.Name != "" && equalFold(name, pin.Name) && string(value) == pin.Value {
			a.pin(i)
		}
	}
}

// cookies takes in a Cookie field (RFC 6265, 4.2.1).
func (a *Ask) cookies(list []byte) {
	for len(list) > 0 {
		var pair []byte
		pair, list, _ = bytes.Cut(list, []byte(";"))
		name, value, ok := bytes.Cut(bytes.Trim(pair, " \t"), []byte("="))
		if ok {
			a.cookie(name, bytes.Trim(value, `"`))
		}
	}
}

func (a *Ask) cookie(name, value []byte) {
	s := a.m.settings
	if a.m.sessions != nil && a.want.stuck == nil && string(name) == a.m.sessions.name {
		a.want.stuck = a.m.sessions.tokens[string(value)]
	}
	if s.Hash.Cookie != "" && string(name) == s.Hash.Cookie {
		a.hash(value)
	}
	for i := range s.Split {
		if pin := &s.Split[i].Cookie; pin.Name != "" && string(name) == pin.Name && string(value) == pin.Value {
			a.pin(i)
		}
	}
}

func (a *Ask) hash(value []byte) {
	if !a.hashed && a.m.settings.hashes() {
		a.want.Key, a.hashed = BytesKey(value), true
	}
}

func (a *Ask) pin(part int) {
	if a.want.pin == 0 || a.want.pin > part+1 {
		a.want.pin = part + 1
	}
}

// Want returns what the request asks for. A pin outranks a session, and so does a part that gets nothing but what is pinned.
func (a *Ask) Want() Want {
	w := a.want
	if s := a.m.settings; w.stuck != nil && len(s.Split) > 0 {
		part := s.partOf(w.stuck.Release)
		if w.pin > 0 && w.pin != part+1 || w.pin == 0 && (part == len(s.Split) || s.Split[part].Weight == 0) {
			w.stuck = nil
		}
	}
	return w
}

// equalFold compares with lower, which is in lower case.
func equalFold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}
