package routes

import (
	"context"
	"hash/fnv"
	"net/netip"

	"vortex"
	"vortex/internal/kind"
)

// SubnetBits is the size of a node's subnet: room for 253 instances.
const SubnetBits = 24

// Claim returns the subnet of a node within the cluster's range: the one it claimed before, else a free one, which is claimed
// by writing its record under the condition that nobody has. The error is Invalid for a range that holds no subnet, and Exhausted
// when other nodes have them all.
func Claim(ctx context.Context, store *kind.Store, node string, within netip.Prefix) (netip.Prefix, error) {
	if !within.Addr().Is4() || within.Bits() > SubnetBits || within.Bits() < 8 {
		return netip.Prefix{}, vortex.Errorf(vortex.Invalid, "the cluster's subnet must be an IPv4 network from /8 to /%d, such as 10.42.0.0/16, got %s", SubnetBits, within)
	}
	for {
		own, free, err := survey(store, node, within.Masked())
		if err != nil || own.IsValid() {
			return own, err
		}
		op, err := kind.PutOp(vortex.Subnets, &vortex.SubnetRecord{Node: node}, free.String())
		if err != nil {
			return netip.Prefix{}, err
		}
		_, err = store.Commit(ctx, kind.Txn{If: []kind.Condition{kind.IfRevision(op.Key, 0)}, Ops: []kind.Op{op}})
		switch {
		case err == nil:
			return free, nil
		case !vortex.IsKind(err, vortex.Conflict):
			return netip.Prefix{}, err
		}
	}
}

// survey returns the subnet that a node has, or else one that nobody has. Where the search for it begins depends on the
// node's name, so that nodes which join at once seldom meet.
func survey(store *kind.Store, node string, within netip.Prefix) (own, free netip.Prefix, err error) {
	taken := map[netip.Prefix]bool{}
	for _, e := range kind.All(store, vortex.Subnets) {
		p, err := netip.ParsePrefix(e.ID)
		if err != nil || !within.Overlaps(p) {
			continue // of a range that was set before
		}
		if e.Value.Node == node {
			return p, netip.Prefix{}, nil
		}
		taken[p] = true
	}
	count := uint32(1) << (SubnetBits - within.Bits())
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(node)) // it cannot fail
	for i := range count {
		if p := subnet(within, (hash.Sum32()+i)%count); !taken[p] {
			return netip.Prefix{}, p, nil
		}
	}
	return netip.Prefix{}, netip.Prefix{}, vortex.Errorf(vortex.Exhausted, "all %d subnets of %s belong to other nodes: set a larger cluster.subnet", count, within)
}

// subnet returns a range's nth part.
func subnet(within netip.Prefix, n uint32) netip.Prefix {
	a := within.Addr().As4()
	start := uint32(a[0])<<24 | uint32(a[1])<<16 | uint32(a[2])<<8
	start += n << (32 - SubnetBits)
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(start >> 24), byte(start >> 16), byte(start >> 8)}), SubnetBits)
}
