package runtimetest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vortex"
	"vortex/internal/runtime"
)

func testStartAndStatus(b *bench) {
	t := b.T
	spec := b.spec(t, "", "sleep")
	before := time.Now().Add(-time.Minute)
	s := b.start(t, spec)
	if s.ID != spec.ID || s.State != runtime.Running {
		t.Errorf("Start returned %+v, want %s running", s, spec.ID)
	}
	if s.StartedAt.Before(before) || s.StartedAt.After(time.Now().Add(time.Minute)) {
		t.Errorf("StartedAt is %v, want about now", s.StartedAt)
	}
	if !s.FinishedAt.IsZero() {
		t.Errorf("FinishedAt is %v of a running instance", s.FinishedAt)
	}
	if diff := cmp.Diff(spec.Labels, s.Labels); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
	listed, ok := b.status(t, spec.ID)
	if !ok {
		t.Fatal("a started instance is not in List")
	}
	if diff := cmp.Diff(s, listed); diff != "" {
		t.Errorf("List differs from Start (-start +list):\n%s", diff)
	}
}

func testDuplicateID(b *bench) {
	t := b.T
	spec := b.spec(t, "", "sleep")
	first := b.start(t, spec)
	_, err := b.d.Start(t.Context(), spec)
	wantKind(t, "second Start", err, vortex.Exists)
	if s, _ := b.status(t, spec.ID); s.State != runtime.Running || s.PID != first.PID {
		t.Errorf("the first instance is %+v after the second Start, want it untouched", s)
	}
}

func testUnknownID(b *bench) {
	t := b.T
	ctx := t.Context()
	wantKind(t, "Stop", b.d.Stop(ctx, "nobody", time.Second), vortex.NotFound)
	_, err := b.d.Exec(ctx, "nobody", runtime.ExecSpec{Command: []string{"x"}})
	wantKind(t, "Exec", err, vortex.NotFound)
	_, err = b.d.Logs(ctx, "nobody", runtime.LogOptions{})
	wantKind(t, "Logs", err, vortex.NotFound)
	if st, ok := b.d.(runtime.Statter); ok {
		_, err = st.Stats(ctx, "nobody")
		wantKind(t, "Stats", err, vortex.NotFound)
	}
	if err := b.d.Remove(ctx, "nobody"); err != nil {
		t.Errorf("Remove of an unknown id: %v", err)
	}
}

func testInvalidID(b *bench) {
	t := b.T
	for _, id := range []string{"", "..", "../x", "a/b", "UPPER", "a b", string(make([]byte, 64))} {
		spec := b.spec(t, "", "sleep")
		spec.ID = id
		_, err := b.d.Start(t.Context(), spec)
		wantKind(t, fmt.Sprintf("Start(%q)", id), err, vortex.Invalid)
	}
}

func testStopAndRemove(b *bench) {
	t := b.T
	spec := b.spec(t, "", "sleep")
	b.start(t, spec)
	b.ready(t, spec.ID)
	if err := b.d.Stop(t.Context(), spec.ID, patience); err != nil {
		t.Fatalf("Stop: %v", err)
	}
	s, ok := b.status(t, spec.ID)
	if !ok || s.State != runtime.Exited {
		t.Fatalf("after Stop: %+v, want exited", s)
	}
	if s.FinishedAt.IsZero() || s.PID != 0 {
		t.Errorf("after Stop: FinishedAt %v, PID %d; want a time and no process", s.FinishedAt, s.PID)
	}
	if err := b.d.Stop(t.Context(), spec.ID, time.Hour); err != nil {
		t.Errorf("Stop of an exited instance: %v", err)
	}
	if err := b.d.Remove(t.Context(), spec.ID); err != nil {
		t.Fatalf("Remove: %v", err)
	}
	if s, ok := b.status(t, spec.ID); ok {
		t.Errorf("after Remove it is still listed: %+v", s)
	}
	_, err := b.d.Logs(t.Context(), spec.ID, runtime.LogOptions{})
	wantKind(t, "Logs after Remove", err, vortex.NotFound)
	b.start(t, spec) // the id is free again
}

func testRemoveRunning(b *bench) {
	t := b.T
	spec := b.spec(t, "", "stubborn")
	b.start(t, spec)
	if err := b.d.Remove(t.Context(), spec.ID); err != nil {
		t.Fatalf("Remove: %v", err)
	}
	if s, ok := b.status(t, spec.ID); ok {
		t.Errorf("after Remove it is still listed: %+v", s)
	}
}

func testKillIsNoticed(b *bench) {
	t := b.T
	spec := b.spec(t, "", "sleep")
	seen := b.watch(t)
	b.start(t, spec)
	b.kill(t, spec.ID)
	s := seen.next(t)
	if s.ID != spec.ID || s.State != runtime.Exited || s.ExitCode != 137 {
		t.Errorf("Watch yielded %+v, want %s exited with 137", s, spec.ID)
	}
	if s.OOMKilled {
		t.Error("a kill is no OOM kill")
	}
	if listed, _ := b.status(t, spec.ID); !cmp.Equal(s, listed) {
		t.Errorf("List differs from Watch:\n%s", cmp.Diff(s, listed))
	}
}

func testExitBeforeWatch(b *bench) {
	t := b.T
	spec := b.spec(t, "", "sleep")
	b.start(t, spec)
	b.kill(t, spec.ID)
	b.exited(t, spec.ID)
	if s := b.watch(t).next(t); s.ID != spec.ID || s.State != runtime.Exited {
		t.Errorf("Watch yielded %+v, want the exit of %s that came before it", s, spec.ID)
	}
}

func testWatchEnds(b *bench) {
	t := b.T
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for s := range b.d.Watch(ctx) {
			t.Errorf("unexpected %+v", s)
		}
	}()
	cancel()
	select {
	case <-ended:
	case <-time.After(patience):
		t.Fatal("Watch did not end with its context")
	}
}

func testConcurrent(b *bench) {
	t := b.T
	n := b.Concurrent
	if n == 0 {
		n = 20
	}
	seen := b.watch(t)
	var wg sync.WaitGroup
	statuses := make([]runtime.Status, n)
	for i := range n {
		spec := b.spec(t, fmt.Sprintf("n%d", i), "sleep")
		b.ids = append(b.ids, spec.ID)
		wg.Go(func() {
			s, err := b.d.Start(t.Context(), spec)
			if err != nil {
				t.Errorf("Start(%s): %v", spec.ID, err)
			}
			statuses[i] = s
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	addresses := map[string]string{}
	for _, s := range statuses {
		at := fmt.Sprintf("%s:%d", s.Address, s.Port)
		if other, taken := addresses[at]; taken && s.Address != "" && s.Address != "127.0.0.1" {
			t.Errorf("%s and %s both are at %s", s.ID, other, at)
		}
		addresses[at] = s.ID
	}
	for _, id := range b.ids {
		b.ready(t, id)
		wg.Go(func() {
			if err := b.d.Stop(t.Context(), id, patience); err != nil {
				t.Errorf("Stop(%s): %v", id, err)
			}
		})
	}
	wg.Wait()
	exits := map[string]int{}
	for range n {
		exits[seen.next(t).ID]++
	}
	for _, id := range b.ids {
		if exits[id] != 1 {
			t.Errorf("Watch yielded %s %d times", id, exits[id])
		}
	}
}

// testRestart opens the driver again and finds running and exited instances as they were.
func testRestart(b *bench) {
	t := b.T
	live, dead := b.spec(t, "live", "sleep"), b.spec(t, "dead", "term", "7")
	b.start(t, live)
	b.start(t, dead)
	b.ready(t, live.ID)
	b.ready(t, dead.ID)
	if err := b.d.Stop(t.Context(), dead.ID, patience); err != nil {
		t.Fatalf("Stop: %v", err)
	}
	wasLive, _ := b.status(t, live.ID)
	wasDead, _ := b.status(t, dead.ID)
	b.reopen(t)
	isLive, _ := b.status(t, live.ID)
	isDead, _ := b.status(t, dead.ID)
	if diff := cmp.Diff(wasLive, isLive); diff != "" {
		t.Errorf("the running instance (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(wasDead, isDead); diff != "" {
		t.Errorf("the exited instance (-before +after):\n%s", diff)
	}
	if b.Lacks[Processes] == "" && isDead.ExitCode != 7 {
		t.Errorf("exit code %d, want 7", isDead.ExitCode)
	}
	b.ready(t, live.ID)
	b.ready(t, dead.ID)
	seen := b.watch(t)
	if s := seen.next(t); s.ID != dead.ID {
		t.Errorf("Watch yielded %s, want %s first", s.ID, dead.ID)
	}
	_, err := b.d.Start(t.Context(), live)
	wantKind(t, "Start of an id from before the restart", err, vortex.Exists)
	b.kill(t, live.ID)
	if s := seen.next(t); s.ID != live.ID || s.ExitCode != 137 {
		t.Errorf("Watch yielded %+v, want %s exited with 137", s, live.ID)
	}
}

// testExitWhileAway lets instances exit while no driver is open.
func testExitWhileAway(b *bench) {
	t := b.T
	spec := b.spec(t, "", "term", "5")
	s := b.start(t, spec)
	b.printed(t, spec.ID, "ready")
	b.close(t)
	if err := terminate(s.PID); err != nil {
		t.Fatalf("kill: %v", err)
	}
	eventually(t, "the process to be gone", func() bool { return !alive(s.PID) })
	b.d = b.Open(t, b.dir)
	if s := b.watch(t).next(t); s.ID != spec.ID || s.ExitCode != 5 {
		t.Errorf("Watch yielded %+v, want exit code 5", s)
	}
	if s := b.exited(t, spec.ID); s.ExitCode != 5 || s.FinishedAt.IsZero() {
		t.Errorf("List has %+v, want exit code 5 and a time", s)
	}
	b.printed(t, spec.ID, "ready")
}

// watcher collects what Watch yields.
type watcher struct{ c chan runtime.Status }

func (b *bench) watch(t *testing.T) *watcher {
	t.Helper()
	w := &watcher{make(chan runtime.Status, 100)}
	ctx, cancel := context.WithCancel(t.Context())
	d := b.d
	var wg sync.WaitGroup
	wg.Go(func() {
		for s := range d.Watch(ctx) {
			w.c <- s
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return w
}

func (w *watcher) next(t *testing.T) runtime.Status {
	t.Helper()
	select {
	case s := <-w.c:
		return s
	case <-time.After(patience):
		t.Fatal("Watch yielded nothing")
		return runtime.Status{}
	}
}
