package cache

import "sync"

const (
	// Buffers come in multiples of step, so that little is wasted on chunks that end in the middle of one; small ones
	// in two classes of their own.
	step     = 256 << 10
	smallest = 16 << 10
	small    = 64 << 10
	// pooledBytes is the largest buffer that is kept for reuse.
	pooledBytes = 16 << 20
	classes     = 2 + pooledBytes/step
)

// buffers is a pool of byte slices by size class.
type buffers struct {
	class  [classes]sync.Pool // *[]byte
	poison bool               // tests: whoever reads after Release finds out
}

// class is the pool for n bytes and the capacity of its buffers.
func class(n int64) (i int, capacity int64) {
	switch {
	case n <= smallest:
		return 0, smallest
	case n <= small:
		return 1, small
	}
	k := (n + step - 1) / step
	return int(1 + k), k * step
}

// footprint is the memory that a buffer of n bytes takes.
func footprint(n int64) int64 {
	if i, capacity := class(n); i < classes {
		return capacity
	}
	return n
}

func (b *buffers) get(n int64) []byte {
	i, capacity := class(n)
	if i >= classes {
		return make([]byte, n)
	}
	if p, ok := b.class[i].Get().(*[]byte); ok {
		return (*p)[:n]
	}
	return make([]byte, n, capacity)
}

func (b *buffers) put(buf []byte) {
	buf = buf[:cap(buf)]
	if b.poison {
		for i := range buf {
			buf[i] = 0xdb
		}
	}
	if i, capacity := class(int64(len(buf))); i < classes && capacity == int64(len(buf)) {
		b.class[i].Put(&buf)
	}
}
