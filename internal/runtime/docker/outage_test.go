package docker

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/client"

	"vortex"
	"vortex/internal/runtime"
)

// gate is a door to the engine that can be shut: to the driver the engine is then gone, as during its restart.
type gate struct {
	path  string
	mu    sync.Mutex
	ln    net.Listener
	conns map[net.Conn]bool
}

func newGate(t *testing.T) *gate {
	t.Helper()
	g := &gate{path: filepath.Join(t.TempDir(), "d.sock"), conns: map[net.Conn]bool{}}
	g.open(t)
	t.Cleanup(g.shut)
	return g
}

func (g *gate) open(t *testing.T) {
	t.Helper()
	ln, err := net.Listen("unix", g.path)
	if err != nil {
		t.Fatal(err)
	}
	g.mu.Lock()
	g.ln = ln
	g.mu.Unlock()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go g.carry(c)
		}
	}()
}

func (g *gate) carry(c net.Conn) {
	up, err := net.Dial("unix", "/var/run/docker.sock")
	if err != nil {
		c.Close()
		return
	}
	g.mu.Lock()
	g.conns[c], g.conns[up] = true, true
	g.mu.Unlock()
	go func() { io.Copy(up, c); up.Close() }()
	io.Copy(c, up)
	c.Close()
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ln.Close()
	for c := range g.conns {
		c.Close()
	}
	clear(g.conns)
}

// An exit while the engine cannot be reached is yielded when it can be again, and only once.
func TestWatchSurvivesOutage(t *testing.T) {
	needEngine(t)
	g := newGate(t)
	node := fmt.Sprintf("outage-%d", os.Getpid())
	direct := open(t, Config{Node: node})
	gated := open(t, Config{Node: node, Host: "unix://" + g.path})
	ids := []string{node + "-a", node + "-b", node + "-c"}
	for _, id := range ids {
		start(t, direct, runtime.InstanceSpec{ID: id, Image: testImage, Command: []string{"/probe"}, Args: []string{"term", "3"}})
	}
	ctx, cancel := context.WithCancel(t.Context())
	exits := make(chan runtime.Status, 10)
	var wg sync.WaitGroup
	wg.Go(func() {
		for s := range gated.Watch(ctx) {
			exits <- s
		}
	})
	defer wg.Wait()
	defer cancel()
	want := func(id string) {
		t.Helper()
		select {
		case s := <-exits:
			if s.ID != id {
				t.Errorf("Watch yielded %+v; want %s", s, id)
			}
		case <-time.After(patience):
			t.Fatalf("Watch never yielded %s", id)
		}
	}
	stop := func(id string) {
		t.Helper()
		if err := direct.Stop(t.Context(), id, 0); err != nil {
			t.Fatal(err)
		}
	}
	stop(ids[0])
	want(ids[0])
	g.shut()
	if _, err := gated.List(t.Context()); !vortex.IsKind(err, vortex.Unavailable) {
		t.Errorf("List during the outage = %v; want Unavailable", err)
	}
	stop(ids[1])
	g.open(t)
	want(ids[1])
	stop(ids[2])
	want(ids[2])
	select {
	case s := <-exits:
		t.Errorf("Watch yielded %+v a second time", s)
	default:
	}
}

// A Stop whose engine goes away says so, and does not claim that the instance stopped.
func TestStopDuringOutage(t *testing.T) {
	needEngine(t)
	g := newGate(t)
	node := fmt.Sprintf("stopout-%d", os.Getpid())
	direct := open(t, Config{Node: node})
	gated := open(t, Config{Node: node, Host: "unix://" + g.path})
	start(t, direct, runtime.InstanceSpec{ID: node, Image: testImage, Command: []string{"/probe"}, Args: []string{"stubborn"}})
	done := make(chan error, 1)
	go func() { done <- gated.Stop(t.Context(), node, time.Hour) }()
	eventually(t, "the stop to wait in the engine", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return len(g.conns) >= 4
	})
	g.shut()
	select {
	case err := <-done:
		if !vortex.IsKind(err, vortex.Unavailable) {
			t.Errorf("Stop = %v; want Unavailable", err)
		}
	case <-time.After(patience):
		t.Fatal("Stop hangs without an engine")
	}
}

// An instance that somebody removes by hand is noticed as one that exited; one the driver removes is not.
func TestRemovedBySomebodyElse(t *testing.T) {
	needEngine(t)
	node := fmt.Sprintf("byhand-%d", os.Getpid())
	d := open(t, Config{Node: node})
	ids := []string{node + "-own", node + "-other"}
	for _, id := range ids {
		start(t, d, runtime.InstanceSpec{ID: id, Image: testImage, Labels: map[string]string{"vortex.epoch": "7"}, Port: 80})
	}
	ctx, cancel := context.WithCancel(t.Context())
	exits := make(chan runtime.Status, 10)
	var wg sync.WaitGroup
	wg.Go(func() {
		for s := range d.Watch(ctx) {
			exits <- s
		}
	})
	defer wg.Wait()
	defer cancel()
	if err := d.Remove(t.Context(), ids[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := d.engine.ContainerRemove(t.Context(), namePrefix+ids[1], client.ContainerRemoveOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	select {
	case s := <-exits:
		if s.ID != ids[1] || s.State != runtime.Exited || s.ExitCode != 137 || s.Port != 80 || s.Labels["vortex.epoch"] != "7" {
			t.Errorf("Watch yielded %+v; want %s exited with 137, with its labels", s, ids[1])
		}
	case <-time.After(patience):
		t.Fatal("Watch yielded nothing")
	}
}
