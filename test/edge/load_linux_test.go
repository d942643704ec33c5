package edge

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"vortex/test/harness"
)

// load sends requests at a steady rate, whether or not earlier ones were answered. It never sends one again.
type load struct {
	addr    string
	plan    func(n int) request
	stopped chan struct{}
	done    sync.WaitGroup

	mu       sync.Mutex
	sent     int
	by       map[string]int // answers of each backend
	failures []failure
	took     []time.Duration
}

// request is one request and when it went out.
type request struct {
	n      int
	method string
	path   string
	body   []byte
	sent   time.Time
}

type failure struct {
	request

	at  time.Time
	err error
}

const (
	rate    = 2000 // a second
	workers = 200
)

// mixed is short and slow reads, and writes that must not happen twice.
func mixed(n int) request {
	r := request{method: http.MethodGet, path: "/"}
	switch n % 10 {
	case 0:
		r.path = "/?ms=30"
	case 1, 2:
		r.method, r.body = http.MethodPost, bytes.Repeat([]byte("b"), 300)
	case 3:
		r.method, r.path, r.body = http.MethodPost, "/?ms=10", []byte("b")
	}
	return r
}

// startLoad loads an edge until stop.
func startLoad(e *edge, plan func(int) request) *load {
	l := &load{addr: e.addr, plan: plan, stopped: make(chan struct{}), by: map[string]int{}}
	due := make(chan int, rate*60)
	for range workers {
		l.done.Go(func() { l.work(due) })
	}
	l.done.Go(func() {
		defer close(due)
		ticker := time.NewTicker(2 * time.Millisecond)
		defer ticker.Stop()
		start := time.Now()
		for n := 0; ; {
			for ; n < int(time.Since(start).Seconds()*rate); n++ {
				due <- n
			}
			select {
			case <-ticker.C:
			case <-l.stopped:
				return
			}
		}
	})
	return l
}

// stop ends the load when every request is answered.
func (l *load) stop() {
	close(l.stopped)
	l.done.Wait()
}

// work sends one request after the other over a connection of its own.
func (l *load) work(due <-chan int) {
	var conn net.Conn
	var reader *bufio.Reader
	for n := range due {
		r := l.plan(n)
		r.n = n
		var err error
		if conn == nil {
			if conn, err = net.DialTimeout("tcp", l.addr, patience); err == nil {
				reader = bufio.NewReader(conn)
			}
		}
		r.sent = time.Now()
		var by string
		if err == nil {
			by, err = r.exchange(conn, reader)
		}
		l.end(r, by, err)
		if err != nil && conn != nil {
			conn.Close()
			conn = nil
		}
	}
	if conn != nil {
		conn.Close()
	}
}

func (l *load) end(r request, by string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent++
	if err != nil {
		l.failures = append(l.failures, failure{r, time.Now(), err})
		return
	}
	l.by[by]++
	l.took = append(l.took, time.Since(r.sent))
}

// exchange sends the request and returns the name of the backend that gave the right answer.
func (r request) exchange(conn net.Conn, reader *bufio.Reader) (string, error) {
	_ = conn.SetDeadline(time.Now().Add(patience))
	head := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: web.example\r\n", r.method, r.path)
	if r.body != nil {
		head += fmt.Sprintf("Content-Length: %d\r\n", len(r.body))
	}
	if _, err := conn.Write(append([]byte(head+"\r\n"), r.body...)); err != nil {
		return "", err
	}
	got, err := receive(reader)
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(got.body)
	if err != nil {
		return "", err
	}
	if got.last {
		return "", fmt.Errorf("the connection ends with answer %d: %s", got.code, body)
	}
	if want := strconv.Itoa(len(r.body)); got.code != http.StatusOK || string(body) != want {
		return "", fmt.Errorf("answered %d %q, want %s", got.code, body, want)
	}
	return got.by, nil
}

// reply is an answer whose body is yet to be read.
type reply struct {
	code int
	by   string // the backend's name
	last bool   // the connection ends with it
	body io.Reader
}

// receive reads an answer's head.
func receive(r *bufio.Reader) (reply, error) {
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return reply{}, err
	}
	return reply{resp.StatusCode, resp.Header.Get("X-Backend"), resp.Close, resp.Body}, nil
}

// report says what became of the requests.
func (l *load) report(t *testing.T) {
	t.Helper()
	slices.Sort(l.took)
	t.Logf("%d requests, %d failed, %d backends answered, p50 %s, p99 %s, max %s", l.sent, len(l.failures), len(l.by),
		harness.Percentile(l.took, 0.5), harness.Percentile(l.took, 0.99), harness.Percentile(l.took, 1))
	if l.sent < int(loaded().Seconds()*rate/2) {
		t.Errorf("only %d requests were sent", l.sent)
	}
}

// lostNothing fails the test for every request that failed.
func (l *load) lostNothing(t *testing.T) {
	t.Helper()
	l.report(t)
	for i, f := range l.failures {
		if i == 5 {
			t.Errorf("and %d more", len(l.failures)-i)
			break
		}
		t.Errorf("request %d, %s %s: %v", f.n, f.method, f.path, f.err)
	}
}
