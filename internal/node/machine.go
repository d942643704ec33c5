//go:build linux

package node

import (
	"cmp"
	"net"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"vortex"
)

// machine describes this machine as a node.
func machine(cfg Config) vortex.NodeRecord {
	rec := vortex.NodeRecord{
		ID: cfg.Name, Name: cfg.Name, Address: cmp.Or(cfg.Cluster.host(), address()),
		CPUMillis: uint64(runtime.NumCPU()) * 1000,
		OS:        runtime.GOOS, Arch: runtime.GOARCH, Version: cfg.Version, Labels: cfg.Labels, Drivers: []string{}, Subnet: cfg.Subnet,
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		rec.MemoryBytes = info.Totalram * uint64(info.Unit)
	}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		rec.Kernel = unix.ByteSliceToString(name.Release[:])
	}
	return rec
}

// address is the machine's first address that is not loopback, else the loopback's.
func address() string {
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.IsGlobalUnicast() && ip.IP.To4() != nil {
			return ip.IP.String()
		}
	}
	return "127.0.0.1"
}

// lock takes the data directory for this process.
func lock(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, vortex.Errorf(vortex.Unavailable, "the data directory cannot be made: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, vortex.Errorf(vortex.Unavailable, "the data directory cannot be written: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, vortex.Errorf(vortex.Unavailable,
			"another vortex uses %s; stop it, or choose another directory with --data", dir)
	}
	return f, nil
}
