package vortex_test

import (
	"testing"

	"vortex"
)

func TestTableKeys(t *testing.T) {
	for _, test := range []struct{ got, want string }{
		{vortex.Containers.Key("web-1"), "vortex:container:web-1"},
		{vortex.Releases.Key("web", "3"), "vortex:release:web:3"},
		{vortex.ScaleJobs.Key(), "vortex:queue:scale"},
		{vortex.Releases.ID("vortex:release:web:3"), "web:3"},
		{vortex.Routers.ID("router:web"), "web"},
		{vortex.Routers.ID("router"), ""},
		{vortex.Routers.ID("routers:web"), ""},
		{vortex.Containers.ID("vortex:node:web"), ""},
	} {
		if test.got != test.want {
			t.Errorf("got %q, want %q", test.got, test.want)
		}
	}
}

func TestTableDecodeSetsDefaults(t *testing.T) {
	rec, err := vortex.Apps.Decode([]byte(`{"name":"web","spec":{"metadata":{"name":"web"},"spec":{"ports":[{"containerPort":80}]},"route":{}}}`))
	if err != nil {
		t.Fatal(err)
	}
	app := rec.Spec
	if app.APIVersion != "v1" || app.Spec.Type != vortex.AppTypeHTTP || app.Spec.Ports[0].Protocol != vortex.PortProtocolHTTP {
		t.Errorf("defaults are missing: %+v", app)
	}
	if app.Route.Balance != vortex.BalancePolicyRoundRobin || app.Scaling != nil {
		t.Errorf("wrong route or scaling: %+v", app)
	}
}

func TestTableDecodePassesOverNewerFields(t *testing.T) {
	rec, err := vortex.Containers.Decode([]byte(`{"id":"1","colour":"red"}`))
	if err != nil || rec.ID != "1" {
		t.Errorf("Decode returned %+v, %v", rec, err)
	}
	if _, err := vortex.Containers.Decode([]byte(`{"id":1}`)); err == nil {
		t.Error("a number is accepted as an id")
	}
}

func TestSchemaIsACopy(t *testing.T) {
	clear(vortex.Schema())
	if vortex.Schema()[0] == 0 {
		t.Error("a caller changed the schema for all others")
	}
}
