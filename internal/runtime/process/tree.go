package process

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"vortex"
	"vortex/internal/runtime"
)

// ticksPerSecond is the unit of times in /proc: USER_HZ, which is 100 on every Linux architecture Go runs on.
const ticksPerSecond = 100

// Fields of /proc/PID/stat after the name, counted from 0.
const (
	fieldSession  = 3
	fieldUserTime = 11
	fieldReaped   = 14 // the last of user, system, and both of reaped children
	fieldThreads  = 17
	fieldResident = 21
)

// Stats implements runtime.Statter: the sum over the first process and its descendants.
func (d *Driver) Stats(ctx context.Context, id string) (runtime.Stats, error) {
	in, err := d.set.Running(ctx, id)
	if err != nil {
		return runtime.Stats{}, err
	}
	st := runtime.Stats{At: time.Now()}
	for _, pid := range tree(in.PID) {
		f := stat(pid)
		if f == nil {
			continue // it ended meanwhile
		}
		for _, ticks := range f[fieldUserTime : fieldReaped+1] {
			st.CPU += time.Duration(number(ticks)) * time.Second / ticksPerSecond
		}
		st.Pids += uint64(number(f[fieldThreads]))
		st.MemoryBytes += uint64(number(f[fieldResident])) * uint64(os.Getpagesize())
	}
	if st.Pids == 0 {
		return runtime.Stats{}, vortex.Errorf(vortex.Precondition, "instance %s does not run", id)
	}
	return st, nil
}

// stat returns the fields of /proc/PID/stat after the name, or nil.
func stat(pid int) []string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	s := string(b)
	f := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
	if len(f) <= fieldResident {
		return nil
	}
	return f
}

// number parses a field of the kernel's; nothing else comes.
func number(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// tree returns pid and its descendants.
func tree(pid int) []int {
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", all[i]))
		if err != nil {
			continue
		}
		for _, f := range files {
			b, _ := os.ReadFile(f) // a process that ended meanwhile has none
			for child := range strings.FieldsSeq(string(b)) {
				all = append(all, int(number(child)))
			}
		}
	}
	return all
}

// session returns the processes whose session leader is or was pid.
func session(pid int) []int {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil
	}
	var found []int
	for _, d := range dirs {
		p := int(number(filepath.Base(d)))
		if f := stat(p); f != nil && int(number(f[fieldSession])) == pid {
			found = append(found, p)
		}
	}
	return found
}
