package s3api

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"

	"varve.dev/objectstore"
)

// Upload reads a body for one request. An SDK's transport may go on reading in the background after the request has
// failed, while the owner already recycles the bytes: End makes that impossible.
type Upload struct {
	size   int64
	want   uint32
	verify bool

	mu      sync.Mutex // held while body is read: End must wait for that
	body    io.ReadSeeker
	pos     int64
	moved   bool // pos is not where body stands
	sum     uint32
	err     error // the body's own failure, which no SDK reports as it was
	noMore  bool
	sumFrom bool // sum covers [0, pos)
}

var errEnded = errors.New("the request has ended")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// NewUpload opens body. verify checks its CRC32C on the way out.
func NewUpload(body objectstore.Body, verify bool) *Upload {
	return &Upload{size: body.Size(), want: body.CRC32C(), verify: verify, body: body.Open(), sumFrom: true}
}

// Read gives exactly size bytes and never fewer without an error: an SDK would wait for the rest.
func (u *Upload) Read(p []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.err != nil:
		return 0, u.err
	case u.pos == u.size: // also after End: net/http looks once more, and would close the connection on an error
		return 0, io.EOF
	case u.noMore:
		return 0, errEnded
	}
	n, err := u.read(p[:min(int64(len(p)), u.size-u.pos)])
	if err != nil {
		u.err = err
		return 0, err
	}
	return n, nil
}

func (u *Upload) read(p []byte) (int, error) {
	if u.moved {
		if _, err := u.body.Seek(u.pos, io.SeekStart); err != nil {
			return 0, err
		}
		u.moved = false
	}
	n, err := u.body.Read(p)
	if err != nil && (err != io.EOF || n == 0) {
		if err == io.EOF {
			err = fmt.Errorf("body ended after %d of %d bytes: %w", u.pos, u.size, io.ErrUnexpectedEOF)
		}
		return 0, err
	}
	u.pos += int64(n)
	if !u.verify {
		return n, nil
	}
	u.sum = crc32.Update(u.sum, castagnoli, p[:n])
	if u.pos == u.size && (!u.sumFrom || u.sum != u.want) {
		return 0, fmt.Errorf("%w: body has CRC32C %08x, promised %08x", objectstore.ErrChecksum, u.sum, u.want)
	}
	return n, nil
}

// Seek only moves a position; the body follows when it is read. SDKs seek to its end to learn its size.
func (u *Upload) Seek(offset int64, whence int) (int64, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch whence {
	case io.SeekCurrent:
		offset += u.pos
	case io.SeekEnd:
		offset += u.size
	}
	if offset < 0 || offset > u.size {
		return 0, fmt.Errorf("seek to %d in a body of %d bytes", offset, u.size)
	}
	if offset != u.pos {
		u.moved, u.pos = true, offset
		u.sum, u.sumFrom = 0, offset == 0
	}
	return offset, nil
}

// End waits for a read that is running, forbids further ones, and returns the body's own failure.
func (u *Upload) End() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.noMore = true
	if c, ok := u.body.(io.Closer); ok {
		return errors.Join(u.err, c.Close())
	}
	return u.err
}
