package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// A host's first process is the test's own binary. It starts outside of the host's cgroup namespace, which has to be made once the
// process is in its cgroup, and executes itself again inside of it.
const (
	hostEnv  = "VORTEX_CLUSTER_HOST"  // the host's name
	groupEnv = "VORTEX_CLUSTER_GROUP" // its cgroup
	stageEnv = "VORTEX_CLUSTER_STAGE" // stageOutside or stageInside
)

const (
	stageOutside = "outside"
	stageInside  = "inside"
)

// initialized says that Init was called.
var initialized atomic.Bool

// Init has to be called first in TestMain. In a process that is to be a host's first one it never returns.
func Init() {
	initialized.Store(true)
	var err error
	switch os.Getenv(stageEnv) {
	case stageOutside:
		err = enterCgroup()
	case stageInside:
		err = settle(os.Getenv(hostEnv), os.Getenv(groupEnv))
		if err == nil {
			live()
		}
	default:
		return
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// enterCgroup waits until the process was put into its cgroup, makes that the root of a namespace, and begins anew within.
func enterCgroup() error {
	runtime.LockOSThread()
	if n, err := unix.Read(unix.Stdin, make([]byte, 1)); n != 1 || err != nil {
		return fmt.Errorf("wait for the cgroup: %w", err)
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("make cgroup namespace: %w", err)
	}
	if err := os.Setenv(stageEnv, stageInside); err != nil {
		return err
	}
	return syscall.Exec("/proc/self/exe", os.Args, os.Environ())
}

// settle makes the mounts of a host.
func settle(name, group string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts private: %w", err)
	}
	if err := join(os.Getpid(), filepath.Join(group, inner)); err != nil {
		return err
	}
	for _, h := range hierarchies() {
		if err := replaceRoot(h.path, group); err != nil {
			return fmt.Errorf("mount cgroups: %w", err)
		}
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := unix.Mount("run", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	if err := os.Mkdir("/run/lock", 0o1777); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	_, err := os.Stdout.WriteString(settled)
	return errors.Join(err, os.Stdout.Close())
}

// replaceRoot mounts a directory of a mount in the place of the mount.
func replaceRoot(mount, dir string) error {
	tree, err := unix.OpenTree(unix.AT_FDCWD, filepath.Join(mount, dir), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(tree) }()
	if err := unix.Unmount(mount, unix.MNT_DETACH); err != nil {
		return err
	}
	return unix.MoveMount(tree, "", unix.AT_FDCWD, mount, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// settled is what the first process says when the host is made.
const settled = "settled\n"

// live collects the orphans that end, as a first process must, until whoever made the host is gone. With the process the host ends: the
// kernel kills all that is left in it.
func live() {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGCHLD)
	go func() {
		_, _ = unix.Read(unix.Stdin, make([]byte, 1)) // nothing is ever written
		os.Exit(0)
	}()
	for range ended {
		for {
			if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
	}
}
