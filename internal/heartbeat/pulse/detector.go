package pulse

import "time"

// detector judges the silence of one peer. All times are nanoseconds.
//
// The time after which a silence is one too long is
//
//	timeout = losses·interval + 4·deviation + peak
//
// deviation is the smoothed mean deviation of the gaps between beats from their interval, and 4 its factor, as in Jacobson's and Karels'
// estimator of retransmission times (RFC 6298, section 2). It answers jitter that is always there. peak is the largest
// excess that was seen, and fades by half every minute: stalls come in tails that no deviation tells. losses is how many
// beats in a row must be missing for that to happen by chance less than once in a billion, given the share of datagrams that is lost now (the
// idea of the accrual detector of Hayashibara et al., 2004: a bound on the odds instead of a number of misses); it is at least 3.
type detector struct {
	interval  int64
	last      int64 // when the last beat came; 0 is never
	deviation int64
	peak      int64
	loss      int64 // share of the datagrams that are lost, in millionths, smoothed
	realTime  bool
	grain     int64 // how often we look: so much of every gap may be ours, and a beat that was seen late is missed as much later
}

const (
	smoothing     = 16 // beats over which deviation and loss are smoothed, in halves
	lossSmoothing = 1024
	million       = 1_000_000
	outage        = 10 // so many lost in a row are an outage, which says nothing about the usual loss

	peakHalfLife = int64(time.Minute)
	// A gap beyond these was no jitter: the peer was away.
	peakLimit     = int64(100 * time.Millisecond)
	slowPeakLimit = int64(time.Second)
	// slowPeak is the jitter to expect of a sender without a real-time priority before it has shown any: so long were gaps measured on a busy machine.
	slowPeak = int64(300 * time.Millisecond)
)

// beat takes in that one came, after lost others that did not; clean is false when we were kept from running ourselves.
func (d *detector) beat(now int64, b body, lost uint64, clean bool) {
	realTime := b.flags&flagRealTime != 0
	if d.last == 0 || d.interval != b.interval || d.realTime != realTime {
		if d.last == 0 || d.realTime != realTime {
			d.peak = 0
			if !realTime {
				d.peak = slowPeak
			}
		}
		d.interval, d.realTime, d.last = b.interval, realTime, now
		return
	}
	gap := now - d.last
	d.last = now
	d.peak -= d.peak * min(gap, peakHalfLife) / peakHalfLife * 7 / 10 // ln 2
	if lost < outage {
		d.loss += (int64(lost)*million/int64(lost+1) - d.loss) / lossSmoothing
	}
	// A gap of a real-time sender that it says it stalled in was no jitter: it did not run.
	excess := max(max(gap-d.interval, d.interval-gap)-d.grain, 0)
	limit := peakLimit
	if !realTime {
		limit = slowPeakLimit
	}
	if !clean || lost > 0 || realTime && b.stall > d.interval || excess > limit {
		return
	}
	d.deviation += (excess - d.deviation) / smoothing
	d.peak = max(d.peak, gap-d.interval-d.grain)
}

// timeout is how long a silence may be.
func (d *detector) timeout() int64 {
	return d.losses()*d.interval + 4*d.deviation + d.peak
}

// losses is how many beats in a row must be missing: with the share p of datagrams lost, k in a row have odds of p to the power of k.
func (d *detector) losses() int64 {
	for _, step := range [...]struct{ share, beats int64 }{ // millionths; 9 / log10(1 / share)
		{1_000, 3}, {10_000, 5}, {50_000, 7}, {100_000, 9}, {200_000, 13}, {300_000, 18}, {400_000, 23},
	} {
		if d.loss <= step.share {
			return step.beats
		}
	}
	return 30
}

// silent reports whether the silence is one too long.
func (d *detector) silent(now int64) bool { return d.last != 0 && now-d.last > d.timeout() }

// excuse gives the peer the time in which we could not have heard it.
func (d *detector) excuse(stall int64) {
	if d.last != 0 {
		d.last += stall
	}
}
