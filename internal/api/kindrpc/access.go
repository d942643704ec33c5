package kindrpc

import (
	"context"
	"crypto/subtle"
	"strings"

	"google.golang.org/grpc/metadata"

	"vortex"
)

// Anonymous says what a client without a token may do.
type Anonymous string

// The modes of anonymous access.
const (
	AnonymousOff     Anonymous = "off"     // nothing
	AnonymousLimited Anonymous = "limited" // read what is published, write metrics, own what no cluster type owns
	AnonymousFull    Anonymous = "full"    // everything
)

// published are the prefixes an anonymous client may read, reported those it may write.
var (
	published = []string{"vortex:metrics", "vortex:queue", "vortex:container", "router", "vortex:daemon:leader"}
	reported  = []string{"vortex:metrics"}
	owned     = []string{"vortex", "router"}
)

// access is what the caller of a request may do.
type access struct {
	all     bool
	limited bool
}

// authorize finds out what the caller may do from the bearer token in the request's metadata.
func (s *Service) authorize(ctx context.Context) (access, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	if values := md.Get("authorization"); len(values) > 0 {
		token, ok := strings.CutPrefix(values[0], "Bearer ")
		if ok && s.Token != "" && subtle.ConstantTimeCompare([]byte(token), []byte(s.Token)) == 1 {
			return access{all: true}, nil
		}
		return access{}, vortex.Errorf(vortex.Unauthenticated, "the token is not valid; see `vortex login`")
	}
	switch s.Anonymous {
	case AnonymousFull:
		return access{all: true}, nil
	case AnonymousLimited:
		return access{limited: true}, nil
	default:
		return access{}, vortex.Errorf(vortex.Unauthenticated, "a token is needed: send `authorization: Bearer TOKEN`")
	}
}

// read refuses a key, or a prefix, that the caller may not read.
func (a access) read(key string) error {
	if a.mayRead(key) {
		return nil
	}
	return vortex.Errorf(vortex.Denied, "anonymous clients may not read %q; send a token", key)
}

// mayRead reports whether the caller may read a key.
func (a access) mayRead(key string) bool {
	return a.all || a.limited && (below(published, key) || !below(owned, key))
}

// write refuses a key that the caller may not write.
func (a access) write(key string) error {
	if a.all || a.limited && (below(reported, key) || !below(owned, key)) {
		return nil
	}
	return vortex.Errorf(vortex.Denied, "anonymous clients may not write %q; send a token", key)
}

// scan refuses a prefix below which the caller may read nothing. Below a wider prefix the
// records it may not read are left out of the answer.
func (a access) scan(prefix string) error {
	if a.mayRead(prefix) {
		return nil
	}
	for _, p := range published {
		if strings.HasPrefix(p, prefix) {
			return nil
		}
	}
	return a.read(prefix)
}

// below reports whether key is one of the prefixes or lies below one.
func below(prefixes []string, key string) bool {
	for _, p := range prefixes {
		if rest, ok := strings.CutPrefix(key, p); ok && (rest == "" || rest[0] == ':') {
			return true
		}
	}
	return false
}
