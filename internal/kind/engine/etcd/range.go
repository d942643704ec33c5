package etcd

import (
	"context"
	"errors"
	"iter"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"vortex/internal/kind/engine"
)

const (
	firstPage  = 2000     // keys fetched in the first round of a Range
	largePage  = 50_000   // keys fetched in one round at most
	pageBytes  = 16 << 20 // what a round should bring, as far as the round before foretells
	largeRange = 20_000   // keys read by one Range that leave much of the database in memory

	pagePatience = 30 * time.Second // for one round
)

// Range implements engine.Engine. etcd counts all keys that are left in the range in every round, so that many small rounds
// would cost the square of the keys: the rounds are as large as memory allows.
func (e *Engine) Range(ctx context.Context, lo, hi string, rev *int64) iter.Seq2[engine.KV, error] {
	return func(yield func(engine.KV, error) bool) {
		key, end := e.bounds(lo, hi)
		read, limit := 0, int64(firstPage)
		for {
			opts := []clientv3.OpOption{clientv3.WithRange(end), clientv3.WithLimit(limit), clientv3.WithRev(*rev)}
			resp, err := e.page(ctx, key, opts)
			if err != nil {
				yield(engine.KV{}, err)
				return
			}
			if *rev == 0 {
				*rev = resp.Header.Revision
			}
			bytes := 0
			for _, kv := range resp.Kvs {
				bytes += len(kv.Key) + len(kv.Value)
				if kv := e.kv(kv); kv.Key != markerKey && !yield(kv, nil) {
					return
				}
			}
			read += len(resp.Kvs)
			if !resp.More {
				break
			}
			limit = nextPage(len(resp.Kvs), bytes)
			key = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
		}
		if read > largeRange && e.settle != nil {
			e.settle()
		}
	}
}

// page is one round, at another member when the one that was asked is given up, and once more when the leader changed.
func (e *Engine) page(ctx context.Context, key string, opts []clientv3.OpOption) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, pagePatience, errSilent)
	defer cancel()
	for {
		member, bound, release := e.route.bind(ctx)
		resp, err := member.Get(bound, key, opts...)
		left := errors.Is(context.Cause(bound), errLeft)
		release()
		switch {
		case err == nil:
			return resp, nil
		case ctx.Err() == nil && (left || e.group != nil && changedLeader(err)):
		default:
			return nil, classify(ctx, "range", err)
		}
	}
}

// nextPage is how many keys the next round fetches after one that brought so many keys of so many bytes in all.
func nextPage(keys, bytes int) int64 {
	fit := pageBytes / max(bytes/max(keys, 1), 1)
	return int64(min(max(fit, 1), largePage))
}

// bounds translates a range of keys into etcd's terms.
func (e *Engine) bounds(lo, hi string) (key, end string) {
	key = e.prefix + lo
	switch {
	case hi != "":
		end = e.prefix + hi
	case e.prefix != "":
		end = clientv3.GetPrefixRangeEnd(e.prefix)
	default:
		end = "\x00"
	}
	if key == "" {
		key = "\x00"
	}
	return key, end
}

func (e *Engine) kv(kv *mvccpb.KeyValue) engine.KV {
	return engine.KV{
		Key:            string(kv.Key[len(e.prefix):]),
		Value:          kv.Value,
		CreateRevision: kv.CreateRevision,
		ModRevision:    kv.ModRevision,
	}
}
