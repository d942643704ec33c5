package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"vortex"
	"vortex/client"
	"vortex/internal/kind/ksl"
)

func (a *cli) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version of this binary", Args: none,
		RunE: func(*cobra.Command, []string) error {
			b := a.env.Build
			object := map[string]string{
				"version": orDash(b.Version), "commit": orDash(b.Commit), "date": orDash(b.Date),
				"go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH,
			}
			text := "vortex " + orDash(b.Version)
			if b.Commit != "" {
				text += ", commit " + b.Commit
			}
			if b.Date != "" {
				text += ", " + b.Date
			}
			return a.answer(object, b.Version, "%s, %s %s", text, object["go"], object["platform"])
		},
	}
}

func (a *cli) infoCommand() *cobra.Command {
	return &cobra.Command{
		Use: "info", Short: "Tell which server you talk to and how it is", Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			t, err := a.resolve()
			if err != nil {
				return err
			}
			c, err := client.New(client.Options{Server: t.server, Token: t.token, TLS: t.tls})
			if err != nil {
				return err
			}
			cluster, err := c.Cluster(ctx)
			if err != nil {
				return err
			}
			metrics, err := c.Metrics(ctx)
			if err != nil {
				return err
			}
			object := map[string]any{"server": t.server, "found": t.source, "cluster": cluster, "metrics": metrics}
			lines := align([][]string{
				{"server", t.server + a.style.dim(" ("+t.source+")")},
				{"version", orDash(cluster.Version)},
				{"leader", leaderName(cluster)},
				{"nodes", fmt.Sprintf("%d, %d ready", cluster.Nodes, cluster.Ready)},
				{"apps", strconv.Itoa(metrics.Apps)},
				{"instances", fmt.Sprintf("%d, %d healthy", metrics.Instances, metrics.Healthy)},
				{"traffic", number(metrics.RPS) + " requests/s"},
				{"store", storeState(cluster)},
			})
			return a.answer(object, t.server, "%s", strings.Join(lines, "\n"))
		},
	}
}

func leaderName(c client.Cluster) string {
	if c.Leader == nil {
		return "none"
	}
	return fmt.Sprintf("%s, epoch %d", c.Leader.ID, c.Leader.Epoch)
}

// serverCount tells how many servers there are, and how many of them keep the store.
func serverCount(c client.Cluster) string {
	if len(c.Members) == 0 {
		return strconv.Itoa(len(c.Servers))
	}
	return fmt.Sprintf("%d, %d of them keep the store", len(c.Servers), len(c.Members))
}

func storeState(c client.Cluster) string {
	if c.Stale {
		return fmt.Sprintf("revision %d, engine away: reads may be old, writes fail", c.Revision)
	}
	return fmt.Sprintf("revision %d", c.Revision)
}

func (a *cli) clusterCommand() *cobra.Command {
	look := func(use, short string, show func(context.Context, *client.Client) error) *cobra.Command {
		return &cobra.Command{Use: use, Short: short, Args: none, RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			return show(cmd.Context(), c)
		}}
	}
	return group("cluster", "Look at the cluster, put machines out of it, or recover its store",
		look("status", "Show servers, nodes and the store", a.clusterStatus),
		look("leader", "Print the server whose loops decide", a.clusterLeader),
		look("health", "Tell whether the server is ready, and exit with 1 when it is not", a.clusterHealth),
		a.clusterRecoverCommand(), a.clusterRemoveCommand())
}

func (a *cli) clusterStatus(ctx context.Context, c *client.Client) error {
	cluster, err := c.Cluster(ctx)
	if err != nil {
		return err
	}
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return err
	}
	if !a.tableOnly() {
		return a.result(map[string]any{"cluster": cluster, "nodes": nodes.Nodes}, leaderName(cluster), "")
	}
	a.say("%s", strings.Join(align([][]string{
		{"leader", leaderName(cluster)},
		{"servers", serverCount(cluster)},
		{"nodes", fmt.Sprintf("%d, %d ready", cluster.Nodes, cluster.Ready)},
		{"store", storeState(cluster)},
	}), "\n"))
	a.say("")
	if len(cluster.Members) > 0 {
		if err := show(a, memberList(cluster.Members)); err != nil {
			return err
		}
		a.say("")
	}
	return show(a, a.nodeList(nodes))
}

// memberList is the servers that keep the store.
func memberList(members []client.Member) list[client.Member] {
	role := func(m client.Member) string {
		if m.Leader {
			return m.Role + ", leads"
		}
		return m.Role
	}
	lag := func(m client.Member) string {
		if m.Behind == 0 {
			return "-"
		}
		return fmt.Sprintf("%d behind", m.Behind)
	}
	return list[client.Member]{
		items: members, object: members, name: func(m client.Member) string { return m.Name }, empty: "the store is kept elsewhere",
		columns: []column[client.Member]{
			{"MEMBER", false, func(m client.Member) string { return m.Name }},
			{"ROLE", false, role},
			{"STATE", false, func(m client.Member) string { return orDash(m.State) }},
			{"LAG", false, lag},
			{"ADDRESS", true, func(m client.Member) string { return m.Address }},
			{"WHY", false, func(m client.Member) string { return orDash(m.Why) }},
		},
	}
}

func (a *cli) clusterLeader(ctx context.Context, c *client.Client) error {
	cluster, err := c.Cluster(ctx)
	if err != nil {
		return err
	}
	if cluster.Leader == nil {
		return vortex.Errorf(vortex.Unavailable, "there is no leader now; a server takes over within seconds")
	}
	return a.answer(cluster.Leader, cluster.Leader.ID, "%s", leaderName(cluster))
}

func (a *cli) clusterHealth(ctx context.Context, c *client.Client) error {
	ready, err := c.Ready(ctx)
	if err != nil {
		return err
	}
	verdict := func(ch client.Check) string {
		if ch.Error == "" {
			return a.style.good("ok")
		}
		return a.style.bad("fail")
	}
	err = show(a, list[client.Check]{
		items: ready.Checks, object: ready, name: func(ch client.Check) string { return ch.Name }, empty: "ready",
		columns: []column[client.Check]{
			{"CHECK", false, func(ch client.Check) string { return ch.Name }},
			{"RESULT", false, verdict},
			{"DETAIL", false, func(ch client.Check) string { return ch.Error }},
		},
	})
	if err == nil && !ready.Ready {
		return vortex.Errorf(vortex.Unavailable, "the server is not ready")
	}
	return err
}

func (a *cli) metricsCommand() *cobra.Command {
	return a.watchFlag(&cobra.Command{
		Use: "metrics [APP]", Short: "Print what apps did in the last seconds", Args: between(0, 1, "an app or nothing"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			return watch(cmd.Context(), a, c, func(ctx context.Context) (list[namedMetrics], error) {
				if len(args) > 0 {
					m, err := c.AppMetrics(ctx, args[0])
					return metricsList([]namedMetrics{{args[0], m}}, m), err
				}
				m, err := c.Metrics(ctx)
				items := make([]namedMetrics, 0, len(m.PerApp))
				for name, app := range m.PerApp {
					items = append(items, namedMetrics{name, app})
				}
				slices.SortFunc(items, func(x, y namedMetrics) int { return strings.Compare(x.app, y.app) })
				return metricsList(items, m), err
			})
		},
	})
}

type namedMetrics struct {
	app string
	client.AppMetrics
}

func metricsList(items []namedMetrics, object any) list[namedMetrics] {
	return list[namedMetrics]{
		items: items, object: object, name: func(m namedMetrics) string { return m.app }, empty: "no apps yet",
		columns: []column[namedMetrics]{
			{"APP", false, func(m namedMetrics) string { return m.app }},
			{"RPS", false, func(m namedMetrics) string { return number(m.RPS) }},
			{"P95", false, func(m namedMetrics) string { return millis(m.LatencyP95Ms) }},
			{"CONNECTIONS", false, func(m namedMetrics) string { return strconv.Itoa(m.ActiveConnections) }},
			{"CPU", false, func(m namedMetrics) string { return percent(m.CPUPercent) }},
			{"MEMORY", false, func(m namedMetrics) string { return percent(m.MemoryPercent) }},
		},
	}
}

func (a *cli) topCommand() *cobra.Command {
	return &cobra.Command{
		Use: "top", Short: "Show all apps, refreshed every second", Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			a.watching = a.tty // elsewhere once is enough
			if a.output == "table" {
				a.output = "wide"
			}
			return watch(cmd.Context(), a, c, func(ctx context.Context) (list[client.AppSummary], error) {
				apps, err := c.Apps(ctx)
				slices.SortFunc(apps.Apps, func(x, y client.AppSummary) int {
					if x.Metrics.RPS != y.Metrics.RPS {
						return int(y.Metrics.RPS - x.Metrics.RPS)
					}
					return strings.Compare(x.Name, y.Name)
				})
				return a.appList(apps), err
			})
		},
	}
}

func (a *cli) configCommand() *cobra.Command {
	get := &cobra.Command{
		Use: "get [KEY]", Short: "Print the settings in force", Args: between(0, 1, "a key such as cluster.max_replicas, or nothing"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			cfg, err := c.Config(cmd.Context())
			if err != nil {
				return err
			}
			return a.showConfig(cfg, args)
		},
	}
	set := &cobra.Command{
		Use: "set KEY=VALUE…", Short: "Change settings at run time; they win over vortex.yaml", Args: atLeast(1, "key=value"),
		Example: "  vortex config set settings.scaleupnumber=5 settings.scale_down_cooldown=10s",
		RunE: func(cmd *cobra.Command, args []string) error {
			wish, err := parseConfig(args)
			if err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			cfg, err := c.SetConfig(cmd.Context(), wish)
			if err != nil {
				return err
			}
			return a.showConfig(cfg, nil)
		},
	}
	return group("config", "Look at and change the settings of the cluster", get, set)
}

// settingKeys are the settings that can change at run time.
var settingKeys = []string{
	"cluster.min_replicas", "cluster.max_replicas", "cluster.starting_port", "settings.scaleupnumber", "settings.scaledownnumber",
	"settings.scale_up_grace_period", "settings.scale_down_cooldown", "ratelimiter.ratelimit", "ratelimiter.ratewindow",
	"store.history_age", "store.history_count", "store.history_max",
}

func unknownKey(key string) error {
	hint := "expected one of " + strings.Join(settingKeys, ", ")
	if near := ksl.Nearest(key, settingKeys); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	return errUsage("unknown setting %q; %s", key, hint)
}

// parseConfig reads key=value pairs.
func parseConfig(pairs []string) (client.Config, error) {
	var cfg client.Config
	sections := map[string]map[string]any{}
	for _, pair := range pairs {
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return cfg, errUsage("expected key=value, got %q", pair)
		}
		if !slices.Contains(settingKeys, key) {
			return cfg, unknownKey(key)
		}
		section, name, _ := strings.Cut(key, ".")
		if sections[section] == nil {
			sections[section] = map[string]any{}
		}
		sections[section][name] = value
		if n, err := strconv.ParseUint(value, 10, 64); err == nil {
			sections[section][name] = n
		}
	}
	data, err := json.Marshal(sections)
	if err != nil {
		return cfg, fmt.Errorf("encode settings: %w", err)
	}
	if err := json.Unmarshal(data, &cfg); err != nil {
		return cfg, errUsage("%s: expected a whole number, or a duration such as 5s where the setting is a time", strings.Join(pairs, " "))
	}
	return cfg, nil
}

func (a *cli) showConfig(cfg client.Config, keys []string) error {
	data, err := json.Marshal(cfg)
	if err != nil {
		return fmt.Errorf("encode settings: %w", err)
	}
	sections := map[string]map[string]any{}
	dec := json.NewDecoder(strings.NewReader(string(data)))
	dec.UseNumber()
	if err := dec.Decode(&sections); err != nil {
		return fmt.Errorf("read settings: %w", err)
	}
	var rows [][2]string
	for _, key := range settingKeys {
		section, name, _ := strings.Cut(key, ".")
		if v, ok := sections[section][name]; ok && (len(keys) == 0 || slices.Contains(keys, key)) {
			rows = append(rows, [2]string{key, fmt.Sprint(v)})
		}
	}
	if len(keys) > 0 {
		if !slices.Contains(settingKeys, keys[0]) {
			return unknownKey(keys[0])
		}
		if a.tableOnly() && len(rows) == 1 {
			a.say("%s", rows[0][1])
			return nil
		}
	}
	return show(a, list[[2]string]{
		items: rows, object: cfg, name: func(r [2]string) string { return r[0] }, empty: "no settings",
		columns: []column[[2]string]{
			{"SETTING", false, func(r [2]string) string { return r[0] }},
			{"VALUE", false, func(r [2]string) string { return r[1] }},
		},
	})
}

const quick = 3 * time.Second // for checks of things that should answer at once
