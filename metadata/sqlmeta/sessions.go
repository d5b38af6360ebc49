package sqlmeta

import (
	"context"
	"fmt"

	"varve.dev/metadata"
)

// Join is metadata.Clusters.
func (s *Store) Join(ctx context.Context, fresh metadata.Cluster) (metadata.Cluster, error) {
	system, timeline, err := s.db.Identity(ctx)
	if err != nil {
		return metadata.Cluster{}, fmt.Errorf("join: %w", err)
	}
	var c metadata.Cluster
	err = s.db.Write(ctx, func(tx Tx) error {
		if _, err := tx.Exec(Stmt{
			SQL: `INSERT INTO cluster (one, id, incarnation, shards, format, repairing, store_system, store_timeline)
				VALUES (1, $1, $2, $3, $4, false, $5, $6) ON CONFLICT (one) DO NOTHING`,
			Args: []any{fresh.ID[:], fresh.Incarnation, fresh.Shards, fresh.Format, system, timeline},
		}); err != nil {
			return err
		}
		var id []byte
		if _, err := one(tx, Stmt{SQL: `SELECT id, incarnation, shards, format FROM cluster`},
			&id, &c.Incarnation, &c.Shards, &c.Format); err != nil {
			return err
		}
		c.ID, err = uuid(id)
		return err
	})
	if err != nil {
		return metadata.Cluster{}, fmt.Errorf("join: %w", err)
	}
	return c, nil
}

// life is a session's row.
type life struct {
	epoch, incarnation int32
	live               bool
	seq, nonce, synced int64
	journal            metadata.UUID
}

// lastLife reads and locks the row of an agent; nil if there is none.
func lastLife(tx Tx, agent int32) (*life, error) {
	var l life
	var journal []byte
	found, err := one(tx, Stmt{
		SQL: `SELECT epoch, live, seq, nonce, incarnation, journal, journal_synced FROM sessions
			WHERE agent=$1{update}`,
		Args: []any{agent},
	}, &l.epoch, &l.live, &l.seq, &l.nonce, &l.incarnation, &journal, &l.synced)
	if err != nil || !found {
		return nil, err
	}
	l.journal, err = uuid(journal)
	return &l, err
}

func (l *life) ended(agent int32) metadata.Ended {
	epoch := l.epoch
	if !l.live { // the fence has taken an epoch that nobody lives in
		epoch--
	}
	return metadata.Ended{
		Session: metadata.Session{Agent: agent, Epoch: epoch, Nonce: uint64(l.nonce), Incarnation: l.incarnation},
		Seq:     l.seq, Journal: l.journal, JournalSynced: l.synced,
	}
}

// Start is metadata.Sessions.
func (s *Store) Start(ctx context.Context, a metadata.Agent, nonce uint64, doomed func(metadata.Ended) []string,
	grace metadata.Grace) (metadata.Session, metadata.Ended, error) {
	var me metadata.Session
	var before metadata.Ended
	err := s.db.Write(ctx, func(tx Tx) error {
		incarnation, err := holdCluster(tx)
		if err != nil {
			return err
		}
		me = metadata.Session{Agent: a.ID, Epoch: 1, Nonce: nonce, Incarnation: incarnation}
		before = metadata.Ended{}
		last, err := lastLife(tx, a.ID)
		if err != nil {
			return err
		}
		if last == nil {
			return firstLife(tx, a, me)
		}
		me.Epoch, before = last.epoch+1, last.ended(a.ID)
		if err := nextLife(tx, a, me, *last); err != nil {
			return err
		}
		return buryLife(tx, before, doomed, grace)
	})
	if err != nil {
		return metadata.Session{}, metadata.Ended{}, fmt.Errorf("start session of agent %d: %w", a.ID, err)
	}
	return me, before, nil
}

func firstLife(tx Tx, a metadata.Agent, me metadata.Session) error {
	_, err := tx.Exec(Stmt{
		SQL: `INSERT INTO sessions (agent, epoch, live, seq, beat, nonce, incarnation, journal, journal_synced,
				address, rack, version)
			VALUES ($1, $2, true, 0, 0, $3, $4, $5, 0, $6, $7, $8)`,
		Args: []any{a.ID, me.Epoch, int64(me.Nonce), me.Incarnation, a.Journal[:], a.Address, a.Rack, a.Version},
	})
	return unique(err, fmt.Errorf("another process has started agent %d at the same moment: %w", a.ID, metadata.ErrConflict))
}

func nextLife(tx Tx, a metadata.Agent, me metadata.Session, last life) error {
	synced := last.synced
	if a.Journal != last.journal {
		synced = 0 // it was a position in another journal
	}
	_, err := tx.Exec(Stmt{
		SQL: `UPDATE sessions SET epoch=$2, live=true, seq=0, beat=0, nonce=$3, incarnation=$4, journal=$5,
				journal_synced=$6, address=$7, rack=$8, version=$9
			WHERE agent=$1`,
		Args: []any{a.ID, me.Epoch, int64(me.Nonce), me.Incarnation, a.Journal[:], synced, a.Address, a.Rack, a.Version},
	})
	return err
}

// buryLife tombstones what a life that is over may have uploaded and not committed. Its commits are over, since its row is
// locked; what it did commit has an object's row.
func buryLife(tx Tx, before metadata.Ended, doomed func(metadata.Ended) []string, grace metadata.Grace) error {
	keys, err := list(tx, Stmt{
		SQL:  `DELETE FROM uploads WHERE agent=$1 RETURNING key`,
		Args: []any{before.Session.Agent},
	}, scanOne[string])
	if err != nil {
		return err
	}
	if doomed != nil {
		keys = append(keys, doomed(before)...)
	}
	held := map[string]bool{}
	if err := tx.Query(Stmt{
		SQL:  `SELECT o.key FROM {rows k text} JOIN objects o ON o.key = r.k`,
		Rows: []any{keys},
	}, func(r Row) error {
		key, err := scanOne[string](r)
		held[key] = true
		return err
	}); err != nil {
		return err
	}
	dead := keys[:0]
	for _, key := range keys {
		if !held[key] {
			dead = append(dead, key)
		}
	}
	return bury(tx, dead, "orphan", grace.Orphan)
}

// Beat is metadata.Sessions.
func (s *Store) Beat(ctx context.Context, me metadata.Session, journalSynced int64) error {
	return s.touch(ctx, "beat", me, Stmt{
		SQL: `UPDATE sessions SET beat=beat+1,
				journal_synced=CASE WHEN CAST($3 AS bigint) > journal_synced THEN CAST($3 AS bigint) ELSE journal_synced END
			WHERE agent=$1 AND epoch=$2 AND live`,
		Args: []any{me.Agent, me.Epoch, journalSynced},
	})
}

// Stop is metadata.Sessions.
func (s *Store) Stop(ctx context.Context, me metadata.Session) error {
	return s.touch(ctx, "stop session", me, Stmt{
		SQL:  `UPDATE sessions SET epoch=epoch+1, live=false WHERE agent=$1 AND epoch=$2 AND live`,
		Args: []any{me.Agent, me.Epoch},
	})
}

// touch runs one statement on the own session's row.
func (s *Store) touch(ctx context.Context, what string, me metadata.Session, q Stmt) error {
	var n int64
	err := s.db.One(ctx, func(tx Tx) (err error) {
		n, err = tx.Exec(q)
		return err
	})
	if err != nil {
		return fmt.Errorf("%s of agent %d: %w", what, me.Agent, err)
	}
	if n == 0 {
		return fmt.Errorf("%s: %w", what, fenced(me))
	}
	return nil
}

const pulseColumns = `SELECT agent, epoch, beat, address, rack FROM sessions WHERE live ORDER BY agent`

func scanPulse(r Row) (p metadata.Pulse, err error) {
	return p, r.Scan(&p.Agent, &p.Epoch, &p.Beat, &p.Address, &p.Rack)
}

// Watch is metadata.Sessions.
func (s *Store) Watch(ctx context.Context) (out []metadata.Pulse, err error) {
	err = s.db.Look(ctx, func(tx Tx) (err error) {
		out, err = list(tx, Stmt{SQL: pulseColumns}, scanPulse)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("watch sessions: %w", err)
	}
	return out, nil
}

// Fence is metadata.Sessions.
func (s *Store) Fence(ctx context.Context, p metadata.Pulse) error {
	err := s.db.Write(ctx, func(tx Tx) error {
		if _, err := holdCluster(tx); err != nil {
			return err
		}
		n, err := tx.Exec(Stmt{
			SQL:  `UPDATE sessions SET epoch=epoch+1, live=false WHERE agent=$1 AND epoch=$2 AND beat=$3 AND live`,
			Args: []any{p.Agent, p.Epoch, p.Beat},
		})
		if err == nil && n == 0 {
			err = fmt.Errorf("it has moved from epoch %d beat %d: %w", p.Epoch, p.Beat, metadata.ErrConflict)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("fence agent %d: %w", p.Agent, err)
	}
	return nil
}
