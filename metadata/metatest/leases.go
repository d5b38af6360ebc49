package metatest

import (
	"fmt"

	"varve.dev/metadata"
)

var leases = []test{
	{"a new partition is led by nobody", func(w *world) {
		t := w.topic("t", 2)
		st := w.read()
		same(w, "partitions", st.Partitions, []metadata.Partition{
			{ID: ids(t)[0], Leader: metadata.NoAgent, LeaderEpoch: metadata.NeverLed, Target: metadata.NoAgent},
			{ID: ids(t)[1], Leader: metadata.NoAgent, LeaderEpoch: metadata.NeverLed, Target: metadata.NoAgent}})
		same(w, "what is not there", w.read(metadata.PartitionID{Topic: 99}).Partitions, nil)
	}},
	{"an acquisition is stored as it was asked for", func(w *world) {
		p := ids(w.topic("t", 2))
		a, _ := w.start(1)
		ask := metadata.Acquisition{Partition: p[1], SeenEpoch: metadata.NeverLed, Start: 40, Epochs: []metadata.EpochStart{{Start: 40}},
			Unsealed: []metadata.SessionRef{{Agent: 7, Epoch: 3}, {Agent: 1, Epoch: 1}}, Journal: journalOf(1), TailCap: 5}
		got, err := w.Acquire(w.ctx, a, []metadata.Acquisition{ask})
		w.must(err)
		same(w, "acquired", got, p[1:])
		same(w, "row", w.partition(p[1]), metadata.Partition{ID: p[1], Leader: 1, LeaderSession: 1, LeaderEpoch: 0,
			Epochs: ask.Epochs, TailJournal: ask.Journal, TailCap: 5, Unsealed: ask.Unsealed, Target: metadata.NoAgent})
	}},
	{"what is led, was moved or is gone is left out", func(w *world) {
		p := ids(w.topic("t", 3))
		a, _ := w.start(1)
		b, _ := w.start(2)
		w.lead(a, p[0])
		asks := w.bids(b, p...)
		asks[1].SeenEpoch = 5
		asks = append(asks, metadata.Acquisition{Partition: metadata.PartitionID{Topic: 99}})
		got, err := w.Acquire(w.ctx, b, asks)
		w.must(err)
		same(w, "acquired", got, p[2:])
		same(w, "leader", w.partition(p[0]).Leader, 1)
		moved := w.partition(p[1])
		same(w, "what was not seen", []int32{moved.Leader, moved.LeaderEpoch}, []int32{metadata.NoAgent, metadata.NeverLed})
	}},
	{"an acquisition whose reply was lost may be repeated", func(w *world) {
		p := ids(w.topic("t", 2))
		a, _ := w.start(1)
		asks := w.bids(a, p...)
		asks[0].Unclean = true
		asks[0].Lost = &metadata.LostRange{Partition: p[0], From: 1, To: 2, Why: "test"}
		for range 2 {
			got, err := w.Acquire(w.ctx, a, asks)
			w.must(err)
			same(w, "acquired", got, p)
		}
		same(w, "leader epoch", w.partition(p[0]).LeaderEpoch, 0)
		lost, err := w.Lost(w.ctx, 10)
		w.must(err)
		same(w, "lost ranges", len(lost), 1)
	}},
	{"an agent takes back what its earlier session led", func(w *world) {
		p := ids(w.topic("t", 1))
		a, _ := w.start(1)
		w.lead(a, p...)
		b, _ := w.start(1)
		w.lead(b, p...)
		row := w.partition(p[0])
		same(w, "row", []any{row.LeaderSession, row.LeaderEpoch, row.LeaderFenced}, []any{int32(2), int32(1), false})
	}},
	{"a tail waits for its journal", func(w *world) {
		p := ids(w.topic("t", 1))[0]
		a, _ := w.start(1)
		ask := bid(a, w.partition(p))
		ask.Journal = journalOf(1)
		_, err := w.Acquire(w.ctx, a, []metadata.Acquisition{ask})
		w.must(err)
		w.must(w.Stop(w.ctx, a))

		b, _ := w.start(2)
		ask = bid(b, w.partition(p))
		got, err := w.Acquire(w.ctx, b, []metadata.Acquisition{ask})
		w.must(err)
		same(w, "acquired without the journal", got, nil)

		ask.Unclean = true
		ask.Lost = &metadata.LostRange{Partition: p, From: 3, To: 9, Epoch: 2, Journal: journalOf(1), Why: "unclean election"}
		got, err = w.Acquire(w.ctx, b, []metadata.Acquisition{ask})
		w.must(err)
		same(w, "acquired unclean", len(got), 1)
		lost, err := w.Lost(w.ctx, 10)
		w.must(err)
		if len(lost) != 1 || lost[0].At.IsZero() {
			w.Fatalf("got lost ranges %+v, want one with its time", lost)
		}
		lost[0].At = ask.Lost.At
		same(w, "lost range", lost[0], *ask.Lost)
	}},
	{"the journal's own agent takes its tail back", func(w *world) {
		p := ids(w.topic("t", 1))[0]
		a, _ := w.start(1)
		w.lead(a, p)
		w.must(w.SetJournal(w.ctx, a, []metadata.PartitionID{p}, journalOf(1)))
		same(w, "journal", w.partition(p).TailJournal, journalOf(1))
		b, _ := w.start(1)
		w.lead(b, p)
		same(w, "journal", w.partition(p).TailJournal, metadata.UUID{})
	}},
	{"SetJournal changes all or nothing", func(w *world) {
		p := ids(w.topic("t", 2))
		a, _ := w.start(1)
		w.lead(a, p[0])
		w.want(w.SetJournal(w.ctx, a, p, journalOf(1)), metadata.ErrConflict)
		same(w, "journal", w.partition(p[0]).TailJournal, metadata.UUID{})
	}},
	{"lost ranges come newest first", func(w *world) {
		p := ids(w.topic("t", 3))
		a, _ := w.start(1)
		for i, id := range p {
			ask := bid(a, w.partition(id))
			ask.Lost = &metadata.LostRange{Partition: id, From: int64(i)}
			_, err := w.Acquire(w.ctx, a, []metadata.Acquisition{ask})
			w.must(err)
		}
		lost, err := w.Lost(w.ctx, 2)
		w.must(err)
		same(w, "from", []int64{lost[0].From, lost[1].From}, []int64{2, 1})
		same(w, "at most", len(lost), 2)
	}},
	{"ten thousand partitions at once", func(w *world) {
		const many = 10_000
		p := ids(w.topic("t", many))
		a, _ := w.start(1)
		w.lead(a, p...)
		st := w.read()
		same(w, "partitions", len(st.Partitions), many)
		for i, row := range st.Partitions {
			if row.ID != p[i] || row.Leader != 1 {
				w.Fatalf("row %d: got %v led by %d, want %v led by 1", i, row.ID, row.Leader, p[i])
			}
		}
		w.must(w.Commit(w.ctx, a, metadata.Commit{Release: p}))
		same(w, "leader", w.partition(p[many-1]).Leader, metadata.NoAgent)
	}},
	{"unsealed objects come by session and number, of the sessions that are named", func(w *world) {
		p := ids(w.topic("t", 2))
		a, _ := w.start(2)
		b, _ := w.start(1)
		w.lead(a, p[0])
		w.commit(a, 0, "a1", "a2")
		w.commit(b, 0, "b1")
		w.commit(a, 2, "a3")
		w.must(w.Stop(w.ctx, a))
		c, _ := w.start(2)
		w.commit(c, 0, "c1")
		w.lead(c, p...)
		w.lead(b)
		same(w, "of one", unsealedKeys(w.read(p[1])), []string{"c1"})
		st := w.read(p[0])
		same(w, "of both lives", unsealedKeys(st), []string{"a1", "a2", "a3", "c1"})
		o := wal("a3")
		o.Session, o.First, o.Last = metadata.Session{Agent: 2, Epoch: 1}, 3, 3
		same(w, "object", st.Unsealed[2], o)
	}},
	{"partitions of a deleted topic are gone", func(w *world) {
		t := w.topic("t", 2)
		w.topic("u", 1)
		w.must(w.DeleteTopic(w.ctx, t.Num, w.grace))
		same(w, "all", len(w.read().Partitions), 1)
		same(w, "named", w.read(ids(t)...).Partitions, nil)
		a, _ := w.start(1)
		got, err := w.Acquire(w.ctx, a, []metadata.Acquisition{{Partition: ids(t)[0]}})
		w.must(err)
		same(w, "acquired", got, nil)
	}},
}

var index = []test{
	{"objects are numbered and a commit needs the number before", func(w *world) {
		a, _ := w.start(1)
		w.commit(a, 0, "w1", "w2")
		w.want(w.Commit(w.ctx, a, flush(0, "w3")), metadata.ErrConflict)
		w.want(w.Commit(w.ctx, a, flush(5, "w3")), metadata.ErrConflict)
		w.must(w.Commit(w.ctx, a, metadata.Commit{From: 2})) // takes a number
		w.commit(a, 3, "w4")
		last, err := w.Settle(w.ctx, a, 0, 9)
		w.must(err)
		same(w, "last", last, 4)
		same(w, "objects", len(w.inventory().Objects), 3)
	}},
	{"settle tells whether a commit whose reply was lost is in", func(w *world) {
		a, _ := w.start(1)
		last, err := w.Settle(w.ctx, a, 0, 2)
		w.must(err)
		same(w, "not yet", last, 0)
		w.commit(a, 0, "w1", "w2")
		last, err = w.Settle(w.ctx, a, 0, 2)
		w.must(err)
		same(w, "committed", last, 2)
		w.want(w.Commit(w.ctx, a, flush(0, "w1", "w2")), metadata.ErrConflict)
		_, err = w.Settle(w.ctx, a, 3, 4)
		w.want(err, metadata.ErrConflict)
		pulses, err := w.Watch(w.ctx)
		w.must(err)
		same(w, "beats: each settle is a write", pulses[0].Beat, 3)
	}},
	{"a key that is taken undoes the whole commit", func(w *world) {
		p := ids(w.topic("t", 1))
		a, _ := w.start(1)
		w.lead(a, p...)
		w.commit(a, 0, "w1")
		c := flush(1, "w2", "w1")
		c.Release = p
		w.want(w.Commit(w.ctx, a, c), metadata.ErrConflict)
		last, err := w.Settle(w.ctx, a, 0, 9)
		w.must(err)
		same(w, "last", last, 1)
		same(w, "objects", len(w.inventory().Objects), 1)
		same(w, "leader", w.partition(p[0]).Leader, 1)
	}},
	{"a release gives up what the session leads and nothing else", func(w *world) {
		p := ids(w.topic("t", 3))
		a, _ := w.start(1)
		b, _ := w.start(2)
		w.lead(a, p[0])
		w.lead(b, p[1])
		w.must(w.SetJournal(w.ctx, a, p[:1], journalOf(1)))
		c := flush(0, "w1")
		c.Release = append([]metadata.PartitionID{{Topic: 99}}, p...)
		w.must(w.Commit(w.ctx, a, c))
		row := w.partition(p[0])
		same(w, "released", []any{row.Leader, row.LeaderSession, row.LeaderEpoch, row.TailJournal, row.LeaderFenced},
			[]any{metadata.NoAgent, int32(0), int32(0), metadata.UUID{}, false})
		same(w, "of another", w.partition(p[1]).Leader, 2)
		same(w, "the objects stay named", unsealedKeys(w.read(p[0])), []string{"w1"})
		w.lead(b, p[0])
	}},
	{"a large directory comes back byte for byte", func(w *world) {
		p := ids(w.topic("t", 1))[0]
		a, _ := w.start(1)
		w.lead(a, p)
		o := wal("w")
		o.Directory = make([]byte, 256<<10)
		for i := range o.Directory {
			o.Directory[i] = byte(i * 7)
		}
		empty := wal("e")
		empty.Directory = []byte{}
		w.must(w.Commit(w.ctx, a, metadata.Commit{Objects: []metadata.WALObject{o, empty}}))
		got := w.read(p).Unsealed
		same(w, "directory", got[0].Directory, o.Directory)
		same(w, "empty directory", len(got[1].Directory), 0)
	}},
	{"find begins with the segment that contains the offset, or the next", func(w *world) {
		p := ids(w.topic("t", 2))
		a, _ := w.start(1)
		w.lead(a, p...)
		w.fill(a, 0, p[0], [2]int64{10, 5}, [2]int64{20, 6}, [2]int64{30, 7})
		w.fill(a, 3, p[1], [2]int64{100, 5})
		w.must(w.Trim(w.ctx, a, []metadata.Trim{{Partition: p[0], LogStart: 10}}, w.grace))
		for _, c := range []struct {
			offset int64
			limit  int
			want   []int64
		}{{10, 9, []int64{10, 20}}, {19, 9, []int64{10, 20}}, {20, 9, []int64{20}}, {29, 9, []int64{20}}, {30, 9, nil},
			{0, 9, []int64{10, 20}}, {0, 1, []int64{10}}} {
			got, err := w.Find(w.ctx, p[0], c.offset, c.limit)
			w.must(err)
			same(w, fmt.Sprintf("bases from %d", c.offset), bases(got), c.want)
		}
		got, err := w.Find(w.ctx, p[0], 25, 1)
		w.must(err)
		o := sealed(fmt.Sprintf("seg/%v/2", p[0]))
		want := segment(p[0], 20, 30, 7, &o)
		want.RunningMax = 7
		same(w, "segment", got, []metadata.Segment{want})
	}},
	{"the newest segment of each partition that has one", func(w *world) {
		p := ids(w.topic("t", 3))
		a, _ := w.start(1)
		w.lead(a, p...)
		w.fill(a, 0, p[0], [2]int64{10, 5}, [2]int64{20, 6})
		w.fill(a, 2, p[2], [2]int64{7, 5})
		got, err := w.LastSegments(w.ctx, p)
		w.must(err)
		same(w, "bases", bases(got), []int64{10, 0})
	}},
	{"time is found by the running maximum", func(w *world) {
		p := ids(w.topic("t", 2))
		a, _ := w.start(1)
		w.lead(a, p...)
		w.fill(a, 0, p[0], [2]int64{10, 50}, [2]int64{20, 30}, [2]int64{30, metadata.NoTimestamp}, [2]int64{40, 70}, [2]int64{50, 70})
		for millis, want := range map[int64]int64{metadata.NoTimestamp: 0, -1: 0, 50: 0, 51: 30, 70: 30} {
			got, err := w.FindTime(w.ctx, p[0], millis)
			w.must(err)
			same(w, fmt.Sprintf("base at %d", millis), got.Base, want)
		}
		_, err := w.FindTime(w.ctx, p[0], 71)
		w.want(err, metadata.ErrNotFound)
		_, err = w.FindTime(w.ctx, p[1], 0)
		w.want(err, metadata.ErrNotFound)
	}},
	{"a trim leaves running maxima exact", func(w *world) {
		p := ids(w.topic("t", 1))[0]
		a, _ := w.start(1)
		w.lead(a, p)
		w.fill(a, 0, p, [2]int64{10, 90}, [2]int64{20, 30}, [2]int64{30, 40}, [2]int64{40, 95})
		w.must(w.Trim(w.ctx, a, []metadata.Trim{{Partition: p, LogStart: 10}}, w.grace))
		got, err := w.FindTime(w.ctx, p, 60)
		w.must(err)
		same(w, "base", got.Base, 30)
		w.fill(a, 4, p, [2]int64{50, 20})
	}},
}

func bases(gs []metadata.Segment) (out []int64) {
	for _, g := range gs {
		out = append(out, g.Base)
	}
	return out
}
