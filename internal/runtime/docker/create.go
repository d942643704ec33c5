package docker

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	"vortex/internal/runtime"
)

// createOptions says the spec in the engine's words.
func (d *Driver) createOptions(spec runtime.InstanceSpec) client.ContainerCreateOptions {
	exposed, bindings := portMaps(spec.Ports)
	hostname := spec.Hostname
	if hostname == "" {
		hostname = spec.ID
	}
	return client.ContainerCreateOptions{
		Name: namePrefix + spec.ID,
		Config: &container.Config{
			Hostname: hostname, User: spec.User, Env: lastOfEach(spec.Env), Image: spec.Image, WorkingDir: spec.WorkingDir,
			Entrypoint: spec.Command, Cmd: spec.Args, Labels: d.labels(spec), ExposedPorts: exposed, StopSignal: "SIGTERM",
			Healthcheck: &container.HealthConfig{Test: []string{"NONE"}}, // the agent probes, by the App spec
		},
		HostConfig: &container.HostConfig{
			PortBindings: bindings, Mounts: mounts(spec.Mounts), Resources: resources(spec),
			RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyDisabled},
			SecurityOpt:   []string{"no-new-privileges"},
			LogConfig: container.LogConfig{Type: "json-file", Config: map[string]string{
				"max-size": strconv.Itoa(d.cfg.LogMaxBytes), "max-file": strconv.Itoa(d.cfg.LogMaxFiles),
			}},
		},
	}
}

// labels are the spec's own and what the driver needs to find the instance and its status again.
func (d *Driver) labels(spec runtime.InstanceSpec) map[string]string {
	out := maps.Clone(spec.Labels)
	if out == nil {
		out = map[string]string{}
	}
	out[labelKeys] = strings.Join(slices.Sorted(maps.Keys(spec.Labels)), ",")
	out[labelNode] = d.cfg.Node
	out[labelPort] = strconv.Itoa(int(spec.Port))
	return out
}

// specLabels are the labels that the spec had.
func specLabels(labels map[string]string) map[string]string {
	out := map[string]string{}
	for key := range strings.SplitSeq(labels[labelKeys], ",") {
		if v, ok := labels[key]; ok && key != "" {
			out[key] = v
		}
	}
	return out
}

func resources(spec runtime.InstanceSpec) container.Resources {
	pids := int64(defaultPids)
	if spec.PidsLimit > 0 {
		pids = int64(spec.PidsLimit)
	}
	r := container.Resources{
		NanoCPUs: int64(spec.CPUMillis) * 1e6, PidsLimit: &pids,
		Memory: int64(spec.MemoryBytes), MemorySwap: int64(spec.MemoryBytes), // equal: no swap
	}
	if spec.CPUShares > 0 {
		r.CPUShares = max(minShares, int64(spec.CPUShares)*sharesOfCore/1000)
	}
	return r
}

func mounts(ms []runtime.Mount) []mount.Mount {
	out := make([]mount.Mount, len(ms))
	for i, m := range ms {
		out[i] = mount.Mount{Type: mount.TypeBind, Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly}
	}
	return out
}

func portMaps(ports []runtime.PortMapping) (network.PortSet, network.PortMap) {
	exposed, bindings := network.PortSet{}, network.PortMap{}
	for _, p := range ports {
		proto := network.TCP
		if p.UDP {
			proto = network.UDP
		}
		inner, ok := network.PortFrom(p.ContainerPort, proto)
		if !ok {
			continue // validated before
		}
		exposed[inner] = struct{}{}
		bindings[inner] = append(bindings[inner], network.PortBinding{HostIP: netip.Addr{}, HostPort: strconv.Itoa(int(p.HostPort))})
	}
	return exposed, bindings
}

// lastOfEach keeps the last value of each variable.
func lastOfEach(env []string) []string {
	at := map[string]int{}
	var out []string
	for _, e := range env {
		name, _, _ := strings.Cut(e, "=")
		if i, seen := at[name]; seen {
			out[i] = e
			continue
		}
		at[name] = len(out)
		out = append(out, e)
	}
	return out
}
