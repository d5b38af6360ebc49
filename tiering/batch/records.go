package batch

import (
	"encoding/binary"
	"fmt"

	"varve.dev/tiering/batch/codec"
)

// Record is what a seek by time, and a topic that must look into its records, want to know of one.
type Record struct {
	Offset    int64
	Timestamp int64 // milliseconds
	HasKey    bool
}

// Records decodes b's records, decompressing at most max bytes, and yields them in order until yield returns false. It is
// only called off the hot path: for a seek by time, and for topics that ask for another codec.
func (b Batch) Records(max int, yield func(Record) bool) error {
	src, err := codec.Decompress(b.Codec(), b[HeaderSize:], max)
	if err != nil {
		return err
	}
	for i := range b.Count() {
		n, w := binary.Varint(src)
		if w <= 0 || n < 0 || n > int64(len(src)-w) {
			return fmt.Errorf("%w: record %d of %d: length %d, have %d", ErrCorrupt, i, b.Count(), n, len(src))
		}
		r, err := b.record(src[w : w+int(n)])
		if err != nil {
			return fmt.Errorf("record %d of %d: %w", i, b.Count(), err)
		}
		if !yield(r) {
			return nil
		}
		src = src[w+int(n):]
	}
	if len(src) != 0 {
		return fmt.Errorf("%w: %d bytes after the last record", ErrCorrupt, len(src))
	}
	return nil
}

func (b Batch) record(src []byte) (Record, error) {
	var f [3]int64 // timestamp delta, offset delta, key length
	if len(src) == 0 {
		return Record{}, fmt.Errorf("%w: empty record", ErrCorrupt)
	}
	src = src[1:] // attributes: none are defined
	for i := range f {
		v, w := binary.Varint(src)
		if w <= 0 {
			return Record{}, fmt.Errorf("%w: record cut", ErrCorrupt)
		}
		f[i], src = v, src[w:]
	}
	if f[1] < 0 || f[1] > int64(b.lastDelta()) || f[2] > int64(len(src)) {
		return Record{}, fmt.Errorf("%w: offset delta %d of %d, key of %d bytes, have %d", ErrCorrupt, f[1], b.lastDelta(), f[2], len(src))
	}
	r := Record{Offset: b.Base() + f[1], Timestamp: b.BaseTimestamp() + f[0], HasKey: f[2] >= 0}
	if b.HasAppendTime() {
		r.Timestamp = b.MaxTimestamp()
	}
	return r, nil
}

// Recompress returns b with its records in codec c, or b itself where that is already so.
func (b Batch) Recompress(c codec.Codec, max int) (Batch, error) {
	if b.Codec() == c {
		return b, nil
	}
	plain, err := codec.Decompress(b.Codec(), b[HeaderSize:], max)
	if err != nil {
		return nil, err
	}
	body, err := codec.Compress(c, plain)
	if err != nil {
		return nil, err
	}
	out := make(Batch, HeaderSize, HeaderSize+len(body))
	copy(out, b)
	out = append(out, body...)
	binary.BigEndian.PutUint32(out[8:], uint32(len(out)-12))
	binary.BigEndian.PutUint16(out[21:], b.attributes()&^codecMask|uint16(c))
	out.seal()
	return out, nil
}
