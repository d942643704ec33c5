package edge_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"

	"vortex"
)

// unpack decodes a body by its Content-Encoding.
func unpack(t *testing.T, coding string, body []byte) string {
	t.Helper()
	var r io.Reader = bytes.NewReader(body)
	var err error
	switch coding {
	case "gzip":
		r, err = gzip.NewReader(r)
	case "br":
		r = brotli.NewReader(r)
	case "zstd":
		r, err = zstd.NewReader(r)
	}
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		t.Errorf("unpack %s: %v", coding, err)
	}
	return string(text)
}

func TestCompression(t *testing.T) {
	t.Parallel()
	page := strings.Repeat("All work and no play makes Jack a dull boy. ", 2000)
	b := newBackend(t, "web-1", func(w http.ResponseWriter, r *http.Request) {
		maps.Copy(w.Header(), r.URL.Query())
		if w.Header().Get("Content-Type") == "" {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
		}
		switch r.URL.Path {
		case "/small":
			fmt.Fprint(w, "tiny")
		case "/partial":
			w.Header().Set("Content-Range", "bytes 0-9/100")
			w.WriteHeader(http.StatusPartialContent)
			fmt.Fprint(w, page)
		default:
			w.Header().Set("Content-Length", strconv.Itoa(len(page)))
			fmt.Fprint(w, page)
		}
	})
	h := ruled(t, vortex.Route{RoutePolicy: vortex.RoutePolicy{Compress: &vortex.Compress{}}}, nil, b)
	for _, test := range []struct{ target, accept, coding, vary, etag string }{
		{"/?ETag=%22x%22&Accept-Ranges=bytes", "gzip, deflate, br, zstd", "zstd", "Accept-Encoding", `W/"x"`},
		{"/?ETag=W/%22x%22", "gzip, br", "br", "Accept-Encoding", `W/"x"`},
		{"/", "gzip", "gzip", "Accept-Encoding", ""},
		{"/", "gzip;q=1, br;q=0.5, zstd;q=0", "gzip", "Accept-Encoding", ""},
		{"/", "*", "zstd", "Accept-Encoding", ""},
		{"/", "*;q=0.2, zstd;q=0, br;q=0.1", "gzip", "Accept-Encoding", ""},
		{"/", "identity;q=1, gzip;q=0.5", "", "Accept-Encoding", ""},
		{"/", "gzip;q=0", "", "Accept-Encoding", ""},
		{"/", "", "", "Accept-Encoding", ""},
		{"/?ETag=%22x%22", "deflate", "", "Accept-Encoding", `"x"`},
		{"/small", "gzip", "", "", ""},
		{"/partial", "gzip", "", "", ""},
		{"/?Content-Type=image/png", "gzip", "", "", ""},
		{"/?Content-Type=text/event-stream", "gzip", "", "", ""},
		{"/?Content-Type=application/problem%2Bjson", "gzip", "gzip", "Accept-Encoding", ""},
		{"/?Cache-Control=private&Cache-Control=no-transform", "gzip", "", "", ""},
		{"/?Content-Encoding=gzip", "gzip", "gzip*", "", ""},
	} {
		header := head("Accept-Encoding", test.accept)
		resp, body := h.exchange(t, "GET", test.target, header, nil)
		coding := resp.Header.Get("Content-Encoding")
		if want := strings.TrimSuffix(test.coding, "*"); coding != want || resp.Header.Get("Vary") != test.vary || resp.Header.Get("ETag") != test.etag {
			t.Errorf("%s for %q: coding %q, Vary %q, ETag %q; want %q, %q, %q", test.target, test.accept,
				coding, resp.Header.Get("Vary"), resp.Header.Get("ETag"), want, test.vary, test.etag)
			continue
		}
		if strings.HasSuffix(test.coding, "*") { // the backend's own
			continue
		}
		if coding != "" && (len(body) > len(page)/10 || resp.ContentLength >= 0 || resp.Header.Get("Accept-Ranges") != "") {
			t.Errorf("%s for %q: %d bytes, length %d, ranges %q", test.target, test.accept, len(body), resp.ContentLength, resp.Header.Get("Accept-Ranges"))
		}
		if text := unpack(t, coding, []byte(body)); text != page && test.target != "/small" {
			t.Errorf("%s for %q: %d bytes unpacked, want %d", test.target, test.accept, len(text), len(page))
		}
	}
	resp, _ := h.exchange(t, "HEAD", "/", head("Accept-Encoding", "gzip"), nil)
	if resp.Header.Get("Content-Encoding") != "" || resp.Header.Get("Vary") != "Accept-Encoding" {
		t.Errorf("HEAD: %v", resp.Header)
	}
}

// TestCompressionPassesOnWhatComes reads each piece of a compressed stream before the backend sends the next.
func TestCompressionPassesOnWhatComes(t *testing.T) {
	t.Parallel()
	next := make(chan struct{})
	b := newBackend(t, "web-1", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		for i := range 5 {
			fmt.Fprintf(w, "piece %d\n", i)
			_ = http.NewResponseController(w).Flush()
			select {
			case <-next:
			case <-r.Context().Done():
			}
		}
	})
	h := ruled(t, vortex.Route{RoutePolicy: vortex.RoutePolicy{Compress: &vortex.Compress{}}}, nil, b)
	for _, coding := range []string{"gzip", "br", "zstd"} {
		resp, err := client(t).Do(requestTo(t, h, coding))
		if err != nil {
			t.Fatal(err)
		}
		var r io.Reader
		switch coding {
		case "gzip":
			r, err = gzip.NewReader(resp.Body)
		case "br":
			r = brotli.NewReader(resp.Body)
		case "zstd":
			r, err = zstd.NewReader(resp.Body, zstd.WithDecoderConcurrency(1))
		}
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(r)
		for i := range 5 {
			line, err := lines.ReadString('\n')
			if want := fmt.Sprintf("piece %d\n", i); err != nil || line != want {
				t.Fatalf("%s: %q %v, want %q", coding, line, err, want)
			}
			next <- struct{}{}
		}
		resp.Body.Close()
	}
}

func requestTo(t *testing.T, h *harness, coding string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+h.addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "web.localhost"
	req.Header.Set("Accept-Encoding", coding)
	return req
}
