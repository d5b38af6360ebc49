// Package sqlmeta is the metadata store in SQL, written once for both engines.
//
// What the engines do not share (connections, transactions, clocks, the spelling of a row set) is behind Engine and
// Dialect. Order of locks, everywhere: cluster, own session, lease or partitions in key order, objects by id.
package sqlmeta

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"varve.dev/metadata"
)

// ErrUnique is what an engine answers when a key is taken; nothing was done.
var ErrUnique = fmt.Errorf("key is taken: %w", metadata.ErrConflict)

// Store implements every role of metadata on an engine.
type Store struct{ db Engine }

// New makes a store of an engine whose schema is up to date.
func New(db Engine) *Store { return &Store{db: db} }

// Close closes the engine.
func (s *Store) Close() error { return s.db.Close() }

const (
	groupShard   = 0 // leases.kind
	brokerConfig = 0 // configs.kind
	groupConfig  = 1
)

// noJournal stands in a row where there is none, so that no column needs to be null.
func noJournal() []byte { return make([]byte, len(metadata.UUID{})) }

func uuid(b []byte) (metadata.UUID, error) {
	var u metadata.UUID
	if len(b) != len(u) {
		return u, fmt.Errorf("uuid of %d bytes, want %d", len(b), len(u))
	}
	copy(u[:], b)
	return u, nil
}

// holdCluster locks the cluster against repair for the rest of the transaction.
func holdCluster(tx Tx) (incarnation int32, err error) {
	var repairing bool
	found, err := one(tx, Stmt{SQL: `SELECT incarnation, repairing FROM cluster{share}`}, &incarnation, &repairing)
	switch {
	case err != nil:
		return 0, err
	case !found:
		return 0, fmt.Errorf("no cluster has been created here: %w", metadata.ErrNotFound)
	case repairing:
		return 0, fmt.Errorf("the cluster is being repaired: %w", metadata.ErrUnavailable)
	}
	return incarnation, nil
}

// holdSession locks the session against fencing for the rest of the transaction, and answers its journal.
func holdSession(tx Tx, s metadata.Session) (journal []byte, err error) {
	found, err := one(tx, Stmt{
		SQL:  `SELECT journal FROM sessions WHERE agent=$1 AND epoch=$2 AND live{share}`,
		Args: []any{s.Agent, s.Epoch},
	}, &journal)
	if err == nil && !found {
		err = fenced(s)
	}
	return journal, err
}

func fenced(s metadata.Session) error {
	return fmt.Errorf("agent %d epoch %d: %w", s.Agent, s.Epoch, metadata.ErrFenced)
}

// bury tombstones keys from which the last reference is gone. A key that is buried already keeps its date.
func bury(tx Tx, keys []string, reason string, grace time.Duration) error {
	_, err := tx.Exec(Stmt{
		SQL: `INSERT INTO tombstones (key, not_before, reason)
			SELECT r.k, {now} + CAST($1 AS bigint), CAST($2 AS text) FROM {rows k text} WHERE true
			ON CONFLICT (key) DO NOTHING`,
		Args: []any{grace.Milliseconds(), reason},
		Rows: []any{keys},
	})
	return err
}

// release takes references from sealed objects; those that lose their last one are removed and buried.
func release(tx Tx, refs map[int64]int32, reason string, grace time.Duration) error {
	if len(refs) == 0 {
		return nil
	}
	ids := make([]int64, 0, len(refs))
	for id := range refs {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	if err := tx.Lock(Stmt{
		SQL:  `SELECT o.id FROM {rows i int8} JOIN objects o ON o.id = r.i ORDER BY o.id{update o}`,
		Rows: []any{ids},
	}); err != nil {
		return err
	}
	if _, err := tx.Exec(Stmt{
		SQL:  `UPDATE objects SET live = live - r.n FROM {rows i int8, n int4} WHERE id = r.i`,
		Rows: []any{ids, column(ids, func(id int64) int32 { return refs[id] })},
	}); err != nil {
		return err
	}
	keys, err := list(tx, Stmt{
		SQL:  `DELETE FROM objects WHERE live = 0 AND kind = 2 AND id IN (SELECT r.i FROM {rows i int8}) RETURNING key`,
		Rows: []any{ids},
	}, scanOne[string])
	if err != nil {
		return err
	}
	slices.Sort(keys)
	return bury(tx, keys, reason, grace)
}

// dropIntents deletes the intents of keys; whoever deletes an intent decides what becomes of its object.
func dropIntents(tx Tx, keys []string) (int, error) {
	n, err := tx.Exec(Stmt{SQL: `DELETE FROM uploads WHERE key IN (SELECT r.k FROM {rows k text})`, Rows: []any{keys}})
	return int(n), err
}

func topicOf(p metadata.PartitionID) int32 { return p.Topic }
func indexOf(p metadata.PartitionID) int32 { return p.Partition }
func idRows(ids []metadata.PartitionID) []any {
	return []any{column(ids, topicOf), column(ids, indexOf)}
}

func sortedIDs(ids []metadata.PartitionID) []metadata.PartitionID {
	out := slices.Clone(ids)
	slices.SortFunc(out, compareIDs)
	return slices.Compact(out)
}

func compareIDs(a, b metadata.PartitionID) int {
	return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
}

// unique turns ErrUnique into another answer.
func unique(err, instead error) error {
	if errors.Is(err, ErrUnique) {
		return instead
	}
	return err
}
