package cluster

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// mountDisk mounts a disk in memory.
func mountDisk(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("disk", dir, "tmpfs", unix.MS_NOSUID, diskOptions(diskSize)); err != nil {
		return fmt.Errorf("mount disk: %w", err)
	}
	return nil
}

func diskOptions(size int64) string { return fmt.Sprintf("mode=755,size=%d", size) }

// unmountDisk takes a disk away, if it is there.
func unmountDisk(dir string) error {
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount disk: %w", err)
	}
	return nil
}

// DiskFull leaves no room on the host's disk. What is deleted makes room again.
func (h *Host) DiskFull() {
	h.net.tb.Helper()
	h.net.check(h.fillDisk())
}

// fillDisk makes the disk as large as what is on it.
func (h *Host) fillDisk() error {
	for deadline := time.Now().Add(patience); ; {
		var fs unix.Statfs_t
		if err := unix.Statfs(h.Data, &fs); err != nil {
			return fmt.Errorf("look at the disk: %w", err)
		}
		err := h.resize(int64(fs.Blocks-fs.Bfree) * fs.Bsize)
		if err == nil || time.Now().After(deadline) {
			return err // else more was written meanwhile
		}
	}
}

// DiskFree gives the host's disk its room again.
func (h *Host) DiskFree() {
	h.net.tb.Helper()
	h.net.check(h.resize(diskSize))
}

func (h *Host) resize(size int64) error {
	size = max(size, int64(os.Getpagesize())) // none at all would be no bound
	if err := unix.Mount("", h.Data, "", unix.MS_REMOUNT|unix.MS_NOSUID, diskOptions(size)); err != nil {
		return fmt.Errorf("resize disk: %w", err)
	}
	return nil
}
