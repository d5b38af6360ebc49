package metatest

import "varve.dev/metadata"

func offset(group string, shard int32, p metadata.PartitionID, at int64) metadata.GroupOffset {
	return metadata.GroupOffset{Group: group, Shard: shard, Partition: p, Offset: at, LeaderEpoch: 3, Metadata: "m",
		CommitTime: 11, ExpireTime: -1}
}

// write applies w, which must lose no shard.
func (w *world) write(s metadata.Session, gw metadata.GroupWrite) {
	w.Helper()
	lost, err := w.Write(w.ctx, s, gw)
	w.must(err)
	same(w, "lost shards", lost, nil)
}

func (w *world) shards(s metadata.Session, shards ...int32) []metadata.ShardLease {
	w.Helper()
	got, err := w.AcquireShards(w.ctx, s, shards)
	w.must(err)
	if len(got) != len(shards) {
		w.Fatalf("got leases %v, want all of %v", got, shards)
	}
	return got
}

func (w *world) load(shards ...int32) ([]metadata.GroupRow, []metadata.GroupOffset) {
	w.Helper()
	groups, offsets, err := w.LoadShards(w.ctx, shards)
	w.must(err)
	return groups, offsets
}

var groups = []test{
	{"a shard has one holder, until its session is over", func(w *world) {
		a, _ := w.start(1)
		b, _ := w.start(2)
		first := w.shards(a, 1, 2)
		same(w, "the same again", w.shards(a, 2, 1), first)
		got, err := w.AcquireShards(w.ctx, b, []int32{2, 3})
		w.must(err)
		same(w, "what is free", got, []metadata.ShardLease{{Shard: 3, Epoch: 1}})
		w.must(w.Stop(w.ctx, a))
		same(w, "taken over", w.shards(b, 2), []metadata.ShardLease{{Shard: 2, Epoch: 2}})
		a2, _ := w.start(1)
		same(w, "taken back", w.shards(a2, 1), []metadata.ShardLease{{Shard: 1, Epoch: 2}})
	}},
	{"what a window writes is loaded by shard", func(w *world) {
		p := ids(w.topic("t", 2))
		a, _ := w.start(1)
		rows := []metadata.GroupRow{{Group: "g", Shard: 1, State: []byte{1}}, {Group: "h", Shard: 2, State: []byte{}}}
		offs := []metadata.GroupOffset{offset("g", 1, p[0], 5), offset("g", 1, p[1], 6), offset("h", 2, p[0], 7)}
		w.write(a, metadata.GroupWrite{Leases: w.shards(a, 1, 2), Counter: 1, Groups: rows, Offsets: offs})
		gotRows, gotOffs := w.load(1, 2, 3)
		same(w, "groups", gotRows, rows)
		same(w, "offsets", gotOffs, offs)
		gotRows, gotOffs = w.load(2)
		same(w, "groups", gotRows, rows[1:])
		same(w, "offsets", gotOffs, offs[2:])
	}},
	{"a lease may be named for each group of its shard", func(w *world) {
		p := ids(w.topic("t", 1))[0]
		a, _ := w.start(1)
		l := w.shards(a, 1)
		w.write(a, metadata.GroupWrite{Leases: append(l, l...), Counter: 1,
			Offsets: []metadata.GroupOffset{offset("g", 1, p, 5), offset("h", 1, p, 6)}})
		_, got := w.load(1)
		same(w, "offsets", len(got), 2)
	}},
	{"an older write never overwrites a newer one", func(w *world) {
		p := ids(w.topic("t", 1))[0]
		a, _ := w.start(1)
		l := w.shards(a, 1)
		at := func(leases []metadata.ShardLease, s metadata.Session, counter, offs int64) {
			w.write(s, metadata.GroupWrite{Leases: leases, Counter: counter, Offsets: []metadata.GroupOffset{offset("g", 1, p, offs)}})
			w.write(s, metadata.GroupWrite{Leases: leases, Counter: counter,
				Groups: []metadata.GroupRow{{Group: "g", Shard: 1, State: []byte{byte(offs)}}}})
		}
		expect := func(want int64) {
			w.Helper()
			rows, offs := w.load(1)
			same(w, "offset and state", []int64{offs[0].Offset, int64(rows[0].State[0])}, []int64{want, want})
		}
		at(l, a, 5, 50)
		at(l, a, 4, 40)
		expect(50)
		at(l, a, 5, 55)
		expect(50)
		b, _ := w.start(1)
		at(w.shards(b, 1), b, 1, 10) // a new lease counts from 1 again
		expect(10)
	}},
	{"a late copy does not bring back what was deleted", func(w *world) {
		p := ids(w.topic("t", 2))
		a, _ := w.start(1)
		l := w.shards(a, 1)
		old := metadata.GroupWrite{Leases: l, Counter: 1, Groups: []metadata.GroupRow{{Group: "g", Shard: 1, State: []byte{1}}},
			Offsets: []metadata.GroupOffset{offset("g", 1, p[0], 1), offset("g", 1, p[1], 1), offset("h", 1, p[0], 1)}}
		w.write(a, old)
		w.write(a, metadata.GroupWrite{Leases: l, Counter: 2, DeleteGroups: []metadata.GroupKey{{Group: "g", Shard: 1}},
			DeleteOffsets: []metadata.OffsetKey{{Group: "h", Shard: 1, Partition: p[0]}}})
		for _, late := range []metadata.GroupWrite{old, {Leases: l, Counter: 1, Offsets: old.Offsets}} {
			if _, err := w.Write(w.ctx, a, late); err != nil {
				w.Fatal(err)
			}
			rows, offs := w.load(1)
			same(w, "groups", rows, nil)
			same(w, "offsets", offs, nil)
		}
		old.Counter = 3
		w.write(a, old)
		_, offs := w.load(1)
		same(w, "offsets", len(offs), 3)
	}},
	{"a delete spares what is newer", func(w *world) {
		p := ids(w.topic("t", 1))[0]
		a, _ := w.start(1)
		l := w.shards(a, 1)
		w.write(a, metadata.GroupWrite{Leases: l, Counter: 7, Offsets: []metadata.GroupOffset{offset("g", 1, p, 1)}})
		w.write(a, metadata.GroupWrite{Leases: l, Counter: 6, DeleteOffsets: []metadata.OffsetKey{{Group: "g", Shard: 1, Partition: p}}})
		_, offs := w.load(1)
		same(w, "offsets", len(offs), 1)
	}},
	{"shards whose lease is lost are left out and named", func(w *world) {
		p := ids(w.topic("t", 1))[0]
		a, _ := w.start(1)
		b, _ := w.start(2)
		leases := append(w.shards(a, 1), metadata.ShardLease{Shard: 2, Epoch: 1}, metadata.ShardLease{Shard: 3, Epoch: 1})
		w.shards(b, 2)
		offs := []metadata.GroupOffset{offset("g", 1, p, 1), offset("h", 2, p, 2), offset("i", 3, p, 3)}
		for counter, gw := range []metadata.GroupWrite{
			{Leases: leases, Offsets: offs},
			{Leases: leases, Offsets: offs, Groups: []metadata.GroupRow{{Group: "h", Shard: 2}}},
		} {
			gw.Counter = int64(counter) + 1
			lost, err := w.Write(w.ctx, a, gw)
			w.must(err)
			same(w, "lost", lost, []int32{2, 3})
			rows, got := w.load(1, 2, 3)
			same(w, "groups", rows, nil)
			same(w, "offsets", got, offs[:1])
		}
		leases[0].Epoch++
		lost, err := w.Write(w.ctx, a, metadata.GroupWrite{Leases: leases[:1], Counter: 9, Offsets: offs[:1]})
		w.must(err)
		same(w, "of another lease epoch", lost, []int32{1})
	}},
	{"a write that touches what it does not name is refused", func(w *world) {
		p := ids(w.topic("t", 1))[0]
		a, _ := w.start(1)
		l := w.shards(a, 1)
		for what, gw := range map[string]metadata.GroupWrite{
			"offset":          {Offsets: []metadata.GroupOffset{offset("g", 2, p, 1)}},
			"offset twice":    {Offsets: []metadata.GroupOffset{offset("g", 1, p, 1), offset("g", 1, p, 2)}},
			"group":           {Groups: []metadata.GroupRow{{Group: "g", Shard: 2}}},
			"deleted offset":  {DeleteOffsets: []metadata.OffsetKey{{Group: "g", Shard: 2}}},
			"deleted group":   {DeleteGroups: []metadata.GroupKey{{Group: "g", Shard: 2}}},
			"group, no lease": {Groups: []metadata.GroupRow{{Group: "g"}}},
		} {
			gw.Leases, gw.Counter = l, 1
			if _, err := w.Write(w.ctx, a, gw); err == nil {
				w.Errorf("%s: accepted", what)
			}
		}
	}},
	{"ten thousand offsets in a window", func(w *world) {
		const many = 10_000
		t := w.topic("t", many)
		a, _ := w.start(1)
		gw := metadata.GroupWrite{Leases: w.shards(a, 1), Counter: 1}
		for i, p := range ids(t) {
			gw.Offsets = append(gw.Offsets, offset("g", 1, p, int64(i)))
		}
		w.write(a, gw)
		_, got := w.load(1)
		same(w, "offsets", got, gw.Offsets)
	}},
}

var producers = []test{
	{"producer ids carry the incarnation and are given out once", func(w *world) {
		first, err := w.ProducerIDs(w.ctx, 1000)
		w.must(err)
		same(w, "first", first, int64(incarnation)<<48)
		next, err := w.ProducerIDs(w.ctx, 1)
		w.must(err)
		same(w, "next", next, first+1000)
		for _, n := range []int64{0, -5, 1 << 48} {
			if _, err := w.ProducerIDs(w.ctx, n); err == nil {
				w.Errorf("%d ids were given out", n)
			}
		}
		next, err = w.ProducerIDs(w.ctx, 1)
		w.must(err)
		same(w, "nothing was lost", next, first+1001)
	}},
}
