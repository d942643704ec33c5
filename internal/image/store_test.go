package image

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sys/unix"

	"vortex"
)

// program is the path of a static executable, built once.
var program string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if program = os.Getenv("IMAGE_TEST_PROGRAM"); program != "" {
		return m.Run() // a test runs this binary again as another user
	}
	dir, err := os.MkdirTemp("", "image-test-")
	if err != nil {
		log.Print(err)
		return 1
	}
	defer os.RemoveAll(dir)
	source := filepath.Join(dir, "main.go")
	code := "package main\nimport \"os\"\nfunc main() { d, _ := os.ReadFile(\"/etc/passwd\"); os.Stdout.Write(d); os.Stdout.WriteString(\"hello from the image\\n\") }\n"
	if err := os.WriteFile(source, []byte(code), 0o600); err != nil {
		log.Print(err)
		return 1
	}
	program = filepath.Join(dir, "program")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, source)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		log.Printf("build test program: %v: %s", err, out)
		return 1
	}
	return m.Run()
}

// openStore opens a store in a new directory.
func openStore(t *testing.T, change ...func(*Config)) *Store {
	t.Helper()
	return openStoreIn(t, t.TempDir(), change...)
}

func openStoreIn(t *testing.T, dir string, change ...func(*Config)) *Store {
	t.Helper()
	cfg := Config{Dir: dir}
	for _, c := range change {
		c(&cfg)
	}
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, m := range s.Mounts() {
			if err := s.Unmount(context.Background(), m.Instance); err != nil {
				t.Errorf("unmount: %v", err)
			}
		}
		s.Close()
	})
	return s
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting and owners need root")
	}
}

// startRegistry returns the address of an empty registry.
func startRegistry(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

// file is one entry of a layer in tests.
type file struct {
	tar.Header
	body string
}

func regular(name, body string) file {
	return file{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, body}
}

func directory(name string) file {
	return file{Header: tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}}
}

func link(kind byte, name, target string) file {
	return file{Header: tar.Header{Typeflag: kind, Name: name, Linkname: target, Mode: 0o777}}
}

// pack makes a tar stream.
func pack(tb testing.TB, files ...file) []byte {
	tb.Helper()
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	for _, f := range files {
		h := f.Header
		h.Size = int64(len(f.body))
		if h.PAXRecords != nil {
			h.Format = tar.FormatPAX
		}
		if err := w.WriteHeader(&h); err != nil {
			tb.Fatal(err)
		}
		if _, err := w.Write([]byte(f.body)); err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return buffer.Bytes()
}

func layerOf(tb testing.TB, packed []byte) v1.Layer {
	tb.Helper()
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(packed)), nil })
	if err != nil {
		tb.Fatal(err)
	}
	return layer
}

// imageOf makes an image of layers, each a list of files.
func imageOf(tb testing.TB, layers ...[]file) v1.Image {
	tb.Helper()
	img := empty.Image
	for _, files := range layers {
		var err error
		if img, err = mutate.AppendLayers(img, layerOf(tb, pack(tb, files...))); err != nil {
			tb.Fatal(err)
		}
	}
	img, err := mutate.Config(img, v1.Config{
		Entrypoint: []string{"/bin/app"}, Cmd: []string{"serve"}, Env: []string{"A=b"}, WorkingDir: "/srv", User: "1:2",
		ExposedPorts: map[string]struct{}{"8080/tcp": {}, "53/udp": {}},
	})
	if err != nil {
		tb.Fatal(err)
	}
	return img
}

// publish pushes an image to a registry.
func publish(tb testing.TB, ref string, img v1.Image) {
	tb.Helper()
	tag, err := name.NewTag(ref)
	if err != nil {
		tb.Fatal(err)
	}
	if err := remote.Write(tag, img); err != nil {
		tb.Fatal(err)
	}
}

// mount mounts an image and returns its root.
func mount(t *testing.T, s *Store, ref, instance string) (string, ImageConfig) {
	t.Helper()
	target := filepath.Join(t.TempDir(), "root")
	cfg, err := s.Mount(t.Context(), ref, instance, target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(target, unix.MNT_DETACH) })
	return target, cfg
}

func wantKind(t *testing.T, err error, kind vortex.ErrorKind) {
	t.Helper()
	if !vortex.IsKind(err, kind) {
		t.Errorf("error = %v (kind %v), want kind %v", err, vortex.KindOf(err), kind)
	}
}

func wantContent(t *testing.T, path, want string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != want {
		t.Errorf("%s = %q, %v; want %q", path, got, err, want)
	}
}

func wantAbsent(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("%s exists: %v", path, err)
	}
}

func TestOpenIsExclusive(t *testing.T) {
	s := openStore(t)
	_, err := Open(Config{Dir: s.cfg.Dir})
	wantKind(t, err, vortex.Precondition)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again := openStoreIn(t, s.cfg.Dir)
	if images, err := again.List(); err != nil || len(images) != 0 {
		t.Errorf("List = %v, %v", images, err)
	}
	_, err = Open(Config{Dir: "relative"})
	wantKind(t, err, vortex.Invalid)
}

func TestPullMountUnmount(t *testing.T) {
	needRoot(t)
	ref := startRegistry(t) + "/team/app:v1"
	img := imageOf(t, []file{directory("etc"), regular("etc/hello", "one")}, []file{regular("etc/world", "two")})
	publish(t, ref, img)
	s := openStore(t)
	var phases []string
	got, err := s.Pull(t.Context(), ref, PullOptions{Progress: func(p Progress) { phases = append(phases, p.Phase) }})
	if err != nil {
		t.Fatal(err)
	}
	digest, _ := img.Digest()
	if got.Digest != digest.String() || got.Name != ref {
		t.Errorf("pulled %+v, want %s %s", got, ref, digest)
	}
	if len(phases) < 3 || phases[0] != "resolving" || phases[len(phases)-1] != "done" {
		t.Errorf("progress = %v", phases)
	}
	root, cfg := mount(t, s, ref, "web-1")
	wantContent(t, root+"/etc/hello", "one")
	wantContent(t, root+"/etc/world", "two")
	if cfg.Entrypoint[0] != "/bin/app" || cfg.Cmd[0] != "serve" || cfg.User != "1:2" || cfg.WorkingDir != "/srv" ||
		len(cfg.Ports) != 2 || !cfg.Ports[0].UDP || cfg.Ports[1].Number != 8080 || cfg.Digest != digest.String() {
		t.Errorf("config = %+v", cfg)
	}
	if err := os.WriteFile(root+"/etc/hello", []byte("changed"), 0o600); err != nil {
		t.Fatal(err)
	}
	other, _ := mount(t, s, ref, "web-2")
	wantContent(t, other+"/etc/hello", "one")
	_, err = s.Mount(t.Context(), ref, "web-1", t.TempDir())
	wantKind(t, err, vortex.Exists)
	for range 2 {
		if err := s.Unmount(t.Context(), "web-1"); err != nil {
			t.Fatal(err)
		}
	}
	wantAbsent(t, root+"/etc")
	wantAbsent(t, s.path("instances", "web-1"))
}

func TestWarmEnsureIsFast(t *testing.T) {
	registry := httptest.NewServer(ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0))))
	ref := strings.TrimPrefix(registry.URL, "http://") + "/app:v1"
	publish(t, ref, imageOf(t, []file{regular("a", "b")}))
	s := openStore(t)
	if _, err := s.Ensure(t.Context(), ref, IfNotPresent); err != nil {
		t.Fatal(err)
	}
	registry.Close()
	best := time.Hour
	for range 50 {
		start := time.Now()
		if _, err := s.Ensure(t.Context(), ref, IfNotPresent); err != nil {
			t.Fatal(err)
		}
		best = min(best, time.Since(start))
	}
	t.Logf("warm Ensure: %v", best)
	if best > time.Millisecond {
		t.Errorf("warm Ensure took at least %v", best)
	}
	_, err := s.Ensure(t.Context(), ref, Always)
	wantKind(t, err, vortex.Unavailable)
}

func TestBuildRunsInItsRoot(t *testing.T) {
	needRoot(t)
	s := openStore(t)
	var digests []string
	for range 2 {
		f, err := os.Open(program)
		if err != nil {
			t.Fatal(err)
		}
		img, err := s.Build(t.Context(), BuildContext{Source: f}, "hello")
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, img.Digest)
	}
	if digests[0] != digests[1] {
		t.Errorf("two builds differ: %v", digests)
	}
	root, cfg := mount(t, s, "hello", "hello-1")
	cmd := exec.Command(cfg.Entrypoint[0])
	cmd.SysProcAttr = &unix.SysProcAttr{Chroot: root}
	cmd.Dir = cfg.WorkingDir
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "hello from the image") || !strings.Contains(string(out), "nobody:x:65534") {
		t.Errorf("ran: %v: %s", err, out)
	}
	info, err := os.Stat(root + "/tmp")
	if err != nil || info.Mode()&os.ModeSticky == 0 || info.Mode().Perm() != 0o777 {
		t.Errorf("/tmp: %v, %v", info, err)
	}
}

func TestExportImportRoundTrip(t *testing.T) {
	ref := startRegistry(t) + "/app:v1"
	publish(t, ref, imageOf(t, []file{regular("etc/hello", "one")}, []file{regular("etc/world", "two")}))
	s := openStore(t)
	if _, err := s.Pull(t.Context(), ref, PullOptions{}); err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := s.Export(t.Context(), ref, &archive); err != nil {
		t.Fatal(err)
	}
	for _, as := range []string{"", "copy:2"} {
		to := openStore(t)
		images, err := to.Import(t.Context(), bytes.NewReader(archive.Bytes()), as)
		if err != nil || len(images) != 1 {
			t.Fatal(images, err)
		}
		if want := ref; as == "" && images[0].Name != want || as != "" && images[0].Name != as {
			t.Errorf("imported as %q", images[0].Name)
		}
		dir := filepath.Join(t.TempDir(), "root")
		cfg, err := to.Extract(t.Context(), images[0].Name, dir)
		if err != nil || cfg.Cmd[0] != "serve" {
			t.Fatal(cfg, err)
		}
		wantContent(t, dir+"/etc/hello", "one")
		wantContent(t, dir+"/etc/world", "two")
	}
}
