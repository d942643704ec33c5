package kindrpc_test

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"testing"

	"google.golang.org/grpc"

	"vortex"
	"vortex/client"
	"vortex/internal/api/kindrpc"
	"vortex/internal/kind"
	"vortex/internal/kind/kindtest"
)

// restartable serves a store at one address, and can be stopped and started there.
type restartable struct {
	t     *testing.T
	store *kind.Store
	addr  string
	srv   *grpc.Server
	done  chan struct{}
}

func (r *restartable) start() {
	r.t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(r.t.Context(), "tcp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	r.addr = listener.Addr().String()
	r.srv = kindrpc.NewServer(&kindrpc.Service{Store: r.store, Token: token})
	done := make(chan struct{})
	r.done = done
	go func() { defer close(done); _ = r.srv.Serve(listener) }()
}

func (r *restartable) stop() { r.srv.Stop(); <-r.done }

// TestFollowOutlivesItsServer writes transactions of three keys all the time while the server goes away again and again, in
// the middle of transactions too: the client cuts its own connection by leaving the first watch half read.
func TestFollowOutlivesItsServer(t *testing.T) {
	r := &restartable{t: t, store: kindtest.Open(t), addr: "127.0.0.1:0"}
	r.start()
	defer func() { r.stop() }()
	k, err := client.OpenKind(r.addr, token)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.Close() })
	const transactions, keys, restarts = 300, 3, 3
	heard, written := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(written)
		<-heard
		for n := range transactions {
			var ops []kind.Op
			for i := range keys {
				ops = append(ops, kind.Op{Key: fmt.Sprintf("f:%d", i), Value: []byte(strconv.Itoa(n))})
			}
			if _, err := r.store.Commit(context.Background(), kind.Txn{Ops: ops}); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	broken, got := 0, 0
	opts := client.WatchOptions{Progress: true, Broken: func(error) { broken++ }}
	for ch, err := range k.Follow(t.Context(), "f:", opts) {
		if err != nil {
			t.Fatal(err)
		}
		if ch.Progress {
			if got == 0 {
				close(heard)
			}
			continue
		}
		if want := fmt.Sprintf("f:%d=%d", got%keys, got/keys); ch.Key+"="+string(ch.Value) != want {
			t.Fatalf("change %d is %s=%s; want %s", got, ch.Key, ch.Value, want)
		}
		if got++; got == transactions*keys {
			break
		}
		if got%(transactions*keys/restarts) == 1 {
			r.stop()
			r.start()
		}
	}
	<-written
	if broken < restarts-1 {
		t.Errorf("the watch broke %d times; the server was restarted %d times", broken, restarts)
	}
}

func TestFollowDoesNotRetryWhatCannotHelp(t *testing.T) {
	r := &restartable{t: t, store: kindtest.Open(t), addr: "127.0.0.1:0"}
	r.start()
	defer r.stop()
	for what, c := range map[string]struct {
		token string
		opts  client.WatchOptions
		want  vortex.ErrorKind
	}{
		"a revision of the future":   {token, client.WatchOptions{From: 1000}, vortex.OutOfRange},
		"a field without an index":   {token, client.WatchOptions{Filter: &client.Filter{Field: "ip_address"}}, vortex.Invalid},
		"a token that is not known":  {"wrong", client.WatchOptions{}, vortex.Unauthenticated},
		"a server that is not there": {"", client.WatchOptions{}, vortex.Unavailable},
	} {
		addr := r.addr
		if c.want == vortex.Unavailable {
			addr = "127.0.0.1:1"
		}
		k, err := client.OpenKind(addr, c.token)
		if err != nil {
			t.Fatal(err)
		}
		for _, err = range k.Follow(t.Context(), "vortex:container:", c.opts) {
			if err != nil {
				break
			}
		}
		if !vortex.IsKind(err, c.want) {
			t.Errorf("%s: %v; want kind %v", what, err, c.want)
		}
		_ = k.Close()
	}
}
