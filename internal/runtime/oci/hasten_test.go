package oci

import (
	"os"
	"path/filepath"
	"testing"
)

func TestOwnProcs(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"memory/a", "cpuset", "pids/b"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, dir, "cgroup.procs"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct{ own, want string }{
		"the first that is there": {"9:pids:/elsewhere\n8:memory:/a\n7:pids:/b\n", "memory/a/cgroup.procs"},
		"never cpuset":            {"3:cpuset:/\n", ""},
		"version 2":               {"0::/user.slice\n", ""},
		"nothing readable":        {"hello\n\n:\n", ""},
	} {
		want := c.want
		if want != "" {
			want = filepath.Join(root, want)
		}
		if got := ownProcs(root, c.own); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

func TestHastenMovesNothing(t *testing.T) {
	before, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Skip("no cgroups: ", err)
	}
	h := newHastener(findCgroups("/vortex"))
	for range 3 {
		h.hasten()
	}
	h.close()
	h.close()
	h.hasten() // does nothing any more
	after, err := os.ReadFile("/proc/self/cgroup")
	if err != nil || string(after) != string(before) {
		t.Errorf("cgroups were\n%s and are\n%s, error %v", before, after, err)
	}
	(&hastener{}).hasten()
}
