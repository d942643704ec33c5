package gossip

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"vortex"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode")) // it ends within seconds
}

const patience = 60 * time.Second

// eventually waits until something holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", patience, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func key(b byte) []byte { return bytes.Repeat([]byte{b}, keyBytes) }

func hexKey(b byte) string { return hex.EncodeToString(key(b)) }

// output is a log that can be read while it is written.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

var loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// machine is one that gossips.
type machine struct {
	*Finder
	at   string
	stop func()

	mu    sync.Mutex
	keys  string
	seeds []string
	kind  string
}

func (m *machine) set(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
}

// start lets a machine gossip, which asks the seeds.
func start(t *testing.T, name string, log io.Writer, change func(*Config, *machine), seeds ...string) *machine {
	t.Helper()
	m := &machine{keys: hexKey(1), seeds: seeds, kind: "10.0.0.1:50051"}
	cfg := Config{
		Name: name, Listen: "127.0.0.1:0", Address: loopback, Label: "c1",
		Keys: func() ([][]byte, error) {
			m.mu.Lock()
			defer m.mu.Unlock()
			return ParseKeys([]byte(m.keys))
		},
		Seeds: func() []string {
			m.mu.Lock()
			defer m.mu.Unlock()
			return m.seeds
		},
		Self: func() Member {
			m.mu.Lock()
			defer m.mu.Unlock()
			return Member{Role: vortex.ClusterRoleServer, Kind: m.kind, Version: "v1", Labels: map[string]string{"zone": "eu"}, CPUMillis: 2000}
		},
		Log: slog.New(slog.NewTextHandler(log, nil)),
	}
	if change != nil {
		change(&cfg, m)
	}
	var err error
	if m.Finder, err = Open(cfg); err != nil {
		t.Fatal(err)
	}
	m.at = fmt.Sprintf("127.0.0.1:%d", m.mesh.Port())
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	m.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(m.stop)
	return m
}

func (m *machine) names() string {
	var names []string
	for _, o := range m.Members() {
		names = append(names, o.Name)
	}
	return strings.Join(names, " ")
}

func TestMachinesFindEachOther(t *testing.T) {
	a := start(t, "a", io.Discard, nil)
	b := start(t, "b", io.Discard, nil, a.at)
	c := start(t, "c", io.Discard, nil, a.at)
	eventually(t, "all know all", func() bool { return a.names() == "b c" && b.names() == "a c" && c.names() == "a b" })
	got := b.Members()[0]
	if got.Kind != "10.0.0.1:50051" || got.Labels["zone"] != "eu" || got.Version != "v1" || got.CPUMillis != 2000 || len(b.Servers()) != 2 {
		t.Errorf("a as b knows it: %+v", got)
	}
	c.stop()
	eventually(t, "who left is gone", func() bool { return a.names() == "b" && b.names() == "a" })
}

// TestServersThatMovedAreFound moves the only server that a machine knows: it learns the new address through a third.
func TestServersThatMovedAreFound(t *testing.T) {
	server := start(t, "s", io.Discard, nil)
	third := start(t, "x", io.Discard, nil, server.at)
	told := make(chan struct{}, 100)
	lost := start(t, "n", io.Discard, func(c *Config, _ *machine) {
		c.Changed = func(context.Context, []string) { told <- struct{}{} }
	}, server.at)
	eventually(t, "all know all", func() bool { return lost.names() == "s x" && third.names() == "n s" && server.names() == "n x" })
	server.stop()
	moved := start(t, "s", io.Discard, func(_ *Config, m *machine) { m.kind = "10.9.9.9:50051" }, third.at)
	at := func() string {
		for _, s := range lost.Servers() {
			if s.Name == "s" {
				return s.Kind
			}
		}
		return ""
	}
	eventually(t, "the new address is known", func() bool { return at() == "10.9.9.9:50051" })
	eventually(t, "somebody was told", func() bool { return len(told) > 0 })
	if got := lost.Addresses(); !strings.Contains(strings.Join(got, " "), moved.at) {
		t.Errorf("gossip is at %v; want %s among them", got, moved.at)
	}
}

// TestWhoIsAloneAsksAgain tells a machine after several futile meetings where another one is.
func TestWhoIsAloneAsksAgain(t *testing.T) {
	var asked atomic.Int32
	a := start(t, "a", io.Discard, func(c *Config, _ *machine) {
		seeds := c.Seeds
		c.Seeds = func() []string { asked.Add(1); return seeds() }
	}, "127.0.0.1:1")
	eventually(t, "it has asked nobody several times", func() bool { return asked.Load() > 3 })
	b := start(t, "b", io.Discard, nil)
	a.set(func() { a.seeds = []string{"127.0.0.1:1", b.at} })
	eventually(t, "they know each other", func() bool { return a.names() == "b" && b.names() == "a" })
}

func TestStrangersStayOut(t *testing.T) {
	var log output
	a := start(t, "a", &log, nil)
	other := start(t, "b", io.Discard, func(_ *Config, m *machine) { m.keys = hexKey(2) }, a.at)
	foreign := start(t, "c", io.Discard, func(c *Config, _ *machine) { c.Label = "c2" }, a.at)
	eventually(t, "the log tells of it", func() bool { return strings.Contains(log.String(), "without the right key") })
	failed := other.mesh.Meet(t.Context(), []string{a.at})
	if err := failed[a.at]; !vortex.IsKind(err, vortex.Unauthenticated) {
		t.Errorf("meeting somebody with another key: %v", err)
	}
	failed = foreign.mesh.Meet(t.Context(), []string{a.at})
	if err := failed[a.at]; !vortex.IsKind(err, vortex.Precondition) {
		t.Errorf("meeting another cluster: %v", err)
	}
	if a.names() != "" || other.names() != "" || foreign.names() != "" {
		t.Errorf("members: %q, %q and %q", a.names(), other.names(), foreign.names())
	}
	if !strings.Contains(log.String(), "from=127.0.0.1") {
		t.Errorf("the log does not say where from:\n%s", log.String())
	}
}

// TestKeysAreReplaced gives two machines a new key, one after the other, as people do.
func TestKeysAreReplaced(t *testing.T) {
	a := start(t, "a", io.Discard, nil)
	b := start(t, "b", io.Discard, nil, a.at)
	eventually(t, "they know each other", func() bool { return a.names() == "b" && b.names() == "a" })
	for _, step := range []string{hexKey(1) + "\n" + hexKey(2), hexKey(2) + "\n" + hexKey(1), hexKey(2)} {
		for i, m := range []*machine{a, b} {
			m.set(func() { m.keys, m.kind = step, fmt.Sprintf("%s.%d:1", strings.Fields(step)[0][:8], i) })
			m.refresh(t.Context())
		}
		eventually(t, "they hear each other", func() bool {
			return len(a.Servers()) == 1 && len(b.Servers()) == 1 && strings.HasPrefix(a.Servers()[0].Kind, step[:8]) && strings.HasPrefix(b.Servers()[0].Kind, step[:8])
		})
	}
	old := start(t, "old", io.Discard, nil)
	if err := old.mesh.Meet(t.Context(), []string{a.at})[a.at]; !vortex.IsKind(err, vortex.Unauthenticated) {
		t.Errorf("the old key: %v", err)
	}
}

func TestTwoMachinesOfOneName(t *testing.T) {
	a := start(t, "a", io.Discard, nil)
	b := start(t, "b", io.Discard, nil, a.at)
	eventually(t, "they know each other", func() bool { return a.names() == "b" && b.names() == "a" })
	twin, err := Listen(MeshConfig{ID: "a", Listen: "127.0.0.1:0", Address: loopback, Keys: [][]byte{key(1)}, Label: "c1"})
	if err != nil {
		t.Fatal(err)
	}
	defer twin.Close()
	if failed := twin.Meet(t.Context(), []string{b.at}); len(failed) > 0 {
		t.Fatal(failed)
	}
	eventually(t, "it learns of the other", func() bool { return twin.Twin() != nil && twin.Twin().Addr.String() == a.at })
	if got := b.Addresses(); len(got) != 1 || got[0] != a.at {
		t.Errorf("b takes %v for a; want the one that was first, %s", got, a.at)
	}
}

// TestKilledServersThatMovedAreFound has a machine come back elsewhere that did not say that it leaves.
func TestKilledServersThatMovedAreFound(t *testing.T) {
	a := start(t, "a", io.Discard, nil)
	b := start(t, "b", io.Discard, nil, a.at)
	eventually(t, "they know each other", func() bool { return a.names() == "b" && b.names() == "a" })
	a.mesh.once.Do(func() { // it tells nobody
		if err := a.mesh.list.Shutdown(); err != nil {
			t.Error(err)
		}
	})
	moved := start(t, "a", io.Discard, func(c *Config, _ *machine) { c.Returns = true }, b.at)
	eventually(t, "the new address is known", func() bool { return len(b.Addresses()) == 1 && b.Addresses()[0] == moved.at })
}

func TestNotesFit(t *testing.T) {
	labels := map[string]string{}
	for i := range 40 {
		labels[fmt.Sprintf("label-%02d", i)] = strings.Repeat("x", 20)
	}
	m := Member{Role: vortex.ClusterRoleServer, Kind: strings.Repeat("h", 250) + ":50051", Version: "v1.2.3", Labels: labels}
	before := maps.Clone(labels)
	note, err := m.note()
	if err != nil || len(note) > MostNote {
		t.Fatalf("%d bytes, %v", len(note), err)
	}
	got, ok := memberOf(Peer{ID: "n", Note: note})
	if !ok || got.Kind != m.Kind || got.Labels["label-00"] == "" || got.Labels["label-39"] != "" {
		t.Errorf("got %+v", got)
	}
	if !maps.Equal(before, labels) {
		t.Error("the node's labels were changed")
	}
	if _, err := (Member{Kind: strings.Repeat("h", 600)}).note(); !vortex.IsKind(err, vortex.Invalid) {
		t.Errorf("an address that is too long: %v", err)
	}
}

func TestBadInput(t *testing.T) {
	for name, text := range map[string]string{"nothing": "", "short": "abcd", "no digits": strings.Repeat("z", 64), "a second one": hexKey(1) + "\nabc"} {
		if _, err := ParseKeys([]byte(text)); !vortex.IsKind(err, vortex.Invalid) || strings.Contains(err.Error(), "zzz") {
			t.Errorf("%s: %v", name, err)
		}
	}
	good := MeshConfig{ID: "a", Listen: "127.0.0.1:0", Address: loopback, Keys: [][]byte{key(1)}}
	for name, change := range map[string]func(*MeshConfig){
		"no port":    func(c *MeshConfig) { c.Listen = "127.0.0.1" },
		"no key":     func(c *MeshConfig) { c.Keys = nil },
		"a bad key":  func(c *MeshConfig) { c.Keys = [][]byte{{1}} },
		"a long one": func(c *MeshConfig) { c.Note = make([]byte, MostNote+1) },
	} {
		cfg := good
		change(&cfg)
		if m, err := Listen(cfg); !vortex.IsKind(err, vortex.Invalid) {
			t.Errorf("%s: %v, %v", name, m, err)
		}
	}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	good.Listen = l.Addr().String()
	if _, err := Listen(good); !vortex.IsKind(err, vortex.Unavailable) || !strings.Contains(err.Error(), "--gossip") {
		t.Errorf("a port that is taken: %v", err)
	}
}
