package broker

import (
	"encoding/binary"
	"runtime"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	// maxFuzzed bounds a body: some two thousand of the smallest elements.
	maxFuzzed = 4 << 10
	// answerWithin is how long an answer is waited for: a fetch, a join and a produce may wait for others.
	answerWithin = 20 * time.Millisecond
	// maxHandled bounds what a body of maxFuzzed bytes may make a handler allocate: 2 KiB for each of two thousand elements,
	// twice.
	maxHandled = 8 << 20
)

// FuzzHandlers sends arbitrary bodies to every handler there is, in every version that it offers: each is answered, waits,
// or its connection is closed; none panics, and none allocates more than its body may ask for.
func FuzzHandlers(f *testing.F) {
	admin, logs, groups := newCluster(f), newLogs(f), startGroups(f)
	admin.mustCreate(f, newTopic("t", 3, 1))
	tables := []*pipes{logs.pipes, groups.pipes, admin.pipes}
	for _, p := range tables {
		for _, key := range p.broker.keys {
			for version := max(p.broker.apis[key].Min, 0); version <= p.broker.apis[key].Max; version++ {
				req := kmsg.RequestForKey(key)
				req.SetVersion(version)
				f.Add(key, version, req.AppendTo(nil))
			}
		}
	}
	for _, req := range fuzzSeeds() {
		f.Add(req.Key(), req.GetVersion(), req.AppendTo(nil))
	}
	f.Fuzz(func(t *testing.T, key, version int16, body []byte) {
		if len(body) > maxFuzzed {
			return
		}
		for _, p := range tables {
			if !p.broker.knows(key, version) {
				continue
			}
			got := handled(t, p, key, version, body)
			for again := 0; again < 3 && got > maxHandled; again++ { // the fuzzer allocates, too
				got = min(got, handled(t, p, key, version, body))
			}
			// What is asked of topics in general grows with those that were created here before.
			if got > maxHandled && p != admin.pipes {
				t.Errorf("%s v%d: %d bytes of memory for a body of %d, want at most %d", kmsg.NameForKey(key), version, got, len(body), maxHandled)
			}
			if line := p.panics.seen(); line != "" {
				t.Fatal(line)
			}
			logs.commit()
			return
		}
	})
}

// handled sends one body, waits for what comes of it, and answers what it allocated.
func handled(t *testing.T, p *pipes, key, version int16, body []byte) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	client, err := p.dial(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	req := kmsg.RequestForKey(key)
	req.SetVersion(version)
	frame := append(kmsg.NewRequestFormatter().AppendRequest(nil, emptyBody{req}, 1), body...)
	binary.BigEndian.PutUint32(frame, uint32(len(frame)-4))
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		client.Write(frame)
	}()
	client.SetReadDeadline(time.Now().Add(answerWithin))
	_, _ = client.Read(make([]byte, 1<<10))
	client.Close()
	<-sent
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// emptyBody writes the header of a request alone.
type emptyBody struct{ kmsg.Request }

func (emptyBody) AppendTo(dst []byte) []byte { return dst }

// fuzzSeeds are requests that mean something.
func fuzzSeeds() (all []kmsg.Request) {
	add := func(version int16, req kmsg.Request) {
		req.SetVersion(version)
		all = append(all, req)
	}
	add(7, createRequest(newTopic("t", 1, 1, "retention.ms", "1"), assigned("u", []int32{1})))
	add(4, describeRequest(kmsg.ConfigResourceTypeTopic, "t"))
	pages := kmsg.NewPtrDescribeTopicPartitionsRequest()
	pages.Cursor = &kmsg.DescribeTopicPartitionsRequestCursor{Topic: "t", Partition: 2}
	add(0, pages)
	l := new(logs)
	batches := map[int32][]byte{0: oneBatch(0, 0, "a", "b"), 1: oneBatch(5, 0, "c"), 7: nil}
	for _, version := range []int16{3, 8, 9, 13} {
		for _, acks := range []int16{-1, 1, 0} {
			add(version, l.produceRequest(acks, batches))
		}
	}
	fetch := kmsg.NewPtrFetchRequest()
	fetch.MaxBytes, fetch.MinBytes, fetch.SessionEpoch = 1<<20, 1, -1
	topic := kmsg.NewFetchRequestTopic()
	topic.Topic, topic.TopicID = "a", [16]byte{7}
	for p := range int32(4) {
		q := kmsg.NewFetchRequestTopicPartition()
		q.Partition, q.PartitionMaxBytes = p, 1<<20
		topic.Partitions = append(topic.Partitions, q)
	}
	fetch.Topics = append(fetch.Topics, topic)
	for _, version := range []int16{4, 11, 12, 13, 18} {
		again := *fetch
		add(version, &again)
	}
	for _, version := range []int16{0, 5, 6, 9} {
		join := kmsg.NewPtrJoinGroupRequest()
		join.Group, join.SessionTimeoutMillis, join.RebalanceTimeoutMillis, join.ProtocolType = "g", 10_000, 60_000, "consumer"
		join.MemberID = "m"
		protocol := kmsg.NewJoinGroupRequestProtocol()
		protocol.Name, protocol.Metadata = "range", []byte("\x00\x01\x00\x00\x00\x01\x00\x01a\xff\xff\xff\xff")
		join.Protocols = append(join.Protocols, protocol)
		add(version, join)
		commit := kmsg.NewPtrOffsetCommitRequest()
		commit.Group, commit.Generation = "g", -1
		ct := kmsg.NewOffsetCommitRequestTopic()
		ct.Topic, ct.TopicID = "a", [16]byte{3}
		ct.Partitions = append(ct.Partitions, kmsg.NewOffsetCommitRequestTopicPartition())
		commit.Topics = append(commit.Topics, ct)
		add(max(version, 2), commit)
	}
	return all
}
