package etcd

import (
	"context"
	"iter"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/storage/mvcc"

	"vortex"
	"vortex/internal/kind/engine"
)

// news is what one message of etcd's watch says.
type news struct {
	events    []*mvccpb.Event
	compacted int64 // the oldest revision kept, when the one asked for is not
	broken    bool  // a lost leader or connection
}

// follower yields etcd's news of all our keys from a revision on, until ctx ends or the watch breaks.
type follower func(ctx context.Context, from int64) iter.Seq[news]

// Watch implements engine.Engine.
func (e *Engine) Watch(ctx context.Context, from int64) iter.Seq2[engine.Batch, error] {
	return func(yield func(engine.Batch, error) bool) {
		for ctx.Err() == nil {
			member := e.route.client()
			next, err := e.watchOnce(ctx, from, yield)
			if err != nil {
				yield(engine.Batch{}, err)
				return
			}
			if next == stopped {
				return
			}
			from = next
			if e.route.client() == member { // else another is used, which need not be waited for
				wait(ctx, reconnect)
			}
		}
	}
}

// stopped is what watchOnce returns when the consumer wants no more.
const stopped = -1

// watchOnce follows one etcd watch until it breaks and returns the revision to go on from. An error is final.
func (e *Engine) watchOnce(ctx context.Context, from int64, yield func(engine.Batch, error) bool) (int64, error) {
	for n := range e.follow(ctx, from) {
		if n.compacted != 0 {
			return 0, vortex.Errorf(vortex.OutOfRange,
				"revision %d is compacted; the oldest kept is %d: list again and watch from there", from, n.compacted)
		}
		if n.broken {
			return from, nil
		}
		for batch := range e.batches(n.events) {
			e.ours.to(batch.Revision)
			if !yield(batch, nil) {
				return stopped, nil
			}
			from = batch.Revision + 1
		}
	}
	return from, nil
}

// batches groups events by their revision.
func (e *Engine) batches(events []*mvccpb.Event) iter.Seq[engine.Batch] {
	return func(yield func(engine.Batch) bool) {
		for start := 0; start < len(events); {
			rev := events[start].Kv.ModRevision
			end := start
			for end < len(events) && events[end].Kv.ModRevision == rev {
				end++
			}
			batch := engine.Batch{Revision: rev, Changes: make([]engine.Change, 0, end-start)}
			for ; start < end; start++ {
				ev := events[start]
				if kv := e.kv(ev.Kv); kv.Key != markerKey {
					batch.Changes = append(batch.Changes, engine.Change{KV: kv, Delete: ev.Type == mvccpb.Event_DELETE})
				}
			}
			if !yield(batch) {
				return
			}
		}
	}
}

// followRemote watches through the client.
func (e *Engine) followRemote(ctx context.Context, from int64) iter.Seq[news] {
	return func(yield func(news) bool) {
		ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
		defer cancel()
		key, end := e.bounds("", "")
		client, changed := e.route.now()
		go func() {
			select {
			case <-changed: // another member is heard sooner
				cancel()
			case <-ctx.Done():
			}
		}()
		for resp := range client.Watch(ctx, key, clientv3.WithRange(end), clientv3.WithRev(from)) {
			e.route.hear()
			if !yield(news{compacted: resp.CompactRevision, broken: resp.Err() != nil, events: resp.Events}) {
				return
			}
		}
	}
}

// followMember watches a member in this process without the client, whose watch passes each event through
// six goroutines.
func followMember(member *etcdserver.EtcdServer) follower {
	return func(ctx context.Context, from int64) iter.Seq[news] {
		return func(yield func(news) bool) {
			stream := member.Watchable().NewWatchStream()
			defer stream.Close()
			first, all := []byte{0}, []byte{}
			if _, err := stream.Watch(ctx, clientv3.AutoWatchID, first, all, from); err != nil {
				return
			}
			for {
				select {
				case <-ctx.Done():
					return
				case <-member.StoppingNotify():
					return
				case resp := <-stream.Chan():
					mvcc.ReportEventReceived(len(resp.Events))
					if !yield(news{events: resp.Events, compacted: resp.CompactRevision}) {
						return
					}
				}
			}
		}
	}
}
