package vortex

import (
	"cmp"
	"slices"
	"strings"
)

// PathMatch is how an entry of a route's paths is compared with a request's path.
type PathMatch uint8

// The ways to match a path.
const (
	PathPrefix PathMatch = iota // "/api": that and everything below it
	PathExact                   // "=/api": that alone
	PathRegex                   // "~^/v[0-9]+/": what the regular expression finds
)

// SplitPath returns how an entry of a route's paths matches, and what with.
func SplitPath(entry string) (PathMatch, string) {
	if text, ok := strings.CutPrefix(entry, "="); ok {
		return PathExact, text
	}
	if text, ok := strings.CutPrefix(entry, "~"); ok {
		return PathRegex, text
	}
	return PathPrefix, entry
}

// The variables that texts of a route may hold in braces: those known for as long as an exchange lasts, and those
// known of a request only.
var (
	RouteVariables   = []string{"client", "host", "scheme", "request_id", "app"}
	RequestVariables = []string{"method", "path", "query"}
)

// SetRoute takes over what a route says; nil says nothing.
func (rec *RouterRecord) SetRoute(r *Route) {
	if r == nil {
		return
	}
	rec.Hosts, rec.Paths, rec.Balance = r.Hosts, r.Paths, r.Balance
	rec.Hash, rec.Sticky, rec.SlowStartSeconds, rec.Zone = r.Hash, r.Sticky, r.SlowStartSeconds, r.Zone
	rec.Split, rec.Mirror = r.Split, r.Mirror
	rec.Methods, rec.Headers, rec.Rules = r.Methods, r.Headers, r.EffectiveRules()
	rec.Rate = r.Rate
	rec.Health = nil
	if h := (PoolHealth{Checker: r.HealthCheck, PanicPercent: r.PanicPercent, Outlier: r.Outlier, Circuit: r.Circuit}); h != (PoolHealth{}) {
		rec.Health = &h
	}
}

// SetHealthCheck takes over the app's health check, as far as an edge can make it: it runs no commands.
func (rec *RouterRecord) SetHealthCheck(a *App) {
	check := a.HealthCheck
	if check == nil || check.Protocol == ProbeProtocolEXEC || check.Protocol == ProbeProtocolPUSH {
		return
	}
	own := *check
	if own.Port != nil && *own.Port == a.PrimaryPort() {
		own.Port = nil // that of the backend: the driver may have chosen another
	}
	if rec.Health == nil {
		rec.Health = &PoolHealth{}
	}
	rec.Health.HealthCheck = &own
}

// EffectiveRules returns the route's rules, each with what it takes over from the route, and behind them the one that holds for every
// other request, when the route says anything about those. The first that matches a request holds.
func (r *Route) EffectiveRules() []RouteRule {
	if r == nil {
		return nil
	}
	rest := r.RoutePolicy
	rest.Methods, rest.Headers = nil, nil
	var rules []RouteRule
	for i := range r.Rules {
		rules = append(rules, r.Rules[i].over(rest))
	}
	if !rest.idle() {
		rules = append(rules, RouteRule{RoutePolicy: rest})
	}
	return rules
}

// idle reports whether nothing is done with the requests.
func (p *RoutePolicy) idle() bool {
	return p.Rewrite == nil && p.Redirect == nil && p.RequestHeaders == nil && p.ResponseHeaders == nil &&
		p.Compress == nil && p.Cors == nil && p.BasicAuth == nil && p.Maintenance == nil && p.Limits == nil &&
		p.Timeouts == nil && p.Retry == nil && p.RequestID == nil && p.Forwarded == nil && p.AccessLog == nil &&
		p.ProxyProtocol == ""
}

// over returns the rule with what it does not name, and is not to be without, taken from base.
func (r *RouteRule) over(base RoutePolicy) RouteRule {
	return RouteRule{Paths: r.Paths, RoutePolicy: RoutePolicy{
		Methods: r.Methods, Headers: r.Headers,
		Rewrite:         inherit(r, "rewrite", r.Rewrite, base.Rewrite),
		Redirect:        inherit(r, "redirect", r.Redirect, base.Redirect),
		RequestHeaders:  inherit(r, "requestHeaders", r.RequestHeaders, base.RequestHeaders),
		ResponseHeaders: inherit(r, "responseHeaders", r.ResponseHeaders, base.ResponseHeaders),
		Compress:        inherit(r, "compress", r.Compress, base.Compress),
		Cors:            inherit(r, "cors", r.Cors, base.Cors),
		BasicAuth:       inherit(r, "basicAuth", r.BasicAuth, base.BasicAuth),
		Maintenance:     inherit(r, "maintenance", r.Maintenance, base.Maintenance),
		Limits:          inherit(r, "limits", r.Limits, base.Limits),
		Timeouts:        inherit(r, "timeouts", r.Timeouts, base.Timeouts),
		Retry:           inherit(r, "retry", r.Retry, base.Retry),
		RequestID:       inherit(r, "requestID", r.RequestID, base.RequestID),
		Forwarded:       inherit(r, "forwarded", r.Forwarded, base.Forwarded),
		AccessLog:       inherit(r, "accessLog", r.AccessLog, base.AccessLog),
		ProxyProtocol:   inheritWord(r, "proxyProtocol", r.ProxyProtocol, base.ProxyProtocol),
	}}
}

// inheritable are the fields a rule can be without.
var inheritable = []string{
	"rewrite", "redirect", "requestHeaders", "responseHeaders", "compress", "cors", "basicAuth", "maintenance",
	"limits", "timeouts", "retry", "requestID", "forwarded", "accessLog", "proxyProtocol",
}

// inherit returns a rule's own value, else the route's unless the rule is without it.
func inherit[T any](r *RouteRule, field string, own, base *T) *T {
	if slices.Contains(r.Without, field) {
		return nil
	}
	return cmp.Or(own, base)
}

// inheritWord is inherit for a field that is a word, "" being none.
func inheritWord[T ~string](r *RouteRule, field string, own, base T) T {
	if slices.Contains(r.Without, field) {
		return ""
	}
	return cmp.Or(own, base)
}
