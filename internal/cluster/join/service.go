package join

import (
	"context"
	"crypto"
	"crypto/subtle"
	"crypto/x509"
	"log/slog"
	"net"
	"regexp"
	"time"

	"google.golang.org/grpc/peer"

	"vortex"
	"vortex/client"
	"vortex/internal/cluster/pki"
	"vortex/internal/kind"
	clusterpb "vortex/proto/cluster"
)

// Service lets machines join and renews certificates. It returns errors of the domain; the server it is registered with gives them their code.
type Service struct {
	clusterpb.UnimplementedClusterServiceServer

	// Store holds the cluster's tokens and members.
	Store *kind.Store
	// Holder has the certificate of this server, beside the CA.
	Holder *pki.Holder
	// Lifetime is how long certificates live.
	Lifetime time.Duration
	// Token is the API's, which all servers share.
	Token string
	// Events tells people who joined; nil tells nobody.
	Events interface{ Record(ev vortex.EventRecord) }
	// Log receives refused attempts.
	Log *slog.Logger

	failures limiter
}

// Methods are the full names of the service's methods, which need no certificate on the connection.
func Methods() []string {
	return []string{clusterpb.ClusterService_Join_FullMethodName, clusterpb.ClusterService_Renew_FullMethodName}
}

// applicant is who wants to join.
type applicant struct {
	token client.JoinToken
	rec   vortex.IdentityRecord
	pub   crypto.PublicKey
}

// roles are the roles on the wire.
var roles = map[clusterpb.Role]vortex.ClusterRole{
	clusterpb.Role_AGENT: vortex.ClusterRoleAgent, clusterpb.Role_SERVER: vortex.ClusterRoleServer,
}

// certified are the roles in certificates.
var certified = map[vortex.ClusterRole]pki.Role{vortex.ClusterRoleAgent: pki.Node, vortex.ClusterRoleServer: pki.Server}

// Join implements the wire contract.
func (s *Service) Join(ctx context.Context, req *clusterpb.JoinRequest) (resp *clusterpb.JoinResponse, err error) {
	defer func() { s.guard(ctx, "join", req.GetName(), err) }()
	if err := s.failures.allow(from(ctx)); err != nil {
		return nil, err
	}
	a, err := read(req)
	if err != nil {
		return nil, err
	}
	if err := s.Store.Sync(ctx); err != nil { // the token may have been made a moment ago
		return nil, err
	}
	if err := s.admit(ctx, a); err != nil {
		return nil, err
	}
	return s.welcome(a)
}

// guard logs a refusal and counts it against where it comes from.
func (s *Service) guard(ctx context.Context, what, name string, err error) {
	if !vortex.IsKind(err, vortex.Unauthenticated) && !vortex.IsKind(err, vortex.Denied) {
		return
	}
	s.failures.fail(from(ctx))
	if s.Log != nil {
		s.Log.WarnContext(ctx, "Refused at the cluster's door", "wanted", what, "name", name, "from", from(ctx), "err", err)
	}
}

// from is the address a call comes from.
func from(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return ""
	}
	host, _, err := net.SplitHostPort(p.Addr.String())
	if err != nil {
		return p.Addr.String()
	}
	return host
}

// most bounds what an applicant may say of itself.
const (
	mostHosts   = 64
	mostRequest = 8 << 10
)

var hostName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?$`)

// read checks what an applicant says.
func read(req *clusterpb.JoinRequest) (applicant, error) {
	a := applicant{rec: vortex.IdentityRecord{Name: req.GetName(), JoinedAt: time.Now().UTC()}}
	var known bool
	if a.rec.Role, known = roles[req.GetRole()]; !known {
		return a, vortex.Errorf(vortex.Invalid, "expected the role AGENT or SERVER, got %s; is the server older than the machine that joins?", req.GetRole())
	}
	if err := pki.CheckName(a.rec.Name); err != nil {
		return a, err
	}
	if len(req.GetSigningRequest()) > mostRequest {
		return a, vortex.Errorf(vortex.Invalid, "expected a signing request of at most %d bytes, got %d", mostRequest, len(req.GetSigningRequest()))
	}
	var err error
	if a.pub, a.rec.Key, err = pki.ParseSigningRequest(req.GetSigningRequest()); err != nil {
		return a, err
	}
	if a.token, err = client.ParseJoinToken(req.GetToken()); err != nil {
		return a, err
	}
	a.rec.Token = a.token.ID
	if a.rec.Role == vortex.ClusterRoleServer {
		err = a.locate(req)
	}
	return a, err
}

// locate checks where a server says that it is reached.
func (a *applicant) locate(req *clusterpb.JoinRequest) error {
	host, port, err := net.SplitHostPort(req.GetAddress())
	if err != nil || host == "" || port == "" || port == "0" {
		return vortex.Errorf(vortex.Invalid, "expected the server's address as host:port, got %q; give it with --advertise", req.GetAddress())
	}
	hosts := append([]string{host}, req.GetHosts()...)
	if len(hosts) > mostHosts {
		return vortex.Errorf(vortex.Invalid, "expected at most %d names and addresses, got %d", mostHosts, len(hosts))
	}
	for _, h := range hosts {
		if net.ParseIP(h) == nil && !hostName.MatchString(h) {
			return vortex.Errorf(vortex.Invalid, "expected names and IP addresses of a server, got %q", h)
		}
	}
	a.rec.Address, a.rec.Hosts = req.GetAddress(), hosts
	return nil
}

// attempts bounds how often a join is tried again because others join at the same time.
const attempts = 32

// admit uses the token and keeps who was let in for it, in one step.
func (s *Service) admit(ctx context.Context, a applicant) error {
	for range attempts {
		txn, err := s.admission(a)
		if err != nil {
			return err
		}
		if len(txn.Ops) == 0 {
			return nil // it was let in before
		}
		_, err = s.Store.Commit(ctx, txn)
		if err == nil {
			s.tell(a)
		}
		if !vortex.IsKind(err, vortex.Conflict) {
			return err
		}
	}
	return vortex.Errorf(vortex.Unavailable, "too many machines join at the same time; try again")
}

// errToken says no more than it has to.
func errToken() error {
	return vortex.Errorf(vortex.Unauthenticated, "the join token is not valid: it has expired, or was removed, or is of another cluster\n`vortex token join` on a server's machine makes another")
}

// admission is the transaction that lets somebody in; empty for who was let in already, with the same key and token.
func (s *Service) admission(a applicant) (kind.Txn, error) {
	token, err := kind.Get(s.Store, vortex.JoinTokens, a.token.ID)
	if vortex.IsKind(err, vortex.NotFound) {
		return kind.Txn{}, errToken()
	}
	if err != nil {
		return kind.Txn{}, err
	}
	if err := a.entitled(token.Value, s.Store.Now()); err != nil {
		return kind.Txn{}, err
	}
	before, err := kind.Get(s.Store, vortex.Identities, a.rec.Name)
	if err != nil && !vortex.IsKind(err, vortex.NotFound) {
		return kind.Txn{}, err
	}
	if known := before.Value; known != nil {
		if known.Key == a.rec.Key && known.Token == a.rec.Token && known.Role == a.rec.Role {
			return kind.Txn{}, nil
		}
		if known.Key != a.rec.Key && !s.down(a.rec.Name) {
			return kind.Txn{}, vortex.Errorf(vortex.Exists, "the name %q is another machine's\nchoose another with --name, or take it from that one with `vortex cluster remove %s`", a.rec.Name, a.rec.Name)
		}
	}
	if token.Value.Uses == 0 {
		return kind.Txn{}, vortex.Errorf(vortex.Unauthenticated, "the join token has been used up\n`vortex token join` on a server's machine makes another")
	}
	used := *token.Value
	used.Uses--
	use, err := kind.PutOp(vortex.JoinTokens, &used, a.token.ID)
	if err != nil {
		return kind.Txn{}, err
	}
	use.TTL = max(used.ExpiresAt.Sub(s.Store.Now()), time.Millisecond)
	enter, err := kind.PutOp(vortex.Identities, &a.rec, a.rec.Name)
	return kind.Txn{
		If: []kind.Condition{
			kind.IfRevision(vortex.JoinTokens.Key(a.token.ID), token.ModRevision), kind.IfRevision(vortex.Identities.Key(a.rec.Name), before.ModRevision),
		},
		Ops: []kind.Op{use, enter},
	}, err
}

// entitled refuses a secret or a role that the token's record does not know.
func (a *applicant) entitled(token *vortex.JoinRecord, now time.Time) error {
	if subtle.ConstantTimeCompare([]byte(token.Hash), []byte(a.token.Hash())) != 1 || !now.Before(token.ExpiresAt) {
		return errToken()
	}
	if token.Role != a.rec.Role {
		return vortex.Errorf(vortex.Denied, "the join token is for machines of the role %s, this one wants to be %s\n`vortex token join --role %s` makes the right one", token.Role, a.rec.Role, a.rec.Role)
	}
	return nil
}

// down reports whether a node of a name was given up, so that another machine may take its place.
func (s *Service) down(name string) bool {
	rec, err := kind.Get(s.Store, vortex.Liveness, name)
	return err == nil && rec.Value.State == vortex.LivenessStateDown
}

func (s *Service) tell(a applicant) {
	if s.Events != nil {
		s.Events.Record(vortex.EventRecord{
			Component: "cluster", Type: "NodeJoined", Node: a.rec.Name, Cause: vortex.JoinTokens.Key(a.token.ID),
			Message: a.rec.Name + " joined the cluster as " + string(a.rec.Role),
		})
	}
}

// welcome gives somebody who was let in what it needs.
func (s *Service) welcome(a applicant) (*clusterpb.JoinResponse, error) {
	dir, own := s.Holder.Dir(), s.Holder.Identity()
	cert, err := s.sign(a.pub, &a.rec)
	if err != nil {
		return nil, err
	}
	resp := &clusterpb.JoinResponse{Certificate: cert, Ca: s.Holder.CertPEM(), Servers: Servers(s.Store), Cluster: own.Cluster, Epoch: own.Epoch}
	if resp.GossipKey, err = dir.Read(pki.GossipFile); err != nil {
		return nil, err
	}
	if a.rec.Role == vortex.ClusterRoleServer {
		resp.ApiToken = s.Token
		resp.CaKey, err = dir.Read(pki.CAKeyFile)
	}
	return resp, err
}

func (s *Service) sign(pub crypto.PublicKey, rec *vortex.IdentityRecord) ([]byte, error) {
	ca, err := s.Holder.Dir().CA()
	if err != nil {
		return nil, err
	}
	return ca.Sign(pub, pki.Request{
		Identity: pki.Identity{Name: rec.Name, Role: certified[rec.Role], Epoch: s.Holder.Identity().Epoch},
		Hosts:    rec.Hosts, Lifetime: s.Lifetime,
	})
}

// Servers returns the addresses of the gRPC services of the cluster's servers.
func Servers(store *kind.Store) (addrs []string) {
	for _, e := range kind.All(store, vortex.Identities) {
		if e.Value.Role == vortex.ClusterRoleServer && e.Value.Address != "" {
			addrs = append(addrs, e.Value.Address)
		}
	}
	return addrs
}

// ServerNames returns the names of the cluster's servers.
func ServerNames(store *kind.Store) map[string]bool {
	names := map[string]bool{}
	for _, e := range kind.All(store, vortex.Identities) {
		if e.Value.Role == vortex.ClusterRoleServer {
			names[e.Value.Name] = true
		}
	}
	return names
}

// Renew implements the wire contract.
func (s *Service) Renew(ctx context.Context, req *clusterpb.RenewRequest) (resp *clusterpb.RenewResponse, err error) {
	name := ""
	defer func() { s.guard(ctx, "renew", name, err) }()
	if err := s.failures.allow(from(ctx)); err != nil {
		return nil, err
	}
	if len(req.GetCertificate()) > mostRequest || len(req.GetSigningRequest()) > mostRequest {
		return nil, vortex.Errorf(vortex.Invalid, "expected a certificate and a signing request of at most %d bytes each", mostRequest)
	}
	cert, err := x509.ParseCertificate(req.GetCertificate())
	if err != nil {
		return nil, vortex.Errorf(vortex.Invalid, "expected a certificate in DER: %w", err)
	}
	id, err := s.Holder.VerifyAt(cert, within(time.Now(), cert))
	if err != nil {
		return nil, err
	}
	name = id.Name
	pub, key, err := pki.ParseSigningRequest(req.GetSigningRequest())
	if err != nil {
		return nil, err
	}
	rec, err := s.member(id.Name, key)
	if err != nil || key != pki.KeyHash(cert) || certified[rec.Role] != id.Role {
		return nil, vortex.Errorf(vortex.Unauthenticated, "%s does not belong to this cluster any more; let it join again with a new token: `vortex token join`", id.Name)
	}
	signed, err := s.sign(pub, rec)
	return &clusterpb.RenewResponse{Certificate: signed, Ca: s.Holder.CertPEM(), Servers: Servers(s.Store)}, err
}

// member returns the record of who was let in with a key.
func (s *Service) member(name, key string) (*vortex.IdentityRecord, error) {
	rec, err := kind.Get(s.Store, vortex.Identities, name)
	if err != nil || rec.Value.Key != key {
		return nil, errToken()
	}
	return rec.Value, nil
}

// within is the time nearest to now at which a certificate is valid: one that has expired is renewed too, for it is the record that
// says who belongs to the cluster, and machines are switched off for weeks.
func within(now time.Time, cert *x509.Certificate) time.Time {
	switch {
	case now.After(cert.NotAfter):
		return cert.NotAfter
	case now.Before(cert.NotBefore):
		return cert.NotBefore
	default:
		return now
	}
}
