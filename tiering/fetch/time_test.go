package fetch_test

import (
	"context"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"varve.dev/metadata"
	"varve.dev/tiering/batch"
	"varve.dev/tiering/batch/codec"
	"varve.dev/tiering/fetch"
)

// A seek answers what a scan of every record would: the first at or after the log start whose timestamp is large enough.
func TestSeekTimeIsExact(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		w := newWorld()
		w.cuts = rand.New(rand.NewPCG(rapid.Uint64().Draw(r, "cuts"), 1))
		var all []stamped
		l := anyLog(t, r, w, part(0), false, func(base int64, _ bool) batch.Batch {
			var rs []stamped
			for i := range rapid.Int64Range(1, 4).Draw(r, "records") {
				rs = append(rs, stamped{base + i, rapid.Int64Range(-1, 60).Draw(r, "time")})
			}
			all = append(all, rs...)
			return batchOf(rs, base, base+int64(len(rs)), rapid.SampledFrom([]codec.Codec{codec.None, codec.Gzip, codec.Snappy, codec.LZ4, codec.Zstd}).Draw(r, "codec"),
				rapid.SampledFrom([]int{0, 0, 1000, 150 << 10, 300 << 10}).Draw(r, "size"))
		})
		millis := rapid.Int64Range(0, 62).Draw(r, "millis")
		want := fetch.Found{Offset: -1, Timestamp: -1, LeaderEpoch: -1}
		for _, s := range all {
			if s.offset >= l.plan.From && s.time >= millis {
				want = fetch.Found{Offset: s.offset, Timestamp: s.time, LeaderEpoch: 3}
				break
			}
		}
		got, err := w.reader(t).SeekTime(context.Background(), l.plan, millis)
		if err != nil || got != want {
			r.Fatalf("time %d from %d: %+v, %v; want %+v", millis, l.plan.From, got, err, want)
		}
	})
}

// A seek into one large segment reads what the index cannot exclude, not the segment.
func TestASeekReadsLittle(t *testing.T) {
	w := newWorld()
	var bs []batch.Batch
	for i := range int64(400) {
		bs = append(bs, batchOf([]stamped{{i, 1000 + i}}, i, i+1, codec.None, 8000))
	}
	w.add("seg/0", metadata.Sealed, map[metadata.PartitionID][]batch.Batch{part(0): bs}, nil)
	r := w.reader(t)
	for _, millis := range []int64{0, 1000, 1200, 1399, 1400} {
		got, err := r.SeekTime(t.Context(), fetch.Plan{Partition: part(0), Sealed: true, SealedEnd: 400}, millis)
		want := max(millis-1000, 0)
		if millis == 1400 {
			want = -1
		}
		if err != nil || got.Offset != want {
			t.Errorf("time %d: %+v, %v; want offset %d", millis, got, err, want)
		}
		views := 0
		for _, l := range w.take() {
			if l[0] == 'v' {
				views++
			}
		}
		if views > 1 {
			t.Errorf("time %d: %d views, want one at most", millis, views)
		}
	}
	// A log start in the segment: nothing before it is read.
	got, err := r.SeekTime(t.Context(), fetch.Plan{Partition: part(0), From: 350, Sealed: true, SealedEnd: 400}, 0)
	if err != nil || got.Offset != 350 {
		t.Errorf("from 350: %+v, %v", got, err)
	}
}

func TestASeekPassesControlBatches(t *testing.T) {
	w := newWorld()
	o := w.add("wal/0", metadata.WAL, map[metadata.PartitionID][]batch.Batch{part(0): {batch.Gap(0, 10, 1, 5000), plain(10, 1, 10)}}, nil)
	got, err := w.reader(t).SeekTime(t.Context(), fetch.Plan{Partition: part(0), Pieces: o.pieces(part(0))}, 500)
	if err != nil || got.Offset != 10 {
		t.Errorf("%+v, %v; want the record behind the gap", got, err)
	}
}
