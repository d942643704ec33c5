package vortex_test

import (
	"fmt"
	"strings"
	"testing"

	"vortex"
)

func TestHealthSettingsAreChecked(t *testing.T) {
	t.Parallel()
	web := func() *vortex.App {
		return &vortex.App{
			Metadata: vortex.Metadata{Name: "web"},
			Spec:     vortex.AppSpec{Image: "web:1", Ports: []vortex.Port{{ContainerPort: 80}}},
			Route:    &vortex.Route{},
		}
	}
	for _, test := range []struct {
		set  func(*vortex.App)
		want string // "" is valid; else path and words of the one problem
	}{
		{func(a *vortex.App) { a.Route.HealthCheck = vortex.HealthCheckerEdge }, ""},
		{func(a *vortex.App) { a.Route.HealthCheck = "everybody" }, `route.healthCheck: expected one of agent, edge, got "everybody"`},
		{func(a *vortex.App) { a.Route.PanicPercent = new(uint32(0)) }, ""},
		{func(a *vortex.App) { a.Route.PanicPercent = new(uint32(101)) }, "route.panicPercent: expected a percentage from 0 to 100, got 101"},
		{func(a *vortex.App) { a.Route.Outlier = &vortex.Outlier{} }, ""},
		{func(a *vortex.App) {
			a.Route.Outlier = &vortex.Outlier{Consecutive5xx: new(uint32(0)), SuccessRateDeviations: new(0.0)}
		}, ""},
		{func(a *vortex.App) { a.Route.Outlier = &vortex.Outlier{EjectionSeconds: new(0.0)} }, "route.outlier.ejectionSeconds: expected a number from 0.001"},
		{func(a *vortex.App) { a.Route.Outlier = &vortex.Outlier{MaxEjectedPercent: new(uint32(0))} }, "route.outlier.maxEjectedPercent: expected a percentage from 1 to 100, got 0"},
		{func(a *vortex.App) { a.Route.Outlier = &vortex.Outlier{MinBackends: new(uint32(0))} }, "route.outlier.minBackends: expected at least 1"},
		{func(a *vortex.App) { a.Route.Outlier = &vortex.Outlier{SuccessRateDeviations: new(-1.0)} }, "route.outlier.successRateDeviations: expected a number from 0 to 100, got -1"},
		{func(a *vortex.App) {
			a.Route.Circuit = &vortex.Circuit{MaxPending: new(uint32(0)), MaxRequests: new(uint32(5))}
		}, ""},
		{func(a *vortex.App) { a.Route.Circuit = &vortex.Circuit{MaxRequests: new(uint32(0))} }, "route.circuit.maxRequests: expected at least 1, got 0; leave it out for no limit"},
		{
			func(a *vortex.App) {
				a.Route.Circuit = &vortex.Circuit{Backend: &vortex.BackendCircuit{MaxConnections: new(uint32(0))}}
			}, "route.circuit.backend.maxConnections: expected at least 1",
		},
		{func(a *vortex.App) { a.HealthCheck = &vortex.HealthCheck{Protocol: "GRPC", Service: "shop.Cart"} }, ""},
		{func(a *vortex.App) {
			a.HealthCheck = &vortex.HealthCheck{Protocol: "TCP", Send: "PING\r\n", Expect: "PONG"}
		}, ""},
		{func(a *vortex.App) { a.HealthCheck = &vortex.HealthCheck{Send: "PING\r\n"} }, "healthCheck.send: send means nothing to a check by HTTP; set protocol: TCP or remove it"},
		{func(a *vortex.App) { a.HealthCheck = &vortex.HealthCheck{Protocol: "GRPC", Path: "/"} }, "healthCheck.path: path means nothing to a check by GRPC; set protocol: HTTP or remove it"},
		{func(a *vortex.App) {
			a.HealthCheck = &vortex.HealthCheck{Protocol: "TCP", Expect: strings.Repeat("x", 5000)}
		}, "healthCheck.expect: expected at most 4096 bytes, got 5000"},
	} {
		a := web()
		test.set(a)
		got := fmt.Sprint(a.Problems())
		if test.want == "" && got != "[]" || !strings.Contains(got, test.want) {
			t.Errorf("got %s, want %q", got, test.want)
		}
	}
}
