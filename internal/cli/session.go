package cli

import (
	"cmp"
	"errors"
	"io/fs"
	"net"
	"net/url"
	"os"
	"strings"

	"vortex"
	"vortex/client"
	"vortex/internal/kind/ksl"
)

// target is a server to talk to.
type target struct {
	server, kind, token string
	tls                 client.TLS
	source              string // where it was found, for people
}

// resolve finds the server: flags and variables, then the named or current context, then a server of this machine.
func (a *cli) resolve() (target, error) {
	server := cmp.Or(a.server, a.vars["VORTEX_SERVER"])
	contexts, err := client.LoadContexts(a.contextsFile())
	if err != nil {
		return target{}, err
	}
	t := target{server: server, token: a.vars["VORTEX_TOKEN"], kind: cmp.Or(a.kind, a.vars["VORTEX_KIND"]), tls: a.security(), source: "--server"}
	runs, runErr := client.RunFiles(a.runtimeDirs()...)
	name := cmp.Or(a.contextName, a.vars["VORTEX_CONTEXT"])
	switch {
	case server != "":
		t.adopt(contexts.Contexts, runs)
	case name != "":
		c, ok := contexts.Find(name)
		if !ok {
			hint := "; `vortex context ls` lists them"
			if near := ksl.Nearest(name, contexts.Names()); near != "" {
				hint = "; did you mean " + near + "?"
			}
			return t, vortex.Errorf(vortex.NotFound, "no context %q%s", name, hint)
		}
		t.use(c, "context "+c.Name)
	default:
		t.find(contexts, runs)
	}
	if t.server == "" {
		t.server, t.source = client.DefaultServer, "default"
	}
	if t.token == "" && errors.Is(runErr, fs.ErrPermission) {
		a.note("a server of another user runs on this machine; use its user (sudo), or `vortex login`")
	}
	return t, nil
}

// use takes what is not set yet from a context.
func (t *target) use(c client.Context, source string) {
	t.server, t.kind, t.source = cmp.Or(t.server, c.Server), cmp.Or(t.kind, c.Kind), source
	if t.tls.Cert == "" { // who names a certificate wants to be known by it
		t.token = cmp.Or(t.token, c.Token)
	}
	t.tls.CA, t.tls.ServerName = cmp.Or(t.tls.CA, c.TLS.CA), cmp.Or(t.tls.ServerName, c.TLS.ServerName)
	if t.tls.Cert == "" {
		t.tls.Cert, t.tls.Key = c.TLS.Cert, cmp.Or(t.tls.Key, c.TLS.Key)
	}
}

// security is what flags and variables say about TLS.
func (a *cli) security() client.TLS {
	return client.TLS{
		CA: cmp.Or(a.tls.CA, a.vars["VORTEX_CA"]), Cert: cmp.Or(a.tls.Cert, a.vars["VORTEX_CERT"]),
		Key: cmp.Or(a.tls.Key, a.vars["VORTEX_KEY"]), ServerName: cmp.Or(a.tls.ServerName, a.vars["VORTEX_SERVER_NAME"]),
	}
}

// adopt finds the token of a server that was named by its URL.
func (t *target) adopt(contexts []client.Context, runs []client.RunFile) {
	for _, c := range contexts {
		if sameServer(c.Server, t.server) {
			t.use(c, "--server, context "+c.Name)
			return
		}
	}
	for _, run := range runs {
		if sameServer(run.API, t.server) {
			t.use(client.Context{Kind: run.Kind, Token: run.Token, TLS: run.TLS}, "--server, running here")
			return
		}
	}
}

// find takes the current context, else the newest server of this machine.
func (t *target) find(contexts client.Contexts, runs []client.RunFile) {
	if c, ok := contexts.Find(contexts.Current); ok {
		t.use(c, "context "+c.Name)
		return
	}
	if len(runs) > 0 {
		run := runs[0]
		t.use(client.Context{Server: run.API, Kind: run.Kind, Token: run.Token, TLS: run.TLS}, "running here, data in "+run.Data)
	}
}

// sameServer compares servers by scheme, host and port; localhost is 127.0.0.1.
func sameServer(a, b string) bool { return canonical(a) == canonical(b) }

func canonical(server string) string {
	if !strings.Contains(server, "://") {
		server = "http://" + server
	}
	u, err := url.Parse(server)
	if err != nil {
		return server
	}
	return u.Scheme + "://" + strings.Replace(u.Host, "localhost", "127.0.0.1", 1)
}

func (a *cli) contextsFile() string {
	return client.ContextsFile(a.vars["XDG_CONFIG_HOME"], a.vars["HOME"])
}

// runtimeDirs are where run files may be: this user's, then root's.
func (a *cli) runtimeDirs() []string {
	if a.env.RuntimeDir != "" {
		return []string{a.env.RuntimeDir}
	}
	own, shared := client.RuntimeDir(os.Geteuid(), a.vars["XDG_RUNTIME_DIR"]), client.RuntimeDir(0, "")
	if own == shared {
		return []string{own}
	}
	return []string{own, shared}
}

// client returns a client of the server to talk to.
func (a *cli) client() (*client.Client, error) {
	t, err := a.resolve()
	if err != nil {
		return nil, err
	}
	return client.New(client.Options{Server: t.server, Token: t.token, TLS: t.tls})
}

// openKind returns a client of the store of the server to talk to.
func (a *cli) openKind() (*client.Kind, error) {
	t, err := a.resolve()
	if err != nil {
		return nil, err
	}
	return client.OpenKind(t.store(), t.token, t.tls)
}

// store is the address of the server's store. One without a scheme speaks TLS when the API does.
func (t *target) store() string {
	if strings.Contains(t.kind, "://") {
		return t.kind
	}
	scheme, host := "", "127.0.0.1"
	if u, err := url.Parse(t.server); err == nil && u.Hostname() != "" {
		host = u.Hostname()
		if u.Scheme == "https" {
			scheme = "https://"
		}
	}
	return scheme + cmp.Or(t.kind, net.JoinHostPort(host, "50051"))
}
