package chaos

import (
	"encoding/binary"
	"hash/crc32"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// identity is what an idempotent batch says of its producer; the zero value is none.
type identity struct {
	id    int64 // 0: none
	epoch int16
	seq   int32
}

// crcFrom is where the bytes begin that a batch's CRC covers; the CRC stands before them.
const crcFrom = 21

// rawBatch is one uncompressed record batch as no client would let us send it.
func rawBatch(who identity, records ...*kgo.Record) []byte {
	now := time.Now().UnixMilli()
	b := kmsg.RecordBatch{PartitionLeaderEpoch: -1, Magic: 2, LastOffsetDelta: int32(len(records) - 1), FirstTimestamp: now, MaxTimestamp: now,
		ProducerID: who.id, ProducerEpoch: who.epoch, FirstSequence: who.seq, NumRecords: int32(len(records))}
	if who.id == 0 {
		b.ProducerID, b.ProducerEpoch, b.FirstSequence = -1, -1, -1
	}
	for i, r := range records {
		b.Records = appendRecord(b.Records, r, int32(i))
	}
	out := b.AppendTo(nil)
	binary.BigEndian.PutUint32(out[8:], uint32(len(out)-12))
	binary.BigEndian.PutUint32(out[crcFrom-4:], crc32.Checksum(out[crcFrom:], crc32.MakeTable(crc32.Castagnoli)))
	return out
}

func appendRecord(dst []byte, r *kgo.Record, delta int32) []byte {
	m := kmsg.Record{OffsetDelta: delta, Key: r.Key, Value: r.Value}
	for _, h := range r.Headers {
		m.Headers = append(m.Headers, kmsg.Header{Key: h.Key, Value: h.Value})
	}
	m.Length = int32(len(m.AppendTo(nil)) - 1) // a length of 0 takes one byte
	return m.AppendTo(dst)
}
