package batch_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"varve.dev/tiering/batch"
	"varve.dev/tiering/batch/codec"
)

var compressions = map[codec.Codec][]kgo.CompressionCodec{
	codec.None: nil, codec.Gzip: {kgo.GzipCompression()}, codec.Snappy: {kgo.SnappyCompression()}, codec.LZ4: {kgo.Lz4Compression()},
	codec.Zstd: {kgo.ZstdCompression()},
}

// outOfOrder has timestamps that go up and down, below the first one too, and offsets with holes, as after compaction.
func outOfOrder() []rec {
	return []rec{
		{time: 1000, delta: 0, key: []byte("a"), value: bytes.Repeat([]byte("x"), 300)},
		{time: 400, delta: 2, value: bytes.Repeat([]byte("y"), 300)},
		{time: 9000, delta: 3, key: []byte{}, value: nil},
		{time: 900, delta: 7, key: []byte("b"), value: bytes.Repeat([]byte("z"), 300)},
	}
}

func TestRecordsAreReadThroughEveryCodec(t *testing.T) {
	for c, compress := range compressions {
		t.Run(c.String(), func(t *testing.T) {
			b := build(t, built{compress: compress, records: outOfOrder()})
			b.Assign(100, 1)
			if b.Codec() != c {
				t.Fatalf("codec %s, want %s", b.Codec(), c)
			}
			var got []batch.Record
			if err := b.Records(1<<20, func(r batch.Record) bool { got = append(got, r); return true }); err != nil {
				t.Fatal(err)
			}
			want := []batch.Record{{100, 1000, true}, {102, 400, false}, {103, 9000, true}, {107, 900, true}}
			if !slices.Equal(got, want) {
				t.Errorf("got %v\nwant %v", got, want)
			}
			got = got[:0]
			if err := b.Records(1<<20, func(r batch.Record) bool { got = append(got, r); return len(got) < 2 }); err != nil || len(got) != 2 {
				t.Errorf("stopped after %d records, %v; want 2", len(got), err)
			}
		})
	}
}

func TestRecordsOfABombStopAtTheBound(t *testing.T) {
	zeros := []rec{{time: 1, value: make([]byte, 8<<20)}}
	for c, compress := range compressions {
		t.Run(c.String(), func(t *testing.T) {
			b := build(t, built{compress: compress, records: zeros})
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err := b.Records(1<<20, func(batch.Record) bool { t.Error("a record came out"); return true })
			runtime.ReadMemStats(&after)
			if !errors.Is(err, codec.ErrTooLarge) {
				t.Errorf("%d bytes of %d: %v, want ErrTooLarge", len(b), 8<<20, err)
			}
			// zstd keeps the window that the encoder asked for: 8 MiB and two blocks.
			if got := after.TotalAlloc - before.TotalAlloc; got > 14<<20 {
				t.Errorf("%d MiB were allocated for a bound of 1 MiB", got>>20)
			}
		})
	}
}

func TestCutRecordsAreAnError(t *testing.T) {
	for c, compress := range compressions {
		t.Run(c.String(), func(t *testing.T) {
			whole := build(t, built{compress: compress, records: outOfOrder()})
			for n := batch.HeaderSize; n < len(whole); n++ {
				b := slices.Clone(whole[:n])
				binary.BigEndian.PutUint32(b[8:], uint32(n-12))
				count := 0
				err := reseal(b).Records(1<<20, func(batch.Record) bool { count++; return true })
				// A codec's trailer may be missing where all records have come out already; fewer must never pass for all.
				if err == nil && count != 4 {
					t.Fatalf("%d of %d bytes: %d records and no error", n, len(whole), count)
				}
			}
		})
	}
}

func TestDamagedRecordsAreAnError(t *testing.T) {
	varint := func(v int64) []byte { return binary.AppendVarint(nil, v) }
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	cases := []struct {
		name string
		body []byte
	}{
		{"no bytes", nil},
		{"a length without an end", []byte{0x80, 0x80}},
		{"a length that overflows", bytes.Repeat([]byte{0xff}, 11)},
		{"a negative length", varint(-1)},
		{"a length beyond the end", join(varint(100), make([]byte, 7))},
		{"an empty record", varint(0)},
		{"attributes only", join(varint(1), []byte{0})},
		{"no key length", join(varint(3), []byte{0}, varint(0), varint(0))},
		{"a negative offset delta", join(varint(4), []byte{0}, varint(0), varint(-1), varint(-1))},
		{"an offset beyond the batch", join(varint(4), []byte{0}, varint(0), varint(1), varint(-1))},
		{"a key beyond the record", join(varint(4), []byte{0}, varint(0), varint(0), varint(1))},
		{"bytes after the last record", join(appendRecord(nil, rec{}, 0), []byte{0})},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b := slices.Clone(build(t, built{records: []rec{{time: 1}}})[:batch.HeaderSize])
			b = append(b, c.body...)
			binary.BigEndian.PutUint32(b[8:], uint32(len(b)-12))
			if err := reseal(b).Records(1<<20, func(batch.Record) bool { return true }); !errors.Is(err, batch.ErrCorrupt) {
				t.Errorf("got %v, want ErrCorrupt", err)
			}
		})
	}
}

func TestRecompressKeepsEverythingButTheCodec(t *testing.T) {
	for from, compress := range compressions {
		for to := range compressions {
			t.Run(fmt.Sprint(from, " to ", to), func(t *testing.T) {
				b := build(t, built{compress: compress, producer: 12, epoch: 2, sequence: 3, records: outOfOrder()})
				before := slices.Clone(b)
				got, err := b.Recompress(to, 1<<20)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(b, before) {
					t.Error("the original was changed")
				}
				if from == to && &got[0] != &b[0] {
					t.Error("a copy was made of what was good already")
				}
				parsed, rest, err := batch.Parse(got)
				if err != nil || len(rest) > 0 {
					t.Fatal(err, len(rest))
				}
				if err := parsed.Verify(); err != nil {
					t.Error(err)
				}
				if parsed.Codec() != to || parsed.Producer() != b.Producer() || parsed.Count() != b.Count() || parsed.BaseTimestamp() != b.BaseTimestamp() {
					t.Errorf("got %s %+v, want %s %+v", parsed.Codec(), parsed.Producer(), to, b.Producer())
				}
				want, have := clientRecords(t, b), clientRecords(t, parsed)
				for i := range want {
					if !bytes.Equal(want[i].Value, have[i].Value) || !bytes.Equal(want[i].Key, have[i].Key) || !want[i].Timestamp.Equal(have[i].Timestamp) || want[i].Offset != have[i].Offset {
						t.Errorf("record %d: %+v, want %+v", i, have[i], want[i])
					}
				}
				if len(have) != len(want) {
					t.Errorf("%d records, want %d", len(have), len(want))
				}
			})
		}
	}
}

func TestRecompressRefusesABomb(t *testing.T) {
	b := build(t, built{compress: compressions[codec.Gzip], records: []rec{{time: 1, value: make([]byte, 1<<20)}}})
	if _, err := b.Recompress(codec.None, 1<<16); !errors.Is(err, codec.ErrTooLarge) {
		t.Errorf("got %v, want ErrTooLarge", err)
	}
}

func FuzzRecords(f *testing.F) {
	for _, compress := range compressions {
		f.Add([]byte(build(f, built{compress: compress, records: outOfOrder()})))
	}
	f.Add([]byte(batch.Gap(0, 10, 1, 1)))
	f.Fuzz(func(t *testing.T, src []byte) {
		b, rest, err := batch.Parse(src)
		if err != nil {
			return
		}
		if len(b)+len(rest) != len(src) || b.End() <= b.Base() || b.Offsets() < 1 {
			t.Fatalf("%d+%d of %d bytes, [%d, %d)", len(b), len(rest), len(src), b.Base(), b.End())
		}
		_, _ = b.CheckProduced(), b.Verify()
		_ = b.Records(1<<16, func(r batch.Record) bool {
			if r.Offset < b.Base() || r.Offset >= b.End() {
				t.Fatalf("offset %d of [%d, %d)", r.Offset, b.Base(), b.End())
			}
			return true
		})
	})
}
