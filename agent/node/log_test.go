package node

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/metadata"
	"varve.dev/objectstore"
	"varve.dev/tiering/batch"
	"varve.dev/tiering/batch/codec"
)

func TestWhatIsProducedIsReadBack(t *testing.T) {
	w := newWorld(t, nil)
	l := w.start()
	l.create("a", 2)
	c := l.dial()
	one, two := records(options{}, "x", "y"), records(options{}, "z")
	if at := c.append(-1, "a", 1, one); at != 0 {
		t.Errorf("got offset %d", at)
	}
	if at := c.append(1, "a", 1, two); at != 2 {
		t.Errorf("got offset %d", at)
	}
	l.idle()
	wantSame(t, c.read("a", 1, 0), one, two)
	l.stop()
	w.verify()
}

// Batches of every codec come back as they were sent, from each place that bytes can lie in.
func TestEveryPlaceAnswersTheSameBytes(t *testing.T) {
	w := newWorld(t, nil)
	l := w.start("cache.memory.bytes=1048576")
	l.create("a", 1, "segment.ms", "1")
	c := l.dial()
	var sent [][]byte
	appendAll := func() {
		for _, cd := range []codec.Codec{codec.None, codec.Gzip, codec.Snappy, codec.LZ4, codec.Zstd} {
			b, err := batch.Batch(records(options{}, strings.Repeat("a wave ", 100), "", "b")).Recompress(cd, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			sent = append(sent, b)
			c.append(-1, "a", 0, b)
		}
	}
	gets := func(place string, most int) {
		t.Helper()
		w.rec.Take()
		wantSame(t, l.dial().read("a", 0, 0), sent...)
		if n := w.rec.Count(objectstore.KindGet); n > most {
			t.Errorf("read from %s: %d GETs, want at most %d", place, n, most)
		}
	}
	appendAll()
	gets("memory", 0)
	for i := range uint64(20) { // more than memory holds
		b := filler(100<<10, i)
		sent = append(sent, b)
		c.append(-1, "a", 0, b)
		l.wait("older images are spilled", func() bool { return l.cache.Stats().ImageBytes <= 1<<20 })
	}
	if s := l.cache.Stats(); s.SpilledBytes < 900<<10 || s.ImagesDropped > 0 {
		t.Errorf("%d bytes were spilled, %d images were not", s.SpilledBytes, s.ImagesDropped)
	}
	gets("spilled images", 0)
	l.evictAll()
	gets("unsealed objects", len(w.keys()))
	l.seal()
	gets("segments on local disk", 0)
	l.evictAll()
	gets("segments", 3)
	appendAll()
	gets("segments and images together", 3)
	l.stop()
	l = w.start()
	gets("what a restarted agent finds", len(w.keys()))
	w.verify()
}

// Ordinary clients produce with every codec and consume what they produced.
func TestClientsProduceAndConsumeWithEveryCodec(t *testing.T) {
	w := newWorld(t, nil)
	l := w.start()
	l.create("a", 3, "segment.ms", "1")
	codecs := []kgo.CompressionCodec{kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression()}
	sent := map[string]bool{}
	for i, cd := range codecs {
		p := l.kafka(kgo.ProducerBatchCompression(cd), kgo.DefaultProduceTopic("a"))
		for k := range 20 {
			key := fmt.Sprintf("%d-%d", i, k)
			p.Produce(t.Context(), &kgo.Record{Key: []byte(key), Value: bytes.Repeat([]byte(key), 50), Headers: []kgo.RecordHeader{{Key: "h", Value: []byte(key)}}},
				func(_ *kgo.Record, err error) {
					if err != nil {
						t.Error(err)
					}
				})
			sent[key] = true
		}
		if err := p.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if i == 2 {
			l.seal()
			l.evictAll()
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c := l.kafka(kgo.ConsumeTopics("a"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	for len(sent) > 0 {
		fetches := c.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			key := string(r.Key)
			if !sent[key] || string(r.Value) != strings.Repeat(key, 50) || len(r.Headers) != 1 || string(r.Headers[0].Value) != key {
				t.Errorf("got record %q of %d bytes, headers %v", key, len(r.Value), r.Headers)
			}
			delete(sent, key)
		})
	}
}

// A restart keeps everything that was acknowledged, and what only the journal held.
func TestRestart(t *testing.T) {
	for _, crash := range []bool{false, true} {
		t.Run(map[bool]string{false: "clean", true: "crash"}[crash], func(t *testing.T) {
			w := newWorld(t, nil)
			l := w.start()
			l.create("object", 2, "segment.ms", "1")
			l.create("local", 1, "varve.durability", "local")
			c := l.dial()
			var sent [][]byte
			add := func(acks int16) {
				b := records(options{}, fmt.Sprint("record ", len(sent)))
				sent = append(sent, b)
				for _, topic := range []string{"object", "local"} {
					if at := c.append(acks, topic, 0, b); at != int64(len(sent)-1) {
						t.Fatalf("got offset %d, want %d", at, len(sent)-1)
					}
				}
			}
			for turn := range 3 {
				add(-1)
				if turn == 1 {
					l.seal()
				}
				add(-1)
				if crash {
					heal := w.breakStore(objectstore.KindPut)
					add(1)
					add(1)
					l.crash()
					heal()
				} else {
					l.stop()
				}
				w.verify()
				l = w.start()
				c = l.dial()
				wantSame(t, c.read("object", 0, 0), sent...)
				wantSame(t, c.read("local", 0, 0), sent...)
			}
		})
	}
}

// A tail that is still in a window of a `local` topic is served, found by time, and survives.
func TestALocalTopicIsServedFromTheJournal(t *testing.T) {
	w := newWorld(t, nil)
	l := w.start()
	l.create("a", 1, "varve.durability", "local")
	c := l.dial()
	heal := w.breakStore(objectstore.KindPut)
	now := time.Now().UnixMilli()
	one, two := records(options{times: []int64{now - 10}}, "x"), records(options{times: []int64{now}}, "y")
	c.append(-1, "a", 0, one)
	c.append(1, "a", 0, two)
	wantSame(t, c.read("a", 0, 0), one, two)
	if got := c.offset("a", 0, now-5); got.Offset != 1 || got.Timestamp != now {
		t.Errorf("seek by time: got %+v", got)
	}
	if got := c.offset("a", 0, -1); got.Offset != 2 {
		t.Errorf("latest: got %d", got.Offset)
	}
	heal()
	l.idle()
	wantSame(t, c.read("a", 0, 0), one, two)
	w.verify()
}

func TestOffsetsByTimeAreExact(t *testing.T) {
	w := newWorld(t, nil)
	l := w.start()
	l.create("a", 1, "segment.ms", "1")
	c := l.dial()
	base := time.Now().Add(-time.Hour).UnixMilli()
	var all []int64 // time of each offset, out of order
	add := func(n int, acks int16) {
		for range n {
			var times []int64
			for k := range 3 {
				i := len(all) + k
				times = append(times, base+int64((i*7919)%101)*10+int64(i))
			}
			c.append(acks, "a", 0, records(options{times: times}, "x", "y", "z"))
			all = append(all, times...)
		}
	}
	check := func(from int64) {
		t.Helper()
		for _, at := range append(slices.Clone(all), base-1, base+1_000_000) {
			for _, millis := range []int64{at, at + 1} {
				want := int64(-1)
				for i := from; i < int64(len(all)); i++ {
					if all[i] >= millis {
						want = i
						break
					}
				}
				got := c.offset("a", 0, millis)
				if got.Offset != want || want >= 0 && got.Timestamp != all[want] {
					t.Errorf("at base+%d, from %d: got offset %d with time base+%d, want %d", millis-base, from, got.Offset, got.Timestamp-base, want)
				}
			}
		}
		largest := from
		for i := from; i < int64(len(all)); i++ {
			if all[i] > all[largest] {
				largest = i
			}
		}
		if got := c.offset("a", 0, -3); got.Offset != largest || got.Timestamp != all[largest] {
			t.Errorf("largest from %d: got offset %d, want %d", from, got.Offset, largest)
		}
	}
	if got := c.offset("a", 0, -3); got.Offset != -1 {
		t.Errorf("largest of nothing: got %d", got.Offset)
	}
	add(4, -1)
	check(0)
	l.seal()
	add(4, -1)
	l.seal()
	add(4, -1)
	l.evictAll()
	check(0)
	special := func(millis, want int64) {
		t.Helper()
		if got := c.offset("a", 0, millis); got.Offset != want {
			t.Errorf("special time %d: got %d, want %d", millis, got.Offset, want)
		}
	}
	special(-1, 36)
	special(-2, 0)
	special(-4, 24)
	special(-5, 23)
	special(-6, 24)
	c.deleteRecords("a", 0, 14)
	special(-2, 14)
	check(14)
	l.stop()
	l = w.start()
	c = l.dial()
	check(14)
	w.verify()
}

// deleteRecords moves the log start and answers it.
func (c *conn) deleteRecords(topic string, partition int32, offset int64) int64 {
	c.t.Helper()
	got := c.tryDeleteRecords(topic, partition, offset)
	wantCode(c.t, "delete records", got.ErrorCode, nil)
	return got.LowWatermark
}

func (c *conn) tryDeleteRecords(topic string, partition int32, offset int64) kmsg.DeleteRecordsResponseTopicPartition {
	c.t.Helper()
	req := kmsg.NewPtrDeleteRecordsRequest()
	req.TimeoutMillis = int32(patience.Milliseconds())
	t := kmsg.NewDeleteRecordsRequestTopic()
	t.Topic = topic
	p := kmsg.NewDeleteRecordsRequestTopicPartition()
	p.Partition, p.Offset = partition, offset
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	return ask[*kmsg.DeleteRecordsResponse](c, 2, req).Topics[0].Partitions[0]
}

func (c *conn) epochEnd(topic string, epoch int32) (int32, int64) {
	c.t.Helper()
	req := kmsg.NewPtrOffsetForLeaderEpochRequest()
	t := kmsg.NewOffsetForLeaderEpochRequestTopic()
	t.Topic = topic
	p := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
	p.CurrentLeaderEpoch, p.LeaderEpoch = -1, epoch
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	got := ask[*kmsg.OffsetForLeaderEpochResponse](c, 4, req).Topics[0].Partitions[0]
	wantCode(c.t, "epoch end", got.ErrorCode, nil)
	return got.LeaderEpoch, got.EndOffset
}

func TestLeaderEpochsOverRestarts(t *testing.T) {
	w := newWorld(t, nil)
	l := w.start()
	l.create("a", 1, "segment.ms", "1")
	type life struct {
		epoch int32
		end   int64
	}
	var lives []life
	for i := range 4 {
		c := l.dial()
		for range i + 1 {
			c.append(-1, "a", 0, records(options{}, "x"))
		}
		all := c.read("a", 0, 0)
		last := all[len(all)-1]
		lives = append(lives, life{last.LeaderEpoch(), last.End()})
		if i == 1 {
			l.seal()
		}
		if i%2 == 0 {
			l.crash()
		} else {
			l.stop()
		}
		l = w.start()
	}
	c := l.dial()
	for i, v := range lives {
		if i > 0 && v.epoch <= lives[i-1].epoch {
			t.Errorf("life %d wrote under epoch %d, the one before under %d", i, v.epoch, lives[i-1].epoch)
		}
		if epoch, end := c.epochEnd("a", v.epoch); epoch != v.epoch || end != v.end {
			t.Errorf("epoch %d: got %d ending at %d, want end %d", v.epoch, epoch, end, v.end)
		}
	}
	newest := lives[3].epoch + 1
	if epoch, end := c.epochEnd("a", newest); epoch != newest || end != 10 {
		t.Errorf("own epoch: got %d ending at %d, want %d ending at 10", epoch, end, newest)
	}
	if epoch, end := c.epochEnd("a", newest+1); epoch != -1 || end != -1 {
		t.Errorf("an epoch of the future: got %d, %d", epoch, end)
	}
	// A consumer that has read under an epoch which ended before its offset is told where to go back to (KIP-595).
	req := fetchRequest("a", 0, 9, 1<<20)
	req.Topics[0].Partitions[0].LastFetchedEpoch = lives[1].epoch
	got := ask[*kmsg.FetchResponse](c, fetchVersion, req).Topics[0].Partitions[0]
	if got.DivergingEpoch.Epoch != lives[1].epoch || got.DivergingEpoch.EndOffset != lives[1].end || len(got.RecordBatches) > 0 {
		t.Errorf("divergence: got %+v and %d bytes", got.DivergingEpoch, len(got.RecordBatches))
	}
	for _, tc := range []struct {
		epoch int32
		want  *kerr.Error
	}{{newest, nil}, {lives[3].epoch, kerr.FencedLeaderEpoch}, {newest + 1, kerr.UnknownLeaderEpoch}} {
		req := fetchRequest("a", 0, 0, 1<<20)
		req.Topics[0].Partitions[0].CurrentLeaderEpoch = tc.epoch
		wantCode(t, fmt.Sprint("fetch under epoch ", tc.epoch), ask[*kmsg.FetchResponse](c, fetchVersion, req).Topics[0].Partitions[0].ErrorCode, tc.want)
	}
	c.deleteRecords("a", 0, 5)
	if epoch, end := c.epochEnd("a", lives[0].epoch); epoch >= lives[2].epoch {
		t.Errorf("an epoch below the log start: got %d, %d", epoch, end)
	}
}

func (c *conn) producerID() int64 {
	c.t.Helper()
	got := ask[*kmsg.InitProducerIDResponse](c, 4, kmsg.NewPtrInitProducerIDRequest())
	wantCode(c.t, "init producer id", got.ErrorCode, nil)
	return got.ProducerID
}

// A batch that is sent again is answered with its first offset, also by later lives, and whether its state lies in the
// journal, in a window's object or in a segment.
func TestAnAcknowledgedBatchIsNeverWrittenTwice(t *testing.T) {
	w := newWorld(t, nil)
	l := w.start()
	l.create("a", 1, "segment.ms", "1")
	c := l.dial()
	id := c.producerID()
	if next := c.producerID(); next == id {
		t.Errorf("two producers have the id %d", id)
	}
	now := []int64{time.Now().UnixMilli()}
	var sent [][]byte
	send := func(acks int16) {
		t.Helper()
		b := records(options{id: id, sequence: int32(len(sent)), times: now}, fmt.Sprint(len(sent)))
		sent = append(sent, b)
		if at := c.append(acks, "a", 0, slices.Clone(b)); at != int64(len(sent)-1) {
			t.Fatalf("got offset %d, want %d", at, len(sent)-1)
		}
	}
	again := func(what string) {
		t.Helper()
		for i := max(0, len(sent)-5); i < len(sent); i++ {
			if got := c.produce(-1, "a", 0, slices.Clone(sent[i])); got.ErrorCode != 0 || got.BaseOffset != int64(i) {
				t.Errorf("%s: batch %d again: got error %v and offset %d", what, i, kerr.ErrorForCode(got.ErrorCode), got.BaseOffset)
			}
		}
		if len(sent) > 5 {
			wantCode(t, what+": a batch older than the window", c.produce(-1, "a", 0, slices.Clone(sent[0])).ErrorCode, kerr.OutOfOrderSequenceNumber)
		}
		skipped := records(options{id: id, sequence: int32(len(sent) + 1), times: now}, "gap")
		wantCode(t, what+": a skipped sequence number", c.produce(-1, "a", 0, skipped).ErrorCode, kerr.OutOfOrderSequenceNumber)
	}
	for range 6 {
		send(-1)
	}
	again("at once")
	l.stop()
	l = w.start()
	c = l.dial()
	again("after a restart")
	send(-1)
	l.seal()
	l.crash()
	l = w.start()
	c = l.dial()
	again("after a seal and a crash")
	heal := w.breakStore(objectstore.KindPut)
	send(1)
	send(1)
	l.crash()
	heal()
	l = w.start()
	c = l.dial()
	again("from the journal")
	send(-1)
	wantSame(t, c.read("a", 0, 0), sent...)
	newer := records(options{id: id, epoch: 1, times: now}, "newer")
	c.append(-1, "a", 0, newer)
	wantCode(t, "an older epoch", c.produce(-1, "a", 0, slices.Clone(sent[len(sent)-1])).ErrorCode, kerr.InvalidProducerEpoch)
	w.verify()

	req := kmsg.NewPtrDescribeProducersRequest()
	topic := kmsg.NewDescribeProducersRequestTopic()
	topic.Topic, topic.Partitions = "a", []int32{0, 7}
	req.Topics = append(req.Topics, topic)
	ps := ask[*kmsg.DescribeProducersResponse](c, 0, req).Topics[0].Partitions
	if p := ps[0]; p.ErrorCode != 0 || len(p.ActiveProducers) != 1 || p.ActiveProducers[0].ProducerID != id ||
		p.ActiveProducers[0].ProducerEpoch != 1 || p.ActiveProducers[0].LastSequence != 0 {
		t.Errorf("describe producers: got %+v", p)
	}
	wantCode(t, "producers of no partition", ps[1].ErrorCode, kerr.UnknownTopicOrPartition)
}

// A duplicate is not answered before its original is durable.
func TestADuplicateWaitsWithItsOriginal(t *testing.T) {
	w := newWorld(t, nil)
	l := w.start()
	l.create("a", 1)
	c := l.dial()
	id := c.producerID()
	heal := w.breakStore(objectstore.KindPut)
	b := records(options{id: id}, "x")
	c.send(produceVersion, produceRequest(-1, put{"a", 0, slices.Clone(b)}))
	impatient := produceRequest(-1, put{"a", 0, slices.Clone(b)})
	impatient.TimeoutMillis = 50
	other := l.dial()
	l.wait("the original is appended", func() bool { bytes, _ := l.buffer.Pending(); return bytes > 0 })
	got := ask[*kmsg.ProduceResponse](other, produceVersion, impatient).Topics[0].Partitions[0]
	wantCode(t, "a duplicate while the store is away", got.ErrorCode, kerr.RequestTimedOut)
	other.send(produceVersion, produceRequest(-1, put{"a", 0, slices.Clone(b)}))
	heal()
	for _, x := range []*conn{c, other} {
		if p := x.receive().(*kmsg.ProduceResponse).Topics[0].Partitions[0]; p.ErrorCode != 0 || p.BaseOffset != 0 {
			t.Errorf("got error %v and offset %d", kerr.ErrorForCode(p.ErrorCode), p.BaseOffset)
		}
	}
	wantSame(t, c.read("a", 0, 0), b)
}

func TestWhatAProducerMayNotWrite(t *testing.T) {
	w := newWorld(t, nil)
	l := w.start()
	l.create("a", 1, "max.message.bytes", "1000", "message.timestamp.before.max.ms", "7200000", "message.timestamp.after.max.ms", "60000")
	good := records(options{}, "x")
	changed := func(at int, to ...byte) []byte {
		b := slices.Clone(good)
		copy(b[at:], to)
		return b
	}
	resealed := func(b []byte) []byte {
		sum := crc(b[21:])
		copy(b[17:], []byte{byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)})
		return b
	}
	now := time.Now()
	cases := []struct {
		name  string
		batch []byte
		want  *kerr.Error
	}{
		{"nothing", nil, kerr.InvalidRecord},
		{"message format 0", changed(16, 0), kerr.UnsupportedForMessageFormat},
		{"message format 1", changed(16, 1), kerr.UnsupportedForMessageFormat},
		{"message format 3", changed(16, 3), kerr.InvalidRecord},
		{"a damaged record", changed(len(good)-1, 'y'), kerr.CorruptMessage},
		{"a batch that is cut", good[:len(good)-1], kerr.InvalidRecord},
		{"two batches", append(slices.Clone(good), good...), kerr.InvalidRecord},
		{"a control batch", records(options{attributes: 0x20}, "x"), kerr.InvalidRecord},
		{"a claimed append time", records(options{attributes: 0x08}, "x"), kerr.InvalidRecord},
		{"a transaction", records(options{id: 1, attributes: 0x10}, "x"), kerr.InvalidTxnState},
		{"a count that is wrong", resealed(changed(57, 0, 0, 0, 9)), kerr.InvalidRecord},
		{"a base offset", resealed(changed(7, 3)), kerr.InvalidRecord},
		{"too much", filler(1000, 1), kerr.MessageTooLarge},
		{"too old", records(options{times: []int64{now.Add(-3 * time.Hour).UnixMilli()}}, "x"), kerr.InvalidTimestamp},
		{"from the future", records(options{times: []int64{now.Add(time.Hour).UnixMilli()}}, "x"), kerr.InvalidTimestamp},
	}
	c := l.dial()
	for _, tc := range cases {
		got := c.produce(-1, "a", 0, tc.batch)
		wantCode(t, tc.name, got.ErrorCode, tc.want)
		if got.BaseOffset != -1 {
			t.Errorf("%s: got offset %d with an error", tc.name, got.BaseOffset)
		}
	}
	for _, name := range []string{"missing", "a"} {
		wantCode(t, "no such partition", c.produce(-1, name, 7, good).ErrorCode, kerr.UnknownTopicOrPartition)
	}
	wantCode(t, "acks=2", c.produce(2, "a", 0, good).ErrorCode, kerr.InvalidRequiredAcks)
	if at := c.append(-1, "a", 0, good); at != 0 {
		t.Errorf("a refused batch took an offset: the first good one has %d", at)
	}
	// One that is good beside one that is not.
	l.create("b", 1)
	mixed := ask[*kmsg.ProduceResponse](c, produceVersion, produceRequest(-1, put{"a", 0, cases[4].batch}, put{"b", 0, good}))
	wantCode(t, "the bad one", mixed.Topics[0].Partitions[0].ErrorCode, kerr.CorruptMessage)
	wantCode(t, "the good one", mixed.Topics[1].Partitions[0].ErrorCode, nil)
}

func TestLogAppendTime(t *testing.T) {
	w := newWorld(t, nil)
	l := w.start()
	l.create("a", 1, "message.timestamp.type", "LogAppendTime")
	c := l.dial()
	before := time.Now().UnixMilli()
	got := c.produce(-1, "a", 0, records(options{}, "x", "y"))
	if got.LogAppendTime < before || got.LogAppendTime > time.Now().UnixMilli() {
		t.Errorf("got append time %d, asked at %d", got.LogAppendTime, before)
	}
	b := c.read("a", 0, 0)[0]
	if !b.HasAppendTime() || b.MaxTimestamp() != got.LogAppendTime {
		t.Errorf("stored time %d, answered %d", b.MaxTimestamp(), got.LogAppendTime)
	}
	if at := c.offset("a", 0, before); at.Offset != 0 || at.Timestamp != got.LogAppendTime {
		t.Errorf("seek: got %+v", at)
	}
	if at := c.offset("a", 0, got.LogAppendTime+1); at.Offset != -1 {
		t.Errorf("seek behind it: got %+v", at)
	}
}

func TestATopicMayAskForACodec(t *testing.T) {
	w := newWorld(t, nil)
	l := w.start()
	for name, want := range map[string]codec.Codec{"zstd": codec.Zstd, "uncompressed": codec.None, "snappy": codec.Snappy} {
		l.create(name, 1, "compression.type", name)
		c := l.dial()
		plain := batch.Batch(records(options{}, strings.Repeat("a wave ", 100), "b"))
		zipped, err := plain.Recompress(codec.Gzip, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		c.append(-1, name, 0, slices.Clone(plain))
		c.append(-1, name, 0, slices.Clone(zipped))
		for _, b := range c.read(name, 0, 0) {
			back, err := b.Recompress(codec.None, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			if b.Codec() != want || !bytes.Equal(back[61:], plain[61:]) {
				t.Errorf("%s: batch at %d has codec %s", name, b.Base(), b.Codec())
			}
		}
	}
}

// Nobody is answered for acks=0; an error closes the connection.
func TestAcksZero(t *testing.T) {
	w := newWorld(t, nil)
	l := w.start()
	l.create("a", 1)
	c := l.dial()
	b := records(options{}, "x")
	c.send(produceVersion, produceRequest(0, put{"a", 0, b}))
	c.offset("a", 0, -2) // the next answer belongs to the next request
	l.wait("the record is there", func() bool { return c.offset("a", 0, -1).Offset == 1 })
	wantSame(t, c.read("a", 0, 0), b)
	c.send(produceVersion, produceRequest(0, put{"missing", 0, b}))
	c.sent = append(c.sent, kmsg.NewPtrMetadataRequest())
	if resp, err := c.tryReceive(); err == nil {
		t.Errorf("got an answer: %+v", resp)
	}
}

// Requests of one connection are answered in their order, whatever they wait for.
func TestPipelinedRequestsAreAnsweredInOrder(t *testing.T) {
	w := newWorld(t, nil)
	l := w.start("flush.interval.ms=20")
	l.create("a", 1)
	c := l.dial()
	const n = 40
	var want []kmsg.Request
	for i := range n {
		acks := int16(-1)
		if i%3 == 1 {
			acks = 1
		}
		c.send(produceVersion, produceRequest(acks, put{"a", 0, records(options{}, fmt.Sprint(i))}))
		if i%10 == 9 {
			c.send(12, kmsg.NewPtrMetadataRequest())
		}
	}
	want = slices.Clone(c.sent)
	next := int64(0)
	for _, req := range want {
		switch got := c.receive().(type) {
		case *kmsg.ProduceResponse:
			p := got.Topics[0].Partitions[0]
			if req.Key() != got.Key() || p.ErrorCode != 0 || p.BaseOffset != next {
				t.Fatalf("got error %v and offset %d, want %d", kerr.ErrorForCode(p.ErrorCode), p.BaseOffset, next)
			}
			next++
		default:
			if req.Key() != got.Key() {
				t.Fatalf("got an answer of %T to %T", got, req)
			}
		}
	}
}

// An agent that comes back with an empty disk is a stranger: what its old journal may hold is waited for, until an
// operator gives it up.
func TestAnUncleanElectionGivesUpAJournal(t *testing.T) {
	w := newWorld(t, nil)
	l := w.start()
	l.create("a", 2, "varve.durability", "local")
	l.create("b", 1)
	c := l.dial()
	kept, lost := records(options{}, "kept"), records(options{}, "lost")
	c.append(-1, "a", 0, kept)
	l.idle()
	heal := w.breakStore(objectstore.KindPut)
	c.append(-1, "a", 0, lost)
	l.crash()
	heal()
	old := w.dir
	w.dir = t.TempDir()
	l = w.start()
	c = l.dial()
	wantCode(t, "produce while it waits", c.produce(-1, "a", 0, kept).ErrorCode, kerr.NotLeaderForPartition)
	c.append(-1, "b", 0, kept)

	elect := func(kind int8, topic string, partitions ...int32) map[int32]int16 {
		req := kmsg.NewPtrElectLeadersRequest()
		req.ElectionType, req.TimeoutMillis = kind, int32(patience.Milliseconds())
		q := kmsg.NewElectLeadersRequestTopic()
		q.Topic, q.Partitions = topic, partitions
		req.Topics = append(req.Topics, q)
		codes := map[int32]int16{}
		for _, p := range ask[*kmsg.ElectLeadersResponse](c, 2, req).Topics[0].Partitions {
			codes[p.Partition] = p.ErrorCode
		}
		return codes
	}
	wantCode(t, "a preferred election", elect(0, "a", 0)[0], kerr.NotLeaderForPartition)
	wantCode(t, "of a partition that is led", elect(1, "b", 0)[0], kerr.ElectionNotNeeded)
	got := elect(1, "a", 0, 1, 9)
	wantCode(t, "unclean", got[0], nil)
	wantCode(t, "unclean", got[1], nil)
	wantCode(t, "no such partition", got[9], kerr.UnknownTopicOrPartition)

	const gap = 1 << 20
	if at := c.append(-1, "a", 0, kept); at != 1+gap {
		t.Errorf("the first record after the gap has offset %d, want %d", at, 1+gap)
	}
	all := c.read("a", 0, 0)
	if len(all) != 3 || !all[1].IsControl() || all[1].Base() != 1 || all[1].End() != 1+gap {
		t.Fatalf("got %d batches", len(all))
	}
	ranges, err := w.meta.Store.Lost(t.Context(), 10)
	if err != nil || len(ranges) != 2 || !slices.ContainsFunc(ranges, func(r metadata.LostRange) bool { return r.From == 1 && r.To == 1+gap }) {
		t.Errorf("got lost ranges %+v, %v", ranges, err)
	}
	reader := l.kafka(kgo.ConsumeTopics("a"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var values []string
	for len(values) < 2 {
		fetches := reader.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		fetches.EachRecord(func(r *kgo.Record) { values = append(values, fmt.Sprintf("%s at %d", r.Value, r.Offset)) })
	}
	if want := []string{"kept at 0", fmt.Sprintf("kept at %d", 1+gap)}; !slices.Equal(values, want) {
		t.Errorf("a consumer sees %v, want %v", values, want)
	}
	l.stop()
	// The old disk comes back too late: its tail is set aside, never merged.
	w.dir = old
	l = w.start()
	all = l.dial().read("a", 0, 2)
	wantSame(t, all[1:], kept)
	w.verify()
}
