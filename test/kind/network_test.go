package kind

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// network is a switch with hosts: network namespaces joined by a bridge, which is in one of its own, where no filter of this
// machine sees it. What passes between two hosts can be cut, in both directions or in one. The tests reach all of them.
type network struct {
	t      *testing.T
	name   string // of the device through which the tests reach it; all else is named after it
	subnet string // its first three numbers
	hosts  []string
}

const hub = "hub"

// newNetwork makes a network that disappears when the test ends.
func newNetwork(t *testing.T, hosts ...string) *network {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("cutting networks needs root: namespaces and packet filters are made")
	}
	for _, tool := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("no %s here: install iproute2 and nftables", tool)
		}
	}
	id := os.Getpid() % 4000
	n := &network{t: t, name: fmt.Sprintf("vkp%d", id), subnet: fmt.Sprintf("198.18.%d", id%250)}
	t.Cleanup(n.remove)
	hub := n.namespace(hub)
	n.must("ip", "netns", "add", hub)
	n.must("ip", "-n", hub, "link", "add", "bridge", "type", "bridge")
	n.must("ip", "-n", hub, "link", "set", "bridge", "up")
	n.must("ip", "link", "add", n.name, "type", "veth", "peer", "name", "tests", "netns", hub)
	n.must("ip", "-n", hub, "link", "set", "tests", "master", "bridge", "up")
	n.must("ip", "addr", "add", n.subnet+".1/24", "dev", n.name)
	n.must("ip", "link", "set", n.name, "up")
	for _, host := range hosts {
		n.join(host)
	}
	return n
}

// join adds a host.
func (n *network) join(host string) {
	n.hosts = append(n.hosts, host)
	ns, hub := n.namespace(host), n.namespace(hub)
	n.must("ip", "netns", "add", ns)
	n.must("ip", "-n", hub, "link", "add", host, "type", "veth", "peer", "name", "eth0", "netns", ns)
	n.must("ip", "-n", hub, "link", "set", host, "master", "bridge", "up")
	n.must("ip", "-n", ns, "link", "set", "lo", "up")
	n.must("ip", "-n", ns, "addr", "add", n.addr(host)+"/24", "dev", "eth0")
	n.must("ip", "-n", ns, "link", "set", "eth0", "up")
	n.filter(host, "add table inet cut; add chain inet cut in { type filter hook input priority 0; }")
}

func (n *network) namespace(host string) string { return n.name + "-" + host }

// addr is a host's address.
func (n *network) addr(host string) string {
	for i, h := range n.hosts {
		if h == host {
			return fmt.Sprintf("%s.%d", n.subnet, i+10)
		}
	}
	panic("no host " + host)
}

// within is the command that runs another on a host.
func (n *network) within(host string) []string {
	return []string{"ip", "netns", "exec", n.namespace(host)}
}

// deafen drops what a host gets from others. Connections are not closed: nothing comes any more.
func (n *network) deafen(host string, from ...string) {
	var rules strings.Builder
	for _, other := range from {
		if other != host {
			fmt.Fprintf(&rules, "add rule inet cut in ip saddr %s drop;", n.addr(other))
		}
	}
	n.filter(host, rules.String())
}

// cut drops everything between a host and others, in both directions.
func (n *network) cut(host string, others ...string) {
	n.deafen(host, others...)
	for _, other := range others {
		if other != host {
			n.deafen(other, host)
		}
	}
}

// heal lets everything pass again.
func (n *network) heal() {
	for _, host := range n.hosts {
		n.filter(host, "flush chain inet cut in")
	}
}

func (n *network) filter(host, rules string) {
	n.must("ip", "netns", "exec", n.namespace(host), "nft", rules)
}

func (n *network) must(command ...string) {
	n.t.Helper()
	if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
		n.t.Fatalf("%s: %v: %s", strings.Join(command, " "), err, bytes.TrimSpace(out))
	}
}

// remove takes everything away.
func (n *network) remove() {
	for _, host := range append(n.hosts, hub) {
		_ = exec.Command("ip", "netns", "del", n.namespace(host)).Run()
	}
	_ = exec.Command("ip", "link", "del", n.name).Run()
}
