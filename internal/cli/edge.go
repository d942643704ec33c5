package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"vortex"
	"vortex/client"
	"vortex/internal/config"
)

func (a *cli) edgeCommand() *cobra.Command {
	var file, level, format string
	cmd := group("edge", "Run a load balancer alone, or look at the cluster's", a.edgeCheckCommand(), a.edgeStatusCommand(), a.edgeRoutesCommand(), a.edgeBackendsCommand())
	cmd.Use = "edge --config FILE"
	cmd.Long = "Runs a load balancer from a file, with no cluster: listeners, routes and pools. The file is read again when it changes, and at SIGHUP;\n" +
		"one that is not good is refused, and what was running goes on.\n\n" +
		"The commands below show an edge that runs alone on this machine, or with --admin another one; without such an edge, or with\n" +
		"--server or --context, they show the cluster's edges."
	cmd.Example = "  vortex edge --config edge.yaml\n  vortex edge check --config edge.yaml\n  vortex edge backends -w\n  vortex explain EdgeFile"
	cmd.Flags().StringVar(&file, "config", "", "file with listeners, routes and pools")
	cmd.Flags().StringVar(&level, "log-level", "", "debug, info, warn or error (default info; VORTEX_LOG_LEVEL)")
	cmd.Flags().StringVar(&format, "log-format", "", "text or json (default text; VORTEX_LOG_FORMAT)")
	cmd.PersistentFlags().StringVar(&a.admin, "admin", "", "admin address of an edge that runs alone: IP:port or unix:PATH (VORTEX_EDGE)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if file == "" {
			return cmd.Help()
		}
		cfg := config.Default()
		cfg.Data = "/" // none is used
		cfg.LogLevel = cmp.Or(level, a.vars["VORTEX_LOG_LEVEL"], cfg.LogLevel)
		cfg.LogFormat = cmp.Or(format, a.vars["VORTEX_LOG_FORMAT"], cfg.LogFormat)
		if err := cfg.Validate(); err != nil {
			return err
		}
		if a.env.Edge == nil {
			return errNoDaemon()
		}
		return a.env.Edge.RunEdge(cmd.Context(), file, cfg, a.announceEdge)
	}
	return cmd
}

// announceEdge tells where an edge that runs alone is reached.
func (a *cli) announceEdge(e client.Edge) {
	if a.quiet {
		return
	}
	rows := [][]string{}
	for _, l := range e.Listeners {
		rows = append(rows, []string{"  " + a.style.dim(l.Name), l.Protocol, l.Address})
	}
	a.say("%s\n%s", a.style.bold("The edge is up"), strings.Join(align(rows), "\n"))
	a.say("%s", a.style.dim("  vortex edge status looks, a change of "+e.Config.File+" is taken in by itself, Ctrl-C stops"))
}

func (a *cli) edgeCheckCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "check --config FILE", Short: "Check a file without running it", Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return errUsage("which file? name it with --config FILE")
			}
			if a.env.Edge == nil {
				return errNoDaemon()
			}
			sum, err := a.env.Edge.CheckEdge(cmd.Context(), file)
			if err != nil {
				return err
			}
			for _, warning := range sum.Warnings {
				a.note("%s %s", a.style.warn("warning:"), warning)
			}
			return a.result(sum, file, "%s is good: %s, %s, %s, %s", file, count(sum.Listeners, "listener"), count(sum.Routes, "route"),
				count(sum.Pools, "pool"), count(sum.Backends, "backend"))
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "file with listeners, routes and pools")
	return cmd
}

// edges fetches the edges to look at.
func (a *cli) edges() (func(context.Context) (client.EdgeList, error), error) {
	address := cmp.Or(a.admin, a.vars["VORTEX_EDGE"])
	if address == "" && a.server == "" && a.contextName == "" && a.vars["VORTEX_SERVER"] == "" && a.vars["VORTEX_CONTEXT"] == "" {
		address = a.edgeHere()
	}
	if address == "" {
		c, err := a.client()
		if err != nil {
			return nil, err
		}
		return c.Edges, nil
	}
	c, err := client.NewEdge(address)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (client.EdgeList, error) {
		list, err := c.Edges(ctx)
		if vortex.IsKind(err, vortex.Unavailable) {
			return list, vortex.Errorf(vortex.Unavailable, "no edge answers at %s\nstart one with `vortex edge --config FILE`, or name its admin address with --admin", address)
		}
		return list, err
	}, nil
}

// edgeHere is the admin address of the newest edge that runs alone on this machine; "" is none.
func (a *cli) edgeHere() string {
	var dirs []string
	for _, dir := range a.runtimeDirs() {
		dirs = append(dirs, client.EdgeRuntimeDir(dir))
	}
	runs, err := client.RunFiles(dirs...)
	if err != nil || len(runs) == 0 {
		return ""
	}
	return runs[0].API
}

// edgeTable is a command that lists something of the edges.
func edgeTable[T any](a *cli, cmd *cobra.Command, rows func(client.EdgeList) list[T]) *cobra.Command {
	cmd.Args = none
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		edges, err := a.edges()
		if err != nil {
			return err
		}
		fetch := func(ctx context.Context) (list[T], error) {
			all, err := edges(ctx)
			return rows(all), err
		}
		return watchOn(cmd.Context(), a, everySecond, fetch)
	}
	return a.watchFlag(cmd)
}

// everySecond is the changes of what tells of none.
func everySecond(ctx context.Context) <-chan error {
	changes := make(chan error)
	go func() {
		ticker := time.NewTicker(refresh)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			select {
			case <-ctx.Done():
				return
			case changes <- nil:
			}
		}
	}()
	return changes
}

func (a *cli) edgeStatusCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "status", Short: "Show the edges, what they listen on and how they do"}
	return edgeTable(a, cmd, func(all client.EdgeList) list[client.Edge] {
		return list[client.Edge]{
			items: all.Edges, object: all, name: func(e client.Edge) string { return e.ID }, empty: "no edges",
			columns: []column[client.Edge]{
				{"EDGE", false, func(e client.Edge) string { return e.ID }},
				{"STATE", false, func(e client.Edge) string { return a.style.state(edgeState(e)) }},
				{"LISTENS", false, func(e client.Edge) string { return orDash(listens(e)) }},
				{"ROUTES", false, func(e client.Edge) string { return ifLive(e, strconv.Itoa(len(e.Routes))) }},
				{"BACKENDS", false, func(e client.Edge) string { return ifLive(e, usableOf(e)) }},
				{"RPS", false, func(e client.Edge) string { return ifLive(e, number(edgeTraffic(e).rps)) }},
				{"P95", false, func(e client.Edge) string { return ifLive(e, millis(edgeTraffic(e).p95)) }},
				{"ERRORS/S", false, func(e client.Edge) string { return ifLive(e, number(edgeTraffic(e).errors)) }},
				{"CONFIG", true, func(e client.Edge) string { return edgeFile(e) }},
				{"REVISION", true, func(e client.Edge) string { return strconv.FormatUint(e.Revision, 10) }},
				{"BUSY", true, func(e client.Edge) string { return orDash(strings.Join(e.Busy, ",")) }},
				{"VERSION", true, func(e client.Edge) string { return orDash(e.Version) }},
				{"AGE", false, func(e client.Edge) string { return since(e.StartedAt) }},
				{"DETAIL", false, edgeDetail},
			},
		}
	})
}

// edgeState is one word for how an edge does.
func edgeState(e client.Edge) string {
	switch {
	case !e.Live:
		return "Unknown"
	case e.Config != nil && e.Config.Error != "":
		return "Warning"
	default:
		return "Running"
	}
}

func edgeDetail(e client.Edge) string {
	switch {
	case !e.Live:
		return "only the server beside it sees what it does"
	case e.Config != nil && e.Config.Error != "":
		return "the file was refused " + since(e.Config.RefusedAt) + " ago: " + short(e.Config.Error, 160)
	default:
		return ""
	}
}

func edgeFile(e client.Edge) string {
	if e.Config == nil {
		return "-"
	}
	return e.Config.File + ", " + since(e.Config.LoadedAt) + " ago"
}

func listens(e client.Edge) string {
	var list []string
	for _, l := range e.Listeners {
		list = append(list, l.Address)
	}
	return cmp.Or(strings.Join(list, ","), e.Address)
}

func ifLive(e client.Edge, text string) string {
	if !e.Live {
		return "-"
	}
	return text
}

func usableOf(e client.Edge) string {
	usable := 0
	for _, b := range e.Backends {
		if b.Out == "" {
			usable++
		}
	}
	return fmt.Sprintf("%d/%d", usable, len(e.Backends))
}

// traffic is what the pools of an edge do.
type traffic struct{ rps, p95, errors float64 }

// edgeTraffic sums over pools, which routes may share.
func edgeTraffic(e client.Edge) (t traffic) {
	var pools []string
	for _, r := range e.Routes {
		if slices.Contains(pools, r.Pool) {
			continue
		}
		pools = append(pools, r.Pool)
		t.rps += r.RPS
		t.errors += r.ErrorsPerSecond
		t.p95 = max(t.p95, r.LatencyP95Ms)
	}
	return t
}

// edgeItem is something of an edge.
type edgeItem[T any] struct {
	edge client.Edge
	item T
}

// ofEdges lists something of all edges.
func ofEdges[T any](all client.EdgeList, of func(client.Edge) []T) (items []edgeItem[T]) {
	for _, e := range all.Edges {
		for _, item := range of(e) {
			items = append(items, edgeItem[T]{e, item})
		}
	}
	return items
}

func (a *cli) edgeRoutesCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "routes", Aliases: []string{"route"}, Short: "List which requests go where"}
	return edgeTable(a, cmd, func(all client.EdgeList) list[edgeItem[client.EdgeRoute]] {
		type row = edgeItem[client.EdgeRoute]
		routes := func(e client.Edge) []client.EdgeRoute { return e.Routes }
		return list[row]{
			items: ofEdges(all, routes), object: edgeObject(all, "routes", routes), name: func(r row) string { return r.item.Name }, empty: "no routes",
			columns: []column[row]{
				{"ROUTE", false, func(r row) string { return r.item.Name }},
				{"EDGE", true, func(r row) string { return r.edge.ID }},
				{"HOSTS", false, func(r row) string { return anyOr(r.item.Hosts, hostsOf(r)) }},
				{"PATHS", false, func(r row) string { return anyOr(r.item.Paths, "/") }},
				{"LISTENERS", true, func(r row) string { return anyOr(r.item.Listeners, "all") }},
				{"POOL", false, func(r row) string { return r.item.Pool }},
				{"BALANCE", true, func(r row) string { return cmp.Or(r.item.Balance, string(vortex.BalancePolicyRoundRobin)) }},
				{"BACKENDS", false, func(r row) string { return fmt.Sprintf("%d/%d", r.item.Usable, r.item.Backends) }},
				{"RPS", false, func(r row) string { return number(r.item.RPS) }},
				{"P95", false, func(r row) string { return millis(r.item.LatencyP95Ms) }},
				{"P50", true, func(r row) string { return millis(r.item.LatencyP50Ms) }},
				{"ERRORS/S", false, func(r row) string { return number(r.item.ErrorsPerSecond) }},
				{"IN FLIGHT", true, func(r row) string { return strconv.FormatUint(r.item.InFlight, 10) }},
				{"CONNECTIONS", true, func(r row) string { return strconv.FormatUint(r.item.Connections, 10) }},
				{"WAITING", true, func(r row) string { return strconv.FormatInt(r.item.Held, 10) }},
				{"DETAIL", false, func(r row) string { return routeDetail(r.item) }},
			},
		}
	})
}

// hostsOf is where a route without hosts is reached.
func hostsOf(r edgeItem[client.EdgeRoute]) string {
	if r.edge.Alone {
		return "*"
	}
	return r.item.Name + ".localhost"
}

func routeDetail(r client.EdgeRoute) string {
	switch {
	case r.Panics:
		return "too few backends are usable, so all are used"
	case r.Backends > 0 && r.Usable == 0:
		return "no backend is usable"
	case r.Held > 0:
		return fmt.Sprintf("%d requests wait for a backend", r.Held)
	default:
		return ""
	}
}

func anyOr(items []string, otherwise string) string {
	return cmp.Or(strings.Join(items, ","), otherwise)
}

func (a *cli) edgeBackendsCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "backends", Aliases: []string{"backend"}, Short: "List the backends of every pool and how they do"}
	return edgeTable(a, cmd, func(all client.EdgeList) list[edgeItem[client.EdgeBackend]] {
		type row = edgeItem[client.EdgeBackend]
		backends := func(e client.Edge) []client.EdgeBackend { return e.Backends }
		return list[row]{
			items: ofEdges(all, backends), object: edgeObject(all, "backends", backends), name: func(r row) string { return r.item.Instance }, empty: "no backends",
			columns: []column[row]{
				{"POOL", false, func(r row) string { return r.item.Pool }},
				{"EDGE", true, func(r row) string { return r.edge.ID }},
				{"BACKEND", false, func(r row) string { return r.item.Instance }},
				{"ADDRESS", true, func(r row) string { return r.item.Address }},
				{"STATE", false, func(r row) string { return a.style.state(backendState(r.item)) }},
				{"WEIGHT", false, func(r row) string { return strconv.FormatUint(uint64(r.item.Weight), 10) }},
				{"ZONE", true, func(r row) string { return orDash(r.item.Zone) }},
				{"NODE", true, func(r row) string { return orDash(r.item.Node) }},
				{"RELEASE", true, func(r row) string { return orDash(strings.TrimPrefix(strconv.FormatUint(r.item.Release, 10), "0")) }},
				{"IN FLIGHT", false, func(r row) string { return strconv.FormatInt(r.item.InFlight, 10) }},
				{"SERVED", false, func(r row) string { return strconv.FormatUint(r.item.Served, 10) }},
				{"ERRORS", false, func(r row) string { return strconv.FormatUint(r.item.Errors, 10) }},
				{"FAILED", false, func(r row) string { return strconv.FormatUint(r.item.Failed, 10) }},
				{"IDLE", true, func(r row) string { return strconv.Itoa(r.item.Idle) }},
				{"DETAIL", false, func(r row) string { return short(r.item.Detail, 80) }},
			},
		}
	})
}

func backendState(b client.EdgeBackend) string {
	switch b.Out {
	case "":
		return "Ready"
	case "node":
		return "Suspect"
	default:
		return "Down"
	}
}

// edgeObject is one list of every edge, for programs.
func edgeObject[T any](all client.EdgeList, what string, of func(client.Edge) []T) any {
	edges := []map[string]any{}
	for _, e := range all.Edges {
		edges = append(edges, map[string]any{"edge": e.ID, what: of(e)})
	}
	return map[string]any{"edges": edges}
}
