package spec_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vortex"
	"vortex/internal/kind/ksl"
	"vortex/internal/spec"
)

// parse returns the only app of a document.
func parse(t *testing.T, doc string) vortex.App {
	t.Helper()
	apps, err := spec.Parse("test.yaml", []byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	if len(apps) != 1 {
		t.Fatalf("%d apps, want 1", len(apps))
	}
	return apps[0]
}

func TestEveryFieldIsRead(t *testing.T) {
	const file = "testdata/full.yaml"
	app := parse(t, string(read(t, file)))
	data, err := spec.Marshal(app)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, file, string(data))
	if again := parse(t, string(data)); !cmp.Equal(app, again) {
		t.Errorf("what Marshal writes reads back as something else:\n%s", cmp.Diff(app, again))
	}
	body, err := json.MarshalIndent(app, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	fromJSON, err := spec.ParseJSON(body)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(app, fromJSON); diff != "" {
		t.Errorf("JSON reads as something else:\n%s", diff)
	}
}

func TestScalarsAreTakenAsWritten(t *testing.T) {
	app := parse(t, `
metadata: {name: web, labels: {version: 1.10, on: yes, big: 0x1F}}
spec:
  type: worker
  image: nginx
  user: 1000
  args: [-p, 8080, 1e3, true, 2026-11-20]
  resources: {cpu: 2, memory: 1073741824, limits: {cpu: 2.50}}
  environment:
    - {name: A, value: 010}
    - {name: B, value: null}
    - {name: C, value: 1_000}
    - {name: D, value: true}
    - {name: E}
  stopGracePeriodSeconds: 0x10
scaling: {minReplicas: 1.0, maxReplicas: 1_0, targetRPSPerReplica: 1e2}
healthCheck:
`)
	got := map[string]string{
		"version": app.Metadata.Labels["version"], "on": app.Metadata.Labels["on"], "big": app.Metadata.Labels["big"], "user": app.Spec.User,
		"args": strings.Join(app.Spec.Args, " "), "cpu": app.Spec.Resources.CPU, "limit": app.Spec.Resources.Limits.CPU,
	}
	for _, v := range app.Spec.Environment {
		got[v.Name] = v.Value
	}
	want := map[string]string{
		"version": "1.10", "on": "yes", "big": "0x1F", "user": "1000", "args": "-p 8080 1e3 true 2026-11-20", "cpu": "2", "limit": "2.50",
		"A": "010", "B": "", "C": "1_000", "D": "true", "E": "",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if *app.Spec.StopGracePeriodSeconds != 16 || *app.Scaling.MinReplicas != 1 || *app.Scaling.MaxReplicas != 10 || *app.Scaling.TargetRPSPerReplica != 100 {
		t.Errorf("numbers are read as %d %d %d %v", *app.Spec.StopGracePeriodSeconds, *app.Scaling.MinReplicas, *app.Scaling.MaxReplicas, *app.Scaling.TargetRPSPerReplica)
	}
	if app.HealthCheck != nil {
		t.Error("an empty section is there")
	}
}

func TestAnchorsAndMergeKeys(t *testing.T) {
	apps, err := spec.Parse("test.yaml", []byte(`
# nothing in this document
---
metadata: {name: a}
spec:
  image: &image nginx:1
  ports: [&port {containerPort: 80, name: web}, {<<: *port, containerPort: 81, name: admin}]
  resources: {limits: {<<: [{cpu: 1}, {cpu: 2, memory: 1Gi}]}}
  environment: [{name: IMAGE, value: *image}]
---
---
{"metadata": {"name": "b"}, "spec": {"image": "nginx", "type": "worker"}}
`))
	if err != nil {
		t.Fatal(err)
	}
	if len(apps) != 2 || apps[0].Metadata.Name != "a" || apps[1].Metadata.Name != "b" {
		t.Fatalf("got %+v", apps)
	}
	s := apps[0].Spec
	if s.Ports[1].ContainerPort != 81 || s.Ports[1].Name != "admin" || s.Environment[0].Value != "nginx:1" {
		t.Errorf("got %+v", s)
	}
	if l := s.Resources.Limits; l.CPU != "1" || l.Memory != "1Gi" {
		t.Errorf("of merged objects the first should win, got %+v", l)
	}
}

func TestJSONIsReadAsJSON(t *testing.T) {
	app, err := spec.ParseJSON([]byte("\ufeff{\r\n\t\"metadata\": {\"name\": \"web\", \"labels\": {\"<<\": \"\\ud83d\\ude00 \\/\"}},\n\t\"spec\": {\"type\": \"worker\", \"image\": \"nginx\", \"args\": null}}\n\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got := app.Metadata.Labels["<<"]; got != "😀 /" {
		t.Errorf("the label is %q", got)
	}
	for body, want := range map[string]string{
		"":                        "got an empty body",
		"null":                    "got nothing",
		"[]":                      "got a list",
		"metadata: {name: web}":   "body:1:1: this is not valid JSON",
		`{"metadata": `:           "unexpected EOF",
		`{} {}`:                   "body:1:4: expected one app in the body",
		strings.Repeat("[", 5000): "at most 64",
		strings.Repeat(`{"spec":`, 100) + "1" + strings.Repeat("}", 100): "at most 64",
		`{"services": {"web": {"image": "nginx", "privileged": true}}}`:  "services.web.privileged: this key has no meaning here",
	} {
		if _, err := spec.ParseJSON([]byte(body)); !vortex.IsKind(err, vortex.Invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseJSON(%.40s): %v; want an Invalid error with %q", body, err, want)
		}
	}
}

func TestSizeIsLimited(t *testing.T) {
	big := []byte("# " + strings.Repeat("x", 10<<20))
	_, err := spec.Parse("big.yaml", big)
	if want := "big.yaml: expected a spec of at most 1 MiB, got 10 MiB; split it into several files"; err == nil || err.Error() != want || !vortex.IsKind(err, vortex.Invalid) {
		t.Errorf("got %v, want %s", err, want)
	}
	if apps, err := (spec.Parser{MaxBytes: 11 << 20}).Parse("big.yaml", big); err != nil || len(apps) != 0 {
		t.Errorf("with a higher limit: %v, %v", apps, err)
	}
}

func TestHostileDocumentsEndSoon(t *testing.T) {
	var laughs strings.Builder
	laughs.WriteString("metadata: {name: web}\nspec:\n  image: &a0 nginx\n")
	for i := range 8 {
		laughs.WriteString("  a" + string(rune('0'+i)) + ": &a" + string(rune('1'+i)) + " [" + strings.Repeat("*a"+string(rune('0'+i))+",", 9) + "]\n")
	}
	laughs.WriteString("  args: *a8\n")
	for name, doc := range map[string]string{
		"billion laughs": laughs.String(),
		"deep flow":      strings.Repeat("[", 200_000),
		"deep objects":   strings.Repeat("{a: ", 100_000),
		"deep block":     strings.Repeat("- ", 100_000) + "x",
		"many keys":      "metadata: {labels: {" + strings.Repeat("a: b, ", 100_000) + "}}",
		"itself":         "metadata: &m {name: web, labels: *m}\nspec: &s {ports: [*s], args: &l [*l], <<: *s}",
		"services":       "services: &s {a: {environment: *s, labels: *s}}",
		"long line":      "metadata: {name: " + strings.Repeat("ü", 400_000) + "}",
		"many documents": strings.Repeat("---\nmetadata: {}\n", 40_000),
		"many comments":  strings.Repeat("# x\n", 200_000),
		"json":           `{"a":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + "}",
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			_, err := spec.Parse("hostile.yaml", []byte(doc))
			if name != "many comments" && !vortex.IsKind(err, vortex.Invalid) {
				t.Errorf("got %v, want an Invalid error", err)
			}
			if err != nil && len(err.Error()) > 64<<10 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
			if took := time.Since(start); took > 20*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}

func TestFilesOfADirectory(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"b.yaml": "metadata: {name: b}\nspec: {type: worker, image: b}", "a.yml": "metadata: {name: a}\nspec: {type: worker, image: a}",
		"c.json": `{"metadata": {"name": "c"}, "spec": {"type": "worker", "image": "c"}}`, "README.md": "#", ".hidden.yaml": "x", "vortex.yaml": "cluster:",
		"sub.yaml/x": "", "compose/compose.yaml": "services: {d: {image: '${IMAGE}', env_file: d.env}}", "compose/.env": "IMAGE=nginx:7\n", "compose/d.env": "A=b",
		"twice/x.yaml": "metadata: {name: x}\nspec: {type: worker, image: x}", "twice/y.yaml": "metadata: {name: x}\nspec: {type: worker, image: x}",
		"wrong/x.yaml": "x: 1", "wrong/y.yaml": "y: 1", "empty/x.txt": "",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	documents, err := spec.Load(dir, filepath.Join(dir, "compose"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range documents {
		rel, err := filepath.Rel(dir, d.File)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, rel+" "+d.App.Metadata.Name)
	}
	if diff := cmp.Diff([]string{"a.yml a", "b.yaml b", "c.json c", "compose/compose.yaml d"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if d := documents[3].App.Spec; d.Image != "nginx:7" || !cmp.Equal(d.Environment, []vortex.EnvVar{{Name: "A", Value: "b"}}) {
		t.Errorf("the compose service is %+v", d)
	}
	for path, want := range map[string]string{
		"nowhere": "there is no file or directory", "empty": "expected App specs", "twice": `the app "x" is declared in`, "wrong": "y.yaml:1:1",
	} {
		kind := vortex.Invalid
		if path == "nowhere" {
			kind = vortex.NotFound
		}
		if _, err := spec.Load(filepath.Join(dir, path)); !vortex.IsKind(err, kind) || !strings.Contains(err.Error(), want) {
			t.Errorf("Load(%s): %v, want %q", path, err, want)
		}
	}
}

func TestExamplesAreValid(t *testing.T) {
	documents, err := spec.Load("../../examples", "../../examples/hello")
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]vortex.AppType{}
	for _, d := range documents {
		names[d.App.Metadata.Name] = d.App.Spec.Type
	}
	want := map[string]vortex.AppType{"hello": vortex.AppTypeHTTP, "ticker": vortex.AppTypeWorker, "web": vortex.AppTypeHTTP, "cache": vortex.AppTypeTCP, "shop": vortex.AppTypeHTTP}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestSchemaStaysReadable fails when the App spec gains a type that documents cannot hold yet.
func TestSchemaStaysReadable(t *testing.T) {
	schema, err := ksl.Parse("schema/vortex.ksl", vortex.Schema())
	if err != nil {
		t.Fatal(err)
	}
	app, _ := schema.Type("App")
	var visit func(path string, ft ksl.FieldType)
	visit = func(path string, ft ksl.FieldType) {
		switch {
		case ft.Elem != nil:
			visit(path, *ft.Elem)
		case ft.Struct != nil:
			for _, f := range ft.Struct.Fields {
				visit(path+"."+f.Name, f.Type)
			}
		case ft.Kind == ksl.KindScalar && ft.Scalar != ksl.String && ft.Scalar != ksl.Bool && ft.Scalar != ksl.Duration && !ft.Scalar.Numeric():
			t.Errorf("%s has the type %s, which internal/spec does not read yet", path, ft)
		}
	}
	visit("App", ksl.FieldType{Kind: ksl.KindStruct, Struct: app})
}

func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/errors/*", "testdata/*.yaml", "testdata/compose/*", "../../examples/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		apps, err := spec.Parse("fuzz.yaml", data)
		if err != nil {
			if !vortex.IsKind(err, vortex.Invalid) {
				t.Errorf("the error is of kind %v: %v", vortex.KindOf(err), err)
			}
			return
		}
		for _, app := range apps {
			if err := app.Validate(); err != nil {
				t.Errorf("what was accepted is not valid: %v", err)
			}
			text, err := spec.Marshal(app)
			if err != nil {
				t.Fatal(err)
			}
			again, err := spec.Parse("again.yaml", text)
			if err != nil {
				t.Fatalf("what Marshal wrote is refused: %v\n%s", err, text)
			}
			if diff := cmp.Diff(app, again[0]); diff != "" {
				t.Errorf("what Marshal wrote reads as something else:\n%s", diff)
			}
		}
	})
}
