package metatest

import (
	"fmt"

	"varve.dev/metadata"
)

var topics = []test{
	{"a topic has a number of its own and a name once", func(w *world) {
		t := metadata.Topic{ID: metadata.UUID{1}, Name: "t", Partitions: 2, Config: map[string]string{"k": "v"}}
		made, err := w.CreateTopic(w.ctx, t, 5)
		w.must(err)
		again, err := w.CreateTopic(w.ctx, t, 5) // its reply was lost
		w.must(err)
		same(w, "repeated", again, made)
		_, err = w.CreateTopic(w.ctx, metadata.Topic{ID: metadata.UUID{2}, Name: "t", Partitions: 1}, 5)
		w.want(err, metadata.ErrExists)
		_, err = w.CreateTopic(w.ctx, metadata.Topic{ID: metadata.UUID{1}, Name: "u", Partitions: 1}, 5)
		w.want(err, metadata.ErrExists)
		u := w.topic("u", 1)
		if u.Num == made.Num {
			w.Fatalf("two topics have the number %d", u.Num)
		}
		same(w, "target", w.partition(ids(made)[1]).Target, 5)
		t.Num = made.Num
		c, err := w.Catalog(w.ctx, 0)
		w.must(err)
		same(w, "topics", c.Topics, []metadata.Topic{t, u})
	}},
	{"a deleted topic frees its name at once and keeps its number", func(w *world) {
		r := newRun(w)
		w.seal(r.s, r.out)
		t, u := metadata.Topic{Num: r.p[0].Topic}, w.topic("u", 1)
		shards, err := w.AcquireShards(w.ctx, r.s, []int32{0})
		w.must(err)
		write := metadata.GroupWrite{Leases: shards, Counter: 1, Offsets: []metadata.GroupOffset{
			{Group: "g", Partition: r.p[0]}, {Group: "g", Partition: ids(u)[0]}}}
		_, err = w.Write(w.ctx, r.s, write)
		w.must(err)
		for range 2 { // its reply was lost
			w.must(w.DeleteTopic(w.ctx, t.Num, metadata.Grace{}))
		}
		again := w.topic("t", 1)
		if again.Num == t.Num {
			w.Fatal("the number was given out twice")
		}
		c, err := w.Catalog(w.ctx, 0)
		w.must(err)
		same(w, "topics", len(c.Topics), 3)
		same(w, "deleting", []bool{c.Topics[0].Deleting, c.Topics[1].Deleting, c.Topics[2].Deleting}, []bool{true, false, false})
		inv := w.inventory()
		same(w, "segments", inv.Segments, nil)
		same(w, "objects", len(inv.Objects), 1) // the pack: nobody knows yet what is in it
		same(w, "tombstones", w.tombstones(), map[string]string{"w1": "sealed", "w3": "sealed", "w3.1": "abandoned",
			"seal/1": "topic deleted", "w2": "topic deleted"})
		write.Counter = 2
		_, err = w.Write(w.ctx, r.s, write) // a commit that comes too late
		w.must(err)
		_, offsets, err := w.LoadShards(w.ctx, []int32{0})
		w.must(err)
		same(w, "offsets", len(offsets), 1)

		w.want(w.ForgetTopic(w.ctx, again.Num), metadata.ErrConflict)
		for range 2 {
			w.must(w.ForgetTopic(w.ctx, t.Num))
		}
		c, err = w.Catalog(w.ctx, 0)
		w.must(err)
		same(w, "topics", len(c.Topics), 2)
		w.want(w.DeleteTopic(w.ctx, t.Num, w.grace), metadata.ErrNotFound)
	}},
	{"every change raises the catalog's version, and only a change does", func(w *world) {
		version := func() int64 {
			c, err := w.Catalog(w.ctx, 0)
			w.must(err)
			return c.Version
		}
		last := version()
		var t metadata.Topic
		for i, change := range []func() error{
			func() error { t = w.topic("t", 1); return nil },
			func() error { return w.AddPartitions(w.ctx, t.Num, 1, 3, metadata.NoAgent) },
			func() error { return w.SetTopicConfig(w.ctx, t.Num, map[string]string{"a": "b"}) },
			func() error { return w.SetBrokerConfig(w.ctx, metadata.NoAgent, map[string]string{"c": "d"}) },
			func() error { return w.SetGroupConfig(w.ctx, "g", map[string]string{"e": "f"}) },
			func() error { return w.DeleteTopic(w.ctx, t.Num, w.grace) },
			func() error { return w.ForgetTopic(w.ctx, t.Num) },
		} {
			w.must(change())
			now := version()
			if now <= last {
				w.Fatalf("change %d: got version %d after %d", i, now, last)
			}
			last = now
		}
		w.want(w.AddPartitions(w.ctx, t.Num, 1, 2, 0), metadata.ErrNotFound)
		w.want(w.SetTopicConfig(w.ctx, t.Num, nil), metadata.ErrNotFound)
		same(w, "version after what failed", version(), last)
		c, err := w.Catalog(w.ctx, last)
		w.must(err)
		same(w, "known", c, metadata.Catalog{Version: last})
	}},
	{"partitions are added from the count that was seen", func(w *world) {
		t := w.topic("t", 2)
		w.want(w.AddPartitions(w.ctx, t.Num, 1, 4, 0), metadata.ErrConflict)
		w.want(w.AddPartitions(w.ctx, t.Num, 2, 2, 0), metadata.ErrConflict)
		w.must(w.AddPartitions(w.ctx, t.Num, 2, 4, 7))
		var got []string
		for _, p := range w.read().Partitions {
			got = append(got, fmt.Sprintf("%v→%d", p.ID, p.Target))
		}
		n := t.Num
		same(w, "partitions", got, []string{fmt.Sprintf("%d/0→-1", n), fmt.Sprintf("%d/1→-1", n), fmt.Sprintf("%d/2→7", n),
			fmt.Sprintf("%d/3→7", n)})
	}},
	{"configs are replaced whole, and an empty one is none", func(w *world) {
		t := w.topic("t", 1)
		for _, config := range []map[string]string{{"a": "1", "b": "2"}, {"b": "é\x00\""}} {
			w.must(w.SetTopicConfig(w.ctx, t.Num, config))
			w.must(w.SetBrokerConfig(w.ctx, 3, config))
			w.must(w.SetBrokerConfig(w.ctx, metadata.NoAgent, config))
			w.must(w.SetGroupConfig(w.ctx, "g", config))
			c, err := w.Catalog(w.ctx, 0)
			w.must(err)
			same(w, "topic", c.Topics[0].Config, config)
			same(w, "brokers", c.Brokers, map[int32]map[string]string{3: config, metadata.NoAgent: config})
			same(w, "groups", c.Groups, map[string]map[string]string{"g": config})
		}
		w.must(w.SetBrokerConfig(w.ctx, 3, nil))
		w.must(w.SetGroupConfig(w.ctx, "g", nil))
		c, err := w.Catalog(w.ctx, 0)
		w.must(err)
		same(w, "left", []int{len(c.Brokers), len(c.Groups)}, []int{1, 0})
	}},
}
