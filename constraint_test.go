package vortex_test

import (
	"testing"

	"vortex"
)

func TestConstraints(t *testing.T) {
	node := vortex.NodeRecord{
		ID: "n1", Name: "alpha", OS: "linux", Arch: "amd64",
		Labels: map[string]string{"zone": "eu", "example.com/disk": "ssd", "empty": ""},
	}
	for _, c := range []struct {
		text  string
		match bool
		text2 string
	}{
		{"node.labels.zone == eu", true, ""},
		{"node.labels.zone==eu", true, "node.labels.zone == eu"},
		{"  node.labels.zone  !=  eu ", false, "node.labels.zone != eu"},
		{"node.labels.zone!=us", true, "node.labels.zone != us"},
		{"node.labels.rack == a", false, ""},
		{"node.labels.rack != a", true, ""},
		{"node.labels.example.com/disk == ssd", true, ""},
		{`node.labels.zone == "eu"`, true, "node.labels.zone == eu"},
		{"node.labels.zone == 'eu'", true, "node.labels.zone == eu"},
		{"node.arch == amd64", true, ""},
		{"node.arch != amd64", false, ""},
		{"node.os == linux", true, ""},
		{"node.id == n1", true, ""},
		{"node.name == alpha", true, ""},
		{"node.name == Alpha", false, ""},
	} {
		got, err := vortex.ParseConstraint(c.text)
		if err != nil {
			t.Errorf("ParseConstraint(%q): %v", c.text, err)
			continue
		}
		if got.Match(node) != c.match {
			t.Errorf("%q matches %t, want %t", c.text, !c.match, c.match)
		}
		want := c.text2
		if want == "" {
			want = c.text
		}
		if got.String() != want {
			t.Errorf("%q is written as %q, want %q", c.text, got, want)
		}
	}
	for _, text := range []string{
		"", "=", "==", "!=", "node.arch", "node.arch = amd64", "node.arch ==", "== amd64", "node.labels. == x", "node.zone == eu",
		"labels.zone == eu", "node.labels.zone in (a, b)", "node.arch == a == b", "node.arch == a, node.os == b", "node.labels.a b == c",
		`node.labels.zone == ""`, "node.arch === amd64", "node.arch !== amd64", "node.arch =! amd64", `node.arch == "amd64`,
	} {
		if got, err := vortex.ParseConstraint(text); !vortex.IsKind(err, vortex.Invalid) {
			t.Errorf("ParseConstraint(%q) = %v, %v; want an Invalid error", text, got, err)
		}
	}
	if !(vortex.Constraint{}).Match(node) {
		t.Error("the zero constraint does not match")
	}
}
