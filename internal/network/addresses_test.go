package network

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"vortex"
)

// The allocator against a plain model: never two holders, never an address out of bounds, and an address comes back
// only after every other free one was given.
func TestAddressesProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		prefix := netip.PrefixFrom(netip.MustParseAddr("10.1.2.0"), rapid.IntRange(24, 29).Draw(t, "bits"))
		a := newAddresses(prefix)
		held := map[netip.Addr]bool{}
		lastGiven := map[netip.Addr]int{}
		var order []netip.Addr
		for step := range rapid.IntRange(1, 400).Draw(t, "steps") {
			if rapid.Bool().Draw(t, "release") && len(order) > 0 {
				i := rapid.IntRange(0, len(order)-1).Draw(t, "which")
				a.release(order[i])
				delete(held, order[i])
				order = append(order[:i], order[i+1:]...)
				continue
			}
			if rapid.IntRange(0, 9).Draw(t, "restart") == 0 { // as Setup does: claims and the cursor
				b := newAddresses(prefix)
				b.resume(a.last())
				for ip := range held {
					if !b.claim(ip) {
						t.Fatalf("claim(%s) refused", ip)
					}
				}
				a = b
			}
			ip, err := a.take()
			if len(held) == int(a.count) {
				if !vortex.IsKind(err, vortex.Exhausted) {
					t.Fatalf("full subnet: take() = %v, %v", ip, err)
				}
				continue
			}
			if err != nil || held[ip] || !prefix.Contains(ip) || ip == a.gateway() || ip == prefix.Addr() {
				t.Fatalf("take() = %v, %v with %d held", ip, err, len(held))
			}
			for other := range a.count {
				o := fromUint(a.first + other)
				if !held[o] && o != ip && lastGiven[o] < lastGiven[ip] && lastGiven[ip] != 0 && lastGiven[o] == 0 {
					t.Fatalf("%s given again while %s never was", ip, o)
				}
			}
			held[ip] = true
			order = append(order, ip)
			lastGiven[ip] = step + 1
		}
	})
}

func TestNextFitAfterRelease(t *testing.T) {
	a := newAddresses(netip.MustParsePrefix("10.1.2.0/29"))
	seen := map[netip.Addr]bool{}
	for range a.count {
		ip, err := a.take()
		if err != nil || seen[ip] {
			t.Fatalf("take() = %v, %v: expected each address once before any twice", ip, err)
		}
		seen[ip] = true
		a.release(ip)
	}
	if ip, _ := a.take(); !seen[ip] {
		t.Errorf("after a round take() = %v, which is no address of the subnet", ip)
	}
}

func TestChooseSubnet(t *testing.T) {
	p := netip.MustParsePrefix
	tests := []struct {
		name   string
		wanted netip.Prefix
		taken  []netip.Prefix
		want   string
		kind   vortex.ErrorKind
	}{
		{name: "nothing in the way", want: "10.88.0.0/16"},
		{name: "default route is no clash", taken: []netip.Prefix{p("0.0.0.0/0")}, want: "10.88.0.0/16"},
		{name: "first taken", taken: []netip.Prefix{p("10.88.3.0/24"), p("10.89.0.0/16")}, want: "10.90.0.0/16"},
		{name: "a VPN has all of 10", taken: []netip.Prefix{p("10.0.0.0/8")}, want: "172.31.0.0/16"},
		{name: "all private space taken", taken: []netip.Prefix{p("10.0.0.0/8"), p("172.16.0.0/12")}, kind: vortex.Precondition},
		{name: "wanted", wanted: p("192.168.7.0/24"), taken: []netip.Prefix{p("192.168.8.0/24")}, want: "192.168.7.0/24"},
		{name: "wanted clashes", wanted: p("192.168.7.0/24"), taken: []netip.Prefix{p("192.168.0.0/16")}, kind: vortex.Precondition},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := chooseSubnet(tt.wanted, tt.taken)
			if tt.want == "" {
				if !vortex.IsKind(err, tt.kind) {
					t.Errorf("chooseSubnet() = %v, %v; want %v", got, err, tt.kind)
				}
			} else if err != nil || got.String() != tt.want {
				t.Errorf("chooseSubnet() = %v, %v; want %s", got, err, tt.want)
			}
		})
	}
}
