package http1

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	"vortex/internal/edge/policy"
)

// FuzzResponse checks that a response's head which the parser accepts goes on as one that net/http reads in the same way.
func FuzzResponse(f *testing.F) {
	for _, seed := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n",
		"HTTP/1.0 404 Not Found\nConnection: close, x\nX: 1\n\n",
		"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
		"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
		"HTTP/1.1 204 No Content\r\nKeep-Alive: 5\r\nX:\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		end := headEnd(data, 0)
		if end < 0 {
			return
		}
		var r response
		if r.parse(bytes.Clone(data[:end])) != nil {
			return
		}
		if r.length < -1 || r.chunked && r.length >= 0 || r.status < 100 || r.status > 999 {
			t.Fatalf("%q is framed by %+v, status %d", data[:end], r.framing, r.status)
		}
		out := append(r.appendTo(nil, nil, policy.Compression{}), '\r', '\n')
		if got := headEnd(out, 0); got != len(out) || bytes.Count(out, []byte("\n")) != bytes.Count(out, []byte("\r\n")) ||
			bytes.Count(out, []byte("\r")) != bytes.Count(out, []byte("\r\n")) {
			t.Fatalf("%q became %q", data[:end], out)
		}
		got, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(out)), &http.Request{Method: http.MethodHead})
		if err != nil {
			t.Fatalf("net/http refuses %q: %v", out, err)
		}
		_ = got.Body.Close()
		if got.StatusCode != r.status || got.Header.Get("Content-Length") != "" || got.TransferEncoding != nil {
			t.Fatalf("%q is %d to net/http, want %d, and framed", out, got.StatusCode, r.status)
		}
	})
}

// FuzzChunked checks that a chunked body which is accepted is the same one to net/http, however it is cut into packets, and ends in the same place.
func FuzzChunked(f *testing.F) {
	for _, seed := range []string{
		"3\r\nabc\r\n0\r\n\r\n", "0\r\n\r\nGET / HTTP/1.1\r\n", "a;x=\"y\"\r\n0123456789\r\n000\r\nT: v\r\n\r\nrest", "1\r\nx\r\n",
		"3;a\rb\r\nabc\r\n0\r\n\r\n", "0\r\nContent-Length: 3\r\n\r\n", "ffffffffffffffff\r\n", "3\r\nabcd\r\n", "0\r\nA : b\r\n\r\n",
	} {
		f.Add([]byte(seed), uint8(3))
	}
	f.Fuzz(func(t *testing.T, data []byte, size uint8) {
		read := func(size int) (body, trailers, rest string, err error) {
			in := &reader{conn: endConn{pieces{bytes.NewReader(data), size}}}
			b := newBody(bodyChunked, -1, true)
			var got bytes.Buffer
			r := relay{from: in, to: &writer{conn: endConn{&got}}, body: &b}
			err = r.run()
			left, _ := io.ReadAll(in.conn)
			return got.String(), string(b.trailers), string(in.buffered()) + string(left), err
		}
		body, trailers, rest, err := read(1 + int(size))
		again, trailers2, rest2, err2 := read(len(data) + 1)
		if (err == nil) != (err2 == nil) || err == nil && (body != again || trailers != trailers2 || rest != rest2) {
			t.Fatalf("in pieces of %d it is %q, %q, %q, %v; at once %q, %q, %q, %v", 1+size, body, trailers, rest, err, again, trailers2, rest2, err2)
		}
		if err != nil {
			return
		}
		common := bufio.NewReader(io.MultiReader(strings.NewReader("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"), bytes.NewReader(data)))
		req, err := http.ReadRequest(common)
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := io.ReadAll(req.Body)
		if err != nil && strings.Contains(err.Error(), "too") {
			return // net/http bounds extensions and trailers otherwise
		}
		left, _ := io.ReadAll(common)
		if err != nil || string(theirs) != body || string(left) != rest {
			t.Fatalf("%q is %q and then %q; to net/http %q and then %q, %v", data, body, rest, theirs, left, err)
		}
	})
}
