package flush

import (
	"context"
	"errors"

	"varve.dev/tiering/journal"
)

// part is what one window has for the journal.
type part struct {
	w      *window
	chunks [][]byte
	// where the window stands when the part is written
	written, mark, entries int
}

// syncJournal writes and syncs whenever somebody waits: the next group forms while the last one is on its way to the disk.
func (b *Buffer) syncJournal(ctx context.Context) {
	full := false
	for {
		select {
		case <-b.sync:
		case <-ctx.Done():
			return
		}
		parts := b.unwritten()
		if len(parts) == 0 {
			continue
		}
		err := b.writeParts(parts)
		for _, p := range parts {
			p.w.release()
		}
		switch {
		case err == nil:
			full = false
		case errors.Is(err, journal.ErrFull):
			// The commit, which makes room, is the stronger promise: who waits is told then at the latest.
			if !full {
				b.cfg.Logger.Warn("the journal is full; acknowledgements wait for the object store", "err", err)
			}
			full = true
			b.hurry()
		default:
			b.breakJournal(ctx, err)
			return
		}
	}
}

// unwritten gathers what the journal lacks of all uncommitted windows, oldest first: a journal without holes is what makes
// a recovered tail contiguous.
func (b *Buffer) unwritten() (parts []part) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.wantSync || b.err != nil {
		return nil
	}
	b.wantSync = false
	for _, w := range b.uncommitted() {
		if p := w.unwritten(); len(p.chunks) > 0 || p.entries > w.told {
			w.retain()
			parts = append(parts, p)
		}
	}
	return parts
}

func (w *window) unwritten() part {
	p := part{w: w, written: w.written, mark: w.mark, entries: len(w.entries)}
	for i := w.written; i < len(w.chunks); i++ {
		c := w.chunks[i]
		if p.mark < len(c) {
			p.chunks = append(p.chunks, c[p.mark:])
		}
		p.written, p.mark = i, len(c)
		if i+1 < len(w.chunks) {
			p.written, p.mark = i+1, 0
		}
	}
	return p
}

func (b *Buffer) writeParts(parts []part) error {
	for _, p := range parts {
		if len(p.chunks) == 0 {
			continue
		}
		if err := b.journal.Write(p.w.serial, p.chunks...); err != nil {
			if errors.Is(err, journal.ErrFull) {
				b.mu.Lock()
				b.wantSync = true
				b.mu.Unlock()
			}
			return err
		}
		b.mu.Lock()
		p.w.written, p.w.mark = p.written, p.mark
		b.mu.Unlock()
	}
	if err := b.journal.Sync(); err != nil {
		return err
	}
	b.cfg.Metrics.Syncs.Inc()
	for _, p := range parts {
		b.mu.Lock()
		from := p.w.told
		p.w.told = p.entries
		entries := p.w.entries[from:p.entries]
		calls := p.w.take(from, p.entries, Synced)
		b.mu.Unlock()
		for i := range entries {
			if entries[i].need != Stored {
				entries[i].owner.Synced(entries[i].batch.End())
			}
		}
		tell(calls, nil)
	}
	return nil
}

// hurry asks for the commit of everything that is open.
func (b *Buffer) hurry() {
	b.mu.Lock()
	b.open.wanted = true
	b.mu.Unlock()
	wake(b.due)
}

// breakJournal ends the session, but only after what memory still holds is in the object store: an fsync that failed
// proves nothing of what was written before it, and is never repeated and believed.
func (b *Buffer) breakJournal(ctx context.Context, cause error) {
	b.cfg.Logger.Error("the journal is broken: flushing what memory holds, then stopping", "err", cause)
	if err := b.Drain(ctx); err != nil {
		cause = errors.Join(cause, err)
	}
	b.end(cause)
}
