package etcd

import (
	"context"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// progress is the newest revision that is known to be one of ours.
type progress struct {
	mu       sync.Mutex
	revision int64
	advanced chan struct{} // closed when revision grows; nil while nobody waits
}

// to notes a revision.
func (p *progress) to(revision int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if revision <= p.revision {
		return
	}
	p.revision = revision
	if p.advanced != nil {
		close(p.advanced)
		p.advanced = nil
	}
}

// reaches reports whether a revision is reached before ctx ends.
func (p *progress) reaches(ctx context.Context, revision int64) bool {
	for {
		p.mu.Lock()
		done := p.revision >= revision
		if !done && p.advanced == nil {
			p.advanced = make(chan struct{})
		}
		advanced := p.advanced
		p.mu.Unlock()
		if done {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-advanced:
		}
	}
}

// markerKey is rewritten to make a revision of ours; readers and watchers do not see it.
const markerKey = "\x00vortex-index"

// lag is how long our own watch may take to show a revision before it is held for somebody else's.
const lag = 20 * time.Millisecond

// remoteIndex asks an external cluster for its newest revision with a linearizable read. The cluster may serve others,
// whose revisions no watch of ours ever reaches: then the answer is that of a marker written just now.
func (e *Engine) remoteIndex(ctx context.Context) (int64, error) {
	resp, err := e.route.ask(ctx, hedgeAfter, e.count)
	if err != nil {
		return 0, err
	}
	revision := resp.Header.Revision
	soon, cancel := context.WithTimeout(ctx, lag)
	defer cancel()
	if e.ours.reaches(soon, revision) {
		return revision, nil
	}
	member, bound, release := e.route.bind(ctx)
	defer release()
	marker, err := member.Put(bound, e.prefix+markerKey, "")
	if err != nil {
		return 0, err
	}
	e.ours.to(marker.Header.Revision)
	return marker.Header.Revision, nil
}

// count is a linearizable question that costs little.
func (e *Engine) count(ctx context.Context, c *clientv3.Client) (*clientv3.GetResponse, error) {
	return c.Get(ctx, e.prefix+markerKey, clientv3.WithCountOnly())
}
