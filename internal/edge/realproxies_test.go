package edge_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"vortex"
	"vortex/internal/edge"
)

// realProxies are proxies that may stand before an edge, by the protocol's version that they speak. The configuration is given where to listen and
// where to pass on.
var realProxies = []struct {
	name, program string
	args          []string
	config        string
}{
	{"nginx", "nginx", []string{"-e", "stderr", "-p", ".", "-c", "proxy.conf"}, `
daemon off; master_process off; pid nginx.pid; error_log stderr;
%[3]s
events {}
stream { server { listen %[1]s; proxy_pass %[2]s; proxy_protocol on; } }
`},
	{"HAProxy with version 1", "haproxy", []string{"-f", "proxy.conf"}, haproxy + "  server edge %[2]s send-proxy\n"},
	{"HAProxy with version 2", "haproxy", []string{"-f", "proxy.conf"}, haproxy + "  server edge %[2]s send-proxy-v2 check check-send-proxy inter 100ms\n"},
}

const haproxy = `
defaults
  mode tcp
  timeout connect 5s
  timeout client 30s
  timeout server 30s
listen l
  bind %[1]s
`

// streamModule loads nginx's stream module where it is a file of its own.
func streamModule() string {
	for _, path := range []string{"/usr/lib/nginx/modules/ngx_stream_module.so", "/usr/lib64/nginx/modules/ngx_stream_module.so"} {
		if _, err := os.Stat(path); err == nil {
			return "load_module " + path + ";"
		}
	}
	return ""
}

// TestRealProxiesSayWhoTheirClientIs has clients of an address of their own ask through nginx and HAProxy.
func TestRealProxiesSayWhoTheirClientIs(t *testing.T) {
	t.Parallel()
	for _, p := range realProxies {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			program, err := exec.LookPath(p.program)
			if err != nil {
				t.Skipf("%s is not installed", p.program)
			}
			h := behindProxies(t, vortex.ProxyAcceptanceRequired, func(c *edge.Config) { c.Trusted = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")} })
			front, dir := freeAddr(t), t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "proxy.conf"), fmt.Appendf(nil, p.config+"# %[3]s\n", front, h.addr, streamModule()), 0o600); err != nil {
				t.Fatal(err)
			}
			var said bytes.Buffer
			cmd := exec.CommandContext(t.Context(), program, p.args...)
			cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &said, &said
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
				if t.Failed() {
					t.Log(said.String())
				}
			})
			eventually(t, "the proxy to listen", func() bool {
				conn, err := net.Dial("tcp", front)
				if err == nil {
					conn.Close()
				}
				return err == nil
			})
			for _, client := range []string{"127.0.0.1", "127.0.0.55"} {
				dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(client)}}
				var got string
				eventually(t, "an answer to "+client, func() bool {
					conn, err := dialer.DialContext(t.Context(), "tcp", front)
					if err != nil {
						return false
					}
					defer conn.Close()
					for range 3 {
						got = exchangeOn(conn)
					}
					return got != ""
				})
				if got != "["+client+"]" {
					t.Errorf("the client %s is told as %s", client, got)
				}
			}
		})
	}
}

// exchangeOn returns what is answered to a request on a connection; nothing is no answer.
func exchangeOn(conn net.Conn) string {
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
		return ""
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return ""
	}
	return string(body)
}
