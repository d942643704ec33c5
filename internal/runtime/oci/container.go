package oci

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"vortex"
	"vortex/internal/runtime"
)

const (
	defaultPids   = 4096
	cpuPeriod     = 100_000 // microseconds
	sharesPerCore = 1024
	minShares     = 2
	// hardFiles and softFiles limit open files, as far as the agent's own limit goes. The soft one is low enough for programs
	// that walk over all of them, and high enough for a server.
	hardFiles = 1 << 20
	softFiles = 1 << 16
	// oomScore makes the kernel prefer an instance to the agent when the node's memory is short.
	oomScore    = 300
	defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// container is what a container's configuration is made of.
type container struct {
	spec    runtime.InstanceSpec
	image   ImageConfig
	net     Attachment
	dir     string
	root    string
	cgroups cgroups
}

func (c *container) hostname() string { return cmp.Or(c.spec.Hostname, c.spec.ID) }

// write writes config.json and the files that are bound into the container.
func (c *container) write() error {
	process, err := c.process()
	if err != nil {
		return err
	}
	mounts, err := c.mounts()
	if err != nil {
		return err
	}
	oci := specs.Spec{
		Version: specs.Version, Process: process, Root: &specs.Root{Path: c.root}, Hostname: c.hostname(), Mounts: mounts,
		Annotations: c.spec.Labels, Linux: c.linux(),
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(oci); err != nil {
		return fmt.Errorf("encode container configuration: %w", err)
	}
	if err := os.WriteFile(filepath.Join(c.dir, "hostname"), []byte(c.hostname()+"\n"), 0o644); err != nil { //nolint:gosec // read in the container
		return fmt.Errorf("write hostname: %w", err)
	}
	if err := os.WriteFile(filepath.Join(c.dir, "config.json"), b.Bytes(), 0o600); err != nil {
		return fmt.Errorf("write container configuration: %w", err)
	}
	return nil
}

// process returns the container's first process.
func (c *container) process() (*specs.Process, error) {
	args := c.args()
	if len(args) == 0 {
		return nil, vortex.Errorf(vortex.Invalid, "image %s names no command: set command in the app's spec", c.spec.Image)
	}
	user, err := findUser(c.root, cmp.Or(c.spec.User, c.image.User))
	if err != nil {
		return nil, err
	}
	env, err := c.env()
	if err != nil {
		return nil, err
	}
	score := oomScore
	files, err := fileLimit()
	if err != nil {
		return nil, err
	}
	return &specs.Process{
		User: user, Args: args, Env: env, Cwd: cmp.Or(c.spec.WorkingDir, c.image.WorkingDir, "/"),
		Capabilities: capabilities(user), NoNewPrivileges: true, OOMScoreAdj: &score,
		Rlimits: []specs.POSIXRlimit{files},
	}, nil
}

// fileLimit returns the limit of open files. The agent's own may be a limit that not even root may raise.
func fileLimit() (specs.POSIXRlimit, error) {
	var own unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &own); err != nil {
		return specs.POSIXRlimit{}, fmt.Errorf("read own limit of files: %w", err)
	}
	hard := min(own.Max, hardFiles)
	return specs.POSIXRlimit{Type: "RLIMIT_NOFILE", Hard: hard, Soft: min(hard, softFiles)}, nil
}

// args returns the command line. A command of the spec replaces the image's entrypoint and cmd; arguments replace
// the image's cmd.
func (c *container) args() []string {
	switch {
	case len(c.spec.Command) > 0:
		return slices.Concat(c.spec.Command, c.spec.Args)
	case len(c.spec.Args) > 0:
		return slices.Concat(c.image.Entrypoint, c.spec.Args)
	default:
		return slices.Concat(c.image.Entrypoint, c.image.Cmd)
	}
}

// env returns the environment: the image's, the spec's over it, and the container's own address where the spec wants it.
func (c *container) env() ([]string, error) {
	var address []string
	for _, name := range c.spec.AddressEnv {
		if c.net.IP == "" {
			return nil, vortex.Errorf(vortex.Invalid, "instance %s wants its own address in %s: it has none without a container network", c.spec.ID, name)
		}
		address = append(address, name+"="+c.net.IP)
	}
	return mergeEnv([]string{defaultPath, "HOSTNAME=" + c.hostname()}, c.image.Env, c.spec.Env, address), nil
}

// mergeEnv joins environments; a later value of a name replaces an earlier one.
func mergeEnv(envs ...[]string) []string {
	var merged []string
	at := map[string]int{}
	for _, kv := range slices.Concat(envs...) {
		name, _, _ := strings.Cut(kv, "=")
		if i, ok := at[name]; ok {
			merged[i] = kv
			continue
		}
		at[name] = len(merged)
		merged = append(merged, kv)
	}
	return merged
}

// mounts returns the kernel's file systems, the network's files and the spec's directories.
func (c *container) mounts() ([]specs.Mount, error) {
	mounts := slices.Concat(kernelMounts, c.cgroups.mounts(c.spec.ID))
	for _, f := range []struct{ target, source string }{
		{"/etc/hosts", c.net.Hosts}, {"/etc/resolv.conf", c.net.ResolvConf}, {"/etc/hostname", filepath.Join(c.dir, "hostname")},
	} {
		if f.source != "" {
			mounts = append(mounts, specs.Mount{Destination: f.target, Type: "bind", Source: f.source, Options: []string{"bind", "rprivate"}})
		}
	}
	for _, m := range c.spec.Mounts {
		if !filepath.IsAbs(m.Source) || !filepath.IsAbs(m.Target) {
			return nil, vortex.Errorf(vortex.Invalid, "mount %q at %q: want two absolute paths", m.Source, m.Target)
		}
		if _, err := os.Stat(m.Source); err != nil {
			return nil, vortex.Errorf(vortex.Invalid, "mount %s: %w", m.Target, err)
		}
		options := []string{"rbind", "rprivate"}
		if m.ReadOnly { // not recursive: what is mounted below would stay writable
			options = []string{"bind", "rprivate", "ro"}
		}
		mounts = append(mounts, specs.Mount{Destination: filepath.Clean(m.Target), Type: "bind", Source: m.Source, Options: options})
	}
	return mounts, nil
}

// linux returns the namespaces, limits and protections.
func (c *container) linux() *specs.Linux {
	return &specs.Linux{
		CgroupsPath: filepath.Join(c.cgroups.parent, c.spec.ID), Resources: c.resources(), RootfsPropagation: "rprivate",
		Seccomp: seccompProfile(), MaskedPaths: maskedPaths, ReadonlyPaths: readonlyPaths,
		Namespaces: []specs.LinuxNamespace{
			{Type: specs.PIDNamespace},
			{Type: specs.MountNamespace},
			{Type: specs.IPCNamespace},
			{Type: specs.UTSNamespace},
			{Type: specs.CgroupNamespace},
			{Type: specs.NetworkNamespace, Path: c.net.NetNS},
		},
		Sysctl: map[string]string{"net.ipv4.ip_unprivileged_port_start": "0"}, // port 80 without root
	}
}

func (c *container) resources() *specs.LinuxResources {
	pids := int64(cmp.Or(c.spec.PidsLimit, defaultPids))
	r := &specs.LinuxResources{
		Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}, // but the default ones
		Pids:    &specs.LinuxPids{Limit: &pids}, CPU: &specs.LinuxCPU{}, Memory: &specs.LinuxMemory{},
	}
	if n := c.spec.CPUShares; n > 0 {
		shares := max(n*sharesPerCore/1000, minShares)
		r.CPU.Shares = &shares
	}
	if n := c.spec.CPUMillis; n > 0 {
		quota, period := max(int64(n)*cpuPeriod/1000, 1000), uint64(cpuPeriod)
		r.CPU.Quota, r.CPU.Period = &quota, &period
	}
	if n := int64(c.spec.MemoryBytes); n > 0 {
		r.Memory.Limit = &n
		if c.cgroups.swapLimit() {
			r.Memory.Swap = &n // memory and swap together: no swap
		}
	}
	return r
}
