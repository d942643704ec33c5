package edge_test

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"syscall"
	"testing"

	"vortex/internal/edge"
)

// literal is a backend that costs next to nothing: it answers every request on a connection with the same bytes.
func literal(b *testing.B) *backend {
	b.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { ln.Close() })
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, world!")
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				buf := make([]byte, 4096)
				for {
					if _, err := conn.Read(buf); err != nil {
						return
					}
					if _, err := conn.Write(answer); err != nil {
						return
					}
				}
			}()
		}
	}()
	addr, _ := ln.Addr().(*net.TCPAddr)
	return &backend{name: "literal", addr: addr}
}

// hammer asks addr over keep-alive connections and reports the processor time per request of the whole process, which
// client and backend share.
func hammer(b *testing.B, addr string) {
	b.Helper()
	request := []byte("GET /some/path HTTP/1.1\r\nHost: web.localhost\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n")
	b.ReportAllocs()
	b.SetParallelism(16)
	before := cpu()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			b.Error(err)
			return
		}
		defer conn.Close()
		r := bufio.NewReader(conn)
		buf := make([]byte, 4096)
		for pb.Next() {
			if _, err := conn.Write(request); err != nil {
				b.Error(err)
				return
			}
			if n, err := r.Read(buf); err != nil || string(buf[9:12]) != "200" {
				b.Errorf("%q, %v", buf[:n], err)
				return
			}
		}
	})
	b.StopTimer()
	b.ReportMetric(float64(cpu()-before)/1e3/float64(b.N), "cpu-µs/op")
}

// cpu returns the nanoseconds of processor time this process has used.
func cpu() int64 {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

func BenchmarkProxy(b *testing.B) {
	backend := literal(b)
	b.Run("direct", func(b *testing.B) { hammer(b, backend.addr.String()) })
	b.Run("edge", func(b *testing.B) {
		s := newStore()
		addrs := make(chan []net.Addr, 1)
		e := edge.New(edge.Config{ID: "e", Listen: []string{"127.0.0.1:0"}, Accepting: func(a []net.Addr) { addrs <- a }}, s, s)
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error)
		go func() { ended <- e.Run(ctx) }()
		revision := s.put(router("web", backend))
		eventually(b, "the router to be applied", func() bool { return e.Status().Revision >= revision })
		hammer(b, (<-addrs)[0].String())
		cancel()
		if err := <-ended; err != nil {
			b.Fatal(err)
		}
	})
	b.Run("httputil", func(b *testing.B) {
		proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: backend.addr.String()})
		proxy.Transport = &http.Transport{MaxIdleConnsPerHost: 256}
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		server := &http.Server{Handler: proxy}
		go func() { _ = server.Serve(ln) }()
		defer server.Close()
		hammer(b, ln.Addr().String())
	})
}
