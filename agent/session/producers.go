package session

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"varve.dev/metadata"
	"varve.dev/tiering/object"
)

// openAtOnce bounds the directories that are read at a time.
const openAtOnce = 32

// producerStates reads the producers' state at the sealed end of each partition. It stands in the directory of the newest
// segment: one small read for each object that holds such a segment, and small segments share theirs. Where the log start
// has passed all segments, the trim has left it in the index.
func (s *Set) producerStates(ctx context.Context, ids []metadata.PartitionID, rows map[metadata.PartitionID]*metadata.Partition) (map[metadata.PartitionID]object.State, error) {
	ids = slices.DeleteFunc(slices.Clone(ids), func(id metadata.PartitionID) bool { return rows[id].SealedEnd == 0 && rows[id].LogStart == 0 })
	if len(ids) == 0 {
		return nil, nil
	}
	segments, err := s.store.LastSegments(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("find newest segments: %w", err)
	}
	segments = slices.DeleteFunc(segments, func(g metadata.Segment) bool { return g.End <= rows[g.Partition].LogStart })
	states, err := s.trimmedStates(ctx, ids, segments)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(openAtOnce)
	for _, segment := range segments {
		g.Go(func() error {
			dir, err := s.dirs.Directory(ctx, *segment.Object)
			if err != nil {
				return err
			}
			if r := dir.Find(segment.Partition, segment.Base); r != nil {
				mu.Lock()
				states[segment.Partition] = object.State{End: r.End, MadeAt: dir.Header.CreatedAt, MaxAppendTime: r.MaxAppendTime, Producers: r.Producers}
				mu.Unlock()
			}
			return nil
		})
	}
	return states, g.Wait()
}

// trimmedStates reads what trims have left of those of ids that have no segment.
func (s *Set) trimmedStates(ctx context.Context, ids []metadata.PartitionID, segments []metadata.Segment) (map[metadata.PartitionID]object.State, error) {
	states := make(map[metadata.PartitionID]object.State, len(ids))
	for _, g := range segments {
		states[g.Partition] = object.State{}
	}
	bare := slices.DeleteFunc(slices.Clone(ids), func(id metadata.PartitionID) bool { _, ok := states[id]; return ok })
	if len(bare) == 0 {
		return states, nil
	}
	left, err := s.store.ProducerStates(ctx, bare)
	if err != nil {
		return nil, fmt.Errorf("read producers' states: %w", err)
	}
	for _, l := range left {
		state, err := object.DecodeState(l.State)
		if err != nil {
			return nil, fmt.Errorf("producers of %s: %w", l.Partition, err)
		}
		states[l.Partition] = *state
	}
	return states, nil
}
