package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"

	"vortex"
)

// BuildPath makes an image of what path is: an executable, a directory with a Dockerfile, or a directory with an executable.
// progress gets the builder's output when a Dockerfile is built; nil discards it.
func (s *Store) BuildPath(ctx context.Context, path, name string, progress io.Writer) (Image, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Image{}, vortex.Errorf(vortex.NotFound, "there is no %s on this node to build from", path)
	}
	if err != nil {
		return Image{}, fmt.Errorf("build image: %w", err)
	}
	if !info.IsDir() {
		f, err := os.Open(path)
		if err != nil {
			return Image{}, fmt.Errorf("build image: %w", err)
		}
		defer f.Close()
		return s.Build(ctx, BuildContext{Source: f}, name)
	}
	if _, err := os.Lstat(filepath.Join(path, defaultDockerfile)); err == nil {
		return s.BuildDockerfile(ctx, path, "", name, progress)
	}
	r := stream(func(w io.Writer) error { return PackDir(ctx, path, w) })
	defer r.Close()
	return s.Build(ctx, BuildContext{Source: r}, name)
}

// stream returns what write writes. Closing the reader ends write.
func stream(write func(io.Writer) error) io.ReadCloser {
	r, w := io.Pipe()
	go func() { w.CloseWithError(write(w)) }()
	return r
}

// PackDir writes a directory as a tar stream, as Build and Docker Engines take it. Files that .dockerignore names are left out, links
// are packed as links, and what is neither a file, a directory nor a link is left out.
func PackDir(ctx context.Context, dir string, w io.Writer) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("pack directory: %w", err)
	}
	defer root.Close()
	ignored, err := readIgnore(root)
	if err != nil {
		return err
	}
	p := &packer{root: root, ignored: ignored, out: tar.NewWriter(w)}
	err = fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err == nil {
			err = canceled(ctx)
		}
		if err != nil {
			return err
		}
		return p.entry(ctx, name, entry)
	})
	if err != nil {
		return fmt.Errorf("pack directory: %w", err)
	}
	if err := p.out.Close(); err != nil {
		return fmt.Errorf("pack directory: %w", err)
	}
	return nil
}

// readIgnore reads .dockerignore, if there is one.
func readIgnore(root *os.Root) (*patternmatcher.PatternMatcher, error) {
	f, err := root.Open(".dockerignore")
	if errors.Is(err, fs.ErrNotExist) {
		return patternmatcher.New(nil)
	}
	if err != nil {
		return nil, fmt.Errorf("read .dockerignore: %w", err)
	}
	defer f.Close()
	patterns, err := ignorefile.ReadAll(f)
	if err != nil {
		return nil, vortex.Errorf(vortex.Invalid, ".dockerignore cannot be read: %w", err)
	}
	matcher, err := patternmatcher.New(patterns)
	if err != nil {
		return nil, vortex.Errorf(vortex.Invalid, ".dockerignore has a pattern that is not valid: %w", err)
	}
	return matcher, nil
}

// packer packs one directory.
type packer struct {
	root    *os.Root
	ignored *patternmatcher.PatternMatcher
	out     *tar.Writer
}

func (p *packer) entry(ctx context.Context, name string, entry fs.DirEntry) error {
	if name == "." {
		return nil
	}
	if skip, err := p.skip(name, entry); skip || err != nil {
		return err
	}
	info, err := entry.Info()
	if err != nil {
		return err
	}
	target := ""
	switch info.Mode().Type() {
	case 0, fs.ModeDir:
	case fs.ModeSymlink:
		if target, err = p.root.Readlink(name); err != nil {
			return err
		}
	default:
		return nil
	}
	header, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	header.Name, header.Uid, header.Gid, header.Uname, header.Gname = name, 0, 0, "", ""
	if info.IsDir() {
		header.Name += "/"
	}
	if err := p.out.WriteHeader(header); err != nil || !info.Mode().IsRegular() {
		return err
	}
	return p.content(ctx, name, header.Size)
}

// skip reports whether .dockerignore names an entry. The files the builder itself needs are always packed.
func (p *packer) skip(name string, entry fs.DirEntry) (bool, error) {
	if name == defaultDockerfile || name == ".dockerignore" {
		return false, nil
	}
	ignored, err := p.ignored.MatchesOrParentMatches(name)
	if err != nil || !ignored {
		return false, err
	}
	if entry.IsDir() && !p.ignored.Exclusions() {
		return true, fs.SkipDir
	}
	return true, nil
}

func (p *packer) content(ctx context.Context, name string, size int64) error {
	f, err := p.root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := copyContext(ctx, p.out, io.LimitReader(f, size))
	if err == nil && n < size {
		return fmt.Errorf("%s became shorter while it was read", name)
	}
	return err
}

// inside reports whether a slash-separated path stays below the directory it is relative to.
func inside(path string) bool {
	return path == "" || filepath.IsLocal(path) && !strings.HasPrefix(path, "-")
}
