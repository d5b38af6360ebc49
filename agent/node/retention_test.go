package node

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/objectstore"
)

func (l *life) retain() {
	l.t.Helper()
	if err := l.gc.Retain(l.t.Context(), time.Now()); err != nil {
		l.t.Fatal(err)
	}
}

func (c *conn) wantStart(topic string, want int64) {
	c.t.Helper()
	if got := c.offset(topic, 0, -2).Offset; got != want {
		c.t.Errorf("%s starts at %d, want %d", topic, got, want)
	}
}

func TestRetentionByTime(t *testing.T) {
	w := newWorld(t, nil)
	l := w.start()
	l.create("a", 1, "segment.ms", "1", "retention.ms", "3600000")
	c := l.dial()
	old, young := time.Now().Add(-2*time.Hour).UnixMilli(), time.Now().UnixMilli()
	add := func(at int64) []byte {
		b := records(options{times: []int64{at}}, fmt.Sprint(at))
		c.append(-1, "a", 0, b)
		return b
	}
	add(old)
	l.seal()
	add(old)
	l.seal()
	kept := [][]byte{add(young)}
	l.seal()
	kept = append(kept, add(old), add(young))
	l.retain()
	c.wantStart("a", 2) // what is old behind something young stays
	wantCode(t, "fetch below the start", c.fetch("a", 0, 1, 1).ErrorCode, kerr.OffsetOutOfRange)
	wantSame(t, c.read("a", 0, 2), kept...)
	l.alter("a", "retention.ms", "-1")
	l.retain()
	c.wantStart("a", 2)
	l.crash()
	l = w.start()
	c = l.dial()
	c.wantStart("a", 2)
	wantSame(t, c.read("a", 0, 2), kept...)
	l.alter("a", "retention.ms", "1")
	l.wait("all of it is older than a millisecond", func() bool { return time.Now().UnixMilli() > young+1 })
	l.retain()
	c.wantStart("a", 5)
	if at := c.append(-1, "a", 0, records(options{}, "x")); at != 5 {
		t.Errorf("the log goes on at %d, want 5", at)
	}
	w.verify()
}

// A lower retention.ms takes effect at once, not only when what was longest to stay would have gone.
func TestRetentionIsAlteredAtOnce(t *testing.T) {
	w := newWorld(t, nil)
	l := w.start()
	l.create("a", 1, "segment.ms", "1")
	c := l.dial()
	c.append(-1, "a", 0, records(options{}, "an hour old"))
	l.seal()
	l.retain()
	c.wantStart("a", 0)
	l.alter("a", "retention.ms", "1000")
	l.retain()
	c.wantStart("a", 1)
}

func TestRetentionByBytes(t *testing.T) {
	w := newWorld(t, nil)
	l := w.start()
	l.create("a", 1, "segment.ms", "1", "retention.bytes", "250000")
	c := l.dial()
	for i := range uint64(6) {
		c.append(-1, "a", 0, filler(100_000, i))
		if i < 5 {
			l.seal()
		}
	}
	l.retain()
	c.wantStart("a", 3) // two would be too few
	if n := len(c.read("a", 0, 3)); n != 3 {
		t.Errorf("got %d batches, want 3", n)
	}
	w.verify()
}

func TestDeleteRecords(t *testing.T) {
	w := newWorld(t, nil)
	l := w.start()
	l.create("a", 1, "segment.ms", "1")
	c := l.dial()
	b := records(options{}, "0", "1", "2", "3", "4")
	for range 3 {
		c.append(-1, "a", 0, b)
	}
	for _, tc := range []struct {
		offset, want int64
		err          *kerr.Error
	}{{3, 3, nil}, {2, 3, nil}, {16, -1, kerr.OffsetOutOfRange}, {-2, -1, kerr.OffsetOutOfRange}} {
		got := c.tryDeleteRecords("a", 0, tc.offset)
		wantCode(t, fmt.Sprint("delete below ", tc.offset), got.ErrorCode, tc.err)
		if got.LowWatermark != tc.want {
			t.Errorf("delete below %d: got %d, want %d", tc.offset, got.LowWatermark, tc.want)
		}
	}
	wantCode(t, "no such partition", c.tryDeleteRecords("a", 1, 0).ErrorCode, kerr.UnknownTopicOrPartition)
	check := func(start int64, batches int) {
		t.Helper()
		c.wantStart("a", start)
		wantCode(t, "fetch below the start", c.fetch("a", 0, start-1, 1).ErrorCode, kerr.OffsetOutOfRange)
		if got := c.read("a", 0, start); len(got) != batches {
			t.Errorf("got %d batches from %d, want %d", len(got), start, batches)
		}
		client := l.kafka(kgo.ConsumeTopics("a"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
		defer client.Close()
		fetches := client.PollFetches(t.Context())
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		if r := fetches.Records()[0]; r.Offset != start || string(r.Value) != fmt.Sprint(start%5) {
			t.Errorf("a consumer starts at %d with %q, want %d", r.Offset, r.Value, start)
		}
	}
	check(3, 3)
	l.seal()
	check(3, 3)
	if got := c.deleteRecords("a", 0, 7); got != 7 {
		t.Errorf("got %d", got)
	}
	l.evictAll()
	check(7, 2)
	l.stop()
	l = w.start()
	c = l.dial()
	check(7, 2)
	if got := c.deleteRecords("a", 0, -1); got != 15 {
		t.Errorf("delete all: got %d, want the high watermark 15", got)
	}
	c.wantStart("a", 15)
	if got := c.read("a", 0, 15); len(got) != 0 {
		t.Errorf("got %d batches of nothing", len(got))
	}
	l.crash()
	l = w.start()
	c = l.dial()
	c.wantStart("a", 15)
	if at := c.append(-1, "a", 0, b); at != 15 {
		t.Errorf("the log goes on at %d, want 15", at)
	}
	w.verify()
}

// On a `local` topic records may be deleted that only the journal holds: they are committed first.
func TestDeleteRecordsOfATail(t *testing.T) {
	w := newWorld(t, nil)
	l := w.start()
	l.create("a", 1, "varve.durability", "local")
	c := l.dial()
	heal := w.breakStore(objectstore.KindPut)
	c.append(-1, "a", 0, records(options{}, "0", "1", "2"))
	req := kmsg.NewPtrDeleteRecordsRequest()
	req.TimeoutMillis = 50
	topic := kmsg.NewDeleteRecordsRequestTopic()
	topic.Topic = "a"
	p := kmsg.NewDeleteRecordsRequestTopicPartition()
	p.Offset = 2
	topic.Partitions = append(topic.Partitions, p)
	req.Topics = append(req.Topics, topic)
	got := ask[*kmsg.DeleteRecordsResponse](c, 2, req).Topics[0].Partitions[0]
	wantCode(t, "delete while the store is away", got.ErrorCode, kerr.RequestTimedOut)
	heal()
	if got := c.deleteRecords("a", 0, 2); got != 2 {
		t.Errorf("got %d, want 2", got)
	}
	c.wantStart("a", 2)
	w.verify()
}

// After a topic's deletion nothing of it is left in the bucket: not in objects of its own, not beside others' records in
// segments, packs and unsealed objects. What is beside it stays readable throughout.
func TestNothingOfADeletedTopicIsLeft(t *testing.T) {
	const secret = "the secret of the deleted topic"
	w := newWorld(t, nil)
	l := w.start("catalog.poll.ms=10", "gc.grace.ms=20", "seal.extent.min.bytes=50000")
	l.create("gone", 2)
	l.create("stays", 2)
	var kept [][]byte
	both := func(size int) {
		gone, stays := records(options{}, secret, strings.Repeat("x", size)), filler(size, uint64(len(kept)))
		kept = append(kept, stays)
		c := l.dial()
		req := produceRequest(-1, put{"gone", 0, gone}, put{"gone", 1, gone}, put{"stays", 0, stays})
		for _, topic := range ask[*kmsg.ProduceResponse](c, produceVersion, req).Topics {
			for _, p := range topic.Partitions {
				wantCode(t, "produce", p.ErrorCode, nil)
			}
		}
	}
	both(60_000) // large enough to leave as segments, in one object
	l.seal()
	both(100) // goes into a pack
	l.seal()
	both(100) // stays in its window's object
	kinds := map[string]bool{}
	for _, k := range w.keys() {
		kinds[strings.Split(k, "/")[0]] = true
	}
	if !kinds["seg"] || !kinds["pack"] || !kinds["wal"] {
		t.Fatalf("the bucket holds %v, want a segment, a pack and a window", w.keys())
	}
	l.stop()

	l = w.start("catalog.poll.ms=10", "gc.grace.ms=20", "gc.interval.ms=10", "gc.orphan.grace.ms=20", "seal.check.interval.ms=10")
	wantSame(t, l.dial().read("stays", 0, 0), kept...)
	if !w.holds(secret) {
		t.Fatal("the bucket does not hold what is to be deleted")
	}
	l.deleteTopic("gone")
	c := l.dial()
	wantCode(t, "fetch", c.fetch("gone", 0, 0, 1).ErrorCode, kerr.UnknownTopicOrPartition)
	wantCode(t, "produce", c.produce(-1, "gone", 0, records(options{}, "x")).ErrorCode, kerr.UnknownTopicOrPartition)
	l.create("gone", 2) // under the same name, it has nothing of the old one
	if got := c.read("gone", 0, 0); len(got) != 0 {
		t.Errorf("a new topic holds %d batches", len(got))
	}
	fresh := records(options{}, "fresh")
	if at := c.append(-1, "gone", 0, fresh); at != 0 {
		t.Errorf("the first record of a new topic has offset %d", at)
	}
	l.wait("nothing of it is in the bucket", func() bool { return !w.holds(secret) })
	l.wait("the index has forgotten it", func() bool {
		inv, err := w.meta.Store.Referenced(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return len(inv.Topics) == 2
	})
	wantSame(t, c.read("stays", 0, 0), kept...)
	wantSame(t, c.read("gone", 0, 0), fresh)
	l.evictAll()
	wantSame(t, c.read("stays", 0, 0), kept...)
	l.stop()
	w.verify()
	l = w.start()
	wantSame(t, l.dial().read("stays", 0, 0), kept...)
	wantSame(t, l.dial().read("gone", 0, 0), fresh)
}

// holds says whether any object contains text.
func (w *world) holds(text string) bool {
	w.t.Helper()
	for info, err := range w.objects.List(w.t.Context(), "") {
		if err != nil {
			w.t.Fatal(err)
		}
		b := make([]byte, info.Size)
		if err := w.objects.ReadAt(w.t.Context(), info.Key, b, 0); err == nil && bytes.Contains(b, []byte(text)) {
			return true
		}
	}
	return false
}

// A producer is remembered longer than its records: a retry of a batch that is deleted since is answered as before, in every
// later life, whether a window's object, a pack or a segment held it.
func TestProducersOutliveTheirRecords(t *testing.T) {
	seal := func(l *life, _ *conn) { l.seal() }
	deleteAll := func(_ *life, c *conn) { c.deleteRecords("a", 0, -1) }
	retain := func(l *life, _ *conn) { l.retain() }
	for _, tc := range []struct {
		name  string
		steps []func(*life, *conn)
	}{
		{"sealed, then deleted", []func(*life, *conn){seal, deleteAll}},
		{"sealed, then past their retention", []func(*life, *conn){seal, retain}},
		{"deleted before they are sealed", []func(*life, *conn){deleteAll}},
		{"deleted, then dropped by the seal", []func(*life, *conn){deleteAll, seal}},
		{"deleted twice", []func(*life, *conn){seal, deleteAll, deleteAll, seal, retain}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t, nil)
			l := w.start()
			l.create("a", 1, "segment.ms", "1", "retention.ms", "3600000")
			c := l.dial()
			old := []int64{time.Now().Add(-2 * time.Hour).UnixMilli()}
			id := c.producerID()
			var sent [][]byte
			send := func() {
				t.Helper()
				b := records(options{id: id, sequence: int32(len(sent)), times: old}, fmt.Sprint(len(sent)))
				sent = append(sent, b)
				if at := c.append(-1, "a", 0, slices.Clone(b)); at != int64(len(sent)-1) {
					t.Fatalf("batch %d: got offset %d", len(sent)-1, at)
				}
			}
			for life := range 3 {
				for range 2 {
					send()
				}
				for _, step := range tc.steps {
					step(l, c)
				}
				c.wantStart("a", int64(len(sent)))
				l.crash()
				l = w.start()
				c = l.dial()
				for i := max(0, len(sent)-5); i < len(sent); i++ {
					if got := c.produce(-1, "a", 0, slices.Clone(sent[i])); got.ErrorCode != 0 || got.BaseOffset != int64(i) {
						t.Errorf("life %d: batch %d again: got error %v and offset %d", life, i, kerr.ErrorForCode(got.ErrorCode), got.BaseOffset)
					}
				}
			}
			skipped := records(options{id: id, sequence: int32(len(sent) + 1), times: old}, "gap")
			wantCode(t, "a skipped sequence number", c.produce(-1, "a", 0, skipped).ErrorCode, kerr.OutOfOrderSequenceNumber)
			send()
			wantSame(t, c.read("a", 0, int64(len(sent)-1)), sent[len(sent)-1])
			w.verify()
		})
	}
}
