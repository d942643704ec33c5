package vortex_test

import (
	"strings"
	"testing"

	"vortex"
)

func withRoute(t *testing.T, kind, route string) *vortex.App {
	t.Helper()
	return appOf(t, `{"metadata": {"name": "web"}, "spec": {"type": "`+kind+`", "image": "nginx", "ports": [{"containerPort": 80}]}, "route": `+route+`}`)
}

func TestBalancingIsAccepted(t *testing.T) {
	for _, route := range []string{
		`{"balance": "weighted"}`, `{"balance": "maglev"}`, `{"balance": "ring-hash", "hash": {"header": "X-User"}}`,
		`{"balance": "maglev", "hash": {"cookie": "sid"}}`, `{"balance": "maglev", "hash": {"address": true}}`,
		`{"sticky": {}}`, `{"sticky": {"cookie": "sid", "ttlSeconds": 60}}`, `{"slowStartSeconds": 30.5}`,
		`{"zone": {}}`, `{"zone": {"prefer": true, "enoughPercent": 50}}`, `{"mirror": {"app": "shadow", "percent": 0.5}}`,
		`{"split": [{"release": 4, "weight": 10, "header": {"name": "X-Release", "value": "new"}}, {"weight": 90}]}`,
		`{"split": [{"release": 4, "weight": 0, "cookie": {"name": "new", "value": "1"}}, {"release": 3, "weight": 1}]}`,
	} {
		if err := withRoute(t, "http", route).Validate(); err != nil {
			t.Errorf("%s: %v", route, err)
		}
	}
}

func TestBalancingThatMeansNothingIsRefused(t *testing.T) {
	for _, tc := range []struct{ kind, route, want string }{
		{"http", `{"hash": {"header": "X-User"}}`, "route.hash: expected it only with balance ring-hash or maglev, got round-robin"},
		{"http", `{"balance": "maglev", "hash": {}}`, "route.hash: expected one of header, cookie and address: true, got 0"},
		{"http", `{"balance": "maglev", "hash": {"header": "A", "cookie": "b"}}`, "got 2 of them"},
		{"http", `{"balance": "maglev", "hash": {"header": "A B"}}`, "route.hash.header: expected a name of letters"},
		{"http", `{"sticky": {"cookie": "a;b"}}`, "route.sticky.cookie: expected a name of letters"},
		{"http", `{"sticky": {"ttlSeconds": 0}}`, "route.sticky.ttlSeconds: expected at least 1"},
		{"http", `{"slowStartSeconds": -1}`, "route.slowStartSeconds: expected a number from 0"},
		{"http", `{"zone": {"enoughPercent": 0}}`, "route.zone.enoughPercent: expected a number from 1 to 100, got 0"},
		{"http", `{"split": [{"weight": 0}]}`, "route.split: expected a weight above 0"},
		{"http", `{"split": [{"weight": 1001}]}`, "route.split[0].weight: expected a number from 0 to 1000, got 1001"},
		{"http", `{"split": [{"weight": 1}, {"weight": 2}]}`, "route.split[1]: expected one part without a release"},
		{"http", `{"split": [{"release": 2, "weight": 1}, {"release": 2, "weight": 2}]}`, "route.split[1].release: expected each release once, got 2 again"},
		{"http", `{"split": [{"release": 0, "weight": 1}]}`, "route.split[0].release: expected a release from 1 on"},
		{"http", `{"split": [{"weight": 1, "header": {"name": "", "value": "x"}}]}`, "route.split[0].header.name: expected a name"},
		{"http", `{"split": [{"weight": 1, "cookie": {"name": "x", "value": ""}}]}`, "route.split[0].cookie.value: expected the value"},
		{"http", `{"mirror": {"app": "web", "percent": 1}}`, "route.mirror.app: expected another app"},
		{"http", `{"mirror": {"app": "Shadow", "percent": 1}}`, "route.mirror.app: expected a name"},
		{"http", `{"mirror": {"app": "shadow", "percent": 101}}`, "route.mirror.percent: expected a number above 0, up to 100, got 101"},
		{"tcp", `{"sticky": {}}`, "route.sticky: expected it only for an app of type http"},
		{"tcp", `{"balance": "maglev", "hash": {"cookie": "sid"}}`, "route.hash: expected it only for an app of type http"},
		{"tcp", `{"mirror": {"app": "shadow", "percent": 1}}`, "route.mirror: expected it only for an app of type http"},
	} {
		err := withRoute(t, tc.kind, tc.route).Validate()
		if !vortex.IsKind(err, vortex.Invalid) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v\nwant %q", tc.route, err, tc.want)
		}
	}
	many := withRoute(t, "http", `{}`)
	for i := range 17 {
		many.Route.Split = append(many.Route.Split, vortex.SplitPart{Release: new(uint64(i + 1)), Weight: 1})
	}
	if err := many.Validate(); err == nil || !strings.Contains(err.Error(), "at most 16 parts, got 17") {
		t.Errorf("17 parts: %v", err)
	}
}
