package kindrpc

import (
	"context"
	"net"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"vortex/internal/authz"
)

// TransportCredentials returns credentials that read a client's certificate once for each connection instead of once for each call.
func TransportCredentials(c credentials.TransportCredentials) credentials.TransportCredentials {
	return identifying{c}
}

type identifying struct {
	credentials.TransportCredentials
}

// connection is what is known of a connection.
type connection struct {
	credentials.AuthInfo

	certificate *authz.Identity // nil without one
}

// ServerHandshake implements credentials.TransportCredentials.
func (i identifying) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := i.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		return nil, nil, err
	}
	known := connection{AuthInfo: info}
	if t, ok := info.(credentials.TLSInfo); ok && len(t.State.VerifiedChains) > 0 {
		known.certificate = authz.Identify(t.State.PeerCertificates[0])
	}
	return conn, known, nil
}

// Clone implements credentials.TransportCredentials.
func (i identifying) Clone() credentials.TransportCredentials {
	return identifying{i.TransportCredentials.Clone()}
}

// certificate returns what the client's certificate says, nil when it has none.
func certificate(ctx context.Context) *authz.Identity {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	conn, _ := p.AuthInfo.(connection)
	return conn.certificate
}
