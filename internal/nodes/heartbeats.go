package nodes

import (
	"sync"
	"time"
)

// Heartbeats remembers what this server knows of each node. The zero value is ready; it outlives leads.
type Heartbeats struct {
	mu      sync.Mutex
	nodes   map[string]sight
	waiters map[chan struct{}]bool
}

// sight is what is known of a node.
type sight struct {
	state  sightState
	since  time.Time // it was heard last, or began to be
	noted  time.Time // when it came to be what it is
	reason string
}

type sightState int

const (
	unknown sightState = iota // never heard
	alive
	silent    // not heard, which may be for many reasons
	confirmed // not heard by anybody
)

// Beat notes that a node is heard, from now until something else is noted.
func (h *Heartbeats) Beat(node string) { h.note(node, alive, "") }

// End notes that a node's session broke.
func (h *Heartbeats) End(node string) { h.note(node, silent, "its agent's session broke") }

// Silent notes that a node is not heard any more, and why that is believed.
func (h *Heartbeats) Silent(node, reason string) { h.note(node, silent, reason) }

// Confirm notes that nobody else reaches the node either.
func (h *Heartbeats) Confirm(node, reason string) { h.note(node, confirmed, reason) }

func (h *Heartbeats) note(node string, state sightState, reason string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.nodes == nil {
		h.nodes = map[string]sight{}
	}
	before := h.nodes[node]
	if before.state == state && before.reason == reason {
		return
	}
	now := sight{state: state, since: time.Now(), noted: time.Now(), reason: reason}
	if before.state >= silent && state >= silent {
		now.since = before.since
	}
	if before.state == state {
		now.noted = before.noted
	}
	h.nodes[node] = now
	for ch := range h.waiters {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}

// Dead reports whether a node's death is confirmed, and since when.
func (h *Heartbeats) Dead(node string) (since time.Time, dead bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	known := h.nodes[node]
	return known.noted, known.state == confirmed
}

// Watch returns a channel that holds a value when something was noted, and what ends that.
func (h *Heartbeats) Watch() (news <-chan struct{}, stop func()) {
	ch := make(chan struct{}, 1)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.waiters == nil {
		h.waiters = map[chan struct{}]bool{}
	}
	h.waiters[ch] = true
	return ch, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.waiters, ch)
	}
}

// look returns what is known of a node.
func (h *Heartbeats) look(node string) sight {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.nodes[node]
}
