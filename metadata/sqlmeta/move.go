package sqlmeta

import (
	"context"
	"fmt"
	"slices"

	"varve.dev/metadata"
)

// Move is metadata.Index.
func (s *Store) Move(ctx context.Context, me metadata.Session, m metadata.Moving) error {
	m.Segments = slices.Clone(m.Segments)
	slices.SortFunc(m.Segments, func(a, b metadata.Segment) int { return compareIDs(a.Partition, b.Partition) })
	err := checkMoving(m)
	if err == nil {
		err = s.db.Write(ctx, func(tx Tx) error { return move(tx, me, m) })
	}
	if err != nil {
		return fmt.Errorf("move object %s: %w", m.From, err)
	}
	return nil
}

func checkMoving(m metadata.Moving) error {
	if (m.To == nil) != (len(m.Segments) == 0) {
		return fmt.Errorf("%d segments and a new object: %v; want either both or none", len(m.Segments), m.To != nil)
	}
	return nil
}

func move(tx Tx, me metadata.Session, m metadata.Moving) error {
	if _, err := holdSession(tx, me); err != nil {
		return err
	}
	ids := sortedIDs(column(m.Segments, func(g metadata.Segment) metadata.PartitionID { return g.Partition }))
	if err := lockPartitions(tx, ids); err != nil {
		return err
	}
	old, live, of, err := lockSealed(tx, m.From)
	if err != nil {
		return err
	}
	if live != len(m.Segments) {
		return fmt.Errorf("it has %d live segments, want %d: %w", live, len(m.Segments), metadata.ErrConflict)
	}
	if m.To != nil {
		if err := moveSegments(tx, of, old, m); err != nil {
			return err
		}
	}
	if _, err := tx.Exec(Stmt{SQL: `DELETE FROM objects WHERE id=$1`, Args: []any{old}}); err != nil {
		return err
	}
	return bury(tx, []string{m.From}, "moved", m.Grace)
}

// sealedRun is where a sealed object came from.
type sealedRun struct {
	of          metadata.Session
	first, last int64
}

func lockSealed(tx Tx, key string) (id int64, live int, of sealedRun, err error) {
	found, err := one(tx, Stmt{
		SQL:  `SELECT id, live, agent, epoch, seq_first, seq_last FROM objects WHERE key=$1 AND kind=2{update}`,
		Args: []any{key},
	}, &id, &live, &of.of.Agent, &of.of.Epoch, &of.first, &of.last)
	if err == nil && !found {
		err = fmt.Errorf("no such sealed object: %w", metadata.ErrConflict)
	}
	return id, live, of, err
}

func moveSegments(tx Tx, of sealedRun, old int64, m metadata.Moving) error {
	n, err := dropIntents(tx, []string{m.To.Key})
	if err != nil {
		return err
	}
	if n == 0 {
		return fmt.Errorf("the upload %s has no intent: %w", m.To.Key, metadata.ErrConflict)
	}
	ids := map[string]int64{}
	extents := map[string]int32{m.To.Key: int32(len(m.Segments))}
	if err := insertSealed(tx, of.of, of.first, of.last, []metadata.Object{*m.To}, extents, ids); err != nil {
		return err
	}
	moved, err := tx.Exec(Stmt{
		SQL: `UPDATE segments AS s SET object=r.o, pos=r.pos, len=r.len
			FROM {rows t int4, p int4, b int8, u int8, o int8, pos int8, len int8}
			WHERE s.topic=r.t AND s.partition=r.p AND s.base=r.b AND s.next=r.u AND s.object=$1`,
		Args: []any{old},
		Rows: segmentPlaces(m.Segments, func(metadata.Segment) int64 { return ids[m.To.Key] }),
	})
	if err == nil && int(moved) != len(m.Segments) {
		err = fmt.Errorf("%d of %d segments are as they were seen: %w", moved, len(m.Segments), metadata.ErrConflict)
	}
	return err
}
