package cli

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"vortex"
	"vortex/client"
)

func (a *cli) execCommand() *cobra.Command {
	var interactive, terminal bool
	var user string
	cmd := &cobra.Command{
		Use: "exec [-it] INSTANCE|APP -- COMMAND…", Short: "Run a command in an instance, or in a healthy one of an app",
		Example: "  vortex exec -it web -- sh\n  vortex exec web-1-x7k2p -- env",
		Args:    atLeast(2, "an instance or app and a command"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			command := args[1:]
			if command[0] == "--" {
				command = command[1:]
			}
			if len(command) == 0 {
				return errUsage("expected a command after --, got nothing\nusage: %s", cmd.UseLine())
			}
			opts := client.ExecOptions{Command: command, User: user, Stdout: a.env.Stdout, Stderr: a.env.Stderr}
			if interactive {
				opts.Stdin = a.env.Stdin
			}
			if terminal {
				restore, err := a.takeTerminal(cmd.Context(), &opts)
				if err != nil {
					return err
				}
				defer restore()
			}
			code, err := a.execute(cmd.Context(), c, args[0], opts)
			if err == nil && code != 0 {
				return exitError(code)
			}
			return err
		},
	}
	cmd.Flags().SetInterspersed(false)
	cmd.Flags().BoolVarP(&interactive, "interactive", "i", false, "pass stdin on")
	cmd.Flags().BoolVarP(&terminal, "tty", "t", false, "give the command a terminal")
	cmd.Flags().StringVarP(&user, "user", "u", "", "uid, uid:gid or name to run it as")
	return cmd
}

// atLeast demands so many arguments.
func atLeast(n int, what string) cobra.PositionalArgs {
	const many = 1 << 20
	return between(n, many, what)
}

// execute runs a command in the app of a name, or else in the instance of that id.
func (a *cli) execute(ctx context.Context, c *client.Client, name string, opts client.ExecOptions) (int, error) {
	_, err := c.App(ctx, name)
	switch {
	case err == nil:
		return c.ExecApp(ctx, name, opts)
	case !vortex.IsKind(err, vortex.NotFound):
		return 0, err
	}
	instance, missing := c.Instance(ctx, name)
	if vortex.IsKind(missing, vortex.NotFound) {
		return 0, vortex.Errorf(vortex.NotFound, "no app and no instance %q\n`vortex ps` lists instances", name)
	}
	if missing != nil {
		return 0, missing
	}
	return c.ExecInstance(ctx, instance.ID, opts)
}

// takeTerminal gives the command the user's terminal. The returned function gives it back.
func (a *cli) takeTerminal(ctx context.Context, opts *client.ExecOptions) (restore func(), err error) {
	in, ok := a.env.Stdin.(*os.File)
	if !ok || !isTerminal(in) || !a.tty {
		return nil, vortex.Errorf(vortex.Invalid, "-t needs a terminal, and stdin or stdout is none\nleave -t out to run the command without one")
	}
	out, ok := a.env.Stdout.(*os.File)
	if !ok {
		return nil, vortex.Errorf(vortex.Invalid, "-t needs a terminal on stdout")
	}
	state, err := term.MakeRaw(int(in.Fd())) //nolint:gosec // descriptors are small
	if err != nil {
		return nil, fmt.Errorf("take the terminal: %w", err)
	}
	opts.TTY = true
	opts.Resize = terminalSizes(ctx, func() (client.WindowSize, bool) {
		cols, rows, err := term.GetSize(int(out.Fd()))                                                       //nolint:gosec // descriptors are small
		return client.WindowSize{Rows: uint16(rows), Cols: uint16(cols)}, err == nil && rows > 0 && cols > 0 //nolint:gosec // screens are small
	})
	return func() { _ = term.Restore(int(in.Fd()), state) }, nil //nolint:gosec // descriptors are small
}
