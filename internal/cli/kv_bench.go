package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"vortex/client"
	"vortex/internal/cli/load"
)

// benchFlags are the flags of kv bench that are no field of the load.
type benchFlags struct {
	modes []string
	query string
}

func (a *cli) kvBenchCommand() *cobra.Command {
	var l load.Load
	var flags benchFlags
	cmd := &cobra.Command{
		Use: "bench", Short: "Measure how fast the store answers",
		Long: "Put load on the store and print how many operations a second it did, how long they took and how many failed. " +
			"All records are below a prefix of its own, which is removed at the end and on Ctrl-C; the history grows by them.\n\n" +
			"The modes are put, get, get-snapshot (from memory, maybe a little old), mixed (nine gets to a put), query (of existing records), and watch: " +
			"how long after its put a change reaches each of --clients watchers.",
		Example: "  vortex kv bench --clients 32 --size 1024 --duration 30s\n" +
			"  vortex kv bench --mode put,get,watch --count 10000 -o json\n" +
			"  vortex kv bench --mode put --rate 500",
		Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := flags.complete(&l); err != nil {
				return err
			}
			return a.bench(cmd.Context(), &l)
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&flags.modes, "mode", []string{"put", "get"}, "what to do, one after the other: put, get, get-snapshot, mixed, query, watch")
	f.IntVarP(&l.Clients, "clients", "c", 8, "how many connections work at a time") //nolint:mnd // enough to keep a small server busy
	f.IntVar(&l.Size, "size", 256, "bytes in a value")                              //nolint:mnd // a typical record
	f.IntVar(&l.Keys, "keys", 1000, "how many records to use")                      //nolint:mnd // a small cluster
	f.IntVarP(&l.Count, "count", "n", 0, "stop each mode after so many operations")
	f.DurationVarP(&l.Duration, "duration", "d", 0, "stop each mode after this long (default 5s without --count)")
	f.IntVar(&l.Rate, "rate", 0, "operations a second, timed from when each was due; 0 is as many as come, and 100 for watch")
	f.StringVar(&flags.query, "query", "ContainerRecord.status=Running", "TYPE.FIELD=VALUE that --mode query looks for")
	return cmd
}

// complete fills in what the flags say about the load.
func (b benchFlags) complete(l *load.Load) error {
	const usual = 5 * time.Second
	if l.Count == 0 && l.Duration == 0 {
		l.Duration = usual
	}
	for _, m := range b.modes {
		l.Modes = append(l.Modes, load.Mode(m))
	}
	typeName, rest, ok := strings.Cut(b.query, ".")
	if !ok || typeName == "" {
		return errUsage("--query: expected TYPE.FIELD=VALUE, got %q", b.query)
	}
	filter, err := fieldValue(rest)
	l.Type, l.Filter = typeName, filter
	return err
}

// bench runs the load and prints what it showed, also when it was interrupted.
func (a *cli) bench(ctx context.Context, l *load.Load) error {
	t, err := a.resolve()
	if err != nil {
		return err
	}
	l.Open = func() (*client.Kind, error) { return client.OpenKind(t.store(), t.token, t.tls) }
	l.Started = func(m load.Mode) { a.note("%s: %d clients, %d keys of %s", m, l.Clients, l.Keys, size(uint64(l.Size))) } //nolint:gosec // validated
	results, err := l.Run(ctx)
	if len(results) > 0 {
		if err := a.showBench(results); err != nil {
			return err
		}
	}
	return err
}

// kvBench is a result as programs read it.
type kvBench struct {
	Mode       string  `json:"mode"`
	Operations int     `json:"operations"`
	Errors     int     `json:"errors"`
	Seconds    float64 `json:"seconds"`
	Rate       float64 `json:"rate"`
	P50        float64 `json:"p50_ms"`
	P95        float64 `json:"p95_ms"`
	P99        float64 `json:"p99_ms"`
	Max        float64 `json:"max_ms"`
	FirstError string  `json:"first_error,omitempty"`
}

func kvBenchOf(r load.Result) kvBench {
	out := kvBench{
		Mode: r.Name, Operations: r.Operations, Errors: r.Errors, Seconds: r.Took.Seconds(), Rate: r.Rate(),
		P50: milliseconds(r.P50), P95: milliseconds(r.P95), P99: milliseconds(r.P99), Max: milliseconds(r.Max),
	}
	if r.First != nil {
		out.FirstError = r.First.Error()
	}
	return out
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func (a *cli) showBench(results []load.Result) error {
	rows := make([]kvBench, len(results))
	for i, r := range results {
		rows[i] = kvBenchOf(r)
		if r.First != nil && r.Operations > 0 { // of none the command fails with it
			a.note("%s: the first of %d errors: %s", r.Name, r.Errors, r.First)
		}
	}
	ms := func(head string, of func(kvBench) float64) column[kvBench] {
		return column[kvBench]{head, false, func(r kvBench) string { return fmt.Sprintf("%.2f ms", of(r)) }}
	}
	return show(a, list[kvBench]{
		items: rows, object: rows, name: func(r kvBench) string { return r.Mode },
		columns: []column[kvBench]{
			{"MODE", false, func(r kvBench) string { return r.Mode }},
			{"RATE", false, func(r kvBench) string { return fmt.Sprintf("%.0f/s", r.Rate) }},
			ms("P50", func(r kvBench) float64 { return r.P50 }),
			ms("P95", func(r kvBench) float64 { return r.P95 }),
			ms("P99", func(r kvBench) float64 { return r.P99 }),
			ms("MAX", func(r kvBench) float64 { return r.Max }),
			{"ERRORS", false, func(r kvBench) string { return strconv.Itoa(r.Errors) }},
			{"OPERATIONS", true, func(r kvBench) string { return strconv.Itoa(r.Operations) }},
			{"TIME", true, func(r kvBench) string { return fmt.Sprintf("%.1fs", r.Seconds) }},
		},
	})
}
