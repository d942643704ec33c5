// Command cluster shows the figures that the parts of make bench-cluster have written to a file, one JSON object a line, as a table.
//
//	cluster -figures file [-json copy]
//
// A figure that misses its limit is named at the end.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"vortex/bench/report"
)

func main() { report.Main("cluster", run) }

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := report.NewFlags("cluster", "none")
	path := flags.String("figures", "", "the file with the figures")
	if err := flags.Parse(args); err != nil {
		return err
	}
	text, err := os.ReadFile(*path)
	if err != nil {
		return fmt.Errorf("read figures: %w", err)
	}
	var r report.Report
	for lines := json.NewDecoder(bytes.NewReader(text)); ; {
		var f report.Figure
		err := lines.Decode(&f)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read %s: expected figures as JSON objects: %w", *path, err)
		}
		r.Add(f)
	}
	return r.Run(ctx, out, flags)
}
