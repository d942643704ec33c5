//go:build ignore

// Command memberlist measures how fast hashicorp/memberlist suspects a frozen node, as a peer of our own failure detection: eight nodes are
// processes of their own, and this one observes.
//
//	memberlist -count 20 -loops 4                 # with the defaults for a LAN
//	memberlist -count 20 -loops 4 -tune -trial 10s # as fast as it gets without more false suspicions than -allowed in each trial
//
// It prints one JSON object a line, in the form of bench/report. It is built by bench/cluster.sh with a module file of its own, memberlist.mod, so that what it needs
// is none of the product's.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-metrics"
	"github.com/hashicorp/memberlist"
)

const nodes = 8

var (
	node     = flag.String("node", "", "be a node: ADDRESS,NAME")
	interval = flag.Duration("interval", 0, "probe that often; 0 is the defaults for a LAN")
	count    = flag.Int("count", 20, "nodes to freeze")
	loops    = flag.Int("loops", 0, "busy loops per core beside it")
	tune     = flag.Bool("tune", false, "find the shortest interval")
	trial    = flag.Duration("trial", 10*time.Second, "how long to look for false suspicions with each interval")
	allowed  = flag.Int64("allowed", 0, "so many false suspicions are not too many")
)

func main() {
	flag.Parse()
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	if observer, name, ok := strings.Cut(*node, ","); ok {
		return be(observer, name)
	}
	defer burden()()
	kind := "lan"
	if *tune {
		kind = "tuned"
		shortest, err := shortest()
		if err != nil {
			return err
		}
		*interval = shortest
	}
	c, err := open(*interval)
	if err != nil {
		return err
	}
	defer c.close()
	falsely, err := c.steady(*trial)
	if err != nil {
		return err
	}
	took, err := c.freeze(*count)
	if err != nil {
		return err
	}
	slices.Sort(took)
	beside := fmt.Sprintf("cluster/%d_loops/memberlist_%s/frozen_to_observer", *loops, kind)
	figure(beside+"/p50", took[len(took)/2], "ms", len(took))
	figure(beside+"/p99", took[min(len(took)*99/100, len(took)-1)], "ms", len(took))
	figure(fmt.Sprintf("cluster/%d_loops/memberlist_%s/probe_interval", *loops, kind), ms(c.config.ProbeInterval), "ms", 1)
	figure(fmt.Sprintf("cluster/%d_loops/memberlist_%s/suspicions of nodes that live", *loops, kind), float64(falsely), "in "+trial.String(), 1)
	return nil
}

func figure(name string, value float64, unit string, samples int) {
	line, err := json.Marshal(map[string]any{"name": name, "value": value, "unit": unit, "better": "lower", "samples": samples})
	if err == nil {
		fmt.Println(string(line))
	}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// shortest tries shorter and shorter intervals.
func shortest() (best time.Duration, err error) {
	for _, try := range []time.Duration{500, 200, 100, 50, 20, 10} {
		c, err := open(try * time.Millisecond)
		if err != nil {
			return best, err
		}
		n, err := c.steady(*trial)
		c.close()
		if err != nil {
			return best, err
		}
		fmt.Fprintf(os.Stderr, "memberlist that probes every %v: %d false suspicions in %v\n", try*time.Millisecond, n, *trial)
		if n > *allowed {
			break
		}
		best = try * time.Millisecond
	}
	return best, nil
}

// config is that of a node or of the observer.
func config(name string, interval time.Duration) *memberlist.Config {
	c := memberlist.DefaultLANConfig()
	c.Name, c.BindAddr, c.BindPort, c.AdvertisePort, c.LogOutput = name, "127.0.0.1", 0, 0, io.Discard
	if interval > 0 {
		c.ProbeInterval, c.ProbeTimeout, c.GossipInterval = interval, interval/2, min(interval, 10*time.Millisecond)
	}
	return c
}

// be is a node's process, until its standard input ends.
func be(observer, name string) error {
	m, err := memberlist.Create(config(name, *interval))
	if err != nil {
		return err
	}
	for {
		if _, err := m.Join([]string{observer}); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	_, _ = os.Stdin.Read(make([]byte, 1))
	return nil
}

// sink hears of what memberlist counts: it has no event for a suspicion.
type sink struct {
	metrics.BlackholeSink

	suspected, alive atomic.Int64
	news             chan time.Time
}

// IncrCounterWithLabels implements metrics.MetricSink.
func (s *sink) IncrCounterWithLabels(key []string, _ float32, _ []metrics.Label) {
	switch strings.Join(key, ".") {
	case "memberlist.msg.suspect":
		s.suspected.Add(1)
		select {
		case s.news <- time.Now():
		default:
		}
	case "memberlist.msg.alive":
		s.alive.Add(1)
	}
}

// cluster is an observer with nodes.
type cluster struct {
	*sink

	config    *memberlist.Config
	members   *memberlist.Memberlist
	processes []*exec.Cmd
	inputs    []io.Closer
}

func open(interval time.Duration) (*cluster, error) {
	c := &cluster{sink: &sink{news: make(chan time.Time, 1)}, config: config("observer", interval)}
	conf := metrics.DefaultConfig("")
	conf.EnableHostname, conf.EnableRuntimeMetrics, conf.EnableServiceLabel = false, false, false
	if _, err := metrics.NewGlobal(conf, c.sink); err != nil {
		return nil, err
	}
	var err error
	if c.members, err = memberlist.Create(c.config); err != nil {
		return nil, err
	}
	for i := range nodes {
		cmd := exec.Command("/proc/self/exe", "-interval", interval.String(), "-node", fmt.Sprintf("%s,n%d", c.members.LocalNode().Address(), i+1))
		in, err := cmd.StdinPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			c.close()
			return nil, err
		}
		c.processes, c.inputs = append(c.processes, cmd), append(c.inputs, in)
	}
	for end := time.Now().Add(time.Minute); c.members.NumMembers() <= nodes; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			c.close()
			return nil, fmt.Errorf("%d of %d nodes joined within a minute", c.members.NumMembers()-1, nodes)
		}
	}
	time.Sleep(2 * time.Second) // for all to know each other
	return c, nil
}

func (c *cluster) close() {
	for i, cmd := range c.processes {
		_ = c.inputs[i].Close()
		_ = cmd.Wait()
	}
	_ = c.members.Shutdown()
}

// steady counts the suspicions in a time in which nothing fails.
func (c *cluster) steady(d time.Duration) (int64, error) {
	before := c.suspected.Load()
	time.Sleep(d)
	return c.suspected.Load() - before, nil
}

// freeze freezes nodes, one after the other, and returns the milliseconds until the observer suspected each.
func (c *cluster) freeze(n int) (took []float64, err error) {
	for range n {
		time.Sleep(100*time.Millisecond + rand.N(max(c.config.ProbeInterval, 20*time.Millisecond)))
		select {
		case <-c.news:
		default:
		}
		victim := c.processes[rand.N(nodes)].Process
		began, alive := time.Now(), c.alive.Load()
		if err := victim.Signal(syscall.SIGSTOP); err != nil {
			return nil, err
		}
		select {
		case at := <-c.news:
			took = append(took, ms(at.Sub(began)))
		case <-time.After(time.Minute):
			err = fmt.Errorf("a frozen node was not suspected within a minute")
		}
		if cerr := victim.Signal(syscall.SIGCONT); err != nil || cerr != nil {
			return nil, fmt.Errorf("freeze a node: %w, %w", err, cerr)
		}
		for end := time.Now().Add(time.Minute); c.alive.Load() == alive; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				return nil, fmt.Errorf("a node that goes on is not believed within a minute")
			}
		}
		time.Sleep(2 * c.config.ProbeInterval)
	}
	return took, nil
}

// burden runs busy loops until the function that it returns is called.
func burden() (stop func()) {
	var busy []*exec.Cmd
	for range *loops * runtime.NumCPU() {
		if cmd := exec.Command("sh", "-c", "while :; do :; done"); cmd.Start() == nil {
			busy = append(busy, cmd)
		}
	}
	return func() {
		for _, cmd := range busy {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
}
