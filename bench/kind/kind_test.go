package main

import (
	"encoding/json"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRecordsAreOfOneSize(t *testing.T) {
	for _, n := range []int{0, 1, 9_999, 9_999_999} {
		for _, generation := range []uint64{0, math.MaxUint64} {
			v := value(n, generation)
			if len(v) != recordSize || !json.Valid(v) {
				t.Errorf("record %d of generation %d has %d bytes: %s", n, generation, len(v), v)
			}
		}
	}
}

func TestNanoseconds(t *testing.T) {
	got := nanoseconds([]byte("cpu: x\nBenchmarkRead/Get/1000 \t 3 \t 386.1 ns/op\t 0 B/op\nBenchmarkRead/Get/1000 \t 4 \t 300 ns/op\nPASS\n"))
	if diff := cmp.Diff(map[string][]float64{"Get/1000": {386.1, 300}}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
