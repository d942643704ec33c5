//go:build linux

package kind

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	kindpb "vortex/proto/kind"
	"vortex/test/harness"
)

const (
	smallDisk = 320 << 20
	fillKeys  = 5000
)

// mountDisk mounts a small disk of its own for a data directory.
func mountDisk(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a small disk needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("proof", dir, "tmpfs", 0, fmt.Sprintf("size=%d", smallDisk)); err != nil {
		t.Skipf("no tmpfs here: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// filler writes records as fast as it can, each of which it knows when it was acknowledged.
type filler struct {
	kind    kindpb.KindServiceClient
	bytes   int
	next    atomic.Int64
	acked   atomic.Int64
	refused atomic.Int64
	mu      sync.Mutex
	there   map[string]struct{}
	last    error
}

func (f *filler) run(ctx context.Context, writers int) {
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for ctx.Err() == nil {
				f.one(ctx)
			}
		})
	}
	wg.Wait()
}

func (f *filler) one(ctx context.Context) {
	key := fmt.Sprintf("fill:%06d", f.next.Add(1)%fillKeys)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	_, err := f.kind.Put(ctx, &kindpb.PutRequest{Key: key, Value: bytes.Repeat([]byte("x"), f.bytes)})
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		f.refused.Add(1)
		f.last = err
		return
	}
	f.acked.Add(1)
	f.there[key] = struct{}{}
}

// refusal is the newest error.
func (f *filler) refusal() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last
}

// gone lists records that were acknowledged and are not there.
func (f *filler) gone(t *testing.T, kind kindpb.KindServiceClient) (missing []string) {
	t.Helper()
	found := map[string]bool{}
	for part := range fillKeys / 100 { // an answer has a bound
		resp, err := kind.PrefixScan(t.Context(), &kindpb.PrefixScanRequest{Prefix: fmt.Sprintf("fill:%04d", part)})
		if err != nil {
			t.Fatalf("read: %v", err)
		}
		for _, rec := range resp.GetRecords() {
			found[rec.GetKey()] = true
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for key := range f.there {
		if !found[key] {
			missing = append(missing, key)
		}
	}
	return missing
}

// TestDiskFillsUp fills the disk under load again and again, at another pace each time: writes are refused in words, reads go on, and
// when there is room again so do writes, in the same process.
func TestDiskFillsUp(t *testing.T) {
	dir := mountDisk(t)
	v := serve(t, harness.Options{Data: filepath.Join(dir, "data"), Args: []string{"--kind-anonymous", "full"}})
	kind := connect(t, v)
	ballast := filepath.Join(dir, "ballast")
	var acked, refused int64
	rounds := long(6)
	for round := range rounds {
		f := &filler{kind: kind, bytes: 1000 << (round % 5), there: map[string]struct{}{}}
		ctx, cancel := context.WithCancel(t.Context())
		var load sync.WaitGroup
		load.Go(func() { f.run(ctx, 8) })
		eventually(t, "writes succeed", func() bool { return f.acked.Load() > 100 })
		fill(t, ballast, time.Duration(round%3)*time.Millisecond)
		eventually(t, "writes are refused", func() bool { return f.refused.Load() > 100 })
		cancel()
		load.Wait()
		if err := f.refusal(); status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "is full") {
			t.Errorf("a write on a full disk: %v; want ResourceExhausted that says so", err)
		}
		if missing := f.gone(t, kind); len(missing) > 0 {
			t.Errorf("%d acknowledged records cannot be read while the disk is full", len(missing))
		}
		tells(t, v, "is full")
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		eventually(t, "a write succeeds when there is room again", func() bool {
			_, err := kind.Put(t.Context(), &kindpb.PutRequest{Key: "after", Value: []byte("x")})
			return err == nil
		})
		acked, refused = acked+f.acked.Load(), refused+f.refused.Load()
		if v.Ended() {
			t.Fatalf("the process ended in round %d:\n%s", round, tail(v.Log()))
		}
	}
	v.Kill()
	if err := v.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := connect(t, v).Get(t.Context(), &kindpb.GetRequest{Key: "after"}); err != nil {
		t.Errorf("after a crash and a restart: %v", err)
	}
	t.Logf("the disk was full %d times under load: %d writes acknowledged, %d refused, none lost; one process all the time", rounds, acked, refused)
}

// fill writes a file until the disk is full, pausing between blocks.
func fill(t *testing.T, path string, pauseFor time.Duration) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for block := make([]byte, 1<<20); err == nil; {
		_, err = f.Write(block)
		pause(t.Context(), pauseFor)
	}
	for block := make([]byte, 4096); ; { // and the last bytes
		if _, err = f.Write(block); err != nil {
			return
		}
	}
}

// tells holds that people who look are told: at /readyz, by vortex kv status and by vortex doctor.
func tells(t *testing.T, v *harness.Vortex, words string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, v.Run.API+"/readyz", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(body), words) {
		t.Errorf("/readyz: %s %s; want 503 and %q", resp.Status, body, words)
	}
	if out, errs, code := v.CLI(t.Context(), "kv", "status"); code != 0 || !strings.Contains(out, words) {
		t.Errorf("kv status: %s%s; want %q", out, errs, words)
	}
	if out, _, code := v.CLI(t.Context(), "doctor"); code == 0 || !strings.Contains(out, "is not ready") {
		t.Errorf("doctor: exit code %d\n%s; want that the server is not ready", code, out)
	}
}

// TestStoreFillsItsDisk lets the store itself fill the disk.
func TestStoreFillsItsDisk(t *testing.T) {
	dir := mountDisk(t)
	v := serve(t, harness.Options{Data: filepath.Join(dir, "data"), Args: []string{"--kind-anonymous", "full"}})
	kind := connect(t, v)
	f := &filler{kind: kind, bytes: 60_000, there: map[string]struct{}{}}
	ctx, cancel := context.WithCancel(t.Context())
	var load sync.WaitGroup
	load.Go(func() { f.run(ctx, 8) })
	eventually(t, "writes are refused", func() bool { return f.refused.Load() > 100 || v.Ended() })
	cancel()
	load.Wait()
	if v.Ended() {
		t.Fatalf("the process ended:\n%s", tail(v.Log()))
	}
	if err := f.refusal(); status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "is full") {
		t.Errorf("a write on a full disk: %v; want ResourceExhausted that says so", err)
	}
	if missing := f.gone(t, kind); len(missing) > 0 {
		t.Errorf("%d acknowledged records cannot be read", len(missing))
	}
	v.Kill()
	if err := v.Restart(t.Context()); err != nil {
		t.Fatalf("start on the full disk: %v", err)
	}
	if missing := f.gone(t, connect(t, v)); len(missing) > 0 {
		t.Errorf("%d acknowledged records are lost after a restart", len(missing))
	}
	t.Logf("%d writes of %d bytes acknowledged until the disk of %d MiB was full, none lost", f.acked.Load(), f.bytes, smallDisk>>20)
}

// TestDiskTurnsReadOnly makes a file system refuse every write in the middle of the load, as the kernel does when a disk fails.
func TestDiskTurnsReadOnly(t *testing.T) {
	dir, fail, mend := mountExt4(t)
	data := filepath.Join(dir, "data")
	v := serve(t, harness.Options{Data: data, Args: []string{"--kind-anonymous", "full"}})
	kind := connect(t, v)
	f := &filler{kind: kind, bytes: 1000, there: map[string]struct{}{}}
	ctx, cancel := context.WithCancel(t.Context())
	var load sync.WaitGroup
	load.Go(func() { f.run(ctx, 8) })
	eventually(t, "writes succeed", func() bool { return f.acked.Load() > 100 })
	fail()
	eventually(t, "writes are refused", func() bool { return f.refused.Load() > 50 || v.Ended() })
	cancel()
	load.Wait()
	if v.Ended() {
		t.Fatalf("the process ended:\n%s", tail(v.Log()))
	}
	eventually(t, "the refusal says why", func() bool {
		_, err := kind.Put(t.Context(), &kindpb.PutRequest{Key: "after", Value: []byte("x")})
		return status.Code(err) == codes.Unavailable && strings.Contains(err.Error(), "read-only")
	})
	if missing := f.gone(t, kind); len(missing) > 0 {
		t.Errorf("%d acknowledged records cannot be read", len(missing))
	}
	tells(t, v, "cannot write its files")
	v.Kill()
	if err := v.Restart(t.Context()); err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("a start on a read-only disk: %v; want an error that says so", err)
	}
	mend()
	if err := v.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if missing := f.gone(t, connect(t, v)); len(missing) > 0 {
		t.Errorf("%d of %d acknowledged records are lost", len(missing), f.acked.Load())
	}
}

// mountExt4 mounts a file system in a file, and returns what makes the kernel find an error in it, upon which it becomes read-only,
// and what mends that.
//
// The file system is frozen while it fails: ext4 answers an fdatasync well whose transaction is aborted under it (a bare loop of
// writes and fdatasyncs lost its last one in 14 of 150 such failures, frozen in none of 150), and no store can know of that.
func mountExt4(t *testing.T) (dir string, fail, mend func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a file system needs root")
	}
	image := filepath.Join(t.TempDir(), "disk")
	dir = t.TempDir()
	run := func(command ...string) (string, error) {
		out, err := exec.CommandContext(context.Background(), command[0], command[1:]...).CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	mount := []string{"mount", "-o", "loop,errors=remount-ro", image, dir}
	for _, command := range [][]string{{"truncate", "-s", "512M", image}, {"mkfs.ext4", "-q", "-F", image}, mount} {
		if out, err := run(command...); err != nil {
			t.Skipf("no file system in a file here: %v: %v: %s", command, err, out)
		}
	}
	t.Cleanup(func() { _, _ = run("umount", dir) })
	device, err := run("findmnt", "-n", "-o", "SOURCE", dir)
	trigger := filepath.Join("/sys/fs/ext4", filepath.Base(device), "trigger_fs_error")
	if _, missing := os.Stat(trigger); err != nil || missing != nil {
		t.Skipf("this kernel does not make file systems fail: %v, %v", err, missing)
	}
	fail = func() {
		if out, err := run("fsfreeze", "--freeze", dir); err != nil {
			t.Fatalf("freeze: %v: %s", err, out)
		}
		failed := os.WriteFile(trigger, []byte("proof"), 0o200)
		if out, err := run("fsfreeze", "--unfreeze", dir); err != nil || failed != nil {
			t.Fatalf("make the file system fail: %v; unfreeze: %v: %s", failed, err, out)
		}
	}
	mend = func() {
		if out, err := run("umount", dir); err != nil {
			t.Fatalf("unmount: %v: %s", err, out)
		}
		_, _ = run("e2fsck", "-f", "-y", image) // its exit code tells what it mended
		if out, err := run(mount...); err != nil {
			t.Fatalf("mount: %v: %s", err, out)
		}
	}
	return dir, fail, mend
}
