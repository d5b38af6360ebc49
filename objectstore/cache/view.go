package cache

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"sort"

	"varve.dev/objectstore"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// View is a borrowed range. Its slices are valid until Release, which comes exactly once.
type View struct {
	Slices [][]byte
	lease  *lease
}

// Release gives back what the view borrowed. The zero View has nothing to give.
func (v View) Release() {
	if v.lease != nil {
		v.lease.release()
	}
}

// Borrowed says whether all of it lies in the image of an object as it was stored: what is made of such may succeed it.
func (v View) Borrowed() bool { return v.lease != nil && v.lease.image != nil && v.lease.original }

// Waited says whether the view had to wait for a download.
func (v View) Waited() bool { return v.lease != nil && v.lease.waited }

// lease is what a View holds on to; it is reused.
type lease struct {
	cache    *Cache
	slices   [][]byte
	image    Image
	original bool // image is no heir
	chunks   []*chunk
	waited   bool  // for one of them
	off, end int64 // of them
	buffer   []byte
}

// keepSlices bounds the slice list that a reused lease keeps: a long one is for the garbage collector.
const keepSlices = 4096

func (l *lease) release() {
	c := l.cache
	if l.image != nil {
		l.image.Release()
	}
	if len(l.chunks) > 0 {
		c.unpin(l.chunks, l.off, l.end)
	}
	if l.buffer != nil {
		c.pool.put(l.buffer)
	}
	clear(l.slices)
	clear(l.chunks)
	kept := lease{slices: l.slices[:0], chunks: l.chunks[:0]}
	if cap(kept.slices) > keepSlices {
		kept.slices = nil
	}
	*l = kept
	c.lent.Put(l)
}

// View borrows [off, off+n) of an object, from the nearest place that has it. It fails only where the store below does:
// with ErrChecksum when two GETs in a row brought wrong bytes, with ErrNotFound, ErrUnavailable and so on as the store
// says, or with ctx. A download that its caller gives up goes on for the next one.
//
// A view of n bytes may hold that much memory, and a chunk more at either end: read large objects piece by piece.
func (c *Cache) View(ctx context.Context, o Object, off, n int64) (View, error) {
	return c.viewBy(ctx, o, off, n, func(ctx context.Context, l *lease, o Object, off, n int64) error {
		if c.fromDisk(l, o, off, n) {
			return nil
		}
		return c.fromBelow(ctx, l, o, off, n)
	})
}

// Effort is what Some does for bytes that are not in memory.
type Effort int

const (
	Begin Effort = iota // their download
	Copy                // and read them from local disk
	Wait                // and wait for the first chunk of what is cold
)

// Some is View for a reader of many things at once, of as much from off on as the effort brings: of a cold object what lies in
// memory from off on, or its first chunk. It fails with ErrBusy where that is nothing, and where a download would drive out
// what others are in the middle of. What it begins to download goes on.
func (c *Cache) Some(ctx context.Context, o Object, off, n int64, effort Effort) (View, error) {
	return c.viewBy(ctx, o, off, n, func(ctx context.Context, l *lease, o Object, off, n int64) error {
		switch {
		case effort < Copy && c.file(o.Key) != nil:
			return ErrBusy
		case effort >= Copy && c.fromDisk(l, o, off, n):
			return nil
		case off+n > o.blocksEnd():
			return c.fromBelow(ctx, l, o, off, n)
		}
		return c.someChunks(ctx, l, &o, off, off+n, effort >= Wait)
	})
}

// ErrBusy says that what was asked for is not here, and that its time will come.
var ErrBusy = errors.New("the cache is busy with what others read")

// viewBy looks into the image first, and then where beside it says.
func (c *Cache) viewBy(ctx context.Context, o Object, off, n int64, beside func(context.Context, *lease, Object, int64, int64) error) (View, error) {
	if err := o.check(off, n); err != nil {
		return View{}, err
	}
	if n == 0 {
		return View{}, nil
	}
	l := c.lent.Get().(*lease)
	l.cache = c
	if c.fromImage(l, o.Key, off, n) {
		return View{l.slices, l}, nil
	}
	err := o.checkBlocks()
	if err == nil {
		err = beside(ctx, l, o, off, n)
	}
	if err != nil {
		l.release()
		return View{}, fmt.Errorf("view %s [%d, %d): %w", o.Key, off, off+n, err)
	}
	return View{l.slices, l}, nil
}

// Borrow is View where an image holds the range: it waits for nothing. ok is false where none does.
func (c *Cache) Borrow(o Object, off, n int64) (v View, ok bool) {
	if n == 0 || o.check(off, n) != nil {
		return View{}, false
	}
	l := c.lent.Get().(*lease)
	l.cache = c
	if !c.fromImage(l, o.Key, off, n) {
		l.release()
		return View{}, false
	}
	return View{l.slices, l}, true
}

// maxLength bounds what an index may claim of one object, hence what is allocated for it: four times the largest that is
// ever written.
const maxLength = 1 << 30

// check refuses ranges that make no sense.
func (o *Object) check(off, n int64) error {
	if off < 0 || n < 0 || o.Length > maxLength || off > o.Length || n > o.Length-off {
		return fmt.Errorf("view %s [%d, +%d) of %d bytes: %w", o.Key, off, n, o.Length, objectstore.ErrRange)
	}
	return nil
}

// checkBlocks refuses blocks that make no sense, so that nothing below has to.
func (o *Object) checkBlocks() error {
	if len(o.Blocks.Ends) != len(o.Blocks.Sums) {
		return fmt.Errorf("view %s: %d block ends and %d sums", o.Key, len(o.Blocks.Ends), len(o.Blocks.Sums))
	}
	last := int64(0)
	for i, end := range o.Blocks.Ends {
		if end <= last || end > o.Length {
			return fmt.Errorf("view %s: block %d ends at %d, after %d, of %d bytes", o.Key, i, end, last, o.Length)
		}
		last = end
	}
	return nil
}

// blocksEnd is where the directory starts.
func (o *Object) blocksEnd() int64 {
	if n := len(o.Blocks.Ends); n > 0 {
		return o.Blocks.Ends[n-1]
	}
	return 0
}

// blockAt is the index of the block that holds offset off.
func (o *Object) blockAt(off int64) int {
	return sort.Search(len(o.Blocks.Ends), func(i int) bool { return o.Blocks.Ends[i] > off })
}

func (o *Object) blockStart(i int) int64 {
	if i == 0 {
		return 0
	}
	return o.Blocks.Ends[i-1]
}

// verify checks data, which starts at block first, against the sums of its whole blocks. Bytes behind them are not
// checked.
func (o *Object) verify(data []byte, first, blocks int) error {
	start := o.blockStart(first)
	for i := first; i < first+blocks; i++ {
		from, to := o.blockStart(i)-start, o.Blocks.Ends[i]-start
		if from > to || to > int64(len(data)) {
			return fmt.Errorf("%w: block %d of %s is [%d, %d) of %d bytes", objectstore.ErrChecksum, i, o.Key, from, to, len(data))
		}
		if got, want := crc32.Checksum(data[from:to], castagnoli), o.Blocks.Sums[i]; got != want {
			return fmt.Errorf("%w: block %d of %s has CRC32C %08x, want %08x", objectstore.ErrChecksum, i, o.Key, got, want)
		}
	}
	return nil
}

// cover is the run of whole blocks under [off, end), none where it lies behind them.
func (o *Object) cover(off, end int64) (first, blocks int) {
	if off >= o.blocksEnd() {
		return 0, 0
	}
	first = o.blockAt(off)
	last := o.blockAt(min(end, o.blocksEnd()) - 1)
	return first, last - first + 1
}

// fromBelow reads the blocks through shared chunks, and what lies behind them by a GET of its own.
func (c *Cache) fromBelow(ctx context.Context, l *lease, o Object, off, n int64) error {
	end := off + n
	if data := min(end, o.blocksEnd()); off < data {
		if err := c.fromChunks(ctx, l, o, off, data); err != nil {
			return err
		}
		off = data
	}
	if off == end {
		return nil
	}
	endTurn, err := c.turn(ctx)
	if err != nil {
		return err
	}
	defer endTurn()
	buf := c.pool.get(end - off)
	if err := c.get(ctx, o.Key, buf, off); err != nil {
		c.pool.put(buf)
		return err
	}
	l.buffer = buf
	l.slices = append(l.slices, buf)
	return nil
}

// turn waits for one of ColdRequests, no longer than ctx. Memory for the answer is taken after it.
func (c *Cache) turn(ctx context.Context) (end func(), err error) {
	select {
	case c.requests <- struct{}{}:
		return func() { <-c.requests }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// get asks below. The caller has a turn.
func (c *Cache) get(ctx context.Context, key string, dst []byte, off int64) error {
	c.mu.Lock()
	c.stats.Gets++
	c.stats.GetBytes += int64(len(dst))
	c.mu.Unlock()
	return c.below.ReadAt(ctx, key, dst, off)
}

// Prefetch starts the GETs of the chunks under [off, off+n) that are in no place yet, as far as turns are free. It never
// waits: it is a hint.
func (c *Cache) Prefetch(o Object, off, n int64) {
	n = min(n, o.blocksEnd()-off) // the directory is not prefetched
	if n <= 0 || o.check(off, n) != nil || o.checkBlocks() != nil {
		return
	}
	room := c.cfg.ColdBytes / 2 // what is prefetched must not evict what was prefetched before it
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.images[o.Key] != nil || c.files[o.Key] != nil {
		return
	}
	for span := range c.spans(&o, off, off+n) {
		if c.chunkAt(o.Key, span.id) != nil {
			continue
		}
		size := footprint(span.end - span.start)
		if room -= size; c.closed || room < 0 || c.coldBytes-c.spentBytes+c.coming+size > c.cfg.ColdBytes {
			return // it would drive out what others are in the middle of, and that would be fetched twice
		}
		select {
		case c.ahead <- struct{}{}:
		default:
			return
		}
		c.stats.Prefetches++
		c.startChunk(&o, span, c.ahead)
	}
}

// slice appends the part of data, which starts at offset at, that lies in [off, end).
func slice(dst [][]byte, data []byte, at, off, end int64) [][]byte {
	from, to := max(off, at)-at, min(end, at+int64(len(data)))-at
	return append(dst, data[from:to:to])
}
