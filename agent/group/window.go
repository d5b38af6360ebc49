package group

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"varve.dev/metadata"
)

// errTakenBack answers a write that nobody waited for any more and that was never sent.
var errTakenBack = errors.New("taken back before it was sent")

// rowCost is what a row counts as, in offsets, against the bound of one write: rows are larger.
const rowCost = 10

// op is one group's Write on its way to the store.
type op struct {
	slot *slot
	Write
	canceled bool // nobody waits for it any more; guarded by window.mu
}

func (o *op) cost() int {
	n := len(o.Offsets) + len(o.DeleteOffsets)
	if o.Row != nil || o.Delete {
		n += rowCost
	}
	return n
}

// window is what has been asked for since the last write began.
type window struct {
	mu     sync.Mutex
	queue  []*op
	cost   int   // of the queue
	flight []*op // what is being written
	wake   chan struct{}
}

func (w *window) push(o *op) {
	w.mu.Lock()
	w.queue = append(w.queue, o)
	w.cost += o.cost()
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default: // it has been woken and not yet looked
	}
}

func (w *window) queued() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cost
}

func (w *window) cancel(s *slot, ticket uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, o := range w.queue {
		o.canceled = o.canceled || o.slot == s && o.Ticket == ticket
	}
	for _, o := range w.flight { // counts only if it turns out not to have been sent
		o.canceled = o.canceled || o.slot == s && o.Ticket == ticket
	}
}

// take cuts the next write off the queue: at most limit, at least one op. A write ends before a group that it deletes is
// touched again, so that the order within one write does not matter.
func (w *window) take(limit int) (batch, canceled []*op) {
	w.mu.Lock()
	defer w.mu.Unlock()
	deleted := map[*slot]bool{}
	n, cost := 0, 0
	for _, o := range w.queue {
		if o.canceled {
			canceled = append(canceled, o)
			w.cost -= o.cost()
			n++
			continue
		}
		if len(batch) > 0 && cost+o.cost() > limit || deleted[o.slot] {
			break
		}
		deleted[o.slot] = o.Delete
		batch = append(batch, o)
		cost += o.cost()
		n++
	}
	w.queue = w.queue[n:]
	w.cost -= cost
	if len(w.queue) == 0 {
		w.queue = nil
	}
	w.flight = batch
	return batch, canceled
}

// back puts a write that surely did not happen to the front again.
func (w *window) back(batch []*op) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.flight = nil
	w.cost += cost(batch)
	w.queue = slices.Concat(batch, w.queue)
}

// build folds a batch into one write: of several values for one key the last counts, and a group's deletion covers what
// came before it.
func build(batch []*op, leases map[*slot]metadata.ShardLease, counter int64) metadata.GroupWrite {
	w := metadata.GroupWrite{Counter: counter}
	type key struct {
		s *slot
		p metadata.PartitionID
	}
	puts, rows, deletes := map[key]metadata.GroupOffset{}, map[*slot][]byte{}, map[*slot]bool{}
	drops := map[key]bool{}
	var keys []key
	var slots []*slot
	for _, o := range batch {
		s := o.slot
		if _, ok := deletes[s]; !ok {
			slots = append(slots, s)
		}
		for _, off := range o.Offsets {
			k := key{s, off.Partition}
			keys = append(keys, k)
			puts[k] = off
			delete(drops, k)
		}
		for _, p := range o.DeleteOffsets {
			k := key{s, p}
			keys = append(keys, k)
			drops[k] = true
			delete(puts, k)
		}
		if o.Row != nil {
			rows[s] = o.Row
		}
		deletes[s] = deletes[s] || o.Delete
	}
	for _, s := range slots {
		lease := leases[s]
		if !slices.Contains(w.Leases, lease) {
			w.Leases = append(w.Leases, lease)
		}
		switch {
		case deletes[s]:
			w.DeleteGroups = append(w.DeleteGroups, metadata.GroupKey{Group: s.id, Shard: lease.Shard})
		case rows[s] != nil:
			w.Groups = append(w.Groups, metadata.GroupRow{Group: s.id, Shard: lease.Shard, State: rows[s]})
		}
	}
	for _, k := range keys {
		if deletes[k.s] {
			continue
		}
		if off, ok := puts[k]; ok {
			off.Group, off.Shard = k.s.id, leases[k.s].Shard
			w.Offsets = append(w.Offsets, off)
			delete(puts, k)
		} else if drops[k] {
			w.DeleteOffsets = append(w.DeleteOffsets, metadata.OffsetKey{
				Group: k.s.id, Shard: leases[k.s].Shard, Partition: k.p,
			})
			delete(drops, k)
		}
	}
	return w
}

// writeWindows writes what is queued, one write at a time, until ctx has ended and nothing is left, or the time to drain
// is over.
func (c *Coordinator) writeWindows(ctx context.Context) error {
	hard, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	defer context.AfterFunc(ctx, func() {
		if sleep(hard, c.cfg.DrainTimeout) {
			stop()
		}
	})()
	w := &writer{c: c, limit: c.cfg.WindowOffsets}
	for {
		batch, canceled := c.window.take(w.limit)
		for _, o := range canceled {
			c.tell(o.slot, Written{Ticket: o.Ticket, Err: errTakenBack})
		}
		if len(batch) > 0 {
			if err := w.write(hard, batch); err != nil {
				return err
			}
			if hard.Err() != nil {
				return nil
			}
			continue
		}
		select {
		case <-c.window.wake:
		case <-ctx.Done():
			if c.window.queued() == 0 {
				return nil
			}
		}
	}
}

// writer is the one that writes.
type writer struct {
	c       *Coordinator
	counter int64         // of the newest write
	limit   int           // of the next write; small after one was refused, to find the op that is at fault
	pause   time.Duration // before the next try; zero while all is well
}

// write sends one batch and carries it through to a known outcome. Its error means that the session is over.
func (w *writer) write(ctx context.Context, batch []*op) error {
	batch, leases := w.c.stillOurs(batch)
	if len(batch) == 0 {
		return nil
	}
	w.counter++
	gw := build(batch, leases, w.counter)
	for inDoubt := false; ; {
		lost, err := w.c.try(ctx, gw)
		switch {
		case err == nil:
			w.succeeded()
			w.c.settle(batch, lost)
			return nil
		case errors.Is(err, metadata.ErrFenced):
			return fmt.Errorf("write group offsets: %w", err)
		case errors.Is(err, metadata.ErrUnknown), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
			inDoubt = true
			doubt(batch, true)
		case inDoubt:
			// This try did nothing, but an earlier one may have: only success settles it.
		case errors.Is(err, metadata.ErrUnavailable):
			w.c.window.back(batch)
			w.failed(ctx, err)
			return nil
		case len(batch) == 1:
			w.c.log.Error("a group's write is refused", "group", batch[0].slot.id, "err", err)
			w.limit = w.c.cfg.WindowOffsets
			w.c.tell(batch[0].slot, Written{Ticket: batch[0].Ticket, Err: kerr.UnknownServerError})
			return nil
		default:
			// One op spoils it for all: look for it in smaller writes.
			w.limit = max(1, cost(batch)/2)
			w.c.window.back(batch)
			return nil
		}
		if !w.failed(ctx, err) {
			return nil
		}
	}
}

func (w *writer) succeeded() {
	w.c.awayUntil.Store(0)
	w.pause = 0
	w.limit = min(2*w.limit, w.c.cfg.WindowOffsets)
}

// failed pauses after a try. It is false when there is no time left for another.
func (w *writer) failed(ctx context.Context, err error) bool {
	cfg := w.c.cfg
	w.pause = min(max(2*w.pause, cfg.RetryMin), cfg.RetryMax)
	w.c.awayUntil.Store(time.Now().Add(w.pause + 2*cfg.RetryMax).UnixNano())
	w.c.metrics.WriteFailures.Inc()
	w.c.log.Warn("group offsets are not written yet", "err", err)
	return sleep(ctx, w.pause)
}

func cost(batch []*op) (n int) {
	for _, o := range batch {
		n += o.cost()
	}
	return n
}

func (c *Coordinator) try(ctx context.Context, w metadata.GroupWrite) ([]int32, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.WriteTimeout)
	defer cancel()
	begin := time.Now()
	lost, err := c.store.Write(ctx, c.session, w)
	c.metrics.Writes.Inc()
	c.metrics.WriteSeconds.Observe(time.Since(begin).Seconds())
	return lost, err
}

// stillOurs leaves out what belongs to shards that were lost meanwhile; their requests have been answered.
func (c *Coordinator) stillOurs(batch []*op) ([]*op, map[*slot]metadata.ShardLease) {
	leases := map[*slot]metadata.ShardLease{}
	batch = slices.DeleteFunc(batch, func(o *op) bool {
		o.slot.mu.Lock()
		over := o.slot.over
		o.slot.mu.Unlock()
		o.slot.shard.mu.RLock()
		lease, p := o.slot.shard.lease, o.slot.shard.phase
		o.slot.shard.mu.RUnlock()
		leases[o.slot] = lease
		return over || p != serving
	})
	return batch, leases
}

// doubt says whether what waits for a batch may be answered as not written.
func doubt(batch []*op, in bool) {
	for _, o := range batch {
		o.slot.mu.Lock()
		o.slot.inDoubt = in
		o.slot.mu.Unlock()
	}
}

// settle tells the groups what is stored, and gives up the shards that are lost.
func (c *Coordinator) settle(batch []*op, lost []int32) {
	for _, n := range lost {
		c.log.Warn("a coordinator shard is lost", "shard", n)
		c.unload(n, kerr.NotCoordinator)
	}
	for _, o := range batch {
		c.metrics.Offsets.Add(float64(len(o.Offsets)))
		c.tell(o.slot, Written{Ticket: o.Ticket})
	}
	doubt(batch, false)
}
