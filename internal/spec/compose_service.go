package spec

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/compose-spec/compose-go/v2/types"

	"vortex"
)

// service is one service of a compose file.
type service struct {
	*composeFile
	path   string // "services.web"
	config types.ServiceConfig
}

// The labels of a service that tell what compose files cannot.
const (
	labelType    = "vortex.type"    // http, tcp or worker; without it the ports decide
	labelScaling = "vortex.scaling" // auto: as many replicas as the load asks for, from the declared number up
)

// fault adds a fault at a key of the service.
func (s *service) fault(key, format string, args ...any) {
	at := join(s.path, key)
	s.src.fault(s.at.of(at), "%s: %s", at, fmt.Sprintf(format, args...))
}

// translate makes the service's app. What cannot be expressed is a fault.
func (s *service) translate(name string) vortex.App {
	app := vortex.App{Metadata: vortex.Metadata{Name: name, Labels: s.labels()}}
	app.Spec = vortex.AppSpec{
		Command: s.config.Entrypoint, Args: s.config.Command, WorkingDir: s.config.WorkingDir, User: s.config.User,
		Ports: s.ports(), Resources: s.resources(), Environment: s.environment(), Volumes: s.volumes(),
		Constraints: s.constraints(), DependsOn: s.dependencies(), StopGracePeriodSeconds: s.stopGrace(),
	}
	app.Spec.Type = s.appType(app.Spec.Ports)
	s.image(&app.Spec)
	s.restart()
	app.Scaling = s.scaling()
	app.HealthCheck = s.healthCheck()
	s.networks()
	app.SetDefaults()
	for _, p := range app.Problems() {
		at := join(s.path, composeName(p.Path))
		s.src.fault(s.at.of(at), "%s: %s", s.path, p)
	}
	return app
}

// composeNames maps the beginnings of paths in an App spec to keys of a compose service.
var composeNames = []struct{ path, key string }{
	{"metadata.labels", "labels"},
	{"spec.image", "image"},
	{"spec.path", "build"},
	{"spec.repo", "build"},
	{"spec.command", "entrypoint"},
	{"spec.args", "command"},
	{"spec.workingDir", "working_dir"},
	{"spec.user", "user"},
	{"spec.ports", "ports"},
	{"spec.resources", "deploy.resources"},
	{"spec.environment", "environment"},
	{"spec.volumes", "volumes"},
	{"spec.constraints", "deploy.placement.constraints"},
	{"spec.dependsOn", "depends_on"},
	{"spec.stopGracePeriodSeconds", "stop_grace_period"},
	{"scaling", "deploy.replicas"},
	{"healthCheck", "healthcheck"},
}

// composeName returns the key to point at for a field of an App spec.
func composeName(path string) string {
	for _, n := range composeNames {
		if strings.HasPrefix(path, n.path) {
			return n.key
		}
	}
	return ""
}

func (s *service) labels() map[string]string {
	labels := make(map[string]string, len(s.config.Labels))
	for key, value := range s.config.Labels {
		if key != labelType && key != labelScaling {
			labels[key] = value
		}
	}
	if len(labels) == 0 {
		return nil
	}
	return labels
}

// image takes what is to run. With build, image is only the tag that compose would give to the result.
func (s *service) image(spec *vortex.AppSpec) {
	build := s.config.Build
	if build == nil {
		spec.Image = s.config.Image
		return
	}
	if build.Dockerfile != "" && build.Dockerfile != "Dockerfile" {
		s.fault("build.dockerfile", "expected the file to be named Dockerfile, got %q", build.Dockerfile)
	}
	switch context := cmp.Or(build.Context, "."); {
	case strings.Contains(context, "://"), strings.HasPrefix(context, "git@"):
		spec.Repo = context
	default:
		spec.Path = context
	}
}

// appType decides by the label, else by the ports that are published: no ports make a worker, ports of
// well-known services that do not speak HTTP make a tcp app, and everything else is http.
func (s *service) appType(ports []vortex.Port) vortex.AppType {
	if label, ok := s.config.Labels[labelType]; ok {
		if t := vortex.AppType(label); slices.Contains(t.Values(), t) {
			return t
		}
		s.fault("labels", "%s: expected http, tcp or worker, got %q", labelType, label)
	}
	if len(s.config.Ports) == 0 {
		return vortex.AppTypeWorker
	}
	for _, p := range ports {
		if p.Protocol == vortex.PortProtocolHTTP || p.Protocol == vortex.PortProtocolGRPC {
			return vortex.AppTypeHTTP
		}
	}
	return vortex.AppTypeTCP
}

// tcpPorts are the ports of well-known services that do not speak HTTP.
var tcpPorts = map[uint32]bool{
	21: true, 22: true, 25: true, 53: true, 110: true, 143: true, 389: true, 465: true, 587: true, 636: true, 993: true, 995: true,
	1433: true, 1521: true, 1883: true, 2181: true, 3306: true, 4222: true, 5432: true, 5672: true, 6379: true, 8883: true,
	9042: true, 9092: true, 11211: true, 26257: true, 27017: true,
}

func (s *service) ports() []vortex.Port {
	var ports []vortex.Port
	for _, p := range s.config.Ports {
		port := vortex.Port{ContainerPort: s.port("ports", p.Target), Protocol: portProtocol(p), Name: p.Name}
		if p.HostIP != "" && p.HostIP != "0.0.0.0" && p.HostIP != "::" {
			s.fault("ports", "a port cannot be bound to one address (%s) of the node; leave the address out", p.HostIP)
		}
		if p.Published != "" {
			if n, err := strconv.ParseUint(p.Published, 10, 16); err == nil {
				host := uint16(n)
				port.HostPort = &host
			} else {
				s.fault("ports", "expected one published port for %d, got %s", p.Target, p.Published)
			}
		}
		ports = append(ports, port)
	}
	for _, text := range s.config.Expose {
		number, protocol, _ := strings.Cut(text, "/")
		n, err := strconv.ParseUint(number, 10, 16)
		if err != nil {
			s.fault("expose", "expected a port from 1 to 65535, got %q", text)
			continue
		}
		config := types.ServicePortConfig{Target: uint32(n), Protocol: protocol}
		if !slices.ContainsFunc(s.config.Ports, func(p types.ServicePortConfig) bool { return p.Target == config.Target }) {
			ports = append(ports, vortex.Port{ContainerPort: uint16(n), Protocol: portProtocol(config)})
		}
	}
	return ports
}

// port checks the range of a port.
func (s *service) port(key string, n uint32) uint16 {
	if n > math.MaxUint16 {
		s.fault(key, "expected a port from 1 to 65535, got %d", n)
		return 0
	}
	return uint16(n)
}

func portProtocol(p types.ServicePortConfig) vortex.PortProtocol {
	app := strings.ToLower(p.AppProtocol)
	switch {
	case strings.EqualFold(p.Protocol, "udp"):
		return vortex.PortProtocolUDP
	case app == "grpc":
		return vortex.PortProtocolGRPC
	case strings.HasPrefix(app, "http"), app == "h2c", app == "ws":
		return vortex.PortProtocolHTTP
	case app != "" || tcpPorts[p.Target]:
		return vortex.PortProtocolTCP
	default:
		return vortex.PortProtocolHTTP
	}
}

// environment returns the variables sorted by name. One without a value would be taken from the shell by compose.
func (s *service) environment() []vortex.EnvVar {
	var vars []vortex.EnvVar
	for _, name := range slices.Sorted(maps.Keys(s.config.Environment)) {
		value := s.config.Environment[name]
		if value == nil {
			s.fault("environment", "the variable %s has no value and is not set; give it one: %s=value", name, name)
			continue
		}
		vars = append(vars, vortex.EnvVar{Name: name, Value: *value})
	}
	return vars
}

func (s *service) volumes() []vortex.Volume {
	var volumes []vortex.Volume
	for _, v := range s.config.Volumes {
		switch {
		case v.Type == types.VolumeTypeBind:
			s.fault("volumes", "%s: directories of the host cannot be mounted; copy the files into the image, or use a named volume", v.Source)
		case v.Type != types.VolumeTypeVolume:
			s.fault("volumes", "%s: expected a named volume, got the type %s", v.Target, v.Type)
		case v.Source == "":
			s.fault("volumes", "%s: expected a volume with a name, such as data:%s", v.Target, v.Target)
		default:
			volume := vortex.Volume{Name: volumeName(v.Source), MountPath: v.Target}
			if v.ReadOnly {
				volume.ReadOnly = &v.ReadOnly
			}
			volumes = append(volumes, volume)
		}
	}
	return volumes
}

// volumeName makes a DNS label of the names compose allows.
func volumeName(name string) string {
	return strings.ToLower(strings.NewReplacer("_", "-", ".", "-").Replace(name))
}

// sharedVolumes reports volumes that several services use: here each app has its own.
func (c *composeFile) sharedVolumes(apps []vortex.App) {
	owner := map[string]string{}
	for _, app := range apps {
		for _, v := range app.Spec.Volumes {
			name := app.Metadata.Name
			if other, ok := owner[v.Name]; ok && other != name {
				at := "services." + name + ".volumes"
				c.src.fault(c.at.of(at), "%s: the volume %s is used by %s too; a volume belongs to one app", at, v.Name, other)
				continue
			}
			owner[v.Name] = name
		}
	}
}

// constraintNames maps what Swarm calls attributes of a node.
var constraintNames = strings.NewReplacer("node.hostname", "node.name", "node.platform.os", "node.os", "node.platform.arch", "node.arch")

func (s *service) constraints() []string {
	if s.config.Deploy == nil {
		return nil
	}
	var constraints []string
	for _, text := range s.config.Deploy.Placement.Constraints {
		constraints = append(constraints, constraintNames.Replace(text))
	}
	return constraints
}

func (s *service) dependencies() []vortex.Dependency {
	var dependencies []vortex.Dependency
	for _, name := range slices.Sorted(maps.Keys(s.config.DependsOn)) {
		d := s.config.DependsOn[name]
		dependency := vortex.Dependency{App: name}
		switch d.Condition {
		case types.ServiceConditionStarted, "":
			dependency.Condition = vortex.DependencyConditionStarted
		case types.ServiceConditionHealthy:
			dependency.Condition = vortex.DependencyConditionHealthy
		default:
			s.fault("depends_on", "%s: the condition %s has no meaning here; expected service_started or service_healthy", name, d.Condition)
		}
		if !d.Required {
			s.fault("depends_on", "%s: required: false has no meaning here; remove the dependency or the key", name)
		}
		dependencies = append(dependencies, dependency)
	}
	return dependencies
}

func (s *service) stopGrace() *uint32 {
	if s.config.StopGracePeriod == nil {
		return nil
	}
	seconds := uint32(min(math.Ceil(time.Duration(*s.config.StopGracePeriod).Seconds()), math.MaxUint32))
	return &seconds
}
