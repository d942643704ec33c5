package kind

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// memberEnv makes this test binary an etcd member of the release in go.mod: dir,name,address,initial cluster.
const memberEnv = "KIND_PROOF_ETCD_MEMBER"

// runMember is the member's whole program.
func runMember() error {
	args := strings.SplitN(os.Getenv(memberEnv), ",", 4)
	if len(args) != 4 {
		return errors.New(memberEnv + " has to hold a directory, a name, an address and the cluster")
	}
	at := func(port int) []url.URL {
		return []url.URL{{Scheme: "http", Host: fmt.Sprintf("%s:%d", args[2], port)}}
	}
	cfg := embed.NewConfig()
	cfg.Dir, cfg.Name, cfg.InitialCluster = args[0], args[1], args[3]
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = at(clientPort), at(clientPort)
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = at(peerPort), at(peerPort)
	cfg.TickMs, cfg.ElectionMs = heartbeat, election
	cfg.LogLevel = "error"
	member, err := embed.StartEtcd(cfg)
	if err != nil {
		return err
	}
	return <-member.Err()
}

const (
	clientPort, peerPort = 2379, 2380
	heartbeat, election  = 50, 500 // milliseconds
)

// release is an etcd that a cluster can be made of.
type release struct {
	name    string
	command func(dir, name, addr, cluster string) *exec.Cmd
}

// debian is the etcd that is installed.
func debian(t *testing.T) release {
	t.Helper()
	path, err := exec.LookPath("etcd")
	if err != nil {
		t.Skip("no etcd on PATH: install etcd-server")
	}
	return release{"Debian's", func(dir, name, addr, cluster string) *exec.Cmd {
		client, peer := fmt.Sprintf("http://%s:%d", addr, clientPort), fmt.Sprintf("http://%s:%d", addr, peerPort)
		cmd := exec.Command(path, "--data-dir", dir, "--name", name, "--initial-cluster", cluster,
			"--listen-client-urls", client, "--advertise-client-urls", client,
			"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
			"--heartbeat-interval", strconv.Itoa(heartbeat), "--election-timeout", strconv.Itoa(election), "--log-level", "error")
		cmd.Env = append(os.Environ(), "ETCD_UNSUPPORTED_ARCH=arm64")
		return cmd
	}}
}

// current is the release that Vortex embeds.
func current(t *testing.T) release {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return release{"the embedded", func(dir, name, addr, cluster string) *exec.Cmd {
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), memberEnv+"="+strings.Join([]string{dir, name, addr, cluster}, ","))
		return cmd
	}}
}

// etcdCluster is three members on three hosts of a network.
type etcdCluster struct {
	t       *testing.T
	net     *network
	release release
	dir     string
	members []*process
	watcher *clientv3.Client // to find the leader; it is never cut off
}

var memberHosts = []string{"e1", "e2", "e3"}

func startCluster(t *testing.T, net *network, rel release) *etcdCluster {
	t.Helper()
	c := &etcdCluster{t: t, net: net, release: rel, dir: t.TempDir(), members: make([]*process, len(memberHosts))}
	for i := range memberHosts {
		c.start(i)
	}
	c.watch()
	return c
}

// watch waits until there is a leader.
func (c *etcdCluster) watch() {
	c.t.Helper()
	var err error
	c.watcher, err = clientv3.New(clientv3.Config{Endpoints: c.endpoints(), Logger: zap.NewNop(), DialTimeout: time.Second})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = c.watcher.Close() })
	eventually(c.t, "the etcd cluster has a leader", func() bool { return c.leader() >= 0 })
}

func (c *etcdCluster) endpoints() (list []string) {
	for _, host := range memberHosts {
		list = append(list, fmt.Sprintf("%s:%d", c.net.addr(host), clientPort))
	}
	return list
}

// start starts a member, or starts it again.
func (c *etcdCluster) start(i int) {
	c.t.Helper()
	var cluster []string
	for _, host := range memberHosts {
		cluster = append(cluster, fmt.Sprintf("%s=http://%s:%d", host, c.net.addr(host), peerPort))
	}
	host := memberHosts[i]
	cmd := c.release.command(filepath.Join(c.dir, host), host, c.net.addr(host), strings.Join(cluster, ","))
	within := c.net.within(host)
	wrapped := exec.Command(within[0], append(within[1:], cmd.Args...)...)
	wrapped.Env = cmd.Env
	c.members[i] = startProcess(c.t, wrapped)
}

// leader returns which member leads, -1 while none does.
func (c *etcdCluster) leader() int {
	for i, endpoint := range c.endpoints() {
		ctx, cancel := context.WithTimeout(context.Background(), election*time.Millisecond)
		status, err := c.watcher.Status(ctx, endpoint)
		cancel()
		if err == nil && status.Leader == status.Header.MemberId {
			return i
		}
	}
	return -1
}

// process is a program that ends with the test.
type process struct {
	cmd  *exec.Cmd
	gone chan struct{}
	log  *bytes.Buffer
	once sync.Once
}

func startProcess(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{cmd: cmd, gone: make(chan struct{}), log: &bytes.Buffer{}}
	cmd.Stdout, cmd.Stderr = p.log, p.log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { defer close(p.gone); _ = cmd.Wait() }()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() && p.log.Len() > 0 {
			t.Logf("log of %s:\n%s", cmd.Args[len(cmd.Args)-1], tail(p.log.String()))
		}
	})
	return p
}

// kill ends it as a crash would.
func (p *process) kill() {
	p.once.Do(func() { _ = p.cmd.Process.Kill() })
	<-p.gone
}

// freeze stops it without its knowing, thaw lets it go on.
func (p *process) freeze() { _ = p.cmd.Process.Signal(syscall.SIGSTOP) }
func (p *process) thaw()   { _ = p.cmd.Process.Signal(syscall.SIGCONT) }
