package cli

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"vortex"
	"vortex/client"
	"vortex/internal/config"
)

func (a *cli) upCommand() *cobra.Command {
	var files []string
	cmd := &cobra.Command{
		Use:   "up [-f FILE…]",
		Short: "Run everything on this machine, in the foreground",
		Long:  "Runs the store, the control plane, the agent, the edge and the dashboard on this machine and applies FILEs.\nCtrl-C stops it; containers go on running unless --rm is given.",
		Example: "  vortex up\n  vortex up -f app.yaml -f compose.yaml\n" +
			"  vortex up --data /srv/vortex --edge :80",
		Args: none,
	}
	cmd.Flags().StringArrayVarP(&files, "file", "f", nil, "spec, compose file or directory to apply; may be repeated")
	sources := daemonFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		documents, err := loadDocuments(a, files)
		if err != nil {
			return err
		}
		return a.runDaemon(cmd.Context(), sources, func(ctx context.Context, run client.RunFile) error {
			a.announce(run)
			if len(documents) == 0 {
				return nil
			}
			c, err := client.New(client.Options{Server: run.API, Token: run.Token, TLS: run.TLS})
			if err != nil {
				return err
			}
			return a.apply(ctx, c, documents, applyOptions{wait: true})
		})
	}
	return cmd
}

func (a *cli) serverCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "server", Short: "Run a server: store, control plane and API, with agent and edge unless switched off",
		Long: "Runs a server. With --advertise ADDRESS others can join it: it makes a CA and serves its ports with a certificate of it.\n" +
			"With --join it becomes one more server of a cluster; that needs a token of `vortex token join --role server`, once.\n" +
			"With --bootstrap N it makes a cluster with N − 1 others that are started in the same way, in any order; they share a secret of `vortex token new`.",
		Example: "  vortex server --api 10.0.0.1:7070 --no-agent\n  vortex server --advertise 10.0.0.1\n" +
			"  vortex server --advertise 10.0.0.2 --join 10.0.0.1 --token TOKEN\n" +
			"  vortex server --advertise 10.0.0.2 --join 10.0.0.1,10.0.0.2,10.0.0.3 --bootstrap 3 --token SECRET",
		Args: none,
	}
	sources := daemonFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.runDaemon(cmd.Context(), sources, func(_ context.Context, run client.RunFile) error {
			a.announce(run)
			return nil
		})
	}
	return cmd
}

func (a *cli) agentCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "agent --join HOST --token TOKEN", Short: "Run a worker node: instances and an edge, for the servers of a cluster",
		Long: "Runs instances, and an edge unless switched off, for a cluster whose servers are elsewhere. The token is of `vortex token join` and is needed\n" +
			"once: the machine keeps a certificate, which renews itself. Of the servers one that answers is enough; the others are learnt from it.",
		Example: "  vortex agent --join 10.0.0.1 --token TOKEN\n  vortex agent --join 10.0.0.1,10.0.0.2 --token TOKEN --label zone=eu --no-edge",
		Args:    none,
	}
	sources := daemonFlags(cmd.Flags(), "node.", "cluster.", "edge.", "agent.", "log.")
	sources.worker = true
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.runDaemon(cmd.Context(), sources, func(_ context.Context, run client.RunFile) error {
			a.note("%s", a.style.bold("The agent is in the cluster"))
			if run.Edge != "" {
				a.note("  %s  %s", a.style.dim("apps"), run.Edge)
			}
			return nil
		})
	}
	return cmd
}

// daemonSources are the flags of up, server and agent.
type daemonSources struct {
	flags  *pflag.FlagSet
	file   string
	worker bool
}

// daemonFlags adds a flag for every setting that has one, of the sections named, none meaning all.
func daemonFlags(flags *pflag.FlagSet, sections ...string) *daemonSources {
	src := &daemonSources{flags: flags}
	flags.StringVar(&src.file, "config", "", "configuration (default: ./vortex.yaml, else /etc/vortex/vortex.yaml)")
	for _, s := range config.Settings() {
		switch {
		case s.Flag == "", len(sections) > 0 && !slices.ContainsFunc(sections, func(section string) bool { return strings.HasPrefix(s.Key, section) }):
		case s.Switch:
			flags.Bool(s.Flag, false, s.Usage+" ("+s.Env()+")")
		default:
			flags.String(s.Flag, s.Default(), s.Usage+" ("+s.Env()+")")
		}
	}
	return src
}

// load reads the configuration from all its sources.
func (d *daemonSources) load(a *cli) (config.Config, error) {
	given := map[string]string{}
	for _, s := range config.Settings() {
		if f := d.flags.Lookup(s.Flag); s.Flag != "" && f != nil && f.Changed {
			given[s.Flag] = f.Value.String()
		}
	}
	cfg, err := config.Load(config.Sources{File: d.file, Environ: a.env.Environ, Flags: given, Root: os.Geteuid() == 0, Worker: d.worker})
	for _, warning := range cfg.Warnings {
		a.note("%s %s", a.style.warn("warning:"), warning)
	}
	return cfg, err
}

// runDaemon runs a server until ctx ends, and calls ready once it serves.
func (a *cli) runDaemon(ctx context.Context, src *daemonSources, ready func(context.Context, client.RunFile) error) error {
	cfg, err := src.load(a)
	if err != nil {
		return err
	}
	if a.env.Daemon == nil {
		return errNoDaemon()
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	var started error
	err = a.env.Daemon.Run(ctx, cfg, func(run client.RunFile) {
		wg.Go(func() {
			if err := ready(ctx, run); err != nil && ctx.Err() == nil {
				started = err
				a.report(err)
			}
		})
	})
	cancel(nil)
	wg.Wait()
	if err == nil && started != nil {
		return exitError(1) // told already, when it happened
	}
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// errNoDaemon is for builds that only talk to servers.
func errNoDaemon() error {
	return vortex.Errorf(vortex.Precondition, "this build of vortex only has the commands that talk to a server\nrun it with a build for Linux")
}

// announce tells where everything is reached.
func (a *cli) announce(run client.RunFile) {
	if a.quiet {
		return
	}
	rows := [][]string{}
	add := func(what, where string) {
		if where != "" {
			rows = append(rows, []string{"  " + a.style.dim(what), where})
		}
	}
	add("apps", run.Edge)
	add("API and dashboard", run.API)
	add("API documentation", run.API+"/docs")
	add("state store", run.Kind)
	add("token", filepath.Join(run.Data, "token"))
	a.say("%s", a.style.bold("Vortex is up"))
	a.say("%s", strings.Join(align(rows), "\n"))
	a.say("%s", a.style.dim("  vortex apply -f FILE deploys, vortex status APP looks, Ctrl-C stops"))
}
