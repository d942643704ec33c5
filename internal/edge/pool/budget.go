package pool

import "time"

// Budget bounds how many requests of a pool are sent again after a backend may have seen them: retries must not become the load that
// keeps backends down.
type Budget struct {
	Share   float64 // of the requests in flight that may be retries
	Minimum float64 // per second, which always may
}

// Affords reports whether another request may be sent again at now, and takes it from the budget.
func (p *Pool) Affords(b Budget, now int64) bool {
	if float64(p.retries.Load()+1) <= b.Share*float64(p.Meter.InFlight()) {
		return true
	}
	if b.Minimum <= 0 {
		return false
	}
	// A bucket of one second's worth: spent is until when what was taken from it lasts.
	each := int64(float64(time.Second) / b.Minimum)
	for {
		spent := p.spent.Load()
		next := max(spent, now) + each
		if next-now > max(int64(time.Second), each) {
			return false
		}
		if p.spent.CompareAndSwap(spent, next) {
			return true
		}
	}
}
