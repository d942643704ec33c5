package meter

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// shown collects one Responses.
type shown struct{ responses *Responses }

var shownDesc = prometheus.NewDesc("x_seconds", "X.", []string{"route", "code"}, nil)

func (s shown) Describe(ch chan<- *prometheus.Desc) { ch <- shownDesc }
func (s shown) Collect(ch chan<- prometheus.Metric) { s.responses.Collect(ch, shownDesc, "web") }

func TestResponsesByClass(t *testing.T) {
	t.Parallel()
	r := &Responses{}
	for _, ms := range []int{0, 1, 1, 300} {
		r.Observe(200, time.Duration(ms)*time.Millisecond)
	}
	r.Observe(503, time.Hour)
	r.Observe(499, time.Millisecond)
	r.Observe(0, time.Second)
	r.Observe(700, time.Second)
	(*Responses)(nil).Observe(200, 0)
	registry := prometheus.NewRegistry()
	registry.MustRegister(shown{r})
	families, err := registry.Gather()
	if err != nil || len(families) != 1 {
		t.Fatal(families, err)
	}
	got := map[string][3]float64{}
	for _, m := range families[0].GetMetric() {
		h := m.GetHistogram()
		var below float64
		for _, b := range h.GetBucket() {
			if b.GetUpperBound() == 0.002048 {
				below = float64(b.GetCumulativeCount())
			}
		}
		got[m.GetLabel()[0].GetValue()] = [3]float64{float64(h.GetSampleCount()), h.GetSampleSum(), below}
	}
	want := map[string][3]float64{"2xx": {4, 0.302, 3}, "4xx": {1, 0.001, 1}, "5xx": {1, 3600, 0}}
	for class, w := range want {
		if got[class] != w {
			t.Errorf("%s: %v, want %v", class, got[class], w)
		}
	}
	if len(got) != 3 || strings.Contains(families[0].String(), "1xx") {
		t.Errorf("classes %v", got)
	}
}

func BenchmarkResponses(b *testing.B) {
	r := &Responses{}
	for b.Loop() {
		r.Observe(200, 700*time.Microsecond)
	}
}
