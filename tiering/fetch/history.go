package fetch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/maypok86/otter/v2"

	"varve.dev/metadata"
	"varve.dev/objectstore"
	"varve.dev/tiering/object"
)

// history goes through the segments from g.from to the plan's sealed end; done: enough is there. An object that is not
// found makes it ask the index anew, once: segments are rewritten, and what was known of them was old.
func (g *reading) history(ctx context.Context) (done bool, err error) {
	for refreshed := false; g.from < g.p.SealedEnd; {
		segments, err := g.find(ctx, g.p.Partition, g.from)
		if err != nil {
			return false, err
		}
		done, err := g.segments(ctx, segments)
		if errors.Is(err, objectstore.ErrNotFound) && !refreshed {
			refreshed = true
			g.Forget(g.p.Partition)
			continue
		}
		if done || err != nil {
			return done, err
		}
	}
	return false, nil
}

func (g *reading) segments(ctx context.Context, segments []metadata.Segment) (done bool, err error) {
	for i := range segments {
		x, err := g.open(ctx, &segments[i])
		if err != nil {
			return false, err
		}
		g.next = segments[i+1:]
		if done, err := g.take(ctx, x); done || err != nil {
			return done, err
		}
	}
	return false, nil
}

// lookup is what is known of a partition's segments.
type lookup struct {
	segments []metadata.Segment // what the index answered last, in order
	sealed   []metadata.Segment // the newest that were sealed here, in order
	old      bool               // some have been rewritten or deleted since
}

// from answers the segments from the one that contains an offset on, or nil.
func (l *lookup) from(offset int64) []metadata.Segment {
	for _, known := range [][]metadata.Segment{l.segments, l.sealed} {
		if rest := after(known, offset); len(rest) > 0 && rest[0].Base <= offset {
			return rest
		}
	}
	return nil
}

// find answers the segments from the one that contains from on: from what is known, or by a look-up. Where the index does not
// answer, what is old is better than nothing: objects outlive their last reference by a grace.
func (r *Reader) find(ctx context.Context, p metadata.PartitionID, from int64) ([]metadata.Segment, error) {
	last, _ := r.found.GetIfPresent(p)
	known := last.from(from)
	if known != nil && !last.old {
		return known, nil
	}
	segments, err := r.index.Find(ctx, p, from, r.cfg.FindLimit)
	if err != nil && known != nil {
		return known, nil
	}
	if err != nil {
		return nil, err
	}
	if len(segments) == 0 || segments[0].Base > from || segments[0].End <= from {
		return nil, r.hole(p, from)
	}
	r.found.Compute(p, func(l lookup, _ bool) (lookup, otter.ComputeOp) {
		if l.old {
			l = lookup{}
		}
		l.segments = segments
		return l, otter.WriteOp
	})
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

// open finds a segment in its object's directory.
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

// keptSealed bounds the segments of a partition that are known because they were sealed here.
const keptSealed = 16

// Sealed tells of segments that were sealed here, in order: while the index is away they can be read all the same.
func (r *Reader) Sealed(p metadata.PartitionID, segments []metadata.Segment) {
	r.found.Compute(p, func(l lookup, _ bool) (lookup, otter.ComputeOp) {
		l.sealed = slices.Concat(l.sealed, segments)
		l.sealed = l.sealed[max(0, len(l.sealed)-keptSealed):]
		return l, otter.WriteOp
	})
}

// Forget says that what is known of a partition's segments is old: some have been rewritten or deleted.
func (r *Reader) Forget(p metadata.PartitionID) {
	r.found.ComputeIfPresent(p, func(l lookup) (lookup, otter.ComputeOp) {
		l.old = true
		return l, otter.WriteOp
	})
}

// Learn keeps the directory of an object that was sealed here, so that it need not be read.
func (r *Reader) Learn(key string, d *object.Directory) { r.dirs.kept.Set(key, d) }

// Directory reads and keeps the directory of a sealed object: one exact ranged read, shared by all who ask. Where its
// caller gives up it goes on: the next one finds it done.
func (r *Reader) Directory(ctx context.Context, o metadata.Object) (*object.Directory, error) {
	d, err := r.dirs.get(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("directory of %s: %w", o.Key, err)
	}
	return d, nil
}

const (
	// directoryTimeout bounds one read of a directory: 64 MiB at 2 MiB/s.
	directoryTimeout = 32 * time.Second
	// directoryReads bounds those that are on their way at once.
	directoryReads = 16
)

// directories keeps those of sealed objects.
type directories struct {
	store DirectoryReader
	kept  *otter.Cache[string, *object.Directory]
	life  context.Context
	end   context.CancelFunc
	turns chan struct{} // capacity directoryReads
	reads sync.WaitGroup

	mu      sync.Mutex
	reading map[string]*directoryRead
}

// directoryRead is one that is on its way; d and err are set when done is closed.
type directoryRead struct {
	done chan struct{}
	d    *object.Directory
	err  error
}

func newDirectories(store DirectoryReader, bytes int64) (*directories, error) {
	kept, err := otter.New(&otter.Options[string, *object.Directory]{
		MaximumWeight: uint64(bytes),
		Weigher:       func(_ string, d *object.Directory) uint32 { return directoryWeight(d) },
	})
	if err != nil {
		return nil, err
	}
	ds := &directories{store: store, kept: kept, turns: make(chan struct{}, directoryReads), reading: map[string]*directoryRead{}}
	ds.life, ds.end = context.WithCancel(context.Background())
	return ds, nil
}

// directoryWeight estimates the memory of a decoded directory.
func directoryWeight(d *object.Directory) uint32 {
	n := 256 + 64*len(d.Topics) + 160*len(d.Ranges) + 12*len(d.Blocks.Ends)
	for i := range d.Ranges {
		n += 24*len(d.Ranges[i].Index) + 80*len(d.Ranges[i].Producers)
	}
	return uint32(min(n, 1<<31))
}

func (ds *directories) close() {
	ds.mu.Lock()
	ds.end() // under the lock: no read begins after it
	ds.mu.Unlock()
	ds.reads.Wait()
}

func (ds *directories) get(ctx context.Context, o metadata.Object) (*object.Directory, error) {
	if d, ok := ds.kept.GetIfPresent(o.Key); ok {
		return d, nil
	}
	if !plausible(o) {
		return nil, fmt.Errorf("%w: length %d in an object of %d bytes", object.ErrCorrupt, o.DirectoryLength, o.Length)
	}
	read := ds.join(o)
	select {
	case <-read.done:
		return read.d, read.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func plausible(o metadata.Object) bool {
	return o.DirectoryLength > 0 && int64(o.DirectoryLength) <= o.Length && o.DirectoryLength <= object.MaxDirectory
}

// soon answers a directory that is kept, and nil for another, which it begins to read: it will be wanted.
func (ds *directories) soon(o metadata.Object) *object.Directory {
	if d, ok := ds.kept.GetIfPresent(o.Key); ok {
		return d
	}
	if plausible(o) {
		ds.join(o)
	}
	return nil
}

// join begins a read, or finds the one that is on its way.
func (ds *directories) join(o metadata.Object) *directoryRead {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	if read := ds.reading[o.Key]; read != nil {
		return read
	}
	read := &directoryRead{done: make(chan struct{})}
	if read.err = ds.life.Err(); read.err != nil {
		close(read.done)
		return read
	}
	ds.reading[o.Key] = read
	ds.reads.Add(1)
	go ds.run(o, read)
	return read
}

func (ds *directories) run(o metadata.Object, read *directoryRead) {
	defer ds.reads.Done()
	if read.d, read.err = ds.read(o); read.err == nil {
		ds.kept.Set(o.Key, read.d)
	}
	ds.mu.Lock()
	delete(ds.reading, o.Key)
	ds.mu.Unlock()
	close(read.done)
}

func (ds *directories) read(o metadata.Object) (d *object.Directory, err error) {
	select {
	case ds.turns <- struct{}{}:
	case <-ds.life.Done():
		return nil, ds.life.Err()
	}
	defer func() { <-ds.turns }()
	ctx, cancel := context.WithTimeout(ds.life, directoryTimeout)
	defer cancel()
	b := make([]byte, o.DirectoryLength)
	for range 2 { // wrong bytes may have been damaged on the way
		if err = ds.store.ReadAt(ctx, o.Key, b, o.Length-int64(len(b))); err != nil {
			return nil, err
		}
		if d, err = object.Decode(b); err == nil {
			break
		}
	}
	return d, err
}
