package report

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestFigureIsJudgedByItsLimit(t *testing.T) {
	for name, c := range map[string]struct {
		figure Figure
		met    bool
	}{
		"no limit":             {Figure{Value: 900}, true},
		"value below":          {Figure{Value: 19.9, Limit: 20}, true},
		"value above":          {Figure{Value: 20.1, Limit: 20}, false},
		"ratio below":          {Figure{Value: 50, Peer: "docker", PeerValue: 210, Limit: 0.25}, true},
		"ratio above":          {Figure{Value: 60, Peer: "docker", PeerValue: 210, Limit: 0.25}, false},
		"median of the rounds": {Figure{Value: 60, Peer: "docker", PeerValue: 210, Ratio: 0.2, Limit: 0.25}, true},
		"higher is better":     {Figure{Value: 5, Limit: 10, Better: "higher"}, false},
	} {
		var r Report
		c.figure.Name = name
		r.Add(c.figure)
		if met := len(r.Missed()) == 0; met != c.met {
			t.Errorf("%s: met is %t, want %t", name, met, c.met)
		}
	}
}

func TestReportShowsFigures(t *testing.T) {
	var r Report
	r.Add(Figure{Name: "main/a", Value: 61.23456, Unit: "ms", Peer: "docker run", PeerValue: 200, Limit: 0.25, Samples: 50})
	r.Add(Figure{Name: "main/b", Value: 12, Unit: "MB", Limit: 120, Samples: 1})
	var table, lines strings.Builder
	if err := r.WriteTable(&table); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"main/a", "61.2 ms", "docker run", "200 ms", "0.306", "**no**", "120 MB", "yes"} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, table.String())
		}
	}
	if err := r.WriteJSON(&lines); err != nil {
		t.Fatal(err)
	}
	first, rest, _ := strings.Cut(lines.String(), "\n")
	var f Figure
	if err := json.Unmarshal([]byte(first), &f); err != nil || f != r.Figures[0] {
		t.Errorf("read %+v back, error %v; want %+v", f, err, r.Figures[0])
	}
	if strings.Contains(rest, "peer") {
		t.Errorf("a figure without a peer has peer fields: %s", rest)
	}
}

func TestPercentile(t *testing.T) {
	values := []float64{5, 1, 4, 2, 3}
	for p, want := range map[float64]float64{0: 1, 0.2: 1, 0.5: 3, 0.99: 5, 1: 5} {
		if got := Percentile(values, p); got != want {
			t.Errorf("percentile %g is %g, want %g", p, got, want)
		}
	}
	if got := Percentile(nil, 0.5); got != 0 {
		t.Errorf("the percentile of nothing is %g", got)
	}
}

func TestComparedIsTheMedianOfRatios(t *testing.T) {
	var c Compared
	for _, r := range [][2]float64{{1, 1}, {2, 1}, {9, 3}} {
		c.Add(r[0], r[1])
	}
	f := c.Figure("x", "ms", "etcd", "", 1.5)
	if f.Value != 2 || f.PeerValue != 1 || f.Ratio != 2 || f.RatioHigh != 3 || f.Met() {
		t.Errorf("%+v", f)
	}
}
