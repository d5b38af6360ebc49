package sqlmeta

import (
	"context"
	"fmt"

	"varve.dev/metadata"
)

// Commit is metadata.Index, for an engine whose statements cannot feed one another.
func (s *Store) Commit(ctx context.Context, me metadata.Session, c metadata.Commit) error {
	err := s.db.Write(ctx, func(tx Tx) error {
		n, err := tx.Exec(Stmt{
			SQL: `UPDATE sessions SET seq=$4, beat=beat+1,
					journal_synced=CASE WHEN $5 > journal_synced THEN $5 ELSE journal_synced END
				WHERE agent=$1 AND epoch=$2 AND seq=$3 AND live`,
			Args: []any{me.Agent, me.Epoch, c.From, c.To(), c.JournalSynced},
		})
		if err != nil {
			return err
		}
		if n == 0 {
			return whyNot(tx, me, c.From)
		}
		if _, err := tx.Exec(Stmt{
			SQL: `INSERT INTO objects (key, kind, agent, epoch, seq_first, seq_last, tries, directory, length,
					directory_length, crc, format, extents, live)
				SELECT r.k, 0, $1, $2, r.s, r.s, r.tr, r.dir, r.len, r.dlen, r.crc, r.f, 0, 0
				FROM {rows k text, s int8, tr int4, dir bytea, len int8, dlen int4, crc int8, f int4} WHERE true`,
			Args: []any{me.Agent, me.Epoch},
			Rows: CommitRows(c),
		}); err != nil {
			return err
		}
		_, err = tx.Exec(Stmt{
			SQL: `UPDATE partitions AS p SET leader=-1, leader_session=0, tail_journal=$3 FROM {rows t int4, p int4}
				WHERE p.topic=r.t AND p.partition=r.p AND p.leader=$1 AND p.leader_session=$2`,
			Args: []any{me.Agent, me.Epoch, noJournal()},
			Rows: idRows(sortedIDs(c.Release)),
		})
		return err
	})
	return CommitError(me, c, err)
}

// CommitRows are the columns of c's objects: key, number, tries, directory, length, directory length, crc, format.
func CommitRows(c metadata.Commit) []any {
	numbers := make([]int64, len(c.Objects))
	for i := range numbers {
		numbers[i] = c.From + int64(i) + 1
	}
	return []any{
		column(c.Objects, func(o metadata.WALObject) string { return o.Object.Key }),
		numbers,
		column(c.Objects, func(o metadata.WALObject) int32 { return o.Tries }),
		column(c.Objects, func(o metadata.WALObject) []byte { return append([]byte{}, o.Directory...) }),
		column(c.Objects, func(o metadata.WALObject) int64 { return o.Object.Length }),
		column(c.Objects, func(o metadata.WALObject) int32 { return o.Object.DirectoryLength }),
		column(c.Objects, func(o metadata.WALObject) int64 { return int64(o.Object.CRC32C) }),
		column(c.Objects, func(o metadata.WALObject) int32 { return o.Object.Format }),
	}
}

// ReleaseRows are the columns of c's releases: topic, partition.
func ReleaseRows(c metadata.Commit) []any { return idRows(sortedIDs(c.Release)) }

// CommitError says which commit failed.
func CommitError(me metadata.Session, c metadata.Commit, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("commit %d to %d of agent %d epoch %d: %w", c.From+1, c.To(), me.Agent, me.Epoch, err)
}

// WhyNot says why a commit matched no session row.
func (s *Store) WhyNot(ctx context.Context, me metadata.Session, from int64) error {
	return s.db.Look(ctx, func(tx Tx) error { return whyNot(tx, me, from) })
}

func whyNot(tx Tx, me metadata.Session, from int64) error {
	var seq int64
	found, err := one(tx, Stmt{
		SQL:  `SELECT seq FROM sessions WHERE agent=$1 AND epoch=$2 AND live`,
		Args: []any{me.Agent, me.Epoch},
	}, &seq)
	if err != nil {
		return err
	}
	if !found {
		return fenced(me)
	}
	return fmt.Errorf("the session's number is %d, want %d: %w", seq, from, metadata.ErrConflict)
}

// Settle is metadata.Index.
func (s *Store) Settle(ctx context.Context, me metadata.Session, from, to int64) (int64, error) {
	var last int64
	var found bool
	err := s.db.One(ctx, func(tx Tx) (err error) {
		found, err = one(tx, Stmt{
			SQL:  `UPDATE sessions SET beat=beat+1 WHERE agent=$1 AND epoch=$2 AND live AND seq BETWEEN $3 AND $4 RETURNING seq`,
			Args: []any{me.Agent, me.Epoch, from, to},
		}, &last)
		return err
	})
	if err == nil && !found {
		err = s.WhyNot(ctx, me, from)
	}
	if err != nil {
		return 0, fmt.Errorf("settle %d to %d: %w", from, to, err)
	}
	return last, nil
}

// Intend is metadata.Index.
func (s *Store) Intend(ctx context.Context, me metadata.Session, keys []string) error {
	err := s.db.Write(ctx, func(tx Tx) error {
		if _, err := holdSession(tx, me); err != nil {
			return err
		}
		_, err := tx.Exec(Stmt{
			SQL: `INSERT INTO uploads (key, agent, epoch) SELECT r.k, CAST($1 AS integer), CAST($2 AS integer)
				FROM {rows k text} WHERE true ON CONFLICT (key) DO NOTHING`,
			Args: []any{me.Agent, me.Epoch},
			Rows: []any{keys},
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("intend %d uploads: %w", len(keys), err)
	}
	return nil
}
