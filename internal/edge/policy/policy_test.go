package policy_test

import (
	"bytes"
	"net/netip"
	"net/url"
	"path"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"vortex"
	"vortex/internal/edge/policy"
)

// message is a request's head, or a response's.
type message struct {
	verb   string
	fields [][2]string
}

func (m *message) Verb() []byte { return []byte(m.verb) }

func (m *message) Field(lower string, n int) ([]byte, bool) {
	for _, f := range m.fields {
		if strings.EqualFold(f[0], lower) {
			if n == 0 {
				return []byte(f[1]), true
			}
			n--
		}
	}
	return nil, false
}

func compile(tb testing.TB, rules ...vortex.RouteRule) *policy.Policy {
	tb.Helper()
	p, err := policy.Compile(rules)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

func TestNoRulesAreNoPolicy(t *testing.T) {
	t.Parallel()
	p := compile(t)
	if r, ok := p.Find([]byte("//x/../y"), &message{}); p != nil || r != nil || !ok {
		t.Errorf("%v %v %v", p, r, ok)
	}
}

func TestFindDoesNotAllocate(t *testing.T) {
	p := compile(t,
		vortex.RouteRule{Paths: []string{"=/exact", "/admin"}},
		vortex.RouteRule{Paths: []string{"~^/v[0-9]+/"}},
		vortex.RouteRule{RoutePolicy: vortex.RoutePolicy{Methods: []string{"POST"}}},
	)
	head, paths := &head{}, [][]byte{[]byte("/users/17/posts"), []byte("/v1/users"), []byte("/admin/x")}
	for _, path := range paths {
		n := testing.AllocsPerRun(100, func() { p.Find(path, head) })
		for range 4 { // others in the process allocate too, and the race detector makes pools forget
			n = min(n, testing.AllocsPerRun(100, func() { p.Find(path, head) }))
		}
		if n != 0 {
			t.Errorf("%s: %v allocations", path, n)
		}
	}
}

// head is a head whose parts are at hand.
type head struct{}

var get = []byte("GET")

func (*head) Verb() []byte                     { return get }
func (*head) Field(string, int) ([]byte, bool) { return nil, false }

// FuzzFind looks for a spelling of a path that a program takes for one below /admin and that another rule holds for.
func FuzzFind(f *testing.F) {
	for _, seed := range []string{
		"/admin", "/%61dmin", "//admin", "/x/../admin", "/x/%2e%2e/admin", "/admin;a=b/x", "/.;/admin", `/x\..\admin`, "/admin%2fx", "/%2fadmin", "/a%", "/é",
	} {
		f.Add(seed)
	}
	p := compile(f, vortex.RouteRule{Paths: []string{"/admin"}}, vortex.RouteRule{})
	admin, _ := p.Find([]byte("/admin"), &message{})
	f.Fuzz(func(t *testing.T, sent string) {
		if !strings.HasPrefix(sent, "/") || strings.ContainsAny(sent, "?#") {
			return
		}
		got, ok := p.Find([]byte(sent), &message{})
		if !ok || got == admin {
			return
		}
		for _, read := range readings(sent) {
			if read == "/admin" || strings.HasPrefix(read, "/admin/") {
				t.Errorf("%q can be read as %q, and passes without its rule", sent, read)
			}
		}
	})
}

// readings are what programs make of a path: net/http's, one that cleans before it decodes, and one that drops parameters.
func readings(sent string) []string {
	all := []string{sent, path.Clean(sent)}
	if decoded, err := url.PathUnescape(sent); err == nil {
		all = append(all, decoded, path.Clean(decoded), path.Clean(strings.ReplaceAll(decoded, `\`, "/")))
	}
	if decoded, err := url.PathUnescape(path.Clean(sent)); err == nil {
		all = append(all, decoded)
	}
	var bare []string
	for segment := range strings.SplitSeq(sent, "/") {
		segment, _, _ = strings.Cut(segment, ";")
		bare = append(bare, segment)
	}
	return append(all, path.Clean("/"+strings.Join(bare, "/")))
}

func TestParseForwarded(t *testing.T) {
	t.Parallel()
	for element, want := range map[string]string{
		"for=192.0.2.1":                         "192.0.2.1",
		`proto=https;For="192.0.2.1:8080"`:      "192.0.2.1",
		`by=x; for="[2001:db8::1]:80";host="a"`: "2001:db8::1",
		`for="[2001:db8::1]"`:                   "2001:db8::1",
		"for=[2001:db8::1]":                     "2001:db8::1",
		`host="a;for=1.2.3.4"`:                  "",
		"for=unknown":                           "",
		"for=_hidden":                           "",
		"for=":                                  "",
		"":                                      "",
	} {
		addr, ok := policy.ParseForwarded([]byte(element))
		if ok != (want != "") || ok && addr != netip.MustParseAddr(want) {
			t.Errorf("%s: %v %v, want %q", element, addr, ok, want)
		}
	}
	back := policy.AppendForwarded(nil, netip.MustParseAddr("fe80::1%eth0"), []byte(`a"b:80`), true)
	if string(back) != `for="[fe80::1]";host="a\"b:80";proto=https` {
		t.Errorf("%s", back)
	}
}

func TestCompileSaysWhatIsWrongAndRefusesAll(t *testing.T) {
	t.Parallel()
	p, err := policy.Compile([]vortex.RouteRule{
		{Paths: []string{"/fine"}},
		{Paths: []string{"~("}, RoutePolicy: vortex.RoutePolicy{Rewrite: &vortex.Rewrite{Regex: "["}}},
		{RoutePolicy: vortex.RoutePolicy{Compress: &vortex.Compress{Types: []string{""}}, Limits: &vortex.RequestLimits{Body: "much"}}},
	})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"rules[1]: paths:", "rewrite.regex:", "rules[2]: compress.types:", "limits.body:"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
	var x policy.Exchange
	m := &message{verb: "GET"}
	rule, _ := p.Find([]byte("/fine"), m)
	x.Begin(rule, policy.Request{Head: m, Target: []byte("/fine"), Path: 5})
	if a, ok := x.Answer(0, 0); !ok || a.Status != 503 {
		t.Errorf("%v %v", a, ok)
	}
}

// TestRightPasswordsAreCheckedOnce counts what a known password costs beside bcrypt.
func TestRightPasswordsAreCheckedOnce(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	p := compile(t, vortex.RouteRule{RoutePolicy: vortex.RoutePolicy{BasicAuth: &vortex.BasicAuth{Users: map[string]string{"ann": string(hash)}}}})
	m := &credentials{[]byte("Basic YW5uOnNlY3JldA==")}
	rule, _ := p.Find([]byte("/"), m)
	var x policy.Exchange
	ask := func() bool {
		x.Begin(rule, policy.Request{Head: m, Target: []byte("/"), Path: 1})
		_, refused := x.Answer(0, 0)
		return !refused
	}
	if !ask() {
		t.Fatal("the right password is refused")
	}
	if n := testing.AllocsPerRun(100, func() { ask() }); n > 2 {
		t.Errorf("%v allocations for a password that is known: it is checked again", n)
	}
}

type credentials struct{ value []byte }

func (*credentials) Verb() []byte { return get }

func (c *credentials) Field(lower string, n int) ([]byte, bool) {
	return c.value, lower == "authorization" && n == 0
}

func TestEncodersAreUsedAgain(t *testing.T) {
	t.Parallel()
	for _, coding := range []policy.Coding{policy.Gzip, policy.Brotli, policy.Zstd} {
		var first []byte
		for range 3 {
			var out bytes.Buffer
			e := coding.NewEncoder(&out)
			if _, err := e.Write(bytes.Repeat([]byte("vortex "), 500)); err != nil {
				t.Fatal(err)
			}
			if err := e.Close(); err != nil {
				t.Fatal(err)
			}
			coding.FreeEncoder(e)
			abandoned := coding.NewEncoder(&bytes.Buffer{})
			if _, err := abandoned.Write([]byte("cut")); err != nil {
				t.Fatal(err)
			}
			coding.FreeEncoder(abandoned)
			if first == nil {
				first = out.Bytes()
			}
			if !bytes.Equal(first, out.Bytes()) || out.Len() > 200 {
				t.Errorf("%s: %d bytes, then %d", coding, len(first), out.Len())
			}
		}
	}
}

func BenchmarkFind(b *testing.B) {
	p := compile(b, vortex.RouteRule{Paths: []string{"/api"}}, vortex.RouteRule{Paths: []string{"=/health"}}, vortex.RouteRule{})
	path, h := []byte("/users/17/posts"), &head{}
	b.ReportAllocs()
	for b.Loop() {
		p.Find(path, h)
	}
}
