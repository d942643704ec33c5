package route

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"vortex"
	"vortex/internal/edge/limit"
	"vortex/internal/edge/policy"
)

// Rate is how often an app may be asked. It never changes.
type Rate struct {
	Rule   *limit.Rule
	Per    vortex.RateKey
	Header string // in lower case: whose values are counted apart, with Per header

	name  string
	paths []policy.Path
	when  policy.Conditions
}

// Counts reports whether a request counts. path is as the app sees it.
func (r *Rate) Counts(path []byte, head policy.Head) bool {
	for i := range r.paths {
		if r.paths[i].Matches(path) {
			return r.when.Met(head)
		}
	}
	return false
}

// compileRates reads an app's rates. One that did not change since old goes on with its counts.
func (t *Table) compileRates(app *App, old *entry) (rates []Rate, err error) {
	var errs []error
	for i := range app.Rates {
		r, err := t.compileRate(app, &app.Rates[i])
		if err != nil {
			errs = append(errs, fmt.Errorf("rate[%d]: %w", i, err))
			continue
		}
		rates = append(rates, r)
	}
	if old != nil {
		t.dropRates(old.rates, rates)
	}
	return rates, errors.Join(errs...)
}

func (t *Table) compileRate(app *App, l *vortex.RateLimit) (r Rate, err error) {
	r = Rate{Per: l.Per, Header: strings.ToLower(l.Header), name: rateName(app.Name, l)}
	if r.paths, err = compilePaths(l.Paths); err != nil {
		return r, err
	}
	if r.when, err = policy.CompileConditions(l.Methods, nil); err != nil {
		return r, err
	}
	c := limit.Config{Limit: l.Limit, Window: cmp.Or(l.Window.Std(), vortex.DefaultRateWindow)}
	if l.Burst != nil {
		c.Burst = *l.Burst
	}
	r.Rule = t.config.Limiter.Rule(r.name, c)
	return r, nil
}

// rateName is the name of a rate on every edge: what it counts, so that it goes on counting when others come and go beside it.
func rateName(app string, l *vortex.RateLimit) string {
	return fmt.Sprintf("%s/%s%s/%d/%v%s%s", app, l.Per, strings.ToLower(l.Header), l.Limit,
		cmp.Or(l.Window.Std(), vortex.DefaultRateWindow), strings.Join(l.Methods, ","), strings.Join(l.Paths, ","))
}

// dropRates forgets the rates that are not among those to keep.
func (t *Table) dropRates(rates, keep []Rate) {
	for _, r := range rates {
		if !slices.ContainsFunc(keep, func(k Rate) bool { return k.name == r.name }) {
			t.config.Limiter.Drop(r.name)
		}
	}
}
