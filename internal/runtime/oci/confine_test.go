package oci_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vortex"
	"vortex/internal/runtime"
	"vortex/internal/runtime/oci"
)

// runProbe runs the probe in a mode until it exits and returns what it wrote.
func runProbe(t *testing.T, d *oci.Driver, spec runtime.InstanceSpec) []string {
	t.Helper()
	spec.Image = "probe"
	if _, err := d.Start(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	if !wait(func() bool { return find(t, d, spec.ID).State == runtime.Exited }) {
		t.Fatal("it does not exit")
	}
	return output(t, d, spec.ID)
}

// TestConfinement asks from inside what a container may do.
func TestConfinement(t *testing.T) {
	d := open(t, t.TempDir(), nil)
	defer removeAll(t, d)
	got := runProbe(t, d, runtime.InstanceSpec{ID: "root", Args: []string{"caps"}})
	for _, want := range []string{"CapEff: 00000000a80425fb", "CapBnd: 00000000a80425fb", "NoNewPrivs: 1", "Seccomp: 2"} {
		if !slices.Contains(got, want) {
			t.Errorf("as root: %q lacks %q", got, want)
		}
	}
	got = runProbe(t, d, runtime.InstanceSpec{ID: "app", User: "app", Args: []string{"caps"}})
	if !slices.Contains(got, "CapEff: 0000000000000000") {
		t.Errorf("as a user: %q, want no capability in effect", got)
	}
	for i, path := range []string{"/proc/sys/kernel/hostname", "/proc/sysrq-trigger", "/sys/kernel/x", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		got := runProbe(t, d, runtime.InstanceSpec{ID: fmt.Sprintf("w%d", i), Args: []string{"write", path}})
		if len(got) != 1 || got[0] == "written" {
			t.Errorf("writing %s: %q, want an error", path, got)
		}
	}
}

// hostile is an image store whose image was made to reach the node.
type hostile struct {
	overlays

	plant func(root string) error
}

func (h *hostile) Mount(ctx context.Context, ref, id, target string) (oci.ImageConfig, error) {
	c, err := h.overlays.Mount(ctx, ref, id, target)
	if err != nil {
		return c, err
	}
	return c, h.plant(target)
}

// TestHostileImage mounts over links that lead out of the root, and resolves users from files that are not the image's.
func TestHostileImage(t *testing.T) {
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "passwd"), []byte("evil:x:0:0::/:/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cfg := config(dir, nil)
	cfg.Images = &hostile{overlays: overlays{dir: filepath.Join(dir, "overlays")}, plant: func(root string) error {
		return errors.Join(
			os.Symlink(outside, filepath.Join(root, "data")),
			os.Remove(filepath.Join(root, "etc/passwd")), os.Symlink(filepath.Join(outside, "passwd"), filepath.Join(root, "etc/passwd")),
			os.Remove(filepath.Join(root, "etc/group")), unix.Mkfifo(filepath.Join(root, "etc/group"), 0o600),
			os.Symlink("/etc/shadow", filepath.Join(root, "etc/hostname")),
		)
	}}
	d, err := oci.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer removeAll(t, d)
	if _, err := d.Start(t.Context(), runtime.InstanceSpec{ID: "user", Image: "probe", User: "evil"}); !vortex.IsKind(err, vortex.Invalid) {
		t.Errorf("a user of the node's files: %v, want Invalid", err)
	}
	source := t.TempDir()
	got := runProbe(t, d, runtime.InstanceSpec{
		ID: "mount", Args: []string{"write", "/data/sub/file"}, Mounts: []runtime.Mount{{Source: source, Target: "/data/sub"}},
	})
	if !slices.Equal(got, []string{"written"}) {
		t.Errorf("write printed %q", got)
	}
	if _, err := os.Stat(filepath.Join(source, "file")); err != nil {
		t.Errorf("the mount's own file: %v", err)
	}
	if _, err := os.Stat(filepath.Join(outside, "sub")); err == nil {
		t.Error("the mount's target was made on the node")
	}
}

// brokenNetwork fails after it made something.
type brokenNetwork struct{ detached []string }

func (b *brokenNetwork) Attach(context.Context, string, oci.AttachSpec) (oci.Attachment, error) {
	return oci.Attachment{}, vortex.Errorf(vortex.Unavailable, "no bridge")
}

func (b *brokenNetwork) Detach(_ context.Context, id string) error {
	b.detached = append(b.detached, id)
	return nil
}

func TestPreparationFails(t *testing.T) {
	dir, network := t.TempDir(), &brokenNetwork{}
	d := open(t, dir, network)
	defer removeAll(t, d)
	_, err := d.Start(t.Context(), runtime.InstanceSpec{ID: "a", Image: "probe"})
	if !vortex.IsKind(err, vortex.Unavailable) || !strings.Contains(err.Error(), "no bridge") {
		t.Errorf("Start without a network: %v, want the network's own error", err)
	}
	if !slices.Equal(network.detached, []string{"a"}) {
		t.Errorf("detached %q, want a", network.detached)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "instances")); len(left) > 0 {
		t.Errorf("%d directories are left", len(left))
	}
	other := open(t, t.TempDir(), nil)
	defer removeAll(t, other)
	for name, spec := range map[string]runtime.InstanceSpec{
		"no such image":   {ID: "b", Image: "nothing"},
		"missing source":  {ID: "b", Image: "probe", Mounts: []runtime.Mount{{Source: "/no/such/dir", Target: "/data"}}},
		"relative target": {ID: "b", Image: "probe", Mounts: []runtime.Mount{{Source: "/tmp", Target: "data"}}},
	} {
		if _, err := other.Start(t.Context(), spec); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestAvailable(t *testing.T) {
	cfg := config(t.TempDir(), nil)
	if err := oci.Available(cfg); err != nil {
		t.Errorf("with helpers: %v", err)
	}
}
