package node

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"vortex/internal/api/kindrpc"
	"vortex/internal/cluster/pki"
)

// launch runs a node in the background; ready has a value when it serves.
func launch(t *testing.T, cfg Config) (ready chan Addresses, stop func()) {
	t.Helper()
	cfg.NoAgent, cfg.NoEdge = true, true
	ready = make(chan Addresses, 1)
	cfg.Ready = func(a Addresses) { ready <- a }
	n, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
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
	return ready, stop
}

// soon waits until something holds.
func soon(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !holds(); {
		if time.Now().After(end) {
			t.Fatalf("not within a minute: %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestServersFoundAClusterTogether starts three servers, the founder twice before the last one comes.
func TestServersFoundAClusterTogether(t *testing.T) {
	_, gossip, _ := net.SplitHostPort(freePort(t))
	_, kind, _ := net.SplitHostPort(freePort(t))
	var list []string
	var servers []Config
	for i := range 3 {
		host := fmt.Sprintf("127.0.0.%d", i+1)
		list = append(list, host+":"+kind)
		servers = append(servers, Config{
			Data: t.TempDir(), Name: fmt.Sprintf("s%d", i+1), API: host + ":0", Kind: host + ":" + kind, Gossip: host + ":" + gossip, Anonymous: kindrpc.AnonymousOff,
			Cluster: Cluster{Advertise: host, Bootstrap: 3, Token: "a secret that all servers share"},
		})
	}
	for i := range servers {
		servers[i].Cluster.Join = list
	}
	has := func(i int, file string) bool {
		_, err := os.Stat(filepath.Join(servers[i].Data, "pki", file))
		return err == nil
	}
	await := func(ready chan Addresses) Addresses {
		t.Helper()
		select {
		case a := <-ready:
			return a
		case <-time.After(time.Minute):
			t.Fatal("a server is not ready within a minute")
			return Addresses{}
		}
	}

	second, stopSecond := launch(t, servers[1])
	_, stopThird := launch(t, servers[2])
	first, stopFirst := launch(t, servers[0])
	soon(t, "the others' promises have come", func() bool { return has(0, "founding") || has(1, pki.CertFile) || has(2, pki.CertFile) })
	stopThird() // before it has joined, or just after
	await(first)
	await(second)
	stopFirst()
	first, _ = launch(t, servers[0])
	third, _ := launch(t, servers[2])
	a := await(first)
	c := await(third)
	k := kindAt(t, "https://"+c.Kind, a.Token, c.TLS)
	if _, err := k.Put(t.Context(), "x", []byte("1"), 0); err != nil {
		t.Errorf("a write at the server that came last: %v", err)
	}
	if rec, err := kindAt(t, "https://"+a.Kind, a.Token, a.TLS).Get(t.Context(), "x"); err != nil || string(rec.Value) != "1" {
		t.Errorf("read at the founder: %q, %v", rec.Value, err)
	}
	members, err := k.Members(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range members {
		names = append(names, m.Name)
	}
	if slices.Sort(names); !slices.Equal(names, []string{"s1", "s2", "s3"}) {
		t.Errorf("members: %v", names)
	}
	soon(t, "nothing is left of the founding", func() bool {
		for i := range servers {
			if has(i, "promise") || has(i, "founding") {
				return false
			}
		}
		return true
	})
	soon(t, "all gossip with each other", func() bool { return has(0, "peers") && has(1, "peers") && has(2, "peers") })
	stopSecond()
	servers[1].Cluster.Join, servers[1].Cluster.Bootstrap, servers[1].Cluster.Token = nil, 0, "" // it knows where it belongs
	again, _ := launch(t, servers[1])
	await(again)
}
