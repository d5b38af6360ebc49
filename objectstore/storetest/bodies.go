package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"sync/atomic"

	"varve.dev/objectstore"
)

// Rope is a Body over many slices, as the window's chunks are: storing it must not join them.
type Rope struct {
	Pieces [][]byte
	Sum    uint32
}

// NewRope makes size reproducible bytes in pieces of at most piece bytes.
func NewRope(seed uint64, size, piece int) Rope {
	data := Noise(seed, size)
	var r Rope
	r.Sum = crc32.Checksum(data, castagnoli)
	for len(data) > 0 {
		n := min(piece, len(data))
		r.Pieces = append(r.Pieces, data[:n])
		data = data[n:]
	}
	return r
}

// Noise is size reproducible bytes that do not compress.
func Noise(seed uint64, size int) []byte {
	data := make([]byte, size)
	source := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)})
	source.Read(data)
	return data
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (r Rope) Size() (n int64) {
	for _, p := range r.Pieces {
		n += int64(len(p))
	}
	return n
}

func (r Rope) CRC32C() uint32      { return r.Sum }
func (r Rope) Open() io.ReadSeeker { return &ropeReader{pieces: r.Pieces, size: r.Size()} }

// Bytes joins the rope, for comparing.
func (r Rope) Bytes() []byte { return bytes.Join(r.Pieces, nil) }

type ropeReader struct {
	pieces    [][]byte
	size, pos int64
	i         int // the piece that pos is in
	at        int // and where in it
}

func (r *ropeReader) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) && r.i < len(r.pieces) {
		m := copy(p[n:], r.pieces[r.i][r.at:])
		n += m
		if r.at += m; r.at == len(r.pieces[r.i]) {
			r.i, r.at = r.i+1, 0
		}
	}
	r.pos += int64(n)
	if n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (r *ropeReader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.pos
	case io.SeekEnd:
		offset += r.size
	}
	if offset < 0 || offset > r.size {
		return 0, fmt.Errorf("seek to %d of %d", offset, r.size)
	}
	r.pos, r.i, r.at = offset, 0, 0
	for rest := offset; r.i < len(r.pieces); r.i++ {
		if n := int64(len(r.pieces[r.i])); rest >= n {
			rest -= n
			continue
		}
		r.at = int(rest)
		break
	}
	return offset, nil
}

// broken is a Body whose reader fails after some bytes.
type broken struct {
	objectstore.Body
	after int64
}

var errBroken = errors.New("the disk under the body is gone")

func (b broken) Open() io.ReadSeeker { return &brokenReader{b.Body.Open(), b.after} }

type brokenReader struct {
	io.ReadSeeker
	left int64
}

func (r *brokenReader) Read(p []byte) (int, error) {
	if r.left <= 0 {
		return 0, errBroken
	}
	n, err := r.ReadSeeker.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	return n, err
}

// watched is a Body that notices reads after Put has returned, and whether its readers were closed.
type watched struct {
	objectstore.Body
	returned *atomic.Bool
	late     *atomic.Int64
	open     *atomic.Int64
}

func watch(b objectstore.Body) watched {
	return watched{b, new(atomic.Bool), new(atomic.Int64), new(atomic.Int64)}
}

func (w watched) Open() io.ReadSeeker {
	w.open.Add(1)
	return &watchedReader{w.Body.Open(), w}
}

type watchedReader struct {
	io.ReadSeeker
	w watched
}

func (r *watchedReader) Read(p []byte) (int, error) {
	if r.w.returned.Load() {
		r.w.late.Add(1)
	}
	return r.ReadSeeker.Read(p)
}

func (r *watchedReader) Close() error {
	r.w.open.Add(-1)
	return nil
}

// lying is a Body with another checksum or size than its bytes have.
type lying struct {
	objectstore.Body
	sum  uint32
	size int64
}

func (l lying) CRC32C() uint32 { return l.sum }
func (l lying) Size() int64    { return l.size }
