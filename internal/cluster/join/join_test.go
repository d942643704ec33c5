package join_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"vortex"
	"vortex/client"
	"vortex/internal/api/kindrpc"
	"vortex/internal/authz"
	"vortex/internal/cluster/join"
	"vortex/internal/cluster/pki"
	"vortex/internal/kind"
	"vortex/internal/kind/kindtest"
	clusterpb "vortex/proto/cluster"
	kindpb "vortex/proto/kind"
)

const admin = "admin-token"

// cluster is a server of a new cluster on a real socket.
type cluster struct {
	*testing.T

	store  *kind.Store
	holder *pki.Holder
	addr   string
	kind   *client.Kind // of the admin
}

// found starts a cluster whose certificates live so long.
func found(t *testing.T, life time.Duration) *cluster {
	t.Helper()
	c := &cluster{T: t, store: kindtest.Open(t)}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	c.must(err)
	c.addr = l.Addr().String()
	dir := pki.Dir(t.TempDir())
	c.must(dir.Found("prod"))
	own := pki.Request{Identity: pki.Identity{Name: "s1", Role: pki.Server, Epoch: 1}, Lifetime: life}
	bundle, err := dir.Sign(own)
	c.must(err)
	c.must(dir.Install(bundle))
	c.holder, err = pki.Open(dir)
	c.must(err)
	c.holder.Renew = func(context.Context, pki.Renewal) (pki.Bundle, error) { return dir.Sign(own) }
	c.must(join.Enter(t.Context(), c.store, c.holder, c.addr, []string{"127.0.0.1"}))

	access := &authz.Authority{Store: c.store, Token: admin, Anonymous: authz.Off}
	srv := kindrpc.NewServer(&kindrpc.Service{Store: c.store, Access: access, Public: join.Methods()},
		grpc.Creds(kindrpc.TransportCredentials(credentials.NewTLS(c.holder.Server("h2")))))
	clusterpb.RegisterClusterServiceServer(srv, &join.Service{Store: c.store, Holder: c.holder, Lifetime: life})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = access.Run(ctx) })
	running.Go(func() { _ = c.holder.Run(ctx) })
	running.Go(func() { _ = srv.Serve(l) })
	running.Go(func() { _ = c.store.Sweep(ctx) })
	t.Cleanup(func() { cancel(); srv.Stop(); running.Wait() })
	c.kind, err = client.OpenKind("https://"+c.addr, admin, client.TLS{CA: dir.Path(pki.CAFile)})
	c.must(err)
	t.Cleanup(func() { _ = c.kind.Close() })
	return c
}

func (c *cluster) must(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

// token makes a join token.
func (c *cluster) token(role vortex.ClusterRole, ttl time.Duration, uses uint32) string {
	c.Helper()
	t, err := c.kind.CreateJoinToken(c.Context(), role, ttl, uses)
	c.must(err)
	return t.String()
}

// machine is what a machine asks for that wants to join.
func (c *cluster) machine(name, token string) join.Request {
	return join.Request{Servers: []string{c.addr}, Token: token, Name: name, Role: vortex.ClusterRoleAgent, Dir: pki.Dir(filepath.Join(c.TempDir(), "pki"))}
}

// enter joins with a machine, and returns its certificate.
func (c *cluster) enter(req join.Request) *pki.Holder {
	c.Helper()
	answer, err := join.Join(c.Context(), req)
	c.must(err)
	servers := answer.Servers
	if len(servers) != 1 || servers[0] != c.addr {
		c.Errorf("told of the servers %v; want %s", servers, c.addr)
	}
	h, err := pki.Open(req.Dir)
	c.must(err)
	h.Renew = func(ctx context.Context, old pki.Renewal) (pki.Bundle, error) {
		return join.Renew(ctx, h, servers, old)
	}
	return h
}

// open returns a client of the store that shows a certificate.
func (c *cluster) open(h *pki.Holder) kindpb.KindServiceClient {
	c.Helper()
	conn, err := grpc.NewClient("passthrough:///"+c.addr, grpc.WithTransportCredentials(credentials.NewTLS(h.Client("h2"))))
	c.must(err)
	c.Cleanup(func() { _ = conn.Close() })
	return kindpb.NewKindServiceClient(conn)
}

func code(t *testing.T, what string, err error, want codes.Code) {
	t.Helper()
	if got := status.Code(err); got != want {
		t.Errorf("%s: %v; want %s", what, err, want)
	}
}

func TestAnAgentJoinsAndDoesItsPart(t *testing.T) {
	c := found(t, time.Hour)
	h := c.enter(c.machine("n1", c.token(vortex.ClusterRoleAgent, time.Hour, 1)))
	if id := h.Identity(); id.Name != "n1" || id.Role != pki.Node || id.Cluster != "prod" || id.Epoch != 1 {
		t.Errorf("got a certificate for %s", id)
	}
	if _, err := h.Dir().Read(pki.CAKeyFile); !vortex.IsKind(err, vortex.NotFound) {
		t.Errorf("an agent has the CA's key: %v", err)
	}
	if key, err := h.Dir().Read(pki.GossipFile); err != nil || len(key) != 64 {
		t.Errorf("the gossip key is %q: %v", key, err)
	}
	k, now := c.open(h), time.Now()
	place := vortex.PlacementRecord{Instance: "mine", ClientID: "web", Node: "n1", CreatedAt: now}
	_, err := kind.Put(t.Context(), c.store, vortex.Placements, &place, "mine")
	c.must(err)
	container := `{"id":"mine","client_id":"web","status":"Running","ip_address":"10.0.0.1","node":"n1"}`
	for _, w := range []struct {
		key, value string
		want       codes.Code
	}{
		{"vortex:node:n1", `{"id":"n1","name":"n1","address":"10.0.0.1","cpu_millis":1,"memory_bytes":1,"drivers":[]}`, codes.OK},
		{"vortex:node:n2", `{"id":"n2","name":"n2","address":"10.0.0.1","cpu_millis":1,"memory_bytes":1,"drivers":[]}`, codes.PermissionDenied},
		{"vortex:container:mine", container, codes.OK},
		{"vortex:container:other", strings.ReplaceAll(container, "mine", "other"), codes.PermissionDenied},
		{"vortex:container:mine", strings.ReplaceAll(container, "web", "bank"), codes.PermissionDenied},
		{"vortex:metrics:web:n1", `{"client_id":"web","current_rps":1}`, codes.OK},
		{"vortex:metrics:web:n2", `{"client_id":"web","current_rps":1}`, codes.PermissionDenied},
		{"vortex:app:web", `{}`, codes.PermissionDenied},
		{"vortex:identity:n1", `{}`, codes.PermissionDenied},
		{"vortex:join:x", `{}`, codes.PermissionDenied},
		{"mine", "x", codes.PermissionDenied},
	} {
		put := &kindpb.PutRequest{Key: w.key, Value: []byte(w.value)}
		_, err := k.Put(t.Context(), put)
		code(t, "put "+w.key, err, w.want)
		_, err = k.Txn(t.Context(), &kindpb.TxnRequest{Operations: []*kindpb.Operation{{Operation: &kindpb.Operation_Put{Put: put}}}})
		code(t, "txn "+w.key, err, w.want)
	}
	for key, want := range map[string]codes.Code{
		"vortex:placement:mine": codes.OK, "vortex:join:x": codes.PermissionDenied, "vortex:token:x": codes.PermissionDenied,
		"vortex:secret:x": codes.PermissionDenied, "mine": codes.PermissionDenied,
	} {
		_, err := k.Get(t.Context(), &kindpb.GetRequest{Key: key})
		code(t, "get "+key, err, want)
	}
	_, err = k.Snapshot(t.Context(), &kindpb.SnapshotRequest{})
	c.must(err)
}

func TestAServerJoinsAndMaySign(t *testing.T) {
	c := found(t, time.Hour)
	req := c.machine("s2", c.token(vortex.ClusterRoleServer, time.Hour, 1))
	req.Role, req.Address, req.Hosts = vortex.ClusterRoleServer, "10.0.0.2:50051", []string{"s2.example.com"}
	_, err := join.Join(t.Context(), req)
	c.must(err)
	h, err := pki.Open(req.Dir)
	c.must(err)
	ca, err := req.Dir.CA()
	c.must(err)
	if own, _ := c.holder.Dir().CA(); ca.Pin() != own.Pin() {
		t.Error("it has another CA")
	}
	for _, host := range []string{"10.0.0.2", "s2.example.com"} {
		c.must(h.Pair().Leaf.VerifyHostname(host))
	}
	_, err = c.open(h).Put(t.Context(), &kindpb.PutRequest{Key: "vortex:token:x", Value: []byte(`{"name":"x","hash":"","role":"viewer","created_at":"2026-01-01T00:00:00Z"}`)})
	c.must(err)
	if got := join.Servers(c.store); len(got) != 2 {
		t.Errorf("the servers are %v", got)
	}
	c.must(join.Enter(t.Context(), c.store, h, "10.0.0.3:50051", []string{"10.0.0.3"})) // it has moved
	if got := join.Servers(c.store); len(got) != 2 || got[1] != "10.0.0.3:50051" {
		t.Errorf("the servers are %v", got)
	}
}

func TestStrangersGetNothing(t *testing.T) {
	c, others := found(t, time.Hour), found(t, time.Hour)
	foreign := others.enter(others.machine("n1", others.token(vortex.ClusterRoleAgent, time.Hour, 1)))
	for name, show := range map[string]*pki.Holder{"no certificate": nil, "another cluster's": foreign} {
		config := c.holder.Client("h2")
		config.GetClientCertificate = nil
		if show != nil {
			config.GetClientCertificate = show.Client().GetClientCertificate
		}
		conn, err := grpc.NewClient("passthrough:///"+c.addr, grpc.WithTransportCredentials(credentials.NewTLS(config)))
		c.must(err)
		defer conn.Close()
		k := kindpb.NewKindServiceClient(conn)
		refused := func(what string, err error) {
			t.Helper()
			if got := status.Code(err); got != codes.Unauthenticated && (show == nil || got != codes.Unavailable) {
				t.Errorf("%s, %s: %v", name, what, err)
			}
		}
		_, err = k.Get(t.Context(), &kindpb.GetRequest{Key: "vortex:cluster:self"})
		refused("get", err)
		_, err = k.Put(t.Context(), &kindpb.PutRequest{Key: "x"})
		refused("put", err)
		_, err = k.Status(t.Context(), &kindpb.StatusRequest{})
		refused("status", err)
		watch, err := k.Watch(t.Context(), &kindpb.WatchRequest{})
		if err == nil {
			_, err = watch.Recv()
		}
		refused("watch", err)
	}
}

func TestTokensThatGetNothing(t *testing.T) {
	c, others := found(t, time.Hour), found(t, time.Hour)
	good := c.token(vortex.ClusterRoleAgent, time.Hour, 1)
	used := c.token(vortex.ClusterRoleAgent, time.Hour, 1)
	c.enter(c.machine("first", used))
	removed := c.token(vortex.ClusterRoleAgent, time.Hour, 1)
	parsed, err := client.ParseJoinToken(removed)
	c.must(err)
	_, err = c.kind.RemoveJoinToken(t.Context(), parsed.ID)
	c.must(err)
	expired := c.token(vortex.ClusterRoleAgent, 10*time.Millisecond, 1)
	time.Sleep(20 * time.Millisecond)
	guess, err := client.ParseJoinToken(good)
	c.must(err)
	guess.Secret = strings.Repeat("A", len(guess.Secret))
	for name, r := range map[string]struct {
		token string
		want  vortex.ErrorKind
		hint  string
	}{
		"used up":          {used, vortex.Unauthenticated, "used up"},
		"removed":          {removed, vortex.Unauthenticated, "not valid"},
		"expired":          {expired, vortex.Unauthenticated, "not valid"},
		"a guess":          {guess.String(), vortex.Unauthenticated, "not valid"},
		"a server's":       {c.token(vortex.ClusterRoleServer, time.Hour, 1), vortex.Denied, "--role agent"},
		"another cluster":  {others.token(vortex.ClusterRoleAgent, time.Hour, 1), vortex.Unauthenticated, "another cluster"},
		"no token":         {"hello", vortex.Invalid, "vxj_ID_SECRET_HASH"},
		"that is the last": {good, 0, ""},
	} {
		_, err := join.Join(t.Context(), c.machine(strings.ReplaceAll(name, " ", "-")[:4], r.token))
		if r.want == 0 && err != nil || r.want != 0 && (!vortex.IsKind(err, r.want) || !strings.Contains(err.Error(), r.hint)) {
			t.Errorf("%s: %v (%s); want %q (%s)", name, err, vortex.KindOf(err), r.hint, r.want)
		}
	}
}

func TestServersThatDoNotAnswerArePassedOver(t *testing.T) {
	c, others := found(t, time.Hour), found(t, time.Hour)
	silent, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	c.must(err)
	c.must(silent.Close())
	req := c.machine("n1", c.token(vortex.ClusterRoleAgent, time.Hour, 1))
	req.Servers = []string{silent.Addr().String()}
	if _, err := join.Join(t.Context(), req); !vortex.IsKind(err, vortex.Unavailable) || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("nobody there: %v", err)
	}
	req.Servers = []string{silent.Addr().String(), others.addr, c.addr}
	c.enter(req)
}

func TestATokenIsUsedAsOftenAsItSays(t *testing.T) {
	c := found(t, time.Hour)
	const machines, uses = 16, 5
	token := c.token(vortex.ClusterRoleAgent, time.Hour, uses)
	var in, out atomic.Int64
	var all sync.WaitGroup
	for i := range machines {
		req := c.machine(fmt.Sprintf("n%d", i), token)
		all.Go(func() {
			switch _, err := join.Join(t.Context(), req); {
			case err == nil:
				in.Add(1)
			case vortex.IsKind(err, vortex.Unauthenticated) && strings.Contains(err.Error(), "used up"):
				out.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	all.Wait()
	if in.Load() != uses || out.Load() != machines-uses {
		t.Errorf("%d were let in and %d refused; want %d and %d", in.Load(), out.Load(), uses, machines-uses)
	}
	if n := len(kind.All(c.store, vortex.Identities)); n != uses+1 {
		t.Errorf("the store has %d members; want %d and the server", n, uses)
	}
}

func TestANameBelongsToOneMachine(t *testing.T) {
	c := found(t, time.Hour)
	token := c.token(vortex.ClusterRoleAgent, time.Hour, 3)
	mine := c.machine("n1", token)
	old := c.enter(mine)
	c.enter(mine) // the answer was lost: the same machine asks again, at no cost
	c.enter(c.machine("n2", token))
	theirs := c.machine("n1", token)
	for _, state := range []vortex.LivenessState{vortex.LivenessStateReady, vortex.LivenessStateSuspect} {
		_, err := kind.Put(t.Context(), c.store, vortex.Liveness, &vortex.LivenessRecord{Node: "n1", State: state, Since: time.Now()}, "n1")
		c.must(err)
		if _, err := join.Join(t.Context(), theirs); !vortex.IsKind(err, vortex.Exists) || !strings.Contains(err.Error(), "--name") {
			t.Errorf("the name of a node that is %s: %v", state, err)
		}
	}
	_, err := kind.Put(t.Context(), c.store, vortex.Liveness, &vortex.LivenessRecord{Node: "n1", State: vortex.LivenessStateDown, Since: time.Now()}, "n1")
	c.must(err)
	fresh := c.enter(theirs)
	_, err = c.open(old).Get(t.Context(), &kindpb.GetRequest{Key: "vortex:app:x"})
	code(t, "whose name was taken", err, codes.Unauthenticated)
	_, err = c.open(fresh).Get(t.Context(), &kindpb.GetRequest{Key: "vortex:app:x"})
	code(t, "who took it", err, codes.NotFound)
	if _, err := join.Join(t.Context(), c.machine("s1", c.token(vortex.ClusterRoleAgent, time.Hour, 1))); !vortex.IsKind(err, vortex.Exists) {
		t.Errorf("the name of a server: %v", err)
	}
}

func TestFailedJoinsAreBounded(t *testing.T) {
	c := found(t, time.Hour)
	guess, err := client.ParseJoinToken(c.token(vortex.ClusterRoleAgent, time.Hour, 1))
	c.must(err)
	guess.Secret = strings.Repeat("A", len(guess.Secret))
	for i := range 100 {
		if _, err = join.Join(t.Context(), c.machine("n1", guess.String())); vortex.IsKind(err, vortex.Exhausted) {
			if i < 10 {
				t.Errorf("refused after %d attempts", i)
			}
			return
		}
	}
	t.Errorf("a hundred guesses: %v", err)
}

func TestRenewalNeedsTheKeyAndTheRecord(t *testing.T) {
	c, others := found(t, time.Hour), found(t, time.Hour)
	h := c.enter(c.machine("n1", c.token(vortex.ClusterRoleAgent, time.Hour, 1)))
	other := c.enter(c.machine("n2", c.token(vortex.ClusterRoleAgent, time.Hour, 1)))
	foreign := others.enter(others.machine("n1", others.token(vortex.ClusterRoleAgent, time.Hour, 1)))
	renew := func(cert, request *pki.Holder) error {
		old, err := cert.Renewal()
		c.must(err)
		proof, err := request.Renewal()
		c.must(err)
		old.Request = proof.Request
		_, err = join.Renew(t.Context(), c.holder, []string{c.addr}, old)
		return err
	}
	c.must(renew(h, h))
	for name, err := range map[string]error{
		"a certificate with another's key": renew(h, other), "another cluster's certificate": renew(foreign, foreign), "another cluster's key": renew(h, foreign),
	} {
		if !vortex.IsKind(err, vortex.Unauthenticated) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := c.kind.RemoveMember(t.Context(), "n1")
	c.must(err)
	if err := renew(h, h); !vortex.IsKind(err, vortex.Unauthenticated) || !strings.Contains(err.Error(), "join again") {
		t.Errorf("a node that was removed: %v", err)
	}
	_, err = c.open(h).Get(t.Context(), &kindpb.GetRequest{Key: "vortex:app:x"})
	code(t, "a node that was removed", err, codes.Unauthenticated)
}

func TestAnExpiredCertificateIsRenewedButOpensNothing(t *testing.T) {
	c := found(t, time.Hour)
	req := c.machine("n1", c.token(vortex.ClusterRoleAgent, time.Hour, 1))
	c.enter(req)
	ca, err := c.holder.Dir().CA()
	c.must(err)
	key, err := req.Dir.Key()
	c.must(err)
	brief, err := ca.Sign(key.Public(), pki.Request{Identity: pki.Identity{Name: "n1", Role: pki.Node, Epoch: 1}, Lifetime: pki.MinLifetime})
	c.must(err)
	c.must(req.Dir.Install(pki.Bundle{Certificate: brief, CA: ca.CertPEM()}))
	h, err := pki.Open(req.Dir)
	c.must(err)
	h.Renew = func(ctx context.Context, old pki.Renewal) (pki.Bundle, error) {
		return join.Renew(ctx, h, []string{c.addr}, old)
	}
	<-time.After(time.Until(h.Expires()) + time.Second)
	if _, err := c.open(h).Get(t.Context(), &kindpb.GetRequest{Key: "vortex:app:x"}); status.Code(err) != codes.Unavailable {
		t.Errorf("with an expired certificate: %v", err)
	}
	c.must(h.Freshen(t.Context()))
	_, err = c.open(h).Get(t.Context(), &kindpb.GetRequest{Key: "vortex:app:x"})
	code(t, "with the new one", err, codes.NotFound)
}

func TestStreamsGoOnThroughRotations(t *testing.T) {
	c := found(t, 6*time.Second)
	h := c.enter(c.machine("n1", c.token(vortex.ClusterRoleAgent, time.Hour, 1)))
	var rotations atomic.Int64
	h.Renewed = func() { rotations.Add(1) }
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	var running sync.WaitGroup
	running.Go(func() { _ = h.Run(ctx) })
	defer func() { cancel(); running.Wait() }()
	watch, err := c.open(h).Watch(ctx, &kindpb.WatchRequest{KeyPrefix: new("vortex:daemon:")})
	c.must(err)
	_, err = watch.Header()
	c.must(err)
	first := h.Expires()
	for n := 0; rotations.Load() < 3; n++ {
		_, err := c.kind.Put(ctx, "vortex:daemon:leader", fmt.Appendf(nil, `{"id":"s1","epoch":%d}`, n), 0)
		c.must(err)
		if _, err := watch.Recv(); err != nil {
			t.Fatalf("after %d rotations the stream ended: %v", rotations.Load(), err)
		}
		_, err = c.open(h).Get(ctx, &kindpb.GetRequest{Key: "vortex:daemon:leader"}) // a new connection each time
		code(t, fmt.Sprintf("a new connection after %d rotations", rotations.Load()), err, codes.OK)
		select {
		case <-ctx.Done():
			t.Fatalf("%d rotations only: %v", rotations.Load(), h.Trouble())
		case <-time.After(50 * time.Millisecond):
		}
	}
	if !h.Expires().After(first) || errors.Is(ctx.Err(), context.Canceled) {
		t.Error("nothing was renewed")
	}
}

func TestARecoveredClusterPutsTheOthersOut(t *testing.T) {
	c := found(t, time.Hour)
	req := c.machine("s2", c.token(vortex.ClusterRoleServer, time.Hour, 1))
	req.Role, req.Address = vortex.ClusterRoleServer, "10.0.0.2:50051"
	_, err := join.Join(t.Context(), req)
	c.must(err)
	second, err := pki.Open(req.Dir)
	c.must(err)
	dir := c.holder.Dir()
	bundle, err := dir.Sign(pki.Request{Identity: pki.Identity{Name: "s1", Role: pki.Server, Epoch: 2}, Lifetime: time.Hour})
	c.must(err)
	c.must(c.holder.Take(bundle))
	c.must(join.Enter(t.Context(), c.store, c.holder, c.addr, nil))
	if err := join.Enter(t.Context(), c.store, second, "10.0.0.2:50051", nil); !vortex.IsKind(err, vortex.Precondition) || !strings.Contains(err.Error(), "epoch 2") {
		t.Errorf("a server of the old epoch: %v", err)
	}
	if members := kind.All(c.store, vortex.Identities); len(members) != 1 || members[0].ID != "s1" {
		t.Errorf("%d members are left", len(members))
	}
	stranger := found(t, time.Hour)
	if err := join.Enter(t.Context(), c.store, stranger.holder, "x:1", nil); !vortex.IsKind(err, vortex.Precondition) {
		t.Errorf("a server of another cluster: %v", err)
	}
}
