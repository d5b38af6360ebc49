package main

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"time"

	"github.com/twmb/franz-go/pkg/kbin"

	"varve.dev/tiering/batch"
	"varve.dev/tiering/batch/codec"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// recordBytes is the size of a record before compression; a batch of less holds one record.
const recordBytes = 1 << 10

// load says what is sent: part of every figure's name.
type load struct {
	codec      codec.Codec
	batchBytes int // on the wire
	batches    int // of each request, each for another partition
	partitions int
	conns      int
	depth      int // requests in flight on each connection
	acks       int16
	total      int64 // bytes on the wire, about
}

func (l load) requests() int { return max(1, int(l.total/int64(l.batchBytes*l.batches))) }

func (l load) name() string {
	kind := "none"
	if l.codec != 0 {
		kind = l.codec.String()
	}
	s := fmt.Sprintf("%s × %d partitions, %s, %d × %d in flight", sizeName(l.batchBytes), l.partitions, kind, l.conns, l.depth)
	if l.batches > 1 {
		s += fmt.Sprintf(", %d batches a request", l.batches)
	}
	return s
}

func sizeName(n int) string {
	switch {
	case n >= 1<<20 && n%(1<<20) == 0:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 1<<10:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d B", n)
}

// buildBatch makes a batch that any broker accepts, of about wire bytes as it is sent. Uncompressed values are random;
// compressed ones are text that lz4 brings to about a quarter.
func buildBatch(rng *rand.Rand, c codec.Codec, wire int) ([]byte, error) {
	if c == codec.None {
		n := max(1, wire/recordBytes)
		return assemble(c, records(rng, n, (wire-batch.HeaderSize)/n, false), n)
	}
	n := max(1, 4*wire/recordBytes)
	for range 4 {
		b, err := assemble(c, records(rng, n, recordBytes, true), n)
		if err != nil || n == 1 || len(b) > wire*97/100 && len(b) < wire*103/100 {
			return b, err
		}
		n = max(1, int(int64(n)*int64(wire)/int64(len(b))))
	}
	return assemble(c, records(rng, n, recordBytes, true), n)
}

// records encodes n records of about size bytes each.
func records(rng *rand.Rand, n, size int, text bool) []byte {
	var out, rec []byte
	const overhead = 10 // lengths and deltas around a value of 1 KiB
	for i := range n {
		length := max(1, size-overhead)
		value := make([]byte, 0, length+256)
		for len(value) < length {
			if !text {
				value = binary.LittleEndian.AppendUint64(value, rng.Uint64())
				continue
			}
			value = fmt.Appendf(value, `{"seq":%d,"level":"info","service":"checkout","host":"app-%02d","trace":"%016x","status":%d,"took_ms":%d} `,
				i, rng.IntN(64), rng.Uint64(), 200+100*rng.IntN(4), rng.IntN(2000))
		}
		value = value[:length]
		rec = append(rec[:0], 0)
		rec = binary.AppendVarint(rec, 0)
		rec = binary.AppendVarint(rec, int64(i))
		rec = binary.AppendVarint(rec, -1) // no key
		rec = binary.AppendVarint(rec, int64(len(value)))
		rec = append(rec, value...)
		rec = binary.AppendVarint(rec, 0)
		out = binary.AppendVarint(out, int64(len(rec)))
		out = append(out, rec...)
	}
	return out
}

func assemble(c codec.Codec, records []byte, n int) ([]byte, error) {
	body := records
	if c != codec.None {
		var err error
		if body, err = codec.Compress(c, records); err != nil {
			return nil, err
		}
	}
	b := make([]byte, batch.HeaderSize, batch.HeaderSize+len(body))
	b = append(b, body...)
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)-12))
	binary.BigEndian.PutUint32(b[12:], ^uint32(0))
	b[16] = 2
	binary.BigEndian.PutUint16(b[21:], uint16(c))
	binary.BigEndian.PutUint32(b[23:], uint32(n-1))
	now := uint64(time.Now().UnixMilli()) // or retention takes it
	binary.BigEndian.PutUint64(b[27:], now)
	binary.BigEndian.PutUint64(b[35:], now)
	binary.BigEndian.PutUint64(b[43:], ^uint64(0))
	binary.BigEndian.PutUint16(b[51:], ^uint16(0))
	binary.BigEndian.PutUint32(b[53:], ^uint32(0))
	binary.BigEndian.PutUint32(b[57:], uint32(n))
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], castagnoli))
	return b, nil
}

// Produce v9 and Fetch v12 name topics and are flexible; Kafka 4 and the agent know both.
const (
	produceKey, produceVersion = 0, 9
	fetchKey, fetchVersion     = 1, 12
	clientID                   = "bench"
	correlationAt              = 8 // in a frame
)

// frame is one request, built once and patched for each sending.
type frame struct {
	bytes      []byte
	partitions []int // where the partitions' numbers stand
}

func (f *frame) patch(correlation int32, partition func(i int) int32) {
	binary.BigEndian.PutUint32(f.bytes[correlationAt:], uint32(correlation))
	for i, at := range f.partitions {
		binary.BigEndian.PutUint32(f.bytes[at:], uint32(partition(i)))
	}
}

func appendHeader(b []byte, key, version int16) []byte {
	b = kbin.AppendInt32(b, 0) // length
	b = kbin.AppendInt16(b, key)
	b = kbin.AppendInt16(b, version)
	b = kbin.AppendInt32(b, 0) // correlation
	b = kbin.AppendString(b, clientID)
	return append(b, 0)
}

func finish(b []byte) []byte {
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

// produceTimeout is what the broker may take, in milliseconds.
const produceTimeout = 30_000

func produceFrame(topic string, acks int16, batches [][]byte) *frame {
	f := &frame{}
	b := appendHeader(nil, produceKey, produceVersion)
	b = append(b, 0) // transactional id: null
	b = kbin.AppendInt16(b, acks)
	b = kbin.AppendInt32(b, produceTimeout)
	b = kbin.AppendCompactArrayLen(b, 1)
	b = kbin.AppendCompactString(b, topic)
	b = kbin.AppendCompactArrayLen(b, len(batches))
	for _, records := range batches {
		f.partitions = append(f.partitions, len(b))
		b = kbin.AppendInt32(b, 0)
		b = kbin.AppendCompactBytes(b, records)
		b = append(b, 0)
	}
	f.bytes = finish(append(b, 0, 0))
	return f
}

// distinctBytes is how much different payload a connection sends before it repeats itself: more than a processor's
// nearest caches hold, so that the broker reads from memory as it would on a network.
const distinctBytes = 4 << 20

// frames builds what one connection sends.
func (l load) frames(topic string, seed uint64) ([]*frame, error) {
	rng := rand.New(rand.NewPCG(seed, 1))
	batches := make([][]byte, min(max(distinctBytes/l.batchBytes, l.batches, 4), 256))
	for i := range batches {
		var err error
		if batches[i], err = buildBatch(rng, l.codec, l.batchBytes); err != nil {
			return nil, err
		}
	}
	frames := make([]*frame, max(1, len(batches)/l.batches))
	for i := range frames {
		frames[i] = produceFrame(topic, l.acks, batches[i*l.batches:(i+1)*l.batches])
	}
	// A writev needs as many different frames as it sends at once.
	for i := 0; len(frames) < l.depth && len(frames[i].bytes)*l.depth < 4*distinctBytes; i++ {
		frames = append(frames, produceFrame(topic, l.acks, batches[:l.batches]))
	}
	return frames, nil
}

// checkProduced walks over a Produce answer behind its length and correlation id, and finds errors.
func checkProduced(body []byte) error {
	r := kbin.Reader{Src: body}
	r.Uvarint() // tags of the header
	for range r.CompactArrayLen() {
		r.Span(int(r.Uvarint()) - 1)
		for range r.CompactArrayLen() {
			p := r.Int32()
			if code := r.Int16(); code != 0 {
				return brokerError{"produce", p, code}
			}
			r.Span(8 + 8 + 8)
			if n := r.CompactArrayLen(); n > 0 {
				return fmt.Errorf("produce: %d record errors for partition %d", n, p)
			}
			if n := int(r.Uvarint()) - 1; n > 0 {
				r.Span(n)
			}
			r.Uvarint()
		}
		r.Uvarint()
	}
	r.Int32()
	r.Uvarint()
	return r.Complete()
}

// brokerError is a partition's error in an answer.
type brokerError struct {
	what      string
	partition int32
	code      int16
}

func (e brokerError) Error() string {
	return fmt.Sprintf("%s: partition %d: Kafka error code %d", e.what, e.partition, e.code)
}
