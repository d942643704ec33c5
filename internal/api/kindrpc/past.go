package kindrpc

import (
	"context"
	"iter"
	"math"
	"time"

	"vortex"
	"vortex/internal/kind"
	kindpb "vortex/proto/kind"
)

// asOf is a request that says which state it reads.
type asOf interface {
	GetConsistency() kindpb.Consistency
	GetAtRevision() uint64
	GetAtTime() uint64
}

// past reports whether a request reads the past.
func past(req asOf) bool { return req.GetAtRevision() != 0 || req.GetAtTime() != 0 }

// records are what a read of the past yields.
type records = iter.Seq2[*kind.Record, error]

// reading is one read in its two forms: of what is in memory now, and of the past.
type reading struct {
	now  func() []*kind.Record
	then func(kind.Past) records
}

// pastOf returns the state that a request asks for.
func (s *Service) pastOf(ctx context.Context, req asOf) (kind.Past, error) {
	rev, millis := req.GetAtRevision(), req.GetAtTime()
	if rev != 0 && millis != 0 {
		return kind.Past{}, vortex.Errorf(vortex.Invalid, "at_revision and at_time are both set; name one of them")
	}
	return s.state(ctx, rev, millis)
}

// state returns the state at a revision, or else at a time in Unix milliseconds.
func (s *Service) state(ctx context.Context, rev, millis uint64) (kind.Past, error) {
	if rev == 0 {
		if millis > math.MaxInt64/1_000_000 {
			return kind.Past{}, vortex.Errorf(vortex.Invalid, "%d is no time in Unix milliseconds", millis)
		}
		return s.Store.AtTime(ctx, time.UnixMilli(int64(millis)))
	}
	n, err := revision(rev)
	if err != nil {
		return kind.Past{}, err
	}
	return s.Store.At(ctx, n)
}

// get reads one record, now or then.
func (s *Service) get(ctx context.Context, req *kindpb.GetRequest) (*kind.Record, error) {
	if past(req) {
		p, err := s.pastOf(ctx, req)
		if err != nil {
			return nil, err
		}
		return p.Get(ctx, req.GetKey())
	}
	if err := s.fresh(ctx, req.GetConsistency()); err != nil {
		return nil, err
	}
	return s.Store.Get(req.GetKey())
}

// read carries out a read, now or then, and leaves out what the caller may not see. It returns the revision
// that the answer is of.
func (s *Service) read(ctx context.Context, req asOf, acc access, r reading) ([]*kind.Record, int64, error) {
	if !past(req) {
		if err := s.fresh(ctx, req.GetConsistency()); err != nil {
			return nil, 0, err
		}
		rev := s.Store.Revision()
		return readable(r.now(), acc), rev, nil
	}
	p, err := s.pastOf(ctx, req)
	if err != nil {
		return nil, 0, err
	}
	found, err := s.collect(r.then(p), acc)
	return found, p.Revision, err
}

// collect reads records until they are more than an answer may hold.
func (s *Service) collect(all records, acc access) (found []*kind.Record, err error) {
	size, most := 0, s.Limits.withDefaults().AnswerBytes
	for rec, err := range all {
		if err != nil {
			return nil, err
		}
		if !acc.mayRead(rec.Key) {
			continue
		}
		found = append(found, rec)
		if size += len(rec.Key) + len(rec.Value) + recordOverhead; size > most {
			return nil, vortex.Errorf(vortex.Exhausted, "the answer would be larger than %d MiB: narrow the prefix or the range", most>>20)
		}
	}
	return found, nil
}

// tellHistory adds how far back the past can be read, where that is known.
func (s *Service) tellHistory(ctx context.Context, resp *kindpb.StatusResponse) {
	if resp.GetStale() {
		return
	}
	oldest, err := s.Store.Oldest(ctx)
	if err != nil {
		return
	}
	resp.OldestRevision = uint64(oldest)
	if at, err := s.Store.TimeOf(ctx, oldest); err == nil && !at.IsZero() {
		resp.OldestTime = uint64(at.UnixMilli())
	}
}
