package endpoints_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vortex"
	"vortex/internal/endpoints"
	"vortex/internal/kind"
	"vortex/internal/kind/kindtest"
)

func run(t *testing.T) *kind.Store {
	t.Helper()
	store := kindtest.Open(t)
	e := &endpoints.Endpoints{Writer: kind.Writer{Store: store}, Log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("endpoints: %v", err)
		}
	})
	return store
}

func put[T any](t *testing.T, s *kind.Store, table vortex.Table[T], id string, value T) {
	t.Helper()
	if _, err := kind.Put(t.Context(), s, table, &value, id); err != nil {
		t.Fatal(err)
	}
}

func app(kindOf vortex.AppType) vortex.AppRecord {
	rec := vortex.AppRecord{Name: "web", Generation: 1, CreatedAt: time.Now(), UpdatedAt: time.Now()}
	rec.Spec.Metadata.Name, rec.Spec.Spec.Type = "web", kindOf
	rec.Spec.SetDefaults()
	return rec
}

func container(id string, status vortex.ContainerStatus, health vortex.Health) vortex.ContainerRecord {
	return vortex.ContainerRecord{ID: id, ClientID: "web", Status: status, Health: health, IPAddress: "10.0.0.1", Port: new(uint16(80)), Node: "n-" + id}
}

// serving puts an app with two healthy instances, and waits for both to be backends.
func serving(t *testing.T, s *kind.Store) {
	t.Helper()
	put(t, s, vortex.Apps, "web", app(vortex.AppTypeHTTP))
	for _, id := range []string{"a", "b"} {
		put(t, s, vortex.Instances, id, vortex.InstanceRecord{ID: id, ClientID: "web", Release: 1, Wanted: vortex.WantedStateRunning, CreatedAt: time.Now()})
		put(t, s, vortex.Containers, id, container(id, vortex.ContainerStatusRunning, vortex.HealthHealthy))
	}
	expect(t, s, "a", "b")
}

func expect(t *testing.T, s *kind.Store, want ...string) {
	t.Helper()
	var got []string
	kindtest.Eventually(t, "the backends", func() bool {
		got = nil
		e, err := kind.Get(s, vortex.Routers, "web")
		if err != nil {
			return false
		}
		for _, b := range e.Value.Backends {
			got = append(got, b.Instance)
		}
		return cmp.Equal(got, want)
	})
}

func TestBackendLeavesAsSoonAsItDoesNotServe(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, s *kind.Store){
		"dead": func(t *testing.T, s *kind.Store) {
			t.Helper()
			put(t, s, vortex.Containers, "a", container("a", vortex.ContainerStatusDead, vortex.HealthHealthy))
		},
		"unhealthy": func(t *testing.T, s *kind.Store) {
			t.Helper()
			put(t, s, vortex.Containers, "a", container("a", vortex.ContainerStatusRunning, vortex.HealthUnhealthy))
		},
		"container gone": func(t *testing.T, s *kind.Store) {
			t.Helper()
			_, _ = s.Delete(t.Context(), vortex.Containers.Key("a"))
		},
		"draining": func(t *testing.T, s *kind.Store) {
			t.Helper()
			put(t, s, vortex.Instances, "a", vortex.InstanceRecord{ID: "a", ClientID: "web", Release: 1, Wanted: vortex.WantedStateDraining, CreatedAt: time.Now()})
		},
		"node suspect": func(t *testing.T, s *kind.Store) {
			t.Helper()
			put(t, s, vortex.Liveness, "n-a", vortex.LivenessRecord{Node: "n-a", State: vortex.LivenessStateSuspect, Since: time.Now()})
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := run(t)
			serving(t, s)
			watch := s.Watch(kind.WatchOptions{Prefixes: []string{vortex.Routers.Prefix + ":"}})
			defer watch.Close()
			spoil(t, s)
			batches, err := watch.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			e, err := kind.Decode(vortex.Routers, batches[0].Events[0].Record)
			if err != nil || len(e.Value.Backends) != 1 || e.Value.Backends[0].Instance != "b" {
				t.Fatalf("the very next router is %+v, %v", e.Value, err)
			}
		})
	}
}

func TestRouterComesAndGoesWithItsApp(t *testing.T) {
	s := run(t)
	serving(t, s)
	put(t, s, vortex.Liveness, "n-a", vortex.LivenessRecord{Node: "n-a", State: vortex.LivenessStateDown, Since: time.Now()})
	expect(t, s, "b")
	put(t, s, vortex.Liveness, "n-a", vortex.LivenessRecord{Node: "n-a", State: vortex.LivenessStateReady, Since: time.Now()})
	expect(t, s, "a", "b")
	put(t, s, vortex.Apps, "web", app(vortex.AppTypeWorker))
	kindtest.Eventually(t, "a worker has no router", func() bool { _, err := s.Get("router:web"); return err != nil })
	put(t, s, vortex.Apps, "web", app(vortex.AppTypeTCP))
	expect(t, s, "a", "b")
	if _, err := s.Delete(t.Context(), vortex.Apps.Key("web")); err != nil {
		t.Fatal(err)
	}
	kindtest.Eventually(t, "the router of a deleted app is gone", func() bool { _, err := s.Get("router:web"); return err != nil })
}

func TestRouterCarriesHowToBalance(t *testing.T) {
	s := run(t)
	rec := app(vortex.AppTypeHTTP)
	rec.Spec.Route = &vortex.Route{
		Balance: vortex.BalancePolicyMaglev, Hash: &vortex.HashKey{Header: "X-User"}, Sticky: &vortex.Sticky{},
		SlowStartSeconds: new(30.0), Zone: &vortex.ZonePreference{Prefer: new(true)},
		Split:  []vortex.SplitPart{{Release: new(uint64(1)), Weight: 9}, {Weight: 1}},
		Mirror: &vortex.Mirror{App: "shadow", Percent: 5},
	}
	put(t, s, vortex.Apps, "web", rec)
	put(t, s, vortex.Nodes, "n-a", vortex.NodeRecord{ID: "n-a", Labels: map[string]string{"zone": "east"}, Drivers: []string{}})
	put(t, s, vortex.Instances, "a", vortex.InstanceRecord{ID: "a", ClientID: "web", Release: 1, Wanted: vortex.WantedStateRunning, CreatedAt: time.Now()})
	put(t, s, vortex.Containers, "a", container("a", vortex.ContainerStatusRunning, vortex.HealthHealthy))
	expect(t, s, "a")
	e, err := kind.Get(s, vortex.Routers, "web")
	if err != nil {
		t.Fatal(err)
	}
	got, route := e.Value, rec.Spec.Route
	key := got.StickyKey
	if len(key) != 32 {
		t.Errorf("the sticky key has %d bytes", len(key))
	}
	want := vortex.RouterRecord{
		ClientID: "web", Type: vortex.AppTypeHTTP, Balance: route.Balance, Hash: route.Hash, Sticky: route.Sticky, StickyKey: key,
		SlowStartSeconds: route.SlowStartSeconds, Zone: route.Zone, Split: route.Split, Mirror: route.Mirror,
		Backends: []vortex.Backend{{Instance: "a", Address: "10.0.0.1", Port: 80, Node: "n-a", Release: new(uint64(1)), Zone: "east"}},
	}
	if diff := cmp.Diff(want, *got); diff != "" {
		t.Error(diff)
	}
	put(t, s, vortex.Nodes, "n-a", vortex.NodeRecord{ID: "n-a", Labels: map[string]string{"zone": "west"}, Drivers: []string{}})
	kindtest.Eventually(t, "the backend is in its node's new zone", func() bool {
		e, err = kind.Get(s, vortex.Routers, "web")
		return err == nil && len(e.Value.Backends) == 1 && e.Value.Backends[0].Zone == "west"
	})
	if !cmp.Equal(e.Value.StickyKey, key) {
		t.Error("the sticky key changed: every session would lose its backend")
	}
}

func TestRouterCarriesHowToJudgeBackends(t *testing.T) {
	s := run(t)
	rec := app(vortex.AppTypeHTTP)
	rec.Spec.Route = &vortex.Route{
		HealthCheck: vortex.HealthCheckerEdge, PanicPercent: new(uint32(30)),
		Outlier: &vortex.Outlier{}, Circuit: &vortex.Circuit{MaxRequests: new(uint32(100))},
	}
	rec.Spec.Spec.Ports = []vortex.Port{{ContainerPort: 8080, Protocol: vortex.PortProtocolHTTP}}
	rec.Spec.HealthCheck = &vortex.HealthCheck{Protocol: vortex.ProbeProtocolHTTP, Path: "/health", Port: new(uint16(8080))}
	put(t, s, vortex.Apps, "web", rec)
	judged := func(what string, want *vortex.PoolHealth) {
		t.Helper()
		var got *vortex.PoolHealth
		kindtest.Eventually(t, what, func() bool {
			e, err := kind.Get(s, vortex.Routers, "web")
			if err != nil {
				return false
			}
			got = e.Value.Health
			return cmp.Equal(want, got)
		})
	}
	judged("the check goes to the backends' own port", &vortex.PoolHealth{
		HealthCheck: &vortex.HealthCheck{Protocol: vortex.ProbeProtocolHTTP, Path: "/health"}, Checker: vortex.HealthCheckerEdge,
		PanicPercent: new(uint32(30)), Outlier: &vortex.Outlier{}, Circuit: &vortex.Circuit{MaxRequests: new(uint32(100))},
	})
	rec.Spec.Route = nil
	rec.Spec.HealthCheck = &vortex.HealthCheck{Protocol: vortex.ProbeProtocolEXEC, Command: []string{"/check"}}
	put(t, s, vortex.Apps, "web", rec)
	judged("a command is nothing an edge can run", nil)
}
