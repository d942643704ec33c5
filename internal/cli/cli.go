// Package cli is the command line: every command of `vortex` over package client.
//
// It guarantees: results go to stdout and everything else to stderr; nothing is coloured or moves when stdout is no
// terminal; every failure says what was expected, what came and what to do next, and ends with the exit code of its
// kind (0 done, 1 failed, 2 bad usage or input, 3 not found, 4 refused, 5 timed out); a misspelt command, flag, app or
// field gets a "did you mean".
//
// It touches the process nowhere: arguments, streams, environment and the daemon come in through Env, so that a whole
// command can run in a test.
//
//	os.Exit(cli.Main(ctx, os.Args[1:], cli.Env{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Environ: os.Environ(), Daemon: daemon}))
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"vortex"
	"vortex/client"
	"vortex/internal/api"
	"vortex/internal/config"
	"vortex/internal/kind/engine"
	"vortex/internal/kind/ksl"
)

// Env is everything a command gets from outside.
type Env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Environ        []string // as os.Environ returns it
	Daemon         Daemon   // nil: this binary runs no server
	Edge           Edge     // nil: as Daemon
	Engine         Engine   // nil: as Daemon
	Recover        Recover  // nil: as Daemon
	Build          Build
	RuntimeDir     string // where servers of this machine leave their run files; "" is client.RuntimeDir of the user
}

// Daemon runs a server in this process.
type Daemon interface {
	// Run starts what cfg says, leaves a run file, calls ready once everything serves, and returns when ctx ended, nil,
	// or a part failed.
	Run(ctx context.Context, cfg config.Config, ready func(client.RunFile)) error
}

// Edge runs a load balancer in this process, without a server.
type Edge interface {
	// CheckEdge reads a file and tells what it holds.
	CheckEdge(ctx context.Context, path string) (client.EdgeSummary, error)
	// RunEdge serves what a file says, calls ready once it does, and returns when ctx ended, nil, or it failed.
	RunEdge(ctx context.Context, path string, cfg config.Config, ready func(client.Edge)) error
}

// Engine opens the engine of a server that does not run, as cfg says where it is.
type Engine func(ctx context.Context, cfg config.Config) (engine.Engine, error)

// Build identifies the binary.
type Build struct{ Version, Commit, Date string }

// Main runs the command that args name and returns its exit code.
func Main(ctx context.Context, args []string, env Env) int {
	a := newCLI(env)
	root := a.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if a.cancel != nil {
		a.cancel()
	}
	if code, ok := errors.AsType[exitError](err); ok {
		return int(code)
	}
	if err != nil && ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return interrupted
	}
	a.report(err)
	return api.ExitCode(err)
}

// New returns the tree of commands, for documentation.
func New(env Env) *cobra.Command { return newCLI(env).root() }

const interrupted = 130 // as shells have it for SIGINT

// exitError ends a command with the exit code of something else it ran.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// cli is one invocation.
type cli struct {
	env    Env
	vars   map[string]string
	cancel context.CancelFunc

	server, kind, contextName string
	admin                     string // of an edge that runs alone
	tls                       client.TLS
	output                    string
	timeout                   time.Duration
	quiet, noColor, watching  bool

	progress progress

	style style
	tty   bool // stdout is a terminal
}

func newCLI(env Env) *cli {
	a := &cli{env: env, vars: map[string]string{}}
	if a.env.Stdin == nil {
		a.env.Stdin = strings.NewReader("")
	}
	for _, pair := range env.Environ {
		if name, value, ok := strings.Cut(pair, "="); ok {
			a.vars[name] = value
		}
	}
	a.tty = isTerminal(env.Stdout)
	return a
}

// isTerminal reports whether a stream is a person's terminal.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) //nolint:gosec // descriptors are small
}

// report tells the user what went wrong.
func (a *cli) report(err error) {
	if err == nil {
		return
	}
	text := err.Error()
	if errors.Is(err, context.DeadlineExceeded) && !strings.Contains(text, "\n") {
		text = strings.TrimSuffix(text, ": "+context.DeadlineExceeded.Error())
		if text == context.DeadlineExceeded.Error() {
			text = "no answer within the time given; raise --timeout, or look with `vortex status`"
		}
	}
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	_, _ = fmt.Fprintf(a.env.Stderr, "%s %s\n", a.style.bad("error:"), lines[0])
	for _, line := range lines[1:] {
		_, _ = fmt.Fprintf(a.env.Stderr, "  %s\n", line)
	}
}

// note tells the user something that is no result, unless they asked for quiet.
func (a *cli) note(format string, args ...any) {
	if !a.quiet {
		_, _ = fmt.Fprintf(a.env.Stderr, format+"\n", args...)
	}
}

// say prints a result.
func (a *cli) say(format string, args ...any) {
	_, _ = fmt.Fprintf(a.env.Stdout, format+"\n", args...) // whoever does not read on does not miss it
}

const groupLook, groupAct, groupRun, groupStore, groupRest = "look", "act", "run", "store", "rest"

// root is the command vortex.
func (a *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use:               "vortex",
		Short:             "Run containers that heal, scale and update themselves",
		Long:              "Vortex runs your containers on one machine or many: it heals, scales and updates them, and serves them to the world.\n\nStart with `vortex up`, then `vortex apply -f app.yaml`.",
		SilenceErrors:     true,
		SilenceUsage:      true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return a.prepare(cmd) },
		Args:              knownCommand,
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetIn(a.env.Stdin)
	root.SetOut(a.env.Stdout)
	root.SetErr(a.env.Stderr)
	root.SetFlagErrorFunc(badFlag)
	a.globalFlags(root.PersistentFlags())
	root.AddGroup(
		&cobra.Group{ID: groupRun, Title: "Run and deploy:"}, &cobra.Group{ID: groupLook, Title: "Look:"},
		&cobra.Group{ID: groupAct, Title: "Act:"}, &cobra.Group{ID: groupStore, Title: "Images and state:"},
		&cobra.Group{ID: groupRest, Title: "The rest:"},
	)
	add := func(group string, commands ...*cobra.Command) {
		for _, cmd := range commands {
			cmd.GroupID = group
			root.AddCommand(cmd)
		}
	}
	add(groupRun, a.upCommand(), a.serverCommand(), a.agentCommand(), a.edgeCommand(), a.applyCommand(), a.diffCommand())
	add(groupLook, a.appsCommand(), a.statusCommand(), a.psCommand(), a.logsCommand(), a.eventsCommand(), a.nodesCommand(),
		a.topCommand(), a.metricsCommand(), a.historyCommand(), a.infoCommand(), a.clusterCommand())
	add(groupAct, a.startCommand(), a.stopCommand(), a.scaleCommand(), a.restartCommand(), a.rollbackCommand(), a.undoCommand(), a.deleteCommand(), a.execCommand(),
		a.drainCommand(), a.cordonCommand(), a.uncordonCommand())
	add(groupStore, a.imageCommand(), a.kvCommand(), a.snapshotCommand(), a.configCommand())
	add(groupRest, a.contextCommand(), a.loginCommand(), a.tokenCommand(), a.roleCommand(), a.explainCommand(), a.doctorCommand(), a.versionCommand(), completionCommand())
	root.SetHelpCommandGroupID(groupRest)
	root.CompletionOptions.DisableDefaultCmd = true
	return root
}

func (a *cli) globalFlags(flags *pflag.FlagSet) {
	flags.StringVar(&a.server, "server", "", "URL of the server (default: the one on this machine, or the current context's; VORTEX_SERVER)")
	flags.StringVar(&a.contextName, "context", "", "context to use (VORTEX_CONTEXT)")
	flags.StringVar(&a.tls.CA, "ca", "", "file with the CA of the server's certificate (default: the system's; VORTEX_CA)")
	flags.StringVar(&a.tls.Cert, "cert", "", "file with your client certificate (VORTEX_CERT)")
	flags.StringVar(&a.tls.Key, "key", "", "file with its key (VORTEX_KEY)")
	flags.StringVar(&a.tls.ServerName, "server-name", "", "name the server's certificate is for (default: the host; VORTEX_SERVER_NAME)")
	flags.StringVarP(&a.output, "output", "o", "table", "table, wide, json, yaml or name")
	flags.DurationVar(&a.timeout, "timeout", 0, "give up after this long, such as 30s (default: 5m when waiting)")
	flags.BoolVarP(&a.quiet, "quiet", "q", false, "print results only")
	flags.BoolVar(&a.noColor, "no-color", false, "print no colours (NO_COLOR)")
}

// prepare checks the global flags before a command runs.
func (a *cli) prepare(cmd *cobra.Command) error {
	if !oneOf(a.output, outputs) {
		return vortex.Errorf(vortex.Invalid, "--output: expected %s, got %q", choices(outputs), a.output)
	}
	if a.timeout < 0 {
		return vortex.Errorf(vortex.Invalid, "--timeout: expected a duration such as 30s, got %s", a.timeout)
	}
	a.style.on = a.tty && !a.noColor && a.vars["NO_COLOR"] == "" && a.vars["TERM"] != "dumb"
	if a.timeout > 0 {
		ctx, cancel := context.WithTimeout(cmd.Context(), a.timeout)
		cmd.SetContext(ctx)
		a.cancel = cancel
	}
	return nil
}

// choices names some words, the last after an or.
func choices(words []string) string {
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

func oneOf(word string, known []string) bool {
	return slices.Contains(known, word)
}

// badFlag says which flag was meant.
func badFlag(cmd *cobra.Command, err error) error {
	text := err.Error()
	hint := ""
	if wrong, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		text = fmt.Sprintf("--%s: expected %s, got %q", wrong.GetFlag().Name, takes(wrong.GetFlag().Value.Type()), wrong.GetValue())
	}
	if name, ok := strings.CutPrefix(text, "unknown flag: --"); ok {
		name, _, _ = strings.Cut(name, "=")
		var known []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { known = append(known, f.Name) })
		text = fmt.Sprintf("%s has no flag --%s", cmd.CommandPath(), name)
		if near := ksl.Nearest(name, known); near != "" {
			hint = "; did you mean --" + near + "?"
		}
	}
	return vortex.Errorf(vortex.Invalid, "%s%s\n`%s --help` lists the flags", text, hint, cmd.CommandPath())
}

// takes says what a flag of a type takes.
func takes(flagType string) string {
	switch {
	case flagType == "duration":
		return "a duration such as 30s or 10m"
	case flagType == "bool":
		return "true or false"
	case strings.HasPrefix(flagType, "uint"):
		return "a number from 0"
	case strings.HasPrefix(flagType, "int"), strings.HasPrefix(flagType, "float"):
		return "a number"
	default:
		return "a " + flagType
	}
}

// knownCommand refuses a command that does not exist, and says which was meant.
func knownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var known []string
	for _, sub := range cmd.Commands() {
		known = append(append(known, sub.Name()), sub.Aliases...)
	}
	hint := ""
	if near := ksl.Nearest(args[0], known); near != "" {
		hint = fmt.Sprintf("; did you mean %q?", near)
	}
	return vortex.Errorf(vortex.Invalid, "%s has no command %q%s\n`%s --help` lists the commands", cmd.CommandPath(), args[0], hint, cmd.CommandPath())
}

// group is a command that only has commands below it.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Args: knownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(commands...)
	return cmd
}

// between demands so many arguments; what names them for people.
func between(fewest, most int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) >= fewest && len(args) <= most {
			return nil
		}
		got := "nothing"
		if len(args) > 0 {
			got = strings.Join(args, " ")
		}
		return vortex.Errorf(vortex.Invalid, "%s: expected %s, got %s\nusage: %s", cmd.CommandPath(), what, got, cmd.UseLine())
	}
}

// none demands that there are no arguments.
var none = between(0, 0, "no arguments")

func completionCommand() *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use: "completion SHELL", Short: "Print a script that completes commands in bash, zsh, fish or powershell",
		Example:   "  source <(vortex completion bash)",
		Args:      between(1, 1, "one of bash, zsh, fish, powershell"),
		ValidArgs: shells,
		RunE: func(cmd *cobra.Command, args []string) error {
			root, out := cmd.Root(), cmd.OutOrStdout()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(out, true)
			case "zsh":
				return root.GenZshCompletion(out)
			case "fish":
				return root.GenFishCompletion(out, true)
			case "powershell":
				return root.GenPowerShellCompletionWithDesc(out)
			default:
				return vortex.Errorf(vortex.Invalid, "expected one of %s, got %q", strings.Join(shells, ", "), args[0])
			}
		},
	}
}
