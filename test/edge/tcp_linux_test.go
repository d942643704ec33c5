package edge

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"vortex"
)

// connections opens TCP connections at a steady rate, each of which sends, ends its side and wants all of it back.
type connections struct {
	addr    string
	stopped chan struct{}
	done    sync.WaitGroup

	mu       sync.Mutex
	opened   int
	by       map[string]int
	failures []error
}

func connectSteadily(addr string) *connections {
	const perSecond = 500
	c := &connections{addr: addr, stopped: make(chan struct{}), by: map[string]int{}}
	c.done.Go(func() {
		ticker := time.NewTicker(time.Second / perSecond)
		defer ticker.Stop()
		for {
			select {
			case <-c.stopped:
				return
			case <-ticker.C:
				c.opened++
				c.done.Go(c.connect)
			}
		}
	})
	return c
}

func (c *connections) connect() {
	by, err := echoed(c.addr, bytes.Repeat([]byte("twenty bytes of it. "), 500))
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.failures = append(c.failures, err)
	}
	c.by[by]++
}

// echoed sends a message over a connection of its own and returns which backend sent it back.
func echoed(addr string, message []byte) (by string, err error) {
	raw, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return "", err
	}
	defer raw.Close()
	conn, _ := raw.(*net.TCPConn)
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write(message); err != nil {
		return "", err
	}
	if err := conn.CloseWrite(); err != nil {
		return "", err
	}
	got, err := io.ReadAll(conn)
	if err != nil {
		return "", err
	}
	by, rest, found := strings.Cut(string(got), "\n")
	if !found || rest != string(message) {
		return "", fmt.Errorf("%d bytes came back from %q, not %d", len(rest), by, len(message))
	}
	return by, nil
}

func (c *connections) stop() {
	close(c.stopped)
	c.done.Wait()
}

// portRouter is an app of TCP on a port of the edge.
func portRouter(port uint16, backends ...*backend) vortex.RouterRecord {
	r := vortex.RouterRecord{ClientID: "echo", Type: vortex.AppTypeTCP, Backends: []vortex.Backend{}}
	r.Ports = []vortex.RouterPort{{Port: port, Protocol: vortex.PortProtocolTCP, ContainerPort: 1, Primary: new(true)}}
	for _, b := range backends {
		r.Backends = append(r.Backends, vortex.Backend{Instance: b.name, Address: b.echo.Addr().String(), Port: b.echo.Port()})
	}
	return r
}

// freePort returns a port nobody listens on now.
func freePort(t *testing.T) uint16 {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	addr, _ := ln.Addr().(*net.TCPAddr)
	return addr.AddrPort().Port()
}

// Backends of TCP are replaced while connections come and go: none is lost, as those of HTTP.
func TestReplacingBackendsOfTCPLosesNothing(t *testing.T) {
	t.Parallel()
	p := &proof{edge: startEdge(t)}
	port := freePort(t)
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	p.backends = p.more(t, 1)
	p.put(t, portRouter(port, p.backends...))
	eventually(t, "the port to be open", func() bool {
		_, err := echoed(addr, []byte("x"))
		return err == nil
	})
	p.awaitDrained(t, p.remove(t, "echo"), p.backends[0].name)
	p.before = p.settled(t)

	p.backends = append(p.backends, p.more(t, 2)...)
	p.put(t, portRouter(port, p.backends...))
	eventually(t, "the port to be open again", func() bool {
		_, err := echoed(addr, []byte("x"))
		return err == nil
	})
	load := connectSteadily(addr)
	replaced := 0
	for end := time.Now().Add(loaded()); time.Now().Before(end); replaced++ {
		old := p.backends[0]
		p.backends = append(slices.Clone(p.backends[1:]), p.more(t, 1)...)
		p.awaitDrained(t, p.put(t, portRouter(port, p.backends...)), old.name)
		old.kill()
	}
	load.stop()
	p.remove(t, "echo")
	p.returnsTo(t, p.before)
	t.Logf("%d connections, %d failed; %d backends were replaced, %d answered", load.opened, len(load.failures), replaced, len(load.by))
	for i, err := range load.failures {
		if i == 5 {
			break
		}
		t.Error(err)
	}
	if len(load.by) < 5 {
		t.Errorf("only %d backends answered", len(load.by))
	}
}
