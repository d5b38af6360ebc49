// Package gc removes what nobody needs any more: records past their retention, extents of deleted topics, and objects that
// no row refers to.
//
// The index changes first, bytes go last: log starts move and rows go in one transaction with their tombstones, and a
// tombstoned object is deleted only after its grace. Nothing here lists the bucket.
package gc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"varve.dev/metadata"
	"varve.dev/objectstore"
	"varve.dev/objectstore/cache"
	"varve.dev/tiering/object"
)

// Kept is a partition that this agent leads, and how long its records are kept.
type Kept struct {
	ID             metadata.PartitionID
	LeaderEpoch    int32
	LogStart       int64
	SealedEnd      int64
	Committed      int64
	UnsealedBytes  int64
	RetentionTime  time.Duration // negative: for ever
	RetentionBytes int64         // negative: no bound
}

// Partitions is what the collector looks after.
type Partitions interface {
	Kept() []Kept
	// Trim moves log starts, in the index and then here.
	Trim(ctx context.Context, ts []metadata.Trim) error
	// Expired answers how far what is not sealed is older than before: the end of the last of its first ranges that is; 0
	// where the sealed end is not sealedEnd any more.
	Expired(id metadata.PartitionID, sealedEnd int64, before time.Time) (logStart int64)
	// DeletedTopics lists topics whose bytes may still be there.
	DeletedTopics() []int32
	// Unsealed says whether an unsealed object holds a topic.
	Unsealed(topic int32) bool
}

// Index is where rows go.
type Index interface {
	Find(ctx context.Context, p metadata.PartitionID, offset int64, limit int) ([]metadata.Segment, error)
	Mixed(ctx context.Context, limit int) ([]metadata.MixedObject, error)
	Intend(ctx context.Context, s metadata.Session, keys []string) error
	Move(ctx context.Context, s metadata.Session, m metadata.Moving) error
	ForgetTopic(ctx context.Context, num int32) error
	Dead(ctx context.Context, limit int) ([]metadata.Tombstone, error)
	Forget(ctx context.Context, keys []string) error
}

// Reader opens and reads sealed objects.
type Reader interface {
	Directory(ctx context.Context, o metadata.Object) (*object.Directory, error)
	Forget(p metadata.PartitionID)
}

// Viewer reads extents.
type Viewer interface {
	View(ctx context.Context, o cache.Object, off, n int64) (cache.View, error)
	Drop(keys ...string)
}

// Store deletes objects, and takes the rewritten ones.
type Store interface {
	Put(ctx context.Context, key string, body objectstore.Body) error
	Delete(ctx context.Context, keys []string) error
}

// Config of a Collector.
type Config struct {
	Retention time.Duration // how often retention is looked at
	Interval  time.Duration // how often tombstones are
	Grace     metadata.Grace
	Key       func() string // of a rewritten object
	Logger    *slog.Logger
	Metrics   *Metrics
}

// Metrics of a Collector.
type Metrics struct {
	Trimmed, Deleted, Rewritten prometheus.Counter
}

// NewMetrics registers them with r.
func NewMetrics(r prometheus.Registerer) *Metrics {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		r.MustRegister(c)
		return c
	}
	return &Metrics{
		Trimmed:   counter("varve_log_starts_moved_total", "Partitions whose log start retention has moved."),
		Deleted:   counter("varve_objects_deleted_total", "Objects deleted after their grace."),
		Rewritten: counter("varve_objects_rewritten_total", "Sealed objects rewritten without their dead extents."),
	}
}

// Collector works for one session.
type Collector struct {
	partitions Partitions
	index      Index
	reader     Reader
	cache      Viewer
	store      Store
	me         metadata.Session
	cfg        Config
	heads      map[metadata.PartitionID]head // of those whose first segment was looked at
}

// head is the first segment at a log start: it need not be looked up again to see that it is young enough, whatever the
// retention is now.
type head struct{ logStart, maxTimestamp int64 }

// New is a Collector.
func New(ps Partitions, i Index, r Reader, c Viewer, s Store, me metadata.Session, cfg Config) *Collector {
	return &Collector{partitions: ps, index: i, reader: r, cache: c, store: s, me: me, cfg: cfg, heads: map[metadata.PartitionID]head{}}
}

// Run collects until ctx or the session ends. A failure is tried again at the next turn.
func (c *Collector) Run(ctx context.Context) error {
	retention, sweep := time.NewTicker(c.cfg.Retention), time.NewTicker(c.cfg.Interval)
	defer retention.Stop()
	defer sweep.Stop()
	for {
		var err error
		select {
		case <-retention.C:
			err = c.Retain(ctx, time.Now())
		case <-sweep.C:
			err = errors.Join(c.Rewrite(ctx), c.Sweep(ctx))
		case <-ctx.Done():
			return nil
		}
		if errors.Is(err, metadata.ErrFenced) {
			return err
		}
		if err != nil && ctx.Err() == nil {
			c.cfg.Logger.Warn("garbage collection will be tried again", "err", err)
		}
	}
}

// page is how many segments one look brings.
const page = 256

// Retain moves the log starts of partitions whose oldest segments are past retention.ms or beyond retention.bytes.
func (c *Collector) Retain(ctx context.Context, now time.Time) error {
	var trims []metadata.Trim
	for _, k := range c.partitions.Kept() {
		start, err := c.keepFrom(ctx, k, now)
		if err != nil {
			return fmt.Errorf("retention of %s: %w", k.ID, err)
		}
		if start > k.LogStart {
			trims = append(trims, metadata.Trim{Partition: k.ID, LeaderEpoch: k.LeaderEpoch, LogStart: start})
		}
	}
	if len(trims) == 0 {
		return nil
	}
	if err := c.partitions.Trim(ctx, trims); err != nil {
		return err
	}
	c.cfg.Metrics.Trimmed.Add(float64(len(trims)))
	return nil
}

// keepFrom is the log start that retention asks for.
func (c *Collector) keepFrom(ctx context.Context, k Kept, now time.Time) (int64, error) {
	start := k.LogStart
	before := now.Add(-k.RetentionTime)
	if first, known := c.heads[k.ID]; k.RetentionTime >= 0 && !(known && first.logStart == k.LogStart && first.maxTimestamp >= before.UnixMilli()) {
		var err error
		if start, err = c.notOlder(ctx, k, before); err != nil {
			return 0, err
		}
	}
	if k.RetentionBytes >= 0 {
		within, err := c.within(ctx, k)
		if err != nil {
			return 0, err
		}
		start = max(start, within)
	}
	return start, nil
}

// notOlder walks whole segments, then unsealed ranges, from the log start as long as all their records are too old.
func (c *Collector) notOlder(ctx context.Context, k Kept, before time.Time) (int64, error) {
	from := k.LogStart
	for from < k.SealedEnd {
		segments, err := c.index.Find(ctx, k.ID, from, page)
		if err != nil {
			return 0, err
		}
		for i := range segments {
			// Records that tell no time are of no known age: they go by retention.bytes alone.
			if s := &segments[i]; s.MaxTimestamp >= before.UnixMilli() || s.MaxTimestamp < 0 {
				c.heads[k.ID] = head{from, s.MaxTimestamp}
				return from, nil
			}
			from = segments[i].End
		}
		if len(segments) == 0 {
			return from, nil
		}
	}
	return max(from, c.partitions.Expired(k.ID, k.SealedEnd, before)), nil
}

// within walks whole segments from the log start as long as what follows them is enough for retention.bytes.
func (c *Collector) within(ctx context.Context, k Kept) (int64, error) {
	var all []metadata.Segment
	total := k.UnsealedBytes
	for from := k.LogStart; from < k.SealedEnd; {
		segments, err := c.index.Find(ctx, k.ID, from, page)
		if err != nil {
			return 0, err
		}
		if len(segments) == 0 {
			break
		}
		for i := range segments {
			total += segments[i].Len
		}
		all = append(all, segments...)
		from = segments[len(segments)-1].End
	}
	start := k.LogStart
	for i := range all {
		if total -= all[i].Len; total < k.RetentionBytes {
			break
		}
		start = all[i].End
	}
	return start, nil
}

// maxSweep is the keys of one DeleteObjects request.
const maxSweep = 1000

// Sweep deletes the objects whose grace has passed, then forgets their tombstones, then the topics of which nothing is
// left.
func (c *Collector) Sweep(ctx context.Context) error {
	for {
		dead, err := c.index.Dead(ctx, maxSweep)
		if err != nil {
			return fmt.Errorf("list tombstones: %w", err)
		}
		if len(dead) == 0 {
			break
		}
		keys := make([]string, len(dead))
		for i := range dead {
			keys[i] = dead[i].Key
		}
		c.cache.Drop(keys...)
		if err := c.store.Delete(ctx, keys); err != nil {
			return fmt.Errorf("delete %d objects: %w", len(keys), err)
		}
		if err := c.index.Forget(ctx, keys); err != nil {
			return fmt.Errorf("forget %d tombstones: %w", len(keys), err)
		}
		c.cfg.Metrics.Deleted.Add(float64(len(keys)))
		if len(dead) < maxSweep {
			break
		}
	}
	return c.forgetTopics(ctx)
}

func (c *Collector) forgetTopics(ctx context.Context) error {
	deleted := c.partitions.DeletedTopics()
	if len(deleted) == 0 {
		return nil
	}
	mixed, err := c.index.Mixed(ctx, mixedPage)
	if err != nil {
		return err
	}
	held := map[int32]bool{}
	for i := range mixed {
		dir, err := c.reader.Directory(ctx, mixed[i].Object)
		if err != nil {
			return err
		}
		for _, t := range dir.Topics {
			held[t.Num] = true
		}
	}
	for _, num := range deleted {
		if held[num] || len(mixed) == mixedPage || c.partitions.Unsealed(num) {
			continue
		}
		if err := c.index.ForgetTopic(ctx, num); err != nil && !errors.Is(err, metadata.ErrNotFound) {
			return fmt.Errorf("forget topic %d: %w", num, err)
		}
	}
	return nil
}
