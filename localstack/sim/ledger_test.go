package sim

import (
	"cmp"
	"context"
	"slices"

	"varve.dev/metadata"
)

// ledger holds the stored offsets of groups to the order of their writes: an older write that comes late changes nothing.
// Who asks the coordinator hears what that remembers; the store is believed again at its next start, which may be never.
type ledger struct {
	turn   chan struct{} // one slot: writes take effect one by one, or nobody knew in which order
	newest map[metadata.OffsetKey]entry
}

// entry is the newest write of one offset.
type entry struct {
	lease   int32 // epoch
	counter int64
	offset  int64
	deleted bool
}

func (e entry) compare(f entry) int {
	return cmp.Or(cmp.Compare(e.lease, f.lease), cmp.Compare(e.counter, f.counter))
}

func newLedger() *ledger {
	return &ledger{turn: make(chan struct{}, 1), newest: map[metadata.OffsetKey]entry{}}
}

// write performs one write, enters it, and looks at the store if it is not the newest.
func (l *ledger) write(ctx context.Context, w *world, to metadata.Store, me metadata.Session, gw metadata.GroupWrite) ([]int32, error) {
	l.turn <- struct{}{}
	defer func() { <-l.turn }()
	lost, err := to.Write(ctx, me, gw)
	if err != nil {
		return lost, err
	}
	late := false
	for _, lease := range gw.Leases {
		if !slices.Contains(lost, lease.Shard) {
			late = l.enter(lease, gw) || late
		}
	}
	if late {
		w.plan.count("an older group write came late")
		l.look(w)
	}
	return lost, nil
}

// enter notes what a write says of one shard, and answers whether a newer one was there before.
func (l *ledger) enter(lease metadata.ShardLease, gw metadata.GroupWrite) (late bool) {
	at := entry{lease: lease.Epoch, counter: gw.Counter}
	put := func(key metadata.OffsetKey, e entry) {
		if before, known := l.newest[key]; known && e.compare(before) < 0 {
			late = true
			return
		}
		l.newest[key] = e
	}
	for _, key := range gw.DeleteGroups {
		for of, e := range l.newest {
			if of.Group == key.Group && at.compare(e) > 0 {
				l.newest[of] = entry{lease: at.lease, counter: at.counter, deleted: true}
			}
		}
	}
	for _, key := range gw.DeleteOffsets {
		if key.Shard == lease.Shard {
			put(key, entry{lease: at.lease, counter: at.counter, deleted: true})
		}
	}
	for _, o := range gw.Offsets {
		if o.Shard == lease.Shard {
			put(metadata.OffsetKey{Group: o.Group, Shard: o.Shard, Partition: o.Partition}, entry{at.lease, at.counter, o.Offset, false})
		}
	}
	return late
}

// look compares the store with what was written last.
func (l *ledger) look(w *world) {
	var shards []int32
	for key := range l.newest {
		shards = append(shards, key.Shard)
	}
	_, stored, err := w.meta.LoadShards(context.Background(), shards)
	if err != nil {
		w.fail("read the offsets of groups: %w", err)
		return
	}
	for _, o := range stored {
		key := metadata.OffsetKey{Group: o.Group, Shard: o.Shard, Partition: o.Partition}
		if e, known := l.newest[key]; known && (e.deleted || e.offset != o.Offset) {
			w.fail("group %s, %v: the store holds offset %d, the newest write said %d, deleted %v", o.Group, o.Partition, o.Offset, e.offset, e.deleted)
		}
	}
}

// settle looks once more, when nobody writes.
func (l *ledger) settle(w *world) {
	l.turn <- struct{}{}
	defer func() { <-l.turn }()
	l.look(w)
}
