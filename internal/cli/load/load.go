// Package load puts load on a state store through its client and measures how the store answers.
//
// It guarantees: it writes below a prefix of its own only, and removes what it wrote when it ends, also when it was
// interrupted; latencies at a fixed rate count from when an operation was due, so that a store that stalls cannot hide it.
// It never judges what it measured.
//
//	results, err := (&load.Load{Open: open, Modes: []load.Mode{load.Put}, Clients: 8, Size: 256, Keys: 1000, Count: 10_000}).Run(ctx)
package load

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"vortex"
	"vortex/client"
	kindpb "vortex/proto/kind"
)

// Mode is what the clients do.
type Mode string

// The modes. All but Query use records of the load's own.
const (
	Put         Mode = "put"
	Get         Mode = "get"          // as new as everything acknowledged
	GetSnapshot Mode = "get-snapshot" // what the server has in memory
	Mixed       Mode = "mixed"        // nine gets to a put
	Query       Mode = "query"        // Load.Type by Load.Filter
	Watch       Mode = "watch"        // one client puts, the others watch: how long after its put a change arrives
)

// Modes lists every mode.
func Modes() []Mode { return []Mode{Put, Get, GetSnapshot, Mixed, Query, Watch} }

// Load is what is done to a store. Count, Duration and Rate concern each mode.
type Load struct {
	Open     func() (*client.Kind, error) // connects one client
	Modes    []Mode                       // one after the other
	Clients  int                          // how many connections work at a time
	Size     int                          // bytes in a value
	Keys     int                          // how many records there are
	Count    int                          // operations at most; 0 is no bound
	Duration time.Duration                // time at most; 0 is no bound
	Rate     int                          // operations a second; 0 is as many as come, and 100 when watching
	Type     string                       // what Query looks for
	Filter   client.Filter
	Started  func(Mode) // when set, is told of each mode that starts

	prefix string
	main   *client.Kind
	crowd  []*client.Kind
}

const (
	maxClients = 10_000
	maxSize    = 1 << 20
	maxKeys    = 1_000_000
	// patience is how long an operation may take, and cleaning up goes on after an interrupt.
	patience = 30 * time.Second
)

// Validate returns what is wrong with the load.
func (l *Load) Validate() error {
	for _, m := range l.Modes {
		if !slices.Contains(Modes(), m) {
			return vortex.Errorf(vortex.Invalid, "expected modes of %v, got %q", Modes(), m)
		}
	}
	for _, n := range []struct {
		what             string
		got, least, most int
	}{
		{"clients", l.Clients, 1, maxClients},
		{"bytes in a value", l.Size, 1, maxSize},
		{"keys", l.Keys, 1, maxKeys},
		{"operations", l.Count, 0, 1 << 30},
		{"operations a second", l.Rate, 0, 1 << 20},
	} {
		if n.got < n.least || n.got > n.most {
			return vortex.Errorf(vortex.Invalid, "expected %d to %d %s, got %d", n.least, n.most, n.what, n.got)
		}
	}
	if l.Duration < 0 || l.Count == 0 && l.Duration == 0 {
		return vortex.Errorf(vortex.Invalid, "expected a number of operations or a duration such as 10s, got %s", l.Duration)
	}
	return nil
}

// Run puts the load on the store and cleans up. When ctx ends or a mode fails altogether, what was measured until then
// comes with the error.
func (l *Load) Run(ctx context.Context) (results []Result, err error) {
	if err := l.Validate(); err != nil {
		return nil, err
	}
	l.prefix = "bench:" + strings.ToLower(rand.Text()[:10]) + ":"
	if err := l.connect(); err != nil {
		return nil, errors.Join(err, l.close())
	}
	defer func() { err = errors.Join(err, l.close()) }()
	defer func() { err = errors.Join(err, l.clean(ctx)) }()
	if err := l.fill(ctx); err != nil {
		return nil, err
	}
	for _, m := range l.Modes {
		if l.Started != nil {
			l.Started(m)
		}
		measured, err := l.measure(ctx, m)
		results = append(results, measured...)
		if err != nil {
			return results, err
		}
	}
	return results, nil
}

// measure runs one mode. It is an error when no operation of some kind succeeded.
func (l *Load) measure(ctx context.Context, m Mode) (results []Result, err error) {
	if m == Watch {
		r, err := l.watch(ctx)
		results = append(results, r)
		if err != nil {
			return nil, err
		}
	} else {
		results = l.drive(ctx, l.operations(m))
	}
	if ctx.Err() != nil {
		return results, context.Cause(ctx)
	}
	for _, r := range results {
		if r.Operations == 0 && r.First != nil {
			return results, r.First
		}
	}
	return results, nil
}

func (l *Load) connect() (err error) {
	if l.main, err = l.Open(); err != nil {
		return err
	}
	for range l.Clients {
		k, err := l.Open()
		if err != nil {
			return err
		}
		l.crowd = append(l.crowd, k)
	}
	return nil
}

func (l *Load) close() error {
	var errs []error
	for _, k := range l.crowd {
		errs = append(errs, k.Close())
	}
	if l.main != nil {
		errs = append(errs, l.main.Close())
	}
	return errors.Join(errs...)
}

// key is the name of a record of the load's own.
func (l *Load) key(n int) string { return l.prefix + strconv.Itoa(n%l.Keys) }

// value is different for each n, and has Size bytes.
func (l *Load) value(n int) []byte {
	text := fmt.Appendf(nil, "%0*d", l.Size, n)
	return text[len(text)-l.Size:]
}

// fill writes every record, and waits until the server has them in memory.
func (l *Load) fill(ctx context.Context) error {
	const records, bytes = 500, 512 << 10
	step := min(records, max(1, bytes/l.Size))
	for from := 0; from < l.Keys; from += step {
		var ops []*kindpb.Operation
		for n := from; n < min(from+step, l.Keys); n++ {
			ops = append(ops, &kindpb.Operation{Operation: &kindpb.Operation_Put{Put: &kindpb.PutRequest{Key: l.key(n), Value: l.value(n)}}})
		}
		if _, err := l.main.Commit(ctx, ops...); err != nil {
			return err
		}
	}
	_, err := l.main.Get(ctx, l.key(l.Keys-1))
	return err
}

// clean removes everything the load wrote, also after ctx has ended.
func (l *Load) clean(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	names := []string{l.first(), l.last()}
	for n := range l.Keys {
		names = append(names, l.key(n))
	}
	const step = 500
	for some := range slices.Chunk(names, step) {
		var ops []*kindpb.Operation
		for _, name := range some {
			ops = append(ops, &kindpb.Operation{Operation: &kindpb.Operation_Delete{Delete: &kindpb.DeleteRequest{Key: name}}})
		}
		if _, err := l.main.Commit(ctx, ops...); err != nil {
			return fmt.Errorf("the records below %s were not all removed: %w", l.prefix, err)
		}
	}
	return nil
}
