//go:build linux

package etcd_test

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vortex"
	"vortex/internal/kind/engine/etcd"
)

// TestFullDisk starts on a disk without room: an error that says so, and no panic.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a small disk needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("full", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("no tmpfs here: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	_, err := etcd.Embedded{Dir: dir}.Open(t.Context())
	if !vortex.IsKind(err, vortex.Unavailable) || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("Open on a full disk: %v", err)
	}
}
