package spec_test

import (
	"strings"
	"testing"

	"vortex"
	"vortex/internal/spec"
)

// balancer is a file of an edge that objects to pools without backends.
type balancer struct{ vortex.EdgeFile }

func (b *balancer) Problems() []vortex.Problem {
	for _, pool := range b.Pools {
		if len(pool.Backends) == 0 {
			return []vortex.Problem{{Path: "pools[0].backends", Msg: "expected a backend"}}
		}
	}
	return nil
}

func TestDecodeReadsATypeOfTheSchema(t *testing.T) {
	var b balancer
	err := spec.Decode("edge.yaml", []byte(`
listeners: [{name: web, address: ":80"}]
routes: [{name: site, pool: site, hosts: [example.com]}]
pools: [{name: site, backends: [{address: "127.0.0.1:3000"}]}]
`), "EdgeFile", &b)
	if err != nil {
		t.Fatal(err)
	}
	if b.Listeners[0].Protocol != vortex.ListenerProtocolHTTP || b.Routes[0].Hosts[0] != "example.com" || b.Routes[0].Balance != vortex.BalancePolicyRoundRobin {
		t.Errorf("got %+v", b.EdgeFile)
	}
}

func TestDecodeTellsEveryFault(t *testing.T) {
	for doc, want := range map[string]string{
		"":                                  "edge.yaml: expected listeners, routes, pools",
		"listeners: []\nrouets: []":         `edge.yaml:2:1: unknown field "rouets" in the document; did you mean "routes"?`,
		"listeners: 1":                      "edge.yaml:1:12: listeners: expected a list",
		"listeners: [{name: a}]":            `edge.yaml:1:13: listeners[0]: the field "address" is required`,
		"listeners: []\n---\nlisteners: []": "edge.yaml:3:1: expected one document in the file",
		"listeners: [\n":                    "this is not valid YAML",
		`{"listeners": [{"names": "a"}]}`:   `unknown field "names" in listeners[0]; did you mean "name"?`,
		"listeners: []\npools: [{name: a, backends: []}]": "edge.yaml:2:19: pools[0].backends: expected a backend",
		"listeners: []\nenv: {}":                          `unknown field "env" in the document`,
	} {
		err := spec.Decode("edge.yaml", []byte(doc), "EdgeFile", &balancer{})
		if !vortex.IsKind(err, vortex.Invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v\nwant %q", doc, err, want)
		}
	}
}
