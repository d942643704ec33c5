package remote_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/kind/engine"
	"vortex/internal/kind/engine/enginetest"
	"vortex/internal/kind/engine/remote"
	"vortex/internal/kind/kindtest"
)

// patience is for what happens at once unless something is broken.
const patience = 60 * time.Second

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// TestServerKilledUnderWriters kills the server in use again and again in the middle of a thousand transactions of eight writers. Each
// compares that it has not happened, so none happens twice when its answer is lost, and none that was acknowledged is lost.
func TestServerKilledUnderWriters(t *testing.T) {
	const writers, each = 8, 125
	store := kindtest.Open(t)
	servers := []*server{serve(t, store), serve(t, store)}
	e := open(t, remote.Config{Servers: []string{servers[0].addr, servers[1].addr}})
	mirror := storeOn(t, e)
	ctx := within(t)
	var acknowledged, lost atomic.Int64
	write := func(key string) {
		txn := engine.Txn{Compares: []engine.Compare{{Key: key}}, Writes: []engine.Write{{Key: key, Value: kind.Seal([]byte(key), 0)}}}
		for {
			result, err := e.Commit(ctx, txn)
			switch {
			case err == nil && result.Committed:
				acknowledged.Add(1)
				return
			case err == nil: // it had happened before, and the answer was lost
				return
			case !vortex.IsKind(err, vortex.Unavailable):
				t.Errorf("%s: %v", key, err)
				return
			}
			lost.Add(1)
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Millisecond):
			}
		}
	}
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for n := range each {
				write(fmt.Sprintf("k:%d:%d", w, n))
				time.Sleep(2 * time.Millisecond) // so that there is something to kill
			}
		})
	}
	done := make(chan struct{})
	go func() { defer close(done); wg.Wait() }()
	kills := 0
	for working := true; working; {
		select {
		case <-done:
			working = false
		case <-time.After(40 * time.Millisecond):
			for _, s := range servers {
				if s.addr == e.Server() {
					s.stop()
					s.start()
					kills++
				}
			}
		}
	}
	t.Logf("%d kills, %d of %d acknowledged, %d times refused or unanswered", kills, acknowledged.Load(), writers*each, lost.Load())
	kindtest.Eventually(t, "the store is current", func() bool { return mirror.Sync(ctx) == nil })
	for w := range writers {
		for n := range each {
			rec, err := mirror.Get(fmt.Sprintf("k:%d:%d", w, n))
			if err != nil || rec.CreateRevision != rec.ModRevision {
				t.Fatalf("k:%d:%d: %+v, %v; want it written once", w, n, rec, err)
			}
		}
	}
	if got := len(store.PrefixScan("k:")); got != writers*each {
		t.Errorf("%d records; want %d", got, writers*each)
	}
}

// TestServersKilledInTurnUnderWatches stands three servers on one store and kills one after the other under watches: each gets
// every transaction once, whole and in order.
func TestServersKilledInTurnUnderWatches(t *testing.T) {
	const transactions, pause = 400, 4 * time.Millisecond
	store := kindtest.Open(t)
	servers := []*server{serve(t, store), serve(t, store), serve(t, store)}
	var addrs []string
	for _, s := range servers {
		addrs = append(addrs, s.addr)
	}
	from := store.Revision() + 1
	watches := map[string]*enginetest.Watcher{}
	for name, hold := range map[string][]kind.Selection{"whole": nil, "selected": {{Prefix: "a:"}, {Prefix: "b:"}}} {
		watches[name] = enginetest.Watch(t, sealing{open(t, remote.Config{Servers: addrs, Hold: hold})}, from)
	}
	written := make(chan struct{})
	go func() {
		defer close(written)
		for n := range transactions {
			_, err := store.Commit(t.Context(), kind.Txn{Ops: []kind.Op{
				{Key: "a:x", Value: []byte(strconv.Itoa(n))}, {Key: "b:x", Value: []byte(strconv.Itoa(n))}, {Key: "c:x", Value: []byte(strconv.Itoa(n))},
			}})
			if err != nil {
				t.Error(err)
				return
			}
			time.Sleep(pause)
		}
	}()
	var killer sync.WaitGroup
	killer.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-written:
				return
			case <-time.After(200 * time.Millisecond):
				servers[n%3].stop()
				servers[n%3].start()
			}
		}
	})
	for name, w := range watches {
		last := int64(0)
		for n := range transactions {
			rev, changes := w.Next()
			want := []string{fmt.Sprintf("a:x=%d", n), fmt.Sprintf("b:x=%d", n)}
			if name == "whole" {
				want = append(want, fmt.Sprintf("c:x=%d", n))
			}
			if fmt.Sprint(changes) != fmt.Sprint(want) || rev <= last {
				t.Fatalf("%s: transaction %d is %v at %d after %d; want %v", name, n, changes, rev, last, want)
			}
			last = rev
		}
	}
	killer.Wait()
}

// proxy passes connections on, and can freeze: nothing is closed, and nothing passes any more.
type proxy struct {
	net.Listener

	to string

	mu     sync.Mutex
	frozen chan struct{} // closed to let go on; nil while all passes
	conns  []net.Conn
}

func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{Listener: l, to: to}
	go p.accept()
	t.Cleanup(func() {
		_ = l.Close()
		p.thaw()
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, c := range p.conns {
			_ = c.Close()
		}
	})
	return p
}

func (p *proxy) accept() {
	for {
		in, err := p.Accept()
		if err != nil {
			return
		}
		out, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", p.to)
		if err != nil {
			_ = in.Close()
			continue
		}
		p.mu.Lock()
		p.conns = append(p.conns, in, out)
		p.mu.Unlock()
		go p.pass(in, out)
		go p.pass(out, in)
	}
}

func (p *proxy) pass(from, to net.Conn) {
	defer func() { _ = to.Close(); _ = from.Close() }()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if hold := p.held(); hold != nil {
			<-hold
		}
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				return
			}
			return
		}
	}
}

func (p *proxy) held() chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.frozen
}

func (p *proxy) freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.frozen = make(chan struct{})
}

func (p *proxy) thaw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.frozen != nil {
		close(p.frozen)
		p.frozen = nil
	}
}

// TestFrozenServerIsLeft freezes the way to the server in use: it is left for the other one though nothing was closed, and a watch and
// writes go on there.
func TestFrozenServerIsLeft(t *testing.T) {
	store := kindtest.Open(t)
	first, second := newProxy(t, serve(t, store).addr), newProxy(t, serve(t, store).addr)
	e := open(t, remote.Config{Servers: []string{first.Addr().String(), second.Addr().String()}, Hold: []kind.Selection{{Prefix: "a:"}}})
	mirror := storeOn(t, e)
	for n := range 3 {
		kindtest.Eventually(t, "another connection is warm", func() bool { return e.Warm() })
		used := first
		if e.Server() == second.Addr().String() {
			used = second
		}
		used.freeze()
		began := time.Now()
		rev, err := store.Put(t.Context(), "a:x", []byte(strconv.Itoa(n)), 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := mirror.WaitFor(within(t), rev); err != nil {
			t.Fatal(err)
		}
		t.Logf("the change was seen %s after the freeze", time.Since(began).Round(time.Millisecond))
		if rec, err := mirror.Get("a:x"); err != nil || string(rec.Value) != strconv.Itoa(n) {
			t.Fatalf("a:x is %+v, %v", rec, err)
		}
		if e.Server() == used.Addr().String() {
			t.Error("the frozen server is still in use")
		}
		if _, err := mirror.Put(within(t), "a:y", []byte("through the other"), 0); err != nil {
			t.Error(err)
		}
		used.thaw()
	}
}

// TestAllServersAway holds what a store does meanwhile: it reads from memory, refuses writes at once, and comes back by itself.
func TestAllServersAway(t *testing.T) {
	store := kindtest.Open(t)
	s, second := serve(t, store), serve(t, store)
	mirror := storeOn(t, open(t, remote.Config{Servers: []string{s.addr, second.addr}, Hold: []kind.Selection{{Prefix: "a:"}}}))
	if _, err := mirror.Put(within(t), "a:x", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	watch := mirror.Watch(kind.WatchOptions{Prefixes: []string{"a:"}})
	defer watch.Close()
	s.stop()
	second.stop()
	kindtest.Eventually(t, "the store knows that it is stale", mirror.Stale)
	if rec, err := mirror.Get("a:x"); err != nil || string(rec.Value) != "1" {
		t.Errorf("a read from memory: %+v, %v", rec, err)
	}
	for range 10 {
		began := time.Now()
		if _, err := mirror.Put(within(t), "a:x", []byte("2"), 0); !vortex.IsKind(err, vortex.Unavailable) {
			t.Errorf("a write without servers: %v", err)
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("it took %s to refuse a write", took)
		}
	}
	if _, err := store.Put(t.Context(), "a:x", []byte("3"), 0); err != nil {
		t.Fatal(err)
	}
	second.start()
	defer s.start()
	batches, err := watch.Next(within(t))
	if err != nil {
		t.Fatal(err)
	}
	if ev := batches[0].Events[0]; string(ev.Record.Value) != "3" || string(ev.Prev.Value) != "1" {
		t.Errorf("the watch saw %+v", ev)
	}
	kindtest.Eventually(t, "writes succeed again", func() bool {
		_, err := mirror.Put(within(t), "a:x", []byte("4"), 0)
		return err == nil
	})
	if mirror.Stale() {
		t.Error("the store is stale although it can write")
	}
}

// TestMissedHistory compacts what a store missed while it was cut off: it loads anew, and its watches see what is different.
func TestMissedHistory(t *testing.T) {
	store := kindtest.Open(t)
	s := serve(t, store)
	mirror := storeOn(t, open(t, remote.Config{Servers: []string{s.addr}, Hold: []kind.Selection{{Prefix: "a:"}, {Prefix: "b:"}}}))
	put := func(key, value string) {
		t.Helper()
		if _, err := store.Put(t.Context(), key, []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
	put("a:changed", "old")
	put("a:deleted", "old")
	put("b:same", "same")
	if err := mirror.WaitFor(within(t), store.Revision()); err != nil {
		t.Fatal(err)
	}
	watch := mirror.Watch(kind.WatchOptions{})
	defer watch.Close()
	s.stop()
	put("a:changed", "between")
	put("a:changed", "new")
	put("c:other", "of no interest")
	if _, err := store.Delete(t.Context(), "a:deleted"); err != nil {
		t.Fatal(err)
	}
	put("a:made", "new")
	if _, err := store.Compact(t.Context(), store.Revision()); err != nil {
		t.Fatal(err)
	}
	s.start()
	batches, err := watch.Next(within(t))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, ev := range batches[0].Events {
		if got[ev.Key] = "gone"; !ev.Deleted {
			got[ev.Key] = string(ev.Record.Value)
		}
	}
	if want := fmt.Sprint(map[string]string{"a:changed": "new", "a:deleted": "gone", "a:made": "new"}); fmt.Sprint(got) != want || len(batches) != 1 {
		t.Errorf("the watch saw %v in %d batches; want %v in one", got, len(batches), want)
	}
	if rec, err := mirror.Get("b:same"); err != nil || string(rec.Value) != "same" {
		t.Errorf("b:same is %+v, %v", rec, err)
	}
}

// TestServersMayBeReplaced moves an engine to servers that it did not know when it was opened.
func TestServersMayBeReplaced(t *testing.T) {
	store := kindtest.Open(t)
	old, next := serve(t, store), serve(t, store)
	e := open(t, remote.Config{Servers: []string{old.addr}})
	mirror := storeOn(t, e)
	e.Use([]string{next.addr})
	kindtest.Eventually(t, "the new server is used", func() bool { return e.Server() == next.addr })
	kindtest.Eventually(t, "writes go there", func() bool {
		_, err := mirror.Put(within(t), "a", []byte("1"), 0)
		return err == nil
	})
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	s := serve(t, kindtest.Open(t))
	for what, c := range map[string]struct {
		cfg  remote.Config
		want vortex.ErrorKind
	}{
		"no server":              {remote.Config{}, vortex.Invalid},
		"nobody there":           {remote.Config{Servers: []string{"127.0.0.1:1"}}, vortex.Unavailable},
		"a token nobody knows":   {remote.Config{Servers: []string{s.addr}, Token: "wrong"}, vortex.Unauthenticated},
		"a client without token": {remote.Config{Servers: []string{s.addr}}, vortex.Unauthenticated},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		_, err := c.cfg.Open(ctx)
		cancel()
		if !vortex.IsKind(err, c.want) {
			t.Errorf("%s: %v; want kind %v", what, err, c.want)
		}
	}
}
