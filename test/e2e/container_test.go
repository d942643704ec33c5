package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/coder/websocket"

	"vortex/client"
	"vortex/test/harness"
)

// probeBinary builds the app that tells what it sees, once.
var probeBinary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "vortex-probe-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "probe")
	cmd := exec.Command("go", "build", "-o", path, "./test/e2e/testdata/probe")
	cmd.Dir, cmd.Env = harness.Root(), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the probe: %w\n%s", err, out)
	}
	return path, nil
})

// startProbe starts a Vortex that has the probe's image.
func startProbe(t *testing.T) *harness.Vortex {
	t.Helper()
	v := start(t)
	path, err := probeBinary()
	if err != nil {
		t.Fatal(err)
	}
	run(t, v, "image", "build", path, "-t", "probe:latest")
	return v
}

// probeSpec is the probe under a name, with more lines of YAML within spec:, each behind two spaces.
func probeSpec(name, version, check string, more ...string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: App
metadata: {name: %s}
spec:
  image: probe:latest
  ports: [{containerPort: 8080}]
  resources: {cpu: 20m, memory: 32Mi, limits: {memory: 64Mi}}
  environment:
    - {name: VERSION, value: %s}
    - {name: TICK, value: 50ms}
    - {name: SELF_IP, source: sdk, key: instance.ip}
    - {name: SELF_PORT, source: sdk, key: instance.port}
    - {name: SELF_ID, source: sdk, key: instance.id}
    - {name: NODE, source: sdk, key: node.id}
    - {name: NAME, source: sdk, key: app.name}
    - {name: REPLICAS, source: sdk, key: app.replicas}
%s
%s
`, name, version, strings.Join(more, "\n"), check)
}

// apply applies a spec and waits.
func apply(t *testing.T, v *harness.Vortex, spec string) {
	t.Helper()
	run(t, v, "apply", "-f", file(t, "spec.yaml", spec))
}

const (
	execCheck = `healthCheck: {protocol: EXEC, command: ["/app", check, /tmp/sick], periodSeconds: 0.2, failureThreshold: 2}`
	tcpCheck  = `healthCheck: {protocol: TCP, periodSeconds: 0.2}`
)

// TestContainerIsWhatItsSpecSays holds that user, directory, arguments and every value of the platform reach the app.
func TestContainerIsWhatItsSpecSays(t *testing.T) {
	v := startProbe(t)
	apply(t, v, probeSpec("web", "v1", tcpCheck, `  user: "1000:1001"`, "  workingDir: /tmp", `  args: [one, "two three"]`))
	if got, want := body(t, v, "web", "/self"), "1000:1001 /tmp one two three"; got != want {
		t.Errorf("it runs as %q; want %q", got, want)
	}
	c := running(t, v, "web")[0]
	want := map[string]string{
		"SELF_IP": c.IP, "SELF_PORT": "8080", "SELF_ID": c.ID, "NODE": c.Node, "NAME": "web", "REPLICAS": "1",
	}
	for name, value := range want {
		if got := body(t, v, "web", "/env?name="+name); got != value || got == "" {
			t.Errorf("%s is %q; want %q", name, got, value)
		}
	}
}

// TestMemoryLimitIsHeldAndTold holds that what eats more than its limit is killed, replaced, and told so.
func TestMemoryLimitIsHeldAndTold(t *testing.T) {
	v := startProbe(t)
	apply(t, v, probeSpec("web", "v1", "")) // without a health check
	victim := running(t, v, "web")[0].ID
	body(t, v, "web", "/eat?mib=100")
	eventually(t, "the dead instance tells why", func() bool {
		for _, c := range mustInstances(t, v, "web") {
			if c.ID == victim {
				return c.ExitCode != nil && *c.ExitCode == 137 && strings.Contains(run(t, v, "events"), "more memory than its limit")
			}
		}
		return false
	})
	eventually(t, "it serves again", func() bool { return body(t, v, "web", "/") == "v1" })
}

// TestVolumeKeepsItsData holds that data outlives instances and releases, that read-only is, and that a volume is
// one app's own.
func TestVolumeKeepsItsData(t *testing.T) {
	v := startProbe(t)
	volume := "  volumes: [{name: data, mountPath: /data}]"
	apply(t, v, probeSpec("web", "v1", tcpCheck, volume))
	apply(t, v, probeSpec("other", "v1", tcpCheck, volume))
	if got := body(t, v, "web", "/write?path=/data/x&text=kept"); got != "written" {
		t.Fatal(got)
	}
	if got := body(t, v, "other", "/read?path=/data/x"); !strings.Contains(got, "no such file") {
		t.Errorf("another app's volume of the same name reads %q", got)
	}
	killed := running(t, v, "web")[0].ID
	if err := killProcess(t, v, killed); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the replacement has the data", func() bool { return body(t, v, "web", "/read?path=/data/x") == "kept" })
	apply(t, v, probeSpec("web", "v2", tcpCheck, "  volumes: [{name: data, mountPath: /data, readOnly: true}]"))
	if got := body(t, v, "web", "/read?path=/data/x"); got != "kept" {
		t.Errorf("the next release reads %q", got)
	}
	if got := body(t, v, "web", "/write?path=/data/x&text=lost"); !strings.Contains(got, "read-only file system") {
		t.Errorf("writing to a read-only volume: %q", got)
	}
}

// killProcess kills an instance's main process.
func killProcess(t *testing.T, v *harness.Vortex, id string) error {
	t.Helper()
	p, err := os.FindProcess(pidOf(t, v, id))
	if err != nil {
		return err
	}
	return p.Kill()
}

// TestSickInstanceIsTakenOutAndReplaced holds it for checks that run a command: they hear of it inside the container.
func TestSickInstanceIsTakenOutAndReplaced(t *testing.T) {
	v := startProbe(t)
	apply(t, v, probeSpec("web", "v1", execCheck))
	kind := kindClient(t, v)
	sick := running(t, v, "web")[0].ID
	if got := body(t, v, "web", "/write?path=/tmp/sick&text=x"); got != "written" {
		t.Fatal(got)
	}
	eventually(t, "another instance takes over", func() bool {
		list := backends(t, kind, "web")
		return len(list) == 1 && list[0].Instance != sick
	})
	if out := run(t, v, "events"); !strings.Contains(out, "sick: there is /tmp/sick") {
		t.Errorf("no event tells what the check said:\n%s", out)
	}
}

// TestDependentStartsAfterWhatItNeeds holds the order of two apps of one file, whichever is written first.
func TestDependentStartsAfterWhatItNeeds(t *testing.T) {
	v := startProbe(t)
	slow := strings.Replace(tcpCheck, "TCP,", "TCP, initialDelaySeconds: 1,", 1)
	apply(t, v, probeSpec("front", "v1", tcpCheck, "  dependsOn: [{app: back}]")+"---\n"+probeSpec("back", "v1", slow))
	var events struct{ Events []client.Event }
	if err := json.Unmarshal([]byte(run(t, v, "events", "-o", "json")), &events); err != nil {
		t.Fatal(err)
	}
	order := map[string]int{}
	for i, e := range events.Events {
		if name := e.App + " " + e.Type; order[name] == 0 {
			order[name] = i + 1
		}
	}
	if order["front InstanceStarted"] == 0 || order["front InstanceStarted"] < order["back InstanceHealthy"] {
		t.Errorf("front started before back was healthy: %v", order)
	}
}

// TestWebSocketOutlivesADeploy holds that a socket stays with the instance it began with until it is closed.
func TestWebSocketOutlivesADeploy(t *testing.T) {
	v := startProbe(t)
	apply(t, v, probeSpec("web", "blue", tcpCheck))
	dial := func() *websocket.Conn {
		conn, resp, err := websocket.Dial(t.Context(), v.Run.Edge+"/ws", &websocket.DialOptions{Host: "web.localhost"})
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("it answers %s", resp.Status)
		}
		return conn
	}
	ask := func(conn *websocket.Conn) string {
		if err := conn.Write(t.Context(), websocket.MessageText, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		_, data, err := conn.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	old := dial()
	if got := ask(old); got != "blue hello" {
		t.Fatalf("the echo is %q", got)
	}
	before := running(t, v, "web")[0].ID
	apply(t, v, probeSpec("web", "green", tcpCheck))
	next := dial()
	defer func() { _ = next.CloseNow() }()
	if got := ask(next); got != "green hello" {
		t.Errorf("a new socket after the deploy: %q", got)
	}
	if got := ask(old); got != "blue hello" {
		t.Errorf("the old socket after the deploy: %q", got)
	}
	if err := old.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Errorf("close: %v", err)
	}
	eventually(t, "the drained instance ends", func() bool {
		for _, c := range mustInstances(t, v, "web") {
			if c.ID == before && c.Status != "Dead" {
				return false
			}
		}
		return true
	})
}

// TestKilledInTheMiddleOfADeploy holds that Vortex goes on with the deploy when it is back: neither twice nor half.
func TestKilledInTheMiddleOfADeploy(t *testing.T) {
	v := startProbe(t)
	six := "scaling: {minReplicas: 6}\n" + tcpCheck
	apply(t, v, probeSpec("web", "blue", six))
	run(t, v, "apply", "--no-wait", "-f", file(t, "spec.yaml", probeSpec("web", "green", six)))
	eventually(t, "the deploy is under way", func() bool {
		return slices.ContainsFunc(running(t, v, "web"), func(c client.Container) bool { return c.Release == 2 })
	})
	v.Kill()
	if err := v.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	kind := kindClient(t, v)
	eventually(t, "six of the new release serve, and nothing else runs", func() bool {
		list := running(t, v, "web")
		old := slices.ContainsFunc(mustInstances(t, v, "web"), func(c client.Container) bool {
			return c.Release != 2 && c.Status != "Dead"
		})
		return len(list) == 6 && !old && len(backends(t, kind, "web")) == 6
	})
	if got := body(t, v, "web", "/"); got != "green" {
		t.Errorf("it answers %q", got)
	}
}
