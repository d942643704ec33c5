package agent_test

import (
	"maps"
	"testing"
	"time"

	"vortex"
	"vortex/internal/kind"
)

// TestOperatorsLabelsComeOverTheNodesOwn gives a node labels while its agent runs, while it does not, and takes them back.
func TestOperatorsLabelsComeOverTheNodesOwn(t *testing.T) {
	b := prepared(t)
	b.cfg.Node.Labels = map[string]string{"zone": "us", "rack": "7"}
	b.use(newSim(t))
	b.start()
	b.labeled(map[string]string{"zone": "us", "rack": "7"})
	started := must[kind.Entry[vortex.NodeRecord]](t)(kind.Get(b.store, vortex.Nodes, node)).Value.StartedAt

	give := func(labels map[string]string) {
		t.Helper()
		if _, err := kind.Put(t.Context(), b.store, vortex.NodeLabels, &vortex.LabelsRecord{Node: node, Labels: labels}, node); err != nil {
			t.Fatal(err)
		}
	}
	give(map[string]string{"zone": "eu", "disk": "ssd"})
	b.labeled(map[string]string{"zone": "eu", "rack": "7", "disk": "ssd"})
	rec := must[kind.Entry[vortex.NodeRecord]](t)(kind.Get(b.store, vortex.Nodes, node)).Value
	if !rec.StartedAt.Equal(started) || len(rec.Drivers) != 1 {
		t.Errorf("the record has changed in more than its labels: %+v", rec)
	}
	b.stop()
	give(map[string]string{"disk": "hdd"})
	b.start()
	b.labeled(map[string]string{"zone": "us", "rack": "7", "disk": "hdd"})
	if _, err := b.store.Commit(t.Context(), kind.Txn{Ops: []kind.Op{kind.DeleteOp(vortex.NodeLabels, node)}}); err != nil {
		t.Fatal(err)
	}
	b.labeled(map[string]string{"zone": "us", "rack": "7"})
}

// labeled waits until the node's record has these labels.
func (b *bed) labeled(want map[string]string) {
	b.t.Helper()
	var got map[string]string
	for range 6000 {
		if rec, err := kind.Get(b.store, vortex.Nodes, node); err == nil {
			if got = rec.Value.Labels; maps.Equal(got, want) {
				return
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	b.t.Fatalf("the node's labels are %v, want %v", got, want)
}
