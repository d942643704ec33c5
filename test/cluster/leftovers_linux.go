package cluster

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// sweep removes what tests left behind that were killed: their hosts ended with them, their cgroups and disks did not. What
// cannot be removed is left to the next.
func sweep() {
	for _, h := range hierarchies() {
		for _, dir := range abandoned(h.path) {
			name := filepath.Base(dir)
			_ = freeze(name, false)
			_ = removeCgroup(name)
		}
	}
	for _, dir := range abandoned(os.TempDir()) {
		disks, _ := filepath.Glob(filepath.Join(dir, "*"))
		for _, disk := range disks {
			_ = unmountDisk(disk)
		}
		_ = os.RemoveAll(dir)
	}
}

// abandoned lists the directories in dir that bear the name of a process that is gone.
func abandoned(dir string) (list []string) {
	found, _ := filepath.Glob(filepath.Join(dir, prefix+"*"))
	for _, path := range found {
		owner, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(path), prefix), "-")
		if _, err := strconv.Atoi(owner); err != nil {
			continue
		}
		if _, err := os.Stat(filepath.Join("/proc", owner)); os.IsNotExist(err) {
			list = append(list, path)
		}
	}
	return list
}
