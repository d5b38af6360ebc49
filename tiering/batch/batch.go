// Package batch reads and patches one Kafka record batch (magic 2) as bytes; on the hot path it never decodes a record.
//
//	offset  size
//	     0     8  base offset             ┐ assigned by the broker, outside the producer's CRC
//	     8     4  length of what follows  │
//	    12     4  partition leader epoch  │
//	    16     1  magic, 2                │
//	    17     4  CRC-32C of [21, end)    ┘
//	    21     2  attributes: codec (3 bits), timestamp type, transactional, control, delete horizon
//	    23     4  last offset delta
//	    27     8  base timestamp, or the delete horizon
//	    35     8  max timestamp
//	    43     8  producer id, 51: 2 epoch, 53: 4 base sequence
//	    57     4  number of records
//	    61     …  records, compressed as one where a codec is set
//
// The layout is Kafka's (org.apache.kafka.common.record.DefaultRecordBatch).
package batch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"varve.dev/tiering/batch/codec"
)

// HeaderSize is the size of a batch without records, in bytes.
const HeaderSize = 61

// prefix is what lies before the bytes that the producer's CRC covers.
const prefix = 21

const (
	codecMask       = 0x07
	logAppendTime   = 0x08
	transactional   = 0x10
	control         = 0x20
	deleteHorizon   = 0x40
	knownAttributes = codecMask | logAppendTime | transactional | control | deleteHorizon
)

var (
	// ErrCorrupt means that the bytes are damaged: lengths or the CRC do not fit (CORRUPT_MESSAGE).
	ErrCorrupt = errors.New("corrupt record batch")
	// ErrOldFormat means message format 0 or 1, which Kafka 4 dropped too (KIP-724; UNSUPPORTED_FOR_MESSAGE_FORMAT).
	ErrOldFormat = errors.New("message formats 0 and 1 are not supported: the client must write record batches (Kafka 0.11 or newer)")
	// ErrInvalid means a well-formed batch that says something that a client may not say (INVALID_RECORD).
	ErrInvalid = errors.New("invalid record batch")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Batch is one whole record batch whose header Parse has accepted. It borrows its bytes.
type Batch []byte

// Parse takes one batch off src: length, magic and counts are checked, the records are not looked at.
func Parse(src []byte) (b Batch, rest []byte, err error) {
	if len(src) < HeaderSize {
		if len(src) > 16 && src[16] < 2 {
			return nil, nil, ErrOldFormat
		}
		return nil, nil, fmt.Errorf("%w: %d bytes, a batch has at least %d", ErrCorrupt, len(src), HeaderSize)
	}
	switch magic := src[16]; {
	case magic < 2:
		return nil, nil, ErrOldFormat
	case magic > 2:
		return nil, nil, fmt.Errorf("%w: magic %d", ErrInvalid, magic)
	}
	n := int64(int32(binary.BigEndian.Uint32(src[8:]))) + 12
	if n < HeaderSize || n > int64(len(src)) {
		return nil, nil, fmt.Errorf("%w: length %d, have %d", ErrCorrupt, n, len(src))
	}
	b = Batch(src[:n:n])
	if d, c := b.lastDelta(), b.Count(); d < 0 || c < 0 || b.Base() < 0 || b.Base() > 1<<62 {
		return nil, nil, fmt.Errorf("%w: base offset %d, last offset delta %d, %d records", ErrCorrupt, b.Base(), d, c)
	}
	return b, src[n:], nil
}

// minRecord is the size of the smallest record: length, attributes, two deltas, two lengths, number of headers.
const minRecord = 7

// CheckProduced holds a client's batch to what a producer may write: as many records as offsets, not more of them than
// its bytes can hold (as far as that shows without decompressing), no control records, no append time claimed, and sequence
// numbers where there is a producer id (Kafka's LogValidator).
func (b Batch) CheckProduced() error {
	switch {
	case b.Base() != 0:
		return fmt.Errorf("%w: base offset %d, want 0", ErrInvalid, b.Base())
	case b.Count() <= 0 || b.lastDelta() != b.Count()-1:
		return fmt.Errorf("%w: %d records but last offset delta %d", ErrInvalid, b.Count(), b.lastDelta())
	case b.Codec() == codec.None && int(b.Count()) > (len(b)-HeaderSize)/minRecord:
		return fmt.Errorf("%w: %d records in %d bytes", ErrInvalid, b.Count(), len(b)-HeaderSize)
	case b.IsControl():
		return fmt.Errorf("%w: clients may not write control records", ErrInvalid)
	case b.attributes()&^knownAttributes != 0 || b.attributes()&deleteHorizon != 0:
		return fmt.Errorf("%w: attributes %#x", ErrInvalid, b.attributes())
	case b.attributes()&logAppendTime != 0:
		return fmt.Errorf("%w: a producer may not claim the log append time", ErrInvalid)
	case b.Codec() > codec.Zstd:
		return fmt.Errorf("%w: codec %d", ErrInvalid, b.Codec())
	case b.ProducerID() >= 0 && (b.BaseSequence() < 0 || b.ProducerEpoch() < 0):
		return fmt.Errorf("%w: producer id %d with epoch %d and sequence %d", ErrInvalid, b.ProducerID(), b.ProducerEpoch(), b.BaseSequence())
	case b.IsTransactional() && b.ProducerID() < 0:
		return fmt.Errorf("%w: transactional without a producer id", ErrInvalid)
	case b.MaxTimestamp() < -1 || b.BaseTimestamp() < -1:
		return fmt.Errorf("%w: timestamps %d to %d", ErrInvalid, b.BaseTimestamp(), b.MaxTimestamp())
	}
	return nil
}

// Verify compares the producer's CRC: the only pass over all bytes on the write path.
func (b Batch) Verify() error {
	if got, want := crc32.Checksum(b[prefix:], castagnoli), b.crc(); got != want {
		return fmt.Errorf("%w: CRC-32C %#x, want %#x", ErrCorrupt, got, want)
	}
	return nil
}

func (b Batch) Base() int64           { return int64(binary.BigEndian.Uint64(b)) }
func (b Batch) Last() int64           { return b.Base() + int64(b.lastDelta()) }
func (b Batch) End() int64            { return b.Last() + 1 } // first offset after the batch
func (b Batch) Offsets() int64        { return int64(b.lastDelta()) + 1 }
func (b Batch) LeaderEpoch() int32    { return int32(binary.BigEndian.Uint32(b[12:])) }
func (b Batch) BaseTimestamp() int64  { return int64(binary.BigEndian.Uint64(b[27:])) }
func (b Batch) MaxTimestamp() int64   { return int64(binary.BigEndian.Uint64(b[35:])) }
func (b Batch) ProducerID() int64     { return int64(binary.BigEndian.Uint64(b[43:])) }
func (b Batch) ProducerEpoch() int16  { return int16(binary.BigEndian.Uint16(b[51:])) }
func (b Batch) BaseSequence() int32   { return int32(binary.BigEndian.Uint32(b[53:])) }
func (b Batch) Count() int32          { return int32(binary.BigEndian.Uint32(b[57:])) }
func (b Batch) Codec() codec.Codec    { return codec.Codec(b.attributes() & codecMask) }
func (b Batch) IsControl() bool       { return b.attributes()&control != 0 }
func (b Batch) IsTransactional() bool { return b.attributes()&transactional != 0 }
func (b Batch) HasAppendTime() bool   { return b.attributes()&logAppendTime != 0 }
func (b Batch) attributes() uint16    { return binary.BigEndian.Uint16(b[21:]) }
func (b Batch) lastDelta() int32      { return int32(binary.BigEndian.Uint32(b[23:])) }
func (b Batch) crc() uint32           { return binary.BigEndian.Uint32(b[17:]) }

// LastSequence is the sequence number of the last record: sequences wrap from 2³¹−1 to 0.
func (b Batch) LastSequence() int32 { return AddSequence(b.BaseSequence(), b.lastDelta()) }

// AddSequence is seq+n on the circle of sequence numbers.
func AddSequence(seq, n int32) int32 { return int32((int64(seq) + int64(n)) & 0x7fffffff) }

// Assign writes base offset and leader epoch, which lie outside the producer's CRC.
func (b Batch) Assign(base int64, leaderEpoch int32) {
	binary.BigEndian.PutUint64(b, uint64(base))
	binary.BigEndian.PutUint32(b[12:], uint32(leaderEpoch))
}

// SetAppendTime makes millis the time of every record (message.timestamp.type=LogAppendTime) and renews the CRC.
func (b Batch) SetAppendTime(millis int64) {
	binary.BigEndian.PutUint16(b[21:], b.attributes()|logAppendTime)
	binary.BigEndian.PutUint64(b[35:], uint64(millis))
	b.seal()
}

func (b Batch) seal() {
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[prefix:], castagnoli))
}

// Sum is the CRC32C of every byte of b, derived from the producer's CRC by hashing the first 21 bytes only.
func (b Batch) Sum() uint32 {
	return Concat(crc32.Checksum(b[:prefix], castagnoli), b.crc(), int64(len(b)-prefix))
}

// Entry is what duplicate detection keeps of a batch.
type Entry struct {
	ID                int64
	Epoch             int16
	FirstSeq, LastSeq int32
	BaseOffset        int64
	LastOffset        int64
	Timestamp         int64 // max timestamp, milliseconds
}

// Producer is b's entry. Its ID is -1 where the producer is not idempotent.
func (b Batch) Producer() Entry {
	return Entry{b.ProducerID(), b.ProducerEpoch(), b.BaseSequence(), b.LastSequence(), b.Base(), b.Last(), b.MaxTimestamp()}
}

// Gap is a control batch that stands for [base, end), where an unclean election gave acknowledged records up: one commit
// marker of producer id −1 at the gap's last offset. Of all forms that were tried it is the one that every client passes.
func Gap(base, end int64, leaderEpoch int32, millis int64) Batch {
	// One record: length, attributes, timestamp delta, offset delta, key {version 0, type 1: commit}, value {version 0,
	// coordinator epoch 0}, no headers.
	delta := int32(end - base - 1)
	var rec []byte
	rec = append(rec, 0) // attributes
	rec = binary.AppendVarint(rec, 0)
	rec = binary.AppendVarint(rec, int64(delta))
	rec = binary.AppendVarint(rec, 4)
	rec = append(rec, 0, 0, 0, 1)
	rec = binary.AppendVarint(rec, 6)
	rec = append(rec, 0, 0, 0, 0, 0, 0)
	rec = binary.AppendVarint(rec, 0)
	body := binary.AppendVarint(nil, int64(len(rec)))
	body = append(body, rec...)

	b := make(Batch, HeaderSize, HeaderSize+len(body))
	b = append(b, body...)
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)-12))
	b[16] = 2
	binary.BigEndian.PutUint16(b[21:], control|transactional)
	binary.BigEndian.PutUint32(b[23:], uint32(delta))
	binary.BigEndian.PutUint64(b[27:], uint64(millis))
	binary.BigEndian.PutUint64(b[35:], uint64(millis))
	binary.BigEndian.PutUint64(b[43:], ^uint64(0))
	binary.BigEndian.PutUint16(b[51:], ^uint16(0))
	binary.BigEndian.PutUint32(b[53:], ^uint32(0))
	binary.BigEndian.PutUint32(b[57:], 1)
	b.Assign(base, leaderEpoch)
	b.seal()
	return b
}
