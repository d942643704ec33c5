package spec_test

import (
	"bytes"
	"testing"

	"vortex/internal/spec"
)

func TestComposeFileBecomesApps(t *testing.T) {
	const file = "testdata/compose/shop.yaml"
	parser := spec.Parser{Dir: "testdata/compose", Environment: map[string]string{"TOKEN": "s3cret"}}
	apps, err := parser.Parse(file, read(t, file))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for _, app := range apps {
		data, err := spec.Marshal(app)
		if err != nil {
			t.Fatal(err)
		}
		out.WriteString("---\n")
		out.Write(data)
	}
	golden(t, file, out.String())
}
