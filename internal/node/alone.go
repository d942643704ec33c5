package node

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"vortex"
	"vortex/client"
	"vortex/internal/config"
	"vortex/internal/edge/static"
)

// CheckEdge reads the file of an edge that runs alone, and says what it holds and what may be wrong with it now.
func (d Daemon) CheckEdge(ctx context.Context, path string) (client.EdgeSummary, error) {
	file, err := static.Read(path)
	if err != nil {
		return client.EdgeSummary{}, err
	}
	sum := client.EdgeSummary{
		File: path, Listeners: len(file.Listeners), Routes: len(file.Routes), Pools: len(file.Pools), Backends: file.BackendCount(),
	}
	for _, name := range file.Unresolved(ctx, net.DefaultResolver) {
		sum.Warnings = append(sum.Warnings, "the name "+name+" cannot be looked up now; its backends get no requests until it can")
	}
	return sum, nil
}

// RunEdge runs an edge alone until ctx ends, leaves a run file, and calls ready once it serves.
func (d Daemon) RunEdge(ctx context.Context, path string, cfg config.Config, ready func(client.Edge)) error {
	log := d.logger(cfg)
	a := &alone{version: d.Version, started: time.Now().UTC(), log: log}
	a.admin = admin{file: path, dir: d.RuntimeDir, started: a.started, log: log, failed: make(chan error, 1)}
	s, err := static.New(static.Config{File: path, Log: log.With("component", "edge"), Prepare: a.admin.prepare})
	if err != nil {
		return err
	}
	a.static = s
	a.admin.handler = a.handler()
	defer a.admin.close()
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	var loops sync.WaitGroup
	defer loops.Wait()
	defer end(nil)
	if d.Hangup != nil {
		loops.Go(func() { a.reload(ctx, d.Hangup()) })
	}
	loops.Go(func() {
		select {
		case err := <-a.admin.failed:
			end(err)
		case <-ctx.Done():
		}
	})
	loops.Go(func() {
		if s.Ready(ctx) {
			ready(a.status())
		}
	})
	return errors.Join(s.Run(ctx), cause(ctx))
}

// cause is why ctx ended, when that was a failure.
func cause(ctx context.Context) error {
	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// alone is what an edge that runs alone shows of itself.
type alone struct {
	static  *static.Static
	admin   admin
	version string
	started time.Time
	log     *slog.Logger
}

// reload reads the file again at each signal.
func (a *alone) reload(ctx context.Context, signals <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-signals:
			a.static.Reload()
		}
	}
}

// handler is the admin interface. It only shows.
func (a *alone) handler() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(a.static.Edge().Collector(), a)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/edges", func(w http.ResponseWriter, _ *http.Request) {
		answerJSON(w, http.StatusOK, client.EdgeList{Edges: []client.Edge{a.status()}, Total: 1})
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		answerJSON(w, http.StatusOK, map[string]bool{"ok": true})
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		answerJSON(w, http.StatusNotFound, map[string]any{
			"error": "an edge that runs alone does not answer " + r.Method + " " + r.URL.Path + "; it has GET /api/v1/edges, /metrics and /healthz",
			"code":  "NOT_FOUND", "timestamp": time.Now().UTC(),
		})
	})
	return sameSite(mux)
}

// sameSite refuses requests for a name that somebody else may have pointed here, which is how web pages get at what listens on loopback.
func sameSite(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err != nil && host != "localhost" {
			answerJSON(w, http.StatusForbidden, map[string]any{
				"error": "expected an IP or localhost as the host, got " + host, "code": "FORBIDDEN", "timestamp": time.Now().UTC(),
			})
			return
		}
		next.ServeHTTP(w, r)
	})
}

func answerJSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value) //nolint:errchkjson // whoever left does not miss it
}

// status is what the edge is doing now.
func (a *alone) status() client.Edge {
	file, state, st := a.static.File(), a.static.State(), a.static.Edge().Status()
	out := edgeStatus(st)
	out.ID, out.Alone, out.Version, out.StartedAt, out.Live = hostname(), true, a.version, &a.started, true
	names := map[string]string{}
	addrs := a.static.Edge().Addrs()
	for _, l := range file.Listeners {
		names[l.Address] = l.Name
		shown := client.EdgeListener{Name: l.Name, Address: l.Address, Protocol: string(l.Protocol)}
		if l.Protocol == vortex.ListenerProtocolHTTP && len(addrs) > 0 {
			shown.Address, addrs = addrs[0].String(), addrs[1:]
		}
		out.Listeners = append(out.Listeners, shown)
	}
	for i := range out.Routes {
		for j, address := range out.Routes[i].Listeners {
			out.Routes[i].Listeners[j] = names[address]
		}
	}
	out.Config = &client.EdgeConfig{
		File: state.File, LoadedAt: timeOrNil(state.LoadedAt), Reloads: state.Reloads, Refused: state.Refused, RefusedAt: timeOrNil(state.RefusedAt),
	}
	if state.Error != nil {
		out.Config.Error = state.Error.Error()
	}
	return out
}

// hostname names the edge for people.
func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return "localhost"
	}
	return name
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

var (
	configGood = prometheus.NewDesc("vortex_edge_config_last_reload_successful",
		"1 while the file as it stands is in force, 0 when it was refused.", nil, nil)
	configLoaded = prometheus.NewDesc("vortex_edge_config_last_reload_success_timestamp_seconds",
		"When the file in force was taken in.", nil, nil)
	configReloads = prometheus.NewDesc("vortex_edge_config_reloads_total",
		"Files read, by whether they were taken in.", []string{"result"}, nil)
)

// Describe implements prometheus.Collector.
func (a *alone) Describe(ch chan<- *prometheus.Desc) {
	ch <- configGood
	ch <- configLoaded
	ch <- configReloads
}

// Collect implements prometheus.Collector.
func (a *alone) Collect(ch chan<- prometheus.Metric) {
	s := a.static.State()
	good := 1.0
	if s.Error != nil {
		good = 0
	}
	ch <- prometheus.MustNewConstMetric(configGood, prometheus.GaugeValue, good)
	ch <- prometheus.MustNewConstMetric(configLoaded, prometheus.GaugeValue, float64(s.LoadedAt.UnixMilli())/1000)
	ch <- prometheus.MustNewConstMetric(configReloads, prometheus.CounterValue, float64(s.Reloads), "taken")
	ch <- prometheus.MustNewConstMetric(configReloads, prometheus.CounterValue, float64(s.Refused), "refused")
}
