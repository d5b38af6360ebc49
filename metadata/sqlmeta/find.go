package sqlmeta

import (
	"context"
	"fmt"

	"varve.dev/metadata"
)

const segmentColumns = `SELECT s.topic, s.partition, s.base, s.next, s.pos, s.len, s.records, s.max_ts, s.running_max,
	s.generation, o.key, o.length, o.directory_length, o.crc, o.format `

func scanSegment(r Row) (g metadata.Segment, err error) {
	g.Object = &metadata.Object{}
	var crc int64
	err = r.Scan(&g.Partition.Topic, &g.Partition.Partition, &g.Base, &g.End, &g.Pos, &g.Len, &g.Records, &g.MaxTimestamp,
		&g.RunningMax, &g.Generation, &g.Object.Key, &g.Object.Length, &g.Object.DirectoryLength, &crc, &g.Object.Format)
	g.Object.CRC32C = uint32(crc)
	return g, err
}

// lastBase is the newest segment of r. Not max(base): without fresh statistics PostgreSQL may read all of them for it.
const lastBase = `(SELECT x.base FROM segments x WHERE x.topic=r.t AND x.partition=r.p
	ORDER BY x.topic DESC, x.partition DESC, x.base DESC LIMIT 1)`

// look runs one query for segments.
func (s *Store) look(ctx context.Context, q Stmt) (out []metadata.Segment, err error) {
	err = s.db.Look(ctx, func(tx Tx) (err error) {
		out, err = list(tx, q, scanSegment)
		return err
	})
	return out, err
}

// Find is metadata.Index.
func (s *Store) Find(ctx context.Context, p metadata.PartitionID, offset int64, limit int) ([]metadata.Segment, error) {
	out, err := s.look(ctx, Stmt{
		SQL: segmentColumns + `FROM segments s JOIN objects o ON o.id=s.object
			WHERE s.topic=$1 AND s.partition=$2 AND s.next > $3 AND s.base >= COALESCE(
				(SELECT x.base FROM segments x WHERE x.topic=$1 AND x.partition=$2 AND x.base <= $3
					ORDER BY x.topic DESC, x.partition DESC, x.base DESC LIMIT 1), $3)
			ORDER BY s.base LIMIT $4`,
		Args: []any{p.Topic, p.Partition, offset, limit},
	})
	if err != nil {
		return nil, fmt.Errorf("find offset %d of %v: %w", offset, p, err)
	}
	return out, nil
}

// FindTime is metadata.Index. Running maxima never fall along a partition, so that the first of them in the index is also
// the first by offset.
func (s *Store) FindTime(ctx context.Context, p metadata.PartitionID, millis int64) (metadata.Segment, error) {
	out, err := s.look(ctx, Stmt{
		SQL: segmentColumns + `FROM segments s JOIN objects o ON o.id=s.object
			WHERE s.topic=$1 AND s.partition=$2 AND s.running_max >= $3
			ORDER BY s.topic, s.partition, s.running_max, s.base LIMIT 1`,
		Args: []any{p.Topic, p.Partition, millis},
	})
	if err == nil && len(out) == 0 {
		err = metadata.ErrNotFound
	}
	if err != nil {
		return metadata.Segment{}, fmt.Errorf("find time %d of %v: %w", millis, p, err)
	}
	return out[0], nil
}

// LastSegments is metadata.Index.
func (s *Store) LastSegments(ctx context.Context, ids []metadata.PartitionID) ([]metadata.Segment, error) {
	out, err := s.look(ctx, Stmt{
		SQL: segmentColumns + `FROM {rows t int4, p int4} JOIN segments s ON s.topic=r.t AND s.partition=r.p
				AND s.base=` + lastBase + `
			JOIN objects o ON o.id=s.object ORDER BY s.topic, s.partition`,
		Rows: idRows(sortedIDs(ids)),
	})
	if err != nil {
		return nil, fmt.Errorf("find the last segments of %d partitions: %w", len(ids), err)
	}
	return out, nil
}

// Mixed is metadata.Index.
func (s *Store) Mixed(ctx context.Context, limit int) ([]metadata.MixedObject, error) {
	var out []metadata.MixedObject
	err := s.db.Read(ctx, func(tx Tx) error {
		out = nil
		ids, err := list(tx, Stmt{
			SQL:  `SELECT id FROM objects WHERE kind = 2 AND live > 0 AND live < extents ORDER BY id LIMIT $1`,
			Args: []any{limit},
		}, scanOne[int64])
		if err != nil {
			return err
		}
		segments, err := list(tx, Stmt{
			SQL: segmentColumns + `FROM {rows i int8} JOIN segments s ON s.object=r.i JOIN objects o ON o.id=s.object
				ORDER BY s.object, s.topic, s.partition, s.base`,
			Rows: []any{ids},
		}, scanSegment)
		for _, g := range segments {
			if n := len(out); n == 0 || out[n-1].Object.Key != g.Object.Key {
				out = append(out, metadata.MixedObject{Object: *g.Object})
			}
			last := &out[len(out)-1]
			last.Segments = append(last.Segments, g)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list mixed objects: %w", err)
	}
	return out, nil
}
