package vortex_test

import (
	"strings"
	"testing"

	"vortex"
)

func TestParsePorts(t *testing.T) {
	for text, want := range map[string][2]uint16{"5432": {5432, 5432}, "7000-7010": {7000, 7010}, "1-65535": {1, 65535}, "7-7": {7, 7}} {
		first, last, err := vortex.ParsePorts(text)
		if err != nil || first != want[0] || last != want[1] {
			t.Errorf("%q: %d, %d, %v", text, first, last, err)
		}
	}
	for _, text := range []string{"", "0", "65536", "-1", "1-", "-", "2-1", "1-2-3", "0x10", "+5", "05", " 5", "5 - 6", "a"} {
		if _, _, err := vortex.ParsePorts(text); err == nil || !strings.Contains(err.Error(), "7000-7010") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestPortsThatAreWrong(t *testing.T) {
	for want, ports := range map[string][]vortex.Port{
		"spec.ports[0].edgePort":             {{ContainerPort: 1, EdgePort: "x"}},
		"as many as from containerPort":      {{ContainerPort: 1, EndPort: new(uint16(3)), EdgePort: "5-6"}},
		"begins at containerPort 5":          {{ContainerPort: 5, EndPort: new(uint16(5))}},
		"at most 1000 ports":                 {{ContainerPort: 5, EdgePort: "1-2000"}},
		"spec.ports[1].edgePort: 6":          {{ContainerPort: 5, EdgePort: "5-7"}, {ContainerPort: 6, EdgePort: "6"}},
		"only for UDP: the rest":             {{ContainerPort: 5, Protocol: vortex.PortProtocolUDP, Forward: &vortex.Forward{Alpn: []string{"h2"}}}},
		"spec.ports[0].forward.maxSessions":  {{ContainerPort: 5, Forward: &vortex.Forward{MaxSessions: new(uint32(3))}}},
		"spec.ports[0].forward.serverNames[": {{ContainerPort: 5, Forward: &vortex.Forward{ServerNames: []string{"a/b"}}}},
		"expected one of v1, v2":             {{ContainerPort: 5, Forward: &vortex.Forward{ProxyProtocol: "v3"}}},
		"idleTimeoutSeconds: expected more":  {{ContainerPort: 5, Forward: &vortex.Forward{IdleTimeoutSeconds: new(0.0)}}},
	} {
		app := vortex.App{Metadata: vortex.Metadata{Name: "a"}, Spec: vortex.AppSpec{Type: vortex.AppTypeTCP, Image: "a", Ports: ports}}
		app.SetDefaults()
		if err := app.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %s, got %v", want, err)
		}
	}
	app := vortex.App{Metadata: vortex.Metadata{Name: "a"}, Spec: vortex.AppSpec{Type: vortex.AppTypeHTTP, Image: "a", Ports: []vortex.Port{{ContainerPort: 80, EdgePort: "80"}}}}
	app.SetDefaults()
	if err := app.Validate(); err == nil || !strings.Contains(err.Error(), "TCP or UDP") {
		t.Errorf("an edgePort of HTTP: %v", err)
	}
}
