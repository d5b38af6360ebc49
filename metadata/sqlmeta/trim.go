package sqlmeta

import (
	"context"
	"fmt"
	"slices"

	"varve.dev/metadata"
)

// Trim is metadata.Index.
func (s *Store) Trim(ctx context.Context, me metadata.Session, ts []metadata.Trim, grace metadata.Grace) error {
	ts = slices.Clone(ts)
	slices.SortFunc(ts, func(a, b metadata.Trim) int { return compareIDs(a.Partition, b.Partition) })
	err := s.db.Write(ctx, func(tx Tx) error { return trim(tx, me, ts, grace) })
	if err != nil {
		return fmt.Errorf("trim %d partitions: %w", len(ts), err)
	}
	return nil
}

func trim(tx Tx, me metadata.Session, ts []metadata.Trim, grace metadata.Grace) error {
	if _, err := holdSession(tx, me); err != nil {
		return err
	}
	ids := column(ts, func(t metadata.Trim) metadata.PartitionID { return t.Partition })
	if err := lockPartitions(tx, ids); err != nil {
		return err
	}
	rows := append(idRows(ids),
		column(ts, func(t metadata.Trim) int32 { return t.LeaderEpoch }),
		column(ts, func(t metadata.Trim) int64 { return t.LogStart }))
	n, err := tx.Exec(Stmt{
		SQL: `UPDATE partitions AS p SET log_start=CASE WHEN r.s > p.log_start THEN r.s ELSE p.log_start END
			FROM {rows t int4, p int4, e int4, s int8} WHERE p.topic=r.t AND p.partition=r.p AND p.leader_epoch=r.e`,
		Rows: rows,
	})
	if err != nil {
		return err
	}
	if int(n) != len(ts) {
		return fmt.Errorf("%d of %d partitions have the leader epoch: %w", n, len(ts), metadata.ErrConflict)
	}
	if err := keepProducers(tx, ts); err != nil {
		return err
	}
	refs, tops, err := dropSegments(tx, ids)
	if err != nil {
		return err
	}
	if err := lowerMaxima(tx, tops); err != nil {
		return err
	}
	return release(tx, refs, "retention", grace.Superseded)
}

// keepProducers enters the states that come with ts; a late copy of an older trim changes nothing.
func keepProducers(tx Tx, ts []metadata.Trim) error {
	var states []metadata.ProducerState
	for _, t := range ts {
		if p := t.Producers; p != nil {
			if p.Partition != t.Partition {
				return fmt.Errorf("producers of %v in a trim of %v", p.Partition, t.Partition)
			}
			states = append(states, *p)
		}
	}
	_, err := tx.Exec(Stmt{
		SQL: `INSERT INTO producer_states (topic, partition, upto, state)
			SELECT r.t, r.p, r.u, r.s FROM {rows t int4, p int4, u int8, s bytea} WHERE true
			ON CONFLICT (topic, partition) DO UPDATE SET upto=excluded.upto, state=excluded.state
			WHERE producer_states.upto <= excluded.upto`,
		Rows: append(idRows(column(states, func(p metadata.ProducerState) metadata.PartitionID { return p.Partition })),
			column(states, func(p metadata.ProducerState) int64 { return p.End }),
			column(states, func(p metadata.ProducerState) []byte { return append([]byte{}, p.State...) })),
	})
	return err
}

// ProducerStates is metadata.Index.
func (s *Store) ProducerStates(ctx context.Context, ids []metadata.PartitionID) (out []metadata.ProducerState, err error) {
	err = s.db.Look(ctx, func(tx Tx) (err error) {
		out, err = list(tx, Stmt{
			SQL: `SELECT s.topic, s.partition, s.upto, s.state
				FROM {rows t int4, p int4} JOIN producer_states s ON s.topic=r.t AND s.partition=r.p
				ORDER BY s.topic, s.partition`,
			Rows: idRows(sortedIDs(ids)),
		}, func(r Row) (p metadata.ProducerState, err error) {
			err = r.Scan(&p.Partition.Topic, &p.Partition.Partition, &p.End, &p.State)
			return p, err
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the producers of %d partitions: %w", len(ids), err)
	}
	return out, nil
}

// dropSegments deletes what lies below the log starts of ids. It answers how many references each object lost, and the
// running maximum at which each partition was cut.
func dropSegments(tx Tx, ids []metadata.PartitionID) (refs map[int64]int32, tops map[metadata.PartitionID]int64, err error) {
	refs, tops = map[int64]int32{}, map[metadata.PartitionID]int64{}
	err = tx.Query(Stmt{
		SQL: `DELETE FROM segments WHERE (topic, partition, base) IN (
				SELECT s.topic, s.partition, s.base
				FROM {rows t int4, p int4} JOIN partitions p ON p.topic=r.t AND p.partition=r.p
					JOIN segments s ON s.topic=r.t AND s.partition=r.p AND s.base < p.log_start
				WHERE s.next <= p.log_start)
			RETURNING topic, partition, object, running_max`,
		Rows: idRows(ids),
	}, func(r Row) error {
		var id metadata.PartitionID
		var object, running int64
		err := r.Scan(&id.Topic, &id.Partition, &object, &running)
		refs[object]++
		if top, ok := tops[id]; !ok || running > top {
			tops[id] = running
		}
		return err
	})
	return refs, tops, err
}

// lowerMaxima makes running maxima exact again after their partitions were cut at tops: only segments that carry that very
// maximum can owe it to what is gone, and they are the first ones that are left. With timestamps in order there are none.
func lowerMaxima(tx Tx, tops map[metadata.PartitionID]int64) error {
	ids := make([]metadata.PartitionID, 0, len(tops))
	for id := range tops {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, compareIDs)
	_, err := tx.Exec(Stmt{
		SQL: `UPDATE segments AS s SET running_max=x.run FROM (
				SELECT g.topic AS t, g.partition AS p, g.base AS b,
					max(g.max_ts) OVER (PARTITION BY g.topic, g.partition ORDER BY g.base) AS run
				FROM {rows t int4, p int4, top int8}
					JOIN segments g ON g.topic=r.t AND g.partition=r.p AND g.running_max=r.top) AS x
			WHERE s.topic=x.t AND s.partition=x.p AND s.base=x.b AND s.running_max <> x.run`,
		Rows: append(idRows(ids), column(ids, func(id metadata.PartitionID) int64 { return tops[id] })),
	})
	return err
}
