package endpoints_test

import (
	"strings"
	"testing"
	"time"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/kind/kindtest"
)

// tcp is an app of type tcp with ports.
func tcp(name string, ports ...vortex.Port) vortex.AppRecord {
	rec := vortex.AppRecord{Name: name, Generation: 1, CreatedAt: time.Now(), UpdatedAt: time.Now()}
	rec.Spec.Metadata.Name, rec.Spec.Spec.Type, rec.Spec.Spec.Ports = name, vortex.AppTypeTCP, ports
	rec.Spec.SetDefaults()
	return rec
}

// awaitPorts waits until an app has ports, as people write them.
func awaitPorts(t *testing.T, s *kind.Store, app, want string) {
	t.Helper()
	got := ""
	kindtest.Eventually(t, app+" to have "+want, func() bool {
		e, err := kind.Get(s, vortex.Routers, app)
		if err != nil {
			return false
		}
		var texts []string
		for i := range e.Value.Ports {
			texts = append(texts, e.Value.Ports[i].String())
		}
		got = strings.Join(texts, " ")
		return got == want
	})
}

func TestPortsAreGivenOnceAndKept(t *testing.T) {
	s := run(t)
	taken := container("y", vortex.ContainerStatusRunning, vortex.HealthHealthy)
	taken.IPAddress, taken.Port = "127.0.0.1", new(uint16(3001))
	put(t, s, vortex.Containers, "y", taken)
	put(t, s, vortex.Apps, "a", tcp("a", vortex.Port{ContainerPort: 5432}))
	awaitPorts(t, s, "a", "3000/tcp")
	put(t, s, vortex.Apps, "b", tcp("b", vortex.Port{ContainerPort: 53, Protocol: vortex.PortProtocolUDP}, vortex.Port{ContainerPort: 7000, EndPort: new(uint16(7002))}))
	awaitPorts(t, s, "b", "3002/udp 3003-3005/tcp")
	put(t, s, vortex.Apps, "c", tcp("c", vortex.Port{ContainerPort: 1, EdgePort: "3006"}, vortex.Port{ContainerPort: 2}))
	awaitPorts(t, s, "c", "3006/tcp 3007/tcp")
	put(t, s, vortex.Apps, "a", tcp("a", vortex.Port{ContainerPort: 80}, vortex.Port{ContainerPort: 5432}))
	awaitPorts(t, s, "a", "3008/tcp 3000/tcp")
	if _, err := s.Delete(t.Context(), vortex.Apps.Key("b")); err != nil {
		t.Fatal(err)
	}
	kindtest.Eventually(t, "the router of a deleted app is gone", func() bool { _, err := s.Get("router:b"); return err != nil })
	put(t, s, vortex.Apps, "d", tcp("d", vortex.Port{ContainerPort: 9}))
	awaitPorts(t, s, "d", "3002/tcp")
	put(t, s, vortex.Apps, "d", tcp("d", vortex.Port{ContainerPort: 9, EdgePort: "9000-9002"}))
	awaitPorts(t, s, "d", "9000-9002/tcp")
}

func TestBackendOfAnAppThatHasUDPAlone(t *testing.T) {
	s := run(t)
	put(t, s, vortex.Apps, "web", tcp("web", vortex.Port{ContainerPort: 53, Protocol: vortex.PortProtocolUDP}))
	put(t, s, vortex.Instances, "a", vortex.InstanceRecord{ID: "a", ClientID: "web", Release: 1, Wanted: vortex.WantedStateRunning, CreatedAt: time.Now()})
	c := container("a", vortex.ContainerStatusRunning, vortex.HealthHealthy)
	c.Port = nil
	put(t, s, vortex.Containers, "a", c)
	expect(t, s, "a")
	e, err := kind.Get(s, vortex.Routers, "web")
	if err != nil || e.Value.Backends[0].Port != 53 {
		t.Errorf("%+v, %v", e, err)
	}
}
