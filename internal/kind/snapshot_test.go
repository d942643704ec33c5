package kind_test

import (
	"fmt"
	"maps"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vortex/internal/kind"
	"vortex/internal/kind/kindtest"
)

// TestSnapshotsStayWhatTheyAre takes one before each of many changes and reads them all at the end: each equals the model.
func TestSnapshotsStayWhatTheyAre(t *testing.T) {
	const changes, keys = 300, 40
	store := kindtest.Open(t)
	model := map[string]string{}
	var snapshots []*kind.Snapshot
	var want []map[string]string
	for n := range changes {
		snapshots, want = append(snapshots, store.Snapshot()), append(want, maps.Clone(model))
		key := fmt.Sprintf("k%02d", n*7%keys)
		if n%5 == 4 {
			delete(model, key)
			if _, err := store.Delete(t.Context(), key); err != nil {
				t.Fatal(err)
			}
			continue
		}
		model[key] = strconv.Itoa(n)
		if _, err := store.Put(t.Context(), key, []byte(model[key]), 0); err != nil {
			t.Fatal(err)
		}
	}
	for n, snap := range snapshots {
		got := map[string]string{}
		for rec := range snap.All() {
			got[rec.Key] = string(rec.Value)
		}
		if diff := cmp.Diff(want[n], got); diff != "" || snap.Len() != len(got) {
			t.Fatalf("snapshot %d at revision %d of %d records: %s", n, snap.Revision, snap.Len(), diff)
		}
	}
}

func TestSnapshotLeavesOutWhatHadExpired(t *testing.T) {
	store := kindtest.Open(t)
	if _, err := store.Put(t.Context(), "brief", []byte("1"), time.Millisecond); err != nil {
		t.Fatal(err)
	}
	kindtest.Eventually(t, "it expires", func() bool { _, err := store.Get("brief"); return err != nil })
	for rec := range store.Snapshot().All() {
		t.Errorf("%s is in the snapshot", rec.Key)
	}
}
