package oci

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"vortex/internal/runtime"
)

const cgroupRoot = "/sys/fs/cgroup"

// killTime is how long a killed process may take to be gone.
const killTime = 5 * time.Second

// cgroups finds the cgroups of containers, in version 1 (a tree for each controller) or 2 (one tree).
type cgroups struct {
	v2     bool
	parent string
}

func findCgroups(parent string) cgroups {
	var st unix.Statfs_t
	err := unix.Statfs(cgroupRoot, &st)
	return cgroups{v2: err == nil && st.Type == unix.CGROUP2_SUPER_MAGIC, parent: parent}
}

// path returns a controller's file for an instance.
func (c cgroups) path(controller, id, file string) string {
	if c.v2 {
		controller = ""
	}
	return filepath.Join(cgroupRoot, controller, c.parent, id, file)
}

// oomFile returns the file that counts the processes the kernel killed for want of memory.
func (c cgroups) oomFile(id string) string {
	if c.v2 {
		return c.path("", id, "memory.events")
	}
	return c.path("memory", id, "memory.oom_control")
}

// mounts show a container its own limits, read-only. Of version 1 only the controllers that language runtimes look at are
// mounted: each one costs a tenth of the time a container takes to start.
func (c cgroups) mounts(id string) []specs.Mount {
	if c.v2 {
		return []specs.Mount{{
			Destination: cgroupRoot, Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"},
		}}
	}
	mounts := []specs.Mount{{
		Destination: cgroupRoot, Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "nodev", "mode=755", "size=64k"},
	}}
	for _, controller := range []string{"cpu", "memory"} {
		mounts = append(mounts, specs.Mount{
			Destination: filepath.Join(cgroupRoot, controller), Type: "bind", Source: c.path(controller, id, ""),
			Options: []string{"bind", "nosuid", "noexec", "nodev", "ro"},
		})
	}
	return mounts
}

// swapLimit reports whether the use of swap can be limited.
func (c cgroups) swapLimit() bool {
	if c.v2 {
		return true
	}
	_, err := os.Stat(filepath.Join(cgroupRoot, "memory", "memory.memsw.limit_in_bytes"))
	return err == nil
}

// dirs returns every directory that holds the instance's processes.
func (c cgroups) dirs(id string) []string {
	if id == "" || id == "." || id == "/" {
		return nil
	}
	if c.v2 {
		return []string{c.path("", id, "")}
	}
	found, err := filepath.Glob(filepath.Join(cgroupRoot, "*", c.parent, id))
	if err != nil {
		return nil
	}
	return found
}

// kill ends every process of the instance and waits until they are gone.
func (c cgroups) kill(id string) {
	deadline := time.Now().Add(killTime)
	for _, dir := range c.dirs(id) {
		for time.Now().Before(deadline) && killOnce(dir, deadline) {
			continue
		}
	}
}

// killOnce kills the processes in dir, waits for them and reports whether there was one.
func killOnce(dir string, deadline time.Time) bool {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return false
	}
	var fds []int
	for f := range bytes.FieldsSeq(b) {
		pid, err := strconv.Atoi(string(f))
		if err != nil {
			continue
		}
		if fd, err := unix.PidfdOpen(pid, 0); err == nil {
			_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
			fds = append(fds, fd)
		}
	}
	for _, fd := range fds {
		left := max(time.Until(deadline), 0)
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds()))
		_ = unix.Close(fd)
	}
	return len(fds) > 0
}

// remove deletes the instance's cgroups with what is below them. None is no error.
func (c cgroups) remove(id string) error {
	var errs []error
	for _, dir := range c.dirs(id) {
		err := removeTree(dir)
		if errors.Is(err, unix.EBUSY) {
			c.kill(id)
			err = removeTree(dir)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// removeTree removes a cgroup, deepest first: a cgroup's files go with it.
func removeTree(dir string) error {
	err := unix.Rmdir(dir)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	below, rerr := os.ReadDir(dir)
	if rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
		return fmt.Errorf("read cgroup: %w", rerr)
	}
	for _, d := range below {
		if d.IsDir() {
			if err := removeTree(filepath.Join(dir, d.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove cgroup %s: %w", dir, err)
	}
	return nil
}

// stats reads what the instance uses now.
func (c cgroups) stats(id string) (runtime.Stats, error) {
	st := runtime.Stats{At: time.Now()}
	var errs [3]error
	var memory, inactive, cpu uint64
	if c.v2 {
		cpu, errs[0] = keyed(c.path("", id, "cpu.stat"), "usage_usec")
		cpu *= uint64(time.Microsecond)
		memory, errs[1] = number(c.path("", id, "memory.current"))
		inactive, _ = keyed(c.path("", id, "memory.stat"), "inactive_file")
	} else {
		cpu, errs[0] = number(c.path("cpuacct", id, "cpuacct.usage"))
		memory, errs[1] = number(c.path("memory", id, "memory.usage_in_bytes"))
		inactive, _ = keyed(c.path("memory", id, "memory.stat"), "total_inactive_file")
	}
	st.Pids, errs[2] = number(c.path("pids", id, "pids.current"))
	st.CPU = time.Duration(cpu)
	st.MemoryBytes = memory - min(inactive, memory)
	if err := errors.Join(errs[:]...); err != nil {
		return runtime.Stats{}, fmt.Errorf("read cgroup statistics: %w", err)
	}
	return st, nil
}

func number(path string) (uint64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(string(bytes.TrimSpace(b)), 10, 64)
}

// keyed returns the number after key in a file of "key number" lines.
func keyed(path, key string) (uint64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(b) {
		if k, v, ok := bytes.Cut(line, []byte(" ")); ok && string(k) == key {
			return strconv.ParseUint(string(bytes.TrimSpace(v)), 10, 64)
		}
	}
	return 0, fmt.Errorf("%s has no %s", path, key)
}
