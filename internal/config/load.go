package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"vortex"
)

// Sources are what a configuration is made of.
type Sources struct {
	// File is the vortex.yaml to read; "" reads ./vortex.yaml, else /etc/vortex/vortex.yaml, else none.
	File string
	// Environ is the environment, as os.Environ returns it.
	Environ []string
	// Flags are the flags that were given, by their names.
	Flags map[string]string
	// Root tells whether the process may write /var/lib.
	Root bool
	// Worker tells that the command runs an agent alone.
	Worker bool
}

const maxFileBytes = 1 << 20

// Load reads the sources, the later winning, and checks the outcome. The error lists every problem, each of kind Invalid;
// a file that was named and is not there is NotFound.
func Load(src Sources) (Config, error) {
	cfg, err := src.read(Default())
	if err == nil && cfg.Clustered() {
		cfg, err = src.read(clustered())
	}
	if err != nil {
		return cfg, err
	}
	if err := cfg.Validate(); err != nil {
		return cfg, listed(err)
	}
	return cfg, nil
}

// read lays the sources over what holds without them.
func (src Sources) read(cfg Config) (Config, error) {
	env := environment(src.Environ)
	var problems []error
	cfg.Worker = src.Worker
	if err := cfg.readFile(src.File, &problems); err != nil {
		return cfg, err
	}
	for _, s := range Settings() {
		if v, ok := env[s.Env()]; ok {
			problems = append(problems, source(s.Env(), s.value(&cfg).set(v)))
		}
		if v, ok := src.Flags[s.Flag]; ok && s.Flag != "" {
			problems = append(problems, source("--"+s.Flag, s.value(&cfg).set(v)))
		}
	}
	cfg.Warnings = misspelt(env)
	if cfg.Data == "" {
		cfg.Data = DataDir(src.Root, env["XDG_DATA_HOME"], env["HOME"])
	}
	if abs, err := filepath.Abs(cfg.Data); err == nil {
		cfg.Data = abs
	}
	if abs, err := filepath.Abs(cfg.BackupDir); err == nil && cfg.BackupDir != "" {
		cfg.BackupDir = abs
	}
	if err := errors.Join(problems...); err != nil {
		return cfg, listed(err)
	}
	return cfg, nil
}

// listed makes one error of kind Invalid of many.
func listed(err error) error { return vortex.Errorf(vortex.Invalid, "%w", err) }

func source(name string, err error) error {
	if err == nil {
		return nil
	}
	return vortex.Errorf(vortex.Invalid, "%s: %w", name, err)
}

// DataDir is where data is kept when nobody says where.
func DataDir(root bool, xdgDataHome, home string) string {
	switch {
	case root:
		return "/var/lib/vortex"
	case xdgDataHome != "":
		return filepath.Join(xdgDataHome, "vortex")
	case home != "":
		return filepath.Join(home, ".local", "share", "vortex")
	default:
		return filepath.Join(os.TempDir(), "vortex")
	}
}

func environment(environ []string) map[string]string {
	env := map[string]string{}
	for _, pair := range environ {
		if name, v, ok := strings.Cut(pair, "="); ok {
			env[name] = v
		}
	}
	return env
}

// clientEnv are variables that the commands which talk to a server read.
var clientEnv = []string{
	"VORTEX_SERVER", "VORTEX_TOKEN", "VORTEX_CONTEXT", "VORTEX_KIND", "VORTEX_CONFIG", "VORTEX_TIMEOUT",
	"VORTEX_EDGE", "VORTEX_CA", "VORTEX_CERT", "VORTEX_KEY", "VORTEX_SERVER_NAME",
}

// misspelt finds variables that look like settings and are none.
func misspelt(env map[string]string) (warnings []string) {
	known := slices.Clone(clientEnv)
	for _, s := range Settings() {
		known = append(known, s.Env())
	}
	for name := range env {
		if strings.HasPrefix(name, envPrefix) && !slices.Contains(known, name) {
			if hint := didYouMean(name, known); hint != "" {
				warnings = append(warnings, fmt.Sprintf("the environment variable %s is not used%s", name, hint))
			}
		}
	}
	slices.Sort(warnings)
	return warnings
}

// readFile reads vortex.yaml, if there is one.
func (c *Config) readFile(name string, problems *[]error) error {
	candidates := []string{"vortex.yaml", "/etc/vortex/vortex.yaml"}
	if name != "" {
		candidates = []string{name}
	}
	for _, path := range candidates {
		data, err := os.ReadFile(path)
		switch {
		case errors.Is(err, fs.ErrNotExist) && name == "":
			continue
		case errors.Is(err, fs.ErrNotExist):
			return vortex.Errorf(vortex.NotFound, "no configuration at %s", path)
		case err != nil:
			return vortex.Errorf(vortex.Invalid, "%s cannot be read: %w", path, err)
		case len(data) > maxFileBytes:
			return vortex.Errorf(vortex.Invalid, "%s is larger than the %d KiB allowed", path, maxFileBytes>>10)
		}
		c.File = path
		return c.parse(path, data, problems)
	}
	return nil
}

// parse takes in the text of a vortex.yaml.
func (c *Config) parse(path string, data []byte, problems *[]error) error {
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return vortex.Errorf(vortex.Invalid, "%s: %s", path, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if len(doc.Content) == 0 {
		return nil
	}
	f := file{path: path, settings: map[string]Setting{}, seen: map[string]int{}, problems: problems}
	for _, s := range Settings() {
		f.settings[s.Key] = s
	}
	f.root(c, doc.Content[0])
	return nil
}

// file is a vortex.yaml being read.
type file struct {
	path     string
	settings map[string]Setting
	seen     map[string]int // keys with the line they stand on
	problems *[]error
}

func (f *file) fail(at *yaml.Node, format string, args ...any) {
	*f.problems = append(*f.problems, vortex.Errorf(vortex.Invalid, "%s:%d:%d: "+format, append([]any{f.path, at.Line, at.Column}, args...)...))
}

func (f *file) root(c *Config, root *yaml.Node) {
	if root.Kind != yaml.MappingNode {
		f.fail(root, "expected sections such as cluster:, got %s", shape(root))
		return
	}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, body := root.Content[i], root.Content[i+1]
		switch sections := f.sections(); {
		case !slices.Contains(sections, key.Value):
			f.fail(key, "unknown section %q%s", key.Value, orOneOf(key.Value, sections))
		case body.Kind == yaml.ScalarNode && body.Tag == "!!null":
		case body.Kind != yaml.MappingNode:
			f.fail(body, "%s: expected settings below it, got %s", key.Value, shape(body))
		default:
			f.section(c, key.Value, body)
		}
	}
}

func (f *file) section(c *Config, name string, body *yaml.Node) {
	for i := 0; i+1 < len(body.Content); i += 2 {
		key, val := body.Content[i], body.Content[i+1]
		full := name + "." + key.Value
		s, ok := f.settings[full]
		if !ok {
			known := f.keys(name)
			f.fail(key, "unknown key %q in %s%s", key.Value, name, orOneOf(key.Value, known))
			continue
		}
		if line, twice := f.seen[full]; twice {
			f.fail(key, "%s is set twice, first on line %d", full, line)
			continue
		}
		f.seen[full] = key.Line
		f.set(c, s, val)
	}
}

// set gives a setting the value a node holds.
func (f *file) set(c *Config, s Setting, node *yaml.Node) {
	text := node.Value
	switch {
	case node.Kind == yaml.MappingNode && s.Key == "node.labels":
		var pairs []string
		for i := 0; i+1 < len(node.Content); i += 2 {
			pairs = append(pairs, node.Content[i].Value+"="+node.Content[i+1].Value)
		}
		text = strings.Join(pairs, ",")
	case node.Kind != yaml.ScalarNode:
		f.fail(node, "%s: expected one value, got %s", s.Key, shape(node))
		return
	}
	v := s.value(c)
	if err := v.set(text); err != nil {
		f.fail(node, "%s: %s", s.Key, err)
		return
	}
	if s.negated {
		if on, ok := v.(boolValue); ok {
			*on.p = !*on.p
		}
	}
}

// sections and keys are what may stand in the file.
func (f *file) sections() (names []string) {
	for _, s := range Settings() {
		name, _, _ := strings.Cut(s.Key, ".")
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

func (f *file) keys(section string) (names []string) {
	for _, s := range Settings() {
		if name, ok := strings.CutPrefix(s.Key, section+"."); ok {
			names = append(names, name)
		}
	}
	return names
}

func orOneOf(word string, known []string) string {
	if hint := didYouMean(word, known); hint != "" {
		return hint
	}
	return "; expected one of " + strings.Join(known, ", ")
}

func shape(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "settings"
	case yaml.SequenceNode:
		return "a list"
	default:
		return fmt.Sprintf("%q", n.Value)
	}
}
