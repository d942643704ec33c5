package vortex

import (
	"cmp"
	"path"
	"slices"
	"strconv"
	"strings"
)

func (c *checker) ports(s *AppSpec) {
	names, container, host := map[string]string{}, map[string]string{}, map[string]string{}
	for i, p := range s.Ports {
		at := item("spec.ports", i)
		oneOf(c, at+".protocol", p.Protocol)
		if p.ContainerPort == 0 {
			c.add(at+".containerPort", "expected a port from 1 to 65535, got 0")
		} else {
			c.unique(container, p.socket(p.ContainerPort), at, ".containerPort")
		}
		if p.Name != "" {
			c.err(at+".name", CheckName(p.Name))
			c.unique(names, p.Name, at, ".name")
		}
		c.passedOn(s, at, p)
		if p.HostPort == nil {
			continue
		}
		if *p.HostPort == 0 {
			c.add(at+".hostPort", "expected a port from 1 to 65535, got 0; leave it out to let the edge reach the instance by itself")
		} else {
			c.unique(host, p.socket(*p.HostPort), at, ".hostPort")
		}
	}
	c.overlapping(s)
	kind := cmp.Or(s.Type, AppTypeHTTP)
	listens := kind == AppTypeHTTP || kind == AppTypeTCP && len(s.Ports) == 0
	if listens && !slices.ContainsFunc(s.Ports, func(p Port) bool { return p.Protocol != PortProtocolUDP }) {
		c.add("spec.ports", "expected the port that an app of type %s listens on, got none; "+
			"add ports: [{containerPort: 8080}], or set type: worker for an app that takes no requests", kind)
	}
}

// socket returns what no two ports may share.
func (p Port) socket(port uint16) string {
	if p.Protocol == PortProtocolUDP {
		return strconv.Itoa(int(port)) + "/udp"
	}
	return strconv.Itoa(int(port))
}

// unique adds a problem when key was seen before in another item of the list. seen holds the item of each key.
func (c *checker) unique(seen map[string]string, key, item, field string) {
	if first, ok := seen[key]; ok {
		c.add(item+field, "%s stands in %s already; each must be there once", key, first)
		return
	}
	seen[key] = item
}

func (c *checker) resources(r *Resources) {
	var limits ResourceLimits
	if r.Limits != nil {
		limits = *r.Limits
	}
	c.quantity("cpu", r.CPU, limits.CPU, ParseCPU)
	c.quantity("memory", r.Memory, limits.Memory, ParseMemory)
	if limits.Pids != nil && *limits.Pids == 0 {
		c.add("spec.resources.limits.pids", "expected at least 1, got 0; leave it out for the default")
	}
}

// quantity checks a request and its limit, each of which may be empty.
func (c *checker) quantity(name, request, limit string, parse func(string) (uint64, error)) {
	at := "spec.resources." + name
	var wanted uint64
	if request != "" {
		n, err := parse(request)
		c.err(at, err)
		wanted = n
	}
	if limit == "" {
		return
	}
	at = "spec.resources.limits." + name
	switch n, err := parse(limit); {
	case err != nil:
		c.err(at, err)
	case n == 0:
		c.add(at, "expected more than nothing, got %q; leave it out for no limit", limit)
	case n < wanted:
		c.add(at, "expected at least the request of %s, got %q; raise the limit or lower the request", request, limit)
	}
}

// sdkKeys are what an environment variable with source: sdk may be given.
var sdkKeys = []string{"instance.ip", "instance.port", "instance.id", "node.id", "app.name", "app.replicas"}

func (c *checker) environment(vars []EnvVar) {
	seen := map[string]string{}
	for i, v := range vars {
		at := item("spec.environment", i)
		if isEnvName(v.Name) {
			c.unique(seen, v.Name, at, ".name")
		} else {
			c.add(at+".name", "expected a name of letters, digits, '_', '-' and '.', with no digit first, got %q", v.Name)
		}
		if strings.ContainsRune(v.Value, 0) {
			c.add(at+".value", "expected no NUL character")
		}
		c.envSource(at, v)
	}
}

func (c *checker) envSource(at string, v EnvVar) {
	if !oneOf(c, at+".source", v.Source) {
		return
	}
	if v.Value != "" && v.Source != "" {
		c.add(at+".value", "expected a value or a source, got both; remove one of them")
	}
	switch v.Source {
	case EnvSourceSDK:
		if !slices.Contains(sdkKeys, v.Key) {
			c.add(at+".key", "expected one of %s, got %q", strings.Join(sdkKeys, ", "), v.Key)
		}
		if v.Field != "" {
			c.add(at+".field", "expected no field with source: sdk, got %q", v.Field)
		}
	case EnvSourceSecret, EnvSourceConfig:
		if v.Key == "" {
			c.add(at+".key", "expected the name of the %s, got none", v.Source)
		}
		c.add(at+".source", "%ss are not supported by this version yet; expected sdk, or a value", v.Source)
	default:
		if v.Key != "" || v.Field != "" {
			c.add(at+".source", "expected a source that key and field belong to, got none; add source: sdk")
		}
	}
}

func isEnvName(name string) bool {
	return name != "" && (name[0] < '0' || name[0] > '9') && !strings.ContainsFunc(name, notTag)
}

// systemPaths are directories that are made for every instance and cannot be mounted over.
var systemPaths = []string{"/", "/proc", "/sys", "/dev"}

func (c *checker) volumes(volumes []Volume) {
	seen := map[string]string{}
	for i, v := range volumes {
		at := item("spec.volumes", i)
		c.err(at+".name", CheckName(v.Name))
		switch {
		case !path.IsAbs(v.MountPath):
			c.add(at+".mountPath", `expected an absolute path such as "/data", got %q`, v.MountPath)
		case path.Clean(v.MountPath) != v.MountPath:
			c.add(at+".mountPath", "expected a path without //, /./, /../ and a slash at its end, got %q (did you mean %q?)",
				v.MountPath, path.Clean(v.MountPath))
		case slices.Contains(systemPaths, v.MountPath) || strings.HasPrefix(v.MountPath, "/proc/") || strings.HasPrefix(v.MountPath, "/sys/"):
			c.add(at+".mountPath", "expected a directory that is the app's own, got %q", v.MountPath)
		case strings.ContainsFunc(v.MountPath, control):
			c.add(at+".mountPath", "expected a path without control characters, got %q", v.MountPath)
		default:
			c.unique(seen, v.MountPath, at, ".mountPath")
		}
		if v.Size != "" {
			_, err := ParseMemory(v.Size)
			c.err(at+".size", err)
		}
	}
}

func (c *checker) dependencies(a *App) {
	seen := map[string]string{}
	for i, d := range a.Spec.DependsOn {
		at := item("spec.dependsOn", i)
		oneOf(c, at+".condition", d.Condition)
		if err := CheckName(d.App); err != nil {
			c.err(at+".app", err)
			continue
		}
		if d.App == a.Metadata.Name {
			c.add(at+".app", "expected another app, got %q itself; it would wait for ever", d.App)
		}
		c.unique(seen, d.App, at, ".app")
	}
}
