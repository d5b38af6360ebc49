package main

import (
	"encoding/binary"
	"hash/crc32"

	"varve.dev/tiering/batch/codec"
)

// longAgo is the time of every record that says nothing else: fixed, so that answers can be recorded.
const longAgo = int64(1_760_000_000_000)

// record is one record of a batch. Its offset delta is its place unless at says otherwise.
type record struct {
	key, value []byte
	nullKey    bool
	at         *int32
	time       int64 // after the batch's first time
	headers    []byte
}

// spec is a record batch, well-formed unless a field says otherwise.
type spec struct {
	records    []record
	base       int64
	magic      int8
	attributes uint16
	codec      codec.Codec
	first      int64 // time
	max        int64
	producer   int64
	epoch      int16
	sequence   int32
	count      int32 // as the header says
	lastDelta  int32
	length     int32 // added to what the header says
	badCRC     bool
	body       []byte // in place of the records
}

// values is a batch of keyed records with these values.
func values(vs ...string) spec {
	s := spec{magic: 2, first: longAgo, max: longAgo, producer: -1, epoch: -1, sequence: -1, count: int32(len(vs)), lastDelta: int32(len(vs)) - 1}
	for _, v := range vs {
		s.records = append(s.records, record{key: []byte("k"), value: []byte(v)})
	}
	return s
}

// with changes a copy.
func (s spec) with(change func(*spec)) spec {
	change(&s)
	return s
}

// from makes the batch that of a producer.
func (s spec) from(producer int64, epoch int16, sequence int32) spec {
	s.producer, s.epoch, s.sequence = producer, epoch, sequence
	return s
}

func (s spec) bytes() []byte {
	body := s.body
	if body == nil {
		for i, r := range s.records {
			body = appendRecord(body, r, int32(i))
		}
		if s.codec != 0 {
			packed, err := codec.Compress(s.codec, body)
			if err != nil {
				panic(err) // to memory
			}
			body = packed
		}
	}
	b := make([]byte, 61, 61+len(body))
	b = append(b, body...)
	be := binary.BigEndian
	be.PutUint64(b, uint64(s.base))
	be.PutUint32(b[8:], uint32(int32(len(b)-12)+s.length))
	be.PutUint32(b[12:], ^uint32(0))
	b[16] = byte(s.magic)
	be.PutUint16(b[21:], s.attributes|uint16(s.codec))
	be.PutUint32(b[23:], uint32(s.lastDelta))
	be.PutUint64(b[27:], uint64(s.first))
	be.PutUint64(b[35:], uint64(s.max))
	be.PutUint64(b[43:], uint64(s.producer))
	be.PutUint16(b[51:], uint16(s.epoch))
	be.PutUint32(b[53:], uint32(s.sequence))
	be.PutUint32(b[57:], uint32(s.count))
	crc := checksum(b)
	if s.badCRC {
		crc++
	}
	be.PutUint32(b[17:], crc)
	return b
}

func appendRecord(dst []byte, r record, place int32) []byte {
	if r.at != nil {
		place = *r.at
	}
	b := []byte{0} // attributes
	b = binary.AppendVarint(b, r.time)
	b = binary.AppendVarint(b, int64(place))
	if r.nullKey {
		b = binary.AppendVarint(b, -1)
	} else {
		b = append(binary.AppendVarint(b, int64(len(r.key))), r.key...)
	}
	b = append(binary.AppendVarint(b, int64(len(r.value))), r.value...)
	if r.headers != nil {
		b = append(b, r.headers...)
	} else {
		b = append(b, 0)
	}
	return append(binary.AppendVarint(dst, int64(len(b))), b...)
}

// checksum is the CRC-32C of what a producer answers for.
func checksum(batch []byte) uint32 {
	return crc32.Checksum(batch[21:], crc32.MakeTable(crc32.Castagnoli))
}

// cutBatch takes one whole batch off src.
func cutBatch(src []byte) (batch, rest []byte, ok bool) {
	if len(src) < 61 {
		return nil, src, false
	}
	n := int(int32(binary.BigEndian.Uint32(src[8:]))) + 12
	if n < 61 || n > len(src) {
		return nil, src, false
	}
	return src[:n], src[n:], true
}

// oldMessage is one message of format 0 or 1 in a message set.
func oldMessage(magic byte) []byte {
	body := []byte{magic, 0}
	if magic == 1 {
		body = binary.BigEndian.AppendUint64(body, uint64(longAgo))
	}
	for _, s := range []string{"k", "old"} {
		body = append(binary.BigEndian.AppendUint32(body, uint32(len(s))), s...)
	}
	out := binary.BigEndian.AppendUint64(nil, 0)
	out = binary.BigEndian.AppendUint32(out, uint32(4+len(body)))
	out = binary.BigEndian.AppendUint32(out, crc32.ChecksumIEEE(body))
	return append(out, body...)
}
