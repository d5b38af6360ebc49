package chaos

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strconv"

	"github.com/twmb/franz-go/pkg/kgo"

	"varve.dev/localstack/chaos/kcheck"
)

// A value is its record's id, its own length, and a payload that follows from both: so a reader proves every byte.
const valueHead = 8 + 4

func newRecord(l kcheck.Log, topic string, id uint64, size int) *kgo.Record {
	return &kgo.Record{Topic: topic, Partition: l.Partition, Key: keyOf(id), Value: valueOf(id, size), Headers: []kgo.RecordHeader{headerOf(id)}}
}

func keyOf(id uint64) []byte {
	if id%7 == 0 {
		return nil
	}
	return strconv.AppendUint([]byte("key-"), id%100, 10)
}

func headerOf(id uint64) kgo.RecordHeader {
	return kgo.RecordHeader{Key: "of", Value: strconv.AppendUint(nil, id, 16)}
}

func valueOf(id uint64, size int) []byte {
	size = max(size, valueHead)
	v := binary.BigEndian.AppendUint64(make([]byte, 0, size+8), id)
	v = binary.BigEndian.AppendUint32(v, uint32(size))
	rng := rand.NewPCG(id, uint64(size))
	word := rng.Uint64()
	for len(v) < size {
		if id%2 == 0 { // every other payload is one word over and over: codecs like that
			word = rng.Uint64()
		}
		v = binary.LittleEndian.AppendUint64(v, word)
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
	head := headerOf(id)
	switch {
	case size != len(r.Value):
		damage = fmt.Sprintf("value of %d bytes says %d", len(r.Value), size)
	case !bytes.Equal(r.Value, valueOf(id, size)):
		damage = fmt.Sprintf("value of %d bytes differs", size)
	case !bytes.Equal(r.Key, keyOf(id)):
		damage = fmt.Sprintf("key %q, want %q", r.Key, keyOf(id))
	case len(r.Headers) != 1 || r.Headers[0].Key != head.Key || !bytes.Equal(r.Headers[0].Value, head.Value):
		damage = fmt.Sprintf("headers %v, want %v", r.Headers, head)
	}
	return id, damage
}
