package edge

import (
	"context"
	"time"

	"vortex"
	"vortex/internal/edge/pool"
)

// balancing translates how a router record says to spread requests.
func balancing(r vortex.RouterRecord) pool.Settings {
	s := pool.Settings{Balance: pool.Balance(r.Balance)}
	if r.Hash != nil {
		s.Hash = pool.HashKey{Header: r.Hash.Header, Cookie: r.Hash.Cookie}
	}
	if r.Sticky != nil {
		s.Sticky = &pool.Sticky{Cookie: r.Sticky.Cookie, Key: r.StickyKey}
		if r.Sticky.TTLSeconds != nil {
			s.Sticky.TTL = time.Duration(*r.Sticky.TTLSeconds) * time.Second
		}
	}
	if r.SlowStartSeconds != nil {
		s.SlowStart = time.Duration(*r.SlowStartSeconds * float64(time.Second))
	}
	if r.Zone != nil {
		s.Zone.Prefer = r.Zone.Prefer == nil || *r.Zone.Prefer
		if r.Zone.EnoughPercent != nil {
			s.Zone.Enough = float64(*r.Zone.EnoughPercent) / 100
		}
	}
	for _, part := range r.Split {
		s.Split = append(s.Split, split(part))
	}
	return s
}

func split(part vortex.SplitPart) pool.Part {
	p := pool.Part{Weight: part.Weight}
	if part.Release != nil {
		p.Release = *part.Release
	}
	if part.Header != nil {
		p.Header = pool.Pin{Name: part.Header.Name, Value: part.Header.Value}
	}
	if part.Cookie != nil {
		p.Cookie = pool.Pin{Name: part.Cookie.Name, Value: part.Cookie.Value}
	}
	return p
}

// rebalanceInterval is how often the shares of backends follow what time changes, while it does.
const rebalanceInterval = 100 * time.Millisecond

// rebalance lets new backends grow warm, and zones give way to others, until ctx ends. It sleeps while there is nothing of the kind.
func (e *Edge) rebalance(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.shifting:
		}
		for e.table.Rebalance() {
			if !sleep(ctx, rebalanceInterval) {
				return
			}
		}
	}
}
