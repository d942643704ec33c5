//go:build linux

package node

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"vortex"
	"vortex/internal/image"
	"vortex/internal/network"
	"vortex/internal/runtime"
	"vortex/internal/runtime/docker"
	"vortex/internal/runtime/oci"
	"vortex/internal/runtime/process"
	"vortex/internal/runtime/sim"
)

// drivers are the runtimes this machine has, and what they stand on.
type drivers struct {
	byName  map[string]runtime.Driver
	def     string
	network *network.Network // nil without the oci driver

	firstPort func() uint16                 // of the node's ports given to instances
	reserved  func() func(port uint16) bool // which of them are the edges'
}

// The names of the drivers, as App specs give them.
const (
	ociName     = string(vortex.RuntimeNameOCI)
	dockerName  = string(vortex.RuntimeNameDocker)
	processName = string(vortex.RuntimeNameProcess)
	simName     = string(vortex.RuntimeNameSim)
)

// openDrivers opens every runtime that works here. The one of cfg.Runtime must; without one the best is the
// default: oci, else docker, else process.
func openDrivers(ctx context.Context, cfg Config, store *image.Store, parts *stack, firstPort func() uint16, reserved func() func(uint16) bool) (*drivers, error) {
	d := &drivers{byName: map[string]runtime.Driver{}, firstPort: firstPort, reserved: reserved}
	openers := []struct {
		name string
		open func(context.Context, Config, *image.Store, *stack) (runtime.Driver, error)
	}{
		{ociName, d.openOCI},
		{dockerName, openDocker},
		{processName, d.openProcess},
		{simName, openSim},
	}
	var missing []error
	for _, o := range openers {
		if o.name == simName && cfg.Runtime != simName {
			continue // it starts nothing: only for those who ask for it
		}
		driver, err := o.open(ctx, cfg, store, parts)
		if err != nil {
			if cfg.Runtime == o.name {
				return nil, err
			}
			level := slog.LevelDebug
			if o.name == ociName && os.Geteuid() == 0 {
				level = slog.LevelWarn // the one that everybody wants
			}
			cfg.Log.Log(ctx, level, "Runtime not available", "runtime", o.name, "err", err)
			missing = append(missing, err)
			continue
		}
		d.byName[o.name] = driver
		if d.def == "" || cfg.Runtime == o.name {
			d.def = o.name
		}
		if closer, ok := driver.(io.Closer); ok {
			parts.closer(o.name, closer.Close)
		}
	}
	if d.def == "" {
		return nil, vortex.Errorf(vortex.Precondition, "no runtime works on this machine: %w", errors.Join(missing...))
	}
	if d.def == processName {
		cfg.Log.Warn("No isolation: " + process.Isolation) //nolint:sloglint // the driver's own words
	}
	return d, nil
}

// openOCI opens the embedded runtime and the container network beneath it.
func (d *drivers) openOCI(ctx context.Context, cfg Config, store *image.Store, parts *stack) (runtime.Driver, error) {
	if os.Geteuid() != 0 {
		return nil, vortex.Errorf(vortex.Precondition, "the oci runtime needs root")
	}
	conf := oci.Config{Root: filepath.Join(cfg.Data, "oci"), Images: rootfs{store}, Log: cfg.Log.With("component", "oci")}
	if err := oci.Available(conf); err != nil {
		return nil, err
	}
	netConf := network.Config{Bridge: cfg.Bridge, Table: strings.ReplaceAll(cfg.Bridge, "-", "_"), DataDir: filepath.Join(cfg.Data, "network"), Log: cfg.Log.With("component", "network")}
	if cfg.Subnet != "" {
		subnet, err := netip.ParsePrefix(cfg.Subnet)
		if err != nil {
			return nil, vortex.Errorf(vortex.Invalid, "the container subnet must be like 10.88.0.0/16, got %q", cfg.Subnet)
		}
		netConf.Subnet = subnet
	}
	if cfg.Cluster.on() {
		netConf.Cluster = cfg.Cluster.Subnet
	}
	nw, err := network.New(netConf)
	if err != nil {
		return nil, err
	}
	if err := nw.Setup(ctx); err != nil {
		return nil, err
	}
	parts.closer("network", func() error {
		ctx := context.Background()
		if attached, err := nw.List(ctx); cfg.Remove || err == nil && len(attached) == 0 {
			return nw.Teardown(ctx) // nobody is left to go on without us
		}
		return nw.Close()
	})
	parts.start("network pool", nw.Run)
	conf.Network = attacher{nw}
	driver, err := oci.Open(ctx, conf)
	if err != nil {
		return nil, err
	}
	d.network = nw
	return driver, d.forgetStrays(ctx, driver, cfg.Log)
}

// forgetStrays takes everything off the network that the driver does not know any more.
func (d *drivers) forgetStrays(ctx context.Context, driver runtime.Driver, log *slog.Logger) error {
	list, err := driver.List(ctx)
	if err != nil {
		return err
	}
	keep := map[string]bool{}
	for _, st := range list {
		keep[st.ID] = true
	}
	if err := d.network.Reconcile(ctx, keep); err != nil {
		log.WarnContext(ctx, "Left-over network attachments not removed", "err", err)
	}
	return nil
}

// attacher gives the oci driver its network.
type attacher struct{ nw *network.Network }

// Attach implements oci.Network.
func (a attacher) Attach(ctx context.Context, id string, spec oci.AttachSpec) (oci.Attachment, error) {
	at, err := a.nw.Attach(ctx, id, network.AttachSpec{Hostname: spec.Hostname, Ports: spec.Ports})
	if err != nil {
		return oci.Attachment{}, err
	}
	return oci.Attachment{
		NetNS: at.NetNS, IP: at.IP.String(), Gateway: at.Gateway.String(), Hosts: at.HostsFile, ResolvConf: at.ResolvFile,
	}, nil
}

// Detach implements oci.Network.
func (a attacher) Detach(ctx context.Context, id string) error { return a.nw.Detach(ctx, id) }

func openDocker(ctx context.Context, cfg Config, store *image.Store, _ *stack) (runtime.Driver, error) {
	driver, err := docker.New(docker.Config{Host: cfg.DockerHost, Node: cfg.Name + "-" + cfg.Bridge, Images: store, Log: cfg.Log.With("component", "docker")})
	if err != nil {
		return nil, err
	}
	return driver, driver.Available(ctx)
}

func (d *drivers) openProcess(ctx context.Context, cfg Config, store *image.Store, _ *stack) (runtime.Driver, error) {
	return process.Open(ctx, process.Config{
		Root: filepath.Join(cfg.Data, "process"), Log: cfg.Log.With("component", "process"),
		Images: roots{store}, FirstPort: d.firstPort, Reserved: d.reserved,
	})
}

func openSim(_ context.Context, cfg Config, _ *image.Store, _ *stack) (runtime.Driver, error) {
	return sim.Open(sim.Config{Dir: filepath.Join(cfg.Data, "sim")})
}
