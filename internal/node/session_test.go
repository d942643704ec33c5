package node

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"vortex"
	"vortex/client"
	"vortex/internal/heartbeat"
	"vortex/internal/session"
	sessionpb "vortex/proto/session"
)

// bearer sends a token in the clear.
type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

func (bearer) RequireTransportSecurity() bool { return false }

// hold holds a session to a node as another one, until the test ends or what it returns is called.
func hold(tb testing.TB, a Addresses, name, token string) (kill func()) {
	tb.Helper()
	p, err := heartbeat.Listen(tb.Context(), heartbeat.Config{Address: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		tb.Fatal(err)
	}
	c := session.NewClient(session.ClientConfig{
		Node: name, Pulse: p, Log: slog.New(slog.DiscardHandler),
		Dial: []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithPerRPCCredentials(bearer(token))},
	})
	c.SetServers([]string{a.Kind})
	ctx, cancel := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	parts.Go(func() { _ = p.Run(ctx) })
	parts.Go(func() { _ = c.Run(ctx) })
	kill = sync.OnceFunc(func() { cancel(); parts.Wait() })
	tb.Cleanup(kill)
	return kill
}

// liveness waits until a node is in a state.
func liveness(tb testing.TB, k *client.Kind, node string, want vortex.LivenessState) {
	tb.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		rec, err := k.Get(tb.Context(), vortex.Liveness.Key(node))
		if err == nil {
			var live vortex.LivenessRecord
			if live, err = vortex.Liveness.Decode(rec.Value); err == nil && live.State == want {
				return
			}
		}
		if time.Now().After(deadline) {
			tb.Fatalf("%s is not %s within 30 s: %v, %v", node, want, rec, err)
		}
		<-time.After(time.Millisecond)
	}
}

func TestNodeThatDiesIsSuspectThenDownThenReadyWhenBack(t *testing.T) {
	a := start(t, Config{Name: "s1", Heartbeats: "127.0.0.1:0", Token: "secret"})
	k := kindAt(t, a.Kind, a.Token, client.TLS{})
	for _, name := range []string{"n1", "n2"} {
		rec := vortex.NodeRecord{ID: name, Name: name, Address: "127.0.0.1", CPUMillis: 1, MemoryBytes: 1, Drivers: []string{"sim"}}
		value, err := vortex.Nodes.Encode(rec)
		if err == nil {
			_, err = k.Put(t.Context(), vortex.Nodes.Key(name), value, 0)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	kill := hold(t, a, "n1", a.Token)
	hold(t, a, "n2", a.Token)
	liveness(t, k, "n1", vortex.LivenessStateReady)
	liveness(t, k, "n2", vortex.LivenessStateReady)
	kill()
	liveness(t, k, "n1", vortex.LivenessStateDown)
	hold(t, a, "n1", a.Token)
	liveness(t, k, "n1", vortex.LivenessStateReady)
}

func TestStrangerHoldsNoSession(t *testing.T) {
	a := start(t, Config{Name: "s1", Heartbeats: "127.0.0.1:0", Token: "secret"})
	conn, err := grpc.NewClient(a.Kind, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	stream, err := sessionpb.NewSessionServiceClient(conn).Hold(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	key := make([]byte, 32)
	key[0] = 9 // a valid one: the base point
	hello := &sessionpb.Hello{Node: "n1", PublicKey: key}
	_ = stream.Send(&sessionpb.NodeMessage{Message: &sessionpb.NodeMessage_Hello{Hello: hello}})
	if m, err := stream.Recv(); err == nil {
		t.Errorf("a stranger was welcomed: %v", m)
	}
}

// TestDeadLeadersPlaceIsTakenAtOnce has another server, which holds the lead with a lock that does not expire soon, die.
func TestDeadLeadersPlaceIsTakenAtOnce(t *testing.T) {
	a := start(t, Config{Name: "s1", Heartbeats: "127.0.0.1:0", Token: "secret"})
	k := kindAt(t, a.Kind, a.Token, client.TLS{})
	leader := func() (lock vortex.LeaderLock) {
		if rec, err := k.Get(t.Context(), vortex.LeaderLocks.Key("leader")); err == nil {
			lock, _ = vortex.LeaderLocks.Decode(rec.Value)
		}
		return lock
	}
	wait := func(what string, ok func() bool) {
		t.Helper()
		deadline := time.Now().Add(30 * time.Second)
		for !ok() {
			if time.Now().After(deadline) {
				t.Fatalf("not within 30 s: %s", what)
			}
			<-time.After(time.Millisecond)
		}
	}
	wait("s1 leads", func() bool { return leader().ID == "s1" })
	lock, err := vortex.LeaderLocks.Encode(vortex.LeaderLock{ID: "s2", Epoch: 100})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"leader", "epoch"} {
		if _, err := k.Put(t.Context(), vortex.LeaderLocks.Key(id), lock, 0); err != nil {
			t.Fatal(err)
		}
	}
	again := func() bool { return leader().ID == "s1" }
	for lives := 0; !again(); lives++ { // a life may be too short to be heard of on a busy machine
		if lives == 5 {
			t.Fatal("s1 does not lead again although s2 has died five times")
		}
		kill := hold(t, a, "s2", a.Token)
		<-time.After(time.Second)
		kill()
		for deadline := time.Now().Add(8 * time.Second); !again() && time.Now().Before(deadline); {
			<-time.After(time.Millisecond)
		}
	}
	if epoch := leader().Epoch; epoch != 101 {
		t.Errorf("the epoch is %d", epoch)
	}
}
