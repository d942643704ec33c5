package cli

import (
	"context"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"vortex"
	"vortex/client"
)

// waiting is whether a command waits for what it asked for, and how long.
type waiting struct{ no bool }

func (w *waiting) flag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&w.no, "no-wait", false, "do not wait until it is done")
}

// request turns it into what the server is asked. The server gives up a little before the
// command does, so that it can say how far it came.
func (w *waiting) request(a *cli) client.WaitRequest {
	limit := defaultWait
	if a.timeout > 0 {
		const head = 200 * time.Millisecond
		limit = max(a.timeout-head, a.timeout/2)
	}
	return client.WaitRequest{Wait: !w.no, Timeout: limit.Seconds()}
}

// action is a command on one app that the server carries out.
type action struct {
	use, short string
	done       string // what it is called when it is done
	call       func(context.Context, *client.Client, string, client.WaitRequest) (client.ActionResponse, error)
}

func (a *cli) actionCommand(act action) *cobra.Command {
	var w waiting
	cmd := &cobra.Command{
		Use: act.use, Short: act.short, Args: between(1, 1, "an app"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			answer, err := act.call(cmd.Context(), c, args[0], w.request(a))
			if err != nil {
				return err
			}
			return a.result(answer, args[0], "app/%s %s", args[0], act.done)
		},
	}
	w.flag(cmd)
	return cmd
}

func (a *cli) startCommand() *cobra.Command {
	return a.actionCommand(action{
		"start APP", "Run a stopped app again", "started",
		func(ctx context.Context, c *client.Client, app string, w client.WaitRequest) (client.ActionResponse, error) {
			return c.Start(ctx, app, w)
		},
	})
}

func (a *cli) stopCommand() *cobra.Command {
	return a.actionCommand(action{
		"stop APP", "Stop all instances of an app; the app stays", "stopped",
		func(ctx context.Context, c *client.Client, app string, w client.WaitRequest) (client.ActionResponse, error) {
			return c.Stop(ctx, app, w)
		},
	})
}

func (a *cli) restartCommand() *cobra.Command {
	return a.actionCommand(action{
		"restart APP", "Replace all instances of an app, with no request lost", "restarted",
		func(ctx context.Context, c *client.Client, app string, w client.WaitRequest) (client.ActionResponse, error) {
			return c.Restart(ctx, app, w)
		},
	})
}

func (a *cli) deleteCommand() *cobra.Command {
	cmd := a.actionCommand(action{
		"delete APP", "Delete an app with all its instances", "deleted",
		func(ctx context.Context, c *client.Client, app string, w client.WaitRequest) (client.ActionResponse, error) {
			return c.Delete(ctx, app, w)
		},
	})
	cmd.Aliases = []string{"rm"}
	return cmd
}

func (a *cli) scaleCommand() *cobra.Command {
	var w waiting
	cmd := &cobra.Command{
		Use: "scale APP N", Short: "Ask for a number of instances", Example: "  vortex scale web 5",
		Args: between(2, 2, "an app and a number"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			count, err := strconv.Atoi(args[1])
			if err != nil || count < 0 {
				return errUsage("expected a number of instances from 0, got %q", args[1])
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			wait := w.request(a)
			answer, err := c.Scale(ctx, args[0], client.ScaleRequest{Replicas: &count, Wait: wait.Wait, Timeout: wait.Timeout})
			if err != nil {
				return err
			}
			if err := a.result(answer, args[0], "app/%s scaled from %d to %d", args[0], answer.PreviousReplicas, count); err != nil {
				return err
			}
			if app, err := c.App(ctx, args[0]); err == nil && app.ScalingMode == string(vortex.ScalingModeAuto) {
				a.note("%s", a.style.dim("the autoscaler takes over at the next change of traffic; scaling.mode: manual keeps the number"))
			}
			return nil
		},
	}
	w.flag(cmd)
	return cmd
}

func (a *cli) rollbackCommand() *cobra.Command {
	var w waiting
	cmd := &cobra.Command{
		Use: "rollback APP [N]", Short: "Go back to the release before, or to release N",
		Example: "  vortex history web\n  vortex rollback web 3",
		Args:    between(1, 2, "an app and perhaps a release"),
		RunE: func(cmd *cobra.Command, args []string) error {
			wait := w.request(a)
			req := client.RollbackRequest{Wait: wait.Wait, Timeout: wait.Timeout}
			if len(args) > 1 {
				n, err := strconv.ParseUint(args[1], 10, 64)
				if err != nil || n == 0 {
					return errUsage("expected the number of a release, got %q\n`vortex history %s` lists them", args[1], args[0])
				}
				req.Release = n
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			answer, err := c.Rollback(cmd.Context(), args[0], req)
			if err != nil {
				return err
			}
			return a.result(answer, args[0], "app/%s rolled back to release %s", args[0], strconv.FormatUint(answer.Release, 10))
		},
	}
	w.flag(cmd)
	return cmd
}
