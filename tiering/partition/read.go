package partition

import (
	"fmt"
	"slices"
	"sort"
	"time"

	"varve.dev/metadata"
	"varve.dev/tiering/fetch"
	"varve.dev/tiering/object"
	"varve.dev/tiering/seal"
)

// Plan says where the bytes from offset on lie; it does not read them. The caller releases the plan, or hands it to
// fetch.Reader.
func (p *Partition) Plan(from int64, maxBytes int) (fetch.Plan, Offsets, error) {
	var plan fetch.Plan
	at, err := p.PlanInto(&plan, from, maxBytes)
	return plan, at, err
}

// PlanInto is Plan in the memory of an earlier one, which is released.
func (p *Partition) PlanInto(plan *fetch.Plan, from int64, maxBytes int) (Offsets, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := Offsets{p.logStart, p.sealedEnd, p.committed, p.hw, p.hw, p.end, p.epoch.Epoch}
	*plan = fetch.Plan{Partition: p.id, From: from, Max: maxBytes, SealedEnd: p.sealedEnd, Pieces: plan.Pieces[:0], Held: plan.Held[:0]}
	switch {
	case from < p.logStart || from > p.end:
		return at, fmt.Errorf("%w: %d is not in [%d, %d]", ErrOutOfRange, from, p.logStart, p.end)
	case from >= p.hw:
		return at, nil
	case from < p.sealedEnd:
		// Windows are not held while history is read: that may take long.
		plan.Sealed = true
		p.pieces(plan, p.sealedEnd, int64(maxBytes))
		return at, nil
	}
	p.unsealed(plan, from, int64(maxBytes))
	return at, nil
}

// unsealed adds extents, and what only a window holds, up to the high watermark.
func (p *Partition) unsealed(plan *fetch.Plan, from, maxBytes int64) {
	n := p.pieces(plan, from, maxBytes)
	for _, t := range p.tail {
		if b := t.held.Batch; n < max(maxBytes, 1) && b.End() > from && b.End() <= p.hw {
			t.held.Retain()
			plan.Held = append(plan.Held, t.held)
			n += int64(len(b))
		}
	}
}

// pieces adds extents: as many as it takes, one at least where there is one.
func (p *Partition) pieces(plan *fetch.Plan, from, maxBytes int64) (n int64) {
	i := sort.Search(len(p.extents), func(i int) bool { return p.extents[i].r.End > from })
	for ; i < len(p.extents) && n < max(maxBytes, 1); i++ {
		x := p.extents[i]
		plan.Pieces = append(plan.Pieces, fetch.Piece{Stored: x.stored, Range: x.r})
		n += x.r.Len
	}
	return n
}

// PlanTime is a plan of everything from the log start on, for a seek by time.
func (p *Partition) PlanTime() (fetch.Plan, Offsets) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := Offsets{p.logStart, p.sealedEnd, p.committed, p.hw, p.hw, p.end, p.epoch.Epoch}
	plan := fetch.Plan{Partition: p.id, From: p.logStart, SealedEnd: p.sealedEnd, Sealed: p.logStart < p.sealedEnd}
	p.unsealed(&plan, max(p.logStart, p.sealedEnd), 1<<62)
	return plan, at
}

// MaxTimestamp is the largest timestamp of what is not sealed and may be read, -1: there is none.
func (p *Partition) MaxTimestamp() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	newest := int64(-1)
	for _, x := range p.extents {
		newest = max(newest, x.r.MaxTimestamp)
	}
	for _, t := range p.tail {
		if t.held.Batch.End() <= p.hw {
			newest = max(newest, t.held.Batch.MaxTimestamp())
		}
	}
	return newest
}

// Readable is how many bytes beyond from can be read now, at least 1 where any can; sealed history counts as plenty.
func (p *Partition) Readable(from int64) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed != nil || from < p.logStart || from > p.end {
		return plenty // an answer is due at once
	}
	if from >= p.hw {
		return 0
	}
	if from < p.sealedEnd {
		return plenty
	}
	var n int64
	for i := sort.Search(len(p.extents), func(i int) bool { return p.extents[i].r.End > from }); i < len(p.extents); i++ {
		n += p.extents[i].r.Len
	}
	for _, t := range p.tail {
		if e := t.held.Batch.End(); e > from && e <= p.hw {
			n += int64(len(t.held.Batch))
		}
	}
	return max(n, 1)
}

const plenty = 1 << 40

// Watch calls wake once, without the lock, when something beyond from becomes readable, or when leadership ends. Where
// that is so already, wake is called before Watch returns.
func (p *Partition) Watch(from int64, wake func()) (cancel func()) {
	w := &watcher{from, wake}
	p.mu.Lock()
	if p.closed != nil || p.hw > from {
		p.mu.Unlock()
		wake()
		return func() {}
	}
	p.watchers[w] = struct{}{}
	p.mu.Unlock()
	return func() {
		p.mu.Lock()
		delete(p.watchers, w)
		p.mu.Unlock()
	}
}

func (p *Partition) takeWatchers() (wakes []func()) {
	for w := range p.watchers {
		if p.hw > w.from {
			wakes = append(wakes, w.wake)
			delete(p.watchers, w)
		}
	}
	return wakes
}

func (p *Partition) allWatchers() (wakes []func()) {
	for w := range p.watchers {
		wakes = append(wakes, w.wake)
	}
	clear(p.watchers)
	return wakes
}

// CheckEpoch holds a client's current leader epoch to ours; -1: it does not say.
func (p *Partition) CheckEpoch(epoch int32) error {
	switch {
	case epoch < 0 || epoch == p.epoch.Epoch:
		return nil
	case epoch < p.epoch.Epoch:
		return fmt.Errorf("%w: %d, ours is %d", ErrEpochFenced, epoch, p.epoch.Epoch)
	}
	return fmt.Errorf("%w: %d, ours is %d", ErrEpochUnknown, epoch, p.epoch.Epoch)
}

// EpochEnd answers the largest epoch that is not above the one asked for, and where it ends; (-1, -1): the epoch is newer
// than ours (OffsetForLeaderEpoch). Of an epoch that is older than the log it says that it ended where the oldest known one
// starts: its records are deleted, which is no truncation (Kafka's LeaderEpochFileCache.endOffsetFor).
func (p *Partition) EpochEnd(epoch int32) (found int32, end int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case epoch == p.epoch.Epoch:
		return epoch, p.end
	case epoch < 0 || epoch > p.epoch.Epoch:
		return -1, -1
	}
	for i := len(p.epochs) - 2; i >= 0; i-- { // the last is our own
		if p.epochs[i].Epoch <= epoch {
			return p.epochs[i].Epoch, p.epochs[i+1].Start
		}
	}
	return epoch, p.epochs[0].Start
}

// EpochAt is the leader epoch of an offset.
func (p *Partition) EpochAt(offset int64) int32 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return EpochAt(p.epochs, offset)
}

// EpochAt is the leader epoch of an offset in a history, -1: none.
func EpochAt(history []metadata.EpochStart, offset int64) int32 {
	for i := len(history) - 1; i >= 0; i-- {
		if history[i].Start <= offset {
			return history[i].Epoch
		}
	}
	return -1
}

// Sealing is what the seal must know of the partition now.
func (p *Partition) Sealing() seal.State {
	p.mu.Lock()
	defer p.mu.Unlock()
	return seal.State{LogStart: p.logStart, SealedEnd: p.sealedEnd, LastStable: p.committed, SegmentAge: p.cfg.SegmentAge, LocalRetention: p.cfg.LocalRetention}
}

// ProducersAt is the producers' state at an offset that is committed. A producer that has committed more than a window since
// then is told by what it committed: whoever restores reads that too.
func (p *Partition) ProducersAt(end int64) []object.Producer {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.DeleteFunc(p.remembered(time.Now()), func(e object.Producer) bool { return e.LastOffset >= end })
}

// EpochsIn is the history within [base, end), the epoch at base first.
func (p *Partition) EpochsIn(base, end int64) (in []metadata.EpochStart) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, e := range p.epochs {
		if e.Start >= end {
			break
		}
		if i+1 < len(p.epochs) && p.epochs[i+1].Start <= base {
			continue
		}
		in = append(in, metadata.EpochStart{Epoch: e.Epoch, Start: max(e.Start, base)})
	}
	return in
}

// Expired is how far the unsealed head is older than a moment: the end of the last of its first ranges that is, as far as
// the log starts there.
func (p *Partition) Expired(before time.Time) (logStart int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, x := range p.extents {
		if x.r.MaxTimestamp >= before.UnixMilli() {
			break
		}
		logStart = x.r.End
	}
	return logStart
}
