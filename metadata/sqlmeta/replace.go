package sqlmeta

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"varve.dev/metadata"
)

// Replace is metadata.Index.
func (s *Store) Replace(ctx context.Context, me metadata.Session, out metadata.Sealing) error {
	p, err := planSealing(out)
	if err == nil {
		err = s.db.Write(ctx, func(tx Tx) error { return p.replace(tx, me) })
	}
	if err != nil {
		return fmt.Errorf("replace run %d to %d of agent %d epoch %d: %w", out.First, out.Last, out.Of.Agent, out.Of.Epoch, err)
	}
	return nil
}

// sealingPlan is a Sealing that has been found to be consistent in itself.
type sealingPlan struct {
	metadata.Sealing
	removed []string         // keys of the run that do not stay
	extents map[string]int32 // how many segments name a sealed object
}

// planSealing refuses what no state of the index could make right.
func planSealing(out metadata.Sealing) (*sealingPlan, error) {
	p := &sealingPlan{Sealing: out, extents: map[string]int32{}}
	p.Partitions = slices.Clone(out.Partitions)
	slices.SortFunc(p.Partitions, func(a, b metadata.SealedPartition) int { return compareIDs(a.ID, b.ID) })
	p.Segments = slices.Clone(out.Segments)
	slices.SortFunc(p.Segments, func(a, b metadata.Segment) int {
		return cmp.Or(compareIDs(a.Partition, b.Partition), cmp.Compare(a.Base, b.Base))
	})
	for _, key := range out.Keys {
		if !slices.Contains(out.Promote, key) {
			p.removed = append(p.removed, key)
		}
	}
	if got, want := len(p.removed), len(out.Keys)-len(out.Promote); got != want {
		return nil, fmt.Errorf("%d of %d promoted keys are in the run", len(out.Keys)-got, len(out.Promote))
	}
	if err := p.checkSegments(); err != nil {
		return nil, err
	}
	for _, key := range slices.Concat(out.Promote, column(out.Objects, objectKey)) {
		if p.extents[key] == 0 {
			return nil, fmt.Errorf("no segment names the sealed object %s", key)
		}
	}
	if pk := out.Pack; pk != nil && (pk.First < out.First || pk.Last > out.Last || pk.First > pk.Last) {
		return nil, fmt.Errorf("pack covers %d to %d, want a part of %d to %d", pk.First, pk.Last, out.First, out.Last)
	}
	return p, nil
}

// checkSegments demands that each lies in what its partition seals, after the one before, in an object of the sealing.
func (p *sealingPlan) checkSegments() error {
	known := map[string]bool{}
	for _, key := range slices.Concat(p.Promote, column(p.Objects, objectKey)) {
		known[key] = true
	}
	bounds := map[metadata.PartitionID]metadata.SealedPartition{}
	for _, sp := range p.Partitions {
		if sp.End < sp.Base {
			return fmt.Errorf("partition %v is sealed from %d back to %d", sp.ID, sp.Base, sp.End)
		}
		bounds[sp.ID] = sp
	}
	floor := map[metadata.PartitionID]int64{}
	for _, g := range p.Segments {
		sp, ok := bounds[g.Partition]
		if !ok || g.Base < max(sp.Base, floor[g.Partition]) || g.End <= g.Base || g.End > sp.End {
			return fmt.Errorf("segment %d to %d of %v is not a part of what is sealed, %d to %d",
				g.Base, g.End, g.Partition, sp.Base, sp.End)
		}
		if g.Object == nil || !known[g.Object.Key] {
			return fmt.Errorf("segment %d to %d of %v names no object of this sealing", g.Base, g.End, g.Partition)
		}
		floor[g.Partition] = g.End
		p.extents[g.Object.Key]++
	}
	return nil
}

func objectKey(o metadata.Object) string { return o.Key }

func (p *sealingPlan) replace(tx Tx, me metadata.Session) error {
	if _, err := holdSession(tx, me); err != nil {
		return err
	}
	if err := p.checkWriter(tx, me); err != nil {
		return err
	}
	if err := p.moveEnds(tx); err != nil {
		return err
	}
	ids, err := p.takeRun(tx)
	if err != nil {
		return err
	}
	if err := p.takeIntents(tx); err != nil {
		return err
	}
	if err := p.insertObjects(tx, ids); err != nil {
		return err
	}
	if err := p.insertPack(tx); err != nil {
		return err
	}
	if err := p.insertSegments(tx, ids); err != nil {
		return err
	}
	if err := bury(tx, p.removed, "sealed", p.Grace); err != nil {
		return err
	}
	return bury(tx, p.Dead, "abandoned", p.Grace)
}

// checkWriter demands that the run is the caller's own, or of a life that is over.
func (p *sealingPlan) checkWriter(tx Tx, me metadata.Session) error {
	if p.Of.Agent == me.Agent && p.Of.Epoch == me.Epoch {
		return nil
	}
	alive, err := one(tx, Stmt{
		SQL:  `SELECT agent FROM sessions WHERE agent=$1 AND epoch=$2 AND live`,
		Args: []any{p.Of.Agent, p.Of.Epoch},
	}, new(int32))
	if err == nil && alive {
		err = fmt.Errorf("the writer of the run lives: %w", metadata.ErrConflict)
	}
	return err
}

func sealedID(sp metadata.SealedPartition) metadata.PartitionID { return sp.ID }

// moveEnds locks the partitions, in key order, and moves their sealed ends.
func (p *sealingPlan) moveEnds(tx Tx) error {
	rows := append(idRows(column(p.Partitions, sealedID)),
		column(p.Partitions, func(sp metadata.SealedPartition) int32 { return sp.LeaderEpoch }),
		column(p.Partitions, func(sp metadata.SealedPartition) int64 { return sp.Base }),
		column(p.Partitions, func(sp metadata.SealedPartition) int64 { return sp.End }))
	if err := lockPartitions(tx, column(p.Partitions, sealedID)); err != nil {
		return err
	}
	n, err := tx.Exec(Stmt{
		SQL: `UPDATE partitions AS p SET sealed_end=r.u FROM {rows t int4, p int4, e int4, b int8, u int8}
			WHERE p.topic=r.t AND p.partition=r.p AND p.leader_epoch=r.e AND p.sealed_end=r.b`,
		Rows: rows,
	})
	if err == nil && int(n) != len(p.Partitions) {
		err = fmt.Errorf("%d of %d partitions are as they were seen: %w", n, len(p.Partitions), metadata.ErrConflict)
	}
	return err
}

// lockPartitions locks ids, which are in key order.
func lockPartitions(tx Tx, ids []metadata.PartitionID) error {
	return tx.Lock(Stmt{
		SQL: `SELECT p.topic FROM {rows t int4, p int4} JOIN partitions p ON p.topic=r.t AND p.partition=r.p
			ORDER BY p.topic, p.partition{update p}`,
		Rows: idRows(ids),
	})
}

// takeRun demands exactly the run's rows; it removes them, but for the promoted, whose row ids it answers.
func (p *sealingPlan) takeRun(tx Tx) (map[string]int64, error) {
	ids := map[string]int64{}
	var keys []string
	if err := tx.Query(Stmt{
		SQL: `SELECT id, key FROM objects
			WHERE agent=$1 AND epoch=$2 AND kind <> 2 AND seq_first <= $4 AND seq_last >= $3 ORDER BY seq_first{update}`,
		Args: []any{p.Of.Agent, p.Of.Epoch, p.First, p.Last},
	}, func(r Row) error {
		var id int64
		var key string
		err := r.Scan(&id, &key)
		ids[key], keys = id, append(keys, key)
		return err
	}); err != nil {
		return nil, err
	}
	if !slices.Equal(keys, p.Keys) {
		return nil, fmt.Errorf("the run has %d objects, not exactly the %d that were seen: %w", len(keys), len(p.Keys),
			metadata.ErrConflict)
	}
	if _, err := tx.Exec(Stmt{
		SQL:  `DELETE FROM objects WHERE key IN (SELECT r.k FROM {rows k text})`,
		Rows: []any{p.removed},
	}); err != nil {
		return nil, err
	}
	_, err := tx.Exec(Stmt{
		SQL: `UPDATE objects SET kind=2, directory=NULL, extents=r.n, live=r.n FROM {rows k text, n int4}
			WHERE key=r.k`,
		Rows: []any{p.Promote, column(p.Promote, func(key string) int32 { return p.extents[key] })},
	})
	return ids, err
}

// takeIntents demands the intents of what was uploaded for this: if one is gone, so may be its object.
func (p *sealingPlan) takeIntents(tx Tx) error {
	keys := column(p.Objects, objectKey)
	if p.Pack != nil {
		keys = append(keys, p.Pack.Object.Key)
	}
	n, err := dropIntents(tx, keys)
	if err != nil {
		return err
	}
	if n != len(keys) {
		return fmt.Errorf("%d of %d uploads have an intent: %w", n, len(keys), metadata.ErrConflict)
	}
	_, err = dropIntents(tx, p.Dead)
	return err
}

func (p *sealingPlan) insertObjects(tx Tx, ids map[string]int64) error {
	return insertSealed(tx, p.Of, p.First, p.Last, p.Objects, p.extents, ids)
}

// insertSealed enters sealed objects, and their row ids into ids.
func insertSealed(tx Tx, of metadata.Session, first, last int64, objects []metadata.Object, extents map[string]int32,
	ids map[string]int64) error {
	return tx.Query(Stmt{
		SQL: `INSERT INTO objects (key, kind, agent, epoch, seq_first, seq_last, tries, length, directory_length, crc,
				format, extents, live)
			SELECT r.k, 2, $1, $2, $3, $4, 0, r.len, r.dlen, r.crc, r.f, r.n, r.n
			FROM {rows k text, len int8, dlen int4, crc int8, f int4, n int4} WHERE true RETURNING id, key`,
		Args: []any{of.Agent, of.Epoch, first, last},
		Rows: []any{
			column(objects, objectKey),
			column(objects, func(o metadata.Object) int64 { return o.Length }),
			column(objects, func(o metadata.Object) int32 { return o.DirectoryLength }),
			column(objects, func(o metadata.Object) int64 { return int64(o.CRC32C) }),
			column(objects, func(o metadata.Object) int32 { return o.Format }),
			column(objects, func(o metadata.Object) int32 { return extents[o.Key] }),
		},
	}, func(r Row) error {
		var id int64
		var key string
		err := r.Scan(&id, &key)
		ids[key] = id
		return err
	})
}

func (p *sealingPlan) insertPack(tx Tx) error {
	o := p.Pack
	if o == nil {
		return nil
	}
	_, err := tx.Exec(Stmt{
		SQL: `INSERT INTO objects (key, kind, agent, epoch, seq_first, seq_last, tries, directory, length,
				directory_length, crc, format, extents, live)
			VALUES ($1, 1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 0, 0)`,
		Args: []any{o.Object.Key, p.Of.Agent, p.Of.Epoch, o.First, o.Last, o.Tries, append([]byte{}, o.Directory...),
			o.Object.Length, o.Object.DirectoryLength, int64(o.Object.CRC32C), o.Object.Format},
	})
	return err
}

// insertSegments enters the segments with their running maxima. Their partitions are locked since moveEnds.
func (p *sealingPlan) insertSegments(tx Tx, ids map[string]int64) error {
	running, err := lastRunning(tx, column(p.Partitions, sealedID))
	if err != nil {
		return err
	}
	maxima := make([]int64, len(p.Segments))
	for i, g := range p.Segments {
		if last, ok := running[g.Partition]; !ok || g.MaxTimestamp > last {
			running[g.Partition] = g.MaxTimestamp
		}
		maxima[i] = running[g.Partition]
	}
	_, err = tx.Exec(Stmt{
		SQL: `INSERT INTO segments (topic, partition, base, next, object, pos, len, records, max_ts, running_max, generation)
			SELECT r.t, r.p, r.b, r.u, r.o, r.pos, r.len, r.n, r.ts, r.run, r.g
			FROM {rows t int4, p int4, b int8, u int8, o int8, pos int8, len int8, n int8, ts int8, run int8, g int4}
			WHERE true`,
		Rows: append(segmentPlaces(p.Segments, func(g metadata.Segment) int64 { return ids[g.Object.Key] }),
			column(p.Segments, func(g metadata.Segment) int64 { return g.Records }),
			column(p.Segments, func(g metadata.Segment) int64 { return g.MaxTimestamp }),
			maxima,
			column(p.Segments, func(g metadata.Segment) int32 { return g.Generation })),
	})
	return err
}

// segmentPlaces are the columns topic, partition, base, next, object, pos, len.
func segmentPlaces(gs []metadata.Segment, object func(metadata.Segment) int64) []any {
	return []any{
		column(gs, func(g metadata.Segment) int32 { return g.Partition.Topic }),
		column(gs, func(g metadata.Segment) int32 { return g.Partition.Partition }),
		column(gs, func(g metadata.Segment) int64 { return g.Base }),
		column(gs, func(g metadata.Segment) int64 { return g.End }),
		column(gs, object),
		column(gs, func(g metadata.Segment) int64 { return g.Pos }),
		column(gs, func(g metadata.Segment) int64 { return g.Len }),
	}
}

func lastRunning(tx Tx, ids []metadata.PartitionID) (map[metadata.PartitionID]int64, error) {
	out := map[metadata.PartitionID]int64{}
	err := tx.Query(Stmt{
		SQL: `SELECT s.topic, s.partition, s.running_max
			FROM {rows t int4, p int4} JOIN segments s ON s.topic=r.t AND s.partition=r.p
			WHERE s.base=` + lastBase,
		Rows: idRows(ids),
	}, func(r Row) error {
		var id metadata.PartitionID
		var running int64
		err := r.Scan(&id.Topic, &id.Partition, &running)
		out[id] = running
		return err
	})
	return out, err
}
