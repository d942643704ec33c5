package e2e

import (
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"vortex/client"
	"vortex/test/harness"
)

// pidOf finds an instance's first process by the id that is its host name, in the record a store client sees.
func pidOf(t *testing.T, v *harness.Vortex, id string) int {
	t.Helper()
	out := run(t, v, "kv", "get", "vortex:container:"+id)
	_, rest, ok := strings.Cut(out, `"pid":`)
	if !ok {
		t.Fatalf("no pid in %s", out)
	}
	digits := strings.TrimSpace(rest)
	end := strings.IndexFunc(digits, func(r rune) bool { return r < '0' || r > '9' })
	pid, err := strconv.Atoi(digits[:end])
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func TestKilledContainerIsReplaced(t *testing.T) {
	v := start(t)
	deploy(t, v, "web", "scaling: {minReplicas: 2}")
	kind := kindClient(t, v)
	eventually(t, "two backends", func() bool { return len(backends(t, kind, "web")) == 2 })
	victim := running(t, v, "web")[0]
	stop := load(t, v, "web", 100)
	if err := syscall.Kill(pidOf(t, v, victim.ID), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	gone := time.Duration(0)
	eventually(t, "a replacement serves and the dead one is routed no more", func() bool {
		list := backends(t, kind, "web")
		dead := false
		for _, b := range list {
			dead = dead || b.Instance == victim.ID
		}
		if !dead && gone == 0 {
			gone = time.Since(killed)
		}
		return !dead && len(list) == 2
	})
	t.Logf("out of the router after %s, replaced after %s", gone, time.Since(killed))
	lostNothing(t, stop())
	for _, c := range mustInstances(t, v, "web") {
		if c.ID == victim.ID && (c.Status != "Dead" || c.ExitCode == nil || *c.ExitCode != 137) {
			t.Errorf("the dead instance: %+v; want Dead with exit code 137", c)
		}
	}
}

func mustInstances(t *testing.T, v *harness.Vortex, app string) []client.Container {
	t.Helper()
	list, err := v.API.Instances(t.Context(), app)
	if err != nil {
		t.Fatal(err)
	}
	return list.Instances
}

func TestEverythingSurvivesAKilledVortex(t *testing.T) {
	v := start(t)
	deploy(t, v, "web", "scaling: {minReplicas: 3}")
	before := running(t, v, "web")
	if len(before) != 3 {
		t.Fatalf("%d instances; want 3", len(before))
	}
	pids := map[string]int{}
	for _, c := range before {
		pids[c.ID] = pidOf(t, v, c.ID)
	}
	v.Kill()
	if err := v.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the edge serves again", func() bool { return status(t, v, "web") == http.StatusOK })
	after := running(t, v, "web")
	if len(after) != 3 {
		t.Fatalf("%d instances after the crash; want 3", len(after))
	}
	for _, c := range after {
		if pids[c.ID] == 0 || pidOf(t, v, c.ID) != pids[c.ID] {
			t.Errorf("instance %s is not the one from before the crash", c.ID)
		}
	}
}

// status asks an app through the edge.
func status(t *testing.T, v *harness.Vortex, app string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, v.Run.Edge+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = app + ".localhost"
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

func TestContainerThatDiedWhileVortexWasDownIsFoundDeadAndReplaced(t *testing.T) {
	v := start(t)
	deploy(t, v, "web")
	victim := running(t, v, "web")[0]
	pid := pidOf(t, v, victim.ID)
	v.Kill()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := v.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a replacement runs", func() bool {
		list := running(t, v, "web")
		return len(list) == 1 && list[0].ID != victim.ID
	})
	for _, c := range mustInstances(t, v, "web") {
		if c.ID == victim.ID && (c.ExitCode == nil || *c.ExitCode != 137) {
			t.Errorf("exit code of %s: %v; want 137", c.ID, c.ExitCode)
		}
	}
}

func TestDockerContainerThatIsKilledIsReplaced(t *testing.T) {
	if err := exec.Command("docker", "version").Run(); err != nil {
		t.Skip("no Docker Engine answers here")
	}
	v := start(t, "--runtime", "docker")
	deploy(t, v, "web")
	kind := kindClient(t, v)
	victim := running(t, v, "web")[0]
	if victim.Driver != "docker" {
		t.Fatalf("driver %q; want docker", victim.Driver)
	}
	if out, err := exec.Command("docker", "kill", "vortex-"+victim.ID).CombinedOutput(); err != nil {
		t.Fatalf("docker kill: %v\n%s", err, out)
	}
	eventually(t, "a replacement serves", func() bool {
		list := backends(t, kind, "web")
		return len(list) == 1 && list[0].Instance != victim.ID
	})
}
