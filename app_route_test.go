package vortex

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const someHash = "$2y$05$abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ."

func TestRouteProblems(t *testing.T) {
	t.Parallel()
	for want, r := range map[string]Route{
		"": {
			Paths: []string{"/", "=/health", "~^/v[0-9]+/"},
			Rules: []RouteRule{{
				Paths:   []string{"/api"},
				Without: []string{"basicAuth"},
				RoutePolicy: RoutePolicy{
					Methods: []string{"GET"}, Headers: []HeaderMatch{{Name: "X-Version", Regex: "^2"}},
					Rewrite: &Rewrite{StripPrefix: "/api"}, Limits: &RequestLimits{Body: "10Mi", Headers: "16Ki"},
				},
			}},
			RoutePolicy: RoutePolicy{
				Redirect:       &Redirect{HTTPS: new(true), Status: new(uint16(301))},
				RequestHeaders: &HeaderEdits{Set: map[string]string{"X-From": "{client} {path}"}, Remove: []string{"X-Secret"}},
				Cors:           &Cors{Origins: []string{"https://*.example.com", "http://localhost:3000"}, Credentials: new(true)},
				BasicAuth:      &BasicAuth{Users: map[string]string{"ann": someHash}},
				Maintenance:    &Maintenance{Allow: []string{"10.0.0.0/8", "::1"}},
				Timeouts:       &Timeouts{PerTry: Duration(time.Second), Total: Duration(time.Minute)},
				Retry:          &Retry{Statuses: []uint16{502}},
			},
		},
		`route.paths[0]: expected a regular expression (RE2), got "(": missing closing ): ` + "`(`":    {Paths: []string{"~("}},
		`route.paths[0]: expected a path such as "/"`:                                                  {Paths: []string{"=health"}},
		`route.rules[0]: expected paths, methods or headers: this rule matches every request`:          {Rules: []RouteRule{{}, {}}},
		`route.rules[0].without[0]: expected one of rewrite, redirect`:                                 {Rules: []RouteRule{{Without: []string{"auth"}}}},
		`route.methods[0]: expected a method such as "GET" or "POST", got "get"`:                       {RoutePolicy: RoutePolicy{Methods: []string{"get"}}},
		`route.headers[0]: expected one of value, regex and absent, got several`:                       {RoutePolicy: RoutePolicy{Headers: []HeaderMatch{{Name: "X", Value: "1", Absent: new(true)}}}},
		`route.redirect.status: expected 301, 302, 303, 307 or 308, got 200`:                           {RoutePolicy: RoutePolicy{Redirect: &Redirect{To: "/x", Status: new(uint16(200))}}},
		`route.redirect: expected where to send clients`:                                               {RoutePolicy: RoutePolicy{Redirect: &Redirect{}}},
		`route.redirect.to: expected one of {client}, {host}`:                                          {RoutePolicy: RoutePolicy{Redirect: &Redirect{To: "/{nobody}"}}},
		`route.rewrite.regex: expected a regular expression (RE2), got "[": missing closing ]`:         {RoutePolicy: RoutePolicy{Rewrite: &Rewrite{Regex: "["}}},
		`route.rewrite.replacement: expected a regex with it, got none`:                                {RoutePolicy: RoutePolicy{Rewrite: &Rewrite{Replacement: "/x"}}},
		`route.requestHeaders.set.Host: expected a header other than Host`:                             {RoutePolicy: RoutePolicy{RequestHeaders: &HeaderEdits{Set: map[string]string{"Host": "a"}}}},
		`route.responseHeaders.add.X-A: expected a value of one line`:                                  {RoutePolicy: RoutePolicy{ResponseHeaders: &HeaderEdits{Add: map[string]string{"X-A": "a\r\nb"}}}},
		`route.responseHeaders.set.X-A: expected one of {client}, {host}, {scheme}, {request_id}`:      {RoutePolicy: RoutePolicy{ResponseHeaders: &HeaderEdits{Set: map[string]string{"X-A": "{path}"}}}},
		`route.compress.types[0]: expected a content type`:                                             {RoutePolicy: RoutePolicy{Compress: &Compress{Types: []string{"json"}}}},
		`route.compress.minSize: expected a size`:                                                      {RoutePolicy: RoutePolicy{Compress: &Compress{MinSize: "much"}}},
		`route.cors.origins[0]: expected the origins by name beside credentials: true`:                 {RoutePolicy: RoutePolicy{Cors: &Cors{Origins: []string{"*"}, Credentials: new(true)}}},
		`route.cors.origins[0]: expected an origin such as "https://app.example.com"`:                  {RoutePolicy: RoutePolicy{Cors: &Cors{Origins: []string{"app.example.com"}}}},
		`route.basicAuth.users.ann: expected a bcrypt hash such as "$2y$10$…" of 60 characters`:        {RoutePolicy: RoutePolicy{BasicAuth: &BasicAuth{Users: map[string]string{"ann": "secret"}}}},
		`route.basicAuth.users: expected at least one user`:                                            {RoutePolicy: RoutePolicy{BasicAuth: &BasicAuth{}}},
		`route.maintenance.allow[0]: expected an address or a prefix such as "10.0.0.0/8", got "home"`: {RoutePolicy: RoutePolicy{Maintenance: &Maintenance{Allow: []string{"home"}}}},
		`route.limits.headers: expected a size from 1 to 65536 bytes, got "1Mi"`:                       {RoutePolicy: RoutePolicy{Limits: &RequestLimits{Headers: "1Mi"}}},
		`route.timeouts.perTry: expected at most total, which is 1s, got 2s`:                           {RoutePolicy: RoutePolicy{Timeouts: &Timeouts{PerTry: Duration(2 * time.Second), Total: Duration(time.Second)}}},
		`route.retry.statuses[0]: expected a status from 400 to 599, got 200`:                          {RoutePolicy: RoutePolicy{Retry: &Retry{Statuses: []uint16{200}}}},
	} {
		problems := r.Problems("route")
		switch {
		case want == "" && len(problems) > 0:
			t.Errorf("a good route has problems: %v", problems)
		case want != "" && (len(problems) == 0 || !strings.HasPrefix(problems[0].String(), want)):
			t.Errorf("got %v, want %s…", problems, want)
		case want != "" && strings.Contains(problems[0].String(), "secret"):
			t.Errorf("the problem repeats what stood where a hash should: %s", problems[0])
		}
	}
}

func TestRulesInheritFromTheirRoute(t *testing.T) {
	t.Parallel()
	auth, compress, rewrite := &BasicAuth{}, &Compress{}, &Rewrite{AddPrefix: "/v1"}
	own := &Compress{MinSize: "1Mi"}
	r := &Route{
		RoutePolicy: RoutePolicy{Methods: []string{"GET"}, BasicAuth: auth, Compress: compress, Rewrite: rewrite},
		Rules: []RouteRule{
			{Paths: []string{"/open"}, Without: []string{"basicAuth", "rewrite"}, RoutePolicy: RoutePolicy{Compress: own}},
			{Paths: []string{"/in"}},
		},
	}
	want := []RouteRule{
		{Paths: []string{"/open"}, RoutePolicy: RoutePolicy{Compress: own}},
		{Paths: []string{"/in"}, RoutePolicy: RoutePolicy{BasicAuth: auth, Compress: compress, Rewrite: rewrite}},
		{RoutePolicy: RoutePolicy{BasicAuth: auth, Compress: compress, Rewrite: rewrite}},
	}
	if diff := cmp.Diff(want, r.EffectiveRules()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if rules := (&Route{Hosts: []string{"a.example"}}).EffectiveRules(); rules != nil {
		t.Errorf("a route that says nothing has the rules %v", rules)
	}
	var none *Route
	if none.EffectiveRules() != nil {
		t.Error("no route has rules")
	}
}
