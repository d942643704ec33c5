package docker

import (
	"fmt"
	"os"
	"testing"

	"vortex/internal/runtime"
)

// BenchmarkStart measures from the request to a running first process, the image being in the engine.
func BenchmarkStart(b *testing.B) {
	d, err := New(Config{Node: fmt.Sprintf("bench-%d", os.Getpid()), Images: &store{}})
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	if err := d.Available(b.Context()); err != nil {
		b.Skipf("needs a Docker Engine: %v", err)
	}
	for k := 0; b.Loop(); k++ {
		id := fmt.Sprintf("bench-%d-%d", os.Getpid(), k)
		_, err := d.Start(b.Context(), runtime.InstanceSpec{ID: id, Image: testImage})
		b.StopTimer()
		if err != nil {
			b.Fatal(err)
		}
		if err := d.Remove(b.Context(), id); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
