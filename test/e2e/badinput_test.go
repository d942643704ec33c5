package e2e

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestBadInputIsRefusedWithOneClearErrorAndNothingIsCreated(t *testing.T) {
	v := start(t)
	deploy(t, v, "taken", "") // holds nothing yet; its host port comes with the clash below
	clash := strings.Replace(helloSpec("first"), "containerPort: 8080", "containerPort: 8080, hostPort: 18099", 1)
	run(t, v, "apply", "-f", file(t, "first.yaml", clash))
	tests := map[string]struct {
		spec string
		want []string // parts of the error
		code int
	}{
		"unknown field": {
			spec: strings.Replace(helloSpec("bad"), "image:", "imgae:", 1),
			want: []string{"bad.yaml:6", "imgae", `"image"`}, code: 2,
		},
		"wrong type": {
			spec: strings.Replace(helloSpec("bad"), "containerPort: 8080", "containerPort: http", 1),
			want: []string{"bad.yaml:7", "containerPort"}, code: 2,
		},
		"missing image": {
			spec: strings.Replace(helloSpec("bad"), "hello:latest", "localhost:1/no-such-image:v1", 1),
			want: []string{"no-such-image"},
		},
		"port clash": {
			spec: strings.Replace(clash, "name: first", "name: bad", 1),
			want: []string{"18099", "first"},
		},
		"impossible resources": {
			spec: strings.Replace(helloSpec("bad"), "cpu: 20m", "cpu: 4000", 1),
			want: []string{"CPU", "spec.resources"},
		},
		"malformed YAML": {
			spec: "apiVersion: v1\nkind: App\nmetadata: {name: bad\n",
			want: []string{"bad.yaml:"}, code: 2,
		},
		"10 MB": {
			spec: helloSpec("bad", "# "+strings.Repeat("x", 10<<20)),
			want: []string{"MiB"}, code: 2,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			stdout, stderr, code := v.CLI(t.Context(), "apply", "-f", file(t, "bad.yaml", test.spec))
			if code == 0 || test.code != 0 && code != test.code {
				t.Errorf("exit %d; want %d\n%s%s", code, test.code, stdout, stderr)
			}
			for _, part := range test.want {
				if !strings.Contains(stderr, part) {
					t.Errorf("the error does not tell %q:\n%s", part, stderr)
				}
			}
			if _, _, code := v.CLI(t.Context(), "status", "bad"); code != 3 {
				t.Errorf("something was created: status exits with %d", code)
			}
		})
	}
}

func TestHostileImageLeavesNothingOutside(t *testing.T) {
	v := start(t)
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	content := []byte("escaped")
	for _, name := range []string{"../../../../tmp/vortex-escaped", "/../../tmp/vortex-escaped"} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	config := `{"architecture":"amd64","os":"linux","config":{"Cmd":["/x"]},"rootfs":{"type":"layers","diff_ids":["sha256:` +
		strings.Repeat("0", 64) + `"]}}`
	var archive bytes.Buffer
	w = tar.NewWriter(&archive)
	for name, data := range map[string][]byte{
		"layer.tar": layer.Bytes(), "config.json": []byte(config),
		"manifest.json": []byte(`[{"Config":"config.json","RepoTags":["evil:latest"],"Layers":["layer.tar"]}]`),
	} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "evil.tar")
	if err := os.WriteFile(path, archive.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	_, stderr, code := v.CLI(t.Context(), "image", "import", path)
	if code == 0 || stderr == "" {
		t.Errorf("the hostile image was taken: exit %d, %s", code, stderr)
	}
	if out := run(t, v, "image", "ls"); strings.Contains(out, "evil") {
		t.Errorf("the image is in the store:\n%s", out)
	}
	if _, err := os.Stat("/tmp/vortex-escaped"); err == nil {
		t.Error("a file was written outside the image store")
	}
}
