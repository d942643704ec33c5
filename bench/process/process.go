// Package process reads what a process uses from the kernel: CPU time and memory.
//
//	before, err := process.CPU(pid)
//	…
//	after, err := process.CPU(pid)
package process

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// clockTicks is the unit of the kernel's CPU times a second, the same on every architecture we run on.
	clockTicks = 100
	mega       = 1e6
	kilobyte   = 1024
)

// CPU returns the CPU time that a process has used, in user and kernel mode.
func CPU(pid int) (time.Duration, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("read CPU time: %w", err)
	}
	_, rest, _ := strings.Cut(string(data), ") ") // the name before it may hold anything
	fields := strings.Fields(rest)
	const user, system = 11, 12
	if len(fields) <= system {
		return 0, fmt.Errorf("read CPU time of %d: %q", pid, data)
	}
	var ticks int
	for _, i := range []int{user, system} {
		n, err := strconv.Atoi(fields[i])
		if err != nil {
			return 0, fmt.Errorf("read CPU time: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / clockTicks, nil
}

// Idle returns for how long cores had nothing to do since the machine was started, all of them when none are named.
func Idle(cores []int) (time.Duration, error) {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, fmt.Errorf("read idle time: %w", err)
	}
	names := []string{"cpu"}
	if len(cores) > 0 {
		names = nil
	}
	for _, core := range cores {
		names = append(names, "cpu"+strconv.Itoa(core))
	}
	var ticks int
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		const idle, waiting = 4, 5
		if len(fields) <= waiting || !slices.Contains(names, fields[0]) {
			continue
		}
		for _, i := range []int{idle, waiting} {
			n, err := strconv.Atoi(fields[i])
			if err != nil {
				return 0, fmt.Errorf("read idle time: %w", err)
			}
			ticks += n
		}
	}
	return time.Duration(ticks) * time.Second / clockTicks, nil
}

// Memory is what a process has in memory, in millions of bytes, everything it shares counted.
type Memory struct {
	Resident  float64 // all of it
	Anonymous float64 // its own: heap and stacks
	File      float64 // pages of files that it maps: the kernel takes them back when it needs them
}

// ReadMemory returns what a process has in memory.
func ReadMemory(pid int) (m Memory, err error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return m, fmt.Errorf("read memory: %w", err)
	}
	fields := map[string]*float64{"VmRSS": &m.Resident, "RssAnon": &m.Anonymous, "RssFile": &m.File}
	for line := range strings.Lines(string(data)) {
		name, rest, _ := strings.Cut(line, ":")
		field := fields[name]
		if field == nil {
			continue
		}
		n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
		if err != nil {
			return m, fmt.Errorf("read memory of %d: %q", pid, line)
		}
		*field = float64(n) * kilobyte / mega
	}
	return m, nil
}

// Resident returns a process's resident memory in millions of bytes.
func Resident(pid int) (float64, error) {
	m, err := ReadMemory(pid)
	return m.Resident, err
}
