package sqlmeta

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"varve.dev/metadata"
)

// AcquireShards is metadata.Groups.
func (s *Store) AcquireShards(ctx context.Context, me metadata.Session, shards []int32) ([]metadata.ShardLease, error) {
	shards = slices.Compact(slices.Sorted(slices.Values(shards)))
	var out []metadata.ShardLease
	err := s.db.Write(ctx, func(tx Tx) error {
		incarnation, err := holdCluster(tx)
		if err != nil {
			return err
		}
		if _, err := holdSession(tx, me); err != nil {
			return err
		}
		if incarnation != me.Incarnation {
			return fmt.Errorf("incarnation %d, now %d: %w", me.Incarnation, incarnation, fenced(me))
		}
		out, err = takeShards(tx, me, shards)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("acquire %d shards: %w", len(shards), err)
	}
	return out, nil
}

func takeShards(tx Tx, me metadata.Session, shards []int32) ([]metadata.ShardLease, error) {
	if _, err := tx.Exec(Stmt{
		SQL: `INSERT INTO leases (kind, shard, agent, session, epoch, floor)
			SELECT 0, r.s, -1, 0, 0, 0 FROM {rows s int4} WHERE true ON CONFLICT (kind, shard) DO NOTHING`,
		Rows: []any{shards},
	}); err != nil {
		return nil, err
	}
	if err := tx.Lock(Stmt{
		SQL:  `SELECT l.shard FROM {rows s int4} JOIN leases l ON l.kind=0 AND l.shard=r.s ORDER BY l.shard{update l}`,
		Rows: []any{shards},
	}); err != nil {
		return nil, err
	}
	if _, err := tx.Exec(Stmt{
		SQL: `UPDATE leases AS l SET agent=$1, session=$2, epoch=l.epoch+1, floor=0 FROM {rows s int4}
			WHERE l.kind=0 AND l.shard=r.s
				AND NOT EXISTS (SELECT 1 FROM sessions x WHERE x.agent=l.agent AND x.epoch=l.session)`,
		Args: []any{me.Agent, me.Epoch},
		Rows: []any{shards},
	}); err != nil {
		return nil, err
	}
	return list(tx, Stmt{
		SQL: `SELECT l.shard, l.epoch FROM {rows s int4} JOIN leases l ON l.kind=0 AND l.shard=r.s
			WHERE l.agent=$1 AND l.session=$2 ORDER BY l.shard`,
		Args: []any{me.Agent, me.Epoch},
		Rows: []any{shards},
	}, func(r Row) (l metadata.ShardLease, err error) { return l, r.Scan(&l.Shard, &l.Epoch) })
}

// LoadShards is metadata.Groups.
func (s *Store) LoadShards(ctx context.Context, shards []int32) ([]metadata.GroupRow, []metadata.GroupOffset, error) {
	shards = slices.Compact(slices.Sorted(slices.Values(shards)))
	var groups []metadata.GroupRow
	var offsets []metadata.GroupOffset
	err := s.db.Read(ctx, func(tx Tx) (err error) {
		groups, err = list(tx, Stmt{
			SQL:  `SELECT g.grp, g.shard, g.state FROM {rows s int4} JOIN groups g ON g.shard=r.s ORDER BY g.shard, g.grp`,
			Rows: []any{shards},
		}, func(r Row) (g metadata.GroupRow, err error) { return g, r.Scan(&g.Group, &g.Shard, &g.State) })
		if err != nil {
			return err
		}
		offsets, err = list(tx, Stmt{
			SQL: `SELECT o.grp, o.shard, o.topic, o.partition, o.committed, o.leader_epoch, o.metadata, o.commit_time,
					o.expire_time
				FROM {rows s int4} JOIN group_offsets o ON o.shard=r.s
					JOIN partitions p ON p.topic=o.topic AND p.partition=o.partition
				ORDER BY o.shard, o.grp, o.topic, o.partition`,
			Rows: []any{shards},
		}, func(r Row) (o metadata.GroupOffset, err error) {
			return o, r.Scan(&o.Group, &o.Shard, &o.Partition.Topic, &o.Partition.Partition, &o.Offset, &o.LeaderEpoch,
				&o.Metadata, &o.CommitTime, &o.ExpireTime)
		})
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("load %d shards: %w", len(shards), err)
	}
	return groups, offsets, nil
}

// Write is metadata.Groups.
func (s *Store) Write(ctx context.Context, me metadata.Session, w metadata.GroupWrite) ([]int32, error) {
	var lost []int32
	err := CheckGroupWrite(w)
	if err == nil {
		err = s.db.Write(ctx, func(tx Tx) error {
			held, err := heldShards(tx, me, w)
			if err != nil {
				return err
			}
			lost = LostShards(w, held)
			return writeGroups(tx, w, held)
		})
	}
	if err != nil {
		return nil, fmt.Errorf("write groups: %w", err)
	}
	return lost, nil
}

// CheckGroupWrite demands a lease for whatever w touches, and keys that are unique.
func CheckGroupWrite(w metadata.GroupWrite) error {
	named := map[int32]bool{}
	for _, l := range w.Leases {
		named[l.Shard] = true
	}
	touch := func(group string, shard int32) error {
		if !named[shard] {
			return fmt.Errorf("group %q is in shard %d, whose lease the write does not name", group, shard)
		}
		return nil
	}
	seen := make(map[metadata.OffsetKey]bool, len(w.Offsets))
	for _, o := range w.Offsets {
		key := metadata.OffsetKey{Group: o.Group, Shard: o.Shard, Partition: o.Partition}
		if seen[key] {
			return fmt.Errorf("group %q commits an offset of %v twice", o.Group, o.Partition)
		}
		seen[key] = true
		if err := touch(o.Group, o.Shard); err != nil {
			return err
		}
	}
	for _, k := range w.DeleteOffsets {
		if err := touch(k.Group, k.Shard); err != nil {
			return err
		}
	}
	for _, g := range w.Groups {
		if err := touch(g.Group, g.Shard); err != nil {
			return err
		}
	}
	for _, g := range w.DeleteGroups {
		if err := touch(g.Group, g.Shard); err != nil {
			return err
		}
	}
	return nil
}

// heldShards locks the leases that are still as w names them; it answers their epochs by shard. A write that deletes
// raises their floor: a late copy of an older one must not bring back what is gone.
func heldShards(tx Tx, me metadata.Session, w metadata.GroupWrite) (map[int32]int32, error) {
	alive, err := one(tx, Stmt{
		SQL:  `SELECT epoch FROM sessions WHERE agent=$1 AND epoch=$2 AND live`,
		Args: []any{me.Agent, me.Epoch},
	}, new(int32))
	if err != nil {
		return nil, err
	}
	if !alive {
		return nil, fenced(me)
	}
	deletes := len(w.DeleteOffsets)+len(w.DeleteGroups) > 0
	held := map[int32]int32{}
	lock := `{share l}`
	if deletes {
		lock = `{update l}`
	}
	if err := tx.Query(Stmt{
		SQL: `SELECT l.shard, l.epoch FROM {rows s int4, e int4} JOIN leases l ON l.kind=0 AND l.shard=r.s AND l.epoch=r.e
			WHERE l.agent=$1 AND l.session=$2 AND l.floor<=$3 ORDER BY l.shard` + lock,
		Args: []any{me.Agent, me.Epoch, w.Counter},
		Rows: LeaseRows(w.Leases),
	}, func(r Row) error {
		var shard, epoch int32
		err := r.Scan(&shard, &epoch)
		held[shard] = epoch
		return err
	}); err != nil {
		return nil, err
	}
	if deletes {
		_, err = tx.Exec(Stmt{
			SQL:  `UPDATE leases SET floor=$1 WHERE kind=0 AND shard IN (SELECT r.s FROM {rows s int4})`,
			Args: []any{w.Counter},
			Rows: []any{slices.Sorted(maps.Keys(held))},
		})
	}
	return held, err
}

// LeaseRows are the columns shard, epoch, each lease once and in order.
func LeaseRows(leases []metadata.ShardLease) []any {
	leases = slices.Clone(leases)
	slices.SortFunc(leases, func(a, b metadata.ShardLease) int {
		return cmp.Or(cmp.Compare(a.Shard, b.Shard), cmp.Compare(a.Epoch, b.Epoch))
	})
	leases = slices.Compact(leases)
	return []any{
		column(leases, func(l metadata.ShardLease) int32 { return l.Shard }),
		column(leases, func(l metadata.ShardLease) int32 { return l.Epoch }),
	}
}

// LostShards are the shards that w names and that are not held.
func LostShards(w metadata.GroupWrite, held map[int32]int32) (lost []int32) {
	for _, l := range w.Leases {
		if _, ok := held[l.Shard]; !ok {
			lost = append(lost, l.Shard)
		}
	}
	slices.Sort(lost)
	return slices.Compact(lost)
}

// under keeps what belongs to a held shard.
func under[T any](held map[int32]int32, in []T, shard func(T) int32) []T {
	var out []T
	for _, v := range in {
		if _, ok := held[shard(v)]; ok {
			out = append(out, v)
		}
	}
	return out
}

func writeGroups(tx Tx, w metadata.GroupWrite, held map[int32]int32) error {
	groups := under(held, w.Groups, func(g metadata.GroupRow) int32 { return g.Shard })
	offsets := under(held, w.Offsets, func(o metadata.GroupOffset) int32 { return o.Shard })
	deadOffsets := under(held, w.DeleteOffsets, func(k metadata.OffsetKey) int32 { return k.Shard })
	deadGroups := under(held, w.DeleteGroups, func(k metadata.GroupKey) int32 { return k.Shard })
	for _, q := range []Stmt{
		upsertGroups(groups, w.Counter, held),
		upsertOffsets(offsets, w.Counter, held),
		deleteOffsets(deadOffsets, w.Counter, held),
		deleteGroups(deadGroups, w.Counter, held),
		deleteOffsetsOf(deadGroups, w.Counter, held),
	} {
		if _, err := tx.Exec(q); err != nil {
			return err
		}
	}
	return nil
}

func upsertGroups(groups []metadata.GroupRow, counter int64, held map[int32]int32) Stmt {
	return Stmt{
		SQL: `INSERT INTO groups AS g (grp, shard, state, lease_epoch, counter)
			SELECT r.g, r.s, r.st, r.le, CAST($1 AS bigint) FROM {rows g text, s int4, st bytea, le int4} WHERE true
			ON CONFLICT (grp) DO UPDATE
				SET shard=excluded.shard, state=excluded.state, lease_epoch=excluded.lease_epoch, counter=excluded.counter
				WHERE (g.lease_epoch, g.counter) < (excluded.lease_epoch, excluded.counter)`,
		Args: []any{counter},
		Rows: []any{
			column(groups, func(g metadata.GroupRow) string { return g.Group }),
			column(groups, func(g metadata.GroupRow) int32 { return g.Shard }),
			column(groups, func(g metadata.GroupRow) []byte { return append([]byte{}, g.State...) }),
			column(groups, func(g metadata.GroupRow) int32 { return held[g.Shard] }),
		},
	}
}

// OffsetRows are the columns group, shard, topic, partition, offset, leader epoch, metadata, commit time, expire time.
func OffsetRows(offsets []metadata.GroupOffset) []any {
	return []any{
		column(offsets, func(o metadata.GroupOffset) string { return o.Group }),
		column(offsets, func(o metadata.GroupOffset) int32 { return o.Shard }),
		column(offsets, func(o metadata.GroupOffset) int32 { return o.Partition.Topic }),
		column(offsets, func(o metadata.GroupOffset) int32 { return o.Partition.Partition }),
		column(offsets, func(o metadata.GroupOffset) int64 { return o.Offset }),
		column(offsets, func(o metadata.GroupOffset) int32 { return o.LeaderEpoch }),
		column(offsets, func(o metadata.GroupOffset) string { return o.Metadata }),
		column(offsets, func(o metadata.GroupOffset) int64 { return o.CommitTime }),
		column(offsets, func(o metadata.GroupOffset) int64 { return o.ExpireTime }),
	}
}

// UpsertOffsets begins, and OffsetConflict ends, the insertion of offsets; between them stands what selects them.
const (
	UpsertOffsets = `INSERT INTO group_offsets AS g (grp, shard, topic, partition, committed, leader_epoch, metadata,
				commit_time, expire_time, lease_epoch, counter) `
	OffsetConflict = ` ON CONFLICT (grp, topic, partition) DO UPDATE
				SET shard=excluded.shard, committed=excluded.committed, leader_epoch=excluded.leader_epoch,
					metadata=excluded.metadata, commit_time=excluded.commit_time, expire_time=excluded.expire_time,
					lease_epoch=excluded.lease_epoch, counter=excluded.counter
				WHERE (g.lease_epoch, g.counter) < (excluded.lease_epoch, excluded.counter)`
)

// upsertOffsets leaves out partitions that are gone: their topic was deleted meanwhile.
func upsertOffsets(offsets []metadata.GroupOffset, counter int64, held map[int32]int32) Stmt {
	return Stmt{
		SQL: UpsertOffsets + `SELECT r.g, r.s, r.t, r.p, r.o, r.e, r.m, r.ct, r.et, r.le, CAST($1 AS bigint)
			FROM {rows g text, s int4, t int4, p int4, o int8, e int4, m text, ct int8, et int8, le int4}
			WHERE EXISTS (SELECT 1 FROM partitions x WHERE x.topic=r.t AND x.partition=r.p)` + OffsetConflict,
		Args: []any{counter},
		Rows: append(OffsetRows(offsets), column(offsets, func(o metadata.GroupOffset) int32 { return held[o.Shard] })),
	}
}

func deleteOffsets(keys []metadata.OffsetKey, counter int64, held map[int32]int32) Stmt {
	return Stmt{
		SQL: `DELETE FROM group_offsets WHERE (grp, topic, partition) IN (
				SELECT g.grp, g.topic, g.partition FROM {rows g text, t int4, p int4, le int4}
					JOIN group_offsets g ON g.grp=r.g AND g.topic=r.t AND g.partition=r.p
				WHERE (g.lease_epoch, g.counter) < (r.le, CAST($1 AS bigint)))`,
		Args: []any{counter},
		Rows: []any{
			column(keys, func(k metadata.OffsetKey) string { return k.Group }),
			column(keys, func(k metadata.OffsetKey) int32 { return k.Partition.Topic }),
			column(keys, func(k metadata.OffsetKey) int32 { return k.Partition.Partition }),
			column(keys, func(k metadata.OffsetKey) int32 { return held[k.Shard] }),
		},
	}
}

func groupKeyRows(keys []metadata.GroupKey, held map[int32]int32) []any {
	return []any{
		column(keys, func(k metadata.GroupKey) string { return k.Group }),
		column(keys, func(k metadata.GroupKey) int32 { return held[k.Shard] }),
	}
}

func deleteGroups(keys []metadata.GroupKey, counter int64, held map[int32]int32) Stmt {
	return Stmt{
		SQL: `DELETE FROM groups WHERE grp IN (
				SELECT g.grp FROM {rows g text, le int4} JOIN groups g ON g.grp=r.g
				WHERE (g.lease_epoch, g.counter) < (r.le, CAST($1 AS bigint)))`,
		Args: []any{counter},
		Rows: groupKeyRows(keys, held),
	}
}

func deleteOffsetsOf(keys []metadata.GroupKey, counter int64, held map[int32]int32) Stmt {
	return Stmt{
		SQL: `DELETE FROM group_offsets WHERE (grp, topic, partition) IN (
				SELECT g.grp, g.topic, g.partition FROM {rows g text, le int4} JOIN group_offsets g ON g.grp=r.g
				WHERE (g.lease_epoch, g.counter) < (r.le, CAST($1 AS bigint)))`,
		Args: []any{counter},
		Rows: groupKeyRows(keys, held),
	}
}
