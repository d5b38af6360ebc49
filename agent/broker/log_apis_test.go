package broker

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/catalog"
	"varve.dev/agent/config"
	"varve.dev/agent/session"
	"varve.dev/agent/wire"
	"varve.dev/metadata"
	"varve.dev/metadata/sqlite"
	"varve.dev/objectstore/cache"
	"varve.dev/tiering/batch"
	"varve.dev/tiering/batch/codec"
	"varve.dev/tiering/fetch"
	"varve.dev/tiering/flush"
	"varve.dev/tiering/object"
	"varve.dev/tiering/partition"
)

// logs is one agent's APIs over real partitions whose journal and object store are the test: it decides when something is
// durable.
type logs struct {
	t       testing.TB
	catalog *catalog.Catalog
	store   *sqlite.Store
	led     map[metadata.PartitionID]*partition.Partition
	waiting map[metadata.PartitionID]bool
	pipes   *pipes
	reader  *fetch.Reader
	full    error // what Reserve answers
	source  ids
	trimmed error
	elected error

	elsewhere bool // what is stored does not lie in memory

	mu      sync.Mutex
	held    []heldBatch // appended, not yet committed
	objects map[string][]byte
	sum     int64 // reserved
}

type heldBatch struct {
	owner  flush.Owner
	batch  batch.Batch
	need   flush.Need
	waiter flush.Waiter
	slot   int
}

// Append implements partition.Appender.
func (l *logs) Append(o flush.Owner, b batch.Batch, need flush.Need, w flush.Waiter, slot int) (flush.Held, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b = slices.Clone(b)
	l.held = append(l.held, heldBatch{o, b, need, w, slot})
	return flush.Held{Batch: b}, nil
}

// commit makes one object of all that was appended, and tells everybody.
func (l *logs) commit() {
	l.mu.Lock()
	held := l.held
	l.held = nil
	l.mu.Unlock()
	slices.SortStableFunc(held, func(a, b heldBatch) int {
		if a.owner.ID().Less(b.owner.ID()) {
			return -1
		} else if b.owner.ID().Less(a.owner.ID()) {
			return 1
		}
		return 0
	})
	b := object.NewBuilder(object.Header{CreatedAt: time.Now().UnixMilli()}, []object.TopicName{{Num: 1, Name: "a"}})
	var owners []flush.Owner
	for i, h := range held {
		if i == 0 || held[i-1].owner != h.owner {
			b.Begin(object.Range{Partition: h.owner.ID(), Base: h.batch.Base(), LeaderEpoch: h.owner.Epoch().Epoch, EpochStart: h.owner.Epoch().Start})
			owners = append(owners, h.owner)
		}
		b.Add(h.batch)
	}
	im := b.Finish(func() {})
	data, err := io.ReadAll(im.Open())
	if err != nil {
		l.t.Fatal(err)
	}
	l.mu.Lock()
	key := fmt.Sprint(len(l.objects))
	l.objects[key] = data
	l.mu.Unlock()
	stored := &object.Stored{Dir: im.Directory(), WALObject: metadata.WALObject{Object: im.Object(key)}}
	for i, o := range owners {
		o.Committed(stored, &stored.Dir.Ranges[i])
	}
	for _, h := range held {
		if h.waiter != nil {
			h.waiter.Done(h.slot, nil)
		}
	}
}

// View implements fetch.Viewer: one slice for every 1,000 bytes, so that batches are cut wherever they are not whole.
func (l *logs) View(_ context.Context, o cache.Object, off, n int64) (cache.View, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var v cache.View
	for data := l.objects[o.Key][off : off+n]; len(data) > 0; {
		size := min(len(data), 1000)
		for whole := 0; ; {
			next, _, err := batch.Parse(data[whole:])
			if err != nil || whole+len(next) > size && whole > 0 {
				if whole > 0 {
					size = whole
				}
				break
			}
			whole += len(next)
		}
		v.Slices, data = append(v.Slices, data[:size]), data[size:]
	}
	return v, nil
}

// Borrow implements fetch.Viewer.
func (l *logs) Some(ctx context.Context, o cache.Object, off, n int64, _ cache.Effort) (cache.View, error) {
	return l.View(ctx, o, off, n)
}

func (l *logs) Borrow(o cache.Object, off, n int64) (cache.View, bool) {
	v, err := l.View(context.Background(), o, off, n)
	return v, err == nil && !l.elsewhere
}

func (l *logs) Prefetch(cache.Object, int64, int64) {}

// Find implements fetch.Finder: nothing is sealed here.
func (l *logs) Find(context.Context, metadata.PartitionID, int64, int) ([]metadata.Segment, error) {
	return nil, nil
}

func (l *logs) FindTime(context.Context, metadata.PartitionID, int64) (metadata.Segment, error) {
	return metadata.Segment{}, metadata.ErrNotFound
}

func (l *logs) LastSegments(context.Context, []metadata.PartitionID) ([]metadata.Segment, error) {
	return nil, nil
}

func (l *logs) ReadAt(context.Context, string, []byte, int64) error {
	return errors.New("nothing is sealed")
}

// Get implements Led.
func (l *logs) Get(id metadata.PartitionID) (*partition.Partition, error) {
	if p := l.led[id]; p != nil {
		return p, nil
	}
	if l.waiting[id] {
		return nil, session.ErrWaiting
	}
	return nil, partition.ErrNotLeader
}

func (l *logs) Reserve(ctx context.Context, n int64, _ flush.Need) error {
	if errors.Is(l.full, flush.ErrBusy) {
		<-ctx.Done()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.full == nil {
		l.sum += n
	}
	return l.full
}

func (l *logs) TryReserve(n int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.full == nil {
		l.sum += n
	}
	return l.full == nil
}

func (l *logs) Away() bool { return false }

func (l *logs) Unreserve(n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sum -= n
}

// quiet fails unless everything that was reserved is given back.
func (l *logs) quiet(t *testing.T) {
	t.Helper()
	left := func() int64 {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.sum
	}
	for deadline := time.Now().Add(10 * time.Second); left() != 0; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Errorf("%d bytes stay reserved", left())
			return
		}
	}
}

func (l *logs) Trim(_ context.Context, ts []metadata.Trim) error {
	if l.trimmed != nil {
		return l.trimmed
	}
	for _, t := range ts {
		l.led[t.Partition].SetLogStart(t.LogStart)
	}
	return nil
}

func (l *logs) Elect(_ context.Context, ids []metadata.PartitionID) error {
	if l.elected == nil {
		for _, id := range ids {
			delete(l.waiting, id)
		}
	}
	return l.elected
}

func (l *logs) Size(id metadata.PartitionID) int64 { return l.led[id].Bytes() }
func (l *logs) Disk() (total, usable int64)        { return 1000, 300 }

// ids is where producer ids come from.
type ids struct {
	mu    sync.Mutex
	asked int64
	err   error
}

func (s *ids) ProducerIDs(_ context.Context, n int64) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, s.err
	}
	s.asked++
	return (s.asked - 1) * n, nil
}

// newLogs leads topic a, whose partition 3 of 4 waits for another journal and whose partition 2 somebody else leads.
func newLogs(t testing.TB, topic ...func(*partition.Config)) *logs {
	t.Helper()
	base, err := config.Load(nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	store, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "m"), sqlite.Config{Readers: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	if _, err := store.Join(t.Context(), metadata.Cluster{ID: metadata.UUID{1}, Shards: 1, Format: 1}); err != nil {
		t.Fatal(err)
	}
	a, err := store.CreateTopic(t.Context(), metadata.Topic{ID: metadata.UUID{7}, Name: "a", Partitions: 4}, 1)
	if err != nil {
		t.Fatal(err)
	}
	l := &logs{t: t, store: store, led: map[metadata.PartitionID]*partition.Partition{}, waiting: map[metadata.PartitionID]bool{{Topic: a.Num, Partition: 3}: true},
		objects: map[string][]byte{}, catalog: catalog.New(store, base, 1, slog.New(slog.DiscardHandler), catalog.Config{})}
	if err := l.catalog.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	cfg := partition.Config{MaxMessageBytes: 100_000, TimestampBefore: 1 << 60, TimestampAfter: time.Hour, KeepCodec: true, ProducerExpiry: time.Hour}
	for _, change := range topic {
		change(&cfg)
	}
	for p := range int32(2) {
		id := metadata.PartitionID{Topic: a.Num, Partition: p}
		l.led[id] = partition.New(partition.Start{ID: id, Topic: object.TopicName{Num: a.Num, ID: a.ID, Name: "a"},
			Epochs: []metadata.EpochStart{{Epoch: 4, Start: 0}}}, l, cfg)
	}
	l.reader, err = fetch.New(l, l, l, fetch.Config{Directories: 1 << 20, FindLimit: 16, RecordBytes: 1 << 20, ConcurrentMax: 4})
	if err != nil {
		t.Fatal(err)
	}
	l.pipes = start(t, New(Self{ID: 1}, Produce(l.catalog, l, l, l, 20*time.Millisecond), Fetch(l.catalog, l, l.reader, 1<<20),
		ListOffsets(l.catalog, l, l.reader, l), DeleteRecords(l.catalog, l, l), InitProducerID(&l.source), OffsetForLeaderEpoch(l.catalog, l),
		DescribeLogDirs(l.catalog, l, l, "memory:"), ElectLeaders(l.catalog, l, l), DescribeProducers(l.catalog, l)))
	return l
}

func (l *logs) connect() client { return connect(l.t, l.pipes) }

// appended waits until so many batches wait for a commit.
func (l *logs) appended(want int) {
	l.t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); ; <-tick.C {
		l.mu.Lock()
		n := len(l.held)
		l.mu.Unlock()
		if n == want {
			return
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("%d batches are appended, want %d", n, want)
		}
	}
}

// fill appends and commits batches of so many records.
func (l *logs) fill(p int32, records ...int) {
	l.t.Helper()
	for _, n := range records {
		b := oneBatch(0, 0, slices.Repeat([]string{"value"}, n)...)
		id := metadata.PartitionID{Topic: l.catalog.Image().ByName("a").Num, Partition: p}
		if _, err := l.led[id].Append(b, 0, time.Now(), nil, 0); err != nil {
			l.t.Fatal(err)
		}
		l.commit()
	}
}

// oneBatch is what a producer sends; id 0 is none.
func oneBatch(id int64, sequence int32, values ...string) batch.Batch {
	now := time.Now().UnixMilli()
	rb := kmsg.RecordBatch{Magic: 2, PartitionLeaderEpoch: -1, ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1,
		LastOffsetDelta: int32(len(values) - 1), NumRecords: int32(len(values)), FirstTimestamp: now, MaxTimestamp: now + int64(len(values)) - 1}
	if id > 0 {
		rb.ProducerID, rb.ProducerEpoch, rb.FirstSequence = id, 0, sequence
	}
	for i, v := range values {
		r := kmsg.Record{OffsetDelta: int32(i), TimestampDelta64: int64(i), Value: []byte(v)}
		body := r.AppendTo(nil)[1:]
		rb.Records = append(binary.AppendVarint(rb.Records, int64(len(body))), body...)
	}
	raw := rb.AppendTo(nil)
	binary.BigEndian.PutUint32(raw[8:], uint32(len(raw)-12))
	binary.BigEndian.PutUint32(raw[17:], crc32.Checksum(raw[21:], crc32.MakeTable(crc32.Castagnoli)))
	return raw
}

func (l *logs) produceRequest(acks int16, partitions map[int32][]byte) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = acks, 10_000
	t := kmsg.NewProduceRequestTopic()
	t.Topic, t.TopicID = "a", metadata.UUID{7}
	for p := range int32(10) {
		if b, ok := partitions[p]; ok {
			q := kmsg.NewProduceRequestTopicPartition()
			q.Partition, q.Records = p, b
			t.Partitions = append(t.Partitions, q)
		}
	}
	req.Topics = append(req.Topics, t)
	return req
}

func TestProduceInEveryVersion(t *testing.T) {
	l := newLogs(t)
	c := l.connect()
	for v := int16(3); v <= 13; v++ {
		req := l.produceRequest(-1, map[int32][]byte{0: oneBatch(0, 0, "x"), 1: oneBatch(0, 0, "y", "z"), 2: oneBatch(0, 0, "x"), 3: oneBatch(0, 0, "x"), 4: oneBatch(0, 0, "x")})
		req.SetVersion(v)
		c.send(req)
		l.appended(2)
		l.commit()
		resp := kmsg.NewPtrProduceResponse()
		resp.SetVersion(v)
		if err := resp.ReadFrom(c.body(v >= 9)); err != nil {
			t.Fatalf("v%d: %v", v, err)
		}
		topic := resp.Topics[0]
		if v < 13 && topic.Topic != "a" || v >= 13 && topic.TopicID != [16]byte{7} {
			t.Errorf("v%d: got topic %q %v", v, topic.Topic, topic.TopicID)
		}
		for i, want := range []*kerr.Error{nil, nil, kerr.NotLeaderForPartition, kerr.NotLeaderForPartition, kerr.UnknownTopicOrPartition} {
			p := topic.Partitions[i]
			offset := int64(-1)
			if want == nil {
				want, offset = &kerr.Error{}, int64(v-3)*int64(i+1)
			}
			wantCode(t, fmt.Sprintf("v%d partition %d", v, i), p.ErrorCode, want)
			if p.BaseOffset != offset || p.LogAppendTime != -1 {
				t.Errorf("v%d partition %d: got offset %d and append time %d, want offset %d", v, i, p.BaseOffset, p.LogAppendTime, offset)
			}
			if v >= 8 && (p.ErrorMessage != nil) != (p.ErrorCode != 0) {
				t.Errorf("v%d partition %d: error %d with message %v", v, i, p.ErrorCode, p.ErrorMessage)
			}
		}
	}
	unknown := l.produceRequest(-1, map[int32][]byte{0: oneBatch(0, 0, "x")})
	unknown.Topics[0].TopicID, unknown.Topics[0].Topic = [16]byte{9}, "missing"
	wantCode(t, "no such id", ask[*kmsg.ProduceResponse](c, 13, unknown).Topics[0].Partitions[0].ErrorCode, kerr.UnknownTopicID)
	wantCode(t, "no such name", ask[*kmsg.ProduceResponse](c, 12, unknown).Topics[0].Partitions[0].ErrorCode, kerr.UnknownTopicOrPartition)
	l.quiet(t) // the answer may overtake the end of its handler
}

// zstd is known since Produce v7 (KIP-110).
func TestZstdNeedsANewProducer(t *testing.T) {
	l := newLogs(t)
	b, err := oneBatch(0, 0, strings.Repeat("x", 100)).Recompress(codec.Zstd, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	c := l.connect()
	req := l.produceRequest(-1, map[int32][]byte{0: b})
	wantCode(t, "v6", ask[*kmsg.ProduceResponse](c, 6, req).Topics[0].Partitions[0].ErrorCode, kerr.UnsupportedCompressionType)
	req.SetVersion(7)
	c.send(req)
	l.appended(1)
	l.commit()
	c.body(false)
}

// What is answered when the time is up, when the session ends, and when there is no room.
func TestProduceThatIsNotKnownToBeDurable(t *testing.T) {
	l := newLogs(t)
	c := l.connect()
	req := l.produceRequest(-1, map[int32][]byte{0: oneBatch(0, 0, "x"), 2: oneBatch(0, 0, "x")})
	req.TimeoutMillis = 10
	got := ask[*kmsg.ProduceResponse](c, 12, req).Topics[0].Partitions
	wantCode(t, "the time is up", got[0].ErrorCode, kerr.RequestTimedOut)
	wantCode(t, "a definite error beside it", got[1].ErrorCode, kerr.NotLeaderForPartition)
	l.commit() // a late answer is nobody's
	req.TimeoutMillis = 10_000
	req.SetVersion(12)
	c.send(req)
	l.appended(1)
	l.mu.Lock()
	h := l.held[0]
	l.held = nil
	l.mu.Unlock()
	h.waiter.Done(h.slot, flush.ErrEnded)
	resp := kmsg.NewPtrProduceResponse()
	resp.SetVersion(12)
	if err := resp.ReadFrom(c.body(true)); err != nil {
		t.Fatal(err)
	}
	wantCode(t, "the session has ended after the append", resp.Topics[0].Partitions[0].ErrorCode, kerr.RequestTimedOut)
	l.full = flush.ErrBusy
	got = ask[*kmsg.ProduceResponse](c, 12, req).Topics[0].Partitions
	wantCode(t, "no room", got[0].ErrorCode, kerr.NotEnoughReplicas)
	l.full = flush.ErrEnded
	got = ask[*kmsg.ProduceResponse](c, 12, req).Topics[0].Partitions
	wantCode(t, "the session has ended before the append", got[0].ErrorCode, kerr.NotLeaderForPartition)
	l.appended(0)
}

// A waiter may be told before the handler knows that it waits.
func TestAnAnswerMayComeBeforeItIsWaitedFor(t *testing.T) {
	replies := make(chan wire.Reply, 2)
	req := kmsg.NewPtrProduceRequest()
	req.Acks = -1
	topic := kmsg.NewProduceRequestTopic()
	topic.Partitions = make([]kmsg.ProduceRequestTopicPartition, 2)
	req.Topics = append(req.Topics, topic)
	p := newProducing(&wire.Request{Version: 9}, req, func(r wire.Reply) { replies <- r })
	p.Done(1, nil)
	p.set(0, partition.Appended{Base: 5}, nil)
	p.set(1, partition.Appended{Base: 6}, nil)
	p.appended(time.Hour)
	if len(replies) != 0 {
		t.Fatal("answered before slot 0 is durable")
	}
	p.Done(0, nil)
	if len(replies) != 1 {
		t.Fatalf("%d answers, want 1", len(replies))
	}
}

func fetchRequestOf(partitions ...int32) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.MinBytes, req.MaxBytes, req.SessionEpoch = 0, 1<<20, -1
	t := kmsg.NewFetchRequestTopic()
	t.Topic, t.TopicID = "a", metadata.UUID{7}
	for _, p := range partitions {
		q := kmsg.NewFetchRequestTopicPartition()
		q.Partition, q.PartitionMaxBytes, q.CurrentLeaderEpoch, q.LastFetchedEpoch = p, 1<<20, -1, -1
		t.Partitions = append(t.Partitions, q)
	}
	req.Topics = append(req.Topics, t)
	return req
}

// The one codec that is written by hand says, byte for byte, what kmsg's would.
func TestTheFetchResponseIsEncodedLikeKmsg(t *testing.T) {
	l := newLogs(t)
	l.fill(0, 1, 300, 1, 1, 500)
	l.fill(1, 2)
	c := l.connect()
	for v := int16(4); v <= 18; v++ {
		for _, committed := range []int8{0, 1} {
			for name, req := range map[string]*kmsg.FetchRequest{
				"records":    fetchRequestOf(0, 1),
				"errors":     fetchRequestOf(2, 3, 9, 0),
				"nothing":    {MaxBytes: 1 << 20, SessionEpoch: -1, ReplicaID: -1, MaxWaitMillis: 1, ReplicaState: kmsg.FetchRequestReplicaState{ID: -1, Epoch: -1}},
				"divergence": fetchRequestOf(0),
			} {
				req.IsolationLevel = committed
				if name == "divergence" {
					req.Topics[0].Partitions[0].LastFetchedEpoch, req.Topics[0].Partitions[0].FetchOffset = 4, 803
					l.led[metadata.PartitionID{Topic: 1, Partition: 0}].SetLogStart(0)
				}
				req.SetVersion(v)
				c.send(req)
				body := c.body(v >= 12)
				resp := kmsg.NewPtrFetchResponse()
				resp.SetVersion(v)
				if err := resp.ReadFrom(body); err != nil {
					t.Fatalf("v%d %s: %v", v, name, err)
				}
				if again := resp.AppendTo(nil); !bytes.Equal(again, body) {
					t.Errorf("v%d %s, isolation %d:\n got %x\nwant %x", v, name, committed, body, again)
				}
				if name != "records" {
					continue
				}
				for i, want := range []int64{803, 2} {
					p := resp.Topics[0].Partitions[i]
					if p.HighWatermark != want || p.LastStableOffset != want || (p.AbortedTransactions != nil) != (committed == 1) || p.PreferredReadReplica != -1 {
						t.Errorf("v%d: got partition %+v", v, p)
					}
					next := int64(0)
					for rest := p.RecordBatches; len(rest) > 0; {
						b, after, err := batch.Parse(rest)
						if err != nil || b.Base() != next || b.Verify() != nil {
							t.Fatalf("v%d: batch at %d: %v", v, next, err)
						}
						next, rest = b.End(), after
					}
					if next != want {
						t.Errorf("v%d: partition %d ends at %d, want %d", v, i, next, want)
					}
				}
			}
		}
	}
}

func TestFetchTellsEachPartitionItsError(t *testing.T) {
	l := newLogs(t)
	l.fill(0, 3)
	c := l.connect()
	req := fetchRequestOf(0, 0, 2, 3, 9, 1)
	req.Topics[0].Partitions[1].FetchOffset = 4
	req.Topics[0].Partitions[5].CurrentLeaderEpoch = 3
	got := ask[*kmsg.FetchResponse](c, 12, req).Topics[0].Partitions
	for i, want := range []*kerr.Error{{}, kerr.OffsetOutOfRange, kerr.NotLeaderForPartition, kerr.NotLeaderForPartition, kerr.UnknownTopicOrPartition, kerr.FencedLeaderEpoch} {
		wantCode(t, fmt.Sprint("partition ", i), got[i].ErrorCode, want)
		if (got[i].HighWatermark == -1) != (want.Code != 0) {
			t.Errorf("partition %d: got high watermark %d", i, got[i].HighWatermark)
		}
	}
}

func TestListOffsetsInEveryVersion(t *testing.T) {
	l := newLogs(t)
	l.fill(0, 3, 2)
	c := l.connect()
	since := map[int64]int16{-1: 1, -2: 1, -3: 7, -4: 8, -5: 9, -6: 11, -7: 99, 0: 1, 1 << 60: 1}
	want := map[int64]int64{-1: 5, -2: 0, -3: 4, -4: 0, -5: -1, -6: 0, 0: 0, 1 << 60: -1}
	for v := int16(1); v <= 11; v++ {
		for millis, first := range since {
			req := kmsg.NewPtrListOffsetsRequest()
			topic := kmsg.NewListOffsetsRequestTopic()
			topic.Topic = "a"
			for _, p := range []int32{0, 2, 3, 4} {
				q := kmsg.NewListOffsetsRequestTopicPartition()
				q.Partition, q.Timestamp, q.CurrentLeaderEpoch = p, millis, -1
				topic.Partitions = append(topic.Partitions, q)
			}
			req.Topics = append(req.Topics, topic)
			got := ask[*kmsg.ListOffsetsResponse](c, v, req).Topics[0].Partitions
			if v < first {
				wantCode(t, fmt.Sprintf("v%d, time %d", v, millis), got[0].ErrorCode, kerr.UnsupportedVersion)
				continue
			}
			offset := want[millis]
			if millis == -3 {
				offset = got[0].Offset // 2 or 4: the two batches may be of one millisecond
			}
			if got[0].ErrorCode != 0 || got[0].Offset != offset || v >= 4 && offset >= 0 && got[0].LeaderEpoch != 4 {
				t.Errorf("v%d, time %d: got %+v, want offset %d", v, millis, got[0], offset)
			}
			wantCode(t, "led by another", got[1].ErrorCode, kerr.NotLeaderForPartition)
			wantCode(t, "waiting", got[2].ErrorCode, kerr.NotLeaderForPartition)
			wantCode(t, "missing", got[3].ErrorCode, kerr.UnknownTopicOrPartition)
		}
	}
	req := kmsg.NewPtrListOffsetsRequest()
	topic := kmsg.NewListOffsetsRequestTopic()
	topic.Topic = "a"
	q := kmsg.NewListOffsetsRequestTopicPartition()
	q.Timestamp, q.CurrentLeaderEpoch = -1, 5
	topic.Partitions = append(topic.Partitions, q)
	q.Partition, q.CurrentLeaderEpoch = 1, -1
	topic.Partitions = append(topic.Partitions, q, q)
	req.Topics = append(req.Topics, topic)
	got := ask[*kmsg.ListOffsetsResponse](c, 8, req).Topics[0].Partitions
	wantCode(t, "an epoch of the future", got[0].ErrorCode, kerr.UnknownLeaderEpoch)
	wantCode(t, "a partition twice", got[1].ErrorCode, kerr.InvalidRequest)
	if len(got) != 2 {
		t.Errorf("got %d answers for two partitions, one of them named twice", len(got))
	}
}

func TestDeleteRecordsInEveryVersion(t *testing.T) {
	l := newLogs(t)
	l.fill(0, 5)
	l.fill(1, 5)
	c := l.connect()
	request := func(offsets ...int64) *kmsg.DeleteRecordsRequest {
		req := kmsg.NewPtrDeleteRecordsRequest()
		topic := kmsg.NewDeleteRecordsRequestTopic()
		topic.Topic, req.TimeoutMillis = "a", 1000
		for i, o := range offsets {
			p := kmsg.NewDeleteRecordsRequestTopicPartition()
			p.Partition, p.Offset = int32(i), o
			topic.Partitions = append(topic.Partitions, p)
		}
		req.Topics = append(req.Topics, topic)
		return req
	}
	for v := int16(0); v <= 2; v++ {
		got := ask[*kmsg.DeleteRecordsResponse](c, v, request(int64(v)+1, 6, 0, 0, 0)).Topics[0].Partitions
		for i, want := range []*kerr.Error{{}, kerr.OffsetOutOfRange, kerr.NotLeaderForPartition, kerr.NotLeaderForPartition, kerr.UnknownTopicOrPartition} {
			wantCode(t, fmt.Sprintf("v%d partition %d", v, i), got[i].ErrorCode, want)
		}
		if got[0].LowWatermark != int64(v)+1 || got[1].LowWatermark != -1 {
			t.Errorf("v%d: got low watermarks %d and %d", v, got[0].LowWatermark, got[1].LowWatermark)
		}
	}
	l.trimmed = metadata.ErrUnknown
	got := ask[*kmsg.DeleteRecordsResponse](c, 2, request(4, 0)).Topics[0].Partitions
	wantCode(t, "the store may have done it", got[0].ErrorCode, kerr.RequestTimedOut)
	wantCode(t, "what needs nothing done", got[1].ErrorCode, &kerr.Error{})
	if got[0].LowWatermark != -1 || got[1].LowWatermark != 0 {
		t.Errorf("got low watermarks %d and %d", got[0].LowWatermark, got[1].LowWatermark)
	}
}

// One look-up reserves a thousand ids, and no id is given twice.
func TestInitProducerID(t *testing.T) {
	l := newLogs(t)
	seen := map[int64]bool{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 4 {
		c := l.connect()
		wg.Go(func() {
			for i := range 300 {
				got := ask[*kmsg.InitProducerIDResponse](c, int16(i%6), kmsg.NewPtrInitProducerIDRequest())
				mu.Lock()
				if got.ErrorCode != 0 || got.ProducerEpoch != 0 || seen[got.ProducerID] {
					t.Errorf("got error %d, id %d, epoch %d", got.ErrorCode, got.ProducerID, got.ProducerEpoch)
				}
				seen[got.ProducerID] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(seen) != 1200 || l.source.asked != 2 {
		t.Errorf("%d ids cost %d look-ups, want 1200 and 2", len(seen), l.source.asked)
	}
	c := l.connect()
	transactional := kmsg.NewPtrInitProducerIDRequest()
	transactional.TransactionalID = kmsg.StringPtr("t")
	wantCode(t, "a transactional id", ask[*kmsg.InitProducerIDResponse](c, 5, transactional).ErrorCode, kerr.UnsupportedVersion)
	l.source.mu.Lock()
	l.source.err = metadata.ErrUnavailable
	l.source.mu.Unlock()
	for range 800 {
		ask[*kmsg.InitProducerIDResponse](c, 0, kmsg.NewPtrInitProducerIDRequest())
	}
	got := ask[*kmsg.InitProducerIDResponse](c, 0, kmsg.NewPtrInitProducerIDRequest())
	if want := kerr.CoordinatorLoadInProgress; got.ErrorCode != want.Code || got.ProducerID != -1 || !want.Retriable {
		t.Errorf("the store is away: got error %d and id %d, want %v", got.ErrorCode, got.ProducerID, want)
	}
}

func TestOffsetForLeaderEpochInEveryVersion(t *testing.T) {
	l := newLogs(t)
	l.fill(0, 3)
	c := l.connect()
	for v := int16(2); v <= 4; v++ {
		req := kmsg.NewPtrOffsetForLeaderEpochRequest()
		topic := kmsg.NewOffsetForLeaderEpochRequestTopic()
		topic.Topic = "a"
		for _, asked := range []struct{ partition, current, epoch int32 }{{0, -1, 4}, {0, -1, 3}, {0, -1, 5}, {0, 3, 4}, {0, 5, 4}, {2, -1, 4}, {3, -1, 4}, {4, -1, 4}} {
			p := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
			p.Partition, p.CurrentLeaderEpoch, p.LeaderEpoch = asked.partition, asked.current, asked.epoch
			topic.Partitions = append(topic.Partitions, p)
		}
		req.Topics = append(req.Topics, topic)
		got := ask[*kmsg.OffsetForLeaderEpochResponse](c, v, req).Topics[0].Partitions
		for i, want := range []struct {
			err   *kerr.Error
			epoch int32
			end   int64
		}{{&kerr.Error{}, 4, 3}, {&kerr.Error{}, 3, 0}, {&kerr.Error{}, -1, -1}, {kerr.FencedLeaderEpoch, -1, -1}, {kerr.UnknownLeaderEpoch, -1, -1},
			{kerr.NotLeaderForPartition, -1, -1}, {kerr.NotLeaderForPartition, -1, -1}, {kerr.UnknownTopicOrPartition, -1, -1}} {
			wantCode(t, fmt.Sprintf("v%d question %d", v, i), got[i].ErrorCode, want.err)
			if got[i].LeaderEpoch != want.epoch || got[i].EndOffset != want.end {
				t.Errorf("v%d question %d: got epoch %d ending at %d, want %d and %d", v, i, got[i].LeaderEpoch, got[i].EndOffset, want.epoch, want.end)
			}
		}
	}
}

func TestDescribeLogDirsInEveryVersion(t *testing.T) {
	l := newLogs(t)
	l.fill(0, 3)
	c := l.connect()
	for v := int16(1); v <= 4; v++ {
		req := kmsg.NewPtrDescribeLogDirsRequest()
		got := ask[*kmsg.DescribeLogDirsResponse](c, v, req)
		if len(got.Dirs) != 1 || got.Dirs[0].Dir != "memory:" || len(got.Dirs[0].Topics) != 1 || len(got.Dirs[0].Topics[0].Partitions) != 2 {
			t.Fatalf("v%d: got %+v", v, got.Dirs)
		}
		if v >= 4 && (got.Dirs[0].TotalBytes != 1000 || got.Dirs[0].UsableBytes != 300) {
			t.Errorf("v%d: got a disk of %d bytes, %d free", v, got.Dirs[0].TotalBytes, got.Dirs[0].UsableBytes)
		}
		if ps := got.Dirs[0].Topics[0].Partitions; ps[0].Size == 0 || ps[1].Size != 0 {
			t.Errorf("v%d: got sizes %d and %d", v, ps[0].Size, ps[1].Size)
		}
		topic := kmsg.NewDescribeLogDirsRequestTopic()
		topic.Topic, topic.Partitions = "a", []int32{1, 2, 17}
		other := kmsg.NewDescribeLogDirsRequestTopic()
		other.Topic, other.Partitions = "missing", []int32{0}
		req.Topics = append(req.Topics, topic, other)
		got = ask[*kmsg.DescribeLogDirsResponse](c, v, req)
		if ts := got.Dirs[0].Topics; len(ts) != 1 || len(ts[0].Partitions) != 1 || ts[0].Partitions[0].Partition != 1 {
			t.Errorf("v%d: got topics %+v, want partition 1 of a", v, ts)
		}
	}
}

func TestElectLeadersInEveryVersion(t *testing.T) {
	l := newLogs(t)
	c := l.connect()
	request := func(kind int8, partitions ...int32) *kmsg.ElectLeadersRequest {
		req := kmsg.NewPtrElectLeadersRequest()
		req.ElectionType, req.TimeoutMillis = kind, 1000
		if partitions != nil {
			topic := kmsg.NewElectLeadersRequestTopic()
			topic.Topic, topic.Partitions = "a", partitions
			req.Topics = append(req.Topics, topic)
		}
		return req
	}
	check := func(what string, resp *kmsg.ElectLeadersResponse, want map[int32]*kerr.Error) {
		t.Helper()
		got := map[int32]int16{}
		for _, topic := range resp.Topics {
			for _, p := range topic.Partitions {
				got[p.Partition] = p.ErrorCode
			}
		}
		if len(got) != len(want) {
			t.Errorf("%s: got answers for %v, want %v", what, got, want)
		}
		for p, w := range want {
			wantCode(t, fmt.Sprintf("%s, partition %d", what, p), got[p], w)
		}
	}
	waits, none := kerr.NotLeaderForPartition, kerr.ElectionNotNeeded
	named := map[int32]*kerr.Error{0: none, 3: waits, 9: kerr.UnknownTopicOrPartition}
	for v := int16(0); v <= 2; v++ {
		check(fmt.Sprintf("v%d preferred", v), ask[*kmsg.ElectLeadersResponse](c, v, request(0, 0, 3, 9)), named)
		check(fmt.Sprintf("v%d of all", v), ask[*kmsg.ElectLeadersResponse](c, v, request(0)), map[int32]*kerr.Error{2: waits, 3: waits})
	}
	check("v0 knows only preferred ones", ask[*kmsg.ElectLeadersResponse](c, 0, request(1, 3)), map[int32]*kerr.Error{3: waits})
	l.elected = metadata.ErrUnavailable
	check("the store is away", ask[*kmsg.ElectLeadersResponse](c, 2, request(1, 0, 3)), map[int32]*kerr.Error{0: none, 3: kerr.RequestTimedOut})
	l.elected = nil
	check("unclean", ask[*kmsg.ElectLeadersResponse](c, 2, request(1, 0, 2, 3, 9)),
		map[int32]*kerr.Error{0: none, 2: waits, 3: {}, 9: kerr.UnknownTopicOrPartition})
	if len(l.waiting) > 0 {
		t.Error("the partition still waits")
	}
}

func TestDescribeProducers(t *testing.T) {
	l := newLogs(t)
	p := l.led[metadata.PartitionID{Topic: l.catalog.Image().ByName("a").Num, Partition: 0}]
	for i := range int32(7) {
		if _, err := p.Append(oneBatch(8, 2*i, "x", "y"), 0, time.Now(), nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.Append(oneBatch(3, 0, "x"), 0, time.Now(), nil, 0); err != nil {
		t.Fatal(err)
	}
	req := kmsg.NewPtrDescribeProducersRequest()
	topic := kmsg.NewDescribeProducersRequestTopic()
	topic.Topic, topic.Partitions = "a", []int32{0, 1, 2, 3, 4}
	missing := kmsg.NewDescribeProducersRequestTopic()
	missing.Topic, missing.Partitions = "missing", []int32{0}
	req.Topics = append(req.Topics, topic, missing)
	got := ask[*kmsg.DescribeProducersResponse](l.connect(), 0, req)
	for i, want := range []*kerr.Error{{}, {}, kerr.NotLeaderForPartition, kerr.NotLeaderForPartition, kerr.UnknownTopicOrPartition} {
		wantCode(t, fmt.Sprint("partition ", i), got.Topics[0].Partitions[i].ErrorCode, want)
	}
	wantCode(t, "no such topic", got.Topics[1].Partitions[0].ErrorCode, kerr.UnknownTopicOrPartition)
	active := got.Topics[0].Partitions[0].ActiveProducers
	if len(active) != 2 || active[0].ProducerID != 3 || active[0].LastSequence != 0 || active[1].ProducerID != 8 || active[1].LastSequence != 13 ||
		active[1].CurrentTxnStartOffset != -1 || active[1].LastTimestamp == 0 {
		t.Errorf("got producers %+v", active)
	}
	if n := len(got.Topics[0].Partitions[1].ActiveProducers); n != 0 {
		t.Errorf("got %d producers of an empty partition", n)
	}
}
