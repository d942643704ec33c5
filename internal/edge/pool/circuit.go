package pool

import "math"

// Circuit bounds what a pool takes on, so that an app that is slow does not take the edge, and others, with it. 0 is no limit.
type Circuit struct {
	Connections int64 // requests that are with a backend, each of which has a connection there
	Requests    int64 // requests in flight, those that wait for a backend included
	Retries     int64 // requests in flight that are sent a second time
	Pending     int64 // requests that wait for a backend; 0 is Config.MaxHeld, negative is that none may

	BackendConnections int64 // connections of one backend, idle ones included
	BackendRequests    int64 // requests in flight on one backend; further ones wait
}

// perBackend returns how many requests one backend takes at the same time.
func (c *Circuit) perBackend() int64 {
	limit := int64(math.MaxInt64)
	if c == nil {
		return limit
	}
	for _, n := range []int64{c.BackendConnections, c.BackendRequests} {
		if n > 0 {
			limit = min(limit, n)
		}
	}
	return limit
}

// LimitError is a bound that a request met, by its name.
type LimitError string

// The limits.
const (
	ErrConnections LimitError = "connections"
	ErrRequests    LimitError = "requests"
	ErrRetries     LimitError = "retries"
	ErrFull        LimitError = "pending" // too many requests wait
	ErrBusy        LimitError = "backend" // every backend has as many requests as it may, and none was done in time
)

// limits in the order in which they are counted.
var limits = [...]LimitError{ErrConnections, ErrRequests, ErrRetries, ErrFull, ErrBusy}

// Error implements error.
func (l LimitError) Error() string {
	switch l {
	case ErrConnections:
		return "too many connections to its backends are in use"
	case ErrRequests:
		return "too many requests are in flight"
	case ErrRetries:
		return "too many requests are sent again already"
	case ErrFull:
		return "too many requests wait for a backend already"
	case ErrBusy:
		return "every backend has as many requests as it may"
	}
	return string(l)
}

// Admit reports the limit that a new request exceeds as an error, nil when it may go on. inFlight is how many requests there
// are with this one, as Meter.Start returns it.
func (p *Pool) Admit(inFlight int64) error {
	c := p.health.Load().Circuit
	switch {
	case c == nil:
	case c.Requests > 0 && inFlight > c.Requests:
		return p.refuse(ErrRequests)
	case c.Connections > 0 && inFlight-p.held.Load() > c.Connections:
		return p.refuse(ErrConnections)
	}
	return nil
}

// BeginRetry counts a request that is sent a second time, which EndRetry ends. It is ErrRetries when there are enough.
func (p *Pool) BeginRetry() error {
	n := p.retries.Add(1)
	if c := p.health.Load().Circuit; c != nil && c.Retries > 0 && n > c.Retries {
		p.retries.Add(-1)
		return p.refuse(ErrRetries)
	}
	return nil
}

// EndRetry ends what BeginRetry began.
func (p *Pool) EndRetry() { p.retries.Add(-1) }

// pendingLimit returns how many requests may wait for a backend.
func (p *Pool) pendingLimit() int64 {
	if c := p.health.Load().Circuit; c != nil && c.Pending != 0 {
		return max(c.Pending, 0)
	}
	return p.maxHeld
}

// refuse counts a request that met a limit, and returns it.
func (p *Pool) refuse(l LimitError) error {
	for i := range limits {
		if limits[i] == l {
			p.refused[i].Add(1)
		}
	}
	return l
}

// Refused calls yield with every limit that requests met, and how many did.
func (p *Pool) Refused(yield func(LimitError, uint64) bool) {
	for i, l := range limits {
		if n := p.refused[i].Load(); n > 0 && !yield(l, n) {
			return
		}
	}
}

// full reports whether the backend has as many requests as it may.
func (b *Backend) full() bool { return b.InFlight() >= b.limit.Load() }

// wake lets a waiting request look again. Whoever finds a backend wakes the next.
func (p *Pool) wake() {
	if p.held.Load() == 0 {
		return
	}
	select {
	case p.freed <- struct{}{}:
	default:
	}
}
