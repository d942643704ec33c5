package cli

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"vortex"
	"vortex/client"
)

func (a *cli) tokenJoinCommand() *cobra.Command {
	role, ttl, uses := string(vortex.ClusterRoleAgent), time.Hour, uint32(1)
	cmd := &cobra.Command{
		Use: "join", Short: "Make a token with which machines join the cluster; it is printed once and kept nowhere", Args: none,
		Long: "Makes a token with which machines join the cluster. It names the cluster's CA, so that they know whom they talk to before they show it.\n" +
			"Pass it on by a way that others cannot read: who has it can join as often as it has uses, until it expires.",
		Example: "  vortex token join\n  vortex token join --role server --ttl 10m\n  vortex token join --uses 20",
		RunE: a.withKind(func(ctx context.Context, k *client.Kind, _ []string) error {
			wanted := vortex.ClusterRole(role)
			if wanted != vortex.ClusterRoleAgent && wanted != vortex.ClusterRoleServer {
				return vortex.Errorf(vortex.Invalid, "--role: expected agent or server, got %q", role)
			}
			if ttl < time.Second {
				return vortex.Errorf(vortex.Invalid, "--ttl: expected a duration from 1s, such as 1h, got %s", ttl)
			}
			if uses == 0 {
				return vortex.Errorf(vortex.Invalid, "--uses: expected a number from 1, got 0")
			}
			made, err := k.CreateJoinToken(ctx, wanted, ttl, uses)
			if err != nil {
				return err
			}
			token := made.String()
			a.note("%s can join as %s with this token in the next %s; it is shown this once\nvortex %s --join HOST --token TOKEN", machines(uses), role, age(ttl), role)
			return a.answer(map[string]any{"name": joinName(made.ID), "role": role, "uses": uses, "token": token}, token, "%s", token)
		}),
	}
	cmd.Flags().StringVar(&role, "role", role, "what the machines become: agent or server")
	cmd.Flags().DurationVar(&ttl, "ttl", ttl, "the token expires after this long")
	cmd.Flags().Uint32Var(&uses, "uses", uses, "how many machines it is for")
	return cmd
}

func (a *cli) tokenNewCommand() *cobra.Command {
	return &cobra.Command{
		Use: "new", Short: "Make a secret with which servers make a cluster together; it is kept nowhere", Args: none,
		Long: "Makes a secret for `vortex server --bootstrap`. It asks no server: there is none yet.\n" +
			"Pass it on by a way that others cannot read: who has it before the cluster is founded can be one of its servers.",
		Example: "  vortex token new\n  vortex server --bootstrap 3 --join 10.0.0.1,10.0.0.2,10.0.0.3 --token SECRET --advertise 10.0.0.1",
		RunE: func(*cobra.Command, []string) error {
			secret := rand.Text()
			a.note("give it to all servers, each started with\nvortex server --bootstrap N --join HOST,HOST,… --token SECRET --advertise ADDRESS")
			return a.answer(map[string]string{"secret": secret}, secret, "%s", secret)
		},
	}
}

func machines(n uint32) string {
	if n == 1 {
		return "one machine"
	}
	return fmt.Sprintf("%d machines", n)
}

// joinName is what a token for joining is called: the part of it that is no secret.
func joinName(id string) string { return "vxj_" + id }

// joinID is the id of a token for joining, of its name or of the whole token.
func joinID(name string) (id string, ok bool) {
	rest, ok := strings.CutPrefix(name, joinName(""))
	id, _, _ = strings.Cut(rest, "_")
	return id, ok && id != ""
}

// anyToken is a token as it is listed: a bearer token, or one for joining, which has uses.
type anyToken struct {
	Name      string    `json:"name"`
	Hash      string    `json:"hash"`
	Role      string    `json:"role"`
	Uses      *uint32   `json:"uses,omitempty"`
	ExpiresAt time.Time `json:"expires_at,omitzero"`
	CreatedAt time.Time `json:"created_at"`
}

// does says what a token is for.
func (t anyToken) does() string {
	if t.Uses == nil {
		return t.Role
	}
	return fmt.Sprintf("joins as %s, %d left", t.Role, *t.Uses)
}

func allTokens(ctx context.Context, k *client.Kind) ([]anyToken, error) {
	bearers, err := k.Tokens(ctx)
	if err != nil {
		return nil, err
	}
	joins, err := k.JoinTokens(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]anyToken, 0, len(bearers)+len(joins))
	for _, t := range bearers {
		all = append(all, anyToken{Name: t.Name, Hash: t.Hash, Role: t.Role, ExpiresAt: t.ExpiresAt, CreatedAt: t.CreatedAt})
	}
	for _, t := range joins {
		all = append(all, anyToken{Name: joinName(t.ID), Hash: t.Hash, Role: string(t.Role), Uses: &t.Uses, ExpiresAt: t.ExpiresAt, CreatedAt: t.CreatedAt})
	}
	return all, nil
}

func (a *cli) tokenListCommand() *cobra.Command {
	return &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List tokens, those for joining too; what they are is not kept", Args: none,
		RunE: a.withKind(func(ctx context.Context, k *client.Kind, _ []string) error {
			tokens, err := allTokens(ctx, k)
			if err != nil {
				return err
			}
			return show(a, list[anyToken]{
				items: tokens, object: tokens, empty: "no tokens but the server's own", name: func(t anyToken) string { return t.Name },
				columns: []column[anyToken]{
					{"NAME", false, func(t anyToken) string { return t.Name }},
					{"ROLE", false, anyToken.does},
					{"EXPIRES", false, func(t anyToken) string {
						if t.ExpiresAt.IsZero() {
							return "never"
						}
						return "in " + age(time.Until(t.ExpiresAt))
					}},
					{"AGE", false, func(t anyToken) string { return age(time.Since(t.CreatedAt)) }},
					{"SHA256", true, func(t anyToken) string { return t.Hash }},
				},
			})
		}),
	}
}

func (a *cli) tokenRemoveCommand() *cobra.Command {
	return a.removal("token", func(k *client.Kind, ctx context.Context, name string) (bool, error) {
		if id, ok := joinID(name); ok {
			return k.RemoveJoinToken(ctx, id)
		}
		return k.RemoveToken(ctx, name)
	})
}

func (a *cli) clusterRemoveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "remove NAME", Aliases: []string{"rm"}, Short: "Put a server or node out of the cluster; its certificate is worth nothing at once, its name is free", Args: between(1, 1, "a name"),
		RunE: a.withKind(func(ctx context.Context, k *client.Kind, args []string) error {
			there, err := k.RemoveMember(ctx, args[0])
			if err != nil {
				return err
			}
			if !there {
				return vortex.Errorf(vortex.NotFound, "no server or node %q was let in; `vortex kv scan vortex:identity` lists them", args[0])
			}
			return a.result(map[string]string{"removed": args[0]}, args[0], "%s is out of the cluster", args[0])
		}),
	}
	a.kindFlag(cmd)
	return cmd
}
