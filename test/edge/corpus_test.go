// Package edge holds the edge to a corpus of malformed, ambiguous and hostile messages, over real sockets and beside other proxies.
//
// A case of testdata/requests is what a client sends; of testdata/responses, what a backend answers. Each says why it is there and what the edge
// has to make of it. Whatever that is, what came out on the other side is taken apart twice, by the letter of RFC 9112 and by
// net/http, and both must find the same messages: those the case names, and no others.
package edge_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"vortex"
	"vortex/internal/edge"
	"vortex/internal/edge/http1"
)

// testCase is one file of the corpus.
type testCase struct {
	name   string
	why    string
	expect string   // refused <status>, normalised, or cut: a response that must not be taken for whole
	sees   []string // the messages that come out on the other side, in order
	header []string // … the first of which has these fields
	lacks  []string // … and none of these
	ask    string   // of a response: the request's method and target
	wire   []byte
}

// corpus reads the cases of a directory.
func corpus(tb testing.TB, dir string) []testCase {
	tb.Helper()
	paths, err := filepath.Glob(filepath.Join("testdata", dir, "*.txt"))
	if err != nil || len(paths) == 0 {
		tb.Fatalf("no cases in testdata/%s: %v", dir, err)
	}
	var cases []testCase
	for _, path := range paths {
		c, err := readCase(path)
		if err != nil {
			tb.Fatalf("%s: %v", path, err)
		}
		cases = append(cases, c)
	}
	return cases
}

// readCase reads "key: value" lines up to an empty one, and then what is sent. There, a line's end stands for nothing: \r\n and every other byte
// that is no text is written as in Go, and {{text*300}} is text, 300 times.
func readCase(path string) (testCase, error) {
	c := testCase{name: strings.TrimSuffix(filepath.Base(path), ".txt")}
	text, err := os.ReadFile(path)
	if err != nil {
		return c, err
	}
	about, wire, _ := strings.Cut(string(text), "\n\n")
	for line := range strings.SplitSeq(about, "\n") {
		key, value, _ := strings.Cut(line, ": ")
		switch key {
		case "why":
			c.why = value
		case "expect":
			c.expect = value
		case "sees":
			c.sees = append(c.sees, value)
		case "header":
			c.header = append(c.header, value)
		case "lacks":
			c.lacks = append(c.lacks, value)
		case "ask":
			c.ask = value
		default:
			return c, fmt.Errorf("%q is none of why, expect, sees, header, lacks and ask", key)
		}
	}
	if c.why == "" || c.expect == "" {
		return c, errors.New("a case says why it is there and what to expect")
	}
	c.wire, err = unescape(wire)
	return c, err
}

var repeated = regexp.MustCompile(`\{\{(.+?)\*(\d+)\}\}`)

func unescape(text string) ([]byte, error) {
	text = strings.ReplaceAll(text, "\n", "")
	text = repeated.ReplaceAllStringFunc(text, func(s string) string {
		parts := repeated.FindStringSubmatch(s)
		n, _ := strconv.Atoi(parts[2])
		return strings.Repeat(parts[1], n)
	})
	plain, err := strconv.Unquote(`"` + strings.ReplaceAll(text, `"`, `\"`) + `"`)
	return []byte(plain), err
}

// recorder is a backend that keeps every byte it got, by connection, and answers each request that is one by the letter.
type recorder struct {
	net.Listener
	answer func(n int, m message) string // the n-th answer on its connection

	mu       sync.Mutex
	received [][]byte
}

func record(tb testing.TB, answer func(int, message) string) *recorder {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	r := &recorder{Listener: ln, answer: answer}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { r.serve(conn) })
		}
	})
	tb.Cleanup(func() {
		_ = ln.Close()
		serving.Wait()
	})
	return r
}

func (r *recorder) serve(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(patience))
	r.mu.Lock()
	at := len(r.received)
	r.received = append(r.received, nil)
	r.mu.Unlock()
	buf := make([]byte, 64<<10)
	var got []byte
	for answered := 0; ; {
		n, err := conn.Read(buf)
		got = append(got, buf[:n]...)
		r.mu.Lock()
		r.received[at] = slices.Clone(got)
		r.mu.Unlock()
		if err != nil {
			return
		}
		requests, err := strictRequests(got)
		for ; answered < len(requests); answered++ {
			if _, err := io.WriteString(conn, r.answer(answered, requests[answered])); err != nil {
				return
			}
		}
		if err != nil && !errors.Is(err, errPart) {
			return
		}
	}
}

// take returns what every connection has brought so far.
func (r *recorder) take() [][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.received)
}

// requests takes apart what was received, twice. It fails when that is ambiguous.
func (r *recorder) requests() (list []message, err error) {
	for _, data := range r.take() {
		strict, strictErr := strictRequests(data)
		common, commonErr := commonRequests(data)
		if err := agree(strict, strictErr, common, commonErr); err != nil {
			return nil, fmt.Errorf("%w\nof %q", err, data)
		}
		list = append(list, strict...)
	}
	return list, nil
}

// echo answers with the request as it was understood.
func echo(_ int, m message) string {
	if strings.HasPrefix(m.start, "HEAD ") {
		return "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
	}
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(m.start), m.start)
}

const (
	patience = 30 * time.Second
	// trickle is for how long the edges here wait for the rest of what has begun.
	trickle = 400 * time.Millisecond
)

// source yields one state and then waits. sink takes everything.
type source []vortex.RouterRecord

func (s source) WatchRouters(ctx context.Context) iter.Seq2[edge.RouterUpdate, error] {
	return func(yield func(edge.RouterUpdate, error) bool) {
		u := edge.RouterUpdate{Reset: true, Revision: 1}
		for _, r := range s {
			u.Changes = append(u.Changes, edge.RouterChange{App: r.ClientID, Router: &r})
		}
		if yield(u, nil) {
			<-ctx.Done()
		}
	}
}

type sink struct{}

func (sink) PutMetrics(context.Context, vortex.ClientMetrics) error { return nil }
func (sink) PutEdge(context.Context, vortex.EdgeRecord) error       { return nil }

// serve runs an edge before a backend until the test ends, and returns its address.
func serve(tb testing.TB, backend net.Addr, config edge.Config) string {
	tb.Helper()
	addr, _ := backend.(*net.TCPAddr)
	routers := source{{ClientID: "web", Type: vortex.AppTypeHTTP, Backends: []vortex.Backend{
		{Instance: "web-1", Address: addr.IP.String(), Port: uint16(addr.Port)},
	}}}
	addrs := make(chan []net.Addr, 1)
	config.ID, config.Listen = "edge", []string{"127.0.0.1:0"}
	config.Accepting = func(a []net.Addr) { addrs <- a }
	config.ShutdownTimeout = time.Millisecond
	e := edge.New(config, routers, sink{})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			tb.Errorf("Run: %v", err)
		}
	})
	at := (<-addrs)[0].String()
	for begun := time.Now(); !e.Status().Synced; time.Sleep(time.Millisecond) { // waits for a condition
		if time.Since(begun) > patience {
			tb.Fatal("the edge took in no routers")
		}
	}
	return at
}

// impatient is an edge that waits for the rest of a message for no longer than a test should.
func impatient() edge.Config {
	return edge.Config{HTTP: http1.Config{HeaderTimeout: trickle, BodyTimeout: trickle, ResponseTimeout: 5 * time.Second}}
}

// dial connects to an edge or another proxy.
func dial(tb testing.TB, network, addr string) net.Conn {
	tb.Helper()
	conn, err := net.Dial(network, addr)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn
}

const marker = "GET /the-end HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

// TestRequests sends every request of the corpus through the edge.
func TestRequests(t *testing.T) {
	t.Parallel()
	for _, c := range corpus(t, "requests") {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			backend := record(t, echo)
			conn := dial(t, "tcp", serve(t, backend.Addr(), impatient()))
			status, refused := strings.CutPrefix(c.expect, "refused ")
			if _, err := conn.Write(c.wire); err != nil && !refused {
				t.Fatal(err)
			}
			if !refused {
				status = ""
				if _, err := io.WriteString(conn, marker); err != nil {
					t.Fatal(err)
				}
				c.sees = append(c.sees, `GET /the-end a ""`)
			}
			answer, err := io.ReadAll(conn)
			if err != nil {
				t.Fatalf("the answer to %q: %v", c.wire, err)
			}
			seen, err := backend.requests()
			if err != nil {
				t.Fatalf("%q was forwarded ambiguously: %v", c.wire, err)
			}
			c.checkSeen(t, seen)
			c.checkAnswers(t, answer, status)
		})
	}
}

// checkSeen compares the messages that came out with what the case says.
func (c testCase) checkSeen(t *testing.T, seen []message) {
	t.Helper()
	var got []string
	for _, m := range seen {
		got = append(got, m.String())
	}
	if !slices.Equal(got, c.sees) {
		t.Fatalf("%s: %q\ncame out as %q\nwant        %q", c.why, c.wire, got, c.sees)
	}
	for _, line := range c.header {
		if !slices.Contains(seen[0].fields, line) {
			t.Errorf("%s: %q came out without %q: %q", c.why, c.wire, line, seen[0].fields)
		}
	}
	for _, name := range c.lacks {
		if values := seen[0].field(name); values != nil {
			t.Errorf("%s: %q came out with %s: %q", c.why, c.wire, name, values)
		}
	}
}

// checkAnswers holds that a client got one final answer for every request that was seen and, with a status, that refusal as the last.
func (c testCase) checkAnswers(t *testing.T, answer []byte, status string) {
	t.Helper()
	var methods, want []string
	for _, line := range c.sees {
		method, _, _ := strings.Cut(line, " ")
		methods, want = append(methods, method), append(want, "200")
	}
	if status != "" {
		want = append(want, status)
	}
	strict, strictErr := strictResponses(answer, true, methods...)
	common, commonErr := commonResponses(answer, methods...)
	if err := agree(strict, strictErr, common, commonErr); err != nil || strictErr != nil {
		t.Fatalf("%q was answered ambiguously: %v\n%q", c.wire, err, answer)
	}
	var got []string
	for _, m := range strict {
		if m.start >= "200" {
			got = append(got, m.start)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s: %q was answered %q, want %q\n%s", c.why, c.wire, got, want, answer)
	}
}
