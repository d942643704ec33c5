package l4_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"vortex/internal/edge/l4"
	"vortex/internal/edge/pool"
)

// The proxies are processes of their own, so that what each costs can be told apart from clients and backends, and every one
// leads from one port to one backend. Beside ours stand nginx and HAProxy where they are installed; nginx's stream module may have to be
// named in NGINX_STREAM.
//
//	go test -run - -bench Beside ./internal/edge/l4

// serveEnv makes the test binary a proxy: "udp" or "tcp", its port, the backend.
const serveEnv = "L4_SERVE"

// serveForBench is what the process does that serveEnv asks for: it serves until its input ends.
func serveForBench(what string) {
	fields := strings.Fields(what)
	port, _ := strconv.ParseUint(fields[1], 10, 16)
	began := time.Now()
	now := func() int64 { return int64(time.Since(began)) + 1 }
	s := l4.New(l4.Config{Fleet: pool.NewFleet(pool.Config{Now: now}), Now: now, Host: "127.0.0.1"})
	service := l4.Service{App: "a", First: uint16(port), Endpoints: []pool.Endpoint{{Instance: "a", Addr: netip.MustParseAddrPort(fields[2])}}}
	if fields[0] == "udp" {
		service.Protocol = l4.UDP
	}
	s.Set("a", []l4.Service{service})
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	_ = s.Run(ctx)
}

// proxy is a running one.
type proxy struct {
	port uint16
	pids []int
}

// proxies are the ways to lead a port to a backend.
var proxies = []struct {
	name string
	argv func(b *testing.B, protocol string, port uint16, to netip.AddrPort) []string
}{
	{"vortex", func(b *testing.B, protocol string, port uint16, to netip.AddrPort) []string {
		b.Helper()
		b.Setenv(serveEnv, fmt.Sprint(protocol, " ", port, " ", to))
		return []string{os.Args[0]}
	}},
	{"haproxy", func(b *testing.B, protocol string, port uint16, to netip.AddrPort) []string {
		b.Helper()
		if protocol == "udp" {
			b.Skip("HAProxy has no UDP")
		}
		return []string{"haproxy", "-db", "-f", config(b, fmt.Sprintf(`
global
  nbthread 2
defaults
  mode tcp
  option splice-auto
  timeout connect 5s
  timeout client 60s
  timeout server 60s
listen l
  bind 127.0.0.1:%d
  server s %s
`, port, to))}
	}},
	{"nginx", func(b *testing.B, protocol string, port uint16, to netip.AddrPort) []string {
		b.Helper()
		udp := ""
		if protocol == "udp" {
			udp = " udp reuseport"
		}
		module := ""
		if path := os.Getenv("NGINX_STREAM"); path != "" {
			module = "load_module " + path + ";"
		}
		return []string{"nginx", "-p", b.TempDir(), "-e", "stderr", "-c", config(b, fmt.Sprintf(`
%s
daemon off;
worker_processes 2;
pid nginx.pid;
events { worker_connections 8192; }
stream { server { listen 127.0.0.1:%d%s; proxy_pass %s; } }
`, module, port, udp, to))}
	}},
}

func config(b *testing.B, text string) string {
	b.Helper()
	path := filepath.Join(b.TempDir(), "conf")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	return path
}

// beside runs a benchmark with each proxy.
func beside(b *testing.B, protocol string, to netip.AddrPort, run func(b *testing.B, p *proxy)) {
	b.Helper()
	for _, kind := range proxies {
		b.Run(kind.name, func(b *testing.B) {
			b.Helper()
			p := &proxy{port: benchPort(b)}
			argv := kind.argv(b, protocol, p.port, to)
			if _, err := exec.LookPath(argv[0]); err != nil {
				b.Skip(err)
			}
			cmd := exec.Command(argv[0], argv[1:]...)
			stdin, err := cmd.StdinPipe()
			if err != nil {
				b.Fatal(err)
			}
			var out strings.Builder
			cmd.Stderr = &out
			if err := cmd.Start(); err != nil {
				b.Fatal(err)
			}
			defer func() {
				stdin.Close()
				if kind.name != "vortex" {
					_ = cmd.Process.Signal(os.Interrupt)
				}
				_ = cmd.Wait()
			}()
			if !serves(protocol, p.port) {
				b.Skipf("%s does not serve: %s", kind.name, out.String())
			}
			p.pids = append(children(cmd.Process.Pid), cmd.Process.Pid)
			run(b, p)
		})
	}
}

func benchPort(b *testing.B) uint16 {
	b.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).AddrPort().Port()
}

// serves waits until something comes back through the port.
func serves(protocol string, port uint16) bool {
	buf := make([]byte, 1)
	for range 200 {
		if c, err := net.Dial(protocol, local(port)); err == nil {
			_, _ = c.Write([]byte("x"))
			_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
			_, err = c.Read(buf)
			c.Close()
			if err == nil {
				return true
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	return false
}

func children(pid int) (pids []int) {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for field := range strings.FieldsSeq(string(text)) {
		if n, err := strconv.Atoi(field); err == nil {
			pids = append(pids, n)
		}
	}
	return pids
}

// cpu returns the processor time the proxy has used.
func (p *proxy) cpu() (total time.Duration) {
	for _, pid := range p.pids {
		tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		for _, task := range tasks {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/schedstat", pid, task.Name()))
			if err == nil {
				ns, _ := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
				total += time.Duration(ns)
			}
		}
	}
	return total
}

// echoes is a backend that sends back what comes.
func echoes(b *testing.B) netip.AddrPort {
	b.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 64<<10)
				for {
					n, err := c.Read(buf)
					if err != nil {
						return
					}
					if n <= 64 { // bulk is only taken
						_, _ = c.Write(buf[:n])
					}
				}
			}()
		}
	}()
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

// BenchmarkBesideSmall sends 64 bytes and waits for them, on 32 connections.
func BenchmarkBesideSmall(b *testing.B) {
	beside(b, "tcp", echoes(b), func(b *testing.B, p *proxy) {
		b.Helper()
		b.SetParallelism(16)
		before := p.cpu()
		b.RunParallel(func(pb *testing.PB) {
			c, err := net.Dial("tcp", local(p.port))
			if err != nil {
				b.Error(err)
				return
			}
			defer c.Close()
			buf := make([]byte, 64)
			r := bufio.NewReader(c)
			for pb.Next() {
				_, _ = c.Write(buf)
				if _, err := io.ReadFull(r, buf); err != nil {
					b.Error(err)
					return
				}
			}
		})
		b.ReportMetric(float64(p.cpu()-before)/1e3/float64(b.N), "proxy-µs/op")
	})
}

// BenchmarkBesideBulk sends mebibytes, on four connections.
func BenchmarkBesideBulk(b *testing.B) {
	beside(b, "tcp", echoes(b), func(b *testing.B, p *proxy) {
		b.Helper()
		b.SetBytes(1 << 20)
		b.SetParallelism(2)
		before := p.cpu()
		b.RunParallel(func(pb *testing.PB) {
			c, err := net.Dial("tcp", local(p.port))
			if err != nil {
				b.Error(err)
				return
			}
			defer c.Close()
			buf := make([]byte, 1<<20)
			for pb.Next() {
				if _, err := c.Write(buf); err != nil {
					b.Error(err)
					return
				}
			}
		})
		b.ReportMetric(float64(p.cpu()-before)/1e3/float64(b.N), "proxy-µs/MiB")
	})
}

// BenchmarkBesideConnect opens a connection, exchanges one byte, and closes it.
func BenchmarkBesideConnect(b *testing.B) {
	beside(b, "tcp", echoes(b), func(b *testing.B, p *proxy) {
		b.Helper()
		b.SetParallelism(8)
		before := p.cpu()
		b.RunParallel(func(pb *testing.PB) {
			buf := make([]byte, 1)
			for pb.Next() {
				c, err := net.Dial("tcp", local(p.port))
				if err != nil {
					b.Error(err)
					return
				}
				_, _ = c.Write(buf)
				_, _ = c.Read(buf)
				_ = c.(*net.TCPConn).SetLinger(0)
				c.Close()
			}
		})
		b.ReportMetric(float64(p.cpu()-before)/1e3/float64(b.N), "proxy-µs/op")
	})
}

// BenchmarkBesideUDP has 64 clients that each keep four datagrams of 100 bytes on their way, to a backend that sends them back.
func BenchmarkBesideUDP(b *testing.B) {
	pc, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr(0)))
	if err != nil {
		b.Fatal(err)
	}
	defer pc.Close()
	_ = pc.SetReadBuffer(4 << 20)
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := pc.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			_, _ = pc.WriteToUDPAddrPort(buf[:n], from)
		}
	}()
	to, _ := netip.ParseAddrPort(pc.LocalAddr().String())
	beside(b, "udp", to, func(b *testing.B, p *proxy) {
		b.Helper()
		const clients, window = 64, 4
		before := p.cpu()
		var left, lost atomic.Int64
		left.Store(int64(b.N))
		var all sync.WaitGroup
		for range clients {
			c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(addr(p.port)))
			if err != nil {
				b.Fatal(err)
			}
			all.Go(func() {
				defer c.Close()
				buf := make([]byte, 100)
				for range window {
					_, _ = c.Write(buf)
				}
				for left.Add(-1) >= 0 {
					_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
					if _, err := c.Read(buf); err != nil {
						lost.Add(1)
						left.Add(1)
					}
					_, _ = c.Write(buf)
				}
			})
		}
		all.Wait()
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "roundtrips/s")
		b.ReportMetric(float64(p.cpu()-before)/1e3/float64(b.N), "proxy-µs/op")
		b.ReportMetric(float64(lost.Load()), "lost")
	})
}
