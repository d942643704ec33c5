package vortex

import "strings"

// Limits of what a route may say about balancing.
const (
	MaxWeight     = 1000 // of a backend or a part of a split
	maxSplitParts = 16
	maxMirrored   = 100
)

// balance checks how a route spreads its requests.
func (c *checker) balance(a *App) {
	r := a.Route
	oneOf(c, "route.balance", r.Balance)
	if r.Hash != nil {
		c.hashKey(r)
	}
	if r.Sticky != nil {
		if r.Sticky.Cookie != "" {
			c.err("route.sticky.cookie", checkToken(r.Sticky.Cookie))
		}
		if ttl := r.Sticky.TTLSeconds; ttl != nil && *ttl == 0 {
			c.add("route.sticky.ttlSeconds", "expected at least 1, got 0; leave it out for a cookie that lasts until the browser ends")
		}
	}
	if s := r.SlowStartSeconds; s != nil && !(*s >= 0 && *s <= maxSeconds) {
		c.add("route.slowStartSeconds", "expected a number from 0 to %d (a day), got %v", maxSeconds, *s)
	}
	if z := r.Zone; z != nil && z.EnoughPercent != nil && (*z.EnoughPercent < 1 || *z.EnoughPercent > 100) {
		c.add("route.zone.enoughPercent", "expected a number from 1 to 100, got %d", *z.EnoughPercent)
	}
	c.split(r.Split)
	if r.Mirror != nil {
		c.mirror(a)
	}
	if a.Spec.Type == AppTypeTCP {
		c.httpOnly(r)
	}
}

func (c *checker) hashKey(r *Route) {
	const at = "route.hash"
	if r.Balance != BalancePolicyRingHash && r.Balance != BalancePolicyMaglev {
		c.add(at, "expected it only with balance ring-hash or maglev, got %s", r.Balance)
	}
	kinds := 0
	if r.Hash.Header != "" {
		kinds++
		c.err(at+".header", checkToken(r.Hash.Header))
	}
	if r.Hash.Cookie != "" {
		kinds++
		c.err(at+".cookie", checkToken(r.Hash.Cookie))
	}
	if r.Hash.Address != nil && *r.Hash.Address {
		kinds++
	}
	if kinds != 1 {
		c.add(at, "expected one of header, cookie and address: true, got %d of them", kinds)
	}
}

func (c *checker) split(parts []SplitPart) {
	if len(parts) > maxSplitParts {
		c.add("route.split", "expected at most %d parts, got %d", maxSplitParts, len(parts))
	}
	seen, sum := map[uint64]bool{}, uint32(0)
	for i, part := range parts {
		at := item("route.split", i)
		release := uint64(0)
		if part.Release != nil {
			if release = *part.Release; release == 0 {
				c.add(at+".release", "expected a release from 1 on, got 0")
			}
		}
		switch {
		case seen[release] && part.Release == nil:
			c.add(at, "expected one part without a release, got another; it would get nothing")
		case seen[release]:
			c.add(at+".release", "expected each release once, got %d again", release)
		}
		seen[release] = true
		if part.Weight > MaxWeight {
			c.add(at+".weight", "expected a number from 0 to %d, got %d", MaxWeight, part.Weight)
		}
		sum += min(part.Weight, MaxWeight)
		c.pin(at+".header", part.Header)
		c.pin(at+".cookie", part.Cookie)
	}
	if len(parts) > 0 && sum == 0 {
		c.add("route.split", "expected a weight above 0 in at least one part, got none")
	}
}

// pin checks the header or cookie that pins a request.
func (c *checker) pin(at string, h *Header) {
	if h == nil {
		return
	}
	c.err(at+".name", checkToken(h.Name))
	if h.Value == "" || strings.ContainsFunc(h.Value, control) {
		c.add(at+".value", "expected the value that pins a request, without control characters, got %q", h.Value)
	}
}

func (c *checker) mirror(a *App) {
	m := a.Route.Mirror
	const at = "route.mirror"
	c.err(at+".app", CheckName(m.App))
	if m.App == a.Metadata.Name && m.App != "" {
		c.add(at+".app", "expected another app, got this one: it would answer everything twice")
	}
	if !(m.Percent > 0 && m.Percent <= maxMirrored) {
		c.add(at+".percent", "expected a number above 0, up to %d, got %v", maxMirrored, m.Percent)
	}
}

// httpOnly names what needs headers, which only HTTP has.
func (c *checker) httpOnly(r *Route) {
	const msg = "expected it only for an app of type http, got type tcp: there are no headers and cookies in TCP"
	if r.Hash != nil && (r.Hash.Header != "" || r.Hash.Cookie != "") {
		c.add("route.hash", "%s", msg)
	}
	if r.Sticky != nil {
		c.add("route.sticky", "%s", msg)
	}
	if r.Mirror != nil {
		c.add("route.mirror", "expected it only for an app of type http, got type tcp")
	}
	for i, part := range r.Split {
		if part.Header != nil || part.Cookie != nil {
			c.add(item("route.split", i), "%s", msg)
		}
	}
}

// checkToken returns an Invalid Error unless name can be the name of a header or cookie (RFC 9110, 5.6.2).
func checkToken(name string) error {
	const special = "!#$%&'*+-.^_`|~"
	for _, r := range name {
		if (r < '0' || r > '9') && (r|0x20 < 'a' || r|0x20 > 'z') && !strings.ContainsRune(special, r) {
			return Errorf(Invalid, "expected a name of letters, digits and hyphens, got %q", name)
		}
	}
	if name == "" {
		return Errorf(Invalid, `expected a name such as "X-Release", got none`)
	}
	return nil
}
