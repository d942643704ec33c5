package report

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// Part is some figures of a benchmark that are measured together.
type Part struct {
	Name    string
	Measure func(context.Context) error
}

// Run measures the parts one after the other, those named in only, comma-separated, or all, and writes the table of what they
// added to r to out and, unless path is empty, as JSON to a file. What could be measured is shown, also when something else failed.
func (r *Report) Run(ctx context.Context, out io.Writer, only, path string, parts ...Part) error {
	err := measure(ctx, out, only, parts)
	_, _ = fmt.Fprintln(out)
	if werr := r.WriteTable(out); werr != nil {
		return errors.Join(err, werr)
	}
	if missed := r.Missed(); len(missed) > 0 {
		_, _ = fmt.Fprintf(out, "\nmissed: %s\n", strings.Join(missed, ", "))
	}
	return errors.Join(err, r.writeFile(path))
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
