package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"

	"vortex/bench/report"
	kindpb "vortex/proto/kind"
)

// flatLimit is how much slower the largest store may be than the smallest.
const flatLimit = 1.3

// queried is a store of some size that is queried.
type queried struct {
	records int
	server  *vortexServer
	conn    *grpc.ClientConn
	took    []float64 // the median of each round in ms
}

// measureQuery measures a query that finds ten records, among more and more of them.
func (b *bench) measureQuery(ctx context.Context) (err error) {
	var stores []*queried
	defer func() {
		for _, q := range stores {
			err = errors.Join(err, q.conn.Close(), q.server.close())
		}
	}()
	for _, records := range b.queried {
		q, err := openQueried(ctx, records)
		if err != nil {
			return err
		}
		stores = append(stores, q)
	}
	for round := -1; round < b.rounds; round++ {
		for _, q := range stores {
			took, err := q.ask(ctx, b.queries)
			if err != nil {
				return err
			}
			if round >= 0 {
				q.took = append(q.took, took)
			}
		}
	}
	for i, q := range stores {
		name := fmt.Sprintf("kind/query/%d_records/p50", q.records)
		if i == 0 {
			b.report.Add(report.Figure{Name: name, Unit: "ms", Value: report.Percentile(q.took, 0.5), Samples: len(q.took)})
			continue
		}
		c := report.Compared{Ours: q.took, Peer: stores[0].took}
		b.report.Add(c.Figure(name, "ms", fmt.Sprintf("%d records", stores[0].records), "", flatLimit))
	}
	return nil
}

func openQueried(ctx context.Context, records int) (*queried, error) {
	s, err := startVortex(ctx)
	if err != nil {
		return nil, err
	}
	conn, err := s.dial()
	if err == nil {
		err = fill(ctx, s, records)
	}
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return &queried{records: records, server: s, conn: conn}, nil
}

// ask queries n times and returns the median in ms.
func (q *queried) ask(ctx context.Context, n int) (float64, error) {
	client := kindpb.NewKindServiceClient(q.conn)
	took := make([]float64, n)
	const step = 7919 // a prime: other records each time
	for i := range took {
		req := &kindpb.QueryRequest{SchemaType: typeName, Field: "owner", Value: owner(i * step % q.records), Consistency: kindpb.Consistency_SNAPSHOT}
		began := time.Now()
		resp, err := client.Query(ctx, req)
		took[i] = float64(time.Since(began)) / float64(time.Millisecond)
		if err != nil {
			return 0, err
		}
		if len(resp.GetRecords()) != ownedEach {
			return 0, fmt.Errorf("a query found %d records; want %d", len(resp.GetRecords()), ownedEach)
		}
	}
	return report.Percentile(took, 0.5), nil
}
