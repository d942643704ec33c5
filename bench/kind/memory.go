package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"vortex/bench/process"
	"vortex/bench/report"
)

const (
	residentLimit = 1500 // MB
	startLimit    = 15   // seconds
	settleTime    = 5 * time.Second
)

// measureMemory measures what a server with many records has in memory, when they were written and after a
// restart, and how long the restart takes.
func (b *bench) measureMemory(ctx context.Context) (err error) {
	s, err := startVortex(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := fill(ctx, s, b.records); err != nil {
		return err
	}
	name := fmt.Sprintf("kind/memory/%d_records/", b.records)
	if err := b.resident(ctx, s, name+"written"); err != nil {
		return err
	}
	if err := s.Stop(); err != nil {
		return err
	}
	began := time.Now()
	if err := s.Restart(ctx); err != nil {
		return err
	}
	conn, err := s.dial()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if err := s.client(conn).get(ctx, key(b.records-1), true); err != nil {
		return err
	}
	b.report.Add(report.Figure{Name: name + "restart", Unit: "s", Value: time.Since(began).Seconds(), Limit: startLimit, Samples: 1})
	return b.resident(ctx, s, name+"restarted")
}

// resident adds what the server has in memory once it has settled.
func (b *bench) resident(ctx context.Context, s server, name string) error {
	if err := sleep(ctx, settleTime); err != nil {
		return err
	}
	m, err := process.ReadMemory(s.pid())
	if err != nil {
		return err
	}
	b.report.Add(report.Figure{Name: name + "/resident", Unit: "MB", Value: m.Resident, Limit: residentLimit, Samples: 1})
	b.report.Add(report.Figure{Name: name + "/resident_anonymous", Unit: "MB", Value: m.Anonymous, Samples: 1})
	b.report.Add(report.Figure{Name: name + "/resident_file", Unit: "MB", Value: m.File, Samples: 1})
	return nil
}
