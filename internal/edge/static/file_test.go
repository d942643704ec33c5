package static

import (
	"strings"
	"testing"

	"vortex"
)

const good = `
listeners:
  - {name: web, address: "127.0.0.1:8080", trusted: [10.0.0.0/8, 192.0.2.1]}
  - {name: inner, address: "[::1]:8081"}
routes:
  - {name: site, hosts: [example.com], pool: site}
  - {name: api, hosts: [example.com], paths: [/api], pool: site, listeners: [inner]}
  - name: rest
    balance: least-request
    backends: [{address: "127.0.0.1:3000", weight: 3}, {address: "Web.internal:80"}]
pools:
  - name: site
    balance: random
    slowStartSeconds: 5
    check: {path: /health}
    outlier: {}
    circuit: {maxRequests: 9}
    backends: [{address: "10.0.0.1:80"}, {address: "[2001:db8::1]:80", zone: eu, release: 2}]
`

func TestWhatAFileMeans(t *testing.T) {
	f, err := Parse("edge.yaml", []byte(good))
	if err != nil {
		t.Fatal(err)
	}
	p, err := f.plan(fixed{"web.internal": {"10.1.0.1", "10.1.0.2"}}.addresses, []byte("k"))
	if err != nil {
		t.Fatal(err)
	}
	if l := p.listeners; len(l) != 2 || l[0].Address != "127.0.0.1:8080" || len(l[0].Trusted) != 2 || l[0].Trusted[1].String() != "192.0.2.1/32" {
		t.Errorf("listeners %+v", l)
	}
	site, api, rest := p.routers.Changes[0], p.routers.Changes[1], p.routers.Changes[2]
	if site.Pool != "site" || !site.Unnamed || site.Router.Balance != vortex.BalancePolicyRandom || *site.Router.SlowStartSeconds != 5 {
		t.Errorf("site is %+v of %+v", site, site.Router)
	}
	if len(api.Listeners) != 1 || api.Listeners[0] != "[::1]:8081" || api.Pool != "site" {
		t.Errorf("api is %+v", api)
	}
	h := api.Router.Health
	if h.HealthCheck.Path != "/health" || h.Checker != vortex.HealthCheckerEdge || h.Outlier == nil || *h.Circuit.MaxRequests != 9 || rest.Router.Health != nil {
		t.Errorf("health of api is %+v, of rest %+v", h, rest.Router.Health)
	}
	var got []string
	for _, b := range append(site.Router.Backends, rest.Router.Backends...) {
		got = append(got, b.Instance)
	}
	want := "10.0.0.1:80 [2001:db8::1]:80 127.0.0.1:3000 web.internal:80@10.1.0.1 web.internal:80@10.1.0.2"
	if strings.Join(got, " ") != want {
		t.Errorf("backends %v, want %s", got, want)
	}
	if rest.Router.Balance != vortex.BalancePolicyLeastRequest || *rest.Router.Backends[0].Weight != 3 {
		t.Errorf("rest is %+v", rest.Router)
	}
	if key := string(site.Router.StickyKey); key != "k" {
		t.Errorf("without a key in the file sessions have %q", key)
	}
	f.SessionKey = "a secret that all edges have"
	if p, err = f.plan(fixed{}.addresses, []byte("k")); err != nil || string(p.routers.Changes[0].Router.StickyKey) != f.SessionKey {
		t.Errorf("sessions have the key %q, %v", p.routers.Changes[0].Router.StickyKey, err)
	}
}

func TestFaultsNameTheirPlace(t *testing.T) {
	const (
		web  = "listeners: [{name: web, address: \":8080\"}]\n"
		pool = "pools: [{name: site, backends: [{address: \"10.0.0.1:80\"}]}]\n"
	)
	for doc, want := range map[string]string{
		"":              "edge.yaml: expected listeners, routes",
		"listeners: []": "edge.yaml:1:1: listeners: expected at least one",
		"listenrs: []":  `edge.yaml:1:1: unknown field "listenrs" in the document; did you mean "listeners"?`,
		web + "routes: [{name: a, hots: [x], pool: b}]":                                                                               `edge.yaml:2:20: unknown field "hots" in routes[0]; did you mean "hosts"?`,
		web + pool + "routes: [{name: a, pool: sit}]":                                                                                 `edge.yaml:3:26: routes[0].pool: there is no pool "sit"; did you mean "site"?`,
		"streams: [{name: a, listen: \"5432\", pool: b}]":                                                                             `edge.yaml:1:29: streams[0].listen: expected an address such as ":5432"`,
		"streams: [{name: a, listen: \":1-x\", pool: b}]":                                                                             `streams[0].listen: expected a port from 1 to 65535`,
		"streams: [{name: a, listen: \":1\", protocol: HTTP, pool: b}]":                                                               "streams[0].protocol: expected TCP or UDP",
		"streams: [{name: a, listen: \":1\", pool: b}]":                                                                               `streams[0].pool: there is no pool "b"`,
		"streams: [{name: a, listen: \":1\", protocol: UDP, forward: {proxyProtocol: v2}, pool: b}]":                                  "streams[0].forward: expected idleTimeoutSeconds",
		web + "routes: [{name: a}]":                                                                                                   "edge.yaml:2:10: routes[0]: expected the pool that answers",
		web + pool + "routes: [{name: a, pool: site, hosts: [\"A b\"]}]":                                                              "routes[0].hosts[0]: expected a host",
		web + pool + "routes: [{name: a, pool: site, paths: [x]}]":                                                                    "routes[0].paths[0]: expected a path",
		web + pool + "routes: [{name: a, pool: site, balance: random}]":                                                               `routes[0].balance: balance belongs to the pool; write it at pool "site"`,
		web + pool + "routes: [{name: a, pool: site, listeners: [wbe]}]":                                                              `routes[0].listeners[0]: there is no listener "wbe"; did you mean "web"?`,
		web + pool + "routes: [{name: a, pool: site}, {name: a, pool: site, hosts: [x]}]":                                             `routes[1].name: the name "a" is routes[0]'s already`,
		web + pool + "routes: [{name: a, pool: site}, {name: b, pool: site}]":                                                         `requests for host * and path / on listener web are route "a"'s already`,
		web + "pools: [{name: site, backends: []}]":                                                                                   "pools[0].backends: expected at least one",
		web + "pools: [{name: site, backends: [{address: \"http://x\"}]}]":                                                            "leave out the scheme",
		web + "pools: [{name: site, backends: [{address: web}]}]":                                                                     "the port is missing",
		web + "pools: [{name: site, backends: [{address: \"10.0.0:80\"}]}]":                                                           "expected an address such as",
		web + "pools: [{name: site, backends: [{address: \"a:80\"}, {address: \"A:80\"}]}]":                                           "A:80 is backend 0 of this list already",
		web + "pools: [{name: site, balance: rnd, backends: []}]":                                                                     "pools[0].balance: expected one of",
		web + "pools: [{name: site, slowStartSeconds: -1, backends: [{address: \"a:80\"}]}]":                                          "pools[0].slowStartSeconds: expected a number",
		"listeners: [{name: web, address: \"8080\"}]":                                                                                 "listeners[0].address: expected an address such as",
		"listeners: [{name: web, address: \"localhost:8080\"}]":                                                                       "a name cannot be listened on",
		"listeners: [{name: web, address: \":80800\"}]":                                                                               "a port is a number",
		"listeners: [{name: a, address: \":1\"}, {name: b, address: \":1\"}]":                                                         ":1 is the address of listeners[0] already",
		"listeners: [{name: a, address: \":1\", trusted: [x]}]":                                                                       "listeners[0].trusted[0]: expected an address or a prefix",
		"listeners: [{name: a, address: \":1\", protocol: htp}]":                                                                      "listeners[0].protocol: expected one of",
		"listeners: [{name: a, address: \":1\", acceptProxyProtocol: required}]":                                                      "listeners[0].acceptProxyProtocol: nobody is believed without trusted",
		"listeners: [{name: a, address: \":1\", pool: b}]":                                                                            "listeners[0].pool: an http listener is passed on by routes, which name pools; leave pool out, or write protocol: tcp or udp",
		"listeners: [{name: a, address: \":1\", samePort: false}]":                                                                    "listeners[0].samePort: an http listener",
		"listeners: [{name: a, address: \":1-3\"}]":                                                                                   "listeners[0].address: expected an address such as",
		"listeners: [{name: a, address: \":1\", protocol: tcp}]":                                                                      "listeners[0]: expected the pool that it is passed on to",
		"listeners: [{name: a, address: \":1\", protocol: tcp, pool: b}]":                                                             `listeners[0].pool: there is no pool "b"`,
		"listeners: [{name: a, address: \"1\", protocol: udp, pool: b}]":                                                              "listeners[0].address: expected an address such as \":5432\"",
		"listeners: [{name: a, address: \":9-3\", protocol: udp, pool: b}]":                                                           "listeners[0].address: expected",
		pool + "listeners: [{name: a, address: \":1\", protocol: udp, pool: site, forward: {proxyProtocol: v2}}]":                     "listeners[0].forward: expected idleTimeoutSeconds",
		pool + "listeners: [{name: a, address: \":1\", protocol: tcp, pool: site, acceptProxyProtocol: optional}]":                    "listeners[0].acceptProxyProtocol: for tcp it belongs under forward",
		pool + "listeners: [{name: a, address: \":1\", protocol: tcp, pool: site}]\nstreams: [{name: a, listen: \":2\", pool: site}]": `streams[0].name: the name "a" is listeners[0]'s already`,
		pool + "listeners: [{name: a, address: \":1\", protocol: tcp, pool: site}]\nroutes: [{name: b, pool: site, listeners: [a]}]":  `routes[0].listeners[0]: the listener "a" is no http listener`,
		web + "limits: {bodyGraceSeconds: -1}":                                                                                        "limits.bodyGraceSeconds: expected a number from 0",
		web + "pools: [{name: site, check: {path: x}, backends: [{address: \"a:80\"}]}]":                                              `pools[0].check.path: expected a path such as "/health", got "x"`,
		web + "pools: [{name: site, check: {protocol: EXEC}, backends: [{address: \"a:80\"}]}]":                                       "pools[0].check.protocol: expected HTTP, TCP or GRPC, got EXEC",
		web + "pools: [{name: site, circuit: {maxRequests: 0}, backends: [{address: \"a:80\"}]}]":                                     "pools[0].circuit.maxRequests: expected at least 1, got 0",
		web + pool + "routes: [{name: a, pool: site, check: {}}]":                                                                     `routes[0].check: check belongs to the pool; write it at pool "site"`,
		web + pool + "routes: [{name: a, pool: site, outlier: {}}]":                                                                   `routes[0].outlier: outlier belongs to the pool; write it at pool "site"`,
		web + "routes: [{name: a, healthCheck: edge, backends: [{address: \"a:80\"}]}]":                                               "routes[0].healthCheck: an edge that runs alone has no agents",
		web + "admin: here":        "admin: expected an address",
		web + "admin: \"unix:\"":   "admin: expected a path after unix:",
		web + "sessionKey: short":  "sessionKey: expected at least 16 characters that nobody can guess, got 5",
		web + "resolveSeconds: 0":  "resolveSeconds: expected a number from 0.1",
		web + "routes: 5":          "routes: expected a list",
		"\x00":                     "expected text",
		"listeners: [{name: web\n": "this is not valid YAML",
	} {
		_, err := Parse("edge.yaml", []byte(doc))
		if !vortex.IsKind(err, vortex.Invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n  got  %v\n  want %s", doc, err, want)
		}
	}
}

func TestExampleIsGood(t *testing.T) {
	f, err := Read("../../../examples/edge.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Routes) != 4 || f.BackendCount() != 4 {
		t.Errorf("%d routes, %d backends", len(f.Routes), f.BackendCount())
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Parse("edge.yaml", data)
		if err != nil {
			if !vortex.IsKind(err, vortex.Invalid) {
				t.Errorf("%v is no Invalid error", err)
			}
			return
		}
		if _, err := file.plan(fixed{}.addresses, nil); err != nil {
			t.Errorf("a good file has no plan: %v", err)
		}
	})
}
