package report

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// Part is some figures of a benchmark that are measured together.
type Part struct {
	Name    string
	Measure func(context.Context) error
}

// Main is the main of a benchmark: it ends at a signal, in good order, and with 1 when something could not be measured.
func Main(name string, run func(ctx context.Context, args []string, out io.Writer) error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, name+":", err)
		os.Exit(1) //nolint:forbidigo // a program of its own
	}
}

// Flags are what every benchmark may be told. A benchmark adds its own.
type Flags struct {
	*flag.FlagSet

	Short bool   // measure less
	JSON  string // path of the figures; "" is none
	Only  string // names of the parts to measure, comma-separated; "" is all
}

// NewFlags returns the flags of a benchmark with such parts.
func NewFlags(name, parts string) *Flags {
	f := &Flags{FlagSet: flag.NewFlagSet(name, flag.ContinueOnError)}
	f.BoolVar(&f.Short, "short", false, "measure less, in under a minute")
	f.StringVar(&f.JSON, "json", "", "also write the figures to this file, one JSON object a line")
	f.StringVar(&f.Only, "only", "", "measure only these, comma-separated: "+parts)
	return f
}

// Run measures the parts one after the other, those that the flags name or all, and writes the table of what they
// added to r to out and, where the flags say so, as JSON to a file. What could be measured is shown, also when something else failed.
func (r *Report) Run(ctx context.Context, out io.Writer, flags *Flags, parts ...Part) error {
	err := measure(ctx, out, flags.Only, parts)
	_, _ = fmt.Fprintln(out)
	if werr := r.WriteTable(out); werr != nil {
		return errors.Join(err, werr)
	}
	if missed := r.Missed(); len(missed) > 0 {
		_, _ = fmt.Fprintf(out, "\nmissed: %s\n", strings.Join(missed, ", "))
	}
	return errors.Join(err, r.writeFile(flags.JSON))
}

func measure(ctx context.Context, out io.Writer, only string, parts []Part) error {
	var errs []error
	for _, part := range parts {
		if only != "" && !strings.Contains(","+only+",", ","+part.Name+",") {
			continue
		}
		began := time.Now()
		if err := part.Measure(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", part.Name, err))
		}
		_, _ = fmt.Fprintf(out, "%-9s took %s\n", part.Name, time.Since(began).Round(time.Second/10))
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

func (r *Report) writeFile(path string) error {
	if path == "" {
		return nil
	}
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("write figures: %w", err)
	}
	return errors.Join(r.WriteJSON(f), f.Close())
}
