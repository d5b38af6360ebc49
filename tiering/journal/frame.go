package journal

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"varve.dev/metadata"
)

const (
	// HeaderSize is what stands before every batch; frames are padded to 8 bytes.
	HeaderSize = 64
	// maxBatch bounds what a length read from disk may ask for: message.max.bytes ends at 64 MiB, and a margin.
	maxBatch = 128 << 20
	// batchHead is the part of a batch that its own CRC does not cover. The CRC itself stands in its last 4 bytes.
	batchHead = 21
)

const (
	kindBatch    = 1
	flagCritical = 0x80
	maxGap       = 1<<48 - 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Frame is one batch in the journal and what a successor must know of it.
type Frame struct {
	Partition            metadata.PartitionID
	Session, LeaderEpoch int32
	Window               int64
	Batch                []byte
}

// FrameSize is the number of bytes a batch of n bytes takes in a window.
func FrameSize(n int) int { return (HeaderSize + n + 7) &^ 7 }

// PutFrame writes the frame of f into dst[:FrameSize(len(f.Batch))] and copies the batch behind the header. Position,
// marks, salt and CRC are filled in by Write. It returns the batch's place in dst; base offset and leader epoch may still
// be patched there until Write.
func PutFrame(dst []byte, f Frame) (batch []byte) {
	size := FrameSize(len(f.Batch))
	h := dst[:HeaderSize]
	clear(h)
	binary.BigEndian.PutUint32(h[4:], uint32(len(f.Batch)))
	binary.BigEndian.PutUint32(h[24:], uint32(f.Partition.Topic))
	binary.BigEndian.PutUint32(h[28:], uint32(f.Partition.Partition))
	binary.BigEndian.PutUint32(h[32:], uint32(f.Session))
	binary.BigEndian.PutUint32(h[36:], uint32(f.LeaderEpoch))
	binary.BigEndian.PutUint64(h[40:], uint64(f.Window))
	h[56] = kindBatch
	h[57] = flagCritical
	end := HeaderSize + len(f.Batch)
	batch = dst[HeaderSize:end:end]
	copy(batch, f.Batch)
	clear(dst[end:size])
	return batch
}

// frameAt says how many bytes the frame at the start of b takes, as PutFrame left it, and its window.
func frameAt(b []byte) (size int, window int64, err error) {
	if len(b) < HeaderSize {
		return 0, 0, fmt.Errorf("a chunk ends in %d bytes, less than a frame header's %d", len(b), HeaderSize)
	}
	n := binary.BigEndian.Uint32(b[4:])
	if n > maxBatch || FrameSize(int(n)) > len(b) {
		return 0, 0, fmt.Errorf("a frame of %d bytes in the last %d of a chunk", n, len(b))
	}
	if b[56] == 0 {
		return 0, 0, fmt.Errorf("a frame of kind 0: PutFrame did not write it")
	}
	return FrameSize(int(n)), int64(binary.BigEndian.Uint64(b[40:])), nil
}

// seal fills in what is known only when a frame is written.
func seal(frame []byte, salt uint32, position, mark, released, gap int64) {
	binary.BigEndian.PutUint64(frame[8:], uint64(position))
	binary.BigEndian.PutUint64(frame[16:], uint64(mark))
	binary.BigEndian.PutUint64(frame[48:], uint64(released))
	tail := uint64(frame[56])<<56 | uint64(frame[57])<<48 | uint64(gap)&maxGap
	binary.BigEndian.PutUint64(frame[56:], tail)
	binary.BigEndian.PutUint32(frame, frameSum(salt, frame))
}

// frameSum is the frame's own CRC. frame holds the header and at least the head of the batch.
func frameSum(salt uint32, frame []byte) uint32 {
	n := min(int(binary.BigEndian.Uint32(frame[4:])), batchHead)
	return crc32.Update(salt, castagnoli, frame[4:HeaderSize+n])
}

// frameHeader is what Recover reads of a frame.
type frameHeader struct {
	length                         int
	position, mark, released, prev int64
	kind, flags                    byte
	frame                          Frame
}

func (h *frameHeader) size() int64 { return int64(FrameSize(h.length)) }

// parseHeader reads a header whose CRC has been checked.
func parseHeader(b []byte) frameHeader {
	h := frameHeader{
		length:   int(binary.BigEndian.Uint32(b[4:])),
		position: int64(binary.BigEndian.Uint64(b[8:])),
		mark:     int64(binary.BigEndian.Uint64(b[16:])),
		released: int64(binary.BigEndian.Uint64(b[48:])),
		kind:     b[56],
		flags:    b[57],
	}
	h.prev = h.position - int64(binary.BigEndian.Uint64(b[56:])&maxGap)
	h.frame = Frame{
		Partition: metadata.PartitionID{
			Topic:     int32(binary.BigEndian.Uint32(b[24:])),
			Partition: int32(binary.BigEndian.Uint32(b[28:])),
		},
		Session:     int32(binary.BigEndian.Uint32(b[32:])),
		LeaderEpoch: int32(binary.BigEndian.Uint32(b[36:])),
		Window:      int64(binary.BigEndian.Uint64(b[40:])),
	}
	return h
}

// known says whether this version can read the frame; a critical frame that it cannot read must not be skipped.
func (h *frameHeader) known() (read bool, err error) {
	if h.kind == kindBatch && h.flags&^flagCritical == 0 {
		return true, nil
	}
	if h.flags&flagCritical != 0 {
		return false, fmt.Errorf("%w: frame of kind %d with flags %#x at position %d", ErrFormat, h.kind, h.flags, h.position)
	}
	return false, nil
}

// bodyWhole checks the producer's CRC, which covers what the frame's does not.
func bodyWhole(batch []byte) bool {
	if len(batch) < batchHead {
		return true
	}
	return crc32.Checksum(batch[batchHead:], castagnoli) == binary.BigEndian.Uint32(batch[batchHead-4:])
}
