package oci

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// hastener shortens the first move of a process between cgroups of version 1. The kernel lets that move wait for a
// grace period of its read-copy-update, 4 to 16 ms; moves that follow within 10 ms wait no more. The runner moves the
// container's first process about that far into a start. So hasten asks for the grace period when the start begins, and it
// passes while the root is mounted and the runner loaded.
//
// The zero value does nothing, and so does one on a node with version 2, where the kernel makes the process in its cgroup.
type hastener struct {
	procs string     // cgroup.procs of the cgroup that this process is in; "" is none
	slot  sync.Mutex // held while the grace period is being asked for, and after close
	ended sync.Once
}

// newHastener returns the hastener of a node.
func newHastener(cgroups cgroups) *hastener {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil || cgroups.v2 {
		return &hastener{}
	}
	return &hastener{procs: ownProcs(cgroupRoot, string(own))}
}

// ownProcs returns the cgroup.procs of the first cgroup of version 1 in own, which has the form of /proc/self/cgroup, that can be
// written below root.
func ownProcs(root, own string) string {
	const fields = 3 // number:controllers:path
	for line := range strings.Lines(own) {
		f := strings.SplitN(strings.TrimSpace(line), ":", fields)
		if len(f) < fields || !slices.Contains([]string{"pids", "memory", "cpu,cpuacct", "cpu"}, f[1]) {
			continue // controllers that do nothing when a process is moved to where it is
		}
		procs := filepath.Join(root, f[1], f[2], "cgroup.procs")
		if file, err := os.OpenFile(procs, os.O_WRONLY, 0); err == nil {
			_ = file.Close()
			return procs
		}
	}
	return ""
}

// hasten asks for the grace period and returns at once.
func (h *hastener) hasten() {
	if h.procs == "" || !h.slot.TryLock() {
		return
	}
	go func() {
		defer h.slot.Unlock()
		// This process is moved to where it is: nothing changes. A failure costs the time that would have been saved.
		_ = os.WriteFile(h.procs, []byte(strconv.Itoa(os.Getpid())), 0)
	}()
}

// close returns when nothing is being asked for and nothing will be. It may be called more than once.
func (h *hastener) close() { h.ended.Do(h.slot.Lock) }
