package node

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"vortex/client"
	"vortex/internal/config"
)

// TestAdminFollowsTheFile moves the admin address of an edge that runs alone, to one that is taken first.
func TestAdminFollowsTheFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "edge.yaml")
	write := func(admin string) {
		t.Helper()
		text := fmt.Sprintf("listeners: [{name: web, address: \"127.0.0.1:0\"}]\nadmin: %q\n", admin)
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	answers := func(address string) bool {
		resp, err := http.Get("http://" + address + "/healthz")
		if err != nil {
			return false
		}
		return resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
	}
	first, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	second, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	first.Close()
	write(first.Addr().String())
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	started := make(chan client.Edge, 1)
	go func() {
		d := Daemon{RuntimeDir: filepath.Join(dir, "run"), Stderr: io.Discard}
		ended <- d.RunEdge(ctx, path, config.Default(), func(e client.Edge) { started <- e })
	}()
	select {
	case <-started:
	case err := <-ended:
		t.Fatalf("it ended: %v", err)
	}
	if !answers(first.Addr().String()) {
		t.Fatal("nobody answers at the first address")
	}
	write(second.Addr().String()) // which is taken
	await(t, "the refusal", func() bool {
		resp, err := http.Get("http://" + first.Addr().String() + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Contains(text, []byte("vortex_edge_config_last_reload_successful 0"))
	})
	second.Close()
	await(t, "an answer at the second address", func() bool { return answers(second.Addr().String()) })
	await(t, "no answer at the first", func() bool { return !answers(first.Addr().String()) })
	write("off")
	await(t, "no answer at all", func() bool { return !answers(second.Addr().String()) })
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
