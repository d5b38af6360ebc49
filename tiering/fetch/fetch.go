// Package fetch is the read path: from plans to bytes, in parallel, coalesced, history apart from the tail.
//
// A plan says where the bytes of one partition lie; every byte of an object is then read by one call, View, which knows
// all the places it can come from. What lies below a partition's sealed end is found in the index, and its objects'
// directories, which are small, are kept.
package fetch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/maypok86/otter/v2"

	"varve.dev/metadata"
	"varve.dev/objectstore/cache"
	"varve.dev/tiering/batch"
	"varve.dev/tiering/flush"
	"varve.dev/tiering/object"
)

// ErrHole means that the index names no object for an offset between log start and end. Retriable, and an alarm: offsets
// are never skipped.
var ErrHole = errors.New("no object holds the offset")

// Viewer reads objects (objectstore/cache).
type Viewer interface {
	View(ctx context.Context, o cache.Object, off, n int64) (cache.View, error)
	Prefetch(o cache.Object, off, n int64)
}

// Finder is what history asks of the index.
type Finder interface {
	Find(ctx context.Context, p metadata.PartitionID, offset int64, limit int) ([]metadata.Segment, error)
	FindTime(ctx context.Context, p metadata.PartitionID, millis int64) (metadata.Segment, error)
}

// DirectoryReader reads the end of an object.
type DirectoryReader interface {
	ReadAt(ctx context.Context, key string, dst []byte, off int64) error
}

// Piece is one range of an object whose directory is known.
type Piece struct {
	Stored *object.Stored
	Range  *object.Range
}

// Plan says where the bytes of one partition lie, from an offset on.
type Plan struct {
	Partition metadata.PartitionID
	From      int64
	Max       int // bytes; the first batch of an answer may be larger
	// Sealed says that From lies below the sealed end: the index knows where. Pieces and Held then are empty.
	Sealed    bool
	SealedEnd int64
	Pieces    []Piece      // contiguous from From on
	Held      []flush.Held // what follows them, still in a window; held for the plan
}

// Release gives what the plan holds back. Read does it for the plans that it is given.
func (p *Plan) Release() {
	for _, h := range p.Held {
		h.Release()
	}
	p.Held = nil
}

// Bytes estimates how much the plan can yield, up to its Max.
func (p *Plan) Bytes() int {
	if p.Sealed {
		return p.Max
	}
	var n int64
	for _, x := range p.Pieces {
		if n += x.Range.Len; n >= int64(p.Max) {
			return p.Max
		}
	}
	for _, h := range p.Held {
		n += int64(len(h.Batch))
	}
	return int(min(n, int64(p.Max)))
}

// Config of a Reader.
type Config struct {
	Directories   int64 // bytes of sealed objects' directories that are kept
	ReadAhead     int64 // bytes: how far ahead of a sequential reader downloads may run
	FindLimit     int   // segments that one index look-up brings
	RecordBytes   int   // largest decompressed batch that a seek by time opens
	Logger        *slog.Logger
	HoleDetected  func(metadata.PartitionID, int64)
	ConcurrentMax int // plans of one request that are read at once
}

// Reader serves plans. It is safe for concurrent use.
type Reader struct {
	view  Viewer
	index Finder
	store DirectoryReader
	cfg   Config
	dirs  *otter.Cache[string, *object.Directory]
	found *otter.Cache[metadata.PartitionID, []metadata.Segment]
	ahead *otter.Cache[sequence, int64]
}

// sequence is where a sequential reader will go on.
type sequence struct {
	p    metadata.PartitionID
	next int64
}

// maxFound bounds the partitions whose last index look-up is kept, maxSequences the sequential readers that are known.
const (
	maxFound     = 4096
	maxSequences = 4096
)

// New is a Reader over one cache and one index.
func New(v Viewer, i Finder, store DirectoryReader, cfg Config) (*Reader, error) {
	dirs, err := otter.New(&otter.Options[string, *object.Directory]{
		MaximumWeight: uint64(max(cfg.Directories, 1)),
		Weigher:       func(_ string, d *object.Directory) uint32 { return directoryWeight(d) },
	})
	if err != nil {
		return nil, err
	}
	found, err := otter.New(&otter.Options[metadata.PartitionID, []metadata.Segment]{MaximumSize: maxFound})
	if err != nil {
		return nil, err
	}
	ahead, err := otter.New(&otter.Options[sequence, int64]{MaximumSize: maxSequences})
	if err != nil {
		return nil, err
	}
	return &Reader{view: v, index: i, store: store, cfg: cfg, dirs: dirs, found: found, ahead: ahead}, nil
}

// directoryWeight estimates the memory of a decoded directory.
func directoryWeight(d *object.Directory) uint32 {
	n := 256 + 64*len(d.Topics) + 320*len(d.Ranges) + 12*len(d.Blocks.Ends)
	for i := range d.Ranges {
		n += 24*len(d.Ranges[i].Index) + 80*len(d.Ranges[i].Producers)
	}
	return uint32(min(n, 1<<31))
}

// Part is the answer to one plan: slices of whole batches.
type Part struct {
	Slices [][]byte
	Bytes  int
	Err    error
}

// Result answers plans in their order. Its slices are borrowed until Release.
type Result struct {
	Parts []Part
	views []cache.View
	held  []flush.Held
	mu    sync.Mutex
}

// Bytes is the sum over all parts.
func (r *Result) Bytes() (n int) {
	for i := range r.Parts {
		n += r.Parts[i].Bytes
	}
	return n
}

// Release gives the memory of all parts back.
func (r *Result) Release() {
	for _, v := range r.views {
		v.Release()
	}
	for _, h := range r.held {
		h.Release()
	}
	r.views, r.held = nil, nil
}

func (r *Result) keep(v cache.View) {
	r.mu.Lock()
	r.views = append(r.views, v)
	r.mu.Unlock()
}

// Read fills one part per plan with whole batches, within maxBytes for all, but for the first batch of the first part that
// has any (KIP-74). Plans are read in parallel, as many as the bytes that are left may need. When ctx ends a part whose
// bytes are still on their way stays empty, and its download goes on: the next read joins it.
func (r *Reader) Read(ctx context.Context, plans []Plan, maxBytes int) *Result {
	res := &Result{Parts: make([]Part, len(plans))}
	left := maxBytes
	for from := 0; from < len(plans) && left > 0; {
		to, want := from, 0
		for to < len(plans) && to-from < r.cfg.ConcurrentMax && (to == from || want < left) {
			want += plans[to].Bytes()
			to++
		}
		r.wave(ctx, plans[from:to], res, res.Parts[from:to], left)
		for i := from; i < to; i++ {
			left = fit(&res.Parts[i], left, left == maxBytes)
		}
		from = to
	}
	for i := range plans {
		res.held = append(res.held, plans[i].Held...)
		plans[i].Held = nil
	}
	return res
}

// fit drops whole batches from the end of a part that is larger than what is left.
func fit(p *Part, left int, first bool) int {
	for p.Bytes > left && len(p.Slices) > 0 {
		last := p.Slices[len(p.Slices)-1]
		keep := max(0, len(last)-(p.Bytes-left))
		whole := 0
		for rest := last; ; {
			n := batchLength(rest)
			if n == 0 || whole+n > keep && !(first && whole == 0 && len(p.Slices) == 1) {
				break
			}
			whole, rest = whole+n, rest[n:]
		}
		p.Bytes -= len(last) - whole
		p.Slices[len(p.Slices)-1] = last[:whole:whole]
		if whole > 0 {
			break
		}
		p.Slices = p.Slices[:len(p.Slices)-1]
	}
	return left - p.Bytes
}

func (r *Reader) wave(ctx context.Context, plans []Plan, res *Result, parts []Part, left int) {
	if len(plans) == 1 {
		parts[0] = r.one(ctx, &plans[0], res, left)
		return
	}
	var wg sync.WaitGroup
	for i := range plans {
		wg.Go(func() { parts[i] = r.one(ctx, &plans[i], res, left) })
	}
	wg.Wait()
}

// one reads one plan.
func (r *Reader) one(ctx context.Context, p *Plan, res *Result, left int) (part Part) {
	want := min(p.Max, left)
	from := p.From
	take := func(x Piece) (done bool) {
		from, part.Err = r.piece(ctx, p.Partition, x, from, want, &part, res)
		return part.Err != nil || part.Bytes >= want || from < x.Range.End
	}
	if p.Sealed {
		part.Err = r.history(ctx, p, take)
		return part.settle(ctx)
	}
	for _, x := range p.Pieces {
		if take(x) {
			return part.settle(ctx)
		}
	}
	for _, h := range p.Held {
		if h.Batch.End() <= from {
			continue
		}
		if part.Bytes > 0 && part.Bytes+len(h.Batch) > want {
			break
		}
		part.add(h.Batch)
	}
	return part
}

// settle drops an error that came after some bytes, or that only says that the time is up.
func (p Part) settle(ctx context.Context) Part {
	if p.Err != nil && (p.Bytes > 0 || ctx.Err() != nil) {
		p.Err = nil
	}
	return p
}

func (p *Part) add(s []byte) {
	p.Slices = append(p.Slices, s)
	p.Bytes += len(s)
}

// history walks the segments from p.From on.
func (r *Reader) history(ctx context.Context, p *Plan, take func(Piece) bool) error {
	for from := p.From; from < p.SealedEnd; {
		segments, err := r.find(ctx, p.Partition, from)
		if err != nil {
			return err
		}
		for i := range segments {
			x, err := r.open(ctx, &segments[i])
			if err != nil {
				return err
			}
			if take(x) {
				return nil
			}
			from = x.Range.End
		}
	}
	return nil
}

// find answers the segments from the one that contains from on: from the last look-up, or by a new one.
func (r *Reader) find(ctx context.Context, p metadata.PartitionID, from int64) ([]metadata.Segment, error) {
	if known, ok := r.found.GetIfPresent(p); ok {
		if s := after(known, from); len(s) > 0 && s[0].Base <= from {
			return s, nil
		}
	}
	segments, err := r.index.Find(ctx, p, from, r.cfg.FindLimit)
	if err != nil {
		return nil, err
	}
	if len(segments) == 0 || segments[0].Base > from {
		if r.cfg.HoleDetected != nil {
			r.cfg.HoleDetected(p, from)
		}
		return nil, fmt.Errorf("%w: %s at offset %d", ErrHole, p, from)
	}
	r.found.Set(p, segments)
	return segments, nil
}

func after(segments []metadata.Segment, offset int64) []metadata.Segment {
	for i := range segments {
		if segments[i].End > offset {
			return segments[i:]
		}
	}
	return nil
}

// Forget drops what is known of a partition's segments: they have been rewritten or deleted.
func (r *Reader) Forget(p metadata.PartitionID) { r.found.Invalidate(p) }

// Learn keeps the directory of an object that was sealed here, so that it need not be read.
func (r *Reader) Learn(key string, d *object.Directory) { r.dirs.Set(key, d) }

// Directory reads and keeps the directory of a sealed object: one exact ranged read, shared by all who ask.
func (r *Reader) Directory(ctx context.Context, o metadata.Object) (*object.Directory, error) {
	return r.dirs.Get(ctx, o.Key, otter.LoaderFunc[string, *object.Directory](func(ctx context.Context, key string) (*object.Directory, error) {
		if o.DirectoryLength <= 0 || int64(o.DirectoryLength) > o.Length || o.DirectoryLength > object.MaxDirectory {
			return nil, fmt.Errorf("directory of %s: length %d in an object of %d bytes", key, o.DirectoryLength, o.Length)
		}
		b := make([]byte, o.DirectoryLength)
		if err := r.store.ReadAt(ctx, key, b, o.Length-int64(len(b))); err != nil {
			return nil, fmt.Errorf("directory of %s: %w", key, err)
		}
		d, err := object.Decode(b)
		if err != nil {
			return nil, fmt.Errorf("directory of %s: %w", key, err)
		}
		return d, nil
	}))
}

func (r *Reader) open(ctx context.Context, s *metadata.Segment) (Piece, error) {
	d, err := r.Directory(ctx, *s.Object)
	if err != nil {
		return Piece{}, err
	}
	g := d.Find(s.Partition, s.Base)
	if g == nil || g.Base != s.Base || g.End != s.End || g.Pos != s.Pos {
		return Piece{}, fmt.Errorf("%w: %s lacks [%d, %d) of %s that the index names there", object.ErrCorrupt, s.Object.Key, s.Base, s.End, s.Partition)
	}
	return Piece{&object.Stored{WALObject: metadata.WALObject{Kind: metadata.Sealed, Object: *s.Object}, Dir: d}, g}, nil
}

// minView is the least that is read at once: headers must be walked to find an offset.
const minView = 64 << 10

// piece adds batches of one range from offset from on, until want is met, and answers the next offset.
func (r *Reader) piece(ctx context.Context, p metadata.PartitionID, x Piece, from int64, want int, part *Part, res *Result) (int64, error) {
	g := x.Range
	o := cache.Object{Key: x.Stored.Object.Key, Length: x.Stored.Object.Length, Blocks: x.Stored.Dir.Blocks}
	var pos int64
	if from > g.Base {
		pos = g.SeekOffset(from)
	}
	started, need := from, int64(0)
	for pos < g.Len && (part.Bytes < want) {
		n := min(g.Len-pos, max(int64(want-part.Bytes), minView, need))
		v, err := r.view.View(ctx, o, g.Pos+pos, n)
		if err != nil {
			return from, fmt.Errorf("read %s at %d: %w", o.Key, g.Pos+pos, err)
		}
		var w walk
		w.over(v.Slices, from, want, part)
		if w.bad {
			v.Release()
			return from, fmt.Errorf("%w: batch at %d of %s", object.ErrCorrupt, g.Pos+pos+w.passed, o.Key)
		}
		if w.taken > 0 {
			res.keep(v)
			from = w.next
		} else {
			v.Release()
		}
		pos += w.passed
		if w.full {
			break
		}
		if w.passed == 0 {
			if n == g.Len-pos || int64(w.need) <= n {
				return from, fmt.Errorf("%w: batch at %d of %s does not end in its range", object.ErrCorrupt, g.Pos+pos, o.Key)
			}
			need = int64(w.need)
		}
	}
	if x.Stored.Kind == metadata.Sealed {
		r.readAhead(sequence{p, started}, sequence{p, from}, o, g, pos, int64(part.Bytes))
	}
	if pos >= g.Len && from < g.End {
		from = g.End // the rest of the range holds nothing: compacted away
	}
	return from, nil
}

// readAhead grows with a sequential reader: a read that goes on where another ended doubles it.
func (r *Reader) readAhead(began, next sequence, o cache.Object, g *object.Range, pos, size int64) {
	if known, ok := r.ahead.GetIfPresent(began); ok {
		size = max(size, min(2*known, r.cfg.ReadAhead))
	}
	r.ahead.Set(next, size)
	if n := min(size, r.cfg.ReadAhead, g.Len-pos); n > 0 {
		r.view.Prefetch(o, g.Pos+pos, n)
	}
}

// walk is one pass over the headers of a view.
type walk struct {
	passed int64 // bytes of whole batches, taken or skipped
	taken  int
	next   int64 // offset after the last batch taken
	need   int   // size of the batch that was cut, at least
	full   bool
	bad    bool
}

// over takes whole batches that end after from, until part holds want bytes; its first batch is taken whatever its size.
func (w *walk) over(slices [][]byte, from int64, want int, part *Part) {
	for _, s := range slices {
		start, at := 0, 0 // of the run that is taken
		for at < len(s) {
			n := batchLength(s[at:])
			if n == 0 || n > len(s)-at {
				w.need = max(n, batch.HeaderSize)
				break
			}
			if n < batch.HeaderSize {
				w.bad = true
				break
			}
			bt := batch.Batch(s[at : at+n])
			if bt.End() <= from {
				start = at + n
			} else if total := part.Bytes + at - start; total > 0 && total+n > want {
				w.full = true
				break
			} else {
				w.taken++
				w.next = bt.End()
			}
			at += n
			w.passed += int64(n)
		}
		if at > start {
			part.add(s[start:at:at])
		}
		if w.full || w.bad || w.need > 0 {
			return
		}
	}
}

// batchLength is the size of the batch at the start of s, 0 where s is too short to tell.
func batchLength(s []byte) int {
	if len(s) < 12 {
		return 0
	}
	return int(int32(uint32(s[8])<<24|uint32(s[9])<<16|uint32(s[10])<<8|uint32(s[11]))) + 12
}
