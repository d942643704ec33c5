package remote_test

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/kind/kindtest"
	kindpb "vortex/proto/kind"
)

// holdings is what an agent asks a server for, as it goes over the wire.
func holdings(node string) []*kindpb.Selection {
	placements := []byte(vortex.Placements.Prefix + ":")
	return []*kindpb.Selection{
		{Prefix: []byte(vortex.Instances.Prefix + ":"), Via: &kindpb.Via{Prefix: placements, Fields: []string{"instance"}}},
		{Prefix: placements, Filter: &kindpb.ScanFilter{Field: "node", Value: node}},
	}
}

// secret is the token as requests carry it.
type secret struct{}

func (secret) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + token}, nil
}
func (secret) RequireTransportSecurity() bool { return false }

// BenchmarkAgents is a placement of an instance as its agent sees it, while so many agents follow the same server.
func BenchmarkAgents(b *testing.B) {
	for _, agents := range []int{1, 500} {
		b.Run(strconv.Itoa(agents), func(b *testing.B) {
			store := kindtest.Open(b)
			s := serve(b, store)
			arrived := make([]chan struct{}, agents)
			var following sync.WaitGroup
			for n := range agents {
				arrived[n] = make(chan struct{}, 1)
				follow(b, s, fmt.Sprintf("n%d", n), arrived[n], &following)
			}
			b.Cleanup(following.Wait)
			for n := 0; b.Loop(); n++ {
				id := fmt.Sprintf("i%d", n)
				ops := make([]kind.Op, 2)
				var err error
				ops[0], err = kind.PutOp(vortex.Instances, &vortex.InstanceRecord{ID: id, ClientID: "web", Release: 1, Wanted: vortex.WantedStateRunning, CreatedAt: time.Now().UTC()}, id)
				if err != nil {
					b.Fatal(err)
				}
				ops[1], err = kind.PutOp(vortex.Placements, &vortex.PlacementRecord{Instance: id, ClientID: "web", Node: fmt.Sprintf("n%d", n%agents), Release: 1, Epoch: 1, CreatedAt: time.Now().UTC()}, id)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := store.Commit(b.Context(), kind.Txn{Ops: ops}); err != nil {
					b.Fatal(err)
				}
				<-arrived[n%agents]
			}
		})
	}
}

// follow is an agent: it signals each transaction that brings it a placement and its instance.
func follow(b *testing.B, s *server, node string, arrived chan<- struct{}, following *sync.WaitGroup) {
	b.Helper()
	conn, err := grpc.NewClient("passthrough:///"+s.addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithPerRPCCredentials(secret{}))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.Close() })
	call, err := kindpb.NewKindServiceClient(conn).Follow(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	if err := call.Send(&kindpb.FollowRequest{FromRevision: uint64(s.service.Store.Revision()) + 1, Selections: holdings(node)}); err != nil {
		b.Fatal(err)
	}
	if _, err := call.Header(); err != nil {
		b.Fatal(err)
	}
	following.Go(func() {
		for {
			p, err := call.Recv()
			if err != nil {
				return
			}
			if len(p.GetEntries()) == 2 {
				arrived <- struct{}{}
			}
		}
	})
}
