package l4_test

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"vortex/internal/edge/l4"
	"vortex/internal/edge/pool"
)

// TestCircuitRefusesAtOnce has as many connections and sessions as a pool takes on: the next is refused, until one of them has ended.
func TestCircuitRefusesAtOnce(t *testing.T) {
	h := start(t, nil)
	port := freePort(t)
	health := pool.Health{Circuit: &pool.Circuit{Requests: 2}}
	h.apply(t, "app", l4.Service{Protocol: l4.TCP, First: port, Health: health, Endpoints: []pool.Endpoint{backend(t, "a", echo)}})
	says := func(c *net.TCPConn) error {
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		_, _ = io.WriteString(c, "x")
		_, err := io.ReadFull(c, make([]byte, 1))
		return err
	}
	first, second := dial(t, port), dial(t, port)
	if err := errors.Join(says(first), says(second)); err != nil {
		t.Fatal(err)
	}
	served := func() bool { // one that is refused may be reset before it knows that it was accepted
		c, err := dialTCP(port)
		if err != nil {
			return false
		}
		defer c.Close()
		return says(c) == nil
	}
	if served() {
		t.Error("a third connection was served")
	}
	first.Close()
	eventually(t, "room for another connection", served)
	if err := says(second); err != nil {
		t.Errorf("the second connection: %v", err)
	}
}

func TestCircuitBoundsUDPSessions(t *testing.T) {
	h := start(t, nil)
	port := freePort(t)
	a, _ := udpBackend(t, "a")
	health := pool.Health{Circuit: &pool.Circuit{Requests: 2}}
	h.apply(t, "app", l4.Service{Protocol: l4.UDP, First: port, Health: health, Endpoints: []pool.Endpoint{a}})
	clients := []*net.UDPConn{udpDial(t, port), udpDial(t, port)}
	for _, c := range clients {
		exchange(t, c, "x")
	}
	third := udpDial(t, port)
	for range 3 {
		if _, err := third.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the third client to be refused", func() bool { return h.port(l4.UDP, port).Counts.Failed >= 3 })
	if n := h.port(l4.UDP, port).Counts.Opened; n != 2 {
		t.Errorf("%d sessions were opened", n)
	}
	for _, c := range clients {
		exchange(t, c, "x")
	}
}
