package fetch_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"varve.dev/metadata"
	"varve.dev/objectstore"
	"varve.dev/objectstore/cache"
	"varve.dev/objectstore/memory"
	"varve.dev/tiering/batch"
	"varve.dev/tiering/batch/codec"
	"varve.dev/tiering/fetch"
	"varve.dev/tiering/object"
)

// log is one partition's batches and the plan that leads to them.
type log struct {
	id      metadata.PartitionID
	batches []batch.Batch
	plan    fetch.Plan
}

// anyLog draws a partition: some of it sealed, some in WAL objects, some held; compacted draws holes into the sealed part.
func anyLog(t *testing.T, r *rapid.T, w *world, id metadata.PartitionID, compacted bool, draw func(base int64, hole bool) batch.Batch) *log {
	l := &log{id: id}
	base := int64(0)
	some := func(n int, holes bool) (bs []batch.Batch) {
		for i := range n {
			b := draw(base, holes && i > 0)
			bs, base = append(bs, b), b.End()
		}
		l.batches = append(l.batches, bs...)
		return bs
	}
	for i := range rapid.IntRange(0, 3).Draw(r, "segments") {
		bs := some(rapid.IntRange(1, 5).Draw(r, "batches"), compacted)
		var ends map[metadata.PartitionID]int64
		if compacted && rapid.Bool().Draw(r, "tail compacted") {
			base += 3
			ends = map[metadata.PartitionID]int64{id: base}
		}
		w.add(fmt.Sprintf("seg/%d.%d", id.Partition, i), metadata.Sealed, map[metadata.PartitionID][]batch.Batch{id: bs}, ends)
	}
	l.plan = fetch.Plan{Partition: id, SealedEnd: base, Sealed: base > 0}
	for i := range rapid.IntRange(0, 3).Draw(r, "objects") {
		o := w.add(fmt.Sprintf("wal/%d.%d", id.Partition, i), metadata.WAL, map[metadata.PartitionID][]batch.Batch{id: some(rapid.IntRange(1, 4).Draw(r, "batches"), false)}, nil)
		l.plan.Pieces = append(l.plan.Pieces, o.pieces(id)...)
	}
	l.plan.Held = hold(t, id, some(rapid.IntRange(0, 3).Draw(r, "held"), false))
	l.plan.From = rapid.Int64Range(0, max(base-1, 0)).Draw(r, "from")
	l.plan.Sealed = l.plan.From < l.plan.SealedEnd
	return l
}

// want is what an answer must hold: whole batches from the one that contains from on, as many as limit takes, and one at
// least if first is set or it fits into left.
func (l *log) want(left int, first bool) (bs []batch.Batch) {
	n := 0
	for _, b := range l.batches {
		if b.End() <= l.plan.From {
			continue
		}
		if n+len(b) > min(max(l.plan.Max, 1), left) && !(n == 0 && (first || len(b) <= left)) {
			break
		}
		bs, n = append(bs, b), n+len(b)
	}
	return bs
}

func TestReadAnswersWholeBatchesWithinItsLimits(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		w := newWorld()
		w.cuts = rand.New(rand.NewPCG(rapid.Uint64().Draw(r, "cuts"), 1))
		w.ahead = 1 << 20
		compacted := rapid.Bool().Draw(r, "compacted")
		var logs []*log
		var plans []fetch.Plan
		for i := range rapid.IntRange(1, 5).Draw(r, "partitions") {
			l := anyLog(t, r, w, part(int32(i)), compacted, func(base int64, hole bool) batch.Batch {
				if hole {
					base += rapid.Int64Range(0, 2).Draw(r, "hole")
				}
				return plain(base, rapid.IntRange(1, 4).Draw(r, "records"), rapid.SampledFrom([]int{0, 100, 5000, 70 << 10, 200 << 10}).Draw(r, "size"))
			})
			l.plan.Max = rapid.SampledFrom([]int{0, 1, 200, 6000, 100 << 10, 1 << 20}).Draw(r, "max")
			logs, plans = append(logs, l), append(plans, l.plan)
		}
		maxBytes := rapid.SampledFrom([]int{0, 1, 300, 10000, 150 << 10, 4 << 20}).Draw(r, "max bytes")
		res := w.reader(t).Read(context.Background(), plans, maxBytes)
		left, first := max(maxBytes, 1), true
		for i, l := range logs {
			var want []byte
			if left > 0 {
				want = flat(l.want(left, first))
			}
			p := res.Parts[i]
			if p.Err != nil {
				r.Fatalf("partition %d: %v", i, p.Err)
			}
			if got := joined(p); !bytes.Equal(got, want) || p.Bytes != len(want) {
				r.Fatalf("partition %d from %d, max %d of %d: %d (%d) bytes, want %d", i, l.plan.From, l.plan.Max, left, len(got), p.Bytes, len(want))
			}
			first, left = first && len(want) == 0, left-len(want)
		}
		if got := res.Bytes(); got > max(maxBytes, 1) && got != res.Parts[slices.IndexFunc(res.Parts, func(p fetch.Part) bool { return p.Bytes > 0 })].Bytes {
			r.Fatalf("%d bytes in all, the limit is %d", got, maxBytes)
		}
		if len(w.holes) > 0 {
			r.Fatalf("holes at %v", w.holes)
		}
		res.Release()
	})
}

// Whoever reads on from where an answer ended sees every batch, once, and never waits for ever.
func TestAReaderComesToTheEnd(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		w := newWorld()
		w.cuts = rand.New(rand.NewPCG(rapid.Uint64().Draw(r, "cuts"), 1))
		w.ahead = 1 << 20
		l := anyLog(t, r, w, part(0), rapid.Bool().Draw(r, "compacted"), func(base int64, hole bool) batch.Batch {
			if hole {
				base += rapid.Int64Range(0, 2).Draw(r, "hole")
			}
			return plain(base, rapid.IntRange(1, 4).Draw(r, "records"), rapid.SampledFrom([]int{0, 5000, 90 << 10}).Draw(r, "size"))
		})
		if len(l.batches) == 0 {
			return
		}
		reader, p := w.reader(t), l.plan
		p.Max = rapid.SampledFrom([]int{1, 6000, 100 << 10}).Draw(r, "max")
		var got []byte
		end := l.batches[len(l.batches)-1].End()
		if len(l.plan.Pieces)+len(l.plan.Held) == 0 {
			end = min(end, l.plan.SealedEnd)
		}
		for p.From = 0; p.From < end; {
			p.Sealed = p.From < p.SealedEnd
			for _, h := range p.Held {
				h.Retain() // Read gives one reference back
			}
			res := reader.Read(context.Background(), []fetch.Plan{p}, 1<<20)
			if res.Parts[0].Err != nil || res.Parts[0].Bytes == 0 {
				r.Fatalf("at %d of %d: %d bytes, %v", p.From, end, res.Parts[0].Bytes, res.Parts[0].Err)
			}
			got = append(got, joined(res.Parts[0])...)
			for rest := joined(res.Parts[0]); len(rest) > 0; {
				b, next, err := batch.Parse(rest)
				if err != nil {
					r.Fatal(err)
				}
				p.From, rest = b.End(), next
			}
		}
		if !bytes.Equal(got, flat(l.batches)) {
			r.Fatalf("%d bytes in all, want %d", len(got), len(flat(l.batches)))
		}
	})
}

// KIP-74 by example: batches of 1,061+ bytes.
func TestLimits(t *testing.T) {
	size := len(plain(0, 1, 1000))
	cases := []struct {
		name     string
		max      []int // of each partition
		maxBytes int
		want     []int // batches of each
	}{
		{"all fits", []int{9 * size, 9 * size}, 99 * size, []int{3, 3}},
		{"a partition's limit", []int{2 * size, 2*size + 1}, 99 * size, []int{2, 2}},
		{"a partition's limit below its first batch", []int{1, 1}, 99 * size, []int{1, 1}},
		{"a limit of nothing", []int{0, 0}, 99 * size, []int{1, 1}},
		{"the request's limit", []int{9 * size, 9 * size}, 4 * size, []int{3, 1}},
		{"the request's limit below the first batch", []int{9 * size, 9 * size}, size - 1, []int{1, 0}},
		{"the first batch, and then only what fits", []int{1, 1}, 2*size - 1, []int{1, 0}},
		{"no limit at all means one batch", []int{9 * size, 9 * size}, 0, []int{1, 0}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld()
			var plans []fetch.Plan
			for i, m := range c.max {
				o := w.add(fmt.Sprint("wal/", i), metadata.WAL, map[metadata.PartitionID][]batch.Batch{
					part(int32(i)): {plain(0, 1, 1000), plain(1, 1, 1000), plain(2, 1, 1000)}}, nil)
				plans = append(plans, fetch.Plan{Partition: part(int32(i)), Max: m, Pieces: o.pieces(part(int32(i)))})
			}
			res := w.reader(t).Read(t.Context(), plans, c.maxBytes)
			defer res.Release()
			for i, want := range c.want {
				if got := res.Parts[i].Bytes; got != want*size || res.Parts[i].Err != nil {
					t.Errorf("partition %d: %d bytes, %v; want %d batches of %d", i, got, res.Parts[i].Err, want, size)
				}
			}
		})
	}
}

func TestPlansThatEndInNothing(t *testing.T) {
	w := newWorld()
	res := w.reader(t).Read(t.Context(), []fetch.Plan{{Partition: part(0), Max: 10}}, 100)
	if res.Parts[0].Bytes != 0 || res.Parts[0].Err != nil {
		t.Errorf("%+v", res.Parts[0])
	}
	res.Release()
	if res := w.reader(t).Read(t.Context(), nil, 100); len(res.Parts) != 0 {
		t.Errorf("%d parts of no plans", len(res.Parts))
	}
}

// When the time is up, a part whose bytes are on their way is empty and no error; the others are whole.
func TestTheEndOfTimeLeavesAPartEmpty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		var plans []fetch.Plan
		for i := range int32(3) {
			o := w.add(fmt.Sprint("wal/", i), metadata.WAL, map[metadata.PartitionID][]batch.Batch{part(i): {plain(0, 2, 100)}}, nil)
			plans = append(plans, fetch.Plan{Partition: part(i), Max: 1 << 20, Pieces: o.pieces(part(i))})
		}
		w.slow["wal/1"] = true
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		began := time.Now()
		res := w.reader(t).Read(ctx, plans, 1<<20)
		defer res.Release()
		if took := time.Since(began); took != 50*time.Millisecond {
			t.Errorf("took %s", took)
		}
		for i, p := range res.Parts {
			if p.Err != nil || (p.Bytes == 0) != (i == 1) {
				t.Errorf("part %d: %d bytes, %v", i, p.Bytes, p.Err)
			}
		}
	})
}

// A directory's download outlives who asked for it: a fetch that has other data waits only 50 ms, and would never see it.
func TestWhatIsAwaitedComesWithTheNextAnswer(t *testing.T) {
	w := newWorld()
	large, late := part(0), part(1)
	a := w.add("wal/1", metadata.WAL, map[metadata.PartitionID][]batch.Batch{large: {plain(0, 1, 9<<20)}}, nil)
	b := w.add("wal/2", metadata.WAL, map[metadata.PartitionID][]batch.Batch{late: {plain(0, 1, 100)}}, nil)
	w.slow["wal/2"] = true
	r := w.reader(t)
	plans := []fetch.Plan{{Partition: late, Max: 1 << 20, Pieces: b.pieces(late)}, {Partition: large, Max: 10 << 20, Pieces: a.pieces(large)}}
	res := r.Read(t.Context(), plans, 50<<20) // without an end of time
	defer res.Release()
	if res.Parts[0].Bytes != 0 || res.Parts[0].Err != nil || res.Parts[1].Bytes < 9<<20 {
		t.Errorf("parts: %d bytes, %v; %d bytes", res.Parts[0].Bytes, res.Parts[0].Err, res.Parts[1].Bytes)
	}
}

func TestAPartWithoutRoomIsLeftOutUnlessItIsAlone(t *testing.T) {
	w := newWorld()
	one, two := part(0), part(1)
	a := w.add("wal/1", metadata.WAL, map[metadata.PartitionID][]batch.Batch{one: {plain(0, 1, 100)}}, nil)
	b := w.add("wal/2", metadata.WAL, map[metadata.PartitionID][]batch.Batch{two: {plain(0, 1, 100)}}, nil)
	w.busy = map[string]bool{"wal/1": true}
	r := w.reader(t)
	plans := []fetch.Plan{{Partition: one, Max: 1 << 20, Pieces: a.pieces(one)}, {Partition: two, Max: 1 << 20, Pieces: b.pieces(two)}}
	res := r.Read(t.Context(), plans, 50<<20)
	if res.Parts[0].Bytes != 0 || res.Parts[0].Err != nil || res.Parts[1].Bytes == 0 {
		t.Errorf("beside another: %+v", res.Parts)
	}
	res.Release()
	w.busy["wal/2"] = true
	res = r.Read(t.Context(), plans, 50<<20)
	if res.Parts[0].Bytes == 0 || res.Parts[1].Bytes != 0 || res.Parts[1].Err != nil {
		t.Errorf("nothing else came: %+v", res.Parts)
	}
	res.Release()
}

// What is worth an answer is sent before more is copied from files; of a plan that is alone all is read.
func TestFilesAreReadForOneAnswerAtATime(t *testing.T) {
	w := newWorld()
	w.filed = map[string]bool{}
	var plans []fetch.Plan
	for i := range int32(6) {
		key := fmt.Sprint("wal/", i)
		var batches []batch.Batch
		for k := range int64(6) {
			batches = append(batches, plain(k, 1, 1<<20))
		}
		s := w.add(key, metadata.WAL, map[metadata.PartitionID][]batch.Batch{part(i): batches}, nil)
		w.filed[key] = true
		plans = append(plans, fetch.Plan{Partition: part(i), Max: 10 << 20, Pieces: s.pieces(part(i))})
	}
	r := w.reader(t)
	res := r.Read(t.Context(), plans, 100<<20)
	n := 0
	for i := range res.Parts {
		if err := res.Parts[i].Err; err != nil {
			t.Error(err)
		}
		n += res.Parts[i].Bytes
	}
	if n < 8<<20 || n > 3*7<<20 { // three are read at once, and may all have begun
		t.Errorf("%d bytes of six files of 6 MiB", n)
	}
	res.Release()
	res = r.Read(t.Context(), plans[5:], 100<<20)
	if n := res.Parts[0].Bytes; n < 6<<20 {
		t.Errorf("alone: %d bytes", n)
	}
	res.Release()
}

// A reader that lags, and reads from files, comes on beside others that find all they want in memory.
func TestTheFirstPlanIsReadFromItsFile(t *testing.T) {
	w := newWorld()
	w.filed = map[string]bool{"wal/0": true, "wal/3": true}
	var plans []fetch.Plan
	for i := range int32(4) {
		var batches []batch.Batch
		for k := range int64(6) {
			batches = append(batches, plain(k, 1, 1<<20))
		}
		s := w.add(fmt.Sprint("wal/", i), metadata.WAL, map[metadata.PartitionID][]batch.Batch{part(i): batches}, nil)
		plans = append(plans, fetch.Plan{Partition: part(i), Max: 10 << 20, Pieces: s.pieces(part(i))})
	}
	r := w.reader(t)
	for range 200 {
		res := r.Read(t.Context(), plans, 100<<20)
		if res.Parts[0].Bytes < 6<<20 || res.Parts[1].Bytes < 6<<20 || res.Parts[2].Bytes < 6<<20 || res.Parts[3].Bytes > 0 {
			t.Fatalf("%d, %d, %d and %d bytes, want all of the first, and of what lies in memory",
				res.Parts[0].Bytes, res.Parts[1].Bytes, res.Parts[2].Bytes, res.Parts[3].Bytes)
		}
		res.Release()
	}
}

func TestOneOfManyPartsTakesWhatIsAtHand(t *testing.T) {
	w := newWorld()
	p, q := part(0), part(1)
	var batches []batch.Batch
	for i := range 40 {
		batches = append(batches, plain(int64(i), 1, 10_000))
	}
	s := w.add("wal/1", metadata.WAL, map[metadata.PartitionID][]batch.Batch{p: batches}, nil)
	other := w.add("wal/2", metadata.WAL, map[metadata.PartitionID][]batch.Batch{q: {plain(0, 1, 100)}}, nil)
	w.cut = map[string]int64{"wal/1": s.bounds[10]} // chunks end where batches do
	r := w.reader(t)
	for from := int64(0); from < 40; from += 10 {
		plans := []fetch.Plan{{Partition: p, From: from, Max: 1 << 20, Pieces: s.pieces(p)}, {Partition: q, Max: 1 << 20, Pieces: other.pieces(q)}}
		res := r.Read(t.Context(), plans, 2<<20)
		if got, want := res.Parts[0].Bytes, int(s.bounds[10]); res.Parts[0].Err != nil || got != want {
			t.Errorf("from %d: %d bytes, want %d of what is at hand: %v", from, got, want, res.Parts[0].Err)
		}
		res.Release()
	}
	res := r.Read(t.Context(), []fetch.Plan{{Partition: p, Max: 1 << 20, Pieces: s.pieces(p)}}, 1<<20)
	defer res.Release()
	if got, want := res.Parts[0].Bytes, int(s.bounds[39])+len(batches[39]); got != want {
		t.Errorf("alone: %d bytes, want all of %d", got, want)
	}
}

func TestADirectoryIsReadToItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.add("seg/0", metadata.Sealed, map[metadata.PartitionID][]batch.Batch{part(0): {plain(0, 2, 100)}}, nil)
		w.readAt = func(ctx context.Context, _ string) error {
			select {
			case <-time.After(120 * time.Millisecond):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		r := w.reader(t)
		for i, want := range []bool{false, false, true} {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			res := r.Read(ctx, []fetch.Plan{{Partition: part(0), Max: 1000, Sealed: true, SealedEnd: 2}}, 1000)
			cancel()
			if p := res.Parts[0]; p.Err != nil || (p.Bytes > 0) != want {
				t.Errorf("fetch %d: %d bytes, %v; want any: %v", i, p.Bytes, p.Err, want)
			}
			res.Release()
		}
		if got, want := w.take(), []string{"find 1/0 0", "get seg/0", "view seg/0"}; !similar(got, want) {
			t.Errorf("asked for\n got %q\nwant %q", got, want)
		}
		// Close ends one that hangs.
		w.add("seg/1", metadata.Sealed, map[metadata.PartitionID][]batch.Batch{part(1): {plain(0, 2, 100)}}, nil)
		w.readAt = func(ctx context.Context, _ string) error { <-ctx.Done(); return ctx.Err() }
		done := make(chan error)
		go func() {
			_, err := r.Directory(context.Background(), w.objects["seg/1"].object)
			done <- err
		}()
		synctest.Wait()
		r.Close()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("after Close: %v", err)
		}
		if _, err := r.Directory(t.Context(), w.objects["seg/1"].object); !errors.Is(err, context.Canceled) {
			t.Errorf("a read after Close: %v", err)
		}
	})
}

// similar compares line by line; what is wanted may leave the end of a line out.
func similar(got, want []string) bool {
	return slices.EqualFunc(got, want, func(g, w string) bool { return strings.HasPrefix(g, w) })
}

// Between log start and end no offset is ever passed over in silence.
func TestHolesAreAnAlarm(t *testing.T) {
	seg := func(w *world, base, end int64) {
		w.add(fmt.Sprint("seg/", base), metadata.Sealed, map[metadata.PartitionID][]batch.Batch{part(0): {plain(base, int(end-base), 50)}}, nil)
	}
	wal := func(w *world, base, end int64) []fetch.Piece {
		return w.add(fmt.Sprint("wal/", base), metadata.WAL, map[metadata.PartitionID][]batch.Batch{part(0): {plain(base, int(end-base), 50)}}, nil).pieces(part(0))
	}
	cases := []struct {
		name string
		plan func(w *world) fetch.Plan
		at   int64
	}{
		{"an index without segments", func(*world) fetch.Plan { return fetch.Plan{Sealed: true, SealedEnd: 10} }, 0},
		{"a first segment that starts later", func(w *world) fetch.Plan {
			seg(w, 5, 10)
			return fetch.Plan{From: 3, Sealed: true, SealedEnd: 10}
		}, 3},
		{"between two segments", func(w *world) fetch.Plan {
			seg(w, 0, 5)
			seg(w, 7, 10)
			return fetch.Plan{From: 5, Sealed: true, SealedEnd: 10}
		}, 5},
		{"behind the last segment", func(w *world) fetch.Plan {
			seg(w, 0, 5)
			return fetch.Plan{From: 5, Sealed: true, SealedEnd: 10}
		}, 5},
		{"before the pieces", func(w *world) fetch.Plan { return fetch.Plan{From: 3, Pieces: wal(w, 5, 10)} }, 3},
		{"before what is held", func(w *world) fetch.Plan {
			return fetch.Plan{From: 3, Held: hold(t, part(0), []batch.Batch{plain(5, 5, 50)})}
		}, 3},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld()
			p := c.plan(w)
			p.Partition, p.Max = part(0), 1<<20
			res := w.reader(t).Read(t.Context(), []fetch.Plan{p}, 1<<20)
			defer res.Release()
			if err := res.Parts[0].Err; !errors.Is(err, fetch.ErrHole) || res.Parts[0].Bytes > 0 || !slices.Equal(w.holes, []int64{c.at}) {
				t.Errorf("%d bytes, %v, alarms at %v; want ErrHole at %d", res.Parts[0].Bytes, err, w.holes, c.at)
			}
		})
	}
	t.Run("what lies before a hole is answered first", func(t *testing.T) {
		w := newWorld()
		seg(w, 0, 5)
		seg(w, 7, 10)
		p := fetch.Plan{Partition: part(0), Max: 1 << 20, Sealed: true, SealedEnd: 10, Pieces: wal(w, 10, 12)}
		res := w.reader(t).Read(t.Context(), []fetch.Plan{p}, 1<<20)
		defer res.Release()
		if want := plain(0, 5, 50); res.Parts[0].Err != nil || !bytes.Equal(joined(res.Parts[0]), want) {
			t.Errorf("%d bytes, %v; want the %d before the hole", res.Parts[0].Bytes, res.Parts[0].Err, len(want))
		}
	})
}

// Where compaction took the last records of a range, reading goes on behind it, over the sealed end too.
func TestACompactedEndHoldsNobodyUp(t *testing.T) {
	w := newWorld()
	w.add("seg/0", metadata.Sealed, map[metadata.PartitionID][]batch.Batch{part(0): {plain(0, 5, 50)}}, map[metadata.PartitionID]int64{part(0): 100})
	o := w.add("wal/0", metadata.WAL, map[metadata.PartitionID][]batch.Batch{part(0): {plain(100, 5, 50)}}, nil)
	for _, from := range []int64{5, 50, 99} {
		p := fetch.Plan{Partition: part(0), From: from, Max: 1000, Sealed: true, SealedEnd: 100, Pieces: o.pieces(part(0))}
		res := w.reader(t).Read(t.Context(), []fetch.Plan{p}, 1000)
		if got := joined(res.Parts[0]); !bytes.Equal(got, plain(100, 5, 50)) || res.Parts[0].Err != nil {
			t.Errorf("from %d: %d bytes, %v", from, len(got), res.Parts[0].Err)
		}
		res.Release()
	}
}

func TestDamageIsAnErrorAndNeverServed(t *testing.T) {
	good := func() []batch.Batch { return []batch.Batch{plain(0, 2, 100), plain(2, 2, 100), plain(4, 2, 100)} }
	n := int64(len(good()[0]))
	cases := []struct {
		name   string
		damage func(s *stored)
		whole  int // batches that are still served
	}{
		{"the first length is too small", func(s *stored) { s.bytes[11] = 1 }, 0},
		{"the first length is negative", func(s *stored) { s.bytes[8] = 0xff }, 0},
		{"the first length makes nothing", func(s *stored) { copy(s.bytes[8:], []byte{0xff, 0xff, 0xff, 0xf4}) }, 0},
		{"the first length is huge", func(s *stored) { s.bytes[8] = 0x7f }, 0},
		{"the second length is too small", func(s *stored) { s.bytes[n+11] = 1 }, 1},
		{"the second length is huge", func(s *stored) { s.bytes[n+8] = 0x7f }, 1},
		{"the third length is too large for its range", func(s *stored) { s.bytes[2*n+11]++ }, 2},
		{"the second offset goes back", func(s *stored) { s.bytes[n+7] = 0 }, 1},
		{"the second offset leaves one out", func(s *stored) { s.bytes[n+7] = 3 }, 1},
		{"the first count of offsets is negative", func(s *stored) { s.bytes[23] = 0xff }, 0},
		{"the last batch is missing", func(s *stored) {
			s.bytes = s.bytes[:2*n]
			s.dir.Ranges[0].Len, s.dir.Blocks.Ends[0] = 2*n, 2*n
		}, 2},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld()
			w.cuts = rand.New(rand.NewPCG(1, 1))
			o := w.add("wal/0", metadata.WAL, map[metadata.PartitionID][]batch.Batch{part(0): good()}, nil)
			c.damage(o)
			r := w.reader(t)
			read := func(from int64) fetch.Part {
				res := r.Read(t.Context(), []fetch.Plan{{Partition: part(0), From: from, Max: 1 << 20, Pieces: o.pieces(part(0))}}, 1<<20)
				return taken(res)
			}
			from := int64(0)
			if c.whole > 0 {
				p := read(0)
				if p.Err != nil || !bytes.Equal(joined(p), flat(good()[:c.whole])) {
					t.Errorf("%d bytes, %v; want %d whole batches first", p.Bytes, p.Err, c.whole)
				}
				from = 2 * int64(c.whole)
			}
			if p := read(from); !errors.Is(p.Err, object.ErrCorrupt) || p.Bytes > 0 {
				t.Errorf("from %d: %d bytes, %v; want ErrCorrupt", from, p.Bytes, p.Err)
			}
			if f, err := r.SeekTime(t.Context(), fetch.Plan{Partition: part(0), Pieces: o.pieces(part(0))}, 1<<40); f.Offset >= 0 {
				t.Errorf("a seek finds %+v, %v", f, err)
			}
		})
	}
}

func TestSegmentsThatTheirObjectDoesNotHave(t *testing.T) {
	w := newWorld()
	w.add("seg/0", metadata.Sealed, map[metadata.PartitionID][]batch.Batch{part(0): {plain(0, 5, 50)}}, nil)
	w.segments[0].Pos = 7
	p := fetch.Plan{Partition: part(0), Max: 1000, Sealed: true, SealedEnd: 5}
	res := w.reader(t).Read(t.Context(), []fetch.Plan{p}, 1000)
	defer res.Release()
	if !errors.Is(res.Parts[0].Err, object.ErrCorrupt) {
		t.Errorf("got %v, want ErrCorrupt", res.Parts[0].Err)
	}
	for _, o := range []metadata.Object{{Key: "x"}, {Key: "x", Length: 10, DirectoryLength: 11}, {Key: "x", Length: 1 << 40, DirectoryLength: 1<<31 - 1}, {Key: "x", Length: 5, DirectoryLength: -1}} {
		if _, err := w.reader(t).Directory(t.Context(), o); !errors.Is(err, object.ErrCorrupt) {
			t.Errorf("%+v: %v, want ErrCorrupt", o, err)
		}
	}
}

// An object that is gone: what was known of the segments is old, and the index knows better. Once.
func TestAMovedSegmentIsLookedUpAgain(t *testing.T) {
	w := newWorld()
	bs := []batch.Batch{plain(0, 5, 50), plain(5, 5, 50)}
	w.add("old", metadata.Sealed, map[metadata.PartitionID][]batch.Batch{part(0): bs}, nil)
	r := w.reader(t)
	read := func() fetch.Part {
		res := r.Read(t.Context(), []fetch.Plan{{Partition: part(0), Max: 1000, Sealed: true, SealedEnd: 10}}, 1000)
		return taken(res)
	}
	if p := read(); p.Err != nil || p.Bytes == 0 {
		t.Fatalf("%+v", p)
	}
	w.segments = nil
	w.add("new", metadata.Sealed, map[metadata.PartitionID][]batch.Batch{part(0): bs}, nil)
	delete(w.objects, "old")
	if p := read(); p.Err != nil || !bytes.Equal(joined(p), flat(bs)) {
		t.Errorf("moved: %d bytes, %v", p.Bytes, p.Err)
	}
	if f, err := r.SeekTime(t.Context(), fetch.Plan{Partition: part(0), Sealed: true, SealedEnd: 10}, 1000); err != nil || f.Offset != 0 {
		t.Errorf("seek: %+v, %v", f, err)
	}
	delete(w.objects, "new")
	if p := read(); !errors.Is(p.Err, objectstore.ErrNotFound) {
		t.Errorf("gone: %v, want ErrNotFound", p.Err)
	}
	if _, err := r.SeekTime(t.Context(), fetch.Plan{Partition: part(0), Sealed: true, SealedEnd: 10}, 1000); !errors.Is(err, objectstore.ErrNotFound) {
		t.Errorf("seek: %v, want ErrNotFound", err)
	}
}

// While the index is away, what it said before is served, also where it has become old.
func TestAnOldLookUpIsBetterThanNone(t *testing.T) {
	w := newWorld()
	bs := []batch.Batch{plain(0, 5, 50), plain(5, 5, 50)}
	w.add("old", metadata.Sealed, map[metadata.PartitionID][]batch.Batch{part(0): bs}, nil)
	r := w.reader(t)
	read := func(id metadata.PartitionID, from, end int64) fetch.Part {
		return taken(r.Read(t.Context(), []fetch.Plan{{Partition: id, From: from, Max: 1000, Sealed: true, SealedEnd: end}}, 1000))
	}
	if p := read(part(0), 0, 10); p.Err != nil {
		t.Fatal(p.Err)
	}
	r.Forget(part(0)) // something of it was rewritten
	r.Forget(part(1)) // of which nothing is known
	w.away = metadata.ErrUnavailable
	if p := read(part(0), 0, 10); p.Err != nil || !bytes.Equal(joined(p), flat(bs)) {
		t.Errorf("with the index away: %d bytes, %v", p.Bytes, p.Err)
	}
	for _, unknown := range []fetch.Part{read(part(0), 10, 20), read(part(1), 0, 10)} {
		if !errors.Is(unknown.Err, metadata.ErrUnavailable) {
			t.Errorf("what was never looked up: %d bytes, %v, want ErrUnavailable", unknown.Bytes, unknown.Err)
		}
	}
	w.away = nil
	w.segments = nil
	w.add("new", metadata.Sealed, map[metadata.PartitionID][]batch.Batch{part(0): bs}, nil)
	delete(w.objects, "old")
	if p := read(part(0), 0, 10); p.Err != nil || !bytes.Equal(joined(p), flat(bs)) {
		t.Errorf("with the index back: %d bytes, %v", p.Bytes, p.Err)
	}
}

// What was sealed here is known without the index, until something of it is rewritten.
func TestWhatWasSealedHereNeedsNoLookUp(t *testing.T) {
	w := newWorld()
	r := w.reader(t)
	const segments = 20
	var all [][]batch.Batch
	read := func(from int64) fetch.Part {
		return taken(r.Read(t.Context(), []fetch.Plan{{Partition: part(0), From: from, Max: 10000, Sealed: true, SealedEnd: int64(len(all)) * 10}}, 10000))
	}
	w.away = metadata.ErrUnavailable
	for i := range int64(segments) {
		bs := []batch.Batch{plain(i*10, 5, 50), plain(i*10+5, 5, 50)}
		all = append(all, bs)
		w.add(fmt.Sprint("seg/", i), metadata.Sealed, map[metadata.PartitionID][]batch.Batch{part(0): bs}, nil)
		r.Sealed(part(0), w.segments[len(w.segments)-1:])
		if p := read(i * 10); p.Err != nil || !bytes.Equal(joined(p), flat(bs)) {
			t.Fatalf("segment %d: %d bytes, %v", i, p.Bytes, p.Err)
		}
	}
	if p := read(190 - 150); p.Err != nil || !bytes.Equal(joined(p), flat(slices.Concat(all[4:]...))) {
		t.Errorf("the newest sixteen: %d bytes, %v", p.Bytes, p.Err)
	}
	if p := read(30); !errors.Is(p.Err, metadata.ErrUnavailable) {
		t.Errorf("an older one: %v, want ErrUnavailable", p.Err)
	}
	w.away = nil
	if p := read(30); p.Err != nil {
		t.Error(p.Err)
	}
	w.take()
	if p := read(100); p.Err != nil || slices.ContainsFunc(w.take(), func(s string) bool { return strings.HasPrefix(s, "find") }) {
		t.Errorf("after another look-up: %v, and one more", p.Err)
	}
	w.segments = w.segments[:segments-1]
	w.add("rewritten", metadata.Sealed, map[metadata.PartitionID][]batch.Batch{part(0): all[segments-1]}, nil)
	delete(w.objects, fmt.Sprint("seg/", segments-1))
	r.Forget(part(0))
	if p := read(190); p.Err != nil || !bytes.Equal(joined(p), flat(all[segments-1])) {
		t.Errorf("rewritten: %d bytes, %v", p.Bytes, p.Err)
	}
}

// A sequential replay of one segment, golden: one look-up, one directory, one view for each fetch of exactly its bytes, and
// downloads that run ahead four times as far with each, up to the bound and to the range's end.
func TestASequentialReplayIsCheap(t *testing.T) {
	w := newWorld()
	w.ahead = 400 << 10
	var bs []batch.Batch
	for i := range int64(64) {
		bs = append(bs, plain(i*10, 10, 16000))
	}
	size := int64(len(bs[0]))
	w.add("seg/0", metadata.Sealed, map[metadata.PartitionID][]batch.Batch{part(0): bs}, nil)
	r := w.reader(t)
	var got []byte
	for from := int64(0); from < 640; {
		res := r.Read(t.Context(), []fetch.Plan{{Partition: part(0), From: from, Max: int(8 * size), Sealed: true, SealedEnd: 640}}, 1<<20)
		if res.Parts[0].Err != nil || res.Parts[0].Bytes == 0 {
			t.Fatal(res.Parts[0])
		}
		b := joined(res.Parts[0])
		got, from = append(got, b...), from+10*int64(len(b))/size
		res.Release()
	}
	if !bytes.Equal(got, flat(bs)) {
		t.Error("other bytes")
	}
	var want []string
	for n, ahead := range []int64{8 * size, 400 << 10, 400 << 10, 400 << 10, 24 * size, 16 * size, 8 * size, 0} {
		at := 8 * int64(n) * size
		want = append(want, fmt.Sprintf("view seg/0 %d+%d", at, 8*size))
		if ahead > 0 {
			want = append(want, fmt.Sprintf("ahead seg/0 %d+%d", at+8*size, ahead))
		}
	}
	want = append([]string{"find 1/0 0", fmt.Sprintf("get seg/0 %d+%d", 64*size, w.objects["seg/0"].object.DirectoryLength)}, want...)
	if got := w.take(); !slices.Equal(got, want) {
		t.Errorf("requests\n got %s\nwant %s", strings.Join(got, "\n     "), strings.Join(want, "\n     "))
	}
}

// Read-ahead does not end with a segment: what follows is on its way before it is asked for, its directory first.
func TestReadAheadGoesOnIntoTheNextSegments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		var size int64
		for i := range int64(3) {
			var bs []batch.Batch
			for k := range int64(4) {
				bs = append(bs, plain(40*i+10*k, 10, 40_000))
			}
			size = int64(len(bs[0]))
			w.add(fmt.Sprintf("seg/%d", i), metadata.Sealed, map[metadata.PartitionID][]batch.Batch{part(0): bs}, nil)
		}
		w.ahead = 4 * size
		r := w.reader(t)
		for from := int64(0); from < 120; from += 20 {
			res := r.Read(t.Context(), []fetch.Plan{{Partition: part(0), From: from, Max: int(2 * size), Sealed: true, SealedEnd: 120}}, 1<<20)
			if res.Parts[0].Err != nil || int64(res.Parts[0].Bytes) != 2*size {
				t.Fatal(res.Parts[0])
			}
			res.Release()
			synctest.Wait() // for directories
		}
		var want []string
		note := func(format string, a ...any) { want = append(want, fmt.Sprintf(format, a...)) }
		directory := func(i int) {
			key := fmt.Sprintf("seg/%d", i)
			note("get %s %d+%d", key, 4*size, w.objects[key].object.DirectoryLength)
		}
		note("find 1/0 0")
		directory(0)
		note("view seg/0 0+%d", 2*size)
		note("ahead seg/0 %d+%d", 2*size, 2*size)
		note("view seg/0 %d+%d", 2*size, 2*size) // the second reads four batches ahead: all of the next segment
		directory(1)
		note("view seg/1 0+%d", 2*size) // the third as many: what is left of it, and the one behind
		note("ahead seg/1 %d+%d", 2*size, 2*size)
		directory(2)
		note("view seg/1 %d+%d", 2*size, 2*size)
		note("ahead seg/2 0+%d", 4*size)
		note("view seg/2 0+%d", 2*size)
		note("ahead seg/2 %d+%d", 2*size, 2*size)
		note("view seg/2 %d+%d", 2*size, 2*size)
		if got := w.take(); !slices.Equal(got, want) {
			t.Errorf("requests\n got %s\nwant %s", strings.Join(got, "\n     "), strings.Join(want, "\n     "))
		}
		r.Close()
	})
}

func TestConfig(t *testing.T) {
	w := newWorld()
	_, err := fetch.New(w, w, w, fetch.Config{ReadAhead: -1})
	if err == nil || len(strings.Split(err.Error(), "\n")) != 5 {
		t.Errorf("got %v, want all five problems", err)
	}
}

func TestPlanBytes(t *testing.T) {
	w := newWorld()
	o := w.add("wal/0", metadata.WAL, map[metadata.PartitionID][]batch.Batch{part(0): {plain(0, 1, 1000)}}, nil)
	size := len(plain(0, 1, 1000))
	p := fetch.Plan{Max: 1 << 20, Pieces: o.pieces(part(0)), Held: hold(t, part(0), []batch.Batch{plain(1, 1, 1000)})}
	if got := p.Bytes(); got != 2*size {
		t.Errorf("%d bytes, want %d", got, 2*size)
	}
	p.Max = size - 1
	if got := p.Bytes(); got != size-1 {
		t.Errorf("%d bytes, want the limit of %d", got, size-1)
	}
	p.Sealed, p.Max = true, 77
	if got := p.Bytes(); got != 77 {
		t.Errorf("%d bytes of history, want 77", got)
	}
	p.Release()
	if len(p.Held) > 0 {
		t.Error("released, and still held")
	}
}

// counted is an image whose memory is overwritten when nobody holds it.
type counted struct {
	*object.Image
	refs int
}

func (c *counted) Retain()  { c.refs++; c.Image.Retain() }
func (c *counted) Release() { c.refs--; c.Image.Release() }

// Over the real cache: what a result borrows is held until its release, also where the same view shows damage behind good
// batches.
func TestWhatIsServedIsHeld(t *testing.T) {
	c, err := cache.New(memory.New(), cache.Config{MemoryBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b := object.NewBuilder(object.Header{}, nil)
	b.Begin(object.Range{Partition: part(0)})
	bad := plain(2, 2, 100)
	b.Add(plain(0, 2, 100))
	b.Add(bad)
	im := &counted{Image: b.Finish(nil), refs: 1}
	copy(bad[8:], []byte{0xff, 0xff, 0xff, 0xff})
	c.AddImage("wal/0", im)
	w := newWorld()
	r, err := fetch.New(c, w, w, fetch.Config{Directories: 1 << 20, FindLimit: 3, RecordBytes: 1 << 20, ConcurrentMax: 3})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	piece := fetch.Piece{Stored: &object.Stored{Dir: im.Directory(), WALObject: metadata.WALObject{Object: im.Object("wal/0")}}, Range: &im.Directory().Ranges[0]}
	before := im.refs
	res := r.Read(t.Context(), []fetch.Plan{{Partition: part(0), Max: 1 << 20, Pieces: []fetch.Piece{piece}}}, 1<<20)
	if res.Parts[0].Bytes == 0 {
		t.Fatal(res.Parts[0].Err)
	}
	if im.refs == before {
		t.Error("served, and not held: its memory may be another window's by now")
	}
	res.Release()
	if im.refs != before {
		t.Errorf("%d references, want %d again", im.refs, before)
	}
	res = r.Read(t.Context(), []fetch.Plan{{Partition: part(0), From: 2, Max: 1 << 20, Pieces: []fetch.Piece{piece}}}, 1<<20)
	if !errors.Is(res.Parts[0].Err, object.ErrCorrupt) || im.refs != before {
		t.Errorf("%v, %d references, want ErrCorrupt and %d", res.Parts[0].Err, im.refs, before)
	}
	res.Release()
}

// FuzzRead serves foreign bytes where batches should be.
func FuzzRead(f *testing.F) {
	f.Add([]byte(plain(0, 2, 100)), int64(0), 1000, uint64(1))
	f.Add(flat([]batch.Batch{plain(0, 2, 10), plain(2, 2, 10), batchOf([]stamped{{5, 9}, {4, 7}}, 4, 6, codec.Zstd, 50)}), int64(3), 10, uint64(2))
	f.Fuzz(func(t *testing.T, data []byte, from int64, limit int, seed uint64) {
		if len(data) == 0 || from < 0 {
			return
		}
		w := newWorld()
		w.cuts = rand.New(rand.NewPCG(seed, 1))
		dir := &object.Directory{Ranges: []object.Range{{Partition: part(0), End: 1 << 40, Len: int64(len(data)), MaxTimestamp: 1 << 40}},
			Blocks: objectstore.Blocks{Ends: []int64{int64(len(data))}, Sums: []uint32{0}}}
		s := &stored{bytes: data, dir: dir, object: metadata.Object{Key: "wal/0", Length: int64(len(data))}}
		for range len(data) / 100 {
			s.bounds = append(s.bounds, w.cuts.Int64N(int64(len(data))))
		}
		slices.Sort(s.bounds)
		w.objects["wal/0"] = s
		r := w.reader(t)
		res := r.Read(context.Background(), []fetch.Plan{{Partition: part(0), From: from, Max: limit, Pieces: s.pieces(part(0))}}, 1<<20)
		p := res.Parts[0]
		if got := joined(p); len(got) != p.Bytes || p.Bytes > 0 && !bytes.Contains(data, got) {
			t.Fatalf("%d (%d) bytes of %d", len(got), p.Bytes, len(data))
		}
		last := from
		for rest := joined(p); len(rest) > 0; {
			b, next, err := batch.Parse(rest)
			if errors.Is(err, batch.ErrOldFormat) || errors.Is(err, batch.ErrInvalid) || errors.Is(err, batch.ErrCorrupt) && len(rest) >= batch.HeaderSize {
				break // what a producer's CRC covers is not looked at on this path
			}
			if err != nil || b.End() <= last {
				t.Fatalf("batch [%d, %d) after %d, %v", b.Base(), b.End(), last, err)
			}
			rest, last = next, b.End()
		}
		res.Release()
		_, _ = r.SeekTime(context.Background(), fetch.Plan{Partition: part(0), From: from, Pieces: s.pieces(part(0))}, 5)
	})
}
