package vortex_test

import (
	"strings"
	"testing"

	"vortex"
)

func TestCheckLabel(t *testing.T) {
	t.Parallel()
	for label, good := range map[string]bool{
		"zone=eu": true, "topology/rack=r_7.b-2": true, "GPU=": true, strings.Repeat("k", 63) + "=v": true,
		"=eu": false, "a b=c": false, "a=c d": false, "a=b,c": false, "ä=b": false, strings.Repeat("k", 64) + "=v": false,
		"k=" + strings.Repeat("v", 64): false,
	} {
		key, value, _ := strings.Cut(label, "=")
		if err := vortex.CheckLabel(key, value); (err == nil) != good {
			t.Errorf("%s: %v", label, err)
		}
	}
}
