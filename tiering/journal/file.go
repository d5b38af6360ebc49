package journal

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"

	"varve.dev/metadata"
)

const (
	formatVersion = 1
	headerCopy    = 4096 // apart, so that one bad page cannot take both copies
	dataStart     = 2 * headerCopy
	headerBytes   = 88
	// maxFile bounds sizes and positions read from disk, far from overflow.
	maxFile     = 1 << 40
	maxPosition = 1 << 60
)

var magic = []byte("varvejnl")

// lifeHeader describes one life of a file. The zero value means that the file has never been used.
type lifeHeader struct {
	id              metadata.UUID
	life            int64
	start, capacity int64
	released        int64
	cutFrom, cutTo  int64
	salt            uint32
}

func (h *lifeHeader) limit() int64 { return h.start + h.capacity }

func (h *lifeHeader) encode() []byte {
	b := make([]byte, 0, headerBytes)
	b = append(b, magic...)
	b = binary.BigEndian.AppendUint16(b, formatVersion)
	b = binary.BigEndian.AppendUint16(b, formatVersion)
	b = binary.BigEndian.AppendUint32(b, 0)
	b = append(b, h.id[:]...)
	for _, v := range []int64{h.life, h.start, h.capacity, h.released, h.cutFrom, h.cutTo} {
		b = binary.BigEndian.AppendUint64(b, uint64(v))
	}
	b = binary.BigEndian.AppendUint32(b, h.salt)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// decodeHeader reads one copy. blank: it was never written. ok: it is whole. Otherwise it is damaged or torn.
func decodeHeader(b []byte) (h lifeHeader, ok, blank bool, err error) {
	if len(b) < headerBytes || bytes.Count(b, []byte{0}) == len(b) {
		return h, false, true, nil
	}
	b = b[:headerBytes]
	if !bytes.HasPrefix(b, magic) || crc32.Checksum(b[:84], castagnoli) != binary.BigEndian.Uint32(b[84:]) {
		return h, false, false, nil
	}
	if v := binary.BigEndian.Uint16(b[10:]); v > formatVersion {
		return h, false, false, fmt.Errorf("%w: a file needs a reader of version %d, this one is %d", ErrFormat, v, formatVersion)
	}
	copy(h.id[:], b[16:])
	for i, v := range []*int64{&h.life, &h.start, &h.capacity, &h.released, &h.cutFrom, &h.cutTo} {
		*v = int64(binary.BigEndian.Uint64(b[32+8*i:]))
		if *v < 0 || *v > maxPosition {
			return lifeHeader{}, false, false, nil
		}
	}
	h.salt = binary.BigEndian.Uint32(b[80:])
	return h, h.capacity <= maxFile, false, nil
}

// file is one file of the journal and its present life.
type file struct {
	f    File
	name string
	size int64 // on disk, header included
	lifeHeader

	end        int64 // position behind its last frame; start when it has none
	lastWindow int64 // of its frames
}

// readable is limit, or less where the file was cut short.
func (f *file) readable() int64 { return min(f.limit(), f.start+max(0, f.size-dataStart)) }

// readHeader picks the newest whole copy. damaged: there is none, though the file has been used.
func (f *file) readHeader() (damaged bool, err error) {
	var copies [2][]byte
	for i := range copies {
		b := make([]byte, headerBytes)
		n, err := f.f.ReadAt(b, int64(i)*headerCopy)
		if err != nil && err != io.EOF {
			b, n = bytes.Repeat([]byte{0xff}, headerBytes), headerBytes // unreadable is damaged
		}
		copies[i] = b[:n]
	}
	first, ok1, _, err := decodeHeader(copies[0])
	if err != nil {
		return false, err
	}
	second, ok2, blank2, err := decodeHeader(copies[1])
	if err != nil {
		return false, err
	}
	switch {
	case ok1 && (!ok2 || first.life >= second.life):
		f.lifeHeader = first
	case ok2:
		f.lifeHeader = second
	case blank2: // no frame precedes a whole second copy
	default:
		return true, nil
	}
	f.end = f.start
	return false, nil
}

// begin makes h the file's life: durable before it returns, one copy after the other.
func (f *file) begin(h lifeHeader) error {
	b := h.encode()
	for _, off := range []int64{0, headerCopy} {
		if err := f.f.WriteAt([][]byte{b}, off); err != nil {
			return fmt.Errorf("write header of life %d in %s: %w", h.life, f.name, err)
		}
		if err := f.f.Sync(); err != nil {
			return fmt.Errorf("sync header of life %d in %s: %w", h.life, f.name, err)
		}
	}
	f.lifeHeader = h
	f.end, f.lastWindow = h.start, 0
	return nil
}

// zeroPiece is how much is zeroed by one write.
const zeroPiece = 1 << 20

// zero writes zeros over [from, to) and syncs, so that later writes find their blocks written: an fdatasync then moves
// data only, and the disk cannot turn out to be full.
func (f *file) zero(from, to int64) error {
	zeros := make([]byte, min(zeroPiece, to-from))
	for off := from; off < to; off += int64(len(zeros)) {
		zeros = zeros[:min(int64(len(zeros)), to-off)]
		if err := f.f.WriteAt([][]byte{zeros}, off); err != nil {
			return err
		}
	}
	return f.f.Sync()
}
