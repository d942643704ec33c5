package cli

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"vortex"
	"vortex/client"
	"vortex/internal/authz"
	"vortex/internal/kind/ksl"
)

// accessName is what tokens and roles may be called.
var accessName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@-]{0,62}$`)

func checkName(name string) error {
	if !accessName.MatchString(name) {
		return vortex.Errorf(vortex.Invalid, "expected a name of at most 63 letters, digits, '.', '_', '@' and '-', the first a letter or digit, got %q", name)
	}
	return nil
}

// needs refuses a command that is called without one of these flags.
func needs(flags ...string) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		for _, name := range flags {
			if !cmd.Flags().Changed(name) {
				return errUsage("%s: expected --%s: %s\nusage: %s", cmd.CommandPath(), name, cmd.Flags().Lookup(name).Usage, cmd.UseLine())
			}
		}
		return nil
	}
}

func (a *cli) tokenCreateCommand() *cobra.Command {
	var name, role string
	var ttl time.Duration
	cmd := &cobra.Command{
		Use: "create --name NAME --role ROLE", Short: "Make a token; it is printed once and kept nowhere", Args: none, PreRunE: needs("name", "role"),
		Example: "  vortex token create --name ci --role viewer --ttl 720h\n  vortex role create jobs --allow read:jobs,write:jobs && vortex token create --name worker --role jobs",
		RunE: a.withKind(func(ctx context.Context, k *client.Kind, _ []string) error {
			if err := checkName(name); err != nil {
				return err
			}
			if _, ok := joinID(name); ok {
				return vortex.Errorf(vortex.Invalid, "--name: names that begin with vxj_ are those of tokens for joining; choose another")
			}
			if ttl < 0 {
				return vortex.Errorf(vortex.Invalid, "--ttl: expected a duration such as 720h, got %s", ttl)
			}
			if err := roleExists(ctx, k, role); err != nil {
				return err
			}
			token, err := k.CreateToken(ctx, name, role, ttl)
			if err != nil {
				return err
			}
			a.note("token %s has the role %s; it is shown this once, keep it now", name, role)
			return a.answer(map[string]any{"name": name, "role": role, "token": token}, token, "%s", token)
		}),
	}
	cmd.Flags().StringVar(&name, "name", "", "what the token is called")
	cmd.Flags().StringVar(&role, "role", "", "what it may do: admin, viewer or a role of `vortex role ls`")
	cmd.Flags().DurationVar(&ttl, "ttl", 0, "it expires after this long (default: never)")
	return cmd
}

// roleExists refuses a role that nobody made.
func roleExists(ctx context.Context, k *client.Kind, name string) error {
	if _, ok := authz.BuiltIn(name); ok {
		return nil
	}
	roles, err := k.Roles(ctx)
	if err != nil {
		return err
	}
	known := []string{"admin", "viewer"}
	for _, r := range roles {
		if r.Name == name {
			return nil
		}
		known = append(known, r.Name)
	}
	hint := "`vortex role ls` lists them"
	if near := ksl.Nearest(name, known); near != "" {
		hint = "did you mean " + near + "?"
	}
	return vortex.Errorf(vortex.NotFound, "no role %q; %s", name, hint)
}

// removal is the command that removes a token or a role.
func (a *cli) removal(what string, remove func(*client.Kind, context.Context, string) (bool, error)) *cobra.Command {
	return &cobra.Command{
		Use: "rm NAME", Aliases: []string{"remove", "delete", "revoke"}, Short: "Remove a " + what + "; who has it loses it at once", Args: between(1, 1, "a "+what),
		RunE: a.withKind(func(ctx context.Context, k *client.Kind, args []string) error {
			if _, builtIn := authz.BuiltIn(args[0]); builtIn && what == "role" {
				return vortex.Errorf(vortex.Invalid, "the role %s is built in and cannot be removed", args[0])
			}
			there, err := remove(k, ctx, args[0])
			if err != nil {
				return err
			}
			if !there {
				return vortex.Errorf(vortex.NotFound, "no %s %q; `vortex %s ls` lists them", what, args[0], what)
			}
			return a.result(map[string]string{"removed": args[0]}, args[0], "%s %s removed", what, args[0])
		}),
	}
}

func (a *cli) roleCommand() *cobra.Command {
	cmd := group("role", "Manage what tokens and certificates may do in the store", a.roleCreateCommand(), a.roleListCommand(), a.removal("role", (*client.Kind).RemoveRole))
	a.kindFlag(cmd)
	return cmd
}

func (a *cli) roleCreateCommand() *cobra.Command {
	var allow []string
	cmd := &cobra.Command{
		Use: "create NAME --allow VERB:PREFIX,…", Short: "Make a role, or change what one allows", Args: between(1, 1, "a name"), PreRunE: needs("allow"),
		Long: "Makes a role of grants. read:PREFIX allows to read, watch and compare the keys PREFIX and PREFIX:…, write:PREFIX to put and delete them; " +
			"without :PREFIX all keys. schema allows to change the schema, admin everything.\nTokens, secrets and roles are only reached by admin, or by a grant that names them.",
		Example: "  vortex role create jobs --allow read:jobs,write:jobs\n  vortex role create auditor --allow read",
		RunE: a.withKind(func(ctx context.Context, k *client.Kind, args []string) error {
			role := vortex.RoleRecord{Name: args[0], Allow: []vortex.Permission{}}
			if err := checkName(role.Name); err != nil {
				return err
			}
			if _, ok := authz.BuiltIn(role.Name); ok {
				return vortex.Errorf(vortex.Invalid, "the role %s is built in and cannot be changed; choose another name", role.Name)
			}
			for _, text := range allow {
				p, err := authz.ParseGrant(text)
				if err != nil {
					return err
				}
				role.Allow = append(role.Allow, p)
			}
			if len(role.Allow) == 0 {
				return errUsage("--allow: expected read:PREFIX, write:PREFIX, schema or admin, got nothing\n`vortex role rm %s` removes a role", role.Name)
			}
			if err := k.PutRole(ctx, role); err != nil {
				return err
			}
			return a.result(accessRole{Name: role.Name, Allow: role.Allow}, role.Name, "role %s allows %s", role.Name, grants(role.Allow))
		}),
	}
	cmd.Flags().StringSliceVar(&allow, "allow", nil, "what it allows, such as read:jobs; may be repeated")
	return cmd
}

// accessRole is a role as it is printed.
type accessRole struct {
	Name      string              `json:"name"`
	Allow     []vortex.Permission `json:"allow"`
	BuiltIn   bool                `json:"built_in,omitempty"`
	CreatedAt time.Time           `json:"created_at,omitzero"`
}

// grants is what a role allows, for people.
func grants(allow []vortex.Permission) string {
	texts := make([]string, len(allow))
	for i, p := range allow {
		texts[i] = strings.TrimSuffix(string(p.Verb)+":"+p.Prefix, ":")
	}
	return orDash(strings.Join(texts, ","))
}

func (a *cli) roleListCommand() *cobra.Command {
	return &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List roles", Args: none,
		RunE: a.withKind(func(ctx context.Context, k *client.Kind, _ []string) error {
			made, err := k.Roles(ctx)
			if err != nil {
				return err
			}
			roles := slices.Clone(builtInRoles)
			for _, r := range made {
				roles = append(roles, accessRole{Name: r.Name, Allow: r.Allow, CreatedAt: r.CreatedAt})
			}
			return show(a, list[accessRole]{
				items: roles, object: roles, empty: "no roles", name: func(r accessRole) string { return r.Name },
				columns: []column[accessRole]{
					{"NAME", false, func(r accessRole) string { return r.Name }},
					{"ALLOWS", false, func(r accessRole) string { return grants(r.Allow) }},
					{"AGE", false, func(r accessRole) string {
						if r.BuiltIn {
							return "built in"
						}
						return age(time.Since(r.CreatedAt))
					}},
				},
			})
		}),
	}
}

// builtInRoles are those that every store has.
var builtInRoles = []accessRole{
	{Name: "admin", Allow: []vortex.Permission{{Verb: vortex.AccessVerbAdmin}}, BuiltIn: true},
	{Name: "viewer", Allow: []vortex.Permission{{Verb: vortex.AccessVerbRead}}, BuiltIn: true},
}
