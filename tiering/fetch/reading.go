package fetch

import (
	"context"
	"errors"
	"fmt"

	"varve.dev/metadata"
	"varve.dev/objectstore/cache"
	"varve.dev/tiering/object"
)

// reading is one plan on its way to its part.
type reading struct {
	*Reader
	p      *Plan
	res    *Result // holds what part borrows
	part   Part
	from   int64 // offset that comes next
	want   int
	memory bool               // and nothing else is looked at
	shared *patience          // with the other plans; nil: it waits for whatever it takes
	before int                // bytes that are to come of the plans before it
	waited bool               // for a download
	next   []metadata.Segment // what follows the segment that is read: read-ahead goes on there
}

// one reads one plan, behind others that are to bring so many bytes, and with the patience that it shares with them; nil: it
// waits for whatever it takes.
func (r *Reader) one(ctx context.Context, p *Plan, res *Result, reused [][]byte, left, before int, shared *patience) Part {
	g := reading{Reader: r, p: p, res: res, from: p.From, want: max(1, min(p.Max, left)), before: before, shared: shared,
		part: Part{Slices: reused}}
	g.part.Err = g.read(ctx)
	// An error that came after some bytes comes again with the next read; one that says that the time is up is none.
	if g.part.Bytes > 0 || ctx.Err() != nil {
		g.part.Err = nil
	}
	return g.part
}

// read goes through history, pieces and what is held, until enough is there.
func (g *reading) read(ctx context.Context) error {
	if g.p.Sealed {
		if done, err := g.history(ctx); done || err != nil {
			return err
		}
	}
	for _, x := range g.p.Pieces {
		if x.Range.End <= g.from {
			continue
		}
		if done, err := g.take(ctx, x); done || err != nil {
			return err
		}
	}
	for _, h := range g.p.Held {
		switch b := h.Batch; {
		case b.End() <= g.from:
			continue
		case b.Base() > g.from:
			return g.hole(g.p.Partition, g.from)
		case g.part.Bytes > 0 && g.part.Bytes+len(b) > g.want:
			return nil
		default:
			g.part.add(b)
			g.from = b.End()
		}
	}
	return nil
}

// hole raises the alarm: what was promised is in no place.
func (r *Reader) hole(p metadata.PartitionID, offset int64) error {
	if r.cfg.HoleDetected != nil {
		r.cfg.HoleDetected(p, offset)
	}
	return fmt.Errorf("%w: %s at offset %d", ErrHole, p, offset)
}

func (p *Part) add(s []byte) {
	p.Slices = append(p.Slices, s)
	p.Bytes += len(s)
}

// take reads one piece; done: enough is there.
func (g *reading) take(ctx context.Context, x Piece) (done bool, err error) {
	if x.Range.Base > g.from {
		return false, g.hole(g.p.Partition, g.from)
	}
	if err := g.piece(ctx, x); err != nil {
		return false, err
	}
	return g.part.Bytes >= g.want || g.from < x.Range.End, nil
}

// minView is the least that is read at once: headers must be walked to find an offset.
const minView = 64 << 10

// piece adds batches of one range until want is met or the range ends.
func (g *reading) piece(ctx context.Context, x Piece) error {
	r, o := x.Range, objectOf(x)
	dense := r.Records == r.End-r.Base
	var last progress
	if x.Stored.Kind == metadata.Sealed {
		last, _ = g.ahead.GetIfPresent(sequence{g.p.Partition, g.from})
	}
	pos, need := int64(0), int64(0)
	if g.from > r.Base {
		pos = r.SeekOffset(g.from)
		if last.key == o.Key && last.at > r.Pos && last.at < r.Pos+r.Len {
			pos = last.at - r.Pos // where a sequential reader stopped
		}
	}
	for full := false; !full && pos < r.Len && g.part.Bytes < g.want; {
		n := min(r.Len-pos, max(int64(g.want-g.part.Bytes), minView, need))
		v, err := g.viewOf(ctx, o, r.Pos+pos, n, need > 0)
		if errors.Is(err, cache.ErrBusy) && g.part.Bytes > 0 {
			break // the rest comes with the next read
		}
		if err != nil {
			return err
		}
		g.waited = g.waited || v.Waited()
		n = length(v.Slices)
		w := walk{from: g.from, want: g.want, dense: dense, part: &g.part}
		w.over(v.Slices)
		if w.taken > 0 {
			g.res.keep(v)
			g.from = w.from
		} else {
			v.Release()
		}
		pos += w.passed
		atEnd := w.cut > 0 && pos-w.passed+n == r.Len // a batch is longer than its range
		stuck := !w.full && w.passed == 0 && w.cut <= n
		if w.bad || atEnd || stuck {
			return fmt.Errorf("%w: batch at %d of %s is damaged, or does not end in its range", object.ErrCorrupt, r.Pos+pos, o.Key)
		}
		full, need = w.full, w.cut
	}
	if x.Stored.Kind == metadata.Sealed {
		g.readAhead(o, r, pos, last.size)
	}
	if pos < r.Len || g.from >= r.End {
		return nil
	}
	if dense {
		return fmt.Errorf("%w: [%d, %d) of %s in %s ends at %d", object.ErrCorrupt, r.Base, r.End, r.Partition, o.Key, g.from)
	}
	g.from = r.End // the rest of the range was compacted away
	return nil
}

// errElsewhere: what was looked for in memory only lies in another place.
var errElsewhere = errors.New("not in memory")

func length(slices [][]byte) (n int64) {
	for _, s := range slices {
		n += int64(len(s))
	}
	return n
}

// effort is what is done for bytes that are not in memory: what a part already has is not kept waiting for a download, nor
// what is worth an answer for a file. But files are read for the plans that come first, however fast others are: clients put
// first what brought nothing, and it would else never bring anything beside what lies in memory.
func (g *reading) effort() cache.Effort {
	switch {
	case g.before >= worth && g.shared.over():
		return cache.Begin
	case g.part.Bytes > 0:
		return cache.Copy
	}
	return cache.Wait
}

// viewOf borrows a range, or what is at hand of it unless whole is asked for.
func (g *reading) viewOf(ctx context.Context, o cache.Object, off, n int64, whole bool) (cache.View, error) {
	if g.memory {
		v, ok := g.view.Borrow(o, off, n)
		if !ok {
			return v, errElsewhere
		}
		return v, nil
	}
	var v cache.View
	var err error
	if g.shared == nil || whole {
		v, err = g.view.View(ctx, o, off, n)
	} else {
		v, err = g.view.Some(ctx, o, off, n, g.effort())
	}
	if err != nil {
		return v, fmt.Errorf("read %s at %d: %w", o.Key, off, err)
	}
	return v, nil
}

func objectOf(x Piece) cache.Object {
	return cache.Object{Key: x.Stored.Object.Key, Length: x.Stored.Object.Length, Blocks: x.Stored.Dir.Blocks}
}

// steadyAhead is how far ahead of any sequential reader downloads run: what eight requests bring.
const steadyAhead = 32 << 20

// grown is how far they run after a read that goes on where another ended, which was size ahead: a reader of 1 MiB at a time
// comes to steadyAhead before it is through with its first chunk. Only who has to wait all the same is given more: what lies
// there for a slow reader takes the room of others.
func (g *reading) grown(size int64) int64 {
	switch {
	case size < steadyAhead:
		size = min(4*size, steadyAhead)
	case g.waited:
		size *= 2
	}
	return min(size, g.cfg.ReadAhead)
}

// readAhead begins the downloads of what comes next. It goes on into the segments that follow, or their first bytes would be
// waited for.
func (g *reading) readAhead(o cache.Object, r *object.Range, pos, size int64) {
	size = max(int64(g.part.Bytes), g.grown(size))
	g.ahead.Set(sequence{g.p.Partition, g.from}, progress{o.Key, r.Pos + pos, size})
	left := min(size, g.cfg.ReadAhead)
	if n := min(left, r.Len-pos); n > 0 {
		g.view.Prefetch(o, r.Pos+pos, n)
		left -= n
	}
	for i := 0; i < len(g.next) && left > 0; i++ {
		s := &g.next[i]
		if d := g.dirs.soon(*s.Object); d != nil {
			g.view.Prefetch(cache.Object{Key: s.Object.Key, Length: s.Object.Length, Blocks: d.Blocks}, s.Pos, min(left, s.Len))
		}
		left -= s.Len
	}
}
