package gc

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"varve.dev/metadata"
	"varve.dev/objectstore/cache"
	"varve.dev/tiering/object"
)

const (
	// mixedPage is how many objects with dead extents are looked at: many more than are rewritten, because most are not
	// worth it yet and would be in the way of those that are.
	mixedPage = 1024
	// maxRewrites is how many objects one turn rewrites: 16 GiB at the most.
	maxRewrites = 64
)

// Rewrite moves the live extents out of sealed objects that hold a deleted topic, or that are dead by more than half: so
// nothing of a deleted topic stays in the bucket, and what retention leaves over costs at most as much again.
func (c *Collector) Rewrite(ctx context.Context) error {
	mixed, err := c.index.Mixed(ctx, mixedPage)
	if err != nil {
		return fmt.Errorf("list mixed objects: %w", err)
	}
	deleted := c.partitions.DeletedTopics()
	rewritten := 0
	for i := range mixed {
		if rewritten == maxRewrites {
			break
		}
		m := &mixed[i]
		dir, err := c.reader.Directory(ctx, m.Object)
		if err != nil {
			return err
		}
		if !worth(dir, m, deleted) {
			continue
		}
		if err := c.rewrite(ctx, m, dir); err != nil && !errors.Is(err, metadata.ErrConflict) {
			return fmt.Errorf("rewrite %s: %w", m.Object.Key, err)
		}
		rewritten++
	}
	return nil
}

func worth(dir *object.Directory, m *metadata.MixedObject, deleted []int32) bool {
	var live int64
	for i := range m.Segments {
		live += m.Segments[i].Len
	}
	return 2*live < dir.Size() || slices.ContainsFunc(dir.Topics, func(t object.TopicName) bool { return slices.Contains(deleted, t.Num) })
}

func (c *Collector) rewrite(ctx context.Context, m *metadata.MixedObject, dir *object.Directory) error {
	moving := metadata.Moving{From: m.Object.Key, Grace: c.cfg.Grace.Superseded}
	var ranges []*object.Range
	for i := range m.Segments {
		s := &m.Segments[i]
		r := dir.Find(s.Partition, s.Base)
		if r == nil || r.Base != s.Base || r.End != s.End {
			return fmt.Errorf("%w: the index names [%d, %d) of %s", object.ErrCorrupt, s.Base, s.End, s.Partition)
		}
		ranges = append(ranges, r)
	}
	slices.SortFunc(ranges, func(a, b *object.Range) int {
		if a.Partition.Less(b.Partition) || a.Partition == b.Partition && a.Base < b.Base {
			return -1
		}
		return 1
	})
	h := dir.Header
	h.Nonce, h.Incarnation = c.me.Nonce, c.me.Incarnation
	topics := slices.DeleteFunc(slices.Clone(dir.Topics), func(t object.TopicName) bool {
		return !slices.ContainsFunc(ranges, func(r *object.Range) bool { return r.Partition.Topic == t.Num })
	})
	b := object.NewBuilder(h, topics)
	var views []cache.View
	release := func() {
		for _, v := range views {
			v.Release()
		}
	}
	o := cache.Object{Key: m.Object.Key, Length: m.Object.Length, Blocks: dir.Blocks}
	for _, r := range ranges {
		v, err := c.cache.View(ctx, o, r.Pos, r.Len)
		if err != nil {
			release()
			return err
		}
		views = append(views, v)
		b.Begin(*r)
		for _, s := range v.Slices {
			if err := b.AddRun(s); err != nil {
				release()
				return err
			}
		}
	}
	im := b.Finish(release)
	defer im.Release()
	key := c.cfg.Key()
	if err := c.index.Intend(ctx, c.me, []string{key}); err != nil {
		return err
	}
	if err := c.store.Put(ctx, key, im); err != nil {
		return err
	}
	obj := im.Object(key)
	moving.To = &obj
	for i := range im.Directory().Ranges {
		r := &im.Directory().Ranges[i]
		moving.Segments = append(moving.Segments, metadata.Segment{Extent: r.Extent(&obj), Records: r.Records, Generation: r.Generation})
	}
	if err := c.index.Move(ctx, c.me, moving); err != nil {
		return err
	}
	for _, r := range ranges {
		c.reader.Forget(r.Partition)
	}
	c.cfg.Metrics.Rewritten.Inc()
	return nil
}
