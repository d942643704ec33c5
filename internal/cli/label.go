package cli

import (
	"math"
	"strings"

	"github.com/spf13/cobra"

	"vortex"
	"vortex/client"
)

func (a *cli) labelCommand() *cobra.Command {
	return &cobra.Command{
		Use: "label NODE KEY=VALUE… KEY-…", Short: "Give a node labels, or take them back",
		Long: "KEY=VALUE gives the node a label, over one of the same name that it was started with; KEY- takes back what was given. Constraints of apps,\n" +
			"such as node.labels.disk == ssd, hold for what is placed from now on; what runs stays. The label zone says where the node is, and member\n" +
			"(preferred or never) whether its server should hold the state.",
		Example: "  vortex node label worker-3 zone=eu disk=ssd\n  vortex node label worker-3 disk-",
		Args:    between(2, math.MaxInt, "a node and labels, such as zone=eu to set one or zone- to take it back"),
		RunE: func(cmd *cobra.Command, args []string) error {
			req, err := labelChanges(args[1:])
			if err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			node, err := c.Label(cmd.Context(), args[0], req)
			if err != nil {
				return err
			}
			return a.result(node, args[0], "node/%s labeled", args[0])
		},
	}
}

// labelChanges reads KEY=VALUE and KEY-.
func labelChanges(args []string) (client.LabelsRequest, error) {
	req := client.LabelsRequest{Set: map[string]string{}}
	for _, arg := range args {
		key, value, set := strings.Cut(arg, "=")
		name, remove := strings.CutSuffix(arg, "-")
		switch {
		case set:
			if err := vortex.CheckLabel(key, value); err != nil {
				return req, err
			}
			req.Set[key] = value
		case remove && name != "":
			req.Remove = append(req.Remove, name)
		default:
			return req, errUsage("expected KEY=VALUE to set a label or KEY- to take one back, got %q", arg)
		}
	}
	return req, nil
}
