package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"vortex"
	"vortex/bench/edge/poll"
	"vortex/test/harness"
)

// site is what every proxy serves: a number of hosts, each with a pool of the same backends.
type site struct {
	layout layout
	routes int
	ports  []uint16 // of the backends
	dir    string   // for configurations and logs
	back   *child
	ready  func(context.Context, netip.AddrPort) error // reports whether a proxy serves
}

// hot is how many of the routes are asked for. Each proxy keeps connections for each of them.
const hot = 4

func host(route int) string { return fmt.Sprintf("app-%d.example", route) }

// head is a request for a route.
func head(route int) []byte {
	return fmt.Appendf(nil, "GET /some/path?n=%d HTTP/1.1\r\nHost: %s\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n", route, host(route))
}

// heads are requests for n routes, spread over all of them.
func (s *site) heads(n int) [][]byte {
	all := make([][]byte, n)
	for i := range all {
		all[i] = head(i * s.routes / n)
	}
	return all
}

// open starts the backend of a site of HTTP.
func (b *bench) open(ctx context.Context, l layout, routes int) (*site, error) {
	const backends = 2
	return b.openWith(ctx, &site{
		layout: l, routes: routes,
		ready: func(ctx context.Context, addr netip.AddrPort) error { return ask(ctx, addr, host(routes-1)) },
	}, "-http", backends)
}

// openWith starts the backend of a site, which serves a protocol on n ports.
func (b *bench) openWith(ctx context.Context, s *site, protocol string, n int) (*site, error) {
	var err error
	if s.dir, err = os.MkdirTemp("", "vortex-bench-edge-"); err != nil {
		return nil, err
	}
	if s.ports, err = freePorts(ctx, n); err != nil {
		return nil, errors.Join(err, s.close())
	}
	if s.back, err = start("backend", s.layout.rest, filepath.Join(b.programs, "backend"), protocol, list(s.ports)); err != nil {
		return nil, errors.Join(err, s.close())
	}
	err = s.back.await(ctx, "it answered", func() error { return s.ready(ctx, poll.Loopback(s.ports[0])) })
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *site) close() error {
	if s.back != nil {
		s.back.stop()
	}
	return os.RemoveAll(s.dir)
}

// ask sends one request and wants a good answer.
func ask(ctx context.Context, addr netip.AddrPort, host string) error {
	_, err := fields(ctx, addr, host)
	return err
}

// edits wants a proxy to edit an answer's fields.
func edits(ctx context.Context, addr netip.AddrPort) error {
	got, err := fields(ctx, addr, host(0))
	if err == nil && (got.Get(servedBy) == "" || got.Get(hidden) != "") {
		err = fmt.Errorf("it does not edit answers: %v", got)
	}
	return err
}

// fields sends one request and returns the header fields of a good answer.
func fields(ctx context.Context, addr netip.AddrPort, host string) (http.Header, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr.String()+"/", nil)
	if err != nil {
		return nil, err
	}
	req.Host, req.Close = host, true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("answered %s", resp.Status)
	}
	return resp.Header, errors.Join(err, resp.Body.Close())
}

// proxy is a running proxy of a site.
type proxy struct {
	*child

	addr netip.AddrPort
}

// starter starts one kind of proxy on a port.
type starter func(s *site, port uint16) (*child, error)

// serve starts a proxy and returns when it serves.
func (s *site) serve(ctx context.Context, begin starter) (*proxy, error) {
	ports, err := freePorts(ctx, 1)
	if err != nil {
		return nil, err
	}
	c, err := begin(s, ports[0])
	if err != nil {
		return nil, err
	}
	p := &proxy{c, poll.Loopback(ports[0])}
	err = c.await(ctx, "it served", func() error { return s.ready(ctx, p.addr) })
	if err != nil {
		c.stop()
		return nil, err
	}
	return p, nil
}

// serveAll starts several proxies, or none.
func (s *site) serveAll(ctx context.Context, begin ...starter) (proxies []*proxy, err error) {
	for _, f := range begin {
		p, err := s.serve(ctx, f)
		if err != nil {
			stopAll(proxies)
			return nil, err
		}
		proxies = append(proxies, p)
	}
	return proxies, nil
}

func stopAll(proxies []*proxy) {
	for _, p := range proxies {
		p.stop()
	}
}

// limited is how many requests a client may send in 15 seconds, which is the edge's own limit: nobody reaches it, all of them count.
const limited = 500_000_000

// clientIdle is how long every proxy lets a client's connection idle: longer than anything here takes.
const clientIdle = time.Hour

// servedBy is a field that every proxy adds to answers, and hidden is one that it takes out of them.
const (
	servedBy = "X-Served-By"
	hidden   = "X-Backend"
)

// edge starts the edge alone, as the built binary.
func (b *bench) edge(s *site, port uint16) (*child, error) {
	binary, err := harness.Binary()
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(s.edgeFile(port)) // JSON is YAML
	if err != nil {
		return nil, err
	}
	path := filepath.Join(s.dir, fmt.Sprintf("edge-%d.yaml", port))
	if err := os.WriteFile(path, config, 0o600); err != nil {
		return nil, err
	}
	return start("edge", s.layout.proxy, binary, "edge", "--config", path)
}

// edgeFile is the edge's configuration. Each route has a pool of its own, or many routes share one.
func (s *site) edgeFile(port uint16) vortex.EdgeFile {
	f := vortex.EdgeFile{
		Listeners: []vortex.EdgeListener{{Name: "http", Address: poll.Loopback(port).String()}},
		Limits:    &vortex.EdgeLimits{IdleSeconds: new(clientIdle.Seconds())},
		Admin:     "unix:" + filepath.Join(s.dir, fmt.Sprintf("edge-%d.sock", port)),
	}
	var backends []vortex.EdgeBackend
	for _, p := range s.ports {
		backends = append(backends, vortex.EdgeBackend{Address: poll.Loopback(p).String()})
	}
	shared := s.routes > webRoutes
	if shared {
		f.Pools = []vortex.EdgePool{{Name: "all", Backends: backends}}
	}
	for i := range s.routes {
		r := vortex.EdgeRoute{Name: fmt.Sprintf("app-%d", i)}
		r.Hosts = []string{host(i)}
		if shared {
			r.Pool = "all"
		} else {
			r.Backends = backends
			r.ResponseHeaders = &vortex.HeaderEdits{Set: map[string]string{servedBy: "edge"}, Remove: []string{hidden}}
		}
		f.Routes = append(f.Routes, r)
	}
	return f
}

// reverse starts the proxy of net/http/httputil.
func (b *bench) reverse(s *site, port uint16) (*child, error) {
	var addresses, hosts []string
	for _, p := range s.ports {
		addresses = append(addresses, poll.Loopback(p).String())
	}
	for i := range s.routes {
		hosts = append(hosts, host(i)+"="+strings.Join(addresses, "+"))
	}
	return start("ReverseProxy", s.layout.proxy, filepath.Join(b.programs, "reverse"),
		"-listen", poll.Loopback(port).String(), "-hosts", strings.Join(hosts, ","))
}

// nginx starts nginx.
func nginx(s *site, port uint16) (*child, error) {
	var c bytes.Buffer
	fmt.Fprintf(&c, `daemon off;
user root;
pid %[1]s/nginx.pid;
error_log stderr crit;
worker_processes %[2]d;
events { worker_connections %[3]d; multi_accept on; }
http {
	access_log off;
	client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/fastcgi; uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
	keepalive_timeout %[6]ds;
	keepalive_requests 1000000000;
	server_names_hash_max_size 65536;
	server_names_hash_bucket_size 128;
	limit_req_zone $binary_remote_addr zone=clients:10m rate=1000000r/s;
	proxy_http_version 1.1;
	proxy_set_header Connection "";
	proxy_set_header Host $http_host;
	proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
	proxy_set_header X-Forwarded-Host $http_host;
	proxy_set_header X-Forwarded-Proto $scheme;
	proxy_hide_header %[4]s;
	add_header %[5]s nginx;
`, s.dir, s.layout.workers(), maxConnections(), hidden, servedBy, int(clientIdle.Seconds()))
	keep := 128 // connections to each pool; it sets them aside at once
	if s.routes > webRoutes {
		keep = 4
	}
	for i := range s.routes {
		fmt.Fprintf(&c, "\tupstream u%d {", i)
		for _, p := range s.ports {
			fmt.Fprintf(&c, " server 127.0.0.1:%d;", p)
		}
		options := ""
		if i == 0 {
			options = " reuseport backlog=4096"
		}
		fmt.Fprintf(&c, " keepalive %d; keepalive_requests 1000000000; }\n\tserver {\n\t\tlisten 127.0.0.1:%d%s;\n\t\tserver_name %s;\n"+
			"\t\tlocation / { limit_req zone=clients burst=1000000 nodelay; proxy_pass http://u%d; }\n"+
			"\t\tlocation = /nginx-status { stub_status; }\n\t}\n", keep, port, options, host(i), i)
	}
	c.WriteString("}\n")
	path := filepath.Join(s.dir, fmt.Sprintf("nginx-%d.conf", port))
	if err := os.WriteFile(path, c.Bytes(), 0o600); err != nil {
		return nil, err
	}
	return start("nginx", s.layout.proxy, program("nginx"), "-p", s.dir, "-c", path)
}

// haproxy starts HAProxy.
func haproxy(s *site, port uint16) (*child, error) {
	var c, hosts bytes.Buffer
	mapPath := filepath.Join(s.dir, fmt.Sprintf("hosts-%d.map", port))
	fmt.Fprintf(&c, `global
	nbthread %d
	maxconn %d
	stats socket %s/haproxy-%d.sock mode 600
defaults
	mode http
	timeout connect 2s
	timeout client %ds
	timeout http-keep-alive %ds
	timeout server 300s
	option http-keep-alive
	option forwardfor
	http-reuse always
frontend in
	bind 127.0.0.1:%d backlog 4096
	stick-table type ip size 100k expire 30s store http_req_rate(15s)
	http-request track-sc0 src
	http-request deny deny_status 429 if { sc_http_req_rate(0) gt %d }
	http-request set-header X-Forwarded-Host %%[req.hdr(host)]
	http-request set-header X-Forwarded-Proto http
	http-response del-header %s
	http-response set-header %s haproxy
	use_backend %%[req.hdr(host),field(1,:),lower,map(%s)]
`, s.layout.workers(), maxConnections()/2-1000, s.dir, port, int(clientIdle.Seconds()), int(clientIdle.Seconds()), port, limited, hidden, servedBy, mapPath) // it counts two descriptors for a connection
	for i := range s.routes {
		fmt.Fprintf(&hosts, "%s b%d\n", host(i), i)
		fmt.Fprintf(&c, "backend b%d\n\tbalance roundrobin\n", i)
		for k, p := range s.ports {
			fmt.Fprintf(&c, "\tserver s%d 127.0.0.1:%d\n", k, p)
		}
	}
	path := filepath.Join(s.dir, fmt.Sprintf("haproxy-%d.cfg", port))
	if err := errors.Join(os.WriteFile(path, c.Bytes(), 0o600), os.WriteFile(mapPath, hosts.Bytes(), 0o600)); err != nil {
		return nil, err
	}
	return start("HAProxy", s.layout.proxy, program("haproxy"), "-db", "-q", "-f", path)
}

// program finds a server that may not be in the path of people who are not root.
func program(name string) string {
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/usr/local/sbin") { //nolint:forbidigo // a program of its own
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode()&0o111 != 0 {
			return path
		}
	}
	return name
}

// rotated is the proxies in the order of a round: each comes first once.
func rotated(proxies []*proxy, round int) []*proxy {
	n := (round%len(proxies) + len(proxies)) % len(proxies)
	return slices.Concat(proxies[n:], proxies[:n])
}
