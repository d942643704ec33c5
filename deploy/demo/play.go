package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"vortex/client"
	"vortex/test/harness"
)

const app = "hello"

// demo is one run of it.
type demo struct {
	out     io.Writer
	began   time.Time
	vortex  *harness.Vortex
	state   *state
	base    traffic
	results []harness.Result
	figures []figure
}

// figure is a line of the table at the end.
type figure struct {
	what  string
	value string
}

// say prints a line of progress.
func (d *demo) say(format string, args ...any) {
	_, _ = fmt.Fprintf(d.out, "%6.2fs  %s\n", time.Since(d.began).Seconds(), fmt.Sprintf(format, args...))
}

// measured keeps a time for the table.
func (d *demo) measured(what string, took time.Duration) {
	d.figures = append(d.figures, figure{what, round(took)})
}

// round writes a duration with as much as is worth reading.
func round(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
	}
	return fmt.Sprintf("%.2f s", d.Seconds())
}

// play does the steps in their order.
func (d *demo) play(ctx context.Context) error {
	d.say("Vortex is ready: store, control plane, agent, edge and API in one process (%s)", round(d.vortex.Took))
	d.measured("command to ready", d.vortex.Took)
	kind, err := client.OpenKind(d.vortex.Run.Kind, d.vortex.Run.Token)
	if err != nil {
		return err
	}
	defer func() { _ = kind.Close() }()
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	d.state = watch(watching, kind)
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"build the image", d.buildImage},
		{"deploy", d.deploy},
		{"scale up", d.scaleUp},
		{"scale down", d.scaleDown},
		{"replace a killed container", d.kill},
		{"end the traffic", d.endTraffic},
	} {
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return nil
}

// buildImage makes the sample app's image of its static binary, without a builder.
func (d *demo) buildImage(ctx context.Context) error {
	binary := filepath.Join(d.vortex.Data, "hello")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", binary, "./examples/hello")
	build.Dir, build.Env = harness.Root(), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the sample app: %w\n%s", err, out)
	}
	began := time.Now()
	if err := d.cli(ctx, "image", "build", "-t", "hello:latest", binary); err != nil {
		return err
	}
	d.say("image hello:latest made of the sample app's binary (%s)", round(time.Since(began)))
	return nil
}

// cli runs a command that must succeed.
func (d *demo) cli(ctx context.Context, args ...string) error {
	stdout, stderr, code := d.vortex.CLI(ctx, args...)
	if code != 0 {
		return fmt.Errorf("vortex %s: exit code %d\n%s%s", strings.Join(args, " "), code, stdout, stderr)
	}
	return nil
}

// deploy applies the sample app and measures until it answers through the edge.
func (d *demo) deploy(ctx context.Context) error {
	began := time.Now()
	if err := d.cli(ctx, "apply", "-f", filepath.Join(harness.Root(), "examples", "hello", "vortex-app.yaml")); err != nil {
		return err
	}
	body, err := d.get(ctx)
	if err != nil {
		return err
	}
	took := time.Since(began)
	d.measured("apply to the first answer through the edge", took)
	d.say("app hello deployed by `vortex apply` (%s); it answers %q", round(took), strings.TrimSpace(body))
	list, err := d.vortex.API.Instances(ctx, app)
	if err != nil {
		return err
	}
	if len(list.Instances) != 1 {
		return fmt.Errorf("expected 1 instance, got %d", len(list.Instances))
	}
	d.say("its instance %s runs in the %s runtime at %s:%d", list.Instances[0].ID, list.Instances[0].Driver, list.Instances[0].IP, list.Instances[0].Port)
	return nil
}

// get asks the app once through the edge.
func (d *demo) get(ctx context.Context) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.vortex.Run.Edge+"/", nil)
	if err != nil {
		return "", err
	}
	req.Host = app + ".localhost"
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("expected 200 from the app, got %s: %s", resp.Status, body)
	}
	return string(body), err
}

// scaleUp sends the peak and waits for the instances it takes.
func (d *demo) scaleUp(ctx context.Context) error {
	const wanted = peak / target
	d.base = d.send(ctx, base)
	began := time.Now()
	extra := d.send(ctx, peak-base)
	d.say("traffic: %d requests a second through the edge, %d for each instance wanted", peak, target)
	metric, err := d.state.scaled(ctx, wanted)
	if err != nil {
		return errors.Join(err, d.end(extra))
	}
	serving, err := d.state.routed(ctx, wanted)
	if err != nil {
		return errors.Join(err, d.end(extra))
	}
	d.measured(fmt.Sprintf("%d requests/s begin to %d instances serving", peak, wanted), serving.Sub(began))
	d.measured(fmt.Sprintf("measured load recorded to %d instances serving", wanted), serving.Sub(metric))
	d.say("1 → %d instances serve, %s after the traffic began, %s after the load was recorded", wanted, round(serving.Sub(began)), round(serving.Sub(metric)))
	if err := hold(ctx, time.Second); err != nil {
		return errors.Join(err, d.end(extra))
	}
	return d.end(extra)
}

// scaleDown leaves the base traffic and waits for one instance.
func (d *demo) scaleDown(ctx context.Context) error {
	began := time.Now()
	d.say("traffic: down to %d requests a second; fewer instances only after the load was lower for a while (5 s)", base)
	last, err := d.state.routed(ctx, 1)
	if err != nil {
		return err
	}
	if err := d.state.containers(ctx, 1); err != nil {
		return err
	}
	d.measured("5 → 1 instances after the drop to 100 requests/s (5 s of it cool-down)", last.Sub(began))
	d.say("%d → 1 instances, each drained before it was stopped (%s)", peak/target, round(last.Sub(began)))
	return nil
}

// kill ends the only instance's process under traffic, as a crash would.
func (d *demo) kill(ctx context.Context) error {
	victim := d.state.only()
	if victim.PID == nil || *victim.PID <= 0 {
		return fmt.Errorf("the process of %s is not known", victim.ID)
	}
	d.say("kill -9 of process %d, the only instance %s, under %d requests a second", *victim.PID, victim.ID, base)
	killed := time.Now()
	if err := syscall.Kill(int(*victim.PID), syscall.SIGKILL); err != nil {
		return err
	}
	gone, err := d.state.unrouted(ctx, victim.ID)
	if err != nil {
		return err
	}
	served, err := d.state.routed(ctx, 1)
	if err != nil {
		return err
	}
	d.measured("kill -9 to out of the router", gone.Sub(killed))
	d.measured("kill -9 to its replacement in the router, healthy", served.Sub(killed))
	d.say("out of the router after %s, replacement %s serves after %s", round(gone.Sub(killed)), d.state.only().ID, round(served.Sub(killed)))
	return hold(ctx, time.Second)
}

// hold lets the traffic go on for a while, so that the table counts requests after the change too.
func hold(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
