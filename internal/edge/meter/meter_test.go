package meter

import (
	"math"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestWindowCountsTheLastSecond(t *testing.T) {
	t.Parallel()
	var w Window
	for i := range 1000 { // 200 a second for five seconds
		w.Add(int64(i) * int64(5*time.Millisecond))
	}
	for at, want := range map[time.Duration]uint32{
		5 * time.Second: 200, 5500 * time.Millisecond: 100, 6 * time.Second: 0, time.Hour: 0,
	} {
		if got := w.Count(int64(at)); got != want {
			t.Errorf("at %v: %d, want %d", at, got, want)
		}
	}
}

func TestWindowIsSmooth(t *testing.T) {
	t.Parallel()
	var w Window
	for now := time.Duration(0); now < 10*time.Second; now += time.Millisecond {
		w.Add(int64(now))
		if n := w.Count(int64(now)); now > 2*time.Second && (n < 990 || n > 1010) {
			t.Fatalf("at %v: %d of 1000 a second", now, n)
		}
	}
}

func TestWindowLosesNothingUnderContention(t *testing.T) {
	t.Parallel()
	var w Window
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 1000 {
				w.Add(int64(i%9) * int64(slotLength))
			}
		})
	}
	wg.Wait()
	if got := w.Count(int64(9 * slotLength)); got != 8000 {
		t.Errorf("%d, want 8000", got)
	}
}

func TestHistogramBucketsHoldWhatTheySay(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		us := rapid.Uint64Range(0, maximum-1).Draw(t, "us")
		b := bucketOf(us)
		if us >= upperBound(b) || b > 0 && us < upperBound(b-1) {
			t.Fatalf("%d µs are in bucket %d, below %d", us, b, upperBound(b))
		}
	})
}

func TestQuantiles(t *testing.T) {
	t.Parallel()
	a := &App{}
	for ms := 1; ms <= 1000; ms++ {
		a.Answered(0, 200, time.Duration(ms)*time.Millisecond)
	}
	s := a.Sample(0)
	for _, q := range []struct{ got, want float64 }{{s.P50, 500}, {s.P95, 950}} {
		if math.Abs(q.got-q.want)/q.want > 0.07 {
			t.Errorf("quantile %.0f ms, want about %.0f", q.got, q.want)
		}
	}
	for range latencyPasses {
		s = a.Sample(0)
	}
	if s.P95 != 0 {
		t.Errorf("p95 is %.0f ms long after the last request", s.P95)
	}
}
