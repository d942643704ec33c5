package agent_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/runtime"
)

// checked gives an app an HTTP check of the given path and period, with one failure to be unhealthy.
func checked(app vortex.App, code uint16) vortex.App {
	period, threshold := 0.05, uint32(2)
	app.HealthCheck = &vortex.HealthCheck{ExpectedStatusCodes: []uint16{code}, PeriodSeconds: &period, FailureThreshold: &threshold}
	app.SetDefaults()
	return app
}

func TestServingInstanceIsProbedAtThePortItHas(t *testing.T) {
	b := newBed(t, newProcess(t, t.TempDir()))
	b.place(checked(program("web", vortex.AppTypeHTTP, "serve"), 200), 1)
	rec := b.until("web-0", "is healthy", isHealthy)
	if !strings.HasSuffix(rec.HealthDetail, "200 OK") || rec.Port == nil || rec.PID == nil {
		t.Errorf("record: %+v", rec)
	}
	url := fmt.Sprintf("http://%s:%d/", rec.IPAddress, *rec.Port)
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		t.Fatalf("a healthy instance does not answer: %v", err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); !strings.Contains(string(body), "hello") {
		t.Errorf("answer %q", body)
	}
	if ok, detail, err := b.agent.Check(t.Context(), "web-0"); !ok || err != nil || !strings.HasSuffix(detail, "200 OK") {
		t.Errorf("check now: %v %q %v", ok, detail, err)
	}
}

func TestWrongAnswerIsUnhealthyAndItsDetailIsRecorded(t *testing.T) {
	b := newBed(t, newProcess(t, t.TempDir()))
	b.place(checked(program("web", vortex.AppTypeHTTP, "serve"), 204), 1)
	rec := b.until("web-0", "is unhealthy", func(c vortex.ContainerRecord) bool { return c.Health == vortex.HealthUnhealthy })
	if !isRunning(rec) || !strings.Contains(rec.HealthDetail, ": 200 OK") || !rec.HealthyAt.IsZero() {
		t.Errorf("record: %+v", rec)
	}
	if !b.events.has("InstanceUnhealthy", "web-0") {
		t.Error("no event InstanceUnhealthy")
	}
}

func TestHTTPAppWithoutACheckIsHealthyOnceItListens(t *testing.T) {
	b := newBed(t, newProcess(t, t.TempDir()))
	b.place(program("web", vortex.AppTypeHTTP, "serve"), 1)
	b.place(program("deaf", vortex.AppTypeHTTP, "sleep"), 1)
	b.until("web-0", "is healthy", isHealthy)
	rec := b.until("deaf-0", "has a probe's result", func(c vortex.ContainerRecord) bool { return c.HealthDetail != "" })
	if rec.Health == vortex.HealthHealthy || !strings.Contains(rec.HealthDetail, "connection refused") {
		t.Errorf("an instance that does not listen: %+v", rec)
	}
}

func TestExecCheckRunsInTheInstance(t *testing.T) {
	b := newBed(t, newProcess(t, t.TempDir()))
	period := 0.05
	flag := filepath.Join(t.TempDir(), "flag")
	app := program("job", vortex.AppTypeWorker, "sleep")
	app.HealthCheck = &vortex.HealthCheck{
		Protocol: vortex.ProbeProtocolEXEC, PeriodSeconds: &period,
		Command: []string{"/bin/sh", "-c", "test -e " + flag + " || { echo no flag; exit 4; }"},
	}
	b.place(app, 1)
	b.until("job-0", "fails its check", func(c vortex.ContainerRecord) bool {
		return strings.HasSuffix(c.HealthDetail, "exit code 4: no flag")
	})
	if err := os.WriteFile(flag, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b.until("job-0", "is healthy", isHealthy)
	if err := os.Remove(flag); err != nil {
		t.Fatal(err)
	}
	b.until("job-0", "is unhealthy", func(c vortex.ContainerRecord) bool { return c.Health == vortex.HealthUnhealthy })
}

func TestKilledProcessIsDeadAtOnce(t *testing.T) {
	b := newBed(t, newProcess(t, t.TempDir()))
	const rounds = 20
	b.place(program("job", vortex.AppTypeWorker, "sleep"), rounds)
	for k := range rounds {
		b.until(fmt.Sprintf("job-%d", k), "is healthy", isHealthy)
	}
	var took []time.Duration
	for k := range rounds {
		id := fmt.Sprintf("job-%d", k)
		pid := int(*b.record(id).PID)
		watch := b.store.Watch(kind.WatchOptions{Prefixes: []string{vortex.Containers.Key(id)}})
		killed := time.Now()
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		for dead := false; !dead; {
			if _, err := watch.Next(t.Context()); err != nil {
				t.Fatal(err)
			}
			dead = isDead(b.record(id))
		}
		took = append(took, time.Since(killed))
		watch.Close()
		if rec := b.record(id); rec.ExitCode == nil || *rec.ExitCode != 137 {
			t.Errorf("record of a killed instance: %+v", rec)
		}
	}
	t.Logf("kill -9 to the record that says so: %v", took)
}

func TestStartThatFailsSaysWhy(t *testing.T) {
	b := newBed(t, newProcess(t, t.TempDir()))
	app := worker("job")
	app.Spec.Command = []string{"/nonexistent/program"}
	b.place(app, 1)
	rec := b.until("job-0", "is dead", isDead)
	if !strings.Contains(rec.Reason, "/nonexistent/program") {
		t.Errorf("reason %q does not name the program", rec.Reason)
	}
}

func TestEnvironmentTellsTheInstanceWhoItIs(t *testing.T) {
	b := newBed(t, newProcess(t, t.TempDir()))
	app := program("web", vortex.AppTypeWorker, "env")
	app.Spec.Ports = []vortex.Port{{ContainerPort: 8080}}
	app.Spec.Environment = []vortex.EnvVar{{Name: "MODE", Value: "a=b c"}}
	for name, key := range map[string]string{"ID": "instance.id", "NODE": "node.id", "APP": "app.name", "COUNT": "app.replicas"} {
		app.Spec.Environment = append(app.Spec.Environment, vortex.EnvVar{Name: name, Source: vortex.EnvSourceSDK, Key: key})
	}
	b.place(app, 1)
	b.until("web-0", "is dead", isDead)
	got := b.output("web-0")
	for _, want := range []string{"MODE=a=b c", "ID=web-0", "NODE=" + node, "APP=web", "COUNT=1"} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("environment lacks %q:\n%s", want, got)
		}
	}
}

func TestUnknownEnvironmentSourceIsRefused(t *testing.T) {
	b := newBed(t, newProcess(t, t.TempDir()))
	app := program("web", vortex.AppTypeWorker, "env")
	app.Spec.Environment = []vortex.EnvVar{{Name: "PASSWORD", Source: vortex.EnvSourceSecret, Key: "db", Field: "password"}}
	b.place(app, 1)
	rec := b.until("web-0", "is dead", isDead)
	if !strings.Contains(rec.Reason, "spec.environment[0]") || !strings.Contains(rec.Reason, "PASSWORD") {
		t.Errorf("reason %q", rec.Reason)
	}
}

// output returns what an instance wrote.
func (b *bed) output(id string) string {
	b.t.Helper()
	entries, err := b.agent.Logs(b.t.Context(), id, runtime.LogOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	var out strings.Builder
	for e, err := range entries {
		if err != nil {
			b.t.Fatal(err)
		}
		out.WriteString(e.Line + "\n")
	}
	return out.String()
}

func TestExecAndStatsReachTheInstance(t *testing.T) {
	b := newBed(t, newProcess(t, t.TempDir()))
	b.place(program("job", vortex.AppTypeWorker, "sleep"), 1)
	b.until("job-0", "is healthy", isHealthy)
	var out bytes.Buffer
	code, err := b.agent.Exec(t.Context(), "job-0", runtime.ExecSpec{Command: []string{"/bin/sh", "-c", "echo hi; exit 5"}, Stdout: &out})
	if err != nil || code != 5 || out.String() != "hi\n" {
		t.Errorf("exec: %d %v %q", code, err, out.String())
	}
	if stats, err := b.agent.Stats(t.Context(), "job-0"); err != nil || stats.MemoryBytes == 0 {
		t.Errorf("stats: %+v %v", stats, err)
	}
	if _, err := b.agent.Exec(t.Context(), "nobody", runtime.ExecSpec{Command: []string{"true"}}); !vortex.IsKind(err, vortex.NotFound) {
		t.Errorf("exec in an unknown instance: %v; want NotFound", err)
	}
}

// restart ends the agent and its driver, does what happens meanwhile, and starts both again over the same files.
func (b *bed) restart(dir string, meanwhile func()) {
	b.t.Helper()
	b.stop()
	for _, d := range b.cfg.Drivers {
		if err := d.(io.Closer).Close(); err != nil {
			b.t.Fatal(err)
		}
	}
	meanwhile()
	b.use(newProcess(b.t, dir))
	b.start()
}

func TestInstancesOutliveTheAgent(t *testing.T) {
	dir := t.TempDir()
	b := newBed(t, newProcess(t, dir))
	b.place(checked(program("web", vortex.AppTypeHTTP, "serve"), 200), 3)
	b.place(program("doomed", vortex.AppTypeWorker, "sleep"), 1)
	b.place(program("moved", vortex.AppTypeWorker, "sleep"), 1)
	before := map[string]vortex.ContainerRecord{}
	for _, id := range []string{"web-0", "web-1", "web-2", "doomed-0", "moved-0"} {
		before[id] = b.until(id, "is healthy", isHealthy)
	}
	lost := vortex.ContainerRecord{ID: "lost-0", ClientID: "lost", Status: vortex.ContainerStatusRunning, Node: node, Driver: "process"}
	b.restart(dir, func() {
		if err := syscall.Kill(int(*before["doomed-0"].PID), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		b.unplace("moved-0")
		b.commit(must[kind.Op](t)(kind.PutOp(vortex.Containers, &lost, "lost-0")))
		b.place(program("lost", vortex.AppTypeWorker, "sleep"), 1)
	})
	rec := b.until("doomed-0", "is dead", isDead)
	if rec.ExitCode == nil || *rec.ExitCode != 137 {
		t.Errorf("exit while the agent was away: %+v", rec)
	}
	if rec := b.until("lost-0", "is dead", isDead); !strings.Contains(rec.Reason, "lost with its node's last restart") || rec.ExitCode != nil {
		t.Errorf("lost record: %+v", rec)
	}
	b.until("moved-0", "is gone", isGone)
	if err := syscall.Kill(int(*before["moved-0"].PID), 0); err == nil {
		t.Error("an instance that is not placed here any more still runs")
	}
	for _, id := range []string{"web-0", "web-1", "web-2"} {
		now := b.record(id)
		was := before[id]
		if !isHealthy(now) || *now.PID != *was.PID || *now.Port != *was.Port || !now.StartedAt.Equal(was.StartedAt) || !now.HealthyAt.Equal(was.HealthyAt) {
			t.Errorf("%s was touched:\nbefore %+v\nafter  %+v", id, was, now)
		}
		if b.events.countOf("InstanceStarted", id) != 1 || b.events.countOf("InstanceHealthy", id) != 1 {
			t.Errorf("%s: the restart of the agent was recorded as its own", id)
		}
	}
	// Probing and the watch for exits go on: a kill is seen.
	if err := syscall.Kill(int(*before["web-1"].PID), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	b.until("web-1", "is dead", isDead)
}

func TestAdoptedInstanceIsProbedOn(t *testing.T) {
	dir := t.TempDir()
	b := newBed(t, newProcess(t, dir))
	period := 0.05
	flag := filepath.Join(t.TempDir(), "flag")
	if err := os.WriteFile(flag, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	app := program("job", vortex.AppTypeWorker, "sleep")
	app.HealthCheck = &vortex.HealthCheck{Protocol: vortex.ProbeProtocolEXEC, PeriodSeconds: &period, Command: []string{"/bin/sh", "-c", "test -e " + flag}}
	b.place(app, 1)
	b.until("job-0", "is healthy", isHealthy)
	b.restart(dir, func() {
		if err := os.Remove(flag); err != nil {
			t.Fatal(err)
		}
	})
	b.until("job-0", "is unhealthy", func(c vortex.ContainerRecord) bool { return isRunning(c) && c.Health == vortex.HealthUnhealthy })
}

func TestRecordLostWithTheStoreIsWrittenFromLabels(t *testing.T) {
	dir := t.TempDir()
	b := newBed(t, newProcess(t, dir))
	b.place(program("job", vortex.AppTypeWorker, "sleep"), 1, func(p *vortex.PlacementRecord) { p.Epoch = 9 })
	was := b.until("job-0", "is healthy", isHealthy)
	b.restart(dir, func() { b.commit(kind.DeleteOp(vortex.Containers, "job-0")) })
	now := b.until("job-0", "is healthy", isHealthy)
	if now.ClientID != "job" || *now.Release != 1 || *now.Epoch != 9 || *now.PID != *was.PID || now.RepoLink != was.RepoLink {
		t.Errorf("written from labels: %+v; was %+v", now, was)
	}
}

func TestStubbornInstanceIsKilledAfterItsGrace(t *testing.T) {
	b := newBed(t, newProcess(t, t.TempDir()))
	ready := filepath.Join(t.TempDir(), "ready")
	app := worker("job")
	app.Spec.Command = []string{"/bin/sh", "-c", "trap '' TERM; touch " + ready + "; while :; do sleep 0.05; done"}
	app.HealthCheck = &vortex.HealthCheck{Protocol: vortex.ProbeProtocolEXEC, Command: []string{"/bin/sh", "-c", "test -e " + ready}}
	grace := uint32(0)
	app.Spec.StopGracePeriodSeconds = &grace
	b.place(app, 1)
	b.until("job-0", "is healthy", isHealthy)
	b.want("job-0", vortex.WantedStateStopped, "")
	if rec := b.until("job-0", "is dead", isDead); rec.ExitCode == nil || *rec.ExitCode != 137 {
		t.Errorf("record: %+v", rec)
	}
}

func TestVolumesAreDirectoriesOfTheNode(t *testing.T) {
	d := &spying{Driver: newSim(t)}
	b := newBed(t, d)
	readOnly := true
	app := worker("db")
	app.Spec.Volumes = []vortex.Volume{{Name: "data", MountPath: "/data"}, {Name: "conf", MountPath: "/etc/conf", ReadOnly: &readOnly}}
	hostPort := uint16(5432)
	app.Spec.Ports = []vortex.Port{{ContainerPort: 80}, {ContainerPort: 5432, HostPort: &hostPort}, {ContainerPort: 53, HostPort: new(uint16), Protocol: vortex.PortProtocolUDP}}
	app.Spec.Environment = []vortex.EnvVar{{Name: "IP", Source: vortex.EnvSourceSDK, Key: "instance.ip"}, {Name: "AT", Source: vortex.EnvSourceSDK, Key: "instance.port"}}
	app.Spec.Resources = &vortex.Resources{CPU: "250m", Memory: "64Mi", Limits: &vortex.ResourceLimits{CPU: "1"}}
	b.place(app, 1, func(p *vortex.PlacementRecord) { p.HostPorts = []uint16{5432, 3001} })
	b.until("db-0", "is healthy", isHealthy)
	spec := d.last()
	root := b.cfg.VolumesDir
	want := []runtime.Mount{{Source: root + "/db/data", Target: "/data"}, {Source: root + "/db/conf", Target: "/etc/conf", ReadOnly: true}}
	if len(spec.Mounts) != 2 || spec.Mounts[0] != want[0] || spec.Mounts[1] != want[1] {
		t.Errorf("mounts %+v; want %+v", spec.Mounts, want)
	}
	if info, err := os.Stat(root + "/db/data"); err != nil || info.Mode().Perm() != 0o777 {
		t.Errorf("volume: %v %v", info, err)
	}
	ports := []runtime.PortMapping{{HostPort: 5432, ContainerPort: 5432}, {HostPort: 3001, ContainerPort: 53, UDP: true}}
	if len(spec.Ports) != 2 || spec.Ports[0] != ports[0] || spec.Ports[1] != ports[1] {
		t.Errorf("ports %+v; want %+v", spec.Ports, ports)
	}
	if len(spec.AddressEnv) != 1 || spec.AddressEnv[0] != "IP" || len(spec.PortEnv) != 1 || strings.Join(spec.Env, " ") != "AT=80" {
		t.Errorf("environment %v, address in %v, port in %v", spec.Env, spec.AddressEnv, spec.PortEnv)
	}
	if spec.CPUMillis != 1000 || spec.CPUShares != 250 || spec.MemoryBytes != 64<<20 {
		t.Errorf("resources: %+v", spec)
	}
}

func TestHostileVolumeNameStaysInside(t *testing.T) {
	b := newBed(t, newSim(t))
	for n, name := range []string{"../../etc", "/etc", "a/b", ".."} {
		app := worker(fmt.Sprintf("evil%d", n))
		app.Spec.Volumes = []vortex.Volume{{Name: name, MountPath: "/data"}}
		b.place(app, 1)
		rec := b.until(app.Metadata.Name+"-0", "is dead", isDead)
		if !strings.Contains(rec.Reason, "spec.volumes[0]") {
			t.Errorf("volume %q: reason %q", name, rec.Reason)
		}
	}
	if left, _ := os.ReadDir(b.cfg.VolumesDir); len(left) != 0 {
		t.Errorf("directories were made: %v", left)
	}
}
