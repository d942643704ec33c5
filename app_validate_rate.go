package vortex

import "time"

// DefaultRateWindow is the window of a RateLimit that names none.
const DefaultRateWindow = time.Minute

const (
	minRateWindow = time.Second
	maxRateWindow = 24 * time.Hour
	maxRateLimits = 32 // of one route: each costs every request a little
)

// rates checks a route's rate limits.
func (c *checker) rates(at string, list []RateLimit) {
	if len(list) > maxRateLimits {
		c.add(at, "expected at most %d, got %d", maxRateLimits, len(list))
	}
	for i := range list {
		c.rate(item(at, i), &list[i])
	}
}

func (c *checker) rate(at string, l *RateLimit) {
	oneOf(c, at+".per", l.Per)
	switch {
	case l.Per == RateKeyHeader && l.Header == "":
		c.add(at+".header", `expected the name of a header such as "X-API-Key" with per: header, got none`)
	case l.Per == RateKeyHeader:
		c.headerName(at+".header", l.Header)
	case l.Header != "":
		c.add(at+".header", "expected a header only with per: header, got per: %s", l.Per)
	}
	if l.Limit == 0 {
		c.add(at+".limit", "expected at least 1, got 0: it would refuse every request")
	}
	if w := l.Window.Std(); w != 0 && (w < minRateWindow || w > maxRateWindow) {
		c.add(at+".window", "expected from %v to %v, got %v", minRateWindow, maxRateWindow, l.Window)
	}
	if l.Burst != nil && (*l.Burst == 0 || *l.Burst > l.Limit) {
		c.add(at+".burst", "expected from 1 to limit, which is %d, got %d", l.Limit, *l.Burst)
	}
	for i, p := range l.Paths {
		c.routePath(item(at+".paths", i), p)
	}
	for i, m := range l.Methods {
		c.method(item(at+".methods", i), m)
	}
}
