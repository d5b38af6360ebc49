package batch_test

import (
	"bytes"
	"hash/crc32"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/tiering/batch"
)

// rec is a record to put in a batch: its timestamp, its offset from the batch's base, and how long key and value are.
type rec struct {
	time, delta int64
	key         []byte // nil: none
	value       []byte
}

// built says what a client writes; the zero value of a field is what a plain producer sends.
type built struct {
	compress   []kgo.CompressionCodec
	producer   int64 // 0: none, else the id plus one
	epoch      int16
	sequence   int32
	attributes int16
	records    []rec
}

// build encodes a batch with franz-go's encoder, as a client would.
func build(tb testing.TB, c built) batch.Batch {
	tb.Helper()
	b := kmsg.NewRecordBatch()
	b.PartitionLeaderEpoch, b.Magic = -1, 2
	b.ProducerID, b.ProducerEpoch, b.FirstSequence = -1, -1, -1
	if c.producer > 0 {
		b.ProducerID, b.ProducerEpoch, b.FirstSequence = c.producer-1, c.epoch, c.sequence
	}
	b.FirstTimestamp, b.MaxTimestamp = c.records[0].time, c.records[0].time
	b.NumRecords, b.LastOffsetDelta = int32(len(c.records)), int32(c.records[len(c.records)-1].delta)
	var plain []byte
	for _, r := range c.records {
		b.MaxTimestamp = max(b.MaxTimestamp, r.time)
		plain = appendRecord(plain, r, b.FirstTimestamp)
	}
	b.Attributes = c.attributes
	if c.compress != nil {
		z, err := kgo.DefaultCompressor(c.compress...)
		if err != nil {
			tb.Fatal(err)
		}
		var kind kgo.CompressionCodecType
		plain, kind = z.Compress(new(bytes.Buffer), plain)
		b.Attributes |= int16(kind)
	}
	b.Records = plain
	b.Length = int32(batch.HeaderSize - 12 + len(plain))
	raw := b.AppendTo(nil)
	b.CRC = int32(crc32.Checksum(raw[21:], crc32.MakeTable(crc32.Castagnoli)))
	return batch.Batch(b.AppendTo(nil))
}

func appendRecord(dst []byte, r rec, base int64) []byte {
	k := kmsg.NewRecord()
	k.TimestampDelta64, k.OffsetDelta, k.Key, k.Value = r.time-base, int32(r.delta), r.key, r.value
	k.Length = int32(len(k.AppendTo(nil)) - 1) // a length of 0 takes one byte
	return k.AppendTo(dst)
}

// plainRecords is n records, one millisecond apart.
func plainRecords(n int, from int64) (rs []rec) {
	for i := range n {
		rs = append(rs, rec{time: from + int64(i), delta: int64(i), key: []byte{byte(i)}, value: bytes.Repeat([]byte{byte(i)}, 20)})
	}
	return rs
}

// reseal renews the CRC after a test has changed what it covers.
func reseal(b batch.Batch) batch.Batch {
	crc := crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli))
	b[17], b[18], b[19], b[20] = byte(crc>>24), byte(crc>>16), byte(crc>>8), byte(crc)
	return b
}
