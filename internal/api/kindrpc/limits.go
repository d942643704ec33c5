package kindrpc

import (
	"context"
	"runtime"
	"sync/atomic"
	"time"

	"vortex"
	"vortex/internal/kind"
	kindpb "vortex/proto/kind"
)

// Limits bound what clients can make the server hold. The zero value is the defaults.
type Limits struct {
	// TxnOps is how many compares and writes a transaction may have; default 10,000.
	TxnOps int
	// AnswerBytes is how large an answer may be; default 64 MiB. Sync sends more, in parts.
	AnswerBytes int
	// PendingBytes is how large the answers may be in all that clients have not read yet; default 512 MiB.
	PendingBytes int64
	// Streams is how many streams may be open in all; default 10,000.
	Streams int64
	// Patience is how long a client may leave a stream unread that has something for it; default one minute.
	Patience time.Duration
}

func (l Limits) withDefaults() Limits {
	or := func(n, other int64) int64 {
		if n == 0 {
			return other
		}
		return n
	}
	return Limits{
		TxnOps: int(or(int64(l.TxnOps), 10_000)), AnswerBytes: int(or(int64(l.AnswerBytes), maxAnswer)),
		PendingBytes: or(l.PendingBytes, 8*maxAnswer), Streams: or(l.Streams, 10_000),
		Patience: time.Duration(or(int64(l.Patience), int64(time.Minute))),
	}
}

// largeAnswer is from which size on answers count as pending.
const largeAnswer = 256 << 10

// load is what the server holds for clients now.
type load struct {
	pending   atomic.Int64 // bytes of large answers, from when they are made until their memory is free again
	collected atomic.Int64 // when garbage was last collected for their sake, Unix nanoseconds
	streams   atomic.Int64
}

// openStream counts a stream, and refuses one too many. Call closed when it has ended.
func (s *Service) openStream() (closed func(), err error) {
	if s.load.streams.Add(1) > s.Limits.withDefaults().Streams {
		s.load.streams.Add(-1)
		return nil, vortex.Errorf(vortex.Exhausted, "this server has %d streams open and takes no more; close some, or retry later", s.Limits.withDefaults().Streams)
	}
	return func() { s.load.streams.Add(-1) }, nil
}

// fits refuses an answer that is too large to be sent in one piece, and keeps count of large ones until ctx, which is that of
// the request, ends.
func (s *Service) fits(ctx context.Context, records []*kind.Record) error {
	size := 0
	for _, rec := range records {
		size += len(rec.Key) + len(rec.Value) + recordOverhead
	}
	limits := s.Limits.withDefaults()
	if size > limits.AnswerBytes {
		return vortex.Errorf(vortex.Exhausted, "the answer has %d records of %d MiB; at most %d MiB go into one answer: narrow the prefix or the range, use a limit, or Sync, which sends any number in parts", //nolint:lll // one sentence
			len(records), size>>20, limits.AnswerBytes>>20)
	}
	if size < largeAnswer {
		return nil
	}
	if !s.load.reserve(int64(size), limits.PendingBytes) {
		return vortex.Errorf(vortex.Exhausted, "clients are still reading %d MiB of answers; retry later", limits.PendingBytes>>20)
	}
	context.AfterFunc(ctx, func() { s.load.pending.Add(-int64(size)) }) // from then on the encoded answer counts
	return nil
}

// reserve adds to the pending bytes unless they would be more than most.
func (l *load) reserve(size, most int64) bool {
	if l.pending.Add(size) <= most {
		return true
	}
	if now := time.Now().UnixNano(); now-l.collected.Swap(now) > int64(time.Second) {
		runtime.GC() // answers count until they are collected; some may be garbage by now
	}
	if l.pending.Load() <= most {
		return true
	}
	l.pending.Add(-size)
	return false
}

// recordOverhead is about what a record takes on the wire besides its key and value.
const recordOverhead = 32

// checkTxn refuses a transaction with too many parts.
func (s *Service) checkTxn(req *kindpb.TxnRequest) error {
	most := s.Limits.withDefaults().TxnOps
	if n := len(req.GetCompares()) + len(req.GetOperations()) + len(req.GetExact()) + len(req.GetWrites()); n > most {
		return vortex.Errorf(vortex.Invalid, "the transaction has %d compares and writes; at most %d are allowed: split it", n, most)
	}
	return nil
}
