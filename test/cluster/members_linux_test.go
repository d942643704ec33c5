package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"

	"vortex/client"
	kindpb "vortex/proto/kind"
)

// status is the cluster as a server sees it.
func (m *machines) status(h *Host) (client.Cluster, error) {
	out, err := m.tryOn(h, "cluster", "status", "-o", "json")
	if err != nil {
		return client.Cluster{}, err
	}
	var answer struct {
		Cluster client.Cluster `json:"cluster"`
	}
	err = json.Unmarshal([]byte(out), &answer)
	return answer.Cluster, err
}

// vote waits until exactly these servers keep the store, each with a vote, as each of them says; all of them name the same leader of the log.
func (m *machines) vote(hosts ...*Host) {
	m.t.Helper()
	want := map[string]bool{}
	for _, h := range hosts {
		want[h.Name] = true
	}
	for _, h := range hosts {
		eventually(m.t, h.Name+" says that all who should keep the store", func() bool {
			c, err := m.status(h)
			leaders := 0
			for _, member := range c.Members {
				if member.Role != "voter" || !want[member.Name] {
					return false
				}
				if member.Leader {
					leaders++
				}
			}
			return err == nil && len(c.Members) == len(hosts) && leaders == 1 && !c.Stale
		})
	}
}

// servants is the servers as those see them who write through each.
func (m *machines) servants() *Cluster {
	m.t.Helper()
	c := &Cluster{Network: m.Network}
	for _, h := range m.Hosts()[:m.servers] {
		authority, err := os.ReadFile(filepath.Join(m.data(h), "pki", "ca.crt"))
		m.check(err)
		token, err := os.ReadFile(filepath.Join(m.data(h), "token"))
		m.check(err)
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(authority)
		trust := credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: "server.vortex.internal"})
		again := backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, MaxDelay: 200 * time.Millisecond}
		conn, err := grpc.NewClient("passthrough:///"+net.JoinHostPort(h.Addr, "50051"), grpc.WithTransportCredentials(trust),
			grpc.WithPerRPCCredentials(bearer(strings.TrimSpace(string(token)))), grpc.WithConnectParams(grpc.ConnectParams{Backoff: again, MinConnectTimeout: time.Second}),
			grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return m.Dial(ctx, "tcp", addr) }))
		m.check(err)
		m.t.Cleanup(func() { _ = conn.Close() })
		c.Servers = append(c.Servers, &Server{Host: h, Kind: kindpb.NewKindServiceClient(conn), cluster: c})
	}
	return c
}

// fresh reports whether a machine is Ready and tells so since it was started the last time.
func (m *machines) fresh(asked, of *Host, started time.Time) bool {
	var nodes client.NodeList
	out, err := m.tryOn(asked, "nodes", "-o", "json")
	if err != nil || json.Unmarshal([]byte(out), &nodes) != nil {
		return false
	}
	for _, n := range nodes.Nodes {
		if n.Name == of.Name {
			return n.State == "Ready" && n.StartedAt != nil && n.StartedAt.After(started)
		}
	}
	return false
}

// TestAnyServerMayDie lets three servers, of which two joined, become the members of the store, and kills each of them in turn, the founder first,
// under writes through all of them: the others go on, no acknowledged write is lost, and who was killed comes back as the member it was. An agent
// that is started again while the founder is dead finds the others.
func TestAnyServerMayDie(t *testing.T) {
	m := found(t, 3, 1)
	servers, agent := m.Hosts()[:3], m.Host(4)
	began := time.Now()
	m.vote(servers...)
	t.Logf("three servers keep the store %s after they were Ready", time.Since(began).Round(100*time.Millisecond))
	c := m.servants()
	lead := c.follow(t)
	w := c.write(t)
	w.flow(t, c.Servers...)
	for _, victim := range c.Servers {
		others := c.Others(victim)
		led, epoch := lead.wait(t)
		w.look()
		killed := time.Now()
		m.run[victim.Host].Kill()
		w.flow(t, others...)
		passed := time.Duration(0)
		if led == victim.Host.Name {
			eventually(t, "another leads", func() bool { now, later := lead.now(); return later > epoch && now != led })
			passed = time.Since(killed)
		}
		sum := w.look(others...)
		if victim.Host == m.Host(1) {
			m.run[agent].Kill()
			again := time.Now()
			m.start(agent)
			eventually(t, "the agent is back without the founder", func() bool { return m.fresh(others[0].Host, agent, again) })
		}
		m.start(victim.Host)
		m.vote(servers...)
		w.flow(t, c.Servers...)
		t.Logf("%s killed: through the others %d writes acknowledged, %d failed, longest pause %s; another led after %s", victim.Host.Name, sum.acked, sum.failed,
			sum.pause.Round(time.Millisecond), passed.Round(time.Millisecond))
	}
	w.verdict(t)
}
