// Package codec compresses and decompresses the records of a batch, with a hard bound on what comes out.
package codec

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/golang/snappy"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// Codec is the compression type in a batch's attributes.
type Codec uint8

const (
	None Codec = iota
	Gzip
	Snappy
	LZ4
	Zstd
)

var names = [...]string{"none", "gzip", "snappy", "lz4", "zstd"}

func (c Codec) String() string {
	if int(c) < len(names) {
		return names[c]
	}
	return fmt.Sprintf("codec(%d)", uint8(c))
}

// Parse is the codec that a compression.type names; ok is false for "producer" and unknown words.
func Parse(name string) (c Codec, ok bool) {
	if name == "uncompressed" {
		return None, true
	}
	for i, n := range names {
		if n == name {
			return Codec(i), true
		}
	}
	return None, false
}

var (
	// ErrTooLarge means that the content would pass the bound: a bomb, or a batch that nobody should have written.
	ErrTooLarge = errors.New("decompressed records are too large")
	// ErrCorrupt means that the content is no valid stream of its codec.
	ErrCorrupt = errors.New("corrupt compressed records")
)

// xerial is the framing that Java's snappy stream puts around blocks: magic, then two versions of 4 bytes.
var xerial = []byte{0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0}

const xerialHeader = 16

// Decompress returns the content of src, at most max bytes of it.
func Decompress(c Codec, src []byte, max int) ([]byte, error) {
	if c != None && len(src) == 0 {
		return nil, fmt.Errorf("%w: no bytes of %s", ErrCorrupt, c) // LZ4 and zstd would call that an empty stream
	}
	switch c {
	case None:
		if len(src) > max {
			return nil, ErrTooLarge
		}
		return src, nil
	case Snappy:
		return unsnappy(src, max)
	case Gzip:
		r, err := gzip.NewReader(bytes.NewReader(src))
		if err != nil {
			return nil, fmt.Errorf("%w: %v", ErrCorrupt, err)
		}
		return drain(r, len(src), max)
	case LZ4:
		return drain(lz4.NewReader(bytes.NewReader(src)), len(src), max)
	case Zstd:
		r, err := zstd.NewReader(bytes.NewReader(src), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(maxZstdWindow))
		if err != nil {
			return nil, fmt.Errorf("%w: %v", ErrCorrupt, err)
		}
		defer r.Close()
		return drain(r, len(src), max)
	}
	return nil, fmt.Errorf("%w: codec %d", ErrCorrupt, c)
}

// maxZstdWindow is the largest window that zstd's own command line accepts by default.
const maxZstdWindow = 128 << 20

// drain reads r to its end, growing with what really comes, never with what a header claims.
func drain(r io.Reader, hint, max int) ([]byte, error) {
	var buf bytes.Buffer
	buf.Grow(min(4*hint, max, 1<<20))
	n, err := buf.ReadFrom(io.LimitReader(r, int64(max)+1))
	if n > int64(max) {
		return nil, ErrTooLarge
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrCorrupt, err)
	}
	return buf.Bytes(), nil
}

// unsnappy accepts both forms in use: one raw block (librdkafka, franz-go) and xerial's frames (Java).
func unsnappy(src []byte, max int) ([]byte, error) {
	if !bytes.HasPrefix(src, xerial) {
		return unsnappyBlock(nil, src, max)
	}
	if len(src) < xerialHeader {
		return nil, fmt.Errorf("%w: xerial header cut", ErrCorrupt)
	}
	var out []byte
	for src = src[xerialHeader:]; len(src) > 0; {
		if len(src) < 4 {
			return nil, fmt.Errorf("%w: xerial block length cut", ErrCorrupt)
		}
		n := int64(int32(binary.BigEndian.Uint32(src)))
		if src = src[4:]; n < 0 || n > int64(len(src)) {
			return nil, fmt.Errorf("%w: xerial block of %d bytes, have %d", ErrCorrupt, n, len(src))
		}
		var err error
		if out, err = unsnappyBlock(out, src[:n], max); err != nil {
			return nil, err
		}
		src = src[n:]
	}
	return out, nil
}

// maxSnappyRatio bounds what a block may claim before anything is allocated: its longest copy makes 64 bytes of 3.
const maxSnappyRatio = 32

func unsnappyBlock(dst, src []byte, max int) ([]byte, error) {
	n, err := snappy.DecodedLen(src)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrCorrupt, err)
	}
	if n > max-len(dst) {
		return nil, ErrTooLarge
	}
	if n > maxSnappyRatio*len(src) {
		return nil, fmt.Errorf("%w: %d bytes claim to hold %d", ErrCorrupt, len(src), n)
	}
	out := append(dst, make([]byte, n)...)
	if _, err := snappy.Decode(out[len(dst):], src); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrCorrupt, err)
	}
	return out, nil
}

// Compress encodes src. Snappy comes in xerial's frames, which every client reads, with blocks of 32 KiB as Java writes.
func Compress(c Codec, src []byte) ([]byte, error) {
	var buf bytes.Buffer
	var w io.WriteCloser
	switch c {
	case None:
		return src, nil
	case Snappy:
		return ensnappy(src), nil
	case Gzip:
		w = gzip.NewWriter(&buf)
	case LZ4:
		z := lz4.NewWriter(&buf)
		if err := z.Apply(lz4.BlockSizeOption(lz4.Block64Kb)); err != nil {
			return nil, err
		}
		w = z
	case Zstd:
		z, err := zstd.NewWriter(&buf, zstd.WithEncoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		w = z
	default:
		return nil, fmt.Errorf("unknown codec %d", c)
	}
	if _, err := w.Write(src); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

const snappyBlock = 32 << 10

func ensnappy(src []byte) []byte {
	out := append([]byte(nil), xerial...)
	out = append(out, 0, 0, 0, 1, 0, 0, 0, 1)
	for len(src) > 0 {
		n := min(len(src), snappyBlock)
		block := snappy.Encode(nil, src[:n])
		out = binary.BigEndian.AppendUint32(out, uint32(len(block)))
		out = append(out, block...)
		src = src[n:]
	}
	return out
}
