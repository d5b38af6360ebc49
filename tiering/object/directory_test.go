package object_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"math"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"varve.dev/metadata"
	"varve.dev/objectstore"
	"varve.dev/tiering/object"
)

// pinned is an object with one of everything.
func pinned() *object.Directory {
	return &object.Directory{
		Header: object.Header{Cluster: metadata.UUID{0: 1, 15: 16}, Incarnation: 2, Agent: 3, Session: 4, Nonce: 0x0102030405060708, First: 5, Last: 6,
			Try: 7, CommittedThrough: 4, Kind: metadata.Pack, CreatedAt: 1700000000000, Level: 1},
		Topics: []object.TopicName{{Num: 1, ID: metadata.UUID{0: 0xaa}, Name: "orders"}, {Num: 9, ID: metadata.UUID{0: 0xbb}, Name: "clicks"}},
		Ranges: []object.Range{
			{Partition: id(1, 0), Base: 100, End: 110, LeaderEpoch: 2, EpochStart: 90, Pos: 0, Len: 1000, Records: 10,
				MinTimestamp: 1700000000000, MaxTimestamp: 1700000000500, MaxAppendTime: -1,
				Producers: []object.Producer{entry(1<<48|7, 0, 3, 12, 100, 109, 1700000000500)}},
			{Partition: id(1, 2), Base: 0, End: 5, LeaderEpoch: 3, EpochStart: 0, Pos: 1000, Len: 70, Records: 1, MaxAppendTime: -1, Gap: true,
				MinTimestamp: 1700000000400, MaxTimestamp: 1700000000400},
			{Partition: id(9, 1), Base: 2000, End: 4000, LeaderEpoch: 5, EpochStart: 2100, Pos: 1070, Len: 400000, Records: 1500,
				MinTimestamp: 1699999990000, MaxTimestamp: 1700000000900, MaxAppendTime: 1700000000900, Generation: 2, Snapshot: true,
				Producers: []object.Producer{
					transactional(entry(1<<48|7, 1, 0, 1, 1990, 1993, 1699999990000), 6, 8, 1999),
					transactional(entry(1<<48|9, 0, math.MaxInt32, 0, 3000, 3001, 1700000000900), 6, 9, -1),
				},
				Index: []object.IndexEntry{{Offset: 2500, Pos: 131072, MaxTimestamp: 1699999999000}, {Offset: 3200, Pos: 262200, MaxTimestamp: 1700000000900}},
				Rare: &object.Rare{
					DeleteHorizon: 1700000100000,
					Epochs:        []metadata.EpochStart{{Epoch: 4, Start: 2000}, {Epoch: 5, Start: 2100}},
					Markers:       []object.Marker{{ID: 1<<48 | 9, Epoch: 0, Commit: true, Offset: 3500}, {ID: 1<<48 | 7, Epoch: 1, Offset: 3600}},
					Open:          []object.OpenTxn{{ID: 1<<48 | 11, First: 3900}},
					Aborted:       []object.AbortedTxn{{ID: 1<<48 | 7, First: 1999, Last: 3600}},
					Cipher:        object.Cipher{Algorithm: 1, KeyID: "k1", Nonce: []byte{9, 8, 7}},
				}},
		},
		Blocks: objectstore.Blocks{Ends: []int64{262144, 401070}, Sums: []uint32{0xdeadbeef, 0x01020304}},
	}
}

func entry(id int64, epoch int16, first, last int32, base, lastOffset, time int64) object.Producer {
	p := object.Producer{TxnFirst: -1}
	p.ID, p.Epoch, p.FirstSeq, p.LastSeq, p.BaseOffset, p.LastOffset, p.Timestamp = id, epoch, first, last, base, lastOffset, time
	return p
}

func transactional(p object.Producer, coordinator int32, counter, first int64) object.Producer {
	p.CoordinatorEpoch, p.TxnCounter, p.TxnFirst = coordinator, counter, first
	return p
}

// golden is pinned() as format version 1 writes it, one line for each part of doc.go. It may never change: objects that
// look like this are in people's buckets. A new need is a new flag or a new section.

// golden is pinned() as format version 1 writes it, one line for each part of doc.go. It may never change: objects that
// look like this are in people's buckets. A new need is a new flag or a new section.
const golden = `
56525644 01 01 0000
8001 00000027 01000000000000000000000000000010 04 06 08 0102030405060708 0a 0c 0e 08 02 80a0abfef962 02
8002 00000031 02
     02 aa000000000000000000000000000000 06 6f7264657273
     12 bb000000000000000000000000000000 06 636c69636b73
8003 000000c1 03
     40 02 00 c801 14 04 14 d00f e8a7abfef962 e807
          02 8e80808080808001 00 06 00 12 12 00
     05 00 04 00 0a 06 00 8c01 c701 00
          02
     fe0f 10 02 a01f a01f 0a c701 80ea30 e807 a8aa01
          b817
          88aeabfef962
          04 c0bab7fef962
          04 08 00 0a c801
          04 8e80808080808001 02 00 03 0d 06 a7aa01 0c 10 01
             04 00 feffffff0f 00 d20f 02 00 0c 12 00
          04 e807 808010 d71d f80a f08010 d81d
          04 92808080808080010002b8178e8080808080800102008019029680808080808001d81d028e80808080808001018019
          02 04 6b31 06 090807
8004 0000000f 02 808010 deadbeef aebd08 01020304
d5375e7b 00000154 56525645
`

func TestTheFirstFormatNeverChanges(t *testing.T) {
	got := pinned().Append(nil)
	text := hex.EncodeToString(got)
	want := strings.Join(strings.Fields(golden), "")
	if text != want {
		t.Errorf("directory bytes\n got %s\nwant %s", text, want)
	}
	raw, err := hex.DecodeString(want)
	if err != nil {
		t.Fatal(err)
	}
	d, err := object.Decode(raw)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(pinned(), d, cmpopts.EquateEmpty()); diff != "" {
		t.Error("the pinned bytes say (-want +got)\n" + diff)
	}
}

// anyDirectory draws a directory with every optional part.
func anyDirectory(r *rapid.T) *object.Directory {
	small, any := rapid.Int64Range(0, 1<<20), rapid.Int64Range(-1, math.MaxInt64/4)
	i16, i32 := rapid.Int16(), rapid.Int32()
	uuid := func() (u metadata.UUID) {
		copy(u[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(r, "uuid"))
		return u
	}
	d := &object.Directory{Header: object.Header{Cluster: uuid(), Incarnation: i32.Draw(r, "incarnation"), Agent: i32.Draw(r, "agent"),
		Session: i32.Draw(r, "session"), Nonce: rapid.Uint64().Draw(r, "nonce"), First: any.Draw(r, "first"), Last: any.Draw(r, "last"),
		Try: i32.Draw(r, "try"), CommittedThrough: any.Draw(r, "through"), Kind: metadata.Kind(rapid.IntRange(0, 2).Draw(r, "kind")),
		CreatedAt: any.Draw(r, "created"), Level: i32.Draw(r, "level")}}
	for range rapid.IntRange(0, 3).Draw(r, "topics") {
		d.Topics = append(d.Topics, object.TopicName{Num: i32.Draw(r, "num"), ID: uuid(), Name: rapid.StringN(0, 20, -1).Draw(r, "name")})
	}
	var pos int64
	p, base := id(0, 0), int64(0)
	for range rapid.IntRange(0, 4).Draw(r, "ranges") {
		if rapid.Bool().Draw(r, "next") {
			p, base = id(p.Topic+rapid.Int32Range(0, 3).Draw(r, "topic"), p.Partition+rapid.Int32Range(1, 5).Draw(r, "partition")), 0
		}
		g := object.Range{Partition: p, Base: base + small.Draw(r, "base"), LeaderEpoch: i32.Draw(r, "epoch"), Pos: pos, Len: 1 + small.Draw(r, "len"),
			MaxTimestamp: any.Draw(r, "max"), MaxAppendTime: any.Draw(r, "append"), Gap: rapid.Bool().Draw(r, "gap"),
			Snapshot: rapid.Bool().Draw(r, "snapshot")}
		g.End = g.Base + 1 + small.Draw(r, "offsets")
		g.EpochStart = g.Base - rapid.Int64Range(-1000, 1000).Draw(r, "epoch start")
		g.Records, g.MinTimestamp = rapid.Int64Range(0, g.End-g.Base).Draw(r, "records"), g.MaxTimestamp-small.Draw(r, "min")
		var x object.Rare
		if rapid.Bool().Draw(r, "compacted") {
			g.Generation, x.DeleteHorizon = i32.Draw(r, "generation"), any.Draw(r, "horizon")
		}
		for range rapid.IntRange(0, 2).Draw(r, "epochs") {
			x.Epochs = append(x.Epochs, metadata.EpochStart{Epoch: i32.Draw(r, "epoch"), Start: g.Base + small.Draw(r, "start")})
		}
		txn := rapid.Bool().Draw(r, "transactional")
		for range rapid.IntRange(0, 7).Draw(r, "producers") {
			last := g.Base + rapid.Int64Range(-2000, 2000).Draw(r, "last")
			e := entry(any.Draw(r, "id"), i16.Draw(r, "producer epoch"), i32.Draw(r, "first seq"), i32.Draw(r, "last seq"), last-rapid.Int64Range(0, 500).Draw(r, "n"), last, any.Draw(r, "time"))
			if txn {
				first := g.Base + rapid.Int64Range(-3, 3).Draw(r, "txn first")
				e = transactional(e, i32.Draw(r, "coordinator"), any.Draw(r, "counter"), max(first, -1))
			}
			g.Producers = append(g.Producers, e)
		}
		at := object.IndexEntry{Offset: g.Base, MaxTimestamp: -1}
		for range rapid.IntRange(0, 3).Draw(r, "index") {
			at.Offset, at.Pos, at.MaxTimestamp = at.Offset+1+small.Draw(r, "offset"), at.Pos+1+small.Draw(r, "pos"), at.MaxTimestamp+small.Draw(r, "ts")
			if at.Offset >= g.End || at.Pos >= g.Len {
				break
			}
			g.Index = append(g.Index, at)
		}
		if rapid.Bool().Draw(r, "txns") {
			x.Markers = append(x.Markers, object.Marker{ID: any.Draw(r, "id"), Epoch: i16.Draw(r, "e"), Commit: rapid.Bool().Draw(r, "commit"), Offset: g.Base + small.Draw(r, "o")})
			x.Open = append(x.Open, object.OpenTxn{ID: any.Draw(r, "id"), First: g.Base - rapid.Int64Range(-9, 9).Draw(r, "f")})
			x.Aborted = append(x.Aborted, object.AbortedTxn{ID: any.Draw(r, "id"), First: g.Base - small.Draw(r, "f"), Last: g.Base + small.Draw(r, "l")})
		}
		if rapid.Bool().Draw(r, "encrypted") {
			x.Cipher = object.Cipher{Algorithm: rapid.Uint8Range(1, 255).Draw(r, "algorithm"), KeyID: rapid.StringN(0, 9, -1).Draw(r, "key"), Nonce: rapid.SliceOfN(rapid.Byte(), 0, 12).Draw(r, "nonce")}
		}
		if !reflect.ValueOf(x).IsZero() {
			g.Rare = &x
		}
		d.Ranges, pos, base = append(d.Ranges, g), pos+g.Len, g.End
	}
	for at := int64(0); at < pos; {
		at = min(pos, at+1+small.Draw(r, "block"))
		d.Blocks.Ends, d.Blocks.Sums = append(d.Blocks.Ends, at), append(d.Blocks.Sums, rapid.Uint32().Draw(r, "sum"))
	}
	return d
}

func TestEveryDirectoryComesBack(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		want := anyDirectory(r)
		before := []byte("before")
		raw := want.Append(slices.Clone(before))
		if !bytes.HasPrefix(raw, before) {
			r.Fatal("Append wrote over what was there")
		}
		raw = raw[len(before):]
		if n, err := object.DirectoryLength(append([]byte("data"), raw...)); err != nil || n != len(raw) {
			r.Fatalf("length %d, %v, want %d", n, err, len(raw))
		}
		got, err := object.Decode(raw)
		if err != nil {
			r.Fatal(err)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			r.Fatal("(-want +got)\n" + diff)
		}
		if again := got.Append(nil); !bytes.Equal(again, raw) {
			r.Fatalf("encoded again: %d bytes differ", len(again))
		}
		clear(raw) // what was decoded must not alias
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			r.Fatal("it aliases its bytes\n" + diff)
		}
	})
}

// sections takes a directory apart, and put puts sections together under a right checksum.
func sections(raw []byte) (list [][]byte) {
	for rest := raw[8 : len(raw)-12]; len(rest) > 0; {
		n := 6 + binary.BigEndian.Uint32(rest[2:])
		list, rest = append(list, rest[:n:n]), rest[n:]
	}
	return list
}

func put(list ...[]byte) []byte {
	return sealed(append([]byte{'V', 'R', 'V', 'D', 1, 1, 0, 0}, bytes.Join(list, nil)...))
}

func sealed(body []byte) []byte {
	b := binary.BigEndian.AppendUint32(slices.Clone(body), crc32.Checksum(body, castagnoli))
	b = binary.BigEndian.AppendUint32(b, uint32(len(b)+8))
	return append(b, "VRVE"...)
}

func section(kind uint16, body ...byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, kind)
	return append(binary.BigEndian.AppendUint32(b, uint32(len(body))), body...)
}

func TestDecodeHoldsToVersions(t *testing.T) {
	raw := pinned().Append(nil)
	parts := sections(raw)
	version := func(v, reader byte) []byte {
		b := slices.Clone(raw[:len(raw)-12])
		b[4], b[5] = v, reader
		return sealed(b)
	}
	cases := []struct {
		name string
		raw  []byte
		want error
	}{
		{"as written", put(parts...), nil},
		{"a newer format that we may read", version(9, 1), nil},
		{"a newer minimum reader", version(9, 2), object.ErrTooNew},
		{"an unknown optional section", put(append(slices.Clone(parts), section(77, 1, 2, 3))...), nil},
		{"an unknown optional section first", put(append([][]byte{section(77)}, parts...)...), nil},
		{"an unknown critical section", put(append(slices.Clone(parts), section(77|1<<15, 1, 2, 3))...), object.ErrTooNew},
		{"section 0, critical", put(append(slices.Clone(parts), section(1<<15))...), object.ErrTooNew},
		{"section 0, optional", put(append(slices.Clone(parts), section(0))...), nil},
		{"a section twice", put(parts[0], parts[1], parts[2], parts[2], parts[3]), object.ErrCorrupt},
		{"no header", put(parts[1:]...), object.ErrCorrupt},
		{"no blocks", put(parts[:3]...), object.ErrCorrupt},
		{"no sections", put(), object.ErrCorrupt},
		{"a section that is cut", put(append(slices.Clone(parts), section(77, 1)[:6])...), object.ErrCorrupt},
		{"a section head that is cut", put(append(slices.Clone(parts), section(77)[:5])...), object.ErrCorrupt},
		{"bytes left in a section", put(append(section(1|1<<15, append(slices.Clone(parts[0][6:]), 0)...), bytes.Join(parts[1:], nil)...)), object.ErrCorrupt},
		{"other head", sealed(append([]byte("XXXX"), raw[4:len(raw)-12]...)), object.ErrCorrupt},
		{"other tail", append(slices.Clone(raw[:len(raw)-4]), "XXXX"...), object.ErrCorrupt},
		{"cut", raw[1:], object.ErrCorrupt},
		{"nothing", nil, object.ErrCorrupt},
		{"a trailer alone", raw[len(raw)-12:], object.ErrCorrupt},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			d, err := object.Decode(c.raw)
			if !errors.Is(err, c.want) || (err == nil) != (d != nil) {
				t.Errorf("got %v, %v; want %v", d != nil, err, c.want)
			}
		})
	}
}

func TestEveryFlippedBitIsFound(t *testing.T) {
	raw := pinned().Append(nil)
	for at := range raw {
		for bit := range 8 {
			raw[at] ^= 1 << bit
			if _, err := object.Decode(raw); !errors.Is(err, object.ErrCorrupt) {
				t.Fatalf("bit %d of byte %d: %v", bit, at, err)
			}
			raw[at] ^= 1 << bit
		}
	}
}

// What a directory with a good checksum may still not say.
func TestDecodeRefusesWhatReadersRelyOn(t *testing.T) {
	cases := map[string]func(d *object.Directory){
		"an empty range":            func(d *object.Directory) { d.Ranges[0].End = d.Ranges[0].Base },
		"a range that ends early":   func(d *object.Directory) { d.Ranges[0].End = d.Ranges[0].Base - 1 },
		"a negative base":           func(d *object.Directory) { d.Ranges[0].Base = -1 },
		"an end that overflows":     func(d *object.Directory) { d.Ranges[0].Base = math.MaxInt64; d.Ranges[0].End = math.MinInt64 },
		"a range without bytes":     func(d *object.Directory) { d.Ranges[0].Len = 0 },
		"a negative length":         func(d *object.Directory) { d.Ranges[0].Len = -5 },
		"lengths that overflow":     func(d *object.Directory) { d.Ranges[0].Len, d.Ranges[1].Len = math.MaxInt64, math.MaxInt64 },
		"more records than offsets": func(d *object.Directory) { d.Ranges[0].Records = 11 },
		"a negative number of them": func(d *object.Directory) { d.Ranges[0].Records = -1 },
		"partitions out of order":   func(d *object.Directory) { d.Ranges[0].Partition.Partition = 3 },
		"ranges that overlap": func(d *object.Directory) {
			d.Ranges[1].Partition, d.Ranges[1].Base, d.Ranges[1].End = id(1, 0), 109, 114
		},
		"blocks over fewer bytes": func(d *object.Directory) { d.Blocks.Ends[1]-- },
		"blocks over more bytes":  func(d *object.Directory) { d.Blocks.Ends[1]++ },
		"an empty block":          func(d *object.Directory) { d.Blocks.Ends[0] = 0 },
		"blocks out of order":     func(d *object.Directory) { d.Blocks.Ends[0] = d.Blocks.Ends[1] + 1 },
		"an index entry at the start": func(d *object.Directory) {
			d.Ranges[2].Index[0] = object.IndexEntry{Offset: 2000, Pos: 0, MaxTimestamp: 1}
		},
		"an index beyond the bytes":   func(d *object.Directory) { d.Ranges[2].Index[1].Pos = d.Ranges[2].Len },
		"an index beyond the offsets": func(d *object.Directory) { d.Ranges[2].Index[1].Offset = d.Ranges[2].End },
		"an index that goes back":     func(d *object.Directory) { d.Ranges[2].Index[1].Pos = d.Ranges[2].Index[0].Pos },
		"an index of falling offsets": func(d *object.Directory) { d.Ranges[2].Index[1].Offset = d.Ranges[2].Index[0].Offset },
		"an index of falling times":   func(d *object.Directory) { d.Ranges[2].Index[1].MaxTimestamp = d.Ranges[2].Index[0].MaxTimestamp - 1 },
		"a negative index position":   func(d *object.Directory) { d.Ranges[2].Index[0].Pos = -1 },
	}
	for name, damage := range cases {
		t.Run(name, func(t *testing.T) {
			d := pinned()
			damage(d)
			if got, err := object.Decode(d.Append(nil)); !errors.Is(err, object.ErrCorrupt) || got != nil {
				t.Errorf("got %v, want ErrCorrupt and nothing", err)
			}
		})
	}
}

func TestFind(t *testing.T) {
	d := &object.Directory{Ranges: []object.Range{
		{Partition: id(1, 0), Base: 10, End: 20}, {Partition: id(1, 0), Base: 30, End: 40}, {Partition: id(1, 2), Base: 0, End: 5}, {Partition: id(2, 0), Base: 7, End: 8},
	}}
	for _, c := range []struct {
		p      metadata.PartitionID
		offset int64
		want   int // index, -1: none
	}{
		{id(1, 0), 9, -1}, {id(1, 0), 10, 0}, {id(1, 0), 19, 0}, {id(1, 0), 20, -1}, {id(1, 0), 30, 1}, {id(1, 0), 40, -1},
		{id(1, 1), 10, -1}, {id(1, 2), 0, 2}, {id(1, 2), 5, -1}, {id(2, 0), 7, 3}, {id(0, 9), 0, -1}, {id(3, 0), 0, -1},
	} {
		var want *object.Range
		if c.want >= 0 {
			want = &d.Ranges[c.want]
		}
		if got := d.Find(c.p, c.offset); got != want {
			t.Errorf("%s at %d: %+v, want %+v", c.p, c.offset, got, want)
		}
	}
}

func TestOpenNamesTheObject(t *testing.T) {
	o := metadata.WALObject{Object: metadata.Object{Key: "wal/ab/1"}, Directory: pinned().Append(nil)}
	s, err := object.Open(o)
	if err != nil || len(s.Dir.Ranges) != 3 {
		t.Fatal(s, err)
	}
	n := 0
	for x := range s.Dir.Extents(&o.Object) {
		r := &s.Dir.Ranges[n]
		if x != (metadata.Extent{Partition: r.Partition, Base: r.Base, End: r.End, MaxTimestamp: r.MaxTimestamp, Object: &o.Object, Pos: r.Pos, Len: r.Len}) {
			t.Errorf("extent %d is %+v", n, x)
		}
		if n++; n == 2 {
			break
		}
	}
	o.Directory = o.Directory[1:]
	if _, err := object.Open(o); !errors.Is(err, object.ErrCorrupt) || !strings.Contains(err.Error(), "wal/ab/1") {
		t.Errorf("got %v, want ErrCorrupt with the key", err)
	}
}

// maxBlowUp is how many bytes of memory a byte of a directory may become, at most: slices that grow, of structs whose
// fields take one byte each.
const maxBlowUp = 128

// FuzzDecode puts foreign sections behind a right checksum, so that it comes past it.
func FuzzDecode(f *testing.F) {
	raw := pinned().Append(nil)
	f.Add(raw[8 : len(raw)-12])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, body []byte) {
		_, _ = object.Decode(body)
		holdDecoder(t, put(body), object.Decode)
	})
}

// holdDecoder demands of a decoder of foreign bytes that it allocates within their number, refuses by a known error, and
// reads what it has read once more from its own encoding.
func holdDecoder[T interface{ Append([]byte) []byte }](t *testing.T, b []byte, decode func([]byte) (T, error)) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	d, err := decode(b)
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > uint64(maxBlowUp*len(b)+64<<10) {
		t.Fatalf("%d bytes were allocated for %d", used, len(b))
	}
	if err != nil {
		if !errors.Is(err, object.ErrCorrupt) && !errors.Is(err, object.ErrTooNew) {
			t.Fatalf("an error of its own: %v", err)
		}
		return
	}
	again, err := decode(d.Append(nil))
	if err != nil {
		t.Fatalf("what was decoded is refused: %v", err)
	}
	if diff := cmp.Diff(d, again, cmpopts.EquateEmpty()); diff != "" {
		t.Fatal("decoded twice\n" + diff)
	}
}
