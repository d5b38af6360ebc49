package sim

import (
	"path/filepath"
	"testing"

	"varve.dev/metadata"
	"varve.dev/metadata/metatest"
	"varve.dev/metadata/sqlite"
	"varve.dev/objectstore"
	"varve.dev/objectstore/memory"
	"varve.dev/objectstore/storetest"
)

// The stores that fail are held to the same contracts as the real ones, while nothing fails.
func healthy() *world {
	p := newPlan(0)
	p.begin()
	p.heal()
	return &world{plan: p, objects: memory.New(), commits: map[string]bool{}, offsets: newLedger()}
}

func TestMetadataContract(t *testing.T) {
	metatest.Run(t, func(t *testing.T) metadata.Store {
		w := healthy()
		meta, err := sqlite.Open(t.Context(), filepath.Join(scratch(t), "metadata.db"), sqlite.Config{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { meta.Close() })
		w.meta = meta
		g := newGate()
		seen := &witness{Store: meta, w: w, gate: g, did: map[string]int{}}
		d := newDatabase(w, g, &trips{})
		d.next = seen
		return &asker{d, seen}
	})
}

func TestStoreContract(t *testing.T) {
	storetest.Run(t, func(*testing.T) objectstore.Store {
		w := healthy()
		return &bucket{next: w.objects, w: w, gate: newGate(), trips: &trips{}}
	}, storetest.Traits{RefusesWrongChecksum: true, RefusesFolders: true})
}
