package metatest

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"varve.dev/metadata"
)

// rounds of each race. The point is not to hit every interleaving by luck but to hold many of them to what must be true
// after any.
const rounds = 12

func countNil(errs []error) (n int) {
	for _, err := range errs {
		if err == nil {
			n++
		}
	}
	return n
}

// only fails unless each error is nil or one of these.
func (w *world) only(errs []error, allowed ...error) {
	w.Helper()
	for i, err := range errs {
		if err != nil && !slices.ContainsFunc(allowed, func(a error) bool { return errors.Is(err, a) }) {
			w.Fatalf("racer %d: got %v, want success or one of %v", i, err, allowed)
		}
	}
}

var races = []test{
	{"joins", func(w *world) {
		got := make([]metadata.Cluster, 4)
		var fns []func() error
		for i := range got {
			fns = append(fns, func() (err error) {
				got[i], err = w.Join(w.ctx, metadata.Cluster{ID: metadata.UUID{byte(i)}, Incarnation: 1, Shards: 1, Format: 1})
				return err
			})
		}
		w.only(together(fns...))
		for _, c := range got {
			same(w, "cluster", c, got[0])
		}
	}},
	{"starts of one agent", func(w *world) {
		var mu sync.Mutex
		epochs := map[int32]bool{}
		for range rounds {
			start := func() error {
				s, _, err := w.Start(w.ctx, metadata.Agent{ID: 1}, 1, nil, w.grace)
				mu.Lock()
				defer mu.Unlock()
				if err == nil && epochs[s.Epoch] {
					return fmt.Errorf("epoch %d was given twice", s.Epoch)
				}
				epochs[s.Epoch] = true
				return err
			}
			w.only(together(start, start, start), metadata.ErrConflict)
		}
	}},
	{"commits of the same number", func(w *world) {
		a, _ := w.start(1)
		for n := range int64(rounds) {
			commit := func(key string) func() error {
				return func() error { return w.Commit(w.ctx, a, flush(n, fmt.Sprintf("%s/%d", key, n))) }
			}
			errs := together(commit("x"), commit("y"), commit("z"))
			w.only(errs, metadata.ErrConflict)
			same(w, "winners", countNil(errs), 1)
		}
		same(w, "objects", len(w.inventory().Objects), rounds)
	}},
	{"commit, fence and start", func(w *world) {
		for agent := int32(1); agent <= rounds; agent++ {
			s, _ := w.start(agent)
			key := fmt.Sprintf("w/%d", agent)
			var ended metadata.Ended
			errs := together(
				func() error { return w.Commit(w.ctx, s, flush(0, key)) },
				func() error { return w.Fence(w.ctx, metadata.Pulse{Agent: agent, Epoch: s.Epoch}) },
				func() (err error) {
					_, ended, err = w.Start(w.ctx, metadata.Agent{ID: agent}, 7, func(e metadata.Ended) []string {
						if e.Seq == 0 {
							return []string{key}
						}
						return nil
					}, w.grace)
					return err
				})
			w.only(errs[:1], metadata.ErrFenced)
			w.only(errs[1:2], metadata.ErrConflict)
			w.must(errs[2])
			committed := errs[0] == nil
			if (ended.Seq == 1) != committed || ended.Session.Epoch != s.Epoch {
				w.Fatalf("agent %d: commit %v, and the next life was told %+v", agent, errs[0], ended)
			}
			if _, buried := w.tombstones()[key]; buried == committed {
				w.Fatalf("agent %d: committed %v, buried %v", agent, committed, buried)
			}
		}
	}},
	{"release and two acquisitions", func(w *world) {
		p := ids(w.topic("t", 20))
		backwards := slices.Clone(p)
		slices.Reverse(backwards)
		a, _ := w.start(1)
		b, _ := w.start(2)
		c, _ := w.start(3)
		number := map[int32]int64{}
		leader := a
		w.lead(a, p...)
		for range rounds {
			took := map[int32][]metadata.PartitionID{}
			var mu sync.Mutex
			rivals := []metadata.Session{a, b, c}
			rivals = slices.DeleteFunc(rivals, func(s metadata.Session) bool { return s.Agent == leader.Agent })
			bids := map[int32][]metadata.Acquisition{}
			for _, s := range rivals {
				bids[s.Agent] = w.bids(s, p...)
			}
			acquire := func(s metadata.Session) func() error {
				return func() error {
					got, err := w.Acquire(w.ctx, s, bids[s.Agent])
					mu.Lock()
					defer mu.Unlock()
					took[s.Agent] = got
					return err
				}
			}
			errs := together(func() error {
				return w.Commit(w.ctx, leader, metadata.Commit{From: number[leader.Agent], Release: backwards})
			}, acquire(rivals[0]), acquire(rivals[1]))
			w.only(errs)
			number[leader.Agent]++
			owner := map[metadata.PartitionID]int32{}
			for agent, got := range took {
				for _, id := range got {
					if owner[id] != 0 {
						w.Fatalf("%v was acquired by %d and %d", id, owner[id], agent)
					}
					owner[id] = agent
				}
			}
			for _, row := range w.read(p...).Partitions {
				if want := owner[row.ID]; want == 0 && row.Leader != metadata.NoAgent || want != 0 && row.Leader != want {
					w.Fatalf("%v: got leader %d, acquired by %d", row.ID, row.Leader, want)
				}
			}
			// All back to one hand.
			for _, s := range []metadata.Session{a, b, c} {
				w.must(w.Commit(w.ctx, s, metadata.Commit{From: number[s.Agent], Release: p}))
				number[s.Agent]++
			}
			leader = rivals[0]
			w.lead(leader, p...)
		}
	}},
	{"fence, commit with release, and acquisition", func(w *world) {
		p := ids(w.topic("t", 1))
		b, _ := w.start(1000)
		n := int64(0)
		for agent := int32(1); agent <= rounds; agent++ {
			s, _ := w.start(agent)
			w.lead(s, p...)
			key := fmt.Sprintf("w/%d", agent)
			bids := w.bids(b, p...)
			var got []metadata.PartitionID
			errs := together(
				func() error {
					c := flush(0, key)
					c.Release = p
					return w.Commit(w.ctx, s, c)
				},
				func() error { return w.Fence(w.ctx, metadata.Pulse{Agent: agent, Epoch: s.Epoch}) },
				func() (err error) { got, err = w.Acquire(w.ctx, b, bids); return err })
			w.only(errs[:1], metadata.ErrFenced)
			w.only(errs[1:2], metadata.ErrConflict)
			w.must(errs[2])
			if errs[0] != nil && errs[1] != nil {
				w.Fatalf("neither commit nor fence went through: %v, %v", errs[0], errs[1])
			}
			if len(got) == 0 {
				w.lead(b, p...)
			}
			same(w, "leader", w.partition(p[0]).Leader, b.Agent)
			w.must(w.Commit(w.ctx, b, metadata.Commit{From: n, Release: p}))
			n++
		}
	}},
	{"replace and trim", func(w *world) {
		for i := range rounds {
			r := raceRun(w, i)
			w.intend(r.s, r.out)
			errs := together(
				func() error { return w.Replace(w.ctx, r.s, r.out) },
				func() error {
					return w.Trim(w.ctx, r.s, []metadata.Trim{{Partition: r.p[1], LogStart: 10},
						{Partition: r.p[0], LogStart: 20}}, w.grace)
				})
			w.only(errs)
			w.audit()
			w.must(w.Trim(w.ctx, r.s, []metadata.Trim{{Partition: r.p[0], LogStart: 20},
				{Partition: r.p[1], LogStart: 10}}, w.grace))
			for _, p := range r.p {
				got, err := w.Find(w.ctx, p, 0, 1)
				w.must(err)
				same(w, "segments left", got, nil)
			}
		}
	}},
	{"trims of objects that partitions share", func(w *world) {
		for i := range rounds {
			r := raceRun(w, i)
			w.seal(r.s, r.out)
			trim := func(p metadata.PartitionID) func() error {
				return func() error {
					return w.Trim(w.ctx, r.s, []metadata.Trim{{Partition: p, LogStart: 20}}, w.grace)
				}
			}
			w.only(together(trim(r.p[0]), trim(r.p[1])))
			for _, o := range r.out.Objects {
				same(w, "tombstone of "+o.Key, w.tombstones()[o.Key], "retention")
			}
		}
	}},
	{"move and trim", func(w *world) {
		for i := range rounds {
			r := raceRun(w, i)
			w.seal(r.s, r.out)
			to := sealed(fmt.Sprintf("moved/%d", i))
			w.must(w.Intend(w.ctx, r.s, []string{to.Key}))
			var segments []metadata.Segment
			for _, g := range r.out.Segments {
				if g.Object.Key == r.out.Objects[0].Key {
					segments = append(segments, g)
				}
			}
			errs := together(
				func() error {
					return w.Move(w.ctx, r.s, metadata.Moving{From: r.out.Objects[0].Key, To: &to, Segments: segments})
				},
				func() error {
					return w.Trim(w.ctx, r.s, []metadata.Trim{{Partition: r.p[0], LogStart: 20}}, w.grace)
				})
			w.only(errs[:1], metadata.ErrConflict)
			w.must(errs[1])
			w.audit()
		}
	}},
	{"delete topic, replace, trim and commit", func(w *world) {
		for i := range rounds {
			r := raceRun(w, i)
			w.intend(r.s, r.out)
			errs := together(
				func() error { return w.DeleteTopic(w.ctx, r.p[0].Topic, w.grace) },
				func() error { return w.Replace(w.ctx, r.s, r.out) },
				func() error {
					return w.Trim(w.ctx, r.s, []metadata.Trim{{Partition: r.p[1], LogStart: 5}}, w.grace)
				},
				func() error {
					c := flush(2, fmt.Sprintf("late/%d", i))
					c.Release = r.p
					return w.Commit(w.ctx, r.s, c)
				})
			w.must(errs[0])
			w.only(errs[1:3], metadata.ErrConflict)
			w.must(errs[3])
			w.audit()
			same(w, "segments", w.inventory().Segments, nil)
		}
	}},
	{"whoever deletes an intent decides", func(w *world) {
		for i := range rounds {
			r := raceRun(w, i)
			w.intend(r.s, r.out)
			errs := together(
				func() error { return w.Replace(w.ctx, r.s, r.out) },
				func() error {
					_, _, err := w.Start(w.ctx, metadata.Agent{ID: r.s.Agent}, 1, nil, w.grace)
					return err
				})
			w.only(errs[:1], metadata.ErrFenced, metadata.ErrConflict)
			w.must(errs[1])
			_, buried := w.tombstones()[r.out.Objects[0].Key]
			if replaced := errs[0] == nil; replaced == buried {
				w.Fatalf("round %d: replaced %v, its upload buried %v", i, replaced, buried)
			}
		}
	}},
	{"shards", func(w *world) {
		a, _ := w.start(1)
		b, _ := w.start(2)
		all := []int32{0, 1, 2, 3, 4, 5, 6, 7}
		var gotA, gotB []metadata.ShardLease
		w.only(together(
			func() (err error) { gotA, err = w.AcquireShards(w.ctx, a, all); return err },
			func() (err error) { gotB, err = w.AcquireShards(w.ctx, b, all); return err }))
		same(w, "leases given", len(gotA)+len(gotB), len(all))
	}},
	{"a shard's new holder sees what the old one wrote", func(w *world) {
		p := ids(w.topic("t", 1))[0]
		for i := range int32(rounds) {
			a, _ := w.start(1)
			leases := w.shards(a, 1)
			b, _ := w.start(2)
			var taken []metadata.ShardLease
			var lost []int32
			var loaded []metadata.GroupOffset
			mine := offset("g", 1, p, int64(i)+100)
			errs := together(
				func() (err error) {
					lost, err = w.Write(w.ctx, a, metadata.GroupWrite{Leases: leases, Counter: 1, Offsets: []metadata.GroupOffset{mine}})
					return err
				},
				func() error { return w.Stop(w.ctx, a) },
				func() (err error) {
					for len(taken) == 0 && err == nil { // until the stop has come through
						taken, err = w.AcquireShards(w.ctx, b, []int32{1})
					}
					if err == nil {
						_, loaded, err = w.LoadShards(w.ctx, []int32{1})
					}
					return err
				})
			w.only(errs[:1], metadata.ErrFenced)
			w.only(errs[1:])
			if wrote := errs[0] == nil && len(lost) == 0; wrote && (len(loaded) != 1 || loaded[0] != mine) {
				w.Fatalf("round %d: the write was answered and the new holder loaded %+v", i, loaded)
			}
			w.must(w.Stop(w.ctx, b))
		}
	}},
	{"topics of one name, and producer ids", func(w *world) {
		var mu sync.Mutex
		given := map[int64]bool{}
		for i := range rounds {
			create := func(id byte) func() error {
				return func() error {
					_, err := w.CreateTopic(w.ctx, metadata.Topic{ID: metadata.UUID{id, byte(i)}, Name: fmt.Sprintf("t%d", i),
						Partitions: 2}, metadata.NoAgent)
					return err
				}
			}
			reserve := func() error {
				first, err := w.ProducerIDs(w.ctx, 10)
				mu.Lock()
				defer mu.Unlock()
				if given[first] {
					return fmt.Errorf("block %d was given twice", first)
				}
				given[first] = true
				return err
			}
			errs := together(create(1), create(2), reserve, reserve)
			w.only(errs[:2], metadata.ErrExists)
			same(w, "created", countNil(errs[:2]), 1)
			w.only(errs[2:])
		}
	}},
}

// raceRun is a fresh topic and agent with two committed objects, and their sealing into two objects that both hold both
// partitions.
func raceRun(w *world, i int) run {
	w.Helper()
	p := ids(w.topic(fmt.Sprintf("t%d", i), 2))
	s, _ := w.start(int32(i) + 1)
	w.lead(s, p...)
	k := func(name string) string { return fmt.Sprintf("%s/%d", name, i) }
	w.commit(s, 0, k("w1"), k("w2"))
	o1, o2 := sealed(k("s1")), sealed(k("s2"))
	return run{s, p, metadata.Sealing{
		Of: s, First: 1, Last: 2, Keys: []string{k("w1"), k("w2")},
		Partitions: []metadata.SealedPartition{{ID: p[0], End: 20}, {ID: p[1], End: 10}},
		Segments: []metadata.Segment{segment(p[0], 0, 10, 9, &o1), segment(p[1], 0, 5, 9, &o1), segment(p[0], 10, 20, 5, &o2),
			segment(p[1], 5, 10, 5, &o2)},
		Objects: []metadata.Object{o1, o2},
	}}
}
