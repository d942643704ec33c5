package edge

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"vortex"
)

// reset ends a connection with an RST.
func reset(conn *net.TCPConn) {
	_ = conn.SetLinger(0)
	conn.Close()
}

// times is how often each stage is ended.
const times = 30

// Clients that vanish leave nothing behind at the edge, nor at the backend.
func TestClientsEndAtEveryStage(t *testing.T) {
	t.Parallel()
	p := quiet(t)
	stages := map[string]func(conn *net.TCPConn){
		"connected": func(*net.TCPConn) {},
		"within the request's head": func(conn *net.TCPConn) {
			fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: web.exa")
		},
		"within the request's body": func(conn *net.TCPConn) {
			send(t, conn, http.MethodPost, "/", "Content-Length: 1000")
			fmt.Fprint(conn, "half")
			eventually(t, "the backend to have the request", func() bool { return p.backends[0].active(t) > 0 })
		},
		"within a chunk": func(conn *net.TCPConn) {
			send(t, conn, http.MethodPost, "/", "Transfer-Encoding: chunked")
			fmt.Fprint(conn, "64\r\nhalf")
			eventually(t, "the backend to have the request", func() bool { return p.backends[0].active(t) > 0 })
		},
		"before the answer": func(conn *net.TCPConn) {
			send(t, conn, http.MethodGet, "/?ms=60000")
			eventually(t, "the backend to have the request", func() bool { return p.backends[0].active(t) > 0 })
		},
		"within the answer": func(conn *net.TCPConn) {
			send(t, conn, http.MethodGet, "/bytes?n=100000000&piece=65536")
			answer(t, bufio.NewReader(conn))
		},
		"within events": func(conn *net.TCPConn) {
			send(t, conn, http.MethodGet, "/events?ms=1")
			answer(t, bufio.NewReader(conn))
		},
		"within a WebSocket": func(conn *net.TCPConn) {
			send(t, conn, http.MethodGet, "/upgrade", "Connection: Upgrade", "Upgrade: websocket")
			answer(t, bufio.NewReader(conn))
			fmt.Fprint(conn, "something")
		},
		"after an answer": func(conn *net.TCPConn) {
			if _, err := (request{method: http.MethodGet, path: "/"}).exchange(conn, bufio.NewReader(conn)); err != nil {
				t.Fatal(err)
			}
		},
	}
	for stage, reach := range stages {
		for _, how := range []string{"reset", "close"} {
			for range times {
				conn := p.dial(t)
				reach(conn)
				if how == "reset" {
					reset(conn)
				} else {
					conn.Close()
				}
			}
			eventually(t, "the backend to be idle after "+how+" "+stage, func() bool { return p.backends[0].active(t) == 0 })
		}
	}
	p.end(t)
}

// A backend that ends within its answer is told to the client in the way that HTTP/1 has for it, and leaves nothing behind.
func TestBackendsEndAtEveryStage(t *testing.T) {
	t.Parallel()
	p := quiet(t)
	for _, stage := range []struct {
		at    string
		how   string
		whole string // the answer's body, when what came is a whole answer
		code  int
	}{
		{"head", "reset", "", 502},
		{"head", "close", "", 502},
		{"status", "reset", "", 502},
		{"status", "close", "", 502},
		{"fields", "reset", "", 502},
		{"fields", "close", "", 502},
		{"body", "reset", "", 200},
		{"body", "close", "", 200},
		{"chunk", "reset", "", 200},
		{"chunk", "close", "", 200},
		{"plain", "reset", "", 200},
		{"plain", "close", "to the end", 200},
	} {
		for range times {
			conn := p.dial(t)
			send(t, conn, http.MethodPost, "/end?at="+stage.at+"&how="+stage.how, "Content-Length: 0")
			_ = conn.SetReadDeadline(time.Now().Add(patience))
			got := answer(t, bufio.NewReader(conn))
			body, err := io.ReadAll(got.body)
			if got.code != stage.code {
				t.Fatalf("%s, %s: answered %d, want %d", stage.at, stage.how, got.code, stage.code)
			}
			if stage.code == http.StatusOK && ((stage.whole == "") != (err != nil) || stage.whole != "" && string(body) != stage.whole) {
				t.Fatalf("%s, %s: %q came, then %v; want %q", stage.at, stage.how, body, err, stage.whole)
			}
			conn.Close()
		}
	}
	p.end(t)
}

// A backend that takes connections and ends them at once, before or after it has read, fails a write and leaves nothing behind.
func TestBackendThatEndsConnections(t *testing.T) {
	t.Parallel()
	p := quiet(t)
	for _, after := range []int{0, 1} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				_, _ = io.ReadFull(conn, make([]byte, after))
				tcp, _ := conn.(*net.TCPConn)
				reset(tcp)
			}
		}()
		addr := netip.MustParseAddrPort(ln.Addr().String())
		r := router("web", p.backends...)
		r.Backends = []vortex.Backend{{Instance: "ending", Address: addr.Addr().String(), Port: addr.Port()}}
		p.awaitDrained(t, p.put(t, r), p.backends[0].name)
		for range times {
			conn := p.dial(t)
			send(t, conn, http.MethodPost, "/", "Content-Length: 4")
			fmt.Fprint(conn, "body")
			_ = conn.SetReadDeadline(time.Now().Add(patience))
			if got := answer(t, bufio.NewReader(conn)); got.code < http.StatusInternalServerError {
				t.Fatalf("answered %d", got.code)
			}
			conn.Close()
		}
		p.awaitDrained(t, p.put(t, router("web", p.backends...)), "ending")
		ln.Close()
	}
	p.end(t)
}

// A client that has sent its request and closes its side still gets an answer that comes soon.
func TestHalfClosedClientGetsAQuickAnswer(t *testing.T) {
	t.Parallel()
	p := quiet(t)
	for range times {
		conn := p.dial(t)
		send(t, conn, http.MethodGet, "/bytes?n=10000&piece=10000")
		_ = conn.CloseWrite()
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		body, err := io.ReadAll(conn)
		if len(body) < 10000 || err != nil {
			t.Fatalf("%d bytes came, then %v", len(body), err)
		}
	}
	p.end(t)
}
