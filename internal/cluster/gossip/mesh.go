package gossip

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"log"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"vortex"
)

// MeshConfig says how a process takes part.
type MeshConfig struct {
	// ID is who this is; no other member may have it.
	ID string
	// Listen is host:port for UDP and TCP; a port of 0 picks a free one.
	Listen string
	// Address is where the others reach this one, at the port it listens on.
	Address netip.Addr
	// Keys are of 32 bytes: the first encrypts, each decrypts.
	Keys [][]byte
	// Label names the mesh; members of another are not heard.
	Label string
	// Note is what the others are told, at most MostNote bytes.
	Note []byte
	// Hasty is for a mesh that lives for a moment: it takes more datagrams, and a member that died is forgotten sooner.
	Hasty bool
	// Log gets strangers as warnings, all else as debug; nil discards.
	Log *slog.Logger
}

// MostNote is how long a note may be.
const MostNote = memberlist.MetaMaxSize

// Peer is another member of a mesh.
type Peer struct {
	ID   string
	Addr netip.AddrPort
	Note []byte
}

// Mesh is this process's part in a gossip. Use Listen.
type Mesh struct {
	list    *memberlist.Memberlist
	keys    *memberlist.Keyring
	port    uint16
	changed chan struct{}
	once    sync.Once // closes

	mu    sync.Mutex
	note  []byte
	peers map[string]Peer
	twin  *Peer // who else says to be this one
}

const (
	dialPatience  = 3 * time.Second // for an exchange with a member that may be gone
	leavePatience = time.Second
	notePatience  = 10 * time.Millisecond
)

// Listen takes the port and begins to answer; it knows nobody before Meet.
func Listen(cfg MeshConfig) (*Mesh, error) {
	host, text, err := net.SplitHostPort(cfg.Listen)
	port, perr := strconv.ParseUint(text, 10, 16)
	if err != nil || perr != nil {
		return nil, vortex.Errorf(vortex.Invalid, "gossip: expected host:port or :port, got %q", cfg.Listen)
	}
	if len(cfg.Note) > MostNote {
		return nil, vortex.Errorf(vortex.Invalid, "gossip: expected a note of at most %d bytes, got %d", MostNote, len(cfg.Note))
	}
	if len(cfg.Keys) == 0 {
		return nil, vortex.Errorf(vortex.Invalid, "gossip: expected a key, got none")
	}
	keys, err := memberlist.NewKeyring(cfg.Keys, cfg.Keys[0])
	if err != nil {
		return nil, vortex.Errorf(vortex.Invalid, "gossip: expected keys of 32 bytes: %w", err)
	}
	m := &Mesh{keys: keys, changed: make(chan struct{}, 1), note: cfg.Note, peers: map[string]Peer{}}
	conf := tuned(cfg.Hasty)
	conf.Name, conf.Label, conf.Keyring = cfg.ID, cfg.Label, keys
	conf.BindAddr, conf.BindPort = host, int(port)
	conf.AdvertiseAddr, conf.AdvertisePort = cfg.Address.Unmap().String(), int(port)
	conf.Logger = log.New(newListener(cfg.Log), "", 0)
	conf.Delegate, conf.Events, conf.Conflict = delegate{m}, events{m, cfg.ID}, conflict{m, cfg.ID}
	if m.list, err = memberlist.Create(conf); err != nil {
		return nil, vortex.Errorf(vortex.Unavailable, "gossip cannot listen on %s, TCP and UDP; is it taken? choose another with --gossip, the same on every machine: %w", cfg.Listen, err)
	}
	m.port = m.list.LocalNode().Port
	return m, nil
}

// tuned is how the protocol runs. Nobody waits for a death to be found here, so that probing can be rare.
func tuned(hasty bool) *memberlist.Config {
	c := memberlist.DefaultLANConfig()
	c.TCPTimeout = dialPatience
	c.ProbeInterval = 2 * time.Second
	c.DeadNodeReclaimTime = time.Second // who comes back may have moved
	c.QueueCheckInterval = time.Hour
	if hasty {
		c.ProbeInterval, c.ProbeTimeout, c.GossipInterval = 500*time.Millisecond, 300*time.Millisecond, 50*time.Millisecond
		c.SuspicionMult, c.SuspicionMaxTimeoutMult = 3, 2
		c.PushPullInterval = 2 * time.Second
	}
	return c
}

// Port is the one that the mesh listens on.
func (m *Mesh) Port() uint16 { return m.port }

// Tell replaces the note that the others get. A note that is too long is not taken.
func (m *Mesh) Tell(note []byte) error {
	if len(note) > MostNote {
		return vortex.Errorf(vortex.Invalid, "gossip: expected a note of at most %d bytes, got %d", MostNote, len(note))
	}
	m.mu.Lock()
	same := bytes.Equal(m.note, note)
	m.note = note
	m.mu.Unlock()
	if !same {
		_ = m.list.UpdateNode(notePatience) // it goes out all the same when nobody took it yet
	}
	return nil
}

// Peers returns the other members, ordered by their ids.
func (m *Mesh) Peers() []Peer {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.SortedFunc(maps.Values(m.peers), func(a, b Peer) int { return cmp.Compare(a.ID, b.ID) })
}

// Twin is another machine that says to be this one, or is said to be, nil when there was none since Insist. It may be this one where it was before.
func (m *Mesh) Twin() *Peer {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.twin
}

// Insist tells the others again of this member: those who knew it elsewhere take the new address once they miss it at the old one.
func (m *Mesh) Insist() {
	m.mu.Lock()
	m.twin = nil
	m.mu.Unlock()
	_ = m.list.UpdateNode(notePatience) // as in Tell
}

// Changed has a value when members or their notes changed since it was read last. It is for one reader.
func (m *Mesh) Changed() <-chan struct{} { return m.changed }

// UseKeys replaces the keys: the first encrypts, each decrypts.
func (m *Mesh) UseKeys(keys [][]byte) error {
	for _, k := range keys {
		if err := m.keys.AddKey(k); err != nil {
			return vortex.Errorf(vortex.Invalid, "gossip: expected keys of 32 bytes: %w", err)
		}
	}
	if len(keys) == 0 {
		return vortex.Errorf(vortex.Invalid, "gossip: expected a key, got none")
	}
	if err := m.keys.UseKey(keys[0]); err != nil {
		return fmt.Errorf("use the gossip key: %w", err)
	}
	for _, k := range m.keys.GetKeys() {
		if slices.ContainsFunc(keys, func(kept []byte) bool { return bytes.Equal(kept, k) }) {
			continue
		}
		if err := m.keys.RemoveKey(k); err != nil {
			return fmt.Errorf("remove a gossip key: %w", err)
		}
	}
	return nil
}

// Meet exchanges everything with the members at some addresses, host:port, all at once, and returns why some could not be met. Names
// are looked up anew; every address that a name has is tried, and one is enough.
func (m *Mesh) Meet(ctx context.Context, addresses []string) map[string]error {
	var mu sync.Mutex
	var wg sync.WaitGroup
	failed := map[string]error{}
	for _, address := range addresses {
		wg.Go(func() {
			if err := m.meet(ctx, address); err != nil {
				mu.Lock()
				failed[address] = err
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return failed
}

func (m *Mesh) meet(ctx context.Context, address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return vortex.Errorf(vortex.Invalid, "expected host:port, got %q", address)
	}
	lookup, cancel := context.WithTimeout(ctx, dialPatience)
	defer cancel()
	ips, err := net.DefaultResolver.LookupHost(lookup, host)
	if err != nil {
		return vortex.Errorf(vortex.Unavailable, "the name is not known: %w", err)
	}
	for _, ip := range ips {
		if err = m.exchange(lookup, net.JoinHostPort(ip, port)); err == nil {
			return nil
		}
	}
	return refusal(err)
}

// exchange meets the member at an IP address. The library's own dialing cannot be ended, so that it is only asked when somebody listens.
func (m *Mesh) exchange(ctx context.Context, address string) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	_ = conn.Close()
	_, err = m.list.Join([]string{address})
	return err
}

// refusal says why a member could not be met.
func refusal(err error) error {
	text := err.Error()
	switch {
	case strings.Contains(text, "could decrypt"):
		return vortex.Errorf(vortex.Unauthenticated, "it has another key")
	case strings.Contains(text, "EOF"), strings.Contains(text, "reset by peer"), strings.Contains(text, "unacceptable label"):
		return vortex.Errorf(vortex.Precondition, "what answers there is of another gossip")
	case strings.Contains(text, "timeout"), strings.Contains(text, "deadline"):
		return vortex.Errorf(vortex.Unavailable, "no answer within %s", dialPatience)
	}
	if at := strings.LastIndex(text, ": "); at >= 0 {
		text = text[at+2:]
	}
	return vortex.Errorf(vortex.Unavailable, "%s", strings.TrimSpace(text))
}

// Close tells the others that this one leaves, and ends.
func (m *Mesh) Close() (err error) {
	m.once.Do(func() {
		_ = m.list.Leave(leavePatience) // who misses it finds out
		if err = m.list.Shutdown(); err != nil {
			err = fmt.Errorf("end gossip: %w", err)
		}
	})
	return err
}

// signal tells the reader of Changed.
func (m *Mesh) signal() {
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

// delegate gives the library the note.
type delegate struct{ m *Mesh }

func (d delegate) NodeMeta(int) []byte {
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	return d.m.note
}
func (delegate) NotifyMsg([]byte)                {}
func (delegate) GetBroadcasts(int, int) [][]byte { return nil }
func (delegate) LocalState(bool) []byte          { return nil }
func (delegate) MergeRemoteState([]byte, bool)   {}

// events keep what is known of the others: the library's own list may change while it is read.
type events struct {
	m    *Mesh
	self string
}

func (e events) NotifyJoin(n *memberlist.Node)   { e.take(n) }
func (e events) NotifyUpdate(n *memberlist.Node) { e.take(n) }

func (e events) take(n *memberlist.Node) {
	if n.Name == e.self {
		return
	}
	e.m.mu.Lock()
	e.m.peers[n.Name] = peerOf(n)
	e.m.mu.Unlock()
	e.m.signal()
}

func (e events) NotifyLeave(n *memberlist.Node) {
	e.m.mu.Lock()
	delete(e.m.peers, n.Name)
	e.m.mu.Unlock()
	e.m.signal()
}

func peerOf(n *memberlist.Node) Peer {
	ip, _ := netip.AddrFromSlice(n.Addr)
	return Peer{ID: n.Name, Addr: netip.AddrPortFrom(ip.Unmap(), n.Port), Note: bytes.Clone(n.Meta)}
}

// conflict notes who else says to be this one.
type conflict struct {
	m    *Mesh
	self string
}

func (c conflict) NotifyConflict(existing, other *memberlist.Node) {
	if existing.Name != c.self {
		return
	}
	twin := peerOf(other)
	c.m.mu.Lock()
	c.m.twin = &twin
	c.m.mu.Unlock()
	c.m.signal()
}
