package http1

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// FuzzRequest checks that a head the parser accepts is one request to net/http too, framed in the same way: what the edge sends
// on cannot be two requests to one and one to the other.
func FuzzRequest(f *testing.F) {
	for _, seed := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST /x?y HTTP/1.1\r\nHost: a:80\r\nContent-Length: 3\r\nConnection: close, x\r\nX: 1\r\n\r\n",
		"PUT http://b/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
		"OPTIONS * HTTP/1.0\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nX_Forwarded_For: 1\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		end := headEnd(data, 0)
		if end < 0 {
			return
		}
		var r request
		if r.parse(bytes.Clone(data[:end])) != nil { // in place
			return
		}
		out := r.appendTo(nil, forward{})
		r2, err := http.ReadRequest(bufio.NewReader(io.MultiReader(bytes.NewReader(out), strings.NewReader("0\r\n\r\n"))))
		if err != nil {
			if strings.Contains(err.Error(), "parse ") || strings.Contains(err.Error(), "malformed Host header") {
				return // stricter about percent signs in targets and about hosts, which changes no framing
			}
			t.Fatalf("net/http refuses %q: %v", out, err)
		}
		length := r.length
		switch {
		case r.chunked:
			length = -1
		case length < 0:
			length = 0
		}
		if r2.ContentLength != length || r2.Method != string(r.method) || (len(r2.TransferEncoding) == 1) != r.chunked {
			t.Fatalf("%q is %s with %d bytes %v, want %s with %d", out, r2.Method, r2.ContentLength, r2.TransferEncoding, r.method, length)
		}
		if got := headEnd(out, 0); got != len(out) {
			t.Fatalf("%q ends at %d", out, got)
		}
	})
}

// pieces is a connection that delivers in pieces of a given size.
type pieces struct {
	io.Reader
	size int
}

func (p pieces) Read(b []byte) (int, error) { return p.Reader.Read(b[:min(len(b), p.size)]) }

// TestChunkedBodySurvivesAnyCut checks that a chunked body comes out the same however it is cut into chunks and packets.
func TestChunkedBodySurvivesAnyCut(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		parts := rapid.SliceOf(rapid.SliceOfN(rapid.Byte(), 1, 300)).Draw(t, "parts")
		var wire, want bytes.Buffer
		var to relay
		sink := &writer{conn: endConn{&wire}}
		to.to, to.chunked, to.body = sink, true, &body{}
		for _, part := range parts {
			want.Write(part)
			if err := to.send(part); err != nil {
				t.Fatal(err)
			}
		}
		if err := to.finish(); err != nil {
			t.Fatal(err)
		}
		in := &reader{conn: endConn{pieces{&wire, rapid.IntRange(1, 50).Draw(t, "piece")}}}
		var got bytes.Buffer
		b := newBody(bodyChunked, -1, true)
		back := relay{from: in, to: &writer{conn: endConn{&got}}, body: &b}
		if err := back.run(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes(), want.Bytes()) {
			t.Fatalf("%d bytes came out of %d", got.Len(), want.Len())
		}
	})
}

func TestParsingDoesNotAllocate(t *testing.T) {
	head := []byte("GET /some/path?x=y HTTP/1.1\r\nHost: web.localhost:8000\r\nUser-Agent: test\r\nAccept: */*\r\nConnection: keep-alive\r\n" +
		"Cookie: a=b; c=d\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n")
	var r request
	var out []byte
	if n := testing.AllocsPerRun(1000, func() {
		if err := r.parse(head); err != nil {
			t.Fatal(err)
		}
		out = r.appendTo(out[:0], forward{})
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
