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
	"sync/atomic"

	"github.com/maypok86/otter/v2"

	"varve.dev/metadata"
	"varve.dev/objectstore/cache"
	"varve.dev/tiering/flush"
	"varve.dev/tiering/object"
)

// ErrHole means that the index names no object for an offset between log start and end. Retriable, and an alarm: offsets
// are never skipped.
var ErrHole = errors.New("no object holds the offset")

// Viewer reads objects (objectstore/cache).
type Viewer interface {
	View(ctx context.Context, o cache.Object, off, n int64) (cache.View, error)
	// Some is View of as much as is at hand; it may fail with cache.ErrBusy.
	Some(ctx context.Context, o cache.Object, off, n int64, effort cache.Effort) (cache.View, error)
	// Borrow is View where the range lies in memory and nothing is waited for.
	Borrow(o cache.Object, off, n int64) (v cache.View, ok bool)
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
	// Sealed says that From lies below SealedEnd, and that the index knows what lies between them.
	Sealed    bool
	SealedEnd int64
	Pieces    []Piece      // contiguous from From on, or from SealedEnd
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
	HoleDetected  func(metadata.PartitionID, int64) // may be nil
	ConcurrentMax int                               // plans of one request that are read at once
}

// Validate returns all problems at once.
func (c Config) Validate() error {
	var errs []error
	for _, x := range []struct {
		name       string
		got, least int64
	}{
		{"directories", c.Directories, 1}, {"read-ahead", c.ReadAhead, 0}, {"segments of a look-up", int64(c.FindLimit), 1},
		{"record bytes", int64(c.RecordBytes), 1}, {"plans at once", int64(c.ConcurrentMax), 1},
	} {
		if x.got < x.least {
			errs = append(errs, fmt.Errorf("fetch: %s %d, want at least %d", x.name, x.got, x.least))
		}
	}
	return errors.Join(errs...)
}

// Reader serves plans. It is safe for concurrent use.
type Reader struct {
	view  Viewer
	index Finder
	cfg   Config
	dirs  *directories
	found *otter.Cache[metadata.PartitionID, lookup]
	ahead *otter.Cache[sequence, progress]
	lent  sync.Pool // *Result
}

// sequence is where a sequential reader will go on.
type sequence struct {
	p    metadata.PartitionID
	next int64
}

// progress is how far it has come in an object, and how far downloads run ahead of it, in bytes.
type progress struct {
	key      string
	at, size int64
}

// maxFound bounds the partitions whose last index look-up is kept, maxSequences the sequential readers that are known.
const (
	maxFound     = 4096
	maxSequences = 4096
)

// New is a Reader over one cache and one index. Close ends it.
func New(v Viewer, i Finder, store DirectoryReader, cfg Config) (*Reader, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	dirs, err := newDirectories(store, cfg.Directories)
	if err != nil {
		return nil, err
	}
	found, err := otter.New(&otter.Options[metadata.PartitionID, lookup]{MaximumSize: maxFound})
	if err != nil {
		return nil, err
	}
	ahead, err := otter.New(&otter.Options[sequence, progress]{MaximumSize: maxSequences})
	if err != nil {
		return nil, err
	}
	r := &Reader{view: v, index: i, cfg: cfg, dirs: dirs, found: found, ahead: ahead}
	r.lent.New = func() any { return &Result{reader: r} }
	return r, nil
}

// Close ends what was still being read for callers that have gone, and waits for it.
func (r *Reader) Close() { r.dirs.close() }

// Part is the answer to one plan: slices of whole batches.
type Part struct {
	Slices [][]byte
	Bytes  int
	Err    error
}

// Result answers plans in their order. It and its slices are borrowed until Release.
type Result struct {
	Parts  []Part
	reader *Reader
	views  []cache.View
	held   []flush.Held
	mu     sync.Mutex
}

// Bytes is the sum over all parts.
func (r *Result) Bytes() (n int) {
	for i := range r.Parts {
		n += r.Parts[i].Bytes
	}
	return n
}

// result is an empty one for n plans, in the memory of an earlier one where there is one.
func (r *Reader) result(n int) *Result {
	res := r.lent.Get().(*Result)
	if cap(res.Parts) < n {
		res.Parts = append(res.Parts[:cap(res.Parts)], make([]Part, n-cap(res.Parts))...)
	}
	res.Parts = res.Parts[:n]
	return res
}

// A result that held more is not kept for the next: 1,024 plans, and as many slices for each of its parts or views.
const keptElements = 1 << 10

// Release gives the memory of all parts back. It comes exactly once.
func (r *Result) Release() {
	for _, v := range r.views {
		v.Release()
	}
	for _, h := range r.held {
		h.Release()
	}
	clear(r.views)
	clear(r.held)
	r.views, r.held = r.views[:0], r.held[:0]
	if cap(r.Parts) > keptElements || cap(r.views) > keptElements || cap(r.held) > keptElements {
		return
	}
	for i := range r.Parts {
		p := &r.Parts[i]
		clear(p.Slices[:cap(p.Slices)])
		*p = Part{Slices: p.Slices[:0]}
		if cap(p.Slices) > keptElements {
			p.Slices = nil
		}
	}
	r.reader.lent.Put(r)
}

func (r *Result) keep(v cache.View) {
	r.mu.Lock()
	r.views = append(r.views, v)
	r.mu.Unlock()
}

// Read fills one part per plan with whole batches, the first of which contains the plan's offset, within maxBytes for all,
// but for the first batch of the first part that has any (KIP-74). Plans are read in parallel, as many as the bytes that are
// left may need. When ctx ends a part whose bytes are still on their way stays empty, and its download goes on: the next read
// joins it. So does one of several parts for whose download there is no room, as long as others have something.
func (r *Reader) Read(ctx context.Context, plans []Plan, maxBytes int) *Result {
	res := r.result(len(plans))
	maxBytes = max(maxBytes, 1) // less asks for one batch too
	left := maxBytes
	waiting := newPatience(ctx)
	defer waiting.end()
	for from, before := 0, 0; from < len(plans) && left > 0; {
		to, want := from, 0
		for to < len(plans) && to-from < r.cfg.ConcurrentMax && (to == from || want < left) {
			want += plans[to].Bytes()
			to++
		}
		r.wave(waiting, plans[from:to], res, res.Parts[from:to], left, before)
		for i := from; i < to; i++ {
			left = fit(&res.Parts[i], left, left == maxBytes)
		}
		from, before = to, before+want
	}
	if i := res.idle(); i >= 0 {
		res.Parts[i] = r.one(ctx, &plans[i], res, res.Parts[i].Slices, maxBytes, 0, nil)
		fit(&res.Parts[i], maxBytes, true)
	}
	res.hold(plans)
	return res
}

// worth is how many bytes are worth an answer of their own, so that what is still awaited, or would have to be copied from a
// file, comes with the next: a fetch of many cold partitions would else take as long as the slowest of their downloads, and
// one of many on local disk would read each byte into memory that the processor has not seen for long.
const worth = 8 << 20

// patience ends when as many bytes are there as are worth an answer: from then on only what lies in memory is taken.
type patience struct {
	context.Context
	end  context.CancelFunc
	came atomic.Int64
}

func newPatience(ctx context.Context) *patience {
	p := &patience{}
	p.Context, p.end = context.WithCancel(ctx)
	return p
}

func (p *patience) got(n int) {
	if p.came.Add(int64(n)) >= worth {
		p.end()
	}
}

func (p *patience) over() bool { return p.came.Load() >= worth }

// idle forgives parts that there was no room for, and names the first of them if nothing else came.
func (r *Result) idle() int {
	first, nothing := -1, true
	for i := range r.Parts {
		p := &r.Parts[i]
		if errors.Is(p.Err, cache.ErrBusy) {
			p.Err = nil
			if first < 0 {
				first = i
			}
		}
		nothing = nothing && p.Bytes == 0 && p.Err == nil
	}
	if nothing {
		return first
	}
	return -1
}

// hold takes over what plans hold.
func (r *Result) hold(plans []Plan) {
	for i := range plans {
		p := &plans[i]
		r.held = append(r.held, p.Held...)
		p.Held = p.Held[:0]
	}
}

// FromMemory is Read where all that it takes lies in memory: it waits for nothing, and allocates nothing for a plan. ok is
// false, and the plans are as they were, where anything lies elsewhere.
func (r *Reader) FromMemory(plans []Plan, maxBytes int) (res *Result, ok bool) {
	for i := range plans {
		if plans[i].Sealed {
			return nil, false
		}
	}
	res = r.result(len(plans))
	maxBytes = max(maxBytes, 1)
	left := maxBytes
	for i := 0; i < len(plans) && left > 0; i++ {
		p := &plans[i]
		g := reading{Reader: r, p: p, res: res, from: p.From, want: max(1, min(p.Max, left)), memory: true, part: res.Parts[i]}
		if err := g.read(context.Background()); err != nil {
			res.Parts[i] = g.part
			res.Release()
			return nil, false // damage is told by the other way, too
		}
		res.Parts[i] = g.part
		left = fit(&res.Parts[i], left, left == maxBytes)
	}
	res.hold(plans)
	return res, true
}

// fit drops whole batches from the end of a part that is larger than what is left, but the very first of an answer.
func fit(p *Part, left int, first bool) int {
	for p.Bytes > left && len(p.Slices) > 0 {
		n := len(p.Slices) - 1
		last := p.Slices[n]
		keep, whole := len(last)-(p.Bytes-left), 0
		for b, size, _ := cut(last); b != nil && (whole+size <= keep || first && n == 0 && whole == 0); b, size, _ = cut(last[whole:]) {
			whole += size
		}
		p.Bytes -= len(last) - whole
		p.Slices = p.Slices[:n]
		if whole > 0 {
			p.Slices = append(p.Slices, last[:whole:whole])
			break
		}
	}
	return left - p.Bytes
}

// wave reads plans at once, behind others that are to bring so many bytes.
func (r *Reader) wave(ctx *patience, plans []Plan, res *Result, parts []Part, left, before int) {
	shared := ctx
	if len(res.Parts) == 1 {
		shared = nil
	}
	if len(plans) == 1 {
		parts[0] = r.one(ctx, &plans[0], res, parts[0].Slices, left, before, shared)
		ctx.got(parts[0].Bytes)
		return
	}
	var wg sync.WaitGroup
	for i := range plans {
		ahead := before
		wg.Go(func() {
			parts[i] = r.one(ctx, &plans[i], res, parts[i].Slices, left, ahead, shared)
			ctx.got(parts[i].Bytes)
		})
		before += plans[i].Bytes()
	}
	wg.Wait()
}
