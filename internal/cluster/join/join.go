package join

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"vortex"
	"vortex/client"
	"vortex/internal/cluster/pki"
	clusterpb "vortex/proto/cluster"
)

// Port is where servers offer their gRPC services when an address names no port.
const Port = "50051"

// Request is what a machine needs to join.
type Request struct {
	// Servers are host or host:port of servers of the cluster; one that answers is enough.
	Servers []string
	// Token is what `vortex token join` printed.
	Token string
	// Name is the machine's name, unique in the cluster.
	Name string
	Role vortex.ClusterRole
	// Address and Hosts are of a server: host:port where the others reach its gRPC services, and its further names and addresses.
	Address string
	Hosts   []string
	// Dir takes the certificate.
	Dir pki.Dir
}

// Answer is what a machine is told that was let in.
type Answer struct {
	Servers []string // host:port of the gRPC services of every server
	Token   string   // the API's, for servers
}

// patience is how long one server may take to answer.
const patience = 10 * time.Second

// Join joins a cluster and keeps the certificate and keys that it gets in the request's directory. Servers that do not answer are
// passed over, and so is what is of another cluster than the token; what a server says is final: Unauthenticated when it does not take the
// token, Exists when the name is another machine's. After an error it can be tried again, with the same token.
func Join(ctx context.Context, req Request) (Answer, error) {
	token, err := client.ParseJoinToken(req.Token)
	if err != nil {
		return Answer{}, err
	}
	key, err := req.Dir.Key()
	if err != nil {
		return Answer{}, err
	}
	message := &clusterpb.JoinRequest{Token: token.String(), Name: req.Name, Address: req.Address, Hosts: req.Hosts}
	if req.Role == vortex.ClusterRoleServer {
		message.Role = clusterpb.Role_SERVER
	}
	if message.SigningRequest, err = pki.SigningRequest(key); err != nil {
		return Answer{}, err
	}
	var answer *clusterpb.JoinResponse
	err = ask(ctx, req.Servers, pinned(token.CA), func(ctx context.Context, c clusterpb.ClusterServiceClient) (err error) {
		answer, err = c.Join(ctx, message)
		return err
	})
	if err != nil {
		return Answer{}, err
	}
	if err := trusted(answer.GetCa(), token.CA); err != nil {
		return Answer{}, err
	}
	return Answer{answer.GetServers(), answer.GetApiToken()}, req.Dir.Install(pki.Bundle{
		Certificate: answer.GetCertificate(), CA: answer.GetCa(), CAKey: answer.GetCaKey(), GossipKey: answer.GetGossipKey(),
	})
}

// Renew gets a new certificate for a holder from any of the servers. It shows none on the connection: the one it has may have expired.
func Renew(ctx context.Context, holder *pki.Holder, servers []string, old pki.Renewal) (bundle pki.Bundle, err error) {
	config := holder.Client("h2")
	config.GetClientCertificate = nil
	servers = slices.Clone(servers)
	rand.Shuffle(len(servers), func(i, j int) { servers[i], servers[j] = servers[j], servers[i] }) //nolint:gosec // no secret
	err = ask(ctx, servers, config.VerifyConnection, func(ctx context.Context, c clusterpb.ClusterServiceClient) error {
		answer, err := c.Renew(ctx, &clusterpb.RenewRequest{Certificate: old.Certificate, SigningRequest: old.Request})
		bundle = pki.Bundle{Certificate: answer.GetCertificate(), CA: answer.GetCa()}
		return err
	})
	return bundle, err
}

// verify judges the server's side of a connection.
type verify = func(tls.ConnectionState) error

// ask makes a call to one server after the other until one answers.
func ask(ctx context.Context, servers []string, judge verify, call func(context.Context, clusterpb.ClusterServiceClient) error) error {
	if len(servers) == 0 {
		return vortex.Errorf(vortex.Invalid, "expected at least one server of the cluster, got none")
	}
	class, tried := vortex.Unavailable, make([]string, 0, len(servers))
	for _, server := range servers {
		server = WithPort(server)
		err := askOne(ctx, server, judge, call)
		_, distrusted := errors.AsType[distrust](err)
		if err == nil || !distrusted && !vortex.IsKind(err, vortex.Unavailable) || ctx.Err() != nil {
			return err
		}
		if distrusted {
			class = vortex.Unauthenticated
		}
		tried = append(tried, server+": "+err.Error())
	}
	return vortex.Errorf(class, "no server of the cluster answers\n%s", strings.Join(tried, "\n"))
}

// distrust is why a server is not believed to be one of the cluster's.
type distrust struct{ error }

// askOne makes a call to one server.
func askOne(ctx context.Context, server string, judge verify, call func(context.Context, clusterpb.ClusterServiceClient) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	judged := make(chan error, 1)
	transport := credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, ServerName: pki.ServerName, // asks for the cluster's certificate
		InsecureSkipVerify: true, //nolint:gosec // judge does it, by what the certificate says
		VerifyConnection: func(state tls.ConnectionState) error {
			err := judge(state)
			select {
			case judged <- err:
			default:
			}
			return err
		},
	})
	conn, err := grpc.NewClient("passthrough:///"+server, grpc.WithTransportCredentials(transport))
	if err != nil {
		return vortex.Errorf(vortex.Invalid, "expected a server as host or host:port, got %q: %w", server, err)
	}
	err = call(ctx, clusterpb.NewClusterServiceClient(conn))
	if err = errors.Join(plain(err), conn.Close()); err == nil {
		return nil
	}
	select {
	case refused := <-judged:
		if refused != nil {
			return distrust{refused}
		}
	default:
	}
	return err
}

// plain returns an answer's error as one of the domain.
func plain(err error) error {
	if err == nil {
		return nil
	}
	st := status.Convert(err)
	text := st.Message()
	if _, inner, ok := strings.Cut(text, "desc = "); ok { // gRPC says much around what went wrong
		text = strings.TrimPrefix(strings.TrimSuffix(inner, `"`), `"transport: `)
	}
	kind := client.KindOfCode(st.Code())
	if errors.Is(err, context.DeadlineExceeded) || st.Code().String() == "DeadlineExceeded" {
		kind, text = vortex.Unavailable, fmt.Sprintf("no answer within %s", patience)
	}
	return &vortex.Error{Kind: kind, Msg: text}
}

// WithPort adds the usual port to a server's address without one.
func WithPort(server string) string {
	if _, _, err := net.SplitHostPort(server); err == nil {
		return server
	}
	return net.JoinHostPort(strings.Trim(server, "[]"), Port)
}

// pinned takes servers whose certificate the CA with this public key signed.
func pinned(pin string) verify {
	return func(state tls.ConnectionState) error {
		certs := state.PeerCertificates
		for _, ca := range certs[min(1, len(certs)):] {
			if pki.KeyHash(ca) != pin {
				continue
			}
			roots := x509.NewCertPool()
			roots.AddCert(ca)
			if _, err := certs[0].Verify(x509.VerifyOptions{Roots: roots}); err != nil {
				return vortex.Errorf(vortex.Unauthenticated, "its certificate is not valid now: %w\nare the clocks of both machines right?", err)
			}
			if id, err := pki.Identify(certs[0]); err != nil || id.Role != pki.Server {
				return vortex.Errorf(vortex.Unauthenticated, "it is no server of the cluster")
			}
			return nil
		}
		return vortex.Errorf(vortex.Unauthenticated, "it is of another cluster than the join token")
	}
}

// trusted refuses CAs of which the first is not the token's.
func trusted(ca []byte, pin string) error {
	hash, err := pki.BundleHash(ca)
	if err == nil && hash != pin {
		err = vortex.Errorf(vortex.Unauthenticated, "the server answered with another CA than the join token's")
	}
	return err
}
