// Package flush turns what partitions append into one stored, committed object per interval.
//
// A batch is copied once, into the open window. A window closes when it is due, becomes an image, is uploaded beside
// others, and is committed in the order in which it was closed; only a commit that is known moves a high watermark or
// answers a producer. What somebody waits for on the journal (acks=1, `local` topics) is written there first, with every
// earlier uncommitted window, by one adaptive sync for all partitions.
package flush

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"varve.dev/metadata"
	"varve.dev/objectstore"
	"varve.dev/tiering/batch"
	"varve.dev/tiering/object"
)

// Need says when a batch counts as durable for the one who waits.
type Need uint8

const (
	Nobody Need = iota // acks=0: nobody waits
	Local              // the journal is on disk, and who reads needs no more: everything on `local` topics
	Synced             // the journal is on disk, but who reads waits for the commit: acks=1 on `object` topics
	Stored             // the object is stored and its commit known
)

var (
	// ErrEnded means that the session is over. Before append it is definite; to a waiter it says nothing of the record.
	ErrEnded = errors.New("the agent's session has ended")
	// ErrBusy means that no room came free within the bound: nothing was appended (back-pressure).
	ErrBusy = errors.New("too much is waiting for the object store")
)

// Owner is told what became durable; a partition is one. Calls come in offset order and must not block.
type Owner interface {
	ID() metadata.PartitionID
	Topic() object.TopicName
	// Epoch is the leader epoch under which it appends, and where that starts.
	Epoch() metadata.EpochStart
	// Synced: everything before end is in the journal.
	Synced(end int64)
	// Committed: the range is in a committed object.
	Committed(o *object.Stored, r *object.Range)
}

// Waiter is told once per slot; a produce request is one.
type Waiter interface{ Done(slot int, err error) }

// Journal is the crash log (tiering/journal).
type Journal interface {
	Write(window int64, chunks ...[]byte) error
	Sync() error
	Release(window int64) error
	SyncedPosition() int64
	// Room is how many more bytes it takes before its files or the disk are full.
	Room() int64
}

// Index is where windows are committed.
type Index interface {
	Commit(ctx context.Context, s metadata.Session, c metadata.Commit) error
	Settle(ctx context.Context, s metadata.Session, from, to int64) (last int64, err error)
}

// Putter stores objects; cfg.Store of the write path retries below it.
type Putter interface {
	Put(ctx context.Context, key string, body objectstore.Body) error
	Stat(ctx context.Context, key string) (objectstore.Info, error)
}

// Sink takes over what was stored and committed.
type Sink interface {
	// Keep takes over the image's reference. It comes before any owner is told: who reads then finds the bytes in memory.
	Keep(o *object.Stored, im *object.Image)
	// Flushed comes after every owner was told: from here on the object may be merged. Were it sooner, an owner would be
	// told of an object whose place a merge has already taken.
	Flushed(o *object.Stored)
}

// Config of a Buffer.
type Config struct {
	// Interval is the least time between two flushes that somebody waits for; IdleInterval between two that nobody does.
	Interval, IdleInterval time.Duration
	// WindowBytes closes a window early; the default is 8 MiB.
	WindowBytes int64
	// BufferBytes bounds what is not yet committed, in memory. Beyond it Reserve waits.
	BufferBytes int64
	// Late is how long nothing may have been committed, with a window on its way, before the stores count as away: who would
	// wait for a commit then waits in Reserve, where a refusal is still definite. Stores that are slow but give answers never
	// do. 0: never.
	Late time.Duration
	// InFlight bounds the windows that are uploading or waiting for their commit.
	InFlight int
	// MaxTries bounds the keys of one window: a new one is only needed where a foreign object holds the last.
	MaxTries int
	Cluster  metadata.UUID
	Prefix   func(seq int64, try int32) string // key of a window's object, never used before by any session
	Logger   *slog.Logger
	Metrics  *Metrics
}

// Validate returns all problems at once.
func (c Config) Validate() error {
	var errs []error
	check := func(ok bool, format string, a ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, a...))
		}
	}
	check(c.Interval >= 0 && c.IdleInterval >= c.Interval, "flush interval %s, idle interval %s: want 0 <= interval <= idle interval", c.Interval, c.IdleInterval)
	check(c.WindowBytes > 0 && c.WindowBytes <= maxWindow, "window of %d bytes: want 1 to %d", c.WindowBytes, maxWindow)
	check(c.BufferBytes >= c.WindowBytes, "buffer of %d bytes is smaller than a window of %d", c.BufferBytes, c.WindowBytes)
	check(c.Late >= 0, "a window is late after %s: want 0 or more", c.Late)
	check(c.InFlight > 0 && c.InFlight <= MaxInFlight, "%d windows in flight: want 1 to %d", c.InFlight, MaxInFlight)
	check(c.MaxTries > 0 && c.MaxTries <= MaxTries, "%d tries: want 1 to %d", c.MaxTries, MaxTries)
	return errors.Join(errs...)
}

const (
	// maxWindow is where a window ends even if no upload may begin: 96 MiB, and the largest batch, fit into one object.
	maxWindow = 96 << 20
	// MaxInFlight and MaxTries bound the keys that a life may leave behind without a row: some 136, which the next start
	// tombstones.
	MaxInFlight = 16
	MaxTries    = 8
)

// Doomed lists the keys that a session that ended at seq may have uploaded without a commit. A release may have taken a
// number ahead of the windows in flight.
func Doomed(seq int64, key func(seq int64, try int32) string) (keys []string) {
	for n := seq + 1; n <= seq+1+MaxInFlight; n++ {
		for try := range int32(MaxTries) {
			keys = append(keys, key(n, try))
		}
	}
	return keys
}

// Buffer holds the open window and those in flight, and owns their memory.
type Buffer struct {
	journal Journal
	store   Putter
	index   Index
	sink    Sink
	me      metadata.Session
	cfg     Config
	pool    *pool

	mu       sync.Mutex
	flight   []*window // closed, oldest first
	full     []*window // wait for an upload to end, oldest first; full
	open     *window
	numbers  Numbers
	serial   int64 // of the open window in the journal
	uncommit int64 // bytes in windows not yet committed
	reserved int64
	finished time.Time       // the last commit that is known
	room     []chan struct{} // of all who wait in Reserve; all are woken, and look again
	wantSync bool            // somebody waits for the journal
	releases []*release
	err      error // set once: the session is over
	draining bool

	due, sync, commit chan struct{} // capacity 1: wake-ups of the three loops
	ended             chan struct{} // closed with err
}

type release struct {
	ids  map[metadata.PartitionID]bool
	done chan error // capacity 1
}

// New is a buffer for one session. Nothing is flushed before Run.
func New(j Journal, s Putter, i Index, sink Sink, me metadata.Session, cfg Config) *Buffer {
	b := &Buffer{journal: j, store: s, index: i, sink: sink, me: me, cfg: cfg, pool: newPool(),
		due: make(chan struct{}, 1), sync: make(chan struct{}, 1), commit: make(chan struct{}, 1), ended: make(chan struct{})}
	b.open = b.newWindow()
	return b
}

// Continue makes the journal's windows go on above those that its files name. It comes before the first Append.
func (b *Buffer) Continue(after int64) {
	b.mu.Lock()
	b.serial = max(b.serial, after+1)
	b.open.serial = b.serial
	b.mu.Unlock()
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Reserve waits until n more bytes may be appended whose slowest waiter has this need, or fails with ErrBusy when ctx ends:
// then nothing was appended. The caller gives the reservation back with Unreserve when its batches are appended.
func (b *Buffer) Reserve(ctx context.Context, n int64, need Need) error {
	b.mu.Lock()
	if b.busy(n, need) {
		b.cfg.Metrics.Waits.Inc()
	}
	for b.busy(n, need) {
		c := make(chan struct{})
		b.room = append(b.room, c)
		b.mu.Unlock()
		over := b.awaitRoom(ctx, c)
		b.mu.Lock()
		if over {
			b.room = slices.DeleteFunc(b.room, func(d chan struct{}) bool { return c == d })
			b.mu.Unlock()
			return ErrBusy
		}
	}
	defer b.mu.Unlock()
	if b.err != nil || b.draining {
		return ErrEnded
	}
	b.reserved += n
	return nil
}

// lookAgain is how often who waits for room looks for it: of a disk on which somebody has made some, nobody tells.
const lookAgain = 500 * time.Millisecond

// awaitRoom waits for c, and answers whether ctx has ended.
func (b *Buffer) awaitRoom(ctx context.Context, c chan struct{}) (over bool) {
	again := time.NewTimer(lookAgain)
	defer again.Stop()
	select {
	case <-c:
	case <-again.C:
	case <-ctx.Done():
	}
	return ctx.Err() != nil
}

// TryReserve is Reserve without waiting, whatever the need: it is false where Reserve might wait, or fail.
func (b *Buffer) TryReserve(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil || b.draining || b.busy(n, Stored) {
		return false
	}
	b.reserved += n
	return true
}

// busy says that n more bytes would find no memory, or that who waits for them would not be told in time. While windows are
// committed a full journal stops nobody: the commit tells its waiters.
func (b *Buffer) busy(n int64, need Need) bool {
	switch {
	case b.err != nil || b.draining:
		return false
	case b.overfull(n):
		return true
	case need == Nobody || !b.late():
		return false
	case need == Stored:
		return true
	}
	for _, w := range b.uncommitted() {
		n += w.unwrittenBytes() // the journal has no holes: what came before goes before
	}
	return b.reserved+n > b.journal.Room()
}

// Away says that the stores seem to be away: a window is on its way, and nothing has been committed for Config.Late.
func (b *Buffer) Away() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.late()
}

func (b *Buffer) late() bool {
	return b.cfg.Late > 0 && len(b.flight) > 0 && time.Since(later(b.flight[0].closed, b.finished)) > b.cfg.Late
}

// overfull says that n more bytes do not fit. An empty buffer takes any request.
func (b *Buffer) overfull(n int64) bool {
	return b.uncommit+b.reserved > 0 && b.uncommit+b.reserved+n > b.cfg.BufferBytes
}

// Unreserve gives a reservation back.
func (b *Buffer) Unreserve(n int64) {
	b.mu.Lock()
	b.reserved -= n
	last := b.reserved == 0
	b.wakeRoom()
	b.mu.Unlock()
	if last {
		wake(b.due)
	}
}

func (b *Buffer) wakeRoom() {
	for _, c := range b.room {
		close(c)
	}
	b.room = nil
}

// Append copies bt into the open window; w is told when need is met, unless need is Nobody. The caller holds o's lock, so
// that offsets and order agree. The batch in the window lives until o.Committed has returned, or as long as it is held.
func (b *Buffer) Append(o Owner, bt batch.Batch, need Need, w Waiter, slot int) (Held, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil || b.draining {
		return Held{}, ErrEnded
	}
	win := b.open
	if len(win.entries) == 0 {
		win.opened = time.Now()
		wake(b.due)
	}
	kept := win.add(o, bt, need, w, slot, b.me.Epoch)
	b.uncommit += int64(len(bt))
	// With acks=0 nobody waits for an answer, but readers wait for the commit: only `local` topics are read before it.
	if need != Local && !win.wanted {
		win.wanted = true
		wake(b.due)
	}
	if win.bytes >= b.cfg.WindowBytes {
		wake(b.due)
	}
	if win.bytes >= maxWindow {
		b.full = append(b.full, win)
		b.open = b.newWindow()
	}
	if need == Local || need == Synced {
		b.wantSync = true
		wake(b.sync)
	}
	return Held{kept, win}, nil
}

// Release gives partitions up by a numbered commit, after every window that contains them is committed. Their owners must
// have been closed: they take no more appends. When ctx ends first, the release is still on its way.
func (b *Buffer) Release(ctx context.Context, ids []metadata.PartitionID) error {
	r := &release{make(map[metadata.PartitionID]bool, len(ids)), make(chan error, 1)}
	for _, id := range ids {
		r.ids[id] = true
	}
	b.mu.Lock()
	if b.err != nil {
		defer b.mu.Unlock()
		return b.err
	}
	b.releases = append(b.releases, r)
	b.open.wanted = b.open.wanted || b.open.holds(r.has)
	b.mu.Unlock()
	wake(b.due)
	wake(b.commit)
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Pending says how much is not yet in the object store: bytes, and since when the oldest waits.
func (b *Buffer) Pending() (bytes int64, oldest time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if w := b.uncommitted()[0]; len(w.entries) > 0 {
		oldest = w.opened
	}
	return b.uncommit, oldest
}

// Holds says whether anything of a topic is not yet committed. What is committed has been given to the sink.
func (b *Buffer) Holds(topic int32) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	of := func(id metadata.PartitionID) bool { return id.Topic == topic }
	return slices.ContainsFunc(b.uncommitted(), func(w *window) bool { return w.holds(of) })
}

// uncommitted is every window, oldest first; the open one, which may be empty, last.
func (b *Buffer) uncommitted() []*window { return append(slices.Concat(b.flight, b.full), b.open) }

// Quiesce returns when everything that was appended before is committed, and its owners know.
func (b *Buffer) Quiesce(ctx context.Context) error {
	w := make(quiet, 1)
	b.mu.Lock()
	all := b.uncommitted()
	if len(b.open.entries) == 0 {
		all = all[:len(all)-1]
	}
	if b.err != nil || len(all) == 0 {
		defer b.mu.Unlock()
		return b.err
	}
	win := all[len(all)-1]
	win.watch = append(win.watch, w)
	win.wanted, win.urgent = true, true
	b.mu.Unlock()
	wake(b.due)
	select {
	case err := <-w:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// quiet is told once, when its window is committed or never will be. Capacity 1.
type quiet chan error

// Ended is closed when the session is over; Err then says why.
func (b *Buffer) Ended() <-chan struct{} { return b.ended }

// Err says why the session is over, or nil.
func (b *Buffer) Err() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// Session whose windows these are.
func (b *Buffer) Session() metadata.Session { return b.me }

// end stops everything: what is not committed stays unanswered for, its waiters are told that nothing is known.
func (b *Buffer) end(err error) {
	b.mu.Lock()
	if b.err != nil {
		b.mu.Unlock()
		return
	}
	b.err = err
	windows := b.uncommitted()
	releases := b.releases
	b.releases = nil
	b.wakeRoom()
	var calls []call
	var watch []quiet
	for _, w := range windows {
		calls = append(calls, w.take(0, len(w.entries), Stored)...)
		watch = append(watch, w.watch...)
		w.watch = nil
	}
	b.mu.Unlock()
	close(b.ended)
	for _, r := range releases {
		r.done <- err
	}
	for _, q := range watch {
		q <- err
	}
	tell(calls, fmt.Errorf("%w: %w", ErrEnded, err))
}
