package image

import (
	"archive/tar"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"vortex"
)

// BuildContext is what an image is made from without a Dockerfile. Only Source is required.
type BuildContext struct {
	Source     io.Reader // a static Linux executable, or a tar stream of a directory, plain or compressed
	Entrypoint []string  // "" is found: the executable itself, or the one at the directory's top
	Cmd        []string
	Env        []string // KEY=value, after PATH
	WorkingDir string   // "" is / for an executable and /app for a directory
	User       string
	Ports      []Port
	Progress   io.Writer // gets the builder's output when the directory has a Dockerfile; nil discards it
}

// appDir is where a directory's content goes in the image; an executable alone is appDir itself.
const appDir = "/app"

// hostCertificates are the places where Linux distributions keep the certificate authorities.
var hostCertificates = []string{
	"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem",
}

// epoch is the time on everything built, so that the same input gives the same digest.
var epoch = time.Unix(0, 0).UTC()

// Build makes an image of a static executable or of a directory with one at its top, without a Dockerfile. A directory that has one is
// built by it, as BuildDockerfile does, unless an Entrypoint is given. A file named entrypoint at the top wins. The image also has /etc/passwd, /etc/group, /tmp and this machine's certificate authorities. The same input
// gives the same digest. Invalid says what is ambiguous or missing: a dynamic executable, for example, would not find its libraries.
func (s *Store) Build(ctx context.Context, build BuildContext, name string) (Image, error) {
	ref, err := parseTag(name)
	if err != nil {
		return Image{}, err
	}
	f, err := s.spoolStream(ctx, build.Source)
	if err != nil {
		return Image{}, err
	}
	p, err := s.planBuild(f, build)
	if errors.Is(err, errHasDockerfile) {
		return s.buildArchive(ctx, f, ref, build.Progress)
	}
	if err != nil {
		return Image{}, err
	}
	defer p.spool.close()
	a := &archive{s: s}
	defer a.unpin()
	digest, err := s.assemble(ctx, p, a.pin)
	if err != nil {
		return Image{}, err
	}
	return s.adopt(ctx, record{Name: ref.canonical(), Digest: digest})
}

// buildPlan is what goes into an image that is built.
type buildPlan struct {
	spool  *spool
	files  []buildFile
	config v1.Config
	arch   string
}

// buildFile is one entry of the image's own layer.
type buildFile struct {
	header  tar.Header
	content func() (io.Reader, error) // nil for what has none
}

// planBuild looks at the source and decides what the image is. It takes the file over.
func (s *Store) planBuild(f *os.File, build BuildContext) (*buildPlan, error) {
	if magic := make([]byte, 4); readAt(f, magic) && string(magic) == "\x7fELF" {
		p, err := planExecutable(f, build)
		if err != nil {
			discard(f)
		}
		return p, err
	}
	sp, err := indexTar(f, s.cfg.Limits.Entries)
	if err != nil {
		return nil, vortex.Errorf(vortex.Invalid, "an image is built from a Linux executable or a directory, and this is neither: %w", err)
	}
	if sp.entries[defaultDockerfile].header != nil && len(build.Entrypoint) == 0 {
		return nil, errHasDockerfile // the file stays
	}
	p, err := planDirectory(sp, build)
	if err != nil {
		sp.close()
	}
	return p, err
}

var errHasDockerfile = errors.New("the directory has a Dockerfile")

// buildArchive unpacks a spooled directory aside and builds it by its Dockerfile. It takes the file over.
func (s *Store) buildArchive(ctx context.Context, f *os.File, ref reference, progress io.Writer) (Image, error) {
	defer discard(f)
	dir, err := os.MkdirTemp(s.path("tmp"), "context-")
	if err != nil {
		return Image{}, fmt.Errorf("build image: %w", err)
	}
	defer os.RemoveAll(dir)
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Image{}, fmt.Errorf("build image: %w", err)
	}
	defer root.Close()
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return Image{}, fmt.Errorf("build image: %w", err)
	}
	if err := newUnpacker(root, s.cfg.Limits, false).apply(ctx, f); err != nil {
		return Image{}, err
	}
	return s.BuildDockerfile(ctx, dir, "", ref.String(), progress)
}

func readAt(f *os.File, p []byte) bool {
	n, err := f.ReadAt(p, 0)
	return n == len(p) && (err == nil || err == io.EOF) // ReadAt returns it as it is
}

func planExecutable(f *os.File, build BuildContext) (*buildPlan, error) {
	arch, err := staticArch("the executable", f)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("build image: %w", err)
	}
	p := &buildPlan{spool: &spool{file: f}, arch: arch}
	p.add(tar.Header{Typeflag: tar.TypeReg, Name: "app", Mode: 0o755, Size: info.Size()}, func() (io.Reader, error) {
		return io.NewSectionReader(f, 0, info.Size()), nil
	})
	p.configure(build, []string{appDir}, "/")
	return p, nil
}

// planDirectory takes a directory's files over and finds its entrypoint.
func planDirectory(sp *spool, build BuildContext) (*buildPlan, error) {
	p := &buildPlan{spool: sp}
	p.add(tar.Header{Typeflag: tar.TypeDir, Name: "app", Mode: 0o755}, nil)
	for _, name := range sortedNames(sp) {
		if err := p.addSpooled(name); err != nil {
			return nil, err
		}
	}
	entrypoint := build.Entrypoint
	if len(entrypoint) == 0 {
		program, err := findEntrypoint(sp)
		if err != nil {
			return nil, err
		}
		entrypoint = []string{appDir + "/" + program}
	}
	if err := p.checkEntrypoint(entrypoint[0]); err != nil {
		return nil, err
	}
	p.configure(build, entrypoint, appDir)
	return p, nil
}

func sortedNames(sp *spool) []string {
	names := make([]string, 0, len(sp.entries))
	for name := range sp.entries {
		if name != "." {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// addSpooled takes an entry of the directory over, without what would differ from machine to machine.
func (p *buildPlan) addSpooled(name string) error {
	from := p.spool.entries[name].header
	header := tar.Header{Typeflag: from.Typeflag, Name: "app/" + name, Mode: 0o644}
	if from.Mode&0o111 != 0 || from.Typeflag == tar.TypeDir {
		header.Mode = 0o755
	}
	var content func() (io.Reader, error)
	switch from.Typeflag {
	case tar.TypeDir:
	case tar.TypeSymlink:
		header.Linkname = from.Linkname
	case tar.TypeReg, tar.TypeLink:
		r, err := p.spool.open(name)
		if err != nil {
			return err
		}
		header.Typeflag, header.Size = tar.TypeReg, r.Size()
		content = func() (io.Reader, error) { return p.spool.open(name) }
	default:
		return vortex.Errorf(vortex.Invalid, "the directory holds %q, which is neither a file, a directory nor a link: leave it out", name)
	}
	p.add(header, content)
	return nil
}

func (p *buildPlan) add(header tar.Header, content func() (io.Reader, error)) {
	p.files = append(p.files, buildFile{header: header, content: content})
}

// findEntrypoint returns the file at the directory's top that is to be run.
func findEntrypoint(sp *spool) (string, error) {
	var programs []string
	for _, name := range sortedNames(sp) {
		header := sp.entries[name].header
		if strings.Contains(name, "/") || header.Typeflag != tar.TypeReg || header.Mode&0o111 == 0 {
			continue
		}
		if name == "entrypoint" {
			return name, nil
		}
		programs = append(programs, name)
	}
	switch len(programs) {
	case 1:
		return programs[0], nil
	case 0:
		return "", vortex.Errorf(vortex.Invalid,
			"the directory has no executable file at its top: add one (chmod +x), name an entrypoint, or write a Dockerfile")
	default:
		return "", vortex.Errorf(vortex.Invalid, "the directory has %d executable files at its top (%s): name one of them entrypoint, or write a Dockerfile",
			len(programs), strings.Join(programs, ", "))
	}
}

// checkEntrypoint refuses an entrypoint that could not start in an image that has nothing else.
func (p *buildPlan) checkEntrypoint(entrypoint string) error {
	name, ok := strings.CutPrefix(path.Clean(path.Join(appDir, strings.TrimPrefix(entrypoint, appDir+"/"))), appDir+"/")
	if !ok || p.spool.entries[name].header == nil {
		return vortex.Errorf(vortex.Invalid, "the entrypoint %q is not in the directory, whose content goes to %s", entrypoint, appDir)
	}
	r, err := p.spool.open(name)
	if err != nil {
		return err
	}
	p.arch, err = staticArch(name, r)
	return err
}

// configure fills the image's configuration in.
func (p *buildPlan) configure(build BuildContext, entrypoint []string, dir string) {
	p.config = v1.Config{
		Entrypoint: entrypoint, Cmd: build.Cmd, User: build.User, WorkingDir: cmp.Or(build.WorkingDir, dir),
		Env: append([]string{"PATH=" + appDir + ":/usr/local/bin:/usr/bin:/bin"}, build.Env...),
	}
	if len(build.Entrypoint) > 0 {
		p.config.Entrypoint = build.Entrypoint
	}
	for _, port := range build.Ports {
		if p.config.ExposedPorts == nil {
			p.config.ExposedPorts = map[string]struct{}{}
		}
		protocol := "tcp"
		if port.UDP {
			protocol = "udp"
		}
		p.config.ExposedPorts[fmt.Sprintf("%d/%s", port.Number, protocol)] = struct{}{}
	}
}

// assemble stores a base layer, which all built images share, and the plan's own, and returns the manifest's digest.
func (s *Store) assemble(ctx context.Context, p *buildPlan, pin func(v1.Hash)) (v1.Hash, error) {
	base, err := baseFiles()
	if err != nil {
		return v1.Hash{}, err
	}
	var layers []v1.Descriptor
	config := v1.ConfigFile{OS: "linux", Architecture: p.arch, Config: p.config, Created: v1.Time{Time: epoch}, RootFS: v1.RootFS{Type: "layers"}}
	for _, files := range [][]buildFile{base, p.files} {
		plain := sha256.New()
		layer, err := s.putLayer(ctx, pin, func(w io.Writer) error { return writeTar(ctx, io.MultiWriter(w, plain), files) })
		if err != nil {
			return v1.Hash{}, err
		}
		layers = append(layers, layer)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(plain.Sum(nil))})
		config.History = append(config.History, v1.History{Created: v1.Time{Time: epoch}, CreatedBy: "vortex image build"})
	}
	document, err := json.Marshal(config)
	if err != nil {
		return v1.Hash{}, fmt.Errorf("encode configuration: %w", err)
	}
	return s.putImage(ctx, document, layers, pin)
}

// baseFiles are what programs expect to find around them.
func baseFiles() ([]buildFile, error) {
	var p buildPlan
	dir := func(name string, mode int64) { p.add(tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode}, nil) }
	file := func(name, content string) {
		p.add(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content))},
			func() (io.Reader, error) { return strings.NewReader(content), nil })
	}
	dir("etc", 0o755)
	file("etc/group", "root:x:0:\nnogroup:x:65534:\n")
	file("etc/nsswitch.conf", "hosts: files dns\n")
	file("etc/passwd", "root:x:0:0:root:/:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n")
	certificates, err := readFirst(hostCertificates)
	if err != nil {
		return nil, err
	}
	if certificates != nil {
		dir("etc/ssl", 0o755)
		dir("etc/ssl/certs", 0o755)
		file("etc/ssl/certs/ca-certificates.crt", string(certificates))
	}
	dir("tmp", 0o1777)
	return p.files, nil
}

// readFirst returns the first file there is, or nil.
func readFirst(paths []string) ([]byte, error) {
	for _, p := range paths {
		content, err := os.ReadFile(p)
		if err == nil {
			return content, nil
		}
		if !os.IsNotExist(err) {
			return nil, fmt.Errorf("read certificate authorities: %w", err)
		}
	}
	return nil, nil
}

// writeTar writes files with the epoch as their time and root as their owner.
func writeTar(ctx context.Context, w io.Writer, files []buildFile) error {
	out := tar.NewWriter(w)
	for _, file := range files {
		header := file.header
		header.ModTime = epoch
		if header.Typeflag == tar.TypeDir {
			header.Name += "/"
		}
		if err := out.WriteHeader(&header); err != nil {
			return fmt.Errorf("write layer: %w", err)
		}
		if file.content == nil {
			continue
		}
		r, err := file.content()
		if err != nil {
			return err
		}
		if _, err := copyContext(ctx, out, r); err != nil {
			return fmt.Errorf("write layer: %w", err)
		}
	}
	if err := out.Close(); err != nil {
		return fmt.Errorf("write layer: %w", err)
	}
	return nil
}
