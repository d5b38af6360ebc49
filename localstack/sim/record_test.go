package sim

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A value is its record's id, its own length, and a payload that follows from both: so a reader proves every byte.
const valueHead = 8 + 4

func valueOf(id uint64, size int) []byte {
	size = max(size, valueHead)
	v := binary.BigEndian.AppendUint64(make([]byte, 0, size+8), id)
	v = binary.BigEndian.AppendUint32(v, uint32(size))
	rng := rand.NewPCG(id, uint64(size))
	for len(v) < size {
		v = binary.LittleEndian.AppendUint64(v, rng.Uint64())
	}
	return v[:size]
}

// judge says which record this is, and what is wrong with it.
func judge(r *kgo.Record) (id uint64, damage string) {
	if len(r.Value) < valueHead {
		return 0, fmt.Sprintf("value of %d bytes", len(r.Value))
	}
	id = binary.BigEndian.Uint64(r.Value)
	size := int(binary.BigEndian.Uint32(r.Value[8:]))
	if size != len(r.Value) || !bytes.Equal(r.Value, valueOf(id, size)) {
		damage = fmt.Sprintf("value of %d bytes is not the one of %x", len(r.Value), id)
	}
	return id, damage
}

// identity is what an idempotent batch says of its producer; the zero value is none.
type identity struct {
	id  int64 // 0: none
	seq int32
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// batchOf is one uncompressed record batch of values.
func batchOf(who identity, values ...[]byte) []byte {
	now := time.Now().UnixMilli()
	b := kmsg.RecordBatch{PartitionLeaderEpoch: -1, Magic: 2, LastOffsetDelta: int32(len(values) - 1), FirstTimestamp: now, MaxTimestamp: now,
		ProducerID: who.id, FirstSequence: who.seq, NumRecords: int32(len(values))}
	if who.id == 0 {
		b.ProducerID, b.ProducerEpoch, b.FirstSequence = -1, -1, -1
	}
	for i, v := range values {
		r := kmsg.Record{OffsetDelta: int32(i), Value: v}
		r.Length = int32(len(r.AppendTo(nil)) - 1) // a length of 0 takes one byte
		b.Records = r.AppendTo(b.Records)
	}
	out := b.AppendTo(nil)
	binary.BigEndian.PutUint32(out[8:], uint32(len(out)-12))
	binary.BigEndian.PutUint32(out[17:], crc32.Checksum(out[21:], castagnoli))
	return out
}
