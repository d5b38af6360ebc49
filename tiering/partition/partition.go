// Package partition is the leader's side of one partition: offsets, producers, epochs, waiting fetches. No I/O.
//
// Its lock is taken before the flush buffer's; no callback runs under it.
package partition

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"varve.dev/metadata"
	"varve.dev/tiering/batch"
	"varve.dev/tiering/batch/codec"
	"varve.dev/tiering/flush"
	"varve.dev/tiering/object"
)

var (
	// ErrNotLeader: this agent does not lead the partition (any more). Nothing was appended.
	ErrNotLeader = errors.New("this agent does not lead the partition")
	// ErrOutOfRange: the offset is below the log start or beyond the end.
	ErrOutOfRange = errors.New("offset out of range")
	// ErrOutOfOrder: the sequence number is not the next one (OUT_OF_ORDER_SEQUENCE_NUMBER).
	ErrOutOfOrder = errors.New("out of order sequence number")
	// ErrProducerFenced: a newer epoch of the producer has written (INVALID_PRODUCER_EPOCH).
	ErrProducerFenced = errors.New("producer epoch is old")
	// ErrTooLarge: the batch is larger than max.message.bytes.
	ErrTooLarge = errors.New("record batch is too large")
	// ErrTimestamp: a timestamp lies too far from now (INVALID_TIMESTAMP).
	ErrTimestamp = errors.New("timestamp is out of the topic's range")
	// ErrTailFull: too much lies beyond the committed end. Nothing was appended; retriable.
	ErrTailFull = errors.New("the tail that is not yet in the object store is full")
	// ErrTransactions: transactional batches need transactions, which are not offered.
	ErrTransactions = errors.New("transactions are not offered")
	// ErrEpochFenced and ErrEpochUnknown answer a client's current leader epoch (KIP-320).
	ErrEpochFenced  = errors.New("leader epoch is old")
	ErrEpochUnknown = errors.New("leader epoch is newer than ours")
)

// TailCap is the number of records that may lie beyond the committed end: what an unclean election must skip.
const TailCap = 1 << 20

// Config is what a topic's settings mean to its partitions.
type Config struct {
	Local           bool // varve.durability=local: the journal is enough
	MaxMessageBytes int  // of a batch
	AppendTime      bool // message.timestamp.type=LogAppendTime
	// TimestampBefore and TimestampAfter bound CreateTime around now.
	TimestampBefore, TimestampAfter time.Duration
	// Codec is what compression.type asks for; KeepCodec: what the producer chose.
	Codec     codec.Codec
	KeepCodec bool
	// MaxUnflushed bounds the tail of a `local` partition; 0 is TailCap, or no bound.
	MaxUnflushedRecords, MaxUnflushedBytes int64
	MaxUnflushedAge                        time.Duration
	// SegmentAge is segment.ms, LocalRetention local.retention.ms.
	SegmentAge, LocalRetention time.Duration
	// ProducerExpiry is how long a silent producer's state is kept, by the time of its appends.
	ProducerExpiry time.Duration
}

// Offsets of a partition at one moment.
type Offsets struct {
	LogStart, SealedEnd, Committed, HighWatermark, LastStable, End int64
	LeaderEpoch                                                    int32
}

// Appender takes batches (flush.Buffer).
type Appender interface {
	Append(o flush.Owner, b batch.Batch, need flush.Need, w flush.Waiter, slot int) (flush.Held, error)
}

// extent is one range of an unsealed object.
type extent struct {
	stored *object.Stored
	r      *object.Range
}

// tail is a batch that is not yet committed, of a `local` partition: it may be read before.
type tail struct {
	held flush.Held
	at   time.Time
}

type wait struct {
	end  int64
	need flush.Need
	w    flush.Waiter
	slot int
}

// Partition is one partition that this agent leads.
type Partition struct {
	id    metadata.PartitionID
	topic object.TopicName
	epoch metadata.EpochStart
	out   Appender

	mu        sync.Mutex
	cfg       Config
	closed    error // not nil: no more appends
	logStart  int64
	sealedEnd int64
	committed int64
	synced    int64 // what is known to be in the journal
	hw        int64
	end       int64
	maxAppend int64 // the append time never goes back
	epochs    []metadata.EpochStart
	producers producers
	extents   []extent // by base
	bytes     int64    // of extents
	tail      []tail
	tailBytes int64
	waits     []wait // duplicates that wait with their original, by end
	watchers  map[*watcher]struct{}
}

type watcher struct {
	from int64
	wake func()
}

// Start is what a new leader has read and rebuilt.
type Start struct {
	ID       metadata.PartitionID
	Topic    object.TopicName
	Epochs   []metadata.EpochStart // the own one last
	LogStart int64
	Sealed   int64
	Unsealed []*object.Stored // those that may contain the partition
	// State of the producers at Sealed, or at what was committed when the log start passed it.
	State object.State
}

// New is a partition as its committed data say, closed to nobody.
func New(s Start, out Appender, cfg Config) *Partition {
	p := &Partition{id: s.ID, topic: s.Topic, epoch: s.Epochs[len(s.Epochs)-1], out: out, cfg: cfg, logStart: s.LogStart,
		sealedEnd: s.Sealed, committed: s.Sealed, epochs: s.Epochs, watchers: map[*watcher]struct{}{}, maxAppend: s.State.MaxAppendTime}
	p.producers = producers{}
	p.producers.restore(s.State.Producers, s.State.MadeAt)
	for _, x := range rangesOf(s.ID, s.Unsealed) {
		p.producers.restore(x.r.Producers, x.stored.Dir.Header.CreatedAt)
		p.maxAppend = max(p.maxAppend, x.r.MaxAppendTime)
		if x.r.End > p.committed {
			p.extents = append(p.extents, x)
			p.bytes += x.r.Len
			p.committed = x.r.End
		}
	}
	p.committed = max(p.committed, p.logStart)
	p.hw, p.end, p.synced = p.committed, p.committed, p.committed
	p.keep(p.extents)
	return p
}

// rangesOf collects what objects hold of a partition, in the order of its offsets: sessions of several agents may have
// taken turns.
func rangesOf(id metadata.PartitionID, objects []*object.Stored) (all []extent) {
	for _, o := range objects {
		rs := o.Dir.Of(id)
		for i := range rs {
			all = append(all, extent{o, &rs[i]})
		}
	}
	slices.SortStableFunc(all, func(a, b extent) int { return cmp.Compare(a.r.Base, b.r.Base) })
	return all
}

func (p *Partition) ID() metadata.PartitionID   { return p.id }
func (p *Partition) Topic() object.TopicName    { return p.topic }
func (p *Partition) Epoch() metadata.EpochStart { return p.epoch }

// Offsets answers all of them at one moment.
func (p *Partition) Offsets() Offsets {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Offsets{p.logStart, p.sealedEnd, p.committed, p.hw, p.hw, p.end, p.epoch.Epoch}
}

// Bytes is the size of what is not yet sealed.
func (p *Partition) Bytes() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bytes + p.tailBytes
}

// Local says whether the journal alone makes a record durable now.
func (p *Partition) Local() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cfg.Local
}

// Config is what the topic's settings mean now.
func (p *Partition) Config() Config {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cfg
}

// Configure changes the settings. A change of durability is only taken where nothing lies between the committed end and
// the high watermark; it answers whether it was.
func (p *Partition) Configure(cfg Config) (settled bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	settled = true
	if p.cfg.Local != cfg.Local && p.end != p.committed {
		cfg.Local, settled = p.cfg.Local, false
	}
	p.cfg = cfg
	return settled
}

// Appended is what a producer is told.
type Appended struct {
	Base       int64
	AppendTime int64 // -1 for CreateTime
	LogStart   int64
}

// Append checks what depends on this partition, assigns offsets and hands the batch to the buffer. acks is the producer's
// -1, 0 or 1. An error means that nothing was appended; otherwise w is told, perhaps before Append returns, unless acks is
// 0. A duplicate is answered with its first offset, and waits as long as its original: whatever has changed since that was
// appended, a retry of it is not refused.
func (p *Partition) Append(b batch.Batch, acks int16, now time.Time, w flush.Waiter, slot int) (Appended, error) {
	if acks == 0 {
		w = nil
	}
	p.mu.Lock()
	done, durable, err := p.append(b, acks, now, w, slot)
	p.mu.Unlock()
	if durable && w != nil {
		w.Done(slot, nil)
	}
	return done, err
}

// append is called with the lock held. durable: it is a duplicate of which nothing need be awaited.
func (p *Partition) append(b batch.Batch, acks int16, now time.Time, w flush.Waiter, slot int) (done Appended, durable bool, err error) {
	switch {
	case p.closed != nil:
		return done, false, p.closed
	case b.IsTransactional():
		return done, false, ErrTransactions
	}
	need := p.need(acks)
	dup, err := p.producers.check(b)
	if err != nil {
		return done, false, err
	}
	if dup != nil {
		done, durable = p.duplicate(dup, need, w, slot)
		return done, durable, nil
	}
	if err := p.admit(b, now); err != nil {
		return done, false, err
	}
	done = Appended{Base: p.end, AppendTime: -1, LogStart: p.logStart}
	b.Assign(p.end, p.epoch.Epoch)
	if p.cfg.AppendTime {
		p.maxAppend = max(p.maxAppend, now.UnixMilli())
		b.SetAppendTime(p.maxAppend)
		done.AppendTime = p.maxAppend
	}
	return done, false, p.put(b, need, now, w, slot)
}

// need says what a producer waits for.
func (p *Partition) need(acks int16) flush.Need {
	switch {
	case p.cfg.Local:
		return flush.Local
	case acks == 0:
		return flush.Nobody
	case acks == 1:
		return flush.Synced
	}
	return flush.Stored
}

// admit refuses before anything is changed.
func (p *Partition) admit(b batch.Batch, now time.Time) error {
	switch {
	case len(b) > p.cfg.MaxMessageBytes:
		return fmt.Errorf("%w: %d bytes, max.message.bytes is %d", ErrTooLarge, len(b), p.cfg.MaxMessageBytes)
	case b.Offsets() > TailCap:
		return fmt.Errorf("%w: %d records, the tail takes %d", ErrTooLarge, b.Offsets(), TailCap)
	case p.end+b.Offsets() > p.committed+TailCap:
		return ErrTailFull
	}
	if !p.cfg.AppendTime {
		if err := p.cfg.checkTimes(b, now.UnixMilli()); err != nil {
			return err
		}
	}
	if p.cfg.Local && len(p.tail) > 0 {
		c := &p.cfg
		if c.MaxUnflushedRecords > 0 && p.end+b.Offsets()-p.committed > c.MaxUnflushedRecords ||
			c.MaxUnflushedBytes > 0 && p.tailBytes+int64(len(b)) > c.MaxUnflushedBytes ||
			c.MaxUnflushedAge > 0 && now.Sub(p.tail[0].at) > c.MaxUnflushedAge {
			return ErrTailFull
		}
	}
	return nil
}

// checkTimes bounds what the header says: the first timestamp and the largest; -1 stands for none.
func (c *Config) checkTimes(b batch.Batch, now int64) error {
	oldest, newest := b.BaseTimestamp(), b.MaxTimestamp()
	if newest >= 0 && newest-now > c.TimestampAfter.Milliseconds() {
		return fmt.Errorf("%w: %d, now is %d", ErrTimestamp, newest, now)
	}
	if oldest = min(oldest, newest); oldest >= 0 && now-oldest > c.TimestampBefore.Milliseconds() {
		return fmt.Errorf("%w: %d, now is %d", ErrTimestamp, oldest, now)
	}
	return nil
}

func (p *Partition) put(b batch.Batch, need flush.Need, now time.Time, w flush.Waiter, slot int) error {
	held, err := p.out.Append(p, b, need, w, slot)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotLeader, err)
	}
	p.end = b.End()
	p.producers.add(object.Producer{Entry: b.Producer(), TxnFirst: -1}, now.UnixMilli())
	if p.cfg.Local {
		p.tail = append(p.tail, tail{held, now})
		p.tailBytes += int64(len(b))
	}
	return nil
}

// Replay puts a batch of a recovered tail behind the committed end, as it is: offset and leader epoch are its own.
func (p *Partition) Replay(b batch.Batch) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if b.Base() != p.end {
		return fmt.Errorf("replay of %s: batch at %d, want %d", p.id, b.Base(), p.end)
	}
	if b.HasAppendTime() {
		p.maxAppend = max(p.maxAppend, b.MaxTimestamp())
	}
	return p.put(b, flush.Stored, time.Now(), nil, 0)
}

// Skip puts the gap of an unclean election: [end, end+records) will never hold a record.
func (p *Partition) Skip(records int64, now time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.put(batch.Gap(p.end, p.end+records, p.epoch.Epoch, now.UnixMilli()), flush.Stored, now, nil, 0)
}

// duplicate answers what was appended before; durable: its original waits for nothing any more.
func (p *Partition) duplicate(e *batch.Entry, need flush.Need, w flush.Waiter, slot int) (done Appended, durable bool) {
	done = Appended{Base: e.BaseOffset, AppendTime: -1, LogStart: p.logStart}
	if p.cfg.AppendTime {
		done.AppendTime = e.Timestamp
	}
	reached := p.committed
	if need == flush.Local || need == flush.Synced {
		reached = max(reached, p.synced)
	}
	end := e.LastOffset + 1
	if end > reached && w != nil {
		p.waits = append(p.waits, wait{end, need, w, slot})
	}
	return done, end <= reached
}

// Synced is the journal's news (flush.Owner).
func (p *Partition) Synced(end int64) {
	p.mu.Lock()
	p.synced = max(p.synced, end)
	if p.cfg.Local {
		p.hw = max(p.hw, end)
	}
	calls, wakes := p.takeWaits(end, flush.Synced), p.takeWatchers()
	p.mu.Unlock()
	tell(calls, nil)
	run(wakes)
}

// Committed is the index's news (flush.Owner).
func (p *Partition) Committed(o *object.Stored, r *object.Range) {
	p.mu.Lock()
	if n := len(p.extents); r.End > p.sealedEnd && (n == 0 || p.extents[n-1].r.End < r.End) { // else a seal was faster
		p.extents = append(p.extents, extent{o, r})
		p.bytes += r.Len
	}
	p.producers.commit(r.Producers)
	p.committed = max(p.committed, r.End)
	p.hw = max(p.hw, p.committed)
	for len(p.tail) > 0 && p.tail[0].held.Batch.End() <= p.committed {
		p.tailBytes -= int64(len(p.tail[0].held.Batch))
		p.tail[0] = tail{}
		p.tail = p.tail[1:]
	}
	calls, wakes := p.takeWaits(r.End, flush.Stored), p.takeWatchers()
	p.mu.Unlock()
	tell(calls, nil)
	run(wakes)
}

func (p *Partition) takeWaits(end int64, need flush.Need) (calls []wait) {
	left := p.waits[:0]
	for _, w := range p.waits {
		if w.end <= end && w.need <= need {
			calls = append(calls, w)
		} else {
			left = append(left, w)
		}
	}
	p.waits = left
	return calls
}

func tell(ws []wait, err error) {
	for _, w := range ws {
		w.w.Done(w.slot, err)
	}
}

func run(wakes []func()) {
	for _, f := range wakes {
		f()
	}
}

// Close refuses further appends with err; what waits here is told nothing is known, watchers are woken. The buffer tells
// those that it knows.
func (p *Partition) Close(err error) {
	p.mu.Lock()
	if p.closed == nil {
		p.closed = err
	}
	calls := p.waits
	p.waits = nil
	wakes := p.allWatchers()
	p.mu.Unlock()
	tell(calls, err)
	run(wakes)
}

// Err says why the partition takes no more appends, or nil.
func (p *Partition) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

// SetLogStart moves the log start forward, after the index did.
func (p *Partition) SetLogStart(offset int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.logStart = max(p.logStart, offset)
	for len(p.epochs) > 1 && p.epochs[1].Start <= p.logStart {
		p.epochs = p.epochs[1:]
	}
	p.keep(p.extents)
}

// keep sets the extents to those of xs that are neither sealed nor deleted.
func (p *Partition) keep(xs []extent) {
	p.bytes = 0
	p.extents = slices.DeleteFunc(xs, func(x extent) bool { return x.r.End <= max(p.sealedEnd, p.logStart) })
	for _, x := range p.extents {
		p.bytes += x.r.Len
	}
}

// Merged replaces extents after a seal: those of the run go, what is below the new sealed end is the index's, and what is
// still small lies in the pack. Producers that have been silent for too long are forgotten with it.
func (p *Partition) Merged(run map[*object.Stored]bool, sealedEnd int64, pack *object.Stored) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sealedEnd = max(p.sealedEnd, sealedEnd)
	kept := slices.DeleteFunc(p.extents, func(x extent) bool { return run[x.stored] })
	if pack != nil {
		kept = append(kept, rangesOf(p.id, []*object.Stored{pack})...)
	}
	slices.SortStableFunc(kept, func(a, b extent) int { return cmp.Compare(a.r.Base, b.r.Base) })
	p.keep(kept)
	p.producers.expire(time.Now().Add(-p.cfg.ProducerExpiry), p.committed)
}
