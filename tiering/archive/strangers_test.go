package archive

import (
	"context"
	"slices"
	"testing"

	"varve.dev/metadata"
	"varve.dev/objectstore"
	"varve.dev/objectstore/memory"
)

type inventory metadata.Inventory

func (i inventory) Referenced(context.Context) (metadata.Inventory, error) {
	return metadata.Inventory(i), nil
}

// TestOnlyWhatNothingExplainsIsAStranger: an agent that was killed has left an upload on its way.
func TestOnlyWhatNothingExplainsIsAStranger(t *testing.T) {
	store, err := memory.Open(t.Context(), memory.Config{})
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"wal/on-its-way", "wal/intended", "wal/dead", "wal/stranger", "incarnation/1", "probe/left"} {
		if err := store.Put(t.Context(), key, objectstore.NewBytes([]byte("x"))); err != nil {
			t.Fatal(err)
		}
	}
	index := inventory{Intents: []string{"wal/intended"}, Tombstones: []metadata.Tombstone{{Key: "wal/dead"}}, Lives: []metadata.Ended{{Seq: 8}}}
	doomed := func(e metadata.Ended) []string {
		if e.Seq != 8 {
			t.Errorf("asked for what follows number %d, want 8", e.Seq)
		}
		return []string{"wal/on-its-way", "wal/never-sent"}
	}
	r, err := Verify(t.Context(), store, index, Options{Doomed: doomed})
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, p := range r.Problems {
		found = append(found, p.Error())
	}
	if want := []string{"object wal/stranger, 1 bytes: nothing in the index names it"}; !slices.Equal(found, want) {
		t.Errorf("found %q, want %q", found, want)
	}
}
