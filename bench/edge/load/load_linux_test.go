package load

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// atFiveHundred asks a handler a hundred times in a fifth of a second.
func atFiveHundred(t *testing.T, handler http.HandlerFunc) Result {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	result, err := Rated{
		Addr: netip.MustParseAddrPort(server.Listener.Addr().String()), Conns: 4, Rate: 500, For: 200 * time.Millisecond,
		Requests: [][]byte{[]byte("GET /a HTTP/1.1\r\nHost: a\r\n\r\n"), []byte("GET /b HTTP/1.1\r\nHost: b\r\n\r\n")},
	}.Run()
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func TestRatedCountsAnswers(t *testing.T) {
	asked := make(chan string, 100)
	result := atFiveHundred(t, func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL.Path
		w.Header().Set("Content-Length", "10000")
		_, _ = w.Write([]byte(strings.Repeat("x", 10_000)))
	})
	if len(result.Took) != 100 || result.Failed != 0 || result.Unsent != 0 || len(asked) != 100 {
		t.Errorf("%d answers, %d failed, %d unsent, %d asked: %v", len(result.Took), result.Failed, result.Unsent, len(asked), result.Failures)
	}
	paths := map[string]int{}
	for range 100 {
		paths[<-asked]++
	}
	if paths["/a"] != 50 || paths["/b"] != 50 {
		t.Errorf("%v", paths)
	}
}

// A stall of the server must show in what every request took that was due meanwhile.
func TestRatedHidesNoStall(t *testing.T) {
	result := atFiveHundred(t, func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(40 * time.Millisecond)
		_, _ = w.Write([]byte("x"))
	})
	slow := 0
	for _, ms := range result.Took {
		if ms > 100 {
			slow++
		}
	}
	if slow < 50 {
		t.Errorf("with four connections of 25 answers a second each, only %d of %d requests took long", slow, len(result.Took))
	}
}

func TestRatedCountsWhatFails(t *testing.T) {
	var n atomic.Int64
	result := atFiveHundred(t, func(w http.ResponseWriter, _ *http.Request) {
		switch n.Add(1) % 10 {
		case 0:
			w.WriteHeader(http.StatusBadGateway)
		case 5:
			panic(http.ErrAbortHandler)
		}
	})
	if result.Failed == 0 || result.Failures == nil || len(result.Took)+result.Failed != 100 {
		t.Errorf("%d answers, %d failed: %v", len(result.Took), result.Failed, result.Failures)
	}
}
