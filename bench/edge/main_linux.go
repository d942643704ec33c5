// Command edge measures the load balancer beside the ones that people use instead: nginx and HAProxy, as Debian ships them.
//
//	edge -programs DIR [-short] [-json PATH] [-only http,latency,tcp,udp,flood,idle,kind]
//
// Everything is measured on this machine in one run, each proxy a process of its own in front of the same cheap backend, taking
// turns in an order that rotates. All of them route by host, edit headers, keep figures and limit clients. bench/edge.sh builds the
// programs. It removes what it made, also when it is interrupted. It exits with 1 only when something could not be
// measured: a figure that misses its limit is marked in the table.
package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"vortex/bench/report"
)

func main() { report.Main("bench-edge", run) }

// sizes say how much is measured.
type sizes struct {
	rounds  int
	round   time.Duration // of one proxy
	warmUp  time.Duration
	idle    int           // connections
	routes  int           // while they idle
	settle  time.Duration // before memory is read
	changes int           // of backends in the store
}

var (
	full = sizes{
		rounds: 5, round: 3 * time.Second, warmUp: time.Second,
		idle: 50_000, routes: 10_000, settle: 5 * time.Second, changes: 500,
	}
	brief = sizes{
		rounds: 2, round: 500 * time.Millisecond, warmUp: 200 * time.Millisecond,
		idle: 2000, routes: 1000, settle: time.Second, changes: 100,
	}
)

// bench is one run.
type bench struct {
	sizes

	programs string // where the built programs are
	idleRate int    // requests a second beside connections that idle
	report   report.Report
	out      io.Writer
}

// run measures everything and writes the table to out. Whatever could be measured is shown, also when something else failed.
func run(ctx context.Context, args []string, out io.Writer) error {
	flags := report.NewFlags("edge", "http, latency, tcp, udp, flood, idle, kind")
	programs := flags.String("programs", "", "directory of the built programs piped, backend, bare and reverse")
	rate := flags.Int("idle-rate", 2000, "requests a second beside connections that idle") //nolint:mnd // a default
	if err := flags.Parse(args); err != nil {
		return err
	}
	b := &bench{sizes: full, programs: *programs, idleRate: *rate, out: out}
	if flags.Short {
		b.sizes = brief
	}
	return b.report.Run(ctx, out, flags,
		report.Part{Name: "http", Measure: b.measureHTTP},
		report.Part{Name: "latency", Measure: b.measureLatency},
		report.Part{Name: "tcp", Measure: b.measureTCP},
		report.Part{Name: "udp", Measure: b.measureUDP},
		report.Part{Name: "flood", Measure: b.measureFlood},
		report.Part{Name: "idle", Measure: b.measureIdle},
		report.Part{Name: "kind", Measure: b.measureKind},
	)
}

// say writes a line for people.
func (b *bench) say(format string, args ...any) {
	_, _ = fmt.Fprintf(b.out, format+"\n", args...)
}
