package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"vortex"
)

// unpacker writes a layer's tar stream into a directory and nowhere else. Every parent directory is opened through os.Root,
// which refuses what leads outside; the entry itself is then made relative to the open directory and never through a link.
//
// Device nodes are left out: runtimes give a container its /dev. Attributes that steer overlayfs itself are never taken from an image.
type unpacker struct {
	root       *os.Root
	limits     Limits
	privileged bool // keeps owners and privileged attributes
	overlay    bool // whiteouts become overlayfs's; otherwise they delete what earlier layers put there

	parent     *os.File // the directory of the last entry, and its name
	parentName string
	dirs       map[string]*tar.Header // their modes and times come last, when nothing is written into them any more
	written    map[string]struct{}    // paths of this layer; nil with overlay
	bytes      int64
	entries    int64
	buffer     []byte
}

func newUnpacker(root *os.Root, limits Limits, privileged bool) *unpacker {
	return &unpacker{root: root, limits: limits, privileged: privileged, buffer: make([]byte, 128<<10)}
}

// apply unpacks one layer and reads its stream to the end.
func (u *unpacker) apply(ctx context.Context, r io.Reader) error {
	u.dirs = map[string]*tar.Header{}
	if !u.overlay {
		u.written = map[string]struct{}{}
	}
	defer u.forgetParent()
	reader := tar.NewReader(&contextReader{ctx: ctx, r: r})
	for {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return unpackError("archive", err)
		}
		if err := u.entry(header, reader); err != nil {
			return unpackError(header.Name, err)
		}
	}
	if err := u.finishDirs(); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, r)
	return unpackError("archive", err)
}

// unpackError says which entry failed. What is the archive's fault is Invalid; a full disk is Exhausted.
func unpackError(name string, err error) error {
	errno, system := errors.AsType[unix.Errno](err)
	_, classified := errors.AsType[*vortex.Error](err)
	switch {
	case err == nil, classified, errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errno == unix.ENOSPC, errno == unix.EDQUOT:
		return vortex.Errorf(vortex.Exhausted, "the disk is full while unpacking an image: free space, for example with `vortex image rm`: %w", err)
	case system && !slices.Contains([]unix.Errno{unix.ELOOP, unix.ENOTDIR, unix.ENAMETOOLONG, unix.EINVAL, unix.EISDIR}, errno):
		return fmt.Errorf("unpack %q: %w", name, err)
	default:
		return vortex.Errorf(vortex.Invalid, "the image cannot be unpacked: entry %q is not acceptable: %w", name, err)
	}
}

// entry unpacks one entry.
func (u *unpacker) entry(header *tar.Header, content io.Reader) error {
	if header.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	if u.entries++; u.entries > u.limits.Entries {
		return errTooLarge
	}
	name, err := cleanName(header.Name)
	if err != nil {
		return err
	}
	if name == "." {
		if header.Typeflag == tar.TypeDir {
			return u.rootDir(header)
		}
		return errors.New("the root is not a directory")
	}
	dir, err := u.open(path.Dir(name))
	if err != nil {
		return err
	}
	if base, ok := strings.CutPrefix(path.Base(name), whiteoutPrefix); ok {
		return u.whiteout(dir, path.Dir(name), base)
	}
	return u.create(dir, name, header, content)
}

// cleanName returns an entry's name relative to the root. A name that leads outside is refused.
func cleanName(name string) (string, error) {
	clean := path.Clean(strings.TrimLeft(name, "/"))
	if strings.ContainsRune(name, 0) || !filepath.IsLocal(clean) {
		return "", vortex.Errorf(vortex.Invalid, "the image cannot be unpacked: entry %q leads outside of it", name)
	}
	return clean, nil
}

// open returns the directory an entry lies in, made when no entry told of it.
func (u *unpacker) open(name string) (*os.File, error) {
	if u.parent != nil && u.parentName == name {
		return u.parent, nil
	}
	u.forgetParent()
	dir, err := u.openDir(name)
	if errors.Is(err, fs.ErrNotExist) {
		if err := u.makeParents(name); err != nil {
			return nil, err
		}
		dir, err = u.openDir(name)
	}
	if err != nil {
		return nil, err
	}
	u.parent, u.parentName = dir, name
	return dir, nil
}

// openDir opens a directory inside the root; a pipe in its place does not block it.
func (u *unpacker) openDir(name string) (*os.File, error) {
	return u.root.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
}

// makeParents makes directories that the archive takes for granted, with the modes everybody expects.
func (u *unpacker) makeParents(name string) error {
	var missing []string
	for p := name; p != "."; p = path.Dir(p) {
		if _, err := u.root.Lstat(p); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		missing = append(missing, p)
	}
	if err := u.root.MkdirAll(name, 0o755); err != nil {
		return err
	}
	for _, p := range missing {
		mode := int64(0o755)
		if p == "tmp" || p == "var/tmp" {
			mode = 0o1777
		}
		u.dirs[p] = &tar.Header{Name: p, Mode: mode}
		if u.written != nil {
			u.written[p] = struct{}{}
		}
	}
	return nil
}

func (u *unpacker) forgetParent() {
	if u.parent != nil {
		u.parent.Close()
		u.parent = nil
	}
}

// create makes an entry in dir in place of what was there.
func (u *unpacker) create(dir *os.File, name string, header *tar.Header, content io.Reader) error {
	base := path.Base(name)
	if header.Typeflag == tar.TypeChar || header.Typeflag == tar.TypeBlock {
		return nil
	}
	hides, err := u.clear(dir, name, header)
	if err != nil {
		return err
	}
	if u.written != nil {
		u.written[name] = struct{}{}
	}
	switch header.Typeflag {
	case tar.TypeDir:
		return u.directory(dir, name, header, hides)
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		return u.file(dir, base, header, content)
	case tar.TypeSymlink:
		return u.symlink(dir, base, header)
	case tar.TypeLink:
		return u.hardlink(dir, base, header)
	case tar.TypeFifo:
		return u.fifo(dir, base, header)
	default:
		return fmt.Errorf("its type %q is unknown", header.Typeflag)
	}
}

// clear removes what stands where an entry goes; a directory stays for a directory. It reports whether
// what it removed was a whiteout, so that a new directory must hide the lower one's content.
func (u *unpacker) clear(dir *os.File, name string, header *tar.Header) (whiteout bool, err error) {
	base := path.Base(name)
	var st unix.Stat_t
	err = unix.Fstatat(int(dir.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return st.Mode&unix.S_IFMT == unix.S_IFCHR, unix.Unlinkat(int(dir.Fd()), base, 0)
	}
	if header.Typeflag == tar.TypeDir {
		return false, nil
	}
	u.forgetDirs(name)
	return false, u.root.RemoveAll(name)
}

// forgetDirs drops what is kept of a directory that is removed, and of those below.
func (u *unpacker) forgetDirs(name string) {
	for dir := range u.dirs {
		if dir == name || strings.HasPrefix(dir, name+"/") {
			delete(u.dirs, dir)
		}
	}
}

// rootDir takes the root's own metadata over.
func (u *unpacker) rootDir(header *tar.Header) error {
	dir, err := u.open(".")
	if err != nil {
		return err
	}
	u.dirs["."] = header
	return u.own(int(dir.Fd()), header)
}

func (u *unpacker) directory(dir *os.File, name string, header *tar.Header, opaque bool) error {
	base := path.Base(name)
	if err := unix.Mkdirat(int(dir.Fd()), base, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	fd, err := unix.Openat(int(dir.Fd()), base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	u.dirs[name] = header
	if opaque {
		if err := setOpaque(fd); err != nil {
			return err
		}
	}
	return u.own(fd, header)
}

// finishDirs sets the modes and times of all directories, the deepest first.
func (u *unpacker) finishDirs() error {
	names := make([]string, 0, len(u.dirs))
	for name := range u.dirs {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return strings.Compare(b, a) })
	u.forgetParent()
	for _, name := range names {
		if err := u.finishDir(name); err != nil {
			return unpackError(name, err)
		}
	}
	return nil
}

func (u *unpacker) finishDir(name string) error {
	dir, err := u.openDir(name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil // a later entry took its place
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	mode := permissions(u.dirs[name])
	if !u.privileged {
		mode |= 0o700 // or its owner could not clean up
	}
	if err := unix.Fchmod(int(dir.Fd()), mode); err != nil {
		return err
	}
	return setTimes(int(dir.Fd()), "", u.dirs[name])
}
