package static

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"vortex"
)

// Resolver looks names up. net.DefaultResolver is one.
type Resolver interface {
	// LookupNetIP returns the addresses of a host; network is "ip".
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

const (
	lookupTimeout = 5 * time.Second // of one name
	firstLookup   = 2 * time.Second // a new file waits no longer for its names
	maxLookups    = 16              // at the same time
)

// names are the addresses that names had when they were looked up last.
type names struct {
	resolver Resolver
	log      *slog.Logger

	mu      sync.Mutex
	known   map[string][]netip.Addr
	failing map[string]bool // told already
}

// addresses returns what a name stands for.
func (n *names) addresses(name string) []netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.known[name]
}

// namesOf returns the names of a file's backends, in order.
func namesOf(f *File) []string {
	var list []string
	add := func(backends []vortex.EdgeBackend) {
		for _, b := range backends {
			host, _, err := splitBackend(b.Address)
			if _, isIP := netip.ParseAddr(host); err == nil && isIP != nil {
				list = append(list, host)
			}
		}
	}
	for i := range f.Pools {
		add(f.Pools[i].Backends)
	}
	for i := range f.Routes {
		add(f.Routes[i].Backends)
	}
	for _, s := range f.streams() {
		add(s.Backends)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// Unresolved returns the names of a file's backends that cannot be looked up now.
func (f *File) Unresolved(ctx context.Context, r Resolver) []string {
	n := &names{resolver: r, log: slog.New(slog.DiscardHandler), known: map[string][]netip.Addr{}, failing: map[string]bool{}}
	list := namesOf(f)
	n.lookup(ctx, list, firstLookup)
	return n.unknown(list)
}

// lookup looks names up, within limit altogether, and reports whether any address changed. What cannot be looked up keeps what it had.
func (n *names) lookup(ctx context.Context, list []string, limit time.Duration) (changed bool) {
	lookup, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var wg sync.WaitGroup
	slots := make(chan struct{}, maxLookups)
	results := make([]bool, len(list))
	for i, name := range list {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			addrs, err := n.resolver.LookupNetIP(lookup, "ip", name)
			results[i] = ctx.Err() == nil && n.learn(ctx, name, addrs, err)
		})
	}
	wg.Wait()
	return slices.Contains(results, true)
}

// learn takes in what a lookup brought, and reports whether it is new.
func (n *names) learn(ctx context.Context, name string, addrs []netip.Addr, err error) bool {
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	addrs = slices.Compact(addrs)
	n.mu.Lock()
	defer n.mu.Unlock()
	if err != nil || len(addrs) == 0 {
		if !n.failing[name] {
			n.failing[name] = true
			n.log.WarnContext(ctx, "Name not found, its last known addresses stay in force", "name", name, "addresses", len(n.known[name]), "err", err)
		}
		return false
	}
	if n.failing[name] {
		delete(n.failing, name)
		n.log.InfoContext(ctx, "Name found again", "name", name, "addresses", len(addrs))
	}
	if slices.Equal(n.known[name], addrs) {
		return false
	}
	n.known[name] = addrs
	return true
}

// forget drops what no file names any more.
func (n *names) forget(list []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for name := range n.known {
		if !slices.Contains(list, name) {
			delete(n.known, name)
			delete(n.failing, name)
		}
	}
}

// unknown returns the names that have no address.
func (n *names) unknown(list []string) (missing []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, name := range list {
		if len(n.known[name]) == 0 {
			missing = append(missing, name)
		}
	}
	return missing
}
