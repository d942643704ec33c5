package session_test

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"vortex/internal/heartbeat"
	"vortex/internal/heartbeat/pulse"
	"vortex/internal/session"
	sessionpb "vortex/proto/session"
)

var (
	pulseProgram = flag.String("pulse", "", "the pulse program, for benchmarks")
	holdAs       = flag.String("hold", "", "be a node: SERVER,NAME (used by benchmarks)")
	loops        = flag.Int("loops", 0, "busy loops per core beside a benchmark")
	steadyFor    = flag.Duration("steady", 20*time.Second, "how long to look for false suspicions")
)

// be is a node's process, until its standard input ends.
func be(server, name string) error {
	log := slog.New(slog.DiscardHandler)
	p, err := heartbeat.Listen(context.Background(), heartbeat.Config{Address: "127.0.0.1:0", Program: *pulseProgram, Log: log})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	parts.Go(func() { _ = p.Run(ctx) })
	c := session.NewClient(session.ClientConfig{Node: name, Pulse: p, Log: log, Dial: []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}})
	c.SetServers([]string{server})
	parts.Go(func() { _ = c.Run(ctx) })
	_, _ = os.Stdin.Read(make([]byte, 1))
	cancel()
	parts.Wait()
	return nil
}

// news is a sight and when it came.
type news struct {
	node  string
	sight session.Sight
	at    time.Time
}

// cluster is a server with nodes in processes of their own.
type cluster struct {
	*session.Server

	address string
	news    chan news
	nodes   map[string]*exec.Cmd
}

func openCluster(b *testing.B, nodes int) *cluster {
	b.Helper()
	if *pulseProgram == "" {
		b.Skip("-pulse is not given: make bench-cluster")
	}
	p, err := heartbeat.Listen(b.Context(), heartbeat.Config{Address: "127.0.0.1:0", Program: *pulseProgram, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	c := &cluster{news: make(chan news, 10_000), nodes: map[string]*exec.Cmd{}}
	c.Server = &session.Server{Name: "s", Pulse: p, Log: slog.New(slog.DiscardHandler), Changed: func(node string, s session.Sight) { c.news <- news{node, s, time.Now()} }}
	l := listenTCP(b)
	c.address = l.Addr().String()
	srv := grpc.NewServer()
	sessionpb.RegisterSessionServiceServer(srv, c.Server)
	ctx, cancel := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	parts.Go(func() { _ = p.Run(ctx) })
	parts.Go(func() { _ = c.Run(ctx) })
	parts.Go(func() { _ = srv.Serve(l) })
	b.Cleanup(func() { cancel(); srv.Stop(); parts.Wait() })
	for i := range nodes {
		c.start(b, fmt.Sprintf("n%d", i+1))
	}
	return c
}

// start starts a node's process.
func (c *cluster) start(b *testing.B, name string) {
	b.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(b.Context()), "/proc/self/exe", "-pulse", *pulseProgram, "-hold", c.address+","+name)
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		b.Fatal(err)
	}
	c.nodes[name] = cmd
	b.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
	c.wait(b, name, session.Alive)
	eventually(b, "its heartbeats come", func() bool { return c.beating() >= len(c.nodes) })
}

// beating is how many nodes' heartbeats are heard.
func (c *cluster) beating() (n int) {
	for i := range c.Pulse.Page().Links {
		if l := &c.Pulse.Page().Links[i]; heartbeat.State(l.State.Load()) == heartbeat.Alive && l.Beats.Load() > 10 {
			n++
		}
	}
	return n
}

// wait returns when a node is seen in a state.
func (c *cluster) wait(b *testing.B, node string, state session.State) time.Time {
	b.Helper()
	limit := time.After(30 * time.Second)
	for {
		select {
		case n := <-c.news:
			if n.node == node && n.sight.State == state {
				return n.at
			}
		case <-limit:
			b.Fatalf("%s is not %v within 30 s, but %v", node, state, c.Node(node))
		}
	}
}

// processes are a node's: its own and its pulse's.
func (c *cluster) processes(node string) []int {
	pid := c.nodes[node].Process.Pid
	return append([]int{pid}, children(pid)...)
}

func children(pid int) (pids []int) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		text, _ := os.ReadFile(task)
		for field := range strings.FieldsSeq(string(text)) {
			child, _ := strconv.Atoi(field)
			pids = append(pids, child)
		}
	}
	return pids
}

// burden runs busy loops until the benchmark ends.
func burden(b *testing.B) {
	b.Helper()
	for range *loops * runtime.NumCPU() {
		cmd := exec.CommandContext(context.WithoutCancel(b.Context()), "sh", "-c", "while :; do :; done")
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	}
}

func report(b *testing.B, took []time.Duration) {
	b.Helper()
	slices.Sort(took)
	at := func(q float64) float64 {
		return float64(took[min(int(q*float64(len(took))), len(took)-1)]) / float64(time.Millisecond)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(at(0.5), "p50-ms")
	b.ReportMetric(at(0.99), "p99-ms")
	b.ReportMetric(at(1), "max-ms")
}

// BenchmarkFrozen freezes one of eight nodes and its pulse, and takes the time until the callback by which the edge stops sending there.
func BenchmarkFrozen(b *testing.B) {
	c := openCluster(b, 8)
	burden(b)
	var took, found []time.Duration
	for b.Loop() {
		node := fmt.Sprintf("n%d", 1+rand.N(8))
		<-time.After(100*time.Millisecond + rand.N(20*time.Millisecond))
		pids := c.processes(node)
		slices.Reverse(pids) // the pulse first: its beats are what counts
		for len(c.news) > 0 {
			<-c.news
		}
		began, from := time.Now(), pulse.Now()
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGSTOP)
		}
		took = append(took, c.wait(b, node, session.Silent).Sub(began))
		last := int64(0)
		for i := range c.Pulse.Page().Links {
			last = max(last, c.Pulse.Page().Links[i].Changed.Load())
		}
		found = append(found, time.Duration(last-from))
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGCONT)
		}
		c.wait(b, node, session.Alive)
	}
	slices.Sort(found)
	b.ReportMetric(float64(found[len(found)*99/100])/float64(time.Millisecond), "found-p99-ms")
	report(b, took)
}

// BenchmarkKilled kills a node's process, and takes the time until the server knows.
func BenchmarkKilled(b *testing.B) {
	c := openCluster(b, 8)
	burden(b)
	var took []time.Duration
	for b.Loop() {
		node := fmt.Sprintf("n%d", 1+rand.N(8))
		<-time.After(20*time.Millisecond + rand.N(20*time.Millisecond))
		for len(c.news) > 0 {
			<-c.news
		}
		began := time.Now()
		_ = c.nodes[node].Process.Kill()
		took = append(took, c.wait(b, node, session.Ended).Sub(began))
		c.start(b, node)
	}
	report(b, took)
}

// BenchmarkSteady counts the suspicions of eight nodes that live, and how long the longest lasted.
func BenchmarkSteady(b *testing.B) {
	c := openCluster(b, 8)
	burden(b)
	var count int
	var longest time.Duration
	for b.Loop() {
		since := map[string]time.Time{}
		end := time.After(*steadyFor)
		for done := false; !done; {
			select {
			case n := <-c.news:
				if began, out := since[n.node]; out && n.sight.State == session.Alive {
					longest = max(longest, n.at.Sub(began))
					delete(since, n.node)
					b.Logf("%s %v", n.node, n.at.Sub(began))
				} else if n.sight.State > session.Alive && !out {
					since[n.node] = n.at
					count++
				}
			case <-end:
				done = true
			}
		}
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(count), "suspicions")
	b.ReportMetric(float64(longest)/float64(time.Millisecond), "longest-ms")
	page := c.Pulse.Page()
	b.ReportMetric(float64(page.WorstStall.Load())/float64(time.Millisecond), "own-stall-ms")
}

// BenchmarkHundred takes the processor time of a server's pulse that watches a hundred nodes.
func BenchmarkHundred(b *testing.B) {
	if *pulseProgram == "" {
		b.Skip("-pulse is not given: make bench-cluster")
	}
	const nodes = 100
	ctx, cancel := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	b.Cleanup(func() { cancel(); parts.Wait() })
	open := func() *heartbeat.Pulse {
		p, err := heartbeat.Listen(ctx, heartbeat.Config{Address: "127.0.0.1:0", Program: *pulseProgram, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			b.Fatal(err)
		}
		parts.Go(func() { _ = p.Run(ctx) })
		return p
	}
	watcher := open()
	eventually(b, "the nodes are heard", func() bool { return watcher.Page().Started.Load() != 0 })
	pid := children(os.Getpid())[0]
	sender := open()
	key := [pulse.KeySize]byte{1}
	var links []*heartbeat.Link
	for range nodes {
		in, err1 := watcher.Reserve()
		out, err2 := sender.Reserve()
		if err1 != nil || err2 != nil {
			b.Fatal(err1, err2)
		}
		in.Start(heartbeat.Peer{Watch: true, In: key}, nil)
		out.Start(heartbeat.Peer{Peer: heartbeat.Addr(loopback, uint32(watcher.Port())), Channel: in.Channel(), Send: true, Out: key, Interval: heartbeat.Interval(nodes)}, nil)
		links = append(links, in)
	}
	eventually(b, "the nodes are heard", func() bool {
		return !slices.ContainsFunc(links, func(l *heartbeat.Link) bool { return l.State() != heartbeat.Alive })
	})
	var used, over time.Duration
	for b.Loop() {
		began, before := time.Now(), ran(pid)
		<-time.After(10 * time.Second)
		used, over = used+ran(pid)-before, over+time.Since(began)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(100*float64(used)/float64(over), "percent-of-a-core")
}

// ran is how long a process has run, by the scheduler's own count.
func ran(pid int) (sum time.Duration) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	for _, task := range tasks {
		text, _ := os.ReadFile(task)
		first, _, _ := strings.Cut(string(text), " ")
		n, _ := strconv.ParseInt(first, 10, 64)
		sum += time.Duration(n)
	}
	return sum
}
