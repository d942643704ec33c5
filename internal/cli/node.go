package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"vortex"
	"vortex/client"
)

// lookEvery is how often a command that waits looks how far it is.
const lookEvery = 300 * time.Millisecond

func (a *cli) cordonCommand() *cobra.Command {
	var req client.CordonRequest
	cmd := a.nodeAction("cordon NODE", "Place nothing new on a node; what runs there stays", "cordoned",
		func(ctx context.Context, c *client.Client, node string) (client.Node, error) {
			return c.Cordon(ctx, node, req)
		})
	cmd.Flags().StringVar(&req.Reason, "reason", "", "why, for people")
	return cmd
}

func (a *cli) uncordonCommand() *cobra.Command {
	return a.nodeAction("uncordon NODE", "Place instances on a node again, after cordon or drain", "uncordoned",
		func(ctx context.Context, c *client.Client, node string) (client.Node, error) {
			return c.Uncordon(ctx, node)
		})
}

// nodeAction is a command on one node that is done at once.
func (a *cli) nodeAction(use, short, done string, call func(context.Context, *client.Client, string) (client.Node, error)) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: between(1, 1, "a node"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			node, err := call(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			return a.result(node, args[0], "node/%s %s", args[0], done)
		},
	}
}

func (a *cli) drainCommand() *cobra.Command {
	var req client.CordonRequest
	var w waiting
	cmd := &cobra.Command{
		Use: "drain NODE", Short: "Move everything away from a node, with no request lost, and place nothing new there",
		Long: "Places nothing new on the node and moves its instances elsewhere: another one is up and healthy before one is taken from the edges, and that ends\n" +
			"when it has answered what it had. It waits until the node is empty; `vortex node uncordon NODE` takes it back, at any time.",
		Example: "  vortex node drain worker-3 --reason 'new kernel'\n  vortex node uncordon worker-3",
		Args:    between(1, 1, "a node"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			node, err := c.Drain(cmd.Context(), args[0], req)
			if err == nil && !w.no {
				err = a.awaitEmpty(cmd.Context(), c, args[0])
			}
			if err != nil {
				return err
			}
			done := "drained"
			if w.no {
				done = "is drained from now on"
			}
			return a.result(node, args[0], "node/%s %s", args[0], done)
		},
	}
	cmd.Flags().StringVar(&req.Reason, "reason", "", "why, for people")
	w.flag(cmd)
	return cmd
}

// awaitEmpty waits until no instance is left on a node.
func (a *cli) awaitEmpty(ctx context.Context, c *client.Client, node string) error {
	if a.timeout == 0 {
		limited, cancel := context.WithTimeout(ctx, defaultWait)
		defer cancel()
		ctx = limited
	}
	defer a.endStatus()
	last := ""
	for {
		list, err := c.Instances(ctx, "")
		if err == nil {
			left, waits := remaining(list.Instances, node)
			if left == 0 {
				return nil
			}
			last = fmt.Sprintf("%d instances left on %s", left, node)
			if left == 1 {
				last = "1 instance left on " + node
			}
			if waits != "" {
				last += "; " + waits
			}
			a.status("%s", last)
		}
		select {
		case <-ctx.Done():
		case <-time.After(lookEvery):
		}
		switch {
		case errors.Is(context.Cause(ctx), context.DeadlineExceeded):
			return fmt.Errorf("node/%s is not empty in time: %s\nit goes on; `vortex ps` shows how far it is, `vortex node uncordon %s` takes it back: %w", node, last, node, context.DeadlineExceeded)
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil && !vortex.IsKind(err, vortex.Unavailable):
			return err
		}
	}
}

// remaining counts the instances that a node still has, and says what keeps others from taking their place.
func remaining(all []client.Container, node string) (left int, waits string) {
	for _, c := range all {
		switch {
		case c.Status == string(vortex.ContainerStatusDead), c.Status == client.ContainerLost:
		case c.Node == node:
			left++
		case c.Status == client.ContainerPending && c.Node == "" && c.Reason != "":
			waits = c.Reason
		}
	}
	return left, waits
}
