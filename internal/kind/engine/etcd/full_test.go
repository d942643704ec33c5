//go:build linux

package etcd_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vortex"
	"vortex/internal/kind/engine"
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

// TestDiskThatFillsUp refuses writes in words while the disk is full, reads all the time, and goes on when there is room.
func TestDiskThatFillsUp(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a small disk needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("full", dir, "tmpfs", 0, "size=256m"); err != nil {
		t.Skipf("no tmpfs here: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	e, err := etcd.Embedded{Dir: dir}.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = e.Close() }()
	put := func(value string) error {
		_, err := e.Commit(t.Context(), engine.Txn{Writes: []engine.Write{{Key: "k", Value: []byte(value)}}})
		return err
	}
	if err := put("before"); err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(dir, "ballast")
	f, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	for block := make([]byte, 1<<20); err == nil; {
		_, err = f.Write(block)
	}
	_ = f.Close()
	if err := put("during"); !vortex.IsKind(err, vortex.Exhausted) || !strings.Contains(err.Error(), "free space") {
		t.Errorf("a write on a full disk: %v", err)
	}
	var rev int64
	for kv, err := range e.Range(t.Context(), "k", "l", &rev) {
		if err != nil || string(kv.Value) != "before" {
			t.Errorf("a read on a full disk: %q, %v", kv.Value, err)
		}
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := put("after"); err != nil {
		t.Errorf("a write when there is room again: %v", err)
	}
}

// TestDamagedDatabase holds that one error tells of it, and no panic.
func TestDamagedDatabase(t *testing.T) {
	dir := t.TempDir()
	e, err := etcd.Embedded{Dir: dir}.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "member-data", "member", "snap", "db")
	for _, size := range []int{5000, 16 << 10} {
		if err := os.WriteFile(path, []byte(strings.Repeat("x", size)), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err = etcd.Embedded{Dir: dir}.Open(t.Context())
		if !vortex.IsKind(err, vortex.Unavailable) || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("Open of a damaged database: %v", err)
		}
	}
}
