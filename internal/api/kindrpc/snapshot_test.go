package kindrpc_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"vortex/client"
	"vortex/internal/api/kindrpc"
	"vortex/internal/kind/backup"
	kindpb "vortex/proto/kind"
)

// TestSnapshot takes one of more than a message holds, and reads it back.
func TestSnapshot(t *testing.T) {
	s := serve(t, kindrpc.AnonymousLimited)
	value := strings.Repeat("x", 1000)
	for n := range 2000 {
		s.put(fmt.Sprint("k", n), fmt.Sprint(n, value))
	}
	k, err := client.OpenKind(s.addr, token)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = k.Close() }()
	path := filepath.Join(t.TempDir(), "s.snap")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Snapshot(s.ctx(), file); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	sum, err := backup.Verify(path, nil)
	if err != nil || sum.Records != 2000 || sum.Revision != s.store.Revision() || sum.Version != "v-test" {
		t.Errorf("%+v, %v", sum, err)
	}
}

func TestSnapshotIsForAdministrators(t *testing.T) {
	s := serve(t, kindrpc.AnonymousLimited)
	stream, err := s.client("").Snapshot(s.ctx(), &kindpb.SnapshotRequest{})
	if err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "take a snapshot") {
		t.Errorf("anonymous: %v", err)
	}
}
