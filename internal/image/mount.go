package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"vortex"
)

// Mounted is an instance's root that is in place.
type Mounted struct {
	Instance string
	Image    string // the name it was asked for by
	Digest   string
	Target   string // the directory the root is mounted on
}

// mountRecord is a mount on disk: one file in mounts, written before the mount is made and removed after it is gone.
type mountRecord struct {
	Instance string    `json:"instance"`
	Image    string    `json:"image"`
	Digest   v1.Hash   `json:"digest"`
	Layers   []v1.Hash `json:"layers"` // diffIDs, the lowest first
	Target   string    `json:"target"`
}

var validInstance = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// Mount makes a writable root of the image for an instance and mounts it on target, which is made if it is missing. The image
// is fetched when it is not here. What the instance writes goes to its own directory and is gone after Unmount.
//
// It needs root: Precondition without. Exists when the instance has a root already. Other errors are those of Ensure.
func (s *Store) Mount(ctx context.Context, ref, instance, target string) (ImageConfig, error) {
	if err := s.checkMount(instance, target); err != nil {
		return ImageConfig{}, err
	}
	r, img, err := s.ensure(ctx, ref, IfNotPresent)
	if err != nil {
		return ImageConfig{}, err
	}
	defer s.pinImage(img)()
	if err := s.unpack(ctx, img, func(Progress) {}); err != nil { // nobody collects its layers any more
		return ImageConfig{}, err
	}
	m := mountRecord{
		Instance: instance, Image: familiar(r.Name), Digest: img.digest, Target: filepath.Clean(target),
		Layers: slices.Clone(img.config.RootFS.DiffIDs),
	}
	if err := s.addMount(m); err != nil {
		return ImageConfig{}, err
	}
	if err := s.makeMount(m); err != nil {
		return ImageConfig{}, errors.Join(err, s.Unmount(ctx, instance))
	}
	return img.runConfig(), nil
}

func (s *Store) checkMount(instance, target string) error {
	switch {
	case !s.privileged:
		return vortex.Errorf(vortex.Precondition, "images cannot be mounted without root: run vortex as root, or use the process runtime, which unpacks images")
	case !validInstance.MatchString(instance):
		return vortex.Errorf(vortex.Invalid, "instance id %q is not valid: use 1 to 63 of a-z, 0-9 and -", instance)
	case !filepath.IsAbs(target):
		return vortex.Errorf(vortex.Invalid, "mount target %q must be an absolute path", target)
	}
	return nil
}

func (s *Store) mountPath(instance string) string { return s.path("mounts", instance+".json") }

// addMount writes the record down. Mounts do not survive a power cut, so it need not either.
func (s *Store) addMount(m mountRecord) error {
	content, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode mount: %w", err)
	}
	s.mu.Lock()
	_, exists := s.mounts[m.Instance]
	if !exists {
		s.mounts[m.Instance] = m
	}
	s.mu.Unlock()
	if exists {
		return vortex.Errorf(vortex.Exists, "instance %s has a root already", m.Instance)
	}
	if err := s.writeFile(s.mountPath(m.Instance), content, false); err != nil {
		s.forgetMount(m.Instance)
		return err
	}
	return nil
}

func (s *Store) forgetMount(instance string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.mounts, instance)
}

// makeMount mounts the layers, with a fresh writable one on top.
func (s *Store) makeMount(m mountRecord) error {
	own := filepath.Join(s.cfg.InstancesDir, m.Instance)
	upper, work := filepath.Join(own, "upper"), filepath.Join(own, "work")
	if err := os.RemoveAll(own); err != nil {
		return fmt.Errorf("clear instance directory: %w", err)
	}
	for _, dir := range []string{upper, work, m.Target} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make instance directory: %w", err)
		}
	}
	lower := s.lowerDirs(m)
	if err := copyRootMode(lower[0], upper); err != nil {
		return err
	}
	if err := mountOverlay(lower, upper, work, m.Target); err != nil {
		return vortex.Errorf(vortex.Precondition,
			"image %s cannot be mounted: overlayfs needs a kernel with overlay and %s on a filesystem like ext4 or xfs, not on overlay or NFS: %w",
			m.Image, s.cfg.InstancesDir, err)
	}
	return nil
}

// lowerDirs lists the layers' trees, the uppermost first. An image without layers is an empty directory.
func (s *Store) lowerDirs(m mountRecord) []string {
	var dirs []string
	for _, layer := range slices.Backward(m.Layers) {
		if dir := s.layerPath(layer); !slices.Contains(dirs, dir) { // a layer that comes twice counts where it is uppermost
			dirs = append(dirs, dir)
		}
	}
	if len(dirs) == 0 {
		return []string{s.path("empty")}
	}
	return dirs
}

// copyRootMode gives the writable root the owner and mode of the image's.
func copyRootMode(from, to string) error {
	var st unix.Stat_t
	err := unix.Stat(from, &st)
	if err == nil {
		err = os.Chown(to, int(st.Uid), int(st.Gid))
	}
	if err == nil {
		err = unix.Chmod(to, st.Mode&0o7777)
	}
	if err != nil {
		return fmt.Errorf("copy mode of root: %w", err)
	}
	return nil
}

// mountOverlay mounts lower directories and a writable one on target. The kernel takes at most a page of options, and
// no colons or commas in paths: where the paths do not fit, open directories stand for them.
func mountOverlay(lower []string, upper, work, target string) error {
	options := overlayOptions(lower, upper, work)
	if len(options) >= os.Getpagesize() || strings.ContainsAny(strings.Join(append(lower, upper, work), ""), ",:\\") {
		dirs, release, err := openAll(append(slices.Clone(lower), upper, work))
		if err != nil {
			return err
		}
		defer release()
		options = overlayOptions(dirs[:len(lower)], dirs[len(lower)], dirs[len(lower)+1])
	}
	if len(options) >= os.Getpagesize() {
		return fmt.Errorf("%d layers are more than one mount takes", len(lower))
	}
	return unix.Mount("overlay", target, "overlay", unix.MS_NODEV, options)
}

func overlayOptions(lower []string, upper, work string) string {
	return "lowerdir=" + strings.Join(lower, ":") + ",upperdir=" + upper + ",workdir=" + work
}

// openAll opens directories and returns short paths that lead to them until release is called.
func openAll(dirs []string) (short []string, release func(), err error) {
	var fds []int
	release = func() {
		for _, fd := range fds {
			unix.Close(fd) // opened with O_PATH: nothing to lose
		}
	}
	for _, dir := range dirs {
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			release()
			return nil, nil, fmt.Errorf("open layer: %w", err)
		}
		fds = append(fds, fd)
		short = append(short, "/proc/self/fd/"+strconv.Itoa(fd))
	}
	return short, release, nil
}

// Unmount takes an instance's root away with all it wrote. An instance without one is no error.
func (s *Store) Unmount(_ context.Context, instance string) error {
	s.mu.Lock()
	m, ok := s.mounts[instance]
	s.mu.Unlock()
	if !ok {
		return nil
	}
	if err := detach(m.Target); err != nil {
		return fmt.Errorf("unmount root of %s: %w", instance, err)
	}
	return s.clearMount(m)
}

// detach unmounts target. Where somebody still has files open below, it leaves the tree at once and the kernel frees it later.
func detach(target string) error {
	err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) {
		err = unix.Unmount(target, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil // not mounted
	}
	return err
}

// clearMount removes what belongs to a mount that is gone, its record last.
func (s *Store) clearMount(m mountRecord) error {
	if err := os.RemoveAll(filepath.Join(s.cfg.InstancesDir, m.Instance)); err != nil {
		return fmt.Errorf("remove instance directory: %w", err)
	}
	if err := unix.Rmdir(m.Target); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Debug("Mount target stays", "target", m.Target, "err", err)
	}
	if err := os.Remove(s.mountPath(m.Instance)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove mount record: %w", err)
	}
	s.forgetMount(m.Instance)
	return nil
}

// Mounts returns the roots that are in place, by instance.
func (s *Store) Mounts() []Mounted {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Mounted, 0, len(s.mounts))
	for _, m := range s.mounts {
		list = append(list, Mounted{Instance: m.Instance, Image: m.Image, Digest: m.Digest.String(), Target: m.Target})
	}
	slices.SortFunc(list, func(a, b Mounted) int { return strings.Compare(a.Instance, b.Instance) })
	return list
}

// readMounts finds the mounts of earlier processes. One that is not in place any more, for the machine restarted or the process was
// killed in the middle, is cleared.
func (s *Store) readMounts() error {
	entries, err := os.ReadDir(s.path("mounts"))
	if err != nil {
		return fmt.Errorf("read mounts: %w", err)
	}
	for _, entry := range entries {
		if err := s.readMount(s.path("mounts", entry.Name())); err != nil {
			return err
		}
	}
	return s.clearStrays()
}

func (s *Store) readMount(path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read mounts: %w", err)
	}
	var m mountRecord
	if err := json.Unmarshal(content, &m); err != nil || s.mountPath(m.Instance) != path {
		s.log.Warn("Mount record dropped: it is damaged", "file", path, "err", err)
		return os.Remove(path)
	}
	mounted, err := mountinfo.Mounted(m.Target)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read mounts: %w", err)
	}
	if !mounted {
		return s.clearMount(m)
	}
	s.mounts[m.Instance] = m
	return nil
}

// clearStrays removes directories of instances that have no mount.
func (s *Store) clearStrays() error {
	entries, err := os.ReadDir(s.cfg.InstancesDir)
	if err != nil {
		return fmt.Errorf("read instance directories: %w", err)
	}
	for _, entry := range entries {
		if _, ok := s.mounts[entry.Name()]; ok || s.cfg.InstancesDir != s.path("instances") {
			continue // a directory given by the caller may hold what is not ours
		}
		if err := os.RemoveAll(s.path("instances", entry.Name())); err != nil {
			return fmt.Errorf("remove leftover: %w", err)
		}
	}
	return nil
}
