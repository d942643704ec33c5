package remote_test

import (
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	"vortex/internal/api/kindrpc"
	"vortex/internal/kind"
	"vortex/internal/kind/engine/remote"
	"vortex/internal/kind/kindtest"
	kindpb "vortex/proto/kind"
)

// TestServerThatDoesNotBeginIsLeft has two servers that answer everything, but begin no watch while they are told not to. Whoever follows changes is not
// left waiting by one of them while the other tells, nor when both come round.
func TestServerThatDoesNotBeginIsLeft(t *testing.T) {
	store := kindtest.Open(t)
	var mute [2]atomic.Bool
	servers := make([]*server, len(mute))
	for i := range servers {
		hold := func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
			for info.FullMethod == kindpb.KindService_Follow_FullMethodName && mute[i].Load() {
				select {
				case <-ss.Context().Done():
					return nil
				case <-time.After(time.Millisecond):
				}
			}
			return handle(srv, ss)
		}
		servers[i] = &server{t: t, addr: "127.0.0.1:0", service: &kindrpc.Service{Store: store, Token: token}, opts: []grpc.ServerOption{grpc.ChainStreamInterceptor(hold)}}
		servers[i].start()
		t.Cleanup(servers[i].stop)
	}
	e := open(t, remote.Config{Servers: []string{servers[0].addr, servers[1].addr}, Hold: []kind.Selection{{Prefix: "a:"}}})
	mirror := storeOn(t, e)
	follows := func(n int) {
		t.Helper()
		rev, err := store.Put(t.Context(), "a:x", []byte(strconv.Itoa(n)), 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := mirror.WaitFor(within(t), rev); err != nil {
			t.Fatal(err)
		}
	}
	follows(0)
	for n := range 3 {
		kindtest.Eventually(t, "another connection is warm", e.Warm)
		used, other := 0, 1
		if e.Server() == servers[1].addr {
			used, other = 1, 0
		}
		mute[other].Store(true)
		began := time.Now()
		servers[used].stop() // the other is used now, and does not begin
		servers[used].start()
		follows(n + 1)
		t.Logf("the change was seen %s after the server was lost", time.Since(began).Round(time.Millisecond))
		mute[other].Store(false)
	}
	kindtest.Eventually(t, "another connection is warm", e.Warm)
	for i, s := range servers {
		mute[i].Store(true)
		s.stop()
		s.start()
	}
	kindtest.Eventually(t, "a server is used", func() bool { return e.Server() != "" })
	mute[0].Store(false)
	mute[1].Store(false)
	follows(4)
}
