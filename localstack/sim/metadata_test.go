package sim

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"varve.dev/metadata"
)

// database is the metadata store as one life reaches it. A statement waits, is executed or not, and its reply comes or
// not; one whose reply is lost may be executed later, whatever became of the life that sent it.
type database struct {
	next  metadata.Store
	w     *world
	gate  *gate
	trips *trips

	mu      sync.Mutex
	unknown map[int64]bool // commits of this life whose reply was lost
}

func newDatabase(w *world, g *gate, t *trips) *database {
	return &database{next: w.meta, w: w, gate: g, trips: t, unknown: map[int64]bool{}}
}

// ask sends a statement that changes nothing.
func ask[T any](ctx context.Context, d *database, name string, f func(context.Context) (T, error)) (T, error) {
	return statement(ctx, d, name, false, f)
}

// tell sends one that does.
func tell[T any](ctx context.Context, d *database, name string, f func(context.Context) (T, error)) (T, error) {
	return statement(ctx, d, name, true, f)
}

// do sends one that answers nothing.
func do(ctx context.Context, d *database, name string, f func(context.Context) error) error {
	_, err := tell(ctx, d, name, func(ctx context.Context) (struct{}, error) { return struct{}{}, f(ctx) })
	return err
}

func statement[T any](ctx context.Context, d *database, name string, write bool, f func(context.Context) (T, error)) (out T, err error) {
	p := d.w.plan
	gone := func(why string) error { return fmt.Errorf("sim: %s: %s: %w", name, why, metadata.ErrUnavailable) }
	lost := func(why string) error {
		if !write {
			return gone(why)
		}
		return fmt.Errorf("sim: %s: %s: %w", name, why, metadata.ErrUnknown)
	}
	before, after := p.some("metadata before", 2*time.Millisecond), p.some("metadata after", 2*time.Millisecond)
	if hit, how := p.draw(metaSlow, name); hit {
		before += time.Duration(how * float64(4*time.Second))
	} else if _, on := p.rate(metaSlow); on {
		before += 50 * time.Millisecond
	}
	if !d.gate.pass(ctx) || !sleep(ctx, before) {
		return out, gone("never sent")
	}
	if p.struck(metaDown) {
		sleep(ctx, 20*time.Millisecond)
		return out, gone("the database is down")
	}
	if late, how := p.draw(metaLate, name); late && write && !d.gate.isDead() {
		p.count("statement late")
		d.w.later(time.Duration(how*float64(5*time.Second)), func() {
			_, err := f(context.Background())
			switch {
			case errors.Is(err, metadata.ErrFenced):
				p.count("late statement fenced")
			case err != nil:
				p.count("late statement refused")
			}
		})
		sleep(ctx, after)
		return out, lost("the reply is lost, the statement on its way")
	}
	away, how := p.draw(metaLost, name)
	if away && how < 0.4 {
		sleep(ctx, after)
		return out, lost("lost on its way")
	}
	if !d.gate.pass(ctx) || !d.gate.do(func() { out, err = f(context.WithoutCancel(ctx)) }) {
		return out, gone("never sent")
	}
	d.trips.behind("metadata " + name)
	if !d.gate.pass(context.Background()) || !sleep(ctx, after) {
		var none T
		return none, lost("its sender is gone")
	}
	if away {
		var none T
		return none, lost("the reply is lost")
	}
	return out, err
}

func (d *database) Join(ctx context.Context, fresh metadata.Cluster) (metadata.Cluster, error) {
	return tell(ctx, d, "Join", func(ctx context.Context) (metadata.Cluster, error) { return d.next.Join(ctx, fresh) })
}

func (d *database) Start(ctx context.Context, a metadata.Agent, nonce uint64, doomed func(metadata.Ended) []string, grace metadata.Grace) (metadata.Session, metadata.Ended, error) {
	type started struct {
		metadata.Session
		ended metadata.Ended
	}
	s, err := tell(ctx, d, "Start", func(ctx context.Context) (started, error) {
		s, e, err := d.next.Start(ctx, a, nonce, doomed, grace)
		return started{s, e}, err
	})
	return s.Session, s.ended, err
}

func (d *database) Beat(ctx context.Context, s metadata.Session, synced int64) error {
	return do(ctx, d, "Beat", func(ctx context.Context) error { return d.next.Beat(ctx, s, synced) })
}

func (d *database) Watch(ctx context.Context) ([]metadata.Pulse, error) {
	return ask(ctx, d, "Watch", d.next.Watch)
}

func (d *database) Fence(ctx context.Context, p metadata.Pulse) error {
	return do(ctx, d, "Fence", func(ctx context.Context) error { return d.next.Fence(ctx, p) })
}

func (d *database) Stop(ctx context.Context, s metadata.Session) error {
	return do(ctx, d, "Stop", func(ctx context.Context) error { return d.next.Stop(ctx, s) })
}

func (d *database) Read(ctx context.Context, ids []metadata.PartitionID) (metadata.State, error) {
	return ask(ctx, d, "Read", func(ctx context.Context) (metadata.State, error) { return d.next.Read(ctx, ids) })
}

func (d *database) Acquire(ctx context.Context, s metadata.Session, as []metadata.Acquisition) ([]metadata.PartitionID, error) {
	return tell(ctx, d, "Acquire", func(ctx context.Context) ([]metadata.PartitionID, error) { return d.next.Acquire(ctx, s, as) })
}

func (d *database) Lost(ctx context.Context, limit int) ([]metadata.LostRange, error) {
	return ask(ctx, d, "Lost", func(ctx context.Context) ([]metadata.LostRange, error) { return d.next.Lost(ctx, limit) })
}

func (d *database) SetJournal(ctx context.Context, s metadata.Session, ids []metadata.PartitionID, journal metadata.UUID) error {
	return do(ctx, d, "SetJournal", func(ctx context.Context) error { return d.next.SetJournal(ctx, s, ids, journal) })
}

func (d *database) Commit(ctx context.Context, s metadata.Session, c metadata.Commit) error {
	err := do(ctx, d, "Commit", func(ctx context.Context) error {
		err := d.next.Commit(ctx, s, c)
		if err == nil {
			d.w.committed(c)
		}
		return err
	})
	switch {
	case errors.Is(err, metadata.ErrUnknown):
		d.mu.Lock()
		d.unknown[c.To()] = true
		d.mu.Unlock()
	case errors.Is(err, metadata.ErrFenced):
		d.w.plan.count("commit fenced")
	}
	return err
}

func (d *database) Settle(ctx context.Context, s metadata.Session, from, to int64) (int64, error) {
	last, err := tell(ctx, d, "Settle", func(ctx context.Context) (int64, error) { return d.next.Settle(ctx, s, from, to) })
	d.mu.Lock()
	asked := d.unknown[to]
	d.mu.Unlock()
	switch {
	case asked && err == nil && last == to:
		d.w.plan.count("unknown commit: it was done")
	case asked && err == nil && last == from:
		d.w.plan.count("unknown commit: it was not")
	}
	return last, err
}

func (d *database) Intend(ctx context.Context, s metadata.Session, keys []string) error {
	return do(ctx, d, "Intend", func(ctx context.Context) error { return d.next.Intend(ctx, s, keys) })
}

func (d *database) Replace(ctx context.Context, s metadata.Session, out metadata.Sealing) error {
	return do(ctx, d, "Replace", func(ctx context.Context) error { return d.next.Replace(ctx, s, out) })
}

func (d *database) Move(ctx context.Context, s metadata.Session, m metadata.Moving) error {
	return do(ctx, d, "Move", func(ctx context.Context) error { return d.next.Move(ctx, s, m) })
}

func (d *database) Mixed(ctx context.Context, limit int) ([]metadata.MixedObject, error) {
	return ask(ctx, d, "Mixed", func(ctx context.Context) ([]metadata.MixedObject, error) { return d.next.Mixed(ctx, limit) })
}

func (d *database) Find(ctx context.Context, p metadata.PartitionID, offset int64, limit int) ([]metadata.Segment, error) {
	return ask(ctx, d, "Find", func(ctx context.Context) ([]metadata.Segment, error) { return d.next.Find(ctx, p, offset, limit) })
}

func (d *database) FindTime(ctx context.Context, p metadata.PartitionID, millis int64) (metadata.Segment, error) {
	return ask(ctx, d, "FindTime", func(ctx context.Context) (metadata.Segment, error) { return d.next.FindTime(ctx, p, millis) })
}

func (d *database) ProducerStates(ctx context.Context, ids []metadata.PartitionID) ([]metadata.ProducerState, error) {
	return ask(ctx, d, "ProducerStates", func(ctx context.Context) ([]metadata.ProducerState, error) {
		return d.next.ProducerStates(ctx, ids)
	})
}

func (d *database) LastSegments(ctx context.Context, ids []metadata.PartitionID) ([]metadata.Segment, error) {
	return ask(ctx, d, "LastSegments", func(ctx context.Context) ([]metadata.Segment, error) { return d.next.LastSegments(ctx, ids) })
}

func (d *database) Trim(ctx context.Context, s metadata.Session, ts []metadata.Trim, grace metadata.Grace) error {
	return do(ctx, d, "Trim", func(ctx context.Context) error { return d.next.Trim(ctx, s, ts, grace) })
}

func (d *database) Catalog(ctx context.Context, known int64) (metadata.Catalog, error) {
	return ask(ctx, d, "Catalog", func(ctx context.Context) (metadata.Catalog, error) { return d.next.Catalog(ctx, known) })
}

func (d *database) CreateTopic(ctx context.Context, t metadata.Topic, target int32) (metadata.Topic, error) {
	return tell(ctx, d, "CreateTopic", func(ctx context.Context) (metadata.Topic, error) { return d.next.CreateTopic(ctx, t, target) })
}

func (d *database) AddPartitions(ctx context.Context, num int32, from, to, target int32) error {
	return do(ctx, d, "AddPartitions", func(ctx context.Context) error { return d.next.AddPartitions(ctx, num, from, to, target) })
}

func (d *database) DeleteTopic(ctx context.Context, num int32, grace metadata.Grace) error {
	return do(ctx, d, "DeleteTopic", func(ctx context.Context) error { return d.next.DeleteTopic(ctx, num, grace) })
}

func (d *database) ForgetTopic(ctx context.Context, num int32) error {
	return do(ctx, d, "ForgetTopic", func(ctx context.Context) error { return d.next.ForgetTopic(ctx, num) })
}

func (d *database) SetTopicConfig(ctx context.Context, num int32, config map[string]string) error {
	return do(ctx, d, "SetTopicConfig", func(ctx context.Context) error { return d.next.SetTopicConfig(ctx, num, config) })
}

func (d *database) SetBrokerConfig(ctx context.Context, agent int32, config map[string]string) error {
	return do(ctx, d, "SetBrokerConfig", func(ctx context.Context) error { return d.next.SetBrokerConfig(ctx, agent, config) })
}

func (d *database) SetGroupConfig(ctx context.Context, group string, config map[string]string) error {
	return do(ctx, d, "SetGroupConfig", func(ctx context.Context) error { return d.next.SetGroupConfig(ctx, group, config) })
}

func (d *database) AcquireShards(ctx context.Context, s metadata.Session, shards []int32) ([]metadata.ShardLease, error) {
	return tell(ctx, d, "AcquireShards", func(ctx context.Context) ([]metadata.ShardLease, error) { return d.next.AcquireShards(ctx, s, shards) })
}

func (d *database) LoadShards(ctx context.Context, shards []int32) ([]metadata.GroupRow, []metadata.GroupOffset, error) {
	type loaded struct {
		rows    []metadata.GroupRow
		offsets []metadata.GroupOffset
	}
	l, err := ask(ctx, d, "LoadShards", func(ctx context.Context) (l loaded, err error) {
		l.rows, l.offsets, err = d.next.LoadShards(ctx, shards)
		return l, err
	})
	return l.rows, l.offsets, err
}

func (d *database) Write(ctx context.Context, s metadata.Session, gw metadata.GroupWrite) ([]int32, error) {
	return tell(ctx, d, "Write", func(ctx context.Context) ([]int32, error) { return d.next.Write(ctx, s, gw) })
}

func (d *database) ProducerIDs(ctx context.Context, n int64) (int64, error) {
	return tell(ctx, d, "ProducerIDs", func(ctx context.Context) (int64, error) { return d.next.ProducerIDs(ctx, n) })
}

func (d *database) Dead(ctx context.Context, limit int) ([]metadata.Tombstone, error) {
	return ask(ctx, d, "Dead", func(ctx context.Context) ([]metadata.Tombstone, error) { return d.next.Dead(ctx, limit) })
}

func (d *database) Forget(ctx context.Context, keys []string) error {
	return do(ctx, d, "Forget", func(ctx context.Context) error { return d.next.Forget(ctx, keys) })
}

func (d *database) Referenced(ctx context.Context) (metadata.Inventory, error) {
	return ask(ctx, d, "Referenced", d.next.Referenced)
}

// Close leaves the store to the world.
func (d *database) Close() error { return nil }

var _ metadata.Store = (*database)(nil)
