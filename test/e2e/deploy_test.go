package e2e

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"

	"vortex/test/harness"
)

// body asks an app through the edge and returns what it answered.
func body(t *testing.T, v *harness.Vortex, app, path string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, v.Run.Edge+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = app + ".localhost"
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// versioned is the sample app with a version it greets with.
func versioned(version string, replicas string) string {
	spec := helloSpec("web", "scaling: {minReplicas: "+replicas+"}")
	return strings.Replace(spec, "healthCheck:", "  environment: [{name: VERSION, value: "+version+"}]\nhealthCheck:", 1)
}

func TestRollingDeployLosesNoRequest(t *testing.T) {
	v := start(t)
	buildHello(t, v)
	run(t, v, "apply", "-f", file(t, "web.yaml", versioned("blue", "3")))
	if got := body(t, v, "web", "/"); !strings.Contains(got, "blue") {
		t.Fatalf("the app answers %q; want its version", got)
	}
	stop := load(t, v, "web", 200)
	run(t, v, "apply", "-f", file(t, "web.yaml", versioned("green", "3")))
	lostNothing(t, stop())
	if got := body(t, v, "web", "/"); !strings.Contains(got, "green") {
		t.Errorf("after the deploy the app answers %q", got)
	}

	stop = load(t, v, "web", 200)
	run(t, v, "rollback", "web")
	eventually(t, "the old version answers", func() bool { return strings.Contains(body(t, v, "web", "/"), "blue") })
	lostNothing(t, stop())
	if out := run(t, v, "history", "web"); !strings.Contains(out, "3") {
		t.Errorf("history after a rollback:\n%s", out)
	}
}

func TestFailedDeployKeepsTheOldReleaseServingAndSaysWhy(t *testing.T) {
	v := start(t)
	deploy(t, v, "web")
	broken := strings.Replace(helloSpec("web"), "path: /health", "path: /no-such-page", 1)
	stop := load(t, v, "web", 50)
	stdout, stderr, code := v.CLI(t.Context(), "apply", "-f", file(t, "web.yaml", broken))
	if code != 1 || !strings.Contains(stderr+stdout, "404") {
		t.Errorf("apply of an unhealthy release: exit %d\n%s%s\nwant 1 and the last probe's result", code, stdout, stderr)
	}
	lostNothing(t, stop())
	if got := status(t, v, "web"); got != http.StatusOK {
		t.Errorf("the old release answers %d", got)
	}
}

func TestCrashingAppShowsItsLastLogLines(t *testing.T) {
	v := start(t)
	buildHello(t, v)
	crash := strings.Replace(helloSpec("web"), "resources:", `args: ["--no-such-flag"]
  resources:`, 1)
	stdout, stderr, code := v.CLI(t.Context(), "apply", "-f", file(t, "web.yaml", crash))
	if code != 1 || !strings.Contains(stdout+stderr, "no-such-flag") {
		t.Errorf("apply of a crashing app: exit %d\n%s%s\nwant 1 and what it wrote", code, stdout, stderr)
	}
}

func TestLogsAndExec(t *testing.T) {
	v := start(t)
	deploy(t, v, "web")
	if out := run(t, v, "logs", "web"); !strings.Contains(out, "listening") {
		t.Errorf("logs:\n%s", out)
	}
	id := running(t, v, "web")[0].ID
	_, stderr, code := v.CLI(t.Context(), "exec", id, "--", "/no-such-program")
	if code == 0 || !strings.Contains(stderr, "no-such-program") {
		t.Errorf("exec of a missing program: exit %d, %s", code, stderr)
	}
	_, stderr, code = v.CLI(t.Context(), "exec", "web", "--", "/app", "--no-such-flag")
	if code != 2 || !strings.Contains(stderr, "no-such-flag") {
		t.Errorf("exec: exit %d, %s; want the command's own code, 2, and what it wrote", code, stderr)
	}
}

func TestImageIsPulledFromARegistry(t *testing.T) {
	reg := httptest.NewServer(registry.New())
	t.Cleanup(reg.Close)
	v := start(t)
	name := strings.TrimPrefix(reg.URL, "http://") + "/team/hello:v1"
	path, err := helloBinary()
	if err != nil {
		t.Fatal(err)
	}
	run(t, v, "image", "build", path, "-t", name)
	run(t, v, "image", "push", name)
	run(t, v, "image", "rm", name)
	if out := run(t, v, "image", "ls"); strings.Contains(out, "team/hello") {
		t.Fatalf("the image is still here:\n%s", out)
	}
	run(t, v, "apply", "-f", file(t, "web.yaml", strings.Replace(helloSpec("web"), "hello:latest", name, 1)))
	if got := status(t, v, "web"); got != http.StatusOK {
		t.Errorf("the pulled app answers %d", got)
	}
}

func TestStopStartScaleRestartDelete(t *testing.T) {
	v := start(t)
	deploy(t, v, "web")
	kind := kindClient(t, v)
	run(t, v, "scale", "web", "3")
	eventually(t, "three instances", func() bool { return len(backends(t, kind, "web")) == 3 })
	first := running(t, v, "web")[0].ID
	stop := load(t, v, "web", 50)
	run(t, v, "restart", "web")
	eventually(t, "every instance is new", func() bool {
		list := running(t, v, "web")
		for _, c := range list {
			if c.ID == first {
				return false
			}
		}
		return len(list) >= 1 && len(backends(t, kind, "web")) == len(list)
	})
	lostNothing(t, stop())
	run(t, v, "stop", "web")
	eventually(t, "nothing runs", func() bool { return len(running(t, v, "web")) == 0 })
	run(t, v, "start", "web")
	eventually(t, "it serves again", func() bool { return status(t, v, "web") == http.StatusOK })
	run(t, v, "delete", "web")
	eventually(t, "nothing of it is left", func() bool {
		_, _, code := v.CLI(t.Context(), "status", "web")
		return code == 3 && len(backends(t, kind, "web")) == 0
	})
}

func TestProcessRuntimeServes(t *testing.T) {
	v := start(t, "--runtime", "process")
	path, err := helloBinary()
	if err != nil {
		t.Fatal(err)
	}
	spec := strings.Replace(helloSpec("web"), "image: hello:latest", "runtime: process\n  command: ["+path+"]", 1)
	run(t, v, "apply", "-f", file(t, "web.yaml", spec))
	if got := status(t, v, "web"); got != http.StatusOK {
		t.Errorf("the app answers %d", got)
	}
}
