package image

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"vortex"
)

// Auth is how to log in to a registry. The zero value uses the credentials in Docker's configuration file, if any.
type Auth struct {
	Username string
	Password string // or an access token
}

// keychain finds the credentials of each registry by itself, so that none is shown those of another.
type keychain struct {
	given       Auth                       // for this call; zero is none
	credentials func(registry string) Auth // may be nil
}

// Resolve returns what the call brought, else what the configuration says, else what Docker knows.
func (k keychain) Resolve(target authn.Resource) (authn.Authenticator, error) {
	auth := k.given
	if auth == (Auth{}) && k.credentials != nil {
		auth = k.credentials(registryName(target.RegistryStr()))
	}
	if auth == (Auth{}) {
		return authn.DefaultKeychain.Resolve(target)
	}
	return &authn.Basic{Username: auth.Username, Password: auth.Password}, nil
}

// remoteOptions are those of every request to a registry. Each request is tried at most three times.
func (s *Store) remoteOptions(ctx context.Context, auth Auth) []remote.Option {
	login := remote.WithAuthFromKeychain(keychain{given: auth, credentials: s.cfg.Credentials})
	return []remote.Option{
		remote.WithContext(ctx), login, remote.WithTransport(s.cfg.Transport), remote.WithUserAgent("vortex"),
		remote.WithRetryBackoff(remote.Backoff{Duration: 200 * time.Millisecond, Factor: 3, Jitter: 0.2, Steps: 3}),
	}
}

// newTransport returns a transport that gives up on a registry that does not answer. Plain HTTP is used only for
// registries on this machine or on a private network that do not speak TLS.
func newTransport() http.RoundTripper {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   8,
		IdleConnTimeout:       time.Minute,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: 30 * time.Second,
	}
}

// registryError turns what a registry client returned into what a user can act on.
func registryError(ref reference, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return vortex.Errorf(vortex.Unavailable, "image %s: gave up waiting for registry %s: %w", ref, ref.registry(), err)
	}
	if _, ok := errors.AsType[*vortex.Error](err); ok {
		return err
	}
	if _, ok := errors.AsType[*corruptError](err); ok {
		return &vortex.Error{Kind: vortex.Unavailable, Err: err, Msg: "image " + ref.String() + ": registry " + ref.registry() +
			" sent content that does not match its digest: try again, and push the image again if it stays so"}
	}
	if answer, ok := errors.AsType[*transport.Error](err); ok {
		return answerError(ref, answer)
	}
	if local(err) {
		return err
	}
	if !unreachable(err) {
		return &vortex.Error{Kind: vortex.Unavailable, Err: err, Msg: "image " + ref.String() + ": registry " + ref.registry() +
			" gave an answer that is not valid: check that it is a container registry"}
	}
	return &vortex.Error{Kind: vortex.Unavailable, Err: err, Msg: "image " + ref.String() + ": registry " + ref.registry() +
		" cannot be reached: check its name and the network, or bring the image with `vortex image import`"}
}

// answerError classifies a registry's refusal.
func answerError(ref reference, answer *transport.Error) error {
	kind, msg := vortex.Unavailable, " does not work now: try again later"
	switch answer.StatusCode {
	case http.StatusUnauthorized:
		kind = vortex.Unauthenticated
		msg = " has no such public image: check the name, make it with `vortex image build` or `vortex image import`, or give credentials with `docker login " +
			ref.registry() + "` or --username"
	case http.StatusForbidden:
		kind, msg = vortex.Denied, " does not let these credentials have it: ask its owner, or log in as somebody else"
	case http.StatusNotFound:
		kind = vortex.NotFound
		msg = " has no such image: check name and tag, or make it with `vortex image build` or `vortex image import`"
	case http.StatusTooManyRequests:
		kind, msg = vortex.Exhausted, " limits how often it may be asked: log in, or try again later"
	}
	return &vortex.Error{Kind: kind, Msg: "image " + ref.String() + ": registry " + ref.registry() + msg, Err: answer}
}

// local reports whether an error is this machine's own: a full or broken disk.
func local(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EROFS)
}

// unreachable reports whether an error came from the network, not from what was said over it.
func unreachable(err error) bool {
	_, network := errors.AsType[net.Error](err)
	return network || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET)
}
