package e2e

import (
	"encoding/json"
	"net"
	"os/exec"
	"testing"
	"time"

	"vortex"
	kindpb "vortex/proto/kind"
	"vortex/test/harness"
)

// leader returns the lock, and when it expires in Unix milliseconds; ok is false when nobody holds it.
func leader(t *testing.T, kind kindpb.KindServiceClient) (lock vortex.LeaderLock, expires uint64, ok bool) {
	t.Helper()
	rec, err := kind.Get(t.Context(), &kindpb.GetRequest{Key: "vortex:daemon:leader"})
	if err != nil {
		return lock, 0, false
	}
	if err := json.Unmarshal(rec.GetValue(), &lock); err != nil {
		t.Fatal(err)
	}
	return lock, rec.GetExpiresAt(), true
}

// startEtcd runs Debian's etcd and returns its address.
func startEtcd(t *testing.T) string {
	t.Helper()
	bin, err := exec.LookPath("etcd")
	if err != nil {
		t.Skip("needs etcd: apt-get install etcd-server")
	}
	addr, peer := freeAddr(t), freeAddr(t)
	cmd := exec.Command(bin, "--data-dir", t.TempDir(), "--listen-client-urls", "http://"+addr, "--advertise-client-urls", "http://"+addr,
		"--listen-peer-urls", "http://"+peer, "--initial-advertise-peer-urls", "http://"+peer, "--initial-cluster", "default=http://"+peer)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	eventually(t, "etcd answers", func() bool {
		conn, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	return addr
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func TestSecondServerTakesOverFromAKilledLeader(t *testing.T) {
	store := "etcd://" + startEtcd(t)
	servers := map[string]*harness.Vortex{}
	for _, name := range []string{"one", "two"} {
		servers[name] = start(t, "--store", store, "--name", name, "--no-agent", "--no-edge")
	}
	first, _, ok := leader(t, kindClient(t, servers["one"]))
	if !ok || servers[first.ID] == nil {
		t.Fatalf("leader: %+v", first)
	}
	other := "two"
	if first.ID == "two" {
		other = "one"
	}
	kind := kindClient(t, servers[other])
	_, expires, _ := leader(t, kind)
	eventually(t, "the lock is renewed", func() bool {
		lock, later, ok := leader(t, kind)
		return ok && lock == first && later > expires
	})

	servers[first.ID].Kill()
	killed := time.Now()
	eventually(t, "the other server leads", func() bool {
		lock, _, ok := leader(t, kind)
		return ok && lock.ID == other && lock.Epoch > first.Epoch
	})
	took := time.Since(killed)
	t.Logf("taken over after %s", took)
	if slack := time.Second; took > 5*time.Second+slack {
		t.Errorf("taken over after %s; the lock lives five seconds", took)
	}
}
