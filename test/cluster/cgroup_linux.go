package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// hierarchy is a mounted tree of cgroups.
type hierarchy struct {
	path string
	v2   bool
}

// hierarchies returns all that are mounted: several of version 1, one of version 2, or both.
var hierarchies = sync.OnceValue(func() (list []hierarchy) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	const target = 4 // the field with the mount point
	for line := range strings.Lines(string(mounts)) {
		fields, rest, _ := strings.Cut(line, " - ")
		kind, _, _ := strings.Cut(rest, " ")
		where := strings.Fields(fields)
		if (kind == "cgroup" || kind == "cgroup2") && len(where) > target {
			list = append(list, hierarchy{path: where[target], v2: kind == "cgroup2"})
		}
	}
	return list
})

// inner is the cgroup, below the host's root, that holds what runs in the host outside of containers: version 2 wants
// processes at the leaves.
const inner = "host"

// makeCgroup makes a host's cgroup, which the host will take for the root, in every hierarchy.
func makeCgroup(name string) error {
	for _, h := range hierarchies() {
		for _, dir := range []string{filepath.Join(h.path, name), filepath.Join(h.path, name, inner)} {
			if err := os.Mkdir(dir, 0o755); err != nil {
				return fmt.Errorf("make cgroup: %w", err)
			}
			prepare(dir)
		}
		if h.v2 {
			delegate(h.path)
		}
	}
	return nil
}

// prepare gives a cgroup of version 1 what the kernel wants before a process may be in it (processors and memory nodes), and what
// real-time threads need. Where a file does not exist there is nothing to do.
func prepare(dir string) {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		if above, err := os.ReadFile(filepath.Join(filepath.Dir(dir), file)); err == nil {
			_ = overwrite(filepath.Join(dir, file), strings.TrimSpace(string(above)))
		}
	}
	const realTime = "30000" // microseconds of each second; what all hosts have together must be less than 950,000
	_ = overwrite(filepath.Join(dir, "cpu.rt_runtime_us"), realTime)
}

// delegate hands the root's controllers of version 2 down, as far as it may.
func delegate(root string) {
	known, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if err != nil {
		return
	}
	for controller := range strings.FieldsSeq(string(known)) {
		_ = overwrite(filepath.Join(root, "cgroup.subtree_control"), "+"+controller)
	}
}

// overwrite writes a file that exists.
func overwrite(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// join moves a process into a cgroup of every hierarchy.
func join(pid int, name string) error {
	for _, h := range hierarchies() {
		if err := overwrite(filepath.Join(h.path, name, "cgroup.procs"), strconv.Itoa(pid)); err != nil {
			return fmt.Errorf("join cgroup: %w", err)
		}
	}
	return nil
}

// freezer is how a cgroup is frozen: what is written where, and what another file says when that has happened.
type freezer struct {
	write, read string
	values      [2]string // thawed, frozen
	signs       [2]string
}

// Version 2 comes first: a frozen process of version 1 cannot even be killed.
var freezers = []freezer{
	{"cgroup.freeze", "cgroup.events", [2]string{"0", "1"}, [2]string{"frozen 0", "frozen 1"}},
	{"freezer.state", "freezer.state", [2]string{"THAWED", "FROZEN"}, [2]string{"THAWED", "FROZEN"}},
}

// freeze stops or continues every process of a cgroup and of those below, and returns when that has happened.
func freeze(name string, frozen bool) error {
	for _, f := range freezers {
		for _, h := range hierarchies() {
			dir := filepath.Join(h.path, name)
			if _, err := os.Stat(filepath.Join(dir, f.write)); err == nil {
				return f.set(dir, frozen)
			}
		}
	}
	return errors.New("no cgroup here can be frozen")
}

func (f freezer) set(dir string, frozen bool) error {
	state := 0
	if frozen {
		state = 1
	}
	for deadline := time.Now().Add(patience); ; {
		if err := overwrite(filepath.Join(dir, f.write), f.values[state]); err != nil {
			return fmt.Errorf("freeze: %w", err)
		}
		now, err := os.ReadFile(filepath.Join(dir, f.read))
		switch {
		case err != nil:
			return fmt.Errorf("freeze: %w", err)
		case strings.Contains(string(now), f.signs[state]):
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("freeze: the cgroup says %q, not %q", strings.TrimSpace(string(now)), f.signs[state])
		}
		time.Sleep(time.Millisecond) // there is nothing to wait on
	}
}

// removeCgroup removes a host's cgroups with all below, whose processes are gone or going.
func removeCgroup(name string) error {
	var errs []error
	for _, h := range hierarchies() {
		errs = append(errs, removeBelow(filepath.Join(h.path, name)))
	}
	return errors.Join(errs...)
}

func removeBelow(root string) error {
	var dirs []string
	_ = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	slices.Reverse(dirs) // deepest first
	for _, dir := range dirs {
		err := unix.Rmdir(dir)
		for deadline := time.Now().Add(patience); errors.Is(err, unix.EBUSY) && time.Now().Before(deadline); err = unix.Rmdir(dir) {
			time.Sleep(time.Millisecond) // a process that is dead may still be counted
		}
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove cgroup %s: %w", dir, err)
		}
	}
	return nil
}
