// Package process is the driver that runs programs of the node as they are: for machines without root, and for development.
// The program of an image is run too, from the image's files unpacked once below Root: a static one works as in a container;
// one that looks for libraries or files by absolute paths finds the node's. Instances of an image share those files.
//
// It gives no isolation: an instance sees the node's files, processes and network, has no limits, and runs as the agent's user
// (or as the spec's, when the agent is root). What it shares with the oci driver is the shim: instances outlive the agent, their output
// and exit codes are complete, and everything an instance started is killed when it ends.
//
// An instance with a port gets a free one on the loopback, the lowest from FirstPort on, told in PORT and the variables of
// PortEnv, so that several fit on one node.
package process

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"math"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	securejoin "github.com/cyphar/filepath-securejoin"
	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"

	"vortex"
	"vortex/internal/runtime"
	"vortex/internal/runtime/bundle"
	"vortex/internal/runtime/oci/embedded"
	"vortex/internal/runtime/shim"
)

// Isolation is what the agent logs when it uses this driver.
const Isolation = "the process runtime gives no isolation: instances see the node's files, processes and network, and have no limits"

const (
	loopback    = "127.0.0.1"
	firstPort   = 3000
	defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// Config is the driver's configuration.
type Config struct {
	Root     string       // everything the driver writes is below it
	Log      *slog.Logger // required
	Shim     string       // path of the helper; "" is the embedded one, unpacked below Root
	LogBytes int64        // greatest size of a log file; 0 is 10 MiB
	LogFiles int          // log files kept for each instance; 0 is 3

	Images    Images        // nil: only programs of the node
	FirstPort func() uint16 // the lowest port given to an instance, asked each time; nil is 3000

	Reserved func() func(port uint16) bool // asked each time: which ports are others'; nil is none
}

// Driver runs host processes. It implements runtime.Driver, runtime.Statter and io.Closer.
type Driver struct {
	*host

	set *bundle.Set
}

// Available returns why the driver cannot run on this machine, or nil.
func Available(cfg Config) error {
	if cfg.Shim == "" && !embedded.Present() {
		return vortex.Errorf(vortex.Precondition, "this binary was built without helpers; run make build")
	}
	return nil
}

// Open finds the instances below cfg.Root and begins to wait for their exits; Close ends that.
func Open(ctx context.Context, cfg Config) (*Driver, error) {
	if err := Available(cfg); err != nil {
		return nil, err
	}
	var err error
	if cfg.Root, err = filepath.Abs(cfg.Root); err != nil {
		return nil, fmt.Errorf("find data directory: %w", err)
	}
	if cfg.Shim == "" {
		if cfg.Shim, _, err = embedded.Unpack(filepath.Join(cfg.Root, "bin")); err != nil {
			return nil, err
		}
	}
	h := &host{cfg: cfg, ports: map[uint16]string{}}
	set, err := bundle.Open(ctx, bundle.Config{Dir: filepath.Join(cfg.Root, "instances"), Host: h, Log: cfg.Log})
	if err != nil {
		return nil, err
	}
	for _, s := range set.List() {
		if s.Port != 0 {
			h.ports[s.Port] = s.ID
		}
	}
	return &Driver{host: h, set: set}, nil
}

// Close lets go of the instances, which go on.
func (d *Driver) Close() error { return d.set.Close() }

// Name returns "process".
func (d *Driver) Name() string { return "process" }

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

// host prepares and cleans up processes for the Set.
type host struct {
	cfg Config

	mu    sync.Mutex
	ports map[uint16]string // chosen, by instance id

	unpacking sync.Mutex // held while image roots are made, taken into use or removed
}

// Prepare checks the command, unpacks the image and chooses the port.
func (h *host) Prepare(ctx context.Context, dir string, spec runtime.InstanceSpec) (bundle.Launch, error) {
	if err := validate(spec); err != nil {
		return bundle.Launch{}, err
	}
	as, err := findUser(spec.User)
	if err != nil {
		return bundle.Launch{}, err
	}
	img, err := h.takeImage(ctx, dir, spec)
	if err != nil {
		return bundle.Launch{}, err
	}
	command, err := img.command(spec)
	if err != nil {
		return bundle.Launch{}, err
	}
	if err := unix.Access(command[0], unix.X_OK); err != nil {
		return bundle.Launch{}, vortex.Errorf(vortex.Invalid, "command %s cannot be run: %w", command[0], err)
	}
	work, err := workDir(dir, spec, as, img)
	if err != nil {
		return bundle.Launch{}, err
	}
	if err := os.MkdirAll(work, 0o700); err != nil {
		return bundle.Launch{}, vortex.Errorf(vortex.Invalid, "working directory: %w", err)
	}
	l := bundle.Launch{Shim: shim.Config{
		Binary: h.cfg.Shim, Command: command, Cwd: work, User: as, LogBytes: h.cfg.LogBytes, LogFiles: h.cfg.LogFiles,
	}}
	if spec.Port != 0 {
		if l.Port, err = h.freePort(spec.ID); err != nil {
			return bundle.Launch{}, err
		}
		l.Address = loopback
	}
	l.Shim.Env = environment(work, l.Port, spec, img)
	return l, nil
}

// workDir returns where an instance runs: a directory of its own unless the spec or the image names one, which is
// inside the image for an instance of one.
func workDir(dir string, spec runtime.InstanceSpec, as *shim.User, img unpacked) (string, error) {
	inside := img.workingDir(spec)
	switch {
	case img.Root != "" && inside != "":
		work, err := securejoin.SecureJoin(img.Root, inside)
		if err != nil {
			return "", vortex.Errorf(vortex.Invalid, "working directory %s: %w", inside, err)
		}
		return work, nil
	case inside != "":
		return inside, nil
	case as != nil:
		return "/", nil // the instance's directory is only the agent's
	default:
		return filepath.Join(dir, "work"), nil
	}
}

// environment returns an instance's environment: nothing of the agent's own.
func environment(work string, port uint16, spec runtime.InstanceSpec, img unpacked) []string {
	env := mergeEnv(img.environment(), []string{"HOME=" + work})
	var chosen []string
	if port != 0 {
		number := strconv.Itoa(int(port))
		env = mergeEnv(env, []string{"PORT=" + number})
		for _, name := range spec.PortEnv {
			chosen = append(chosen, name+"="+number)
		}
	}
	for _, name := range spec.AddressEnv {
		chosen = append(chosen, name+"="+loopback)
	}
	return mergeEnv(env, spec.Env, chosen)
}

// validate refuses what a bare process cannot have, rather than run it otherwise than asked.
func validate(spec runtime.InstanceSpec) error {
	if spec.Image == "" && (len(spec.Command) == 0 || !filepath.IsAbs(spec.Command[0])) {
		return vortex.Errorf(vortex.Invalid,
			"the process runtime runs programs of the node: without an image command must begin with an absolute path, got %q", spec.Command)
	}
	if len(spec.Mounts) > 0 {
		return vortex.Errorf(vortex.Invalid, "the process runtime has no volumes: use runtime oci or docker")
	}
	return nil
}

// findUser resolves a user of the node; nil is the agent's own.
func findUser(name string) (*shim.User, error) {
	if name == "" {
		return nil, nil //nolint:nilnil // no user asked for is no error
	}
	u, err := user.GetExecUserPath(name, nil, "/etc/passwd", "/etc/group")
	if err != nil {
		return nil, vortex.Errorf(vortex.Invalid, "user %q is not known on this node: %w", name, err)
	}
	if os.Geteuid() != 0 {
		if u.Uid == os.Geteuid() {
			return nil, nil //nolint:nilnil // that is us
		}
		return nil, vortex.Errorf(vortex.Denied, "running as user %q needs an agent that runs as root", name)
	}
	return &shim.User{UID: u.Uid, GID: u.Gid, Groups: u.Sgids}, nil
}

// freePort finds the lowest port from FirstPort on that nobody listens on and no other instance was given.
func (h *host) freePort(id string) (uint16, error) {
	first := uint16(firstPort)
	if h.cfg.FirstPort != nil {
		first = max(1, h.cfg.FirstPort())
	}
	reserved := func(uint16) bool { return false }
	if h.cfg.Reserved != nil {
		reserved = h.cfg.Reserved()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for number := int(first); number <= math.MaxUint16; number++ {
		port := uint16(number)
		if h.ports[port] != "" || reserved(port) || !listenable(port) {
			continue
		}
		h.ports[port] = id
		return port, nil
	}
	return 0, vortex.Errorf(vortex.Exhausted, "no port from %d on is free on this node: lower cluster.starting_port", first)
}

// listenable reports whether a port is free on every address: a program that listens on all of them must be able to.
func listenable(port uint16) bool {
	for _, host := range []string{"", loopback} {
		l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(int(port)))) //nolint:noctx,gosec // it does not wait; nothing is accepted
		if err != nil {
			return false
		}
		_ = l.Close()
	}
	return true
}

// mergeEnv joins environments; a later value of a name replaces an earlier one.
func mergeEnv(envs ...[]string) []string {
	var merged []string
	at := map[string]int{}
	for _, kv := range slices.Concat(envs...) {
		name, _, _ := strings.Cut(kv, "=")
		if i, ok := at[name]; ok {
			merged[i] = kv
			continue
		}
		at[name] = len(merged)
		merged = append(merged, kv)
	}
	return merged
}

// Kill ends what is left of an instance whose shim is gone: its session.
func (h *host) Kill(_ string, pid int) {
	if pid <= 0 {
		return
	}
	for _, p := range session(pid) {
		_ = unix.Kill(p, unix.SIGKILL)
	}
}

// Exited has nothing to do: the shim killed what the instance left.
func (h *host) Exited(string) {}

// Release gives the port back.
func (h *host) Release(_ context.Context, dir string) error {
	id := filepath.Base(dir)
	h.mu.Lock()
	defer h.mu.Unlock()
	for port, owner := range h.ports {
		if owner == id {
			delete(h.ports, port)
		}
	}
	return nil
}
