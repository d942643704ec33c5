package image

import (
	"bytes"
	"context"
	"encoding/base64"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"

	"vortex"
)

// wrapRegistry returns the address of a registry behind wrap.
func wrapRegistry(t *testing.T, wrap func(http.Handler) http.Handler) string {
	t.Helper()
	server := httptest.NewServer(wrap(ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

func isLayer(r *http.Request, img v1.Image) bool {
	layers, _ := img.Layers()
	digest, _ := layers[0].Digest()
	return r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/blobs/"+digest.String())
}

func TestPullErrors(t *testing.T) {
	s := openStore(t)
	host := startRegistry(t)
	closed := httptest.NewServer(nil)
	closed.Close()
	refusing := wrapRegistry(t, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/v2/" {
				return
			}
			w.WriteHeader(map[string]int{"forbidden": 403, "limited": 429, "broken": 500}[strings.Split(r.URL.Path, "/")[2]])
		})
	})
	cases := map[string]struct {
		ref  string
		kind vortex.ErrorKind
		hint string
	}{
		"unknown":    {host + "/nobody/nothing:1", vortex.NotFound, "vortex image build"},
		"no answer":  {strings.TrimPrefix(closed.URL, "http://") + "/a:1", vortex.Unavailable, "cannot be reached"},
		"bad name":   {"UPPER CASE", vortex.Invalid, "NAME"},
		"empty name": {"", vortex.Invalid, "nginx"},
		"forbidden":  {refusing + "/forbidden:1", vortex.Denied, "owner"},
		"limited":    {refusing + "/limited:1", vortex.Exhausted, "later"},
		"broken":     {refusing + "/broken:1", vortex.Unavailable, "later"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := s.Ensure(t.Context(), c.ref, IfNotPresent)
			wantKind(t, err, c.kind)
			if err == nil || !strings.Contains(err.Error(), c.hint) {
				t.Errorf("error %v does not say %q", err, c.hint)
			}
		})
	}
	_, err := s.Ensure(t.Context(), host+"/a:1", Never)
	wantKind(t, err, vortex.NotFound)
}

func TestPullWithPassword(t *testing.T) {
	host := wrapRegistry(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if user, password, _ := r.BasicAuth(); user != "ann" || password != "secret" {
				w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	source := openStore(t)
	buildHello(t, source, "hello:1")
	wantKind(t, source.Push(t.Context(), "hello:1", PushOptions{Target: host + "/hello:1"}), vortex.Unauthenticated)
	auth := Auth{Username: "ann", Password: "secret"}
	if err := source.Push(t.Context(), "hello:1", PushOptions{Target: host + "/hello:1", Auth: auth}); err != nil {
		t.Fatal(err)
	}
	s := openStore(t)
	_, err := s.Pull(t.Context(), host+"/hello:1", PullOptions{})
	wantKind(t, err, vortex.Unauthenticated)
	_, err = s.Pull(t.Context(), host+"/hello:1", PullOptions{Auth: Auth{Username: "ann", Password: "wrong"}})
	wantKind(t, err, vortex.Unauthenticated)
	if _, err = s.Pull(t.Context(), host+"/hello:1", PullOptions{Auth: auth}); err != nil {
		t.Error(err)
	}
	config := t.TempDir()
	credentials := base64.StdEncoding.EncodeToString([]byte("ann:secret"))
	os.WriteFile(config+"/config.json", []byte(`{"auths":{"`+host+`":{"auth":"`+credentials+`"}}}`), 0o600)
	t.Setenv("DOCKER_CONFIG", config)
	t.Setenv("HOME", config)
	byDocker := openStore(t)
	if _, err = byDocker.Pull(t.Context(), host+"/hello:1", PullOptions{}); err != nil {
		t.Errorf("with Docker's credentials: %v", err)
	}
	with := openStore(t, func(c *Config) {
		c.Credentials = func(registry string) Auth {
			if registry != host {
				t.Errorf("asked for credentials of %s", registry)
			}
			return auth
		}
	})
	got, err := with.Ensure(t.Context(), host+"/hello:1", IfNotPresent)
	if err != nil {
		t.Fatal(err)
	}
	if pushed, _ := source.Inspect("hello:1"); pushed.Digest != got.Digest {
		t.Errorf("pushed %s, pulled %s", pushed.Digest, got.Digest)
	}
}

// TestPullPlatform pulls by tag and by digest from an image for two platforms.
func TestPullPlatform(t *testing.T) {
	host := startRegistry(t)
	index := v1.ImageIndex(empty.Index)
	images := map[string]v1.Image{}
	for _, arch := range []string{"amd64", "arm64"} {
		img := imageOf(t, []file{regular("arch", arch)})
		cf, _ := img.ConfigFile()
		cf = cf.DeepCopy()
		cf.OS, cf.Architecture = "linux", arch
		img, _ = mutate.ConfigFile(img, cf)
		images[arch] = img
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	tag, _ := name.NewTag(host + "/multi:1")
	if err := remote.WriteIndex(tag, index); err != nil {
		t.Fatal(err)
	}
	want := func(s *Store, ref, arch string) {
		t.Helper()
		dir := filepath.Join(t.TempDir(), "root")
		cfg, err := s.Extract(t.Context(), ref, dir)
		if err != nil {
			t.Fatal(err)
		}
		digest, _ := images[arch].Digest()
		wantContent(t, dir+"/arch", arch)
		if cfg.Digest != digest.String() {
			t.Errorf("%s is %s, want %s", ref, cfg.Digest, digest)
		}
	}
	for _, arch := range []string{"amd64", "arm64"} {
		want(openStore(t, func(c *Config) { c.Platform = "linux/" + arch }), tag.String(), arch)
	}
	want(openStore(t), tag.String(), runtime.GOARCH)
	_, err := openStore(t).Pull(t.Context(), tag.String(), PullOptions{Platform: "linux/s390x"})
	wantKind(t, err, vortex.Invalid)
	if err == nil || !strings.Contains(err.Error(), "linux/amd64, linux/arm64") {
		t.Errorf("error %v does not list the platforms", err)
	}
	indexDigest, _ := index.Digest()
	arm, _ := images["arm64"].Digest()
	s := openStore(t)
	want(s, host+"/multi@"+indexDigest.String(), runtime.GOARCH)
	want(s, host+"/multi@"+arm.String(), "arm64")
	// Whatever name it came by, a digest that is here is found without the registry.
	if _, err := s.Ensure(t.Context(), "elsewhere.invalid/multi@"+arm.String(), IfNotPresent); err != nil {
		t.Error(err)
	}
	if _, err := s.Ensure(t.Context(), "elsewhere.invalid/multi@"+arm.String(), Always); err != nil {
		t.Error(err)
	}
	_, err = s.Pull(t.Context(), host+"/multi@sha256:"+strings.Repeat("0", 64), PullOptions{})
	wantKind(t, err, vortex.NotFound)
}

// TestPullBrokenOff cuts the first downloads in the middle: the pull succeeds all the same.
func TestPullBrokenOff(t *testing.T) {
	img, err := random.Image(1<<20, 1)
	if err != nil {
		t.Fatal(err)
	}
	var cuts atomic.Int32
	host := wrapRegistry(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if isLayer(r, img) && cuts.Add(1) <= 2 {
				w.Header().Set("Content-Length", "1048576")
				w.Write(make([]byte, 1000))
				panic(http.ErrAbortHandler)
			}
			next.ServeHTTP(w, r)
		})
	})
	publish(t, host+"/cut:1", img)
	s := openStore(t)
	if _, err := s.Pull(t.Context(), host+"/cut:1", PullOptions{}); err != nil {
		t.Fatal(err)
	}
	if n := cuts.Load(); n != 3 {
		t.Errorf("downloaded %d times", n)
	}
}

func TestPullCorrupted(t *testing.T) {
	img, err := random.Image(1<<16, 1)
	if err != nil {
		t.Fatal(err)
	}
	var corrupt atomic.Bool
	corrupt.Store(true)
	host := wrapRegistry(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !isLayer(r, img) || !corrupt.Load() {
				next.ServeHTTP(w, r)
				return
			}
			recorder := httptest.NewRecorder()
			next.ServeHTTP(recorder, r)
			body := recorder.Body.Bytes()
			body[len(body)/2] ^= 1
			w.Write(body)
		})
	})
	publish(t, host+"/bad:1", img)
	s := openStore(t)
	_, err = s.Pull(t.Context(), host+"/bad:1", PullOptions{})
	wantKind(t, err, vortex.Unavailable)
	if err == nil || !strings.Contains(err.Error(), "does not match its digest") {
		t.Errorf("error = %v", err)
	}
	if images, _ := s.List(); len(images) != 0 {
		t.Errorf("List = %v", images)
	}
	corrupt.Store(false)
	if _, err := s.Pull(t.Context(), host+"/bad:1", PullOptions{}); err != nil {
		t.Error(err)
	}
}

// TestPullTogether asks for one image from many sides: its layer is downloaded once.
func TestPullTogether(t *testing.T) {
	img, err := random.Image(1<<18, 1)
	if err != nil {
		t.Fatal(err)
	}
	var downloads atomic.Int32
	host := wrapRegistry(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if isLayer(r, img) {
				downloads.Add(1)
			}
			next.ServeHTTP(w, r)
		})
	})
	publish(t, host+"/one:1", img)
	publish(t, host+"/two:1", img)
	s := openStore(t)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			if _, err := s.Ensure(t.Context(), host+[]string{"/one:1", "/two:1"}[i%2], IfNotPresent); err != nil {
				t.Error(err)
			}
			if _, err := s.GC(nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := downloads.Load(); n != 1 {
		t.Errorf("downloaded %d times", n)
	}
}

// TestPullCancelled gives up one of two callers, then both.
func TestPullCancelled(t *testing.T) {
	img, err := random.Image(1<<16, 1)
	if err != nil {
		t.Fatal(err)
	}
	started, release := make(chan struct{}, 8), make(chan struct{})
	host := wrapRegistry(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if isLayer(r, img) {
				started <- struct{}{}
				select {
				case <-release:
				case <-r.Context().Done():
					return
				}
			}
			next.ServeHTTP(w, r)
		})
	})
	publish(t, host+"/slow:1", img)
	s := openStore(t)
	pull := func(ctx context.Context) <-chan error {
		done := make(chan error, 1)
		go func() {
			_, err := s.Pull(ctx, host+"/slow:1", PullOptions{})
			done <- err
		}()
		return done
	}
	alone, cancelAlone := context.WithCancel(t.Context())
	gone := pull(alone)
	<-started
	cancelAlone()
	wantKind(t, <-gone, vortex.Unavailable)
	if entries, _ := os.ReadDir(s.path("tmp")); len(entries) != 0 {
		t.Errorf("left %v", entries)
	}
	first, cancelFirst := context.WithCancel(t.Context())
	defer cancelFirst()
	leaves, stays := pull(first), pull(t.Context())
	<-started
	cancelFirst()
	wantKind(t, <-leaves, vortex.Unavailable)
	close(release)
	if err := <-stays; err != nil {
		t.Error(err)
	}
}

func TestPullZstd(t *testing.T) {
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	plain := pack(t, regular("hello", "zstd"))
	layer := &zstdLayer{Layer: layerOf(t, plain), packed: encoder.EncodeAll(plain, nil)}
	img, err := mutate.Append(empty.Image, mutate.Addendum{Layer: layer, MediaType: types.OCILayerZStd})
	if err != nil {
		t.Fatal(err)
	}
	ref := startRegistry(t) + "/zstd:1"
	publish(t, ref, img)
	s := openStore(t)
	dir := filepath.Join(t.TempDir(), "root")
	if _, err := s.Extract(t.Context(), ref, dir); err != nil {
		t.Fatal(err)
	}
	wantContent(t, dir+"/hello", "zstd")
	var archive bytes.Buffer
	if err := s.Export(t.Context(), ref, &archive); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(archive.Bytes(), []byte{0x28, 0xb5, 0x2f, 0xfd}) {
		t.Error("the archive holds zstd, which older Docker Engines cannot read")
	}
	if _, err := openStore(t).Import(t.Context(), &archive, ""); err != nil {
		t.Error(err)
	}
}

// zstdLayer is a layer compressed with zstd.
type zstdLayer struct {
	v1.Layer
	packed []byte
}

func (l *zstdLayer) Compressed() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(l.packed)), nil
}
func (l *zstdLayer) Size() (int64, error)                { return int64(len(l.packed)), nil }
func (l *zstdLayer) Digest() (v1.Hash, error)            { return hashOf(l.packed), nil }
func (l *zstdLayer) MediaType() (types.MediaType, error) { return types.OCILayerZStd, nil }

// TestDamageHeals damages everything that lies on disk, one after the other: the image is fetched again.
func TestDamageHeals(t *testing.T) {
	host := startRegistry(t)
	ref := host + "/app:1"
	publish(t, ref, imageOf(t, []file{regular("a", strings.Repeat("data", 1000))}))
	dir := t.TempDir()
	damage := map[string]func(string) error{
		"emptied": func(path string) error { return os.Truncate(path, 0) },
		"lost":    os.Remove,
		"changed": func(path string) error {
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			content[len(content)/2] ^= 1
			return os.WriteFile(path, content, 0o600)
		},
	}
	for name, harm := range damage {
		t.Run(name, func(t *testing.T) {
			for i := range 3 {
				s := openStoreIn(t, dir)
				if _, err := s.Ensure(t.Context(), ref, IfNotPresent); err != nil {
					t.Fatal(err)
				}
				blobs, _ := filepath.Glob(s.path("blobs/sha256/*"))
				if len(blobs) != 3 {
					t.Fatalf("blobs = %v", blobs)
				}
				if err := harm(blobs[i]); err != nil {
					t.Fatal(err)
				}
				os.RemoveAll(s.path("layers"))
				os.Mkdir(s.path("layers"), 0o700)
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				s = openStoreIn(t, dir)
				root := filepath.Join(t.TempDir(), "root")
				if _, err := s.Extract(t.Context(), ref, root); err != nil {
					t.Fatalf("after %s %s: %v", blobs[i], name, err)
				}
				wantContent(t, root+"/a", strings.Repeat("data", 1000))
				s.Close()
			}
		})
	}
}

// TestNames are the names users write and what becomes of them.
func TestNames(t *testing.T) {
	for in, want := range map[string]string{
		"nginx": "nginx:latest", "nginx:1.27": "nginx:1.27", "docker.io/library/nginx": "nginx:latest", "team/app": "team/app:latest",
		"ghcr.io/a/b:c": "ghcr.io/a/b:c", "localhost:5000/x": "localhost:5000/x:latest",
	} {
		ref, err := parseReference(in)
		if err != nil || ref.String() != want {
			t.Errorf("%q = %q, %v; want %q", in, ref, err, want)
		}
	}
	for _, bad := range []string{"", "A B", "-x", "x:", "../x", "x@sha256:1", "http://x/y"} {
		if _, err := parseReference(bad); !vortex.IsKind(err, vortex.Invalid) {
			t.Errorf("%q: error = %v", bad, err)
		}
	}
}
