package kindrpc

import (
	"context"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/tap"

	"vortex"
	"vortex/internal/authz"
)

// Anonymous says what a client without a token may do.
type Anonymous = authz.Mode

// The modes of anonymous access.
const (
	AnonymousOff     = authz.Off
	AnonymousLimited = authz.Limited
	AnonymousFull    = authz.Full
)

// access is what the caller of a request may do.
type access struct{ *authz.Caller }

// callerKey is where the context of an admitted request holds its *authz.Caller.
type callerKey struct{}

// admit finds out who calls before anything of the request's message was read, and refuses who nobody knows.
func (s *Service) admit(ctx context.Context, info *tap.Info) (context.Context, error) {
	if slices.Contains(s.Public, info.FullMethodName) {
		return ctx, nil
	}
	caller, err := s.identify(ctx, info.Header["authorization"])
	if err != nil {
		return ctx, s.fail(err)
	}
	return context.WithValue(ctx, callerKey{}, caller), nil
}

// authorize returns what the caller may do.
func (s *Service) authorize(ctx context.Context) (access, error) {
	if caller, ok := ctx.Value(callerKey{}).(*authz.Caller); ok {
		return access{caller}, nil
	}
	caller, err := s.identify(ctx, metadata.ValueFromIncomingContext(ctx, "authorization"))
	return access{caller}, err
}

// identify finds out who calls: by the token it sends, else by its certificate, else it is nobody.
func (s *Service) identify(ctx context.Context, authorization []string) (*authz.Caller, error) {
	authority := s.authority()
	if len(authorization) > 0 {
		scheme, token, ok := strings.Cut(authorization[0], " ")
		if !ok || !strings.EqualFold(scheme, "Bearer") {
			return nil, vortex.Errorf(vortex.Unauthenticated, "expected `authorization: Bearer TOKEN`, got another scheme")
		}
		return authority.Bearer(token)
	}
	if id := certificate(ctx); id != nil {
		caller, err := authority.Certificate(id)
		if err != nil && s.caughtUp(ctx) {
			return authority.Certificate(id)
		}
		return caller, err
	}
	return authority.Nobody()
}

// caughtUp waits until this server knows what the others do, such as who has just joined through another one.
func (s *Service) caughtUp(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return !s.Store.Stale() && s.Store.Sync(ctx) == nil
}

// Caller returns who makes a call of another service on the same server, nil for one of Service.Public.
func Caller(ctx context.Context) *authz.Caller {
	caller, _ := ctx.Value(callerKey{}).(*authz.Caller)
	return caller
}

// authority returns who knows the callers.
func (s *Service) authority() *authz.Authority {
	if s.Access != nil {
		return s.Access
	}
	s.once.Do(func() { s.own = &authz.Authority{Store: s.Store, Token: s.Token, Anonymous: s.Anonymous} })
	return s.own
}

// read refuses a key that the caller may not read.
func (a access) read(key string) error { return a.Check(authz.Read, key) }

// mayRead reports whether the caller may read a key.
func (a access) mayRead(key string) bool { return a.May(authz.Read, key) }

// put refuses to put a value that the caller may not write.
func (a access) put(key string, value []byte) error { return a.CheckPut(key, value) }

// write refuses a key that the caller may not write.
func (a access) write(key string) error { return a.Check(authz.Write, key) }

// scan refuses a prefix below which the caller may read nothing. Below a wider prefix the
// records it may not read are left out of the answer.
func (a access) scan(prefix string) error { return a.CheckScan(prefix) }

// schema refuses a caller that may not change the schema.
func (a access) schema() error { return a.Check(authz.Schema, "") }

// admin refuses a caller that may not do what concerns the whole store.
func (a access) admin(what string) error { return a.Check(authz.Admin, what) }
