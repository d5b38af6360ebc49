package seal

import (
	"context"
	"fmt"

	"varve.dev/objectstore/cache"
	"varve.dev/tiering/object"
)

// stretch is neighbouring ranges of one object that one view reads. A view takes whole blocks, and holds them until the
// merge has written what it makes: one for each range would read, and hold, a block again for every small range in it.
type stretch struct {
	o        *object.Stored
	pos, end int64
	opened   bool
	view     cache.View
	rest     [][]byte // of the view, from at on: what no range has taken yet
	at       int64
}

// stretchesOf answers all stretches, and that of each source. Sources come in order of partition and offset, so that those of one object
// are in the order of their places in it; what lies between two of them is read along where it is less than a block.
func stretchesOf(xs []source) (all, of []*stretch) {
	of = make([]*stretch, len(xs))
	last := map[*object.Stored]*stretch{}
	for i, x := range xs {
		s := last[x.o]
		if s == nil || x.r.Pos < s.end || x.r.Pos-s.end >= object.BlockSize {
			s = &stretch{o: x.o, pos: x.r.Pos}
			last[x.o] = s
			all = append(all, s)
		}
		s.end = x.r.Pos + x.r.Len
		of[i] = s
	}
	return all, of
}

// open reads the stretch when its first range is asked for.
func (s *stretch) open(ctx context.Context, c Cache) (err error) {
	if s.opened {
		return nil
	}
	o := cache.Object{Key: s.o.Object.Key, Length: s.o.Object.Length, Blocks: s.o.Dir.Blocks}
	if s.view, err = c.View(ctx, o, s.pos, s.end-s.pos); err != nil {
		return fmt.Errorf("read %s: %w", o.Key, err)
	}
	s.opened, s.rest, s.at = true, s.view.Slices, s.pos
	return nil
}

// take is the bytes of a range that lies behind those that were taken before. A view is cut where batches end.
func (s *stretch) take(r *object.Range) (out [][]byte) {
	s.skip(r.Pos - s.at)
	for end := r.Pos + r.Len; s.at < end; {
		n := min(int64(len(s.rest[0])), end-s.at)
		out = append(out, s.rest[0][:n:n])
		s.skip(n)
	}
	return out
}

func (s *stretch) skip(n int64) {
	for s.at += n; n > 0; {
		k := min(int64(len(s.rest[0])), n)
		if s.rest[0], n = s.rest[0][k:], n-k; len(s.rest[0]) == 0 {
			s.rest = s.rest[1:]
		}
	}
}
