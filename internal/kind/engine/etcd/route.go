package etcd

import (
	"context"
	"errors"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// hedgeAfter is how long a member may take to answer before the next one is asked as well.
const hedgeAfter = 300 * time.Millisecond

// route is the way to a cluster: a client for each member, of which one is used until another answers sooner. A member that is
// cut off from the others still takes requests and holds them for seconds; a single client for all members would go on
// giving it its share of them.
type route struct {
	clients []*clientv3.Client

	mu      sync.Mutex
	current int
	changed chan struct{} // closed when another member is used
}

func newRoute(clients ...*clientv3.Client) *route {
	return &route{clients: clients, changed: make(chan struct{})}
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

// answer is what a member said.
type answer struct {
	member int
	resp   *clientv3.GetResponse
	err    error
}

// ask puts a question that has no effect to the member in use, and to the others too when it is slow or fails. The one that
// answers first is used from then on.
func (r *route) ask(ctx context.Context, question func(context.Context, *clientv3.Client) (*clientv3.GetResponse, error)) (*clientv3.GetResponse, error) {
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
	hedge := time.NewTicker(hedgeAfter)
	defer hedge.Stop()
	for {
		var slow <-chan time.Time
		if asked < len(r.clients) {
			slow = hedge.C
		}
		select {
		case a := <-answers:
			if a.err == nil {
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
