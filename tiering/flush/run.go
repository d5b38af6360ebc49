package flush

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"varve.dev/metadata"
	"varve.dev/objectstore"
	"varve.dev/tiering/object"
)

// Backoff between attempts of what must not be given up.
const (
	firstBackoff = 50 * time.Millisecond
	lastBackoff  = 3 * time.Second
)

// Run flushes until ctx ends or the session does, and returns why the session ended (nil after ctx). What is not committed
// then is left to the journal and to nobody; Drain first.
func (b *Buffer) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { b.closeWindows(ctx, &wg) })
	wg.Go(func() { b.syncJournal(ctx) })
	wg.Go(func() { b.commitWindows(ctx) })
	select {
	case <-ctx.Done():
		b.end(context.Canceled)
	case <-b.ended:
		cancel()
	}
	wg.Wait()
	if err := b.Err(); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// Drain takes no more appends and returns when everything is committed.
func (b *Buffer) Drain(ctx context.Context) error {
	b.mu.Lock()
	b.draining = true
	b.wakeRoom()
	b.mu.Unlock()
	return b.Quiesce(ctx)
}

// pause waits, longer each time; it is false when ctx has ended.
func pause(ctx context.Context, d *time.Duration) bool {
	*d = min(max(2**d, firstBackoff), lastBackoff)
	t := time.NewTimer(*d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// closeWindows closes the open window when it is due and starts its upload.
func (b *Buffer) closeWindows(ctx context.Context, uploads *sync.WaitGroup) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var last time.Time
	for {
		w, wait := b.closeDue(last)
		if w != nil {
			last = time.Now()
			uploads.Go(func() { b.upload(ctx, w) })
			continue
		}
		timer.Reset(wait)
		select {
		case <-b.due:
		case <-timer.C:
		case <-ctx.Done():
			return
		}
	}
}

// gather is how long a window stays open for requests that are being appended: one of many partitions is then one flush,
// not a flush for its first batch and an interval for the rest. Appending a thousand takes a millisecond.
const gather = 10 * time.Millisecond

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// closeDue closes the open window if it is due, or says how long to wait. The interval limits the rate, it does not
// delay: the first window after a quiet time goes at once.
func (b *Buffer) closeDue(last time.Time) (w *window, wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil || len(b.flight) >= b.cfg.InFlight {
		return nil, time.Hour
	}
	if len(b.full) > 0 {
		w, b.full = b.full[0], b.full[1:]
		return b.close(w), 0
	}
	if w = b.open; len(w.entries) == 0 {
		return nil, time.Hour
	}
	due := last.Add(b.cfg.Interval)
	if !w.wanted {
		due = w.opened.Add(b.cfg.IdleInterval)
	}
	if b.reserved > 0 {
		due = later(due, w.opened.Add(gather)) // what comes with the first batch goes with it
	}
	if wait = time.Until(due); wait > 0 && !w.urgent && w.bytes < b.cfg.WindowBytes {
		return nil, wait
	}
	b.open = b.newWindow()
	return b.close(w), 0
}

// close gives the window its number: its upload begins.
func (b *Buffer) close(w *window) *window {
	w.number, w.closed = b.numbers.Take(), time.Now()
	b.flight = append(b.flight, w)
	return w
}

// upload builds the window's object and stores it, for as long as the session lives.
func (b *Buffer) upload(ctx context.Context, w *window) {
	b.mu.Lock()
	through := b.numbers.Known()
	b.mu.Unlock()
	h := object.Header{Cluster: b.cfg.Cluster, Incarnation: b.me.Incarnation, Agent: b.me.Agent, Session: b.me.Epoch, Nonce: b.me.Nonce,
		First: w.number, Last: w.number, CommittedThrough: through, Kind: metadata.WAL, CreatedAt: time.Now().UnixMilli()}
	im := w.build(h)
	started := time.Now()
	try, err := b.put(ctx, w.number, im)
	if err != nil {
		im.Release()
		if ctx.Err() == nil {
			b.end(err)
		}
		return
	}
	b.cfg.Metrics.Upload.Observe(time.Since(started).Seconds())
	b.mu.Lock()
	w.image = im
	w.stored = &object.Stored{Dir: im.Directory(), WALObject: metadata.WALObject{Session: b.me, First: w.number, Last: w.number,
		Kind: metadata.WAL, Object: im.Object(b.cfg.Prefix(w.number, try)), Tries: try + 1, Directory: im.Bytes()}}
	b.mu.Unlock()
	wake(b.commit)
}

// put retries under the same key, with the same bytes. A foreign object under the key asks for a new try.
func (b *Buffer) put(ctx context.Context, number int64, im *object.Image) (try int32, err error) {
	var backoff time.Duration
	doubt, rounds := false, 0 // of the key: an earlier request may have taken effect
	for {
		key := b.cfg.Prefix(number, try)
		err := b.store.Put(ctx, key, im)
		if doubt && errors.Is(err, objectstore.ErrExists) {
			err = b.ours(ctx, key, im)
		}
		switch {
		case err == nil:
			return try, nil
		case errors.Is(err, objectstore.ErrExists):
			doubt = false
			if try++; int(try) == b.cfg.MaxTries {
				return try, fmt.Errorf("store window %d: %d keys are taken by other bytes: %w", number, try, err)
			}
			b.cfg.Logger.Error("a foreign object holds our key", "key", key)
			continue
		}
		doubt = true
		if rounds++; hopeless(err) && rounds >= maxHopeless {
			return try, fmt.Errorf("store window %d: %w", number, err)
		}
		b.cfg.Metrics.UploadErrors.Inc()
		b.cfg.Logger.Warn("upload failed, trying again", "key", key, "bytes", im.Size(), "err", err)
		if !pause(ctx, &backoff) {
			return try, ctx.Err()
		}
	}
}

// maxHopeless is how often an upload is repeated that will never succeed: whoever refuses the bytes may be at fault.
const maxHopeless = 3

// hopeless: the bytes are not what they say, or the key is none. What is lost then is a suffix that nobody was promised.
func hopeless(err error) bool {
	return errors.Is(err, objectstore.ErrChecksum) || errors.Is(err, objectstore.ErrKey)
}

// ours tells our own object, whose reply was lost, from a foreign one.
func (b *Buffer) ours(ctx context.Context, key string, im *object.Image) error {
	info, err := b.store.Stat(ctx, key)
	if err == nil && (info.Size != im.Size() || !info.HasCRC32C || info.CRC32C != im.CRC32C()) {
		err = fmt.Errorf("%w: %s has %d bytes with CRC32C %#x, ours %d with %#x", objectstore.ErrExists, key, info.Size, info.CRC32C, im.Size(), im.CRC32C())
	}
	return err
}

// commitWindows commits stored windows in the order in which they were closed.
func (b *Buffer) commitWindows(ctx context.Context) {
	for {
		ws, rs, c := b.nextCommit()
		if len(ws) == 0 && len(rs) == 0 {
			select {
			case <-b.commit:
				continue
			case <-ctx.Done():
				return
			}
		}
		started := time.Now()
		err := b.commitKnown(ctx, c)
		if err != nil {
			for _, r := range rs {
				r.done <- err
			}
			if ctx.Err() == nil {
				b.end(err)
			}
			return
		}
		b.cfg.Metrics.Commit.Observe(time.Since(started).Seconds())
		b.finish(ws, c.To())
		for _, r := range rs {
			r.done <- nil
		}
	}
}

// nextCommit gathers the stored windows at the head of the line, and the releases that nothing uncommitted holds up.
func (b *Buffer) nextCommit() (ws []*window, rs []*release, c metadata.Commit) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return nil, nil, c
	}
	c = metadata.Commit{From: b.numbers.Known(), JournalSynced: b.journal.SyncedPosition()}
	for _, w := range b.flight {
		if w.stored == nil {
			break
		}
		ws = append(ws, w)
		c.Objects = append(c.Objects, w.stored.WALObject)
	}
	if len(ws) == 0 && !b.numbers.Idle() {
		return nil, nil, c // a release alone takes a number, and the windows in flight have theirs: it goes with the next one
	}
	b.releases = slices.DeleteFunc(b.releases, func(r *release) bool {
		if slices.ContainsFunc(b.uncommitted()[len(ws):], func(w *window) bool { return w.holds(r.has) }) {
			return false
		}
		rs = append(rs, r)
		for id := range r.ids {
			c.Release = append(c.Release, id)
		}
		return true
	})
	if len(ws) == 0 && len(rs) > 0 {
		b.numbers.Take()
	}
	return ws, rs, c
}

func (r *release) has(id metadata.PartitionID) bool { return r.ids[id] }

// commitKnown returns when the commit is known to have happened, or when it never will.
func (b *Buffer) commitKnown(ctx context.Context, c metadata.Commit) error {
	var backoff time.Duration
	for {
		err := b.index.Commit(ctx, b.me, c)
		next := Replied(err)
		if next == Ask {
			b.cfg.Logger.Warn("outcome of a commit is unknown", "number", c.To(), "err", err)
			next, err = b.settle(ctx, c)
		}
		switch next {
		case Done:
			return nil
		case Over:
			return err
		}
		b.cfg.Logger.Warn("commit failed, trying again", "number", c.To(), "err", err)
		b.cfg.Metrics.CommitRetries.Inc()
		if !pause(ctx, &backoff) {
			return ctx.Err()
		}
	}
}

func (b *Buffer) settle(ctx context.Context, c metadata.Commit) (Next, error) {
	var backoff time.Duration
	for {
		last, err := b.index.Settle(ctx, b.me, c.From, c.To())
		next, err := Settled(c, last, err)
		if next != Ask {
			return next, err
		}
		if !pause(ctx, &backoff) {
			return Over, ctx.Err()
		}
	}
}

// finish hands committed windows over: their images to the sink, the news to owners and waiters, their room to the next.
func (b *Buffer) finish(ws []*window, to int64) {
	for _, w := range ws {
		b.sink.Keep(w.stored, w.image)
		for i := range w.owners {
			w.owners[i].Committed(w.stored, &w.stored.Dir.Ranges[i])
		}
		b.sink.Flushed(w.stored)
	}
	var calls []call
	var watch []quiet
	journaled := false
	b.mu.Lock()
	b.numbers.Advance(to)
	b.finished = time.Now()
	for _, w := range ws {
		calls = append(calls, w.take(0, len(w.entries), Stored)...)
		watch = append(watch, w.watch...)
		journaled = journaled || w.written > 0 || w.mark > 0
		b.uncommit -= w.bytes
		b.cfg.Metrics.Objects.Inc()
		b.cfg.Metrics.Bytes.Add(float64(w.stored.Object.Length))
	}
	b.flight = slices.Delete(b.flight, 0, len(ws))
	b.mu.Unlock()
	tell(calls, nil)
	for _, q := range watch {
		q <- nil
	}
	if journaled {
		if err := b.journal.Release(ws[len(ws)-1].serial); err != nil {
			b.cfg.Logger.Error("journal files could not be recycled", "err", err)
		}
	}
	for _, w := range ws {
		w.release()
	}
	b.mu.Lock()
	b.wakeRoom() // in memory, and in the journal
	b.mu.Unlock()
	wake(b.due)
	wake(b.commit)
	wake(b.sync) // a full journal may have room again
}
