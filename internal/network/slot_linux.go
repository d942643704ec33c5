package network

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// slot is one address with its namespace and files: slots/<address>.
type slot struct {
	addr  netip.Addr
	dir   string
	owner *owner // nil while it waits in the pool
}

func (n *Network) slotsDir() string { return filepath.Join(n.cfg.DataDir, "slots") }

// mountSlots puts the slots in memory: writes to a disk wait for whoever else syncs it, and a slot does not
// outlive the kernel anyway, since its namespace does not.
func (n *Network) mountSlots() error {
	if err := os.MkdirAll(n.slotsDir(), 0o755); err != nil {
		return fmt.Errorf("make network directory: %w", err)
	}
	if isMounted(n.slotsDir(), unix.TMPFS_MAGIC) {
		return nil
	}
	return wrap("mount slots", unix.Mount("vortex", n.slotsDir(), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=256m"))
}

// removeSlots takes the slots' directory away, and all that is in it.
func (n *Network) removeSlots() error {
	err := unix.Unmount(n.slotsDir(), unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) { // not mounted: the data directory is in memory itself
		return fmt.Errorf("unmount slots: %w", err)
	}
	return wrap("remove network directory", os.RemoveAll(n.cfg.DataDir))
}

func (n *Network) slotAt(ip netip.Addr) *slot {
	return &slot{addr: ip, dir: filepath.Join(n.slotsDir(), ip.String())}
}

func (s *slot) path(file string) string { return filepath.Join(s.dir, file) }

// vethName is the name of the node's end: unique on the node, because addresses are.
func vethName(ip netip.Addr) string { return fmt.Sprintf("vx%08x", toUint(ip)) }

func (n *Network) wiring(ip netip.Addr) wiring {
	n.mu.Lock()
	defer n.mu.Unlock()
	return wiring{
		host: n.host, bridge: n.bridge, name: vethName(ip), addr: ip,
		gateway: n.addrs.gateway(), bits: n.cfg.Subnet.Bits(), mtu: n.cfg.MTU,
	}
}

// makeSlot takes an address and prepares everything that does not depend on who will have it.
func (n *Network) makeSlot() (*slot, error) {
	n.making <- struct{}{} // the kernel makes links one at a time: more at once only cost threads
	defer func() { <-n.making }()
	ip, err := n.takeAddress()
	if err != nil {
		return nil, err
	}
	s := n.slotAt(ip)
	if err := n.fillSlot(s); err != nil {
		return nil, errors.Join(err, n.destroy(s))
	}
	return s, nil
}

// takeAddress takes the next free address and notes how far the search has come.
func (n *Network) takeAddress() (netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	ip, err := n.addrs.take()
	if err != nil {
		return ip, err
	}
	if err := replaceFile(filepath.Join(n.slotsDir(), cursorFile), []byte(ip.String())); err != nil {
		n.addrs.release(ip)
		return ip, err
	}
	return ip, nil
}

func (n *Network) fillSlot(s *slot) error {
	if err := os.Mkdir(s.dir, 0o755); err != nil {
		return fmt.Errorf("make slot: %w", err)
	}
	if err := makeNamespace(s.path(nsFile), n.wiring(s.addr)); err != nil {
		return err
	}
	return replaceFile(s.path(readyFile), nil)
}

// destroy removes a slot, complete or not, and gives its address back. It is idempotent.
func (n *Network) destroy(s *slot) error {
	if err := errors.Join(n.removeLink(vethName(s.addr)), unmount(s.path(nsFile))); err != nil {
		return err
	}
	if err := os.RemoveAll(s.dir); err != nil {
		return fmt.Errorf("remove slot: %w", err)
	}
	n.mu.Lock()
	n.addrs.release(s.addr)
	n.mu.Unlock()
	return nil
}

func (n *Network) removeLink(name string) error {
	link, err := n.host.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find veth: %w", err)
	}
	if err := n.host.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove veth: %w", err)
	}
	return nil
}

// unmount takes the namespace off path, as often as it was mounted there.
func unmount(path string) error {
	for isNamespace(path) {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount namespace: %w", err)
		}
	}
	return nil
}

// adopt reads every slot on disk. Complete ones are kept, with their owners or in the pool; what a process
// left that was killed in the middle is removed.
func (n *Network) adopt() error {
	entries, err := os.ReadDir(n.slotsDir())
	if err != nil {
		return fmt.Errorf("read slots: %w", err)
	}
	if last, err := os.ReadFile(filepath.Join(n.slotsDir(), cursorFile)); err == nil {
		if ip, err := netip.ParseAddr(string(last)); err == nil {
			n.addrs.resume(ip)
		}
	}
	var errs []error
	for _, e := range entries {
		ip, err := netip.ParseAddr(e.Name())
		if err != nil {
			continue // not ours
		}
		s := n.slotAt(ip)
		if !n.addrs.claim(ip) || !n.revive(s) {
			errs = append(errs, n.destroy(s))
			continue
		}
		if s.owner == nil {
			n.pool = append(n.pool, s)
		} else {
			n.owned[s.owner.ID] = s
		}
	}
	return errors.Join(append(errs, n.removeStrays())...)
}

// revive makes a slot found on disk whole and reads its owner. It reports false when the slot cannot be used any more.
func (n *Network) revive(s *slot) bool {
	if _, err := os.Stat(s.path(readyFile)); err != nil || !isNamespace(s.path(nsFile)) {
		return false
	}
	own, err := readOwner(s.dir)
	if err != nil {
		n.log.Warn("Network slot unreadable, removing it", "address", s.addr, "err", err)
		return false
	}
	s.owner = own
	link, err := n.host.LinkByName(vethName(s.addr))
	if err != nil {
		err = rewire(s.path(nsFile), n.wiring(s.addr))
	} else if link.Attrs().MasterIndex != n.bridge {
		err = errors.Join(n.host.LinkSetMasterByIndex(link, n.bridge), n.host.LinkSetHairpin(link, true), n.host.LinkSetUp(link))
	}
	if err != nil {
		n.log.Warn("Network slot broken, removing it", "address", s.addr, "err", err)
	}
	return err == nil
}

// removeStrays deletes the bridge's veths that belong to no slot.
func (n *Network) removeStrays() error {
	links, err := n.host.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return fmt.Errorf("list links: %w", err)
	}
	known := map[string]bool{}
	n.mu.Lock()
	bridge := n.bridge
	for ip := range n.addrs.used {
		known[vethName(fromUint(ip))] = true
	}
	n.mu.Unlock()
	var errs []error
	for _, l := range links {
		if l.Attrs().MasterIndex == bridge && strings.HasPrefix(l.Attrs().Name, "vx") && !known[l.Attrs().Name] {
			errs = append(errs, n.removeLink(l.Attrs().Name))
		}
	}
	return errors.Join(errs...)
}
