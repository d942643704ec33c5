package process_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vortex"
	"vortex/internal/runtime"
	"vortex/internal/runtime/process"
)

// folder is an image store with one image: the probe as /bin/app, and links that point out of the image.
type folder struct{ extracted int }

func (f *folder) Digest(_ context.Context, ref string) (string, error) {
	if ref != "probe" {
		return "", vortex.Errorf(vortex.NotFound, "no image %s", ref)
	}
	return "sha256:0123", nil
}

func (f *folder) Extract(_ context.Context, _, dir string) (process.ImageConfig, error) {
	f.extracted++
	for _, d := range []string{"bin", "work"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return process.ImageConfig{}, err
		}
	}
	b, err := os.ReadFile(probePath)
	if err != nil {
		return process.ImageConfig{}, err
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/app"), b, 0o755); err != nil {
		return process.ImageConfig{}, err
	}
	for link, to := range map[string]string{"bin/link": "/bin/app", "bin/out": "../../../../../../../bin/sh"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			return process.ImageConfig{}, err
		}
	}
	return process.ImageConfig{
		Entrypoint: []string{"app"}, Cmd: []string{"args", "from", "image"}, Env: []string{"PATH=/bin", "OF=image", "OVER=image"}, WorkingDir: "/work",
	}, nil
}

func openWith(t *testing.T, dir string, images process.Images) *process.Driver {
	t.Helper()
	d, err := process.Open(t.Context(), process.Config{Root: dir, Shim: shimPath, Log: slog.New(slog.DiscardHandler), Images: images})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		list, err := d.List(context.Background())
		if err != nil {
			t.Error(err)
		}
		for _, st := range list {
			if err := d.Remove(context.Background(), st.ID); err != nil {
				t.Error(err)
			}
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// output runs an instance to its end and returns what it wrote.
func output(t *testing.T, d *process.Driver, spec runtime.InstanceSpec) string {
	t.Helper()
	if _, err := d.Start(t.Context(), spec); err != nil {
		t.Fatalf("Start: %v", err)
	}
	lines, err := d.Logs(t.Context(), spec.ID, runtime.LogOptions{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for e, err := range lines {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, e.Line)
	}
	return strings.Join(out, "\n")
}

// TestImage runs the programs of an image as its configuration says, unpacked once for all its instances.
func TestImage(t *testing.T) {
	images := &folder{}
	d := openWith(t, t.TempDir(), images)
	if got := output(t, d, runtime.InstanceSpec{ID: "a", Image: "probe"}); got != "from\nimage" {
		t.Errorf("the image's own command wrote %q", got)
	}
	if got := output(t, d, runtime.InstanceSpec{ID: "b", Image: "probe", Args: []string{"args", "mine"}}); got != "mine" {
		t.Errorf("with arguments of the spec: %q", got)
	}
	env := output(t, d, runtime.InstanceSpec{ID: "c", Image: "probe", Command: []string{"link"}, Args: []string{"env"}, Env: []string{"OVER=spec"}})
	if !strings.Contains(env, "OF=image") || !strings.Contains(env, "OVER=spec") || !strings.Contains(env, "/root/bin:") {
		t.Errorf("environment %q", env)
	}
	if got := output(t, d, runtime.InstanceSpec{ID: "d", Image: "probe", Args: []string{"cwd"}}); !strings.HasSuffix(got, "/root/work") {
		t.Errorf("working directory %q", got)
	}
	if images.extracted != 1 {
		t.Errorf("the image was unpacked %d times", images.extracted)
	}
	for name, spec := range map[string]runtime.InstanceSpec{
		"no such program":         {ID: "x", Image: "probe", Command: []string{"nothing"}},
		"a link out of the image": {ID: "x", Image: "probe", Command: []string{"out"}},
	} {
		if _, err := d.Start(t.Context(), spec); !vortex.IsKind(err, vortex.Invalid) {
			t.Errorf("%s: %v, want Invalid", name, err)
		}
	}
	if _, err := d.Start(t.Context(), runtime.InstanceSpec{ID: "x", Image: "other"}); !vortex.IsKind(err, vortex.NotFound) {
		t.Errorf("unknown image: %v, want NotFound", err)
	}
}

// TestImageHalfUnpacked unpacks again what a killed agent left unfinished.
func TestImageHalfUnpacked(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "roots/sha256-0123/root/bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "roots/sha256-beef/root"), 0o700); err != nil {
		t.Fatal(err)
	}
	d := openWith(t, dir, &folder{})
	if got := output(t, d, runtime.InstanceSpec{ID: "a", Image: "probe"}); got != "from\nimage" {
		t.Errorf("wrote %q", got)
	}
	if _, err := os.Stat(filepath.Join(dir, "roots/sha256-beef")); !os.IsNotExist(err) {
		t.Errorf("the root that no instance uses is still there: %v", err)
	}
}

// TestFirstPort gives out ports from the one that is set, and asks each time.
func TestFirstPort(t *testing.T) {
	first := uint16(23_000)
	d, err := process.Open(t.Context(), process.Config{
		Root: t.TempDir(), Shim: shimPath, Log: slog.New(slog.DiscardHandler), FirstPort: func() uint16 { return first },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for i, from := range []uint16{23_000, 23_000, 24_000} {
		first = from
		id := string(rune('a' + i))
		s, err := d.Start(t.Context(), runtime.InstanceSpec{ID: id, Command: []string{probePath, "sleep"}, Port: 80})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = d.Remove(context.Background(), id) }()
		if s.Port < from || s.Port > from+500 {
			t.Errorf("port %d, want one soon after %d", s.Port, from)
		}
	}
}
