// Command mainjob measures what Vortex is first of all for, beside the programs people use for it today: starting
// containers, scaling, healing, and what it costs to have it run.
//
//	mainjob -hello PATH [-short] [-json PATH]
//
// Everything is measured on this machine in one run: a live `vortex up` with real containers, `docker run`, `docker
// service create` and `runc run` of the same program, taking turns. It needs root, a running dockerd and runc; bench/main.sh
// sees to these. It removes what it made, also when it is interrupted. It exits with 1 only when something could not be
// measured: a figure that misses its limit is marked in the table.
package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"vortex/bench/report"
)

func main() { report.Main("bench-main", run) }

// sizes say how much is measured.
type sizes struct {
	starts    int // of Vortex itself
	places    int
	replicas  int // of the scale-up
	scaleUps  int // rounds of it
	kills     int
	metrics   int
	idle      time.Duration
	settle    time.Duration // before something idle is measured
	warmUp    int           // starts that are not counted
	scaleApps int           // apps the metrics go round
}

var (
	full = sizes{
		starts: 11, places: 50, replicas: 50, scaleUps: 5, kills: 30, metrics: 200,
		idle: 30 * time.Second, settle: 5 * time.Second, warmUp: 3, scaleApps: 20,
	}
	brief = sizes{
		starts: 3, places: 8, replicas: 10, scaleUps: 1, kills: 5, metrics: 40,
		idle: 10 * time.Second, settle: time.Second, warmUp: 1, scaleApps: 10,
	}
)

// bench is one run.
type bench struct {
	sizes

	hello  string // path of the sample program, static
	report report.Report
	out    io.Writer
}

// run measures everything and writes the table to out. Whatever could be measured is shown, also when something else failed.
func run(ctx context.Context, args []string, out io.Writer) error {
	flags := report.NewFlags("mainjob", "start, place, replicas, heal, metric, idle")
	hello := flags.String("hello", "", "path of the sample program, built static")
	if err := flags.Parse(args); err != nil {
		return err
	}
	b := &bench{sizes: full, hello: *hello, out: out}
	if flags.Short {
		b.sizes = brief
	}
	return b.report.Run(ctx, out, flags, // in an order that keeps the machine quiet for the idle ones
		report.Part{Name: "start", Measure: b.measureStart},
		report.Part{Name: "idle", Measure: b.measureIdle},
		report.Part{Name: "place", Measure: b.measurePlace},
		report.Part{Name: "heal", Measure: b.measureHeal},
		report.Part{Name: "metric", Measure: b.measureMetric},
		report.Part{Name: "replicas", Measure: b.measureReplicas},
	)
}

// say writes a line for people.
func (b *bench) say(format string, args ...any) {
	_, _ = fmt.Fprintf(b.out, format+"\n", args...)
}

// percentiles adds the p50 and the p99 of durations as figures; limit holds for the p99.
func (b *bench) percentiles(name string, took []time.Duration, limit float64) {
	values := millis(took)
	b.report.Add(report.Figure{Name: name + "/p50", Value: report.Percentile(values, 0.5), Unit: "ms", Samples: len(values)})
	b.report.Add(report.Figure{Name: name + "/p99", Value: report.Percentile(values, 0.99), Unit: "ms", Limit: limit, Samples: len(values)})
}

// millis turns durations into milliseconds.
func millis(took []time.Duration) []float64 {
	values := make([]float64, len(took))
	for i, d := range took {
		values[i] = float64(d) / float64(time.Millisecond)
	}
	return values
}
