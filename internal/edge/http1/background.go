package http1

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// watchAfter is how long a request may take before somebody looks whether its client is still there.
const watchAfter = 250 * time.Millisecond

var errStopped = errors.New("background reader stopped")

// background reads from the client while the connection's goroutine waits for the backend: it sends the
// request's body on, if it has one to stream, and then watches for the client to leave. While it runs it owns conn.in.
type background struct {
	conn    *conn
	timer   *time.Timer
	ended   chan struct{} // one token for every run
	running bool          // a run was started, or will be by the timer
	timed   bool          // … by the timer

	up    *upstream // where the body goes
	relay relay
	body  body
	from  time.Time // when the body had begun to come; zero before
	// Valid when stopped: why the body did not reach its end, and whether the client is to blame.
	err    error
	faulty bool

	mu       sync.Mutex
	stopping bool
	severed  bool          // the server has cut the connection: no client comes back to it
	left     chan struct{} // closed when the client left; made on demand
	gone     atomic.Bool   // the client left
}

// reset prepares for a request.
func (b *background) reset() {
	b.err, b.faulty = nil, false
	b.up, b.relay, b.body, b.from = nil, relay{}, body{}, time.Time{}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.gone.Store(b.severed)
	b.left = nil
}

// watch begins to watch for the client to leave once the request has taken a while.
func (b *background) watch(after time.Duration) {
	if b.running {
		return
	}
	b.begin()
	b.timed = true
	if b.timer == nil {
		b.timer = time.AfterFunc(after, b.runWatch)
	} else {
		b.timer.Reset(after)
	}
}

// pump begins to send the request's body.
func (b *background) pump(up *upstream) {
	b.begin()
	b.timed = false
	b.up = up
	go b.runPump()
}

func (b *background) begin() {
	b.err = nil
	if b.ended == nil {
		b.ended = make(chan struct{}, 1)
	}
	b.running = true
	b.mu.Lock()
	b.stopping = false
	b.mu.Unlock()
}

// stop ends a run and gives conn.in back. It returns at once when none was started.
func (b *background) stop() {
	if !b.running {
		return
	}
	b.running = false
	if b.timed && b.timer.Stop() {
		return
	}
	b.mu.Lock()
	b.stopping = true
	_ = b.conn.tcp.SetReadDeadline(longAgo) // fails on a closed connection, whose read has ended anyway
	b.mu.Unlock()
	if b.timed {
		<-b.ended
		return
	}
	_ = b.up.tcp.SetWriteDeadline(longAgo) // likewise
	<-b.ended
	_ = b.up.tcp.SetWriteDeadline(time.Time{}) // a connection that failed here is not used again
}

var longAgo = time.Unix(1, 0)

// whenLeft returns a channel that is closed when the client leaves.
func (b *background) whenLeft() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left == nil {
		b.left = make(chan struct{})
		if b.gone.Load() {
			close(b.left)
		}
	}
	return b.left
}

// deadline sets until when the next read may wait, unless the run is to stop. Zero is for ever.
func (b *background) deadline(d time.Duration) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopping {
		return errStopped
	}
	var at time.Time
	if d > 0 {
		at = time.Now().Add(d)
	}
	return b.conn.tcp.SetReadDeadline(at)
}

func (b *background) runWatch() {
	b.lookOut()
	b.ended <- struct{}{}
}

func (b *background) runPump() {
	if b.send() {
		b.conn.awaitResponse(b.up)
		b.lookOut()
	}
	b.ended <- struct{}{}
}

// lookOut returns when the client left, sent its next request, or the run is to stop.
func (b *background) lookOut() {
	if b.conn.in.len() > 0 || b.deadline(0) != nil {
		return
	}
	err := b.conn.in.fill(minBuffer)
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, errTooLarge) {
		return
	}
	b.leave()
}

// leave gives the request up.
func (b *background) leave() {
	b.mu.Lock()
	b.setGone()
	b.mu.Unlock()
	b.conn.abort()
}

// sever makes the client gone, for this request and for one that is about to begin.
func (b *background) sever() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.severed = true
	b.setGone()
}

// setGone is called with mu held.
func (b *background) setGone() {
	if !b.gone.Swap(true) && b.left != nil { // a second run sees the same end
		close(b.left)
	}
}

// send moves the body and reports whether it reached its end. A fault of the client's side gives the request up; one of
// the backend's side does not, since it may have answered before it had read everything.
func (b *background) send() bool {
	b.err = b.relay.run()
	if b.err == nil {
		return true
	}
	failed, ok := errors.AsType[*relayError](b.err)
	switch {
	case !ok || failed.sending || errors.Is(failed.err, errStopped):
	case isMalformed(failed.err), errors.Is(failed.err, errBodyTooLarge), errors.Is(failed.err, os.ErrDeadlineExceeded) && !b.isStopping():
		b.faulty = true
		b.conn.abort()
	case !errors.Is(failed.err, os.ErrDeadlineExceeded):
		b.leave()
	}
	return false
}

func (b *background) isStopping() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.stopping
}
