package partition_test

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"varve.dev/metadata"
	"varve.dev/tiering/batch"
	"varve.dev/tiering/flush"
	"varve.dev/tiering/object"
	"varve.dev/tiering/partition"
)

var _ flush.Owner = (*partition.Partition)(nil)

func TestAppendWritesOffsetEpochAndTime(t *testing.T) {
	cfg := settings()
	cfg.AppendTime, cfg.TimestampAfter = true, 0
	w := newWindow()
	p := partition.New(partition.Start{ID: here, Epochs: []metadata.EpochStart{{Epoch: 4, Start: 9}}, Sealed: 9}, w, cfg)
	for i, now := range []int64{5000, 4000, 6000} { // the clock goes back: the append time does not
		done, err := p.Append(sent{producer: 3, sequence: int32(i), n: 1, time: 1 << 50}.batch(), -1, time.UnixMilli(now), &waiter{}, 0)
		must(t, err)
		b, want := w.pending[i].b, max(now, 5000)
		must(t, b.Verify())
		if done.Base != int64(9+i) || done.AppendTime != want || b.Base() != done.Base || b.LeaderEpoch() != 4 || b.MaxTimestamp() != want || !b.HasAppendTime() {
			t.Errorf("append %d: %+v; batch at %d, epoch %d, time %d; want time %d", i, done, b.Base(), b.LeaderEpoch(), b.MaxTimestamp(), want)
		}
	}
	done, err := p.Append(sent{producer: 3, sequence: 1, n: 1}.batch(), -1, time.UnixMilli(9000), &waiter{}, 0)
	if err != nil || done.Base != 10 || done.AppendTime != 5000 {
		t.Errorf("a duplicate is told %+v, %v; want its original's offset and time", done, err)
	}
	// A successor goes on where the time was, wherever its own clock stands.
	o := w.commit(p, 0)
	p = partition.New(partition.Start{ID: here, Epochs: []metadata.EpochStart{{Epoch: 5, Start: 12}}, Sealed: 9, Unsealed: []*object.Stored{o}}, w, cfg)
	if done, err := p.Append(sent{n: 1}.batch(), -1, time.UnixMilli(1), &waiter{}, 0); err != nil || done.AppendTime != 6000 || done.Base != 12 {
		t.Errorf("after a takeover %+v, %v; want time 6000 at 12", done, err)
	}
}

// Nothing that the partition calls is called under its lock: each callback here calls back.
func TestCallbacksMayCallBack(t *testing.T) {
	for _, local := range []bool{false, true} {
		cfg := settings()
		cfg.Local = local
		w := newWindow()
		p := lead(w, cfg)
		again := func() {
			p.Offsets()
			plan, _, _ := p.Plan(0, 100)
			plan.Release()
			p.Watch(1<<40, func() {})()
		}
		wt := &waiter{on: again}
		woken := 0
		p.Watch(0, func() { again(); woken++ })
		p.Watch(1<<40, func() { again(); woken++ })
		for range 3 { // an original, one that waits, and one that waits for nothing
			_, err := p.Append(sent{producer: 9, n: 1}.batch(), -1, start, wt, 0)
			must(t, err)
		}
		w.sync(p)
		w.commit(p, 0)
		_, err := p.Append(sent{producer: 9, n: 1}.batch(), -1, start, wt, 0)
		must(t, err)
		_, err = p.Append(sent{producer: 9, sequence: 1, n: 1}.batch(), 1, start, wt, 0)
		must(t, err)
		_, err = p.Append(sent{producer: 9, sequence: 1, n: 1}.batch(), -1, start, wt, 0)
		must(t, err)
		p.Close(partition.ErrNotLeader)
		if woken != 2 {
			t.Errorf("local %v: %d watchers woken, want 2", local, woken)
		}
	}
}

func TestWatchers(t *testing.T) {
	w := newWindow()
	p := lead(w, settings())
	count := func(n *int) func() { return func() { *n++ } }
	var at0, at0b, at2, cancelled, late int
	p.Watch(0, count(&at0))
	p.Watch(0, count(&at0b))
	p.Watch(2, count(&at2))
	p.Watch(0, count(&cancelled))()
	append1 := func(n int32) {
		_, err := p.Append(sent{n: n}.batch(), 1, start, &waiter{}, 0)
		must(t, err)
	}
	append1(2)
	w.sync(p)
	if at0 != 0 {
		t.Error("woken by what may not be read")
	}
	w.commit(p, 0)
	p.Watch(1, count(&late))
	if at0 != 1 || at0b != 1 || at2 != 0 || cancelled != 0 || late != 1 {
		t.Errorf("high watermark 2: woken %d %d %d %d %d, want 1 1 0 0 1", at0, at0b, at2, cancelled, late)
	}
	append1(1)
	w.commit(p, 0)
	if at0 != 1 || at2 != 1 {
		t.Errorf("high watermark 3: woken %d and %d, want each once", at0, at2)
	}
	var end, after int
	p.Watch(99, count(&end))
	p.Close(partition.ErrNotLeader)
	p.Close(errors.New("a second reason"))
	p.Watch(99, count(&after))
	if end != 1 || after != 1 || !errors.Is(p.Err(), partition.ErrNotLeader) {
		t.Errorf("leadership ends: woken %d and %d; %v", end, after, p.Err())
	}
}

func TestReadable(t *testing.T) {
	cfg := settings()
	cfg.Local = true
	w := newWindow()
	p := lead(w, cfg)
	const frame = batch.HeaderSize + 14
	for range 3 {
		_, err := p.Append(sent{n: 2}.batch(), -1, start, &waiter{}, 0)
		must(t, err)
	}
	w.commit(p, 1)
	const much = 1 << 40
	for offset, want := range map[int64]int64{-1: much, 0: frame, 1: frame, 2: 0, 6: 0, 7: much} {
		if got := p.Readable(offset); got != want {
			t.Errorf("from %d: %d, want %d", offset, got, want)
		}
	}
	w.sync(p)
	for offset, want := range map[int64]int64{0: 3 * frame, 2: 2 * frame, 5: frame, 6: 0} {
		if got := p.Readable(offset); got != want {
			t.Errorf("synced, from %d: %d, want %d", offset, got, want)
		}
	}
	if got := p.Bytes(); got != 3*frame {
		t.Errorf("%d bytes, want %d", got, 3*frame)
	}
	p.Merged(map[*object.Stored]bool{w.objects[0]: true}, 2, nil)
	if got := p.Readable(0); got != much {
		t.Errorf("history: %d, want plenty", got)
	}
	p.Close(partition.ErrNotLeader)
	if got := p.Readable(6); got != much {
		t.Errorf("closed: %d: whoever waits must be told at once", got)
	}
}

func TestEpochs(t *testing.T) {
	w := newWindow()
	history := []metadata.EpochStart{{Epoch: 2, Start: 0}, {Epoch: 5, Start: 100}, {Epoch: 6, Start: 100}, {Epoch: 9, Start: 250}}
	p := partition.New(partition.Start{ID: here, Epochs: history, Sealed: 300}, w, settings())
	for asked, want := range map[int32][2]int64{
		-1: {-1, -1}, 0: {0, 0}, 1: {1, 0}, 2: {2, 100}, 3: {2, 100}, 5: {5, 100}, 6: {6, 250}, 8: {6, 250}, 9: {9, 300}, 10: {-1, -1}, math.MaxInt32: {-1, -1},
	} {
		if epoch, end := p.EpochEnd(asked); int64(epoch) != want[0] || end != want[1] {
			t.Errorf("epoch %d: (%d, %d), want %v", asked, epoch, end, want)
		}
	}
	for offset, want := range map[int64]int32{-1: -1, 0: 2, 99: 2, 100: 6, 249: 6, 250: 9, 1 << 40: 9} {
		if got := p.EpochAt(offset); got != want {
			t.Errorf("offset %d has epoch %d, want %d", offset, got, want)
		}
	}
	for _, c := range []struct {
		base, end int64
		want      []metadata.EpochStart
	}{
		{0, 50, history[:1]}, {20, 100, []metadata.EpochStart{{Epoch: 2, Start: 20}}}, {250, 300, history[3:]},
		{50, 300, []metadata.EpochStart{{Epoch: 2, Start: 50}, {Epoch: 5, Start: 100}, {Epoch: 6, Start: 100}, {Epoch: 9, Start: 250}}},
		{100, 250, []metadata.EpochStart{{Epoch: 6, Start: 100}}},
	} {
		if got := p.EpochsIn(c.base, c.end); !slices.Equal(got, c.want) {
			t.Errorf("[%d, %d): %v, want %v", c.base, c.end, got, c.want)
		}
	}
	if err := errors.Join(p.CheckEpoch(-1), p.CheckEpoch(9)); err != nil {
		t.Error(err)
	}
	if err := p.CheckEpoch(8); !errors.Is(err, partition.ErrEpochFenced) {
		t.Errorf("8: %v", err)
	}
	if err := p.CheckEpoch(10); !errors.Is(err, partition.ErrEpochUnknown) {
		t.Errorf("10: %v", err)
	}
	// A consumer at the log start, whose last record was of an epoch that is deleted now, has lost nothing.
	p.SetLogStart(250)
	if epoch, end := p.EpochEnd(6); epoch != 6 || end != 250 {
		t.Errorf("a deleted epoch: (%d, %d), want (6, 250): (-1, -1) would make Java clients reset", epoch, end)
	}
	if got := p.EpochAt(250); got != 9 {
		t.Errorf("epoch %d at the log start", got)
	}
}

func TestDurabilityChangesWhenNothingIsOnItsWay(t *testing.T) {
	w := newWindow()
	object, local := settings(), settings()
	local.Local = true
	local.MaxMessageBytes = 77777
	p := lead(w, object)
	_, err := p.Append(sent{n: 1}.batch(), -1, start, &waiter{}, 0)
	must(t, err)
	if p.Configure(local) || p.Local() || p.Config().MaxMessageBytes != 77777 {
		t.Error("the durability changed under an append, or the other settings did not")
	}
	w.sync(p)
	if got := p.Offsets().HighWatermark; got != 0 {
		t.Errorf("high watermark %d by the journal alone", got)
	}
	w.commit(p, 0)
	if !p.Configure(local) || !p.Local() {
		t.Error("the durability did not change when everything was committed")
	}
	_, err = p.Append(sent{n: 1}.batch(), -1, start, &waiter{}, 0)
	must(t, err)
	w.sync(p)
	if p.Configure(object) || !p.Local() {
		t.Error("what the journal holds was promised by it alone: the change must wait for its commit")
	}
	w.commit(p, 0)
	if !p.Configure(object) || p.Local() {
		t.Error("the durability did not change back")
	}
}

func TestReplayAndGap(t *testing.T) {
	w := newWindow()
	cfg := settings()
	cfg.Local = true
	p := partition.New(partition.Start{ID: here, Epochs: []metadata.EpochStart{{Epoch: 3, Start: 10}}, Sealed: 10}, w, cfg)
	tail := sent{producer: 5, n: 2}.batch()
	tail.Assign(10, 2)
	must(t, p.Replay(tail))
	if err := p.Replay(tail); err == nil {
		t.Error("the same batch twice")
	}
	if got := w.pending[0].b; got.Base() != 10 || got.LeaderEpoch() != 2 || w.pending[0].need != flush.Stored {
		t.Errorf("replayed at %d, epoch %d", got.Base(), got.LeaderEpoch())
	}
	play(t, w, p, `
		produce id=4 seq=0 n=2     → a at 10                # its retry comes after the restart
		produce id=4 seq=2         → b at 12
		commit                     → hw 13; told a b
	`)

	w = newWindow()
	p = partition.New(partition.Start{ID: here, Epochs: []metadata.EpochStart{{Epoch: 3, Start: 10}}, Sealed: 10}, w, cfg)
	must(t, p.Skip(partition.TailCap, start))
	play(t, w, p, `
		produce                    → tail-full              # the gap is committed first
		sync                       → hw 10                  # and shown to nobody before
		plan 10                    →
		commit                     → hw 1048586
		plan 10                    → wal/0[10,1048586)
		produce                    → b at 1048586
	`)
	if r := w.objects[0].Dir.Ranges[0]; !r.Gap || r.Records != 1 {
		t.Errorf("the gap's range is %+v", r)
	}
}

func TestASealMovesWhatPlansName(t *testing.T) {
	w := newWindow()
	p := lead(w, settings())
	for range 4 {
		_, err := p.Append(sent{n: 10}.batch(), -1, start, &waiter{}, 0)
		must(t, err)
		w.commit(p, 0)
	}
	before, _, err := p.Plan(5, 1<<30)
	must(t, err)
	run := func(i ...int) map[*object.Stored]bool {
		m := map[*object.Stored]bool{}
		for _, k := range i {
			m[w.objects[k]] = true
		}
		return m
	}
	pack := &object.Stored{Dir: &object.Directory{Ranges: []object.Range{
		{Partition: metadata.PartitionID{Topic: 1, Partition: 1}, End: 99, Len: 7},
		{Partition: here, Base: 0, End: 20, Len: 150},
		{Partition: metadata.PartitionID{Topic: 1, Partition: 3}, End: 99, Len: 7},
	}}, WALObject: metadata.WALObject{Object: metadata.Object{Key: "pack"}}}
	p.Merged(run(0, 1), 0, pack)
	play(t, w, p, `
		plan 5        → pack[0,20) wal/2[20,30) wal/3[30,40)
		plan 19       → pack[0,20) wal/2[20,30) wal/3[30,40)
		plan 20       → wal/2[20,30) wal/3[30,40)
		offsets       → start 0 sealed 0 committed 40 hw 40 end 40
	`)
	if got := bytesOf(before); got != "wal/0[0,10) wal/1[10,20) wal/2[20,30) wal/3[30,40)" {
		t.Errorf("a plan that was made before says %s", got)
	}
	w.objects = append(w.objects, pack)
	p.Merged(run(4, 2), 30, nil)
	play(t, w, p, `
		plan 5        → sealed to 30 wal/3[30,40)            # where history ends in nothing, the read goes on
		plan 29 1     → sealed to 30 wal/3[30,40)
		plan 30       → wal/3[30,40)
		offsets       → start 0 sealed 30 committed 40 hw 40 end 40
	`)
	p.SetLogStart(30)
	play(t, w, p, `
		plan 29       → out-of-range
		plan 30       → wal/3[30,40)
	`)
	p.SetLogStart(35)
	p.SetLogStart(31) // never back
	play(t, w, p, `
		plan 34       → out-of-range
		plan 35       → wal/3[30,40)
	`)
	p.SetLogStart(40)
	if got := p.Bytes(); got != 0 {
		t.Errorf("%d bytes are left of a log that was deleted to its end", got)
	}
	play(t, w, p, `
		plan 40       →
		offsets       → start 40 sealed 30 committed 40 hw 40 end 40
	`)
	// A seal that was faster than the news of a commit: the range is there once.
	p.Committed(w.objects[3], &w.objects[3].Dir.Ranges[0])
	p.Merged(nil, 40, nil)
	p.Committed(w.objects[3], &w.objects[3].Dir.Ranges[0])
	if got := p.Bytes(); got != 0 {
		t.Errorf("%d bytes of what is sealed", got)
	}
}

func TestSealingAndRetentionSeeCommittedData(t *testing.T) {
	w := newWindow()
	cfg := settings()
	cfg.Local, cfg.SegmentAge, cfg.LocalRetention = true, 5, 6
	p := lead(w, cfg)
	at := start.UnixMilli()
	for i := range int64(3) {
		_, err := p.Append(sent{n: 1, time: at + 100*i}.batch(), -1, start, &waiter{}, 0)
		must(t, err)
		if i < 2 {
			w.commit(p, 0)
		}
	}
	if got := p.MaxTimestamp(); got != at+100 {
		t.Errorf("largest timestamp %d, want that of what may be read", got-at)
	}
	w.sync(p)
	if got := p.MaxTimestamp(); got != at+200 {
		t.Errorf("largest timestamp %d", got-at)
	}
	s := p.Sealing()
	if s.LastStable != 2 || s.SealedEnd != 0 || s.LogStart != 0 || s.SegmentAge != 5 || s.LocalRetention != 6 {
		t.Errorf("%+v", s)
	}
	for before, want := range map[int64]int64{0: 0, 1: 1, 100: 1, 101: 2, 1000: 2} {
		if got := p.Expired(time.UnixMilli(at + before)); got != want {
			t.Errorf("expired before +%d: to %d, want %d", before, got, want)
		}
	}
	plan, offsets := p.PlanTime()
	if got := bytesOf(plan); got != "wal/0[0,1) wal/1[1,2) held[2,3)" || offsets.End != 3 || plan.From != 0 {
		t.Errorf("for a seek: %s", got)
	}
	plan.Release()
}

// Batches without a timestamp are as old as their object.
func TestBatchesWithoutTimestampsDoNotExpireAtOnce(t *testing.T) {
	w := newWindow()
	p := lead(w, settings())
	_, err := p.Append(sent{n: 1, time: -1}.batch(), -1, start, &waiter{}, 0)
	must(t, err)
	w.commit(p, 0)
	if got := p.Expired(start); got != 0 {
		t.Errorf("expired to %d as soon as it was there", got)
	}
	if got := p.Expired(start.Add(1e6)); got != 1 {
		t.Errorf("never expires: %d", got)
	}
}

// Two agents have taken turns, and their sessions' objects come one session after the other.
func TestATakeoverPutsObjectsInTheOrderOfOffsets(t *testing.T) {
	stored := func(key string, base, end int64, ps ...object.Producer) *object.Stored {
		return &object.Stored{Dir: &object.Directory{Ranges: []object.Range{
			{Partition: metadata.PartitionID{Topic: 1}, End: 5, Len: 1},
			{Partition: here, Base: base, End: end, Len: 10, MaxAppendTime: -1, Producers: ps},
		}}, WALObject: metadata.WALObject{Object: metadata.Object{Key: key}}}
	}
	e := func(seq int32, offset int64) object.Producer {
		return object.Producer{Entry: batch.Entry{ID: 7, FirstSeq: seq, LastSeq: seq, BaseOffset: offset, LastOffset: offset}, TxnFirst: -1}
	}
	w := newWindow()
	p := partition.New(partition.Start{ID: here, Epochs: []metadata.EpochStart{{Epoch: 9, Start: 30}}, LogStart: 2, Sealed: 3,
		State:    object.State{Producers: []object.Producer{e(1, 2)}},
		Unsealed: []*object.Stored{stored("a1", 3, 10, e(2, 5)), stored("a3", 20, 30, e(4, 25)), stored("b2", 10, 20, e(3, 15)), stored("old", 0, 3)}}, w, settings())
	play(t, w, p, `
		offsets                → start 2 sealed 3 committed 30 hw 30 end 30
		plan 3                 → a1[3,10) b2[10,20) a3[20,30)
		plan 12                → b2[10,20) a3[20,30)
		produce id=7 seq=1     → a at 2; told a
		produce id=7 seq=3     → b at 15; told b
		produce id=7 seq=4     → c at 25; told c
		produce id=7 seq=6     → out-of-order
		produce id=7 seq=5     → e at 30
	`)
}

// A successor that reads the snapshot of any sealed point and the deltas behind it tells retries what the leader would.
func TestASuccessorKnowsTheProducers(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		w := newWindow()
		p := lead(w, settings())
		now := time.Now()
		w.created = now.UnixMilli()
		next := map[int64]sent{}
		var history []sent
		type left struct {
			sealed, logStart int64
			state            object.State
		}
		points := []left{{}}
		for range rapid.IntRange(1, 60).Draw(r, "steps") {
			switch rapid.IntRange(0, 10).Draw(r, "do") {
			case 0:
				if len(w.pending) > 0 {
					w.commit(p, rapid.IntRange(1, len(w.pending)).Draw(r, "n"))
				}
			case 1:
				// The seal takes the state at the end of some committed range, whatever is on its way.
				if len(w.objects) > 0 {
					o := w.objects[rapid.IntRange(0, len(w.objects)-1).Draw(r, "object")]
					end := o.Dir.Ranges[0].End
					points = append(points, left{sealed: end, state: object.State{Producers: p.ProducersAt(end)}})
				}
			case 2:
				// A trim takes everything up to the end of some committed range, sealed or not.
				if len(w.objects) > 0 {
					o := w.objects[rapid.IntRange(0, len(w.objects)-1).Draw(r, "trimmed")]
					end := o.Dir.Ranges[0].End
					state, needed := p.Remember(end, now)
					if !needed || state.End < end {
						r.Fatalf("trimmed to %d: got %+v, %v", end, state, needed)
					}
					decoded, err := object.DecodeState(state.Append(nil))
					if err != nil {
						r.Fatal(err)
					}
					points = append(points, left{sealed: end, logStart: end, state: *decoded})
				}
			default:
				s := next[rapid.Int64Range(1, 3).Draw(r, "producer")]
				s.producer, s.n, s.time = rapid.Int64Range(1, 3).Draw(r, "producer"), rapid.Int32Range(1, 3).Draw(r, "n"), now.UnixMilli()
				known := next[s.producer]
				s.epoch, s.sequence = known.epoch, known.sequence
				if rapid.IntRange(0, 12).Draw(r, "bump") == 0 {
					s.epoch, s.sequence = s.epoch+1, 0
				}
				if _, err := p.Append(s.batch(), -1, now, &waiter{}, 0); err != nil {
					r.Fatal(err)
				}
				history = append(history, s)
				next[s.producer] = sent{epoch: s.epoch, sequence: batch.AddSequence(s.sequence, s.n)}
			}
		}
		if len(w.pending) > 0 {
			w.commit(p, 0)
		}
		for _, point := range points {
			end := p.Offsets().Committed
			alive := slices.DeleteFunc(slices.Clone(w.objects), func(o *object.Stored) bool { return o.Dir.Ranges[0].End <= point.logStart })
			successor := partition.New(partition.Start{ID: here, Epochs: []metadata.EpochStart{{Epoch: 2, Start: end}}, LogStart: point.logStart,
				Sealed: point.sealed, State: point.state, Unsealed: alive}, newWindow(), settings())
			if diff := cmp.Diff(p.Producers(now), successor.Producers(now), cmpopts.EquateEmpty()); diff != "" {
				r.Fatalf("sealed to %d: live and restored state differ\n%s", point.sealed, diff)
			}
			for _, s := range history {
				want, wantErr := p.Append(s.batch(), 0, now, nil, 0)
				got, err := successor.Append(s.batch(), 0, now, nil, 0)
				got.LogStart = want.LogStart
				if got != want || fmt.Sprint(err) != fmt.Sprint(wantErr) {
					r.Fatalf("sealed to %d: a retry of %+v is told %+v, %v; the leader says %+v, %v", point.sealed, s, got, err, want, wantErr)
				}
			}
		}
	})
}

// What was on its way when the leader died was never there, however much of it there was.
func TestASuccessorKnowsWhatWasCommittedOnly(t *testing.T) {
	for _, lost := range []int{1, 4, 5, 6, 20} {
		w := newWindow()
		p := lead(w, settings())
		now := time.Now()
		w.created = now.UnixMilli()
		send := func(n int, sequence int32) {
			for i := range int32(n) {
				s := sent{producer: 1, sequence: sequence + i, n: 1, time: now.UnixMilli()}
				if _, err := p.Append(s.batch(), -1, now, &waiter{}, 0); err != nil {
					t.Fatal(err)
				}
			}
		}
		send(3, 0)
		w.commit(p, 0)
		send(2, 3)
		o := w.commit(p, 0)
		end := o.Dir.Ranges[0].End
		send(lost, 5)
		successor := partition.New(partition.Start{ID: here, Epochs: []metadata.EpochStart{{Epoch: 2, Start: end}}, Sealed: end,
			State: object.State{Producers: p.ProducersAt(end)}}, newWindow(), settings())
		for sequence := range int32(5) {
			again := sent{producer: 1, sequence: sequence, n: 1, time: now.UnixMilli()}
			if got, err := successor.Append(again.batch(), 0, now, nil, 0); err != nil || got.Base != int64(sequence) {
				t.Errorf("%d lost batches: batch %d again: got offset %d, %v", lost, sequence, got.Base, err)
			}
		}
		next := sent{producer: 1, sequence: 5, n: 1, time: now.UnixMilli()}
		if got, err := successor.Append(next.batch(), 0, now, nil, 0); err != nil || got.Base != end {
			t.Errorf("%d lost batches: the first of them again: got offset %d, %v", lost, got.Base, err)
		}
	}
}

// The time of an append decides, not that of its records: a copy of old data keeps its state while it runs.
func TestSilentProducersAreForgotten(t *testing.T) {
	w := newWindow()
	p := lead(w, settings())
	now := time.Now()
	ids := func() (ids []int64) {
		for _, e := range p.Producers(now) {
			ids = append(ids, e.ID)
		}
		return ids
	}
	send := func(id int64, at time.Time) {
		_, err := p.Append(sent{producer: id + 1, n: 1, time: start.UnixMilli()}.batch(), -1, at, &waiter{}, 0)
		must(t, err)
	}
	send(1, now.Add(-25*time.Hour))
	send(2, now.Add(-23*time.Hour))
	w.commit(p, 0)
	send(3, now.Add(-30*time.Hour)) // not committed
	if got := ids(); !slices.Equal(got, []int64{2}) {
		t.Errorf("active producers %v, want 2", got)
	}
	p.Merged(nil, 0, nil)
	play(t, w, p, `
		produce id=1 seq=9     → a at 3                 # forgotten: any number
		produce id=2 seq=9     → out-of-order
		produce id=3 seq=9     → out-of-order           # what is not committed is not forgotten
	`)
}

func TestAppendAllocatesNothing(t *testing.T) {
	w := &still{}
	p := partition.New(partition.Start{ID: here, Epochs: []metadata.EpochStart{{Epoch: 1}}}, w, settings())
	raw := sent{producer: 4, n: 1}.batch()
	wt, seq := &waiter{}, int32(0)
	got := testing.AllocsPerRun(1000, func() {
		raw.Assign(0, 0)
		raw[53], raw[54], raw[55], raw[56] = byte(seq>>24), byte(seq>>16), byte(seq>>8), byte(seq)
		seq++
		if _, err := p.Append(raw, -1, start, wt, 0); err != nil {
			t.Fatal(err)
		}
	})
	if got != 0 {
		t.Errorf("%v allocations an append, want 0", got)
	}
}

// still takes batches and does nothing.
type still struct{}

func (*still) Append(_ flush.Owner, b batch.Batch, _ flush.Need, _ flush.Waiter, _ int) (flush.Held, error) {
	return flush.Held{Batch: b}, nil
}

func BenchmarkAppend(b *testing.B) {
	p := partition.New(partition.Start{ID: here, Epochs: []metadata.EpochStart{{Epoch: 1}}}, &still{}, settings())
	raw, wt := sent{n: 1}.batch(), &waiter{}
	o, r := &object.Stored{}, &object.Range{}
	b.ReportAllocs()
	for b.Loop() {
		raw.Assign(0, 0)
		if _, err := p.Append(raw, -1, start, wt, 0); err != nil {
			r.End = p.Offsets().End // the tail is full: commit it
			p.Committed(o, r)
		}
	}
}

// Readers, appends, commits and seals at once: for the race detector, and offsets never go back.
func TestEverythingAtOnce(t *testing.T) {
	cfg := settings()
	cfg.Local = true
	w := newWindow()
	p := lead(w, cfg)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		wg.Go(func() {
			var last partition.Offsets
			for {
				select {
				case <-stop:
					return
				default:
				}
				at := p.Offsets()
				if at.HighWatermark < last.HighWatermark || at.SealedEnd < last.SealedEnd || at.LogStart < last.LogStart || at.Committed < last.Committed ||
					at.SealedEnd > at.LastStable || at.HighWatermark > at.Committed+partition.TailCap || at.HighWatermark > at.End {
					t.Errorf("offsets %+v after %+v", at, last)
				}
				last = at
				from := at.LogStart + rand.Int64N(at.HighWatermark-at.LogStart+1)
				plan, at, err := p.Plan(from, 1000)
				if err == nil && !plan.Sealed && from < at.HighWatermark && len(plan.Pieces)+len(plan.Held) == 0 {
					t.Errorf("nothing at %d, high watermark %d", from, at.HighWatermark)
				}
				plan.Release()
				p.Watch(at.HighWatermark, func() {})()
				p.Readable(from)
			}
		})
	}
	for i := range 300 {
		_, err := p.Append(sent{producer: 3, sequence: int32(i), n: 1}.batch(), -1, start, &waiter{}, 0)
		must(t, err)
		if i%3 == 0 {
			w.sync(p)
		}
		if i%7 == 0 {
			w.commit(p, 1+len(w.pending)/2)
		}
		if i%20 == 0 {
			o := w.objects[len(w.objects)-1]
			end := o.Dir.Ranges[0].End
			p.ProducersAt(end)
			m := map[*object.Stored]bool{}
			for _, o := range w.objects {
				m[o] = true
			}
			p.Merged(m, end, nil)
			p.SetLogStart(end / 2)
		}
	}
	close(stop)
	wg.Wait()
}
