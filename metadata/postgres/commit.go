package postgres

import (
	"context"
	"fmt"

	"varve.dev/metadata"
	"varve.dev/metadata/sqlmeta"
)

// commitFlush is the whole commit in one statement and one round trip, whatever the number of objects, releases and
// partitions. Fence and order come first and feed the rest: if the session's row does not match, nothing is done.
const commitFlush = `WITH me AS (
		UPDATE sessions SET seq=$4, beat=beat+1, journal_synced=greatest(journal_synced, $5)
		WHERE agent=$1 AND epoch=$2 AND seq=$3 AND live
		RETURNING agent, epoch),
	obj AS (
		INSERT INTO objects (key, kind, agent, epoch, seq_first, seq_last, tries, directory, length, directory_length, crc,
			format, extents, live)
		SELECT o.key, 0, me.agent, me.epoch, o.seq, o.seq, o.tries, o.directory, o.length, o.directory_length, o.crc,
			o.format, 0, 0
		FROM me, unnest($6::text[], $7::int8[], $8::int4[], $9::bytea[], $10::int8[], $11::int4[], $12::int8[], $13::int4[])
			AS o(key, seq, tries, directory, length, directory_length, crc, format)
		RETURNING 1),
	rel AS (
		UPDATE partitions p SET leader=-1, leader_session=0, tail_journal=$16
		FROM me, unnest($14::int4[], $15::int4[]) AS r(topic, partition)
		WHERE p.topic=r.topic AND p.partition=r.partition AND p.leader=me.agent AND p.leader_session=me.epoch
		RETURNING 1)
	SELECT (SELECT count(*) FROM me), (SELECT count(*) FROM obj), (SELECT count(*) FROM rel)`

// Commit is metadata.Index.
func (s *Store) Commit(ctx context.Context, me metadata.Session, c metadata.Commit) error {
	args := []any{me.Agent, me.Epoch, c.From, c.To(), c.JournalSynced}
	args = append(args, sqlmeta.CommitRows(c)...)
	args = append(args, sqlmeta.ReleaseRows(c)...)
	args = append(args, make([]byte, len(metadata.UUID{})))
	var matched, objects, released int
	err := s.db.One(ctx, func(tx sqlmeta.Tx) error {
		return tx.Query(sqlmeta.Stmt{SQL: commitFlush, Args: args}, func(r sqlmeta.Row) error {
			return r.Scan(&matched, &objects, &released)
		})
	})
	if err == nil && matched == 0 {
		err = s.WhyNot(ctx, me, c.From)
	}
	return sqlmeta.CommitError(me, c, err)
}

// commitOffsets is a window of offsets in one statement: the leases that are still held are locked and feed the rest.
const commitOffsets = `WITH me AS (
		SELECT 1 FROM sessions WHERE agent=$1 AND epoch=$2 AND live),
	held AS (
		SELECT l.shard, l.epoch FROM unnest($4::int4[], $5::int4[]) AS n(shard, epoch)
			JOIN leases l ON l.kind=0 AND l.shard=n.shard AND l.epoch=n.epoch
		WHERE l.agent=$1 AND l.session=$2 AND l.floor<=$3 AND EXISTS (SELECT 1 FROM me)
		ORDER BY l.shard FOR SHARE OF l),
	ins AS (` + sqlmeta.UpsertOffsets + `
		SELECT r.g, r.s, r.t, r.p, r.o, r.e, r.m, r.ct, r.et, h.epoch, $3
		FROM unnest($6::text[], $7::int4[], $8::int4[], $9::int4[], $10::int8[], $11::int4[], $12::text[], $13::int8[],
				$14::int8[]) AS r(g, s, t, p, o, e, m, ct, et)
			JOIN held h ON h.shard=r.s
		WHERE EXISTS (SELECT 1 FROM partitions x WHERE x.topic=r.t AND x.partition=r.p)` + sqlmeta.OffsetConflict + `
		RETURNING 1)
	SELECT (SELECT count(*) FROM me), ARRAY(SELECT shard FROM held), (SELECT count(*) FROM ins)`

// Write is metadata.Groups. A window that only commits offsets is one statement.
func (s *Store) Write(ctx context.Context, me metadata.Session, w metadata.GroupWrite) ([]int32, error) {
	if len(w.Groups)+len(w.DeleteGroups)+len(w.DeleteOffsets) > 0 {
		return s.Store.Write(ctx, me, w)
	}
	lost, err := s.writeOffsets(ctx, me, w)
	if err != nil {
		return nil, fmt.Errorf("write offsets: %w", err)
	}
	return lost, nil
}

func (s *Store) writeOffsets(ctx context.Context, me metadata.Session, w metadata.GroupWrite) ([]int32, error) {
	if err := sqlmeta.CheckGroupWrite(w); err != nil {
		return nil, err
	}
	args := append([]any{me.Agent, me.Epoch, w.Counter}, sqlmeta.LeaseRows(w.Leases)...)
	args = append(args, sqlmeta.OffsetRows(w.Offsets)...)
	var alive, written int
	var shards []int32
	err := s.db.One(ctx, func(tx sqlmeta.Tx) error {
		return tx.Query(sqlmeta.Stmt{SQL: commitOffsets, Args: args}, func(r sqlmeta.Row) error {
			return r.Scan(&alive, &shards, &written)
		})
	})
	if err != nil {
		return nil, err
	}
	if alive == 0 {
		return nil, fmt.Errorf("agent %d epoch %d: %w", me.Agent, me.Epoch, metadata.ErrFenced)
	}
	held := map[int32]int32{}
	for _, shard := range shards {
		held[shard] = 0
	}
	return sqlmeta.LostShards(w, held), nil
}
