package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"vortex"
	"vortex/bench/edge/load"
	"vortex/bench/edge/poll"
	"vortex/bench/process"
)

const (
	messageLimit  = 1.15 // of HAProxy's CPU time of a message
	bulkLimit     = 1.0  // of HAProxy's of a megabyte
	datagramLimit = 1.5  // times nginx's datagrams a second
	datagramCost  = 1.0  // of nginx's CPU time of a datagram

	messageConns = 64
	messageSize  = 64
	bulkConns    = 4
	udpSockets   = 16
	udpWindow    = 8
	manySockets  = 500
)

// measureTCP measures small messages there and back, and bulk data one way.
func (b *bench) measureTCP(ctx context.Context) error {
	peers := []starter{b.edgeStream(vortex.PortProtocolTCP), haproxyTCP, nginxStream("")}
	err := b.compareStream(ctx, "-echo", peers, func(s *site, p *proxy, d time.Duration) (int, error) {
		return load.Messages{Addr: p.addr, Conns: messageConns, Size: messageSize, For: d, Cores: s.layout.rest}.Run()
	}, func(t *taken) {
		b.against("edge/tcp/64_bytes/cpu_per_message", "us", "HAProxy", t.costs, messageLimit)
		b.against("edge/tcp/64_bytes/throughput", "1/s", "HAProxy", t.rates, 0)
		b.against("edge/tcp/64_bytes/cpu_per_message", "us", "nginx", t.costs, 0)
	})
	if err != nil {
		return err
	}
	return b.compareStream(ctx, "-bulk", peers, func(s *site, p *proxy, d time.Duration) (int, error) {
		n, err := load.Bulk{Addr: p.addr, Conns: bulkConns, For: d, Cores: s.layout.rest}.Run()
		return n / mega, err
	}, func(t *taken) {
		b.against("edge/tcp/bulk/cpu_per_megabyte", "us", "HAProxy", t.costs, bulkLimit)
		b.against("edge/tcp/bulk/megabytes", "1/s", "HAProxy", t.rates, 0)
		b.against("edge/tcp/bulk/cpu_per_megabyte", "us", "nginx", t.costs, 0)
	})
}

const mega = 1_000_000

// measureUDP measures datagrams there and back: given to the kernel and taken from it by the ends one by one, then in bundles.
func (b *bench) measureUDP(ctx context.Context) error {
	return errors.Join(
		b.compareUDP(ctx, "64_bytes", "-udp", echoed(false), datagramLimit),
		b.compareUDP(ctx, "bundles", "-bundles", echoed(true), datagramLimit),
	)
}

// measureFlood measures datagrams one way, more of them than a proxy takes: from a few clients, a few at a time, and from many, one at a
// time, which is the worst case for whoever sends what goes together together.
func (b *bench) measureFlood(ctx context.Context) error {
	return errors.Join(
		b.compareUDP(ctx, "one_way", "-sink", flooded(udpSockets, udpWindow), datagramLimit),
		b.compareUDP(ctx, "one_way_many", "-sink", flooded(manySockets, 1), 0),
	)
}

// compareUDP compares one way to load the proxies. limit is of the rate; without one the figures are there to be known.
func (b *bench) compareUDP(ctx context.Context, name, protocol string, do func(*site, *proxy, time.Duration) (int, error), limit float64) error {
	cost := datagramCost
	if limit == 0 {
		cost = 0
	}
	peers := []starter{b.edgeStream(vortex.PortProtocolUDP), nginxStream(" udp")}
	if protocol != "-bundles" { // which it does not know
		peers = append(peers, b.bare)
	}
	return b.compareStream(ctx, protocol, peers, do, func(t *taken) {
		b.against("edge/udp/"+name+"/datagrams", "1/s", "nginx", t.rates, limit)
		b.against("edge/udp/"+name+"/cpu_per_datagram", "us", "nginx", t.costs, cost)
		b.against("edge/udp/"+name+"/core_busy", "%", "nginx", t.busy, 0)
		if t.costs[bareLoop] != nil {
			b.against("edge/udp/"+name+"/datagrams", "1/s", bareLoop, t.rates, 0)
			b.against("edge/udp/"+name+"/cpu_per_datagram", "us", bareLoop, t.costs, 0)
		}
		if protocol != "-sink" {
			b.against("edge/udp/"+name+"/datagrams", "1/s", alone, t.rates, 0)
		}
	})
}

// bareLoop is a loop that passes datagrams on and does nothing else, and alone is both ends without a proxy between them.
const (
	bareLoop = "bare loop"
	alone    = "no proxy"
)

// bare starts the bare loop.
func (b *bench) bare(s *site, port uint16) (*child, error) {
	return start(bareLoop, s.layout.proxy, filepath.Join(b.programs, "bare"), "-listen", strconv.Itoa(int(port)), "-to", strconv.Itoa(int(s.ports[0])))
}

// alone takes turns with the proxies, and leads to the backend itself: what the ends can do bounds all of them.
func (s *site) alone() (*proxy, error) {
	c, err := start(alone, s.layout.proxy, "sleep", "infinity")
	return &proxy{c, poll.Loopback(s.ports[0])}, err
}

func echoed(bundled bool) func(*site, *proxy, time.Duration) (int, error) {
	return func(s *site, p *proxy, d time.Duration) (int, error) {
		return load.Datagrams{
			Addr: p.addr, Sockets: udpSockets, Window: udpWindow, Size: messageSize, Bundled: bundled, For: d, Cores: s.layout.rest,
		}.Run()
	}
}

func flooded(sockets, burst int) func(*site, *proxy, time.Duration) (int, error) {
	return func(s *site, p *proxy, d time.Duration) (int, error) {
		return load.Flood{
			Addr: p.addr, Sink: poll.Loopback(s.ports[0]), Sockets: sockets, Burst: burst, Size: messageSize, For: d, Cores: s.layout.rest,
		}.Run()
	}
}

// taken is what was measured of each proxy in each round.
type taken struct {
	costs map[string][]float64 // microseconds of its CPU time for each
	rates map[string][]float64 // a second
	busy  map[string][]float64 // percent of the time of its cores
}

// compareStream lets proxies in front of one port of the backend take turns. do returns how much it did.
func (b *bench) compareStream(ctx context.Context, protocol string, begin []starter,
	do func(*site, *proxy, time.Duration) (int, error), take func(*taken),
) (err error) {
	ready, direct := connects, false
	switch protocol {
	case "-udp", "-bundles":
		ready, direct = answers, true
	case "-sink":
		ready = answers
	}
	s, err := b.openWith(ctx, &site{layout: apart(), routes: 1, ready: ready}, protocol, 1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	proxies, err := s.serveAll(ctx, begin...)
	if err != nil {
		return err
	}
	defer func() { stopAll(proxies) }()
	if direct {
		p, err := s.alone()
		if err != nil {
			return err
		}
		proxies = append(proxies, p)
	}
	t := &taken{costs: map[string][]float64{}, rates: map[string][]float64{}, busy: map[string][]float64{}}
	err = b.takeTurns(ctx, proxies, func(p *proxy, d time.Duration) (sample, error) {
		before, err := p.cpu()
		idle, ierr := process.Idle(s.layout.proxy)
		if err := errors.Join(err, ierr); err != nil {
			return sample{}, err
		}
		began := time.Now()
		n, err := do(s, p, d)
		if err != nil || n == 0 {
			return sample{}, errors.Join(err, fmt.Errorf("%d came through", n))
		}
		took := time.Since(began)
		after, err := p.cpu()
		idleAfter, ierr := process.Idle(s.layout.proxy)
		return sample{
			cost: float64((after - before).Microseconds()) / float64(n), rate: float64(n) / took.Seconds(),
			busy: 100 * (1 - (idleAfter-idle).Seconds()/took.Seconds()/float64(s.layout.workers())),
		}, errors.Join(err, ierr)
	}, func(name string, one sample) {
		t.costs[name] = append(t.costs[name], one.cost)
		t.rates[name] = append(t.rates[name], one.rate)
		t.busy[name] = append(t.busy[name], one.busy)
	})
	if err == nil {
		take(t)
	}
	return err
}

// connects wants a listener at an address.
func connects(ctx context.Context, addr netip.AddrPort) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return err
	}
	return conn.Close()
}

// answers wants a datagram back.
func answers(ctx context.Context, addr netip.AddrPort) error {
	const soon = 50 * time.Millisecond
	conn, err := new(net.Dialer).DialContext(ctx, "udp4", addr.String())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write([]byte("hello")); err != nil {
		return err
	}
	if err := conn.SetReadDeadline(time.Now().Add(soon)); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, messageSize))
	return err
}

// haproxyTCP starts HAProxy for connections of any protocol.
func haproxyTCP(s *site, port uint16) (*child, error) {
	path := filepath.Join(s.dir, fmt.Sprintf("haproxy-%d.cfg", port))
	config := fmt.Sprintf(`global
	nbthread %d
	maxconn 4000
defaults
	mode tcp
	timeout connect 2s
	timeout client 300s
	timeout server 300s
	option splice-auto
listen in
	bind 127.0.0.1:%d backlog 4096
	server s 127.0.0.1:%d
`, s.layout.workers(), port, s.ports[0])
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		return nil, err
	}
	return start("HAProxy", s.layout.proxy, program("haproxy"), "-db", "-q", "-f", path)
}

// nginxStream starts nginx for connections of any protocol, or for datagrams.
func nginxStream(kind string) starter {
	return func(s *site, port uint16) (*child, error) {
		path := filepath.Join(s.dir, fmt.Sprintf("nginx-%d.conf", port))
		config := fmt.Sprintf(`load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
user root;
pid %s/nginx.pid;
error_log stderr crit;
worker_processes %d;
events { worker_connections 16384; multi_accept on; }
stream {
	server {
		listen 127.0.0.1:%d%s reuseport;
		proxy_pass 127.0.0.1:%d;
		proxy_connect_timeout 2s;
		proxy_timeout 300s;
	}
}
`, s.dir, s.layout.workers(), port, kind, s.ports[0])
		if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
			return nil, err
		}
		return start("nginx", s.layout.proxy, program("nginx"), "-p", s.dir, "-c", path)
	}
}

// update is what the edge is told of its routers.
type update struct {
	Revision uint64   `json:"revision"`
	Reset    bool     `json:"reset"`
	Changes  []change `json:"changes"`
}

type change struct {
	App    string              `json:"app"`
	Router vortex.RouterRecord `json:"router"`
}

// edgeStream starts the edge with a port that leads to the backend's.
func (b *bench) edgeStream(protocol vortex.PortProtocol) starter {
	return func(s *site, port uint16) (*child, error) {
		c, err := start("edge", s.layout.proxy, filepath.Join(b.programs, "piped"), "-listen", "127.0.0.1:0", "-port-host", "127.0.0.1") // as its peers do
		if err != nil {
			return nil, err
		}
		r := vortex.RouterRecord{
			ClientID: "stream", Type: vortex.AppTypeTCP,
			Ports:    []vortex.RouterPort{{Port: port, Protocol: protocol, ContainerPort: s.ports[0], Primary: new(true)}},
			Backends: []vortex.Backend{{Instance: "stream-1", Address: "127.0.0.1", Port: s.ports[0]}},
		}
		u := update{Revision: 1, Reset: true, Changes: []change{{r.ClientID, r}}}
		if err := json.NewEncoder(c.stdin).Encode(u); err != nil {
			c.stop()
			return nil, fmt.Errorf("tell the edge its routers: %w", err)
		}
		return c, nil
	}
}
