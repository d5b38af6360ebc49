// Package objectstore holds named, immutable objects: the contract that every driver keeps, and decorators around it.
//
// Keys are written once and never reused. A key is a path of parts joined by "/"; each part is 1–255 bytes of
// [A-Za-z0-9._-], is not "." or "..", and no key is the folder of another: that is what every S3-compatible server that
// we know accepts.
package objectstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"iter"
)

var (
	// ErrExists means that the key already holds an object. After a retry or a lost reply it may be our own: Stat and
	// compare size and checksum.
	ErrExists = errors.New("object exists")
	// ErrNotFound means that no object has this key now.
	ErrNotFound = errors.New("object not found")
	// ErrThrottled means that the store asked for fewer requests (S3: 503 SlowDown, 429). Retriable.
	ErrThrottled = errors.New("object store throttles")
	// ErrChecksum means that the store, or the reader, found other bytes than were promised.
	ErrChecksum = errors.New("checksum mismatch")
	// ErrUnavailable means that the request may succeed later: network, time-out, 5xx. A Put that ends so may still take
	// effect.
	ErrUnavailable = errors.New("object store unavailable")
	// ErrRange means that a read asked for bytes behind the object's end: the object is not the one that the index knows.
	ErrRange = errors.New("range beyond the end of the object")
	// ErrKey means that a key breaks the rules at the top of this package. It never reaches the store.
	ErrKey = errors.New("invalid object key")
)

const (
	// MaxObjectBytes bounds one object: 256 MiB, the size up to which one PUT costs fewer requests than several parts.
	MaxObjectBytes = 256 << 20
	// MaxDeleteKeys is how many keys S3 takes in one delete request.
	MaxDeleteKeys = 1000
)

// SetupError says what is wrong with the configuration of a store and what a person must do about it: a missing bucket,
// wrong credentials, an endpoint that does not speak S3. Retrying does not help.
type SetupError struct {
	Problem, Hint string
	Err           error
}

func (e *SetupError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("%s: %s", e.Problem, e.Hint)
	}
	return fmt.Sprintf("%s: %s (%v)", e.Problem, e.Hint, e.Err)
}

func (e *SetupError) Unwrap() error { return e.Err }

// Body is what is stored. Its bytes never change; a retry or a hedge opens its own reader.
type Body interface {
	// Open starts a reader at the first byte. Its owner may recycle the bytes as soon as Put has returned: no driver
	// reads after that. A reader that is also an io.Closer is closed before.
	Open() io.ReadSeeker
	Size() int64
	// CRC32C is the Castagnoli checksum of all bytes. It is sent with the object, so that the store refuses other bytes.
	CRC32C() uint32
}

// Info is what a store knows of an object. CRC32C is only meaningful where HasCRC32C is set: a listing has none.
type Info struct {
	Key       string
	Size      int64
	CRC32C    uint32
	HasCRC32C bool
}

// Store is the contract of every driver; storetest holds them to it. All methods are safe for concurrent use and end
// soon after ctx does.
type Store interface {
	// Put stores body under key in one request, or fails with ErrExists where the key is taken (conditional put). When it
	// returns nil the object is durable and readable. An error other than ErrExists leaves it open whether the object
	// exists, now or later. Some servers refuse a large body by closing the connection: ErrUnavailable then hides an
	// ErrExists, which Retry finds by Stat.
	Put(ctx context.Context, key string, body Body) error
	// ReadAt fills dst from offset off or fails; a body that ends early is an error, never a short read. It allocates
	// nothing that grows with len(dst). A range beyond the object's end is an error.
	ReadAt(ctx context.Context, key string, dst []byte, off int64) error
	// Stat asks for size and checksum, or ErrNotFound.
	Stat(ctx context.Context, key string) (Info, error)
	// Delete removes keys; a key that holds nothing is no error. At most 1,000 keys go in one request.
	Delete(ctx context.Context, keys []string) error
	// List yields every object whose key starts with prefix, in order of key. Only `storage verify` and tests call it.
	List(ctx context.Context, prefix string) iter.Seq2[Info, error]
}

// Blocks says where an object may be cut and checked: block i is [Ends[i-1], Ends[i]) and has the CRC32C Sums[i]. What
// follows the last block (the directory) carries its own sum.
type Blocks struct {
	Ends []int64
	Sums []uint32
}

// Bytes is a Body over one slice.
type Bytes struct {
	data []byte
	crc  uint32
}

// NewBytes hashes data and wraps it as a Body. The caller must not change data afterwards.
func NewBytes(data []byte) Bytes { return Bytes{data, crc32.Checksum(data, castagnoli)} }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (b Bytes) Open() io.ReadSeeker { return bytes.NewReader(b.data) }
func (b Bytes) Size() int64         { return int64(len(b.data)) }
func (b Bytes) CRC32C() uint32      { return b.crc }
