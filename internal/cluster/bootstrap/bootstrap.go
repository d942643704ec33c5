package bootstrap

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"vortex"
	"vortex/internal/cluster/gossip"
	"vortex/internal/cluster/pki"
)

// Config says who wants to found a cluster with whom.
type Config struct {
	// Name is this server's, unique among them; Kind is host:port where the others reach its gRPC services.
	Name, Kind string
	// Servers is how many there are to be, this one too.
	Servers int
	// Hosts are where they are; it does not matter whether this one is among them.
	Hosts []string
	// Secret is what all of them share.
	Secret Secret
	// Listen is host:port for gossip, UDP and TCP. The others are asked at the same port. Address is where they reach this one.
	Listen  string
	Address netip.Addr
	// Dir keeps the server's key, and what it promised.
	Dir pki.Dir
	Log *slog.Logger
}

// The files of a Dir in which a server keeps what it promised, and that it founds.
const (
	promiseFile  = "promise"
	foundingFile = "founding"
)

// label keeps this gossip apart from that of clusters.
const label = "vortex-bootstrap"

// Founding is this server's part in founding a cluster. Use Listen.
type Founding struct {
	cfg  Config
	mesh *gossip.Mesh
	self voice
	told string    // why it waits, as the log says
	at   time.Time // when the log said it
}

const (
	lookEvery = 250 * time.Millisecond // while others are missing
	tellEvery = 30 * time.Second
)

// Listen takes the port of gossip, and begins to tell the others of this server.
func Listen(cfg Config) (*Founding, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if err := pki.CheckName(cfg.Name); err != nil {
		return nil, err
	}
	key, err := cfg.Dir.Key()
	if err != nil {
		return nil, err
	}
	request, err := pki.SigningRequest(key)
	if err != nil {
		return nil, err
	}
	_, machine, err := pki.ParseSigningRequest(request)
	if err != nil {
		return nil, err
	}
	f := &Founding{cfg: cfg, self: voice{Machine: machine, Name: cfg.Name, Servers: cfg.Servers, Kind: cfg.Kind}}
	if f.self.Promise, err = kept(cfg.Dir, promiseFile); err != nil {
		return nil, err
	}
	note, err := f.note()
	if err != nil {
		return nil, err
	}
	f.mesh, err = gossip.Listen(gossip.MeshConfig{
		ID: machine, Listen: cfg.Listen, Address: cfg.Address, Keys: [][]byte{cfg.Secret.gossip}, Label: label, Note: note, Hasty: true, Log: cfg.Log,
	})
	return f, err
}

// kept is what a file of the directory holds, "" without it.
func kept(dir pki.Dir, file string) (string, error) {
	text, err := dir.Read(file)
	if vortex.IsKind(err, vortex.NotFound) {
		return "", nil
	}
	return strings.TrimSpace(string(text)), err
}

// Unfinished reports whether the server of a directory began to found a cluster that not all others have joined.
func Unfinished(dir pki.Dir) (bool, error) {
	text, err := kept(dir, foundingFile)
	return text != "", err
}

// offered is what the file of a founding says when the token for the others was made.
const offered = "offered"

// Offered reports whether the token for the others was made.
func Offered(dir pki.Dir) (bool, error) {
	text, err := kept(dir, foundingFile)
	return text == offered, err
}

// SetOffered keeps that the token for the others was made.
func SetOffered(dir pki.Dir) error { return dir.Write(foundingFile, []byte(offered+"\n")) }

// Close leaves the others.
func (f *Founding) Close() error { return f.mesh.Close() }

// Finish forgets that a cluster is being founded: everybody is in.
func Finish(dir pki.Dir) error {
	for _, file := range []string{promiseFile, foundingFile} {
		if err := os.Remove(dir.Path(file)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove %s: %w", dir.Path(file), err)
		}
	}
	return nil
}

// Founder is the server that has founded the cluster.
type Founder struct {
	Name string
	Kind string // host:port of its gRPC services
	CA   string // hash of its CA's public key
}

// Settle returns once the cluster has a founder: nil when it is this server, which then makes the CA and a store, and Offers.
func (f *Founding) Settle(ctx context.Context) (*Founder, error) {
	if began, err := Unfinished(f.cfg.Dir); began || err != nil {
		return nil, err // all promised before it was restarted
	}
	ctx, cancel := context.WithCancel(ctx)
	var meetings sync.WaitGroup
	defer meetings.Wait()
	defer cancel()
	look := time.NewTimer(0)
	defer look.Stop()
	trouble, met := map[string]error{}, make(chan map[string]error, 1)
	for {
		v := decide(&f.self, f.others())
		switch {
		case v.follow != nil:
			f.cfg.Log.InfoContext(ctx, "The cluster has been founded", "by", v.follow.String())
			return &Founder{Name: v.follow.Name, Kind: v.follow.Kind, CA: v.follow.CA}, nil
		case v.found:
			f.cfg.Log.InfoContext(ctx, "All servers are here, this one founds the cluster", "node", f.cfg.Name, "servers", f.cfg.Servers)
			return nil, f.cfg.Dir.Write(foundingFile, []byte("founding\n"))
		case v.promise != nil:
			if err := f.promise(v.promise); err != nil {
				return nil, err
			}
			continue
		default:
			f.tell(ctx, v.wait, trouble)
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-f.mesh.Changed():
		case <-look.C:
			meetings.Go(func() { met <- f.meet(ctx) })
		case trouble = <-met:
			look.Reset(lookEvery)
		}
	}
}

// others are the servers that are heard.
func (f *Founding) others() (others []*voice) {
	for _, p := range f.mesh.Peers() {
		v := &voice{}
		if json.Unmarshal(p.Note, v) == nil {
			v.Machine, v.At = p.ID, p.Addr.Addr().String()
			others = append(others, v)
		}
	}
	return others
}

// promise keeps whom this server follows, and tells the others then.
func (f *Founding) promise(whom *voice) error {
	if err := f.cfg.Dir.Write(promiseFile, []byte(whom.Machine+"\n")); err != nil {
		return err
	}
	f.self.Promise = whom.Machine
	return f.say()
}

func (f *Founding) note() ([]byte, error) {
	note, err := json.Marshal(f.self)
	if err != nil {
		return nil, fmt.Errorf("encode what is told to the other servers: %w", err)
	}
	if len(note) > gossip.MostNote {
		return nil, vortex.Errorf(vortex.Invalid, "--advertise: the address %q is too long to be told", f.cfg.Kind)
	}
	return note, nil
}

func (f *Founding) say() error {
	note, err := f.note()
	if err != nil {
		return err
	}
	return f.mesh.Tell(note)
}

// meet asks the hosts that are not heard yet, and returns why some do not answer.
func (f *Founding) meet(ctx context.Context) map[string]error {
	known := map[string]bool{f.cfg.Address.String(): true}
	for _, p := range f.mesh.Peers() {
		known[p.Addr.Addr().String()] = true
	}
	var addresses []string
	for _, host := range f.cfg.Hosts {
		if !known[host] {
			_, port, _ := net.SplitHostPort(f.cfg.Listen) // Listen took it
			addresses = append(addresses, net.JoinHostPort(host, port))
		}
	}
	return f.mesh.Meet(ctx, addresses)
}

// tell says why the server waits, when that has changed and from time to time.
func (f *Founding) tell(ctx context.Context, why string, trouble map[string]error) {
	lines := []string{why}
	if twin := f.mesh.Twin(); twin != nil {
		lines = append(lines, fmt.Sprintf("the machine at %s has this one's key: its data directory is a copy; remove it there", twin.Addr.Addr()))
	}
	for _, address := range slices.Sorted(maps.Keys(trouble)) {
		said := trouble[address].Error()
		switch err := trouble[address]; {
		case vortex.IsKind(err, vortex.Unauthenticated):
			said = "it has another secret"
		case vortex.IsKind(err, vortex.Precondition):
			said = "its cluster has been founded already, or it is none that founds; `vortex token join --role server` makes a token to join with, without --bootstrap"
		}
		lines = append(lines, address+": "+said)
	}
	if why = strings.Join(lines, "\n"); why == f.told && time.Since(f.at) < tellEvery {
		return
	}
	f.told, f.at = why, time.Now()
	f.cfg.Log.InfoContext(ctx, "The cluster is not founded yet", "why", why)
}

// Offer tells the others that this server founded the cluster, and its CA's hash.
func (f *Founding) Offer(ca string) error {
	f.self.CA = ca
	return f.say()
}

// Others is how many servers listen to what the founder offers.
func (f *Founding) Others() int { return len(f.others()) }

// Changed has a value when others came, changed or left since it was read last.
func (f *Founding) Changed() <-chan struct{} { return f.mesh.Changed() }
