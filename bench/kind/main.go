// Command kind measures the state store: beside etcd where etcd does the same, and by itself where it does not.
//
//	kind -etcd PATH -engine-bench PATH [-postgres URL -kine PATH] [-short] [-json PATH] [-only put,get,query,watch,memory,inprocess,postgres]
//
// Everything is measured on this machine in one run: the built vortex with agent and edge switched off and etcd as a process of its
// own, each in its default settings with its data on the same disk, taking turns; the load comes from this process. bench/kind.sh
// builds the programs. It removes what it made, also when it is interrupted. It exits with 1 only when something
// could not be measured: a figure that misses its limit is marked in the table.
package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"vortex/bench/report"
)

func main() { report.Main("bench-kind", run) }

// sizes say how much is measured.
type sizes struct {
	rounds  int
	round   time.Duration // of one server at one number of clients
	warmUp  time.Duration
	queried []int // records of each store that is queried
	queries int   // calls a round
	watched time.Duration
	records int // of the memory figure
}

var (
	full = sizes{
		rounds: 5, round: 2 * time.Second, warmUp: time.Second, queried: []int{1000, 10_000, 100_000}, queries: 1000,
		watched: 5 * time.Second, records: 1_000_000,
	}
	brief = sizes{
		rounds: 2, round: 700 * time.Millisecond, warmUp: 300 * time.Millisecond, queried: []int{1000, 10_000}, queries: 200,
		watched: 2 * time.Second, records: 50_000,
	}
)

// bench is one run.
type bench struct {
	sizes

	etcd        string // path of the etcd server
	postgres    string // URL of a PostgreSQL server without a database; "" for none
	kine        string // path of kine
	engineBench string // path of the compiled benchmarks of internal/kind
	report      report.Report
	out         io.Writer
}

// run measures everything and writes the table to out. Whatever could be measured is shown, also when something else failed.
func run(ctx context.Context, args []string, out io.Writer) error {
	flags := report.NewFlags("kind", "put, get, query, watch, memory, inprocess, postgres")
	etcd := flags.String("etcd", "", "path of the etcd server")
	postgres := flags.String("postgres", "", "URL of a PostgreSQL server, without a database")
	kine := flags.String("kine", "", "path of kine")
	engineBench := flags.String("engine-bench", "", "path of the compiled benchmarks of internal/kind")
	if err := flags.Parse(args); err != nil {
		return err
	}
	b := &bench{sizes: full, etcd: *etcd, postgres: *postgres, kine: *kine, engineBench: *engineBench, out: out}
	if flags.Short {
		b.sizes = brief
	}
	return b.report.Run(ctx, out, flags,
		report.Part{Name: "put", Measure: b.measurePut},
		report.Part{Name: "get", Measure: b.measureGet},
		report.Part{Name: "query", Measure: b.measureQuery},
		report.Part{Name: "watch", Measure: b.measureWatch},
		report.Part{Name: "memory", Measure: b.measureMemory},
		report.Part{Name: "inprocess", Measure: b.measureInProcess},
		report.Part{Name: "postgres", Measure: b.measurePostgres},
	)
}

// say writes a line for people.
func (b *bench) say(format string, args ...any) {
	_, _ = fmt.Fprintf(b.out, format+"\n", args...)
}
