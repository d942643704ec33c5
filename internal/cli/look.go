package cli

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"vortex"
	"vortex/client"
)

// watchFlag adds -w.
func (a *cli) watchFlag(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().BoolVarP(&a.watching, "watch", "w", false, "go on and show every change")
	return cmd
}

func (a *cli) appsCommand() *cobra.Command {
	return a.watchFlag(&cobra.Command{
		Use: "apps", Aliases: []string{"list", "ls"}, Short: "List apps", Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			return watch(cmd.Context(), a, c, func(ctx context.Context) (list[client.AppSummary], error) {
				apps, err := c.Apps(ctx)
				return a.appList(apps), err
			})
		},
	})
}

func (a *cli) appList(apps client.AppList) list[client.AppSummary] {
	return list[client.AppSummary]{
		items: apps.Apps, object: apps, name: func(app client.AppSummary) string { return app.Name },
		empty: "no apps yet; `vortex apply -f FILE` deploys one",
		columns: []column[client.AppSummary]{
			{"NAME", false, func(app client.AppSummary) string { return app.Name }},
			{"STATUS", false, func(app client.AppSummary) string { return a.style.state(app.Status) }},
			{"HEALTHY", false, func(app client.AppSummary) string {
				return fmt.Sprintf("%d/%d", app.Replicas.Healthy, app.Replicas.Desired)
			}},
			{"RPS", false, func(app client.AppSummary) string { return number(app.Metrics.RPS) }},
			{"P95", false, func(app client.AppSummary) string { return millis(app.Metrics.LatencyP95Ms) }},
			{"CPU", true, func(app client.AppSummary) string { return percent(app.Metrics.CPUPercent) }},
			{"MEMORY", true, func(app client.AppSummary) string { return percent(app.Metrics.MemoryPercent) }},
			{"IMAGE", false, func(app client.AppSummary) string { return app.Image }},
			{"RELEASE", true, func(app client.AppSummary) string { return strconv.FormatUint(app.Release, 10) }},
			{"SCALING", true, func(app client.AppSummary) string { return app.ScalingMode }},
			{"HOSTS", true, func(app client.AppSummary) string { return orDash(strings.Join(app.Hosts, ",")) }},
			{"PORTS", true, func(app client.AppSummary) string { return orDash(ports(app.Ports)) }},
			{"AGE", false, func(app client.AppSummary) string { return since(&app.CreatedAt) }},
			{"MESSAGE", true, func(app client.AppSummary) string { return app.Message }},
		},
	}
}

// ports lists the ports of TCP and UDP on the edges.
func ports(list []client.EdgePort) string {
	texts := make([]string, len(list))
	for i, p := range list {
		texts[i] = p.String()
	}
	return strings.Join(texts, ", ")
}

func number(n float64) string { return strconv.FormatFloat(n, 'f', -1, 64) }

func millis(ms float64) string {
	if ms == 0 {
		return "-"
	}
	return number(math.Round(ms*10)/10) + " ms"
}

func percent(p float64) string {
	if p == 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f%%", p)
}

func (a *cli) psCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: "ps [APP]", Aliases: []string{"instances"}, Short: "List instances", Args: between(0, 1, "an app or nothing"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			return watch(cmd.Context(), a, c, func(ctx context.Context) (list[client.Container], error) {
				instances, err := c.Instances(ctx, strings.Join(args, ""))
				if !all {
					instances.Instances = alive(instances.Instances)
				}
				return a.instanceList(instances.Instances, instances), err
			})
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "dead ones too")
	return a.watchFlag(cmd)
}

// alive leaves out the dead.
func alive(containers []client.Container) []client.Container {
	return slices.DeleteFunc(slices.Clone(containers), func(c client.Container) bool {
		return c.Status == string(vortex.ContainerStatusDead)
	})
}

func (a *cli) instanceList(items []client.Container, object any) list[client.Container] {
	return list[client.Container]{
		items: items, object: object, name: func(c client.Container) string { return c.ID }, empty: "no instances",
		columns: []column[client.Container]{
			{"INSTANCE", false, func(c client.Container) string { return c.ID }},
			{"APP", true, func(c client.Container) string { return c.App }},
			{"STATUS", false, func(c client.Container) string { return a.style.state(c.Status) }},
			{"HEALTH", false, func(c client.Container) string { return a.style.state(c.Health) }},
			{"RELEASE", false, func(c client.Container) string { return strconv.FormatUint(c.Release, 10) }},
			{"ADDRESS", false, func(c client.Container) string { return orDash(address(c)) }},
			{"NODE", false, func(c client.Container) string { return orDash(c.Node) }},
			{"RUNTIME", true, func(c client.Container) string { return orDash(c.Driver) }},
			{"IMAGE", true, func(c client.Container) string { return orDash(c.Image) }},
			{"AGE", false, func(c client.Container) string { return since(c.StartedAt) }},
			{"DETAIL", false, func(c client.Container) string { return short(detail(c), 80) }},
		},
	}
}

func address(c client.Container) string {
	if c.IP == "" || c.Port == 0 {
		return c.IP
	}
	return c.IP + ":" + strconv.Itoa(int(c.Port))
}

// detail is what there is to say about an instance that is not simply well.
func detail(c client.Container) string {
	switch {
	case c.Reason != "":
		return c.Reason
	case c.OOMKilled:
		return "out of memory"
	case c.ExitCode != nil:
		return fmt.Sprintf("exit code %d", *c.ExitCode)
	case c.Health != string(vortex.HealthHealthy):
		return c.HealthDetail
	default:
		return ""
	}
}

func (a *cli) statusCommand() *cobra.Command {
	return a.watchFlag(&cobra.Command{
		Use: "status APP", Aliases: []string{"describe"}, Short: "Show an app with its instances and what happened to it", Args: between(1, 1, "an app"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			c, err := a.client()
			if err != nil {
				return err
			}
			if !a.watching {
				app, err := c.App(ctx, args[0])
				if err != nil {
					return err
				}
				return a.showApp(ctx, c, &app)
			}
			for app, err := range c.FollowApp(ctx, args[0]) {
				if err != nil {
					return err
				}
				a.clear()
				if err := a.showApp(ctx, c, &app); err != nil {
					return err
				}
			}
			return nil
		},
	})
}

const statusEvents = 8 // shown of an app

func (a *cli) showApp(ctx context.Context, c *client.Client, app *client.App) error {
	if !a.tableOnly() {
		if a.output == "name" {
			a.say("%s", app.Name)
			return nil
		}
		return a.object(app)
	}
	rows := [][]string{}
	add := func(label, text string) {
		if text != "" {
			rows = append(rows, []string{a.style.dim(label), text})
		}
	}
	r, m := app.Replicas, app.Metrics
	add("App", a.style.bold(app.Name))
	add("Status", a.style.state(app.Status))
	add("Why", app.Message)
	add("Replicas", fmt.Sprintf("%d healthy, %d running, %d wanted (%s)", r.Healthy, r.Current, r.Desired, app.ScalingMode))
	add("Image", app.Image)
	if app.Rollout != nil {
		add("Release", fmt.Sprintf("%d, %s %s ago", app.Rollout.Active, a.style.state(strings.ToLower(app.Rollout.State)), age(time.Since(app.Rollout.UpdatedAt))))
	}
	add("Traffic", fmt.Sprintf("%s requests/s, p95 %s, %d connections", number(m.RPS), millis(m.LatencyP95Ms), m.ActiveConnections))
	add("Use", fmt.Sprintf("CPU %s, memory %s of what it asked for", percent(m.CPUPercent), percent(m.MemoryPercent)))
	add("Hosts", strings.Join(app.Hosts, ", "))
	add("Ports", ports(app.Ports))
	add("Created", since(&app.CreatedAt)+" ago, changed "+since(&app.UpdatedAt)+" ago")
	a.say("%s", strings.Join(align(rows), "\n"))
	if shown := alive(app.Containers); len(shown) > 0 {
		a.say("")
		a.say("%s", strings.Join(a.instanceList(shown, nil).lines(a), "\n"))
	}
	events, err := c.Events(ctx, client.EventOptions{App: app.Name, Limit: statusEvents})
	if err != nil || len(events.Events) == 0 {
		return err
	}
	a.say("")
	a.say("%s", strings.Join(a.eventList(events, events.Events).lines(a), "\n"))
	return nil
}

func (a *cli) nodesCommand() *cobra.Command {
	cmd := a.watchFlag(&cobra.Command{
		Use: "nodes", Aliases: []string{"node"}, Short: "List nodes, and operate them", Args: knownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			return watch(cmd.Context(), a, c, func(ctx context.Context) (list[client.Node], error) {
				nodes, err := c.Nodes(ctx)
				return a.nodeList(nodes), err
			})
		},
	})
	cmd.AddCommand(a.drainCommand(), a.cordonCommand(), a.uncordonCommand(), a.labelCommand())
	return cmd
}

func (a *cli) nodeList(nodes client.NodeList) list[client.Node] {
	return list[client.Node]{
		items: nodes.Nodes, object: nodes, name: func(n client.Node) string { return n.Name },
		empty: "no nodes; start an agent with `vortex up`",
		columns: []column[client.Node]{
			{"NAME", false, func(n client.Node) string { return n.Name }},
			{"STATE", false, func(n client.Node) string {
				if n.Cordoned && n.State != string(vortex.LivenessStateDraining) {
					return a.style.state(n.State) + ", cordoned"
				}
				return a.style.state(n.State)
			}},
			{"INSTANCES", false, func(n client.Node) string { return strconv.Itoa(n.Instances) }},
			{"CPU", false, func(n client.Node) string {
				return fmt.Sprintf("%.1f/%.1f", float64(n.CPUUsed)/1000, float64(n.CPUMillis)/1000)
			}},
			{"MEMORY", false, func(n client.Node) string { return size(n.MemoryUsed) + "/" + size(n.MemoryBytes) }},
			{"ADDRESS", false, func(n client.Node) string { return orDash(n.Address) }},
			{"RUNTIMES", false, func(n client.Node) string { return strings.Join(n.Drivers, ",") }},
			{"SYSTEM", true, func(n client.Node) string { return n.OS + "/" + n.Arch + " " + n.Kernel }},
			{"VERSION", true, func(n client.Node) string { return orDash(n.Version) }},
			{"LABELS", true, func(n client.Node) string { return orDash(vortex.LabelsText(n.Labels)) }},
			{"AGE", false, func(n client.Node) string { return since(n.StartedAt) }},
			{"DETAIL", false, func(n client.Node) string { return short(cmp.Or(n.Reason, n.CordonReason), 80) }},
		},
	}
}

func (a *cli) eventsCommand() *cobra.Command {
	var opts client.EventOptions
	cmd := &cobra.Command{
		Use: "events [APP]", Short: "List what happened, oldest first", Args: between(0, 1, "an app or nothing"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			c, err := a.client()
			if err != nil {
				return err
			}
			opts.App = strings.Join(args, "")
			events, err := c.Events(ctx, opts)
			if err != nil {
				return err
			}
			if err := show(a, a.eventList(events, events.Events)); err != nil || !a.watching {
				return err
			}
			for ev, err := range c.FollowEvents(ctx, opts.App) {
				if err != nil {
					return err
				}
				if err := a.showEvent(ev); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().IntVarP(&opts.Limit, "limit", "n", 50, "how many at most")
	return a.watchFlag(cmd)
}

func (a *cli) eventList(object any, items []client.Event) list[client.Event] {
	return list[client.Event]{
		items: items, object: object, name: func(e client.Event) string { return e.ID }, empty: "nothing happened yet",
		columns: []column[client.Event]{
			{"WHEN", false, func(e client.Event) string { return age(time.Since(e.At)) }},
			{"SEVERITY", true, func(e client.Event) string { return a.style.state(e.Severity) }},
			{"APP", false, func(e client.Event) string { return orDash(e.App) }},
			{"EVENT", false, func(e client.Event) string { return a.severity(e) }},
			{"BY", true, func(e client.Event) string { return e.Component }},
			{"NODE", true, func(e client.Event) string { return orDash(e.Node) }},
			{"ID", true, func(e client.Event) string { return e.ID }},
			{"MESSAGE", false, func(e client.Event) string { return short(e.Message, 160) }},
		},
	}
}

// severity colours an event's type by how bad it is.
func (a *cli) severity(e client.Event) string {
	switch e.Severity {
	case string(vortex.SeverityError):
		return a.style.bad(e.Type)
	case string(vortex.SeverityWarning):
		return a.style.warn(e.Type)
	default:
		return e.Type
	}
}

// showEvent prints one event of a stream.
func (a *cli) showEvent(ev client.Event) error {
	switch a.output {
	case "json", "yaml":
		return a.object(ev)
	case "name":
		a.say("%s", ev.ID)
	default:
		a.say("%s   %s   %s   %s", ev.At.Local().Format(time.TimeOnly), orDash(ev.App), a.severity(ev), ev.Message)
	}
	return nil
}

func (a *cli) historyCommand() *cobra.Command {
	return &cobra.Command{
		Use: "history APP", Short: "List an app's releases, newest first", Args: between(1, 1, "an app"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			history, err := c.History(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return show(a, list[client.Release]{
				items: history.Releases, object: history, empty: "no release yet",
				name: func(r client.Release) string { return strconv.FormatUint(r.Number, 10) },
				columns: []column[client.Release]{
					{"RELEASE", false, func(r client.Release) string { return strconv.FormatUint(r.Number, 10) }},
					{"ACTIVE", false, func(r client.Release) string {
						if r.Active {
							return a.style.good("active")
						}
						return ""
					}},
					{"AGE", false, func(r client.Release) string { return since(&r.CreatedAt) }},
					{"IMAGE", false, func(r client.Release) string { return r.Image }},
					{"CAUSE", false, func(r client.Release) string { return r.Cause }},
				},
			})
		},
	}
}
