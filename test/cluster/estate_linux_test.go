package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"vortex/client"
)

// estate is a cluster of machines with an app on it that is watched from the seat while things happen to it: numbered writes go through every
// server, requests through an edge, and what runs on the hosts is compared with what the store says.
type estate struct {
	*machines
	watched  *Cluster // its servers, as writers and who follows the lead want them
	writers  *writers
	lead     *lead
	replicas int
	voters   int // so many of the servers keep the store when all is well
}

// estateOf founds a cluster with an app of so many instances, and returns when everything is as it should be.
func estateOf(t *testing.T, servers, agents, replicas int) *estate {
	t.Helper()
	return estateWriting(t, 5*time.Millisecond, servers, agents, replicas)
}

// estateWriting is one whose writers pause so long after a write.
func estateWriting(t *testing.T, every time.Duration, servers, agents, replicas int) *estate {
	t.Helper()
	most, err := strconv.Atoi(cmp.Or(os.Getenv(membersEnv), "3"))
	if err != nil {
		t.Fatal(err)
	}
	m := found(t, servers, agents)
	e := &estate{machines: m, watched: &Cluster{Network: m.Network}, replicas: replicas, voters: min(servers, most)}
	for _, h := range m.Hosts()[:servers] {
		e.watch(h)
	}
	if replicas > 0 {
		m.deploy(replicas)
	}
	e.well("at the beginning")
	e.lead, e.writers = e.watched.follow(t), e.watched.writeEvery(t, every)
	e.writers.flow(t, e.watched.Servers...)
	return e
}

// watch begins to watch a server.
func (e *estate) watch(h *Host) *Server {
	e.t.Helper()
	s := &Server{Host: h, cluster: e.watched}
	token, err := os.ReadFile(filepath.Join(e.data(h), "token"))
	e.check(err)
	s.Run = client.RunFile{
		API: fmt.Sprintf("https://%s:%d", h.Addr, apiPort), Kind: fmt.Sprintf("%s:%d", h.Addr, kindPort),
		Token: strings.TrimSpace(string(token)), TLS: client.TLS{CA: filepath.Join(e.data(h), "pki", "ca.crt")},
	}
	e.check(s.connect())
	e.watched.Use(append(e.watched.Others(), s)...)
	return s
}

// forget ends watching a server.
func (e *estate) forget(gone ...*Server) { e.watched.Use(e.watched.Others(gone...)...) }

// under makes a test's part the one that ends when something is wrong.
func (e *estate) under(t *testing.T) *estate {
	t.Helper()
	m := *e.machines
	m.t = t
	part := *e
	part.machines = &m
	return &part
}

// until waits until nothing is wrong any more.
func (e *estate) until(what string, look func() (wrong string)) {
	e.t.Helper()
	wrong := ""
	for deadline := time.Now().Add(patience); time.Now().Before(deadline) && e.t.Context().Err() == nil; pause(e.t, 20*time.Millisecond) {
		if wrong = look(); wrong == "" {
			return
		}
	}
	e.t.Fatalf("not within %s: %s: %s", patience, what, wrong)
}

// ask asks the servers one after the other until one answers.
func ask[T any](e *estate, question func(*client.Client, context.Context) (T, error)) (answer T, err error) {
	err = errors.New("no server runs")
	for _, s := range e.watched.Servers {
		if e.run[s.Host].Ended() {
			continue
		}
		ctx, cancel := context.WithTimeout(e.t.Context(), 2*time.Second)
		answer, err = question(s.API, ctx)
		cancel()
		if err == nil {
			return answer, nil
		}
	}
	return answer, err
}

// well waits until everything is as it should be: every server that is to keep the store does, every machine that runs is Ready, and exactly
// the wanted instances serve and run.
func (e *estate) well(when string) {
	e.t.Helper()
	e.until("all is well "+when, func() string {
		cluster, err := ask(e, (*client.Client).Cluster)
		if err != nil {
			return err.Error()
		}
		running, ours := 0, map[string]bool{}
		for h, p := range e.run {
			ours[h.Name] = true
			if !p.Ended() {
				running++
			}
		}
		voters := 0
		for _, m := range cluster.Members {
			if m.Role == "voter" && ours[m.Name] {
				voters++
			}
		}
		switch {
		case cluster.Leader == nil:
			return "nobody leads"
		case cluster.Stale:
			return "the store is away"
		case voters != e.voters || len(cluster.Members) != voters:
			return fmt.Sprintf("the store's members are %+v", cluster.Members)
		case cluster.Ready != running:
			return fmt.Sprintf("%d machines run, %d are Ready", running, cluster.Ready)
		}
		return e.uneven()
	})
}

// uneven says what is wrong with the instances: not as many serve as are wanted, or others run than the store knows.
func (e *estate) uneven() string {
	list, err := ask(e, func(c *client.Client, ctx context.Context) (client.ContainerList, error) { return c.Instances(ctx, "") })
	if err != nil {
		return err.Error()
	}
	known, serving := map[string]string{}, 0
	for _, c := range list.Instances {
		if c.Status == "Running" {
			known[c.ID] = c.Node
		}
		if c.Status == "Running" && c.Health == "Healthy" {
			serving++
		}
	}
	there := map[string]string{}
	for id, at := range e.alive() {
		there[id] = at.host
	}
	switch {
	case serving != e.replicas || len(known) != serving:
		return fmt.Sprintf("%d of %d instances serve, the store knows %v", serving, e.replicas, known)
	case !maps.Equal(known, there):
		return fmt.Sprintf("the store knows %v, and there are %v", known, there)
	}
	return ""
}

// site is where an instance runs, and as which process of this machine.
type site struct {
	host string
	pid  int
}

// alive returns the instances that run on the hosts, by the hosts' cgroups.
func (e *estate) alive() map[string]site {
	all := map[string]site{}
	for _, h := range e.Hosts() {
		for id, pid := range h.instances() {
			all[id] = site{h.Name, pid}
		}
	}
	return all
}

// instances returns the instances that run on the host, and the first process of each.
func (h *Host) instances() map[string]int {
	found := map[string]int{}
	for _, tree := range hierarchies() {
		files, _ := filepath.Glob(filepath.Join(tree.path, h.group(), "vortex", "*", "cgroup.procs"))
		for _, file := range files {
			text, _ := os.ReadFile(file)
			if pids := strings.Fields(string(text)); len(pids) > 0 {
				found[filepath.Base(filepath.Dir(file))], _ = strconv.Atoi(pids[0])
			}
		}
	}
	return found
}

// unchanged complains of instances that were, and are no more or were started again.
func (e *estate) unchanged(before map[string]site, except ...*Host) {
	e.t.Helper()
	now := e.alive()
	for id, was := range before {
		if now[id] != was && !slices.ContainsFunc(except, func(h *Host) bool { return h.Name == was.host }) {
			e.t.Errorf("instance %s was process %d of %s and is process %d of %q: nothing had happened to it", id, was.pid, was.host, now[id].pid, now[id].host)
		}
	}
}

// same counts the instances that are what they were.
func (e *estate) same(before map[string]site) (n int) {
	now := e.alive()
	for id, was := range before {
		if now[id] == was {
			n++
		}
	}
	return n
}

// reboot starts what ended on hosts, and gives those their power back that lost it.
func (e *estate) reboot(hosts ...*Host) {
	e.t.Helper()
	for _, h := range hosts {
		if h.first == nil {
			h.PowerOn()
		}
		if e.run[h].Ended() {
			e.start(h)
		}
	}
}

// agent is the nth agent's host, from 1.
func (e *estate) agent(nth int) *Host { return e.Host(e.servers + nth) }

// leader returns the server that leads, and its epoch.
func (e *estate) leader() (*Server, uint64) {
	e.t.Helper()
	host, epoch := e.lead.wait(e.t)
	return e.watched.Server(host), epoch
}

// next waits until another than the leader of an epoch leads, and returns how long after began its first write was seen.
func (e *estate) next(epoch uint64, began time.Time) time.Duration {
	e.t.Helper()
	eventually(e.t, "another leads", func() bool {
		_, later := e.lead.now()
		return later > epoch
	})
	return time.Since(began).Round(time.Millisecond)
}

// callers begin to visit a host's edge, which answers them.
func (e *estate) callers(h *Host) *visitors {
	e.t.Helper()
	v := e.visit(h)
	eventually(e.t, "requests are answered", func() bool { return v.answered.Load() > 20 })
	return v
}

// more waits until so many more requests were answered.
func (v *visitors) more(t *testing.T, n int64) {
	t.Helper()
	before := v.answered.Load()
	eventually(t, "requests are answered still", func() bool { return v.answered.Load() > before+n })
}

// tell logs what came of a part: what passed, the writes and the requests.
func (e *estate) tell(passed string, v *visitors, through ...*Server) {
	e.t.Helper()
	v.stop()
	sum := e.writers.look(through...)
	e.t.Logf("%s; writes: %d acknowledged, %d failed, longest pause %s; requests: %d answered, %d failed %v",
		passed, sum.acked, sum.failed, sum.pause.Round(time.Millisecond), v.answered.Load(), v.failed.Load(), v.reasons())
}

// missing says how many do not serve, beside those on a host that is gone.
func (e *estate) missing(gone *Host) string {
	list, err := ask(e, func(c *client.Client, ctx context.Context) (client.ContainerList, error) { return c.Instances(ctx, "") })
	if err != nil {
		return err.Error()
	}
	serving := 0
	for _, c := range list.Instances {
		if c.Status == "Running" && c.Health == "Healthy" && c.Node != gone.Name {
			serving++
		}
	}
	if serving != e.replicas {
		return fmt.Sprintf("%d of %d serve", serving, e.replicas)
	}
	return ""
}
