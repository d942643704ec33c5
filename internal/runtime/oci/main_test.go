package oci_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"vortex/internal/runtime"
	"vortex/internal/runtime/oci"
	"vortex/internal/runtime/runtimetest"
)

// built holds the helpers and the image that TestMain makes once.
var built struct {
	dir, shim, runner, image string
}

// cgroupParent keeps the tests apart from everything else on the machine.
var cgroupParent = fmt.Sprintf("/vortex-test-%d", os.Getpid())

func TestMain(m *testing.M) {
	if dir := os.Getenv("VORTEX_TEST_AGENT"); dir != "" {
		os.Exit(agentProcess(dir))
	}
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	if os.Geteuid() != 0 {
		fmt.Println("skipped: containers need root")
		return 0
	}
	dir, err := os.MkdirTemp("", "vortex-oci-")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer os.RemoveAll(dir)
	defer removeCgroupParents()
	if err := build(dir); err != nil {
		fmt.Println(err)
		return 1
	}
	return m.Run()
}

// build compiles the helpers and lays out the image's root.
func build(dir string) error {
	built.dir, built.shim, built.runner, built.image = dir, filepath.Join(dir, "shim"), filepath.Join(dir, "runner"), filepath.Join(dir, "image")
	if err := goBuild("0", "-o", built.shim, "-ldflags", "-s -w", "vortex/internal/runtime/shim/cmd"); err != nil {
		return err
	}
	if err := goBuild("1", "-o", built.runner, "-tags", "netgo,osusergo,seccomp",
		"-ldflags", `-s -w -linkmode external -extldflags "-static"`, "vortex/internal/runtime/oci/runner"); err != nil {
		return err
	}
	for _, d := range []string{"etc", "tmp"} {
		if err := os.MkdirAll(filepath.Join(built.image, d), 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod(filepath.Join(built.image, "tmp"), 0o1777); err != nil {
		return err
	}
	for name, text := range map[string]string{
		"passwd": "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n", "group": "root:x:0:\napp:x:1000:\nextra:x:3000:app\n",
	} {
		if err := os.WriteFile(filepath.Join(built.image, "etc", name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	_, err := runtimetest.BuildProbe(built.image)
	return err
}

func goBuild(cgo string, args ...string) error {
	c := exec.Command("go", append([]string{"build", "-trimpath"}, args...)...)
	c.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w: %s", err, out)
	}
	return nil
}

func removeCgroupParents() {
	parents, _ := filepath.Glob("/sys/fs/cgroup/*" + cgroupParent)
	for _, p := range append(parents, "/sys/fs/cgroup"+cgroupParent) {
		_ = unix.Rmdir(p)
	}
}

// overlays mounts the test image as an overlay, as the image store does.
type overlays struct {
	dir string
	mu  sync.Mutex
}

func (o *overlays) Mount(_ context.Context, ref, id, target string) (oci.ImageConfig, error) {
	if ref != "probe" {
		return oci.ImageConfig{}, fmt.Errorf("no image %q", ref)
	}
	upper, work := filepath.Join(o.dir, id, "upper"), filepath.Join(o.dir, id, "work")
	for _, d := range []string{upper, work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return oci.ImageConfig{}, err
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := os.WriteFile(filepath.Join(o.dir, id, "target"), []byte(target), 0o600); err != nil {
		return oci.ImageConfig{}, err
	}
	data := "lowerdir=" + built.image + ",upperdir=" + upper + ",workdir=" + work
	if err := unix.Mount("overlay", target, "overlay", 0, data); err != nil {
		return oci.ImageConfig{}, fmt.Errorf("mount overlay: %w", err)
	}
	return oci.ImageConfig{Entrypoint: []string{"/probe"}, Cmd: []string{"sleep"}, Env: []string{"FROM_IMAGE=1"}, Digest: "sha256:test"}, nil
}

func (o *overlays) Unmount(_ context.Context, id string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	target, err := os.ReadFile(filepath.Join(o.dir, id, "target"))
	if err != nil {
		return nil
	}
	if err := unix.Unmount(string(target), unix.MNT_DETACH); err != nil && err != unix.EINVAL && err != unix.ENOENT {
		return err
	}
	return os.RemoveAll(filepath.Join(o.dir, id))
}

// veths gives every instance a network namespace with a veth pair of its own.
type veths struct {
	mu   sync.Mutex
	next int
}

var shared veths // two drivers in one process share the address space

func (v *veths) Attach(ctx context.Context, id string, _ oci.AttachSpec) (oci.Attachment, error) {
	v.mu.Lock()
	v.next++
	n := v.next
	v.mu.Unlock()
	host := fmt.Sprintf("vt%d-%d", os.Getpid()%100000, n)
	peer := host + "p"
	gateway, ip := fmt.Sprintf("10.213.%d.%d", n/60, n%60*4+1), fmt.Sprintf("10.213.%d.%d", n/60, n%60*4+2)
	ns := nsName(id)
	for _, args := range [][]string{
		{"netns", "add", ns},
		{"link", "add", host, "type", "veth", "peer", "name", peer},
		{"link", "set", peer, "netns", ns},
		{"addr", "add", gateway + "/30", "dev", host},
		{"link", "set", host, "up"},
		{"-n", ns, "addr", "add", ip + "/30", "dev", peer},
		{"-n", ns, "link", "set", peer, "up"},
		{"-n", ns, "link", "set", "lo", "up"},
	} {
		if out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput(); err != nil {
			return oci.Attachment{}, fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	return oci.Attachment{NetNS: "/run/netns/" + ns, IP: ip, Gateway: gateway}, nil
}

func (v *veths) Detach(ctx context.Context, id string) error {
	if _, err := os.Stat("/run/netns/" + nsName(id)); os.IsNotExist(err) {
		return nil
	}
	return exec.CommandContext(ctx, "ip", "netns", "del", nsName(id)).Run()
}

func nsName(id string) string { return "vortex-test-" + id }

// open opens a driver over dir.
func open(t *testing.T, dir string, network oci.Network) *oci.Driver {
	t.Helper()
	d, err := oci.Open(t.Context(), config(dir, network))
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return d
}

func config(dir string, network oci.Network) oci.Config {
	return oci.Config{
		Root: dir, Images: &overlays{dir: filepath.Join(dir, "overlays")}, Network: network, Log: slog.New(slog.DiscardHandler),
		Shim: built.shim, Runner: built.runner, CgroupParent: cgroupParent, LogBytes: 4 << 20,
	}
}

// leaks lists what is left of the tests in the kernel.
func leaks(t *testing.T) []string {
	t.Helper()
	var found []string
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, "/rootfs ") && strings.Contains(line, built.image) {
			found = append(found, "mount "+line)
		}
	}
	for _, pattern := range []string{"/sys/fs/cgroup/*" + cgroupParent + "/*/cgroup.procs", "/sys/fs/cgroup" + cgroupParent + "/*/cgroup.procs"} {
		cg, _ := filepath.Glob(pattern)
		found = append(found, cg...)
	}
	ns, _ := filepath.Glob("/run/netns/vortex-test-*")
	found = append(found, ns...)
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		b, _ := os.ReadFile(p)
		if strings.HasPrefix(string(b), built.shim) || strings.HasPrefix(string(b), built.runner) || strings.HasPrefix(string(b), "/probe") {
			found = append(found, "process "+p+" "+strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	return found
}

func TestDriver(t *testing.T) {
	var network oci.Network
	lacks := map[runtimetest.Feature]string{}
	if _, err := exec.LookPath("ip"); err == nil {
		network = &shared
	} else {
		lacks[runtimetest.Serving] = "no ip command to make a test network with"
	}
	runtimetest.Run(t, runtimetest.Harness{
		Open:  func(t *testing.T, dir string) runtime.Driver { t.Helper(); return open(t, dir, network) },
		Image: "probe", Probe: "/probe", Lacks: lacks, Leaks: leaks,
	})
}
