package report

import "slices"

// Compared is one figure of ours and of a peer in every round.
type Compared struct{ Ours, Peer []float64 }

// Add adds a round.
func (c *Compared) Add(ours, peer float64) {
	c.Ours, c.Peer = append(c.Ours, ours), append(c.Peer, peer)
}

// Figure is the medians, and the median and the quartiles of the rounds' ratios.
func (c *Compared) Figure(name, unit, peer, better string, limit float64) Figure {
	const lower, middle, upper = 0.25, 0.5, 0.75
	ratios := make([]float64, len(c.Ours))
	for i := range ratios {
		ratios[i] = c.Ours[i] / c.Peer[i]
	}
	slices.Sort(ratios)
	return Figure{
		Name: name, Unit: unit, Peer: peer, Better: better, Limit: limit, Samples: len(ratios),
		Value: Percentile(c.Ours, middle), PeerValue: Percentile(c.Peer, middle), Ratio: Percentile(ratios, middle),
		RatioLow: Percentile(ratios, lower), RatioHigh: Percentile(ratios, upper),
	}
}
