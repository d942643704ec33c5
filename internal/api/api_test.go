package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vortex"
	"vortex/client"
	"vortex/internal/api"
	"vortex/internal/api/apitest"
	"vortex/internal/kind"
)

// do sends a raw request and returns its status and body.
func do(t *testing.T, method, url, token, contentType, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(data)
}

func TestTokens(t *testing.T) {
	f := apitest.Start(t)
	for _, path := range []string{"/metrics", "/api/v1/apps", "/api/v1/nodes", "/api/v1/events/stream", "/api/v1/none", "/api/v1/cluster"} {
		for _, token := range []string{"", "wrong", apitest.Token + "x"} {
			if status, body := do(t, http.MethodGet, f.URL+path, token, "", ""); status != http.StatusUnauthorized || !strings.Contains(body, "UNAUTHENTICATED") {
				t.Errorf("%s with token %q: %d %s", path, token, status, body)
			}
		}
	}
	for _, path := range []string{"/healthz", "/readyz", "/openapi.json", "/docs"} {
		if status, _ := do(t, http.MethodGet, f.URL+path, "", "", ""); status != http.StatusOK {
			t.Errorf("%s without a token: %d", path, status)
		}
	}
}

func TestAnEmptyTokenOpensNothing(t *testing.T) {
	f := apitest.Start(t, func(s *api.Server) { s.Token = "" })
	for _, token := range []string{"", " "} {
		if status, _ := do(t, http.MethodGet, f.URL+"/api/v1/apps", token, "", ""); status != http.StatusUnauthorized {
			t.Errorf("token %q: %d", token, status)
		}
	}
}

func TestReadyzTellsWhatIsMissing(t *testing.T) {
	f := apitest.Start(t, func(s *api.Server) {
		s.Ready = func(context.Context) []client.Check {
			return []client.Check{{Name: "store"}, {Name: "agent", Error: "no runtime"}}
		}
	})
	status, body := do(t, http.MethodGet, f.URL+"/readyz", "", "", "")
	if status != http.StatusServiceUnavailable || !strings.Contains(body, "no runtime") {
		t.Errorf("%d %s", status, body)
	}
}

func TestRegister(t *testing.T) {
	f := apitest.Start(t)
	ctx := t.Context()
	app := apitest.App("web")
	created, err := f.Client.Register(ctx, app, "", false)
	if err != nil || created.Status != client.RegisteredCreated || created.Generation != 1 {
		t.Fatalf("create: %+v, %v", created, err)
	}
	again, err := f.Client.Register(ctx, app, "", false)
	if err != nil || again.Status != client.RegisteredUnchanged {
		t.Fatalf("again: %+v, %v", again, err)
	}
	app.Spec.Image = "registry.test/web:v2"
	app.Spec.Args = []string{"-v"}
	dry, err := f.Client.Register(ctx, app, "", true)
	if err != nil || !dry.DryRun || dry.Status != client.RegisteredUpdated {
		t.Fatalf("dry run: %+v, %v", dry, err)
	}
	want := []client.Change{
		{Path: "spec.args[0]", New: `"-v"`},
		{Path: "spec.image", Old: `"registry.test/web:v1"`, New: `"registry.test/web:v2"`},
	}
	if diff := cmp.Diff(want, dry.Changes); diff != "" {
		t.Error(diff)
	}
	if rec, err := kind.Get(f.Store, vortex.Apps, "web"); err != nil || rec.Value.Generation != 1 {
		t.Fatalf("the dry run wrote: %+v, %v", rec.Value, err)
	}
	updated, err := f.Client.Register(ctx, app, "", false)
	if err != nil || updated.Status != client.RegisteredUpdated || updated.Generation != 2 {
		t.Fatalf("update: %+v, %v", updated, err)
	}
}

func TestRegisterKeepsWhatUsersAskedForByHand(t *testing.T) {
	f := apitest.Start(t)
	f.Obey(t)
	ctx := t.Context()
	app := apitest.App("web")
	mustRegister(t, f, app)
	five := 5
	if _, err := f.Client.Scale(ctx, "web", client.ScaleRequest{Replicas: &five, Wait: true, Timeout: 20}); err != nil {
		t.Fatal(err)
	}
	app.Spec.Args = []string{"-v"}
	mustRegister(t, f, app)
	if rec, _ := kind.Get(f.Store, vortex.Apps, "web"); rec.Value.Replicas == nil || *rec.Value.Replicas != 5 {
		t.Errorf("an update forgot the count asked for by hand")
	}
	two := uint32(2)
	app.Scaling = &vortex.Scaling{Mode: vortex.ScalingModeManual, Replicas: &two}
	mustRegister(t, f, app)
	if rec, _ := kind.Get(f.Store, vortex.Apps, "web"); rec.Value.Replicas != nil {
		t.Errorf("a spec that says manual does not win over the count asked for by hand")
	}
}

func mustRegister(t *testing.T, f *apitest.Fixture, app vortex.App) client.RegisterResponse {
	t.Helper()
	answer, err := f.Client.Register(t.Context(), app, "", false)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func TestRegisterRefusesBeforeAnythingExists(t *testing.T) {
	port := uint16(9000)
	reserved := uint16(7070)
	f := apitest.Start(t, func(s *api.Server) { s.Images = emptyRegistry{} })
	f.Node(t, "n1", 2000, 1<<30)
	taken := apitest.App("taken")
	taken.Spec.Image = "local:v1"
	taken.Spec.Ports[0].HostPort = &port
	mustRegister(t, f, taken)

	for name, tt := range map[string]struct {
		change func(*vortex.App)
		kind   vortex.ErrorKind
		code   string
		text   string
	}{
		"host port":     {func(a *vortex.App) { a.Spec.Ports[0].HostPort = &port }, vortex.Precondition, client.CodePrecondition, `hostPort 9000 is used by app "taken"`},
		"reserved port": {func(a *vortex.App) { a.Spec.Ports[0].HostPort = &reserved }, vortex.Precondition, client.CodePrecondition, "hostPort 7070 is used by the API of Vortex"},
		"too large": {
			func(a *vortex.App) { a.Spec.Resources = &vortex.Resources{CPU: "64"} },
			vortex.Precondition, client.CodeInsufficientResources, "no node can hold an instance",
		},
		"image":   {func(a *vortex.App) { a.Spec.Image = "nowhere:v1" }, vortex.Precondition, client.CodeRuntime, `image "nowhere:v1" is not to be had`},
		"invalid": {func(a *vortex.App) { a.Spec.Resources = &vortex.Resources{CPU: "lots"} }, vortex.Invalid, client.CodeInvalidSpec, "lots"},
		"builder": {func(a *vortex.App) { a.Spec.Image, a.Spec.Path = "", "/src" }, vortex.Precondition, client.CodeRuntime, "cannot build images"},
	} {
		t.Run(name, func(t *testing.T) {
			app := apitest.App("web")
			app.Spec.Image = "local:v1"
			tt.change(&app)
			_, err := f.Client.Register(t.Context(), app, "", false)
			e, ok := errors.AsType[*client.Error](err)
			if !ok || vortex.KindOf(err) != tt.kind || e.Code != tt.code || !strings.Contains(err.Error(), tt.text) {
				t.Fatalf("got %v, want %s %s %q", err, tt.kind, tt.code, tt.text)
			}
			if _, err := kind.Get(f.Store, vortex.Apps, "web"); !vortex.IsKind(err, vortex.NotFound) {
				t.Errorf("a refused app exists: %v", err)
			}
		})
	}
}

// emptyRegistry has one image, local:v1.
type emptyRegistry struct{ api.Images }

func (emptyRegistry) Check(_ context.Context, ref string) error {
	if ref == "local:v1" {
		return nil
	}
	return vortex.Errorf(vortex.NotFound, "no registry has it")
}

func TestHostileBodies(t *testing.T) {
	f := apitest.Start(t)
	mustRegister(t, f, apitest.App("web"))
	post := func(path, contentType, body string) (int, string) {
		return do(t, http.MethodPost, f.URL+"/api/v1"+path, apitest.Token, contentType, body)
	}
	for name, tt := range map[string]struct{ path, contentType, body, want string }{
		"large JSON":    {"/apps/register", "application/json", `{"a":"` + strings.Repeat("x", 10<<20) + `"}`, "larger than the 1024 KiB allowed"},
		"large YAML":    {"/apps/register", "application/yaml", strings.Repeat("# x\n", 3<<20), "larger than the 1024 KiB allowed"},
		"empty":         {"/apps/register", "", "", "expected an App spec as the body, got nothing"},
		"no spec":       {"/apps/register", "application/json", `[]`, ""},
		"half":          {"/apps/register", "application/json", `{"metadata": {"name": "x"`, ""},
		"unknown field": {"/apps/web/scale", "application/json", `{"replcias": 3}`, `unknown field \"replcias\"; did you mean \"replicas\"?`},
		"wrong type":    {"/apps/web/scale", "application/json", `{"replicas": "three"}`, "replicas: expected a whole number, got a string"},
		"two values":    {"/apps/web/scale", "application/json", `{"replicas": 3} {"replicas": 4}`, "goes on after its JSON value"},
		"no replicas":   {"/apps/web/scale", "application/json", `{}`, "got no replicas"},
		"negative":      {"/apps/web/scale", "application/json", `{"replicas": -1}`, "expected 0 to 50"},
		"too many":      {"/apps/web/scale", "application/json", `{"replicas": 51}`, "expected 0 to 50 (cluster.max_replicas), got 51"},
		"timeout":       {"/apps/web/scale", "application/json", `{"replicas": 1, "timeout": -5}`, "timeout: expected seconds"},
		"query":         {"/apps/register?dryrun=1", "application/json", `{}`, `unknown query parameter \"dryrun\"; did you mean \"dry_run\"?`},
		"null bytes":    {"/apps/register", "application/json", "\x00\x00\x00", ""},
		"deep":          {"/apps/register", "application/json", strings.Repeat(`{"spec":`, 100_000), ""},
	} {
		t.Run(name, func(t *testing.T) {
			status, body := post(tt.path, tt.contentType, tt.body)
			if status != http.StatusBadRequest || !strings.Contains(body, tt.want) {
				t.Errorf("%d %.400s, want %q", status, body, tt.want)
			}
			var parsed client.ErrorBody
			if err := json.Unmarshal([]byte(body), &parsed); err != nil || parsed.Error == "" {
				t.Errorf("the refusal is not of the documented shape: %.200s", body)
			}
		})
	}
	if status, body := do(t, http.MethodPatch, f.URL+"/api/v1/apps/web", apitest.Token, "", ""); status != http.StatusMethodNotAllowed || !strings.Contains(body, "use ") {
		t.Errorf("wrong method: %d %s", status, body)
	}
	if status, _ := do(t, http.MethodGet, f.URL+"/api/v1/aps", apitest.Token, "", ""); status != http.StatusNotFound {
		t.Errorf("wrong path: %d", status)
	}
}

func TestYAMLBodies(t *testing.T) {
	f := apitest.Start(t)
	spec := "apiVersion: v1\nkind: App\nmetadata: {name: web}\nspec: {image: 'x:v1', ports: [{containerPort: 80}]}\n"
	if status, body := do(t, http.MethodPost, f.URL+"/api/v1/apps/register", apitest.Token, "application/yaml", spec); status != http.StatusOK {
		t.Errorf("%d %s", status, body)
	}
	status, body := do(t, http.MethodPost, f.URL+"/api/v1/apps/register", apitest.Token, "application/yaml", strings.Replace(spec, "image", "imgae", 1))
	if status != http.StatusBadRequest || !strings.Contains(body, "INVALID_SPEC") || !strings.Contains(body, "image") {
		t.Errorf("%d %s", status, body)
	}
}

func TestLifeOfAnApp(t *testing.T) {
	f := apitest.Start(t)
	f.Obey(t)
	ctx := t.Context()
	wait := client.WaitRequest{Wait: true, Timeout: 20}
	mustRegister(t, f, apitest.App("web"))

	three := 3
	scaled, err := f.Client.Scale(ctx, "web", client.ScaleRequest{Replicas: &three, Wait: true, Timeout: 20})
	if err != nil || scaled.CurrentReplicas != 3 {
		t.Fatalf("scale: %+v, %v", scaled, err)
	}
	app, err := f.Client.App(ctx, "web")
	if err != nil || app.Status != client.StatusRunning || app.Replicas != (client.Replicas{Current: 3, Desired: 3, Healthy: 3}) || len(app.Containers) != 3 {
		t.Fatalf("running: %+v, %v", app, err)
	}
	if c := app.Containers[0]; c.IP == "" || c.Port != 8080 || c.Node != "n1" || c.Health != "Healthy" || c.StartedAt == nil {
		t.Errorf("container: %+v", c)
	}
	if _, err := f.Client.Restart(ctx, "web", wait); err != nil {
		t.Fatalf("restart: %v", err)
	}
	stopped, err := f.Client.Stop(ctx, "web", wait)
	if err != nil || stopped.CurrentReplicas != 0 || stopped.PreviousReplicas != 3 {
		t.Fatalf("stop: %+v, %v", stopped, err)
	}
	if apps, err := f.Client.Apps(ctx); err != nil || apps.Total != 1 || apps.Stopped != 1 || apps.Running != 0 {
		t.Errorf("list: %+v, %v", apps, err)
	}
	if _, err := f.Client.Restart(ctx, "web", wait); !vortex.IsKind(err, vortex.Precondition) {
		t.Errorf("restart of a stopped app: %v", err)
	}
	if _, err := f.Client.Start(ctx, "web", wait); err != nil {
		t.Fatalf("start: %v", err)
	}
	gone, err := f.Client.Delete(ctx, "web", wait)
	if err != nil || gone.PreviousReplicas != 3 {
		t.Fatalf("delete: %+v, %v", gone, err)
	}
	if _, err := f.Client.App(ctx, "web"); !vortex.IsKind(err, vortex.NotFound) {
		t.Errorf("after delete: %v", err)
	}
	events, err := f.Client.Events(ctx, client.EventOptions{App: "web"})
	var types []string
	for _, ev := range events.Events {
		types = append(types, ev.Type)
	}
	want := []string{"AppRegistered", "ScaledByHand", "AppRestarted", "AppStopped", "AppStarted", "AppDeleted"}
	if diff := cmp.Diff(want, types); err != nil || diff != "" {
		t.Errorf("events: %v %s", err, diff)
	}
}

func TestRollback(t *testing.T) {
	f := apitest.Start(t)
	f.Obey(t)
	ctx := t.Context()
	req := client.RollbackRequest{Wait: true, Timeout: 20}
	app := apitest.App("web")
	mustRegister(t, f, app)
	waitFor(t, f, "web", 1)
	if _, err := f.Client.Rollback(ctx, "web", req); !vortex.IsKind(err, vortex.Precondition) {
		t.Errorf("nothing to go back to: %v", err)
	}
	app.Spec.Image = "registry.test/web:v2"
	mustRegister(t, f, app)
	waitFor(t, f, "web", 2)
	if _, err := f.Client.Restart(ctx, "web", client.WaitRequest{Wait: true, Timeout: 20}); err != nil {
		t.Fatal(err)
	}
	back, err := f.Client.Rollback(ctx, "web", req)
	if err != nil || back.Release != 1 {
		t.Fatalf("rollback: %+v, %v", back, err)
	}
	history, err := f.Client.History(ctx, "web")
	if err != nil || len(history.Releases) != 4 {
		t.Fatalf("history: %+v, %v", history, err)
	}
	newest := history.Releases[0]
	if newest.Number != 4 || !newest.Active || newest.Cause != "rollback to 1" || newest.Image != "registry.test/web:v1" {
		t.Errorf("newest release: %+v", newest)
	}
	if _, err := f.Client.Rollback(ctx, "web", client.RollbackRequest{Release: 99}); !vortex.IsKind(err, vortex.NotFound) {
		t.Errorf("rollback to what never was: %v", err)
	}
}

// waitFor waits until the active release of an app is so new.
func waitFor(t *testing.T, f *apitest.Fixture, name string, release uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for app, err := range f.Client.FollowApp(ctx, name) {
		if err != nil {
			t.Fatalf("wait for release %d: %v", release, err)
		}
		if app.Release >= release && app.Status == client.StatusRunning {
			return
		}
	}
}

func TestWaitTellsHowFarItCame(t *testing.T) {
	f := apitest.Start(t)
	mustRegister(t, f, apitest.App("web"))
	two := 2
	_, err := f.Client.Scale(t.Context(), "web", client.ScaleRequest{Replicas: &two, Wait: true, Timeout: 0.2})
	if e, ok := errors.AsType[*client.Error](err); !ok || !e.Timeout() || !strings.Contains(err.Error(), "0 of 2 instances healthy") {
		t.Fatalf("got %v", err)
	}
	if rec, _ := kind.Get(f.Store, vortex.Apps, "web"); rec.Value.Replicas == nil || *rec.Value.Replicas != 2 {
		t.Error("what was asked for is forgotten when the wait ends")
	}
}

func TestManyHandsOnOneApp(t *testing.T) {
	f := apitest.Start(t)
	mustRegister(t, f, apitest.App("web"))
	const hands = 8
	errs := make(chan error, hands)
	for i := range hands {
		go func() {
			n := i
			_, err := f.Client.Scale(t.Context(), "web", client.ScaleRequest{Replicas: &n})
			errs <- err
		}()
	}
	for range hands {
		if err := <-errs; err != nil {
			t.Errorf("a change was lost: %v", err)
		}
	}
}

func TestScaling(t *testing.T) {
	f := apitest.Start(t)
	ctx := t.Context()
	mustRegister(t, f, apitest.App("web"))
	low, high := uint32(2), uint32(4)
	got, err := f.Client.SetScaling(ctx, "web", vortex.Scaling{MinReplicas: &low, MaxReplicas: &high})
	if err != nil || *got.Effective.MaxReplicas != 4 || got.Effective.Mode != vortex.ScalingModeAuto || *got.Effective.TargetRPSPerReplica != 100 {
		t.Fatalf("%+v, %v", got, err)
	}
	if _, err := f.Client.SetScaling(ctx, "web", vortex.Scaling{MinReplicas: &high, MaxReplicas: &low}); !vortex.IsKind(err, vortex.Invalid) {
		t.Errorf("min above max: %v", err)
	}
	five := 5
	if _, err := f.Client.Scale(ctx, "web", client.ScaleRequest{Replicas: &five}); !vortex.IsKind(err, vortex.Invalid) || !strings.Contains(err.Error(), "scaling.maxReplicas") {
		t.Errorf("above the app's own ceiling: %v", err)
	}
}

func TestConfig(t *testing.T) {
	f := apitest.Start(t)
	ctx := t.Context()
	step := uint32(7)
	got, err := f.Client.SetConfig(ctx, client.Config{Settings: client.ScalingConfig{ScaleUpNumber: &step, ScaleDownCooldown: vortex.Duration(9 * time.Second)}})
	if err != nil || *got.Settings.ScaleUpNumber != 7 || got.Settings.ScaleDownCooldown.Std() != 9*time.Second || *got.Cluster.MaxReplicas != 50 {
		t.Fatalf("%+v, %v", got, err)
	}
	low := uint32(60)
	if _, err := f.Client.SetConfig(ctx, client.Config{Cluster: client.ClusterConfig{MinReplicas: &low}}); !vortex.IsKind(err, vortex.Invalid) {
		t.Errorf("min above max: %v", err)
	}
	zero := uint32(0)
	if got, err = f.Client.SetConfig(ctx, client.Config{Settings: client.ScalingConfig{ScaleUpNumber: &zero}}); err != nil || *got.Settings.ScaleUpNumber != 0 {
		t.Errorf("back to no limit: %+v, %v", got, err)
	}
}

func TestStatusFollowsTheRecords(t *testing.T) {
	f := apitest.Start(t)
	ctx := t.Context()
	mustRegister(t, f, apitest.App("web"))
	status := func() (string, string) {
		app, err := f.Client.App(ctx, "web")
		if err != nil {
			t.Fatal(err)
		}
		return app.Status, app.Message
	}
	rollout := vortex.RolloutRecord{ClientID: "web", Release: 1, Active: 1, Generation: 1, State: vortex.RolloutStateProgressing, Desired: 2}
	release := uint64(1)
	container := func(id string, st vortex.ContainerStatus, h vortex.Health, reason string) {
		rec := vortex.ContainerRecord{ID: id, ClientID: "web", Status: st, Health: h, Reason: reason, Release: &release}
		apitest.Put(t, f.Store, vortex.Containers, &rec, id)
	}
	expect := func(when, want, message string) {
		t.Helper()
		if got, text := status(); got != want || !strings.Contains(text, message) {
			t.Errorf("%s: %s (%s), want %s (%s)", when, got, text, want, message)
		}
	}
	expect("before anything", client.StatusStarting, "")
	apitest.Put(t, f.Store, vortex.Rollouts, &rollout, "web")
	apitest.Put(t, f.Store, vortex.Instances, &vortex.InstanceRecord{ID: "web-a", ClientID: "web", Release: 1, Wanted: vortex.WantedStateRunning}, "web-a")
	apitest.Put(t, f.Store, vortex.Placements, &vortex.PlacementRecord{Instance: "web-a", ClientID: "web", Release: 1, Explain: "no node has 8 GiB"}, "web-a")
	expect("waiting for a node", client.StatusStarting, "web-a: no node has 8 GiB")
	container("web-a", vortex.ContainerStatusProvisioning, vortex.HealthUnknown, "pulls the image")
	container("web-b", vortex.ContainerStatusRunning, vortex.HealthHealthy, "")
	expect("one of two", client.StatusStarting, "web-a: pulls the image")
	container("web-a", vortex.ContainerStatusRunning, vortex.HealthHealthy, "")
	rollout.State = vortex.RolloutStateComplete
	apitest.Put(t, f.Store, vortex.Rollouts, &rollout, "web")
	expect("both", client.StatusRunning, "")
	container("web-a", vortex.ContainerStatusDead, vortex.HealthUnknown, "exit code 1")
	expect("one dead", client.StatusDegraded, "web-a: exit code 1")
	container("web-b", vortex.ContainerStatusDead, vortex.HealthUnknown, "exit code 1")
	expect("all dead", client.StatusError, "exit code 1")
	rollout.State, rollout.Message = vortex.RolloutStateFailed, "gave up"
	apitest.Put(t, f.Store, vortex.Rollouts, &rollout, "web")
	expect("given up", client.StatusError, "gave up")
	rollout.Release, rollout.Active, rollout.State, rollout.Message = 2, 2, vortex.RolloutStateProgressing, ""
	apitest.Put(t, f.Store, vortex.Rollouts, &rollout, "web")
	if _, text := status(); text != "" {
		t.Errorf("a new release is blamed for the dead of the one before: %s", text)
	}
	release = 2
	container("web-c", vortex.ContainerStatusProvisioning, vortex.HealthUnknown, "pulls the image")
	if _, text := status(); text != "web-c: pulls the image" {
		t.Errorf("the new release's instance: %q", text)
	}
}

func TestNodesAreLabeled(t *testing.T) {
	f := apitest.Start(t)
	f.Node(t, "n9", 1000, 1<<30)
	ctx := t.Context()
	set := func(labels map[string]string, remove ...string) (map[string]string, error) {
		n, err := f.Client.Label(ctx, "n9", client.LabelsRequest{Set: labels, Remove: remove})
		return n.Labels, err
	}
	if got, err := set(map[string]string{"zone": "eu", "disk": "ssd"}); err != nil || got["zone"] != "eu" || got["disk"] != "ssd" {
		t.Errorf("set: %v, %v", got, err)
	}
	if got, err := set(map[string]string{"zone": "us"}, "disk", "never-there"); err != nil || len(got) != 1 || got["zone"] != "us" {
		t.Errorf("changed: %v, %v", got, err)
	}
	for what, err := range map[string]error{
		"nothing":         second(set(nil)),
		"a bad name":      second(set(map[string]string{"a b": "c"})),
		"a bad value":     second(set(map[string]string{"a": "c,d"})),
		"set and removed": second(set(map[string]string{"a": "b"}, "a")),
	} {
		if !vortex.IsKind(err, vortex.Invalid) {
			t.Errorf("%s: %v; want Invalid", what, err)
		}
	}
	if _, err := f.Client.Label(ctx, "n8", client.LabelsRequest{Remove: []string{"a"}}); !vortex.IsKind(err, vortex.NotFound) {
		t.Errorf("a node that does not exist: %v; want NotFound", err)
	}
	events, err := f.Client.Events(ctx, client.EventOptions{})
	if err != nil || events.Total != 2 || events.Events[1].Message != "labels given to node n9: zone=us" {
		t.Errorf("%v, %+v", err, events)
	}
}

func second[T any](_ T, err error) error { return err }

func TestNodesAreCordonedAndDrained(t *testing.T) {
	f := apitest.Start(t)
	f.Node(t, "n9", 1000, 1<<30)
	ctx := t.Context()
	check := func(what string, n client.Node, err error, state string, schedulable bool) {
		t.Helper()
		if err != nil || n.State != state || n.Schedulable != schedulable || n.Cordoned == schedulable {
			t.Errorf("%s: %s, schedulable %t, cordoned %t, %v", what, n.State, n.Schedulable, n.Cordoned, err)
		}
	}
	n, err := f.Client.Cordon(ctx, "n9", client.CordonRequest{Reason: "a new disk"})
	check("cordoned", n, err, "Ready", false)
	if n.CordonReason != "a new disk" {
		t.Errorf("the reason is %q", n.CordonReason)
	}
	n, err = f.Client.Drain(ctx, "n9", client.CordonRequest{})
	check("drained", n, err, "Draining", false)
	n, err = f.Client.Uncordon(ctx, "n9")
	check("uncordoned", n, err, "Ready", true)
	n, err = f.Client.Uncordon(ctx, "n9")
	check("uncordoned again", n, err, "Ready", true)
	if _, err = f.Client.Drain(ctx, "n8", client.CordonRequest{}); !vortex.IsKind(err, vortex.NotFound) {
		t.Errorf("a node that does not exist: %v; want NotFound", err)
	}
	events, err := f.Client.Events(ctx, client.EventOptions{})
	if err != nil || events.Total != 3 {
		t.Errorf("%d events tell of three changes, %v", events.Total, err)
	}
}

func TestInstancesOfANodeThatIsDownAreLost(t *testing.T) {
	f := apitest.Start(t)
	app := apitest.App("web")
	apitest.Put(t, f.Store, vortex.Apps, &vortex.AppRecord{Name: "web", Generation: 1, Spec: app}, "web")
	f.Node(t, "n9", 1000, 1<<30)
	for id, status := range map[string]vortex.ContainerStatus{"web-a": vortex.ContainerStatusRunning, "web-b": vortex.ContainerStatusDead} {
		rec := vortex.ContainerRecord{ID: id, ClientID: "web", Node: "n9", Status: status, Health: vortex.HealthHealthy}
		apitest.Put(t, f.Store, vortex.Containers, &rec, id)
	}
	for _, step := range []struct {
		state vortex.LivenessState
		want  string
	}{
		{vortex.LivenessStateReady, "Running"},
		{vortex.LivenessStateSuspect, "Running"},
		{vortex.LivenessStateDown, client.ContainerLost},
		{vortex.LivenessStateReady, "Running"},
	} {
		apitest.Put(t, f.Store, vortex.Liveness, &vortex.LivenessRecord{Node: "n9", State: step.state, Since: time.Now()}, "n9")
		a, err := f.Client.Instance(t.Context(), "web-a")
		if err != nil || a.Status != step.want {
			t.Errorf("an instance of a node that is %s: %s, %v; want %s", step.state, a.Status, err, step.want)
		}
		if b, err := f.Client.Instance(t.Context(), "web-b"); err != nil || b.Status != "Dead" {
			t.Errorf("a dead instance of a node that is %s: %s, %v", step.state, b.Status, err)
		}
		if got, err := f.Client.App(t.Context(), "web"); err != nil || got.Replicas.Current == 1 != (step.want == "Running") {
			t.Errorf("the node is %s: %d instances run, %v", step.state, got.Replicas.Current, err)
		}
	}
}

func TestNodesCountWhatTakesRoom(t *testing.T) {
	f := apitest.Start(t)
	cpu := uint64(100)
	apitest.Put(t, f.Store, vortex.Nodes, &vortex.NodeRecord{ID: "n9", Name: "n9", CPUMillis: 1000, MemoryBytes: 1 << 30, Drivers: []string{"sim"}}, "n9")
	for id, status := range map[string]vortex.ContainerStatus{"web-a": vortex.ContainerStatusRunning, "web-b": vortex.ContainerStatusDead} {
		apitest.Put(t, f.Store, vortex.Placements, &vortex.PlacementRecord{Instance: id, ClientID: "web", Node: "n9", Release: 1, CPUMillis: &cpu}, id)
		apitest.Put(t, f.Store, vortex.Containers, &vortex.ContainerRecord{ID: id, ClientID: "web", Status: status}, id)
	}
	list, err := f.Client.Nodes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range list.Nodes {
		if n.ID == "n9" && (n.Instances != 1 || n.CPUUsed != 100) {
			t.Errorf("%d instances with %dm CPU, want the one that lives", n.Instances, n.CPUUsed)
		}
	}
}

func TestMetricsSumOverEdges(t *testing.T) {
	f := apitest.Start(t)
	mustRegister(t, f, apitest.App("web"))
	p95a, p95b, conns := 12.5, 40.0, uint32(3)
	apitest.Put(t, f.Store, vortex.Metrics, &vortex.ClientMetrics{ClientID: "web", CurrentRPS: 100, LatencyP95Ms: &p95a, Connections: &conns}, "web", "e1")
	apitest.Put(t, f.Store, vortex.Metrics, &vortex.ClientMetrics{ClientID: "web", CurrentRPS: 50, LatencyP95Ms: &p95b}, "web", "e2")
	got, err := f.Client.AppMetrics(t.Context(), "web")
	if diff := cmp.Diff(client.AppMetrics{RPS: 150, LatencyP95Ms: 40, ActiveConnections: 3}, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
}

func TestNodes(t *testing.T) {
	f := apitest.Start(t)
	f.Node(t, "n1", 4000, 8<<30)
	cpu, memory := uint64(500), uint64(1<<30)
	apitest.Put(t, f.Store, vortex.Placements, &vortex.PlacementRecord{Instance: "web-a", ClientID: "web", Node: "n1", CPUMillis: &cpu, MemoryBytes: &memory}, "web-a")
	nodes, err := f.Client.Nodes(t.Context())
	if err != nil || nodes.Total != 1 || nodes.Ready != 1 {
		t.Fatalf("%+v, %v", nodes, err)
	}
	if n := nodes.Nodes[0]; n.CPUUsed != 500 || n.MemoryUsed != 1<<30 || n.Instances != 1 || n.State != "Ready" {
		t.Errorf("%+v", n)
	}
}

func TestEveryReferenceOfTheDocumentResolves(t *testing.T) {
	f := apitest.Start(t)
	_, body := do(t, http.MethodGet, f.URL+"/openapi.json", "", "", "")
	var doc struct {
		OpenAPI    string
		Paths      map[string]map[string]struct{ OperationID string }
		Components struct{ Schemas map[string]any }
	}
	if err := json.Unmarshal([]byte(body), &doc); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/api/v1/apps/register", "/api/v1/apps/{app}", "/api/v1/apps/{app}/scale", "/api/v1/events/stream", "/api/v1/cluster"} {
		if doc.Paths[path] == nil {
			t.Errorf("%s is not documented", path)
		}
	}
	ids := map[string]bool{}
	for path, methods := range doc.Paths {
		for method, op := range methods {
			if op.OperationID == "" || ids[op.OperationID] {
				t.Errorf("%s %s: operation id %q", method, path, op.OperationID)
			}
			ids[op.OperationID] = true
		}
	}
	for part := range strings.SplitSeq(body, `"$ref": "#/components/schemas/`) {
		name, _, _ := strings.Cut(part, `"`)
		if strings.HasPrefix(part, "{") {
			continue
		}
		if doc.Components.Schemas[name] == nil {
			t.Errorf("schema %q is referred to and not there", name)
		}
	}
	if !strings.Contains(body, "blue-green") {
		t.Error("the enums of the App spec are not described")
	}
}
