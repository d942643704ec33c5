// Package kind proves that the state store keeps its promises when what it stands on does not: clients of the built binary
// write and read while processes are killed, networks cut and disks filled, and every answer is checked.
//
// Run it with make prove. KIND_LONG=1 runs each proof ten times as long, KIND_STRICT=1 turns measured bounds into
// failures. What a machine cannot do is skipped with its reason.
package kind

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	kindpb "vortex/proto/kind"
	"vortex/test/harness"
)

// TestMain makes this binary an etcd member when it is asked to be one, and runs the tests else.
func TestMain(m *testing.M) {
	if os.Getenv(memberEnv) != "" {
		if err := runMember(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// long multiplies what a proof does when there is time for it.
func long(n int) int {
	if os.Getenv("KIND_LONG") != "" {
		return 10 * n
	}
	return n
}

const patience = 60 * time.Second

// serve starts a server that is nothing but a store.
func serve(t *testing.T, opts harness.Options) *harness.Vortex {
	t.Helper()
	if _, err := harness.Binary(); err != nil {
		t.Skip(err)
	}
	if opts.Data == "" {
		opts.Data = t.TempDir()
	}
	opts.Command = "server"
	opts.Args = append([]string{"--no-agent", "--no-edge", "--edge", ""}, opts.Args...)
	v, err := harness.Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of vortex:\n%s", tail(v.Log()))
		}
		v.Kill()
	})
	return v
}

const kept = 6000 // bytes of a log that are shown

func tail(log string) string { return log[max(0, len(log)-kept):] }

// connect returns a client of a server's store with every right. It outlives the server's restarts as far as the
// address does.
func connect(t *testing.T, v *harness.Vortex) kindpb.KindServiceClient {
	t.Helper()
	return dial(t, v.Run.Kind, v.Run.Token)
}

func dial(t *testing.T, addr, token string) kindpb.KindServiceClient {
	t.Helper()
	bearer := metadata.Pairs("authorization", "Bearer "+token)
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: quickly, MinConnectTimeout: time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<30)),
		grpc.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			return invoke(metadata.NewOutgoingContext(ctx, bearer), method, req, reply, cc, opts...)
		}),
		grpc.WithStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			return open(metadata.NewOutgoingContext(ctx, bearer), desc, cc, method, opts...)
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return kindpb.NewKindServiceClient(conn)
}

// eventually waits until ok returns true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", patience, what)
		}
		select {
		case <-t.Context().Done():
			t.Fatal("the test ended")
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// strict reports whether bounds that a busy machine may miss are held.
func strict() bool { return os.Getenv("KIND_STRICT") != "" }
