package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"vortex/client"
	"vortex/test/harness"
)

// machines are a cluster as people make it: one server that founds it, further servers and agents that join with tokens. Its store is the servers' own.
type machines struct {
	*Network
	t       *testing.T
	bin     string
	servers int                // the first so many hosts are servers, the others agents
	run     map[*Host]*Process // what runs there: the newest that was started
}

// found makes a cluster of servers on the first hosts and agents on the others, and returns when all are Ready. The first of the hosts is the founder.
func found(t *testing.T, servers, agents int) *machines {
	t.Helper()
	bin, err := harness.Binary()
	if err != nil {
		t.Skip(err)
	}
	all := servers + agents
	m := &machines{Network: New(t, all), t: t, bin: bin, servers: servers, run: map[*Host]*Process{}}
	m.start(m.Host(1))
	eventually(t, "the server answers", func() bool {
		_, err := m.try("nodes")
		return err == nil
	})
	tokens := map[bool]string{}
	for server, uses := range map[bool]int{true: servers - 1, false: agents} {
		if role := map[bool]string{true: "server", false: "agent"}[server]; uses > 0 {
			tokens[server] = strings.TrimSpace(m.cli("token", "join", "--role", role, "--uses", strconv.Itoa(uses), "-q"))
		}
	}
	for _, h := range m.Hosts()[1:] {
		m.start(h, "--token", tokens[m.serves(h)])
	}
	eventually(t, "every machine is Ready", func() bool { return m.ready() == all })
	return m
}

func (*machines) data(h *Host) string { return filepath.Join(h.Data, "vortex") }

// serves reports whether a host is a server.
func (m *machines) serves(h *Host) bool { return h.number <= m.servers }

// start starts a host's server or agent, for the first time or again.
func (m *machines) start(h *Host, more ...string) *Process {
	m.t.Helper()
	args := []string{"agent"}
	if m.serves(h) {
		args = []string{"server", "--advertise", h.Addr}
	}
	args = append(args, "--data", m.data(h), "--name", h.Name)
	if founder := m.Host(1); h != founder {
		args = append(args, "--join", founder.Addr)
	}
	m.run[h] = h.Run(m.bin, append(args, more...)...)
	return m.run[h]
}

// try runs a command on the first server's host.
func (m *machines) try(args ...string) (string, error) { return m.tryOn(m.Host(1), args...) }

// tryOn runs a command on a server's host.
func (m *machines) tryOn(h *Host, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(m.t.Context(), patience)
	defer cancel()
	return h.Output(ctx, exec.CommandContext(ctx, m.bin, args...))
}

// cli runs a command that must succeed.
func (m *machines) cli(args ...string) string {
	m.t.Helper()
	out, err := m.try(args...)
	if err != nil {
		m.t.Fatal(err)
	}
	return out
}

// ready returns how many machines are Ready.
func (m *machines) ready() (n int) {
	var nodes client.NodeList
	out, err := m.try("nodes", "-o", "json")
	if err != nil || json.Unmarshal([]byte(out), &nodes) != nil {
		return 0
	}
	for _, node := range nodes.Nodes {
		if node.State == "Ready" {
			n++
		}
	}
	return n
}

// serving returns on which hosts instances are that run and are healthy, except on those given.
func (m *machines) serving(except ...string) (on []string) {
	var list client.ContainerList
	out, err := m.try("ps", "-o", "json")
	if err != nil || json.Unmarshal([]byte(out), &list) != nil {
		return nil
	}
	for _, c := range list.Instances {
		if c.Status == "Running" && c.Health == "Healthy" && !strings.Contains(strings.Join(except, " "), c.Node) {
			on = append(on, c.Node)
		}
	}
	return on
}

// deploy runs the sample app with so many instances.
func (m *machines) deploy(replicas int) {
	m.t.Helper()
	m.build()
	m.apply("hello", replicas, "")
}

// build makes the sample app's image on the server.
func (m *machines) build() {
	m.t.Helper()
	dir := m.Host(1).Data
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "hello"), "./examples/hello")
	build.Dir, build.Env = harness.Root(), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		m.t.Fatalf("build the sample app: %v\n%s", err, out)
	}
	m.cli("image", "build", "-t", "hello:latest", filepath.Join(dir, "hello"))
}

// apply runs an app of the sample's image with so many instances, and more lines of its spec.
func (m *machines) apply(app string, replicas int, more string) {
	m.t.Helper()
	spec := fmt.Sprintf(`
apiVersion: v1
kind: App
metadata: {name: %s}
spec:
  type: http
  image: hello:latest
  ports: [{containerPort: 8080, protocol: HTTP}]
  resources: {cpu: 20m, memory: 32Mi}
  %s
scaling: {mode: manual, minReplicas: %d, maxReplicas: %d}
healthCheck: {protocol: HTTP, path: /health, port: 8080, initialDelaySeconds: 0, periodSeconds: 1}
`, app, more, replicas, 2*replicas)
	file := filepath.Join(m.Host(1).Data, app+".yaml")
	if err := os.WriteFile(file, []byte(spec), 0o600); err != nil {
		m.t.Fatal(err)
	}
	m.cli("apply", "-f", file)
}

// visitorPatience is how long a visitor waits for an answer.
const visitorPatience = 10 * time.Second

// visitors ask an edge for the app until stopped, and count.
type visitors struct {
	answered, failed atomic.Int64
	stop             func()

	mu  sync.Mutex
	why map[string]int // what was wrong, and how often
}

// fail counts a request that failed.
func (v *visitors) fail(err error, resp *http.Response) {
	v.failed.Add(1)
	why := fmt.Sprint(err)
	if err == nil {
		why = resp.Status
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.why[why]++
}

// reasons is why requests failed.
func (v *visitors) reasons() map[string]int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return maps.Clone(v.why)
}

func (m *machines) visit(h *Host) *visitors {
	v := &visitors{why: map[string]int{}}
	ctx, cancel := context.WithCancel(m.t.Context())
	var all sync.WaitGroup
	v.stop = func() { cancel(); all.Wait() }
	m.t.Cleanup(v.stop)
	web := m.HTTP()
	for range 4 {
		all.Go(func() {
			for ctx.Err() == nil {
				asked, done := context.WithTimeout(ctx, visitorPatience)
				req, err := http.NewRequestWithContext(asked, http.MethodGet, "http://"+h.Addr+":8000/", http.NoBody)
				if err != nil {
					done()
					m.t.Error(err)
					return
				}
				req.Host = "hello.localhost"
				resp, err := web.Do(req)
				if err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
				}
				done()
				switch {
				case ctx.Err() != nil:
				case err != nil || resp.StatusCode != http.StatusOK:
					v.fail(err, resp)
				default:
					v.answered.Add(1)
				}
				select {
				case <-ctx.Done():
				case <-time.After(5 * time.Millisecond):
				}
			}
		})
	}
	return v
}

// TestServersJoin makes a cluster of three servers and an agent.
func TestServersJoin(t *testing.T) {
	m := found(t, 3, 1)
	for _, h := range m.Hosts()[:m.servers] {
		if out, err := m.tryOn(h, "nodes", "-o", "name"); err != nil || strings.Count(out, "\n") != 4 {
			t.Errorf("asked on %s for the machines: %v\n%s", h.Name, err, out)
		}
	}
}

// TestLostMachinesInstancesRunElsewhere takes the power from a machine with instances, while requests come through another one's edge, and
// gives it back.
func TestLostMachinesInstancesRunElsewhere(t *testing.T) {
	const replicas = 6
	m := found(t, 1, 2)
	m.deploy(replicas)
	eventually(t, "every machine has instances", func() bool {
		on := strings.Join(m.serving(), " ")
		return strings.Contains(on, m.Host(1).Name) && strings.Contains(on, m.Host(2).Name) && strings.Contains(on, m.Host(3).Name)
	})
	v := m.visit(m.Host(2))
	eventually(t, "requests are answered", func() bool { return v.answered.Load() > 200 })
	if n := v.failed.Load(); n > 0 {
		t.Errorf("%d requests failed while nothing was wrong", n)
	}
	lost := m.Host(3)
	began := time.Now()
	lost.PowerOff()
	eventually(t, "all instances serve on the machines that are left", func() bool { return len(m.serving(lost.Name)) == replicas })
	took := time.Since(began)
	answered := v.answered.Load()
	eventually(t, "requests are answered still", func() bool { return v.answered.Load() > answered+200 })
	failed := v.failed.Load()

	lost.PowerOn()
	m.start(lost)
	eventually(t, "the machine is back", func() bool { return m.ready() == 3 })
	eventually(t, "exactly the wanted instances are there", func() bool { return len(m.serving()) == replicas })
	v.stop()
	if now := v.failed.Load(); now != failed {
		t.Errorf("%d requests failed when the machine came back", now-failed)
	}
	t.Logf("%d instances served again %s after a machine was lost; %d of %d requests through another's edge failed", replicas, took.Round(time.Millisecond), failed, failed+v.answered.Load())
}

// TestDrainedMachineLosesNoRequest moves everything away from a machine while requests come through both edges, and lets it take part again.
func TestDrainedMachineLosesNoRequest(t *testing.T) {
	const replicas = 4
	m := found(t, 1, 1)
	m.deploy(replicas)
	drained := m.Host(2)
	eventually(t, "both machines have instances", func() bool {
		on := m.serving()
		return len(on) == replicas && len(m.serving(drained.Name)) < replicas
	})
	first, second := m.visit(m.Host(1)), m.visit(drained)
	eventually(t, "requests are answered", func() bool { return min(first.answered.Load(), second.answered.Load()) > 100 })
	began := time.Now()
	m.cli("node", "drain", drained.Name, "--reason", "a test", "--timeout", patience.String())
	took := time.Since(began)
	if n := len(m.serving(drained.Name)); n != replicas {
		t.Errorf("%d instances serve on the other machine after the drain; want %d", n, replicas)
	}
	if _, err := m.try("scale", "hello", strconv.Itoa(replicas+1), "--timeout", patience.String()); err != nil {
		t.Error(err)
	}
	if on := m.serving(m.Host(1).Name); len(on) > 0 {
		t.Errorf("%d instances were placed on the drained machine", len(on))
	}
	m.cli("uncordon", drained.Name)
	if _, err := m.try("scale", "hello", strconv.Itoa(replicas+3), "--timeout", patience.String()); err != nil {
		t.Error(err)
	}
	if on := m.serving(m.Host(1).Name); len(on) == 0 {
		t.Error("nothing is placed on the machine that takes part again")
	}
	first.stop()
	second.stop()
	if n := first.failed.Load() + second.failed.Load(); n > 0 {
		t.Errorf("%d of %d requests failed", n, n+first.answered.Load()+second.answered.Load())
	}
	t.Logf("a machine with half of %d instances was drained in %s; %d requests were answered meanwhile and after", replicas, took.Round(time.Millisecond), first.answered.Load()+second.answered.Load())
}
