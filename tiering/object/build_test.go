package object_test

import (
	"encoding/binary"
	"hash/crc32"

	"varve.dev/metadata"
	"varve.dev/tiering/batch"
	"varve.dev/tiering/object"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// made says what a test batch claims. Objects look at headers only, so its records are filler.
type made struct {
	base, offsets int64
	records       int32 // 0: as many as offsets
	size          int   // of the records, in bytes
	first, max    int64 // timestamps
	appendTime    bool
	producer      int64 // 0: none, else the id plus one
	epoch         int16
	sequence      int32
}

func (m made) batch() batch.Batch {
	b := make(batch.Batch, batch.HeaderSize+m.size)
	binary.BigEndian.PutUint64(b, uint64(m.base))
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)-12))
	b[16] = 2
	if m.appendTime {
		b[22] |= 0x08
	}
	binary.BigEndian.PutUint32(b[23:], uint32(m.offsets-1))
	binary.BigEndian.PutUint64(b[27:], uint64(m.first))
	binary.BigEndian.PutUint64(b[35:], uint64(m.max))
	binary.BigEndian.PutUint64(b[43:], uint64(m.producer-1))
	epoch, sequence := m.epoch, m.sequence
	if m.producer == 0 {
		epoch, sequence = -1, -1
	}
	binary.BigEndian.PutUint16(b[51:], uint16(epoch))
	binary.BigEndian.PutUint32(b[53:], uint32(sequence))
	if m.records == 0 {
		m.records = int32(m.offsets)
	}
	binary.BigEndian.PutUint32(b[57:], uint32(m.records))
	for i := batch.HeaderSize; i < len(b); i++ {
		b[i] = byte(i * 7)
	}
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], castagnoli))
	return b
}

func id(topic, partition int32) metadata.PartitionID {
	return metadata.PartitionID{Topic: topic, Partition: partition}
}

func flat(i *object.Image) (b []byte) {
	for _, s := range i.Slices(nil, 0, i.Size()) {
		b = append(b, s...)
	}
	return b
}
