package etcd_test

import (
	"fmt"
	"strconv"
	"testing"

	"vortex"
	"vortex/internal/kind/engine"
	"vortex/internal/kind/engine/enginetest"
	"vortex/internal/kind/engine/etcd"
	"vortex/internal/kind/kindtest"
)

// TestRecover makes one of three members the whole store: nothing that was acknowledged is lost, and the others, when they come
// back and are more, have no say in it.
func TestRecover(t *testing.T) {
	q := newQuorum(t, 3)
	var last int64
	for n := range 200 {
		last = enginetest.Commit(t, q.engines[0], enginetest.Put(fmt.Sprint("k", n), strconv.Itoa(n)))
	}
	before := q.engines[0].Group().Status().Cluster
	if err := q.engines[0].Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := q.members[0].Recover(t.Context(), false); !vortex.IsKind(err, vortex.Precondition) {
		t.Errorf("a recovery while two of three run: %v; want Precondition", err)
	}
	q.engines = q.engines[1:]
	q.close() // all three at once: the survivor has the last writes in its log at least
	q.engines = q.engines[:0]
	done, err := q.members[0].Recover(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	if done.Group == before || done.Revision <= last {
		t.Errorf("the new group is %x at revision %d; the old one was %x at %d", done.Group, done.Revision, before, last)
	}
	alone := q.open(q.members[0])
	n := 0
	for kv, err := range alone.Range(t.Context(), "k", "l", new(int64(0))) {
		if err != nil || kv.Key != "k"+string(kv.Value) {
			t.Fatalf("%s=%s, %v", kv.Key, kv.Value, err)
		}
		n++
	}
	if n != 200 {
		t.Errorf("%d of 200 records are left", n)
	}
	for _, err := range alone.Watch(t.Context(), last) { // whoever was at a revision of the old group loads anew
		if !vortex.IsKind(err, vortex.OutOfRange) {
			t.Errorf("a watch from the old group's revision: %v; want OutOfRange", err)
		}
		break
	}
	old := [2]chan *etcd.Engine{make(chan *etcd.Engine, 1), make(chan *etcd.Engine, 1)}
	for i := range old { // the others are a quorum of the old group
		go func() {
			e, err := q.members[i+1].Open(t.Context())
			if err != nil {
				t.Errorf("the old side: %v", err)
			}
			old[i] <- e
		}()
	}
	q.engines = append(q.engines, <-old[0], <-old[1])
	if t.Failed() {
		return
	}
	enginetest.Commit(t, q.engines[1], enginetest.Put("k0", "old side"))
	enginetest.Commit(t, alone, enginetest.Put("k1", "new side"))
	kindtest.Eventually(t, "the new side takes no old member", func() bool {
		members, err := alone.Group().Members(t.Context())
		return err == nil && len(members) == 1
	})
	expect(t, alone, "k0", "0")
	expect(t, alone, "k1", "new side")
	expect(t, q.engines[1], "k1", "1")
	learner := q.members[1]
	learner.Dir, learner.Join = t.TempDir(), true
	learner.Group = map[string]string{q.members[0].Name: q.members[0].PeerTLS.URL(q.members[0].PeerAddr)}
	learner.PeerAddr = freeAddr(t)
	kindtest.Eventually(t, "the new side takes members that join again", func() bool {
		_, err := alone.Group().AddLearner(t.Context(), learner.PeerTLS.URL(learner.PeerAddr))
		return err == nil
	})
	expect(t, q.open(learner), "k1", "new side")
}

// TestRecoverOfNothing says what is missing.
func TestRecoverOfNothing(t *testing.T) {
	if _, err := (etcd.Embedded{Dir: t.TempDir()}).Recover(t.Context(), false); !vortex.IsKind(err, vortex.NotFound) {
		t.Errorf("%v; want NotFound", err)
	}
}

func expect(t *testing.T, e engine.Engine, key, want string) {
	t.Helper()
	for kv, err := range e.Range(t.Context(), key, key+"\x00", new(int64(0))) {
		if err != nil || string(kv.Value) != want {
			t.Errorf("%s is %q, %v; want %q", key, kv.Value, err, want)
		}
		return
	}
	t.Errorf("there is no %s; want %q", key, want)
}
