package vortex

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestRateProblems(t *testing.T) {
	t.Parallel()
	burst := func(n uint64) *uint64 { return &n }
	for name, test := range map[string]struct {
		rate RateLimit
		want string // "" is none
	}{
		"client":            {RateLimit{Per: RateKeyClient, Limit: 100}, ""},
		"header":            {RateLimit{Per: RateKeyHeader, Header: "X-API-Key", Limit: 100, Window: Duration(time.Hour), Burst: burst(10)}, ""},
		"paths":             {RateLimit{Per: RateKeyRoute, Limit: 1, Paths: []string{"/login", "=/x"}, Methods: []string{"POST"}}, ""},
		"no limit":          {RateLimit{Per: RateKeyClient}, "route.rate[0].limit: expected at least 1, got 0"},
		"unknown key":       {RateLimit{Per: "user", Limit: 1}, "route.rate[0].per"},
		"no header":         {RateLimit{Per: RateKeyHeader, Limit: 1}, "route.rate[0].header: expected the name of a header"},
		"odd header":        {RateLimit{Per: RateKeyHeader, Header: "a b", Limit: 1}, "route.rate[0].header"},
		"header for nobody": {RateLimit{Per: RateKeyRoute, Header: "X", Limit: 1}, "expected a header only with per: header"},
		"short window":      {RateLimit{Per: RateKeyClient, Limit: 1, Window: Duration(time.Millisecond)}, "expected from 1s to 24h0m0s, got 1ms"},
		"no burst":          {RateLimit{Per: RateKeyClient, Limit: 5, Burst: burst(0)}, "expected from 1 to limit, which is 5, got 0"},
		"large burst":       {RateLimit{Per: RateKeyClient, Limit: 5, Burst: burst(6)}, "got 6"},
		"odd path":          {RateLimit{Per: RateKeyClient, Limit: 5, Paths: []string{"x"}}, "route.rate[0].paths[0]"},
		"odd method":        {RateLimit{Per: RateKeyClient, Limit: 5, Methods: []string{"get"}}, "route.rate[0].methods[0]"},
	} {
		r := Route{Rate: []RateLimit{test.rate}}
		got := fmt.Sprint(r.Problems("route"))
		if test.want == "" && got != "[]" || !strings.Contains(got, test.want) {
			t.Errorf("%s: %s, want %q", name, got, test.want)
		}
	}
	if got := fmt.Sprint((&Route{Rate: make([]RateLimit, maxRateLimits+1)}).Problems("route")); !strings.Contains(got, "expected at most 32, got 33") {
		t.Errorf("too many: %.200s", got)
	}
}
