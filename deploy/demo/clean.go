package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// clean stops everything and proves that nothing is left.
func (d *demo) clean() error {
	bridge := d.bridge()
	if err := d.vortex.Destroy(); err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	var left []string
	deadline := time.Now().Add(5 * time.Second) // the kernel takes cgroups and namespaces away in its own time
	for {
		left = d.leftovers(bridge)
		if len(left) == 0 || time.Now().After(deadline) {
			break
		}
		<-time.After(20 * time.Millisecond)
	}
	if len(left) > 0 {
		return fmt.Errorf("left behind: %s", strings.Join(left, "; "))
	}
	d.say("cleaned up: no process, mount, cgroup, network or file is left")
	return nil
}

// bridge is the interface that the instances' addresses are reached through; "" when they need none.
func (d *demo) bridge() string {
	if d.state == nil {
		return ""
	}
	ip := net.ParseIP(d.state.only().IPAddress)
	links, err := net.Interfaces()
	if ip == nil || err != nil {
		return ""
	}
	for _, link := range links {
		addrs, _ := link.Addrs()
		for _, addr := range addrs {
			if subnet, ok := addr.(*net.IPNet); ok && subnet.Contains(ip) && strings.HasPrefix(link.Name, "vx") {
				return link.Name
			}
		}
	}
	return ""
}

// leftovers names what the demo's Vortex made and did not take away.
func (d *demo) leftovers(bridge string) (left []string) {
	if _, err := net.InterfaceByName(bridge); bridge != "" && err == nil {
		left = append(left, "network "+bridge)
	}
	if _, err := os.Stat(d.vortex.Data); !errors.Is(err, os.ErrNotExist) {
		left = append(left, "directory "+d.vortex.Data)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), d.vortex.Data) {
		left = append(left, "mounts below "+d.vortex.Data)
	}
	left = append(left, processes(d.vortex.Data)...)
	if d.state != nil {
		for _, id := range d.state.instances() {
			left = append(left, cgroups(id)...)
		}
	}
	return left
}

// processes finds programs that run from a directory or were told about it.
func processes(dir string) (left []string) {
	entries, _ := filepath.Glob("/proc/[0-9]*")
	for _, entry := range entries {
		exe, _ := os.Readlink(filepath.Join(entry, "exe"))
		command, _ := os.ReadFile(filepath.Join(entry, "cmdline"))
		if strings.HasPrefix(exe, dir) || strings.Contains(string(command), dir) {
			left = append(left, "process "+filepath.Base(entry))
		}
	}
	return left
}

// cgroups finds those of an instance, in both versions' trees.
func cgroups(id string) (left []string) {
	for _, pattern := range []string{"/sys/fs/cgroup/*/" + id, "/sys/fs/cgroup/*/*/" + id} {
		found, _ := filepath.Glob(pattern)
		left = append(left, found...)
	}
	return left
}
