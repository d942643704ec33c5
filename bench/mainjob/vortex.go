package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"vortex"
	"vortex/client"
	"vortex/test/harness"
)

// ownImage is the sample program in Vortex's image store.
const ownImage = "hello:latest"

// live is a running Vortex with a connection to its store.
type live struct {
	*harness.Vortex

	kind    *client.Kind
	changes *feedOf
	stop    context.CancelFunc
}

// open starts a Vortex and follows its store.
func (b *bench) open(ctx context.Context, args ...string) (*live, error) {
	v, err := harness.Start(ctx, harness.Options{Args: args})
	if err != nil {
		return nil, err
	}
	l := &live{Vortex: v}
	if l.kind, err = client.OpenKind(v.Run.Kind, v.Run.Token); err != nil {
		return nil, errors.Join(err, v.Destroy())
	}
	following, stop := context.WithCancel(ctx)
	l.stop, l.changes = stop, follow(following, l.kind)
	return l, nil
}

// openWithImage is open with the sample program's image at hand.
func (b *bench) openWithImage(ctx context.Context, args ...string) (*live, error) {
	l, err := b.open(ctx, args...)
	if err != nil {
		return nil, err
	}
	if _, complaint, code := l.CLI(ctx, "image", "build", b.hello, "-t", ownImage); code != 0 {
		return nil, errors.Join(fmt.Errorf("build the image: exit code %d: %s", code, complaint), l.close())
	}
	return l, nil
}

// close removes everything.
func (l *live) close() error {
	l.stop()
	l.changes.wait()
	return errors.Join(l.kind.Close(), l.Destroy())
}

// app is the sample program as an app. Without a check it is routable as soon as it runs.
func app(name string, check *vortex.HealthCheck, scaling vortex.Scaling) vortex.App {
	a := vortex.App{
		APIVersion: "v1", Kind: "App", Metadata: vortex.Metadata{Name: name},
		Spec: vortex.AppSpec{
			Type: vortex.AppTypeHTTP, Image: ownImage, Ports: []vortex.Port{{ContainerPort: 8080}},
			Resources: &vortex.Resources{CPU: "10m", Memory: "16Mi", Limits: &vortex.ResourceLimits{CPU: "1", Memory: "64Mi"}},
		},
		Scaling: &scaling, HealthCheck: check,
	}
	a.SetDefaults()
	return a
}

// manual is a count that only the benchmark changes.
func manual(replicas uint32) vortex.Scaling {
	return vortex.Scaling{Mode: vortex.ScalingModeManual, Replicas: &replicas, MinReplicas: new(uint32(0))}
}

// healthCheck asks the sample program every second, as examples/hello does.
func healthCheck() *vortex.HealthCheck {
	return &vortex.HealthCheck{Protocol: vortex.ProbeProtocolHTTP, Path: "/health", PeriodSeconds: new(1.0), InitialDelaySeconds: new(0.0)}
}

// deploy registers an app.
func (l *live) deploy(ctx context.Context, a vortex.App) error {
	_, err := l.API.Register(ctx, a, "", false)
	return err
}

// scale asks for a count and returns at once.
func (l *live) scale(ctx context.Context, app string, replicas int) error {
	_, err := l.API.Scale(ctx, app, client.ScaleRequest{Replicas: &replicas})
	return err
}

// host is the Host header under which the edge knows an app.
func host(app string) string { return app + ".localhost" }

// edgeAddress is host:port of the edge.
func (l *live) edgeAddress() (string, error) {
	u, err := url.Parse(l.Run.Edge)
	if err != nil {
		return "", fmt.Errorf("read edge address: %w", err)
	}
	return u.Host, nil
}

// change is a change of the store and when it reached us.
type change struct {
	client.KeyChange

	at time.Time
}

// feedOf keeps every change of the store since it began, so that what happened between two questions is not missed.
type feedOf struct {
	done sync.WaitGroup

	mu      sync.Mutex
	changes []change
	err     error
	more    chan struct{} // closed and replaced when there are more
}

// follow watches the keys the figures are taken from.
func follow(ctx context.Context, kind *client.Kind) *feedOf {
	f := &feedOf{more: make(chan struct{})}
	f.done.Go(func() {
		for ch, err := range kind.Watch(ctx, "", 0) {
			f.add(change{ch, time.Now()}, err)
		}
	})
	return f
}

func (f *feedOf) add(ch change, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		f.err = err
	} else {
		f.changes = append(f.changes, ch)
	}
	close(f.more)
	f.more = make(chan struct{})
}

func (f *feedOf) wait() { f.done.Wait() }

// mark is the place after everything seen so far.
func (f *feedOf) mark() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.changes)
}

// next returns the first change from the mark on for which ok is true, and waits for it when there is none yet.
func (f *feedOf) next(ctx context.Context, from int, what string, ok func(change) bool) (change, error) {
	const patience = 60 * time.Second
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("not within %s: %s", patience, what))
	defer cancel()
	for {
		f.mu.Lock()
		news, more, err := f.changes[from:], f.more, f.err
		from = len(f.changes)
		f.mu.Unlock()
		for _, ch := range news {
			if ok(ch) {
				return ch, nil
			}
		}
		if err != nil {
			return change{}, fmt.Errorf("watch the store: %w", err)
		}
		select {
		case <-ctx.Done():
			return change{}, context.Cause(ctx)
		case <-more:
		}
	}
}

// record matches a record of a table that is written and fits.
func record[T any](t vortex.Table[T], fits func(T) bool) func(change) bool {
	return func(ch change) bool {
		if ch.Deleted || !strings.HasPrefix(ch.Key, t.Prefix+":") {
			return false
		}
		value, err := t.Decode(ch.Value)
		return err == nil && fits(value)
	}
}

// runningOf matches a container of an app that runs.
func runningOf(app string) func(change) bool {
	return record(vortex.Containers, func(c vortex.ContainerRecord) bool {
		return c.ClientID == app && c.Status == vortex.ContainerStatusRunning
	})
}

// routedOf matches an app's router with so many backends.
func routedOf(app string, backends int) func(change) bool {
	return record(vortex.Routers, func(r vortex.RouterRecord) bool {
		return r.ClientID == app && len(r.Backends) == backends
	})
}
