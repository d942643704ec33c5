package kind

import (
	"context"
	"fmt"
	"iter"
	"time"

	"golang.org/x/sync/errgroup"

	"vortex"
	"vortex/internal/kind/engine"
)

// errUnfinished is what a store says that finds unfinishedKey.
var errUnfinished = vortex.Errorf(vortex.Precondition,
	"a restore into this store was begun and not finished, so that it holds only a part; run `vortex snapshot restore` again")

// Bounds of one transaction of Fill: an external etcd takes 128 writes and 1.5 MiB unless told otherwise.
const (
	fillWrites  = 100
	fillBytes   = 1 << 20
	fillAtATime = 4
)

// Fill makes records the whole content of an engine that no store is open on, and returns how many there were. Keys, values
// and expiry become those of the records; revisions go on from the engine's own, and its history before is forgotten. An engine that holds anything is
// refused with Precondition unless replace is set. It happens whole: a Fill that breaks leaves a mark by which Open
// refuses the engine, until another Fill has succeeded.
func Fill(ctx context.Context, eng engine.Engine, records iter.Seq2[*Record, error], replace bool) (int, error) {
	unfinished, empty, err := inspect(ctx, eng)
	if err != nil {
		return 0, err
	}
	if !empty && !unfinished && !replace {
		return 0, vortex.Errorf(vortex.Precondition, "the store is not empty; restore into an empty one, or pass --force to replace all it holds")
	}
	mark := engine.Txn{Writes: []engine.Write{{Key: unfinishedKey, Value: seal(nil, 0)}}}
	if _, err := eng.Commit(ctx, mark); err != nil {
		return 0, fmt.Errorf("mark the restore as begun: %w", err)
	}
	if _, err := commitAll(ctx, eng, clearing(ctx, eng)); err != nil {
		return 0, fmt.Errorf("remove what the store held: %w", err)
	}
	n, err := commitAll(ctx, eng, sealed(records))
	if err != nil {
		return 0, err
	}
	done, err := eng.Commit(ctx, engine.Txn{Writes: []engine.Write{{Key: unfinishedKey, Delete: true}}})
	if err != nil {
		return 0, fmt.Errorf("mark the restore as finished: %w", err)
	}
	// What was half restored must not be read as the past, nor followed from a revision before.
	if err := eng.Compact(ctx, done.Revision); err != nil {
		return 0, fmt.Errorf("forget what was before the restore, which is whole: %w", err)
	}
	return n, nil
}

// inspect reports whether a Fill of the engine was not finished, and whether the engine holds nothing.
func inspect(ctx context.Context, eng engine.Engine) (unfinished, empty bool, err error) {
	var rev int64
	for _, err := range eng.Range(ctx, unfinishedKey, unfinishedKey+"\x00", &rev) {
		return true, false, err
	}
	rev = 0
	for _, err := range eng.Range(ctx, "", "", &rev) {
		return false, false, err
	}
	return false, true, nil
}

// Holds returns the value at a key of an engine that no store is open on, nil when there is none or it has expired.
func Holds(ctx context.Context, eng engine.Engine, key string) ([]byte, error) {
	var rev int64
	for kv, err := range eng.Range(ctx, key, key+"\x00", &rev) {
		if err != nil {
			return nil, err
		}
		value, expires, err := unseal(kv.Value)
		if rec := (Record{ExpiresAt: expires}); err != nil || rec.expired(time.Now().UnixMilli()) {
			return nil, err
		}
		return value, nil
	}
	return nil, nil
}

// clearing yields the deletion of every key but the mark.
func clearing(ctx context.Context, eng engine.Engine) iter.Seq2[engine.Write, error] {
	return func(yield func(engine.Write, error) bool) {
		var rev int64
		for kv, err := range eng.Range(ctx, "", "", &rev) {
			if kv.Key == unfinishedKey {
				continue
			}
			if !yield(engine.Write{Key: kv.Key, Delete: true}, err) || err != nil {
				return
			}
		}
	}
}

// sealed yields the write of every record.
func sealed(records iter.Seq2[*Record, error]) iter.Seq2[engine.Write, error] {
	return func(yield func(engine.Write, error) bool) {
		for rec, err := range records {
			if err != nil {
				yield(engine.Write{}, err)
				return
			}
			if !yield(engine.Write{Key: rec.Key, Value: seal(rec.Value, rec.ExpiresAt)}, nil) {
				return
			}
		}
	}
}

// commitAll commits writes, no key twice, in transactions that every engine takes, and returns how many there were.
func commitAll(ctx context.Context, eng engine.Engine, writes iter.Seq2[engine.Write, error]) (n int, err error) {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(fillAtATime)
	var txn engine.Txn
	var bytes int
	send := func() {
		full := txn
		txn, bytes = engine.Txn{}, 0
		group.Go(func() error { _, err := eng.Commit(ctx, full); return err })
	}
	for w, err := range writes {
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return 0, firstOf(group.Wait(), err)
		}
		if size := len(w.Key) + len(w.Value); len(txn.Writes) == fillWrites || bytes+size > fillBytes && len(txn.Writes) > 0 {
			send()
		}
		txn.Writes = append(txn.Writes, w)
		bytes += len(w.Key) + len(w.Value)
		n++
	}
	if len(txn.Writes) > 0 {
		send()
	}
	return n, group.Wait()
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
