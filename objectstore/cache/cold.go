package cache

import (
	"container/list"
	"context"
	"errors"
	"iter"
	"time"
)

// span is a chunk's place: whole blocks that start in [id, id+1) × ChunkBytes. The same for every reader, so that all
// share one GET.
type span struct {
	id            int64
	first, blocks int
	start, end    int64
}

// chunk is a span of one object, on its way or in memory. After done is closed data and err do not change; the rest is
// guarded by Cache.mu.
type chunk struct {
	key  string
	span span
	done chan struct{}
	err  error
	data []byte

	loaded bool
	gone   bool          // no longer in Cache.cold
	used   time.Time     // when a view gave it back, or when it came
	read   uint64        // which of its 64 parts a view has covered the end of
	spent  bool          // all of it was read: several who read different parts of it have all come by
	pins   int           // views that hold it or wait for it
	at     *list.Element // in Cache.idle, or in Cache.spent
}

// spans are the chunks under [off, end), which lies within the blocks; these have been checked.
func (c *Cache) spans(o *Object, off, end int64) iter.Seq[span] {
	return func(yield func(span) bool) {
		for off < end {
			id := o.blockStart(o.blockAt(off)) / c.cfg.ChunkBytes
			s := span{id: id, first: o.blockAt(id * c.cfg.ChunkBytes)}
			if o.blockStart(s.first) < id*c.cfg.ChunkBytes {
				s.first++ // it starts in the chunk before
			}
			next := o.blockAt(min((id+1)*c.cfg.ChunkBytes, o.blocksEnd()) - 1)
			s.blocks = next - s.first + 1
			s.start, s.end = o.blockStart(s.first), o.Blocks.Ends[next]
			if !yield(s) {
				return
			}
			off = s.end
		}
	}
}

func (c *Cache) chunkAt(key string, id int64) *chunk { return c.cold[key][id] }

// fromChunks borrows [off, end) from chunks, and starts the GETs of those that nobody has asked for yet.
func (c *Cache) fromChunks(ctx context.Context, l *lease, o Object, off, end int64) error {
	if err := c.pinChunks(l, &o, off, end); err != nil {
		return err
	}
	for _, ch := range l.chunks {
		if err := l.await(ctx, ch); err != nil {
			return err
		}
		l.slices = slice(l.slices, ch.data, ch.span.start, off, end)
	}
	l.off, l.end = off, end
	return nil
}

// await waits until ch is here, or ctx ends. What is here is taken even then.
func (l *lease) await(ctx context.Context, ch *chunk) error {
	select {
	case <-ch.done:
		return ch.err
	default:
	}
	l.waited = true
	select {
	case <-ch.done:
		return ch.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// cover notes that [off, end) was read.
func (ch *chunk) cover(off, end int64) {
	size := ch.span.end - ch.span.start
	for i := range int64(64) {
		if at := ch.span.start + size*(i+1)/64; (off < at || at == ch.span.start) && at <= end {
			ch.read |= 1 << i
		}
	}
}

// someChunks borrows from the first chunk under [off, end), and from those behind it that are here.
func (c *Cache) someChunks(ctx context.Context, l *lease, o *Object, off, end int64, wait bool) error {
	if err := c.pinSome(l, o, off, end, wait); err != nil {
		return err
	}
	if err := l.await(ctx, l.chunks[0]); err != nil {
		return err
	}
	for _, ch := range l.chunks {
		l.slices = slice(l.slices, ch.data, ch.span.start, off, end)
	}
	l.off, l.end = off, end
	return nil
}

func (c *Cache) pinSome(l *lease, o *Object, off, end int64, wait bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return errClosed
	}
	for s := range c.spans(o, off, end) {
		ch := c.chunkAt(o.Key, s.id)
		here := ch != nil && ch.span == s
		switch {
		case len(l.chunks) > 0 && !(here && ch.loaded):
			return nil // what is behind comes with the next view
		case !here && !c.room(footprint(s.end-s.start)):
			return ErrBusy
		case !here:
			c.stats.Misses++
			ch = c.startChunk(o, s, nil)
		case len(l.chunks) == 0:
			c.stats.ColdHits++
		}
		if !ch.loaded && !wait {
			return ErrBusy
		}
		c.pin(l, ch)
	}
	return nil
}

func (c *Cache) pin(l *lease, ch *chunk) {
	ch.pins++
	c.stir(ch)
	l.chunks = append(l.chunks, ch)
}

const (
	// aheadShare of ColdBytes is left to prefetches: who reads on finds the next chunk there.
	aheadShare = 4
	// middle is how long a chunk that was not read to its end is left to whoever reads it.
	middle = 2 * time.Second
)

// room says whether a download of so many bytes leaves everybody what he is in the middle of.
func (c *Cache) room(size int64) bool {
	taken := c.coldBytes - c.spentBytes + c.coming
	old := c.cfg.Now().Add(-middle)
	for e := c.idle.Back(); e != nil && e.Value.(*chunk).used.Before(old); e = e.Prev() {
		taken -= int64(cap(e.Value.(*chunk).data))
	}
	return taken <= 0 || taken+size <= c.cfg.ColdBytes-c.cfg.ColdBytes/aheadShare
}

var errClosed = errors.New("cache is closed")

func (c *Cache) pinChunks(l *lease, o *Object, off, end int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return errClosed
	}
	hit := true
	for s := range c.spans(o, off, end) {
		ch := c.chunkAt(o.Key, s.id)
		if ch == nil || ch.span != s { // other blocks than before: one of the two callers is wrong, and finds out
			hit = false
			ch = c.startChunk(o, s, nil)
		}
		c.pin(l, ch)
	}
	if hit {
		c.stats.ColdHits++
	} else {
		c.stats.Misses++
	}
	return nil
}

// startChunk begins a download that belongs to the cache, not to who asked first. turn is what it gives back at its end.
func (c *Cache) startChunk(o *Object, s span, turn chan struct{}) *chunk {
	ch := &chunk{key: o.Key, span: s, done: make(chan struct{})}
	if old := c.chunkAt(o.Key, s.id); old != nil {
		c.forgetChunk(old)
	}
	if c.cold[o.Key] == nil {
		c.cold[o.Key] = map[int64]*chunk{}
	}
	c.cold[o.Key][s.id] = ch
	c.coming += footprint(s.end - s.start)
	object := *o
	c.downloads.Go(func() {
		data, err := c.download(&object, s)
		c.loaded(ch, data, err)
		if turn != nil {
			<-turn
		}
	})
	return ch
}

// getChecked asks once more for wrong bytes: they may have been damaged on the way.
func (c *Cache) getChecked(ctx context.Context, o *Object, s span, buf []byte) (err error) {
	for range 2 {
		if err = c.get(ctx, o.Key, buf, s.start); err != nil {
			return err
		}
		if err = o.verify(buf, s.first, s.blocks); err == nil {
			return nil
		}
		c.badBytes(placeBelow, o.Key, err)
	}
	return err
}

func (c *Cache) loaded(ch *chunk, data []byte, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch.data, ch.err, ch.loaded = data, err, true
	close(ch.done)
	if err != nil {
		c.forgetChunk(ch)
		return
	}
	c.rest(ch)
}

// rest files a loaded chunk that nobody views: for reuse, or back to the pool.
func (c *Cache) rest(ch *chunk) {
	if ch.pins > 0 || !ch.loaded || ch.data == nil {
		return
	}
	if ch.gone {
		c.coldBytes -= int64(cap(ch.data))
		c.pool.put(ch.data)
		ch.data = nil
		return
	}
	ch.used = c.cfg.Now()
	if ch.spent = ch.read == 1<<64-1; ch.spent {
		ch.at = c.spent.PushBack(ch)
		c.spentBytes += int64(cap(ch.data))
	} else {
		ch.at = c.idle.PushFront(ch)
	}
	c.evictIdle()
}

// stir takes a chunk off the list that it rests in, if it does.
func (c *Cache) stir(ch *chunk) {
	switch {
	case ch.at == nil:
		return
	case ch.spent:
		c.spent.Remove(ch.at)
		c.spentBytes -= int64(cap(ch.data))
	default:
		c.idle.Remove(ch.at)
	}
	ch.at = nil
}

// evictIdle drops what was read to its end, the longest ago first; then what nobody has looked at for longest.
func (c *Cache) evictIdle() {
	for c.coldBytes > c.cfg.ColdBytes {
		e := c.spent.Front()
		if e == nil {
			e = c.idle.Back()
		}
		if e == nil {
			return
		}
		c.forgetChunk(e.Value.(*chunk))
		c.stats.ChunksEvicted++
	}
}

// unpin gives back what a view of [off, end) held.
func (c *Cache) unpin(chunks []*chunk, off, end int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ch := range chunks {
		ch.cover(off, end)
		ch.pins--
		c.rest(ch)
	}
}

// forgetChunk takes ch out of the map; its memory goes when its last view does.
func (c *Cache) forgetChunk(ch *chunk) {
	if ch.gone {
		return
	}
	ch.gone = true
	if m := c.cold[ch.key]; m[ch.span.id] == ch {
		delete(m, ch.span.id)
		if len(m) == 0 {
			delete(c.cold, ch.key)
		}
	}
	c.stir(ch)
	c.rest(ch)
}
