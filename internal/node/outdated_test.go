package node

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"vortex"
	"vortex/internal/cluster/pki"
)

// certified makes a server of the cluster whose CA a directory has, in an epoch.
func certified(t *testing.T, ca pki.Dir, name string, epoch uint64) *pki.Holder {
	t.Helper()
	dir := pki.Dir(filepath.Join(t.TempDir(), "pki"))
	for _, file := range []string{pki.CAFile, pki.CAKeyFile} {
		text, err := ca.Read(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := dir.Write(file, text); err != nil {
			t.Fatal(err)
		}
	}
	bundle, err := dir.Sign(pki.Request{
		Identity: pki.Identity{Name: name, Role: pki.Server, Cluster: "test", Epoch: epoch}, Hosts: []string{"127.0.0.1"}, Lifetime: time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := dir.Install(bundle); err != nil {
		t.Fatal(err)
	}
	holder, err := pki.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return holder
}

// TestServerThatWasLeftBehindSaysSo opens its store while another server is in a later epoch, and then while one is in the same.
func TestServerThatWasLeftBehindSaysSo(t *testing.T) {
	ca := pki.Dir(filepath.Join(t.TempDir(), "pki"))
	if err := ca.Found("test"); err != nil {
		t.Fatal(err)
	}
	serving := func(epoch uint64) string {
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		secure := certified(t, ca, "s2", epoch).Server("h2")
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go func() { _ = tls.Server(conn, secure).HandshakeContext(t.Context()); _ = conn.Close() }()
			}
		}()
		return l.Addr().String()
	}
	n := &Node{log: slog.New(slog.DiscardHandler), holder: certified(t, ca, "s1", 1)}
	n.cfg.Name, n.cfg.Data, n.cfg.Cluster.Join = "s1", t.TempDir(), []string{serving(2)}
	opening, end := n.unlessOutdated(t.Context())
	defer end()
	select {
	case <-opening.Done():
	case <-time.After(time.Minute):
		t.Fatal("it waits for a store that is none any more")
	}
	if err := context.Cause(opening); !vortex.IsKind(err, vortex.Precondition) {
		t.Errorf("it gave up because of %v; want Precondition", err)
	}
	if err := n.outdated(t.Context(), serving(1)); err != nil {
		t.Errorf("a server of the same epoch: %v", err)
	}
}
