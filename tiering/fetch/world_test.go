package fetch_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"varve.dev/metadata"
	"varve.dev/objectstore"
	"varve.dev/objectstore/cache"
	"varve.dev/tiering/batch"
	"varve.dev/tiering/batch/codec"
	"varve.dev/tiering/fetch"
	"varve.dev/tiering/flush"
	"varve.dev/tiering/object"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// stamped is a record: its offset, and its timestamp.
type stamped struct{ offset, time int64 }

// batchOf encodes records; span is the number of offsets where that is more than the last record needs, filler makes it
// larger by about that many bytes.
func batchOf(rs []stamped, base, end int64, c codec.Codec, filler int) batch.Batch {
	first, newest := int64(0), int64(-1)
	if len(rs) > 0 {
		first = rs[0].time
	}
	var body []byte
	for i, r := range rs {
		newest = max(newest, r.time)
		rec := []byte{0}
		rec = binary.AppendVarint(rec, r.time-first)
		rec = binary.AppendVarint(rec, r.offset-base)
		rec = binary.AppendVarint(rec, -1)
		value := filler
		if i > 0 {
			value = 0
		}
		rec = append(binary.AppendVarint(rec, int64(value)), make([]byte, value)...)
		rec = append(rec, 0)
		body = append(binary.AppendVarint(body, int64(len(rec))), rec...)
	}
	if z, err := codec.Compress(c, body); err == nil {
		body = z
	}
	b := make(batch.Batch, batch.HeaderSize, batch.HeaderSize+len(body))
	b = append(b, body...)
	binary.BigEndian.PutUint64(b, uint64(base))
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)-12))
	b[16], b[22] = 2, byte(c)
	binary.BigEndian.PutUint32(b[23:], uint32(end-base-1))
	binary.BigEndian.PutUint64(b[27:], uint64(first))
	binary.BigEndian.PutUint64(b[35:], uint64(newest))
	binary.BigEndian.PutUint64(b[43:], ^uint64(0))
	binary.BigEndian.PutUint16(b[51:], ^uint16(0))
	binary.BigEndian.PutUint32(b[53:], ^uint32(0))
	binary.BigEndian.PutUint32(b[57:], uint32(len(rs)))
	b.Assign(base, 3)
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], castagnoli))
	return b
}

// plain is n records from base on, all of one time, in about size bytes.
func plain(base int64, n int, size int) batch.Batch {
	var rs []stamped
	for i := range int64(n) {
		rs = append(rs, stamped{base + i, 1000})
	}
	return batchOf(rs, base, base+int64(n), codec.None, size)
}

// world is an index, a store and a cache over objects that a test makes. It notes what is asked of it.
type world struct {
	mu       sync.Mutex
	objects  map[string]*stored
	segments []metadata.Segment
	log      []string
	cuts     *rand.Rand      // where views are cut into slices; nil: only at the ends of batches, all of them
	memory   map[string]bool // what Borrow finds
	slow     map[string]bool // views of these objects end with their context
	busy     map[string]bool // see Some
	cut      map[string]int64
	filed    map[string]bool
	readAt   func(ctx context.Context, key string) error
	holes    []int64
	away     error // of the index
	ahead    int64
}

type stored struct {
	bytes  []byte
	bounds []int64 // where batches start
	dir    *object.Directory
	object metadata.Object
	kind   metadata.Kind
}

func newWorld() *world { return &world{objects: map[string]*stored{}, slow: map[string]bool{}} }

// add makes an object of partitions' batches. A range ends where its last batch does, or at ends.
func (w *world) add(key string, kind metadata.Kind, parts map[metadata.PartitionID][]batch.Batch, ends map[metadata.PartitionID]int64) *stored {
	s := &stored{kind: kind}
	b := object.NewBuilder(object.Header{}, nil)
	ids := make([]metadata.PartitionID, 0, len(parts))
	for id := range parts {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b metadata.PartitionID) int { return cmp.Compare(a.Partition, b.Partition) })
	for _, id := range ids {
		b.Begin(object.Range{Partition: id, Base: parts[id][0].Base(), Snapshot: kind != metadata.WAL})
		for _, bt := range parts[id] {
			s.bounds = append(s.bounds, b.Len())
			b.Add(bt)
		}
	}
	im := b.Finish(nil)
	for _, x := range im.Slices(nil, 0, im.Size()) {
		s.bytes = append(s.bytes, x...)
	}
	s.dir, s.object = im.Directory(), im.Object(key)
	for i := range s.dir.Ranges {
		r := &s.dir.Ranges[i]
		r.End = max(r.End, ends[r.Partition])
		if kind == metadata.Sealed {
			w.segments = append(w.segments, metadata.Segment{Extent: r.Extent(&s.object), Records: r.Records})
		}
	}
	if len(ends) > 0 { // what compaction leaves: the directory says more than its batches
		dir := s.dir.Append(nil)
		s.bytes = append(s.bytes[:s.dir.Size():s.dir.Size()], dir...)
		s.object.Length, s.object.DirectoryLength = int64(len(s.bytes)), int32(len(dir))
	}
	slices.SortStableFunc(w.segments, func(a, b metadata.Segment) int {
		return cmp.Or(cmp.Compare(a.Partition.Partition, b.Partition.Partition), cmp.Compare(a.Base, b.Base))
	})
	running := map[metadata.PartitionID]int64{}
	for i := range w.segments {
		g := &w.segments[i]
		running[g.Partition] = max(running[g.Partition], g.MaxTimestamp)
		g.RunningMax = running[g.Partition]
	}
	w.objects[key] = s
	return s
}

// pieces is every range that a WAL object has of p.
func (s *stored) pieces(p metadata.PartitionID) (xs []fetch.Piece) {
	rs := s.dir.Of(p)
	for i := range rs {
		xs = append(xs, fetch.Piece{Stored: &object.Stored{Dir: s.dir, WALObject: metadata.WALObject{Kind: s.kind, Object: s.object}}, Range: &rs[i]})
	}
	return xs
}

func (w *world) note(format string, a ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log = append(w.log, fmt.Sprintf(format, a...))
}

func (w *world) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	log := w.log
	w.log = nil
	return log
}

func (w *world) View(ctx context.Context, o cache.Object, off, n int64) (cache.View, error) {
	w.note("view %s %d+%d", o.Key, off, n)
	w.mu.Lock()
	s, slow := w.objects[o.Key], w.slow[o.Key]
	w.mu.Unlock()
	if slow {
		<-ctx.Done()
		return cache.View{}, fmt.Errorf("view %s: %w", o.Key, ctx.Err())
	}
	if s == nil {
		return cache.View{}, fmt.Errorf("view %s: %w", o.Key, objectstore.ErrNotFound)
	}
	if off < 0 || n <= 0 || off+n > s.dir.Size() {
		return cache.View{}, fmt.Errorf("view %s [%d, +%d) of %d: %w", o.Key, off, n, s.dir.Size(), objectstore.ErrRange)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var v cache.View
	for _, at := range s.bounds {
		if at > off && at < off+n && (w.cuts == nil || w.cuts.IntN(2) == 0) {
			v.Slices = append(v.Slices, s.bytes[off:at:at])
			n, off = n-(at-off), at
		}
	}
	v.Slices = append(v.Slices, s.bytes[off:off+n:off+n])
	return v, nil
}

// Some implements fetch.Viewer: of an object that is busy nothing is at hand, of one that is cut so many bytes, and one that is
// filed must be copied.
func (w *world) Some(ctx context.Context, o cache.Object, off, n int64, effort cache.Effort) (cache.View, error) {
	w.mu.Lock()
	busy, cut, filed := w.busy[o.Key], w.cut[o.Key], w.filed[o.Key]
	w.mu.Unlock()
	if busy || cut > 0 && effort < cache.Wait || filed && effort < cache.Copy {
		return cache.View{}, fmt.Errorf("view %s: %w", o.Key, cache.ErrBusy)
	}
	if cut > 0 {
		n = min(n, cut-off%cut)
	}
	return w.View(ctx, o, off, n)
}

// Borrow implements fetch.Viewer: what a test says lies in memory.
func (w *world) Borrow(o cache.Object, off, n int64) (cache.View, bool) {
	if !w.memory[o.Key] {
		return cache.View{}, false
	}
	v, err := w.View(context.Background(), o, off, n)
	return v, err == nil
}

func (w *world) Prefetch(o cache.Object, off, n int64) { w.note("ahead %s %d+%d", o.Key, off, n) }

func (w *world) ReadAt(ctx context.Context, key string, dst []byte, off int64) error {
	w.note("get %s %d+%d", key, off, len(dst))
	if w.readAt != nil {
		if err := w.readAt(ctx, key); err != nil {
			return err
		}
	}
	w.mu.Lock()
	s := w.objects[key]
	w.mu.Unlock()
	if s == nil {
		return objectstore.ErrNotFound
	}
	copy(dst, s.bytes[off:])
	return nil
}

func (w *world) Find(_ context.Context, p metadata.PartitionID, offset int64, limit int) (found []metadata.Segment, err error) {
	w.note("find %s %d", p, offset)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.away != nil {
		return nil, w.away
	}
	for _, g := range w.segments {
		if g.Partition == p && g.End > offset && len(found) < limit {
			found = append(found, g)
		}
	}
	return found, nil
}

func (w *world) FindTime(_ context.Context, p metadata.PartitionID, millis int64) (metadata.Segment, error) {
	w.note("time %s %d", p, millis)
	for _, g := range w.segments {
		if g.Partition == p && g.RunningMax >= millis {
			return g, nil
		}
	}
	return metadata.Segment{}, fmt.Errorf("segment: %w", metadata.ErrNotFound)
}

// reader reads the world.
func (w *world) reader(tb testing.TB) *fetch.Reader {
	tb.Helper()
	r, err := fetch.New(w, w, w, fetch.Config{Directories: 1 << 20, ReadAhead: w.ahead, FindLimit: 3, RecordBytes: 1 << 20, ConcurrentMax: 3,
		HoleDetected: func(_ metadata.PartitionID, offset int64) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.holes = append(w.holes, offset)
		}})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(r.Close)
	return r
}

// hold puts batches into a window's memory, whose partition is id.
func hold(tb testing.TB, id metadata.PartitionID, bs []batch.Batch) (held []flush.Held) {
	lender := flush.New(nil, nil, nil, nil, metadata.Session{}, flush.Config{WindowBytes: 1 << 40})
	for _, b := range bs {
		h, err := lender.Append(owner{id: id}, b, flush.Nobody, nil, 0)
		if err != nil {
			tb.Fatal(err)
		}
		h.Retain()
		held = append(held, h)
	}
	return held
}

type owner struct {
	flush.Owner
	id metadata.PartitionID
}

func (o owner) ID() metadata.PartitionID { return o.id }

func part(n int32) metadata.PartitionID { return metadata.PartitionID{Topic: 1, Partition: n} }

// taken is a result's only part, as it is after the result was released.
func taken(res *fetch.Result) fetch.Part {
	p := res.Parts[0]
	p.Slices = slices.Clone(p.Slices)
	res.Release()
	return p
}

func joined(p fetch.Part) []byte { return bytes.Join(p.Slices, nil) }

func flat(bs []batch.Batch) (all []byte) {
	for _, b := range bs {
		all = append(all, b...)
	}
	return all
}
