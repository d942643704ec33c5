package node

import (
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// leanAfterStart gives back what only the start needed: garbage, and those pages of the program that were read once, such as the helpers in it. What is
// needed again of the program comes from the page cache, in microseconds.
func leanAfterStart() {
	if live() <= heapRoom { // more is the store's, which has just seen to it
		debug.FreeOSMemory()
	}
	for from, to := range programPages() {
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED) // they stay: that is no failure
	}
}

// programPages yields the ranges of memory that are this program's file and cannot be written.
func programPages() func(yield func(from, to uintptr) bool) {
	return func(yield func(from, to uintptr) bool) {
		program, err1 := os.Executable()
		maps, err2 := os.ReadFile("/proc/self/maps")
		if err1 != nil || err2 != nil {
			return
		}
		const rights, path = 1, 5 // fields of a mapping
		for line := range strings.Lines(string(maps)) {
			fields := strings.Fields(line)
			if len(fields) <= path || fields[path] != program || strings.Contains(fields[rights], "w") {
				continue
			}
			first, last, _ := strings.Cut(fields[0], "-")
			from, err1 := strconv.ParseUint(first, 16, 64)
			to, err2 := strconv.ParseUint(last, 16, 64)
			if err1 == nil && err2 == nil && !yield(uintptr(from), uintptr(to)) {
				return
			}
		}
	}
}
