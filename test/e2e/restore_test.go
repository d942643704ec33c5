package e2e

import (
	"encoding/json"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"

	"vortex/test/harness"
)

// offline runs a command of the binary that needs no server, and returns what it printed.
func offline(t *testing.T, args ...string) string {
	t.Helper()
	bin, err := harness.Binary()
	if err != nil {
		t.Skip(err)
	}
	out, err := exec.CommandContext(t.Context(), bin, args...).CombinedOutput() //nolint:gosec // the binary under test
	if err != nil {
		t.Fatalf("vortex %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// pushHello puts the sample app's image into a registry that outlives every machine of the test, and returns its name.
func pushHello(t *testing.T, v *harness.Vortex) string {
	t.Helper()
	reg := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(reg.Close)
	name := strings.TrimPrefix(reg.URL, "http://") + "/team/hello:v1"
	path, err := helloBinary()
	if err != nil {
		t.Fatal(err)
	}
	run(t, v, "image", "build", path, "-t", name)
	run(t, v, "image", "push", name)
	return name
}

// restored starts a Vortex on a new data directory into which a backup was restored.
func restored(t *testing.T, backup string, args ...string) *harness.Vortex {
	t.Helper()
	data, err := os.MkdirTemp("", "vortex-e2e-") //nolint:usetesting // Destroy removes it, and sockets need a short path
	if err != nil {
		t.Fatal(err)
	}
	out := offline(t, append([]string{"snapshot", "restore", backup, "--data", data}, args...)...)
	t.Log(out)
	v := startOn(t, data)
	eventually(t, "the app serves again", func() bool { return strings.Contains(body(t, v, "web", "/"), "blue") })
	return v
}

// lose takes a machine away with all that is on it.
func lose(t *testing.T, v *harness.Vortex) {
	t.Helper()
	if err := v.Destroy(); err != nil {
		t.Fatal(err)
	}
}

// TestLostDataDirectoryComesBackFromBackups holds that a snapshot brings an app back as it was, serving without being applied,
// and that the log brings back what was between two snapshots, up to the moment asked for.
func TestLostDataDirectoryComesBackFromBackups(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "backups")
	v := start(t, "--backup-dir", dir)
	image := pushHello(t, v)
	spec := func(version string) string {
		return file(t, "web.yaml", strings.Replace(versioned(version, "1"), "hello:latest", image, 1))
	}
	run(t, v, "apply", "-f", spec("blue"))
	snapshot := filepath.Join(t.TempDir(), "web.snap")
	run(t, v, "snapshot", "save", snapshot)
	run(t, v, "kv", "put", "note:between", "kept")
	moment := time.Now()
	eventually(t, "a moment passes, as times are exact to a tenth of a second", func() bool { return time.Since(moment) > 250*time.Millisecond })
	run(t, v, "apply", "-f", spec("green"))
	if got := body(t, v, "web", "/"); !strings.Contains(got, "green") {
		t.Fatalf("after the change the app answers %q", got)
	}
	run(t, v, "kv", "put", "note:after", "lost")
	after := revision(t, v)
	eventually(t, "the log holds the last change", func() bool { return shipped(t, v, dir) >= after })
	v.Kill()
	saved := filepath.Join(t.TempDir(), "saved") // the backups are on another disk
	if err := os.Rename(dir, saved); err != nil {
		t.Fatal(err)
	}
	lose(t, v)

	v = restored(t, snapshot)
	holds(t, v, map[string]string{"note:between": "", "note:after": ""})
	lose(t, v)

	v = restored(t, saved, "--at", moment.Format(time.RFC3339Nano))
	holds(t, v, map[string]string{"note:between": "kept", "note:after": ""})
}

// revision is the newest of a store.
func revision(t *testing.T, v *harness.Vortex) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(strings.TrimSpace(run(t, v, "kv", "status", "-o", "name")), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// shipped is the newest revision that one can go back to in a backup directory.
func shipped(t *testing.T, v *harness.Vortex, dir string) uint64 {
	t.Helper()
	var state struct {
		Windows []struct {
			ToRevision uint64 `json:"to_revision"`
		} `json:"windows"`
	}
	out, _, _ := v.CLI(t.Context(), "snapshot", "status", dir, "-o", "json")
	if json.Unmarshal([]byte(out), &state) != nil || len(state.Windows) == 0 {
		return 0
	}
	return state.Windows[0].ToRevision
}

// holds checks that a store has these values, "" being none.
func holds(t *testing.T, v *harness.Vortex, want map[string]string) {
	t.Helper()
	for key, value := range want {
		out, stderr, code := v.CLI(t.Context(), "kv", "get", key)
		const missing = 3
		if got := strings.TrimSpace(out); got != value || value == "" && code != missing {
			t.Errorf("%s is %q, exit %d %s; want %q", key, got, code, stderr, value)
		}
	}
}
