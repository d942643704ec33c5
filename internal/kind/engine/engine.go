// Package engine is the contract between Kind and the replicated, multi-version store beneath it.
//
// An Engine keeps byte values under string keys, gives every committed transaction one revision, larger than
// that of all transactions that ended before it began, and replays the transactions after any revision that was not
// compacted. Transactions that run at the same time may be given the same revision, when none of them writes what another
// writes or compares: then any order of them is the same, and whoever sees the revision sees them all. Kind adds types,
// indexes, expiry and access on top; an engine knows none of that. Package enginetest holds the suite
// that every engine passes.
package engine

import (
	"context"
	"iter"
	"time"
)

// Engine is a replicated MVCC store. All methods are safe for concurrent use. When the store cannot be
// reached they answer an error of kind vortex.Unavailable; a compacted revision is vortex.OutOfRange.
type Engine interface {
	// Range yields every key k with lo <= k < hi in ascending order as of one revision, which it
	// returns through rev before the first yield. An empty hi has no upper bound.
	Range(ctx context.Context, lo, hi string, rev *int64) iter.Seq2[KV, error]
	// Commit applies the writes when every compare holds, all or nothing, and is durable on return.
	Commit(ctx context.Context, txn Txn) (Result, error)
	// Watch yields every committed transaction with revision >= from, one batch a revision, which holds each transaction of it
	// whole, in order, until ctx
	// ends or the engine fails; the last pair then holds the error. It survives reconnects without a gap. A batch
	// without changes only tells that everything up to its revision was yielded.
	Watch(ctx context.Context, from int64) iter.Seq2[Batch, error]
	// ReadIndex returns a revision at least as new as every transaction that was
	// acknowledged before the call, by any member, and that a watch reaches although nothing more is written.
	ReadIndex(ctx context.Context) (int64, error)
	// Compact forgets what is only visible at revisions older than rev.
	Compact(ctx context.Context, rev int64) error
	// Close releases the engine. No method may be running.
	Close() error
}

// KV is a key with its value and the revisions at which it was created and last changed.
type KV struct {
	Key            string
	Value          []byte
	CreateRevision int64
	ModRevision    int64
}

// Compare holds when the key's last change is exactly ModRevision; 0 means that the key is absent.
type Compare struct {
	Key         string
	ModRevision int64
}

// Write puts Value at Key, or deletes Key when Delete is set. Deleting an absent key is no error. TTL is how long the value lives, as Value says
// it too by the writer's time: it is for an engine whose far end counts that itself.
type Write struct {
	Key    string
	Value  []byte
	Delete bool
	TTL    time.Duration // of a value that expires: for an engine whose far end counts it by itself; others need not look
}

// Txn is a set of writes, no key twice, that happens when all compares hold.
type Txn struct {
	Compares []Compare
	Writes   []Write
}

// Result tells whether a transaction happened, and the store's revision after it.
type Result struct {
	Committed bool
	Revision  int64
}

// Batch is what the transactions of one revision changed, as a rule one. A deleted key has Delete set and no value.
type Batch struct {
	Revision int64
	Changes  []Change
}

// Change is one key's part of a Batch.
type Change struct {
	KV

	Delete bool
}

// Recovery is what came of data of which the other members are lost.
type Recovery struct {
	// Group is the new group's identity, Revision its newest.
	Group    uint64
	Revision int64
	// Epoch is the cluster's from now on; 0 where there was none.
	Epoch uint64
	// Kept is where the data is as it was, "" when there was none.
	Kept string
}
