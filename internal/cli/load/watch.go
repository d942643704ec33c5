package load

import (
	"context"
	"sync"
	"time"

	"vortex"
	"vortex/client"
)

// watchRate is how many puts a second are watched when nothing else is asked for.
const watchRate = 100

// first and last are the keys that are put before and after those whose delays count.
func (l *Load) first() string { return l.prefix + "first" }
func (l *Load) last() string  { return l.prefix + "last" }

// arrival is when a watcher got a change.
type arrival struct {
	revision uint64
	at       time.Time
}

// watcher is one client that watches.
type watcher struct {
	seen []arrival
	err  error
}

// watch measures how long after a put is due each watcher gets the change.
func (l *Load) watch(ctx context.Context) (Result, error) {
	from, err := l.main.Put(ctx, l.first(), nil, 0)
	if err != nil {
		return Result{}, err
	}
	watching, stop := context.WithCancel(ctx)
	defer stop()
	watchers := make([]watcher, len(l.crowd))
	var ready, done sync.WaitGroup
	for i, k := range l.crowd {
		ready.Add(1)
		done.Go(func() { l.follow(watching, k, from, &watchers[i], sync.OnceFunc(ready.Done)) })
	}
	ready.Wait()
	began := time.Now()
	sent, puts := l.write(ctx)
	took := time.Since(began)
	if _, err := l.main.Put(ctx, l.last(), nil, 0); err != nil {
		stop()
	}
	late := time.AfterFunc(patience, stop)
	defer late.Stop()
	done.Wait()
	total := delays(sent, watchers, ctx.Err() != nil)
	total.fail(puts.errors, puts.first)
	return total.result(string(Watch), took), nil
}

// write puts until the load's bounds are reached. It returns at which revision each put happened and when it was due.
func (l *Load) write(ctx context.Context) (sent map[uint64]time.Time, puts tally) {
	rate := l.Rate
	if rate == 0 {
		rate = watchRate
	}
	p := l.pace(rate)
	sent = map[uint64]time.Time{}
	for {
		n, due, ok := p.take(ctx)
		if !ok {
			return sent, puts
		}
		var rev uint64
		err := patiently(ctx, func(ctx context.Context) (err error) {
			rev, err = l.main.Put(ctx, l.key(n), l.value(n), 0)
			return err
		})
		switch {
		case err == nil:
			sent[rev] = due
		case ctx.Err() == nil:
			puts.fail(1, err)
		}
	}
}

// follow notes every change from a revision on until the last. It calls ready once it watches, or failed to.
func (l *Load) follow(ctx context.Context, k *client.Kind, from uint64, w *watcher, ready func()) {
	defer ready()
	for ch, err := range k.Watch(ctx, l.prefix, from) {
		switch {
		case err != nil:
			w.err = err
			return
		case ch.Key == l.first():
			ready()
		case ch.Key == l.last():
			return
		default:
			w.seen = append(w.seen, arrival{ch.Revision, time.Now()})
		}
	}
}

// delays compares what was sent with what arrived. What did not arrive is an error, unless all was interrupted.
func delays(sent map[uint64]time.Time, watchers []watcher, interrupted bool) (total tally) {
	for _, w := range watchers {
		missing := len(sent)
		for _, got := range w.seen {
			if due, ok := sent[got.revision]; ok {
				total.add(got.at.Sub(due), nil)
				missing--
			}
		}
		if interrupted {
			continue
		}
		if w.err == nil {
			w.err = vortex.Errorf(vortex.Internal, "a watcher saw %d of %d changes", len(w.seen), len(sent))
		}
		total.fail(missing, w.err)
	}
	return total
}
