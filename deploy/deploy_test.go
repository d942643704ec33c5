package deploy_test

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
)

func TestComposeFileLoadsAndMountsWhatIsThere(t *testing.T) {
	options, err := cli.NewProjectOptions([]string{"compose.yaml"})
	if err != nil {
		t.Fatal(err)
	}
	project, err := options.LoadProject(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	here, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	for name, service := range project.Services {
		for _, volume := range service.Volumes {
			if !strings.HasPrefix(volume.Source, here) {
				continue
			}
			if _, err := os.Stat(volume.Source); err != nil {
				t.Errorf("service %s mounts what is not there: %v", name, err)
			}
		}
	}
}

// A dashboard that asks for a metric nobody exposes stays empty without a word.
func TestDashboardAsksForMetricsThatExist(t *testing.T) {
	text, err := os.ReadFile("grafana/dashboards/vortex.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	sources := productCode(t)
	name := regexp.MustCompile(`vortex_[a-z_]+`)
	asked := 0
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			for _, metric := range name.FindAllString(target.Expr, -1) {
				asked++
				if !bytes.Contains(sources, []byte(`"`+strings.TrimSuffix(metric, "_bucket")+`"`)) {
					t.Errorf("panel %q asks for %s, which nothing exposes", panel.Title, metric)
				}
			}
		}
	}
	if asked < len(dashboard.Panels) {
		t.Errorf("%d panels ask for %d metrics", len(dashboard.Panels), asked)
	}
}

func productCode(t *testing.T) []byte {
	t.Helper()
	var all bytes.Buffer
	err := filepath.WalkDir("../internal", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		all.Write(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.Bytes()
}
