package edge_test

import (
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"vortex"
	"vortex/internal/edge"
	"vortex/internal/edge/l4"
)

// echoing is a backend of TCP that sends back what comes.
func echoing(t *testing.T, name string) *backend {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(conn, conn)
				conn.Close()
			}()
		}
	}()
	addr, _ := ln.Addr().(*net.TCPAddr)
	return &backend{name: name, addr: addr}
}

func TestPortsFollowRouters(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	_, text, err := net.SplitHostPort(freeAddr(t))
	if err != nil {
		t.Fatal(err)
	}
	first, _, err := vortex.ParsePorts(text)
	if err != nil {
		t.Fatal(err)
	}
	r := router("db", echoing(t, "db-1"))
	r.Type = vortex.AppTypeTCP
	r.Ports = []vortex.RouterPort{{Port: first, Protocol: vortex.PortProtocolTCP, ContainerPort: 5432, Primary: new(true)}}
	h.apply(t, r)
	open := func() bool {
		return slices.ContainsFunc(h.edge.Ports(), func(p l4.PortStatus) bool { return p.Open && p.Port == first })
	}
	eventually(t, "the port to be open", open)
	c, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", text))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	say := func(word string) {
		t.Helper()
		buf := make([]byte, len(word))
		_, _ = io.WriteString(c, word)
		if _, err := io.ReadFull(c, buf); err != nil || string(buf) != word {
			t.Fatalf("%q came back as %q, %v", word, buf, err)
		}
	}
	say("before")
	h.await(t, "the connection to be published", func(s *store) bool {
		return slices.ContainsFunc(s.metrics, func(m vortex.ClientMetrics) bool { return m.ClientID == "db" && *m.Connections == 1 })
	})
	revision := h.remove("db")
	h.awaitDrain(t, revision, "db-1")
	eventually(t, "the port to be closed", func() bool { return !open() })
	say("after")
	c.Close()
	h.awaitDrain(t, revision)
}

// TestOtherPortsFollowHealth has an app whose second port leads to an echo: what its check says, and what becomes of its node, counts there too.
func TestOtherPortsFollowHealth(t *testing.T) {
	t.Parallel()
	h := start(t, func(c *edge.Config) { c.HoldTimeout = 100 * time.Millisecond })
	_, text, err := net.SplitHostPort(freeAddr(t))
	if err != nil {
		t.Fatal(err)
	}
	port, _, err := vortex.ParsePorts(text)
	if err != nil {
		t.Fatal(err)
	}
	b, mood := moody(t, "a")
	echo := echoing(t, "echo").addr
	r := router("web", b)
	r.Backends[0].Node = "n1"
	r.Health = &vortex.PoolHealth{Checker: vortex.HealthCheckerEdge, HealthCheck: quick("/health"), PanicPercent: new(uint32(0))}
	r.Ports = []vortex.RouterPort{{Port: port, Protocol: vortex.PortProtocolTCP, ContainerPort: uint16(echo.Port)}}
	h.apply(t, r)
	leads := func() bool {
		c, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", text))
		if err != nil {
			return false
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		buf := make([]byte, 1)
		_, _ = io.WriteString(c, "x")
		_, err = io.ReadFull(c, buf)
		return err == nil
	}
	eventually(t, "the port to lead to the app", leads)
	mood.Store(503)
	eventually(t, "the port to lead nowhere while the check fails", func() bool { return !leads() })
	mood.Store(200)
	eventually(t, "the port to lead to the app again", leads)
	h.awaitApplied(t, h.node(edge.NodeChange{Node: "n1", Gone: true}))
	if leads() {
		t.Error("the port leads to a node that is suspected")
	}
	h.awaitApplied(t, h.node(edge.NodeChange{Node: "n1"}))
	eventually(t, "the port to lead to the node that is back", leads)
}
