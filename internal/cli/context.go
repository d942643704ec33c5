package cli

import (
	"bufio"
	"cmp"
	"context"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"vortex"
	"vortex/client"
	"vortex/internal/kind/ksl"
)

func (a *cli) contextCommand() *cobra.Command {
	cmd := group("context", "Manage the servers you talk to", a.contextListCommand(), a.contextUseCommand(), a.contextRemoveCommand())
	cmd.Aliases = []string{"ctx"}
	return cmd
}

func (a *cli) contextListCommand() *cobra.Command {
	return &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List contexts", Args: none,
		RunE: func(*cobra.Command, []string) error {
			contexts, err := client.LoadContexts(a.contextsFile())
			if err != nil {
				return err
			}
			items := append([]client.Context{}, contexts.Contexts...) // none is [], not null
			return show(a, list[client.Context]{
				items: items, object: map[string]any{"current": contexts.Current, "contexts": items},
				empty: "no contexts; commands talk to the server of this machine, `vortex login URL` adds another",
				name:  func(c client.Context) string { return c.Name },
				columns: []column[client.Context]{
					{"NAME", false, func(c client.Context) string { return c.Name }},
					{"CURRENT", false, func(c client.Context) string {
						if c.Name == contexts.Current {
							return a.style.good("current")
						}
						return ""
					}},
					{"SERVER", false, func(c client.Context) string { return c.Server }},
					{"KIND", true, func(c client.Context) string { return orDash(c.Kind) }},
				},
			})
		},
	}
}

// editContexts changes the file of contexts.
func (a *cli) editContexts(edit func(*client.Contexts) error) error {
	contexts, err := client.LoadContexts(a.contextsFile())
	if err != nil {
		return err
	}
	if err := edit(&contexts); err != nil {
		return err
	}
	return contexts.Save(a.contextsFile())
}

func noContext(contexts *client.Contexts, name string) error {
	hint := "`vortex context ls` lists them"
	if near := ksl.Nearest(name, contexts.Names()); near != "" {
		hint = "did you mean " + near + "?"
	}
	return vortex.Errorf(vortex.NotFound, "no context %q; %s", name, hint)
}

func (a *cli) contextUseCommand() *cobra.Command {
	return &cobra.Command{
		Use: "use NAME|-", Short: "Talk to the server of a context; - to the one of this machine", Args: between(1, 1, "a context"),
		RunE: func(_ *cobra.Command, args []string) error {
			name := args[0]
			err := a.editContexts(func(contexts *client.Contexts) error {
				if name == "-" {
					contexts.Current = ""
					return nil
				}
				if _, ok := contexts.Find(name); !ok {
					return noContext(contexts, name)
				}
				contexts.Current = name
				return nil
			})
			if err != nil {
				return err
			}
			if name == "-" {
				return a.result(map[string]string{"current": ""}, name, "commands talk to the server of this machine")
			}
			return a.result(map[string]string{"current": name}, name, "context %s is current", name)
		},
	}
}

func (a *cli) contextRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use: "rm NAME", Aliases: []string{"remove", "delete"}, Short: "Forget a context and its token", Args: between(1, 1, "a context"),
		RunE: func(_ *cobra.Command, args []string) error {
			err := a.editContexts(func(contexts *client.Contexts) error {
				if !contexts.Remove(args[0]) {
					return noContext(contexts, args[0])
				}
				if contexts.Current == args[0] {
					contexts.Current = ""
				}
				return nil
			})
			if err != nil {
				return err
			}
			return a.result(map[string]string{"removed": args[0]}, args[0], "context %s removed", args[0])
		},
	}
}

func (a *cli) loginCommand() *cobra.Command {
	var name, kind string
	cmd := &cobra.Command{
		Use: "login URL", Short: "Keep a server's token as a context and make it current",
		Example: "  vortex login https://vortex.example.com:7070 --name prod < token\n" +
			"  vortex login https://10.0.0.1:7070 --ca ca.crt --cert me.crt --key me.key < token",
		Long: "Keeps the token of a server, which `vortex token` prints on its machine. The token is asked for, read from stdin, or taken from VORTEX_TOKEN.",
		Args: between(1, 1, "the server's URL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			token, err := a.readToken()
			if err != nil {
				return err
			}
			security, err := absolute(a.security())
			if err != nil {
				return err
			}
			c, err := client.New(client.Options{Server: args[0], Token: token, TLS: security})
			if err != nil {
				return err
			}
			if err := checkLogin(cmd.Context(), c); err != nil {
				return err
			}
			u, err := url.Parse(c.Server())
			if err != nil {
				return errUsage("expected a URL, got %q", args[0])
			}
			ctx := client.Context{Name: cmp.Or(name, u.Hostname()), Server: c.Server(), Kind: kind, Token: token, TLS: security}
			err = a.editContexts(func(contexts *client.Contexts) error {
				contexts.Put(ctx)
				contexts.Current = ctx.Name
				return nil
			})
			if err != nil {
				return err
			}
			return a.result(ctx, ctx.Name, "logged in to %s; context %s is current", ctx.Server, ctx.Name)
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "the context's name (default: the server's host)")
	cmd.Flags().StringVar(&kind, "kind", "", "host:port of the store (default: port 50051 of the server)")
	return cmd
}

// absolute makes the names of files hold wherever a later command runs.
func absolute(t client.TLS) (client.TLS, error) {
	for _, file := range []*string{&t.CA, &t.Cert, &t.Key} {
		if *file == "" {
			continue
		}
		abs, err := filepath.Abs(*file)
		if err != nil {
			return t, vortex.Errorf(vortex.Invalid, "%s cannot be found: %w", *file, err)
		}
		*file = abs
	}
	return t, nil
}

// checkLogin makes sure that a token is good before it is kept.
func checkLogin(ctx context.Context, c *client.Client) error {
	_, err := c.Cluster(ctx)
	return err
}

// readToken asks for a token on a terminal, and reads it from stdin or the environment elsewhere.
func (a *cli) readToken() (string, error) {
	if token := a.vars["VORTEX_TOKEN"]; token != "" {
		return token, nil
	}
	var token string
	if in, ok := a.env.Stdin.(*os.File); ok && isTerminal(in) {
		a.note("token (`vortex token` on the server's machine prints it):")
		data, err := term.ReadPassword(int(in.Fd())) //nolint:gosec // descriptors are small
		if err != nil {
			return "", vortex.Errorf(vortex.Invalid, "the token cannot be read: %w", err)
		}
		token = string(data)
	} else {
		line, _ := bufio.NewReader(a.env.Stdin).ReadString('\n')
		token = line
	}
	if token = strings.TrimSpace(token); token == "" {
		return "", errUsage("expected a token on stdin, got nothing\n`vortex token` on the server's machine prints it")
	}
	return token, nil
}

func (a *cli) tokenCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "token", Short: "Print the token you talk to the server with, or manage the tokens of others", Args: knownCommand,
		RunE: func(*cobra.Command, []string) error {
			t, err := a.resolve()
			if err != nil {
				return err
			}
			if t.token == "" {
				return vortex.Errorf(vortex.NotFound, "no token for %s is known here\non the server's machine its user can print it; `vortex login %s` keeps one", t.server, t.server)
			}
			return a.answer(map[string]string{"server": t.server, "token": t.token}, t.token, "%s", t.token)
		},
	}
	cmd.AddCommand(a.tokenCreateCommand(), a.tokenJoinCommand(), a.tokenNewCommand(), a.tokenListCommand(), a.tokenRemoveCommand())
	a.kindFlag(cmd)
	return cmd
}

func trimNewline(text string) string { return strings.TrimRight(text, "\r\n") }
