// Package image keeps a node's container images: it pulls, imports, builds, mounts and collects them.
//
// A Store owns one directory. Compressed blobs lie there by their digest, each layer is unpacked once into a
// tree that overlayfs can use as a lower directory, and a name is a small file that points at a manifest.
//
// The package guarantees
//   - that what it serves is what the digest says: every blob and every unpacked layer is verified before it is visible;
//   - that no layer, however hostile, writes outside its own tree or beyond the limits;
//   - that a kill at any moment leaves a store that works: everything is made aside and renamed into place;
//   - that an image already here costs no network and no disk write.
//
// It never runs anything of an image, never creates device nodes, and never deletes what a mount, a name or a
// running pull still needs.
//
//	store, err := image.Open(image.Config{Dir: "/var/lib/vortex/images", Log: log})
//	img, err := store.Ensure(ctx, "nginx:1.27", image.IfNotPresent)
//	cfg, err := store.Mount(ctx, "nginx:1.27", "web-1", "/var/lib/vortex/instances/web-1/rootfs")
//	err = store.Unmount(ctx, "web-1")
package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"vortex"
)

// Config says where a Store lives and what it allows. Only Dir is required.
type Config struct {
	Dir          string            // absolute; created with mode 0700
	InstancesDir string            // where the writable layer of each mounted instance goes; "" is Dir/instances. Not on overlayfs
	Platform     string            // "os/arch[/variant]" to pick from multi-platform images; "" is this machine's
	DockerHost   string            // address of the Docker Engine for Dockerfile builds; "" is Docker's own default
	Limits       Limits            // what a layer may unpack to; zero fields are the defaults
	Transport    http.RoundTripper // for registries; nil is a transport with sane timeouts
	Log          *slog.Logger      // nil discards

	// Credentials returns what to log in to a registry ("docker.io", "ghcr.io", "host:5000") with, where a call brings nothing.
	// The zero Auth, and a nil func, mean Docker's own configuration file.
	Credentials func(registry string) Auth
}

// Limits bound what one layer may unpack to, so that a small download cannot fill the disk.
type Limits struct {
	Bytes   int64 // of file content, holes of sparse files included; 0 is 32 GiB
	Entries int64 // files, directories and links; 0 is 2,000,000
}

// ImageConfig is how an image wants to be run.
type ImageConfig struct { //nolint:revive // Config is the store's; the drivers call this ImageConfig too
	Digest     string // of the manifest: "sha256:…"
	Entrypoint []string
	Cmd        []string
	Env        []string // KEY=value
	WorkingDir string   // "" is /
	User       string   // "uid", "uid:gid" or names in the image's /etc/passwd; "" is root
	Ports      []Port
	StopSignal string // "" is SIGTERM
	Labels     map[string]string
}

// Port is a port an image says it listens on.
type Port struct {
	Number uint16
	UDP    bool
}

// Store is a directory of images. Its methods are safe for concurrent use. One process at a time
// holds a directory.
type Store struct {
	cfg        Config
	log        *slog.Logger
	platform   v1.Platform
	privileged bool // may unpack for overlayfs and mount
	lock       *os.File
	flights    flights

	naming sync.Mutex // held while a name is written or removed

	mu     sync.Mutex // guards what follows; never held over slow I/O
	refs   map[string]record
	images map[v1.Hash]*image
	mounts map[string]mountRecord
	pins   map[string]int // paths that work in progress needs
}

// Open returns the store in cfg.Dir, made if it is missing. It removes what an earlier process that was killed left
// unfinished and finds the mounts that are still in place. It is Precondition when another process has the directory.
func Open(cfg Config) (*Store, error) {
	s, err := newStore(cfg)
	if err != nil {
		return nil, err
	}
	if err := s.open(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func newStore(cfg Config) (*Store, error) {
	if !filepath.IsAbs(cfg.Dir) {
		return nil, vortex.Errorf(vortex.Invalid, "image store: the directory must be an absolute path, got %q", cfg.Dir)
	}
	platform, err := parsePlatform(cmp.Or(cfg.Platform, "linux/"+runtime.GOARCH))
	if err != nil {
		return nil, err
	}
	cfg.Limits.Bytes = cmp.Or(cfg.Limits.Bytes, 32<<30)
	cfg.Limits.Entries = cmp.Or(cfg.Limits.Entries, 2_000_000)
	cfg.InstancesDir = cmp.Or(cfg.InstancesDir, filepath.Join(cfg.Dir, "instances"))
	if cfg.Transport == nil {
		cfg.Transport = newTransport()
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Store{
		cfg: cfg, log: cfg.Log, platform: platform, privileged: os.Geteuid() == 0,
		refs: map[string]record{}, images: map[v1.Hash]*image{}, mounts: map[string]mountRecord{}, pins: map[string]int{},
	}, nil
}

// open takes the directory, clears leftovers and reads the names and mounts.
func (s *Store) open() error {
	for _, dir := range []string{"", "tmp", "blobs/sha256", "refs", "layers", "mounts", "empty"} {
		if err := os.MkdirAll(s.path(dir), 0o700); err != nil {
			return fmt.Errorf("open image store: %w", err)
		}
	}
	if err := os.MkdirAll(s.cfg.InstancesDir, 0o700); err != nil {
		return fmt.Errorf("open image store: %w", err)
	}
	if err := s.takeLock(); err != nil {
		return err
	}
	if err := emptyDir(s.path("tmp")); err != nil {
		return fmt.Errorf("clear image store: %w", err)
	}
	if err := s.readRefs(); err != nil {
		return err
	}
	return s.readMounts()
}

// takeLock holds the directory for this process. The kernel releases it when the process dies.
func (s *Store) takeLock() error {
	f, err := os.OpenFile(s.path("lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("lock image store: %w", err)
	}
	s.lock = f
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return vortex.Errorf(vortex.Precondition,
			"the image store %s is in use by another process: talk to that one, or stop it first", s.cfg.Dir)
	}
	if err != nil {
		return fmt.Errorf("lock image store: %w", err)
	}
	return nil
}

// Close waits for work in progress that nobody waits for any more, and gives the directory up. Mounts stay.
func (s *Store) Close() error {
	s.flights.wait()
	if s.lock == nil {
		return nil
	}
	return s.lock.Close()
}

// path returns a path inside the store.
func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.cfg.Dir}, elem...)...)
}

// pin keeps a path from being collected until the returned function is called.
func (s *Store) pin(path string) (unpin func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pins[path]++
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.pins[path]--; s.pins[path] == 0 {
			delete(s.pins, path)
		}
	})
}

// canceled returns why ctx ended, or nil when it has not.
func canceled(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return context.Cause(ctx)
}
