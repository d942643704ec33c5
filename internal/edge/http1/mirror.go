package http1

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"vortex/internal/edge/pool"
)

// Bounds of mirroring: what goes beyond them is not sent, and counted as dropped.
const (
	mirrorLimit   = 128              // copies on their way at the same time
	mirrorTimeout = 30 * time.Second // from a copy's beginning to the end of its answer
)

// mirror sends copies of requests to other pools and throws the answers away. It has goroutines and connections of its own, so
// that a copy takes nothing from the request it was made of but the time to copy its bytes.
type mirror struct {
	srv   *Server
	slots chan struct{}
	group sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]struct{} // nil once the server has shut down
}

func newMirror(s *Server) *mirror {
	return &mirror{srv: s, slots: make(chan struct{}, mirrorLimit), conns: map[net.Conn]struct{}{}}
}

// mirror sends a copy of the request in head to another pool, when it is this one's turn. A body that is streamed is not copied, and a
// connection that changes its protocol has no meaning for one side alone.
func (c *conn) mirror(p *pool.Pool) {
	if c.streams() || c.req.upgrade {
		return
	}
	if to := p.Mirrored(); to != nil {
		c.srv.mirror.send(to, c.head, c.req.kind == methodHead)
	}
}

// send sends a copy of a request in the background, unless too many are on their way. head is that its answer has no body.
func (m *mirror) send(to *pool.Pool, request []byte, head bool) {
	select {
	case m.slots <- struct{}{}:
	default:
		m.srv.Meters.Mirrored(false)
		return
	}
	request = bytes.Clone(request)
	m.group.Go(func() {
		sent := m.exchange(to, request, head) == nil
		m.srv.Meters.Mirrored(sent)
		<-m.slots
	})
}

// errNoCopy is that a copy was not sent: there is no backend for it, or the pool has enough to do.
var errNoCopy = errors.New("the copy was not sent")

// exchange sends a copy and reads its answer to the end. It counts as the other pool's request, like any other.
func (m *mirror) exchange(to *pool.Pool, request []byte, head bool) error {
	began := m.srv.Now()
	inFlight := to.Meter.Start(began)
	defer to.Meter.Finish()
	if to.Admit(inFlight) != nil {
		return errNoCopy
	}
	b := to.Pick(rand.Uint64(), began, &pool.Tried{})
	if b == nil {
		return errNoCopy
	}
	defer b.Done()
	u, err := m.srv.connect(b, false, m.srv.ConnectTimeout)
	if err != nil {
		if isDead(err) {
			b.Failed(m.srv.Now())
			b.MarkDead(m.srv.Now() + int64(m.srv.SkipDead))
		}
		return err
	}
	reusable, err := m.ask(to, u, request, head, began)
	if err != nil || !reusable {
		closeQuietly(u.tcp)
		return err
	}
	b.PutIdle(u, m.srv.Now())
	return nil
}

// ask sends the request on a connection and reads the answer, and reports whether the connection can carry another.
func (m *mirror) ask(to *pool.Pool, u *upstream, request []byte, head bool, began int64) (reusable bool, err error) {
	if !m.open(u.tcp) {
		return false, net.ErrClosed
	}
	defer m.closed(u.tcp)
	if err := u.tcp.SetDeadline(time.Now().Add(mirrorTimeout)); err != nil {
		return false, err
	}
	if _, err := u.tcp.Write(request); err != nil {
		return false, err
	}
	r, err := m.read(u)
	if err != nil {
		if !u.reused { // else it may just have been idle for too long
			u.backend.Failed(m.srv.Now())
		}
		return false, err
	}
	now := m.srv.Now()
	u.backend.Served(now, r.status)
	to.Meter.Answered(now, r.status, time.Duration(now-began))
	kind := r.bodyKind(head)
	body := newBody(kind, r.length, false)
	if err := drain(&u.in, &body); err != nil {
		return false, err
	}
	return r.status != 101 && r.persistent(kind) && u.in.len() == 0, u.tcp.SetDeadline(time.Time{})
}

// read receives the head of the final response.
func (m *mirror) read(u *upstream) (r response, err error) {
	for first := true; ; first = false {
		text, err := u.readHead(m.srv.MaxHeaderBytes, first)
		if err != nil {
			return r, err
		}
		if err := r.parse(text); err != nil {
			return r, err
		}
		u.in.discard(len(text))
		if r.status >= 200 || r.status == 101 {
			return r, nil
		}
	}
}

// drain reads a body to its end.
func drain(in *reader, body *body) error {
	for {
		data, err := body.step(in)
		switch {
		case err == io.EOF: //nolint:errorlint // step returns it bare
			return nil
		case err != nil:
			return err
		case len(data) > 0:
			in.discard(len(data))
			continue
		}
		if err := in.fill(bulkBuffer); err != nil {
			if err == io.EOF && body.kind == bodyClose { //nolint:errorlint // fill returns it bare
				return nil
			}
			return err
		}
	}
}

// open keeps a connection for end to close, and reports whether the server goes on.
func (m *mirror) open(tcp net.Conn) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conns == nil {
		return false
	}
	m.conns[tcp] = struct{}{}
	return true
}

func (m *mirror) closed(tcp net.Conn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.conns, tcp)
}

// end gives up the copies that are on their way. No request may be served any more.
func (m *mirror) end() {
	m.mu.Lock()
	for tcp := range m.conns {
		closeQuietly(tcp)
	}
	m.conns = nil
	m.mu.Unlock()
	m.group.Wait()
}
