package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// peerImage is the sample program as an image of Docker's.
const peerImage = "vortex-bench-hello:latest"

// cleanupTime bounds what is done after an interrupt.
const cleanupTime = 60 * time.Second

// output runs a command and returns what it printed; the error holds what it complained about.
func output(ctx context.Context, name string, args ...string) (string, error) {
	return feed(ctx, nil, name, args...)
}

func feed(ctx context.Context, stdin io.Reader, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var out, complaint bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &complaint
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(complaint.String()))
	}
	return strings.TrimSpace(out.String()), nil
}

// cleaning is a context for cleaning up: it goes on after an interrupt.
func cleaning(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
}

// docker is Docker with the sample program's image.
type docker struct {
	host  string // path of the engine's socket
	swarm bool   // we made the swarm
	api   http.Client
}

const dockerSocket = "/var/run/docker.sock"

// openDocker makes the image of the program at path.
func openDocker(ctx context.Context, path string) (*docker, error) {
	program, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read sample program: %w", err)
	}
	var layer bytes.Buffer
	tw := tar.NewWriter(&layer)
	if err := tw.WriteHeader(&tar.Header{Name: "hello", Mode: 0o755, Size: int64(len(program))}); err != nil {
		return nil, fmt.Errorf("make image: %w", err)
	}
	if _, err := tw.Write(program); err != nil {
		return nil, fmt.Errorf("make image: %w", err)
	}
	if err := tw.Close(); err != nil {
		return nil, fmt.Errorf("make image: %w", err)
	}
	if _, err := feed(ctx, &layer, "docker", "import", "--change", `ENTRYPOINT ["/hello"]`, "-", peerImage); err != nil {
		return nil, err
	}
	d := &docker{host: dockerSocket}
	d.api.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", d.host)
	}}
	return d, nil
}

// close removes the image and the swarm that we made.
func (d *docker) close(ctx context.Context) error {
	ctx, cancel := cleaning(ctx)
	defer cancel()
	var errs []error
	if d.swarm {
		_, err := output(ctx, "docker", "swarm", "leave", "--force")
		errs = append(errs, err)
	}
	_, err := output(ctx, "docker", "rmi", "--force", peerImage)
	d.api.CloseIdleConnections()
	return errors.Join(append(errs, err)...)
}

// start measures `docker run -d` and removes the container again.
func (d *docker) start(ctx context.Context) (time.Duration, error) {
	name := fmt.Sprintf("vortex-bench-%d", os.Getpid())
	began := time.Now()
	_, err := output(ctx, "docker", "run", "-d", "--name", name, peerImage)
	took := time.Since(began)
	clean, cancel := cleaning(ctx)
	defer cancel()
	_, rerr := output(clean, "docker", "rm", "--force", name) // one that was interrupted may be there as well
	return took, errors.Join(err, rerr)
}

// joinSwarm makes a swarm of one, unless this machine is in one.
func (d *docker) joinSwarm(ctx context.Context) error {
	state, err := output(ctx, "docker", "info", "--format", "{{.Swarm.LocalNodeState}}")
	if err != nil || state == "active" {
		return err
	}
	_, err = output(ctx, "docker", "swarm", "init", "--advertise-addr", "127.0.0.1")
	d.swarm = err == nil
	return err
}

const serviceName = "vortex-bench"

// serve measures how long `docker service create` takes until all its tasks run. The five seconds in which the
// command watches that they stay up are not counted, and the tasks publish no port.
func (d *docker) serve(ctx context.Context, replicas int) (took time.Duration, err error) {
	began := time.Now()
	if _, err = output(ctx, "docker", "service", "create", "--detach", "--quiet", "--name", serviceName,
		"--replicas", strconv.Itoa(replicas), "--no-resolve-image", peerImage); err != nil {
		_ = d.unserve(ctx) // when it was interrupted
		return 0, err
	}
	defer func() { err = errors.Join(err, d.unserve(ctx)) }()
	err = await(ctx, 20*time.Millisecond, "the service's tasks run", func() (bool, error) {
		running, err := d.runningTasks(ctx)
		return running >= replicas, err
	})
	return time.Since(began), err
}

// unserve removes the service and returns when its containers are gone.
func (d *docker) unserve(ctx context.Context) error {
	ctx, cancel := cleaning(ctx)
	defer cancel()
	if _, err := output(ctx, "docker", "service", "rm", serviceName); err != nil {
		return err
	}
	return await(ctx, 200*time.Millisecond, "the service's containers are gone", func() (bool, error) {
		ids, err := output(ctx, "docker", "ps", "--all", "--quiet", "--filter", "label=com.docker.swarm.service.name="+serviceName)
		return ids == "", err
	})
}

func (d *docker) runningTasks(ctx context.Context) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/v1.41/services?status=true", http.NoBody)
	if err != nil {
		return 0, err
	}
	resp, err := d.api.Do(req)
	if err != nil {
		return 0, fmt.Errorf("ask docker for its services: %w", err)
	}
	defer resp.Body.Close()
	var services []struct {
		Spec          struct{ Name string }
		ServiceStatus struct{ RunningTasks int }
	}
	if err := json.NewDecoder(resp.Body).Decode(&services); err != nil {
		return 0, fmt.Errorf("read docker's services: %w", err)
	}
	for _, s := range services {
		if s.Spec.Name == serviceName {
			return s.ServiceStatus.RunningTasks, nil
		}
	}
	return 0, nil
}

// await asks done every so often until it is true.
func await(ctx context.Context, every time.Duration, what string, done func() (bool, error)) error {
	const patience = 2 * time.Minute
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("not within %s: %s", patience, what))
	defer cancel()
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		if ok, err := done(); err != nil || ok {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
}

// runc is a bundle of the sample program for Debian's runc.
type runc struct {
	bundle string
	count  int
}

// openRunc makes the bundle, with the same root as the image has.
func openRunc(ctx context.Context, path string) (*runc, error) {
	dir, err := os.MkdirTemp("", "vortex-bench-runc-")
	if err != nil {
		return nil, fmt.Errorf("make bundle: %w", err)
	}
	r := &runc{bundle: dir}
	if err := r.write(ctx, path); err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

func (r *runc) write(ctx context.Context, path string) error {
	program, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read sample program: %w", err)
	}
	root := filepath.Join(r.bundle, "rootfs")
	if err := os.Mkdir(root, 0o755); err != nil { //nolint:gosec // a container's root
		return fmt.Errorf("make bundle: %w", err)
	}
	if err := os.WriteFile(filepath.Join(root, "hello"), program, 0o755); err != nil { //nolint:gosec // a program
		return fmt.Errorf("make bundle: %w", err)
	}
	if _, err := output(ctx, "runc", "spec", "--bundle", r.bundle); err != nil {
		return err
	}
	return r.setCommand(filepath.Join(r.bundle, "config.json"))
}

// setCommand makes runc's own example configuration run the program, without a terminal.
func (*runc) setCommand(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read bundle: %w", err)
	}
	var spec map[string]any
	if err := json.Unmarshal(data, &spec); err != nil {
		return fmt.Errorf("read bundle: %w", err)
	}
	process, ok := spec["process"].(map[string]any)
	if !ok {
		return errors.New("runc spec made no process")
	}
	process["terminal"], process["args"] = false, []string{"/hello"}
	if data, err = json.Marshal(spec); err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	return os.WriteFile(path, data, 0o600)
}

// start measures `runc run -d` and removes the container again. Its output goes nowhere: a pipe that the container holds
// open would be waited for.
func (r *runc) start(ctx context.Context) (time.Duration, error) {
	r.count++
	id := fmt.Sprintf("vortex-bench-%d-%d", os.Getpid(), r.count)
	cmd := exec.CommandContext(ctx, "runc", "run", "--detach", "--bundle", r.bundle, id)
	began := time.Now()
	err := cmd.Run()
	took := time.Since(began)
	clean, cancel := cleaning(ctx)
	defer cancel()
	if err != nil {
		_, _ = output(clean, "runc", "delete", "--force", id)
		return 0, fmt.Errorf("runc run: %w", err)
	}
	_, err = output(clean, "runc", "delete", "--force", id)
	return took, err
}

func (r *runc) close() error { return os.RemoveAll(r.bundle) }
