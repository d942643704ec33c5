package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"vortex/test/harness"
)

// traffic is requests that are being sent.
type traffic struct {
	cancel context.CancelFunc
	result chan harness.Result
}

// send sends requests at a rate until end is called.
func (d *demo) send(ctx context.Context, rate int) traffic {
	ctx, cancel := context.WithCancel(ctx)
	t := traffic{cancel: cancel, result: make(chan harness.Result, 1)}
	load := harness.Load{URL: d.vortex.Run.Edge + "/", Host: app + ".localhost", Rate: rate}
	go func() { t.result <- load.Run(ctx) }()
	return t
}

// end stops the sending, waits for the last answers and keeps what became of the requests. A lost one is an error.
func (d *demo) end(t traffic) error {
	t.cancel()
	r := <-t.result
	d.results = append(d.results, r)
	if r.Failed > 0 || r.OK != r.Sent {
		return fmt.Errorf("%d of %d requests were lost: %v", r.Failed, r.Sent, r.Failures)
	}
	return nil
}

// endTraffic stops what was sent all the time.
func (d *demo) endTraffic(context.Context) error {
	err := d.end(d.base)
	d.base = traffic{}
	return err
}

// summary prints the table.
func (d *demo) summary(passed bool) error {
	var sent, failed int
	var latencies []time.Duration
	for _, r := range d.results {
		sent, failed = sent+r.Sent, failed+r.Failed
		latencies = append(latencies, r.Latencies...)
	}
	slices.Sort(latencies)
	d.figures = append(d.figures,
		figure{"requests sent", strconv.Itoa(sent)},
		figure{"requests lost", strconv.Itoa(failed)},
		figure{"latency through the edge, p50", round(harness.Percentile(latencies, 0.5))},
		figure{"latency through the edge, p99", round(harness.Percentile(latencies, 0.99))},
		figure{"longest wait of a request", round(harness.Percentile(latencies, 1))},
	)
	const width = 70
	_, _ = fmt.Fprintln(d.out)
	for _, f := range d.figures {
		_, _ = fmt.Fprintf(d.out, "  %-*s %12s\n", width, f.what, f.value)
	}
	_, _ = fmt.Fprintln(d.out)
	switch {
	case !passed:
		return nil // the error says why
	case failed > 0 || sent == 0:
		return errors.New("requests were lost")
	}
	_, _ = fmt.Fprintf(d.out, "PASSED in %s: nothing lost, nothing left behind\n", round(time.Since(d.began)))
	return nil
}
