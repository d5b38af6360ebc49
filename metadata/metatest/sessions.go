package metatest

import (
	"errors"

	"varve.dev/metadata"
)

var clusters = []test{
	{"the first Join decides", func(w *world) {
		c, err := w.Join(w.ctx, metadata.Cluster{ID: metadata.UUID{9}, Incarnation: 9, Shards: 9, Format: 9})
		w.must(err)
		same(w, "cluster", c, metadata.Cluster{ID: metadata.UUID{0xc1}, Incarnation: incarnation, Shards: 8, Format: 1})
	}},
}

var sessions = []test{
	{"a start fences the life before and answers what it did", func(w *world) {
		a, ended := w.start(1)
		same(w, "ended", ended, metadata.Ended{})
		same(w, "session", a, metadata.Session{Agent: 1, Epoch: 1, Nonce: 1, Incarnation: incarnation})
		w.commit(a, 0, "w1", "w2")
		w.must(w.Beat(w.ctx, a, 77))
		b, ended := w.start(1)
		same(w, "session", b, metadata.Session{Agent: 1, Epoch: 2, Nonce: 2, Incarnation: incarnation})
		same(w, "ended", ended, metadata.Ended{Session: a, Seq: 2, Journal: journalOf(1), JournalSynced: 77})
		w.commit(b, 0, "w3")
	}},
	{"a fenced session does nothing any more", func(w *world) {
		p := ids(w.topic("t", 1))[0]
		old, _ := w.start(1)
		w.lead(old, p)
		w.commit(old, 0, "w1")
		got, err := w.AcquireShards(w.ctx, old, []int32{4})
		w.must(err)
		before := w.partition(p)
		w.start(1)
		o := sealed("s")
		sealing := metadata.Sealing{Of: old, First: 1, Last: 1, Keys: []string{"w1"}, Objects: []metadata.Object{o},
			Partitions: []metadata.SealedPartition{{ID: p, End: 5}},
			Segments:   []metadata.Segment{segment(p, 0, 5, 1, &o)}}
		_, settle := w.Settle(w.ctx, old, 1, 2)
		_, acquire := w.Acquire(w.ctx, old, w.bids(old, p))
		_, shards := w.AcquireShards(w.ctx, old, []int32{1})
		_, offsets := w.Write(w.ctx, old, metadata.GroupWrite{Leases: got, Counter: 1,
			Offsets: []metadata.GroupOffset{{Group: "g", Shard: 4, Partition: p}}})
		_, group := w.Write(w.ctx, old, metadata.GroupWrite{Leases: got, Counter: 1,
			Groups: []metadata.GroupRow{{Group: "g", Shard: 4}}})
		for what, err := range map[string]error{
			"beat": w.Beat(w.ctx, old, 0), "stop": w.Stop(w.ctx, old), "settle": settle, "acquire": acquire, "shards": shards,
			"offsets": offsets, "group": group,
			"commit":  w.Commit(w.ctx, old, flush(1, "w2")),
			"intend":  w.Intend(w.ctx, old, []string{"i"}),
			"replace": w.Replace(w.ctx, old, sealing),
			"move":    w.Move(w.ctx, old, metadata.Moving{From: "w1"}),
			"trim":    w.Trim(w.ctx, old, []metadata.Trim{{Partition: p, LogStart: 9}}, w.grace),
			"journal": w.SetJournal(w.ctx, old, []metadata.PartitionID{p}, metadata.UUID{5}),
		} {
			if !errors.Is(err, metadata.ErrFenced) {
				w.Errorf("%s: got %v, want ErrFenced", what, err)
			}
		}
		before.LeaderFenced = true
		same(w, "partition", w.partition(p), before)
		same(w, "unsealed", unsealedKeys(w.read(p)), []string{"w1"})
		same(w, "intents", w.inventory().Intents, nil)
		rows, offs, err := w.LoadShards(w.ctx, []int32{4})
		w.must(err)
		same(w, "groups", rows, nil)
		same(w, "offsets", offs, nil)
	}},
	{"a session without a row is fenced", func(w *world) {
		ghost := metadata.Session{Agent: 9, Epoch: 4, Incarnation: incarnation}
		w.want(w.Beat(w.ctx, ghost, 0), metadata.ErrFenced)
		w.want(w.Commit(w.ctx, ghost, flush(0, "w")), metadata.ErrFenced)
		_, err := w.Settle(w.ctx, ghost, 0, 1)
		w.want(err, metadata.ErrFenced)
	}},
	{"a fence needs a pulse that stands still", func(w *world) {
		a, _ := w.start(1)
		w.start(2)
		pulses, err := w.Watch(w.ctx)
		w.must(err)
		same(w, "pulses", pulses, []metadata.Pulse{{Agent: 1, Epoch: 1, Address: "a:1", Rack: "r"},
			{Agent: 2, Epoch: 1, Address: "a:1", Rack: "r"}})
		w.must(w.Beat(w.ctx, a, 0))
		w.want(w.Fence(w.ctx, pulses[0]), metadata.ErrConflict)
		w.commit(a, 0, "w1")
		w.want(w.Fence(w.ctx, metadata.Pulse{Agent: 1, Epoch: 1, Beat: 1}), metadata.ErrConflict)
		w.must(w.Fence(w.ctx, metadata.Pulse{Agent: 1, Epoch: 1, Beat: 2}))
		w.want(w.Beat(w.ctx, a, 0), metadata.ErrFenced)
		w.want(w.Commit(w.ctx, a, flush(1, "w2")), metadata.ErrFenced)
		w.want(w.Fence(w.ctx, metadata.Pulse{Agent: 1, Epoch: 2, Beat: 2}), metadata.ErrConflict)
		pulses, err = w.Watch(w.ctx)
		w.must(err)
		same(w, "living agents", len(pulses), 1)
		b, ended := w.start(1)
		same(w, "ended", ended, metadata.Ended{Session: a, Seq: 1, Journal: journalOf(1)})
		same(w, "epoch", b.Epoch, 3)
	}},
	{"a stopped session leaves what it led to whoever acquires it", func(w *world) {
		p := ids(w.topic("t", 1))[0]
		a, _ := w.start(1)
		w.lead(a, p)
		w.must(w.Stop(w.ctx, a))
		row := w.partition(p)
		if row.Leader != 1 || !row.LeaderFenced {
			w.Fatalf("got leader %d, fenced %v, want 1 and true", row.Leader, row.LeaderFenced)
		}
		b, _ := w.start(2)
		w.lead(b, p)
		_, ended := w.start(1)
		same(w, "ended", ended.Session, a)
	}},
	{"a start buries what the life before may have left behind", func(w *world) {
		w.grace = metadata.Grace{Orphan: hour}
		a, _ := w.start(1)
		other, _ := w.start(2)
		w.must(w.Intend(w.ctx, a, []string{"up/1", "up/2"}))
		w.must(w.Intend(w.ctx, a, []string{"up/2"}))
		w.must(w.Intend(w.ctx, other, []string{"up/other"}))
		w.commit(a, 0, "wal/1")
		w.start(1, "wal/1", "wal/2")
		same(w, "tombstones", w.tombstones(), map[string]string{"up/1": "orphan", "up/2": "orphan", "wal/2": "orphan"})
		same(w, "intents", w.inventory().Intents, []string{"up/other"})
		dead, err := w.Dead(w.ctx, 10)
		w.must(err)
		same(w, "dead within the grace", dead, nil)
	}},
	{"tombstones whose grace has passed are dead, oldest first", func(w *world) {
		w.start(1)
		w.start(1, "b", "a")
		w.grace.Orphan = -hour
		w.start(1, "c")
		dead, err := w.Dead(w.ctx, 2)
		w.must(err)
		same(w, "dead", dead, []metadata.Tombstone{{Key: "c", Reason: "orphan"}, {Key: "a", Reason: "orphan"}})
		w.must(w.Forget(w.ctx, []string{"c", "a", "nothing"}))
		dead, err = w.Dead(w.ctx, 2)
		w.must(err)
		same(w, "dead", dead, []metadata.Tombstone{{Key: "b", Reason: "orphan"}})
	}},
	{"the synced position belongs to a journal and never goes back", func(w *world) {
		a, _ := w.start(1)
		w.must(w.Beat(w.ctx, a, 50))
		w.must(w.Beat(w.ctx, a, 40))
		w.must(w.Commit(w.ctx, a, metadata.Commit{JournalSynced: 45}))
		_, ended := w.start(1)
		same(w, "synced", ended.JournalSynced, 50)
		_, ended = w.start(1)
		same(w, "synced of the same journal", ended.JournalSynced, 50)
		_, _, err := w.Start(w.ctx, metadata.Agent{ID: 1, Journal: metadata.UUID{0xff}}, 99, nil, w.grace)
		w.must(err)
		_, ended = w.start(1)
		same(w, "ended", []any{ended.Journal, ended.JournalSynced, ended.Session.Nonce},
			[]any{metadata.UUID{0xff}, int64(0), uint64(99)})
	}},
	{"a nonce keeps all its bits", func(w *world) {
		_, _, err := w.Start(w.ctx, metadata.Agent{ID: 1}, 1<<64-1, nil, w.grace)
		w.must(err)
		_, ended := w.start(1)
		same(w, "nonce", ended.Session.Nonce, 1<<64-1)
	}},
}
