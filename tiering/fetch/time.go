package fetch

import (
	"context"
	"errors"

	"varve.dev/metadata"
	"varve.dev/objectstore/cache"
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
	for from := max(first.Base, p.From); from < p.SealedEnd; {
		segments, err := r.find(ctx, p.Partition, from)
		if err != nil {
			return nothing, err
		}
		for i := range segments {
			s := &segments[i]
			from = s.End
			if s.MaxTimestamp < millis {
				continue
			}
			x, err := r.open(ctx, s)
			if err != nil {
				return nothing, err
			}
			f, err := r.seekPiece(ctx, x, p.From, millis)
			if err != nil || f.Offset >= 0 {
				return f, err
			}
		}
	}
	return nothing, nil
}

// seekView is how much of a range one step of a seek reads.
const seekView = 256 << 10

func (r *Reader) seekPiece(ctx context.Context, x Piece, from, millis int64) (Found, error) {
	g := x.Range
	if g.MaxTimestamp < millis || g.End <= from {
		return nothing, nil
	}
	o := cache.Object{Key: x.Stored.Object.Key, Length: x.Stored.Object.Length, Blocks: x.Stored.Dir.Blocks}
	size := int64(seekView)
	for pos := g.SeekTime(millis); pos < g.Len; {
		n := min(size, g.Len-pos)
		v, err := r.view.View(ctx, o, g.Pos+pos, n)
		if err != nil {
			return nothing, err
		}
		passed, f, err := r.seekSlices(v.Slices, from, millis)
		v.Release()
		if err != nil || f.Offset >= 0 {
			return f, err
		}
		if passed == 0 {
			if n == g.Len-pos {
				return nothing, object.ErrCorrupt
			}
			size *= 2
		}
		pos += passed
	}
	return nothing, nil
}

func (r *Reader) seekSlices(slices [][]byte, from, millis int64) (passed int64, f Found, err error) {
	for _, s := range slices {
		for len(s) > 0 {
			n := batchLength(s)
			if n == 0 || n > len(s) {
				return passed, nothing, nil
			}
			if n < batch.HeaderSize {
				return passed, nothing, object.ErrCorrupt
			}
			if f, err = r.seekBatch(batch.Batch(s[:n]), from, millis); err != nil || f.Offset >= 0 {
				return passed, f, err
			}
			s, passed = s[n:], passed+int64(n)
		}
	}
	return passed, nothing, nil
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
	return f, err
}
