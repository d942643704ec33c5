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
	"time"

	"vortex"
	"vortex/bench/edge/load"
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
)

// measureTCP measures small messages there and back, and bulk data one way.
func (b *bench) measureTCP(ctx context.Context) error {
	peers := []starter{b.edgeStream(vortex.PortProtocolTCP), haproxyTCP, nginxStream("")}
	err := b.compareStream(ctx, "-echo", peers, func(s *site, p *proxy, d time.Duration) (int, error) {
		return load.Messages{Addr: p.addr, Conns: messageConns, Size: messageSize, For: d, Cores: s.layout.rest}.Run()
	}, func(costs, rates map[string][]float64) {
		b.against("edge/tcp/64_bytes/cpu_per_message", "us", "HAProxy", costs, messageLimit)
		b.against("edge/tcp/64_bytes/throughput", "1/s", "HAProxy", rates, 0)
		b.against("edge/tcp/64_bytes/cpu_per_message", "us", "nginx", costs, 0)
	})
	if err != nil {
		return err
	}
	return b.compareStream(ctx, "-bulk", peers, func(s *site, p *proxy, d time.Duration) (int, error) {
		n, err := load.Bulk{Addr: p.addr, Conns: bulkConns, For: d, Cores: s.layout.rest}.Run()
		return n / mega, err
	}, func(costs, rates map[string][]float64) {
		b.against("edge/tcp/bulk/cpu_per_megabyte", "us", "HAProxy", costs, bulkLimit)
		b.against("edge/tcp/bulk/megabytes", "1/s", "HAProxy", rates, 0)
		b.against("edge/tcp/bulk/cpu_per_megabyte", "us", "nginx", costs, 0)
	})
}

const mega = 1_000_000

// measureUDP measures datagrams there and back: given to the kernel and taken from it by the ends one by one, then in bundles. The
// first way the ends, on the cores that are left to them, take as much as a proxy.
func (b *bench) measureUDP(ctx context.Context) error {
	peers := []starter{b.edgeStream(vortex.PortProtocolUDP), nginxStream(" udp")}
	for _, way := range []struct{ name, protocol string }{{"64_bytes", "-udp"}, {"bundles", "-bundles"}} {
		err := b.compareStream(ctx, way.protocol, peers, func(s *site, p *proxy, d time.Duration) (int, error) {
			return load.Datagrams{
				Addr: p.addr, Sockets: udpSockets, Window: udpWindow, Size: messageSize, Bundled: way.protocol == "-bundles",
				For: d, Cores: s.layout.rest,
			}.Run()
		}, func(costs, rates map[string][]float64) {
			b.against("edge/udp/"+way.name+"/datagrams", "1/s", "nginx", rates, datagramLimit)
			b.against("edge/udp/"+way.name+"/cpu_per_datagram", "us", "nginx", costs, datagramCost)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// compareStream lets proxies in front of one port of the backend take turns. do returns how much it did.
func (b *bench) compareStream(ctx context.Context, protocol string, begin []starter,
	do func(*site, *proxy, time.Duration) (int, error), take func(costs, rates map[string][]float64),
) (err error) {
	ready := connects
	if protocol == "-udp" || protocol == "-bundles" {
		ready = echoes
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
	defer stopAll(proxies)
	costs, rates := map[string][]float64{}, map[string][]float64{}
	err = b.takeTurns(ctx, proxies, func(p *proxy, d time.Duration) (sample, error) {
		before, err := p.cpu()
		if err != nil {
			return sample{}, err
		}
		began := time.Now()
		n, err := do(s, p, d)
		if err != nil || n == 0 {
			return sample{}, errors.Join(err, fmt.Errorf("%d came through", n))
		}
		took := time.Since(began)
		after, err := p.cpu()
		return sample{cost: float64((after - before).Microseconds()) / float64(n), rate: float64(n) / took.Seconds()}, err
	}, func(name string, one sample) {
		costs[name] = append(costs[name], one.cost)
		rates[name] = append(rates[name], one.rate)
	})
	if err == nil {
		take(costs, rates)
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

// echoes wants a datagram back.
func echoes(ctx context.Context, addr netip.AddrPort) error {
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
events { worker_connections 4096; multi_accept on; }
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
		c, err := start("edge", s.layout.proxy, filepath.Join(b.programs, "piped"), "-listen", "127.0.0.1:0")
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
