// Package sim is a driver that starts nothing: its instances are records that run until they are stopped or killed. With it one machine
// plays a cluster of thousands of instances, and tests make instances die at will.
//
// Addresses are unique and come from a range that nothing routes to. Instances live in memory, and in a directory when one is
// given, so that they survive the driver as real ones do. There is no output, and no command can be run in them.
package sim

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"vortex"
	"vortex/internal/runtime"
)

// The exit codes of instances that end by a signal.
const (
	exitTerm = 128 + 15
	exitKill = 128 + 9
)

// Config is the driver's configuration. The zero value is useful.
type Config struct {
	Dir        string        // instances survive the driver in it; "" keeps them in memory only
	StartDelay time.Duration // how long Start takes
	StopDelay  time.Duration // how long an instance takes to end after SIGTERM
	Addresses  netip.Prefix  // the zero value is 10.99.0.0/16
}

// Driver plays instances. It implements runtime.Driver.
type Driver struct {
	cfg   Config
	exits runtime.Exits

	mu        sync.Mutex
	instances map[string]*instance
	used      map[netip.Addr]struct{}
	last      netip.Addr // given most recently
}

type instance struct {
	status  runtime.Status
	running bool          // Start is over
	ended   chan struct{} // closed when it exited
}

var validID = regexp.MustCompile(`^[a-z0-9-]{1,63}$`)

// Open finds the instances of an earlier driver in cfg.Dir.
func Open(cfg Config) (*Driver, error) {
	if !cfg.Addresses.IsValid() {
		cfg.Addresses = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 99, 0, 0}), 16)
	}
	cfg.Addresses = cfg.Addresses.Masked()
	d := &Driver{cfg: cfg, instances: map[string]*instance{}, used: map[netip.Addr]struct{}{}, last: cfg.Addresses.Addr()}
	if cfg.Dir == "" {
		return d, nil
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make instances directory: %w", err)
	}
	return d, d.load()
}

func (d *Driver) load() error {
	files, err := filepath.Glob(filepath.Join(d.cfg.Dir, "*.json"))
	if err != nil {
		return fmt.Errorf("list instances: %w", err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return fmt.Errorf("read instance: %w", err)
		}
		in := &instance{running: true, ended: make(chan struct{})}
		if err := json.Unmarshal(b, &in.status); err != nil {
			return fmt.Errorf("decode instance %s: %w", f, err)
		}
		d.instances[in.status.ID] = in
		if addr, err := netip.ParseAddr(in.status.Address); err == nil {
			d.used[addr] = struct{}{}
		}
		if in.status.State == runtime.Exited {
			close(in.ended)
			d.exits.Publish(in.status)
		}
	}
	return nil
}

// Name returns "sim".
func (d *Driver) Name() string { return "sim" }

// Start implements runtime.Driver.
func (d *Driver) Start(ctx context.Context, spec runtime.InstanceSpec) (runtime.Status, error) {
	in, err := d.reserve(spec)
	if err != nil {
		return runtime.Status{}, err
	}
	if err := pause(ctx, d.cfg.StartDelay); err != nil {
		d.forget(spec.ID)
		return runtime.Status{}, fmt.Errorf("start instance: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	in.status.State, in.status.StartedAt = runtime.Running, time.Now().Round(0)
	in.running = true
	if err := d.save(in.status); err != nil {
		d.forgetLocked(spec.ID)
		return runtime.Status{}, err
	}
	return in.status, nil
}

// reserve takes the id and an address.
func (d *Driver) reserve(spec runtime.InstanceSpec) (*instance, error) {
	if !validID.MatchString(spec.ID) {
		return nil, vortex.Errorf(vortex.Invalid, "instance id %q: want 1 to 63 characters of a-z, 0-9 and -", spec.ID)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.instances[spec.ID] != nil {
		return nil, vortex.Errorf(vortex.Exists, "instance %s exists already", spec.ID)
	}
	addr, err := d.address()
	if err != nil {
		return nil, err
	}
	in := &instance{ended: make(chan struct{}), status: runtime.Status{
		ID: spec.ID, Address: addr.String(), Port: spec.Port, Labels: spec.Labels,
	}}
	d.instances[spec.ID] = in
	return in, nil
}

// address returns the next address that no instance has.
func (d *Driver) address() (netip.Addr, error) {
	for a, round := d.last.Next(), 0; round < 2; a = a.Next() {
		if !d.cfg.Addresses.Contains(a) {
			a = d.cfg.Addresses.Addr() // the network's own address is not given
			round++
			continue
		}
		if _, taken := d.used[a]; !taken {
			d.used[a], d.last = struct{}{}, a
			return a, nil
		}
	}
	return netip.Addr{}, vortex.Errorf(vortex.Exhausted, "no address is free in %v", d.cfg.Addresses)
}

// Stop implements runtime.Driver. An instance whose StopDelay exceeds grace is killed.
func (d *Driver) Stop(ctx context.Context, id string, grace time.Duration) error {
	in, err := d.find(id)
	if err != nil {
		return err
	}
	code := exitTerm
	if d.cfg.StopDelay > grace {
		code = exitKill
	}
	select {
	case <-in.ended:
		return nil
	default:
	}
	if err := pause(ctx, min(d.cfg.StopDelay, grace)); err != nil {
		return fmt.Errorf("stop instance: %w", err)
	}
	return d.end(in, code, "stopped")
}

// Kill makes an instance die as if of signal 9. It is what tests and simulations break things with.
func (d *Driver) Kill(id string) error { return d.Exit(id, exitKill) }

// Exit makes an instance end by itself with an exit code.
func (d *Driver) Exit(id string, code int) error {
	in, err := d.find(id)
	if err != nil {
		return err
	}
	return d.end(in, code, fmt.Sprintf("exited with code %d", code))
}

func (d *Driver) end(in *instance, code int, reason string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if in.status.State == runtime.Exited {
		return nil
	}
	in.status.State, in.status.FinishedAt, in.status.ExitCode, in.status.Reason = runtime.Exited, time.Now().Round(0), code, reason
	close(in.ended)
	d.exits.Publish(in.status)
	return d.save(in.status)
}

// Remove implements runtime.Driver.
func (d *Driver) Remove(_ context.Context, id string) error {
	in, err := d.find(id)
	if err != nil {
		return nil //nolint:nilerr // an unknown id is no error
	}
	if err := d.end(in, exitKill, "removed"); err != nil {
		return err
	}
	d.forget(id)
	d.exits.Forget(id)
	if d.cfg.Dir == "" {
		return nil
	}
	if err := os.Remove(d.file(id)); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("remove instance: %w", err)
	}
	return nil
}

// List implements runtime.Driver.
func (d *Driver) List(context.Context) ([]runtime.Status, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make([]runtime.Status, 0, len(d.instances))
	for _, in := range d.instances {
		if in.running {
			all = append(all, in.status)
		}
	}
	slices.SortFunc(all, func(a, b runtime.Status) int { return strings.Compare(a.ID, b.ID) })
	return all, nil
}

// Watch implements runtime.Driver.
func (d *Driver) Watch(ctx context.Context) iter.Seq[runtime.Status] { return d.exits.Watch(ctx) }

// Exec implements runtime.Driver: there is nothing to run a command in.
func (d *Driver) Exec(_ context.Context, id string, _ runtime.ExecSpec) (int, error) {
	if _, err := d.find(id); err != nil {
		return 0, err
	}
	return 0, vortex.Errorf(vortex.Precondition, "instance %s is simulated: no command can be run in it", id)
}

// Logs implements runtime.Driver: there is no output, and its end is the instance's.
func (d *Driver) Logs(ctx context.Context, id string, opts runtime.LogOptions) (iter.Seq2[runtime.LogEntry, error], error) {
	in, err := d.find(id)
	if err != nil {
		return nil, err
	}
	return func(func(runtime.LogEntry, error) bool) {
		if !opts.Follow {
			return
		}
		select {
		case <-in.ended:
		case <-ctx.Done():
		}
	}, nil
}

func (d *Driver) find(id string) (*instance, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	in := d.instances[id]
	if in == nil || !in.running {
		return nil, vortex.Errorf(vortex.NotFound, "instance %s does not exist on this node", id)
	}
	return in, nil
}

func (d *Driver) forget(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.forgetLocked(id)
}

func (d *Driver) forgetLocked(id string) {
	in := d.instances[id]
	if in == nil {
		return
	}
	if addr, err := netip.ParseAddr(in.status.Address); err == nil {
		delete(d.used, addr)
	}
	delete(d.instances, id)
}

func (d *Driver) file(id string) string { return filepath.Join(d.cfg.Dir, id+".json") }

func (d *Driver) save(s runtime.Status) error {
	if d.cfg.Dir == "" {
		return nil
	}
	b, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encode instance: %w", err)
	}
	if err := os.WriteFile(d.file(s.ID)+".tmp", b, 0o600); err != nil {
		return fmt.Errorf("write instance: %w", err)
	}
	if err := os.Rename(d.file(s.ID)+".tmp", d.file(s.ID)); err != nil {
		return fmt.Errorf("write instance: %w", err)
	}
	return nil
}

// pause waits for d, or returns why ctx ended first.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return context.Cause(ctx)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
