package harness

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Load sends requests at a fixed rate, whether or not earlier ones were answered, so that a stall shows in the
// latencies instead of lowering the rate.
type Load struct {
	URL  string
	Host string // the Host header; "" is the URL's
	Rate int    // requests a second
}

// Result is what became of the requests of a Load.
type Result struct {
	Sent, OK  int
	Failures  []string // the first few, in words
	Failed    int
	Latencies []time.Duration // of the answered ones, sorted
}

const (
	keptFailures   = 5
	requestTimeout = 30 * time.Second
	idleConns      = 512
)

// Percentile returns the latency that share p, from 0 to 1, of the answered requests did not exceed.
func (r Result) Percentile(p float64) time.Duration { return Percentile(r.Latencies, p) }

// Percentile returns the value that share p, from 0 to 1, of sorted values does not exceed.
func Percentile(sorted []time.Duration, p float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(p*float64(len(sorted))), len(sorted)-1)]
}

// Run sends requests until ctx ends, and returns when all were answered.
func (l Load) Run(ctx context.Context) Result {
	transport := &http.Transport{MaxIdleConnsPerHost: idleConns}
	defer transport.CloseIdleConnections()
	hc := &http.Client{Transport: transport, Timeout: requestTimeout}
	var mu sync.Mutex
	var result Result
	var wg sync.WaitGroup
	start := time.Now()
	for ctx.Err() == nil {
		due := start.Add(time.Duration(result.Sent) * time.Second / time.Duration(l.Rate))
		select {
		case <-ctx.Done():
			continue
		case <-time.After(time.Until(due)):
		}
		result.Sent++
		wg.Go(func() {
			err := l.one(hc)
			took := time.Since(due)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				result.OK++
				result.Latencies = append(result.Latencies, took)
				return
			}
			result.Failed++
			if len(result.Failures) < keptFailures {
				result.Failures = append(result.Failures, err.Error())
			}
		})
	}
	wg.Wait()
	slices.Sort(result.Latencies)
	return result
}

// one sends one request; any answer but 2xx is a failure.
func (l Load) one(hc *http.Client) error {
	req, err := http.NewRequest(http.MethodGet, l.URL, nil) //nolint:noctx // requests outlive the load's context, so that none is lost at its end
	if err != nil {
		return err
	}
	req.Host = l.Host
	resp, err := hc.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("answered %s", resp.Status)
	}
	return nil
}
