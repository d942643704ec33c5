package network

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"vortex"
	"vortex/internal/runtime"
)

// The files of a slot.
const (
	nsFile       = "ns"          // the namespace, bind-mounted
	readyFile    = "ready"       // exists once the namespace is complete
	ownerFile    = "owner.json"  // exists while an instance has the slot
	hostsFile    = "hosts"       //
	resolvFile   = "resolv.conf" //
	hostnameFile = "hostname"    //
	cursorFile   = "cursor"      // beside the slots: the address given last
	subnetFile   = "subnet"      // in the data directory: the subnet chosen
)

// owner is the note of who has a slot.
type owner struct {
	ID       string                `json:"id"`
	Hostname string                `json:"hostname"`
	Ports    []runtime.PortMapping `json:"ports,omitempty"`
}

// readOwner returns a slot's owner, or nil when it has none.
func readOwner(dir string) (*owner, error) {
	b, err := os.ReadFile(filepath.Join(dir, ownerFile))
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read slot owner: %w", err)
	}
	o := &owner{}
	if err := json.Unmarshal(b, o); err != nil {
		return nil, fmt.Errorf("parse slot owner: %w", err)
	}
	return o, nil
}

// writeOwner records the owner. The slot is the owner's from this moment on, also after a crash.
func writeOwner(dir string, o owner) error {
	b, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("encode slot owner: %w", err)
	}
	return replaceFile(filepath.Join(dir, ownerFile), b)
}

// replaceFile writes a file so that a reader sees the old or the new content, whole. It does not wait for
// the disk: nothing here must outlive the kernel.
func replaceFile(path string, content []byte) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, content, 0o644); err != nil {
		return fmt.Errorf("write file: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("replace file: %w", err)
	}
	return nil
}

// splitHost parses a "name:address" line. The address host-gateway stands for gateway.
func splitHost(line string, gateway netip.Addr) (string, netip.Addr, error) {
	name, value, ok := strings.Cut(line, ":")
	if ok && name != "" && !strings.ContainsAny(name, " \t\r\n#") {
		if value == "host-gateway" {
			return name, gateway, nil
		}
		if ip, err := netip.ParseAddr(value); err == nil {
			return name, ip, nil
		}
	}
	return "", netip.Addr{}, vortex.Errorf(vortex.Invalid, "extra host %q: expected name:address, as in db:10.0.0.7", line)
}

// hostsContent returns an instance's /etc/hosts.
func hostsContent(ip, gateway netip.Addr, hostname string, extra []string) ([]byte, error) {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n")
	for _, line := range extra {
		name, addr, err := splitHost(line, gateway)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "%s\t%s\n", addr, name)
	}
	fmt.Fprintf(&b, "%s\t%s\n", ip, hostname)
	return []byte(b.String()), nil
}

// resolvContent returns an instance's /etc/resolv.conf: the node's own text with the name servers that an instance
// cannot reach taken out. dns, when not empty, replaces the node's; fallback is used when none is left.
func resolvContent(node string, dns, fallback []netip.Addr) []byte {
	var servers, rest []string
	for line := range strings.Lines(node) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			if ip, err := netip.ParseAddr(fields[1]); err == nil && reachable(ip) {
				servers = append(servers, ip.String())
			}
		case "search", "domain", "options":
			rest = append(rest, strings.Join(fields, " "))
		}
	}
	if len(dns) > 0 {
		servers = addrStrings(dns)
	}
	if len(servers) == 0 {
		servers = addrStrings(fallback)
	}
	var b strings.Builder
	for _, s := range servers {
		b.WriteString("nameserver " + s + "\n")
	}
	for _, s := range rest {
		b.WriteString(s + "\n")
	}
	return []byte(b.String())
}

// reachable reports whether an instance, which has IPv4 only, can ask a name server at ip.
func reachable(ip netip.Addr) bool { return ip.Is4() && !ip.IsLoopback() && !ip.IsUnspecified() }

func addrStrings(ips []netip.Addr) []string {
	out := make([]string, len(ips))
	for i, ip := range ips {
		out[i] = ip.String()
	}
	return out
}
