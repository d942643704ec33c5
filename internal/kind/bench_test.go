package kind_test

import (
	"fmt"
	"strconv"
	"testing"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/kind/kindtest"
)

// fill puts containers in transactions of 1000; each app has ten of them.
func fill(b *testing.B, s *kind.Store, records int) {
	b.Helper()
	for from := 0; from < records; from += 1000 {
		ops := make([]kind.Op, 0, 1000)
		for n := from; n < from+1000; n++ {
			rec := vortex.ContainerRecord{ID: strconv.Itoa(n), ClientID: fmt.Sprintf("app%d", n/10), Status: vortex.ContainerStatusRunning}
			op, err := kind.PutOp(vortex.Containers, &rec, rec.ID)
			if err != nil {
				b.Fatal(err)
			}
			ops = append(ops, op)
		}
		if _, err := s.Commit(b.Context(), kind.Txn{Ops: ops}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	s := kindtest.Open(b)
	size := 0
	for _, records := range []int{1000, 10_000, 100_000} {
		if size < records {
			fill(b, s, records)
			size = records
		}
		b.Run(fmt.Sprintf("Get/%d", records), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Get("vortex:container:777"); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("View.Get/%d", records), func(b *testing.B) {
			b.ReportAllocs()
			s.View(func(v kind.View) {
				for b.Loop() {
					if _, ok := v.Get("vortex:container:777"); !ok {
						b.Fatal("the record is not there")
					}
				}
			})
		})
		b.Run(fmt.Sprintf("Query/%d", records), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				found, err := s.Query("ContainerRecord", kind.Filter{Field: "client_id", Value: "app77"}, 0, 0)
				if err != nil || len(found) != 10 {
					b.Fatal(len(found), err)
				}
			}
		})
	}
}

func BenchmarkPut(b *testing.B) {
	s := kindtest.Open(b)
	value := make([]byte, 512)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Put(b.Context(), "k", value, 0); err != nil {
			b.Fatal(err)
		}
	}
}
