package spec

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"vortex"
)

// Document is an app and the file it stands in, which is where a relative spec.path starts from.
type Document struct {
	File string
	App  vortex.App
}

// Load is Parser{}.Load.
func Load(paths ...string) ([]Document, error) { return Parser{}.Load(paths...) }

// Load reads the apps of files and of directories, as Files finds them. An app may be declared once in all of them.
// The error is NotFound for a path that does not exist and Invalid with the faults of every file.
func (p Parser) Load(paths ...string) ([]Document, error) {
	var documents []Document
	var problems []error
	for _, path := range paths {
		files, err := Files(path)
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			apps, err := p.load(file)
			if err != nil {
				problems = append(problems, err)
			}
			for _, app := range apps {
				documents = append(documents, Document{File: file, App: app})
			}
		}
	}
	problems = append(problems, twice(documents)...)
	switch len(problems) {
	case 0:
		return documents, nil
	case 1:
		return nil, problems[0]
	default:
		return nil, vortex.Errorf(vortex.Invalid, "%w", errors.Join(problems...))
	}
}

// load reads one file. No more of it is read than may be parsed.
func (p Parser) load(file string) ([]vortex.App, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, openError(file, err)
	}
	defer f.Close()
	limit := p.limit()
	data, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	if len(data) > limit {
		size := len(data)
		if info, err := f.Stat(); err == nil {
			size = max(size, int(info.Size()))
		}
		return nil, tooLarge(file, size, limit)
	}
	p.Dir = filepath.Dir(file)
	return p.Parse(file, data)
}

// twice reports apps that stand in more than one file.
func twice(documents []Document) []error {
	var problems []error
	first := make(map[string]string, len(documents))
	for _, d := range documents {
		name := d.App.Metadata.Name
		if file, ok := first[name]; ok {
			problems = append(problems, vortex.Errorf(vortex.Invalid,
				"%s: the app %q is declared in %s already; each name must be there once", d.File, name, file))
			continue
		}
		first[name] = d.File
	}
	return problems
}

// Files returns path itself when it is a file, else the specs right in that directory: every *.yaml, *.yml and *.json that
// is not hidden, sorted by name, but not vortex.yaml and edge.yaml, which configure the machine. A directory without any is an Invalid error, a path that does not exist NotFound.
func Files(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, openError(path, err)
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, openError(path, err)
	}
	var files []string
	for _, entry := range entries {
		if !entry.IsDir() && isSpec(entry.Name()) {
			files = append(files, filepath.Join(path, entry.Name()))
		}
	}
	if len(files) == 0 {
		return nil, vortex.Errorf(vortex.Invalid, "expected App specs (*.yaml, *.yml or *.json) in %s, found none", path)
	}
	return files, nil
}

// isSpec reports whether a file in a directory is meant to be a spec.
func isSpec(name string) bool {
	if strings.HasPrefix(name, ".") || name == "vortex.yaml" || name == "edge.yaml" {
		return false
	}
	return slices.Contains([]string{".yaml", ".yml", ".json"}, strings.ToLower(filepath.Ext(name)))
}

func openError(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return vortex.Errorf(vortex.NotFound, "there is no file or directory %s; check the path after -f", path)
	case errors.Is(err, fs.ErrPermission):
		return vortex.Errorf(vortex.Denied, "%s may not be read; check its permissions", path)
	default:
		return fmt.Errorf("open %s: %w", path, err)
	}
}
