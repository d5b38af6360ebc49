package batch_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"

	"varve.dev/tiering/batch"
	"varve.dev/tiering/batch/codec"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func TestParseReadsWhatAClientWrote(t *testing.T) {
	rs := plainRecords(3, 1000)
	rs[1].time = 5000 // the maximum is neither first nor last
	raw := build(t, built{producer: 78, epoch: 3, sequence: 9, records: rs})
	next := build(t, built{records: plainRecords(1, 1)})
	b, rest, err := batch.Parse(append(slices.Clone(raw), next...))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, raw) || !bytes.Equal(rest, next) {
		t.Errorf("got %d and %d bytes, want %d and %d", len(b), len(rest), len(raw), len(next))
	}
	if got := cap(b); got != len(raw) {
		t.Errorf("capacity %d reaches into the next batch, want %d", got, len(raw))
	}
	got := []int64{b.Base(), b.Last(), b.End(), b.Offsets(), int64(b.LeaderEpoch()), b.BaseTimestamp(), b.MaxTimestamp(), b.ProducerID(),
		int64(b.ProducerEpoch()), int64(b.BaseSequence()), int64(b.LastSequence()), int64(b.Count()), int64(b.Codec())}
	want := []int64{0, 2, 3, 3, -1, 1000, 5000, 77, 3, 9, 11, 3, 0}
	if !slices.Equal(got, want) {
		t.Errorf("header\n got %v\nwant %v", got, want)
	}
	if b.IsControl() || b.IsTransactional() || b.HasAppendTime() {
		t.Error("a plain batch has no flags")
	}
	if want := (batch.Entry{ID: 77, Epoch: 3, FirstSeq: 9, LastSeq: 11, BaseOffset: 0, LastOffset: 2, Timestamp: 5000}); b.Producer() != want {
		t.Errorf("entry %+v, want %+v", b.Producer(), want)
	}
	if err := errors.Join(b.Verify(), b.CheckProduced()); err != nil {
		t.Error(err)
	}
}

func TestParseRefuses(t *testing.T) {
	set32 := func(at int, v int32) func([]byte) []byte {
		return func(b []byte) []byte { binary.BigEndian.PutUint32(b[at:], uint32(v)); return b }
	}
	set64 := func(at int, v int64) func([]byte) []byte {
		return func(b []byte) []byte { binary.BigEndian.PutUint64(b[at:], uint64(v)); return b }
	}
	magic := func(m byte, n int) func([]byte) []byte {
		return func(b []byte) []byte { b[16] = m; return b[:n] }
	}
	n := len(build(t, built{records: plainRecords(2, 1)}))
	cases := []struct {
		name   string
		damage func([]byte) []byte
		want   error
	}{
		{"nothing", func([]byte) []byte { return nil }, batch.ErrCorrupt},
		{"a header that is cut", func(b []byte) []byte { return b[:batch.HeaderSize-1] }, batch.ErrCorrupt},
		{"records that are cut", func(b []byte) []byte { return b[:n-1] }, batch.ErrCorrupt},
		{"a length below the header's", set32(8, batch.HeaderSize-12-1), batch.ErrCorrupt},
		{"a length of nothing", set32(8, 0), batch.ErrCorrupt},
		{"a negative length", set32(8, -12), batch.ErrCorrupt},
		{"the smallest length", set32(8, math.MinInt32), batch.ErrCorrupt},
		{"the largest length", set32(8, math.MaxInt32), batch.ErrCorrupt},
		{"a negative last offset delta", set32(23, -1), batch.ErrCorrupt},
		{"a negative count", set32(57, -1), batch.ErrCorrupt},
		{"a negative base offset", set64(0, -1), batch.ErrCorrupt},
		{"a base offset whose end would overflow", set64(0, math.MaxInt64), batch.ErrCorrupt},
		{"message format 0", magic(0, n), batch.ErrOldFormat},
		{"message format 1", magic(1, n), batch.ErrOldFormat},
		{"a message of format 0 that is shorter than a batch header", magic(0, 26), batch.ErrOldFormat},
		{"a message of format 1 that is shorter than a batch header", magic(1, 34), batch.ErrOldFormat},
		{"a format of the future", magic(3, n), batch.ErrInvalid},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b, rest, err := batch.Parse(c.damage(build(t, built{records: plainRecords(2, 1)})))
			if !errors.Is(err, c.want) || b != nil || rest != nil {
				t.Errorf("got %d bytes, %d left, %v; want %v", len(b), len(rest), err, c.want)
			}
		})
	}
}

// Real messages of the old formats, from Kafka's own encoder by way of kmsg.
func TestOldMessageFormatsAreRefusedWithTheReason(t *testing.T) {
	v0 := kmsg.NewMessageV0()
	v0.Value = []byte("v")
	v0.MessageSize = int32(len(v0.AppendTo(nil)) - 12)
	v1 := kmsg.NewMessageV1()
	v1.Magic, v1.Value = 1, []byte("v")
	v1.MessageSize = int32(len(v1.AppendTo(nil)) - 12)
	for name, raw := range map[string][]byte{"0": v0.AppendTo(nil), "1": v1.AppendTo(nil)} {
		_, _, err := batch.Parse(raw)
		if !errors.Is(err, batch.ErrOldFormat) || !strings.Contains(err.Error(), "0.11") {
			t.Errorf("format %s: %v, want ErrOldFormat that names the client version", name, err)
		}
	}
}

func TestCheckProducedHoldsAClientToTheRules(t *testing.T) {
	put16 := func(at int, v int16) func(batch.Batch) {
		return func(b batch.Batch) { binary.BigEndian.PutUint16(b[at:], uint16(v)) }
	}
	put32 := func(at int, v int32) func(batch.Batch) {
		return func(b batch.Batch) { binary.BigEndian.PutUint32(b[at:], uint32(v)) }
	}
	put64 := func(at int, v int64) func(batch.Batch) {
		return func(b batch.Batch) { binary.BigEndian.PutUint64(b[at:], uint64(v)) }
	}
	cases := []struct {
		name   string
		damage func(batch.Batch)
		ok     bool
	}{
		{"what it wrote", func(batch.Batch) {}, true},
		{"no timestamp", func(b batch.Batch) { put64(27, -1)(b); put64(35, -1)(b) }, true},
		{"transactional", put16(21, 0x10), true},
		{"each codec", put16(21, 4), true},
		{"a codec that there is not", put16(21, 5), false},
		{"an offset of its own", put64(0, 1), false},
		{"no records", func(b batch.Batch) { put32(57, 0)(b); put32(23, 0)(b) }, false},
		{"fewer records than offsets", put32(23, 2), false},
		{"more records than offsets", put32(23, 0), false},
		{"more records than its bytes can hold", func(b batch.Batch) { put32(57, 1<<20)(b); put32(23, 1<<20-1)(b) }, false},
		{"a control batch", put16(21, 0x20), false},
		{"log append time", put16(21, 0x08), false},
		{"a delete horizon", put16(21, 0x40), false},
		{"an attribute of the future", put16(21, 0x80), false},
		{"a producer without a sequence", put32(53, -1), false},
		{"a producer without an epoch", put16(51, -1), false},
		{"transactional without a producer", func(b batch.Batch) { put16(21, 0x10)(b); put64(43, -1)(b) }, false},
		{"a negative timestamp", put64(35, -2), false},
		{"a negative base timestamp", put64(27, -2), false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b := build(t, built{producer: 6, records: plainRecords(2, 100)})
			c.damage(b)
			if _, _, err := batch.Parse(b); err != nil {
				t.Fatalf("Parse: %v", err)
			}
			err := b.CheckProduced()
			if c.ok && err != nil || !c.ok && !errors.Is(err, batch.ErrInvalid) {
				t.Errorf("got %v, want ok=%v", err, c.ok)
			}
		})
	}
}

// The smallest record that there can be takes seven bytes: a batch of many of them is not taken for one that lies.
func TestCheckProducedTakesTheSmallestRecords(t *testing.T) {
	var rs []rec
	for i := range 60 {
		rs = append(rs, rec{time: 1, delta: int64(i)})
	}
	b := build(t, built{records: rs})
	if got := (len(b) - batch.HeaderSize) / len(rs); got != 7 {
		t.Fatalf("%d bytes a record, want 7", got)
	}
	if err := b.CheckProduced(); err != nil {
		t.Error(err)
	}
}

func TestVerifyFindsEveryFlippedBitThatTheProducerCovered(t *testing.T) {
	b := build(t, built{records: plainRecords(2, 1)})
	if err := b.Verify(); err != nil {
		t.Fatal(err)
	}
	for at := 17; at < len(b); at++ {
		for bit := range 8 {
			b[at] ^= 1 << bit
			if err := b.Verify(); !errors.Is(err, batch.ErrCorrupt) {
				t.Fatalf("bit %d of byte %d: %v, want ErrCorrupt", bit, at, err)
			}
			b[at] ^= 1 << bit
		}
	}
}

func TestAssignStaysOutsideTheProducersCRC(t *testing.T) {
	b := build(t, built{records: plainRecords(3, 1)})
	before := slices.Clone(b)
	b.Assign(1<<40, 7)
	if err := b.Verify(); err != nil {
		t.Error(err)
	}
	if b.Base() != 1<<40 || b.End() != 1<<40+3 || b.LeaderEpoch() != 7 {
		t.Errorf("[%d, %d) epoch %d", b.Base(), b.End(), b.LeaderEpoch())
	}
	if !bytes.Equal(b[16:], before[16:]) || !bytes.Equal(b[8:12], before[8:12]) {
		t.Error("more than offset and epoch was changed")
	}
}

func TestSetAppendTimeIsTheTimeOfEveryRecord(t *testing.T) {
	b := build(t, built{compress: []kgo.CompressionCodec{kgo.ZstdCompression()}, producer: 4, records: plainRecords(3, 1000)})
	b.SetAppendTime(99)
	if err := b.Verify(); err != nil {
		t.Error(err)
	}
	if !b.HasAppendTime() || b.MaxTimestamp() != 99 || b.Codec() != codec.Zstd || b.ProducerID() != 3 {
		t.Errorf("append time %v, max %d, codec %s, producer %d", b.HasAppendTime(), b.MaxTimestamp(), b.Codec(), b.ProducerID())
	}
	for _, r := range clientRecords(t, b) {
		if got := r.Timestamp.UnixMilli(); got != 99 {
			t.Errorf("a client reads %d, want 99", got)
		}
	}
	err := b.Records(1<<20, func(r batch.Record) bool {
		if r.Timestamp != 99 {
			t.Errorf("record at %d has %d, want 99", r.Offset, r.Timestamp)
		}
		return true
	})
	if err != nil {
		t.Error(err)
	}
}

func TestSequencesWrap(t *testing.T) {
	cases := []struct{ seq, n, want int32 }{
		{0, 1, 1}, {math.MaxInt32, 0, math.MaxInt32}, {math.MaxInt32, 1, 0}, {math.MaxInt32 - 2, 4, 1}, {math.MaxInt32, math.MaxInt32, math.MaxInt32 - 1},
	}
	for _, c := range cases {
		if got := batch.AddSequence(c.seq, c.n); got != c.want {
			t.Errorf("%d+%d = %d, want %d", c.seq, c.n, got, c.want)
		}
	}
}

func TestSumIsTheHashOfEveryByte(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		b := batch.Batch(rapid.SliceOfN(rapid.Byte(), batch.HeaderSize, 400).Draw(r, "bytes"))
		reseal(b)
		if got, want := b.Sum(), crc32.Checksum(b, castagnoli); got != want {
			r.Fatalf("got %#x, want %#x", got, want)
		}
	})
}

func TestConcatIsTheHashOfBoth(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		x := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(r, "first")
		y := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(r, "second")
		got := batch.Concat(crc32.Checksum(x, castagnoli), crc32.Checksum(y, castagnoli), int64(len(y)))
		if want := crc32.Checksum(append(x, y...), castagnoli); got != want {
			r.Fatalf("%d and %d bytes: got %#x, want %#x", len(x), len(y), got, want)
		}
	})
}

// Lengths beyond what can be hashed in a test: shifting in two steps is shifting in one.
func TestConcatOfLongParts(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		a := rapid.Uint32().Draw(r, "sum")
		m := rapid.Int64Range(0, 1<<39-1).Draw(r, "m")
		n := rapid.Int64Range(0, 1<<39-1).Draw(r, "n")
		if got, want := batch.Concat(batch.Concat(a, 0, m), 0, n), batch.Concat(a, 0, m+n); got != want {
			r.Fatalf("%d then %d: %#x, want %#x", m, n, got, want)
		}
	})
}

// clientRecords is what franz-go reads, control records included.
func clientRecords(tb testing.TB, b batch.Batch) []*kgo.Record {
	tb.Helper()
	part := kmsg.NewFetchResponseTopicPartition()
	part.RecordBatches = b
	got, _ := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{KeepControlRecords: true}, &part, kgo.DefaultDecompressor(), nil)
	if got.Err != nil {
		tb.Fatalf("franz-go: %v", got.Err)
	}
	return got.Records
}

func TestAGapIsOneControlRecordAtItsLastOffset(t *testing.T) {
	for _, gap := range []struct{ base, end int64 }{{0, 1}, {5, 105}, {1 << 40, 1<<40 + 1<<20}} {
		raw := batch.Gap(gap.base, gap.end, 12, 1700000000000)
		b, rest, err := batch.Parse(raw)
		if err != nil || len(rest) > 0 {
			t.Fatal(err, len(rest))
		}
		if err := b.Verify(); err != nil {
			t.Error(err)
		}
		if b.Base() != gap.base || b.End() != gap.end || b.LeaderEpoch() != 12 || b.Count() != 1 || b.ProducerID() != -1 || !b.IsControl() {
			t.Errorf("[%d, %d) epoch %d, %d records of producer %d, control %v", b.Base(), b.End(), b.LeaderEpoch(), b.Count(), b.ProducerID(), b.IsControl())
		}
		if err := b.CheckProduced(); !errors.Is(err, batch.ErrInvalid) {
			t.Errorf("a client that sends one is told %v", err)
		}
		rs := clientRecords(t, b)
		if len(rs) != 1 || rs[0].Offset != gap.end-1 || !rs[0].Attrs.IsControl() || rs[0].Timestamp.UnixMilli() != 1700000000000 {
			t.Fatalf("franz-go reads %d records: %+v", len(rs), rs)
		}
		key := kmsg.NewControlRecordKey()
		if err := key.ReadFrom(rs[0].Key); err != nil || key.Version != 0 || key.Type != kmsg.ControlRecordKeyTypeCommit {
			t.Errorf("key %+v, %v, want a commit marker", key, err)
		}
		end := kmsg.NewEndTxnMarker()
		if err := end.ReadFrom(rs[0].Value); err != nil || end.CoordinatorEpoch != 0 {
			t.Errorf("value %+v, %v", end, err)
		}
		var offsets []int64
		if err := b.Records(100, func(r batch.Record) bool { offsets = append(offsets, r.Offset); return true }); err != nil || !slices.Equal(offsets, []int64{gap.end - 1}) {
			t.Errorf("our own reader: %v, %v", offsets, err)
		}
	}
}

func BenchmarkSum(b *testing.B) {
	bt := build(b, built{records: []rec{{time: 1, value: bytes.Repeat([]byte{7}, 16<<10)}}})
	b.ReportAllocs()
	for b.Loop() {
		bt.Sum()
	}
}

func BenchmarkConcat(b *testing.B) {
	b.ReportAllocs()
	sum := uint32(1)
	for b.Loop() {
		sum = batch.Concat(sum, 2, 16<<10+61)
	}
}

// BenchmarkHash is what Sum saves: one pass over the batch.
func BenchmarkHash(b *testing.B) {
	bt := build(b, built{records: []rec{{time: 1, value: bytes.Repeat([]byte{7}, 16<<10)}}})
	b.SetBytes(int64(len(bt)))
	for b.Loop() {
		crc32.Checksum(bt, castagnoli)
	}
}

func TestTheHotPathAllocatesNothing(t *testing.T) {
	raw := build(t, built{producer: 3, records: plainRecords(10, 1)})
	got := testing.AllocsPerRun(100, func() {
		raw.Assign(0, -1)
		b, _, err := batch.Parse(raw)
		if err != nil || b.Verify() != nil || b.CheckProduced() != nil {
			t.Fatal("a good batch was refused")
		}
		b.Assign(1000, 3)
		b.SetAppendTime(5)
		binary.BigEndian.PutUint16(b[21:], 0)
		reseal(b)
		_ = b.Sum()
		_ = b.Producer()
	})
	if got != 0 {
		t.Errorf("%v allocations, want 0", got)
	}
}
