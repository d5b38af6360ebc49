package object

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"iter"
	"math"
	"slices"
	"sort"

	"varve.dev/metadata"
	"varve.dev/objectstore"
	"varve.dev/tiering/batch"
)

const (
	// Version is the format that this program writes, MinReader the oldest program that may read it.
	Version   = 1
	MinReader = 1
	// BlockSize is the least number of bytes between two block ends, except at the end of the data.
	BlockSize = 256 << 10
	// IndexStep is the least number of bytes between two entries of a range's sparse index.
	IndexStep = 128 << 10
	// MaxDirectory bounds what a decoder accepts: 64 MiB hold 3 million ranges.
	MaxDirectory = 64 << 20

	head    = "VRVD"
	tail    = "VRVE"
	trailer = 12
)

var (
	// ErrCorrupt means that the bytes are no directory of this format.
	ErrCorrupt = errors.New("corrupt object directory")
	// ErrTooNew means that a newer program wrote what this one must not ignore.
	ErrTooNew = errors.New("object was written by a newer version")

	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// Header says who wrote an object, when in its session's order, and what it then knew.
type Header struct {
	Cluster                     metadata.UUID
	Incarnation, Agent, Session int32
	Nonce                       uint64
	First, Last                 int64 // numbers that it covers
	Try                         int32
	CommittedThrough            int64 // highest number known committed when the object was built
	Kind                        metadata.Kind
	CreatedAt                   int64 // milliseconds; of a pack: of the oldest object that went into it
	Level                       int32 // of a pack: how often it was merged
}

// TopicName is what an object says of a topic, so that it can be read without the service.
type TopicName struct {
	Num  int32
	ID   metadata.UUID
	Name string
}

// Range is a contiguous stretch of one partition in an object.
type Range struct {
	Partition    metadata.PartitionID
	Base, End    int64
	EpochStart   int64
	Pos, Len     int64
	Records      int64
	MinTimestamp int64 // smallest base timestamp of a batch
	// MaxTimestamp is the largest timestamp of a batch. Where no batch has one it is when the object was made: retention
	// must have a time to go by.
	MaxTimestamp int64
	// MaxAppendTime is the largest append time, or -1 where no batch has one.
	MaxAppendTime int64
	LeaderEpoch   int32 // of the writer
	Generation    int32
	Gap           bool // an unclean election gave these offsets up
	Snapshot      bool // Producers is the state at End; otherwise one entry for each batch
	Producers     []Producer
	Index         []IndexEntry
	Rare          *Rare // nil: nothing of it
}

// Rare is what few ranges have: an agent holds a million of them.
type Rare struct {
	DeleteHorizon int64
	Epochs        []metadata.EpochStart
	Markers       []Marker
	Open          []OpenTxn
	Aborted       []AbortedTxn
	Cipher        Cipher
}

func (r *Range) rare() Rare {
	if r.Rare == nil {
		return Rare{}
	}
	return *r.Rare
}

func (x *Rare) isZero() bool {
	return x.DeleteHorizon == 0 && len(x.Epochs)+len(x.Markers)+len(x.Open)+len(x.Aborted) == 0 && x.Cipher.Algorithm == 0
}

// Producer is one batch of an idempotent or transactional producer.
type Producer struct {
	batch.Entry
	CoordinatorEpoch int32
	TxnCounter       int64
	TxnFirst         int64 // first offset of the open transaction, -1: none
}

// IndexEntry says that the batch at Pos (from the range's start) starts at Offset and that no batch before it has a
// timestamp above MaxTimestamp.
type IndexEntry struct {
	Offset, Pos, MaxTimestamp int64
}

// Marker ends a transaction; Commit or abort.
type Marker struct {
	ID     int64
	Epoch  int16
	Commit bool
	Offset int64
}

// OpenTxn is a transaction that is open at the range's end.
type OpenTxn struct{ ID, First int64 }

// AbortedTxn is an aborted transaction that overlaps the range.
type AbortedTxn struct{ ID, First, Last int64 }

// Cipher says how a range is encrypted; the zero value: it is not.
type Cipher struct {
	Algorithm uint8
	KeyID     string
	Nonce     []byte
}

// Directory is the end of an object, and the bytes of its index row.
type Directory struct {
	Header Header
	Topics []TopicName
	Ranges []Range // by partition and base
	Blocks objectstore.Blocks
}

const (
	flagGap = 1 << iota
	flagSnapshot
	flagRecords
	flagAppendTime
	flagGeneration
	flagEpochs
	flagProducers
	flagIndex
	flagTxn
	flagCipher
	flagTxnProducers
	allFlags = 1<<iota - 1
)

const (
	sectionHeader = 1
	sectionTopics = 2
	sectionRanges = 3
	sectionBlocks = 4
	critical      = 1 << 15
)

// Size is the length of the batches before the directory.
func (d *Directory) Size() int64 {
	if n := len(d.Blocks.Ends); n > 0 {
		return d.Blocks.Ends[n-1]
	}
	return 0
}

// Extents yields every range as an extent of o.
func (d *Directory) Extents(o *metadata.Object) iter.Seq[metadata.Extent] {
	return func(yield func(metadata.Extent) bool) {
		for i := range d.Ranges {
			if !yield(d.Ranges[i].Extent(o)) {
				return
			}
		}
	}
}

// Extent is the range as the index knows it.
func (r *Range) Extent(o *metadata.Object) metadata.Extent {
	return metadata.Extent{Partition: r.Partition, Base: r.Base, End: r.End, MaxTimestamp: r.MaxTimestamp, Object: o, Pos: r.Pos, Len: r.Len}
}

// Find answers the range of p that contains offset, or nil.
func (d *Directory) Find(p metadata.PartitionID, offset int64) *Range {
	i := sort.Search(len(d.Ranges), func(i int) bool {
		r := &d.Ranges[i]
		return p.Less(r.Partition) || p == r.Partition && r.End > offset
	})
	if i < len(d.Ranges) && d.Ranges[i].Partition == p && d.Ranges[i].Base <= offset {
		return &d.Ranges[i]
	}
	return nil
}

// Of is the ranges of p, in order.
func (d *Directory) Of(p metadata.PartitionID) []Range {
	from := sort.Search(len(d.Ranges), func(i int) bool { return !d.Ranges[i].Partition.Less(p) })
	end := from
	for end < len(d.Ranges) && d.Ranges[end].Partition == p {
		end++
	}
	return d.Ranges[from:end:end]
}

// SeekOffset answers where reading must start, from the range's start, to find offset: at a batch that starts at or before it.
func (r *Range) SeekOffset(offset int64) (pos int64) {
	i := sort.Search(len(r.Index), func(i int) bool { return r.Index[i].Offset > offset })
	if i == 0 {
		return 0
	}
	return r.Index[i-1].Pos
}

// SeekTime answers where reading must start to find the first batch whose max timestamp is at least millis.
func (r *Range) SeekTime(millis int64) (pos int64) {
	i := sort.Search(len(r.Index), func(i int) bool { return r.Index[i].MaxTimestamp >= millis })
	if i == 0 {
		return 0
	}
	return r.Index[i-1].Pos
}

// Append encodes d.
func (d *Directory) Append(dst []byte) []byte {
	start := len(dst)
	dst = append(dst, head...)
	dst = append(dst, Version, MinReader, 0, 0)
	dst = section(dst, sectionHeader, d.appendHeader)
	dst = section(dst, sectionTopics, d.appendTopics)
	dst = section(dst, sectionRanges, d.appendRanges)
	dst = section(dst, sectionBlocks, d.appendBlocks)
	dst = binary.BigEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(dst)-start+8))
	return append(dst, tail...)
}

func section(dst []byte, kind uint16, body func([]byte) []byte) []byte {
	dst = binary.BigEndian.AppendUint16(dst, kind|critical)
	at := len(dst)
	dst = body(append(dst, 0, 0, 0, 0))
	binary.BigEndian.PutUint32(dst[at:], uint32(len(dst)-at-4))
	return dst
}

func (d *Directory) appendHeader(b []byte) []byte {
	h := &d.Header
	b = append(b, h.Cluster[:]...)
	b = binary.AppendVarint(b, int64(h.Incarnation))
	b = binary.AppendVarint(b, int64(h.Agent))
	b = binary.AppendVarint(b, int64(h.Session))
	b = binary.BigEndian.AppendUint64(b, h.Nonce)
	for _, v := range [...]int64{h.First, h.Last, int64(h.Try), h.CommittedThrough, int64(h.Kind), h.CreatedAt, int64(h.Level)} {
		b = binary.AppendVarint(b, v)
	}
	return b
}

func (d *Directory) appendTopics(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(d.Topics)))
	for _, t := range d.Topics {
		b = binary.AppendVarint(b, int64(t.Num))
		b = append(b, t.ID[:]...)
		b = binary.AppendUvarint(b, uint64(len(t.Name)))
		b = append(b, t.Name...)
	}
	return b
}

func (d *Directory) appendBlocks(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(d.Blocks.Ends)))
	var last int64
	for i, end := range d.Blocks.Ends {
		b = binary.AppendUvarint(b, uint64(end-last))
		b = binary.BigEndian.AppendUint32(b, d.Blocks.Sums[i])
		last = end
	}
	return b
}

func (d *Directory) appendRanges(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(d.Ranges)))
	var last Range
	for i := range d.Ranges {
		r := &d.Ranges[i]
		b = binary.AppendUvarint(b, r.flags())
		b = binary.AppendVarint(b, int64(r.Partition.Topic-last.Partition.Topic))
		b = r.append(b, last.MaxTimestamp)
		last = *r
	}
	return b
}

func (r *Range) flags() (f uint64) {
	x := r.rare()
	set := func(bit uint64, on bool) {
		if on {
			f |= bit
		}
	}
	set(flagGap, r.Gap)
	set(flagSnapshot, r.Snapshot)
	set(flagRecords, r.Records != r.End-r.Base)
	set(flagAppendTime, r.MaxAppendTime >= 0)
	set(flagGeneration, r.Generation != 0 || x.DeleteHorizon != 0)
	set(flagEpochs, len(x.Epochs) > 0)
	set(flagProducers, len(r.Producers) > 0)
	set(flagIndex, len(r.Index) > 0)
	set(flagTxn, len(x.Markers)+len(x.Open)+len(x.Aborted) > 0)
	set(flagCipher, x.Cipher.Algorithm != 0)
	set(flagTxnProducers, slices.ContainsFunc(r.Producers, func(p Producer) bool {
		return p.CoordinatorEpoch != 0 || p.TxnCounter != 0 || p.TxnFirst >= 0
	}))
	return f
}

func (r *Range) append(b []byte, lastTimestamp int64) []byte {
	put := func(vs ...int64) {
		for _, v := range vs {
			b = binary.AppendVarint(b, v)
		}
	}
	f, x := r.flags(), r.rare()
	put(int64(r.Partition.Partition), r.Base, r.End-r.Base, int64(r.LeaderEpoch), r.Base-r.EpochStart, r.Len,
		r.MaxTimestamp-lastTimestamp, r.MaxTimestamp-r.MinTimestamp)
	if f&flagRecords != 0 {
		put(r.Records)
	}
	if f&flagAppendTime != 0 {
		put(r.MaxAppendTime)
	}
	if f&flagGeneration != 0 {
		put(int64(r.Generation), x.DeleteHorizon)
	}
	if f&flagEpochs != 0 {
		put(int64(len(x.Epochs)))
		for _, e := range x.Epochs {
			put(int64(e.Epoch), e.Start-r.Base)
		}
	}
	if f&flagProducers != 0 {
		b = r.appendProducers(b, f&flagTxnProducers != 0)
	}
	if f&flagIndex != 0 {
		put(int64(len(r.Index)))
		last := IndexEntry{Offset: r.Base, MaxTimestamp: r.MaxTimestamp}
		for _, e := range r.Index {
			put(e.Offset-last.Offset, e.Pos-last.Pos, e.MaxTimestamp-last.MaxTimestamp)
			last = e
		}
	}
	if f&flagTxn != 0 {
		put(int64(len(x.Markers)))
		for _, m := range x.Markers {
			commit := int64(0)
			if m.Commit {
				commit = 1
			}
			put(m.ID, int64(m.Epoch), commit, m.Offset-r.Base)
		}
		put(int64(len(x.Open)))
		for _, o := range x.Open {
			put(o.ID, o.First-r.Base)
		}
		put(int64(len(x.Aborted)))
		for _, a := range x.Aborted {
			put(a.ID, a.First-r.Base, a.Last-r.Base)
		}
	}
	if f&flagCipher != 0 {
		put(int64(x.Cipher.Algorithm), int64(len(x.Cipher.KeyID)))
		b = append(b, x.Cipher.KeyID...)
		put(int64(len(x.Cipher.Nonce)))
		b = append(b, x.Cipher.Nonce...)
	}
	return b
}

// appendProducers tells offsets from the range's base, and times from its largest; txn: with what transactions need.
func (r *Range) appendProducers(b []byte, txn bool) []byte {
	b = binary.AppendVarint(b, int64(len(r.Producers)))
	id := int64(0)
	for i := range r.Producers {
		p := &r.Producers[i]
		for _, v := range [...]int64{p.ID - id, int64(p.Epoch), int64(p.FirstSeq), int64(p.LastSeq) - p.usualLastSeq(), p.LastOffset - r.Base,
			p.LastOffset - p.BaseOffset, p.Timestamp - r.MaxTimestamp} {
			b = binary.AppendVarint(b, v)
		}
		id = p.ID
		if txn {
			for _, v := range [...]int64{int64(p.CoordinatorEpoch), p.TxnCounter, encodeTxnFirst(p.TxnFirst, r.Base)} {
				b = binary.AppendVarint(b, v)
			}
		}
	}
	return b
}

// usualLastSeq is the last sequence number of a batch that has as many records as offsets.
func (p *Producer) usualLastSeq() int64 {
	return int64(batch.AddSequence(p.FirstSeq, int32(p.LastOffset-p.BaseOffset)))
}

// encodeTxnFirst tells an offset by its distance from the range's base, which it may precede; 0 stands for none.
func encodeTxnFirst(first, base int64) int64 {
	switch {
	case first < 0:
		return 0
	case first >= base:
		return first - base + 1
	}
	return first - base
}

func decodeTxnFirst(v, base int64) int64 {
	switch {
	case v == 0:
		return -1
	case v > 0:
		return base + v - 1
	}
	return base + v
}

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
	x := (*Rare)(nil)
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

// Stored is an object in the store whose directory is known: what the leader keeps of every unsealed one.
type Stored struct {
	metadata.WALObject
	Dir *Directory
}

// Open decodes the directory of an unsealed object's row.
func Open(o metadata.WALObject) (*Stored, error) {
	d, err := Decode(o.Directory)
	if err != nil {
		return nil, fmt.Errorf("directory of %s: %w", o.Object.Key, err)
	}
	return &Stored{o, d}, nil
}
