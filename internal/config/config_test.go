package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vortex"
	"vortex/internal/settings"
)

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "vortex.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const whole = `
cluster:
  min_replicas: 2
  max_replicas: 50
  starting_port: 3000
settings:
  scaleupnumber: 5
  scaledownnumber: 1
  scale_up_grace_period: 2s
  scale_down_cooldown: 6s
ratelimiter:
  ratelimit: 500
  ratewindow: 1m30s
node:
  labels: {zone: eu, disk: ssd}
edge:
  enabled: false
`

func TestTheDocumentedKeys(t *testing.T) {
	cfg, err := Load(Sources{File: write(t, whole), Root: true})
	if err != nil {
		t.Fatal(err)
	}
	want := settings.Settings{
		MinReplicas: 2, MaxReplicas: 50, StartingPort: 3000, StepUp: 5, StepDown: 1, UpGrace: 2 * time.Second, DownCooldown: 6 * time.Second,
		RateLimit: 500, RateWindow: 90 * time.Second,
		HistoryAge: time.Hour, HistoryCount: 10_000, HistoryMax: 1_000_000,
	}
	if diff := cmp.Diff(want, cfg.Settings); diff != "" {
		t.Error(diff)
	}
	if !cfg.NoEdge || cfg.NoAgent {
		t.Errorf("edge.enabled: false gave NoEdge %v, NoAgent %v", cfg.NoEdge, cfg.NoAgent)
	}
	if diff := cmp.Diff(map[string]string{"zone": "eu", "disk": "ssd"}, cfg.Labels); diff != "" {
		t.Error(diff)
	}
	if cfg.Data != "/var/lib/vortex" {
		t.Errorf("data of root: %s", cfg.Data)
	}
}

func TestWithoutAnySource(t *testing.T) {
	t.Chdir(t.TempDir())
	cfg, err := Load(Sources{Environ: []string{"HOME=/home/ann"}})
	if err != nil {
		t.Fatal(err)
	}
	want := settings.Settings{
		MinReplicas: 1, MaxReplicas: 50, StartingPort: 3000, UpGrace: time.Second, DownCooldown: 5 * time.Second,
		RateLimit: 500_000_000, RateWindow: 15 * time.Second,
		HistoryAge: time.Hour, HistoryCount: 10_000, HistoryMax: 1_000_000,
	}
	if diff := cmp.Diff(want, cfg.Settings); diff != "" {
		t.Error(diff)
	}
	if cfg.Data != "/home/ann/.local/share/vortex" || cfg.API != "127.0.0.1:7070" || cfg.Edge != ":8000" || cfg.Kind != "127.0.0.1:50051" {
		t.Errorf("defaults: %+v", cfg)
	}
}

func TestLaterSourcesWin(t *testing.T) {
	path := write(t, "api: {listen: '127.0.0.1:1'}\nkind: {listen: '127.0.0.1:2'}\nlog: {level: debug}\nnode: {name: file}\n")
	cfg, err := Load(Sources{
		File: path, Root: true,
		Environ: []string{"VORTEX_API=127.0.0.1:10", "VORTEX_NAME=env", "VORTEX_CLUSTER_MIN_REPLICAS=3"},
		Flags:   map[string]string{"name": "flag", "edge": ""},
	})
	if err != nil {
		t.Fatal(err)
	}
	got := []string{cfg.API, cfg.Kind, cfg.LogLevel, cfg.Name, cfg.Edge}
	if diff := cmp.Diff([]string{"127.0.0.1:10", "127.0.0.1:2", "debug", "flag", ""}, got); diff != "" {
		t.Error(diff)
	}
	if cfg.Settings.MinReplicas != 3 {
		t.Errorf("min replicas from the environment: %d", cfg.Settings.MinReplicas)
	}
}

func TestEveryProblemIsToldAtOnce(t *testing.T) {
	path := write(t, "cluster:\n  min_replica: 2\n  max_replicas: many\nsetings: {}\nratelimiter: [1]\ncluster2: 3\n")
	_, err := Load(Sources{File: path, Environ: []string{"VORTEX_SETTINGS_SCALE_DOWN_COOLDOWN=soon"}, Flags: map[string]string{"no-edge": "perhaps"}})
	if !vortex.IsKind(err, vortex.Invalid) {
		t.Fatalf("kind of %v", err)
	}
	for _, want := range []string{
		path + `:2:3: unknown key "min_replica" in cluster; did you mean "min_replicas"?`,
		path + `:3:17: cluster.max_replicas: expected a whole number from 0 to 4294967295, got "many"`,
		path + `:4:1: unknown section "setings"; did you mean "settings"?`,
		path + `:5:14: ratelimiter: expected settings below it, got a list`,
		`VORTEX_SETTINGS_SCALE_DOWN_COOLDOWN: expected a duration such as 5s or 1m30s, got "soon"`,
		`--no-edge: expected true or false, got "perhaps"`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("missing %q in:\n%v", want, err)
		}
	}
}

func TestValidate(t *testing.T) {
	good := Default()
	good.Data = "/data"
	for name, tt := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"address":   {func(c *Config) { c.API = "7070" }, `api.listen: expected host:port such as 127.0.0.1:7070, got "7070"`},
		"port":      {func(c *Config) { c.Edge = ":99999" }, `edge.listen: expected host:port`},
		"relative":  {func(c *Config) { c.Data = "x" }, `node.data: expected an absolute directory, got "x"`},
		"join":      {func(c *Config) { c.Join = "h" }, "--join: a server that joins needs --advertise"},
		"joins":     {func(c *Config) { c.Join, c.Advertise = "h,a:b:c", "h" }, `--join: expected host or host:port, several between commas, got "a:b:c"`},
		"token":     {func(c *Config) { c.JoinToken = "t" }, "give --join HOST too"},
		"advertise": {func(c *Config) { c.Advertise = "h:0" }, `--advertise: expected the host or host:port at which other machines reach this one, got "h:0"`},
		"lifetime":  {func(c *Config) { c.CertificateLifetime = time.Minute }, "cluster.certificate_lifetime: expected a duration from 2m0s"},
		"members":   {func(c *Config) { c.ClusterMembers = 2 }, "cluster.members: expected 1, 3 or 5, got 2"},
		"anonymous": {func(c *Config) { c.KindAnonymous = "limted" }, `did you mean "limited"?`},
		"runtime":   {func(c *Config) { c.Runtime = "podman" }, "agent.runtime: expected auto, oci, docker, process, sim"},
		"store":     {func(c *Config) { c.Store = "redis://x" }, "store.url: expected etcd://"},
		"no store":  {func(c *Config) { c.Store = "postgres://" }, "or postgres://user@host/database"},
		"half cert": {func(c *Config) { c.Store, c.StoreCert = "etcd://h:1", "x" }, "store.cert and store.key: expected both or none"},
		"lone ca":   {func(c *Config) { c.StoreCA = "x" }, "give store.url too"},
		"accept":    {func(c *Config) { c.EdgeAcceptProxy = "requird" }, `edge.accept_proxy_protocol: expected off, optional, required, got "requird"; did you mean "required"?`},
		"believed":  {func(c *Config) { c.EdgeAcceptProxy = "optional" }, "edge.accept_proxy_protocol: nobody is believed without edge.trusted"},
		"idle":      {func(c *Config) { c.IdleTimeout = 0 }, "edge.idle_timeout: expected a duration such as 75s, got 0s"},
		"grace":     {func(c *Config) { c.BodyGrace = -time.Second }, "edge.body_grace: expected a duration such as 5s, got -1s"},
		"every":     {func(c *Config) { c.BackupEvery = time.Millisecond }, "backup.every: expected a duration from 1s"},
		"keep":      {func(c *Config) { c.BackupKeep = 0 }, "backup.keep: expected a number from 1"},
		"limits":    {func(c *Config) { c.Settings.MinReplicas = 51 }, "cluster.min_replicas (51) is more than cluster.max_replicas (50)"},
		"ratelimit": {func(c *Config) { c.Settings.RateLimit = 0 }, "ratelimiter.ratelimit"},
		"window":    {func(c *Config) { c.Settings.RateWindow = 0 }, "ratelimiter.ratewindow"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := good
			tt.change(&cfg)
			if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	for _, store := range []string{"", "etcd://a:1,b:2", "postgres://u@a,b/d?sslmode=disable", "postgresql:///d?host=/run/postgresql"} {
		good.Store = store
		if err := good.Validate(); err != nil {
			t.Errorf("store %q: %v", store, err)
		}
	}
}

func TestFilesThatAreNoFiles(t *testing.T) {
	if _, err := Load(Sources{File: filepath.Join(t.TempDir(), "none.yaml")}); !vortex.IsKind(err, vortex.NotFound) {
		t.Errorf("missing file: %v", err)
	}
	if _, err := Load(Sources{File: write(t, "cluster: [")}); !vortex.IsKind(err, vortex.Invalid) {
		t.Errorf("malformed file: %v", err)
	}
	if _, err := Load(Sources{File: write(t, strings.Repeat("# x\n", 300_000))}); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("huge file: %v", err)
	}
	if _, err := Load(Sources{File: write(t, "cluster:\n  min_replicas: 1\n  min_replicas: 2\n")}); err == nil {
		t.Error("a key set twice passed")
	}
}

func TestMisspeltVariablesWarn(t *testing.T) {
	cfg, err := Load(Sources{File: write(t, ""), Root: true, Environ: []string{"VORTEX_CLUSTER_MIN_REPLICA=2", "VORTEX_TOKEN=x", "VORTEX_ZZZZZ=1"}})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{`the environment variable VORTEX_CLUSTER_MIN_REPLICA is not used; did you mean "VORTEX_CLUSTER_MIN_REPLICAS"?`}
	if diff := cmp.Diff(want, cfg.Warnings); diff != "" {
		t.Error(diff)
	}
}

func TestEverySettingHasItsOwnNames(t *testing.T) {
	seen := map[string]string{}
	for _, s := range Settings() {
		for _, name := range []string{s.Key, s.Env(), "--" + s.Flag} {
			if other, dup := seen[name]; dup && name != "--" {
				t.Errorf("%s and %s share %s", other, s.Key, name)
			}
			seen[name] = s.Key
		}
		if s.Usage == "" || strings.Count(s.Key, ".") != 1 {
			t.Errorf("%q needs a section and a usage", s.Key)
		}
	}
}

func TestAMachineOfAClusterIsReachedByOthers(t *testing.T) {
	t.Chdir(t.TempDir())
	environ := []string{"HOME=/home/ann"}
	for name, c := range map[string]struct {
		flags           map[string]string
		api, kind, anon string
	}{
		"alone":     {nil, "127.0.0.1:7070", "127.0.0.1:50051", "limited"},
		"clustered": {map[string]string{"advertise": "10.0.0.1"}, ":7070", ":50051", "off"},
		"as told":   {map[string]string{"advertise": "10.0.0.1", "api": "127.0.0.1:7070", "kind-anonymous": "limited"}, "127.0.0.1:7070", ":50051", "limited"},
	} {
		cfg, err := Load(Sources{Environ: environ, Flags: c.flags})
		if err != nil {
			t.Fatal(err)
		}
		if cfg.API != c.api || cfg.Kind != c.kind || cfg.KindAnonymous != c.anon {
			t.Errorf("%s: API at %s, Kind at %s, anonymous %s", name, cfg.API, cfg.Kind, cfg.KindAnonymous)
		}
	}
	cfg, err := Load(Sources{Environ: append(environ, "VORTEX_JOIN_TOKEN=secret", "VORTEX_TOKEN=other"), Flags: map[string]string{"join": "a, b:1,[::1]:2"}, Worker: true})
	if err != nil || cfg.JoinToken != "secret" {
		t.Fatalf("%v, %q", err, cfg.JoinToken)
	}
	if diff := cmp.Diff([]string{"a", "b:1", "[::1]:2"}, cfg.Servers()); diff != "" {
		t.Error(diff)
	}
}
