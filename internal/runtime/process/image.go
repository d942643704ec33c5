package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"
	"golang.org/x/sys/unix"

	"vortex"
	"vortex/internal/runtime"
)

// Images unpacks images, which works without root.
type Images interface {
	// Digest returns the digest ("sha256:…") of an image, which is fetched when it is not here.
	Digest(ctx context.Context, ref string) (string, error)
	// Extract writes an image's files, flattened, to dir, which does not exist yet.
	Extract(ctx context.Context, ref, dir string) (ImageConfig, error)
}

// ImageConfig is what an image says about running it.
type ImageConfig struct {
	Entrypoint, Cmd, Env []string
	WorkingDir           string
}

// unpacked is an image whose files lie in a directory of the node. The zero value is no image: the node itself.
type unpacked struct {
	Root   string
	Config ImageConfig
}

const (
	rootDir    = "root"       // below roots/<digest>: the image's files
	configFile = "image.json" // beside it, and in the directory of every instance that runs from it
)

// usesImage reports whether an instance runs from its image, and not a program of the node.
func usesImage(spec runtime.InstanceSpec) bool {
	return spec.Image != "" && (len(spec.Command) == 0 || !filepath.IsAbs(spec.Command[0]))
}

// takeImage returns the image an instance runs from, unpacked once for all its instances, and notes in the instance's
// directory that it is used. It removes the roots that no instance uses any more.
func (h *host) takeImage(ctx context.Context, dir string, spec runtime.InstanceSpec) (unpacked, error) {
	if !usesImage(spec) {
		return unpacked{}, nil
	}
	if h.cfg.Images == nil {
		return unpacked{}, vortex.Errorf(vortex.Invalid,
			"the process runtime runs programs of the node here: command must begin with an absolute path, got %q; use runtime oci for image %q", spec.Command, spec.Image)
	}
	digest, err := h.cfg.Images.Digest(ctx, spec.Image)
	if err != nil {
		return unpacked{}, err
	}
	h.unpacking.Lock()
	defer h.unpacking.Unlock()
	home := filepath.Join(h.rootsDir(), strings.ReplaceAll(digest, ":", "-"))
	img, ok := readImage(home)
	if !ok {
		h.collectRoots()
		if img, err = h.unpack(ctx, spec.Image, home); err != nil {
			return unpacked{}, err
		}
	}
	return img, writeImage(dir, img)
}

func (h *host) rootsDir() string { return filepath.Join(h.cfg.Root, "roots") }

// unpack makes an image's home. Its config is written last: a home without one was never finished.
func (h *host) unpack(ctx context.Context, ref, home string) (unpacked, error) {
	if err := os.RemoveAll(home); err != nil {
		return unpacked{}, fmt.Errorf("clear image root: %w", err)
	}
	if err := os.MkdirAll(home, 0o700); err != nil {
		return unpacked{}, fmt.Errorf("make image root: %w", err)
	}
	img := unpacked{Root: filepath.Join(home, rootDir)}
	var err error
	if img.Config, err = h.cfg.Images.Extract(ctx, ref, img.Root); err != nil {
		return unpacked{}, errors.Join(err, os.RemoveAll(home))
	}
	return img, writeImage(home, img)
}

// collectRoots removes the roots that no instance uses. unpacking is held.
func (h *host) collectRoots() {
	homes, err := os.ReadDir(h.rootsDir())
	if err != nil {
		return // there is none yet
	}
	used := map[string]bool{}
	instances, _ := filepath.Glob(filepath.Join(h.cfg.Root, "instances", "*"))
	for _, dir := range instances {
		if img, ok := readImage(dir); ok {
			used[filepath.Base(filepath.Dir(img.Root))] = true
		}
	}
	for _, home := range homes {
		if used[home.Name()] {
			continue
		}
		if err := os.RemoveAll(filepath.Join(h.rootsDir(), home.Name())); err != nil {
			h.cfg.Log.Warn("Image root not removed", "image", home.Name(), "err", err)
		}
	}
}

// readImage reads what writeImage wrote; false when there is nothing.
func readImage(dir string) (img unpacked, ok bool) {
	b, err := os.ReadFile(filepath.Join(dir, configFile))
	if err != nil || json.Unmarshal(b, &img) != nil {
		return unpacked{}, false
	}
	return img, img.Root != ""
}

func writeImage(dir string, img unpacked) error {
	b, err := json.Marshal(img)
	if err != nil {
		return fmt.Errorf("encode image: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, configFile), b, 0o600); err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	return nil
}

// command returns what an instance runs. A command of the spec replaces the image's entrypoint and cmd; arguments replace
// the image's cmd. The program is one of the image.
func (img unpacked) command(spec runtime.InstanceSpec) ([]string, error) {
	var args []string
	switch {
	case img.Root == "" || len(spec.Command) > 0:
		args = slices.Concat(spec.Command, spec.Args)
	case len(spec.Args) > 0:
		args = slices.Concat(img.Config.Entrypoint, spec.Args)
	default:
		args = slices.Concat(img.Config.Entrypoint, img.Config.Cmd)
	}
	if len(args) == 0 {
		return nil, vortex.Errorf(vortex.Invalid, "image %s names no command: set command in the app's spec", spec.Image)
	}
	if img.Root == "" {
		return args, nil
	}
	program, ok := img.find(args[0], spec)
	if !ok {
		return nil, vortex.Errorf(vortex.Invalid, "command %s of image %s cannot be run: the image has no such program", args[0], spec.Image)
	}
	return append([]string{program}, args[1:]...), nil
}

// find returns where on the node a program of the image lies: at its path, or in the image's PATH.
func (img unpacked) find(name string, spec runtime.InstanceSpec) (string, bool) {
	places := []string{name}
	switch {
	case filepath.IsAbs(name):
	case strings.Contains(name, "/"):
		places = []string{filepath.Join("/", img.workingDir(spec), name)}
	default:
		path := mergeEnv([]string{defaultPath}, img.Config.Env)[0]
		places = filepath.SplitList(strings.TrimPrefix(path, "PATH="))
		for i := range places {
			places[i] = filepath.Join(places[i], name)
		}
	}
	for _, place := range places {
		program, err := securejoin.SecureJoin(img.Root, place)
		if err == nil && unix.Access(program, unix.X_OK) == nil {
			return program, true
		}
	}
	return "", false
}

// workingDir is the directory an instance runs in, as the image sees it.
func (img unpacked) workingDir(spec runtime.InstanceSpec) string {
	if spec.WorkingDir != "" {
		return spec.WorkingDir
	}
	return img.Config.WorkingDir
}

// environment is the image's own, with a PATH that finds the image's programs before the node's.
func (img unpacked) environment() []string {
	if img.Root == "" {
		return []string{defaultPath}
	}
	env := mergeEnv([]string{defaultPath}, img.Config.Env)
	var inside []string
	for _, dir := range filepath.SplitList(strings.TrimPrefix(env[0], "PATH=")) {
		inside = append(inside, filepath.Join(img.Root, dir))
	}
	env[0] = "PATH=" + strings.Join(append(inside, strings.TrimPrefix(defaultPath, "PATH=")), ":")
	return env
}
