package gossip

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"vortex"
)

// Config of a Finder.
type Config struct {
	// Name is this machine's, Listen host:port for UDP and TCP, and Address where the others reach it.
	Name    string
	Listen  string
	Address netip.Addr
	// Label is the cluster's id.
	Label string
	// Keys returns the members' keys as they are now.
	Keys func() ([][]byte, error)
	// Seeds returns host:port where members may be. They are asked again from time to time, so that two halves which a long
	// partition made forget each other meet again.
	Seeds func() []string
	// Self returns what this machine says of itself now.
	Self func() Member
	// Returns says that this machine took part before, perhaps at another address: the others have to be told until they miss it there.
	Returns bool
	// Changed is called by Run when members changed, with where they are; nil calls nobody.
	Changed func(ctx context.Context, addresses []string)
	Log     *slog.Logger
}

// Finder knows where the machines of the cluster are. Use Open.
type Finder struct {
	cfg  Config
	mesh *Mesh
}

const (
	firstMeeting = 250 * time.Millisecond // doubled, up to meetAlone, while nobody is known
	meetAlone    = 8 * time.Second
	meetAgain    = 30 * time.Second
	someSeeds    = 3 // of so many it is enough that one answers
	insistEvery  = 2 * time.Second
	insistFor    = time.Minute // the others have missed who is gone long before
)

// Open takes the port.
func Open(cfg Config) (*Finder, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	keys, err := cfg.Keys()
	if err != nil {
		return nil, err
	}
	note, err := cfg.Self().note()
	if err != nil {
		return nil, err
	}
	mesh, err := Listen(MeshConfig{ID: cfg.Name, Listen: cfg.Listen, Address: cfg.Address, Keys: keys, Label: cfg.Label, Note: note, Log: cfg.Log})
	if err != nil {
		return nil, err
	}
	return &Finder{cfg: cfg, mesh: mesh}, nil
}

// Close leaves the gossip.
func (f *Finder) Close() error { return f.mesh.Close() }

// Members returns the other machines, ordered by their names.
func (f *Finder) Members() (members []Member) {
	for _, p := range f.mesh.Peers() {
		if m, ok := memberOf(p); ok {
			members = append(members, m)
		}
	}
	return members
}

// Addresses returns where the others take part in gossip, host:port.
func (f *Finder) Addresses() (addresses []string) {
	for _, p := range f.mesh.Peers() {
		addresses = append(addresses, p.Addr.String())
	}
	return addresses
}

// Run meets the others and keeps what they are told true, until ctx ends.
func (f *Finder) Run(ctx context.Context) error {
	again, pause := time.NewTimer(0), firstMeeting
	defer again.Stop()
	var meetings sync.WaitGroup
	defer meetings.Wait()
	met := make(chan struct{}, 1)
	v := &vow{began: time.Now(), due: time.After(insistEvery)}
	if f.cfg.Returns {
		v.until = v.began.Add(insistFor)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.mesh.Changed():
			f.heard(ctx, v)
		case <-v.due:
			f.insist(v)
		case <-again.C:
			f.refresh(ctx)
			meetings.Go(func() { f.meet(ctx); met <- struct{}{} })
		case <-met:
			if pause = min(2*pause, meetAlone); len(f.mesh.Peers()) > 0 {
				pause = meetAgain
			}
			again.Reset(pause/2 + rand.N(pause)) //nolint:gosec // no secret
		}
	}
}

// vow is how this machine insists on its address.
type vow struct {
	began, until time.Time
	due          <-chan time.Time
	told         netip.AddrPort // of whom the log told that it has this one's name
}

// heard takes in that members changed.
func (f *Finder) heard(ctx context.Context, v *vow) {
	if twin := f.mesh.Twin(); twin != nil {
		v.until = time.Now().Add(insistFor)
		if v.due == nil {
			v.due = time.After(insistEvery)
		}
		if twin.Addr != v.told && time.Since(v.began) > insistFor { // before, it is likely this one, where it was
			v.told = twin.Addr
			f.cfg.Log.WarnContext(ctx, "Another machine has this one's name", "node", f.cfg.Name, "address", twin.Addr.Addr().String())
		}
	}
	if f.cfg.Changed != nil {
		f.cfg.Changed(ctx, f.Addresses())
	}
}

// insist tells the others again where this machine is, as long as they may take it to be elsewhere.
func (f *Finder) insist(v *vow) {
	if time.Now().After(v.until) {
		v.due = nil
		return
	}
	f.mesh.Insist()
	v.due = time.After(insistEvery)
}

// refresh takes in this machine's keys and state as they are now.
func (f *Finder) refresh(ctx context.Context) {
	keys, err := f.cfg.Keys()
	if err == nil {
		err = f.mesh.UseKeys(keys)
	}
	if err != nil {
		f.cfg.Log.WarnContext(ctx, "New gossip keys not used, the old ones stay", "err", err)
	}
	note, err := f.cfg.Self().note()
	if err == nil {
		err = f.mesh.Tell(note)
	}
	if err != nil {
		f.cfg.Log.WarnContext(ctx, "Gossip does not tell what this machine is now", "err", err)
	}
}

// meet asks some of those who are not known to take part; while nobody is known, all.
func (f *Finder) meet(ctx context.Context) {
	known := f.Addresses()
	seeds := slices.Compact(slices.Sorted(slices.Values(f.cfg.Seeds())))
	seeds = slices.DeleteFunc(seeds, func(s string) bool { return slices.Contains(known, s) })
	if len(known) > 0 {
		rand.Shuffle(len(seeds), func(i, j int) { seeds[i], seeds[j] = seeds[j], seeds[i] }) //nolint:gosec // no secret
		seeds = seeds[:min(len(seeds), someSeeds)]
	}
	for seed, err := range f.mesh.Meet(ctx, seeds) {
		f.cfg.Log.DebugContext(ctx, "Nobody met", "address", seed, "err", err)
	}
}

// Servers returns host:port of the gRPC services of the other servers, as they say.
func (f *Finder) Servers() (servers []Member) {
	for _, m := range f.Members() {
		if m.Role == vortex.ClusterRoleServer && m.Kind != "" {
			servers = append(servers, m)
		}
	}
	return servers
}
