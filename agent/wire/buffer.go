package wire

import (
	"io"
	"sync"
	"sync/atomic"
)

const (
	// restBytes is what an idle connection keeps to read into: 10,000 of them are 80 MiB.
	restBytes = 8 << 10
	// firstGrowth is what a frame gets without having sent anything, and what it may send before it takes from the
	// budget.
	firstGrowth = 64 << 10
	// growth is how many times the bytes that have arrived a full buffer becomes; rounded up to the next class that is
	// four times at most, and the copies of growing sum to a third.
	growth = 2
	// maxKept is the largest buffer that a connection keeps between frames, and maxKeptTotal the sum of all of them: a
	// producer of 1 MiB batches reads into the same memory again and again, and ten thousand of them still fit.
	maxKept      = 1 << 20
	maxKeptTotal = 64 << 20
)

// classes are the sizes that are pooled; larger buffers belong to the garbage collector.
var classes = [...]int{64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20}

// buffers pools what connections read into.
type buffers struct {
	pools [len(classes)]sync.Pool
	kept  atomic.Int64 // bytes of buffers that wait for the next frame of their connection
}

func (b *buffers) get(n int) []byte {
	for i, size := range classes {
		if n <= size {
			if p, ok := b.pools[i].Get().(*[]byte); ok {
				return *p
			}
			return make([]byte, size)
		}
	}
	return make([]byte, n)
}

func (b *buffers) put(buf []byte) {
	for i, size := range classes {
		if len(buf) == size {
			b.pools[i].Put(&buf)
			return
		}
	}
}

// inbox is a connection's reading buffer: buf[r:w] has arrived and is not yet consumed.
type inbox struct {
	from *buffers
	rest []byte // restBytes long; buf is this one while nothing larger is needed
	buf  []byte
	r, w int
	kept int64 // what this connection has counted in from.kept
}

func newInbox(from *buffers) *inbox {
	rest := make([]byte, restBytes)
	return &inbox{from: from, rest: rest, buf: rest}
}

// bytes is what has arrived, beginning with the next frame.
func (i *inbox) bytes() []byte { return i.buf[i.r:i.w] }

func (i *inbox) len() int { return i.w - i.r }

// fill reads until n bytes are there. Memory grows with what arrives, not with n.
func (i *inbox) fill(src io.Reader, n int) error {
	if i.r == i.w {
		i.r, i.w = 0, 0
	}
	for i.len() < n {
		i.makeRoom(n)
		free := i.buf[i.w:]
		// The rest of a large frame is read without the beginning of the next, which would have to be moved.
		if missing := n - i.len(); missing > firstGrowth && missing < len(free) {
			free = free[:missing]
		}
		k, err := src.Read(free)
		i.w += k
		if err != nil && i.len() < n {
			return err
		}
	}
	return nil
}

func (i *inbox) makeRoom(n int) {
	if len(i.buf)-i.r >= n {
		return
	}
	if i.r > 0 {
		i.w = copy(i.buf, i.bytes())
		i.r = 0
	}
	if i.w == len(i.buf) || i.w == 0 {
		if want := min(n, max(firstGrowth, growth*i.w)); want > len(i.buf) {
			i.move(i.from.get(want))
		}
	}
}

// move takes what has arrived into another buffer and gives the old one back.
func (i *inbox) move(to []byte) {
	old := i.buf
	i.w = copy(to, i.bytes())
	i.r, i.buf = 0, to
	i.from.put(old) // the resting buffer is of no pooled size and stays ours
}

func (i *inbox) consume(n int) { i.r += n }

// resting says whether no more memory than an idle connection's is held.
func (i *inbox) resting() bool { return len(i.buf) == restBytes }

// settle is called between frames: it gives back a buffer that is too large to keep.
func (i *inbox) settle() {
	if i.resting() {
		return
	}
	if len(i.buf) > maxKept {
		i.shrink()
		return
	}
	if grown := int64(len(i.buf)) - i.kept; grown != 0 {
		i.kept += grown
		if i.from.kept.Add(grown) > maxKeptTotal {
			i.shrink()
		}
	}
}

// shrink goes back to the resting buffer if what has arrived fits it.
func (i *inbox) shrink() {
	if i.resting() || i.len() > restBytes {
		return
	}
	i.move(i.rest)
	i.from.kept.Add(-i.kept)
	i.kept = 0
}

// close gives everything back.
func (i *inbox) close() {
	i.r, i.w = 0, 0
	i.shrink()
}
