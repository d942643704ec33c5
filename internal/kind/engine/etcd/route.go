package etcd

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	hedgeAfter = 300 * time.Millisecond // how long a member may take to answer before the next one is asked as well
	doubtAfter = 150 * time.Millisecond // the same, for one that owes an answer already
	quietAfter = time.Second            // a member that said nothing for so long is asked whether it hears
)

// errLeft is why a request ended whose member is not the one in use any more.
var errLeft = errors.New("another member is used")

// route is the way to a cluster: a client for each member, of which one is used until another answers sooner. A member that is
// cut off from the others still takes requests and holds them for seconds; a single client for all members would go on
// giving it its share of them.
type route struct {
	clients []*clientv3.Client
	doubt   chan struct{} // one slot: the member in use owes an answer
	heard   atomic.Int64  // when a member said something, Unix nanoseconds

	mu      sync.Mutex
	current int
	changed chan struct{} // closed when another member is used
}

func newRoute(clients ...*clientv3.Client) *route {
	return &route{clients: clients, doubt: make(chan struct{}, 1), changed: make(chan struct{})}
}

// now returns the client of the member in use, and what is closed when that is another.
func (r *route) now() (*clientv3.Client, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.clients[r.current], r.changed
}

func (r *route) client() *clientv3.Client {
	c, _ := r.now()
	return c
}

// use makes a member the one in use.
func (r *route) use(i int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if i == r.current {
		return
	}
	r.current = i
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *route) hear() { r.heard.Store(time.Now().UnixNano()) }

// bind returns the client of the member in use and the context of a request to it, which ends with errLeft soon after another member is used: what a
// lost member owes may never come, and its connection may seem whole for long. A request that waits raises doubt about its member.
func (r *route) bind(ctx context.Context) (c *clientv3.Client, bound context.Context, release func()) {
	c, changed := r.now()
	if len(r.clients) == 1 {
		return c, ctx, func() {}
	}
	bound, cancel := context.WithCancelCause(ctx)
	late := time.AfterFunc(hedgeAfter, func() {
		select {
		case r.doubt <- struct{}{}:
		default:
		}
	})
	go func() {
		select {
		case <-bound.Done():
		case <-changed:
			wait(bound, afterwards)
			cancel(errLeft)
		}
	}()
	return c, bound, func() {
		late.Stop()
		cancel(nil)
	}
}

// tend asks the members, until ctx ends, when there is doubt about the one in use or nothing was heard for a while: a member that lost its power or is cut off
// says nothing, and gRPC itself would notice after twelve seconds.
func (r *route) tend(ctx context.Context, question question) {
	quiet := time.NewTicker(quietAfter)
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.doubt:
		case <-quiet.C:
			if time.Since(time.Unix(0, r.heard.Load())) < quietAfter {
				continue
			}
		}
		asked, cancel := context.WithTimeout(ctx, patience)
		_, _ = r.ask(asked, doubtAfter, question) // who answers first is used; when nobody does there is nothing to change
		cancel()
	}
}

// question is one that has no effect.
type question func(context.Context, *clientv3.Client) (*clientv3.GetResponse, error)

// answer is what a member said.
type answer struct {
	member int
	resp   *clientv3.GetResponse
	err    error
}

// ask puts a question to the member in use, and to one more of the others each time that so long has passed without an answer, or one fails. The one that
// answers first is used from then on.
func (r *route) ask(ctx context.Context, after time.Duration, question question) (*clientv3.GetResponse, error) {
	if len(r.clients) == 1 {
		return question(ctx, r.clients[0])
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan answer, len(r.clients))
	r.mu.Lock()
	next := r.current
	r.mu.Unlock()
	asked, failed := 0, 0
	more := func() {
		member := next % len(r.clients)
		next++
		asked++
		go func() {
			resp, err := question(ctx, r.clients[member])
			answers <- answer{member, resp, err}
		}()
	}
	more()
	hedge := time.NewTicker(after)
	defer hedge.Stop()
	for {
		var slow <-chan time.Time
		if asked < len(r.clients) {
			slow = hedge.C
		}
		select {
		case a := <-answers:
			if a.err == nil {
				r.hear()
				r.use(a.member)
				return a.resp, nil
			}
			if failed++; failed == len(r.clients) || ctx.Err() != nil {
				return nil, a.err
			}
			if asked < len(r.clients) {
				more()
			}
		case <-slow:
			more()
		}
	}
}

// close lets go of every member.
func (r *route) close() error {
	var problems []error
	for _, c := range r.clients {
		problems = append(problems, c.Close())
	}
	return errors.Join(problems...)
}
