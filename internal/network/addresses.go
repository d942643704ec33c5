package network

import (
	"encoding/binary"
	"net/netip"

	"vortex"
)

// addresses hands out the host addresses of an IPv4 subnet, next fit: the search goes on after the last one
// given, so that an address comes back only after all others had their turn. The network's
// own, the first (the bridge) and the broadcast address are never given. It is not safe for concurrent use.
type addresses struct {
	prefix netip.Prefix
	first  uint32 // the lowest that may be given
	count  uint32 // how many there are
	cursor uint32 // offset from first where the next search begins
	used   map[uint32]struct{}
}

func newAddresses(prefix netip.Prefix) *addresses {
	base := toUint(prefix.Masked().Addr())
	size := uint32(1) << (32 - prefix.Bits())
	return &addresses{prefix: prefix.Masked(), first: base + 2, count: size - 3, used: map[uint32]struct{}{}}
}

// gateway returns the subnet's first address.
func (a *addresses) gateway() netip.Addr { return fromUint(a.first - 1) }

// take gives a free address. The error is Exhausted when there is none.
func (a *addresses) take() (netip.Addr, error) {
	if len(a.used) >= int(a.count) {
		return netip.Addr{}, vortex.Errorf(vortex.Exhausted, "all %d addresses of %s are in use: stop instances or set a larger subnet", a.count, a.prefix)
	}
	for {
		n := a.first + a.cursor
		a.cursor = (a.cursor + 1) % a.count
		if _, taken := a.used[n]; !taken {
			a.used[n] = struct{}{}
			return fromUint(n), nil
		}
	}
}

// claim marks one address as used and reports whether it is one that may be given and was free.
func (a *addresses) claim(ip netip.Addr) bool {
	if !ip.Is4() || toUint(ip) < a.first || toUint(ip)-a.first >= a.count {
		return false
	}
	_, taken := a.used[toUint(ip)]
	a.used[toUint(ip)] = struct{}{}
	return !taken
}

// release makes an address free again.
func (a *addresses) release(ip netip.Addr) { delete(a.used, toUint(ip)) }

// last returns the address given last, and resume continues after it.
func (a *addresses) last() netip.Addr { return fromUint(a.first + (a.cursor+a.count-1)%a.count) }

func (a *addresses) resume(last netip.Addr) {
	if last.Is4() && toUint(last) >= a.first && toUint(last)-a.first < a.count {
		a.cursor = (toUint(last) - a.first + 1) % a.count
	}
}

func toUint(ip netip.Addr) uint32 {
	b := ip.As4()
	return binary.BigEndian.Uint32(b[:])
}

func fromUint(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n)))
}

// candidates are the subnets tried in this order when the user set none.
func candidates() []netip.Prefix {
	var out []netip.Prefix
	for b := byte(88); b < 128; b++ {
		out = append(out, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, b, 0, 0}), 16))
	}
	for b := byte(31); b > 17; b-- {
		out = append(out, netip.PrefixFrom(netip.AddrFrom4([4]byte{172, b, 0, 0}), 16))
	}
	return out
}

// chooseSubnet returns wanted, or the first candidate when wanted is not set, that overlaps none of taken.
// A default route overlaps nothing.
func chooseSubnet(wanted netip.Prefix, taken []netip.Prefix) (netip.Prefix, error) {
	if wanted.IsValid() {
		if clash := overlapping(wanted, taken); clash.IsValid() {
			return netip.Prefix{}, vortex.Errorf(vortex.Precondition, "subnet %s overlaps the route to %s on this node: set another subnet", wanted, clash)
		}
		return wanted, nil
	}
	for _, p := range candidates() {
		if !overlapping(p, taken).IsValid() {
			return p, nil
		}
	}
	return netip.Prefix{}, vortex.Errorf(vortex.Precondition, "no subnet of 10.88.0.0 to 10.127.0.0/16 or 172.18.0.0 to 172.31.0.0/16 is free on this node: set one")
}

func overlapping(p netip.Prefix, taken []netip.Prefix) netip.Prefix {
	for _, t := range taken {
		if t.Bits() > 0 && t.Overlaps(p) {
			return t
		}
	}
	return netip.Prefix{}
}
