package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"vortex"
	"vortex/client"
	"vortex/internal/edge/limit"
	"vortex/internal/election"
	"vortex/internal/kind"
	"vortex/internal/settings"
)

// metrics is the Prometheus exposition of this process.
func (n *Node) metrics() http.Handler {
	return promhttp.HandlerFor(n.registry, promhttp.HandlerOpts{})
}

// collector exposes what the store knows of the cluster.
type collector struct {
	store                            *kind.Store
	instances, apps, perApp, records *prometheus.Desc
}

func newCollector(store *kind.Store) *collector {
	return &collector{
		store:     store,
		instances: prometheus.NewDesc("vortex_active_nodes", "Running instances over all apps.", nil, nil),
		apps:      prometheus.NewDesc("vortex_apps", "Apps declared.", nil, nil),
		perApp:    prometheus.NewDesc("vortex_instances", "Instances of an app by status.", []string{"app", "status"}, nil),
		records:   prometheus.NewDesc("vortex_kind_records", "Records in the state store.", nil, nil),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.instances
	ch <- c.apps
	ch <- c.perApp
	ch <- c.records
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	type key struct{ app, status string }
	counts := map[key]int{}
	running, apps := 0, 0
	c.store.View(func(v kind.View) {
		apps = len(kind.List(v, vortex.Apps))
		for _, e := range kind.List(v, vortex.Containers) {
			counts[key{e.Value.ClientID, string(e.Value.Status)}]++
			if e.Value.Status == vortex.ContainerStatusRunning {
				running++
			}
		}
	})
	gauge := func(desc *prometheus.Desc, value int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(value), labels...)
	}
	gauge(c.instances, running)
	gauge(c.apps, apps)
	gauge(c.records, c.store.Len())
	for k, count := range counts {
		gauge(c.perApp, count, k.app, k.status)
	}
}

// ready tells whether this process can do its work.
func (n *Node) ready(context.Context) []client.Check {
	store, leader := client.Check{Name: "store"}, client.Check{Name: "leader"}
	if err := n.store.Trouble(); err != nil {
		store.Error = err.Error()
	}
	if _, err := n.store.Get(election.LockKey); err != nil {
		leader.Error = "no server leads yet"
	}
	return []client.Check{store, leader}
}

// keptToken returns the token in the file at path, making one when there is none.
func keptToken(path string) (string, error) {
	data, err := os.ReadFile(path)
	if token := strings.TrimSpace(string(data)); err == nil && token != "" {
		return token, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read token: %w", err)
	}
	token := "vx_" + strings.ToLower(rand.Text())
	return token, keepToken(path, token)
}

// keepToken writes the token into the file at path.
func keepToken(path, token string) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, []byte(token+"\n"), 0o600); err != nil {
		return fmt.Errorf("write token: %w", err)
	}
	if err := os.Rename(tmp, filepath.Clean(path)); err != nil {
		return fmt.Errorf("write token: %w", err)
	}
	return nil
}

// reservedPorts are the ports this process itself listens on.
func (n *Node) reservedPorts() map[uint16]string {
	reserved := map[uint16]string{}
	for what, addr := range map[string]string{
		"the API": n.addrs.API, "Kind": n.addrs.Kind, "the edge": n.addrs.Edge,
		"the store's clients": n.cfg.EtcdClient, "the store's peers": n.cfg.EtcdPeer,
	} {
		_, port, err := net.SplitHostPort(addr)
		if err != nil {
			continue
		}
		if number, err := strconv.ParseUint(port, 10, 16); err == nil {
			reserved[uint16(number)] = what
		}
	}
	return reserved
}

// startingPort is the first of the node's ports to give to instances now.
func (n *Node) startingPort() uint16 { return startingPort(n.store, n.cfg.Settings) }

// startingPort is the first port to give to instances on a node, and to apps on the edges, now.
func startingPort(store *kind.Store, configured settings.Settings) uint16 {
	entry, err := kind.Get(store, vortex.Settings, settings.ID)
	if err != nil {
		return configured.StartingPort
	}
	return configured.With(entry.Value).StartingPort
}

// followRateLimit hands changed settings to the edge.
func (n *Node) followRateLimit(ctx context.Context) error {
	watch := n.store.Watch(kind.WatchOptions{Prefixes: []string{vortex.Settings.Prefix + ":"}})
	defer func() { watch.Close() }()
	for {
		current := n.cfg.Settings
		if changed, err := kind.Get(n.store, vortex.Settings, settings.ID); err == nil {
			current = current.With(changed.Value)
		}
		n.edge.SetLimit(limit.Config{Limit: current.RateLimit, Window: current.RateWindow})
		if _, err := watch.Next(ctx); ctx.Err() != nil {
			return nil
		} else if err != nil {
			watch.Close()
			watch = n.store.Watch(kind.WatchOptions{Prefixes: []string{vortex.Settings.Prefix + ":"}})
		}
	}
}
