package static

import (
	"fmt"
	"io"
	"net"
	"testing"
	"time"
)

// greeter says hello to every connection.
func greeter(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "hello")
			c.Close()
		}
	}()
	return ln.Addr().String()
}

// hear returns what an address says, "" when nothing does.
func hear(address string) string {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return ""
	}
	defer c.Close()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	b, _ := io.ReadAll(c)
	return string(b)
}

func TestStreamsComeAndGoWithTheFile(t *testing.T) {
	backend := greeter(t)
	first, second := freeAddress(t), freeAddress(t)
	file := func(listen string) string {
		return fmt.Sprintf("admin: \"off\"\npools: [{name: p, backends: [{address: %q}]}]\nstreams: [{name: s, listen: %q, pool: p}]\n", backend, listen)
	}
	w := start(t, Config{}, file(first))
	awaitHearing(t, first, "hello")
	w.write(t, file(second))
	w.Reload()
	awaitHearing(t, second, "hello")
	awaitHearing(t, first, "")
}

func TestListenersOfTCPAreStreams(t *testing.T) {
	backend := greeter(t)
	tcp, udp := freeAddress(t), freeAddress(t)
	file := func(more string) string {
		return fmt.Sprintf(`
listeners:
  - {name: web, address: "127.0.0.1:0"}
  - {name: db, address: %q, protocol: tcp, pool: p}
%s
routes: [{name: site, pool: p}]
pools: [{name: p, backends: [{address: %q}]}]
`, tcp, more, backend)
	}
	w := start(t, Config{}, file(fmt.Sprintf("  - {name: dns, address: %q, protocol: udp, backends: [{address: %q}]}", udp, backend)))
	awaitHearing(t, tcp, "hello")
	w.await(t, "both ports", func(State) bool {
		open := map[string]bool{}
		for _, p := range w.Edge().Ports() {
			open[p.Protocol.String()+" "+p.App] = p.Open
		}
		return len(open) == 2 && open["tcp db"] && open["udp dns"]
	})
	if addrs := w.Edge().Addrs(); len(addrs) != 1 {
		t.Errorf("the edge listens for HTTP on %v", addrs)
	}
	w.write(t, file(""))
	w.await(t, "the port of UDP to go", func(State) bool { return len(w.Edge().Ports()) == 1 })
	awaitHearing(t, tcp, "hello")
}

// freeAddress is one that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func awaitHearing(t *testing.T, address, want string) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for got := hear(address); got != want; got = hear(address) {
		if time.Now().After(deadline) {
			t.Fatalf("%s says %q, want %q", address, got, want)
		}
		time.Sleep(time.Millisecond)
	}
}
