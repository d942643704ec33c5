package docker

import (
	"context"
	"io"
	"log/slog"
	"regexp"
	"strings"
	"sync"

	"github.com/moby/moby/client"

	"vortex"
	"vortex/internal/runtime"
)

// Images is where the node's own images come from.
type Images interface {
	// Export writes an image as an archive that `docker load` reads. It is NotFound when there is none of that name.
	Export(ctx context.Context, ref string, w io.Writer) error
}

// Config says which engine is used and how. The zero value is the local engine.
type Config struct {
	// Host is the engine's address: unix:///path, tcp://host:port. Default unix:///var/run/docker.sock.
	Host string
	// Node is the owner of the instances: a driver sees those of its own node only. Default "local".
	Node string
	// Images are tried before a registry when the engine lacks an image. Nil is none.
	Images Images
	// LogMaxBytes and LogMaxFiles bound what the engine keeps of an instance's output. Default 10 MiB in each of 3 files.
	LogMaxBytes, LogMaxFiles int
	// Log receives what an operator would act on. Default: nothing is logged.
	Log *slog.Logger
}

const (
	defaultHost  = "unix:///var/run/docker.sock"
	defaultPids  = 4096
	namePrefix   = "vortex-"
	labelNode    = "vortex.node"   // the owner
	labelPort    = "vortex.port"   // the spec's Port
	labelKeys    = "vortex.labels" // the names of the spec's labels, comma separated: an image brings others
	minShares    = 2               // the least the kernel accepts
	sharesOfCore = 1024            // one core's worth of CPU shares
)

// withDefaults returns c with what was left out filled in.
func (c Config) withDefaults() Config {
	if c.Host == "" {
		c.Host = defaultHost
	}
	if c.Node == "" {
		c.Node = "local"
	}
	if c.LogMaxBytes <= 0 {
		c.LogMaxBytes = 10 << 20
	}
	if c.LogMaxFiles <= 0 {
		c.LogMaxFiles = 3
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// Driver runs instances on one engine. It implements runtime.Driver, runtime.Statter and io.Closer.
type Driver struct {
	cfg    Config
	engine *client.Client

	mu        sync.Mutex
	yielded   map[string]bool          // engine ids whose exit Watch has yielded
	removed   map[string]bool          // engine ids that Remove took away: nobody needs to hear of their end
	oomKilled map[string]bool          // engine ids: what lateOOM found
	loading   map[string]chan struct{} // per image reference: one load at a time
}

var (
	_ runtime.Driver  = (*Driver)(nil)
	_ runtime.Statter = (*Driver)(nil)
	_ io.Closer       = (*Driver)(nil)
)

// New returns a driver that has not talked to its engine yet. The error is Invalid for a host that cannot be one.
func New(cfg Config) (*Driver, error) {
	cfg = cfg.withDefaults()
	engine, err := client.New(client.WithHost(cfg.Host), client.WithUserAgent("vortex"))
	if err != nil {
		return nil, vortex.Errorf(vortex.Invalid, "Docker host %q: expected unix:///path or tcp://host:port: %w", cfg.Host, err)
	}
	return &Driver{
		cfg: cfg, engine: engine,
		yielded: map[string]bool{}, removed: map[string]bool{}, oomKilled: map[string]bool{}, loading: map[string]chan struct{}{},
	}, nil
}

// Name returns "docker".
func (d *Driver) Name() string { return "docker" }

// Close lets go of the connections to the engine. Instances go on.
func (d *Driver) Close() error { return d.engine.Close() }

// Available reports whether the engine answers and can run Linux containers. The error is Unavailable and says what is wrong.
func (d *Driver) Available(ctx context.Context) error {
	ping, err := d.engine.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true})
	if err != nil {
		return vortex.Errorf(vortex.Unavailable, "Docker Engine at %s does not answer: start it, allow access to it, or use another runtime: %w", d.cfg.Host, err)
	}
	if ping.OSType != "" && ping.OSType != "linux" {
		return vortex.Errorf(vortex.Unavailable, "Docker Engine at %s runs %s containers: switch it to Linux containers", d.cfg.Host, ping.OSType)
	}
	return nil
}

var validID = regexp.MustCompile(`^[a-z0-9-]{1,63}$`)

// validate checks what can never run.
func validate(spec runtime.InstanceSpec) error {
	if !validID.MatchString(spec.ID) {
		return vortex.Errorf(vortex.Invalid, "instance id %q: expected 1 to 63 of a-z, 0-9 and -", spec.ID)
	}
	if spec.Image == "" {
		return vortex.Errorf(vortex.Invalid, "instance %s has no image: the docker runtime needs one", spec.ID)
	}
	if len(spec.AddressEnv) > 0 {
		return vortex.Errorf(vortex.Invalid, "instance %s wants its own address in %s: a Docker Engine gives it only after the start; use runtime oci", spec.ID, strings.Join(spec.AddressEnv, ", "))
	}
	for _, p := range spec.Ports {
		if p.HostPort == 0 || p.ContainerPort == 0 {
			return vortex.Errorf(vortex.Invalid, "port mapping %d to %d of instance %s: both must be 1 to 65535", p.HostPort, p.ContainerPort, spec.ID)
		}
	}
	for _, e := range spec.Env {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" {
			return vortex.Errorf(vortex.Invalid, "environment entry %q of instance %s: expected NAME=value", e, spec.ID)
		}
	}
	return nil
}
