// Package embedded carries the helper programs inside the main binary: the driver's, shim and runner, and pulse, which beats for the node. They are built into bin/ before
// the main binary is; a checkout without them compiles and says so when asked.
package embedded

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

//go:embed all:bin
var files embed.FS

// The names of the helpers.
const (
	shimName   = "shim"
	runnerName = "runner"
	pulseName  = "pulse"
)

// Present reports whether the helpers were built in.
func Present() bool {
	_, err1 := files.Open("bin/" + shimName)
	_, err2 := files.Open("bin/" + runnerName)
	return err1 == nil && err2 == nil
}

// Unpack writes the helpers into dir, which it makes, and returns their paths. A helper's name carries a hash of its content, so an
// upgraded binary never overwrites one that still runs beside an instance.
func Unpack(dir string) (shim, runner string, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", "", fmt.Errorf("make helper directory: %w", err)
	}
	if shim, err = unpack(dir, shimName); err != nil {
		return "", "", err
	}
	runner, err = unpack(dir, runnerName)
	return shim, runner, err
}

// UnpackPulse writes the program of heartbeats into dir, which it makes, and returns its path.
func UnpackPulse(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make helper directory: %w", err)
	}
	return unpack(dir, pulseName)
}

// read opens a helper and tells its size.
func read(name string) (io.Reader, int64, error) {
	f, err := files.Open("bin/" + name)
	if err != nil {
		return nil, 0, err
	}
	fi, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	return f, fi.Size(), nil
}

func unpack(dir, name string) (string, error) {
	content, size, err := read(name) // never all of it at once: megabytes would stay in memory
	if err != nil {
		return "", fmt.Errorf("built without helpers; run make build: %w", err)
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, content); err != nil {
		return "", fmt.Errorf("read helper: %w", err)
	}
	path := filepath.Join(dir, name+"-"+hex.EncodeToString(sum.Sum(nil)[:6]))
	if fi, err := os.Stat(path); err == nil && fi.Size() == size && fi.Mode().Perm() == 0o700 {
		return path, nil
	}
	if content, _, err = read(name); err != nil {
		return "", fmt.Errorf("read helper: %w", err)
	}
	tmp, err := os.CreateTemp(dir, "."+name+"-")
	if err != nil {
		return "", fmt.Errorf("unpack helper: %w", err)
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // gone after the rename
	_, err = io.Copy(tmp, content)
	if err == nil {
		err = tmp.Chmod(0o700)
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return "", fmt.Errorf("unpack helper: %w", err)
	}
	return path, nil
}
