package fetch

import (
	"context"
	"errors"
	"fmt"

	"varve.dev/metadata"
	"varve.dev/objectstore"
	"varve.dev/tiering/batch"
	"varve.dev/tiering/object"
)

// Found is a record that a seek by time found; Offset -1: none.
type Found struct {
	Offset, Timestamp int64
	LeaderEpoch       int32
}

var nothing = Found{-1, -1, -1}

// SeekTime answers the first record at or after p.From whose timestamp is at least millis, decoded inside its batch:
// exact also where timestamps are out of order. Sealed history is found by the running maximum in the index, the rest by
// the plan's pieces.
func (r *Reader) SeekTime(ctx context.Context, p Plan, millis int64) (Found, error) {
	defer p.Release()
	if p.Sealed {
		f, err := r.seekSealed(ctx, p, millis)
		if err != nil || f.Offset >= 0 {
			return f, err
		}
	}
	for _, x := range p.Pieces {
		f, err := r.seekPiece(ctx, x, p.From, millis)
		if err != nil || f.Offset >= 0 {
			return f, err
		}
	}
	for _, h := range p.Held {
		f, err := r.seekBatch(h.Batch, p.From, millis)
		if err != nil || f.Offset >= 0 {
			return f, err
		}
	}
	return nothing, nil
}

func (r *Reader) seekSealed(ctx context.Context, p Plan, millis int64) (Found, error) {
	first, err := r.index.FindTime(ctx, p.Partition, millis)
	if errors.Is(err, metadata.ErrNotFound) {
		return nothing, nil
	}
	if err != nil {
		return nothing, err
	}
	// The running maximum may owe its height to a record below the log start: so the search goes on from there.
	from := max(first.Base, p.From)
	for refreshed := false; from < p.SealedEnd; {
		segments, err := r.find(ctx, p.Partition, from)
		if err != nil {
			return nothing, err
		}
		f, next, err := r.seekSegments(ctx, p, segments, millis)
		if errors.Is(err, objectstore.ErrNotFound) && !refreshed {
			refreshed = true
			r.Forget(p.Partition)
			continue
		}
		if err != nil || f.Offset >= 0 {
			return f, err
		}
		from = next
	}
	return nothing, nil
}

func (r *Reader) seekSegments(ctx context.Context, p Plan, segments []metadata.Segment, millis int64) (f Found, next int64, err error) {
	for i := range segments {
		s := &segments[i]
		if next = s.End; s.MaxTimestamp < millis {
			continue
		}
		x, err := r.open(ctx, s)
		if err != nil {
			return nothing, next, err
		}
		if f, err := r.seekPiece(ctx, x, p.From, millis); err != nil || f.Offset >= 0 {
			return f, next, err
		}
	}
	return nothing, next, nil
}

// seekView is how much of a range one step of a seek reads.
const seekView = 256 << 10

func (r *Reader) seekPiece(ctx context.Context, x Piece, from, millis int64) (Found, error) {
	g := x.Range
	if g.MaxTimestamp < millis || g.End <= from {
		return nothing, nil
	}
	o := objectOf(x)
	need := int64(0)
	for pos := max(g.SeekTime(millis), g.SeekOffset(from)); pos < g.Len; {
		n := min(max(seekView, need), g.Len-pos)
		v, err := r.view.View(ctx, o, g.Pos+pos, n)
		if err != nil {
			return nothing, fmt.Errorf("read %s at %d: %w", o.Key, g.Pos+pos, err)
		}
		f, passed, short, err := r.seekSlices(v.Slices, from, millis)
		v.Release()
		if err != nil || f.Offset >= 0 {
			return f, err
		}
		if short > 0 && n == g.Len-pos || passed == 0 && short <= n {
			return nothing, fmt.Errorf("%w: batch at %d of %s does not end in its range", object.ErrCorrupt, g.Pos+pos+passed, o.Key)
		}
		pos, need = pos+passed, short
	}
	return nothing, nil
}

// seekSlices looks into the batches of a view; short is what the batch that it cuts needs, 0: it cuts none.
func (r *Reader) seekSlices(slices [][]byte, from, millis int64) (f Found, passed, short int64, err error) {
	for _, s := range slices {
		for len(s) > 0 {
			b, size, bad := cut(s)
			if bad {
				return nothing, passed, 0, object.ErrCorrupt
			}
			if b == nil {
				return nothing, passed, int64(size), nil
			}
			if f, err = r.seekBatch(b, from, millis); err != nil || f.Offset >= 0 {
				return f, passed, 0, err
			}
			s, passed = s[size:], passed+int64(size)
		}
	}
	return nothing, passed, 0, nil
}

func (r *Reader) seekBatch(b batch.Batch, from, millis int64) (Found, error) {
	if b.MaxTimestamp() < millis || b.End() <= from || b.IsControl() {
		return nothing, nil
	}
	f := nothing
	err := b.Records(r.cfg.RecordBytes, func(rec batch.Record) bool {
		if rec.Offset >= from && rec.Timestamp >= millis {
			f = Found{rec.Offset, rec.Timestamp, b.LeaderEpoch()}
			return false
		}
		return true
	})
	if err != nil {
		return nothing, fmt.Errorf("batch at offset %d: %w", b.Base(), err)
	}
	return f, nil
}
