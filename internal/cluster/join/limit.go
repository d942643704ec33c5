package join

import (
	"net/netip"
	"sync"
	"time"

	"vortex"
)

const (
	mostFailures  = 20 // of one address in a window
	failureWindow = time.Minute
	mostAddresses = 10_000
)

// limiter bounds how often one address may fail. Its zero value is ready.
type limiter struct {
	mu    sync.Mutex
	since time.Time
	count map[netip.Prefix]int
}

// allow refuses an address that has failed too often.
func (l *limiter) allow(addr string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.count[source(addr)] < mostFailures {
		return nil
	}
	rest := time.Until(l.since.Add(failureWindow)).Round(time.Second)
	if rest <= 0 {
		return nil
	}
	return vortex.Errorf(vortex.Exhausted, "%d attempts from %s were refused within a minute; try again in %s", mostFailures, addr, max(rest, time.Second))
}

// fail counts a failure.
func (l *limiter) fail(addr string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); now.Sub(l.since) >= failureWindow {
		l.since, l.count = now, map[netip.Prefix]int{}
	}
	if key := source(addr); l.count[key] > 0 || len(l.count) < mostAddresses {
		l.count[key]++
	}
}

// source is what is counted as one address: of IPv6 the network, for who has one address there has them all.
func source(addr string) netip.Prefix {
	const network = 64
	ip, err := netip.ParseAddr(addr)
	if err != nil {
		return netip.Prefix{}
	}
	ip = ip.Unmap().WithZone("")
	bits := ip.BitLen()
	if ip.Is6() {
		bits = network
	}
	prefix, _ := ip.Prefix(bits) // bits fit
	return prefix
}
