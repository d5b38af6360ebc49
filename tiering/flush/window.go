package flush

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"varve.dev/metadata"
	"varve.dev/tiering/batch"
	"varve.dev/tiering/journal"
	"varve.dev/tiering/object"
)

// chunkBytes is the size of a pooled chunk. A larger batch gets a chunk of its own, which is not pooled.
const chunkBytes = 1 << 20

// maxFree bounds the pool: 64 chunks are eight windows of 8 MiB.
const maxFree = 64

// pool recycles chunks: garbage-collected buffers cost a quarter of the ingest's CPU.
type pool struct {
	mu   sync.Mutex
	free []*chunk
}

// chunk is memory that windows fill one behind the other: a small window would else keep a whole one for its few bytes.
// It goes back when the last of them lets go.
type chunk struct {
	memory []byte
	refs   atomic.Int32 // windows
}

func newPool() *pool { return &pool{} }

func (p *pool) get(n int) *chunk {
	c := p.reuse(n)
	if c == nil {
		c = &chunk{memory: make([]byte, max(n, chunkBytes))}
	}
	c.refs.Store(1)
	return c
}

func (p *pool) reuse(n int) *chunk {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := len(p.free)
	if k == 0 || n > chunkBytes {
		return nil
	}
	c := p.free[k-1]
	p.free = p.free[:k-1]
	return c
}

// put lets one window's share go.
func (p *pool) put(c *chunk) {
	if c.refs.Add(-1) > 0 || len(c.memory) != chunkBytes {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.free) < maxFree {
		p.free = append(p.free, c)
	}
}

type entry struct {
	owner  Owner
	batch  batch.Batch
	waiter Waiter // nil: nobody waits, or it was told
	slot   int
	need   Need
}

// window is what was accepted between two flushes. Its fields are guarded by the buffer's lock until it is closed; chunks
// are append-only, so that the journal may write what lies before its mark.
type window struct {
	serial  int64    // in the journal: its frames bear it from their append on
	number  int64    // of the commit that it is; taken when it closes, since a release may take one before
	owners  []Owner  // of the ranges of stored
	chunks  [][]byte // its parts of memory, in order
	memory  []*chunk // where they lie
	entries []entry
	bytes   int64
	opened  time.Time
	closed  time.Time // when its upload began
	wanted  bool      // somebody waits for the commit
	urgent  bool      // do not wait for the interval
	watch   []quiet

	written int // chunks[:written] are in the journal, and mark bytes of the next
	mark    int
	told    int // entries[:told] have been told of the journal

	stored *object.Stored // set when the upload is done
	image  *object.Image
	refs   atomic.Int64
	pool   *pool
}

// newWindow goes on in the memory where the one before it ends.
func (b *Buffer) newWindow() *window {
	b.serial++
	w := &window{pool: b.pool, serial: b.serial}
	w.refs.Store(1)
	if b.open != nil {
		w.follow(b.open)
	}
	return w
}

// follow takes the room that is left in the last chunk of a window to which nothing is added any more.
func (w *window) follow(before *window) {
	last := len(before.chunks) - 1
	if last < 0 {
		return
	}
	c, part := before.memory[last], before.chunks[last]
	if len(c.memory) != chunkBytes || len(part) == cap(part) {
		return
	}
	c.refs.Add(1)
	w.memory = append(w.memory, c)
	w.chunks = append(w.chunks, part[len(part):])
}

func (w *window) add(o Owner, bt batch.Batch, need Need, wt Waiter, slot int, session int32) batch.Batch {
	size := journal.FrameSize(len(bt))
	last := len(w.chunks) - 1
	if last < 0 || cap(w.chunks[last])-len(w.chunks[last]) < size {
		w.grow(size)
		last = len(w.chunks) - 1
	}
	c := w.chunks[last]
	at := len(c)
	c = c[:at+size]
	w.chunks[last] = c
	kept := batch.Batch(journal.PutFrame(c[at:at+size:at+size], journal.Frame{Partition: o.ID(), Session: session,
		LeaderEpoch: bt.LeaderEpoch(), Window: w.serial, Batch: bt}))
	if need == Nobody {
		wt = nil
	}
	w.entries = append(w.entries, entry{o, kept, wt, slot, need})
	w.bytes += int64(len(bt))
	return kept
}

// grow adds a part of at least n bytes. One that nothing fitted into is given back, so that no part is empty.
func (w *window) grow(n int) {
	if len(w.chunks) == 1 && len(w.chunks[0]) == 0 {
		w.pool.put(w.memory[0])
		w.chunks, w.memory = w.chunks[:0], w.memory[:0]
	}
	c := w.pool.get(n)
	w.memory = append(w.memory, c)
	w.chunks = append(w.chunks, c.memory[:0])
}

// holds says whether any batch is of a partition that of names.
func (w *window) holds(of func(metadata.PartitionID) bool) bool {
	return slices.ContainsFunc(w.entries, func(e entry) bool { return of(e.owner.ID()) })
}

// unwrittenBytes is what the journal lacks of it.
func (w *window) unwrittenBytes() (n int64) {
	for i := w.written; i < len(w.chunks); i++ {
		n += int64(len(w.chunks[i]))
	}
	return n - int64(w.mark)
}

func (w *window) retain() { w.refs.Add(1) }

func (w *window) release() {
	if w.refs.Add(-1) == 0 {
		for _, c := range w.memory {
			w.pool.put(c)
		}
		w.chunks, w.memory = nil, nil
	}
}

// build lays the window out as an object. Order within a partition is that of the appends.
func (w *window) build(h object.Header) *object.Image {
	order := make([]*entry, len(w.entries))
	for i := range w.entries {
		order[i] = &w.entries[i]
	}
	slices.SortStableFunc(order, func(a, b *entry) int {
		p, q := a.owner.ID(), b.owner.ID()
		return cmp.Or(cmp.Compare(p.Topic, q.Topic), cmp.Compare(p.Partition, q.Partition))
	})
	var topics []object.TopicName
	for i, e := range order {
		if i == 0 || order[i-1].owner.ID().Topic != e.owner.ID().Topic {
			topics = append(topics, e.owner.Topic())
		}
	}
	b := object.NewBuilder(h, topics)
	for i, e := range order {
		// A gap batch stands apart: its range is flagged.
		gap := e.batch.IsControl() && e.batch.ProducerID() < 0
		if i == 0 || order[i-1].owner != e.owner || gap || order[i-1].batch.IsControl() && order[i-1].batch.ProducerID() < 0 {
			ep := e.owner.Epoch()
			w.owners = append(w.owners, e.owner)
			b.Begin(object.Range{Partition: e.owner.ID(), Base: e.batch.Base(), LeaderEpoch: ep.Epoch, EpochStart: ep.Start, Gap: gap})
		}
		b.Add(e.batch)
	}
	w.retain()
	return b.Finish(w.release)
}

// call is one answer to a waiter, collected under the buffer's lock and made outside it.
type call struct {
	waiter Waiter
	slot   int
}

// take collects the waiters of entries[from:to] whose need is at most upTo.
func (w *window) take(from, to int, upTo Need) (calls []call) {
	for i := from; i < to; i++ {
		if e := &w.entries[i]; e.waiter != nil && e.need <= upTo {
			calls = append(calls, call{e.waiter, e.slot})
			e.waiter = nil
		}
	}
	return calls
}

func tell(calls []call, err error) {
	for _, c := range calls {
		c.waiter.Done(c.slot, err)
	}
}

// Held is a batch in a window's memory.
type Held struct {
	Batch  batch.Batch
	window *window
}

// Retain keeps the memory. It may be called while the batch is not committed, or while it is held.
func (h Held) Retain() { h.window.retain() }

// Release gives it back.
func (h Held) Release() { h.window.release() }
