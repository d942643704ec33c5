package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"

	"vortex/bench/report"
)

const inProcessLimit = 1e6 // reads a second on one core

// measureInProcess runs the store's own benchmarks on one core.
func (b *bench) measureInProcess(ctx context.Context) error {
	args := []string{"-test.run=^$", "-test.bench=^BenchmarkRead$", "-test.cpu=1", "-test.benchtime=200ms", fmt.Sprintf("-test.count=%d", b.rounds)}
	cmd := exec.CommandContext(ctx, b.engineBench, args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("run the store's benchmarks: %w\n%s", err, out)
	}
	took := nanoseconds(out)
	for _, call := range []string{"Get", "View.Get"} {
		ns := took[call+"/100000"]
		if len(ns) == 0 {
			return fmt.Errorf("the store's benchmarks have no %s:\n%s", call, out)
		}
		b.report.Add(report.Figure{
			Name: "kind/inprocess/" + call, Unit: "1/s", Value: 1e9 / report.Percentile(ns, 0.5), Better: "higher",
			Limit: inProcessLimit, Samples: len(ns),
		})
	}
	small := took["Query/1000"]
	for _, records := range []int{10_000, 100_000} {
		c := report.Compared{Ours: took[fmt.Sprintf("Query/%d", records)], Peer: small}
		if len(c.Ours) == 0 || len(c.Ours) != len(c.Peer) {
			return fmt.Errorf("the store's benchmarks have no Query among %d records:\n%s", records, out)
		}
		b.report.Add(c.Figure(fmt.Sprintf("kind/inprocess/Query/%d_records", records), "ns", "1000 records", "", flatLimit))
	}
	return nil
}

// nanoseconds reads the times of the output of Go benchmarks, by the names below the first.
func nanoseconds(out []byte) map[string][]float64 {
	took := map[string][]float64{}
	for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) < 4 || fields[3] != "ns/op" {
			continue
		}
		_, name, _ := strings.Cut(fields[0], "/")
		if ns, err := strconv.ParseFloat(fields[2], 64); err == nil {
			took[name] = append(took[name], ns)
		}
	}
	return took
}
