package cluster

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"vortex/bench/process"
	"vortex/bench/report"
	"vortex/client"
	"vortex/test/harness"
)

// The tests whose names begin with Figures measure: make bench-cluster runs them, and each adds its figures to a file.
const (
	figuresEnv = "CLUSTER_FIGURES" // the file; without it nothing is measured
	helloEnv   = "CLUSTER_HELLO"   // the sample program, linked statically
	roundsEnv  = "CLUSTER_ROUNDS"  // how often machines are lost; default 2
)

// figures are what one of them has found.
type figures struct {
	*testing.T
	report.Report

	file string
}

func measure(t *testing.T) *figures {
	t.Helper()
	file := os.Getenv(figuresEnv)
	if file == "" {
		t.Skip("it measures, for make bench-cluster: " + figuresEnv + " is not set")
	}
	f := &figures{T: t, file: file}
	t.Cleanup(f.write)
	return f
}

// rounds is how often the longer ones are done.
func rounds(t *testing.T) int {
	t.Helper()
	n, err := strconv.Atoi(cmp.Or(os.Getenv(roundsEnv), "2"))
	if err != nil || n < 1 {
		t.Fatalf("%s must be a number from 1 on, got %q", roundsEnv, os.Getenv(roundsEnv))
	}
	return n
}

func (f *figures) write() {
	out, err := os.OpenFile(f.file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err == nil {
		err = errors.Join(f.WriteJSON(out), out.Close())
	}
	if err != nil {
		f.Error(err)
	}
}

// took adds the median and the worst of some times.
func (f *figures) took(name string, times []time.Duration, limit time.Duration) {
	var ms []float64
	for _, d := range times {
		ms = append(ms, milliseconds(d))
	}
	f.Add(report.Figure{Name: name + "/p50", Value: report.Percentile(ms, 0.5), Unit: "ms", Samples: len(ms)})
	f.Add(report.Figure{Name: name + "/max", Value: report.Percentile(ms, 1), Unit: "ms", Limit: milliseconds(limit), Samples: len(ms)})
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// api returns a client of a server's API, from its host.
func (m *machines) api(h *Host) *client.Client {
	m.t.Helper()
	var run client.RunFile
	text, err := os.ReadFile(filepath.Join(m.data(h), "run.json"))
	if err == nil {
		err = json.Unmarshal(text, &run)
	}
	m.check(err)
	config := &tls.Config{ServerName: run.TLS.ServerName, RootCAs: x509.NewCertPool()}
	if run.TLS.CA != "" {
		ca, err := os.ReadFile(run.TLS.CA)
		m.check(err)
		config.RootCAs.AppendCertsFromPEM(ca)
	}
	transport := &http.Transport{DialContext: h.Dial, TLSClientConfig: config}
	m.t.Cleanup(transport.CloseIdleConnections)
	c, err := client.New(client.Options{Server: run.API, Token: run.Token, HTTPClient: &http.Client{Transport: transport}})
	m.check(err)
	return c
}

// TestFiguresOfNodes measures eight machines: how soon one that joins may be given instances, and what an agent and its heartbeats cost.
func TestFiguresOfNodes(t *testing.T) {
	const (
		nodes = 8
		joins = 10
		over  = 10 * time.Second
	)
	f := measure(t)
	m := found(t, 1, nodes-1)
	api := m.api(m.Host(1))
	agent := m.run[m.Host(2)]

	before := costs(t, m)
	pause(t, over)
	after := costs(t, m)
	share := func(name string, a, b time.Duration, of int, limit float64) {
		percent := 100 * float64(b-a) / float64(over) / float64(of)
		f.Add(report.Figure{Name: "cluster/8_nodes/" + name, Value: percent, Unit: "% of a core", Limit: limit, Samples: of})
	}
	share("cpu_of_a_servers_pulse", before.server, after.server, 1, 0)
	share("cpu_of_an_agents_pulse", before.agents, after.agents, nodes-1, 0)
	f.Add(report.Figure{Name: "cluster/8_nodes/udp_sent_by_an_agent", Value: float64(after.bytes-before.bytes) / over.Seconds() / (nodes - 1), Unit: "bytes/s", Samples: nodes - 1})
	own, err := process.ReadMemory(agent.PID())
	m.check(err)
	pulse, err := process.Resident(pulseOf(t, agent))
	m.check(err)
	for _, part := range []struct {
		name         string
		value, limit float64
	}{{"", own.Resident, 40}, {"_anonymous", own.Anonymous, 0}, {"_file", own.File, 0}, {"_of_its_pulse", pulse, 0}} {
		f.Add(report.Figure{Name: "cluster/agent_alone/resident" + part.name, Value: part.value, Unit: "MB", Limit: part.limit, Samples: 1})
	}

	token := strings.TrimSpace(m.cli("token", "join", "--uses", strconv.Itoa(joins), "-q"))
	m.Host(2).Kill()
	var took []time.Duration
	for i := range joins {
		name := fmt.Sprintf("new%d", i)
		began := time.Now()
		p := m.Host(2).Run(m.bin, "agent", "--data", filepath.Join(m.Host(2).Data, name), "--name", name, "--join", m.Host(1).Addr, "--token", token)
		eventually(t, name+" may be given instances", func() bool { return schedulable(t, api, name) })
		took = append(took, time.Since(began))
		p.Kill()
	}
	f.took("cluster/join_to_schedulable", took, time.Second)
}

func schedulable(t *testing.T, api *client.Client, name string) bool {
	t.Helper()
	list, err := api.Nodes(t.Context())
	if err != nil {
		return false
	}
	for _, n := range list.Nodes {
		if n.Name == name && n.Schedulable {
			return true
		}
	}
	return false
}

// cost is what heartbeats have cost so far.
type cost struct {
	server, agents time.Duration // of the pulses' processor time
	bytes          int           // that agents sent by UDP, with the heads
}

func costs(t *testing.T, m *machines) (c cost) {
	t.Helper()
	for h, p := range m.run {
		if m.serves(h) {
			c.server += ran(t, pulseOf(t, p))
			continue
		}
		c.agents += ran(t, pulseOf(t, p))
		c.bytes += 84 * sentByUDP(t, p.PID()) // 56 of the datagram, 8 of UDP, 20 of IP
	}
	return c
}

// pulseOf returns the process that beats for another.
func pulseOf(t *testing.T, p *Process) int {
	t.Helper()
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", p.PID()))
	for _, task := range tasks {
		text, _ := os.ReadFile(task)
		for field := range strings.FieldsSeq(string(text)) {
			if exe, _ := os.Readlink("/proc/" + field + "/exe"); strings.Contains(filepath.Base(exe), "pulse") {
				pid, _ := strconv.Atoi(field)
				return pid
			}
		}
	}
	t.Fatal("nobody beats for an agent")
	return 0
}

// ran is how long a process has run, by the scheduler's own count.
func ran(t *testing.T, pid int) (sum time.Duration) {
	t.Helper()
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if err != nil {
			t.Fatal(err)
		}
		first, _, _ := strings.Cut(string(text), " ")
		n, _ := strconv.ParseInt(first, 10, 64)
		sum += time.Duration(n)
	}
	return sum
}

// sentByUDP is how many datagrams have left the network of a process.
func sentByUDP(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/snmp", pid))
	if err != nil {
		t.Fatal(err)
	}
	const sent = 4 // the field
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) > sent && fields[0] == "Udp:" {
			if n, err := strconv.Atoi(fields[sent]); err == nil {
				return n
			}
		}
	}
	t.Fatalf("no count of datagrams in %q", text)
	return 0
}

// TestFiguresOfLostWorkers measures how soon an app's instances serve again after a machine with some of them has lost its power, with Vortex and with Docker
// Swarm in turn.
func TestFiguresOfLostWorkers(t *testing.T) {
	const replicas = 6
	f := measure(t)
	rounds := rounds(t)
	var both report.Compared
	var took []time.Duration
	for round := range rounds {
		t.Run(fmt.Sprintf("vortex%d", round), func(t *testing.T) { took = append(took, lostWorker(t, replicas)) })
		var peer time.Duration
		t.Run(fmt.Sprintf("swarm%d", round), func(t *testing.T) { peer = lostSwarmWorker(t, replicas) })
		if len(took) == round+1 && peer > 0 {
			both.Add(milliseconds(took[round]), milliseconds(peer))
		}
	}
	f.took("cluster/worker_lost_to_replacements", took, 2*time.Second)
	if len(both.Ours) > 0 {
		f.Add(both.Figure("cluster/worker_lost_to_replacements", "ms", "docker swarm", "lower", 1))
	}
}

// lostWorker takes the power from an agent's machine and returns when as many instances are healthy on the others.
func lostWorker(t *testing.T, replicas int) time.Duration {
	t.Helper()
	m := found(t, 1, 2)
	m.deploy(replicas)
	api := m.api(m.Host(1))
	lost := m.Host(3)
	eventually(t, "every instance serves, some where the power will go", func() bool {
		return healthy(t, api) == replicas && healthy(t, api, lost.Name) < replicas
	})
	began := time.Now()
	lost.PowerOff()
	eventually(t, "all instances serve elsewhere", func() bool { return healthy(t, api, lost.Name) == replicas })
	took := time.Since(began)
	t.Logf("%d instances served again after %s", replicas, took)
	return took
}

// TestFiguresOfLeaders measures how soon an app's instances serve again after a worker's machine has lost its power, alone and together with the leader's. The servers have an
// etcd of three members beside them.
func TestFiguresOfLeaders(t *testing.T) {
	f := measure(t)
	rounds := rounds(t)
	times := map[bool][]time.Duration{}
	for range rounds {
		for _, leader := range []bool{false, true} {
			t.Run(fmt.Sprintf("leader too %v", leader), func(t *testing.T) { times[leader] = append(times[leader], lostLeader(t, leader)) })
		}
	}
	f.took("cluster/3_servers/worker_lost_to_replacements", times[false], 0)
	f.took("cluster/3_servers/leader_and_worker_lost_to_replacements", times[true], 0)
	if len(times[true]) == rounds && len(times[false]) == rounds {
		slices.Sort(times[false])
		slices.Sort(times[true])
		more := times[true][rounds/2] - times[false][rounds/2]
		f.Add(report.Figure{Name: "cluster/3_servers/more_for_the_leader", Value: milliseconds(more), Unit: "ms", Limit: 1000, Samples: rounds})
	}
}

// lostLeader takes the power from an agent's machine, and in the same moment from the leader's, and returns when all instances are healthy on the others.
func lostLeader(t *testing.T, too bool) time.Duration {
	t.Helper()
	const replicas, servers = 6, 3
	m := foundOnEtcd(t, servers, 2)
	m.deploy(replicas)
	lost := []*Host{m.Host(servers + 1)}
	names := []string{lost[0].Name}
	eventually(t, "every instance serves, some where the power will go", func() bool {
		api := m.api(m.Host(1))
		return healthy(t, api) == replicas && healthy(t, api, names...) < replicas
	})
	cluster, err := m.api(m.Host(1)).Cluster(t.Context())
	m.check(err)
	left := m.Host(1)
	if cluster.Leader.ID == left.Name {
		left = m.Host(2)
	}
	if too {
		leader := m.Hosts()[slices.IndexFunc(m.Hosts(), func(h *Host) bool { return h.Name == cluster.Leader.ID })]
		lost, names = append(lost, leader), append(names, leader.Name)
	}
	api := m.api(left)
	began := time.Now()
	m.check(together(lost, (*Host).powerOff))
	eventually(t, "all instances serve elsewhere", func() bool { return healthy(t, api, names...) == replicas })
	took := time.Since(began)
	t.Logf("%d instances served again after %s", replicas, took)
	return took
}

// foundOnEtcd makes a cluster whose servers have their store in an etcd with a member beside each.
func foundOnEtcd(t *testing.T, servers, agents int) *machines {
	t.Helper()
	bin, err := harness.Binary()
	if err != nil {
		t.Skip(err)
	}
	etcd, err := exec.LookPath("etcd")
	if err != nil {
		t.Skip("no etcd on PATH: install etcd-server")
	}
	m := &machines{Network: New(t, servers+agents), t: t, bin: bin, servers: servers, run: map[*Host]*Process{}}
	at := func(h *Host, port int) string { return fmt.Sprintf("http://%s:%d", h.Addr, port) }
	var members, stores []string
	for _, h := range m.Hosts()[:servers] {
		members, stores = append(members, h.Name+"="+at(h, etcdPeer)), append(stores, fmt.Sprintf("%s:%d", h.Addr, etcdClientPort))
	}
	for _, h := range m.Hosts()[:servers] {
		h.Run(etcd, "--data-dir", filepath.Join(h.Data, "etcd"), "--name", h.Name, "--log-level", "error", "--initial-cluster", strings.Join(members, ","),
			"--listen-client-urls", at(h, etcdClientPort), "--advertise-client-urls", at(h, etcdClientPort), "--listen-peer-urls", at(h, etcdPeer),
			"--initial-advertise-peer-urls", at(h, etcdPeer), "--heartbeat-interval", etcdHeartbeat, "--election-timeout", etcdTimeout)
	}
	store := []string{"--store", "etcd://" + strings.Join(stores, ",")}
	m.start(m.Host(1), store...)
	eventually(t, "the server answers", func() bool {
		_, err := m.try("nodes")
		return err == nil
	})
	server := strings.TrimSpace(m.cli("token", "join", "--role", "server", "--uses", strconv.Itoa(servers), "-q"))
	agent := strings.TrimSpace(m.cli("token", "join", "--uses", strconv.Itoa(agents), "-q"))
	for _, h := range m.Hosts()[1:] {
		if m.serves(h) {
			m.start(h, append([]string{"--token", server}, store...)...)
		} else {
			m.start(h, "--token", agent)
		}
	}
	eventually(t, "every machine is Ready", func() bool { return m.ready() == servers+agents })
	return m
}

// healthy returns how many instances serve on machines other than some.
func healthy(t *testing.T, api *client.Client, but ...string) (n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	list, err := api.Instances(ctx, "hello")
	if err != nil {
		return 0
	}
	for _, c := range list.Instances {
		if c.Status == "Running" && c.Health == "Healthy" && !slices.Contains(but, c.Node) {
			n++
		}
	}
	return n
}
