package oci

import (
	"bytes"
	"io"
	"os"

	"github.com/moby/sys/user"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"vortex"
)

// maxAccountFile is the most that is read of an image's passwd or group file.
const maxAccountFile = 1 << 20

// findUser resolves "uid", "uid:gid" or names in the image's own files below root. "" is root.
func findUser(root, name string) (specs.User, error) {
	passwd, group := readInRoot(root, "etc/passwd"), readInRoot(root, "etc/group")
	u, err := user.GetExecUser(name, &user.ExecUser{}, bytes.NewReader(passwd), bytes.NewReader(group))
	if err != nil {
		return specs.User{}, vortex.Errorf(vortex.Invalid, "user %q is not in the image's /etc/passwd: use a number or another name: %w", name, err)
	}
	groups := make([]uint32, 0, len(u.Sgids))
	for _, g := range u.Sgids {
		groups = append(groups, uint32(g))
	}
	return specs.User{UID: uint32(u.Uid), GID: uint32(u.Gid), AdditionalGids: groups}, nil
}

// readInRoot reads a regular file below root, whatever links the image has; nothing when it cannot.
func readInRoot(root, name string) []byte {
	r, err := os.OpenRoot(root)
	if err != nil {
		return nil
	}
	defer func() { _ = r.Close() }()
	f, err := r.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return nil
	}
	b, err := io.ReadAll(io.LimitReader(f, maxAccountFile))
	if err != nil {
		return nil
	}
	return b
}
