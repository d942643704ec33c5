package vortex

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Problem is one thing that is wrong with a spec.
type Problem struct {
	Path string // of the field: "spec.ports[0].containerPort"; "" is the whole document
	Msg  string // what was expected, what came, what to do
}

// String returns the path and the message.
func (p Problem) String() string {
	if p.Path == "" {
		return p.Msg
	}
	return p.Path + ": " + p.Msg
}

// Validate returns nil, or one Invalid Error that lists every problem of the spec with the path of its
// field, what was expected and what came. Fields that are empty count as their defaults.
func (a *App) Validate() error {
	problems := a.Problems()
	if len(problems) == 0 {
		return nil
	}
	lines := make([]string, len(problems))
	for i, p := range problems {
		lines[i] = p.String()
	}
	name := "the app"
	if a.Metadata.Name != "" {
		name = fmt.Sprintf("app %q", a.Metadata.Name)
	}
	if len(lines) == 1 {
		return Errorf(Invalid, "%s is not valid: %s", name, lines[0])
	}
	return Errorf(Invalid, "%s is not valid, %d problems:\n  %s", name, len(lines), strings.Join(lines, "\n  "))
}

// Problems returns everything that is wrong with the spec, in the order of the document.
func (a *App) Problems() []Problem {
	var c checker
	c.kind(a)
	c.metadata(&a.Metadata)
	c.spec(a)
	if a.Scaling != nil {
		c.scaling(a.Scaling)
	}
	if a.HealthCheck != nil {
		c.healthCheck("healthCheck", a.HealthCheck, a.PrimaryPort() != 0)
	}
	if a.Route != nil {
		c.route(a)
	}
	if a.Rollout != nil {
		c.rollout(a.Rollout)
	}
	return c.problems
}

// checker gathers problems.
type checker struct{ problems []Problem }

func (c *checker) add(path, format string, args ...any) {
	c.problems = append(c.problems, Problem{Path: path, Msg: fmt.Sprintf(format, args...)})
}

// err adds err, when there is one, as a problem of the field at path.
func (c *checker) err(path string, err error) {
	if err != nil {
		c.add(path, "%s", err)
	}
}

// oneOf checks a value of an enum. The empty value stands for the default.
func oneOf[E interface {
	~string
	Values() []E
}](c *checker, path string, value E) bool {
	if value == "" || slices.Contains(value.Values(), value) {
		return true
	}
	names := make([]string, 0, len(value.Values()))
	for _, v := range value.Values() {
		names = append(names, string(v))
	}
	c.add(path, "expected one of %s, got %q", strings.Join(names, ", "), value)
	return false
}

func (c *checker) kind(a *App) {
	if a.APIVersion != "" && a.APIVersion != "v1" {
		c.add("apiVersion", `expected "v1", got %q`, a.APIVersion)
	}
	if a.Kind != "" && a.Kind != "App" {
		c.add("kind", `expected "App", got %q`, a.Kind)
	}
}

func (c *checker) metadata(m *Metadata) {
	c.err("metadata.name", CheckName(m.Name))
	for _, key := range sortedKeys(m.Labels) {
		at, value := "metadata.labels."+key, m.Labels[key]
		switch {
		case key == "" || strings.ContainsFunc(key, unprintable):
			c.add(at, "expected a label's name without spaces and control characters, got %q", key)
		case strings.ContainsFunc(value, control):
			c.add(at, "expected a label's value without control characters, got %q", value)
		case key == "app" && value != m.Name:
			c.add(at, "expected the app's name %q, got %q; set both to the same or remove the label", m.Name, value)
		}
	}
}

// CheckName returns an Invalid Error unless name is a DNS label: 1 to 63 of a-z, 0-9 and -, with a letter or digit at
// both ends. Names of apps and volumes are such labels.
func CheckName(name string) error {
	const expected = "expected a name of at most 63 lower-case letters, digits and hyphens, with a letter or digit at both ends"
	switch {
	case name == "":
		return Errorf(Invalid, `expected a name such as "web", got none`)
	case len(name) > 63:
		return Errorf(Invalid, "%s, got %d characters", expected, len(name))
	case !isLabel(name):
		if fixed := strings.ToLower(strings.NewReplacer("_", "-", " ", "-", ".", "-").Replace(name)); isLabel(fixed) {
			return Errorf(Invalid, "%s, got %q (did you mean %q?)", expected, name, fixed)
		}
		return Errorf(Invalid, "%s, got %q", expected, name)
	}
	return nil
}

func isLabel(name string) bool {
	return name != "" && len(name) <= 63 && name[0] != '-' && name[len(name)-1] != '-' &&
		!strings.ContainsFunc(name, notLabel)
}

func notLabel(r rune) bool {
	return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-'
}

func control(r rune) bool { return r < ' ' && r != '\t' && r != '\n' || r == 0x7f }

func unprintable(r rune) bool { return r <= ' ' || r == 0x7f }

func (c *checker) spec(a *App) {
	s := &a.Spec
	oneOf(c, "spec.type", s.Type)
	c.source(s)
	if oneOf(c, "spec.runtime", s.Runtime) && s.Runtime == RuntimeNameVM {
		c.add("spec.runtime", "micro-VMs are not supported by this version yet; expected auto, oci, docker or process")
	}
	c.arguments("spec.command", s.Command)
	c.arguments("spec.args", s.Args)
	if len(s.Command) > 0 && s.Command[0] == "" {
		c.add("spec.command[0]", "expected a program to run, got an empty string")
	}
	if s.WorkingDir != "" && !path.IsAbs(s.WorkingDir) {
		c.add("spec.workingDir", "expected an absolute path, got %q", s.WorkingDir)
	}
	if strings.ContainsFunc(s.User, unprintable) {
		c.add("spec.user", "expected a name, a uid or uid:gid, got %q", s.User)
	}
	c.ports(s)
	if s.Resources != nil {
		c.resources(s.Resources)
	}
	c.environment(s.Environment)
	c.volumes(s.Volumes)
	for i, text := range s.Constraints {
		_, err := ParseConstraint(text)
		c.err(item("spec.constraints", i), err)
	}
	c.dependencies(a)
	if l := s.LostAfterSeconds; l != nil && !(*l >= 0 && *l <= maxSeconds) {
		c.add("spec.lostAfterSeconds", "expected 0 to %d (a day), got %g", maxSeconds, *l)
	}
	if g := s.StopGracePeriodSeconds; g != nil && *g > maxSeconds {
		c.add("spec.stopGracePeriodSeconds", "expected at most %d (a day), got %d", maxSeconds, *g)
	}
}

const maxSeconds = 24 * 60 * 60 // the longest time a spec may name

func item(list string, i int) string { return list + "[" + strconv.Itoa(i) + "]" }

// source checks that there is exactly one thing to run.
func (c *checker) source(s *AppSpec) {
	var given []string
	for _, f := range []struct{ name, value string }{{"image", s.Image}, {"repo", s.Repo}, {"path", s.Path}} {
		if f.value != "" {
			given = append(given, f.name)
		}
	}
	switch {
	case len(given) > 1:
		c.add("spec."+given[1], "expected exactly one of image, repo and path, got %s; remove the others", strings.Join(given, " and "))
	case len(given) == 0 && !s.runsHostProgram():
		c.add("spec", "expected one of image, repo and path, got none; add for example image: nginx:1.29")
	case s.Image != "":
		c.err("spec.image", CheckImage(s.Image))
	}
}

// runsHostProgram reports whether the spec needs no image: the process runtime with an absolute path, and the simulator.
func (s *AppSpec) runsHostProgram() bool {
	return s.Runtime == RuntimeNameSim || s.Runtime == RuntimeNameProcess && len(s.Command) > 0 && path.IsAbs(s.Command[0])
}

// CheckImage returns an Invalid Error unless ref can be the name of an image: registry/repository:tag@digest, of which
// only the repository is needed.
func CheckImage(ref string) error {
	const expected = `expected an image such as "nginx:1.29" or "registry.example.com/team/app:v1"`
	if strings.Contains(ref, "://") {
		return Errorf(Invalid, "%s, got %q; leave out the scheme", expected, ref)
	}
	rest, digest, pinned := strings.Cut(ref, "@")
	if pinned && !strings.Contains(digest, ":") {
		return Errorf(Invalid, `%s, got %q; a digest looks like "@sha256:…"`, expected, ref)
	}
	if colon := strings.LastIndexByte(rest, ':'); colon > strings.LastIndexByte(rest, '/') {
		if tag := rest[colon+1:]; tag == "" || len(tag) > 128 || strings.ContainsFunc(tag, notTag) {
			return Errorf(Invalid, "%s, got %q with the tag %q", expected, ref, tag)
		}
		rest = rest[:colon]
	}
	if host, repository, ok := strings.Cut(rest, "/"); ok && (strings.ContainsAny(host, ".:") || host == "localhost") {
		if !isRegistry(host) {
			return Errorf(Invalid, "%s, got %q with the registry %q", expected, ref, host)
		}
		rest = repository
	}
	switch {
	case isRepository(rest):
		return nil
	case isRepository(strings.ToLower(rest)):
		return Errorf(Invalid, "%s in lower case, got %q", expected, ref)
	default:
		return Errorf(Invalid, "%s, got %q", expected, ref)
	}
}

// isRepository reports whether name consists of lower-case parts with slashes between them.
func isRepository(name string) bool {
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || strings.Trim(part, "._-") != part || strings.ContainsFunc(part, notRepository) {
			return false
		}
	}
	return true
}

// isRegistry reports whether host can be a registry: a name or an address, and maybe a port.
func isRegistry(host string) bool {
	name, port, ported := strings.Cut(host, ":")
	return (port != "" || !ported) && digits(port) && len(port) <= 5 && isDomain(strings.ToLower(name))
}

// isDomain reports whether name consists of DNS labels with dots between them.
func isDomain(name string) bool {
	return len(name) <= 253 && !slices.ContainsFunc(strings.Split(name, "."), func(label string) bool { return !isLabel(label) })
}

func notTag(r rune) bool { return notLabel(r) && (r < 'A' || r > 'Z') && r != '_' && r != '.' }

func notRepository(r rune) bool { return notLabel(r) && r != '.' && r != '_' }

// arguments refuses what cannot be passed to a program.
func (c *checker) arguments(at string, list []string) {
	for i, arg := range list {
		if strings.ContainsRune(arg, 0) {
			c.add(item(at, i), "expected no NUL character")
		}
	}
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
