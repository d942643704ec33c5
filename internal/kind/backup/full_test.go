//go:build linux

package backup_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"vortex"
	"vortex/internal/kind/backup"
	"vortex/internal/kind/kindtest"
)

// TestDiskThatFillsUp fills the disk of the backups, to the last byte and to the reserve: the store goes on, the
// failure is told, what was there stays whole, and all goes on when there is room again.
func TestDiskThatFillsUp(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a small disk needs root")
	}
	for name, reserve := range map[string]uint64{"to the last byte": 1, "to the reserve": 1 << 20} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := unix.Mount("full", dir, "tmpfs", 0, "size=4m"); err != nil {
				t.Skipf("no tmpfs here: %v", err)
			}
			t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
			fillUp(t, dir, reserve)
		})
	}
}

func fillUp(t *testing.T, dir string, reserve uint64) {
	t.Helper()
	store := kindtest.Open(t)
	var l ledger
	var mu sync.Mutex
	told := map[string]int{}
	stop := keep(t, &backup.Keeper{
		Store: store, Dir: dir, Ship: true, Every: 50 * time.Millisecond, Keep: 3, Retry: 5 * time.Millisecond, Reserve: reserve,
		Record: func(ev vortex.EventRecord) { mu.Lock(); defer mu.Unlock(); told[ev.Type]++ },
	})
	was := func(what string) bool { mu.Lock(); defer mu.Unlock(); return told[what] > 0 }
	write := func(n int) {
		if err := l.commit(t.Context(), store, some(n)...); err != nil {
			t.Fatal(err)
		}
	}
	for n := range 50 {
		write(n)
	}
	before := reaches(t, dir, store.Revision()).Revision
	ballast := filepath.Join(dir, "ballast")
	f, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	for block := make([]byte, 4096); err == nil; {
		_, err = f.Write(block)
	}
	_ = f.Close()
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	for n := 50; !was("BackupFailed"); n++ {
		write(n)
	}
	state, err := backup.OpenDir(dir, backup.Moment{})
	if err != nil || state.Revision < before {
		t.Errorf("what was there: %+v, %v; it held revision %d", state, err, before)
	} else if diff := cmp.Diff(l.at(state.Revision), contentOf(t, state)); diff != "" {
		t.Error(diff)
	}
	if err := os.Remove(ballast); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	kindtest.Eventually(t, "it works again", func() bool { return was("BackupRecovered") })
	write(1)
	state = reaches(t, dir, store.Revision())
	stop()
	if diff := cmp.Diff(l.at(state.Revision), contentOf(t, state)); diff != "" {
		t.Error(diff)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".vortex-*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}
