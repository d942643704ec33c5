package main

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestReadWrk(t *testing.T) {
	const good = "Running 1m test @ http://127.0.0.1:1\n  1 threads and 64 connections\n  123456 requests in 3.00s, 153.00MB read\nRequests/sec:  41152.00\n"
	got, err := readWrk(good)
	if err != nil || got.requests != 123456 || got.took != 3*time.Second {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{
		"", "  0 requests in 3.00s, 0.00B read\n",
		good + "  Non-2xx or 3xx responses: 7\n", good + "  Socket errors: connect 0, read 3, write 0, timeout 0\n",
	} {
		if _, err := readWrk(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestBestOfEachRound(t *testing.T) {
	values := map[string][]float64{"a": {1, 5}, "b": {2, 4}}
	if diff := cmp.Diff([]float64{1, 4}, lowest(values, "a", "b")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]float64{2, 5}, highest(values, "a", "b")); diff != "" {
		t.Error(diff)
	}
}

func TestEveryProxyComesFirstOnce(t *testing.T) {
	a, b := &proxy{}, &proxy{}
	for round, first := range map[int]*proxy{-1: b, 0: a, 1: b, 2: a} {
		if got := rotated([]*proxy{a, b}, round); got[0] != first || len(got) != 2 {
			t.Errorf("round %d", round)
		}
	}
}
