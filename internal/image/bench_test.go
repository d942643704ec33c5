package image

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// benchStore returns a store with an image of two layers.
func benchStore(b *testing.B) (*Store, string) {
	b.Helper()
	s, err := Open(Config{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	dir := b.TempDir()
	content, err := os.ReadFile(program)
	if err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "server"), content, 0o755); err != nil {
		b.Fatal(err)
	}
	if _, err := s.BuildPath(b.Context(), dir, "bench:1", nil); err != nil {
		b.Fatal(err)
	}
	return s, "bench:1"
}

func BenchmarkWarmEnsure(b *testing.B) {
	s, ref := benchStore(b)
	for b.Loop() {
		if _, err := s.Ensure(b.Context(), ref, IfNotPresent); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMountUnmount(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("mounting needs root")
	}
	s, ref := benchStore(b)
	target := filepath.Join(b.TempDir(), "root")
	for b.Loop() {
		if _, err := s.Mount(b.Context(), ref, "bench", target); err != nil {
			b.Fatal(err)
		}
		if err := s.Unmount(b.Context(), "bench"); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkUnpack unpacks 5,000 files of 8 KiB in 250 directories.
func BenchmarkUnpack(b *testing.B) {
	var files []file
	body := strings.Repeat("some text of a file ", 410)
	for i := range 5000 {
		files = append(files, regular(fmt.Sprintf("usr/share/pkg%d/lib/file%d", i/20, i), body))
	}
	packed := pack(b, files...)
	b.SetBytes(int64(len(packed)))
	base := b.TempDir()
	n := 0
	for b.Loop() {
		dir := filepath.Join(base, strconv.Itoa(n))
		n++
		if err := os.Mkdir(dir, 0o755); err != nil {
			b.Fatal(err)
		}
		if err := unpackInto(b, dir, plenty, os.Geteuid() == 0, packed); err != nil {
			b.Fatal(err)
		}
	}
}
