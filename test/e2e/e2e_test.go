// Package e2e tests the built binary as its users meet it: real containers, real sockets, real processes killed.
//
// Run it with make e2e. It needs root on Linux and bin/vortex; without them every test is skipped with the reason.
package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"vortex"
	"vortex/client"
	kindpb "vortex/proto/kind"
	"vortex/test/harness"
)

// patience is how long a test waits for something that takes well under a second on an idle machine.
const patience = 60 * time.Second

// start starts a Vortex that is destroyed when the test ends.
func start(t *testing.T, args ...string) *harness.Vortex {
	t.Helper()
	return startOn(t, "", args...)
}

// startOn starts a Vortex on a data directory, "" being a new one.
func startOn(t *testing.T, data string, args ...string) *harness.Vortex {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: containers, networks and cgroups are made")
	}
	if _, err := harness.Binary(); err != nil {
		t.Skip(err)
	}
	v, err := harness.Start(t.Context(), harness.Options{Data: data, Args: args})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of vortex:\n%s", v.Log())
		}
		if err := v.Destroy(); err != nil {
			t.Errorf("destroy: %v", err)
		}
	})
	return v
}

// helloBinary builds the sample app once.
var helloBinary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "vortex-hello-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "hello")
	cmd := exec.Command("go", "build", "-o", path, "./examples/hello")
	cmd.Dir, cmd.Env = harness.Root(), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the sample app: %w\n%s", err, out)
	}
	return path, nil
})

// run runs a command that must succeed and returns what it printed.
func run(t *testing.T, v *harness.Vortex, args ...string) string {
	t.Helper()
	stdout, stderr, code := v.CLI(t.Context(), args...)
	if code != 0 {
		t.Fatalf("vortex %s: exit %d\n%s%s", strings.Join(args, " "), code, stdout, stderr)
	}
	return stdout
}

// buildHello puts the sample app's image into the store.
func buildHello(t *testing.T, v *harness.Vortex) {
	t.Helper()
	path, err := helloBinary()
	if err != nil {
		t.Fatal(err)
	}
	run(t, v, "image", "build", path, "-t", "hello:latest")
}

// helloSpec is the sample app under a name, with more lines of YAML at its end.
func helloSpec(name string, more ...string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: App
metadata: {name: %s}
spec:
  type: http
  image: hello:latest
  ports: [{containerPort: 8080}]
  resources: {cpu: 20m, memory: 32Mi}
healthCheck: {path: /health, periodSeconds: 1}
%s
`, name, strings.Join(more, "\n"))
}

// file writes content to a new file.
func file(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// deploy applies the sample app and waits until it serves.
func deploy(t *testing.T, v *harness.Vortex, name string, more ...string) {
	t.Helper()
	buildHello(t, v)
	run(t, v, "apply", "-f", file(t, name+".yaml", helloSpec(name, more...)))
}

// kindClient is a plain client of the store's wire contract, without a token.
func kindClient(t *testing.T, v *harness.Vortex) kindpb.KindServiceClient {
	t.Helper()
	conn, err := grpc.NewClient(v.Run.Kind, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return kindpb.NewKindServiceClient(conn)
}

// simulate puts a metric that speaks for the whole app.
func simulate(t *testing.T, kind kindpb.KindServiceClient, app string, rps int) {
	t.Helper()
	value := fmt.Sprintf(`{"client_id": %q, "current_rps": %d}`, app, rps)
	resp, err := kind.Put(t.Context(), &kindpb.PutRequest{Key: "vortex:metrics:" + app, Value: []byte(value)})
	if err != nil || !resp.GetSuccess() {
		t.Fatalf("put metric: %v, %v", resp, err)
	}
}

// eventually waits until ok returns true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", patience, what)
		}
		select {
		case <-t.Context().Done():
			t.Fatal("the test ended")
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// running returns an app's running instances.
func running(t *testing.T, v *harness.Vortex, app string) []client.Container {
	t.Helper()
	list, err := v.API.Instances(t.Context(), app)
	if err != nil {
		t.Fatal(err)
	}
	var out []client.Container
	for _, c := range list.Instances {
		if c.Status == "Running" {
			out = append(out, c)
		}
	}
	return out
}

// backends returns the instances in an app's router.
func backends(t *testing.T, kind kindpb.KindServiceClient, app string) []vortex.Backend {
	t.Helper()
	rec, err := kind.Get(t.Context(), &kindpb.GetRequest{Key: "router:" + app})
	if err != nil {
		return nil
	}
	var router vortex.RouterRecord
	if err := json.Unmarshal(rec.GetValue(), &router); err != nil {
		t.Fatal(err)
	}
	return router.Backends
}

// load sends requests to an app at a rate until stop is called, which returns what became of them.
func load(t *testing.T, v *harness.Vortex, app string, rate int) (stop func() harness.Result) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	results := make(chan harness.Result, 1)
	go func() { results <- harness.Load{URL: v.Run.Edge + "/", Host: app + ".localhost", Rate: rate}.Run(ctx) }()
	return func() harness.Result {
		cancel()
		return <-results
	}
}

// lostNothing fails the test when a request was not answered.
func lostNothing(t *testing.T, r harness.Result) {
	t.Helper()
	if r.Failed > 0 || r.OK != r.Sent || r.OK == 0 {
		t.Errorf("%d of %d requests failed: %v", r.Failed, r.Sent, r.Failures)
	}
}
