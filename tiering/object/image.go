package object

import (
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"sort"
	"sync/atomic"

	"varve.dev/metadata"
	"varve.dev/tiering/batch"
)

// Builder lays batches out by partition. It keeps the caller's slices and copies nothing.
type Builder struct {
	dir    Directory
	slices [][]byte
	starts []int64
	pos    int64
	sum    uint32 // of all closed blocks

	blockSum   uint32
	blockStart int64
	indexed    int64 // position of the last index entry, from the object's start
}

// NewBuilder starts an object. Topics are the names of those that it holds.
func NewBuilder(h Header, topics []TopicName) *Builder {
	return &Builder{dir: Directory{Header: h, Topics: topics}}
}

// Len is the number of bytes so far.
func (b *Builder) Len() int64 { return b.pos }

// Begin starts a range: its Partition, Base, LeaderEpoch, EpochStart, Snapshot, Producers, flags and what is rare are
// the caller's, the rest follows from what Add brings. Ranges come in order of partition and base.
func (b *Builder) Begin(r Range) {
	b.endRange()
	r.Pos, r.Len, r.End, r.Records, r.MaxTimestamp, r.MinTimestamp, r.MaxAppendTime = b.pos, 0, r.Base, 0, -1, -1, -1
	r.Index = nil
	if !r.Snapshot {
		r.Producers = nil
	}
	b.dir.Ranges = append(b.dir.Ranges, r)
	b.indexed = b.pos
}

// endRange gives a range of which no batch has a timestamp the time of the object.
func (b *Builder) endRange() {
	if n := len(b.dir.Ranges); n > 0 && b.dir.Ranges[n-1].MaxTimestamp < 0 {
		r := &b.dir.Ranges[n-1]
		r.MaxTimestamp = b.dir.Header.CreatedAt
	}
}

// Add appends one batch to the current range. Where the range is no snapshot, its producer's entry is added too.
func (b *Builder) Add(bt batch.Batch) {
	b.slices, b.starts = append(b.slices, bt), append(b.starts, b.pos)
	b.count(bt)
}

// AddRun appends a slice of several whole batches, as it was read from another object.
func (b *Builder) AddRun(run []byte) error {
	if len(run) == 0 {
		return nil
	}
	at := b.pos
	for rest := run; len(rest) > 0; {
		bt, next, err := batch.Parse(rest)
		if err != nil {
			return err
		}
		if r := &b.dir.Ranges[len(b.dir.Ranges)-1]; bt.Base() < r.End {
			return fmt.Errorf("%w: batch at offset %d of %s, want at least %d", ErrCorrupt, bt.Base(), r.Partition, r.End)
		}
		b.count(bt)
		rest = next
	}
	b.slices, b.starts = append(b.slices, run), append(b.starts, at)
	return nil
}

func (b *Builder) count(bt batch.Batch) {
	r := &b.dir.Ranges[len(b.dir.Ranges)-1]
	first := bt.BaseTimestamp()
	if bt.HasAppendTime() {
		first = bt.MaxTimestamp()
	}
	if r.Len == 0 {
		r.MinTimestamp, r.MaxTimestamp = first, bt.MaxTimestamp()
	}
	if b.pos-b.indexed >= IndexStep {
		r.Index = append(r.Index, IndexEntry{bt.Base(), b.pos - r.Pos, r.MaxTimestamp})
		b.indexed = b.pos
	}
	r.MinTimestamp, r.MaxTimestamp = min(r.MinTimestamp, first), max(r.MaxTimestamp, bt.MaxTimestamp())
	if bt.HasAppendTime() {
		r.MaxAppendTime = max(r.MaxAppendTime, bt.MaxTimestamp())
	}
	if !r.Snapshot && bt.ProducerID() >= 0 {
		r.Producers = append(r.Producers, Producer{Entry: bt.Producer(), TxnFirst: -1})
	}
	n := int64(len(bt))
	r.End, r.Len, r.Records = bt.End(), r.Len+n, r.Records+int64(bt.Count())
	b.blockSum = batch.Concat(b.blockSum, bt.Sum(), n)
	b.pos += n
	if b.pos-b.blockStart >= BlockSize {
		b.closeBlock()
	}
}

func (b *Builder) closeBlock() {
	if b.pos == b.blockStart {
		return
	}
	b.dir.Blocks.Ends = append(b.dir.Blocks.Ends, b.pos)
	b.dir.Blocks.Sums = append(b.dir.Blocks.Sums, b.blockSum)
	b.sum = batch.Concat(b.sum, b.blockSum, b.pos-b.blockStart)
	b.blockStart, b.blockSum = b.pos, 0
}

// Finish writes the directory. release is called when nobody holds the image any more: its memory is the caller's again.
func (b *Builder) Finish(release func()) *Image {
	b.endRange()
	b.closeBlock()
	dir := b.dir.Append(nil)
	d := b.dir // the directory outlives the image by far, the builder's slices must not
	d.Ranges = slices.Clone(d.Ranges)
	i := &Image{
		dir: &d, directory: dir, slices: append(b.slices, dir), starts: append(b.starts, b.pos),
		size: b.pos + int64(len(dir)), release: release,
		crc: batch.Concat(b.sum, crc32.Checksum(dir, castagnoli), int64(len(dir))),
	}
	i.refs.Store(1)
	return i
}

// Image is a built object in memory: slices of a window's chunks in the object's order, and one reference count. It is an
// objectstore.Body and a cache.Image.
type Image struct {
	dir       *Directory
	directory []byte
	slices    [][]byte
	starts    []int64
	size      int64
	crc       uint32
	refs      atomic.Int64
	release   func()
}

// Directory is the image's directory, Bytes its encoded form.
func (i *Image) Directory() *Directory { return i.dir }
func (i *Image) Bytes() []byte         { return i.directory }
func (i *Image) Size() int64           { return i.size }
func (i *Image) CRC32C() uint32        { return i.crc }
func (i *Image) Open() io.ReadSeeker   { return &imageReader{image: i} }
func (i *Image) Retain()               { i.refs.Add(1) }

// Object is what the index says of the image when it is stored under key.
func (i *Image) Object(key string) metadata.Object {
	return metadata.Object{Key: key, Length: i.size, DirectoryLength: int32(len(i.directory)), CRC32C: i.crc, Format: Version}
}

// Release gives one reference back.
func (i *Image) Release() {
	switch n := i.refs.Add(-1); {
	case n == 0:
		if i.release != nil {
			i.release()
		}
	case n < 0:
		panic("object: image released more often than retained")
	}
}

// Slices appends the parts of [off, off+n) to dst without a copy. The caller holds a reference.
func (i *Image) Slices(dst [][]byte, off, n int64) [][]byte {
	if off < 0 || n < 0 || off > i.size || n > i.size-off {
		panic(fmt.Sprintf("object: [%d, %d) of an image of %d bytes", off, off+n, i.size))
	}
	for k := sort.Search(len(i.starts), func(k int) bool { return i.starts[k] > off }) - 1; n > 0; k++ {
		s := i.slices[k]
		from := off - i.starts[k]
		take := min(int64(len(s))-from, n)
		dst = append(dst, s[from:from+take])
		off, n = off+take, n-take
	}
	return dst
}

type imageReader struct {
	image *Image
	pos   int64
	slice int // where pos lies, or before
}

func (r *imageReader) Read(p []byte) (int, error) {
	if r.pos >= r.image.size {
		return 0, io.EOF
	}
	total := 0
	for len(p) > 0 && r.pos < r.image.size {
		for r.slice+1 < len(r.image.starts) && r.image.starts[r.slice+1] <= r.pos {
			r.slice++
		}
		n := copy(p, r.image.slices[r.slice][r.pos-r.image.starts[r.slice]:])
		p, total = p[n:], total+n
		r.pos += int64(n)
	}
	return total, nil
}

func (r *imageReader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.pos
	case io.SeekEnd:
		offset += r.image.size
	}
	if offset < 0 {
		return 0, fmt.Errorf("seek to %d", offset)
	}
	r.pos, r.slice = offset, 0
	return offset, nil
}
