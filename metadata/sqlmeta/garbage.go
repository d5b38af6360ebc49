package sqlmeta

import (
	"context"
	"fmt"

	"varve.dev/metadata"
)

// counterBits of a producer id count; the incarnation stands above them, below the sign.
const counterBits = 48

// ProducerIDs is metadata.Producers.
func (s *Store) ProducerIDs(ctx context.Context, n int64) (int64, error) {
	var first int64
	err := s.db.Write(ctx, func(tx Tx) error {
		incarnation, err := holdCluster(tx)
		if err != nil {
			return err
		}
		if _, err := one(tx, Stmt{
			SQL:  `UPDATE producer_ids SET next=next+$1 RETURNING next`,
			Args: []any{n},
		}, &first); err != nil {
			return err
		}
		if first-n < 0 || n <= 0 || first > 1<<counterBits {
			return fmt.Errorf("%d are given out already, the counter has %d bits", first-n, counterBits)
		}
		first = int64(incarnation)<<counterBits | (first - n)
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("reserve %d producer ids: %w", n, err)
	}
	return first, nil
}

// Dead is metadata.Garbage.
func (s *Store) Dead(ctx context.Context, limit int) (out []metadata.Tombstone, err error) {
	err = s.db.Look(ctx, func(tx Tx) (err error) {
		out, err = list(tx, Stmt{
			SQL:  `SELECT key, reason FROM tombstones WHERE not_before <= {now} ORDER BY not_before, key LIMIT $1`,
			Args: []any{limit},
		}, func(r Row) (t metadata.Tombstone, err error) { return t, r.Scan(&t.Key, &t.Reason) })
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list tombstones: %w", err)
	}
	return out, nil
}

// Forget is metadata.Garbage.
func (s *Store) Forget(ctx context.Context, keys []string) error {
	err := s.db.One(ctx, func(tx Tx) error {
		_, err := tx.Exec(Stmt{
			SQL:  `DELETE FROM tombstones WHERE key IN (SELECT r.k FROM {rows k text})`,
			Rows: []any{keys},
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("forget %d tombstones: %w", len(keys), err)
	}
	return nil
}

// Referenced is metadata.Garbage.
func (s *Store) Referenced(ctx context.Context) (metadata.Inventory, error) {
	var inv metadata.Inventory
	err := s.db.Read(ctx, func(tx Tx) (err error) {
		if inv.Topics, err = topics(tx); err != nil {
			return err
		}
		if inv.Partitions, err = partitions(tx, nil); err != nil {
			return err
		}
		if inv.Objects, err = inventoryObjects(tx); err != nil {
			return err
		}
		if inv.Segments, err = list(tx, Stmt{
			SQL: segmentColumns + `FROM segments s JOIN objects o ON o.id=s.object ORDER BY s.topic, s.partition, s.base`,
		}, scanSegment); err != nil {
			return err
		}
		if inv.Intents, err = list(tx, Stmt{SQL: `SELECT key FROM uploads ORDER BY key`}, scanOne[string]); err != nil {
			return err
		}
		if inv.Tombstones, err = list(tx, Stmt{SQL: `SELECT key, reason FROM tombstones ORDER BY key`},
			func(r Row) (t metadata.Tombstone, err error) { return t, r.Scan(&t.Key, &t.Reason) }); err != nil {
			return err
		}
		inv.Lives, err = lives(tx)
		return err
	})
	if err != nil {
		return metadata.Inventory{}, fmt.Errorf("read the inventory: %w", err)
	}
	return inv, nil
}

func lives(tx Tx) ([]metadata.Ended, error) {
	return list(tx, Stmt{SQL: `SELECT agent, epoch, live, seq, nonce, incarnation, journal, journal_synced FROM sessions ORDER BY agent`},
		func(r Row) (metadata.Ended, error) {
			var l life
			var agent int32
			var journal []byte
			err := r.Scan(&agent, &l.epoch, &l.live, &l.seq, &l.nonce, &l.incarnation, &journal, &l.synced)
			if err == nil {
				l.journal, err = uuid(journal)
			}
			return l.ended(agent), err
		})
}

func inventoryObjects(tx Tx) ([]metadata.InventoryObject, error) {
	return list(tx, Stmt{
		SQL: `SELECT key, length, directory_length, crc, format, kind, live, directory FROM objects ORDER BY key`,
	}, func(r Row) (o metadata.InventoryObject, err error) {
		var crc int64
		err = r.Scan(&o.Key, &o.Length, &o.DirectoryLength, &crc, &o.Format, &o.Kind, &o.Live, &o.Directory)
		o.CRC32C = uint32(crc)
		return o, err
	})
}
