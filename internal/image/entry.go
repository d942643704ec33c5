package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"vortex"
)

const xattrPrefix = "SCHILY.xattr."

var zeros [128 << 10]byte

// file writes a regular file. Runs of zeros become holes.
func (u *unpacker) file(dir *os.File, base string, header *tar.Header, content io.Reader) error {
	if header.Size > u.limits.Bytes-u.bytes {
		return errTooLarge
	}
	u.bytes += header.Size
	fd, err := unix.Openat(int(dir.Fd()), base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), base)
	defer f.Close()
	if err := u.copySparse(f, content); err != nil {
		return err
	}
	if err := u.own(fd, header); err != nil {
		return err
	}
	if err := unix.Fchmod(fd, permissions(header)); err != nil { // after the owner, whose change clears setuid
		return err
	}
	if err := setTimes(fd, "", header); err != nil {
		return err
	}
	return f.Close()
}

// copySparse writes content to an empty file, chunk by chunk. Chunks of zeros are left out, which makes holes.
func (u *unpacker) copySparse(f *os.File, content io.Reader) error {
	var offset, end int64 // end is where the file ends as it was written
	for {
		n, err := io.ReadFull(content, u.buffer)
		if n > 0 && (n < 4096 || !bytes.Equal(u.buffer[:n], zeros[:n])) {
			if _, err := f.WriteAt(u.buffer[:n], offset); err != nil {
				return err
			}
			end = offset + int64(n)
		}
		offset += int64(n)
		if err == nil {
			continue
		}
		if cut := n == 0 || !tarEnded(content); cut && !errors.Is(err, io.EOF) {
			return err
		}
		if end < offset {
			return f.Truncate(offset)
		}
		return nil
	}
}

// tarEnded reports whether an entry was read to its proper end, not cut off.
func tarEnded(content io.Reader) bool {
	n, err := content.Read(make([]byte, 1))
	return n == 0 && errors.Is(err, io.EOF)
}

func (u *unpacker) symlink(dir *os.File, base string, header *tar.Header) error {
	if err := unix.Symlinkat(header.Linkname, int(dir.Fd()), base); err != nil {
		return err
	}
	return u.finishNode(dir, base, header)
}

func (u *unpacker) fifo(dir *os.File, base string, header *tar.Header) error {
	if err := unix.Mkfifoat(int(dir.Fd()), base, 0o600); err != nil {
		return err
	}
	if err := unix.Fchmodat(int(dir.Fd()), base, permissions(header), 0); err != nil {
		return err
	}
	return u.finishNode(dir, base, header)
}

// finishNode sets owner and times of what cannot be opened.
func (u *unpacker) finishNode(dir *os.File, base string, header *tar.Header) error {
	if u.privileged {
		if err := unix.Fchownat(int(dir.Fd()), base, header.Uid, header.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
	}
	return setTimes(int(dir.Fd()), base, header)
}

// hardlink links to a file of the same tree. The link itself is never followed.
func (u *unpacker) hardlink(dir *os.File, base string, header *tar.Header) error {
	target, err := cleanName(header.Linkname)
	if err != nil {
		return err
	}
	from, err := u.openDir(path.Dir(target))
	if err != nil {
		return errLink(header, err)
	}
	defer from.Close()
	var st unix.Stat_t
	if err := unix.Fstatat(int(from.Fd()), path.Base(target), &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return errLink(header, err)
	}
	if kind := st.Mode & unix.S_IFMT; kind == unix.S_IFDIR || kind == unix.S_IFCHR {
		return errLink(header, errors.New("is not a file"))
	}
	return unix.Linkat(int(from.Fd()), path.Base(target), int(dir.Fd()), base, 0)
}

func errLink(header *tar.Header, err error) error {
	if _, ok := errors.AsType[*vortex.Error](err); ok {
		return err
	}
	return vortex.Errorf(vortex.Invalid, "the image cannot be unpacked: entry %q is a hard link to %q, which is no file in the same layer: %w",
		header.Name, header.Linkname, err)
}

// own sets owner and extended attributes of an open file or directory.
func (u *unpacker) own(fd int, header *tar.Header) error {
	if u.privileged {
		if err := unix.Fchown(fd, header.Uid, header.Gid); err != nil {
			return err
		}
	}
	for key, value := range header.PAXRecords {
		attr, ok := strings.CutPrefix(key, xattrPrefix)
		if !ok || !u.allowed(attr) {
			continue
		}
		err := unix.Fsetxattr(fd, attr, []byte(value), 0)
		if attr != "security.capability" && (errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EINVAL)) {
			continue // nice to have, and this filesystem has none
		}
		if err != nil {
			return fmt.Errorf("set attribute %s: %w", attr, err)
		}
	}
	return nil
}

// allowed reports whether an extended attribute may come from an image. Those of overlayfs never may: with them a layer
// could redirect into what it does not own.
func (u *unpacker) allowed(attr string) bool {
	switch {
	case strings.HasPrefix(attr, "user.overlay."):
		return false
	case strings.HasPrefix(attr, "user."):
		return true
	case attr == "security.capability", attr == "system.posix_acl_access", attr == "system.posix_acl_default":
		return u.privileged
	default:
		return false
	}
}

// permissions returns an entry's mode bits, setuid, setgid and sticky included.
func permissions(header *tar.Header) uint32 { return uint32(header.Mode & 0o7777) }

// setTimes sets the modification time of base in dir, or of the open file fd itself when base is "".
func setTimes(fd int, base string, header *tar.Header) error {
	if header.ModTime.IsZero() {
		return nil
	}
	stamp := unix.Timespec{Nsec: int64(header.ModTime.Nanosecond())}
	stamp.Sec = header.ModTime.Unix()
	times := []unix.Timespec{stamp, stamp}
	if base != "" {
		return unix.UtimesNanoAt(fd, base, times, unix.AT_SYMLINK_NOFOLLOW)
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd), times, 0)
}
