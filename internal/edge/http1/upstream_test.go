package http1

import (
	"net"
	"testing"
	"time"
)

func TestLookingAtAnIdleConnection(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	tcp, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tcp.Close() }()
	backend, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = backend.Close() }()
	u := newUpstream(tcp, nil)
	if n := testing.AllocsPerRun(100, func() {
		if !u.stillQuiet() {
			t.Fatal("a quiet connection was taken for another")
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
	if _, err := backend.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	for begun := time.Now(); u.stillQuiet(); {
		if time.Since(begun) > 10*time.Second {
			t.Fatal("what the backend sent was not seen")
		}
	}
}
