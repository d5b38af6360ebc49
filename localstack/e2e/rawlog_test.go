package e2e

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"testing"

	"github.com/golang/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/localstack/e2e/contract"
)

// stored is one batch as the broker serves it, and the records inside.
type stored struct {
	codec   string
	records []contract.Record
}

// log fetches a whole partition with plain Fetch requests and takes its batches apart without any client's help.
func (s *suite) log(t *testing.T, topic string, partition int32) []stored {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ends, err := s.admin.ListEndOffsets(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	end, _ := ends.Lookup(topic, partition)
	var batches []stored
	for next := int64(0); next < end.Offset; {
		raw := s.fetch(t, ctx, topic, partition, next)
		for len(raw) > 0 {
			b, after, rest := parseBatch(t, partition, raw)
			if b.records[0].Offset != next {
				t.Fatalf("%s/%d: a batch starts at %d, want %d", topic, partition, b.records[0].Offset, next)
			}
			batches, next, raw = append(batches, b), after, rest
		}
	}
	return batches
}

// fetch returns the raw batches from an offset on; a broker may cut the last one short, which is cut off here.
func (s *suite) fetch(t *testing.T, ctx context.Context, topic string, partition int32, from int64) []byte {
	t.Helper()
	meta, err := s.admin.Metadata(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.SessionEpoch = 1000, 1, 1<<20, -1
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic, rt.TopicID = topic, meta.Topics[topic].ID
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes = partition, from, 1<<20
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	answer, err := s.client.Broker(int(meta.Topics[topic].Partitions[partition].Leader)).RetriableRequest(ctx, req)
	if err != nil {
		t.Fatalf("fetch %s/%d from %d: %v", topic, partition, from, err)
	}
	resp := answer.(*kmsg.FetchResponse)
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		t.Fatalf("fetch %s/%d from %d: %v", topic, partition, from, err)
	}
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		t.Fatalf("fetch %s/%d from %d: answer about %d topics", topic, partition, from, len(resp.Topics))
	}
	got := resp.Topics[0].Partitions[0]
	if err := kerr.ErrorForCode(got.ErrorCode); err != nil {
		t.Fatalf("fetch %s/%d from %d: %v", topic, partition, from, err)
	}
	return wholeBatches(got.RecordBatches)
}

// Where a batch's length stands, how much of it the length leaves out, and where the bytes start that its CRC covers.
const (
	lengthAt     = 8
	beforeLength = 12
	crcCovers    = 21
)

func wholeBatches(raw []byte) []byte {
	whole := 0
	for whole+beforeLength <= len(raw) {
		size := beforeLength + int(binary.BigEndian.Uint32(raw[whole+lengthAt:]))
		if whole+size > len(raw) {
			break
		}
		whole += size
	}
	return raw[:whole]
}

func parseBatch(t *testing.T, partition int32, raw []byte) (b stored, next int64, rest []byte) {
	t.Helper()
	size := beforeLength + int(binary.BigEndian.Uint32(raw[lengthAt:]))
	var head kmsg.RecordBatch
	if err := head.ReadFrom(raw[:size]); err != nil {
		t.Fatalf("batch of partition %d: %v", partition, err)
	}
	if head.Magic != 2 {
		t.Fatalf("batch at %d: magic %d, want 2", head.FirstOffset, head.Magic)
	}
	if sum := crc32.Checksum(raw[crcCovers:size], crc32.MakeTable(crc32.Castagnoli)); sum != uint32(head.CRC) {
		t.Fatalf("batch at %d: CRC %08x, want %08x", head.FirstOffset, uint32(head.CRC), sum)
	}
	b.codec = "unknown"
	if bits := int(head.Attributes & 7); bits < len(codecs) {
		b.codec = codecs[bits] // codecs is in the order of the attribute bits
	}
	plain, err := decompress(b.codec, head.Records)
	if err != nil {
		t.Fatalf("batch at %d: %v", head.FirstOffset, err)
	}
	for range head.NumRecords {
		var r contract.Record
		if r, plain, err = parseRecord(&head, plain); err != nil {
			t.Fatalf("batch at %d: %v", head.FirstOffset, err)
		}
		r.Partition = partition
		b.records = append(b.records, r)
	}
	next = head.FirstOffset + int64(head.LastOffsetDelta) + 1
	if last := b.records[len(b.records)-1].Offset; len(plain) != 0 || last != next-1 {
		t.Fatalf("batch at %d: %d bytes behind its %d records, the last at %d, want %d", head.FirstOffset, len(plain),
			head.NumRecords, last, next-1)
	}
	return b, next, raw[size:]
}

func parseRecord(head *kmsg.RecordBatch, plain []byte) (contract.Record, []byte, error) {
	length, n := kbin.Varint(plain)
	if n <= 0 || length < 0 || n+int(length) > len(plain) {
		return contract.Record{}, nil, fmt.Errorf("record of %d bytes in %d", length, len(plain))
	}
	var in kmsg.Record
	if err := in.ReadFrom(plain[:n+int(length)]); err != nil {
		return contract.Record{}, nil, err
	}
	out := contract.Record{Offset: head.FirstOffset + int64(in.OffsetDelta), Key: in.Key, Value: in.Value,
		Timestamp: head.FirstTimestamp + in.TimestampDelta64}
	for _, h := range in.Headers {
		out.Headers = append(out.Headers, contract.Header{Key: h.Key, Value: h.Value})
	}
	return out, plain[n+int(length):], nil
}

// xerial opens what Java's snappy writes: this, two version numbers, then blocks behind their length.
var xerial = []byte{0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0}

func decompress(codec string, b []byte) ([]byte, error) {
	switch codec {
	case "none":
		return b, nil
	case "gzip":
		r, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			return nil, err
		}
		return io.ReadAll(r)
	case "snappy":
		return unsnappy(b)
	case "lz4":
		return io.ReadAll(lz4.NewReader(bytes.NewReader(b)))
	case "zstd":
		r, err := zstd.NewReader(bytes.NewReader(b))
		if err != nil {
			return nil, err
		}
		defer r.Close()
		return io.ReadAll(r)
	}
	return nil, fmt.Errorf("codec %s", codec)
}

func unsnappy(b []byte) ([]byte, error) {
	if !bytes.HasPrefix(b, xerial) {
		return snappy.Decode(nil, b)
	}
	var out []byte
	for b = b[16:]; len(b) > 0; {
		size := binary.BigEndian.Uint32(b)
		block, err := snappy.Decode(nil, b[4:4+size])
		if err != nil {
			return nil, err
		}
		out, b = append(out, block...), b[4+size:]
	}
	return out, nil
}
