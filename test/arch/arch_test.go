// Package arch holds the tests that police the repository: who imports whom, that packages are documented, how large files are,
// and what no file says. Each rule has its reason beside it.
package arch

import (
	"go/ast"
	"go/build/constraint"
	"go/parser"
	"go/scanner"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// root is the repository's directory.
const root = "../.."

// pkg is what the tests need to know of a package, its tests left out.
type pkg struct {
	path    string
	name    string
	imports []string
	doc     string
	files   []string
}

// load parses every package of the module once.
var load = sync.OnceValues(func() ([]*pkg, error) {
	found := map[string]*pkg{}
	err := walk(func(name string) error {
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, name), nil, parser.ParseComments|parser.ImportsOnly)
		if err != nil || ignored(file) {
			return err
		}
		importPath := path.Join("vortex", path.Dir(filepath.ToSlash(name)))
		p := found[importPath]
		if p == nil {
			p = &pkg{path: importPath}
			found[importPath] = p
		}
		p.add(name, file)
		return nil
	})
	return slices.SortedFunc(maps.Values(found), func(a, b *pkg) int { return strings.Compare(a.path, b.path) }), err
})

func (p *pkg) add(name string, file *ast.File) {
	p.name = file.Name.Name
	p.files = append(p.files, name)
	p.doc += file.Doc.Text()
	for _, spec := range file.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err == nil && !slices.Contains(p.imports, imported) {
			p.imports = append(p.imports, imported)
		}
	}
}

// ignored reports whether a file is built for nothing.
func ignored(file *ast.File) bool {
	for _, group := range file.Comments {
		for _, c := range group.List {
			if expr, err := constraint.Parse(c.Text); err == nil && expr.String() == "ignore" {
				return true
			}
		}
	}
	return false
}

func packages(t *testing.T) []*pkg {
	t.Helper()
	list, err := load()
	if err != nil {
		t.Fatal(err)
	}
	if len(list) < 30 {
		t.Fatalf("only %d packages were found", len(list))
	}
	return list
}

// walk calls visit with every source file, its name relative to the root.
func walk(visit func(name string) error) error {
	return fs.WalkDir(os.DirFS(root), ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && slices.Contains([]string{".git", "bin", "data", "dist", "node_modules", "testdata"}, entry.Name()):
			return fs.SkipDir
		case entry.Type().IsRegular():
			return visit(name)
		}
		return nil
	})
}

func TestPackagesAreDocumented(t *testing.T) {
	for _, p := range packages(t) {
		want := "Package " + p.name + " "
		if p.name == "main" {
			want = "Command "
		}
		if !strings.HasPrefix(p.doc, want) && !strings.Contains(p.path, "/proto/") {
			t.Errorf("%s: the package's comment begins %.40q; want %q: it says what the package is, guarantees and never does", p.path, p.doc, want+"…")
		}
	}
}

func TestPackagesHaveNamesThatSaySomething(t *testing.T) {
	for _, p := range packages(t) {
		for _, empty := range []string{"util", "utils", "common", "types", "models", "manager", "helpers", "misc"} {
			if path.Base(p.path) == empty {
				t.Errorf("%s: a name that says nothing gathers what belongs nowhere", p.path)
			}
		}
	}
}

// A file holds one idea; what grows beyond this holds two.
func TestFilesAreSmall(t *testing.T) {
	const limit = 600 // lines with code on them
	for _, p := range packages(t) {
		for _, name := range p.files {
			source, err := os.ReadFile(filepath.Join(root, name))
			if err != nil {
				t.Fatal(err)
			}
			if generated(source) {
				continue
			}
			if n := codeLines(source); n > limit {
				t.Errorf("%s has %d lines of code; at most %d", name, n, limit)
			}
		}
	}
}

func generated(source []byte) bool {
	head := string(source[:min(len(source), 400)])
	return strings.Contains(head, "// Code generated ") && strings.Contains(head, " DO NOT EDIT.")
}

// codeLines counts the lines that hold more than comments.
func codeLines(source []byte) int {
	files := token.NewFileSet()
	file := files.AddFile("", files.Base(), len(source))
	var s scanner.Scanner
	s.Init(file, source, nil, 0)
	lines := map[int]bool{}
	for {
		pos, tok, text := s.Scan()
		if tok == token.EOF {
			return len(lines)
		}
		first := file.Line(pos)
		for i := range strings.Count(text, "\n") + 1 {
			if tok != token.SEMICOLON {
				lines[first+i] = true
			}
		}
	}
}

// What is written is finished, and says nothing about the machine or the tools it was written with.
func TestNoFileSaysWhatItShouldNot(t *testing.T) {
	forbidden := map[string]string{
		"TO" + "DO":                  "finish it, or leave it out",
		"FIX" + "ME":                 "fix it",
		"not " + "implemented":       "what does not exist is not offered",
		"/wo" + "rk/":                "a path of one machine",
		"/tmp" + "/s/":               "a path of one machine",
		"panic(\"un" + "reachable\"": "say which invariant is broken",
	}
	err := walk(func(name string) error {
		if !slices.Contains([]string{".go", ".sh", ".md", ".yaml", ".yml", ".ksl", ".proto", ""}, path.Ext(name)) {
			return nil
		}
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil || len(text) > 1<<20 || generated(text) {
			return err
		}
		for word, reason := range forbidden {
			if i := strings.Index(string(text), word); i >= 0 {
				t.Errorf("%s:%d says %q: %s", name, strings.Count(string(text[:i]), "\n")+1, word, reason)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
