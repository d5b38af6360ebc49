package sqlmeta

import (
	"context"
	"fmt"
	"slices"
	"time"

	"varve.dev/metadata"
)

const partitionColumns = `SELECT p.topic, p.partition, p.leader, p.leader_session, p.leader_epoch, p.epochs, p.tail_journal,
	p.tail_cap, p.unsealed, p.sealed_end, p.log_start, p.cleaned_end, p.target,
	p.leader >= 0 AND NOT EXISTS (SELECT 1 FROM sessions x WHERE x.agent=p.leader AND x.epoch=p.leader_session) `

func scanPartition(r Row) (p metadata.Partition, err error) {
	var epochs, journal, unsealed []byte
	if err := r.Scan(&p.ID.Topic, &p.ID.Partition, &p.Leader, &p.LeaderSession, &p.LeaderEpoch, &epochs, &journal,
		&p.TailCap, &unsealed, &p.SealedEnd, &p.LogStart, &p.CleanedEnd, &p.Target, &p.LeaderFenced); err != nil {
		return p, err
	}
	if p.Epochs, err = unpackEpochs(epochs); err != nil {
		return p, fmt.Errorf("partition %v: %w", p.ID, err)
	}
	if p.Unsealed, err = unpackRefs(unsealed); err != nil {
		return p, fmt.Errorf("partition %v: %w", p.ID, err)
	}
	p.TailJournal, err = uuid(journal)
	return p, err
}

// Read is metadata.Leases.
func (s *Store) Read(ctx context.Context, ids []metadata.PartitionID) (metadata.State, error) {
	var st metadata.State
	err := s.db.Read(ctx, func(tx Tx) (err error) {
		if st.Partitions, err = partitions(tx, ids); err != nil {
			return err
		}
		st.Unsealed, err = unsealed(tx, sessionsOf(st.Partitions))
		return err
	})
	if err != nil {
		return metadata.State{}, fmt.Errorf("read partitions: %w", err)
	}
	return st, nil
}

func partitions(tx Tx, ids []metadata.PartitionID) ([]metadata.Partition, error) {
	q := Stmt{SQL: partitionColumns + `FROM partitions p ORDER BY p.topic, p.partition`}
	if ids != nil {
		q = Stmt{
			SQL: partitionColumns + `FROM {rows t int4, p int4} JOIN partitions p ON p.topic=r.t AND p.partition=r.p
				ORDER BY p.topic, p.partition`,
			Rows: idRows(sortedIDs(ids)),
		}
	}
	return list(tx, q, scanPartition)
}

func sessionsOf(ps []metadata.Partition) []metadata.SessionRef {
	seen := map[metadata.SessionRef]bool{}
	var out []metadata.SessionRef
	for _, p := range ps {
		for _, ref := range p.Unsealed {
			if !seen[ref] {
				seen[ref] = true
				out = append(out, ref)
			}
		}
	}
	slices.SortFunc(out, func(a, b metadata.SessionRef) int {
		if a.Agent != b.Agent {
			return int(a.Agent) - int(b.Agent)
		}
		return int(a.Epoch) - int(b.Epoch)
	})
	return out
}

func unsealed(tx Tx, refs []metadata.SessionRef) ([]metadata.WALObject, error) {
	return list(tx, Stmt{
		SQL: `SELECT o.agent, o.epoch, o.seq_first, o.seq_last, o.kind, o.tries, o.directory,
				o.key, o.length, o.directory_length, o.crc, o.format
			FROM {rows a int4, e int4} JOIN objects o ON o.agent=r.a AND o.epoch=r.e
			WHERE o.kind <> 2 ORDER BY o.agent, o.epoch, o.seq_first`,
		Rows: []any{
			column(refs, func(r metadata.SessionRef) int32 { return r.Agent }),
			column(refs, func(r metadata.SessionRef) int32 { return r.Epoch }),
		},
	}, func(r Row) (o metadata.WALObject, err error) {
		var crc int64
		err = r.Scan(&o.Session.Agent, &o.Session.Epoch, &o.First, &o.Last, &o.Kind, &o.Tries, &o.Directory,
			&o.Object.Key, &o.Object.Length, &o.Object.DirectoryLength, &crc, &o.Object.Format)
		o.Object.CRC32C = uint32(crc)
		return o, err
	})
}

// Acquire is metadata.Leases.
func (s *Store) Acquire(ctx context.Context, me metadata.Session, as []metadata.Acquisition) ([]metadata.PartitionID, error) {
	as = slices.Clone(as)
	slices.SortFunc(as, func(a, b metadata.Acquisition) int { return compareIDs(a.Partition, b.Partition) })
	var got []metadata.PartitionID
	err := s.db.Write(ctx, func(tx Tx) error {
		incarnation, err := holdCluster(tx)
		if err != nil {
			return err
		}
		journal, err := holdSession(tx, me)
		if err != nil {
			return err
		}
		if incarnation != me.Incarnation {
			return fmt.Errorf("incarnation %d, now %d: %w", me.Incarnation, incarnation, fenced(me))
		}
		if err := lockFree(tx, as); err != nil {
			return err
		}
		taken, err := take(tx, me, journal, as)
		if err != nil {
			return err
		}
		if err := recordLost(tx, as, taken); err != nil {
			return err
		}
		got, err = taking(tx, me, as)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("acquire %d partitions: %w", len(as), err)
	}
	return got, nil
}

func acquired(a metadata.Acquisition) metadata.PartitionID { return a.Partition }

// lockFree locks, in key order, those that nobody leads.
func lockFree(tx Tx, as []metadata.Acquisition) error {
	return tx.Lock(Stmt{
		SQL: `SELECT p.topic FROM {rows t int4, p int4} JOIN partitions p ON p.topic=r.t AND p.partition=r.p
			WHERE NOT EXISTS (SELECT 1 FROM sessions x WHERE x.agent=p.leader AND x.epoch=p.leader_session)
			ORDER BY p.topic, p.partition{update p}`,
		Rows: idRows(column(as, acquired)),
	})
}

// take is the acquisition itself. It runs after lockFree, in a newer snapshot: the leader epoch guards what changed since.
func take(tx Tx, me metadata.Session, journal []byte, as []metadata.Acquisition) (map[metadata.PartitionID]bool, error) {
	taken := map[metadata.PartitionID]bool{}
	err := tx.Query(Stmt{
		SQL: `UPDATE partitions AS p SET leader=$1, leader_session=$2, leader_epoch=p.leader_epoch+1, epoch_start=r.st,
				epochs=r.hist, unsealed=r.uns, tail_journal=r.jrn, tail_cap=r.cap
			FROM {rows t int4, p int4, seen int4, st int8, hist bytea, uns bytea, jrn bytea, cap int8, un bool}
			WHERE p.topic=r.t AND p.partition=r.p AND p.leader_epoch=r.seen
				AND NOT EXISTS (SELECT 1 FROM sessions x WHERE x.agent=p.leader AND x.epoch=p.leader_session)
				AND (p.tail_journal=$3 OR p.tail_journal=$4 OR r.un)
			RETURNING topic, partition`,
		Args: []any{me.Agent, me.Epoch, noJournal(), journal},
		Rows: append(idRows(column(as, acquired)),
			column(as, func(a metadata.Acquisition) int32 { return a.SeenEpoch }),
			column(as, func(a metadata.Acquisition) int64 { return a.Start }),
			column(as, func(a metadata.Acquisition) []byte { return packEpochs(a.Epochs) }),
			column(as, func(a metadata.Acquisition) []byte { return packRefs(a.Unsealed) }),
			column(as, func(a metadata.Acquisition) []byte { return slices.Clone(a.Journal[:]) }),
			column(as, func(a metadata.Acquisition) int64 { return a.TailCap }),
			column(as, func(a metadata.Acquisition) bool { return a.Unclean })),
	}, func(r Row) error {
		var id metadata.PartitionID
		err := r.Scan(&id.Topic, &id.Partition)
		taken[id] = true
		return err
	})
	return taken, err
}

// taking answers which of as this session holds by exactly this acquisition, be it now or by an earlier call whose reply
// was lost.
func taking(tx Tx, me metadata.Session, as []metadata.Acquisition) ([]metadata.PartitionID, error) {
	return list(tx, Stmt{
		SQL: `SELECT p.topic, p.partition FROM {rows t int4, p int4, seen int4, st int8}
				JOIN partitions p ON p.topic=r.t AND p.partition=r.p
			WHERE p.leader=$1 AND p.leader_session=$2 AND p.leader_epoch=r.seen+1 AND p.epoch_start=r.st
			ORDER BY p.topic, p.partition`,
		Args: []any{me.Agent, me.Epoch},
		Rows: append(idRows(column(as, acquired)),
			column(as, func(a metadata.Acquisition) int32 { return a.SeenEpoch }),
			column(as, func(a metadata.Acquisition) int64 { return a.Start })),
	}, func(r Row) (id metadata.PartitionID, err error) { return id, r.Scan(&id.Topic, &id.Partition) })
}

func recordLost(tx Tx, as []metadata.Acquisition, taken map[metadata.PartitionID]bool) error {
	var lost []metadata.LostRange
	for _, a := range as {
		if a.Lost != nil && taken[a.Partition] {
			lost = append(lost, *a.Lost)
		}
	}
	_, err := tx.Exec(Stmt{
		SQL: `INSERT INTO lost_ranges (topic, partition, lost_from, lost_to, leader_epoch, journal, why, lost_at)
			SELECT r.t, r.p, r.f, r.u, r.e, r.j, r.w, {now}
			FROM {rows t int4, p int4, f int8, u int8, e int4, j bytea, w text} WHERE true`,
		Rows: []any{
			column(lost, func(l metadata.LostRange) int32 { return l.Partition.Topic }),
			column(lost, func(l metadata.LostRange) int32 { return l.Partition.Partition }),
			column(lost, func(l metadata.LostRange) int64 { return l.From }),
			column(lost, func(l metadata.LostRange) int64 { return l.To }),
			column(lost, func(l metadata.LostRange) int32 { return l.Epoch }),
			column(lost, func(l metadata.LostRange) []byte { return slices.Clone(l.Journal[:]) }),
			column(lost, func(l metadata.LostRange) string { return l.Why }),
		},
	})
	return err
}

// Lost is metadata.Leases.
func (s *Store) Lost(ctx context.Context, limit int) (out []metadata.LostRange, err error) {
	err = s.db.Look(ctx, func(tx Tx) (err error) {
		out, err = list(tx, Stmt{
			SQL: `SELECT topic, partition, lost_from, lost_to, leader_epoch, journal, why, lost_at FROM lost_ranges
				ORDER BY id DESC LIMIT $1`,
			Args: []any{limit},
		}, func(r Row) (l metadata.LostRange, err error) {
			var journal []byte
			var at int64
			if err := r.Scan(&l.Partition.Topic, &l.Partition.Partition, &l.From, &l.To, &l.Epoch, &journal, &l.Why,
				&at); err != nil {
				return l, err
			}
			l.At = time.UnixMilli(at)
			l.Journal, err = uuid(journal)
			return l, err
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list lost ranges: %w", err)
	}
	return out, nil
}

// SetJournal is metadata.Leases.
func (s *Store) SetJournal(ctx context.Context, me metadata.Session, ids []metadata.PartitionID, journal metadata.UUID) error {
	ids = sortedIDs(ids)
	err := s.db.Write(ctx, func(tx Tx) error {
		if _, err := holdSession(tx, me); err != nil {
			return err
		}
		n, err := tx.Exec(Stmt{
			SQL: `UPDATE partitions AS p SET tail_journal=$3 FROM {rows t int4, p int4}
				WHERE p.topic=r.t AND p.partition=r.p AND p.leader=$1 AND p.leader_session=$2`,
			Args: []any{me.Agent, me.Epoch, journal[:]},
			Rows: idRows(ids),
		})
		if err == nil && int(n) != len(ids) {
			err = fmt.Errorf("leads %d of them: %w", n, metadata.ErrConflict)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("set the journal of %d partitions: %w", len(ids), err)
	}
	return nil
}
