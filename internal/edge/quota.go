package edge

import (
	"context"
	"iter"
	"time"

	"vortex"
	"vortex/internal/edge/limit"
)

// Quotas is how edges tell each other what they let through of the limits they hold together. Without it, and while it fails, each holds them alone.
type Quotas interface {
	// PutQuota writes vortex:quota:<Edge>, which expires after QuotaTTL.
	PutQuota(ctx context.Context, r vortex.QuotaRecord) error
	// WatchQuotas yields every edge's record, and then each that changes, until ctx ends. After an error the sequence
	// ends; the edge watches again.
	WatchQuotas(ctx context.Context) iter.Seq2[QuotaUpdate, error]
}

// QuotaUpdate is what an edge says it let through.
type QuotaUpdate struct {
	Edge  string
	Quota *vortex.QuotaRecord // nil: the record was deleted
}

const (
	// quotaInterval is between an edge's reports, when there is anything to report.
	quotaInterval = time.Second
	// quotaAge is from when on a record is that of an edge which is gone.
	quotaAge = 30 * time.Second
)

// publishQuota says every interval what this edge let through of the keys near their limits, until ctx ends.
func (e *Edge) publishQuota(ctx context.Context) {
	ticker := time.NewTicker(quotaInterval)
	defer ticker.Stop()
	last, said, failing := time.Now(), false, false
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := time.Now()
		unix := e.server.Unix()
		uses := e.limiter.Report(unix, now.Sub(last))
		e.limiter.Settle(unix)
		last = now
		if len(uses) == 0 && !said {
			continue
		}
		err := e.putQuota(ctx, uses)
		if err != nil && !failing {
			e.log.WarnContext(ctx, "Quota not published, limits are held by each edge alone", "err", err)
		}
		said, failing = len(uses) > 0 || err != nil, err != nil
	}
}

func (e *Edge) putQuota(ctx context.Context, uses []limit.Use) error {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	r := vortex.QuotaRecord{Edge: e.config.ID, At: time.Now().UTC(), Uses: make([]vortex.QuotaUse, 0, len(uses))}
	for _, u := range uses {
		r.Uses = append(r.Uses, vortex.QuotaUse{
			Rule: u.Rule, Key: u.Key.String(), Window: uint64(u.Window), Current: u.Current, Previous: u.Previous, Demand: u.Demand,
		})
	}
	return e.config.Quotas.PutQuota(ctx, r)
}

// watchQuotas takes in what the other edges let through, until ctx ends.
func (e *Edge) watchQuotas(ctx context.Context) {
	pause := firstRetry
	for ctx.Err() == nil {
		for update, err := range e.config.Quotas.WatchQuotas(ctx) {
			if err != nil {
				if ctx.Err() == nil {
					e.log.WarnContext(ctx, "Quotas not watched, limits are held by each edge alone", "err", err)
				}
				break
			}
			pause = firstRetry
			e.learn(update)
		}
		if !sleep(ctx, pause) {
			return
		}
		pause = min(2*pause, lastRetry)
	}
}

func (e *Edge) learn(u QuotaUpdate) {
	if u.Edge == e.config.ID {
		return
	}
	var uses []limit.Use
	if u.Quota != nil && time.Since(u.Quota.At).Abs() < quotaAge {
		for _, use := range u.Quota.Uses {
			key, ok := limit.ParseKey(use.Key)
			if !ok {
				continue
			}
			uses = append(uses, limit.Use{
				Rule: use.Rule, Key: key, Window: int64(use.Window), Current: use.Current, Previous: use.Previous, Demand: use.Demand,
			})
		}
	}
	e.limiter.Learn(u.Edge, uses, e.server.Unix())
}
