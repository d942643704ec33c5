// Package policy says what is done with a request besides sending it to a backend: it is refused, redirected, rewritten or answered at
// the edge, and its response's header is edited and its body compressed.
//
// A route's rules are compiled once. For a request the engine asks which Rule holds, and keeps an Exchange of it until the
// response has ended:
//
//	rule, ok := p.Find(path, head)      // !ok: the path can be read in two ways, and they have different rules
//	x.Begin(rule, request)              // nil rule: nothing to do
//	if a, ok := x.Answer(…); ok { … }   // the edge answers itself
//	b = x.AppendTarget(b, …); b = x.AppendRequest(b)
//
// It is pure: bytes in, bytes out, no clock, no connection. It guarantees that finding the rule of a plain path neither locks
// nor allocates, that a policy that cannot be compiled lets nothing through, and that a password's hash is computed only for
// credentials that were not right before, on a bounded number of processors.
//
// It never sees bodies, except for the encoders it makes.
package policy

import (
	"errors"
	"fmt"
	"time"

	"vortex"
)

// Fields are the header fields of a message.
type Fields interface {
	// Field returns the value of the n-th field, from 0, of a name, which is given in lower case.
	Field(lower string, n int) (value []byte, ok bool)
}

// Head is a request's head.
type Head interface {
	Fields
	Verb() []byte // its method
}

// Policy is a route's rules. A nil Policy does nothing.
type Policy struct{ rules []*Rule }

// Rule is what is done with the requests that match it. It never changes.
type Rule struct {
	when conditions

	Request  *Edits // of the request's header; nil is none
	Response *Edits // of the response's header; nil is none
	Limits   Limits
	Timeouts Timeouts
	Retry    Retry
	Log      Log
	Proxy    vortex.ProxyVersion // of the PROXY protocol towards the backend; "" is none

	requestID, forwarded bool
	broken               bool // it could not be compiled: nothing passes
	rewrite              *rewrite
	redirect             *redirect
	cors                 *cors
	auth                 *auth
	maintenance          *maintenance
	compress             *compress
}

// Limits are how large a request may be. 0 is what the engine takes.
type Limits struct {
	Body    int64
	Headers int
}

// Timeouts of an exchange. 0 is the engine's default.
type Timeouts struct {
	Connect time.Duration // to a backend
	PerTry  time.Duration // from the request's end to the response's head
	Idle    time.Duration // without progress of the response's body
	Total   time.Duration // of everything
}

// Retry is when a request is sent again.
type Retry struct {
	Attempts  int      // tries in all; 0 is the engine's default
	Statuses  []uint16 // answers that are tried again elsewhere
	OnTimeout bool     // a try that took too long is, too
	Share     float64  // of the requests in flight that may be retries
	Minimum   float64  // retries per second that are always let through
}

// Defaults of Retry let an app outlive the loss of half of its backends.
const (
	DefaultShare   = 0.5
	DefaultMinimum = 100
)

// On reports whether an answer of that status is tried again elsewhere.
func (r *Retry) On(status int) bool {
	for _, s := range r.Statuses {
		if int(s) == status {
			return true
		}
	}
	return false
}

// Log says what becomes of a request's line in the access log.
type Log struct {
	Off    bool
	Sample float64 // share of the answers below 500 that is written; 0 is what the log says, negative none
}

// Compile makes the Policy of a route's rules, in their order; nil when there are none. With an error, which names all that is
// wrong, comes a Policy that answers every request with 503: a route that should ask for passwords must not stop to when it cannot be read.
func Compile(rules []vortex.RouteRule) (*Policy, error) {
	if len(rules) == 0 {
		return nil, nil
	}
	p := &Policy{}
	var errs []error
	for i := range rules {
		r, err := compileRule(&rules[i])
		if err != nil {
			errs = append(errs, fmt.Errorf("rules[%d]: %w", i, err))
		}
		p.rules = append(p.rules, r)
	}
	if err := errors.Join(errs...); err != nil {
		return &Policy{rules: []*Rule{{broken: true}}}, err
	}
	return p, nil
}

func compileRule(from *vortex.RouteRule) (*Rule, error) {
	r := &Rule{
		requestID: truth(from.RequestID, false), forwarded: truth(from.Forwarded, false), Proxy: from.ProxyProtocol,
		Retry: Retry{Share: DefaultShare, Minimum: DefaultMinimum},
	}
	var errs [10]error
	r.when, errs[0] = compileConditions(from.Paths, from.Methods, from.Headers)
	r.rewrite, errs[1] = compileRewrite(from.Rewrite)
	r.redirect, errs[2] = compileRedirect(from.Redirect)
	r.Request, errs[3] = compileEdits(from.RequestHeaders)
	r.Response, errs[4] = compileEdits(from.ResponseHeaders)
	r.compress, errs[5] = compileCompress(from.Compress)
	r.auth, errs[6] = compileAuth(from.BasicAuth)
	r.maintenance, errs[7] = compileMaintenance(from.Maintenance)
	r.Limits, errs[8] = compileLimits(from.Limits)
	r.cors = compileCORS(from.Cors)
	if t := from.Timeouts; t != nil {
		r.Timeouts = Timeouts{t.Connect.Std(), t.PerTry.Std(), t.Idle.Std(), t.Total.Std()}
	}
	if from.Retry != nil {
		r.Retry = compileRetry(from.Retry)
	}
	if l := from.AccessLog; l != nil {
		r.Log.Off = !truth(l.Enabled, true)
		if l.Sample != nil {
			if r.Log.Sample = *l.Sample; r.Log.Sample == 0 {
				r.Log.Sample = -1
			}
		}
	}
	return r, errors.Join(errs[:]...)
}

func truth(b *bool, fallback bool) bool {
	if b == nil {
		return fallback
	}
	return *b
}

func compileLimits(from *vortex.RequestLimits) (l Limits, err error) {
	if from == nil {
		return l, nil
	}
	body, err := sizeOf(from.Body)
	if err != nil {
		return l, fmt.Errorf("limits.body: %w", err)
	}
	headers, err := sizeOf(from.Headers)
	if err != nil {
		return l, fmt.Errorf("limits.headers: %w", err)
	}
	return Limits{Body: body, Headers: int(headers)}, nil
}

func sizeOf(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	n, err := vortex.ParseMemory(text)
	return int64(n), err
}

func compileRetry(from *vortex.Retry) Retry {
	r := Retry{Statuses: from.Statuses, OnTimeout: truth(from.OnTimeout, false), Share: DefaultShare, Minimum: DefaultMinimum}
	if from.Attempts != nil {
		r.Attempts = int(*from.Attempts)
	}
	if from.BudgetPercent != nil {
		r.Share = *from.BudgetPercent / 100
	}
	if from.MinPerSecond != nil {
		r.Minimum = float64(*from.MinPerSecond)
	}
	return r
}
