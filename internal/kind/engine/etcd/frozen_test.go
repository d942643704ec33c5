package etcd_test

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"vortex/internal/kind/engine"
	"vortex/internal/kind/engine/enginetest"
	"vortex/internal/kind/engine/etcd"
	"vortex/internal/kind/kindtest"
)

// way is the only way to a member. Once it is lost nothing passes any more, and nothing is closed: so it is with a member whose host lost its power.
type way struct {
	net.Listener

	to   string
	used chan struct{} // one slot: something has passed
	end  chan struct{} // closed with the test

	mu   sync.Mutex
	lost bool
}

func newWay(t *testing.T, to string) *way {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &way{Listener: l, to: to, used: make(chan struct{}, 1), end: make(chan struct{})}
	var passing sync.WaitGroup
	passing.Go(func() { w.accept(t.Context(), &passing) })
	t.Cleanup(func() {
		close(w.end)
		_ = l.Close()
		passing.Wait()
	})
	return w
}

func (w *way) accept(ctx context.Context, passing *sync.WaitGroup) {
	for {
		in, err := w.Accept()
		if err != nil {
			return
		}
		out, err := (&net.Dialer{}).DialContext(ctx, "tcp", w.to)
		if err != nil {
			_ = in.Close()
			continue
		}
		passing.Go(func() { w.pass(in, out) })
		passing.Go(func() { w.pass(out, in) })
		passing.Go(func() {
			<-w.end
			_, _ = in.Close(), out.Close()
		})
	}
}

func (w *way) pass(from io.Reader, to io.Writer) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if w.gone() {
			<-w.end
			return
		}
		select {
		case w.used <- struct{}{}:
		default:
		}
		if n > 0 {
			_, _ = to.Write(buf[:n])
		}
		if err != nil {
			return
		}
	}
}

func (w *way) gone() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lost
}

func (w *way) lose() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lost = true
}

// carries reports whether anything passes while something is done.
func (w *way) carries(do func()) bool {
	select {
	case <-w.used:
	default:
	}
	do()
	return len(w.used) > 0
}

// TestLostMemberIsLeft takes the member in use away without a word. Reads, writes and a watch that nobody asked anything of go on at another one, long before the
// connection is given up.
func TestLostMemberIsLeft(t *testing.T) {
	t.Parallel()
	const soon = 10 * time.Second // gRPC itself finds out after twelve
	server := startEtcd(t)
	server.open(t, "")
	doings := map[string]func(ctx context.Context, e engine.Engine) error{
		"read": func(ctx context.Context, e engine.Engine) (failed error) {
			var rev int64
			for _, err := range e.Range(ctx, "", "", &rev) {
				failed = err
			}
			return failed
		},
		"read index": func(ctx context.Context, e engine.Engine) error {
			_, err := e.ReadIndex(ctx)
			return err
		},
		"write": func(ctx context.Context, e engine.Engine) (err error) {
			txn := engine.Txn{Writes: []engine.Write{enginetest.Put("a", "by another member")}}
			for tries := 0; tries < 20 && ctx.Err() == nil; tries++ { // one that was under way is not tried again by itself
				if _, err = e.Commit(ctx, txn); err == nil {
					return nil
				}
			}
			return err
		},
		"nothing": func(context.Context, engine.Engine) error { return nil },
	}
	for name, do := range doings {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ways := []*way{newWay(t, server.client), newWay(t, server.client), newWay(t, server.client)}
			prefix := "/" + name + "/"
			cfg := etcd.External{Prefix: prefix}
			for _, w := range ways {
				cfg.Endpoints = append(cfg.Endpoints, w.Addr().String())
			}
			e, err := cfg.Open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = e.Close() })
			rev := enginetest.Commit(t, e, enginetest.Put("a", "1"))
			watch := enginetest.Watch(t, e, rev)
			watch.Next()
			var used *way
			kindtest.Eventually(t, "one member is used", func() bool {
				for _, w := range ways {
					if w.carries(func() { enginetest.Commit(t, e, enginetest.Put("b", "1")) }) {
						used = w
					}
					watch.Next()
				}
				return used != nil
			})
			used.lose()
			ctx, cancel := context.WithTimeout(t.Context(), soon)
			defer cancel()
			began := time.Now()
			if err := do(ctx, e); err != nil {
				t.Errorf("%s after %s: %v", name, time.Since(began), err)
			}
			// Another process writes: only the watch can tell.
			other, err := etcd.External{Endpoints: []string{server.client}, Prefix: prefix}.Open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = other.Close() }()
			enginetest.Commit(t, other, enginetest.Put("c", "1"))
			for _, changes := watch.Next(); changes[0] != "c=1"; _, changes = watch.Next() {
			}
			took := time.Since(began)
			t.Logf("all went on after %s", took.Round(time.Millisecond))
			if took > soon {
				t.Errorf("the lost member was left after %s; want less than %s", took, soon)
			}
		})
	}
}
