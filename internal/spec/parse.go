package spec

import (
	"bytes"
	"fmt"
	"strings"
	"sync"

	"go.yaml.in/yaml/v4"

	"vortex"
	"vortex/internal/kind/ksl"
)

// DefaultMaxBytes is how large a document may be when nothing else is set: 1 MiB.
const DefaultMaxBytes = 1 << 20

// Parser reads documents. Its zero value is ready to use.
type Parser struct {
	MaxBytes    int               // of one file; 0 is DefaultMaxBytes
	Dir         string            // where a compose file's env_file and .env are; "" keeps it from reading any file
	Environment map[string]string // replaces ${NAME} in compose files; it wins over .env
}

func (p Parser) limit() int {
	if p.MaxBytes > 0 {
		return p.MaxBytes
	}
	return DefaultMaxBytes
}

// Parse is Parser{}.Parse.
func Parse(file string, data []byte) ([]vortex.App, error) { return Parser{}.Parse(file, data) }

// ParseJSON is Parser{}.ParseJSON.
func ParseJSON(data []byte) (vortex.App, error) { return Parser{}.ParseJSON(data) }

// Parse reads all apps of one file: YAML documents separated by ---, JSON, or a compose file. Empty documents are passed
// over. file is how messages name it, and nothing of that name is read.
// The error is Invalid and tells every fault of the file.
func (p Parser) Parse(file string, data []byte) ([]vortex.App, error) {
	src, err := p.open(file, data)
	if err != nil {
		return nil, err
	}
	var docs []*yaml.Node
	if src.json() {
		docs = src.jsonDocuments()
	} else {
		docs = src.yamlDocuments()
	}
	return p.apps(src, docs)
}

// ParseJSON reads one app from JSON, as the body of a request. Messages name the body as "body".
// The error is Invalid and tells every fault.
func (p Parser) ParseJSON(data []byte) (vortex.App, error) {
	src, err := p.open("body", data)
	if err != nil {
		return vortex.App{}, err
	}
	docs := src.jsonDocuments()
	if len(docs) > 1 {
		src.fault(docs[1], "expected one app in the body, got another one here")
	}
	apps, err := p.apps(src, docs)
	switch {
	case err != nil:
		return vortex.App{}, err
	case len(apps) == 0:
		return vortex.App{}, vortex.Errorf(vortex.Invalid, "expected an App spec as JSON, got an empty body")
	}
	return apps[0], nil
}

// open checks what can be told before reading anything.
func (p Parser) open(file string, data []byte) (*source, error) {
	if limit := p.limit(); len(data) > limit {
		return nil, tooLarge(file, len(data), limit)
	}
	return &source{file: file, data: bytes.TrimPrefix(data, []byte("\ufeff"))}, nil
}

func tooLarge(file string, size, limit int) error {
	return vortex.Errorf(vortex.Invalid, "%s: expected a spec of at most %s, got %s; split it into several files",
		file, sizeText(limit), sizeText(size))
}

func sizeText(n int) string {
	if n < 1<<20 {
		return fmt.Sprintf("%d bytes", n)
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", float64(n)/(1<<20)), ".0") + " MiB"
}

// apps decodes the documents of a file.
func (p Parser) apps(src *source, docs []*yaml.Node) ([]vortex.App, error) {
	var apps []vortex.App
	var at []places
	for _, doc := range docs {
		switch {
		case src.full():
		case isCompose(doc) && len(docs) > 1:
			src.fault(doc, "expected a compose file to be the only document of its file, got %d documents", len(docs))
		case isCompose(doc):
			return p.compose(src, doc)
		default:
			if app, places, ok := src.app(doc); ok {
				apps, at = append(apps, app), append(at, places)
			}
		}
	}
	src.duplicates(apps, at)
	if err := src.err(); err != nil {
		return nil, err
	}
	return apps, nil
}

// duplicates reports apps of the same name.
func (s *source) duplicates(apps []vortex.App, at []places) {
	first := make(map[string]int, len(apps))
	for i, app := range apps {
		name := app.Metadata.Name
		if j, ok := first[name]; ok {
			s.fault(at[i].of("metadata.name"), "metadata.name: the app %q is declared on line %d already; each name must be there once",
				name, at[j].of("metadata.name").Line)
			continue
		}
		first[name] = i
	}
}

// app decodes one document.
func (s *source) app(doc *yaml.Node) (vortex.App, places, bool) {
	d := s.decoder(appType(), doc)
	before := len(s.faults)
	value := d.document(doc)
	if len(s.faults) > before {
		return vortex.App{}, nil, false
	}
	app, err := d.app(value)
	if err != nil {
		s.fault(doc, "%s", err)
		return vortex.App{}, nil, false
	}
	problems := app.Problems()
	for _, p := range problems {
		s.fault(d.at.of(p.Path), "%s", p)
	}
	return app, d.at, len(problems) == 0
}

func (s *source) decoder(root *ksl.Type, doc *yaml.Node) *decoder {
	return &decoder{src: s, root: root, at: places{"": {value: doc}}, budget: maxValues}
}

// appType returns the schema's description of an App spec.
func appType() *ksl.Type { return builtin("App") }

// builtin finds a type of the schema that is built in.
func builtin(name string) *ksl.Type {
	t, ok := builtinSchema().Type(name)
	if !ok {
		panic("spec: the schema that is built in has no type " + name)
	}
	return t
}

var builtinSchema = sync.OnceValue(func() *ksl.Schema {
	s, err := ksl.Parse("schema/vortex.ksl", vortex.Schema())
	if err != nil {
		panic("spec: the schema that is built in: " + err.Error())
	}
	return s
})
