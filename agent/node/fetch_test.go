package node

import (
	"fmt"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/objectstore"
	"varve.dev/tiering/batch"
)

// A fetch at the end is parked, and woken by what makes a record durable on its topic: the commit, or the journal.
func TestAFetchWaitsForNews(t *testing.T) {
	w := newWorld(t, nil)
	l := w.start()
	l.create("object", 2)
	l.create("local", 1, "varve.durability", "local")
	c := l.dial()
	reader := l.dial()
	parked := func(topic string) {
		t.Helper()
		reader.send(fetchVersion, fetchRequest(topic, 0, c.offset(topic, 0, -1).Offset, 1<<20))
	}
	for _, topic := range []string{"object", "local"} {
		for range 3 {
			parked(topic)
			heal := func() {}
			if topic == "local" {
				heal = w.breakStore(objectstore.KindPut)
			}
			b := records(options{}, "x")
			at := c.append(-1, topic, 0, b)
			got := reader.receive().(*kmsg.FetchResponse).Topics[0].Partitions[0]
			wantBatches(t, got, 1)
			if got.HighWatermark != at+1 {
				t.Errorf("%s: got high watermark %d, want %d", topic, got.HighWatermark, at+1)
			}
			heal()
		}
	}
	// Nothing comes: the answer is empty, and comes in time.
	req := fetchRequest("object", 1, 0, 1<<20)
	req.MaxWaitMillis = 20
	wantBatches(t, ask[*kmsg.FetchResponse](c, fetchVersion, req).Topics[0].Partitions[0], 0)
	// A topic that is deleted wakes its readers.
	parked("object")
	l.deleteTopic("object")
	if got := reader.receive().(*kmsg.FetchResponse).Topics[0].Partitions[0]; got.ErrorCode == 0 {
		t.Errorf("a reader of a deleted topic is told nothing")
	}
}

func (l *life) deleteTopic(name string) {
	l.t.Helper()
	req := kmsg.NewPtrDeleteTopicsRequest()
	topic := kmsg.NewDeleteTopicsRequestTopic()
	topic.Topic = &name
	req.Topics, req.TimeoutMillis = append(req.Topics, topic), int32(patience.Milliseconds())
	wantCode(l.t, "delete topic", ask[*kmsg.DeleteTopicsResponse](l.dial(), 6, req).Topics[0].ErrorCode, nil)
}

func TestAFetchIsBoundByBytes(t *testing.T) {
	w := newWorld(t, nil)
	l := w.start()
	l.create("a", 2, "segment.ms", "1")
	c := l.dial()
	const size = 10 << 10
	for i := range uint64(10) {
		c.append(-1, "a", int32(i%2), filler(size, i))
	}
	for _, place := range []string{"memory", "disk", "the object store"} {
		// The first batch comes whole, however little is asked for; then as many as fit.
		for _, tc := range []struct{ max, want int }{{1, 1}, {size, 1}, {2*size + 200, 2}, {3 * size, 2}, {1 << 20, 5}} {
			wantBatches(t, c.fetch("a", 0, 0, int32(tc.max)), tc.want)
		}
		// Over two partitions: what is left for the second is what the first leaves.
		for _, tc := range []struct{ max, first, second int }{{1, 1, 0}, {3*size + 300, 3, 0}, {7*size + 700, 5, 2}, {1 << 20, 5, 5}} {
			req := fetchRequest("a", 0, 0, 1<<20)
			req.MaxBytes = int32(tc.max)
			q := req.Topics[0].Partitions[0]
			q.Partition = 1
			req.Topics[0].Partitions = append(req.Topics[0].Partitions, q)
			got := ask[*kmsg.FetchResponse](c, fetchVersion, req).Topics[0].Partitions
			t.Run(fmt.Sprintf("%d bytes from %s", tc.max, place), func(t *testing.T) {
				wantBatches(t, got[0], tc.first)
				wantBatches(t, got[1], tc.second)
			})
		}
		// Each starts at the batch that holds the offset.
		for offset := range int64(5) {
			if b, _, err := batch.Parse(c.fetch("a", 1, offset, 1).RecordBatches); err != nil || b.Base() != offset {
				t.Errorf("fetch from %d: got a batch at %d, %v", offset, b.Base(), err)
			}
		}
		switch place {
		case "memory":
			l.seal()
		case "disk":
			l.evictAll()
		}
	}
	// min.bytes is waited for.
	reader := l.dial()
	req := fetchRequest("a", 0, 5, 1<<20)
	req.MinBytes = 2 * size
	reader.send(fetchVersion, req)
	c.append(-1, "a", 0, filler(size, 1))
	c.append(-1, "a", 0, filler(size, 2))
	wantBatches(t, reader.receive().(*kmsg.FetchResponse).Topics[0].Partitions[0], 2)
}

func TestFetchErrors(t *testing.T) {
	w := newWorld(t, nil)
	l := w.start()
	l.create("a", 1)
	c := l.dial()
	c.append(-1, "a", 0, records(options{}, "x"))
	for offset, want := range map[int64]*kerr.Error{-1: kerr.OffsetOutOfRange, 0: nil, 2: kerr.OffsetOutOfRange, 1 << 60: kerr.OffsetOutOfRange} {
		got := c.fetch("a", 0, offset, 1<<20)
		wantCode(t, fmt.Sprint("offset ", offset), got.ErrorCode, want)
		if want != nil && got.HighWatermark != -1 {
			t.Errorf("offset %d: got high watermark %d with an error", offset, got.HighWatermark)
		}
	}
	wantCode(t, "no such topic", c.fetch("missing", 0, 0, 1).ErrorCode, kerr.UnknownTopicOrPartition)
	wantCode(t, "no such partition", c.fetch("a", 1, 0, 1).ErrorCode, kerr.UnknownTopicOrPartition)

	byID := fetchRequest("", 0, 0, 1<<20)
	byID.Topics[0].TopicID = l.catalog.Image().ByName("a").ID
	wantBatches(t, ask[*kmsg.FetchResponse](c, 17, byID).Topics[0].Partitions[0], 1)
	byID.Topics[0].TopicID = [16]byte{1, 2, 3}
	wantCode(t, "no such topic id", ask[*kmsg.FetchResponse](c, 17, byID).Topics[0].Partitions[0].ErrorCode, kerr.UnknownTopicID)

	// A client that asks for a session gets none; one that claims to have one is told that it has not.
	session := fetchRequest("a", 0, 0, 1<<20)
	session.SessionEpoch = 0
	if got := ask[*kmsg.FetchResponse](c, fetchVersion, session); got.ErrorCode != 0 || got.SessionID != 0 {
		t.Errorf("a new session: got error %d and id %d", got.ErrorCode, got.SessionID)
	}
	session.SessionID, session.SessionEpoch = 7, 1
	wantCode(t, "a session that is not there", ask[*kmsg.FetchResponse](c, fetchVersion, session).ErrorCode, kerr.FetchSessionIDNotFound)
	replica := fetchRequest("a", 0, 0, 1<<20)
	replica.ReplicaID = 1
	wantCode(t, "a replica", ask[*kmsg.FetchResponse](c, fetchVersion, replica).ErrorCode, kerr.InvalidRequest)
	// Every version answers the same records.
	for v := int16(4); v <= 12; v++ {
		wantBatches(t, ask[*kmsg.FetchResponse](c, v, fetchRequest("a", 0, 0, 1<<20)).Topics[0].Partitions[0], 1)
	}
}

// Partitions of one fetch lie in memory, on disk, in the object store and nowhere: each gets its own answer.
func TestOneFetchFromEverywhere(t *testing.T) {
	w := newWorld(t, nil)
	l := w.start()
	l.create("a", 4, "segment.ms", "1")
	c := l.dial()
	c.append(-1, "a", 0, records(options{}, "cold"))
	l.seal()
	l.evictAll()
	c.append(-1, "a", 1, records(options{}, "disk"))
	l.seal()
	c.append(-1, "a", 2, records(options{}, "memory"))
	req := fetchRequest("a", 0, 0, 1<<20)
	for p := int32(1); p < 5; p++ {
		q := req.Topics[0].Partitions[0]
		q.Partition = p
		req.Topics[0].Partitions = append(req.Topics[0].Partitions, q)
	}
	req.MinBytes = 0
	got := ask[*kmsg.FetchResponse](c, fetchVersion, req).Topics[0].Partitions
	if got[0].ErrorCode == 0 && len(got[0].RecordBatches) == 0 {
		// A cold one may be left out beside hot ones: its download goes on, and the next fetch has it.
		got[0] = c.fetch("a", 0, 0, 1<<20)
	}
	for p, want := range []int{1, 1, 1, 0} {
		wantBatches(t, got[p], want)
	}
	wantCode(t, "the fifth of four", got[4].ErrorCode, kerr.UnknownTopicOrPartition)
}

// The size of a partition counts what is sealed and what is not.
func TestDescribeLogDirs(t *testing.T) {
	w := newWorld(t, nil)
	l := w.start()
	l.create("a", 2, "segment.ms", "1")
	l.create("b", 1)
	c := l.dial()
	var want int64
	for i := range uint64(4) {
		b := filler(5000, i)
		c.append(-1, "a", 0, b)
		want += int64(len(b))
		if i == 1 {
			l.seal()
		}
	}
	for _, named := range []bool{true, false} {
		req := kmsg.NewPtrDescribeLogDirsRequest()
		if named {
			topic := kmsg.NewDescribeLogDirsRequestTopic()
			topic.Topic, topic.Partitions = "a", []int32{0, 1}
			req.Topics = append(req.Topics, topic)
		}
		got := ask[*kmsg.DescribeLogDirsResponse](c, 4, req)
		if len(got.Dirs) != 1 || got.Dirs[0].Dir != "memory:" || got.Dirs[0].TotalBytes <= 0 || got.Dirs[0].UsableBytes <= 0 {
			t.Fatalf("got dirs %+v", got.Dirs)
		}
		sizes := map[string]int64{}
		for _, t := range got.Dirs[0].Topics {
			for _, p := range t.Partitions {
				sizes[fmt.Sprint(t.Topic, p.Partition)] = p.Size
			}
		}
		if sizes["a0"] != want || sizes["a1"] != 0 || len(sizes) != map[bool]int{true: 2, false: 3}[named] {
			t.Errorf("got sizes %v, want %d for a0", sizes, want)
		}
	}
	c.deleteRecords("a", 0, 2)
	req := kmsg.NewPtrDescribeLogDirsRequest()
	got := ask[*kmsg.DescribeLogDirsResponse](c, 4, req).Dirs[0].Topics
	i := slices.IndexFunc(got, func(t kmsg.DescribeLogDirsResponseDirTopic) bool { return t.Topic == "a" })
	if size := got[i].Partitions[0].Size; size != want/2 {
		t.Errorf("after deletion of half: got %d, want %d", size, want/2)
	}
}
