package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"vortex"
	"vortex/internal/cluster/pki"
)

const patience = 60 * time.Second

// notes is a log that can be read while it is written.
type notes struct {
	mu   sync.Mutex
	text strings.Builder
}

func (n *notes) Write(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.text.Write(p)
}

// awaits waits until the log has a text.
func (n *notes) awaits(t *testing.T, text string) {
	t.Helper()
	has := func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return strings.Contains(n.text.String(), text)
	}
	for end := time.Now().Add(patience); !has(); {
		if time.Now().After(end) {
			t.Fatalf("the log does not say %q:\n%s", text, n.text.String())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// freePort is a port that nobody has on any loopback address.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// secretOf derives a secret once: it is slow on purpose.
var secretOf = func() func(t *testing.T, text string) Secret {
	known := map[string]Secret{}
	return func(t *testing.T, text string) Secret {
		t.Helper()
		if s, ok := known[text]; ok {
			return s
		}
		s, err := ParseSecret(text)
		if err != nil {
			t.Fatal(err)
		}
		known[text] = s
		return s
	}
}()

const shared = "correct horse battery staple"

// server is one that wants to found a cluster.
type server struct {
	*Founding
	cfg     Config
	log     *notes
	settled chan *Founder // has a value when there is a founder; nil is this server
	stop    func()
}

// site is loopback addresses with one port for gossip.
type site struct {
	t     *testing.T
	port  string
	hosts []string
}

func newSite(t *testing.T, servers int) *site {
	t.Helper()
	s := &site{t: t, port: freePort(t)}
	for i := range servers {
		s.hosts = append(s.hosts, fmt.Sprintf("127.0.0.%d", i+1))
	}
	return s
}

// config is of the server at the i-th address.
func (s *site) config(i int) Config {
	s.t.Helper()
	host := s.hosts[i]
	return Config{
		Name: "s" + host[len(host)-1:], Kind: host + ":50051", Servers: len(s.hosts), Hosts: s.hosts, Secret: secretOf(s.t, shared),
		Listen: host + ":" + s.port, Address: netip.MustParseAddr(host), Dir: pki.Dir(s.t.TempDir()),
	}
}

// start begins to found with others.
func (s *site) start(cfg Config) *server {
	s.t.Helper()
	srv := &server{cfg: cfg, log: &notes{}, settled: make(chan *Founder, 1)}
	srv.cfg.Log = slog.New(slog.NewTextHandler(srv.log, nil))
	f, err := Listen(srv.cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	srv.Founding = f
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		founder, err := f.Settle(ctx)
		if err == nil {
			srv.settled <- founder
		}
		ended <- err
	}()
	srv.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			s.t.Error(err)
		}
		if err := f.Close(); err != nil {
			s.t.Error(err)
		}
	})
	s.t.Cleanup(srv.stop)
	return srv
}

// founder waits until a server knows who founds.
func (s *site) founder(srv *server) *Founder {
	s.t.Helper()
	select {
	case f := <-srv.settled:
		return f
	case <-time.After(patience):
		s.t.Fatalf("%s knows no founder:\n%s", srv.cfg.Name, srv.log.text.String())
		return nil
	}
}

// undecided fails when a server knows a founder.
func (s *site) undecided(srv *server) {
	s.t.Helper()
	select {
	case f := <-srv.settled:
		s.t.Fatalf("%s has a founder: %+v", srv.cfg.Name, f)
	default:
	}
}

func TestThreeServersFoundOneCluster(t *testing.T) {
	s := newSite(t, 3)
	third, second := s.start(s.config(2)), s.start(s.config(1))
	third.log.awaits(t, "waiting for 1 more of 3 servers")
	first := s.start(s.config(0))
	if f := s.founder(first); f != nil {
		t.Fatalf("s1 follows %+v; want it to found", f)
	}
	second.log.awaits(t, "waiting for s1")
	s.undecided(second)
	if err := first.Offer("the CA's hash"); err != nil {
		t.Fatal(err)
	}
	for _, srv := range []*server{second, third} {
		if f := s.founder(srv); f == nil || *f != (Founder{Name: "s1", Kind: "127.0.0.1:50051", CA: "the CA's hash"}) {
			t.Errorf("%s follows %+v", srv.cfg.Name, f)
		}
		srv.stop()
		if err := Finish(srv.cfg.Dir); err != nil {
			t.Error(err)
		}
	}
	for end := time.Now().Add(patience); first.Others() > 0; {
		if time.Now().After(end) {
			t.Fatalf("%d are here still", first.Others())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestRestartedInTheMiddle restarts a server that promised, one that founds, and adds one with a smaller name between.
func TestRestartedInTheMiddle(t *testing.T) {
	s := newSite(t, 3)
	first, second := s.start(s.config(0)), s.start(s.config(1))
	third := s.start(s.config(2))
	if f := s.founder(first); f != nil {
		t.Fatalf("s1 follows %+v", f)
	}
	first.stop()
	third.stop()
	second.log.awaits(t, "waiting for 2 more")
	third = s.start(third.cfg)
	early := s.config(0)
	early.Name = "a" // smaller than all, on the founder's machine, whose disk it does not have
	impostor := s.start(early)
	impostor.log.awaits(t, "promised to follow one that is not here")
	s.undecided(impostor)
	s.undecided(second)
	impostor.stop()

	first = s.start(first.cfg)
	if f := s.founder(first); f != nil {
		t.Fatalf("the founder, started again, follows %+v", f)
	}
	if err := first.Offer("ca"); err != nil {
		t.Fatal(err)
	}
	for _, srv := range []*server{second, third} {
		if f := s.founder(srv); f == nil || f.Name != "s1" {
			t.Errorf("%s follows %+v", srv.cfg.Name, f)
		}
	}
}

func TestWhatKeepsThemFromFounding(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*Config)
		says   string
	}{
		"another secret": {func(c *Config) { c.Secret = secretOf(t, "another secret altogether") }, "it has another secret"},
		"a name twice":   {func(c *Config) { c.Name = "s1" }, "two servers have the same name"},
		"another number": {func(c *Config) { c.Servers = 2 }, "has --bootstrap 3, this server 2"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, 3)
			first, second := s.start(s.config(0)), s.start(s.config(1))
			cfg := s.config(2)
			tt.change(&cfg)
			third := s.start(cfg)
			third.log.awaits(t, tt.says)
			for _, srv := range []*server{first, second, third} {
				s.undecided(srv)
			}
		})
	}
}

// TestDeadServersAreForgotten replaces one that never promised by a machine with an empty disk.
func TestDeadServersAreForgotten(t *testing.T) {
	s := newSite(t, 3)
	first, second := s.start(s.config(0)), s.start(s.config(1))
	second.log.awaits(t, "waiting for 1 more")
	first.stop()
	first = s.start(s.config(0)) // another key
	third := s.start(s.config(2))
	if f := s.founder(first); f != nil {
		t.Fatalf("s1 follows %+v", f)
	}
	if err := first.Offer("ca"); err != nil {
		t.Fatal(err)
	}
	if f := s.founder(third); f == nil || f.Name != "s1" {
		t.Errorf("s3 follows %+v", f)
	}
}

func TestSecrets(t *testing.T) {
	a, again, b := secretOf(t, shared), secretOf(t, shared+" "), secretOf(t, shared+"!")
	id, word := a.Token()
	sameID, sameWord := again.Token()
	otherID, otherWord := b.Token()
	if id != sameID || word != sameWord || id == otherID || word == otherWord || string(a.gossip) == string(b.gossip) || strings.Contains(word, "horse") {
		t.Errorf("%s %s, %s %s, %s %s", id, word, sameID, sameWord, otherID, otherWord)
	}
	for _, text := range []string{"", "short", "vxj_abcdefgh_ABCDEFGHIJKLMNOPQRSTUVWXYZ_0011"} {
		if _, err := ParseSecret(text); !vortex.IsKind(err, vortex.Invalid) || !strings.Contains(err.Error(), "vortex token new") {
			t.Errorf("%q: %v", text, err)
		}
	}
}
