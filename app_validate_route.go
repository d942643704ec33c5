package vortex

import (
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Problems returns everything that is wrong with a route that stands in the field at.
func (r *Route) Problems(at string) []Problem {
	var c checker
	c.routeFields(at, r)
	return c.problems
}

func (c *checker) route(a *App) {
	r := a.Route
	c.balance(a)
	oneOf(c, "route.healthCheck", r.HealthCheck)
	c.judgement("route.", r.PanicPercent, r.Outlier, r.Circuit)
	if a.Spec.Type == AppTypeWorker || a.Spec.Type == AppTypeTCP {
		if len(r.Hosts)+len(r.Paths) > 0 {
			c.add("route", "expected hosts and paths only for an app of type http, got type %s", a.Spec.Type)
			return
		}
		if len(r.EffectiveRules())+len(r.Methods)+len(r.Headers)+len(r.Rate) > 0 {
			c.add("route", "expected rules and what is done with requests only for an app of type http, got type %s", a.Spec.Type)
			return
		}
	}
	c.routeFields("route", r)
}

func (c *checker) routeFields(at string, r *Route) {
	hosts := map[string]string{}
	for i, host := range r.Hosts {
		where := item(at+".hosts", i)
		c.host(where, host)
		c.unique(hosts, host, where, "")
	}
	c.routeRule(at, &RouteRule{RoutePolicy: r.RoutePolicy, Paths: r.Paths})
	c.rates(at+".rate", r.Rate)
	for i := range r.Rules {
		rule := &r.Rules[i]
		where := item(at+".rules", i)
		c.routeRule(where, rule)
		c.without(where, rule)
		if i < len(r.Rules)-1 && len(rule.Paths)+len(rule.Methods)+len(rule.Headers) == 0 {
			c.add(where, "expected paths, methods or headers: this rule matches every request, and the ones behind it none; "+
				"put it last, or its fields into the route")
		}
	}
}

// without checks what a rule is not to take over.
func (c *checker) without(at string, r *RouteRule) {
	for i, field := range r.Without {
		if !slices.Contains(inheritable, field) {
			c.add(item(at+".without", i), "expected one of %s, got %q", strings.Join(inheritable, ", "), field)
		}
	}
}

func (c *checker) host(at, host string) {
	const expected = `expected a host such as "app.example.com" or "*.example.com"`
	name := strings.TrimPrefix(host, "*.")
	switch {
	case strings.Contains(host, "://"):
		c.add(at, "%s, got %q; leave out the scheme", expected, host)
	case strings.Contains(host, "/"):
		c.add(at, "%s, got %q; put the path into route.paths", expected, host)
	case strings.Contains(host, ":"):
		c.add(at, "%s, got %q; leave out the port", expected, host)
	case name != strings.ToLower(name):
		c.add(at, "%s in lower case, got %q", expected, host)
	case !isDomain(name):
		c.add(at, "%s, got %q", expected, host)
	}
}

// routePath checks an entry of paths.
func (c *checker) routePath(at, entry string) {
	match, p := SplitPath(entry)
	switch {
	case match == PathRegex:
		c.regex(at, p)
	case p == "" || p[0] != '/' || strings.ContainsFunc(p, unprintable):
		c.add(at, `expected a path such as "/" or "/api", "=/api" for it alone, or "~" and a regular expression, got %q`, entry)
	case strings.HasSuffix(p, "*") && match == PathPrefix:
		c.add(at, "expected a path without *, because everything below it is meant anyway, got %q", entry)
	case strings.ContainsAny(p, "?#"):
		c.add(at, "expected a path without ? and #, got %q", entry)
	case path.Clean(p) != strings.TrimSuffix(p, "/") && p != "/":
		c.add(at, "expected a path without //, /./ and /../, got %q (did you mean %q?)", entry, path.Clean(p))
	}
}

// maxRegex bounds what a regular expression may cost: Go's need time in proportion to their length and the text's.
const maxRegex = 1000

func (c *checker) regex(at, text string) {
	if len(text) > maxRegex {
		c.add(at, "expected a regular expression of at most %d characters, got %d", maxRegex, len(text))
		return
	}
	if _, err := regexp.Compile(text); err != nil {
		c.add(at, "expected a regular expression (RE2), got %q: %s", text, strings.TrimPrefix(err.Error(), "error parsing regexp: "))
	}
}

// routeRule checks what a route and its rules have in common.
func (c *checker) routeRule(at string, r *RouteRule) {
	c.routeMatch(at, r)
	if r.Rewrite != nil {
		c.rewrite(at+".rewrite", r.Rewrite)
	}
	if r.Redirect != nil {
		c.redirect(at+".redirect", r.Redirect)
	}
	c.edits(at+".requestHeaders", r.RequestHeaders, true)
	c.edits(at+".responseHeaders", r.ResponseHeaders, false)
	if r.Compress != nil {
		c.compress(at+".compress", r.Compress)
	}
	if r.Cors != nil {
		c.cors(at+".cors", r.Cors)
	}
	if r.BasicAuth != nil {
		c.basicAuth(at+".basicAuth", r.BasicAuth)
	}
	if r.Maintenance != nil {
		c.maintenance(at+".maintenance", r.Maintenance)
	}
	if r.Limits != nil {
		c.size(at+".limits.body", r.Limits.Body, MaxMemoryBytes)
		c.size(at+".limits.headers", r.Limits.Headers, maxHeaderLimit)
	}
	if r.Timeouts != nil {
		c.timeouts(at+".timeouts", r.Timeouts)
	}
	if r.Retry != nil {
		c.retry(at+".retry", r.Retry)
	}
	if l := r.AccessLog; l != nil && l.Sample != nil && !(*l.Sample >= 0 && *l.Sample <= 1) {
		c.add(at+".accessLog.sample", "expected a share from 0 to 1, got %v", *l.Sample)
	}
}

// maxHeaderLimit is the most a route may allow: what the edge takes of a head at all.
const maxHeaderLimit = 64 << 10

func (c *checker) routeMatch(at string, r *RouteRule) {
	paths := map[string]string{}
	for i, p := range r.Paths {
		where := item(at+".paths", i)
		c.routePath(where, p)
		c.unique(paths, p, where, "")
	}
	for i, method := range r.Methods {
		c.method(item(at+".methods", i), method)
	}
	for i, h := range r.Headers {
		where := item(at+".headers", i)
		c.headerName(where+".name", h.Name)
		absent := h.Absent != nil && *h.Absent
		if (h.Value != "" && h.Regex != "") || absent && (h.Value != "" || h.Regex != "") {
			c.add(where, "expected one of value, regex and absent, got several")
		}
		if h.Regex != "" {
			c.regex(where+".regex", h.Regex)
		}
	}
}

func (c *checker) method(at, method string) {
	if method == "" || strings.ContainsFunc(method, notToken) || method != strings.ToUpper(method) {
		c.add(at, `expected a method such as "GET" or "POST", got %q`, method)
	}
}

// notToken reports whether r cannot stand in a header's name or a method (RFC 9110, 5.6.2).
func notToken(r rune) bool {
	letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
	return !letter && !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
}

func (c *checker) headerName(at, name string) bool {
	if name == "" || strings.ContainsFunc(name, notToken) {
		c.add(at, `expected the name of a header such as "X-Version", got %q`, name)
		return false
	}
	return true
}

func (c *checker) rewrite(at string, r *Rewrite) {
	if *r == (Rewrite{}) {
		c.add(at, "expected stripPrefix, addPrefix, regex with replacement, or host, got none of them")
	}
	for _, f := range []struct{ name, value string }{{"stripPrefix", r.StripPrefix}, {"addPrefix", r.AddPrefix}} {
		if f.value != "" && (f.value[0] != '/' || strings.ContainsFunc(f.value, unprintable) || strings.ContainsAny(f.value, "?#")) {
			c.add(at+"."+f.name, `expected a path such as "/api", got %q`, f.value)
		}
	}
	if r.Regex != "" {
		c.regex(at+".regex", r.Regex)
	} else if r.Replacement != "" {
		c.add(at+".replacement", "expected a regex with it, got none")
	}
	if strings.ContainsFunc(r.Replacement, unprintable) || strings.ContainsAny(r.Replacement, "?#") {
		c.add(at+".replacement", `expected a path such as "/users/$1" without spaces, ? and #, got %q`, r.Replacement)
	}
	if r.Host != "" && strings.ContainsFunc(r.Host, notHost) {
		c.add(at+".host", `expected a host such as "internal.example.com", got %q`, r.Host)
	}
}

func notHost(r rune) bool { return notTag(r) && r != ':' && r != '[' && r != ']' }

var redirectStatuses = []uint16{301, 302, 303, 307, 308}

func (c *checker) redirect(at string, r *Redirect) {
	https := r.HTTPS != nil && *r.HTTPS
	switch {
	case r.To == "" && !https:
		c.add(at, `expected where to send clients, as in to: "/new" or https: true, got neither`)
	case r.To != "" && https:
		c.add(at+".to", `expected to or https: true, got both; write to: "https://…"`)
	case r.To != "":
		c.location(at+".to", r.To)
	}
	if r.Regex != "" {
		c.regex(at+".regex", r.Regex)
	}
	if r.Port != nil && (!https || *r.Port == 0) {
		c.add(at+".port", "expected a port from 1 to 65535 beside https: true, got %d", *r.Port)
	}
	if r.Status != nil && !slices.Contains(redirectStatuses, *r.Status) {
		c.add(at+".status", "expected 301, 302, 303, 307 or 308, got %d", *r.Status)
	}
}

// location checks where a redirect goes.
func (c *checker) location(at, to string) {
	c.template(at, to, true)
	if strings.ContainsFunc(to, unprintable) {
		c.add(at, "expected a location without spaces and control characters, got %q", to)
	}
	if !strings.Contains(to, "://") && to[0] != '/' && to[0] != '$' && !strings.HasPrefix(to, "{path}") {
		c.add(at, `expected a path such as "/new" or a URL such as "https://example.com{path}", got %q`, to)
	}
}

// template checks the variables in a text.
func (c *checker) template(at, text string, request bool) {
	known := RouteVariables
	if request {
		known = append(slices.Clone(known), RequestVariables...)
	}
	for rest := text; ; {
		name, after, ok := NextVariable(rest)
		if !ok {
			return
		}
		if !slices.Contains(known, name) {
			c.add(at, "expected one of {%s}, got {%s}", strings.Join(known, "}, {"), name)
		}
		rest = rest[after:]
	}
}

// NextVariable finds the first {name} of lower-case letters and underscores in a text, and returns where it ends. Other
// braces stand for themselves.
func NextVariable(text string) (name string, end int, ok bool) {
	for i := range len(text) {
		if text[i] != '{' {
			continue
		}
		j := i + 1
		for j < len(text) && (text[j] >= 'a' && text[j] <= 'z' || text[j] == '_') {
			j++
		}
		if j > i+1 && j < len(text) && text[j] == '}' {
			return text[i+1 : j], j + 1, true
		}
	}
	return "", 0, false
}

// keptHeaders are what the edge itself has to say: how a message ends, what becomes of its connection, and who asked.
var keptHeaders = []string{
	"connection", "content-length", "expect", "forwarded", "host", "keep-alive", "proxy-connection", "te", "trailer",
	"transfer-encoding", "upgrade", "x-forwarded-for", "x-forwarded-host", "x-forwarded-prefix", "x-forwarded-proto", "x-request-id",
}

func (c *checker) edits(at string, e *HeaderEdits, request bool) {
	if e == nil {
		return
	}
	name := func(at, name string) {
		if c.headerName(at, name) && slices.Contains(keptHeaders, strings.ToLower(name)) {
			c.add(at, "expected a header other than %s, which the edge sets itself%s", name, hintOf(name))
		}
	}
	for _, list := range []struct {
		name   string
		values map[string]string
	}{{"set", e.Set}, {"add", e.Add}} {
		for _, key := range sortedKeys(list.values) {
			where, value := at+"."+list.name+"."+key, list.values[key]
			name(where, key)
			if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
				c.add(where, "expected a value of one line, got %q", value)
			}
			c.template(where, value, request)
		}
	}
	for i, key := range e.Remove {
		name(item(at+".remove", i), key)
	}
}

// hintOf names the setting that does what an edit of a header was meant to.
func hintOf(header string) string {
	switch strings.ToLower(header) {
	case "host":
		return "; use rewrite.host"
	case "x-request-id":
		return "; use requestID: true"
	case "forwarded":
		return "; use forwarded: true"
	}
	return ""
}

func (c *checker) compress(at string, z *Compress) {
	for i, a := range z.Algorithms {
		oneOf(c, item(at+".algorithms", i), a)
	}
	for i, t := range z.Types {
		if major, minor, ok := strings.Cut(t, "/"); !ok || major == "" || minor == "" || strings.ContainsFunc(t, unprintable) || strings.ContainsAny(t, ";,") {
			c.add(item(at+".types", i), `expected a content type such as "text/*" or "application/json", got %q`, t)
		}
	}
	c.size(at+".minSize", z.MinSize, MaxMemoryBytes)
}

func (c *checker) cors(at string, x *Cors) {
	if len(x.Origins) == 0 {
		c.add(at+".origins", `expected the origins whose scripts may ask, such as "https://app.example.com", got none`)
	}
	credentials := x.Credentials != nil && *x.Credentials
	for i, origin := range x.Origins {
		where := item(at+".origins", i)
		scheme, host, ok := strings.Cut(origin, "://")
		switch {
		case origin == "*" && credentials:
			c.add(where, `expected the origins by name beside credentials: true, because browsers refuse "*" then`)
		case origin == "*" || origin == "null":
		case !ok || scheme == "" || !isOrigin(host):
			c.add(where, `expected an origin such as "https://app.example.com", "https://*.example.com" or "*", got %q`, origin)
		}
	}
	for i, method := range x.Methods {
		c.method(item(at+".methods", i), method)
	}
	c.headerNames(at+".headers", x.Headers)
	c.headerNames(at+".expose", x.Expose)
	c.duration(at+".maxAge", x.MaxAge)
}

func (c *checker) headerNames(at string, names []string) {
	for i, name := range names {
		if name != "*" {
			c.headerName(item(at, i), name)
		}
	}
}

// isOrigin reports whether host can be an origin's: a name, maybe with *. before it and a port behind it.
func isOrigin(host string) bool {
	name, port, ported := strings.Cut(strings.TrimPrefix(host, "*."), ":")
	return (port != "" || !ported) && digits(port) && isDomain(name)
}

func (c *checker) basicAuth(at string, b *BasicAuth) {
	if len(b.Users) == 0 {
		c.add(at+".users", "expected at least one user with a bcrypt hash, got none; make one with: htpasswd -nB NAME")
	}
	for _, user := range sortedKeys(b.Users) {
		where := at + ".users." + user
		if user == "" || strings.ContainsFunc(user, func(r rune) bool { return control(r) || r == ':' || r == '\n' }) {
			c.add(where, "expected a user's name without colons and control characters, got %q", user)
		}
		if err := CheckPasswordHash(b.Users[user]); err != nil {
			c.err(where, err)
		}
	}
	if strings.ContainsFunc(b.Realm, func(r rune) bool { return control(r) || r == '"' || r == '\\' || r == '\n' }) {
		c.add(at+".realm", "expected a name without quotes and control characters, got %q", b.Realm)
	}
}

// maxCost is the dearest bcrypt hash taken: each step doubles the time, and 14 takes about a second.
const maxCost = 14

// CheckPasswordHash returns an Invalid Error unless hash is one of bcrypt. The error does not repeat it.
func CheckPasswordHash(hash string) error {
	const expected = `expected a bcrypt hash such as "$2y$10$…" of 60 characters; make one with: htpasswd -nB NAME`
	if len(hash) != 60 || !slices.Contains([]string{"$2a$", "$2b$", "$2y$"}, hash[:4]) || hash[6] != '$' {
		return Errorf(Invalid, "%s", expected)
	}
	cost, err := strconv.Atoi(hash[4:6])
	if err != nil || cost < 4 || cost > maxCost {
		return Errorf(Invalid, "%s, with a cost from 4 to %d, got %q", expected, maxCost, hash[4:6])
	}
	return nil
}

func (c *checker) maintenance(at string, m *Maintenance) {
	for i, text := range m.Allow {
		if _, err := ParsePrefix(text); err != nil {
			c.err(item(at+".allow", i), err)
		}
	}
	if m.Status != nil && (*m.Status < 200 || *m.Status > 599 || *m.Status == 204 || *m.Status == 304) {
		c.add(at+".status", "expected a status that has a body, such as 503, got %d", *m.Status)
	}
	if strings.ContainsFunc(m.ContentType, func(r rune) bool { return r < ' ' || r >= 0x7f }) {
		c.add(at+".contentType", "expected a content type of one line, got %q", m.ContentType)
	}
	c.duration(at+".retryAfter", m.RetryAfter)
}

// ParsePrefix reads an address prefix, or a single address. The error is Invalid.
func ParsePrefix(text string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(text); err == nil && addr.Zone() == "" {
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, Errorf(Invalid, `expected an address or a prefix such as "10.0.0.0/8", got %q`, text)
	}
	return prefix.Masked(), nil
}

// size checks an optional size of 1 byte up to most.
func (c *checker) size(at, text string, most uint64) {
	if text == "" {
		return
	}
	n, err := ParseMemory(text)
	switch {
	case err != nil:
		c.err(at, err)
	case n == 0 || n > most:
		c.add(at, "expected a size from 1 to %s bytes, got %q", strconv.FormatUint(most, 10), text)
	}
}

// duration checks an optional time of up to a day.
func (c *checker) duration(at string, d Duration) {
	if d < 0 || d.Std().Seconds() > maxSeconds {
		c.add(at, "expected a duration from 0s to 24h, got %s", d)
	}
}

func (c *checker) timeouts(at string, t *Timeouts) {
	c.duration(at+".connect", t.Connect)
	c.duration(at+".perTry", t.PerTry)
	c.duration(at+".idle", t.Idle)
	c.duration(at+".total", t.Total)
	if t.Total > 0 && t.PerTry > t.Total {
		c.add(at+".perTry", "expected at most total, which is %s, got %s", t.Total, t.PerTry)
	}
}

// maxTries is how many backends a request is sent to at most.
const maxTries = 8

func (c *checker) retry(at string, r *Retry) {
	if r.Attempts != nil && (*r.Attempts < 1 || *r.Attempts > maxTries) {
		c.add(at+".attempts", "expected a number of tries from 1 to %d, got %d", maxTries, *r.Attempts)
	}
	for i, status := range r.Statuses {
		if status < 400 || status > 599 {
			c.add(item(at+".statuses", i), "expected a status from 400 to 599, got %d", status)
		}
	}
	if p := r.BudgetPercent; p != nil && !(*p >= 0 && *p <= 100) {
		c.add(at+".budgetPercent", "expected a percentage from 0 to 100, got %v", *p)
	}
	if r.MinPerSecond != nil && *r.MinPerSecond > 1_000_000 {
		c.add(at+".minPerSecond", "expected at most 1000000, got %d", *r.MinPerSecond)
	}
}
