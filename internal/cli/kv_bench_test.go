package cli_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"vortex/internal/kind"
	"vortex/internal/kind/kindtest"
)

// scratch returns the keys that benchmarks left in the store.
func (w *world) scratch() (keys []string) {
	for rec := range w.Store.Snapshot().Below("bench:") {
		keys = append(keys, rec.Key)
	}
	return keys
}

type measured struct {
	Mode       string
	Operations int
	Errors     int
	Rate       float64
	P50        float64 `json:"p50_ms"`
	P95        float64 `json:"p95_ms"`
	P99        float64 `json:"p99_ms"`
	Max        float64 `json:"max_ms"`
}

func TestBenchMeasuresEveryModeAndCleansUp(t *testing.T) {
	w := newWorld(t)
	code, out, errOut := w.run(t.Context(), "", "kv", "bench", "--mode", "put,get,get-snapshot,mixed,query,watch",
		"-n", "40", "--clients", "3", "--keys", "20", "--size", "10", "--rate", "2000", "-o", "json")
	var got []measured
	if err := json.Unmarshal([]byte(out), &got); code != 0 || err != nil {
		t.Fatalf("%d %v\n%s%s", code, err, out, errOut)
	}
	want := map[string]int{"put": 40, "get": 40, "get-snapshot": 40, "mixed get": 36, "mixed put": 4, "query": 40, "watch": 3 * 40}
	for _, m := range got {
		if m.Operations != want[m.Mode] || m.Errors != 0 || m.Rate <= 0 || m.P50 <= 0 || m.P50 > m.P95 || m.P95 > m.P99 || m.P99 > m.Max {
			t.Errorf("%+v; want %d operations", m, want[m.Mode])
		}
		delete(want, m.Mode)
	}
	if len(want) > 0 {
		t.Errorf("nothing is told of %v", want)
	}
	if left := w.scratch(); len(left) > 0 {
		t.Errorf("it left %v", left)
	}
}

func TestInterruptedBenchTellsWhatItMeasuredAndCleansUp(t *testing.T) {
	for _, mode := range []string{"put", "watch"} {
		t.Run(mode, func(t *testing.T) {
			w := newWorld(t)
			ctx, interrupt := context.WithCancel(t.Context())
			defer interrupt()
			writes := w.Store.Watch(kind.WatchOptions{Prefixes: []string{"bench:"}})
			defer writes.Close()
			go func() {
				for range 20 {
					if _, err := writes.Next(t.Context()); err != nil {
						return
					}
				}
				interrupt()
			}()
			code, out, errOut := w.run(ctx, "", "kv", "bench", "--mode", mode, "--clients", "2", "-d", "1h")
			if code != 130 || !strings.Contains(out, "P99") || !strings.Contains(out, mode) {
				t.Errorf("%d\n%s%s", code, out, errOut)
			}
			if left := w.scratch(); len(left) > 0 {
				t.Errorf("it left %d records", len(left))
			}
		})
	}
}

func TestBenchTellsWhatFails(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		code int
		want string
		args []string
	}{
		{2, `got "pit"`, []string{"--mode", "pit"}},
		{2, "1 to 10000 clients, got 0", []string{"--clients", "0"}},
		{2, "TYPE.FIELD=VALUE", []string{"--query", "status=Running"}},
		{2, "Nothing", []string{"--mode", "query", "--query", "Nothing.at=all", "-n", "1"}},
		{1, "no store answers", []string{"--kind", "127.0.0.1:1"}},
	} {
		code, _, errOut := w.run(t.Context(), "", append([]string{"kv", "bench", "--keys", "2"}, c.args...)...)
		if code != c.code || !strings.Contains(errOut, c.want) {
			t.Errorf("%v: %d %s; want %d %q", c.args, code, errOut, c.code, c.want)
		}
	}
	if left := w.scratch(); len(left) > 0 {
		t.Errorf("it left %v", left)
	}
}

// TestBenchCountsErrors takes a record away while it is read. Of ten keys, the tenth is the one that one client puts, after
// it has read the others.
func TestBenchCountsErrors(t *testing.T) {
	w := newWorld(t)
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	done := make(chan string, 1)
	go func() {
		_, _, errOut := w.run(ctx, "", "kv", "bench", "--mode", "mixed", "--keys", "10", "--clients", "1", "-d", "1h")
		done <- errOut
	}()
	kindtest.Eventually(t, "its records are there", func() bool { return len(w.scratch()) == 10 })
	first, tenth := w.scratch()[0], w.scratch()[9]
	puts := w.Store.Watch(kind.WatchOptions{Prefixes: []string{tenth}})
	defer puts.Close()
	if _, err := w.Store.Delete(ctx, first); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := puts.Next(ctx); err != nil {
			t.Fatal(err)
		}
	}
	interrupt()
	if errOut := <-done; !strings.Contains(errOut, `mixed get: the first of`) || !strings.Contains(errOut, first) {
		t.Errorf("the missing record is not told: %s", errOut)
	}
}
