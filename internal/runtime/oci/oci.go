// Package oci is the default driver: OCI containers with no daemon. Two small programs embedded in the binary do what needs
// a process of its own: the runner makes a container with libcontainer and exits; the shim stays beside it.
//
// It guarantees that a container outlives the agent, that its output and exit code are complete whenever the agent
// comes back, and that nothing of it (mounts, cgroups, processes, directories) is left after Remove. It does
// not fetch images and makes no networks: it consumes Images and Network.
//
// Containers have their own pid, mount, ipc, uts, network and cgroup namespaces, Docker's default capabilities, a
// system call allow-list, no_new_privs, masked and read-only kernel files, and limits on CPU, memory and tasks.
package oci

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"vortex"
	"vortex/internal/runtime"
	"vortex/internal/runtime/bundle"
	"vortex/internal/runtime/oci/embedded"
	"vortex/internal/runtime/shim"
)

// Images makes root file systems.
type Images interface {
	// Mount mounts a writable root of the image ref, private to an instance, at the directory target.
	Mount(ctx context.Context, ref, instanceID, target string) (ImageConfig, error)
	// Unmount undoes Mount. Nothing mounted is no error.
	Unmount(ctx context.Context, instanceID string) error
}

// ImageConfig is what an image says about running it.
type ImageConfig struct {
	Entrypoint, Cmd, Env []string
	WorkingDir, User     string
	Digest               string // of the image's manifest
}

// Network gives containers their network.
type Network interface {
	// Attach makes a network namespace for an instance and connects it.
	Attach(ctx context.Context, id string, spec AttachSpec) (Attachment, error)
	// Detach undoes Attach. Nothing attached is no error.
	Detach(ctx context.Context, id string) error
}

// AttachSpec is what an instance wants of the network.
type AttachSpec struct {
	App      string
	Hostname string
	Ports    []runtime.PortMapping
}

// Attachment is an instance's place in the network.
type Attachment struct {
	NetNS      string // path of the network namespace; "" is a new one with only a loopback
	IP         string // the instance's address; "" is none
	Gateway    string
	Hosts      string // path of the file for /etc/hosts; "" leaves the image's
	ResolvConf string // path of the file for /etc/resolv.conf; "" leaves the image's
}

// Config is the driver's configuration.
type Config struct {
	Root    string       // everything the driver writes is below it
	Images  Images       // required
	Network Network      // nil: only a loopback for every instance
	Log     *slog.Logger // required

	Shim, Runner string // paths of the helpers; "" are the embedded ones, unpacked below Root
	CgroupParent string // "" is "/vortex"
	LogBytes     int64  // greatest size of a log file; 0 is 10 MiB
	LogFiles     int    // log files kept for each instance; 0 is 3
}

// Driver runs OCI containers. It implements runtime.Driver, runtime.Statter and io.Closer.
type Driver struct {
	*host

	set *bundle.Set
}

// Available returns why the driver cannot run on this machine, or nil. The error says what to do.
func Available(cfg Config) error {
	if os.Geteuid() != 0 {
		return vortex.Errorf(vortex.Precondition, "the oci driver needs root: run as root, or use runtime process or docker")
	}
	if cfg.Shim == "" && !embedded.Present() {
		return vortex.Errorf(vortex.Precondition, "this binary was built without helpers; run make build, or use runtime docker")
	}
	if _, err := os.Stat("/sys/fs/cgroup"); err != nil {
		return vortex.Errorf(vortex.Precondition, "the oci driver needs cgroups mounted at /sys/fs/cgroup: %w", err)
	}
	return nil
}

// Open unpacks the helpers, finds the instances below cfg.Root and begins to wait for their exits; Close ends that.
func Open(ctx context.Context, cfg Config) (*Driver, error) {
	if err := Available(cfg); err != nil {
		return nil, err
	}
	cfg.CgroupParent = cmp.Or(cfg.CgroupParent, "/vortex")
	var err error
	if cfg.Root, err = filepath.Abs(cfg.Root); err != nil {
		return nil, fmt.Errorf("find data directory: %w", err)
	}
	if cfg.Shim == "" {
		if cfg.Shim, cfg.Runner, err = embedded.Unpack(filepath.Join(cfg.Root, "bin")); err != nil {
			return nil, err
		}
	}
	h := &host{cfg: cfg, cgroups: findCgroups(cfg.CgroupParent)}
	h.moves = newHastener(h.cgroups)
	set, err := bundle.Open(ctx, bundle.Config{Dir: filepath.Join(cfg.Root, "instances"), Host: h, Log: cfg.Log})
	if err != nil {
		return nil, err
	}
	return &Driver{host: h, set: set}, nil
}

// Close lets go of the instances, which go on.
func (d *Driver) Close() error {
	err := d.set.Close()
	d.moves.close()
	return err
}

// Name returns "oci".
func (d *Driver) Name() string { return "oci" }

// Start implements runtime.Driver.
func (d *Driver) Start(ctx context.Context, spec runtime.InstanceSpec) (runtime.Status, error) {
	return d.set.Start(ctx, spec)
}

// Stop implements runtime.Driver.
func (d *Driver) Stop(ctx context.Context, id string, grace time.Duration) error {
	return d.set.Stop(ctx, id, grace)
}

// Remove implements runtime.Driver.
func (d *Driver) Remove(ctx context.Context, id string) error { return d.set.Remove(ctx, id) }

// List implements runtime.Driver.
func (d *Driver) List(context.Context) ([]runtime.Status, error) { return d.set.List(), nil }

// Watch implements runtime.Driver.
func (d *Driver) Watch(ctx context.Context) iter.Seq[runtime.Status] { return d.set.Watch(ctx) }

// Logs implements runtime.Driver.
func (d *Driver) Logs(ctx context.Context, id string, opts runtime.LogOptions) (iter.Seq2[runtime.LogEntry, error], error) {
	return d.set.Logs(ctx, id, opts)
}

// Stats implements runtime.Statter.
func (d *Driver) Stats(ctx context.Context, id string) (runtime.Stats, error) {
	if _, err := d.set.Running(ctx, id); err != nil {
		return runtime.Stats{}, err
	}
	return d.cgroups.stats(id)
}

// host prepares and cleans up containers for the Set.
type host struct {
	cfg     Config
	cgroups cgroups
	moves   *hastener
}

// Prepare mounts the image, attaches the network, both at once, and writes the container's configuration.
func (h *host) Prepare(ctx context.Context, dir string, spec runtime.InstanceSpec) (bundle.Launch, error) {
	h.moves.hasten()
	root := filepath.Join(dir, "rootfs")
	if err := os.Mkdir(root, 0o755); err != nil {
		return bundle.Launch{}, fmt.Errorf("make root directory: %w", err)
	}
	c := container{spec: spec, dir: dir, root: root, cgroups: h.cgroups}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		c.image, err = h.cfg.Images.Mount(gctx, spec.Image, spec.ID, root)
		return err
	})
	if h.cfg.Network != nil {
		g.Go(func() (err error) {
			c.net, err = h.cfg.Network.Attach(gctx, spec.ID, AttachSpec{App: spec.App, Hostname: c.hostname(), Ports: spec.Ports})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return bundle.Launch{}, err
	}
	if err := c.write(); err != nil {
		return bundle.Launch{}, err
	}
	return bundle.Launch{
		Address: c.net.IP, Port: spec.Port,
		Shim: shim.Config{
			Binary: h.cfg.Shim, Command: []string{h.cfg.Runner, "run", dir}, Runner: true, OOM: h.cgroups.oomFile(spec.ID),
			LogBytes: h.cfg.LogBytes, LogFiles: h.cfg.LogFiles,
		},
	}, nil
}

// Kill ends every process in the container's cgroup.
func (h *host) Kill(dir string, _ int) { h.cgroups.kill(filepath.Base(dir)) }

// Exited removes the container's cgroups.
func (h *host) Exited(dir string) {
	if err := h.cgroups.remove(filepath.Base(dir)); err != nil {
		h.cfg.Log.Warn("Cgroup not removed", "instance", filepath.Base(dir), "err", err)
	}
}

// Release lets go of the cgroups, the network and the root. It fails rather than leave the root mounted.
func (h *host) Release(ctx context.Context, dir string) error {
	id := filepath.Base(dir)
	errs := []error{h.cgroups.remove(id)}
	if h.cfg.Network != nil {
		if err := h.cfg.Network.Detach(ctx, id); err != nil {
			errs = append(errs, fmt.Errorf("detach network: %w", err))
		}
	}
	if err := h.cfg.Images.Unmount(ctx, id); err != nil {
		errs = append(errs, fmt.Errorf("unmount image: %w", err))
	}
	return errors.Join(append(errs, unmountAll(filepath.Join(dir, "rootfs")))...)
}

// unmountAll makes sure that nothing is mounted at path: what is deleted next must not be an image.
func unmountAll(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		switch {
		case err == nil:
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT): // not a mount
			return nil
		default:
			return fmt.Errorf("unmount root: %w", err)
		}
	}
}
