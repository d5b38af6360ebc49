package e2e

import (
	"testing"
	"time"

	"varve.dev/localstack/e2e/contract"
)

// recordsPerCodec fills two stretches of headers over three partitions.
const (
	recordsPerCodec = 2 * headerStretch
	codecPartitions = 3
)

// written is a record that a client was told to produce, with what must be true of its batch.
type written struct {
	contract.Record
	codec string
}

// testCodecs lets c produce with each codec into one topic, looks at the batches as they are stored, and lets c read all
// of them in one go.
func testCodecs(t *testing.T, s *suite, c client) {
	topic := s.topic(t, codecPartitions)
	want := make([][]written, codecPartitions) // by partition, index = offset
	started := time.Now().Add(-time.Second).UnixMilli()
	for _, codec := range codecs {
		records := makeRecords(codec, recordsPerCodec, codecPartitions, c.empties)
		events := c.run(t, records, "produce", topic, codec)
		for _, r := range records {
			r.Offset = int64(len(want[r.Partition]))
			want[r.Partition] = append(want[r.Partition], written{r, codec})
		}
		checkProduced(t, c, codec, events, want)
	}
	for p := range want {
		checkStored(t, c, s.log(t, topic, int32(p)), want[p], started)
	}
	events := c.run(t, nil, "read", topic, "0")
	for _, e := range events {
		if e.Event == "offset" && e.Offset != 0 {
			t.Errorf("partition %d starts at %d for the client, want 0", e.Partition, e.Offset)
		}
	}
	got := consumed(events)
	for _, partition := range want {
		for _, w := range partition {
			if len(got) == 0 {
				t.Fatalf("%s read too little: partition %d ends before offset %d", c.name, w.Partition, w.Offset)
			}
			same(t, "read back by the same client", got[0], w.Record)
			got = got[1:]
		}
	}
	if len(got) > 0 {
		t.Fatalf("%s read %d records more than there are", c.name, len(got))
	}
}

// checkProduced compares acks, where the client knows them, with the offsets that the records must have.
func checkProduced(t *testing.T, c client, codec string, events []contract.Event, want [][]written) {
	t.Helper()
	acks := 0
	for _, e := range events {
		if e.Event != "ack" {
			continue
		}
		acks++
		if e.Offset < 0 || e.Offset >= int64(len(want[e.Partition])) {
			t.Fatalf("%s: record %d acked at partition %d offset %d, which has %d records", codec, e.Seq, e.Partition, e.Offset,
				len(want[e.Partition]))
		}
		if w := want[e.Partition][e.Offset]; w.Seq != e.Seq || w.codec != codec {
			t.Fatalf("%s: record %d acked at partition %d offset %d, where %s record %d belongs", codec, e.Seq, e.Partition,
				e.Offset, w.codec, w.Seq)
		}
	}
	if c.acks && acks != recordsPerCodec {
		t.Fatalf("%s: %d acks, want %d", codec, acks, recordsPerCodec)
	}
	if last := events[len(events)-1]; last.Event != "produced" || last.Count != recordsPerCodec {
		t.Fatalf("%s: the last event is %+v, want %d produced", codec, last, recordsPerCodec)
	}
}

// checkStored holds each batch to its codec and each record to its bytes. Where the client cannot set timestamps, want
// takes over those that were stored, once they are plausible.
func checkStored(t *testing.T, c client, batches []stored, want []written, started int64) {
	t.Helper()
	offset := 0
	for _, b := range batches {
		for _, r := range b.records {
			if offset == len(want) {
				t.Fatalf("more records stored than produced: %+v", r)
			}
			w := &want[offset]
			if b.codec != w.codec {
				t.Fatalf("batch with offset %d: the attributes say %s, produced with %s", r.Offset, b.codec, w.codec)
			}
			if !c.timestamps {
				if r.Timestamp < started || r.Timestamp > time.Now().UnixMilli()+1000 {
					t.Fatalf("offset %d: timestamp %d, want now", r.Offset, r.Timestamp)
				}
				w.Timestamp = r.Timestamp
			}
			same(t, "stored", r, w.Record)
			offset++
		}
	}
	if offset != len(want) {
		t.Fatalf("%d records stored, want %d", offset, len(want))
	}
	if most := len(want) / 4; len(batches) > most {
		t.Fatalf("%d batches for %d records, want at most %d: single records prove little about codecs", len(batches), len(want), most)
	}
}
