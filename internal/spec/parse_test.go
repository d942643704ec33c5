package spec_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vortex"
	"vortex/internal/spec"
)

var update = flag.Bool("update", false, "write the golden files")

// golden compares got with the file beside path that ends in .golden.
func golden(t *testing.T, path, got string) {
	t.Helper()
	name := path + ".golden"
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

// inputs returns the files of a directory below testdata that are not golden.
func inputs(t *testing.T, dir string) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join("testdata", dir, "*"))
	if err != nil || len(all) == 0 {
		t.Fatalf("no test data in %s: %v", dir, err)
	}
	var files []string
	for _, file := range all {
		if !strings.HasSuffix(file, ".golden") {
			files = append(files, file)
		}
	}
	return files
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestErrorsPointAtTheField(t *testing.T) {
	for _, file := range inputs(t, "errors") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			apps, err := spec.Parse(filepath.Base(file), read(t, file))
			if err == nil {
				t.Fatalf("no error, but %d apps", len(apps))
			}
			if kind := vortex.KindOf(err); kind != vortex.Invalid {
				t.Errorf("the error is of kind %v, want invalid", kind)
			}
			golden(t, file, err.Error()+"\n")
		})
	}
}
