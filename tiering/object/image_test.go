package object_test

import (
	"bytes"
	"errors"
	"hash/crc32"
	"io"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"varve.dev/metadata"
	"varve.dev/objectstore"
	"varve.dev/objectstore/cache"
	"varve.dev/tiering/batch"
	"varve.dev/tiering/object"
)

var (
	_ objectstore.Body = (*object.Image)(nil)
	_ cache.Image      = (*object.Image)(nil)
)

// anyBatches draws batches of one partition, in order, with holes between them.
func anyBatches(r *rapid.T, base int64) (bs []batch.Batch) {
	for range rapid.IntRange(1, 6).Draw(r, "batches") {
		m := made{base: base + rapid.Int64Range(0, 2).Draw(r, "hole"), offsets: rapid.Int64Range(1, 50).Draw(r, "offsets"),
			size: rapid.IntRange(0, 150<<10).Draw(r, "size"), first: rapid.Int64Range(-1, 5000).Draw(r, "first"),
			producer: rapid.Int64Range(0, 3).Draw(r, "producer"), sequence: rapid.Int32Range(0, 9).Draw(r, "sequence"),
			appendTime: rapid.IntRange(0, 9).Draw(r, "append time") == 0}
		m.max = m.first + rapid.Int64Range(0, 100).Draw(r, "max")
		b := m.batch()
		bs, base = append(bs, b), b.End()
	}
	return bs
}

// An object's bytes are its batches, and everything that the directory says of them was derived, not read back: so all of
// it is compared with the bytes.
func TestABuiltObjectSaysWhatItsBytesAre(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		header := object.Header{Nonce: 7, First: 1, Last: 1, CreatedAt: 777}
		b, runs := object.NewBuilder(header, nil), object.NewBuilder(header, nil)
		var want []byte
		var starts []int64
		var batches [][]batch.Batch
		for p := range int32(rapid.IntRange(1, 3).Draw(r, "partitions")) {
			bs := anyBatches(r, rapid.Int64Range(0, 1000).Draw(r, "base"))
			g := object.Range{Partition: id(1, p), Base: bs[0].Base(), LeaderEpoch: 3, EpochStart: bs[0].Base()}
			b.Begin(g)
			runs.Begin(g)
			var run []byte
			for _, bt := range bs {
				b.Add(bt)
				starts, want, run = append(starts, int64(len(want))), append(want, bt...), append(run, bt...)
				if rapid.Bool().Draw(r, "cut") {
					add(r, runs, run)
					run = nil
				}
			}
			add(r, runs, run)
			batches = append(batches, bs)
		}
		if b.Len() != int64(len(want)) {
			r.Fatalf("%d bytes, want %d", b.Len(), len(want))
		}
		im := b.Finish(nil)
		if other := runs.Finish(nil); !bytes.Equal(flat(im), flat(other)) || im.CRC32C() != other.CRC32C() {
			r.Fatal("runs of batches make another object than batches")
		}
		all := flat(im)
		if !bytes.Equal(all, append(want, im.Bytes()...)) || im.Size() != int64(len(all)) {
			r.Fatalf("%d bytes, want %d", len(all), len(want)+len(im.Bytes()))
		}
		if got, want := im.CRC32C(), crc32.Checksum(all, castagnoli); got != want {
			r.Fatalf("CRC32C %#x, want %#x", got, want)
		}
		d, err := object.Decode(im.Bytes())
		if err != nil {
			r.Fatal(err)
		}
		if diff := cmp.Diff(im.Directory(), d, cmpopts.EquateEmpty()); diff != "" {
			r.Fatal("directory in memory and as bytes\n" + diff)
		}
		checkBlocks(r, d, want, starts)
		for i := range d.Ranges {
			checkRange(r, &d.Ranges[i], want, batches[i])
		}
	})
}

func add(r *rapid.T, b *object.Builder, run []byte) {
	if err := b.AddRun(run); err != nil {
		r.Fatal(err)
	}
}

// checkBlocks: each block but the last has its least size and not a batch more, starts with a batch, and has its own sum.
func checkBlocks(r *rapid.T, d *object.Directory, data []byte, starts []int64) {
	var from int64
	for i, end := range d.Blocks.Ends {
		if got, want := d.Blocks.Sums[i], crc32.Checksum(data[from:end], castagnoli); got != want {
			r.Fatalf("block %d: CRC32C %#x, want %#x", i, got, want)
		}
		k := 0
		for starts[k] < from {
			k++
		}
		if starts[k] != from {
			r.Fatalf("block %d starts at %d, inside a batch", i, from)
		}
		for k < len(starts) && starts[k] < from+object.BlockSize {
			k++
		}
		if want := append(starts, int64(len(data)))[k]; end != want {
			r.Fatalf("block %d ends at %d, want %d", i, end, want)
		}
		from = end
	}
	if from != int64(len(data)) || d.Size() != from {
		r.Fatalf("blocks of %d bytes, size %d, want %d", from, d.Size(), len(data))
	}
}

func checkRange(r *rapid.T, g *object.Range, data []byte, bs []batch.Batch) {
	want := object.Range{Partition: g.Partition, Base: bs[0].Base(), End: bs[len(bs)-1].End(), LeaderEpoch: 3, EpochStart: bs[0].Base(),
		Pos: g.Pos, MinTimestamp: 1 << 60, MaxTimestamp: -1, MaxAppendTime: -1}
	indexed := 0
	for _, b := range bs {
		if want.Len-int64(indexed) >= object.IndexStep {
			want.Index, indexed = append(want.Index, object.IndexEntry{Offset: b.Base(), Pos: want.Len, MaxTimestamp: want.MaxTimestamp}), int(want.Len)
		}
		if !bytes.Equal(data[g.Pos+want.Len:][:len(b)], b) {
			r.Fatalf("batch at %d is not where its range says", b.Base())
		}
		want.Len, want.Records = want.Len+int64(len(b)), want.Records+int64(b.Count())
		want.MaxTimestamp = max(want.MaxTimestamp, b.MaxTimestamp())
		if b.HasAppendTime() {
			want.MaxAppendTime, want.MinTimestamp = max(want.MaxAppendTime, b.MaxTimestamp()), min(want.MinTimestamp, b.MaxTimestamp())
		} else {
			want.MinTimestamp = min(want.MinTimestamp, b.BaseTimestamp())
		}
		if b.ProducerID() >= 0 {
			want.Producers = append(want.Producers, object.Producer{Entry: b.Producer(), TxnFirst: -1})
		}
	}
	if want.MaxTimestamp < 0 {
		want.MaxTimestamp = 777
	}
	if diff := cmp.Diff(want, *g, cmpopts.EquateEmpty()); diff != "" {
		r.Fatal("range (-want +got)\n" + diff)
	}
	for _, b := range bs {
		for offset := b.Base(); offset < b.End(); offset += max(1, b.Offsets()-1) {
			checkSeekOffset(r, g, bs, offset)
		}
		for _, millis := range []int64{b.MaxTimestamp() - 1, b.MaxTimestamp(), b.MaxTimestamp() + 1} {
			checkSeekTime(r, g, bs, millis)
		}
	}
}

// checkSeekOffset: reading starts at a batch, at or before the one that holds the offset, and no more than a step before.
func checkSeekOffset(r *rapid.T, g *object.Range, bs []batch.Batch, offset int64) {
	pos, at, found := g.SeekOffset(offset), int64(0), false
	for _, b := range bs {
		found = found || at == pos
		if b.End() > offset {
			if !found || at-pos > 2*object.IndexStep+200<<10 {
				r.Fatalf("offset %d lies at %d, seek answers %d", offset, at, pos)
			}
			return
		}
		at += int64(len(b))
	}
}

// checkSeekTime: no batch before the answer reaches the time.
func checkSeekTime(r *rapid.T, g *object.Range, bs []batch.Batch, millis int64) {
	pos, at := g.SeekTime(millis), int64(0)
	for _, b := range bs {
		if at < pos && b.MaxTimestamp() >= millis {
			r.Fatalf("time %d is reached at %d, seek answers %d", millis, at, pos)
		}
		at += int64(len(b))
	}
}

func TestSeeksAreExactAtTheirBounds(t *testing.T) {
	g := object.Range{Base: 100, End: 400, Len: 1000, Index: []object.IndexEntry{{150, 300, 10}, {200, 600, 50}, {300, 900, 50}}}
	for offset, want := range map[int64]int64{100: 0, 149: 0, 150: 300, 151: 300, 199: 300, 200: 600, 299: 600, 300: 900, 399: 900} {
		if got := g.SeekOffset(offset); got != want {
			t.Errorf("offset %d at %d, want %d", offset, got, want)
		}
	}
	for millis, want := range map[int64]int64{0: 0, 10: 0, 11: 300, 50: 300, 51: 900, 1 << 40: 900} {
		if got := g.SeekTime(millis); got != want {
			t.Errorf("time %d at %d, want %d", millis, got, want)
		}
	}
}

// image is an object of two partitions in small batches.
func image(release func()) *object.Image {
	b := object.NewBuilder(object.Header{}, nil)
	for p := range int32(2) {
		b.Begin(object.Range{Partition: id(1, p)})
		for i := range int64(5) {
			b.Add(made{base: 2 * i, offsets: 2, size: int(i)*13 + int(p), first: i, max: i}.batch())
		}
	}
	return b.Finish(release)
}

func TestSlicesAreAnyPartOfTheBytes(t *testing.T) {
	im := image(nil)
	all := flat(im)
	for off := range im.Size() + 1 {
		for n := int64(0); n <= im.Size()-off; n += 1 + n/3 {
			var got []byte
			for _, s := range im.Slices([][]byte{[]byte("kept")}, off, n)[1:] {
				if len(s) == 0 {
					t.Fatalf("an empty slice in [%d, +%d)", off, n)
				}
				got = append(got, s...)
			}
			if !bytes.Equal(got, all[off:off+n]) {
				t.Fatalf("[%d, +%d) differs", off, n)
			}
		}
	}
	for _, bad := range [][2]int64{{-1, 1}, {0, -1}, {0, im.Size() + 1}, {im.Size() + 1, 0}, {1, 1<<63 - 1}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("[%d, +%d) did not panic", bad[0], bad[1])
				}
			}()
			im.Slices(nil, bad[0], bad[1])
		}()
	}
}

func TestReadersReadTheSameBytes(t *testing.T) {
	im := image(nil)
	all := flat(im)
	if err := iotest.TestReader(im.Open(), all); err != nil {
		t.Error(err)
	}
	// A retry opens its own reader, or rewinds.
	rd := im.Open()
	for range 2 {
		if got, err := io.ReadAll(iotest.OneByteReader(rd)); err != nil || !bytes.Equal(got, all) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if _, err := rd.Seek(0, io.SeekStart); err != nil {
			t.Error(err)
		}
	}
	if _, err := rd.Seek(-1, io.SeekStart); err == nil {
		t.Error("a seek to before the start is no error")
	}
}

func TestMemoryGoesBackOnce(t *testing.T) {
	released := 0
	im := image(func() { released++ })
	im.Retain()
	im.Release()
	if released != 0 {
		t.Error("released while it was held")
	}
	im.Release()
	if released != 1 {
		t.Errorf("released %d times, want 1", released)
	}
	defer func() {
		if recover() == nil {
			t.Error("one release too many did not panic")
		}
	}()
	im.Release()
}

func TestARunMustFollowItsRange(t *testing.T) {
	first, second := made{base: 10, offsets: 5}.batch(), made{base: 15, offsets: 5}.batch()
	for name, run := range map[string][]byte{
		"a batch that was there":     first,
		"a batch before the range":   made{base: 4, offsets: 2}.batch(),
		"half a batch":               second[:len(second)-1],
		"a batch and half a batch":   append(append([]byte(nil), second...), second[:20]...),
		"batches that overlap":       append(append([]byte(nil), second...), made{base: 19, offsets: 1}.batch()...),
		"something that is no batch": bytes.Repeat([]byte{2}, 200),
	} {
		b := object.NewBuilder(object.Header{}, nil)
		b.Begin(object.Range{Partition: id(1, 0), Base: 10})
		b.Add(first)
		if err := b.AddRun(run); !errors.Is(err, object.ErrCorrupt) && !errors.Is(err, batch.ErrCorrupt) {
			t.Errorf("%s: %v, want ErrCorrupt", name, err)
		}
	}
}

// A snapshot is the caller's: batches that are added to such a range do not change it.
func TestASnapshotIsKept(t *testing.T) {
	b := object.NewBuilder(object.Header{}, nil)
	snapshot := []object.Producer{entry(5, 0, 1, 2, 0, 1, 3)}
	b.Begin(object.Range{Partition: id(1, 0), Base: 2, Snapshot: true, Producers: snapshot})
	b.Add(made{base: 2, offsets: 1, producer: 6}.batch())
	b.Begin(object.Range{Partition: id(1, 1), Producers: snapshot})
	b.Add(made{base: 0, offsets: 1, producer: 7}.batch())
	d := b.Finish(nil).Directory()
	if diff := cmp.Diff(snapshot, d.Ranges[0].Producers); diff != "" {
		t.Error(diff)
	}
	if got := d.Ranges[1].Producers; len(got) != 1 || got[0].ID != 6 {
		t.Errorf("deltas %+v, want one of producer 6", got)
	}
}

// Batches without timestamps: retention goes by the time of the object, or it would delete them as soon as they are there.
func TestARangeWithoutTimestampsHasTheTimeOfItsObject(t *testing.T) {
	b := object.NewBuilder(object.Header{CreatedAt: 5000}, nil)
	for p := range int32(2) {
		b.Begin(object.Range{Partition: id(1, p)})
		b.Add(made{base: 0, offsets: 1, first: -1, max: -1}.batch())
	}
	for _, g := range b.Finish(nil).Directory().Ranges {
		if g.MaxTimestamp != 5000 || g.MinTimestamp != -1 {
			t.Errorf("%s: timestamps %d to %d, want -1 to 5000", g.Partition, g.MinTimestamp, g.MaxTimestamp)
		}
	}
}

// The directory of a flush is a row's payload: its size is a cost. FORMATS: about 16 to 20 bytes a range, 14 a producer's
// batch, 1,000 active partitions about 20 KiB.
func TestDirectoriesAreSmall(t *testing.T) {
	size := func(batches int, producer int64) int {
		b := object.NewBuilder(object.Header{CreatedAt: 1700000000000}, nil)
		for p := range int32(1000) {
			base := int64(1000000 + 977*p)
			b.Begin(object.Range{Partition: id(1+p/100, p%100), Base: base, LeaderEpoch: 65537, EpochStart: base - 50000})
			for i := range batches {
				m := made{base: base + int64(40*i), offsets: 40, size: 4000, first: 1700000000000 + int64(p%250), max: 1700000000020 + int64(p%250)}
				if producer > 0 {
					m.producer, m.sequence = producer+int64(p%50), int32(50000+40*i)
				}
				b.Add(m.batch())
			}
		}
		return len(b.Finish(nil).Bytes())
	}
	one, idempotent, three := size(1, 0), size(1, 1<<48), size(3, 1<<48)
	t.Logf("%d bytes a range; a producer's batch %d, a further one of the same producer %d", one/1000, (idempotent-one)/1000, (three-idempotent)/2000)
	if one > 24000 || idempotent-one > 21000 || (three-idempotent)/2 > 15000 {
		t.Errorf("1,000 ranges take %d bytes, with a producer's batch each %d, with three %d", one, idempotent, three)
	}
}

func BenchmarkBuild(b *testing.B) {
	var bs []batch.Batch
	for i := range int64(512) {
		bs = append(bs, made{base: i * 40, offsets: 40, size: 16 << 10, first: i, max: i, producer: 7}.batch())
	}
	b.ReportAllocs()
	for b.Loop() {
		w := object.NewBuilder(object.Header{}, nil)
		w.Begin(object.Range{Partition: metadata.PartitionID{Topic: 1}})
		for _, bt := range bs {
			w.Add(bt)
		}
		w.Finish(nil)
	}
}
