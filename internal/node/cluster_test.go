package node

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"vortex"
	"vortex/client"
	"vortex/internal/api/kindrpc"
	"vortex/internal/cluster/pki"
)

// freePort returns an address with a port that nobody has.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// run runs a node until stop is called or the test ends.
func run(t *testing.T, cfg Config) (addrs Addresses, stop func()) {
	t.Helper()
	cfg.NoAgent, cfg.NoEdge = true, true
	ready, ended := make(chan Addresses, 1), make(chan error, 1)
	cfg.Ready = func(a Addresses) { ready <- a }
	n, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { ended <- n.Run(ctx) }()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(stop)
	select {
	case a := <-ready:
		return a, stop
	case err := <-ended:
		ended <- nil
		t.Fatal(err)
		return Addresses{}, nil
	}
}

// refused starts a node that must fail, and returns why.
func refused(t *testing.T, cfg Config) error {
	t.Helper()
	cfg.NoAgent, cfg.NoEdge = true, true
	n, err := New(cfg)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return n.Run(ctx)
}

// An agent that was let in waits for a server when it starts before any.
func TestAgentWaitsForAServer(t *testing.T) {
	server := Config{
		Data: t.TempDir(), Name: "s1", API: "127.0.0.1:0", Kind: freePort(t), Anonymous: kindrpc.AnonymousOff,
		Cluster: Cluster{Advertise: "127.0.0.1"},
	}
	a, stopServer := run(t, server)
	token, err := kindAt(t, "https://"+a.Kind, a.Token, a.TLS).CreateJoinToken(t.Context(), vortex.ClusterRoleAgent, time.Hour, 1)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Data: t.TempDir(), Name: "n1", Cluster: Cluster{Worker: true, Join: []string{a.Kind}, Token: token.String()}}
	_, stopAgent := run(t, cfg)
	stopAgent()
	stopServer()

	cfg.NoAgent, cfg.NoEdge = true, true
	said := &lines{}
	cfg.Log = slog.New(slog.NewTextHandler(said, nil))
	ready, ended := make(chan Addresses, 1), make(chan error, 1)
	cfg.Ready = func(a Addresses) { ready <- a }
	agent, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { ended <- agent.Run(ctx) }()
	for !said.has("Waits for a server of the cluster") {
		select {
		case err := <-ended:
			t.Fatalf("the agent ended: %v", err)
		case <-t.Context().Done():
			t.Fatal("the agent does not say what it waits for")
		case <-time.After(10 * time.Millisecond):
		}
	}
	run(t, server)
	select {
	case <-ready:
	case err := <-ended:
		t.Fatalf("the agent ended: %v", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// lines is a log that can be looked at.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

// Write implements io.Writer.
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.text.String(), text)
}

func TestMachinesBecomeACluster(t *testing.T) {
	first := Config{
		Data: t.TempDir(), Name: "s1", API: "127.0.0.1:0", Kind: freePort(t), Anonymous: kindrpc.AnonymousOff,
		Cluster: Cluster{Advertise: "127.0.0.1"},
	}
	a, stopFirst := run(t, first)
	k := kindAt(t, "https://"+a.Kind, a.Token, a.TLS)
	token := func(role vortex.ClusterRole) string {
		t.Helper()
		made, err := k.CreateJoinToken(t.Context(), role, time.Hour, 1)
		if err != nil {
			t.Fatal(err)
		}
		return made.String()
	}

	agent := Config{Data: t.TempDir(), Name: "n1", Cluster: Cluster{Worker: true, Join: []string{a.Kind}, Token: token(vortex.ClusterRoleAgent)}}
	_, stopAgent := run(t, agent)
	stopAgent()
	agent.Cluster.Join, agent.Cluster.Token = nil, "" // it knows where it belongs
	_, stopAgent = run(t, agent)
	stopAgent()

	second := Config{
		Data: t.TempDir(), Name: "s2", API: "127.0.0.1:0", Kind: freePort(t), Anonymous: kindrpc.AnonymousOff,
		Cluster: Cluster{Advertise: "127.0.0.1", Join: []string{a.Kind}, Token: token(vortex.ClusterRoleServer)},
	}
	b, stopSecond := run(t, second)
	if b.Token != a.Token {
		t.Error("the servers have different tokens")
	}
	if _, err := kindAt(t, "https://"+b.Kind, a.Token, b.TLS).Put(t.Context(), "x", []byte("1"), 0); err != nil {
		t.Errorf("a write at the server that joined: %v", err)
	}
	if rec, err := k.Get(t.Context(), "x"); err != nil || string(rec.Value) != "1" {
		t.Errorf("read at the first server: %q, %v", rec.Value, err)
	}
	web, err := client.New(client.Options{Server: "https://" + b.API, Token: a.Token, TLS: a.TLS})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := web.Cluster(t.Context()); err != nil {
		t.Errorf("the API of the server that joined: %v", err)
	}
	stopSecond()

	for name, c := range map[string]struct {
		cfg  Config
		hint string
	}{
		"a taken name":            {Config{Data: t.TempDir(), Name: "s1", Cluster: Cluster{Worker: true, Join: []string{a.Kind}, Token: token(vortex.ClusterRoleAgent)}}, "another machine's"},
		"a token of another kind": {Config{Data: t.TempDir(), Name: "n2", Cluster: Cluster{Worker: true, Join: []string{a.Kind}, Token: token(vortex.ClusterRoleServer)}}, "--role agent"},
		"no token":                {Config{Data: t.TempDir(), Name: "n2", Cluster: Cluster{Worker: true, Join: []string{a.Kind}}}, "--token"},
		"no cluster":              {Config{Data: t.TempDir(), Name: "n2", Cluster: Cluster{Worker: true}}, "--join"},
		"nobody there":            {Config{Data: t.TempDir(), Name: "n2", Cluster: Cluster{Worker: true, Join: []string{freePort(t)}, Token: token(vortex.ClusterRoleAgent)}}, "no server of the cluster answers"},
		"another name":            {Config{Data: agent.Data, Name: "n2", Cluster: agent.Cluster}, "belongs to n1"},
		"alone again":             {Config{Data: second.Data, Name: "s2", API: "127.0.0.1:0"}, "belongs to the cluster"},
	} {
		if err := refused(t, c.cfg); err == nil || !strings.Contains(err.Error(), c.hint) {
			t.Errorf("%s: %v; want %q", name, err, c.hint)
		}
	}

	if there, err := k.RemoveMember(t.Context(), "s2"); err != nil || !there {
		t.Fatalf("remove s2: %t, %v", there, err)
	}
	if err := refused(t, second); err == nil {
		t.Error("a server that was removed starts again")
	}
	stopFirst()
	a, _ = run(t, first)
	if _, err := kindAt(t, "https://"+a.Kind, a.Token, a.TLS).Get(t.Context(), "x"); err != nil {
		t.Errorf("the first server, started again: %v", err)
	}
	if _, err := pki.Open(pki.Dir(filepath.Join(first.Data, "pki"))); err != nil {
		t.Error(err)
	}
}
