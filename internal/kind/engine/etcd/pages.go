package etcd

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// pageOut lets the kernel take back the pages of a mapped file. etcd maps its database and reads all of it when it
// starts, and we read it once more into memory; after that only compaction and readers of the past need it, who get it
// from the disk again. Where that is not possible nothing happens.
func pageOut(path string) {
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return
	}
	defer func() { _ = maps.Close() }()
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		if !strings.HasSuffix(lines.Text(), " "+path) {
			continue
		}
		var from, to uintptr
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x", &from, &to); err == nil {
			// It only moves pages to where they came from: were the mapping gone by now, nothing would be lost.
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_PAGEOUT)
		}
	}
}
