// Package report collects a benchmark's figures, judges them by their limits and shows them: a table for people, and one
// JSON object a line for programs.
//
//	r := report.Report{}
//	r.Add(report.Figure{Name: "main/start/p50", Value: 140, Unit: "ms", Limit: 1000})
//	err := r.WriteTable(os.Stdout)
package report

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"text/tabwriter"
)

// Figure is one measured value. With a Peer its limit is one of the ratio, else of the value.
type Figure struct {
	Name      string  `json:"name"`                 // benchmark/figure
	Value     float64 `json:"value"`                //
	Unit      string  `json:"unit"`                 // ms, MB, %
	Peer      string  `json:"peer,omitempty"`       // what it was measured beside
	PeerValue float64 `json:"peer_value,omitempty"` // in Unit
	Ratio     float64 `json:"ratio,omitempty"`      // the median over the rounds when there are several, else Value / PeerValue
	RatioLow  float64 `json:"ratio_low,omitempty"`  // the lower quartile of the rounds' ratios
	RatioHigh float64 `json:"ratio_high,omitempty"` // the upper quartile
	Limit     float64 `json:"limit,omitempty"`      // 0: none, it is there to be known
	Better    string  `json:"better"`               // lower or higher; default lower
	Samples   int     `json:"samples"`
}

// Met reports whether the figure keeps its limit. One without a limit does.
func (f Figure) Met() bool {
	if f.Limit == 0 {
		return true
	}
	judged := f.Value
	if f.Peer != "" {
		judged = f.Ratio
	}
	if f.Better == "higher" {
		return judged >= f.Limit
	}
	return judged <= f.Limit
}

// Report is the figures of a run, in the order they were added. The zero value is empty.
type Report struct{ Figures []Figure }

// Add appends a figure and fills in what follows from its other fields.
func (r *Report) Add(f Figure) {
	if f.Better == "" {
		f.Better = "lower"
	}
	if f.Peer != "" && f.Ratio == 0 && f.PeerValue != 0 {
		f.Ratio = f.Value / f.PeerValue
	}
	f.Value, f.PeerValue, f.Ratio = round(f.Value), round(f.PeerValue), round(f.Ratio)
	f.RatioLow, f.RatioHigh = round(f.RatioLow), round(f.RatioHigh)
	r.Figures = append(r.Figures, f)
}

// Missed returns the names of the figures that miss their limit.
func (r *Report) Missed() []string {
	var names []string
	for _, f := range r.Figures {
		if !f.Met() {
			names = append(names, f.Name)
		}
	}
	return names
}

// WriteTable writes the figures as a table in Markdown.
func (r *Report) WriteTable(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 1, ' ', 0)
	lines := []string{
		"| figure\t| value\t| beside\t| its value\t| ratio\t| quartiles\t| limit\t| samples\t| met\t|",
		"| ---\t| ---\t| ---\t| ---\t| ---\t| ---\t| ---\t| ---\t| ---\t|",
	}
	for _, f := range r.Figures {
		lines = append(lines, f.row())
	}
	for _, line := range lines {
		if _, err := fmt.Fprintln(tw, line); err != nil {
			return fmt.Errorf("write table: %w", err)
		}
	}
	return tw.Flush()
}

// row is a figure's line in the table.
func (f Figure) row() string {
	met, limit := "yes", short(f.Limit)
	switch {
	case f.Limit == 0:
		met, limit = "", ""
	case !f.Met():
		met = "**no**"
	}
	peer, ratio, spread := "", "", ""
	if f.Peer != "" {
		peer, ratio = short(f.PeerValue)+" "+f.Unit, short(f.Ratio)
	} else if f.Limit != 0 {
		limit += " " + f.Unit
	}
	if f.RatioHigh != 0 {
		spread = short(f.RatioLow) + "–" + short(f.RatioHigh)
	}
	return fmt.Sprintf("| %s\t| %s %s\t| %s\t| %s\t| %s\t| %s\t| %s\t| %d\t| %s\t|",
		f.Name, short(f.Value), f.Unit, f.Peer, peer, ratio, spread, limit, f.Samples, met)
}

// WriteJSON writes one JSON object a line.
func (r *Report) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	for _, f := range r.Figures {
		if err := enc.Encode(f); err != nil {
			return fmt.Errorf("write figures: %w", err)
		}
	}
	return nil
}

// Percentile returns the value that share p, from 0 to 1, of values does not exceed; 0 when there are none.
func Percentile(values []float64, p float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	rank := int(math.Ceil(p*float64(len(sorted)))) - 1
	return sorted[min(max(rank, 0), len(sorted)-1)]
}

// significant is how many digits of a figure mean anything.
const significant = 4

func round(x float64) float64 {
	y, err := strconv.ParseFloat(strconv.FormatFloat(x, 'g', significant, 64), 64)
	if err != nil {
		return x
	}
	return y
}

func short(x float64) string {
	if math.Abs(x) >= 1000 {
		return strconv.FormatFloat(x, 'f', 0, 64)
	}
	return strconv.FormatFloat(x, 'g', 3, 64)
}
