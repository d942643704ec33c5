package image

import (
	"errors"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// The names by which a layer says that something of the layers below is gone.
const (
	whiteoutPrefix = ".wh."     // .wh.NAME: NAME is gone
	opaqueMarker   = ".wh..opq" // .wh..wh..opq without the prefix: everything in this directory is gone
	metaPrefix     = ".wh."     // .wh..wh.*: notes of an older driver, without meaning here
	overlayOpaque  = "trusted.overlay.opaque"
)

// whiteout hides name, or all of dir, from the layers below.
func (u *unpacker) whiteout(dir *os.File, dirName, name string) error {
	switch {
	case name == opaqueMarker && u.overlay:
		return setOpaque(int(dir.Fd()))
	case name == opaqueMarker:
		return u.removeOld(dirName)
	case len(name) >= len(metaPrefix) && name[:len(metaPrefix)] == metaPrefix:
		return nil
	case name == "", name == ".", name == "..":
		return errors.New("it hides nothing that could be there")
	case u.overlay:
		return u.hide(dir, name)
	}
	full := path.Join(dirName, name)
	if _, ours := u.written[full]; ours {
		return u.removeOldBelow(full)
	}
	u.forgetParent()
	return u.root.RemoveAll(full)
}

// hide makes an overlayfs whiteout. What this same layer put there wins over it; a directory then hides what was below.
func (u *unpacker) hide(dir *os.File, name string) error {
	err := unix.Mknodat(int(dir.Fd()), name, unix.S_IFCHR, 0)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil // it is no directory: nothing shines through
	}
	defer unix.Close(fd)
	return setOpaque(fd)
}

// setOpaque makes a directory hide the content of those below it.
func setOpaque(fd int) error { return unix.Fsetxattr(fd, overlayOpaque, []byte("y"), 0) }

// removeOldBelow removes what earlier layers put into name, when it is a directory.
func (u *unpacker) removeOldBelow(name string) error {
	info, err := u.root.Lstat(name)
	if err != nil || !info.IsDir() {
		return err
	}
	return u.removeOld(name)
}

// removeOld removes what earlier layers put into a directory, and keeps what this one did.
func (u *unpacker) removeOld(dirName string) error {
	dir, err := u.openDir(dirName)
	if err != nil {
		return err
	}
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		full := path.Join(dirName, entry.Name())
		if _, ours := u.written[full]; !ours {
			err = u.root.RemoveAll(full)
		} else if entry.Type()&fs.ModeDir != 0 {
			err = u.removeOld(full)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
