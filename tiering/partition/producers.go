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

// producers holds, for each producer id, its newest batches, oldest first, all of one epoch.
type producers map[int64][]object.Producer

// check holds an idempotent batch to its producer's state. dup is its original where it was appended before.
func (ps producers) check(b batch.Batch) (dup *batch.Entry, err error) {
	id := b.ProducerID()
	if id < 0 {
		return nil, nil
	}
	known := ps[id]
	if len(known) == 0 {
		return nil, nil // nothing is known: any sequence number is accepted
	}
	last := &known[len(known)-1]
	switch epoch := b.ProducerEpoch(); {
	case epoch < last.Epoch:
		return nil, fmt.Errorf("%w: epoch %d of producer %d, the newest is %d", ErrProducerFenced, epoch, id, last.Epoch)
	case epoch > last.Epoch:
		if b.BaseSequence() != 0 {
			return nil, fmt.Errorf("%w: producer %d starts epoch %d with %d", ErrOutOfOrder, id, epoch, b.BaseSequence())
		}
		return nil, nil
	}
	for i := range known {
		if e := &known[i].Entry; e.FirstSeq == b.BaseSequence() && e.LastSeq == b.LastSequence() {
			return e, nil
		}
	}
	if want := batch.AddSequence(last.LastSeq, 1); b.BaseSequence() != want {
		return nil, fmt.Errorf("%w: producer %d sent %d, want %d", ErrOutOfOrder, id, b.BaseSequence(), want)
	}
	return nil, nil
}

func (ps producers) add(e object.Producer) {
	if e.ID < 0 {
		return
	}
	known := ps[e.ID]
	if len(known) > 0 && known[0].Epoch != e.Epoch {
		known = nil
	}
	if len(known) == window {
		copy(known, known[1:])
		known = known[:window-1]
	}
	ps[e.ID] = append(known, e)
}

// restore adds entries of a directory: deltas, or a snapshot. What is already known by offset is not added again.
func (ps producers) restore(entries []object.Producer) {
	for _, e := range entries {
		if known := ps[e.ID]; len(known) > 0 {
			if last := &known[len(known)-1]; e.LastOffset <= last.LastOffset {
				continue
			}
		}
		ps.add(e)
	}
}

// list is every entry whose producer was active since before, by producer and offset.
func (ps producers) list(since time.Time) (all []object.Producer) {
	for _, known := range ps {
		if known[len(known)-1].Timestamp >= since.UnixMilli() {
			all = append(all, known...)
		}
	}
	slices.SortFunc(all, func(a, b object.Producer) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.LastOffset, b.LastOffset))
	})
	return all
}

// Producers lists the active producers' newest batches (DescribeProducers).
func (p *Partition) Producers(now time.Time) []object.Producer {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.producers.list(now.Add(-p.cfg.ProducerExpiry))
}

// ExpireProducers forgets producers that have been silent for longer than their expiry.
func (p *Partition) ExpireProducers(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	since := now.Add(-p.cfg.ProducerExpiry).UnixMilli()
	for id, known := range p.producers {
		if last := &known[len(known)-1]; last.Timestamp < since && last.LastOffset < p.committed {
			delete(p.producers, id)
		}
	}
}
