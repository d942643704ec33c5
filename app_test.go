package vortex_test

import (
	"encoding/json"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vortex"
)

// appOf returns an app from a spec in JSON, its defaults set.
func appOf(t *testing.T, spec string) *vortex.App {
	t.Helper()
	var app vortex.App
	if err := json.Unmarshal([]byte(spec), &app); err != nil {
		t.Fatal(err)
	}
	app.SetDefaults()
	return &app
}

const webSpec = `{"metadata": {"name": "web"}, "spec": {"image": "nginx", "ports": [{"containerPort": 53, "protocol": "UDP"}, {"containerPort": 80}]}}`

func TestSilenceMeansTheDefaults(t *testing.T) {
	app := appOf(t, webSpec)
	if err := app.Validate(); err != nil {
		t.Fatal(err)
	}
	if got := app.PrimaryPort(); got != 80 {
		t.Errorf("PrimaryPort = %d, want 80", got)
	}
	if cpu, memory := app.Requests(); cpu != 100 || memory != 64<<20 {
		t.Errorf("Requests = %d, %d", cpu, memory)
	}
	if cpu, memory, pids := app.Limits(); cpu != 0 || memory != 0 || pids != 0 {
		t.Errorf("Limits = %d, %d, %d, want none", cpu, memory, pids)
	}
	if got := app.StopGrace(); got != 10*time.Second {
		t.Errorf("StopGrace = %v", got)
	}
	if app.MaxSurge() != 1 || app.MaxUnavailable() != 0 || !app.AutoRevert() || app.Strategy() != vortex.RolloutStrategyRolling {
		t.Errorf("rollout = %d, %d, %t, %s", app.MaxSurge(), app.MaxUnavailable(), app.AutoRevert(), app.Strategy())
	}
	if got := app.TargetRPS(); got != 100 {
		t.Errorf("TargetRPS = %v", got)
	}
	want := vortex.HealthCheck{
		Protocol: vortex.ProbeProtocolTCP, Port: new(uint16(80)), InitialDelaySeconds: new(0.0), PeriodSeconds: new(5.0),
		TimeoutSeconds: new(2.0), FailureThreshold: new(uint32(3)), SuccessThreshold: new(uint32(1)),
	}
	if got, ok := app.Probe(); !ok || !cmp.Equal(got, want) {
		t.Errorf("Probe = %t, %s", ok, cmp.Diff(want, got))
	}
	if app.HealthCheck != nil {
		t.Error("Probe changed the spec")
	}
}

func TestProbe(t *testing.T) {
	app := appOf(t, webSpec)
	app.HealthCheck = &vortex.HealthCheck{PeriodSeconds: new(1.0)}
	got, ok := app.Probe()
	if !ok || got.Protocol != vortex.ProbeProtocolHTTP || got.Path != "/" || got.Method != http.MethodGet || *got.Port != 80 || *got.PeriodSeconds != 1 {
		t.Errorf("Probe = %+v, %t", got, ok)
	}
	if n := len(got.ExpectedStatusCodes); n != 200 || got.ExpectedStatusCodes[0] != 200 || got.ExpectedStatusCodes[n-1] != 399 {
		t.Errorf("the codes of a healthy answer are %v, want 200 to 399", got.ExpectedStatusCodes)
	}
	app.HealthCheck = &vortex.HealthCheck{Protocol: vortex.ProbeProtocolEXEC, Command: []string{"check"}}
	if got, ok := app.Probe(); !ok || got.Port != nil || got.Path != "" {
		t.Errorf("the EXEC probe is %+v, %t", got, ok)
	}
	app.HealthCheck, app.Spec.Type = nil, vortex.AppTypeWorker
	if got, ok := app.Probe(); ok {
		t.Errorf("a worker without a check has the probe %+v", got)
	}
}

func TestRequestsAndLimits(t *testing.T) {
	type quantities struct{ CPU, Memory, LimitCPU, LimitMemory, Pids uint64 }
	for spec, want := range map[string]quantities{
		`{"cpu": "250m"}`:   {250, 64 << 20, 0, 0, 0},
		`{"memory": "1Gi"}`: {100, 1 << 30, 0, 1 << 30, 0},
		`{"memory": "1Gi", "limits": {"memory": "2Gi", "cpu": "2", "pids": 50}}`: {100, 1 << 30, 2000, 2 << 30, 50},
		`{"limits": {"memory": "16Mi", "cpu": "50m"}}`:                           {50, 16 << 20, 50, 16 << 20, 0},
		`{"limits": {"memory": "1Gi"}}`:                                          {100, 64 << 20, 0, 1 << 30, 0},
		`{"cpu": "0", "memory": "0"}`:                                            {0, 0, 0, 0, 0},
	} {
		app := appOf(t, webSpec)
		if err := json.Unmarshal([]byte(spec), &app.Spec.Resources); err != nil {
			t.Fatal(err)
		}
		if err := app.Validate(); err != nil {
			t.Errorf("%s: %v", spec, err)
		}
		var got quantities
		got.CPU, got.Memory = app.Requests()
		got.LimitCPU, got.LimitMemory, got.Pids = app.Limits()
		if got != want {
			t.Errorf("%s is %+v, want %+v", spec, got, want)
		}
	}
}

func TestReplicas(t *testing.T) {
	for scaling, want := range map[string][2]uint32{
		`null`:                                  {2, 50},
		`{}`:                                    {2, 50},
		`{"minReplicas": 0}`:                    {0, 50},
		`{"maxReplicas": 1}`:                    {1, 1},
		`{"minReplicas": 60}`:                   {60, 60},
		`{"minReplicas": 3, "maxReplicas": 80}`: {3, 80},
		`{"mode": "manual", "replicas": 0}`:     {0, 0},
		`{"mode": "manual", "replicas": 70}`:    {70, 70},
		`{"mode": "manual"}`:                    {2, 2},
		`{"mode": "manual", "minReplicas": 4}`:  {4, 4},
	} {
		app := appOf(t, webSpec)
		if err := json.Unmarshal([]byte(scaling), &app.Scaling); err != nil {
			t.Fatal(err)
		}
		fewest, most := app.ReplicaRange(2, 50)
		if got := [2]uint32{fewest, most}; got != want {
			t.Errorf("the range of %s is %v, want %v", scaling, got, want)
		}
	}
	app := appOf(t, webSpec)
	for rps, want := range map[float64]uint32{0: 0, 0.1: 1, 100: 1, 100.1: 2, 500: 5, -1: 0, math.NaN(): 0, 1e300: math.MaxUint32} {
		if got := app.ReplicasFor(rps); got != want {
			t.Errorf("ReplicasFor(%v) = %d, want %d", rps, got, want)
		}
	}
}

func TestRolloutOfHostPorts(t *testing.T) {
	app := appOf(t, webSpec)
	app.Spec.Ports[1].HostPort = new(uint16(8080))
	if app.MaxSurge() != 0 || app.MaxUnavailable() != 1 {
		t.Errorf("with a host port maxSurge is %d and maxUnavailable %d, want 0 and 1", app.MaxSurge(), app.MaxUnavailable())
	}
	if got := app.HostPorts(); !cmp.Equal(got, []uint16{8080}) {
		t.Errorf("HostPorts = %v", got)
	}
	app.Rollout = &vortex.RolloutPolicy{MaxUnavailable: new(uint32(0))}
	if app.MaxSurge() != 1 || app.MaxUnavailable() != 0 {
		t.Errorf("asked for no gap, maxSurge is %d and maxUnavailable %d", app.MaxSurge(), app.MaxUnavailable())
	}
	app.Rollout = &vortex.RolloutPolicy{MaxSurge: new(uint32(0))}
	if app.MaxSurge() != 0 || app.MaxUnavailable() != 1 {
		t.Errorf("asked for no surge, maxSurge is %d and maxUnavailable %d", app.MaxSurge(), app.MaxUnavailable())
	}
}

func TestTemplateHash(t *testing.T) {
	app := appOf(t, webSpec)
	hash := app.TemplateHash("", time.Time{})
	if want := "6dac1c1801bcf548"; hash != want {
		t.Errorf("the hash is %s, want %s: every instance of every cluster would be replaced by an upgrade", hash, want)
	}
	at := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	restarted := app.TemplateHash("", at)
	same := map[string]func(*vortex.App){
		"defaults left out": func(a *vortex.App) { a.Spec.Type, a.Spec.Runtime, a.Spec.Ports[1].Protocol, a.Kind = "", "", "", "" },
		"scaling":           func(a *vortex.App) { a.Scaling = &vortex.Scaling{MinReplicas: new(uint32(7))} },
		"route":             func(a *vortex.App) { a.Route = &vortex.Route{Hosts: []string{"a.example"}} },
		"rollout":           func(a *vortex.App) { a.Rollout = &vortex.RolloutPolicy{MaxSurge: new(uint32(7))} },
		"labels":            func(a *vortex.App) { a.Metadata.Labels = map[string]string{"tier": "web"} },
		"an empty list":     func(a *vortex.App) { a.Spec.Args = []string{} },
	}
	for name, change := range same {
		other := appOf(t, webSpec)
		change(other)
		if got := other.TemplateHash("", time.Time{}); got != hash {
			t.Errorf("%s: the hash changed", name)
		}
	}
	hashes := map[string]string{hash: "the app", restarted: "a restart", app.TemplateHash("built:1", time.Time{}): "a built image"}
	for name, change := range map[string]func(*vortex.App){
		"image":       func(a *vortex.App) { a.Spec.Image = "httpd" },
		"args":        func(a *vortex.App) { a.Spec.Args = []string{"-v"} },
		"environment": func(a *vortex.App) { a.Spec.Environment = []vortex.EnvVar{{Name: "A", Value: "b"}} },
		"resources":   func(a *vortex.App) { a.Spec.Resources = &vortex.Resources{CPU: "1"} },
		"health":      func(a *vortex.App) { a.HealthCheck = &vortex.HealthCheck{Path: "/health"} },
	} {
		other := appOf(t, webSpec)
		change(other)
		got := other.TemplateHash("", time.Time{})
		if first, ok := hashes[got]; ok {
			t.Errorf("%s has the hash of %s", name, first)
		}
		hashes[got] = name
	}
	if zoned := app.TemplateHash("", at.In(time.FixedZone("east", 3600))); zoned != restarted {
		t.Error("the hash depends on the time zone")
	}
	if got := appOf(t, webSpec).Spec.Ports[1].Protocol; got != vortex.PortProtocolHTTP {
		t.Errorf("the hash changed the spec: %s", got)
	}
}

func TestValidateListsEveryProblem(t *testing.T) {
	app := appOf(t, `{"metadata": {"name": "Web"}, "spec": {"type": "htpp"}, "apiVersion": "v2", "kind": "Job"}`)
	err := app.Validate()
	if !vortex.IsKind(err, vortex.Invalid) {
		t.Fatalf("Validate: %v, want an Invalid error", err)
	}
	for _, part := range []string{
		`app "Web" is not valid, 5 problems:`, `apiVersion: expected "v1", got "v2"`, `kind: expected "App", got "Job"`,
		`metadata.name: expected a name`, `spec.type: expected one of http, tcp, worker, got "htpp"`, `spec: expected one of image, repo and path`,
	} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not say %q:\n%s", part, err)
		}
	}
}

func TestCheckImage(t *testing.T) {
	for _, ref := range []string{
		"nginx", "nginx:1.29", "library/nginx", "localhost/app", "localhost:5000/app:v1", "registry.example.com/team/app:v1", "MyHost.example:5000/app",
		"app@sha256:0123456789abcdef", "ghcr.io/a/b/c:1.0-rc.1_x", "10.0.0.1:5000/a",
	} {
		if err := vortex.CheckImage(ref); err != nil {
			t.Errorf("CheckImage(%q): %v", ref, err)
		}
	}
	for _, ref := range []string{
		"", " ", "nginx:", ":latest", "nginx latest", "Nginx", "https://nginx", "a//b", "/nginx", "nginx/", "nginx:a b", "nginx@abc", "-x", "a\nb", "../x", "localhost:/app",
	} {
		if err := vortex.CheckImage(ref); !vortex.IsKind(err, vortex.Invalid) {
			t.Errorf("CheckImage(%q): %v, want an Invalid error", ref, err)
		}
	}
}

func TestAProcessNeedsNoImage(t *testing.T) {
	app := appOf(t, `{"metadata": {"name": "web"}, "spec": {"type": "worker", "runtime": "process", "command": ["/bin/true"]}}`)
	if err := app.Validate(); err != nil {
		t.Error(err)
	}
	app.Spec.Command = []string{"true"}
	if err := app.Validate(); err == nil {
		t.Error("a process without an image and with a relative command is valid")
	}
}

func TestIneffectiveNamesWhatIsSetWithoutEffect(t *testing.T) {
	percent := 70.0
	app := vortex.App{Scaling: &vortex.Scaling{MaxCPUPercent: &percent, TargetRPSPerReplica: &percent}}
	if diff := cmp.Diff([]string{"scaling.maxCPUPercent"}, app.Ineffective()); diff != "" {
		t.Error(diff)
	}
	if got := (&vortex.App{}).Ineffective(); got != nil {
		t.Errorf("an empty spec: %v; want nothing", got)
	}
}
