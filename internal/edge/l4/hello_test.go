package l4

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

// helloOf returns what a real client sends first.
func helloOf(tb testing.TB, config *tls.Config) []byte {
	tb.Helper()
	client, server := net.Pipe()
	defer server.Close()
	go func() {
		_ = tls.Client(client, config).Handshake()
		client.Close()
	}()
	buf := make([]byte, maxHello)
	if err := server.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		tb.Fatal(err)
	}
	n, err := server.Read(buf)
	if err != nil {
		tb.Fatal(err)
	}
	return buf[:n]
}

// fragmented cuts the only record of b into records of at most size bytes.
func fragmented(b []byte, size int) []byte {
	var out []byte
	for chunk := range slices.Chunk(b[recordHead:], size) {
		out = append(out, recordHandshake, 3, 1, byte(len(chunk)>>8), byte(len(chunk)))
		out = append(out, chunk...)
	}
	return out
}

func TestReadsRealHellos(t *testing.T) {
	for _, test := range []struct {
		config *tls.Config
		name   string
		alpn   []string
	}{
		{&tls.Config{ServerName: "db.example.com"}, "db.example.com", nil},
		{&tls.Config{ServerName: "DB.Example.COM."}, "db.example.com", nil},
		{&tls.Config{ServerName: "db.example.com", NextProtos: []string{"h2", "http/1.1"}}, "db.example.com", []string{"h2", "http/1.1"}},
		{&tls.Config{InsecureSkipVerify: true}, "", nil}, //nolint:gosec // there is nobody to verify
		{&tls.Config{ServerName: "old.example", MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS12}, "old.example", nil},
	} {
		b := helloOf(t, test.config)
		for _, size := range []int{len(b), 1000, 100} {
			text := fragmented(b, size)
			for n := range text {
				if _, err := parseHello(text[:n]); !errors.Is(err, errMore) {
					t.Fatalf("the first %d of %d bytes: %v, want errMore", n, len(text), err)
				}
			}
			h, err := parseHello(append(text, "more"...))
			if err != nil || h.name != test.name {
				t.Errorf("%s in records of %d: %q, %v", test.name, size, h.name, err)
			}
			for _, p := range test.alpn {
				if !h.offers(p) {
					t.Errorf("%s does not offer %s", test.name, p)
				}
			}
			if h.offers("h3") {
				t.Errorf("%s offers h3", test.name)
			}
		}
	}
}

func TestRefusesHellosThatAreNot(t *testing.T) {
	good := helloOf(t, &tls.Config{ServerName: "a.example"})
	at := bytes.Index(good, []byte("a.example"))
	changed := func(offset int, value byte) []byte {
		b := bytes.Clone(good)
		b[offset] = value
		return b
	}
	for name, test := range map[string]struct {
		b    []byte
		want error // nil is any but errMore
	}{
		"http":              {[]byte("GET / HTTP/1.1\r\n"), errNotTLS},
		"ssh":               {[]byte("SSH-2.0-OpenSSH"), errNotTLS},
		"alert":             {[]byte{21, 3, 1, 0, 2, 2, 80}, errNotTLS},
		"version 2":         {[]byte{22, 2, 0, 0, 5}, errNotTLS},
		"empty record":      {[]byte{22, 3, 1, 0, 0}, nil},
		"large record":      {[]byte{22, 3, 1, 0x40, 1}, nil},
		"server hello":      {changed(5, 2), nil},
		"large message":     {changed(6, 1), nil},
		"odd version":       {changed(9, 2), nil},
		"NUL in name":       {changed(at, 0), nil},
		"slash in name":     {changed(at, '/'), nil},
		"name with dots":    {changed(at, '.'), nil},
		"name of no type":   {changed(at-3, 1), nil},
		"name too long":     {changed(at-1, 200), nil},
		"name too short":    {changed(at-1, 3), nil},
		"many tiny records": {fragmented(good, 1), nil},
	} {
		_, err := parseHello(test.b)
		if err == nil || errors.Is(err, errMore) || test.want != nil && !errors.Is(err, test.want) || test.want == nil && errors.Is(err, errNotTLS) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRoutesByNameAndProtocol(t *testing.T) {
	of := func(app string, names, alpn []string) target {
		return target{service: &service{Service: Service{App: app, Names: names, ALPN: alpn}}}
	}
	var contests []string
	r := buildRoutes([]target{
		of("any", nil, nil), of("deep", []string{"*.a.example.com"}, nil), of("exact", []string{"a.example.com"}, nil),
		of("h2", []string{"a.example.com"}, []string{"h2"}), of("late", []string{"a.example.com"}, nil), of("wild", []string{"*.example.com"}, nil),
	}, func(winner, loser, name string) { contests = append(contests, winner+" "+loser+" "+name) })
	for _, test := range []struct{ name, alpn, app string }{
		{"a.example.com", "", "exact"},
		{"a.example.com", "\x02h2\x08http/1.1", "h2"},
		{"b.example.com", "", "wild"},
		{"c.b.example.com", "", "wild"},
		{"b.a.example.com", "", "deep"},
		{"example.com", "", "any"},
		{"", "", "any"},
	} {
		got, ok := r.match(hello{test.name, []byte(test.alpn)})
		if !ok || got.service.App != test.app {
			t.Errorf("%q %q: %+v, want %s", test.name, test.alpn, got.service, test.app)
		}
	}
	if strings.Join(contests, ",") != "exact late a.example.com" {
		t.Errorf("contested: %q", contests)
	}
	if _, ok := buildRoutes([]target{of("a", []string{"a"}, nil)}, nil).match(hello{name: "b"}); ok {
		t.Error("a name that nobody claims was taken")
	}
}

func FuzzParseHello(f *testing.F) {
	b := helloOf(f, &tls.Config{ServerName: "db.example.com", NextProtos: []string{"h2"}})
	f.Add(b)
	f.Add(fragmented(b, 50))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHello(b)
		if err != nil {
			return
		}
		h.offers("h2")
		if h.name != strings.ToLower(h.name) || strings.ContainsAny(h.name, "/\x00 *:") || len(h.name) > maxServerName {
			t.Fatalf("name %q", h.name)
		}
	})
}
