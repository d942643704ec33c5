package remote_test

import (
	"context"
	"errors"
	"iter"
	"net"
	"sync"
	"testing"

	"google.golang.org/grpc"

	"vortex"
	"vortex/internal/api/kindrpc"
	"vortex/internal/kind"
	"vortex/internal/kind/engine"
	"vortex/internal/kind/engine/enginetest"
	"vortex/internal/kind/engine/remote"
	"vortex/internal/kind/kindtest"
	"vortex/internal/kind/ksl"
)

const token = "secret-token"

// server serves a store at one address, and can be stopped and started there.
type server struct {
	t       testing.TB
	service *kindrpc.Service
	opts    []grpc.ServerOption
	addr    string
	srv     *grpc.Server
	done    chan struct{}
}

// serve starts a server of a store on a free port.
func serve(tb testing.TB, store *kind.Store) *server {
	tb.Helper()
	s := &server{t: tb, service: &kindrpc.Service{Store: store, Token: token}, addr: "127.0.0.1:0"}
	s.start()
	tb.Cleanup(func() { s.stop() })
	return s
}

func (s *server) start() {
	s.t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.addr = listener.Addr().String()
	s.srv = kindrpc.NewServer(s.service, s.opts...)
	done, srv := make(chan struct{}), s.srv
	s.done = done
	go func() { defer close(done); _ = srv.Serve(listener) }()
}

// stop ends the server as the death of its process would: every connection breaks.
func (s *server) stop() { s.srv.Stop(); <-s.done }

// open returns an engine on servers.
func open(tb testing.TB, cfg remote.Config) *remote.Engine {
	tb.Helper()
	cfg.Token = token
	e, err := cfg.Open(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := e.Close(); err != nil {
			tb.Errorf("close: %v", err)
		}
	})
	return e
}

// storeOn returns a running store on an engine.
func storeOn(tb testing.TB, e engine.Engine) *kind.Store {
	tb.Helper()
	schema, err := ksl.Parse("vortex.ksl", vortex.Schema())
	if err != nil {
		tb.Fatal(err)
	}
	s, err := kind.Open(tb.Context(), kind.Config{Engine: e, Schema: schema, Bridge: true})
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = s.Run(ctx) })
	tb.Cleanup(func() { cancel(); running.Wait() })
	return s
}

// sealing is the engine as the store above sees it: values in envelopes, and the other store's own keys left alone.
type sealing struct{ engine.Engine }

func (s sealing) Commit(ctx context.Context, txn engine.Txn) (engine.Result, error) {
	writes := make([]engine.Write, len(txn.Writes))
	for i, w := range txn.Writes {
		if writes[i] = w; !w.Delete {
			writes[i].Value = kind.Seal(w.Value, 0)
		}
	}
	return s.Engine.Commit(ctx, engine.Txn{Compares: txn.Compares, Writes: writes})
}

func (s sealing) Range(ctx context.Context, lo, hi string, rev *int64) iter.Seq2[engine.KV, error] {
	return func(yield func(engine.KV, error) bool) {
		for kv, err := range s.Engine.Range(ctx, lo, hi, rev) {
			if kind.Hidden(kv.Key) {
				continue
			}
			if err == nil {
				kv.Value, _, err = kind.Unseal(kv.Value)
			}
			if !yield(kv, err) {
				return
			}
		}
	}
}

func (s sealing) Watch(ctx context.Context, from int64) iter.Seq2[engine.Batch, error] {
	return func(yield func(engine.Batch, error) bool) {
		for b, err := range s.Engine.Watch(ctx, from) {
			var changes []engine.Change
			for _, ch := range b.Changes {
				if kind.Hidden(ch.Key) {
					continue
				}
				if !ch.Delete {
					value, _, fault := kind.Unseal(ch.Value)
					ch.Value, err = value, errors.Join(err, fault)
				}
				changes = append(changes, ch)
			}
			b.Changes = changes
			if !yield(b, err) {
				return
			}
		}
	}
}

func TestWhole(t *testing.T) {
	enginetest.Run(t, func(t *testing.T) engine.Engine {
		t.Helper()
		return sealing{open(t, remote.Config{Servers: []string{serve(t, kindtest.Open(t)).addr}})}
	})
}

func TestSelected(t *testing.T) {
	enginetest.Run(t, func(t *testing.T) engine.Engine {
		t.Helper()
		everything := []kind.Selection{{Prefix: ""}}
		return sealing{open(t, remote.Config{Servers: []string{serve(t, kindtest.Open(t)).addr}, Hold: everything})}
	})
}
