package backup_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/kind/backup"
	"vortex/internal/kind/engine/etcd"
	"vortex/internal/kind/kindtest"
)

func sha(data []byte) [32]byte { return sha256.Sum256(data) }

// keep runs a keeper until the test, or stop, ends.
func keep(t *testing.T, k *backup.Keeper) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := k.Run(ctx); err != nil {
			t.Errorf("keeper: %v", err)
		}
	})
	stop = func() { cancel(); wg.Wait() }
	t.Cleanup(stop)
	return stop
}

// reaches waits until a directory's newest moment is at least a revision, and returns the state then.
func reaches(t *testing.T, dir string, revision int64) *backup.State {
	t.Helper()
	var state *backup.State
	var err error
	kindtest.Eventually(t, fmt.Sprintf("the backup holds revision %d", revision), func() bool {
		state, err = backup.OpenDir(dir, backup.Moment{})
		return err == nil && state.Revision >= revision
	})
	return state
}

func snapshots(t *testing.T, dir string) int {
	t.Helper()
	c, err := backup.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	return len(c.Snapshots)
}

// TestAnyMomentComesBack ships while a writer goes on, with snapshots between: every revision comes back as it was.
func TestAnyMomentComesBack(t *testing.T) {
	store, dir := kindtest.Open(t), filepath.Join(t.TempDir(), "made", "by it")
	var l ledger
	stop := keep(t, &backup.Keeper{Store: store, Dir: dir, Every: 50 * time.Millisecond, Keep: 1000, Ship: true})
	reaches(t, dir, store.Revision())
	base := store.Revision()
	for n := range 400 {
		if err := l.commit(t.Context(), store, some(n)...); err != nil {
			t.Fatal(err)
		}
	}
	newest := store.Revision()
	kindtest.Eventually(t, "there are several snapshots", func() bool { return snapshots(t, dir) >= 3 })
	reaches(t, dir, newest)
	stop()
	for range 60 {
		rev := base + rand.Int64N(newest-base+1)
		state, err := backup.OpenDir(dir, backup.Moment{Revision: rev})
		if err != nil || state.Revision > rev {
			t.Fatalf("at revision %d: %+v, %v", rev, state, err)
		}
		if diff := cmp.Diff(l.at(rev), contentOf(t, state)); diff != "" {
			t.Fatalf("at revision %d: %s", rev, diff)
		}
		again, err := backup.OpenDir(dir, backup.Moment{Time: state.Time})
		if err != nil || again.Revision < rev {
			t.Fatalf("at %s: %+v, %v; revision %d happened by then", state.Time, again, err, rev)
		}
	}
	if _, err := backup.OpenDir(dir, backup.Moment{Revision: newest + 1000}); !vortex.IsKind(err, vortex.OutOfRange) {
		t.Errorf("a revision that is not there yet: %v", err)
	}
	if _, err := backup.OpenDir(dir, backup.Moment{Time: time.Unix(1, 0)}); !vortex.IsKind(err, vortex.NotFound) {
		t.Errorf("a moment before all snapshots: %v", err)
	}
}

// TestLogGoesOnAfterARestart stops the keeper and starts another: the same log goes on without a snapshot between.
func TestLogGoesOnAfterARestart(t *testing.T) {
	store, dir := kindtest.Open(t), t.TempDir()
	var l ledger
	for round := range 4 {
		stop := keep(t, &backup.Keeper{Store: store, Dir: dir, Ship: true})
		for n := range 20 {
			if err := l.commit(t.Context(), store, some(n)...); err != nil {
				t.Fatal(err)
			}
		}
		reaches(t, dir, store.Revision())
		stop()
		if err := l.commit(t.Context(), store, some(round)...); err != nil { // nobody ships it now
			t.Fatal(err)
		}
	}
	state, err := backup.OpenDir(dir, backup.Moment{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(l.at(state.Revision), contentOf(t, state)); diff != "" || snapshots(t, dir) != 1 {
		t.Errorf("%d snapshots; %s", snapshots(t, dir), diff)
	}
}

// TestAnotherHistoryBeginsAnotherLog points the keeper of a store restored elsewhere at the same directory.
func TestAnotherHistoryBeginsAnotherLog(t *testing.T) {
	dir := t.TempDir()
	first := kindtest.Open(t)
	for n := range 50 {
		put(t, first, fmt.Sprint("old", n), 0)
	}
	stop := keep(t, &backup.Keeper{Store: first, Dir: dir, Ship: true})
	put(t, first, "logged", 0)
	old := reaches(t, dir, first.Revision())
	stop()
	second := kindtest.Open(t)
	for n := range 80 {
		put(t, second, fmt.Sprint("new", n), 0)
	}
	stop = keep(t, &backup.Keeper{Store: second, Dir: dir, Ship: true})
	kindtest.Eventually(t, "a new snapshot", func() bool { return snapshots(t, dir) == 2 })
	put(t, second, "last", 0)
	kindtest.Eventually(t, "the newest moment is the second's", func() bool {
		state, err := backup.OpenDir(dir, backup.Moment{})
		return err == nil && contentOf(t, state)["last"] != ""
	})
	stop()
	state, err := backup.OpenDir(dir, backup.Moment{Time: old.Time})
	if err != nil || contentOf(t, state)["logged"] == "" {
		t.Errorf("the moment before: %+v, %v", state, err)
	}
}

// TestOldBackupsGo keeps two snapshots and what leads on from them.
func TestOldBackupsGo(t *testing.T) {
	store, dir := kindtest.Open(t), t.TempDir()
	stop := keep(t, &backup.Keeper{Store: store, Dir: dir, Every: 20 * time.Millisecond, Keep: 2, Ship: true})
	oldest := func() backup.SnapshotFile {
		c, err := backup.List(dir)
		if err != nil || len(c.Snapshots) == 0 {
			return backup.SnapshotFile{}
		}
		return c.Snapshots[len(c.Snapshots)-1]
	}
	kindtest.Eventually(t, "the first one is there", func() bool { return oldest().Revision != 0 })
	first := oldest()
	put(t, store, "a", 0)
	kindtest.Eventually(t, "the first one goes", func() bool { return oldest().Revision > first.Revision })
	put(t, store, "b", 0)
	reaches(t, dir, store.Revision())
	stop()
	if n := snapshots(t, dir); n > 3 {
		t.Errorf("%d snapshots stay", n)
	}
	if logs, _ := filepath.Glob(filepath.Join(dir, "*.log")); len(logs) > 4 {
		t.Errorf("%d segments stay", len(logs))
	}
	for _, pattern := range []string{"*", ".*"} {
		files, _ := filepath.Glob(filepath.Join(dir, pattern))
		for _, path := range files {
			if info, err := os.Stat(path); err == nil && !info.IsDir() && info.Mode().Perm() != 0o600 {
				t.Errorf("%s is %s", path, info.Mode())
			}
		}
	}
}

// TestDirectoryThatFails is told once, and once again when it works.
func TestDirectoryThatFails(t *testing.T) {
	store := kindtest.Open(t)
	parent := t.TempDir()
	dir := filepath.Join(parent, "backups")
	if err := os.WriteFile(dir, nil, 0o600); err != nil { // in the way
		t.Fatal(err)
	}
	var mu sync.Mutex
	var events []string
	record := func(ev vortex.EventRecord) { mu.Lock(); defer mu.Unlock(); events = append(events, ev.Type) }
	told := func() string { mu.Lock(); defer mu.Unlock(); return strings.Join(events, " ") }
	keep(t, &backup.Keeper{Store: store, Dir: dir, Ship: true, Retry: time.Millisecond, Record: record})
	kindtest.Eventually(t, "the failure is told", func() bool { return told() != "" })
	put(t, store, "k", 0)
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	reaches(t, dir, store.Revision())
	kindtest.Eventually(t, "the recovery is told", func() bool { return told() == "BackupFailed BackupRecovered" })
	if err := os.RemoveAll(dir); err != nil { // gone under it
		t.Fatal(err)
	}
	put(t, store, "l", 0)
}

// TestDamagedSegment: what lies before the damage can be restored, what lies after it is refused and not passed off as good.
func TestDamagedSegment(t *testing.T) {
	t.Run("head", func(t *testing.T) { damagedSegment(t, func(int) []int { return []int{25} }) })
	t.Run("anywhere", func(t *testing.T) {
		damagedSegment(t, func(size int) (all []int) {
			for offset := rand.IntN(11); offset < size; offset += 11 {
				all = append(all, offset)
			}
			return all
		})
	})
}

func damagedSegment(t *testing.T, at func(size int) []int) {
	t.Helper()
	store, dir := kindtest.Open(t), t.TempDir()
	stop := keep(t, &backup.Keeper{Store: store, Dir: dir, Ship: true})
	var l ledger
	reaches(t, dir, store.Revision())
	var half int64
	for n := range 100 {
		if err := l.commit(t.Context(), store, some(n)...); err != nil {
			t.Fatal(err)
		}
		reaches(t, dir, store.Revision())
		if n == 50 { // a restart: what follows is in a segment of its own
			half = store.Revision()
			stop()
			stop = keep(t, &backup.Keeper{Store: store, Dir: dir, Ship: true})
		}
	}
	stop()
	logs, _ := filepath.Glob(filepath.Join(dir, "*.log"))
	data, err := os.ReadFile(logs[len(logs)-1])
	if err != nil {
		t.Fatal(err)
	}
	for _, offset := range at(len(data)) {
		bad := bytes.Clone(data)
		bad[offset] ^= 1 << (offset % 8)
		if err := os.WriteFile(logs[len(logs)-1], bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := backup.OpenDir(dir, backup.Moment{}); err == nil || !strings.Contains(err.Error(), "at byte") || !strings.Contains(err.Error(), "--at ") {
			t.Fatalf("beyond a damage at byte %d of %d: %v", offset, len(data), err)
		}
	}
	state, err := backup.OpenDir(dir, backup.Moment{Revision: half})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(l.at(half), contentOf(t, state)); diff != "" {
		t.Error(diff)
	}
}

// TestDamagedSnapshotIsPassedOver when the log leads on from the one before.
func TestDamagedSnapshotIsPassedOver(t *testing.T) {
	store, dir := kindtest.Open(t), t.TempDir()
	stop := keep(t, &backup.Keeper{Store: store, Dir: dir, Every: 30 * time.Millisecond, Keep: 100, Ship: true})
	var l ledger
	for n := 0; snapshots(t, dir) < 3; n++ {
		if err := l.commit(t.Context(), store, some(n)...); err != nil {
			t.Fatal(err)
		}
	}
	want := reaches(t, dir, store.Revision())
	stop()
	c, err := backup.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range c.Snapshots[:len(c.Snapshots)-1] {
		if err := os.Truncate(bad.Path, bad.Bytes-1); err != nil {
			t.Fatal(err)
		}
	}
	state, err := backup.OpenDir(dir, backup.Moment{})
	if err != nil || state.Revision != want.Revision || len(state.Passed) == 0 {
		t.Fatalf("%+v, %v; want revision %d", state, err, want.Revision)
	}
	if diff := cmp.Diff(l.at(state.Revision), contentOf(t, state)); diff != "" {
		t.Error(diff)
	}
}

// victimEnv makes the test's binary a process that writes, ships, and is killed.
const victimEnv = "VORTEX_TEST_BACKUP_VICTIM"

// victim commits transaction n after n, each as step has it, and prints what was acknowledged, until it is killed.
func victim(dir string) {
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	ctx := context.Background()
	eng, err := etcd.Embedded{Dir: filepath.Join(dir, "store")}.Open(ctx)
	fail(err)
	store, err := kind.Open(ctx, kind.Config{Engine: eng})
	fail(err)
	go func() { _ = store.Run(ctx) }()
	k := &backup.Keeper{Store: store, Dir: filepath.Join(dir, "backups"), Every: 200 * time.Millisecond, Keep: 5, Ship: true}
	go func() { _ = k.Run(ctx) }()
	n := 0
	if rec, err := store.Get("n"); err == nil {
		n, err = strconv.Atoi(string(rec.Value))
		fail(err)
	}
	for {
		n++
		rev, err := store.Commit(ctx, kind.Txn{Ops: step(n)})
		fail(err)
		fmt.Println(rev, n)
	}
}

// step is the n-th transaction: the count, and one of fifty keys put or deleted.
func step(n int) []kind.Op {
	key := fmt.Sprintf("k%d", n*n%50)
	return []kind.Op{{Key: "n", Value: strconv.AppendInt(nil, int64(n), 10)}, {Key: key, Value: fmt.Append(nil, n), Delete: n%7 == 0}}
}

// after is the state after n steps.
func after(n int) content {
	model := content{}
	for i := 1; i <= n; i++ {
		for _, op := range step(i) {
			if op.Delete {
				delete(model, op.Key)
			} else {
				model[op.Key] = string(op.Value)
			}
		}
	}
	return model
}

// TestKilledWhileShipping kills the process again and again: what was in the backup stays, and every
// state that comes back is one that was.
func TestKilledWhileShipping(t *testing.T) {
	dir := t.TempDir()
	backups := filepath.Join(dir, "backups")
	var held int64
	for round := range 5 {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), victimEnv+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		read := func() (rev int64) {
			if !lines.Scan() {
				t.Fatal("the process ended by itself")
			}
			if _, err := fmt.Sscan(lines.Text(), &rev); err != nil {
				t.Fatal(err)
			}
			return rev
		}
		for range 100 + rand.IntN(400) {
			held = read()
		}
		go func() {
			for lines.Scan() { // so that it never waits for us
			}
		}()
		reaches(t, backups, held)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		state, err := backup.OpenDir(backups, backup.Moment{})
		if err != nil || state.Revision < held {
			t.Fatalf("round %d: %+v, %v; it held revision %d", round, state, err, held)
		}
		got := contentOf(t, state)
		n, _ := strconv.Atoi(got["n"])
		if diff := cmp.Diff(after(n), got); diff != "" {
			t.Fatalf("round %d: a state that never was: %s", round, diff)
		}
	}
}
