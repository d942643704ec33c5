package edge_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"vortex"
	"vortex/internal/edge"
	"vortex/internal/edge/http1"
)

// limited is a router for an app of that name with rates.
func limited(app string, b *backend, rates ...vortex.RateLimit) vortex.RouterRecord {
	r := router(app, b)
	r.Rate = rates
	return r
}

func TestRatesOfARoute(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	b := newBackend(t, "w", named("w"))
	hour := vortex.Duration(time.Hour)
	h.apply(t, limited("web", b,
		vortex.RateLimit{Per: vortex.RateKeyHeader, Header: "X-API-Key", Limit: 3, Window: hour},
		vortex.RateLimit{Per: vortex.RateKeyRoute, Limit: 2, Window: hour, Paths: []string{"/login"}, Methods: []string{"POST"}},
	))
	ask := func(method, path, key string) (int, http.Header, string) {
		return h.raw(t, fmt.Sprintf("%s %s HTTP/1.1\r\nHost: a\r\nX-Api-Key: %s\r\nContent-Length: 0\r\n\r\n", method, path, key))
	}
	for want := 2; want >= 0; want-- {
		status, header, _ := ask("GET", "/", "one")
		reset, err := strconv.Atoi(header.Get("RateLimit-Reset"))
		if status != 200 || header.Get("RateLimit-Limit") != "3" || header.Get("RateLimit-Remaining") != strconv.Itoa(want) ||
			header.Get("RateLimit-Policy") != "3;w=3600" || err != nil || reset < 1 || reset > 3600 {
			t.Errorf("%d %v, want %d remaining", status, header, want)
		}
	}
	status, header, body := ask("GET", "/", "one")
	retry, err := strconv.Atoi(header.Get("Retry-After"))
	if status != 429 || err != nil || retry < 1 || header.Get("RateLimit-Remaining") != "0" || !strings.Contains(body, "RATE_LIMIT_EXCEEDED") {
		t.Errorf("over the limit: %d %v %s", status, header, body)
	}
	for _, test := range []struct {
		method, path, key string
		status            int
	}{
		{"GET", "/login", "two", 200},  // a GET does not count for the second rate
		{"POST", "/login", "two", 200}, // the second of "two"
		{"POST", "/login", "three", 200},
		{"POST", "/login", "three", 429}, // the third of the route; it does not count for "three" …
		{"GET", "/", "three", 200},
		{"GET", "/", "three", 200}, // … of which this is the third
		{"GET", "/", "three", 429},
	} {
		if status, _, body := ask(test.method, test.path, test.key); status != test.status {
			t.Errorf("%s %s with key %s: %d %s, want %d", test.method, test.path, test.key, status, body, test.status)
		}
	}
	for range 3 {
		h.raw(t, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	}
	if status, _, _ := h.raw(t, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); status != 429 {
		t.Errorf("without the header: %d, want the address to be limited", status)
	}
	h.apply(t, limited("web", b)) // no rates any more
	if status, header, _ := ask("GET", "/", "one"); status != 200 || header.Get("RateLimit-Limit") != "" {
		t.Errorf("without rates: %d %v", status, header)
	}
}

func TestARefusedRequestLeavesTheConnectionUsable(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.apply(t, limited("web", newBackend(t, "w", named("w")), vortex.RateLimit{Limit: 10, Window: vortex.Duration(time.Second), Burst: new(uint64(1))}))
	conn := h.dial(t)
	r := bufio.NewReader(conn)
	statuses := map[int]int{}
	for range 40 {
		fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		got := read(t, r, "GET")
		statuses[got.status]++
		if got.status == 200 && got.header.Get("RateLimit-Remaining") != "0" {
			t.Errorf("%v remain of a burst of 1", got.header)
		}
		time.Sleep(10 * time.Millisecond) // an even rate is what is tested
	}
	if statuses[200] < 3 || statuses[200] > 20 || statuses[200]+statuses[429] != 40 {
		t.Errorf("answered %v, want about 5 of 40 let through", statuses)
	}
}

// hub carries quotas between edges.
type hub struct {
	mu       sync.Mutex
	watchers []chan edge.QuotaUpdate
	writes   atomic.Int64
}

func (h *hub) PutQuota(_ context.Context, r vortex.QuotaRecord) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.writes.Add(1)
	for _, w := range h.watchers {
		w <- edge.QuotaUpdate{Edge: r.Edge, Quota: &r}
	}
	return nil
}

func (h *hub) WatchQuotas(ctx context.Context) iter.Seq2[edge.QuotaUpdate, error] {
	return func(yield func(edge.QuotaUpdate, error) bool) {
		updates := make(chan edge.QuotaUpdate, 1000)
		h.mu.Lock()
		h.watchers = append(h.watchers, updates)
		h.mu.Unlock()
		for {
			select {
			case u := <-updates:
				if !yield(u, nil) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}

func TestEdgeSaysAgainThatItIsThere(t *testing.T) {
	t.Parallel()
	h := start(t, func(c *edge.Config) { c.RenewInterval = 50 * time.Millisecond })
	h.mu.Lock()
	h.edges = nil
	h.mu.Unlock()
	h.await(t, "the record to be written again", func(s *store) bool { return s.edges != nil })
}

func TestTwoEdgesHoldALimitTogether(t *testing.T) {
	t.Parallel()
	const perSecond, window = 100, 4
	shared := &hub{}
	b := newBackend(t, "w", named("w"))
	var passed, refused atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	for i, pause := range []time.Duration{4 * time.Millisecond, 8 * time.Millisecond} { // one is asked twice as often as the other
		h := start(t, func(c *edge.Config) { c.ID, c.Quotas = fmt.Sprintf("edge-%d", i), shared })
		h.apply(t, limited("web", b, vortex.RateLimit{
			Per: vortex.RateKeyHeader, Header: "X-Key", Limit: perSecond * window, Window: vortex.Duration(window * time.Second),
		}))
		conn := h.dial(t)
		_ = conn.SetDeadline(time.Now().Add(2 * time.Minute))
		asking.Go(func() {
			r := bufio.NewReader(conn)
			ticker := time.NewTicker(pause)
			defer ticker.Stop()
			for ctx.Err() == nil {
				<-ticker.C
				fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: a\r\nX-Key: k\r\n\r\n")
				resp, err := http.ReadResponse(r, nil)
				if err != nil {
					t.Errorf("edge %d: %v", i, err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				if resp.StatusCode == http.StatusOK {
					passed.Add(1)
				} else {
					refused.Add(1)
				}
			}
		})
	}
	settled := time.Now().Add(2 * window * time.Second)
	eventually(t, "the limit to be reached and settled", func() bool { return refused.Load() > 0 && time.Now().After(settled) })
	from, begun, asked := passed.Load(), time.Now(), passed.Load()+refused.Load()
	eventually(t, "two windows", func() bool { return time.Since(begun) >= 2*window*time.Second })
	took := time.Since(begun).Seconds()
	rate, demand := float64(passed.Load()-from)/took, float64(passed.Load()+refused.Load()-asked)/took
	t.Logf("%.1f of %.1f requests per second let through, limit %d", rate, demand, perSecond)
	// How close it comes with steady demand is internal/edge/limit's to prove. Here the machine's other work decides when requests are asked,
	// so the bounds only tell a limit held together from one that each edge holds by itself (200), or that starves.
	if want := min(perSecond, demand); rate > perSecond*1.5 || rate < want/3 {
		t.Errorf("%.1f requests per second let through by both edges, want about %.0f", rate, want)
	}
	if n := shared.writes.Load(); n > 100 {
		t.Errorf("%d reports in seconds", n)
	}
}

func TestConnectionsOfOneAddressAreBounded(t *testing.T) {
	t.Parallel()
	h := start(t, func(c *edge.Config) { c.ClientLimits.MaxClientConns = 3 })
	h.apply(t, router("web", newBackend(t, "w", named("w"))))
	var open []*net.TCPConn
	for range 3 {
		conn := h.dial(t)
		fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		if got := read(t, bufio.NewReader(conn), "GET"); got.status != 200 {
			t.Fatalf("got %+v", got)
		}
		open = append(open, conn)
	}
	status, header, body := h.raw(t, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	if status != 429 || header.Get("Closed") == "" || header.Get("Retry-After") == "" || !strings.Contains(body, "too many connections") {
		t.Errorf("the fourth: %d %v %s", status, header, body)
	}
	open[0].Close()
	eventually(t, "room for another", func() bool {
		status, _, _ := h.raw(t, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		return status == 200
	})
}

func TestRequestsOfOneConnectionAreBounded(t *testing.T) {
	t.Parallel()
	h := start(t, func(c *edge.Config) { c.ClientLimits.MaxRequests = 3 })
	h.apply(t, router("web", newBackend(t, "w", named("w"))))
	conn := h.dial(t)
	r := bufio.NewReader(conn)
	for i := range 3 {
		fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if resp.Close != (i == 2) {
			t.Errorf("request %d: close is %v", i+1, resp.Close)
		}
	}
	if _, err := r.ReadByte(); err != io.EOF { // bare
		t.Errorf("the connection goes on: %v", err)
	}
}

// TestIdleConnectionsEnd asks once and then nothing, with the limit that the edge started with and with one that was set later.
func TestIdleConnectionsEnd(t *testing.T) {
	t.Parallel()
	const short = 50 * time.Millisecond
	h := start(t, func(c *edge.Config) { c.ClientLimits.IdleTimeout = short })
	h.apply(t, router("web", newBackend(t, "w", named("w"))))
	ended := func() bool {
		conn := h.dial(t)
		r := bufio.NewReader(conn)
		fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		if got := read(t, r, "GET"); got.status != 200 {
			t.Fatalf("got %+v", got)
		}
		_ = conn.SetReadDeadline(time.Now().Add(10 * short))
		_, err := r.ReadByte()
		return err == io.EOF // bare
	}
	eventually(t, "the connection to end", ended)
	h.edge.SetClientLimits(edge.ClientLimits{IdleTimeout: time.Hour})
	if ended() {
		t.Error("the connection ends long before its new time")
	}
}

// TestTrickledBodiesAreCut sends a body that never stops, and comes too slowly.
func TestTrickledBodiesAreCut(t *testing.T) {
	t.Parallel()
	h := start(t, func(c *edge.Config) {
		c.ClientLimits = edge.ClientLimits{MinBodyRate: 1000, BodyGrace: 200 * time.Millisecond}
	})
	h.apply(t, router("web", newBackend(t, "w", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/talk" {
			_ = http.NewResponseController(w).EnableFullDuplex()
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
		}
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n)
	})))
	for _, test := range []struct {
		path, framing, piece string
		pieces               int
		status               int
		whole                bool
	}{
		{"/", "Content-Length: 1000", "x", 1000, 408, false},
		{"/", "Transfer-Encoding: chunked", "1\r\nx\r\n", 1000, 408, false},
		{"/", "Content-Length: 50000", strings.Repeat("x", 500), 100, 200, true}, // 25 kB/s
		{"/talk", "Content-Length: 100", "x", 100, 200, true},                    // the answer has begun: they may take their time
	} {
		conn := h.dial(t)
		go func() {
			if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: a\r\n%s\r\n\r\n", test.path, test.framing); err != nil {
				return
			}
			for range test.pieces {
				if _, err := io.WriteString(conn, test.piece); err != nil {
					return
				}
				time.Sleep(20 * time.Millisecond) // a slow client is what is tested
			}
		}()
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("%s %s: %v", test.path, test.framing, err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != test.status || test.whole && (err != nil || !strings.HasSuffix(test.framing, " "+string(body))) {
			t.Errorf("%s %s: %d %q %v, want %d", test.path, test.framing, resp.StatusCode, body, err, test.status)
		}
	}
}

// TestTrickledHeadsAreCut sends a head that never stops. Its time is bounded, however it comes.
func TestTrickledHeadsAreCut(t *testing.T) {
	t.Parallel()
	h := start(t, func(c *edge.Config) { c.HTTP = http1.Config{HeaderTimeout: 300 * time.Millisecond} })
	for _, piece := range []string{"X: y\r\n", "\r\n"} {
		conn := h.dial(t)
		go func() {
			if piece != "\r\n" {
				fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: a\r\n")
			}
			for {
				if _, err := io.WriteString(conn, piece); err != nil {
					return
				}
				time.Sleep(10 * time.Millisecond) // a slow client is what is tested
			}
		}()
		begun := time.Now()
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("%q: %v after %v", piece, err, time.Since(begun))
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusRequestTimeout || time.Since(begun) > 5*time.Second {
			t.Errorf("%q: %d after %v", piece, resp.StatusCode, time.Since(begun))
		}
	}
}
