package image

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/random"

	"vortex"
)

// buildHello builds the test program into an image.
func buildHello(t *testing.T, s *Store, name string) Image {
	t.Helper()
	img, err := s.BuildPath(t.Context(), program, name, nil)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func count(t *testing.T, dir string) int {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestTagListRemove(t *testing.T) {
	s := openStore(t)
	built := buildHello(t, s, "hello:1")
	if err := s.Tag("hello:1", "other:2"); err != nil {
		t.Fatal(err)
	}
	images, err := s.List()
	if err != nil || len(images) != 2 || images[0].Name != "hello:1" || images[1].Name != "other:2" || images[1].Digest != built.Digest {
		t.Fatalf("List = %+v, %v", images, err)
	}
	wantKind(t, s.Tag("none:1", "x:1"), vortex.NotFound)
	wantKind(t, s.Tag("hello:1", "x@"+built.Digest), vortex.Invalid)
	if err := s.Remove("hello:1", false); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Inspect("other:2"); err != nil {
		t.Errorf("the other name is gone too: %v", err)
	}
	if _, err := s.Inspect("x@" + built.Digest); err != nil {
		t.Errorf("not found by digest: %v", err)
	}
	if err := s.Remove("other:2", false); err != nil {
		t.Fatal(err)
	}
	if blobs, layers := count(t, s.path("blobs/sha256")), count(t, s.path("layers")); blobs+layers != 0 {
		t.Errorf("%d blobs and %d layers stay", blobs, layers)
	}
	wantKind(t, s.Remove("other:2", false), vortex.NotFound)
}

func TestRemoveInUse(t *testing.T) {
	needRoot(t)
	s := openStore(t)
	buildHello(t, s, "hello:1")
	root, _ := mount(t, s, "hello:1", "user-1")
	err := s.Remove("hello:1", false)
	wantKind(t, err, vortex.Precondition)
	if err == nil || !strings.Contains(err.Error(), "user-1") {
		t.Errorf("error %v does not name the instance", err)
	}
	if err := s.Remove("hello:1", true); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(root + "/app"); err != nil {
		t.Errorf("the instance lost its files: %v", err)
	}
	if _, err := s.GC(nil); err != nil || count(t, s.path("layers")) == 0 {
		t.Errorf("collected layers in use, %v", err)
	}
	if err := s.Unmount(t.Context(), "user-1"); err != nil {
		t.Fatal(err)
	}
	if freed, err := s.GC(nil); err != nil || freed.Layers != 2 || count(t, s.path("layers")) != 0 {
		t.Errorf("GC = %+v, %v", freed, err)
	}
}

func TestGC(t *testing.T) {
	s := openStore(t)
	host := startRegistry(t)
	shared := []file{regular("shared", "x")}
	for _, name := range []string{"keep", "drop"} {
		publish(t, host+"/"+name+":1", imageOf(t, shared, []file{regular(name, "x")}))
		if _, err := s.Pull(t.Context(), host+"/"+name+":1", PullOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	freed, err := s.GC(func(img Image) bool { return strings.Contains(img.Name, "/keep:") })
	if err != nil || freed.Names != 1 || freed.Blobs != 3 || freed.Bytes == 0 {
		t.Errorf("GC = %+v, %v", freed, err)
	}
	dir := filepath.Join(t.TempDir(), "root")
	if _, err := s.Extract(t.Context(), host+"/keep:1", dir); err != nil {
		t.Error(err)
	}
	wantContent(t, dir+"/shared", "x")
	if freed, err = s.GC(nil); err != nil || freed != (Freed{}) {
		t.Errorf("second GC = %+v, %v", freed, err)
	}
}

// TestManyAtOnce mounts, unmounts, tags, lists and collects from many sides.
func TestManyAtOnce(t *testing.T) {
	needRoot(t)
	s := openStore(t)
	buildHello(t, s, "hello:1")
	base := t.TempDir()
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			id := fmt.Sprintf("many-%d", i)
			target := filepath.Join(base, id)
			for range 3 {
				if _, err := s.Mount(t.Context(), "hello:1", id, target); err != nil {
					t.Error(err)
					return
				}
				if _, err := os.Stat(target + "/app"); err != nil {
					t.Error(err)
				}
				if _, err := s.GC(nil); err != nil {
					t.Error(err)
				}
				if err := s.Tag("hello:1", "tag-"+id+":1"); err != nil {
					t.Error(err)
				}
				if err := s.Unmount(t.Context(), id); err != nil {
					t.Error(err)
				}
				if err := s.Remove("tag-"+id+":1", false); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if images, err := s.List(); err != nil || len(images) != 1 {
		t.Errorf("List = %v, %v", images, err)
	}
}

// TestLeftovers opens a store that a killed process left in the middle of everything.
func TestLeftovers(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	s := openStoreIn(t, dir)
	buildHello(t, s, "hello:1")
	alive, _ := mount(t, s, "hello:1", "alive-1")
	halfTarget := filepath.Join(t.TempDir(), "half")
	img, _ := s.load(s.refs["index.docker.io/library/hello:1"].Digest)
	half := mountRecord{Instance: "half-1", Image: "hello:1", Digest: img.digest, Layers: img.config.RootFS.DiffIDs, Target: halfTarget}
	if err := s.addMount(half); err != nil { // written down, not mounted yet
		t.Fatal(err)
	}
	for _, path := range []string{"tmp/layer-1/root/etc", "instances/half-1/upper", "instances/stray/upper"} {
		if err := os.MkdirAll(s.path(path), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for path, content := range map[string]string{"tmp/blob-1": "part", "refs/ff.json": "{", "mounts/bad.json": "{"} {
		if err := os.WriteFile(s.path(path), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.lock.Close() // what the kernel does for a killed process
	again := openStoreIn(t, dir)
	if got := again.Mounts(); len(got) != 1 || got[0].Instance != "alive-1" || got[0].Target != alive {
		t.Errorf("Mounts = %+v", got)
	}
	for _, gone := range []string{"tmp/layer-1", "tmp/blob-1", "instances/half-1", "instances/stray", "mounts/half-1.json", "mounts/bad.json"} {
		wantAbsent(t, again.path(gone))
	}
	if _, err := os.Stat(alive + "/app"); err != nil {
		t.Errorf("a running instance lost its root: %v", err)
	}
	wantKind(t, again.Remove("hello:1", false), vortex.Precondition)
	if err := again.Unmount(t.Context(), "alive-1"); err != nil {
		t.Fatal(err)
	}
	wantAbsent(t, alive+"/app")
}

// TestKilled kills a process in the middle of pulling, building and mounting, again and again. The store works each time.
func TestKilled(t *testing.T) {
	needRoot(t)
	if dir := os.Getenv("IMAGE_TEST_VICTIM"); dir != "" {
		victim(t, dir)
		return
	}
	dir := t.TempDir()
	host := startRegistry(t)
	for i := range 3 {
		img, err := random.Image(1<<20, 3)
		if err != nil {
			t.Fatal(err)
		}
		publish(t, fmt.Sprintf("%s/pulled:%d", host, i), img)
	}
	for round := range 8 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$")
		cmd.Env = append(os.Environ(), "IMAGE_TEST_VICTIM="+dir, "IMAGE_TEST_PROGRAM="+program, "IMAGE_TEST_REGISTRY="+host)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		steps := make([]byte, 1+round*3) // die after so many steps
		for n := 0; n < len(steps); {
			got, err := out.Read(steps[n:])
			if err != nil {
				break
			}
			n += got
		}
		cmd.Process.Kill()
		cmd.Wait()
		s := openStoreIn(t, dir)
		for _, m := range s.Mounts() {
			if err := s.Unmount(t.Context(), m.Instance); err != nil {
				t.Fatal(err)
			}
		}
		buildHello(t, s, "after:1")
		mount(t, s, "after:1", "after-1")
		if err := s.Unmount(t.Context(), "after-1"); err != nil {
			t.Fatal(err)
		}
		images, err := s.List()
		if err != nil {
			t.Fatal(err)
		}
		for _, img := range images {
			if _, err := s.Extract(t.Context(), img.Name, filepath.Join(t.TempDir(), "root")); err != nil {
				t.Errorf("%s: %v", img.Name, err)
			}
		}
		if n := count(t, s.path("tmp")); n != 0 {
			t.Errorf("%d leftovers", n)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// victim works without end and writes a byte per step.
func victim(t *testing.T, dir string) {
	t.Helper()
	s, err := Open(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; ; i++ {
		id := fmt.Sprintf("v%d", i)
		pulled := fmt.Sprintf("%s/pulled:%d", os.Getenv("IMAGE_TEST_REGISTRY"), i%3)
		for _, step := range []func() error{
			func() error { _, err := s.Pull(t.Context(), pulled, PullOptions{}); return err },
			func() error { _, err := s.BuildPath(t.Context(), program, id, nil); return err },
			func() error { _, err := s.Mount(t.Context(), id, id, filepath.Join(dir, "roots", id)); return err },
			func() error { return s.Tag(id, id+":copy") },
			func() error { return s.Remove(id+":copy", false) },
			func() error { return s.Unmount(t.Context(), id) },
			func() error { return s.Remove(id, false) },
			func() error { return s.Remove(pulled, false) },
		} {
			if err := step(); err != nil {
				t.Fatal(err)
			}
			os.Stdout.Write([]byte{'.'})
		}
	}
}

func TestMountBadInput(t *testing.T) {
	needRoot(t)
	s := openStore(t)
	buildHello(t, s, "hello:1")
	for _, id := range []string{"", "../x", "UPPER", "a/b", strings.Repeat("x", 64), "-x"} {
		_, err := s.Mount(t.Context(), "hello:1", id, t.TempDir())
		wantKind(t, err, vortex.Invalid)
	}
	_, err := s.Mount(t.Context(), "hello:1", "ok", "relative")
	wantKind(t, err, vortex.Invalid)
	file := filepath.Join(t.TempDir(), "file")
	os.WriteFile(file, nil, 0o600)
	if _, err = s.Mount(t.Context(), "hello:1", "ok", file+"/below"); err == nil {
		t.Error("mounted below a file")
	}
	if n := len(s.Mounts()); n != 0 || count(t, s.path("instances")) != 0 || count(t, s.path("mounts")) != 0 {
		t.Errorf("%d mounts left behind", n)
	}
	if err := s.Unmount(t.Context(), "never-was"); err != nil {
		t.Error(err)
	}
}

// TestUnmountBusy takes a root away while a file in it is open.
func TestUnmountBusy(t *testing.T) {
	needRoot(t)
	s := openStore(t)
	buildHello(t, s, "hello:1")
	root, _ := mount(t, s, "hello:1", "busy-1")
	f, err := os.Open(root + "/app")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := s.Unmount(t.Context(), "busy-1"); err != nil {
		t.Fatal(err)
	}
	if len(s.Mounts()) != 0 {
		t.Error("still mounted")
	}
	wantAbsent(t, root+"/app")
}

// TestWithoutRoot uses a store as an ordinary user: everything but mounting works.
func TestWithoutRoot(t *testing.T) {
	if os.Geteuid() == 0 {
		asNobody(t, "TestWithoutRoot")
		return
	}
	s := openStore(t)
	buildHello(t, s, "hello:1")
	_, err := s.Mount(t.Context(), "hello:1", "x", filepath.Join(t.TempDir(), "root"))
	wantKind(t, err, vortex.Precondition)
	dir := filepath.Join(t.TempDir(), "root")
	cfg, err := s.Extract(t.Context(), "hello:1", dir)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(dir + cfg.Entrypoint[0]).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// asNobody runs one test of this package again as an ordinary user.
func asNobody(t *testing.T, name string) {
	t.Helper()
	dir := t.TempDir()
	for p := dir; p != os.TempDir() && p != "/"; p = filepath.Dir(p) {
		os.Chmod(p, 0o755)
	}
	home := filepath.Join(dir, "home")
	os.Mkdir(home, 0o755)
	os.Chown(home, 65534, 65534)
	binary := filepath.Join(dir, "image.test")
	content, err := os.ReadFile(os.Args[0])
	if err == nil {
		err = os.WriteFile(binary, content, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "-test.run=^"+name+"$", "-test.v")
	cmd.Dir = home
	cmd.Env = append(os.Environ(), "TMPDIR="+home, "HOME="+home, "GOCACHE="+home, "IMAGE_TEST_PROGRAM="+program)
	os.Chmod(filepath.Dir(program), 0o755)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Contains(string(out), "no tests to run") {
		t.Errorf("as nobody: %v\n%s", err, out)
	}
}
