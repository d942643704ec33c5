package oci_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"vortex/internal/runtime"
	"vortex/internal/runtime/oci"
)

// BenchmarkStart measures Start of a container beside `runc run -d` of the same configuration and root, in turns. The
// figures are in milliseconds.
func BenchmarkStart(b *testing.B) {
	runc, err := exec.LookPath("runc")
	if err != nil {
		b.Skip("no runc to compare with")
	}
	dir := b.TempDir()
	d, err := oci.Open(b.Context(), config(dir, nil))
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	bundle := runcBundle(b, d, dir)
	var ours, theirs []time.Duration
	for i := 0; b.Loop(); i++ {
		ours = append(ours, benchStart(b, d, fmt.Sprintf("bench-%d", i)))
		theirs = append(theirs, benchRunc(b, runc, bundle, fmt.Sprintf("vortex-bench-%d-%d", os.Getpid(), i)))
	}
	report(b, "ours", ours)
	report(b, "runc", theirs)
}

func report(b *testing.B, name string, took []time.Duration) {
	b.Helper()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, name+"-p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, name+"-p99-ms")
}

func benchStart(b *testing.B, d *oci.Driver, id string) time.Duration {
	b.Helper()
	begin := time.Now()
	if _, err := d.Start(b.Context(), benchSpec(id)); err != nil {
		b.Fatal(err)
	}
	took := time.Since(begin)
	if err := d.Remove(context.Background(), id); err != nil {
		b.Fatal(err)
	}
	return took
}

func benchSpec(id string) runtime.InstanceSpec {
	return runtime.InstanceSpec{ID: id, Image: "probe", MemoryBytes: 64 << 20, CPUMillis: 500}
}

// runcBundle makes a bundle that runc can run out of one that the driver made.
func runcBundle(b *testing.B, d *oci.Driver, dir string) string {
	b.Helper()
	if _, err := d.Start(b.Context(), benchSpec("model")); err != nil {
		b.Fatal(err)
	}
	from := filepath.Join(dir, "instances", "model")
	config, err := os.ReadFile(filepath.Join(from, "config.json"))
	if err != nil {
		b.Fatal(err)
	}
	if err := d.Remove(b.Context(), "model"); err != nil {
		b.Fatal(err)
	}
	bundle := filepath.Join(dir, "runc")
	root := filepath.Join(bundle, "rootfs")
	if err := os.MkdirAll(root, 0o755); err != nil {
		b.Fatal(err)
	}
	images := &overlays{dir: filepath.Join(dir, "runc-overlay")}
	if _, err := images.Mount(b.Context(), "probe", "runc", root); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = images.Unmount(context.Background(), "runc") })
	text := strings.ReplaceAll(string(config), filepath.Join(from, "rootfs"), root)
	text = strings.ReplaceAll(text, cgroupParent+"/model", cgroupParent+"/runc")
	text = strings.ReplaceAll(text, from, bundle)
	if err := os.WriteFile(filepath.Join(bundle, "hostname"), nil, 0o600); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	return bundle
}

func benchRunc(b *testing.B, runc, bundle, id string) time.Duration {
	b.Helper()
	begin := time.Now()
	cmd := exec.Command(runc, "run", "-d", "-b", bundle, id)
	if err := cmd.Run(); err != nil {
		b.Fatal(err)
	}
	took := time.Since(begin)
	if out, err := exec.Command(runc, "delete", "-f", id).CombinedOutput(); err != nil {
		b.Fatal(err, string(out))
	}
	return took
}
