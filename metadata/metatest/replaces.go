package metatest

import (
	"errors"

	"varve.dev/metadata"
)

// run is a session that leads two partitions and has three unsealed objects, and a sealing of all of them: one goes into a
// sealed object, one is promoted where it lies, the rest goes into a pack.
type run struct {
	s   metadata.Session
	p   []metadata.PartitionID
	out metadata.Sealing
}

func newRun(w *world) run {
	w.Helper()
	p := ids(w.topic("t", 3))
	s, _ := w.start(1)
	w.lead(s, p...)
	w.commit(s, 0, "w1", "w2", "w3")
	o, promoted := sealed("seal/1"), wal("w2").Object
	pack := wal("pack/1")
	pack.First, pack.Last = 1, 3
	return run{s, p, metadata.Sealing{
		Of: s, First: 1, Last: 3, Keys: []string{"w1", "w2", "w3"},
		Partitions: []metadata.SealedPartition{{ID: p[1], End: 20}, {ID: p[0], End: 10}},
		Segments: []metadata.Segment{segment(p[1], 0, 20, 4, &promoted), segment(p[0], 5, 10, 9, &o),
			segment(p[0], 0, 5, 8, &o)},
		Objects: []metadata.Object{o}, Promote: []string{"w2"}, Pack: &pack, Dead: []string{"w3.1"}, Grace: hour,
	}}
}

var replaces = []test{
	{"a run leaves as segments, promoted objects and a pack", func(w *world) {
		r := newRun(w)
		w.seal(r.s, r.out)
		same(w, "ends", []int64{w.partition(r.p[0]).SealedEnd, w.partition(r.p[1]).SealedEnd, w.partition(r.p[2]).SealedEnd},
			[]int64{10, 20, 0})
		st := w.read(r.p...)
		pack := *r.out.Pack
		pack.Session, pack.Kind = metadata.Session{Agent: 1, Epoch: 1}, metadata.Pack
		same(w, "unsealed", st.Unsealed, []metadata.WALObject{pack})
		same(w, "tombstones", w.tombstones(), map[string]string{"w1": "sealed", "w3": "sealed", "w3.1": "abandoned"})
		same(w, "intents", w.inventory().Intents, nil)
		got, err := w.Find(w.ctx, r.p[0], 0, 9)
		w.must(err)
		same(w, "bases", bases(got), []int64{0, 5})
		var kinds []metadata.Kind
		for _, o := range w.inventory().Objects {
			kinds = append(kinds, o.Kind)
			if (o.Kind == metadata.Sealed) == (len(o.Directory) > 0) {
				w.Errorf("object %s of kind %d has a directory of %d bytes", o.Key, o.Kind, len(o.Directory))
			}
		}
		same(w, "kinds of pack, seal, w2", kinds, []metadata.Kind{metadata.Pack, metadata.Sealed, metadata.Sealed})
	}},
	{"a replacement succeeds once", func(w *world) {
		r := newRun(w)
		w.seal(r.s, r.out)
		w.want(w.Replace(w.ctx, r.s, r.out), metadata.ErrConflict)
		w.intend(r.s, metadata.Sealing{Pack: &metadata.WALObject{Object: sealed("again")}})
		w.want(w.Replace(w.ctx, r.s, r.out), metadata.ErrConflict)
	}},
	{"a replacement that does not fit changes nothing", func(w *world) {
		r := newRun(w)
		other, _ := w.start(2)
		w.commit(other, 0, "o1")
		w.intend(r.s, r.out)
		before := w.inventory()
		for what, change := range map[string]func(*metadata.Sealing){
			"a key is missing":       func(s *metadata.Sealing) { s.Keys = s.Keys[:2] },
			"an order differs":       func(s *metadata.Sealing) { s.Keys = []string{"w1", "w3", "w2"} },
			"a key is not there":     func(s *metadata.Sealing) { s.Keys, s.Last, s.Pack = []string{"w1", "w2", "w3", "w4"}, 4, nil },
			"part of the run":        func(s *metadata.Sealing) { s.First, s.Pack = 2, nil },
			"another leader epoch":   func(s *metadata.Sealing) { s.Partitions[0].LeaderEpoch = 2 },
			"another sealed end":     func(s *metadata.Sealing) { s.Partitions[0].Base, s.Segments[0].Base = 1, 1 },
			"no such partition":      func(s *metadata.Sealing) { s.Partitions = append(s.Partitions, metadata.SealedPartition{}) },
			"an upload not intended": func(s *metadata.Sealing) { o := sealed("x"); s.Objects = []metadata.Object{o}; rename(s, &o) },
			"the writer lives": func(s *metadata.Sealing) {
				*s = metadata.Sealing{Of: other, First: 1, Last: 1, Keys: []string{"o1"}}
			},
		} {
			out := r.out
			out.Partitions = append([]metadata.SealedPartition{}, out.Partitions...)
			out.Segments = append([]metadata.Segment{}, out.Segments...)
			change(&out)
			if err := w.Replace(w.ctx, r.s, out); !errors.Is(err, metadata.ErrConflict) {
				w.Errorf("%s: got %v, want ErrConflict", what, err)
			}
			same(w, what, w.inventory(), before)
		}
		w.must(w.Replace(w.ctx, r.s, r.out))
	}},
	{"a replacement that makes no sense is refused as such", func(w *world) {
		r := newRun(w)
		w.intend(r.s, r.out)
		before := w.inventory()
		for what, change := range map[string]func(*metadata.Sealing){
			"segments overlap":         func(s *metadata.Sealing) { s.Segments[1].Base = 4 },
			"beyond the sealed end":    func(s *metadata.Sealing) { s.Segments[0].End = 21 },
			"below the sealed end":     func(s *metadata.Sealing) { s.Partitions[0].Base = 1 },
			"of an unnamed partition":  func(s *metadata.Sealing) { s.Partitions = s.Partitions[1:] },
			"in an unnamed object":     func(s *metadata.Sealing) { s.Objects = nil },
			"in no object":             func(s *metadata.Sealing) { s.Segments[0].Object = nil },
			"an object without extent": func(s *metadata.Sealing) { s.Objects = append(s.Objects, sealed("x")) },
			"a promotion from outside": func(s *metadata.Sealing) { s.Keys, s.Promote = []string{"w1", "w3"}, []string{"w2"} },
			"a pack beyond the run":    func(s *metadata.Sealing) { p := *s.Pack; p.Last = 4; s.Pack = &p },
		} {
			out := r.out
			out.Partitions = append([]metadata.SealedPartition{}, out.Partitions...)
			out.Segments = append([]metadata.Segment{}, out.Segments...)
			change(&out)
			err := w.Replace(w.ctx, r.s, out)
			if err == nil || errors.Is(err, metadata.ErrConflict) {
				w.Errorf("%s: got %v, want an error that is no conflict", what, err)
			}
			same(w, what, w.inventory(), before)
		}
	}},
	{"the run of a session that is over may be replaced by another", func(w *world) {
		r := newRun(w)
		w.must(w.Stop(w.ctx, r.s))
		b, _ := w.start(2)
		w.lead(b, r.p...)
		for i := range r.out.Partitions {
			r.out.Partitions[i].LeaderEpoch = 1
		}
		w.seal(b, r.out)
		same(w, "unsealed", unsealedKeys(w.read(r.p...)), []string{"pack/1"})
	}},
	{"packs merge into the next generation", func(w *world) {
		r := newRun(w)
		w.seal(r.s, r.out)
		w.commit(r.s, 3, "w4")
		next := wal("pack/2")
		next.First, next.Last = 1, 4
		w.seal(r.s, metadata.Sealing{Of: r.s, First: 1, Last: 4, Keys: []string{"pack/1", "w4"}, Pack: &next})
		same(w, "unsealed", unsealedKeys(w.read(r.p...)), []string{"pack/2"})
	}},
	{"an upload that was given up is buried with its intent", func(w *world) {
		r := newRun(w)
		w.must(w.Intend(w.ctx, r.s, []string{"abandoned/1"}))
		r.out.Dead = append(r.out.Dead, "abandoned/1")
		w.seal(r.s, r.out)
		same(w, "reason", w.tombstones()["abandoned/1"], "abandoned")
		same(w, "intents", w.inventory().Intents, nil)
	}},
}

func rename(s *metadata.Sealing, o *metadata.Object) {
	for i := range s.Segments {
		if s.Segments[i].Object.Key == "seal/1" {
			s.Segments[i].Object = o
		}
	}
}

var trims = []test{
	{"a log start goes forward only, and takes segments and objects with it", func(w *world) {
		r := newRun(w)
		w.seal(r.s, r.out)
		trim := func(id metadata.PartitionID, start int64) error {
			return w.Trim(w.ctx, r.s, []metadata.Trim{{Partition: id, LogStart: start}}, metadata.Grace{})
		}
		w.must(trim(r.p[0], 4))
		got, err := w.Find(w.ctx, r.p[0], 0, 9)
		w.must(err)
		same(w, "a segment stays while a record of it lives", bases(got), []int64{0, 5})
		w.must(trim(r.p[0], 5))
		got, err = w.Find(w.ctx, r.p[0], 0, 9)
		w.must(err)
		same(w, "bases", bases(got), []int64{5})
		w.must(trim(r.p[0], 3))
		same(w, "log start", w.partition(r.p[0]).LogStart, 5)

		mixed, err := w.Mixed(w.ctx, 9)
		w.must(err)
		if len(mixed) != 1 || mixed[0].Object.Key != "seal/1" || len(mixed[0].Segments) != 1 {
			w.Fatalf("got mixed objects %+v, want seal/1 with one live segment", mixed)
		}
		w.must(trim(r.p[0], 100))
		same(w, "tombstone", w.tombstones()["seal/1"], "retention")
		same(w, "log start", w.partition(r.p[0]).LogStart, 100)
		mixed, err = w.Mixed(w.ctx, 9)
		w.must(err)
		same(w, "mixed", mixed, nil)
		w.must(trim(r.p[1], 20))
		same(w, "the promoted one, too", w.tombstones()["w2"], "retention")
	}},
	{"producers outlive the segments that told of them", func(w *world) {
		r := newRun(w)
		w.seal(r.s, r.out)
		states := func() []metadata.ProducerState {
			w.Helper()
			got, err := w.ProducerStates(w.ctx, r.p)
			w.must(err)
			return got
		}
		trim := func(start int64, p *metadata.ProducerState) error {
			return w.Trim(w.ctx, r.s, []metadata.Trim{{Partition: r.p[0], LogStart: start, Producers: p}}, w.grace)
		}
		state := func(end int64, text string) *metadata.ProducerState {
			return &metadata.ProducerState{Partition: r.p[0], End: end, State: []byte(text)}
		}
		w.must(trim(5, nil))
		same(w, "without a state", states(), nil)
		w.must(trim(10, state(12, "twelve")))
		same(w, "kept", states(), []metadata.ProducerState{*state(12, "twelve")})
		w.must(trim(11, state(11, "late")))
		w.must(trim(12, nil))
		same(w, "an older one comes too late", states(), []metadata.ProducerState{*state(12, "twelve")})
		w.must(trim(13, state(13, "")))
		same(w, "a newer one counts", states(), []metadata.ProducerState{{Partition: r.p[0], End: 13, State: []byte{}}})
		wrong := state(20, "of another")
		wrong.Partition = r.p[1]
		if err := trim(14, wrong); err == nil {
			w.Fatal("took the producers of another partition")
		}
		same(w, "log start", w.partition(r.p[0]).LogStart, 13)
		w.must(w.DeleteTopic(w.ctx, r.p[0].Topic, w.grace))
		same(w, "of a deleted topic", states(), nil)
	}},
	{"a trim by another leader epoch changes nothing", func(w *world) {
		r := newRun(w)
		w.seal(r.s, r.out)
		before := w.inventory()
		for _, bad := range []metadata.Trim{{Partition: r.p[1], LeaderEpoch: 2, LogStart: 20}, {Partition: metadata.PartitionID{Topic: 99}}} {
			err := w.Trim(w.ctx, r.s, []metadata.Trim{{Partition: r.p[0], LogStart: 10}, bad}, w.grace)
			w.want(err, metadata.ErrConflict)
			same(w, "inventory", w.inventory(), before)
		}
	}},
	{"a mixed object is moved to a smaller one", func(w *world) {
		r := newRun(w)
		w.seal(r.s, r.out)
		w.must(w.Trim(w.ctx, r.s, []metadata.Trim{{Partition: r.p[0], LogStart: 5}}, w.grace))
		mixed, err := w.Mixed(w.ctx, 9)
		w.must(err)
		to := sealed("seal/2")
		m := metadata.Moving{From: "seal/1", To: &to, Segments: mixed[0].Segments}
		m.Segments[0].Pos, m.Segments[0].Len = 0, 5
		w.want(w.Move(w.ctx, r.s, m), metadata.ErrConflict) // no intent
		w.must(w.Intend(w.ctx, r.s, []string{"seal/2"}))
		w.must(w.Move(w.ctx, r.s, m))
		w.want(w.Move(w.ctx, r.s, m), metadata.ErrConflict)
		got, err := w.Find(w.ctx, r.p[0], 5, 9)
		w.must(err)
		want := segment(r.p[0], 5, 10, 9, &to)
		want.Pos, want.RunningMax = 0, 9
		same(w, "segments", got, []metadata.Segment{want})
		same(w, "tombstone", w.tombstones()["seal/1"], "moved")
	}},
	{"a move that does not name exactly what lives changes nothing", func(w *world) {
		r := newRun(w)
		w.seal(r.s, r.out)
		w.must(w.Intend(w.ctx, r.s, []string{"seal/2"}))
		before := w.inventory()
		to, o := sealed("seal/2"), sealed("seal/1")
		both := []metadata.Segment{segment(r.p[0], 0, 5, 8, &o), segment(r.p[0], 5, 10, 9, &o)}
		shifted := []metadata.Segment{both[0], segment(r.p[0], 5, 9, 9, &o)}
		for what, m := range map[string]metadata.Moving{
			"one of two": {From: "seal/1", To: &to, Segments: both[:1]},
			"another":    {From: "seal/1", To: &to, Segments: shifted},
			"none":       {From: "seal/1"},
			"no object":  {From: "nothing", To: &to, Segments: both},
			"a pack":     {From: "pack/1"},
		} {
			if err := w.Move(w.ctx, r.s, m); !errors.Is(err, metadata.ErrConflict) {
				w.Errorf("%s: got %v, want ErrConflict", what, err)
			}
			same(w, what, w.inventory(), before)
		}
		if err := w.Move(w.ctx, r.s, metadata.Moving{From: "seal/1", To: &to}); err == nil {
			w.Error("a new object without segments was accepted")
		}
		w.must(w.Move(w.ctx, r.s, metadata.Moving{From: "seal/1", To: &to, Segments: both}))
	}},
}
