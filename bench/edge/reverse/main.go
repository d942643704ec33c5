// Command reverse is a reverse proxy of net/http/httputil, set up as well as it can be: what the edge saves is measured beside it.
//
//	reverse -listen 127.0.0.1:8000 -hosts app-0.example=127.0.0.1:9001+127.0.0.1:9002,app-1.example=…
//
// It does what the other proxies of the benchmark do: it routes by host, sets X-Forwarded-For, -Host and -Proto, edits answers, counts
// requests and their time, and limits each address. It ends when stdin does.
package main

import (
	"cmp"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "reverse:", err)
		os.Exit(1) //nolint:forbidigo // a program of its own
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("reverse", flag.ContinueOnError)
	listen := flags.String("listen", "127.0.0.1:8000", "address for HTTP")
	hosts := flags.String("hosts", "", "host=address+address, comma-separated")
	if err := flags.Parse(args); err != nil {
		return err
	}
	p := &proxy{routes: map[string]*route{}, clients: map[string]*client{}}
	for entry := range strings.SplitSeq(*hosts, ",") {
		host, addresses, ok := strings.Cut(entry, "=")
		if !ok {
			return fmt.Errorf("-hosts wants host=address+address, got %q", entry)
		}
		p.routes[host] = &route{backends: strings.Split(addresses, "+")}
	}
	const idle = 256
	p.forward = &httputil.ReverseProxy{
		Rewrite: p.rewrite, ModifyResponse: edit, BufferPool: &buffers{},
		Transport: &http.Transport{MaxIdleConnsPerHost: idle, DisableCompression: true},
	}
	server := &http.Server{Addr: *listen, Handler: p, ReadHeaderTimeout: time.Minute}
	failed := make(chan error)
	go func() { failed <- server.ListenAndServe() }()
	go func() {
		_, err := io.Copy(io.Discard, os.Stdin)
		failed <- err
	}()
	return <-failed
}

// route is a host's backends and its figures.
type route struct {
	backends []string
	next     atomic.Uint64
	requests atomic.Uint64
	nanos    atomic.Int64
}

// client is what an address asked for in the current window.
type client struct {
	window int64
	count  uint64
}

const (
	limit  = 500_000_000
	window = 15 * time.Second
)

type proxy struct {
	forward *httputil.ReverseProxy
	routes  map[string]*route

	mu      sync.Mutex
	clients map[string]*client
}

// ServeHTTP implements http.Handler.
func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	route := p.routes[r.Host]
	switch {
	case route == nil:
		http.NotFound(w, r)
		return
	case !p.allow(r.RemoteAddr, began):
		http.Error(w, "too many requests", http.StatusTooManyRequests)
		return
	}
	p.forward.ServeHTTP(w, r)
	route.requests.Add(1)
	route.nanos.Add(int64(time.Since(began)))
}

func (p *proxy) allow(remote string, now time.Time) bool {
	host, _, err := net.SplitHostPort(remote)
	host = cmp.Or(host, remote)
	if err != nil {
		return false
	}
	current := now.UnixNano() / int64(window)
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.clients[host]
	if c == nil {
		c = &client{}
		p.clients[host] = c
	}
	if c.window != current {
		c.window, c.count = current, 0
	}
	c.count++
	return c.count <= limit
}

func (p *proxy) rewrite(r *httputil.ProxyRequest) {
	route := p.routes[r.In.Host]
	r.Out.URL.Scheme = "http"
	r.Out.URL.Host = route.backends[route.next.Add(1)%uint64(len(route.backends))]
	r.Out.Host = r.In.Host
	r.SetXForwarded()
}

// edit edits an answer's fields.
func edit(r *http.Response) error {
	r.Header.Del("X-Backend")
	r.Header.Set("X-Served-By", "reverse")
	return nil
}

// buffers is a pool for bodies.
type buffers struct{ pool sync.Pool }

// Get implements httputil.BufferPool.
func (b *buffers) Get() []byte {
	const size = 32 << 10
	if buf, ok := b.pool.Get().(*[]byte); ok {
		return *buf
	}
	return make([]byte, size)
}

// Put implements httputil.BufferPool.
func (b *buffers) Put(buf []byte) { b.pool.Put(&buf) }
