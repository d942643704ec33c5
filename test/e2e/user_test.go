package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestChangedSourceIsDeployedAndGoneBackTo holds that an app built of a directory gets a release of its own for every
// change of that directory, and that the releases before still have their images.
func TestChangedSourceIsDeployedAndGoneBackTo(t *testing.T) {
	v := start(t)
	binary, err := helloBinary()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	source, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, mode os.FileMode, content []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), content, mode); err != nil {
			t.Fatal(err)
		}
	}
	write("hello", 0o755, source)
	spec := file(t, "built.yaml", strings.Replace(helloSpec("built"), "image: hello:latest", "path: "+dir, 1))
	run(t, v, "apply", "-f", spec)
	if out := run(t, v, "apply", "-f", spec); !strings.Contains(out, "unchanged") {
		t.Errorf("the same source again: %s", out)
	}
	write("more", 0o644, []byte("a file more"))
	if out := run(t, v, "apply", "-f", spec); !strings.Contains(out, "configured") {
		t.Errorf("the changed source: %s", out)
	}
	if out := run(t, v, "apply", "--dry-run", "-f", spec); !strings.Contains(out, "unchanged") {
		t.Errorf("a dry run claims to know what would be built: %s", out)
	}
	images := strings.Fields(run(t, v, "ps", "-o", "json"))
	run(t, v, "rollback", "built")
	if now := strings.Fields(run(t, v, "ps", "-o", "json")); strings.Join(now, " ") == strings.Join(images, " ") {
		t.Error("rolling back changed nothing")
	}
	if body := body(t, v, "built", "/"); !strings.Contains(body, "Hello") {
		t.Errorf("after the rollback it answers %q", body)
	}
}

// TestProcessRuntimeRunsImages holds that the sample app runs without root, with ports from cluster.starting_port on.
func TestProcessRuntimeRunsImages(t *testing.T) {
	v := start(t, "--runtime", "process")
	spec := strings.Replace(helloSpec("web"), "  ports:",
		"  environment:\n    - {name: VERSION, source: sdk, key: instance.port}\n    - {name: SELF, source: sdk, key: instance.ip}\n  ports:", 1)
	run(t, v, "config", "set", "cluster.starting_port=23400")
	buildHello(t, v)
	run(t, v, "apply", "-f", file(t, "web.yaml", spec))
	if got := body(t, v, "web", "/"); !strings.Contains(got, "version 234") {
		t.Errorf("it was not given a port from 23400 on: %q", got)
	}
	if out := run(t, v, "exec", "web", "--", "/usr/bin/env"); !strings.Contains(out, "SELF=127.0.0.1\n") {
		t.Errorf("it does not know its address: %s", out)
	}
}

// TestSameNameStartsClean holds that an app deleted and created again has nothing of the one before.
func TestSameNameStartsClean(t *testing.T) {
	v := start(t)
	deploy(t, v, "web", "scaling: {mode: manual, replicas: 1}")
	run(t, v, "restart", "web")
	run(t, v, "scale", "web", "2")
	run(t, v, "delete", "web")
	deploy(t, v, "web")
	if out := run(t, v, "history", "web", "-o", "name"); strings.TrimSpace(out) != "1" {
		t.Errorf("releases of the new app: %q", out)
	}
	if list := running(t, v, "web"); len(list) != 1 {
		t.Errorf("%d instances run, want 1: the number was asked of the app before", len(list))
	}
}

// TestContestedRouteIsTold holds that the app that does not get its route says so.
func TestContestedRouteIsTold(t *testing.T) {
	v := start(t)
	deploy(t, v, "one", "route: {hosts: [shop.example]}")
	deploy(t, v, "two", "route: {hosts: [shop.example]}")
	eventually(t, "an event of the contested route", func() bool {
		return strings.Contains(run(t, v, "events", "-o", "wide"), "RouteContested")
	})
}

// TestNoEngineNoise holds that nothing of the store's engine reaches a user who starts and stops.
func TestNoEngineNoise(t *testing.T) {
	v := start(t)
	if err := v.Stop(); err != nil {
		t.Fatal(err)
	}
	if log := v.Log(); strings.Contains(log, "Engine message") {
		t.Errorf("the log has words of the engine:\n%s", log)
	}
}
