package spec

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/compose-spec/compose-go/v2/schema"
	"go.yaml.in/yaml/v4"
)

// composeKeys are the keys of a compose file that mean something here. In a path, * stands for any name and [] for the
// items of a list. A key that ends in / is looked into; what stands below the others is taken whole.
var composeKeys = keySet(`
	version name services/ services.*/ volumes/ volumes.*/ networks/ networks.default/
	services.*.(image command entrypoint environment env_file labels working_dir user stop_grace_period restart scale
		mem_limit mem_reservation cpus pids_limit expose)
	services.*.build/ services.*.build.(context dockerfile)
	services.*.depends_on/ services.*.depends_on.*/ services.*.depends_on.*.(condition required)
	services.*.depends_on[]
	services.*.deploy/ services.*.deploy.(mode replicas)
	services.*.deploy.resources/
	services.*.deploy.resources.limits/ services.*.deploy.resources.limits.(cpus memory pids)
	services.*.deploy.resources.reservations/ services.*.deploy.resources.reservations.(cpus memory)
	services.*.deploy.restart_policy/ services.*.deploy.restart_policy.condition
	services.*.deploy.placement/ services.*.deploy.placement.constraints
	services.*.extends/ services.*.extends.service
	services.*.healthcheck/ services.*.healthcheck.(test interval timeout retries start_period start_interval disable)
	services.*.networks/ services.*.networks.default/ services.*.networks[]
	services.*.ports/ services.*.ports[]/ services.*.ports[].(target published protocol app_protocol name mode host_ip)
	services.*.volumes/ services.*.volumes[]/ services.*.volumes[].(type source target read_only)
`)

// keySet reads the notation above: true for a key that is looked into.
func keySet(text string) map[string]bool {
	set := map[string]bool{}
	group := regexp.MustCompile(`(\S*)\(([^)]*)\)`)
	for _, m := range group.FindAllStringSubmatch(text, -1) {
		for name := range strings.FieldsSeq(m[2]) {
			set[m[1]+name] = false
		}
	}
	for name := range strings.FieldsSeq(group.ReplaceAllString(text, "")) {
		set[strings.TrimSuffix(name, "/")] = strings.HasSuffix(name, "/")
	}
	return set
}

// instead says what to do about keys that people use often and that have no meaning here.
var instead = map[string]string{
	"container_name": "instances are named by Vortex; the app is named like the service",
	"hostname":       "each instance has a name of its own",
	"networks":       "all apps share one network",
	"network_mode":   "each instance has an address of its own",
	"links":          "all apps share one network",
	"secrets":        "they are not supported by this version yet",
	"configs":        "they are not supported by this version yet",
	"logging":        "logs are kept by Vortex: vortex logs APP",
	"profiles":       "put the service into a file of its own",
	"include":        "give each file to apply",
	"file":           "extend a service of the same file",
	"tmpfs":          "write to /tmp, or use a volume",
	"privileged":     "instances never have the rights of the host",
	"devices":        "instances never have devices of the host",
	"driver":         "volumes are directories of the node",
	"external":       "volumes are directories of the node",
	"args":           "give the variables a default in the Dockerfile",
	"labels":         "labels belong at the service",
	"max_attempts":   "a dead instance is always replaced",
	"platform":       `use deploy.placement.constraints: ["node.platform.arch == amd64"]`,
}

// composeSpec holds every key path the compose specification knows.
var composeSpec = sync.OnceValue(func() []string {
	var paths []string
	for _, p := range schema.AttributePaths() {
		paths = append(paths, p.String())
	}
	return paths
})

// plainVariable matches a variable without a default, and an escaped dollar.
var plainVariable = regexp.MustCompile(`\$\$|\$([A-Za-z_]\w*)|\$\{([A-Za-z_]\w*)\}`)

// keys notes where everything stands and reports every key that has no meaning here, and variables that are not set.
func (c *composeFile) keys() {
	d := decoder{src: c.src, at: c.at, budget: maxValues}
	c.visit(&d, c.doc, "", "", true)
}

// visit goes through a value. pattern is its path with names and positions left out where they do not matter; known is
// whether its keys are held against composeKeys.
func (c *composeFile) visit(d *decoder, n *yaml.Node, path, pattern string, known bool) {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if !d.enter(n) {
		return
	}
	defer func() { d.depth-- }()
	switch n.Kind {
	case yaml.MappingNode:
		for key, value := range d.pairs(n, path) {
			c.key(d, key, value, path, pattern, known)
		}
	case yaml.SequenceNode:
		for i, item := range n.Content {
			at := path + "[" + strconv.Itoa(i) + "]"
			c.at[at] = place{value: item}
			_, listed := composeKeys[pattern+"[]"]
			c.visit(d, item, at, pattern+"[]", known && listed)
		}
	default:
		c.variables(n, path)
	}
}

func (c *composeFile) key(d *decoder, key, value *yaml.Node, path, pattern string, known bool) {
	at := join(path, key.Value)
	c.at[at] = place{key, value}
	if strings.HasPrefix(key.Value, "x-") && pattern != "services" {
		return
	}
	if !known {
		c.visit(d, value, at, "", false)
		return
	}
	named, pat := join(pattern, "*"), join(pattern, key.Value)
	into, ok := composeKeys[pat]
	if !ok {
		into, ok = composeKeys[named]
		pat = named
	}
	if !ok {
		c.src.fault(key, "%s: %s", at, meaningless(pattern, key.Value))
		return
	}
	c.visit(d, value, at, pat, into)
}

// meaningless says why a key is not taken: compose does not know it, or it has no meaning here.
func meaningless(pattern, key string) string {
	var known []string
	prefix := join(pattern, "")
	for _, p := range composeSpec() {
		if rest, ok := strings.CutPrefix(p, prefix); ok && rest != "" && !strings.ContainsAny(rest, ".[*") {
			known = append(known, rest)
		}
	}
	if len(known) > 0 && !slices.Contains(known, key) {
		return "compose files have no such key" + meant(key, known)
	}
	if hint := instead[key]; hint != "" {
		return "this key has no meaning here: " + hint + "; remove it"
	}
	return "this key has no meaning here; remove it"
}

// variables reports variables that would silently be empty.
func (c *composeFile) variables(n *yaml.Node, path string) {
	for _, m := range plainVariable.FindAllStringSubmatch(n.Value, -1) {
		name := m[1] + m[2]
		if _, ok := c.env[name]; name != "" && !ok {
			c.src.fault(n, "%s: the variable %s is not set; set it in the environment or in .env beside the file, or give it a default: ${%s:-value}",
				path, name, name)
		}
	}
}
