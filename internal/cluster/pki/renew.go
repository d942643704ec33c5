package pki

import (
	"context"
	"math/rand/v2"
	"time"
)

const (
	renewAt     = 2.0 / 3 // of the lifetime
	renewSpread = 0.05    // more or less, so that nodes which joined together do not come together
	lookEvery   = time.Minute
	firstRetry  = time.Second
	lastRetry   = 10 * time.Minute
	leastRetry  = 10 * time.Millisecond
)

// Run renews the certificate at two thirds of its lifetime for as long as ctx lives, and tries again until it succeeds. What
// is open goes on.
func (h *Holder) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		for due := h.due(); time.Now().Before(due) && !h.late(); {
			if !wait(ctx, min(time.Until(due), lookEvery)) { // a machine that slept finds out by looking
				return nil
			}
		}
		h.renew(ctx)
	}
	return nil
}

// Freshen renews a certificate that is due or has expired, once, before it is used.
func (h *Holder) Freshen(ctx context.Context) error {
	if time.Now().Before(h.due()) {
		return nil
	}
	return h.renewOnce(ctx)
}

// due is when the certificate should be renewed: counted from when it came, for the signer's clock may be another; but of one that
// was kept on the disk only its own dates are known.
func (h *Holder) due() time.Time {
	current := h.current.Load()
	after := float64(current.lifetime()) * (renewAt + renewSpread*(2*rand.Float64()-1)) //nolint:gosec // no secret
	return current.taken.Add(time.Duration(after) - current.age)
}

// late reports whether the clock on the wall says that the certificate is old, and has moved on since it came.
func (h *Holder) late() bool {
	current, now := h.current.Load(), time.Now().Round(0)
	left := current.lifetime() / 4
	return current.pair.Leaf.NotAfter.Sub(now) < left && now.Sub(current.taken.Round(0)) > left
}

// renew asks for a new certificate until there is one.
func (h *Holder) renew(ctx context.Context) {
	life := h.current.Load().lifetime()
	pause, most := between(life/100, firstRetry), between(life/20, lastRetry)
	for {
		err := h.renewOnce(ctx)
		if err == nil {
			h.trouble.Store(nil)
			h.Log.InfoContext(ctx, "Certificate renewed", "until", h.Expires())
			return
		}
		if ctx.Err() != nil {
			return
		}
		if h.trouble.Swap(&err) == nil {
			h.Log.WarnContext(ctx, "Certificate not renewed, trying again", "until", h.Expires(), "err", err)
		}
		if !wait(ctx, pause/2+rand.N(pause)) { //nolint:gosec // no secret
			return
		}
		pause = min(2*pause, most)
	}
}

func (h *Holder) renewOnce(ctx context.Context) error {
	old, err := h.Renewal()
	if err != nil {
		return err
	}
	bundle, err := h.Renew(ctx, old)
	if err != nil {
		return err
	}
	return h.Take(bundle)
}

// between bounds a pause.
func between(d, most time.Duration) time.Duration { return max(leastRetry, min(d, most)) }

// Trouble returns why the certificate could not be renewed when that was last tried, nil when it could.
func (h *Holder) Trouble() error {
	if err := h.trouble.Load(); err != nil {
		return *err
	}
	return nil
}

// wait waits, and reports whether ctx still lives.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
