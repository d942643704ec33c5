package session_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
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

	"vortex"
	benchreport "vortex/bench/report"
	"vortex/internal/heartbeat"
	"vortex/internal/heartbeat/pulse"
	"vortex/internal/session"
	sessionpb "vortex/proto/session"
)

var (
	pulseProgram = flag.String("pulse", "", "the pulse program, for benchmarks")
	holdAs       = flag.String("hold", "", "be a node: SERVER,NAME,ADDRESS (used by benchmarks)")
	figures      = flag.String("figures", "", "append a benchmark's figures to this file, one JSON object a line")
	loops        = flag.Int("loops", 0, "busy loops per core beside a benchmark")
	steadyFor    = flag.Duration("steady", 20*time.Second, "how long to look for false suspicions")
)

// be is a node's process with an address of its own, until its standard input ends.
func be(server, name, address string) error {
	log := slog.New(slog.DiscardHandler)
	p, err := heartbeat.Listen(context.Background(), heartbeat.Config{Address: net.JoinHostPort(address, "0"), Program: *pulseProgram, Log: log})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	parts.Go(func() { _ = p.Run(ctx) })
	c := session.NewClient(session.ClientConfig{Node: name, Pulse: p, Log: log, Dial: []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(from(address)),
	}})
	c.SetServers([]string{server})
	parts.Go(func() { _ = c.Run(ctx) })
	_, _ = os.Stdin.Read(make([]byte, 1))
	cancel()
	parts.Wait()
	return nil
}

// from dials from an address.
func from(address string) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, to string) (net.Conn, error) {
		return (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}).DialContext(ctx, "tcp", to)
	}
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
	hear    func(node string, s session.Sight) // also told of every sight; nil is nobody
}

func openCluster(b *testing.B, nodes int, hear func(string, session.Sight)) *cluster {
	b.Helper()
	if *pulseProgram == "" {
		b.Skip("-pulse is not given: make bench-cluster")
	}
	p, err := heartbeat.Listen(b.Context(), heartbeat.Config{Address: "127.0.0.1:0", Program: *pulseProgram, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	c := &cluster{news: make(chan news, 10_000), nodes: map[string]*exec.Cmd{}, hear: hear}
	c.Server = &session.Server{Name: "s", Pulse: p, Log: slog.New(slog.DiscardHandler), Changed: c.changed}
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

func (c *cluster) changed(node string, s session.Sight) {
	if c.hear != nil {
		c.hear(node, s)
	}
	c.news <- news{node, s, time.Now()}
}

// address is a node's: all are of this machine.
func address(node string) string { return "127.0.1." + strings.TrimPrefix(node, "n") }

// hurried runs something on a thread that the busy loops do not delay, and returns when it began.
func hurried(do func()) time.Time {
	began := make(chan time.Time, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread with its priority ends with it
		pulse.Hurry()
		began <- time.Now()
		do()
		close(began)
	}()
	at := <-began
	<-began
	return at
}

// forget throws away what was told so far.
func (c *cluster) forget() {
	for len(c.news) > 0 {
		<-c.news
	}
}

// start starts a node's process.
func (c *cluster) start(b *testing.B, name string) {
	b.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(b.Context()), "/proc/self/exe", "-pulse", *pulseProgram, "-hold", c.address+","+name+","+address(name))
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

// report tells how long things took, with a limit for the p99 of those that have one.
func report(b *testing.B, name string, took []time.Duration, limit float64) {
	b.Helper()
	var ms []float64
	for _, d := range took {
		ms = append(ms, float64(d)/float64(time.Millisecond))
	}
	for _, q := range []struct {
		name  string
		value float64
		limit float64
	}{{"p50", benchreport.Percentile(ms, 0.5), 0}, {"p99", benchreport.Percentile(ms, 0.99), limit}, {"max", benchreport.Percentile(ms, 1), 0}} {
		figure(b, benchreport.Figure{Name: name + "/" + q.name, Value: q.value, Unit: "ms", Limit: q.limit, Samples: len(ms)})
	}
}

// figure tells a figure, also to the file.
func figure(b *testing.B, f benchreport.Figure) {
	b.Helper()
	f.Name = fmt.Sprintf("cluster/%d_loops/%s", *loops, f.Name)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(f.Value, strings.ReplaceAll(f.Name, " ", "_")+"-"+strings.ReplaceAll(f.Unit, " ", "_"))
	if *figures == "" {
		return
	}
	file, err := os.OpenFile(*figures, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		b.Fatal(err)
	}
	r := benchreport.Report{}
	r.Add(f)
	if err := errors.Join(r.WriteJSON(file), file.Close()); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkFrozen freezes one of eight nodes and its pulse, and takes the time until the callback by which the edge stops sending there.
func BenchmarkFrozen(b *testing.B) {
	c := openCluster(b, 8, nil)
	burden(b)
	var took []time.Duration
	for b.Loop() {
		node := fmt.Sprintf("n%d", 1+rand.N(8))
		<-time.After(100*time.Millisecond + rand.N(20*time.Millisecond))
		pids := c.processes(node)
		slices.Reverse(pids) // the pulse first: its beats are what counts
		c.forget()
		began := hurried(func() {
			for _, pid := range pids {
				_ = syscall.Kill(pid, syscall.SIGSTOP)
			}
		})
		took = append(took, c.wait(b, node, session.Silent).Sub(began))
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGCONT)
		}
		c.wait(b, node, session.Alive)
	}
	report(b, "frozen_to_edge", took, 30)
}

// BenchmarkCut drops what one of eight nodes sends and is sent, and takes the time until the same callback. It wants a network namespace of its own: unshare -n.
func BenchmarkCut(b *testing.B) {
	cuts := openCuts(b)
	c := openCluster(b, 8, nil)
	burden(b)
	var took []time.Duration
	for b.Loop() {
		node := fmt.Sprintf("n%d", 1+rand.N(8))
		<-time.After(100*time.Millisecond + rand.N(20*time.Millisecond))
		c.forget()
		began := hurried(func() { cuts.cut(b, address(node)) })
		took = append(took, c.wait(b, node, session.Silent).Sub(began))
		<-time.After(100 * time.Millisecond) // as long as an outage: what is lost now and then widens the timeout
		cuts.heal(b, address(node))
		c.wait(b, node, session.Alive)
	}
	report(b, "cut_to_edge", took, 30)
}

// BenchmarkKilled kills a node's process, and takes the time until the edge's callback, and until who watches the store has its event.
func BenchmarkKilled(b *testing.B) {
	m := openMonitor(b, 8)
	c := openCluster(b, 8, m.sighted)
	burden(b)
	var took, seen []time.Duration
	for b.Loop() {
		node := fmt.Sprintf("n%d", 1+rand.N(8))
		m.wait(b, node, vortex.LivenessStateReady)
		<-time.After(20*time.Millisecond + rand.N(20*time.Millisecond))
		c.forget()
		process := c.nodes[node].Process
		began := hurried(func() { _ = process.Kill() })
		took = append(took, c.wait(b, node, session.Ended).Sub(began))
		seen = append(seen, m.wait(b, node, vortex.LivenessStateSuspect).Sub(began))
		c.start(b, node)
	}
	limit := 5.0
	if *loops > 0 {
		limit = 0 // the limit is of a machine that has time
	}
	report(b, "killed_to_edge", took, limit)
	report(b, "killed_to_event", seen, limit)
}

// BenchmarkSteady counts the suspicions of eight nodes that live, and how long the longest lasted.
func BenchmarkSteady(b *testing.B) {
	c := openCluster(b, 8, nil)
	burden(b)
	var count, long int
	var longest time.Duration
	began, before := time.Now(), stolen()
	for b.Loop() {
		since := map[string]time.Time{}
		end := time.After(*steadyFor)
		for done := false; !done; {
			select {
			case n := <-c.news:
				if began, out := since[n.node]; out && n.sight.State == session.Alive {
					longest = max(longest, n.at.Sub(began))
					if n.at.Sub(began) > 100*time.Millisecond {
						long++
					}
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
	in := "in " + steadyFor.String()
	share := 100 * float64(stolen()-before) / float64(time.Since(began)) / float64(runtime.NumCPU())
	figure(b, benchreport.Figure{Name: "taken by other virtual machines", Value: share, Unit: "% of the cores", Samples: 1})
	figure(b, benchreport.Figure{Name: "longest stall of the watcher", Value: float64(c.Pulse.Page().WorstStall.Load()) / float64(time.Millisecond), Unit: "ms", Samples: 1})
	figure(b, benchreport.Figure{Name: "suspicions of nodes that live", Value: float64(count), Unit: in, Samples: 1})
	figure(b, benchreport.Figure{Name: "suspicions of over 100 ms", Value: float64(long), Unit: in, Samples: 1})
	figure(b, benchreport.Figure{Name: "longest suspicion", Value: float64(longest) / float64(time.Millisecond), Unit: "ms", Limit: 100, Samples: max(count, 1)})
}

// BenchmarkHundred takes the processor time of a server's pulse that watches a hundred nodes.
func BenchmarkHundred(b *testing.B) { cost(b, 100, 3) }

// BenchmarkThousand does so with a thousand.
func BenchmarkThousand(b *testing.B) { cost(b, 1000, 0) }

// cost takes what many nodes' heartbeats cost who watches them, and each of those who send. One process sends for all.
func cost(b *testing.B, nodes int, limit float64) {
	b.Helper()
	if *pulseProgram == "" {
		b.Skip("-pulse is not given: make bench-cluster")
	}
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
	eventually(b, "the nodes beat", func() bool { return sender.Page().Started.Load() != 0 })
	sends := slices.DeleteFunc(children(os.Getpid()), func(child int) bool { return child == pid })[0]
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
	beats := func() (n uint64) {
		for _, l := range links {
			n += l.Page().Beats.Load()
		}
		return n
	}
	var used, sent, over time.Duration
	var came uint64
	for b.Loop() {
		began, watched, beaten, count := time.Now(), ran(pid), ran(sends), beats()
		<-time.After(10 * time.Second)
		used, sent, over, came = used+ran(pid)-watched, sent+ran(sends)-beaten, over+time.Since(began), came+beats()-count
	}
	const onWire = pulse.DatagramSize + 8 + 20 // with the heads of UDP and IP
	name, each := fmt.Sprintf("%d_simulated_nodes/", nodes), float64(nodes)*over.Seconds()
	figure(b, benchreport.Figure{Name: name + "cpu_of_the_watcher", Value: 100 * float64(used) / float64(over), Unit: "% of a core", Limit: limit, Samples: 1})
	figure(b, benchreport.Figure{Name: name + "cpu_per_node", Value: float64((used + sent).Microseconds()) / each, Unit: "us/s", Samples: nodes})
	figure(b, benchreport.Figure{Name: name + "bytes_per_node", Value: float64(came*onWire) / each, Unit: "bytes/s", Samples: nodes})
}

// stolen is how long this machine's cores would have run, had the one below them let them.
func stolen() time.Duration {
	text, _ := os.ReadFile("/proc/stat")
	const steal = 8 // the field, in hundredths of a second
	fields := strings.Fields(string(text))
	if len(fields) <= steal {
		return 0
	}
	n, _ := strconv.ParseInt(fields[steal], 10, 64)
	return time.Duration(n) * time.Second / 100
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
