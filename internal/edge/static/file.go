package static

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"vortex"
	"vortex/internal/edge"
	"vortex/internal/kind/ksl"
	"vortex/internal/spec"
)

// DefaultAdmin is where status and metrics are answered when the file does not say.
const DefaultAdmin = "127.0.0.1:7071"

const (
	defaultResolve  = 10 * time.Second
	defaultShutdown = 30 * time.Second
	maxFile         = spec.DefaultMaxBytes
)

// File is a configuration that may be wrong. Parse and Read return good ones.
type File struct {
	vortex.EdgeFile

	checker
}

// Read reads and checks a file. The error is NotFound, Denied or Invalid, and tells every fault with its place.
func Read(path string) (*File, error) {
	data, err := read(path)
	if err != nil {
		return nil, err
	}
	return Parse(path, data)
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, vortex.Errorf(vortex.NotFound, "there is no file %s; check the path after --config", path)
	case errors.Is(err, fs.ErrPermission):
		return nil, vortex.Errorf(vortex.Denied, "%s may not be read; check its permissions", path)
	case err != nil:
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, vortex.Errorf(vortex.Invalid, "%s cannot be read: %w", path, err)
	}
	return data, nil
}

// Parse reads and checks what a file holds. path is how messages name it.
func Parse(path string, data []byte) (*File, error) {
	f := &File{}
	if err := spec.Decode(path, data, "EdgeFile", f); err != nil {
		return nil, err
	}
	return f, nil
}

// AdminAddress is where status and metrics are answered: the network and the address. Both are empty when nowhere.
func (f *File) AdminAddress() (network, address string) {
	switch path, unix := strings.CutPrefix(f.Admin, "unix:"); {
	case f.Admin == "off":
		return "", ""
	case unix:
		return "unix", path
	case f.Admin == "":
		return "tcp", DefaultAdmin
	default:
		return "tcp", f.Admin
	}
}

// resolveEvery is how often names are looked up.
func (f *File) resolveEvery() time.Duration { return orSeconds(f.ResolveSeconds, defaultResolve) }

// leastKey is how long a session key is at least.
const leastKey = 16

// sessionKey is the key that sticky sessions' cookies are made with: the file's, or else what is given.
func (f *File) sessionKey(own []byte) []byte {
	if f.SessionKey != "" {
		return []byte(f.SessionKey)
	}
	return own
}

// shutdownTimeout is how long requests in flight may take at the end.
func (f *File) shutdownTimeout() time.Duration { return orSeconds(f.ShutdownSeconds, defaultShutdown) }

// clientLimits are what clients of HTTP may do.
func (f *File) clientLimits() edge.ClientLimits {
	l := cmp.Or(f.Limits, &vortex.EdgeLimits{})
	return edge.ClientLimitsOf(orNumber(l.ClientConnections, edge.DefaultClientConnections), orNumber(l.ConnectionRequests, 0),
		orNumber(l.MinBodyRate, edge.DefaultMinBodyRate), orSeconds(l.BodyGraceSeconds, edge.DefaultBodyGrace), orSeconds(l.IdleSeconds, edge.DefaultIdleTimeout))
}

func orNumber(n *uint32, otherwise uint32) uint32 {
	if n == nil {
		return otherwise
	}
	return *n
}

func orSeconds(s *float64, otherwise time.Duration) time.Duration {
	if s == nil {
		return otherwise
	}
	return time.Duration(*s * float64(time.Second))
}

// BackendCount is how many backends the file names.
func (f *File) BackendCount() (n int) {
	for i := range f.Pools {
		n += len(f.Pools[i].Backends)
	}
	for i := range f.Routes {
		n += len(f.Routes[i].Backends)
	}
	for _, s := range f.streams() {
		n += len(s.Backends)
	}
	return n
}

// pool finds a pool by its name.
func (f *File) pool(name string) *vortex.EdgePool {
	i := slices.IndexFunc(f.Pools, func(p vortex.EdgePool) bool { return p.Name == name })
	if i < 0 {
		return nil
	}
	return &f.Pools[i]
}

// checker gathers problems.
type checker struct{ problems []vortex.Problem }

func (c *checker) add(path, format string, args ...any) {
	c.problems = append(c.problems, vortex.Problem{Path: path, Msg: fmt.Sprintf(format, args...)})
}

func (c *checker) err(path string, err error) {
	if err != nil {
		c.add(path, "%s", err)
	}
}

// Problems implements spec.Checked.
func (f *File) Problems() []vortex.Problem {
	f.problems = nil
	f.checkGlobals()
	f.checkListeners()
	f.checkPools()
	f.checkRoutes()
	f.checkStreams()
	return f.problems
}

func (f *File) checkGlobals() {
	if network, address := f.AdminAddress(); network == "tcp" {
		f.checkAddress("admin", address, `an address such as "127.0.0.1:7071", "unix:/run/edge.sock" or "off"`)
	} else if network == "unix" && address == "" {
		f.add("admin", `expected a path after unix:, as in "unix:/run/edge.sock"`)
	}
	f.checkSeconds("resolveSeconds", f.ResolveSeconds, 0.1)
	f.checkSeconds("shutdownSeconds", f.ShutdownSeconds, 0)
	if f.Limits != nil {
		f.checkSeconds("limits.bodyGraceSeconds", f.Limits.BodyGraceSeconds, 0)
		f.checkSeconds("limits.idleSeconds", f.Limits.IdleSeconds, 0.1)
	}
	if n := len(f.SessionKey); n > 0 && n < leastKey {
		f.add("sessionKey", "expected at least %d characters that nobody can guess, got %d; make them with: openssl rand -hex 16", leastKey, n)
	}
}

// checkSeconds checks a time that may be absent.
func (f *File) checkSeconds(at string, s *float64, least float64) {
	const day = 86400
	if s != nil && !(*s >= least && *s <= day) {
		f.add(at, "expected a number from %v to %d (a day), got %v", least, day, *s)
	}
}

// checkAddress checks what something is to listen on.
func (f *File) checkAddress(at, address, expected string) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		f.add(at, "expected %s, got %q", expected, address)
		return
	}
	if _, err := netip.ParseAddr(host); err != nil && host != "" {
		f.add(at, "expected %s, got %q; a name cannot be listened on, give its IP", expected, address)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil {
		f.add(at, "expected %s, got %q; a port is a number from 1 to 65535", expected, address)
	} else if strconv.FormatUint(n, 10) != port {
		f.add(at, "expected a port without zeros before it, got %q", address)
	}
}

// checkName checks a name that must be there once in its list, and whose path it stands at.
func (f *File) checkName(at, name string, seen map[string]int, index int) {
	if err := vortex.CheckName(name); err != nil {
		f.err(at+".name", err)
		return
	}
	if first, taken := seen[name]; taken {
		list, _, _ := strings.Cut(at, "[")
		f.add(at+".name", "the name %q is %s[%d]'s already; each name must be there once", name, list, first)
		return
	}
	seen[name] = index
}

func item(list string, i int) string { return list + "[" + strconv.Itoa(i) + "]" }

func (f *File) checkListeners() {
	if len(f.Listeners) == 0 && len(f.Streams) == 0 {
		f.add("listeners", `expected at least one, as in {name: web, address: ":8080"}`)
	}
	names, addresses := map[string]int{}, map[string]int{}
	for i := range f.Listeners {
		l, at := &f.Listeners[i], item("listeners", i)
		f.checkName(at, l.Name, names, i)
		f.checkTrusted(at, l.Trusted)
		if isStream(l) { // checkStreams does the rest
			if l.AcceptProxyProtocol != "" {
				f.add(at+".acceptProxyProtocol", "for %s it belongs under forward; write forward: {acceptProxyProtocol: %s}", l.Protocol, l.AcceptProxyProtocol)
			}
			continue
		}
		f.checkAddress(at+".address", l.Address, `an address such as ":8080" or "127.0.0.1:8080"`)
		if first, taken := addresses[l.Address]; taken {
			f.add(at+".address", "%s is the address of listeners[%d] already", l.Address, first)
		} else {
			addresses[l.Address] = i
		}
		f.checkHTTP(at, l)
	}
}

// checkHTTP refuses what makes no sense for HTTP.
func (f *File) checkHTTP(at string, l *vortex.EdgeListener) {
	for _, name := range []string{"pool", "backends", "samePort", "forward"} {
		if _, ok := fields(l)[name]; ok {
			f.add(at+"."+name, "an http listener is passed on by routes, which name pools; leave %s out, or write protocol: tcp or udp", name)
		}
	}
	if l.AcceptProxyProtocol != "" && len(l.Trusted) == 0 {
		f.add(at+".acceptProxyProtocol", "nobody is believed without trusted, the addresses of the proxies before the edge; write them too")
	}
}

func (f *File) checkTrusted(at string, trusted []string) {
	for j, text := range trusted {
		if _, err := parsePrefix(text); err != nil {
			f.add(item(at+".trusted", j), `expected an address or a prefix such as "10.0.0.0/8", got %q`, text)
		}
	}
}

// parsePrefix reads a prefix, or an address as the prefix of itself alone.
func parsePrefix(text string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	return p.Masked(), err
}

func (f *File) checkPools() {
	names := map[string]int{}
	for i := range f.Pools {
		p, at := &f.Pools[i], item("pools", i)
		f.checkMirror(at, p.Mirror)
		f.checkName(at, p.Name, names, i)
		f.checkBackends(at+".backends", p.Backends)
		f.checkProbe(at, p.Check)
		route, err := poolSettings(p)
		f.err(at, err)
		f.checkRoute(at, &route)
	}
}

func (f *File) checkBackends(at string, backends []vortex.EdgeBackend) {
	if len(backends) == 0 {
		f.add(at, `expected at least one, as in {address: "10.0.0.5:8080"}`)
	}
	seen := map[string]int{}
	for i, b := range backends {
		at := item(at, i)
		if host, port, err := splitBackend(b.Address); err != nil {
			f.add(at+".address", `expected an address such as "10.0.0.5:8080" or "web.internal:8080", got %q%s`, b.Address, hint(b.Address))
		} else if first, taken := seen[net.JoinHostPort(host, port)]; taken {
			f.add(at+".address", "%s is backend %d of this list already", b.Address, first)
		} else {
			seen[net.JoinHostPort(host, port)] = i
		}
		if b.Weight != nil && *b.Weight > vortex.MaxWeight {
			f.add(at+".weight", "expected a number from 0 to %d, got %d", vortex.MaxWeight, *b.Weight)
		}
	}
}

// splitBackend reads a backend's address. The host is an IP or a name.
func splitBackend(address string) (host, port string, err error) {
	host, port, err = net.SplitHostPort(address)
	if err != nil {
		return "", "", err
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", "", errors.New("no port")
	}
	if _, err := netip.ParseAddr(host); err != nil && !isName(host) {
		return "", "", errors.New("no host")
	}
	return strings.ToLower(host), port, nil
}

// isName reports whether a text can be looked up: labels of letters, digits, hyphens and underscores.
func isName(text string) bool {
	text = strings.TrimSuffix(text, ".")
	if text == "" || len(text) > 253 {
		return false
	}
	for label := range strings.SplitSeq(text, ".") {
		strange := strings.ContainsFunc(label, func(r rune) bool {
			return r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
		})
		if label == "" || len(label) > 63 || strange {
			return false
		}
	}
	last := text[strings.LastIndexByte(text, '.')+1:]
	return strings.Trim(last, "0123456789") != "" // 10.0.0 is a mistake, not a name
}

// hint says what is wrong with a backend's address in the most common cases.
func hint(address string) string {
	switch {
	case strings.Contains(address, "://"):
		return "; leave out the scheme"
	case !strings.Contains(address, ":"):
		return "; the port is missing"
	default:
		return ""
	}
}

func (f *File) checkRoutes() {
	names := map[string]int{}
	for i := range f.Routes {
		r, at := &f.Routes[i], item("routes", i)
		f.checkName(at, r.Name, names, i)
		f.checkRoute(at, &r.Route)
		f.checkMirror(at, r.Mirror)
		f.checkProbe(at, r.Check)
		if r.HealthCheck != "" {
			f.add(at+".healthCheck", "an edge that runs alone has no agents who could check; say what it is to ask the backends in check: {path: /health}")
		}
		f.checkTarget(at, r)
		for j, name := range r.Listeners {
			if slices.ContainsFunc(f.Listeners, func(l vortex.EdgeListener) bool { return l.Name == name && isStream(&l) }) {
				f.add(item(at+".listeners", j), "the listener %q is no http listener: what comes there goes to the pool that it names, past all routes", name)
			} else if !slices.ContainsFunc(f.Listeners, func(l vortex.EdgeListener) bool { return l.Name == name }) {
				f.add(item(at+".listeners", j), "there is no listener %q%s", name, f.known(name, f.listenerNames()))
			}
		}
	}
	f.checkContests()
}

// checkProbe checks what backends are asked.
func (f *File) checkProbe(at string, check *vortex.HealthCheck) {
	if check != nil {
		f.problems = append(f.problems, check.Problems(at+".check")...)
	}
}

// checkMirror checks that there is a route of the name that requests are mirrored to.
func (f *File) checkMirror(at string, m *vortex.Mirror) {
	if m == nil || m.App == "" || slices.ContainsFunc(f.Routes, func(r vortex.EdgeRoute) bool { return r.Name == m.App }) {
		return
	}
	var names []string
	for _, r := range f.Routes {
		names = append(names, r.Name)
	}
	f.add(at+".mirror.app", "there is no route %q%s", m.App, f.known(m.App, names))
}

// checkTarget checks which pool answers a route.
func (f *File) checkTarget(at string, r *vortex.EdgeRoute) {
	switch {
	case r.Pool != "" && len(r.Backends) > 0:
		f.add(at+".backends", "expected a pool or backends, got both")
	case r.Pool != "" && r.Check != nil:
		f.add(at+".check", "check belongs to the pool; write it at pool %q", r.Pool)
	case r.Pool != "":
		if f.pool(r.Pool) == nil {
			f.add(at+".pool", "there is no pool %q%s", r.Pool, f.known(r.Pool, f.poolNames()))
		}
		for _, name := range given(r.Route) {
			if slices.Contains(poolFields(), name) {
				f.add(at+"."+name, "%s belongs to the pool; write it at pool %q", name, r.Pool)
			}
		}
	case len(r.Backends) > 0:
		f.checkBackends(at+".backends", r.Backends)
		if f.pool(r.Name) != nil {
			f.add(at+".backends", "the pool %q has the name of this route; name one of them otherwise", r.Name)
		}
	case r.Redirect == nil && r.Maintenance == nil: // which need nobody else
		f.add(at, "expected the pool that answers, as in pool: NAME, or backends")
	}
}

func (f *File) listenerNames() (names []string) {
	for i := range f.Listeners {
		if l := &f.Listeners[i]; !isStream(l) {
			names = append(names, l.Name)
		}
	}
	return names
}

func (f *File) poolNames() (names []string) {
	for _, p := range f.Pools {
		names = append(names, p.Name)
	}
	return names
}

// known is the end of a message about a name that is none of those known.
func (f *File) known(name string, known []string) string {
	if near := ksl.Nearest(name, known); near != "" {
		return fmt.Sprintf("; did you mean %q?", near)
	}
	if len(known) == 0 {
		return "; there is none yet"
	}
	return "; there are " + strings.Join(known, ", ")
}

// checkRoute checks what stands in a route as it is checked in an App.
func (f *File) checkRoute(at string, r *vortex.Route) {
	app := vortex.App{
		Metadata: vortex.Metadata{Name: "route"},
		Spec:     vortex.AppSpec{Image: "none", Ports: []vortex.Port{{ContainerPort: 80}}},
		Route:    r,
	}
	for _, p := range app.Problems() {
		if rest, ok := strings.CutPrefix(p.Path, "route"); ok {
			f.problems = append(f.problems, vortex.Problem{Path: at + rest, Msg: strings.ReplaceAll(p.Msg, "route.", at+".")})
		}
	}
}

// checkContests reports the requests that two routes want, when nothing in them tells which.
func (f *File) checkContests() {
	type claim struct{ listener, host, path string }
	first := map[claim]int{}
	for i := range f.Routes {
		r := &f.Routes[i]
		if fields := given(r.Route); slices.Contains(fields, "methods") || slices.Contains(fields, "headers") {
			continue
		}
		told := false
		for _, listener := range orAll(r.Listeners, f.listenerNames()) {
			for _, host := range orAll(r.Hosts, []string{"*"}) {
				for _, path := range orAll(r.Paths, []string{"/"}) {
					c := claim{listener, strings.ToLower(host), strings.TrimSuffix(path, "/")}
					j, taken := first[c]
					if taken && !told {
						told = true
						f.add(item("routes", i), "requests for host %s and path %s on listener %s are route %q's already; give one of the two another host, path or listener",
							host, path, listener, f.Routes[j].Name)
					} else if !taken {
						first[c] = i
					}
				}
			}
		}
	}
}

func orAll(list, all []string) []string {
	if len(list) == 0 {
		return all
	}
	return list
}

// given returns the names of the fields that a route has.
func given(r vortex.Route) (names []string) {
	for name := range fields(r) {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// fields returns a value's fields as they stand in a file.
func fields(value any) map[string]json.RawMessage {
	out := map[string]json.RawMessage{}
	data, err := json.Marshal(value)
	if err != nil || json.Unmarshal(data, &out) != nil {
		return nil // every value came out of a file
	}
	return out
}
