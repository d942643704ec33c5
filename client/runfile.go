package client

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// RunFile tells the commands on the same machine where a running server answers, and its token.
type RunFile struct {
	API       string    `json:"api"`            // URL
	Kind      string    `json:"kind,omitempty"` // host:port, or https://host:port
	Edge      string    `json:"edge,omitempty"` // URL
	Token     string    `json:"token"`
	PID       int       `json:"pid"`
	Data      string    `json:"data"` // the server's data directory
	StartedAt time.Time `json:"started_at"`
	TLS       TLS       `json:"tls,omitzero"` // how to trust it
}

const runFileName = "run.json"

// RuntimeDir is the directory in which the servers of a user leave their run files: /run/vortex of root, else
// $XDG_RUNTIME_DIR/vortex, else one below the directory for temporary files.
func RuntimeDir(uid int, xdgRuntimeDir string) string {
	switch {
	case uid == 0:
		return "/run/vortex"
	case xdgRuntimeDir != "":
		return filepath.Join(xdgRuntimeDir, "vortex")
	default:
		return filepath.Join(os.TempDir(), "vortex-"+strconv.Itoa(uid))
	}
}

// EdgeRuntimeDir is the directory, below a runtime directory, in which edges that run alone leave theirs. Their API is their admin address.
func EdgeRuntimeDir(runtimeDir string) string { return filepath.Join(runtimeDir, "edge") }

// WriteRunFile leaves a run file, readable by its owner only, in the data directory, if there is one, and in the runtime directory. The
// returned function takes it away again.
func WriteRunFile(run RunFile, runtimeDir string) (remove func(), err error) {
	data, err := json.MarshalIndent(run, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode run file: %w", err)
	}
	if err := os.MkdirAll(runtimeDir, 0o700); err != nil {
		return nil, fmt.Errorf("make runtime directory: %w", err)
	}
	forgetDead(runtimeDir)
	paths := []string{filepath.Join(runtimeDir, strconv.Itoa(run.PID)+".json")}
	if run.Data != "" {
		paths = append(paths, filepath.Join(run.Data, runFileName))
	}
	remove = func() {
		for _, path := range paths {
			_ = os.Remove(path)
		}
	}
	for _, path := range paths {
		if err := replaceFile(path, append(data, '\n')); err != nil {
			remove()
			return nil, fmt.Errorf("write run file: %w", err)
		}
	}
	return remove, nil
}

// replaceFile writes a file that only its owner can read, whole or not at all.
func replaceFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

// RunFiles returns the run files of servers that still run, the newest first. Directories
// that do not exist are passed over; one that may not be read is an error.
func RunFiles(dirs ...string) ([]RunFile, error) {
	var found []RunFile
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return found, fmt.Errorf("find running servers: %w", err)
		}
		for _, entry := range entries {
			if run, ok := readRunFile(filepath.Join(dir, entry.Name())); ok {
				found = append(found, run)
			}
		}
	}
	slices.SortFunc(found, func(a, b RunFile) int { return cmp.Or(b.StartedAt.Compare(a.StartedAt), b.PID-a.PID) })
	return found, nil
}

// forgetDead removes the run files that killed servers left behind.
func forgetDead(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		if _, alive := readRunFile(path); !alive && filepath.Ext(path) == ".json" {
			_ = os.Remove(path)
		}
	}
}

// readRunFile reads the run file of a process that is there.
func readRunFile(path string) (run RunFile, ok bool) {
	if filepath.Ext(path) != ".json" {
		return run, false
	}
	data, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(data, &run) != nil || run.PID <= 0 || run.API == "" {
		return run, false
	}
	process, err := os.FindProcess(run.PID)
	if err != nil {
		return run, false
	}
	err = process.Signal(syscall.Signal(0))
	return run, err == nil || errors.Is(err, fs.ErrPermission)
}
