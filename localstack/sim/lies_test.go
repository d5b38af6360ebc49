package sim

import (
	"context"
	"errors"
	"fmt"
	"time"

	"varve.dev/metadata"
)

// A world may lie, which is how a product looks from outside that breaks the rule itself: it acknowledges what is not
// there. Nothing has to be built for that.
const (
	lieName = "VARVE_SIM_LIE"

	lieSynced    = "acknowledged before the fsync"
	lieStored    = "committed before the object is stored"
	lieCommitted = "acknowledged before the commit"
	lieFenced    = "a fenced commit is taken for done"
	lieIDs       = "producer ids are given out again"
	lieGroups    = "a fenced coordinator writes on"
	lieAsked     = "the session is asked before the statement goes"
	lieTrimmed   = "records are deleted in memory only"
)

// witness sees what one life's statements have come to, and counts what is worth it. It stands below the faults.
type witness struct {
	metadata.Store
	w    *world
	gate *gate

	did   map[string]int // statements that took effect; guarded by w.mu
	queue chan struct{}  // of lieCommitted: closed when the commit before has happened; guarded by w.mu
}

func (s *witness) done(name string, err error) {
	if err == nil {
		s.w.mu.Lock()
		s.did[name]++
		s.w.mu.Unlock()
	}
}

func (s *witness) times(name string) int {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	return s.did[name]
}

// flushing says whether an object of a window is on its way.
func (w *world) flushing() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.uploads > 0
}

func (s *witness) Commit(ctx context.Context, me metadata.Session, c metadata.Commit) error {
	if s.w.lie == lieCommitted {
		s.commitSoon(me, c)
		return nil
	}
	err := s.Store.Commit(ctx, me, c)
	fenced := errors.Is(err, metadata.ErrFenced)
	if s.w.lie == lieFenced && fenced {
		return nil
	}
	if s.w.lie == lieAsked && fenced && s.times(heldAt(c)) > 0 {
		return s.w.commitAnyway(ctx, c)
	}
	if err == nil {
		s.w.mu.Lock()
		s.w.newest.seq = c.To()
		s.w.mu.Unlock()
	}
	return err
}

// heldAt is what it is counted as that the session held when a commit was sent.
func heldAt(c metadata.Commit) string { return fmt.Sprintf("commit %d was sent in time", c.To()) }

// newest is the session that holds, and its number.
type newest struct {
	metadata.Session
	seq int64
}

// commitAnyway commits under whatever session holds now.
func (w *world) commitAnyway(ctx context.Context, c metadata.Commit) error {
	w.mu.Lock()
	n := w.newest
	w.mu.Unlock()
	c.From = n.seq
	return w.meta.Commit(ctx, n.Session, c)
}

func (s *witness) Start(ctx context.Context, a metadata.Agent, nonce uint64, doomed func(metadata.Ended) []string, grace metadata.Grace) (metadata.Session, metadata.Ended, error) {
	me, before, err := s.Store.Start(ctx, a, nonce, doomed, grace)
	if err == nil {
		s.w.mu.Lock()
		s.w.newest = newest{Session: me}
		s.w.mu.Unlock()
	}
	return me, before, err
}

// commitSoon commits in a while, one behind the other, and not if the life ends before.
func (s *witness) commitSoon(me metadata.Session, c metadata.Commit) {
	mine := make(chan struct{})
	s.w.mu.Lock()
	before := s.queue
	s.queue = mine
	s.w.mu.Unlock()
	s.w.later(200*time.Millisecond, func() {
		defer close(mine)
		if before != nil {
			<-before
		}
		s.gate.do(func() { _ = s.Store.Commit(context.Background(), me, c) })
	})
}

func (s *witness) Replace(ctx context.Context, me metadata.Session, out metadata.Sealing) error {
	err := s.Store.Replace(ctx, me, out)
	s.done("sealing", err)
	p := s.w.plan
	switch {
	case errors.Is(err, metadata.ErrConflict):
		p.count("sealing refused")
	case err != nil:
		return err
	case p.now() < rest:
		p.count("sealed under load")
		if s.w.flushing() {
			p.count("sealed during a flush")
		}
	}
	if out.Pack != nil {
		p.count("pack written")
	}
	if len(out.Promote) > 0 {
		p.count("sealed where it lies")
	}
	return err
}

func (s *witness) Move(ctx context.Context, me metadata.Session, m metadata.Moving) error {
	err := s.Store.Move(ctx, me, m)
	if err == nil {
		s.w.plan.count("sealed object rewritten")
	}
	return err
}

func (s *witness) Trim(ctx context.Context, me metadata.Session, ts []metadata.Trim, grace metadata.Grace) error {
	if s.w.lie == lieTrimmed {
		return nil
	}
	err := s.Store.Trim(ctx, me, ts, grace)
	s.done("trim", err)
	if err == nil && s.w.trimming.Load() && s.w.flushing() {
		s.w.plan.count("records deleted during a flush")
	}
	return err
}

func (s *witness) Acquire(ctx context.Context, me metadata.Session, as []metadata.Acquisition) ([]metadata.PartitionID, error) {
	ids, err := s.Store.Acquire(ctx, me, as)
	s.done("acquisition", err)
	return ids, err
}

func (s *witness) Write(ctx context.Context, me metadata.Session, gw metadata.GroupWrite) ([]int32, error) {
	lost, err := s.w.offsets.write(ctx, s.w, s.Store, me, gw)
	s.done("group write", err)
	if s.w.lie == lieGroups && (errors.Is(err, metadata.ErrFenced) || len(lost) > 0) {
		return nil, nil
	}
	return lost, err
}

func (s *witness) DeleteTopic(ctx context.Context, num int32, grace metadata.Grace) error {
	err := s.Store.DeleteTopic(ctx, num, grace)
	if err == nil && s.w.flushing() {
		s.w.plan.count("topic deleted during a flush")
	}
	return err
}

func (s *witness) ProducerIDs(ctx context.Context, n int64) (int64, error) {
	first, err := s.Store.ProducerIDs(ctx, n)
	if s.w.lie == lieIDs && err == nil {
		return 1, nil
	}
	return first, err
}

// asker sees what the life hears of its statements, above the faults.
type asker struct {
	*database
	seen *witness
}

// unknown counts statements whose reply was lost, by what they have come to.
func (a *asker) unknown(name string, f func() error) error {
	before := a.seen.times(name)
	err := f()
	if errors.Is(err, metadata.ErrUnknown) {
		if a.seen.times(name) > before {
			a.w.plan.count("unknown " + name + ": it was done")
		} else {
			a.w.plan.count("unknown " + name + ": it was not")
		}
	}
	return err
}

func (a *asker) Commit(ctx context.Context, me metadata.Session, c metadata.Commit) error {
	if a.w.lie == lieAsked {
		a.w.mu.Lock()
		if a.w.newest.Epoch == me.Epoch {
			a.seen.did[heldAt(c)]++
		}
		a.w.mu.Unlock()
	}
	return a.database.Commit(ctx, me, c)
}

func (a *asker) Replace(ctx context.Context, me metadata.Session, out metadata.Sealing) error {
	return a.unknown("sealing", func() error { return a.database.Replace(ctx, me, out) })
}

func (a *asker) Trim(ctx context.Context, me metadata.Session, ts []metadata.Trim, grace metadata.Grace) error {
	return a.unknown("trim", func() error { return a.database.Trim(ctx, me, ts, grace) })
}

func (a *asker) Acquire(ctx context.Context, me metadata.Session, as []metadata.Acquisition) (ids []metadata.PartitionID, err error) {
	err = a.unknown("acquisition", func() error {
		ids, err = a.database.Acquire(ctx, me, as)
		return err
	})
	return ids, err
}

func (a *asker) Write(ctx context.Context, me metadata.Session, gw metadata.GroupWrite) (lost []int32, err error) {
	err = a.unknown("group write", func() error {
		lost, err = a.database.Write(ctx, me, gw)
		return err
	})
	return lost, err
}

var _ metadata.Store = (*asker)(nil)
