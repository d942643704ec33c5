package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"vortex"
	"vortex/client"
	kindpb "vortex/proto/kind"
)

// clients are the cluster's servers as the test asks them from its seat.
func (m *machines) clients() *Cluster {
	m.t.Helper()
	c := &Cluster{Network: m.Network, bin: m.bin}
	for _, h := range m.Hosts()[:m.servers] {
		s := &Server{Host: h, Proc: m.run[h], cluster: c}
		eventually(m.t, h.Name+" has left its run file", func() bool {
			text, err := os.ReadFile(filepath.Join(m.data(h), "run.json"))
			return err == nil && json.Unmarshal(text, &s.Run) == nil
		})
		s.Run.API, s.Run.Kind = fmt.Sprintf("https://%s:%d", h.Addr, apiPort), fmt.Sprintf("%s:%d", h.Addr, kindPort)
		m.check(s.connect())
		c.Servers = append(c.Servers, s)
	}
	return c
}

// runs are the instances that really run: each one's first process, by its id and host. A host's kernel is asked, and nobody else.
type runs map[place]int

// place is an instance on a host.
type place struct{ id, host string }

// running asks the kernel what runs on hosts, all of them when none is given.
func (m *machines) running(hosts ...*Host) runs {
	if len(hosts) == 0 {
		hosts = m.Hosts()
	}
	r := runs{}
	for _, h := range hosts {
		for _, tree := range hierarchies() {
			top := filepath.Join(tree.path, h.group(), "vortex")
			_ = filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
				if err != nil || !entry.IsDir() || path == top {
					return nil //nolint:nilerr // what ends meanwhile does not run
				}
				procs, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
				id, _, _ := strings.Cut(strings.TrimPrefix(path, top+"/"), "/")
				for line := range strings.FieldsSeq(string(procs)) {
					at := place{id, h.Name}
					if pid, err := strconv.Atoi(line); err == nil && (r[at] == 0 || pid < r[at]) {
						r[at] = pid
					}
				}
				return nil
			})
		}
	}
	return r
}

// of returns those of an app.
func (r runs) of(app string) runs {
	own := maps.Clone(r)
	maps.DeleteFunc(own, func(p place, _ int) bool { return !strings.HasPrefix(p.id, app+"-") })
	return own
}

// kept returns how many of these are among the others, as the same processes.
func (r runs) kept(others runs) (n int) {
	for at, pid := range r {
		if others[at] == pid {
			n++
		}
	}
	return n
}

// workload is apps that run on machines, with writes through all servers and visits through an edge.
type workload struct {
	*machines

	servers *Cluster
	writes  *writers
	visits  *visitors
	apps    map[string]int // how many instances are wanted of each
}

// records is what the store knows of instances.
type records struct {
	instances  map[string]vortex.InstanceRecord
	placements map[string]vortex.PlacementRecord
	containers map[string]vortex.ContainerRecord
	nodes      map[string]vortex.LivenessRecord
}

// known reads it through the first server that answers.
func (w *workload) known() (k records, err error) {
	for _, s := range w.servers.Servers {
		if k, err = s.known(); err == nil {
			return k, nil
		}
	}
	return k, err
}

func (s *Server) known() (k records, err error) {
	if k.instances, err = scan[vortex.InstanceRecord](s, vortex.Instances.Prefix); err != nil {
		return k, err
	}
	if k.placements, err = scan[vortex.PlacementRecord](s, vortex.Placements.Prefix); err != nil {
		return k, err
	}
	if k.containers, err = scan[vortex.ContainerRecord](s, vortex.Containers.Prefix); err != nil {
		return k, err
	}
	k.nodes, err = scan[vortex.LivenessRecord](s, vortex.Liveness.Prefix)
	return k, err
}

// scan returns the records of a kind by what follows the prefix in their keys.
func scan[T any](s *Server, prefix string) (map[string]T, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	prefix += ":"
	resp, err := s.Kind.PrefixScan(ctx, &kindpb.PrefixScanRequest{Prefix: prefix})
	if err != nil {
		return nil, err
	}
	found := map[string]T{}
	for _, rec := range resp.GetRecords() {
		var value T
		if err := json.Unmarshal(rec.GetValue(), &value); err != nil {
			return nil, err
		}
		found[strings.TrimPrefix(rec.GetKey(), prefix)] = value
	}
	return found, nil
}

// serving returns where the instances of an app are that are wanted, placed, running and healthy, by the store, on nodes that are Ready.
func (k records) serving(app string) map[place]bool {
	found := map[place]bool{}
	for id, in := range k.instances {
		at, here := k.placements[id], k.containers[id]
		if in.ClientID == app && in.Wanted == vortex.WantedStateRunning && here.Node == at.Node && k.nodes[at.Node].State == vortex.LivenessStateReady &&
			here.Status == vortex.ContainerStatusRunning && here.Health == vortex.HealthHealthy {
			found[place{id, at.Node}] = true
		}
	}
	return found
}

// wrong says what is not as it is to be, "" when all is: every node Ready, exactly the wanted instances serving, and on the hosts exactly
// these running.
func (w *workload) wrong() string {
	k, err := w.known()
	if err != nil {
		return err.Error()
	}
	for _, h := range w.Hosts() {
		if state := k.nodes[h.Name].State; state != vortex.LivenessStateReady {
			return fmt.Sprintf("node %s is %s: %s", h.Name, state, k.nodes[h.Name].Reason)
		}
	}
	really := w.running()
	for app, n := range w.apps {
		serving := k.serving(app)
		if len(serving) != n {
			return fmt.Sprintf("%d of %d instances of %s serve", len(serving), n, app)
		}
		for at := range serving {
			if really[at] == 0 {
				return fmt.Sprintf("%s does not run on %s, as the store says", at.id, at.host)
			}
			delete(really, at)
		}
	}
	for at := range really {
		return fmt.Sprintf("%s runs on %s, and shall not: %+v, placed %+v", at.id, at.host, k.instances[at.id], k.placements[at.id])
	}
	return ""
}

// settle waits until nothing is wrong, and looks whether it stays so.
func (w *workload) settle(t *testing.T) {
	t.Helper()
	const looks, between = 5, 50 * time.Millisecond
	wrong := ""
	defer func() {
		if wrong != "" {
			t.Log("in the end: " + wrong)
		}
	}()
	eventually(t, "every node is Ready and exactly the wanted instances run", func() bool {
		for range looks {
			if wrong = w.wrong(); wrong != "" {
				return false
			}
			pause(t, between)
		}
		return true
	})
}

// nodeIs waits until the store says of a node that it is in a state.
func (w *workload) nodeIs(t *testing.T, h *Host, state vortex.LivenessState) {
	t.Helper()
	eventually(t, h.Name+" is "+string(state), func() bool {
		k, err := w.known()
		return err == nil && k.nodes[h.Name].State == state
	})
}

// elsewhere waits until all wanted instances of an app serve on hosts that are none of these.
func (w *workload) elsewhere(t *testing.T, app string, lost ...*Host) {
	t.Helper()
	eventually(t, "all instances of "+app+" serve elsewhere", func() bool {
		k, err := w.known()
		if err != nil {
			return false
		}
		n := 0
		for at := range k.serving(app) {
			if !slices.ContainsFunc(lost, func(h *Host) bool { return h.Name == at.host }) {
				n++
			}
		}
		return n == w.apps[app]
	})
}

// scale changes how many instances of an app are wanted.
func (w *workload) scale(t *testing.T, app string, n int) {
	t.Helper()
	eventually(t, "the app is scaled", func() bool {
		_, err := w.servers.Servers[0].API.Scale(soon(t), app, client.ScaleRequest{Replicas: &n})
		return err == nil
	})
	w.apps[app] = n
}
