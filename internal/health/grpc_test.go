package health_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"google.golang.org/grpc"
	grpchealth "google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"vortex"
	"vortex/internal/health"
)

// serveGRPC runs a real gRPC server until the test ends.
func serveGRPC(t *testing.T, register func(*grpc.Server)) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	register(server)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l)
	}()
	t.Cleanup(func() { server.Stop(); <-done })
	return l.Addr().String()
}

func probeOf(t *testing.T, target string, check vortex.HealthCheck) health.Result {
	t.Helper()
	addr := netip.MustParseAddrPort(target)
	return probe(t, check.WithDefaults(addr.Port()), addr.Addr().String())
}

func TestGRPCProbe(t *testing.T) {
	status := grpchealth.NewServer()
	status.SetServingStatus("up", grpc_health_v1.HealthCheckResponse_SERVING)
	status.SetServingStatus("down", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	good := serveGRPC(t, func(s *grpc.Server) { grpc_health_v1.RegisterHealthServer(s, status) })
	bare := serveGRPC(t, func(*grpc.Server) {})
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	closed := listen(t, func(net.Conn) {})
	_ = closed.Close()
	for _, tt := range []struct {
		target, service string
		healthy, absent bool
		detail          string
	}{
		{good, "", true, false, ": SERVING"},
		{good, "up", true, false, " for up: SERVING"},
		{good, "down", false, false, ": NOT_SERVING"},
		{good, "nobody", false, false, "does not know the service"},
		{bare, "", false, false, "has no gRPC health service"},
		{plain.Listener.Addr().String(), "", false, false, ": "},
		{closed.Addr().String(), "", false, true, "connection refused"},
	} {
		got := probeOf(t, tt.target, vortex.HealthCheck{Protocol: vortex.ProbeProtocolGRPC, Service: tt.service})
		if got.Healthy != tt.healthy || got.Absent != tt.absent || !strings.Contains(got.Detail, tt.detail) || !strings.Contains(got.Detail, tt.target) {
			t.Errorf("%q at %s: %+v; want %v %v %q", tt.service, tt.target, got, tt.healthy, tt.absent, tt.detail)
		}
	}
}

func TestTCPProbeTalks(t *testing.T) {
	redis := listen(t, func(c net.Conn) {
		b := make([]byte, 64)
		n, _ := c.Read(b)
		if string(b[:n]) == "PING\r\n" {
			_, _ = c.Write([]byte("+PO"))
			_, _ = c.Write([]byte("NG\r\n"))
		}
	})
	busy := listen(t, func(c net.Conn) { _, _ = c.Write([]byte("-LOADING\r\n")); _ = c.Close() })
	silent := listen(t, func(net.Conn) {})
	timeout := 0.2
	for _, tt := range []struct {
		at           net.Listener
		send, expect string
		healthy      bool
		detail       string
	}{
		{redis, "PING\r\n", "+PONG", true, `said "+PONG"`},
		{busy, "", "+PONG", false, `said "-LOADING\r\n", expected "+PONG"`},
		{silent, "", "220 ", false, "no answer within 200ms"},
		{silent, "QUIT\r\n", "", true, "accepted"},
	} {
		got := probeOf(t, tt.at.Addr().String(), vortex.HealthCheck{
			Protocol: vortex.ProbeProtocolTCP, Send: tt.send, Expect: tt.expect, TimeoutSeconds: &timeout,
		})
		if got.Healthy != tt.healthy || !strings.Contains(got.Detail, tt.detail) {
			t.Errorf("%q, expecting %q: %+v; want %v %q", tt.send, tt.expect, got, tt.healthy, tt.detail)
		}
	}
}

func FuzzGRPCAnswer(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 2, 8, 1})
	f.Add([]byte{0, 0, 0, 0, 0})
	f.Add([]byte{0, 0, 0, 0, 6, 18, 2, 'h', 'i', 8, 2})
	f.Fuzz(func(t *testing.T, frame []byte) {
		if _, err := health.ReadHealthResponse(frame); err == nil && len(frame) < 5 {
			t.Errorf("%x was taken for an answer", frame)
		}
	})
}
