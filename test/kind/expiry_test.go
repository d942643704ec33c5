package kind

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	kindpb "vortex/proto/kind"
	"vortex/test/harness"
)

const (
	brief       = 10_000                // records that expire
	briefBatch  = 500                   // of them in one transaction
	lateBound   = 50 * time.Millisecond // after their time a watcher knows
	grossBound  = 20 * time.Second      // what fails on the busiest machine too
	aheadOfTime = 3 * time.Second       // enough to write them all before the first one expires
)

// TestExpiry lets ten thousand records expire at random times within some seconds, and then as many in one moment, which takes a
// hundred transactions: no reader sees one after its time, but watchers learn of the last ones later.
func TestExpiry(t *testing.T) {
	for name, c := range map[string]struct{ spread, bound time.Duration }{
		"Spread": {4 * time.Second, lateBound},
		"AtOnce": {time.Millisecond, grossBound},
	} {
		t.Run(name, func(t *testing.T) {
			v := serve(t, harness.Options{Args: []string{"--kind-anonymous", "full"}})
			kind := connect(t, v)
			ends := watchEnds(t, kind)
			due := putBrief(t, kind, brief, aheadOfTime, c.spread)
			reads := readAround(t, kind, due)
			seen := map[string]time.Time{}
			eventually(t, "every record's end is seen", func() bool {
				for {
					select {
					case e := <-ends:
						seen[e.key] = e.at
					default:
						return len(seen) == brief
					}
				}
			})
			reads()
			judgeLateness(t, due, seen, c.bound)
			eventually(t, "the records are gone from memory too", func() bool { return countBrief(t, kind) == 0 })
		})
	}
}

// end is a deletion as a watcher saw it.
type end struct {
	key string
	at  time.Time
}

// watchEnds follows deletions of brief records from now on.
func watchEnds(t *testing.T, kind kindpb.KindServiceClient) <-chan end {
	t.Helper()
	prefix := "brief:"
	stream, err := kind.Watch(t.Context(), &kindpb.WatchRequest{KeyPrefix: &prefix})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Header(); err != nil {
		t.Fatal(err)
	}
	ends := make(chan end, 2*brief)
	go func() {
		for {
			ev, err := stream.Recv()
			if err != nil {
				return
			}
			if ev.GetOperationType() == "DELETE" {
				ends <- end{ev.GetKey(), time.Now()}
			}
		}
	}()
	return ends
}

// putBrief writes records that expire between after and after+spread from now, and returns when each does.
func putBrief(t *testing.T, kind kindpb.KindServiceClient, count int, after, spread time.Duration) map[string]time.Time {
	t.Helper()
	first := time.Now().Add(after)
	for from := 0; from < count; from += briefBatch {
		var txn kindpb.TxnRequest
		for n := range min(briefBatch, count-from) {
			ttl := uint64(max(time.Until(first)+rand.N(spread), time.Millisecond).Milliseconds())
			put := &kindpb.PutRequest{Key: fmt.Sprintf("brief:%d", from+n), Value: []byte("x"), TtlMs: &ttl}
			txn.Operations = append(txn.Operations, &kindpb.Operation{Operation: &kindpb.Operation_Put{Put: put}})
		}
		if resp, err := kind.Txn(t.Context(), &txn); err != nil || !resp.GetSuccess() {
			t.Fatalf("put: %v, %v", resp, err)
		}
	}
	due := map[string]time.Time{}
	for _, rec := range scanBrief(t, kind) {
		due[rec.GetKey()] = time.UnixMilli(int64(rec.GetExpiresAt()))
	}
	if len(due) != count {
		t.Fatalf("%d of %d records are there before the first expires", len(due), count)
	}
	return due
}

func scanBrief(t *testing.T, kind kindpb.KindServiceClient) []*kindpb.Record {
	t.Helper()
	resp, err := kind.PrefixScan(t.Context(), &kindpb.PrefixScanRequest{Prefix: "brief:"})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetRecords()
}

func countBrief(t *testing.T, kind kindpb.KindServiceClient) int {
	t.Helper()
	return len(scanBrief(t, kind))
}

// readAround reads records at about the time they expire: one that was sent before its time was up and answered before it finds
// the record, one that was sent after it does not. The returned function waits for the readers and reports.
func readAround(t *testing.T, kind kindpb.KindServiceClient, due map[string]time.Time) (wait func()) {
	t.Helper()
	var keys []string
	for key := range due {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b string) int { return due[a].Compare(due[b]) })
	var wg sync.WaitGroup
	var found, gone atomic.Int64
	const readers = 4
	for r := range readers {
		wg.Go(func() {
			for n := r; n < len(keys); n += readers {
				key := keys[n]
				moment := due[key].Add(time.Duration(rand.IntN(21)-10) * time.Millisecond)
				pause(t.Context(), time.Until(moment))
				before := time.Now()
				_, err := kind.Get(t.Context(), &kindpb.GetRequest{Key: key, Consistency: kindpb.Consistency_SNAPSHOT})
				after := time.Now()
				switch {
				case err == nil && !before.Before(due[key]):
					t.Errorf("%s was read %s after its time", key, before.Sub(due[key]))
				case err == nil:
					found.Add(1)
				case status.Code(err) != codes.NotFound:
					t.Errorf("read %s: %v", key, err)
				case after.Before(due[key]):
					t.Errorf("%s was gone %s before its time", key, due[key].Sub(after))
				default:
					gone.Add(1)
				}
			}
		})
	}
	return func() {
		wg.Wait()
		t.Logf("%d reads within 10 ms of a record's time: %d found it before, %d did not find it after", found.Load()+gone.Load(), found.Load(), gone.Load())
	}
}

// judgeLateness reports how late watchers learned of each end; the bound counts where timings are judged.
func judgeLateness(t *testing.T, due, seen map[string]time.Time, bound time.Duration) {
	t.Helper()
	late := make([]time.Duration, 0, len(due))
	for key, at := range due {
		if seen[key].Before(at) {
			t.Errorf("%s ended %s before its time", key, at.Sub(seen[key]))
		}
		late = append(late, seen[key].Sub(at))
	}
	slices.Sort(late)
	p99, longest := harness.Percentile(late, 0.99), late[len(late)-1]
	t.Logf("%d records expired; watchers knew after p50 %s, p99 %s, max %s", len(due), harness.Percentile(late, 0.5), p99, longest)
	if !strict() {
		bound = grossBound
	}
	if longest > bound {
		t.Errorf("a record's end was seen %s after its time; at most %s", longest, bound)
	}
}

// TestNothingExpiredComesBack kills the server while records expire, starts it when others have expired meanwhile, and once more.
func TestNothingExpiredComesBack(t *testing.T) {
	v := serve(t, harness.Options{Args: []string{"--kind-anonymous", "full"}})
	due := putBrief(t, connect(t, v), brief/5, time.Second, 3*time.Second)
	started := time.Now()
	for _, at := range []time.Duration{1500 * time.Millisecond, 2500 * time.Millisecond} {
		pause(t.Context(), time.Until(started.Add(at)))
		v.Kill()
		pause(t.Context(), 500*time.Millisecond) // some expire while nobody is there
		if err := v.Restart(context.Background()); err != nil {
			t.Fatal(err)
		}
		before := time.Now()
		there := map[string]bool{}
		for _, rec := range scanBrief(t, connect(t, v)) {
			there[rec.GetKey()] = true
			if !due[rec.GetKey()].After(before) {
				t.Errorf("%s came back %s after its time", rec.GetKey(), before.Sub(due[rec.GetKey()]))
			}
		}
		after := time.Now()
		for key, moment := range due {
			if moment.After(after) && !there[key] {
				t.Errorf("%s is missing %s before its time", key, moment.Sub(after))
			}
		}
		t.Logf("after a restart %d of %d are there", len(there), len(due))
	}
	kind := connect(t, v)
	eventually(t, "those that expired while nobody was there are deleted too", func() bool {
		resp, err := kind.RangeScan(t.Context(), &kindpb.RangeScanRequest{Lo: "brief:", Hi: "brief;"})
		if err != nil {
			t.Fatal(err)
		}
		stat, err := kind.Status(t.Context(), &kindpb.StatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return len(resp.GetRecords()) == 0 && stat.GetRecords() < brief/10
	})
}
