package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"vortex"
	"vortex/internal/runtime"
)

// instanceSpec is what the driver is told of an instance. It makes the directories of its volumes.
func (a *Agent) instanceSpec(id string, want desire) (runtime.InstanceSpec, error) {
	app := &want.release.Spec
	cpuLimit, memoryLimit, pids := app.Limits()
	cpuShares, _ := app.Requests()
	spec := runtime.InstanceSpec{
		ID:          id,
		App:         want.placement.ClientID,
		Image:       imageOf(want.release),
		Command:     app.Spec.Command,
		Args:        app.Spec.Args,
		WorkingDir:  app.Spec.WorkingDir,
		User:        app.Spec.User,
		CPUMillis:   cpuLimit,
		MemoryBytes: memoryLimit,
		CPUShares:   cpuShares,
		PidsLimit:   pids,
		Ports:       portMappings(app, want.placement.HostPorts),
		Port:        app.PrimaryPort(),
		Labels: map[string]string{
			labelApp:      want.placement.ClientID,
			labelImage:    imageOf(want.release),
			labelInstance: id,
			labelRelease:  strconv.FormatUint(want.release.Number, 10),
			labelEpoch:    strconv.FormatUint(want.placement.Epoch, 10),
		},
	}
	if err := a.setEnvironment(&spec, app); err != nil {
		return runtime.InstanceSpec{}, err
	}
	if err := a.setMounts(&spec, app); err != nil {
		return runtime.InstanceSpec{}, err
	}
	return spec, nil
}

// setEnvironment fills in the variables, with the values that only this node knows.
func (a *Agent) setEnvironment(spec *runtime.InstanceSpec, app *vortex.App) error {
	for n, v := range app.Spec.Environment {
		value := v.Value
		switch v.Source {
		case "":
		case vortex.EnvSourceSDK:
			switch v.Key {
			case "instance.ip":
				spec.AddressEnv = append(spec.AddressEnv, v.Name)
				continue
			case "instance.port":
				spec.PortEnv = append(spec.PortEnv, v.Name)
			}
			var ok bool
			if value, ok = a.sdkValue(spec, v.Key); !ok {
				return vortex.Errorf(vortex.Invalid, "spec.environment[%d]: unknown sdk key %q; known are instance.ip, instance.port, instance.id, node.id, app.name and app.replicas", n, v.Key)
			}
		default:
			return vortex.Errorf(vortex.Invalid, "spec.environment[%d]: source %q is not available in this version; give %s a value", n, v.Source, v.Name)
		}
		spec.Env = append(spec.Env, v.Name+"="+value)
	}
	return nil
}

// sdkValue returns what a key of source sdk stands for.
func (a *Agent) sdkValue(spec *runtime.InstanceSpec, key string) (string, bool) {
	switch key {
	case "instance.id":
		return spec.ID, true
	case "instance.port":
		return strconv.Itoa(int(spec.Port)), true
	case "node.id":
		return a.cfg.Node.ID, true
	case "app.name":
		return spec.App, true
	case "app.replicas":
		return strconv.Itoa(a.replicas(spec.App)), true
	default:
		return "", false
	}
}

// setMounts makes the volumes' directories and mounts them.
func (a *Agent) setMounts(spec *runtime.InstanceSpec, app *vortex.App) error {
	for n, v := range app.Spec.Volumes {
		dir := filepath.Join(spec.App, v.Name)
		if a.cfg.VolumesDir == "" || !filepath.IsLocal(v.Name) || filepath.Base(v.Name) != v.Name || !filepath.IsLocal(dir) {
			return vortex.Errorf(vortex.Invalid, "spec.volumes[%d]: %q cannot be a volume on node %s", n, v.Name, a.cfg.Node.ID)
		}
		source := filepath.Join(a.cfg.VolumesDir, dir)
		if err := makeVolume(a.cfg.VolumesDir, source); err != nil {
			return fmt.Errorf("make volume %s of %s: %w", v.Name, spec.App, err)
		}
		spec.Mounts = append(spec.Mounts, runtime.Mount{Source: source, Target: v.MountPath, ReadOnly: deref(v.ReadOnly)})
	}
	return nil
}

// makeVolume makes a volume's directory below root. Whatever user the app runs as may write into it; on the node itself
// root's own mode keeps others out.
func makeVolume(root, dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(root, 0o700); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.Chmod(dir, 0o777)
}

// portMappings publishes the ports that ask for a port of the node: the one they name, or, where they leave it open, the
// next that the placement reserved.
func portMappings(app *vortex.App, reserved []uint16) []runtime.PortMapping {
	named := map[uint16]bool{}
	for _, p := range app.HostPorts() {
		named[p] = true
	}
	var open []uint16
	for _, p := range reserved {
		if !named[p] {
			open = append(open, p)
		}
	}
	var mappings []runtime.PortMapping
	for _, p := range app.Spec.Ports {
		if p.HostPort == nil {
			continue
		}
		host := *p.HostPort
		if host == 0 && len(open) > 0 {
			host, open = open[0], open[1:]
		}
		if host != 0 {
			mappings = append(mappings, runtime.PortMapping{HostPort: host, ContainerPort: p.ContainerPort, UDP: p.Protocol == vortex.PortProtocolUDP})
		}
	}
	return mappings
}
