package kind_test

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"vortex"
	"vortex/internal/kind"
)

const (
	boxSchema  = `@prefix("box") type Box { @indexed color: String, n: U32 }`
	modelDelay = 6 // batches a watcher of the model may be behind
)

// box is what the model keeps of a record.
type box struct{ text, color string }

// step is one change the model knows: what is printed of it, and what a watcher selects it by.
type step struct {
	revision    int64
	key, text   string
	color, past string // of the record now and before
}

// chronicle is everything that happened, and the records that came of it.
type chronicle struct {
	records map[string]box
	steps   []step
}

// commit makes one random transaction and notes its changes in the order of keys, as the store orders them.
func (c *chronicle) commit(t *rapid.T, s *kind.Store) {
	keys := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"box:a", "box:b", "box:c", "rest:a", "rest:b"}), 1, 3, rapid.ID).Draw(t, "keys")
	var txn kind.Txn
	var steps []step
	for _, key := range keys {
		old, there := c.records[key]
		if rapid.IntRange(0, 3).Draw(t, "delete") == 0 {
			txn.Ops = append(txn.Ops, kind.Op{Key: key, Delete: true})
			if there {
				steps = append(steps, step{key: key, text: "-" + key, past: old.color})
				delete(c.records, key)
			}
			continue
		}
		color := rapid.SampledFrom([]string{"red", "blue"}).Draw(t, "color")
		now := box{fmt.Sprintf(`{"color":%q,"n":%d}`, color, len(c.steps)), color}
		txn.Ops = append(txn.Ops, kind.Op{Key: key, Value: []byte(now.text)})
		steps = append(steps, step{key: key, text: key + "=" + now.text, color: color, past: old.color})
		c.records[key] = now
	}
	rev, err := s.Commit(context.Background(), txn)
	if err != nil {
		t.Fatal(err)
	}
	for _, st := range steps {
		st.revision = rev
		c.steps = append(c.steps, st)
	}
}

// onlooker is a watcher of the model: what it asked for, where it is, and what it saw since its start.
type onlooker struct {
	*kind.Watch

	opts    kind.WatchOptions
	since   int64 // the first revision it has to see
	seen    []string
	reached int64 // the newest revision it has seen
}

// wants returns what the onlooker has to have seen of the chronicle, as far as it has come.
func (o *onlooker) wants(c *chronicle, upTo int64) (want []string) {
	for _, st := range c.steps {
		under := len(o.opts.Prefixes) == 0
		for _, p := range o.opts.Prefixes {
			under = under || len(st.key) >= len(p) && st.key[:len(p)] == p
		}
		f := o.opts.Filter
		if under && st.revision >= o.since && st.revision <= upTo && (f == nil || st.color == f.Value || st.past == f.Value) {
			want = append(want, strconv.FormatInt(st.revision, 10)+" "+st.text)
		}
	}
	return want
}

// take notes batches.
func (o *onlooker) take(batches []kind.Batch) {
	for _, b := range batches {
		o.reached = b.Revision
		for _, ev := range b.Events {
			text := "-" + ev.Key
			if !ev.Deleted {
				text = ev.Key + "=" + string(ev.Record.Value)
			}
			o.seen = append(o.seen, strconv.FormatInt(b.Revision, 10)+" "+text)
		}
	}
}

// watching is the state of the model's play.
type watching struct {
	store     *kind.Store
	past      chronicle
	onlookers []*onlooker
	start     int64 // the revision before the first of the chronicle
}

// come adds a watcher from now on or from any revision of the chronicle.
func (w *watching) come(t *rapid.T) {
	o := &onlooker{since: w.store.Revision() + 1}
	o.opts.Prefixes = rapid.SampledFrom([][]string{nil, {"box"}, {"box:a"}, {"rest"}, {"box:a", "rest:a"}}).Draw(t, "prefixes")
	if rapid.Bool().Draw(t, "filter") {
		o.opts.Filter = &kind.Filter{Field: "color", Value: rapid.SampledFrom([]string{"red", "blue"}).Draw(t, "match")}
	}
	if rapid.Bool().Draw(t, "resume") {
		o.since = rapid.Int64Range(w.start+1, o.since).Draw(t, "from")
		o.opts.From = o.since
	}
	o.reached = o.since - 1
	o.Watch = w.store.Watch(o.opts)
	w.onlookers = append(w.onlookers, o)
}

// one picks a watcher, or skips when there is none.
func (w *watching) one(t *rapid.T) int {
	if len(w.onlookers) == 0 {
		t.Skip("nobody watches")
	}
	return rapid.IntRange(0, len(w.onlookers)-1).Draw(t, "onlooker")
}

// read lets a watcher take everything there is, in one or more turns. One that fell behind resumes where it was.
func (w *watching) read(t *rapid.T) { w.catchUp(t, w.onlookers[w.one(t)]) }

func (w *watching) catchUp(t *rapid.T, o *onlooker) {
	newest := w.store.Revision()
	want := o.wants(&w.past, newest)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for len(o.seen) < len(want) && ctx.Err() == nil {
		batches, err := o.Next(ctx)
		switch {
		case vortex.IsKind(err, vortex.Exhausted):
			w.resume(o)
		case err != nil && ctx.Err() == nil: // what has not come in time is missing below
			t.Fatalf("a watcher of %v: %v", o.opts, err)
		}
		o.take(batches)
	}
	if diff := cmp.Diff(want, o.seen); diff != "" {
		t.Fatalf("a watcher of %+v from %d (-want +got):\n%s", o.opts, o.since, diff)
	}
}

// resume goes on where the watcher was.
func (w *watching) resume(o *onlooker) {
	o.Close()
	o.opts.From = o.reached + 1
	o.Watch = w.store.Watch(o.opts)
}

// leave ends a watcher for good.
func (w *watching) leave(t *rapid.T) {
	i := w.one(t)
	w.onlookers[i].Close()
	w.onlookers = append(w.onlookers[:i], w.onlookers[i+1:]...)
}

// TestEveryWatcherSeesExactlyWhatHappened plays random transactions while watchers come, with prefixes and filters, from now on or from
// the past; read, lag until they are dropped, resume and leave. What each saw is compared with what happened.
func TestEveryWatcherSeesExactlyWhatHappened(t *testing.T) {
	e := openEngine(t, t.TempDir())
	t.Cleanup(func() { _ = e.Close() })
	memory, _ := openStore(t, kind.Config{Engine: e, WatchBuffer: modelDelay}, boxSchema)
	rapid.Check(t, func(rt *rapid.T) {
		store, stop := memory, func() {}
		if rapid.IntRange(0, 9).Draw(rt, "reopened") == 0 { // its memory does not hold what happened before
			store, stop = openStore(t, kind.Config{Engine: e, WatchBuffer: modelDelay}, boxSchema)
		}
		defer stop()
		watchGame(rt, store)
	})
}

// watchGame is one game on a store, which it empties first.
func watchGame(t *rapid.T, store *kind.Store) {
	w := &watching{store: store, past: chronicle{records: map[string]box{}}}
	if err := store.Sync(context.Background()); err != nil { // another store wrote the last time
		t.Fatal(err)
	}
	for _, prefix := range []string{"box", "rest"} {
		for rec := range store.Snapshot().Below(prefix) {
			if _, err := store.Delete(context.Background(), rec.Key); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.start = store.Revision()
	defer func() {
		for _, o := range w.onlookers {
			o.Close()
		}
	}()
	commit := func(t *rapid.T) { w.past.commit(t, store) }
	t.Repeat(map[string]func(*rapid.T){
		"commit": commit, "commit too": commit, "commit as well": commit,
		"come": w.come, "read": w.read, "leave": w.leave,
		"resume": func(t *rapid.T) { w.resume(w.onlookers[w.one(t)]) },
	})
	for _, o := range w.onlookers {
		w.catchUp(t, o)
	}
}
