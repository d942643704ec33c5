package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"vortex"
	"vortex/internal/config"
	"vortex/internal/kind/backup"
	"vortex/internal/kind/engine"
)

// Recover makes the store of a server that does not run a group of its own: of its data, or of what fill puts into an empty one.
type Recover func(ctx context.Context, cfg config.Config, fill func(context.Context, engine.Engine) error, force bool) (engine.Recovery, error)

// recovered is what `cluster recover` did.
type recovered struct {
	Data     string `json:"data"`
	Group    string `json:"group"`
	Revision int64  `json:"revision"`
	Epoch    uint64 `json:"epoch,omitempty"`
	Kept     string `json:"kept,omitempty"`
}

func (a *cli) clusterRecoverCommand() *cobra.Command {
	var from, at string
	var force bool
	cmd := &cobra.Command{
		Use: "recover --data DIR", Short: "Make one server the whole store, when the other members are lost for good",
		Long: "Makes the store in DIR a group of one: of the data that this server has as a survivor, or of a snapshot. The server must not\n" +
			"run. Everything that this server was ever sent is kept; what only the lost members had is gone. The store has a new identity and the\n" +
			"cluster a new epoch, so that lost members which come back are refused. The data as it was stays beside it.\n\n" +
			"It is refused while enough of the other members answer for a quorum: then start this server as always.",
		Example: "  vortex cluster recover --data /var/lib/vortex\n" +
			"  vortex cluster recover --data /var/lib/vortex --snapshot monday.snap",
		Args: none,
	}
	cmd.Flags().StringVar(&from, "snapshot", "", "begin with this snapshot, or the newest moment of this backup directory, in the data's place")
	cmd.Flags().StringVar(&at, "at", "", "the moment of the backup directory to go back to: "+momentHelp)
	cmd.Flags().BoolVar(&force, "force", false, "even if the other members answer")
	sources := storeFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if !sources.given("data", "config") {
			return errUsage("expected --data DIR: the data directory of the server to recover\nusage: %s", cmd.UseLine())
		}
		return a.recoverStore(cmd.Context(), sources, from, at, force)
	}
	return cmd
}

func (a *cli) recoverStore(ctx context.Context, sources *daemonSources, from, at string, force bool) error {
	cfg, err := sources.load(a)
	if err != nil {
		return err
	}
	if a.env.Recover == nil {
		return vortex.Errorf(vortex.Precondition, "this build of vortex only has the commands that talk to a server; recover with a build for Linux")
	}
	var fill func(context.Context, engine.Engine) error
	if from != "" {
		state, err := a.openState(from, at)
		if err != nil {
			return err
		}
		schema, err := builtinSchema()
		if err != nil {
			return err
		}
		fill = func(ctx context.Context, eng engine.Engine) error {
			_, err := backup.Restore(ctx, eng, state, backup.Options{Schema: schema})
			return err
		}
	}
	done, err := a.env.Recover(ctx, cfg, fill, force)
	if err != nil {
		return err
	}
	out := recovered{Data: cfg.Data, Group: strconv.FormatUint(done.Group, 16), Revision: done.Revision, Epoch: done.Epoch, Kept: done.Kept}
	text := []string{fmt.Sprintf("The store in %s is a group of one at revision %d", out.Data, out.Revision)}
	if out.Epoch > 0 {
		text[0] += fmt.Sprintf(", the cluster's epoch is %d", out.Epoch)
	}
	if out.Kept != "" {
		text = append(text, "the data as it was is in "+out.Kept)
	}
	text = append(text, "start this server, then let the others join again; what they have of the store is not used any more")
	return a.answer(out, out.Group, "%s", strings.Join(text, "\n"))
}
