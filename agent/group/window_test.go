package group

import (
	"maps"
	"testing"

	"pgregory.net/rapid"
	"varve.dev/metadata"
)

// TestOneWriteDoesWhatItsPartsDo: the order of deletions and insertions within a write does not matter, since take and build
// leave nothing for it to decide.
func TestOneWriteDoesWhatItsPartsDo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		slots := []*slot{{id: "g0"}, {id: "g1"}}
		leases := map[*slot]metadata.ShardLease{slots[0]: {Shard: 1, Epoch: 1}, slots[1]: {Shard: 1, Epoch: 1}}
		w := window{wake: make(chan struct{}, 1)}
		one, parts := newFakeStore(), newFakeStore()
		one.epochs[1], parts.epochs[1] = 1, 1
		for i := range rapid.IntRange(1, 12).Draw(t, "ops") {
			o := &op{slot: rapid.SampledFrom(slots).Draw(t, "slot")}
			p := metadata.PartitionID{Topic: 1, Partition: int32(rapid.IntRange(0, 1).Draw(t, "partition"))}
			switch rapid.IntRange(0, 3).Draw(t, "kind") {
			case 0:
				o.Offsets = []metadata.GroupOffset{{Partition: p, Offset: int64(i)}}
			case 1:
				o.DeleteOffsets = []metadata.PartitionID{p}
			case 2:
				o.Row = []byte{byte(i)}
			case 3:
				o.Delete = true
			}
			w.push(o)
			if err := parts.apply(build([]*op{o}, leases, 1)); err != nil {
				t.Fatal(err)
			}
		}
		limit := rapid.IntRange(1, 50).Draw(t, "limit")
		for {
			batch, _ := w.take(limit)
			if len(batch) == 0 {
				break
			}
			if rapid.Bool().Draw(t, "again") {
				w.back(batch)
				continue
			}
			gw := build(batch, leases, 1)
			if len(gw.Leases) != 1 {
				t.Fatalf("leases %v, want one", gw.Leases)
			}
			seen := map[metadata.OffsetKey]bool{}
			for _, o := range gw.Offsets {
				seen[metadata.OffsetKey{Group: o.Group, Partition: o.Partition}] = true
			}
			for _, k := range gw.DeleteOffsets {
				seen[metadata.OffsetKey{Group: k.Group, Partition: k.Partition}] = true
			}
			if len(seen) != len(gw.Offsets)+len(gw.DeleteOffsets) {
				t.Fatalf("a key stands twice in %+v", gw)
			}
			if err := one.apply(gw); err != nil {
				t.Fatal(err)
			}
		}
		if w.queued() != 0 {
			t.Fatalf("an empty queue costs %d", w.queued())
		}
		if !maps.Equal(one.offsets, parts.offsets) || len(one.rows) != len(parts.rows) {
			t.Fatalf("written at once %v, %d rows; one by one %v, %d rows", one.offsets, len(one.rows), parts.offsets, len(parts.rows))
		}
	})
}
