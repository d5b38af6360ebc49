package partition

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"varve.dev/tiering/batch"
	"varve.dev/tiering/object"
)

// window is how many of a producer's batches are remembered: as many as a client may have in flight (Kafka's
// NUM_BATCHES_TO_RETAIN).
const window = 5

// producer is what is known of one producer id.
type producer struct {
	batches []object.Producer // the newest, oldest first, all of one epoch; never empty
	// stored are the newest that are committed. A producer may have a whole window on its way, which a crash takes with it:
	// who comes next goes on behind these.
	stored []object.Producer
	seen   int64 // when it last appended, milliseconds: its records may tell any other time
}

func (p *producer) last() *object.Producer { return &p.batches[len(p.batches)-1] }

// producers holds the state of each producer id (Kafka's ProducerStateManager).
type producers map[int64]*producer

// check holds an idempotent batch to its producer's state. dup is its original where it was appended before.
func (ps producers) check(b batch.Batch) (dup *batch.Entry, err error) {
	id := b.ProducerID()
	if id < 0 {
		return nil, nil
	}
	known := ps[id]
	if known == nil {
		return nil, nil // nothing is known: any sequence number is accepted
	}
	last := known.last()
	switch epoch := b.ProducerEpoch(); {
	case epoch < last.Epoch:
		return nil, fmt.Errorf("%w: epoch %d of producer %d, the newest is %d", ErrProducerFenced, epoch, id, last.Epoch)
	case epoch > last.Epoch:
		if b.BaseSequence() != 0 {
			return nil, fmt.Errorf("%w: producer %d starts epoch %d with %d", ErrOutOfOrder, id, epoch, b.BaseSequence())
		}
		return nil, nil
	}
	for i := range known.batches {
		if e := &known.batches[i].Entry; e.FirstSeq == b.BaseSequence() && e.LastSeq == b.LastSequence() {
			return e, nil
		}
	}
	if want := batch.AddSequence(last.LastSeq, 1); b.BaseSequence() != want {
		return nil, fmt.Errorf("%w: producer %d sent %d, want %d", ErrOutOfOrder, id, b.BaseSequence(), want)
	}
	return nil, nil
}

func (ps producers) add(e object.Producer, now int64) {
	if e.ID < 0 {
		return
	}
	p := ps[e.ID]
	if p == nil {
		p = &producer{batches: make([]object.Producer, 0, window)}
		ps[e.ID] = p
	}
	p.batches = push(p.batches, e)
	p.seen = max(p.seen, now)
}

// push puts e behind the others, of which those of another epoch or beyond the window go.
func push(batches []object.Producer, e object.Producer) []object.Producer {
	if len(batches) > 0 && batches[0].Epoch != e.Epoch {
		batches = batches[:0]
	}
	if len(batches) == window {
		batches = append(batches[:0], batches[1:]...)
	}
	return append(batches, e)
}

// commit notes what a committed range holds.
func (ps producers) commit(entries []object.Producer) {
	for _, e := range entries {
		if p := ps[e.ID]; p != nil && (len(p.stored) == 0 || p.stored[len(p.stored)-1].LastOffset < e.LastOffset) {
			p.stored = push(p.stored, e)
		}
	}
}

// restore adds entries of a directory that was made at a time: deltas, or a snapshot. What is already known by offset is
// not added again.
func (ps producers) restore(entries []object.Producer, made int64) {
	for _, e := range entries {
		if known := ps[e.ID]; known == nil || e.LastOffset > known.last().LastOffset {
			ps.add(e, max(made, e.Timestamp))
		}
	}
	ps.commit(entries)
}

// list is every entry whose producer has been active since, by producer and offset.
func (ps producers) list(since time.Time, of func(*producer) []object.Producer) (all []object.Producer) {
	for _, p := range ps {
		if p.seen >= since.UnixMilli() {
			all = append(all, of(p)...)
		}
	}
	slices.SortFunc(all, func(a, b object.Producer) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.LastOffset, b.LastOffset))
	})
	return all
}

// expire forgets producers that have been silent since, and have nothing beyond committed.
func (ps producers) expire(since time.Time, committed int64) {
	for id, p := range ps {
		if p.seen < since.UnixMilli() && p.last().LastOffset < committed {
			delete(ps, id)
		}
	}
}

// Producers lists the active producers' newest batches (DescribeProducers).
func (p *Partition) Producers(now time.Time) []object.Producer {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.producers.list(now.Add(-p.cfg.ProducerExpiry), func(p *producer) []object.Producer { return p.batches })
}

// Remember answers the producers' state at the committed end where nothing would be left to tell it once the log starts at
// logStart, which is committed: the newest segment goes, and what is dead is not sealed. Until something is sealed behind
// logStart, this is all that keeps a retry of a deleted batch from being appended again.
func (p *Partition) Remember(logStart int64, now time.Time) (state object.State, needed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if logStart < p.sealedEnd {
		return state, false
	}
	state = object.State{End: p.committed, MadeAt: now.UnixMilli(), MaxAppendTime: -1}
	if p.maxAppend > 0 {
		state.MaxAppendTime = p.maxAppend
	}
	state.Producers = slices.DeleteFunc(p.remembered(now), func(e object.Producer) bool { return e.LastOffset >= p.committed })
	return state, true
}

// remembered is what is committed of the producers that are not yet forgotten.
func (p *Partition) remembered(now time.Time) []object.Producer {
	return p.producers.list(now.Add(-p.cfg.ProducerExpiry), func(p *producer) []object.Producer { return p.stored })
}
