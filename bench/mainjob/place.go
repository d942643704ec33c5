package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"vortex"
	"vortex/bench/report"
)

// placement is how long one start of an instance took.
type placement struct {
	wanted time.Duration // from the wish for it to running
	placed time.Duration // from its placement to running
}

// measurePlace measures the start of one instance from a warm image beside docker and runc, in turns. Ours ends when
// the record that says so has come out of the store at a client; the network, the hosts file and the log are set up by then.
func (b *bench) measurePlace(ctx context.Context) (err error) {
	dock, err := openDocker(ctx, b.hello)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dock.close(ctx)) }()
	run, err := openRunc(ctx, b.hello)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, run.close()) }()
	l, err := b.openWithImage(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	if err := l.deploy(ctx, app("place", nil, manual(0))); err != nil {
		return err
	}

	var wanted, placed, docks, runs []time.Duration
	for i := range b.warmUp + b.places {
		p, err := l.placeOne(ctx, "place")
		if err != nil {
			return err
		}
		d, err := dock.start(ctx)
		if err != nil {
			return err
		}
		r, err := run.start(ctx)
		if err != nil {
			return err
		}
		if i < b.warmUp {
			continue
		}
		wanted, placed = append(wanted, p.wanted), append(placed, p.placed)
		docks, runs = append(docks, d), append(runs, r)
	}
	b.compare("main/place_to_running", placed, "docker run -d", docks, 0.25)
	b.compare("main/place_to_running", placed, "runc run -d", runs, 1.5)
	b.compare("main/wanted_to_running", wanted, "docker run -d", docks, 0)
	b.saySlowest(placed, docks, runs)
	return nil
}

// saySlowest tells what the peers took in the rounds in which we took longest: a machine that was busy slows down all three.
func (b *bench) saySlowest(placed, docks, runs []time.Duration) {
	const shown = 3
	rounds := make([]int, len(placed))
	for i := range rounds {
		rounds[i] = i
	}
	slices.SortFunc(rounds, func(i, j int) int { return cmp.Compare(placed[j], placed[i]) })
	for _, i := range rounds[:min(shown, len(rounds))] {
		b.say("slow start in round %d: %s; docker %s, runc %s", i, placed[i].Round(time.Millisecond), docks[i].Round(time.Millisecond), runs[i].Round(time.Millisecond))
	}
}

// placeOne scales an app from 0 to 1 and back.
func (l *live) placeOne(ctx context.Context, name string) (placement, error) {
	from := l.changes.mark()
	if err := l.scale(ctx, name, 1); err != nil {
		return placement{}, err
	}
	running, err := l.changes.next(ctx, from, "the instance runs", runningOf(name))
	if err != nil {
		return placement{}, err
	}
	id := vortex.Containers.ID(running.Key)
	key := func(want string) func(change) bool { return func(ch change) bool { return ch.Key == want } }
	wanted, err := l.changes.next(ctx, from, "the instance is wanted", key(vortex.Instances.Key(id)))
	if err != nil {
		return placement{}, err
	}
	placed, err := l.changes.next(ctx, from, "the instance is placed", key(vortex.Placements.Key(id)))
	if err != nil {
		return placement{}, err
	}
	if err := l.scale(ctx, name, 0); err != nil {
		return placement{}, err
	}
	_, err = l.changes.next(ctx, from, "the instance is gone", func(ch change) bool { return ch.Deleted && ch.Key == running.Key })
	if err != nil {
		return placement{}, fmt.Errorf("scale to 0: %w", err)
	}
	return placement{running.at.Sub(wanted.at), running.at.Sub(placed.at)}, nil
}

// compare adds the p50 and the p99 of ours beside a peer's; rounds[i] of both were measured one after the other.
func (b *bench) compare(name string, ours []time.Duration, peer string, theirs []time.Duration, limit float64) {
	own, other := millis(ours), millis(theirs)
	ratios := ratiosOf(own, other)
	b.report.Add(report.Figure{
		Name: name + "/p50", Value: report.Percentile(own, 0.5), Unit: "ms", Peer: peer, PeerValue: report.Percentile(other, 0.5),
		RatioLow: report.Percentile(ratios, 0.25), RatioHigh: report.Percentile(ratios, 0.75), Limit: limit, Samples: len(own),
	})
	b.report.Add(report.Figure{
		Name: name + "/p99", Value: report.Percentile(own, 0.99), Unit: "ms", Peer: peer, PeerValue: report.Percentile(other, 0.99),
		Limit: limit, Samples: len(own),
	})
}

// ratiosOf divides round by round.
func ratiosOf(ours, theirs []float64) []float64 {
	ratios := make([]float64, len(ours))
	for i := range ours {
		ratios[i] = ours[i] / theirs[i]
	}
	return ratios
}
