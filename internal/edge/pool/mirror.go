package pool

// mirror is where copies of a pool's requests go.
type mirror struct {
	to    *Pool
	share uint64 // of the line of points that turn draws from
	turn  turn
}

// Mirror sends copies of a share of the pool's requests, from 0 to 1, to another pool. A nil pool ends it.
func (p *Pool) Mirror(to *Pool, share float64) {
	if to == nil || share <= 0 {
		p.mirror.Store(nil)
		return
	}
	end := ^uint64(0)
	if share < 1 {
		end = uint64(share * (1 << 63) * 2)
	}
	if old := p.mirror.Load(); old != nil && old.to == to && old.share == end {
		return
	}
	p.mirror.Store(&mirror{to: to, share: end})
}

// Mirrors reports whether some of the pool's requests are copied.
func (p *Pool) Mirrors() bool { return p.mirror.Load() != nil }

// Mirrored returns the pool that gets a copy of this request, nil for none.
func (p *Pool) Mirrored() *Pool {
	m := p.mirror.Load()
	if m == nil || m.turn.point() > m.share {
		return nil
	}
	return m.to
}
