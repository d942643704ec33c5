package network

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vortex"
	"vortex/internal/runtime"
)

func TestResolvContent(t *testing.T) {
	ip := netip.MustParseAddr
	fallback := []netip.Addr{ip("9.9.9.9")}
	tests := []struct {
		name, node string
		dns        []netip.Addr
		want       string
	}{
		{
			name: "node's own without loopback, IPv6 and junk",
			node: "# made by hand\nsearch corp.example\nnameserver 127.0.0.53\nnameserver ::1\nnameserver fe80::1%eth0\nnameserver 10.0.0.53\nnameserver\noptions\nnameserver what\noptions ndots:2",
			want: "nameserver 10.0.0.53\nsearch corp.example\noptions ndots:2\n",
		},
		{name: "none left", node: "nameserver 127.0.0.1\n", want: "nameserver 9.9.9.9\n"},
		{name: "none at all", want: "nameserver 9.9.9.9\n"},
		{name: "configured", node: "nameserver 10.0.0.53\nsearch a b\n", dns: []netip.Addr{ip("10.88.0.1"), ip("1.1.1.1")}, want: "nameserver 10.88.0.1\nnameserver 1.1.1.1\nsearch a b\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, string(resolvContent(tt.node, tt.dns, fallback))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAttachSpecValidation(t *testing.T) {
	tests := []struct {
		name, id string
		spec     AttachSpec
		says     string
	}{
		{"path in id", "../../etc", AttachSpec{}, "instance id"},
		{"no id", "", AttachSpec{}, "instance id"},
		{"line in hostname", "a", AttachSpec{Hostname: "x\n6.6.6.6 bank"}, "hostname"},
		{"line in extra host", "a", AttachSpec{ExtraHosts: []string{"x\n6.6.6.6 bank:1.2.3.4"}}, "extra host"},
		{"extra host without address", "a", AttachSpec{ExtraHosts: []string{"db"}}, "name:address"},
		{"no host port", "a", AttachSpec{Ports: []runtime.PortMapping{{ContainerPort: 80}}}, "1 to 65535"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.spec.validate(tt.id)
			if !vortex.IsKind(err, vortex.Invalid) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("validate() = %v; want Invalid saying %q", err, tt.says)
			}
		})
	}
}

func TestConfigValidateReportsAll(t *testing.T) {
	err := Config{Bridge: "a bridge name too long", Table: "x;drop", Subnet: netip.MustParsePrefix("fd00::/64"), MTU: 9}.Validate()
	for _, want := range []string{"bridge", "nftables table", "data directory", "subnet", "mtu"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Validate() = %v; want it to name %q", err, want)
		}
	}
}
