package fetch

import (
	"encoding/binary"

	"varve.dev/tiering/batch"
)

// cut takes the batch at the start of s. Where s ends before the batch does b is nil, and size is what it needs at least.
func cut(s []byte) (b batch.Batch, size int, bad bool) {
	if len(s) < 12 {
		return nil, batch.HeaderSize, false
	}
	n := int64(int32(binary.BigEndian.Uint32(s[8:]))) + 12
	switch {
	case n < batch.HeaderSize:
		return nil, 0, true
	case n > int64(len(s)):
		return nil, int(n), false
	}
	return batch.Batch(s[:n:n]), int(n), false
}

// walk is one pass over the headers of a view. Slices end where batches do, but for the view's end, which may cut one.
type walk struct {
	from  int64 // offset that comes next
	want  int   // bytes
	dense bool  // no offset is missing
	part  *Part

	passed int64 // bytes of whole batches, taken or skipped
	taken  int
	cut    int64 // size of the batch that the view cuts, at least; 0: it cuts none
	full   bool  // the next batch would be too much
	bad    bool
}

// over takes whole batches that end after from, until part holds want bytes; a part's first batch is taken whatever its
// size.
func (w *walk) over(slices [][]byte) {
	for _, s := range slices {
		start, end := 0, 0 // of the run that is taken
		for end < len(s) && !w.stopped() {
			size := w.step(s[end:], w.part.Bytes+end-start)
			end += size
			w.passed += int64(size)
			if w.taken == 0 {
				start = end
			}
		}
		if end > start {
			w.part.add(s[start:end:end])
		}
		if w.stopped() {
			return
		}
	}
}

func (w *walk) stopped() bool { return w.full || w.bad || w.cut > 0 }

// step decides on the batch at the start of s, when the part holds have bytes: how many bytes to go on, 0 to stop.
func (w *walk) step(s []byte, have int) int {
	b, size, bad := cut(s)
	switch {
	case bad:
		w.bad = true
	case b == nil:
		w.cut = int64(size)
	case b.End() <= b.Base(), w.taken > 0 && b.Base() < w.from:
		w.bad = true // offsets never go back
	case b.End() <= w.from:
		return size
	case w.dense && b.Base() > w.from:
		w.bad = true // nor are they passed over
	case have > 0 && have+size > w.want:
		w.full = true
	default:
		w.taken, w.from = w.taken+1, b.End()
		return size
	}
	return 0
}
