package api

import (
	"net/http"
	"strings"

	"vortex"
	"vortex/internal/authz"
)

// withToken lets requests through whose token or certificate has a role that allows them.
func (s *Server) withToken(next http.Handler) http.Handler {
	if s.Access == nil {
		s.Access = &authz.Authority{Store: s.Store, Token: s.Token}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller, err := s.caller(r)
		if err == nil {
			err = caller.Check(demand(r))
		}
		if err != nil {
			s.fail(w, r, err)
			return
		}
		ctx, release := caller.Hold(r.Context())
		defer release()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// caller finds out who makes a request: by its token, else by its certificate.
func (s *Server) caller(r *http.Request) (*authz.Caller, error) {
	if token := bearer(r); token != "" {
		caller, err := s.Access.Bearer(token)
		if err != nil {
			return nil, vortex.Errorf(vortex.Unauthenticated, "the token is not valid on this server\n`vortex token` on the server's machine prints the right one, `vortex login` keeps it")
		}
		return caller, nil
	}
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		return s.Access.Certificate(authz.Identify(r.TLS.PeerCertificates[0]))
	}
	return nil, vortex.Errorf(vortex.Unauthenticated, "a token is needed: send `Authorization: Bearer TOKEN`\n`vortex token` on the server's machine prints it, `vortex login` keeps it")
}

// demand is what a request needs to be allowed: to look is to read the app's record, or those of all apps, to act on apps is to write
// them. Running commands in an app is acting. What is about the server itself is for admins.
func demand(r *http.Request) (authz.Verb, string) {
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, prefix+"/"), "/")
	look := (r.Method == http.MethodGet || r.Method == http.MethodHead) && parts[len(parts)-1] != "exec"
	switch key := keyOf(parts); {
	case look:
		return authz.Read, key
	case parts[0] == "apps":
		return authz.Write, key
	default:
		return authz.Admin, "do what is about the server itself"
	}
}

// keyOf is the key that the access to a path is judged by.
func keyOf(parts []string) string {
	if parts[0] == "apps" && len(parts) > 1 && parts[1] != "register" {
		return vortex.Apps.Key(parts[1])
	}
	return vortex.Apps.Prefix
}
