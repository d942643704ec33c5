package cluster

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// swarm is Docker Swarm on the hosts of a network: a Docker Engine on each, with storage of its own, the first one a manager that takes tasks as the others do.
type swarm struct {
	*Network
	t *testing.T
}

func startSwarm(t *testing.T, hosts int) *swarm {
	t.Helper()
	dockerd, err := exec.LookPath("dockerd")
	if err != nil {
		t.Skip("no dockerd on PATH: install docker.io")
	}
	image, err := scratchImage(os.Getenv(helloEnv))
	if err != nil {
		t.Skip(helloEnv, ": ", err)
	}
	s := &swarm{Network: New(t, hosts), t: t}
	for _, h := range s.Hosts() {
		h.Run(dockerd, "--data-root", filepath.Join(h.Data, "docker"), "--exec-root", "/run/docker", "--pidfile", "/run/docker.pid",
			"--host", "unix://"+socket(h), "--iptables=false", "--storage-driver", "vfs")
	}
	s.check(together(s.Hosts(), func(h *Host) error {
		for end := time.Now().Add(patience); ; {
			_, err := docker(t.Context(), h, nil, "info")
			if err == nil || time.Now().After(end) {
				break
			}
			time.Sleep(20 * time.Millisecond) // there is nothing to wait on
		}
		_, err := docker(t.Context(), h, bytes.NewReader(image), "import", "--change", `ENTRYPOINT ["/hello"]`, "-", "hello:latest")
		return err
	}))
	first := s.Host(1)
	s.docker(first, "swarm", "init", "--advertise-addr", first.Addr, "--listen-addr", first.Addr)
	token := strings.TrimSpace(s.docker(first, "swarm", "join-token", "-q", "worker"))
	for _, h := range s.Hosts()[1:] {
		s.docker(h, "swarm", "join", "--token", token, "--advertise-addr", h.Addr, first.Addr)
	}
	return s
}

func socket(h *Host) string { return filepath.Join(h.Data, "docker.sock") }

// docker runs a command of a host's Engine, which must succeed.
func (s *swarm) docker(h *Host, args ...string) string {
	s.t.Helper()
	out, err := docker(s.t.Context(), h, nil, args...)
	s.check(err)
	return out
}

func docker(ctx context.Context, h *Host, stdin io.Reader, args ...string) (string, error) {
	var out, complaints bytes.Buffer
	cmd := exec.CommandContext(ctx, "docker", append([]string{"--host", "unix://" + socket(h)}, args...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &complaints
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("docker %s on %s: %w: %s", strings.Join(args, " "), h.Name, err, bytes.TrimSpace(complaints.Bytes()))
	}
	return out.String(), nil
}

// scratchImage is a program as the only file of a layer.
func scratchImage(path string) ([]byte, error) {
	program, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	if err := w.WriteHeader(&tar.Header{Name: "hello", Mode: 0o755, Size: int64(len(program))}); err != nil {
		return nil, err
	}
	if _, err := w.Write(program); err != nil {
		return nil, err
	}
	err = w.Close()
	return layer.Bytes(), err
}

// running returns how many tasks run on hosts other than one.
func (s *swarm) running(but string) (n int) {
	out, err := docker(s.t.Context(), s.Host(1), nil, "service", "ps", "hello", "--filter", "desired-state=running", "--format", "{{.Node}} {{.CurrentState}}")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(out) {
		if node, state, _ := strings.Cut(line, " "); node != but && strings.HasPrefix(state, "Running") {
			n++
		}
	}
	return n
}

// lostSwarmWorker takes the power from a worker's machine and returns when as many tasks run on the others.
func lostSwarmWorker(t *testing.T, replicas int) time.Duration {
	t.Helper()
	s := startSwarm(t, 3)
	s.docker(s.Host(1), "service", "create", "--detach", "--name", "hello", "--replicas", strconv.Itoa(replicas), "--no-resolve-image", "hello:latest")
	lost := s.Host(3)
	eventually(t, "every task runs, some where the power will go", func() bool {
		return s.running("") == replicas && s.running(lost.Name) < replicas
	})
	began := time.Now()
	lost.PowerOff()
	eventually(t, "all tasks run elsewhere", func() bool { return s.running(lost.Name) == replicas })
	took := time.Since(began)
	t.Logf("%d tasks ran again after %s", replicas, took)
	return took
}
