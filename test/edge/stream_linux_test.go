package edge

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const (
	giga = 1 << 30
	mega = 1 << 20
)

// quiet starts an edge with one backend and without load.
func quiet(t *testing.T) *proof {
	t.Helper()
	p := &proof{edge: startEdge(t)}
	p.backends = p.more(t, 1)
	p.put(t, router("web", p.backends...))
	p.awaitServing(t)
	p.awaitDrained(t, p.remove(t, "web"), p.backends[0].name)
	p.before = p.settled(t)
	p.put(t, router("web", p.backends...))
	p.awaitServing(t)
	return p
}

// end takes the routers away and wants the edge to hold what it held at first.
func (p *proof) end(t *testing.T) {
	t.Helper()
	p.remove(t, "web")
	p.returnsTo(t, p.before)
}

// dial opens a connection to the edge.
func (p *proof) dial(t *testing.T) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	tcp, _ := conn.(*net.TCPConn)
	return tcp
}

// send writes a request's head; more are further fields.
func send(t *testing.T, conn net.Conn, method, path string, more ...string) {
	t.Helper()
	lines := append([]string{method + " " + path + " HTTP/1.1", "Host: web.example"}, more...)
	if _, err := io.WriteString(conn, strings.Join(lines, "\r\n")+"\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
}

// answer reads an answer's head.
func answer(t *testing.T, r *bufio.Reader) reply {
	t.Helper()
	got, err := receive(r)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// peak watches the edge's memory until the function it returns is called, which says by how much it grew.
func (p *proof) peak(t *testing.T) func() float64 {
	t.Helper()
	before := p.memory(t)
	most, stop, stopped := before, make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond):
				most = max(most, p.memory(t))
			}
		}
	}()
	return func() float64 {
		close(stop)
		<-stopped
		return most - before
	}
}

func TestGigabytesGoThroughInFlatMemory(t *testing.T) {
	t.Parallel()
	p := quiet(t)
	grown := p.peak(t)
	var wg sync.WaitGroup
	wg.Go(func() { // down
		conn := p.dial(t)
		send(t, conn, http.MethodGet, fmt.Sprintf("/bytes?n=%d&piece=65536", giga), "Connection: close")
		got := answer(t, bufio.NewReader(conn))
		if n, err := io.Copy(io.Discard, got.body); n != giga || err != nil {
			t.Errorf("%d bytes came down, then %v", n, err)
		}
	})
	wg.Go(func() { // up
		conn := p.dial(t)
		send(t, conn, http.MethodPost, "/", fmt.Sprintf("Content-Length: %d", giga), "Connection: close")
		for buf, left := make([]byte, 64<<10), giga; left > 0; left -= len(buf) {
			if _, err := conn.Write(buf); err != nil {
				t.Errorf("with %d bytes left to send: %v", left, err)
				return
			}
		}
		body, err := io.ReadAll(answer(t, bufio.NewReader(conn)).body)
		if string(body) != strconv.Itoa(giga) || err != nil {
			t.Errorf("the backend got %q bytes, then %v", body, err)
		}
	})
	wg.Wait()
	if more := grown(); more > 32*mega {
		t.Errorf("the edge's memory grew by %.1f MB", more/mega)
	}
	p.end(t)
}

func TestEventsComeAtOnceAndEndWithTheirClient(t *testing.T) {
	t.Parallel()
	p := quiet(t)
	const clients, events = 50, 20
	var worst atomic.Int64
	var conns []net.Conn
	var wg sync.WaitGroup
	for range clients {
		conn := p.dial(t)
		conns = append(conns, conn)
		wg.Go(func() {
			send(t, conn, http.MethodGet, "/events?ms=20")
			lines := bufio.NewScanner(answer(t, bufio.NewReader(conn)).body)
			for seen := 0; seen < events && lines.Scan(); {
				var n, at int64
				if _, err := fmt.Sscanf(lines.Text(), "data: %d %d", &n, &at); err != nil {
					continue
				}
				if n != int64(seen) {
					t.Errorf("event %d came as number %d", n, seen)
				}
				seen++
				for late := time.Now().UnixNano() - at; late > worst.Load(); {
					worst.Store(late)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("the slowest of %d events took %s", clients*events, time.Duration(worst.Load()))
	if late := time.Duration(worst.Load()); late > 5*time.Second {
		t.Errorf("an event took %s", late)
	}
	for _, conn := range conns {
		conn.Close()
	}
	eventually(t, "the backend to see that the clients are gone", func() bool { return p.backends[0].active(t) == 0 })
	p.end(t)
}

func TestWebSocketsEchoAndHalfClose(t *testing.T) {
	t.Parallel()
	p := quiet(t)
	const clients = 50
	var wg sync.WaitGroup
	for i := range clients {
		conn := p.dial(t)
		wg.Go(func() {
			send(t, conn, http.MethodGet, "/upgrade", "Connection: Upgrade", "Upgrade: websocket")
			r := bufio.NewReader(conn)
			if got := answer(t, r); got.code != http.StatusSwitchingProtocols {
				t.Errorf("answered %d", got.code)
				return
			}
			message := strings.Repeat(fmt.Sprintf("message of client %d. ", i), 100)
			echoed := make([]byte, len(message))
			for range 20 {
				if _, err := io.WriteString(conn, message); err != nil {
					t.Error(err)
				}
				if _, err := io.ReadFull(r, echoed); err != nil || string(echoed) != message {
					t.Errorf("%q came back, then %v", echoed, err)
					return
				}
			}
			// What was sent before the client's end comes back after it.
			_, _ = io.WriteString(conn, "the last words")
			_ = conn.CloseWrite()
			if rest, err := io.ReadAll(r); string(rest) != "the last words" || err != nil {
				t.Errorf("after the client's end came %q, then %v", rest, err)
			}
		})
	}
	wg.Wait()
	p.end(t)
}

// Slow clients and slow backends must not slow others down, nor fill the edge's memory.
func TestSlownessIsNobodyElsesProblem(t *testing.T) {
	t.Parallel()
	p := quiet(t)
	grown := p.peak(t)
	const slow = 50
	var wg sync.WaitGroup
	for range slow {
		reader, body := p.dial(t), p.dial(t)
		_ = reader.SetReadBuffer(64 << 10)
		wg.Go(func() { // a client that takes nothing of its answer for a second
			const size = 8 * mega
			send(t, reader, http.MethodGet, fmt.Sprintf("/bytes?n=%d&piece=65536", size), "Connection: close")
			time.Sleep(time.Second)
			got := answer(t, bufio.NewReader(reader))
			if n, err := io.Copy(io.Discard, got.body); n != size || err != nil {
				t.Errorf("%d bytes came, then %v", n, err)
			}
		})
		wg.Go(func() { // a backend that sends its answer in small pieces
			send(t, body, http.MethodGet, "/bytes?n=200&piece=10&ms=50", "Connection: close")
			got := answer(t, bufio.NewReader(body))
			if n, err := io.Copy(io.Discard, got.body); n != 200 || err != nil {
				t.Errorf("%d bytes came, then %v", n, err)
			}
		})
	}
	quick := p.dial(t)
	r := bufio.NewReader(quick)
	for range 100 {
		if by, err := (request{method: http.MethodGet, path: "/"}).exchange(quick, r); err != nil || by == "" {
			t.Fatal(by, err)
		}
	}
	quick.Close()
	wg.Wait()
	if more := grown(); more > 32*mega {
		t.Errorf("the edge's memory grew by %.1f MB", more/mega)
	}
	p.end(t)
}

// Connections that idle cost the same whether they are few or many, and nothing when they are gone.
func TestMemoryOfConnectionsIsFlat(t *testing.T) {
	t.Parallel()
	p := quiet(t)
	const n, rounds, most = 500, 4, 32 << 10
	var first float64
	for round := range rounds {
		empty := p.live(t)
		var conns []*net.TCPConn
		var each []float64
		for range 3 {
			before := p.live(t)
			for range n {
				conn := p.dial(t)
				if _, err := (request{method: http.MethodGet, path: "/"}).exchange(conn, bufio.NewReader(conn)); err != nil {
					t.Fatal(err)
				}
				conns = append(conns, conn)
			}
			each = append(each, (p.live(t)-before)/n)
		}
		t.Logf("without connections %.1f MB; %d connections after the other: %+.0f bytes each", empty/mega, n, each)
		if last := each[len(each)-1]; last > most {
			t.Errorf("a connection takes %.0f bytes", last)
		}
		for _, conn := range conns {
			conn.Close()
		}
		eventually(t, "the connections to be gone", func() bool { return p.usage(t).files < p.before.files+n/10 })
		if round == 0 {
			first = p.live(t) // what is only needed once is there
		} else if now := p.live(t); now > first+2*mega {
			t.Errorf("without connections the edge has %.1f MB, and had %.1f MB when they had been there once", now/mega, first/mega)
		}
	}
	p.end(t)
}
