package image

import (
	"bytes"
	"context"
	"crypto/rand"
	"debug/elf"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/klauspost/compress/gzip"
	"github.com/moby/moby/client"

	"vortex"
)

func readProgram(t *testing.T) []byte {
	t.Helper()
	content, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// programFile is the test program as an entry of a directory.
func programFile(t *testing.T, name string) file {
	t.Helper()
	f := regular(name, string(readProgram(t)))
	f.Mode = 0o755
	return f
}

// dynamic finds an executable of this machine that needs shared libraries.
func dynamic(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("ls")
	if err != nil {
		t.Skip("no ls to try a dynamic executable with")
	}
	f, err := elf.Open(path)
	if err != nil {
		t.Skip("ls is not ELF")
	}
	defer f.Close()
	return path
}

func TestBuildDirectory(t *testing.T) {
	s := openStore(t)
	readme := regular("README.md", "text")
	for name, c := range map[string]struct {
		files []file
		entry string
	}{
		"one executable": {[]file{readme, programFile(t, "server"), directory("data"), regular("data/x", "1")}, "/app/server"},
		"entrypoint":     {[]file{programFile(t, "other"), programFile(t, "entrypoint")}, "/app/entrypoint"},
		"only below":     {[]file{programFile(t, "./server"), directory("bin"), programFile(t, "bin/tool")}, "/app/server"},
	} {
		t.Run(name, func(t *testing.T) {
			packed := pack(t, c.files...)
			img, err := s.Build(t.Context(), BuildContext{Source: bytes.NewReader(packed), Cmd: []string{"-v"}, Ports: []Port{{Number: 80}}}, "dir:1")
			if err != nil {
				t.Fatal(err)
			}
			cfg := img.Config
			if strings.Join(cfg.Entrypoint, " ") != c.entry || cfg.WorkingDir != "/app" || cfg.Cmd[0] != "-v" || cfg.Ports[0].Number != 80 {
				t.Errorf("config = %+v", cfg)
			}
			var zipped bytes.Buffer
			z := gzip.NewWriter(&zipped)
			z.Write(packed)
			z.Close()
			again, err := s.Build(t.Context(), BuildContext{Source: &zipped, Cmd: []string{"-v"}, Ports: []Port{{Number: 80}}}, "dir:2")
			if err != nil || again.Digest != img.Digest {
				t.Errorf("built again: %s, %v; want %s", again.Digest, err, img.Digest)
			}
		})
	}
}

func TestBuildRefuses(t *testing.T) {
	s := openStore(t)
	script := regular("run.sh", "#!/bin/sh\necho hi\n")
	script.Mode = 0o755
	lib, err := os.ReadFile(dynamic(t))
	if err != nil {
		t.Fatal(err)
	}
	dyn := regular("server", string(lib))
	dyn.Mode = 0o755
	for name, c := range map[string]struct {
		source []byte
		hint   string
	}{
		"nothing executable": {pack(t, regular("a", "b")), "chmod +x"},
		"two executables":    {pack(t, programFile(t, "a"), programFile(t, "b")), "a, b"},
		"script":             {pack(t, script), "interpreter"},
		"dynamic":            {lib, "CGO_ENABLED=0"},
		"dynamic below":      {pack(t, dyn), "shared libraries"},
		"text":               {[]byte("hello, this is no program at all"), "neither"},
		"empty":              {nil, "chmod +x"},
		"broken executable":  {[]byte("\x7fELF and then nothing of the kind"), "not a Linux executable"},
		"leads outside":      {pack(t, regular("../x", "y")), "outside"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := s.Build(t.Context(), BuildContext{Source: bytes.NewReader(c.source)}, "bad:1")
			wantKind(t, err, vortex.Invalid)
			if err == nil || !strings.Contains(err.Error(), c.hint) {
				t.Errorf("error %v does not say %q", err, c.hint)
			}
		})
	}
	if images, _ := s.List(); len(images) != 0 || count(t, s.path("tmp")) != 0 {
		t.Errorf("left %v and %d files", images, count(t, s.path("tmp")))
	}
}

func TestBuildPathDirectory(t *testing.T) {
	s := openStore(t)
	dir := t.TempDir()
	os.WriteFile(dir+"/server", readProgram(t), 0o755)
	os.WriteFile(dir+"/secret.key", []byte("s"), 0o600)
	os.Mkdir(dir+"/node_modules", 0o755)
	os.WriteFile(dir+"/node_modules/x", nil, 0o600)
	os.Symlink("/etc/shadow", dir+"/link")
	os.WriteFile(dir+"/.dockerignore", []byte("*.key\nnode_modules\n"), 0o600)
	if _, err := s.BuildPath(t.Context(), dir, "dir:1", nil); err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(t.TempDir(), "root")
	if _, err := s.Extract(t.Context(), "dir:1", root); err != nil {
		t.Fatal(err)
	}
	wantAbsent(t, root+"/app/secret.key")
	wantAbsent(t, root+"/app/node_modules")
	if target, err := os.Readlink(root + "/app/link"); target != "/etc/shadow" {
		t.Errorf("link -> %q, %v", target, err)
	}
	_, err := s.BuildPath(t.Context(), dir+"/missing", "dir:1", nil)
	wantKind(t, err, vortex.NotFound)
}

func TestImportLayout(t *testing.T) {
	dir := t.TempDir()
	img := imageOf(t, []file{regular("hello", "layout")})
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	named := layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "team/layout:1"})
	if err := path.AppendImage(img, named); err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := PackDir(t.Context(), dir, &archive); err != nil {
		t.Fatal(err)
	}
	digest, _ := img.Digest()
	for _, name := range []string{"", "mine:1"} {
		images, err := openStore(t).Import(t.Context(), bytes.NewReader(archive.Bytes()), name)
		if err != nil || len(images) != 1 || images[0].Digest != digest.String() {
			t.Fatalf("Import = %+v, %v", images, err)
		}
		if want := "team/layout:1"; name == "" && images[0].Name != want {
			t.Errorf("named %s, want %s", images[0].Name, want)
		}
	}
	if err := path.AppendImage(imageOf(t, []file{regular("other", "x")})); err != nil {
		t.Fatal(err)
	}
	archive.Reset()
	if err := PackDir(t.Context(), dir, &archive); err != nil {
		t.Fatal(err)
	}
	_, err = openStore(t).Import(t.Context(), bytes.NewReader(archive.Bytes()), "mine:1")
	wantKind(t, err, vortex.Invalid)
	blobs, _ := filepath.Glob(dir + "/blobs/sha256/*")
	os.WriteFile(blobs[0], []byte("damaged"), 0o600)
	archive.Reset()
	if err := PackDir(t.Context(), dir, &archive); err != nil {
		t.Fatal(err)
	}
	_, err = openStore(t).Import(t.Context(), &archive, "")
	wantKind(t, err, vortex.Invalid)
}

func TestImportRefuses(t *testing.T) {
	s := openStore(t)
	for name, archive := range map[string][]byte{
		"empty":              nil,
		"text":               []byte(strings.Repeat("no archive ", 200)),
		"other tar":          pack(t, regular("a", "b")),
		"broken manifest":    pack(t, regular("manifest.json", "{")),
		"missing parts":      pack(t, regular("manifest.json", `[{"Config":"c.json","RepoTags":["a:1"],"Layers":["l.tar"]}]`)),
		"part outside":       pack(t, regular("manifest.json", `[{"Config":"../../etc/passwd","Layers":[]}]`)),
		"part by link":       pack(t, regular("manifest.json", `[{"Config":"c","Layers":[]}]`), link('2', "c", "/etc/passwd")),
		"links in circles":   pack(t, regular("manifest.json", `[{"Config":"c","Layers":[]}]`), link('2', "c", "d"), link('2', "d", "c")),
		"broken index":       pack(t, regular("index.json", "[]")),
		"index with nothing": pack(t, regular("index.json", `{"schemaVersion":2,"manifests":[{"digest":"sha256:`+strings.Repeat("a", 64)+`","size":1}]}`)),
		"broken gzip":        {0x1f, 0x8b, 0, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := s.Import(t.Context(), bytes.NewReader(archive), "x:1")
			wantKind(t, err, vortex.Invalid)
		})
	}
	if n := count(t, s.path("tmp")); n != 0 {
		t.Errorf("%d leftovers", n)
	}
}

// needDocker skips without a Docker Engine. Afterwards the engine has none of the images that a test made.
func needDocker(t *testing.T, s *Store, images ...string) *client.Client {
	t.Helper()
	engine, err := s.dockerEngine(t.Context())
	if err != nil {
		t.Skipf("no Docker Engine: %v", err)
	}
	t.Cleanup(func() {
		for _, image := range images {
			(&dockerfileBuild{s: s}).removeFrom(context.Background(), engine, image)
		}
		engine.Close()
	})
	return engine
}

// dockerContext makes a directory with a Dockerfile that needs no network.
func dockerContext(t *testing.T, dockerfile string) string {
	t.Helper()
	dir := t.TempDir()
	os.WriteFile(dir+"/server", readProgram(t), 0o755)
	os.WriteFile(dir+"/Dockerfile", []byte(dockerfile), 0o600)
	return dir
}

func TestBuildDockerfile(t *testing.T) {
	s := openStore(t)
	tag := engineTag("index.docker.io/library/docker-built:1")
	engine := needDocker(t, s, tag)
	dir := dockerContext(t, "FROM scratch\nCOPY server /server\nENV MODE=test\nEXPOSE 8080\nENTRYPOINT [\"/server\"]\n")
	var progress bytes.Buffer
	img, err := s.BuildPath(t.Context(), dir, "docker-built:1", &progress)
	if err != nil {
		t.Fatal(err)
	}
	cfg := img.Config
	if cfg.Entrypoint[0] != "/server" || cfg.Ports[0].Number != 8080 || !strings.Contains(strings.Join(cfg.Env, " "), "MODE=test") {
		t.Errorf("config = %+v", cfg)
	}
	if !strings.Contains(progress.String(), "COPY server") {
		t.Errorf("progress = %q", progress.String())
	}
	root := filepath.Join(t.TempDir(), "root")
	if _, err := s.Extract(t.Context(), "docker-built:1", root); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(root + "/server"); err != nil {
		t.Error(err)
	}
	packed := stream(func(w io.Writer) error { return PackDir(t.Context(), dir, w) })
	defer packed.Close()
	if sent, err := s.Build(t.Context(), BuildContext{Source: packed}, "docker-built:1"); err != nil || sent.Config.Entrypoint[0] != "/server" {
		t.Errorf("built from a stream: %+v, %v", sent, err)
	}
	first := (&dockerfileBuild{}).engineID(t.Context(), engine, tag)
	os.WriteFile(dir+"/server", append(readProgram(t), 0), 0o755)
	if again, err := s.BuildPath(t.Context(), dir, "docker-built:1", nil); err != nil || again.Digest == img.Digest {
		t.Errorf("built again: %+v, %v", again, err)
	}
	if _, err := engine.ImageInspect(t.Context(), first); err == nil {
		t.Error("the engine keeps the earlier image")
	}
	for dockerfile, hint := range map[string]string{
		"FROM scratch\nCOPY nothing /x\n": "nothing",
		"NONSENSE\n":                      "NONSENSE",
	} {
		_, err := s.BuildDockerfile(t.Context(), dockerContext(t, dockerfile), "", "bad:1", nil)
		wantKind(t, err, vortex.Invalid)
		if err == nil || !strings.Contains(err.Error(), hint) {
			t.Errorf("error %v does not say %q", err, hint)
		}
	}
	_, err = s.BuildDockerfile(t.Context(), dir, "Missing", "bad:1", nil)
	wantKind(t, err, vortex.NotFound)
	_, err = s.BuildDockerfile(t.Context(), dir, "../../etc/passwd", "bad:1", nil)
	wantKind(t, err, vortex.NotFound)
}

// TestExportLoadsIntoDocker hands a built image to the Docker Engine, which must take it.
func TestExportLoadsIntoDocker(t *testing.T) {
	s := openStore(t)
	name := "vortex-export-test:" + strings.ToLower(rand.Text())
	engine := needDocker(t, s, name)
	buildHello(t, s, name)
	r := stream(func(w io.Writer) error { return s.Export(t.Context(), name, w) })
	defer r.Close()
	loaded, err := engine.ImageLoad(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(loaded)
	loaded.Close()
	if err != nil || !strings.Contains(string(out), name) {
		t.Errorf("loaded: %v: %s", err, out)
	}
	saved, err := engine.ImageSave(t.Context(), []string{name})
	if err != nil {
		t.Fatal(err)
	}
	defer saved.Close()
	images, err := openStore(t).Import(t.Context(), saved, "")
	if err != nil || len(images) != 1 || images[0].Name != name {
		t.Errorf("back from Docker: %+v, %v", images, err)
	}
}

func TestBuildDockerfileWithoutBuilder(t *testing.T) {
	s := openStore(t, func(c *Config) { c.DockerHost = "unix:///nonexistent/docker.sock" })
	t.Setenv("PATH", t.TempDir())
	_, err := s.BuildDockerfile(t.Context(), dockerContext(t, "FROM scratch\n"), "", "x:1", nil)
	wantKind(t, err, vortex.Precondition)
	if err == nil || !strings.Contains(err.Error(), "install Docker or buildah") {
		t.Errorf("error = %v", err)
	}
}

// TestBuildBuildah builds with buildah where no Docker Engine answers.
func TestBuildBuildah(t *testing.T) {
	if _, err := exec.LookPath("buildah"); err != nil {
		t.Skip("buildah is not installed")
	}
	s := openStore(t, func(c *Config) { c.DockerHost = "unix:///nonexistent/docker.sock" })
	dir := dockerContext(t, "FROM scratch\nCOPY server /server\nENTRYPOINT [\"/server\"]\n")
	img, err := s.BuildPath(t.Context(), dir, "buildah-built:1", nil)
	if err != nil {
		t.Fatal(err)
	}
	if img.Name != "buildah-built:1" || img.Config.Entrypoint[0] != "/server" {
		t.Errorf("built %+v", img)
	}
	_, err = s.BuildDockerfile(t.Context(), dockerContext(t, "FROM scratch\nCOPY nothing /x\n"), "", "bad:1", nil)
	wantKind(t, err, vortex.Invalid)
	if err == nil || !strings.Contains(err.Error(), "nothing") {
		t.Errorf("error = %v", err)
	}
}

func TestBuildRepo(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("no git")
	}
	repo := t.TempDir()
	git := func(args ...string) {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-C", repo, "-c", "user.name=t", "-c", "user.email=t@t"}, args...)...)
		cmd.Env = withoutGit(os.Environ())
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
	}
	content := readProgram(t)
	git("init", "--quiet", "-b", "main")
	os.Mkdir(repo+"/sub", 0o755)
	os.WriteFile(repo+"/sub/server", content, 0o755)
	os.Symlink("/etc", repo+"/out")
	git("add", ".")
	git("commit", "--quiet", "-m", "one")
	git("checkout", "--quiet", "-b", "other")
	os.WriteFile(repo+"/top", content, 0o755)
	git("add", ".")
	git("commit", "--quiet", "-m", "two")
	git("checkout", "--quiet", "main")
	s := openStore(t)
	url := "file://" + repo
	for ref, want := range map[string]string{url + "#main:sub": "/app/server", url + "#:sub": "/app/server", url + "#other": "/app/top"} {
		img, err := s.BuildRepo(t.Context(), ref, "repo:1", nil)
		if err != nil || img.Config.Entrypoint[0] != want {
			t.Errorf("%s: %+v, %v", ref, img.Config, err)
		}
	}
	for ref, kind := range map[string]vortex.ErrorKind{
		url + "#missing": vortex.Invalid, url + "#main:none": vortex.NotFound, url + "#main:out": vortex.NotFound,
		url: vortex.Invalid, "file:///nonexistent/repo": vortex.Invalid,
	} {
		_, err := s.BuildRepo(t.Context(), ref, "repo:1", nil)
		wantKind(t, err, kind)
	}
	if n := count(t, s.path("tmp")); n != 0 {
		t.Errorf("%d leftovers", n)
	}
}

func TestRepositoryURLs(t *testing.T) {
	for _, bad := range []string{
		"", "ext::sh -c id", "ssh://host/x", "git@host:x", "--upload-pack=id", "-x", "http://host/x", "https://-oProxy/x", "https://", "/path",
		"file://host/x", "https://host/x#--upload-pack=id", "https://host/x#a..b", "https://host/x#b:../..", "https://host/x#b:/etc", "https://host/x\n",
		"fd::17", "https://host/x#b c",
	} {
		_, err := parseRepository(bad)
		wantKind(t, err, vortex.Invalid)
	}
	r, err := parseRepository("https://host/team/app.git#release/1.2:services/web")
	if err != nil || r != (repository{url: "https://host/team/app.git", revision: "release/1.2", dir: "services/web"}) {
		t.Errorf("got %+v, %v", r, err)
	}
	_, err = parseRepository("ssh://ann:secret@host/x")
	if err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("error shows a password: %v", err)
	}
}
