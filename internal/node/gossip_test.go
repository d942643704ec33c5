package node

import (
	"fmt"
	"slices"
	"testing"
)

// TestPeersAreRemembered has machines come and go: who is away may come back.
func TestPeersAreRemembered(t *testing.T) {
	many := make([]string, 2*mostPeers)
	for i := range many {
		many[i] = fmt.Sprintf("10.0.0.%d:7946", i)
	}
	for name, c := range map[string]struct{ now, before, want []string }{
		"nobody yet":      {},
		"one came":        {now: []string{"b", "a"}, before: []string{"a"}, want: []string{"b", "a"}},
		"one is away":     {now: []string{"b"}, before: []string{"a", "b"}, want: []string{"b", "a"}},
		"all are away":    {before: []string{"a", "b"}, want: []string{"a", "b"}},
		"there are many":  {now: many[:mostPeers-1], before: many[mostPeers:], want: slices.Concat(many[:mostPeers-1], many[mostPeers:mostPeers+1])},
		"there are more":  {now: many, before: []string{"a"}, want: many[:mostPeers]},
		"said twice once": {now: []string{"a", "a"}, before: []string{"a", "b"}, want: []string{"a", "b"}},
	} {
		if got := remembered(c.now, c.before); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v are kept; want %v", name, got, c.want)
		}
	}
}
