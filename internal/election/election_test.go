package election_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"vortex"
	"vortex/internal/election"
	"vortex/internal/kind"
	"vortex/internal/kind/kindtest"
)

// candidate is a server that competes.
type candidate struct {
	leads chan kind.Writer // receives at every lead
	ended chan struct{}    // receives when a lead ends
	stop  func()
}

// compete runs an election for a server until the test ends or stop is called.
func compete(t *testing.T, store *kind.Store, id string, ttl time.Duration) *candidate {
	t.Helper()
	return competeBeside(t, store, id, ttl, nil)
}

// competeBeside is compete with somebody who knows which servers have died.
func competeBeside(t *testing.T, store *kind.Store, id string, ttl time.Duration, peers election.Peers) *candidate {
	t.Helper()
	c := &candidate{leads: make(chan kind.Writer, 10), ended: make(chan struct{}, 10)}
	e := &election.Election{Store: store, ID: id, TTL: ttl, Renew: ttl / 3, Retry: 2 * time.Second, Peers: peers, Log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- e.Run(ctx, func(ctx context.Context, w kind.Writer) error {
			c.leads <- w
			<-ctx.Done()
			c.ended <- struct{}{}
			return nil
		})
	}()
	stopped := false
	c.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("election of %s: %v", id, err)
		}
	}
	t.Cleanup(c.stop)
	return c
}

func receive[T any](t *testing.T, what string, ch <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(20 * time.Second):
		t.Fatalf("not within 20 s: %s", what)
	}
	return v
}

func lock(t *testing.T, store *kind.Store) vortex.LeaderLock {
	t.Helper()
	held, err := kind.Get(store, vortex.LeaderLocks, "leader")
	if err != nil {
		t.Fatalf("the lock: %v", err)
	}
	return *held.Value
}

// A lock that looks expired, because a clock is wrong, is not taken from a leader that goes on renewing it.
func TestLockThatIsRenewedIsNotTaken(t *testing.T) {
	store := kindtest.Open(t)
	renew := func() {
		rec := vortex.LeaderLock{ID: "s0", Epoch: 1}
		if _, err := kind.PutTTL(t.Context(), store, vortex.LeaderLocks, time.Millisecond, &rec, "leader"); err != nil {
			t.Fatal(err)
		}
	}
	renew()
	const ttl = 10 * time.Second
	s1 := compete(t, store, "s1", ttl)
	ticks := time.NewTicker(100 * time.Millisecond)
	defer ticks.Stop()
	for range 20 {
		renew()
		select {
		case <-s1.leads:
			t.Fatal("the lock was taken from a leader that renews it")
		case <-ticks.C:
		}
	}
	receive(t, "the lock of a leader that renews no more is taken", s1.leads)
}

func TestOneLeadsAndRenews(t *testing.T) {
	store := kindtest.Open(t)
	a, b := compete(t, store, "a", 300*time.Millisecond), compete(t, store, "b", 300*time.Millisecond)
	var first *candidate
	select {
	case <-a.leads:
		first = a
	case <-b.leads:
		first = b
	case <-time.After(20 * time.Second):
		t.Fatal("nobody leads")
	}
	rec, err := store.Get(election.LockKey)
	if err != nil {
		t.Fatal(err)
	}
	renewed := rec.ModRevision
	kindtest.Eventually(t, "five renewals", func() bool {
		rec, err := store.Get(election.LockKey)
		if err == nil && rec.ModRevision > renewed && rec.ExpiresAt > time.Now().UnixMilli() {
			renewed = rec.ModRevision
			return renewed > 6
		}
		return false
	})
	if len(a.leads)+len(b.leads)+len(first.ended) != 0 {
		t.Fatal("the lead changed although it was renewed")
	}
}

func TestStoppingHandsOverAtOnceWithALargerEpoch(t *testing.T) {
	store := kindtest.Open(t)
	a := compete(t, store, "a", time.Hour) // only a release can end it
	receive(t, "a leads", a.leads)
	before := lock(t, store)
	b := compete(t, store, "b", time.Hour)
	a.stop()
	receive(t, "b leads", b.leads)
	if now := lock(t, store); now.ID != "b" || now.Epoch <= before.Epoch {
		t.Fatalf("the lock is %+v after %+v", now, before)
	}
}

func TestSameServerTakesOverFromItsDeadProcess(t *testing.T) {
	store := kindtest.Open(t)
	if _, err := kind.PutTTL(t.Context(), store, vortex.LeaderLocks, time.Hour, &vortex.LeaderLock{ID: "a", Epoch: 4}, "leader"); err != nil {
		t.Fatal(err)
	}
	if _, err := kind.Put(t.Context(), store, vortex.LeaderLocks, &vortex.LeaderLock{ID: "a", Epoch: 4}, "epoch"); err != nil {
		t.Fatal(err)
	}
	a := compete(t, store, "a", time.Hour)
	receive(t, "a leads again", a.leads)
	if now := lock(t, store); now.Epoch != 5 {
		t.Fatalf("epoch %d; want 5", now.Epoch)
	}
}

// TestDeposedLeaderCannotWrite lets a leader die without a release: the lock is left as a killed process leaves it.
func TestDeposedLeaderCannotWrite(t *testing.T) {
	store := kindtest.Open(t)
	dead := vortex.LeaderLock{ID: "dead", Epoch: 1}
	rev, err := kind.Put(t.Context(), store, vortex.LeaderLocks, &dead, "epoch")
	if err != nil {
		t.Fatal(err)
	}
	old := kind.Writer{Store: store, If: []kind.Condition{kind.IfRevision(vortex.LeaderLocks.Key("epoch"), rev)}}
	const ttl = 400 * time.Millisecond
	if _, err := kind.PutTTL(t.Context(), store, vortex.LeaderLocks, ttl, &dead, "leader"); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	b := compete(t, store, "b", ttl)
	if err := old.Commit(t.Context(), kind.Op{Key: "x", Value: []byte("1")}); err != nil {
		t.Fatalf("the leader could not write while it led: %v", err)
	}
	w := receive(t, "b leads", b.leads)
	if took := time.Since(began); took < ttl/2 {
		t.Errorf("b took over after %s, before the lock expired", took)
	}
	if err := old.Commit(t.Context(), kind.Op{Key: "x", Value: []byte("2")}); !vortex.IsKind(err, vortex.Conflict) {
		t.Errorf("a deposed leader's write: %v; want Conflict", err)
	}
	if err := w.Commit(t.Context(), kind.Op{Key: "x", Value: []byte("3")}); err != nil {
		t.Errorf("the leader's write: %v", err)
	}
	if rec, err := store.Get("x"); err != nil || string(rec.Value) != "3" {
		t.Errorf("x is %v, %v", rec, err)
	}
}

func TestLostLockEndsTheLead(t *testing.T) {
	store := kindtest.Open(t)
	a := compete(t, store, "a", 300*time.Millisecond)
	receive(t, "a leads", a.leads)
	if _, err := kind.PutTTL(t.Context(), store, vortex.LeaderLocks, time.Hour, &vortex.LeaderLock{ID: "thief", Epoch: 9}, "leader"); err != nil {
		t.Fatal(err)
	}
	receive(t, "a's lead ends", a.ended)
	a.stop()
	if now := lock(t, store); now.ID != "thief" {
		t.Fatalf("a released a lock that was not its own: %+v", now)
	}
}

// A leader that sees another lead ends at once, long before it has to renew its lock.
func TestOvertakenLeaderEndsAtOnce(t *testing.T) {
	store := kindtest.Open(t)
	a := compete(t, store, "a", time.Hour)
	receive(t, "a leads", a.leads)
	taken, err := json.Marshal(vortex.LeaderLock{ID: "b", Epoch: lock(t, store).Epoch + 1})
	if err != nil {
		t.Fatal(err)
	}
	txn := kind.Txn{Ops: []kind.Op{{Key: election.LockKey, Value: taken, TTL: time.Hour}, {Key: vortex.LeaderLocks.Key("epoch"), Value: taken}}}
	if _, err := store.Commit(t.Context(), txn); err != nil {
		t.Fatal(err)
	}
	receive(t, "a's lead ends", a.ended)
	if len(a.leads) > 0 {
		t.Error("a leads beside b")
	}
}

func TestFailedLeadIsReportedAndReleased(t *testing.T) {
	store := kindtest.Open(t)
	broken := errors.New("broken")
	e := &election.Election{Store: store, ID: "a", Log: slog.New(slog.DiscardHandler)}
	err := e.Run(t.Context(), func(context.Context, kind.Writer) error { return broken })
	if !errors.Is(err, broken) {
		t.Fatalf("Run returned %v", err)
	}
	if _, err := store.Get(election.LockKey); !vortex.IsKind(err, vortex.NotFound) {
		t.Fatalf("the lock is kept: %v", err)
	}
}

// dead is which servers have died.
type dead struct {
	mu      sync.Mutex
	servers map[string]time.Time // since when
	news    chan struct{}
}

func (d *dead) Dead(server string) (since time.Time, is bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	since, is = d.servers[server]
	return since, is
}

func (d *dead) Watch() (news <-chan struct{}, stop func()) { return d.news, func() {} }

func (d *dead) set(server string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.servers[server] = time.Now()
	d.news <- struct{}{}
}

// TestDeadLeadersLockIsTakenBeforeItExpires has a lock that nothing but a confirmed death can free.
func TestDeadLeadersLockIsTakenBeforeItExpires(t *testing.T) {
	store := kindtest.Open(t)
	gone := vortex.LeaderLock{ID: "gone", Epoch: 7}
	rev, err := kind.Put(t.Context(), store, vortex.LeaderLocks, &gone, "epoch")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kind.PutTTL(t.Context(), store, vortex.LeaderLocks, time.Hour, &gone, "leader"); err != nil {
		t.Fatal(err)
	}
	old := kind.Writer{Store: store, If: []kind.Condition{kind.IfRevision(vortex.LeaderLocks.Key("epoch"), rev)}}
	peers := &dead{servers: map[string]time.Time{}, news: make(chan struct{}, 10)}
	b := competeBeside(t, store, "b", time.Hour, peers)
	peers.set("somebody else")
	if err := old.Commit(t.Context(), kind.Op{Key: "x", Value: []byte("1")}); err != nil {
		t.Fatalf("the leader cannot write though nobody said it is dead: %v", err)
	}
	peers.set("gone")
	w := receive(t, "b leads", b.leads)
	if now := lock(t, store); now.ID != "b" || now.Epoch != 8 {
		t.Errorf("the lock is %+v", now)
	}
	if err := old.Commit(t.Context(), kind.Op{Key: "x", Value: []byte("2")}); !vortex.IsKind(err, vortex.Conflict) {
		t.Errorf("the leader that was taken for dead writes: %v; want Conflict", err)
	}
	if err := w.Commit(t.Context(), kind.Op{Key: "x", Value: []byte("3")}); err != nil {
		t.Errorf("the new leader's write: %v", err)
	}
}

// TestServersThatTakeEachOtherForDeadDoNotDuel is what follows a cut: each of two servers has not heard yet that the other lives.
func TestServersThatTakeEachOtherForDeadDoNotDuel(t *testing.T) {
	store := kindtest.Open(t)
	knownToA := &dead{servers: map[string]time.Time{}, news: make(chan struct{}, 10)}
	a := competeBeside(t, store, "a", time.Hour, knownToA)
	receive(t, "a leads", a.leads)
	knownToA.set("b")
	b := competeBeside(t, store, "b", time.Hour, &dead{servers: map[string]time.Time{"a": time.Now()}, news: make(chan struct{}, 10)})
	receive(t, "b leads", b.leads)
	receive(t, "a's lead ends", a.ended)
	knownToA.set("c")
	select {
	case <-a.leads:
		t.Fatal("a takes the lead back from b, which it takes for dead though it has just taken the lead")
	case <-time.After(200 * time.Millisecond):
	}
	knownToA.set("b")
	receive(t, "a leads when b has died since", a.leads)
}
