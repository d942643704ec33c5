package cluster

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"vortex/test/harness"
)

// together starts a server that makes a cluster with two others.
func (m *machines) together(h *Host, secret string) *Process {
	m.t.Helper()
	var hosts []string
	for _, h := range m.Hosts()[:3] {
		hosts = append(hosts, h.Addr)
	}
	return h.Run(m.bin, "server", "--data", m.data(h), "--name", h.Name, "--advertise", h.Addr, "--no-agent", "--no-edge",
		"--bootstrap", "3", "--join", strings.Join(hosts, ","), "--token", secret)
}

// TestServersStartTogether starts three servers in any order, a second apart, and one that does not know their secret.
func TestServersStartTogether(t *testing.T) {
	bin, err := harness.Binary()
	if err != nil {
		t.Skip(err)
	}
	m := &machines{Network: New(t, 4), t: t, bin: bin}
	secret := strings.TrimSpace(m.cli("token", "new", "-q"))
	stranger := m.together(m.Host(4), secret[1:]+"x")
	order := rand.Perm(3)
	var last time.Time
	for i, at := range order {
		if i > 0 {
			time.Sleep(time.Second) // that is the experiment
		}
		last = time.Now()
		m.together(m.Hosts()[at], secret)
	}
	eventually(t, "a write succeeds", func() bool {
		_, err := m.try("kv", "put", "together", "1")
		return err == nil
	})
	took := time.Since(last)
	for _, h := range m.Hosts()[:3] {
		eventually(t, h.Name+" has what was written", func() bool {
			out, err := m.tryOn(h, "kv", "get", "together")
			return err == nil && strings.Contains(out, "1")
		})
	}
	identities := func() string {
		out, _ := m.try("kv", "scan", "vortex:identity", "-q")
		return out
	}
	eventually(t, "three servers are in", func() bool { return strings.Count(identities(), "vortex:identity:") == 3 })
	eventually(t, "the stranger is told", func() bool { return strings.Contains(stranger.Log(), "it has another secret") })
	if strings.Contains(identities(), m.Host(4).Name) || stranger.Ended() {
		t.Errorf("the stranger is not left waiting; in are\n%s", identities())
	}
	t.Logf("started in the order %v, a second apart: the first write succeeded %s after the last start", order, took.Round(time.Millisecond))

	// Later starts do not look at the flags, and the founder starts first or last.
	for _, h := range m.Hosts()[:3] {
		h.Kill()
	}
	for _, at := range rand.Perm(3) {
		m.together(m.Hosts()[at], secret)
	}
	for _, h := range m.Hosts()[:3] {
		eventually(t, h.Name+" has what was written, after a restart", func() bool {
			out, err := m.tryOn(h, "kv", "get", "together")
			return err == nil && strings.Contains(out, "1")
		})
	}
}

// TestServersThatMovedAreFound gives the only server another address, while agents run and while one does not: they find it, that one
// through the other. A server that has lost its list of whom it met meets those of the store.
func TestServersThatMovedAreFound(t *testing.T) {
	bin, err := harness.Binary()
	if err != nil {
		t.Skip(err)
	}
	m := &machines{Network: New(t, 5), t: t, bin: bin}
	serve := func(h *Host) *Process {
		return h.Run(bin, "server", "--data", m.data(m.Host(1)), "--name", "s", "--advertise", h.Addr, "--no-agent", "--no-edge")
	}
	work := func(h *Host, args ...string) {
		h.Run(bin, append([]string{"agent", "--data", m.data(h), "--name", h.Name, "--no-edge", "--runtime", "sim"}, args...)...)
	}
	// An agent keeps where the servers are as the store says, so that it follows the server there.
	follows := func(agent, server *Host) bool {
		kept, err := os.ReadFile(filepath.Join(m.data(agent), "pki", "servers"))
		return err == nil && string(kept) == server.Addr+":50051\n"
	}
	serve(m.Host(1))
	eventually(t, "the server answers", func() bool { _, err := m.try("nodes"); return err == nil })
	token := strings.TrimSpace(m.cli("token", "join", "--uses", "2", "-q"))
	agents := []*Host{m.Host(2), m.Host(3)}
	for _, h := range agents {
		work(h, "--join", m.Host(1).Addr, "--token", token)
		eventually(t, h.Name+" follows the server", func() bool { return follows(h, m.Host(1)) })
		eventually(t, h.Name+" keeps whom it met", func() bool {
			_, err := os.Stat(filepath.Join(m.data(h), "pki", "peers"))
			return err == nil
		})
	}
	eventually(t, "both agents are Ready", func() bool { return m.ready() == len(agents) })
	eventually(t, "the server keeps whom it met", func() bool {
		kept, _ := os.ReadFile(filepath.Join(m.data(m.Host(1)), "pki", "peers"))
		return strings.Contains(string(kept), m.Host(2).Addr) && strings.Contains(string(kept), m.Host(3).Addr)
	})

	m.Host(1).Kill()
	began := time.Now()
	server := serve(m.Host(4))
	for _, h := range agents {
		eventually(t, h.Name+" follows the server that moved", func() bool { return follows(h, m.Host(4)) })
	}
	t.Logf("both agents followed the server %s after it began to start elsewhere", time.Since(began).Round(time.Millisecond))

	m.Host(2).Kill()
	if err := server.Signal(syscall.SIGTERM); err != nil { // it says that it leaves
		t.Fatal(err)
	}
	eventually(t, "the server stops", server.Ended)
	if err := os.Remove(filepath.Join(m.data(m.Host(1)), "pki", "peers")); err != nil {
		t.Fatal(err)
	}
	serve(m.Host(5))
	eventually(t, "the agent that ran follows the server", func() bool { return follows(m.Host(3), m.Host(5)) })
	work(m.Host(2))
	eventually(t, "the agent that did not run follows the server", func() bool { return follows(m.Host(2), m.Host(5)) })
}
