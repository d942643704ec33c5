package accesslog_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vortex/internal/edge/accesslog"
)

// logged runs a log while add adds to it, and returns the lines it wrote.
func logged(t *testing.T, c accesslog.Config, add func(*accesslog.Log)) []string {
	t.Helper()
	c.Path = filepath.Join(t.TempDir(), "access.log")
	l, err := accesslog.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- l.Run(ctx) }()
	add(l)
	end()
	if err := <-ended; err != nil {
		t.Errorf("Run: %v", err)
	}
	text, err := os.ReadFile(c.Path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
}

func TestLineIsJSON(t *testing.T) {
	t.Parallel()
	lines := logged(t, accesslog.Config{}, func(l *accesslog.Log) {
		request := accesslog.AppendRequest(nil, []byte("GET"), []byte("web.example"), []byte("/a\"b\\c\x01\xff€"), []byte("curl/8\x7f"))
		l.Add(request, accesslog.Outcome{
			Began: time.Date(2026, 11, 21, 12, 0, 0, 5e8, time.UTC), Took: 1500 * time.Microsecond, Client: netip.MustParseAddr("2001:db8::1"),
			Status: 200, Bytes: 7, App: "web", Backend: netip.MustParseAddrPort("10.0.0.1:80"), Tries: 2, ID: []byte("id-1"),
		})
	})
	var got map[string]any
	if err := json.Unmarshal([]byte(lines[0]), &got); err != nil || len(lines) != 1 {
		t.Fatalf("%q: %v", lines, err)
	}
	want := map[string]any{
		"time": "2026-11-21T12:00:00.500Z", "method": "GET", "host": "web.example", "path": "/a\"b\\c\x01\ufffd€", "agent": "curl/8\x7f",
		"client": "2001:db8::1", "status": 200.0, "bytes": 7.0, "ms": 1.5, "app": "web", "backend": "10.0.0.1:80", "tries": 2.0, "id": "id-1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSample(t *testing.T) {
	t.Parallel()
	const each = 2000
	count := func(sample float64, o accesslog.Outcome) int {
		lines := logged(t, accesslog.Config{Sample: sample}, func(l *accesslog.Log) {
			for range each {
				l.Add([]byte(`{"method":"GET"`), o)
			}
			l.Add([]byte(`{"method":"END"`), accesslog.Outcome{Status: 500})
		})
		return len(lines) - 1
	}
	for name, test := range map[string]struct {
		sample      float64
		o           accesslog.Outcome
		least, most int
	}{
		"all":                {0, accesslog.Outcome{Status: 200}, each, each},
		"a tenth":            {0.1, accesslog.Outcome{Status: 200}, each / 20, each / 5},
		"errors always":      {-1, accesslog.Outcome{Status: 502}, each, each},
		"none":               {-1, accesslog.Outcome{Status: 404}, 0, 0},
		"the route's own":    {1, accesslog.Outcome{Status: 200, Sample: -1}, 0, 0},
		"off for the route":  {1, accesslog.Outcome{Status: 500, Off: true}, 0, 0},
		"the route's tenth ": {-1, accesslog.Outcome{Status: 200, Sample: 0.1}, each / 20, each / 5},
	} {
		if n := count(test.sample, test.o); n < test.least || n > test.most {
			t.Errorf("%s: %d of %d lines, want %d to %d", name, n, each, test.least, test.most)
		}
	}
}

// TestFullLogDropsAndCounts adds to a log that nobody writes.
func TestFullLogDropsAndCounts(t *testing.T) {
	t.Parallel()
	l, err := accesslog.Open(accesslog.Config{Path: filepath.Join(t.TempDir(), "access.log")})
	if err != nil {
		t.Fatal(err)
	}
	line := bytes.Repeat([]byte("x"), 4096)
	for range 1000 {
		l.Add(line, accesslog.Outcome{Status: 200})
	}
	if lost := l.Lost(); lost < 600 || lost > 900 {
		t.Errorf("%d of 1000 lines of 4 KiB were dropped, although about 1 MiB is kept", lost)
	}
}

func TestRotatedFileIsOpenedAnew(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "access.log")
	l, err := accesslog.Open(accesslog.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- l.Run(ctx) }()
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		l.Add([]byte(`{"method":"GET"`), accesslog.Outcome{Status: 200})
		if text, err := os.ReadFile(path); err == nil && len(text) > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing is written to the new file")
		}
	}
	end()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	if _, err := accesslog.Open(accesslog.Config{Path: filepath.Join(t.TempDir(), "none", "access.log")}); err == nil || !strings.Contains(err.Error(), "open access log") {
		t.Errorf("a directory that is not there: %v", err)
	}
}

func TestAddDoesNotAllocate(t *testing.T) {
	l, err := accesslog.Open(accesslog.Config{Path: filepath.Join(t.TempDir(), "access.log")})
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- l.Run(ctx) }()
	defer func() { end(); <-ended }()
	line, path := make([]byte, 0, 4096), []byte("/x")
	o := accesslog.Outcome{Status: 200, Client: netip.MustParseAddr("192.0.2.1"), App: "web", Began: time.Now()}
	for range 2000 { // until the buffers have grown
		l.Add(accesslog.AppendRequest(line[:0], path, path, path, path), o)
	}
	if n := testing.AllocsPerRun(500, func() { l.Add(accesslog.AppendRequest(line[:0], path, path, path, path), o) }); n > 1 {
		t.Errorf("%v allocations per line", n)
	}
}
