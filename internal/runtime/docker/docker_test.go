package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/moby/moby/client"

	"vortex"
	"vortex/internal/runtime"
	"vortex/internal/runtime/runtimetest"
)

const patience = 60 * time.Second

// testImage is unique to this process, so that a load by another is not mistaken for ours.
var (
	testImage = fmt.Sprintf("vortex.test/probe-%d:1", os.Getpid())
	probe     = sync.OnceValues(buildImage)
)

func TestMain(m *testing.M) {
	code := m.Run()
	if engine, err := client.New(client.WithHost(defaultHost)); err == nil {
		engine.ImageRemove(context.Background(), testImage, client.ImageRemoveOptions{Force: true})
		engine.Close()
	}
	os.Exit(code)
}

// buildImage makes the suite's image.
func buildImage() (v1.Image, error) {
	dir, err := os.MkdirTemp("", "probe")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path, err := runtimetest.BuildProbe(dir)
	if err != nil {
		return nil, err
	}
	program, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for _, f := range []struct {
		name    string
		mode    int64
		content []byte
	}{
		{"probe", 0o755, program},
		{"etc/passwd", 0o644, []byte("root:x:0:0::/:/\napp:x:1000:1000::/:/\n")},
		{"etc/group", 0o644, []byte("root:x:0:\napp:x:1000:\nextra:x:3000:app\n")},
		{"tmp/", 0o1777, nil},
	} {
		kind := byte(tar.TypeReg)
		if strings.HasSuffix(f.name, "/") {
			kind = tar.TypeDir
		}
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.content)), Typeflag: kind}); err != nil {
			return nil, err
		}
		w.Write(f.content)
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil })
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		return nil, err
	}
	return mutate.Config(img, v1.Config{Cmd: []string{"/probe", "sleep"}, Labels: map[string]string{"of": "the image"}})
}

// store exports the suite's image and counts how often.
type store struct {
	mu      sync.Mutex
	exports int
	as      string // the name in the archive; "" is the one asked for
}

func (s *store) Export(_ context.Context, ref string, w io.Writer) error {
	if ref != testImage {
		return vortex.Errorf(vortex.NotFound, "no image %s", ref)
	}
	s.mu.Lock()
	s.exports++
	s.mu.Unlock()
	img, err := probe()
	if err != nil {
		return err
	}
	if s.as != "" {
		ref = s.as
	}
	tag, err := name.NewTag(ref)
	if err != nil {
		return err
	}
	return tarball.Write(tag, img, w)
}

// open returns a driver whose instances no other test sees.
func open(t *testing.T, cfg Config) *Driver {
	t.Helper()
	if cfg.Node == "" {
		cfg.Node = fmt.Sprintf("test-%d-%s", os.Getpid(), filepath.Base(t.TempDir()))
	}
	if cfg.Images == nil {
		cfg.Images = &store{}
	}
	cfg.Log = slog.New(slog.DiscardHandler)
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func needEngine(t *testing.T) {
	t.Helper()
	d, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.Available(t.Context()); err != nil {
		t.Skipf("needs a Docker Engine: %v", err)
	}
}

func TestConformance(t *testing.T) {
	needEngine(t)
	engine, err := client.New(client.WithHost(defaultHost))
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	lacks := map[runtimetest.Feature]string{}
	if d := open(t, Config{}); d.Available(t.Context()) == nil && !d.takesConsoleSize() {
		lacks[runtimetest.TTY] = "this engine's API before 1.42 sets a terminal's first size only after the command started"
	}
	node := func(dir string) string { return fmt.Sprintf("suite-%d-%x", os.Getpid(), dir) }
	runtimetest.Run(t, runtimetest.Harness{
		Open: func(t *testing.T, dir string) runtime.Driver {
			t.Helper()
			return open(t, Config{Node: node(dir), LogMaxBytes: 1 << 20})
		},
		Image: testImage, Probe: "/probe", Lacks: lacks,
		Leaks: func(t *testing.T) []string {
			t.Helper()
			left, err := engine.ContainerList(context.Background(), client.ContainerListOptions{
				All: true, Filters: client.Filters{}.Add("label", "vortex.client_id=suite"),
			})
			if err != nil {
				t.Fatal(err)
			}
			var out []string
			for _, c := range left.Items {
				if strings.HasPrefix(c.Labels[labelNode], fmt.Sprintf("suite-%d-", os.Getpid())) {
					out = append(out, c.Names[0])
				}
			}
			return out
		},
	})
}

func TestUnreachableEngine(t *testing.T) {
	d := open(t, Config{Host: "unix://" + filepath.Join(t.TempDir(), "none.sock")})
	ctx := t.Context()
	_, startErr := d.Start(ctx, runtime.InstanceSpec{ID: "a", Image: "b"})
	_, listErr := d.List(ctx)
	for what, err := range map[string]error{
		"Available": d.Available(ctx), "Start": startErr, "List": listErr, "Stop": d.Stop(ctx, "a", 0), "Remove": d.Remove(ctx, "a"),
	} {
		if !vortex.IsKind(err, vortex.Unavailable) {
			t.Errorf("%s = %v; want Unavailable", what, err)
		}
	}
	if _, err := New(Config{Host: "carrier pigeon"}); !vortex.IsKind(err, vortex.Invalid) {
		t.Errorf("New with a senseless host = %v; want Invalid", err)
	}
}

// Two nodes on one engine do not see each other's instances.
func TestNodesShareAnEngine(t *testing.T) {
	needEngine(t)
	one, two := open(t, Config{Node: t.Name() + "1"}), open(t, Config{Node: t.Name() + "2"})
	id := fmt.Sprintf("shared-%d", os.Getpid())
	start(t, one, runtime.InstanceSpec{ID: id, Image: testImage})
	if list, err := two.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("List of the other node = %+v, %v", list, err)
	}
	if err := two.Stop(t.Context(), id, 0); !vortex.IsKind(err, vortex.NotFound) {
		t.Errorf("Stop by the other node = %v; want NotFound", err)
	}
	if err := two.Remove(t.Context(), id); err != nil {
		t.Errorf("Remove by the other node = %v; want no error, as of an unknown id", err)
	}
	if list, err := one.List(t.Context()); err != nil || len(list) != 1 || list[0].State != runtime.Running {
		t.Errorf("List of its own node = %+v, %v", list, err)
	}
}

// start starts an instance that is removed with the test.
func start(t *testing.T, d *Driver, spec runtime.InstanceSpec) runtime.Status {
	t.Helper()
	t.Cleanup(func() { d.Remove(context.Background(), spec.ID) })
	s, err := d.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestImagesAreBroughtOnce(t *testing.T) {
	needEngine(t)
	images := &store{as: testImage + "-other"}
	d := open(t, Config{Images: images})
	d.engine.ImageRemove(t.Context(), testImage, client.ImageRemoveOptions{Force: true})
	t.Cleanup(func() {
		d.engine.ImageRemove(context.Background(), images.as, client.ImageRemoveOptions{Force: true})
	})
	var wg sync.WaitGroup
	for k := range 4 {
		wg.Go(func() {
			start(t, d, runtime.InstanceSpec{ID: fmt.Sprintf("img-%d-%d", os.Getpid(), k), Image: testImage})
		})
	}
	wg.Wait()
	if images.exports != 1 {
		t.Errorf("image exported %d times; want once", images.exports)
	}
}

func TestStartRefusals(t *testing.T) {
	needEngine(t)
	ln, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	taken := uint16(ln.Addr().(*net.TCPAddr).Port)
	d := open(t, Config{})
	tests := []struct {
		name string
		spec runtime.InstanceSpec
		kind vortex.ErrorKind
		says string
	}{
		{"no image", runtime.InstanceSpec{}, vortex.Invalid, "image"},
		{"senseless image", runtime.InstanceSpec{Image: "UPPER//CASE"}, vortex.Invalid, "UPPER//CASE"},
		{"registry that does not answer", runtime.InstanceSpec{Image: "127.0.0.1:1/none:1"}, vortex.Unavailable, "registry"},
		{"missing mount source", runtime.InstanceSpec{Image: testImage, Mounts: []runtime.Mount{{Source: "/no/such/dir", Target: "/x"}}}, vortex.Invalid, "/no/such/dir"},
		{"host port in use", runtime.InstanceSpec{Image: testImage, Ports: []runtime.PortMapping{{HostPort: taken, ContainerPort: 80}}}, vortex.Exists, "host port"},
		{"own address", runtime.InstanceSpec{Image: testImage, AddressEnv: []string{"ME"}}, vortex.Invalid, "ME"},
		{"memory too small", runtime.InstanceSpec{Image: testImage, MemoryBytes: 1 << 20}, vortex.Invalid, "emory"},
		{"no variable", runtime.InstanceSpec{Image: testImage, Env: []string{"X"}}, vortex.Invalid, "NAME=value"},
	}
	for k, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.spec.ID = fmt.Sprintf("refused-%d-%d", os.Getpid(), k)
			_, err := d.Start(t.Context(), tt.spec)
			if !vortex.IsKind(err, tt.kind) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("Start = %v (%v); want %v saying %q", err, vortex.KindOf(err), tt.kind, tt.says)
			}
		})
	}
	if list, err := d.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("refused starts left %+v, %v", list, err)
	}
}

// A terminal gets its size on engines of any age.
func TestTerminalSize(t *testing.T) {
	needEngine(t)
	d := open(t, Config{})
	id := fmt.Sprintf("tty-%d", os.Getpid())
	start(t, d, runtime.InstanceSpec{ID: id, Image: testImage})
	resize := make(chan runtime.WindowSize, 2)
	resize <- runtime.WindowSize{Rows: 31, Cols: 97}
	var out strings.Builder
	seen := writerFunc(func(b []byte) {
		before := strings.Contains(out.String(), "tty 31 97\r\n")
		if out.Write(b); !before && strings.Contains(out.String(), "tty 31 97\r\n") {
			resize <- runtime.WindowSize{Rows: 32, Cols: 98} // the program ends when its terminal changes
		}
	})
	code, err := d.Exec(t.Context(), id, runtime.ExecSpec{Command: []string{"/probe", "tty", "resize"}, TTY: true, Stdout: seen, Resize: resize})
	if err != nil || code != 0 || !strings.Contains(out.String(), "tty 31 97\r\n") {
		t.Errorf("code %d, %v, printed %q; want the size 31 97", code, err, out.String())
	}
}

type writerFunc func([]byte)

func (w writerFunc) Write(b []byte) (int, error) {
	w(b)
	return len(b), nil
}

func TestPublishedPort(t *testing.T) {
	needEngine(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := uint16(ln.Addr().(*net.TCPAddr).Port)
	ln.Close()
	d := open(t, Config{})
	start(t, d, runtime.InstanceSpec{
		ID: fmt.Sprintf("published-%d", os.Getpid()), Image: testImage, Command: []string{"/probe"}, Args: []string{"serve"},
		Ports: []runtime.PortMapping{{HostPort: port, ContainerPort: 8080}},
	})
	eventually(t, "published port to answer", func() bool {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			return false
		}
		defer c.Close()
		fmt.Fprintf(c, "GET / HTTP/1.0\r\n\r\n")
		b, _ := io.ReadAll(c)
		return bytes.Contains(b, []byte("hello"))
	})
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %v in vain for %s", patience, what)
		}
	}
}
