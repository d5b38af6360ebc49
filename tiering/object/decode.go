package object

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"

	"varve.dev/metadata"
)

// DirectoryLength reads the length of an object's directory from the object's last 12 bytes: for readers without an index.
func DirectoryLength(end []byte) (int, error) {
	if len(end) < trailer || string(end[len(end)-4:]) != tail {
		return 0, fmt.Errorf("%w: no trailer", ErrCorrupt)
	}
	n := binary.BigEndian.Uint32(end[len(end)-8:])
	if n < trailer+8 || n > MaxDirectory {
		return 0, fmt.Errorf("%w: length %d", ErrCorrupt, n)
	}
	return int(n), nil
}

// Decode reads a directory. What it returns does not alias b.
func Decode(b []byte) (*Directory, error) {
	n, err := DirectoryLength(b)
	if err != nil {
		return nil, err
	}
	if n != len(b) || string(b[:4]) != head {
		return nil, fmt.Errorf("%w: length %d, have %d", ErrCorrupt, n, len(b))
	}
	if got, want := crc32.Checksum(b[:n-trailer], castagnoli), binary.BigEndian.Uint32(b[n-trailer:]); got != want {
		return nil, fmt.Errorf("%w: CRC32C %#x, want %#x", ErrCorrupt, got, want)
	}
	if b[5] > Version {
		return nil, fmt.Errorf("%w: format %d needs a reader of format %d, this is %d", ErrTooNew, b[4], b[5], Version)
	}
	d := new(Directory)
	seen := [sectionBlocks + 1]bool{}
	for rest := b[8 : n-trailer]; len(rest) > 0; {
		if len(rest) < 6 {
			return nil, fmt.Errorf("%w: section cut", ErrCorrupt)
		}
		kind, size := binary.BigEndian.Uint16(rest), binary.BigEndian.Uint32(rest[2:])
		if uint64(size) > uint64(len(rest)-6) {
			return nil, fmt.Errorf("%w: section %d of %d bytes, have %d", ErrCorrupt, kind, size, len(rest)-6)
		}
		if k := int(kind &^ critical); k < len(seen) && k > 0 {
			if seen[k] {
				return nil, fmt.Errorf("%w: section %d comes twice", ErrCorrupt, k)
			}
			seen[k] = true
		}
		if err := d.section(kind, rest[6:6+size]); err != nil {
			return nil, err
		}
		rest = rest[6+size:]
	}
	for k := sectionHeader; k < len(seen); k++ {
		if !seen[k] {
			return nil, fmt.Errorf("%w: no section %d", ErrCorrupt, k)
		}
	}
	if err := d.validate(); err != nil {
		return nil, err
	}
	return d, nil
}

func (d *Directory) section(kind uint16, body []byte) error {
	r := reader{b: body}
	switch kind &^ critical {
	case sectionHeader:
		d.readHeader(&r)
	case sectionTopics:
		d.readTopics(&r)
	case sectionRanges:
		d.readRanges(&r)
	case sectionBlocks:
		d.readBlocks(&r)
	default:
		if kind&critical != 0 {
			return fmt.Errorf("%w: unknown critical section %d", ErrTooNew, kind&^critical)
		}
		return nil
	}
	if r.bad || len(r.b) != 0 {
		return fmt.Errorf("%w: section %d, %d bytes left", ErrCorrupt, kind&^critical, len(r.b))
	}
	return nil
}

func (d *Directory) readHeader(r *reader) {
	h := &d.Header
	copy(h.Cluster[:], r.bytes(16))
	h.Incarnation, h.Agent, h.Session = r.int32(), r.int32(), r.int32()
	if n := r.bytes(8); !r.bad {
		h.Nonce = binary.BigEndian.Uint64(n)
	}
	h.First, h.Last, h.Try, h.CommittedThrough = r.int(), r.int(), r.int32(), r.int()
	h.Kind, h.CreatedAt, h.Level = metadata.Kind(r.uint8()), r.int(), r.int32()
}

func (d *Directory) readTopics(r *reader) {
	for n := r.count(18); n > 0 && !r.bad; n-- {
		t := TopicName{Num: r.int32()}
		copy(t.ID[:], r.bytes(16))
		t.Name = string(r.bytes(r.uint()))
		d.Topics = append(d.Topics, t)
	}
}

func (d *Directory) readBlocks(r *reader) {
	var end int64
	for n := r.count(5); n > 0 && !r.bad; n-- {
		size := r.uint()
		sum := r.bytes(4)
		if r.bad || size == 0 || size > math.MaxInt64/2-uint64(end) {
			r.bad = true
			return
		}
		end += int64(size)
		d.Blocks.Ends = append(d.Blocks.Ends, end)
		d.Blocks.Sums = append(d.Blocks.Sums, binary.BigEndian.Uint32(sum))
	}
}

// leastRange is the least that a range takes: what is claimed allocates sixteen times the bytes that are there.
const leastRange = 10

func (d *Directory) readRanges(r *reader) {
	var topic int32
	var pos, timestamp int64
	n := r.count(leastRange)
	d.Ranges = make([]Range, 0, n)
	for ; n > 0 && !r.bad; n-- {
		f := r.uint()
		if f&^uint64(allFlags) != 0 {
			r.bad = true // a flag adds fields: what follows could not be read
			return
		}
		topic += r.int32()
		g := Range{Partition: metadata.PartitionID{Topic: topic, Partition: r.int32()}, Pos: pos}
		g.read(r, f, timestamp)
		timestamp = g.MaxTimestamp
		if g.Len < 0 || g.Len > math.MaxInt64/2-pos {
			r.bad = true
			return
		}
		pos += g.Len
		d.Ranges = append(d.Ranges, g)
	}
}

func (g *Range) read(r *reader, f uint64, lastTimestamp int64) {
	g.Base = r.int()
	g.End = g.Base + r.int()
	g.LeaderEpoch = r.int32()
	g.EpochStart = g.Base - r.int()
	g.Len = r.int()
	g.MaxTimestamp = lastTimestamp + r.int()
	g.MinTimestamp = g.MaxTimestamp - r.int()
	g.Gap, g.Snapshot = f&flagGap != 0, f&flagSnapshot != 0
	g.Records, g.MaxAppendTime = g.End-g.Base, -1
	if f&flagRecords != 0 {
		g.Records = r.int()
	}
	if f&flagAppendTime != 0 {
		if g.MaxAppendTime = r.int(); g.MaxAppendTime < 0 {
			r.bad = true
		}
	}
	var x *Rare
	if f&(flagGeneration|flagEpochs|flagTxn|flagCipher) != 0 {
		x = &Rare{}
	}
	if f&flagGeneration != 0 {
		g.Generation, x.DeleteHorizon = r.int32(), r.int()
	}
	if f&flagEpochs != 0 {
		for n := r.signedCount(2); n > 0 && !r.bad; n-- {
			x.Epochs = append(x.Epochs, metadata.EpochStart{Epoch: r.int32(), Start: g.Base + r.int()})
		}
	}
	if f&flagProducers != 0 {
		g.readProducers(r, f&flagTxnProducers != 0)
	}
	if f&flagIndex != 0 {
		last := IndexEntry{Offset: g.Base, MaxTimestamp: g.MaxTimestamp}
		for n := r.signedCount(3); n > 0 && !r.bad; n-- {
			next := IndexEntry{last.Offset + r.int(), last.Pos + r.int(), last.MaxTimestamp + r.int()}
			// Out of order, or outside the range, an entry would make a reader pass over records.
			if next.Offset <= last.Offset || next.Offset >= g.End || next.Pos <= last.Pos || next.Pos >= g.Len ||
				len(g.Index) > 0 && next.MaxTimestamp < last.MaxTimestamp {
				r.bad = true
			}
			last = next
			g.Index = append(g.Index, last)
		}
	}
	if f&flagTxn != 0 {
		x.readTxn(r, g.Base)
	}
	if f&flagCipher != 0 {
		if x.Cipher.Algorithm = r.uint8(); x.Cipher.Algorithm == 0 {
			r.bad = true
		}
		x.Cipher.KeyID = string(r.bytes(uint64(r.int())))
		x.Cipher.Nonce = bytes.Clone(r.bytes(uint64(r.int())))
	}
	if x != nil && !x.isZero() {
		g.Rare = x
	}
}

func (g *Range) readProducers(r *reader, txn bool) {
	id := int64(0)
	for n := r.signedCount(7); n > 0 && !r.bad; n-- {
		var p Producer
		id += r.int()
		p.ID, p.Epoch = id, r.int16()
		p.FirstSeq = r.int32()
		lastSeq := r.int()
		p.LastOffset = g.Base + r.int()
		p.BaseOffset = p.LastOffset - r.int()
		p.Timestamp = g.MaxTimestamp + r.int()
		if lastSeq += p.usualLastSeq(); lastSeq < math.MinInt32 || lastSeq > math.MaxInt32 {
			r.bad = true
		}
		p.LastSeq, p.TxnFirst = int32(lastSeq), -1
		if txn {
			p.CoordinatorEpoch, p.TxnCounter = r.int32(), r.int()
			if p.TxnFirst = decodeTxnFirst(r.int(), g.Base); p.TxnFirst < -1 {
				r.bad = true
			}
		}
		g.Producers = append(g.Producers, p)
	}
}

func (x *Rare) readTxn(r *reader, base int64) {
	for n := r.signedCount(4); n > 0 && !r.bad; n-- {
		x.Markers = append(x.Markers, Marker{ID: r.int(), Epoch: r.int16(), Commit: r.int() == 1, Offset: base + r.int()})
	}
	for n := r.signedCount(2); n > 0 && !r.bad; n-- {
		x.Open = append(x.Open, OpenTxn{r.int(), base + r.int()})
	}
	for n := r.signedCount(3); n > 0 && !r.bad; n-- {
		x.Aborted = append(x.Aborted, AbortedTxn{r.int(), base + r.int(), base + r.int()})
	}
}

// validate holds what readers rely on: ranges in order, each as long as its data, blocks over exactly that data.
func (d *Directory) validate() error {
	var pos int64
	for i := range d.Ranges {
		r := &d.Ranges[i]
		if r.Base < 0 || r.End <= r.Base || r.Len <= 0 || r.Records < 0 || r.Records > r.End-r.Base {
			return fmt.Errorf("%w: range %s [%d, %d) of %d bytes", ErrCorrupt, r.Partition, r.Base, r.End, r.Len)
		}
		if i > 0 {
			p := &d.Ranges[i-1]
			if r.Partition.Less(p.Partition) || r.Partition == p.Partition && r.Base < p.End {
				return fmt.Errorf("%w: range %s [%d, %d) after %s [%d, %d)", ErrCorrupt, r.Partition, r.Base, r.End, p.Partition, p.Base, p.End)
			}
		}
		pos += r.Len
	}
	if pos != d.Size() {
		return fmt.Errorf("%w: ranges of %d bytes, blocks of %d", ErrCorrupt, pos, d.Size())
	}
	return nil
}

// reader takes values off foreign bytes; after the first that does not fit it is bad and yields zeros.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) int() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) int32() int32 {
	v := r.int()
	if v < math.MinInt32 || v > math.MaxInt32 {
		r.bad = true
	}
	return int32(v)
}

func (r *reader) int16() int16 {
	v := r.int()
	if v < math.MinInt16 || v > math.MaxInt16 {
		r.bad = true
	}
	return int16(v)
}

func (r *reader) uint8() uint8 {
	v := r.int()
	if v < 0 || v > math.MaxUint8 {
		r.bad = true
	}
	return uint8(v)
}

func (r *reader) uint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

// count reads a number of elements of at least size bytes each: more than the rest can hold is bad.
func (r *reader) count(size int) uint64 {
	n := r.uint()
	if n > uint64(len(r.b)/size) {
		r.bad = true
		return 0
	}
	return n
}

func (r *reader) signedCount(size int) int64 {
	n := r.int()
	if n < 0 || n > int64(len(r.b)/size) {
		r.bad = true
		return 0
	}
	return n
}

func (r *reader) bytes(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}
