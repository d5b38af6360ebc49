package node

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/config"
	"varve.dev/metadata"
	"varve.dev/metadata/sqlite"
	"varve.dev/objectstore"
	"varve.dev/objectstore/memory"
	"varve.dev/tiering/archive"
	"varve.dev/tiering/batch"
	"varve.dev/tiering/object"
)

// patience bounds every wait of these tests; nothing in them takes a tenth of it.
const patience = 20 * time.Second

// world is what outlives an agent: the stores, and the folder of the next life.
type world struct {
	t       testing.TB
	dir     string
	listen  func(ctx context.Context, network, address string) (net.Listener, error) // nil: loopback
	meta    *fallible
	objects objectstore.Store // without faults and recording
	rec     *objectstore.Recorder
	ledger  *ledger
	broken  atomic.Pointer[func(objectstore.Call) objectstore.Fault] // nil: the store works
}

// newWorld has a store in memory and a metadata file, or what open makes.
func newWorld(t testing.TB, open func(trace func(string)) (metadata.Store, error)) *world {
	t.Helper()
	w := &world{t: t, dir: filepath.Join(t.TempDir(), "1"), ledger: new(ledger)}
	store, err := memory.Open(t.Context(), memory.Config{})
	if err != nil {
		t.Fatal(err)
	}
	w.objects = store
	w.rec = objectstore.NewRecorder(objectstore.NewFaults(store, w.fault), objectstore.RecorderConfig{Name: plainKey})
	w.ledger.rec = w.rec
	if open == nil {
		path := filepath.Join(t.TempDir(), "metadata.db")
		open = func(trace func(string)) (metadata.Store, error) {
			return sqlite.Open(t.Context(), path, sqlite.Config{Trace: trace})
		}
	}
	meta, err := open(w.ledger.sql)
	if err != nil {
		t.Fatal(err)
	}
	w.meta = &fallible{Store: meta}
	t.Cleanup(func() { meta.Close() })
	return w
}

func (w *world) fault(c objectstore.Call) objectstore.Fault {
	if f := w.broken.Load(); f != nil {
		return (*f)(c)
	}
	return objectstore.Fault{}
}

// breakStore makes every request of some kinds fail, until heal.
func (w *world) breakStore(kinds ...objectstore.Kind) (heal func()) {
	f := func(c objectstore.Call) objectstore.Fault {
		if slices.Contains(kinds, c.Kind) {
			return objectstore.Fault{Before: fmt.Errorf("%w: away", objectstore.ErrUnavailable)}
		}
		return objectstore.Fault{}
	}
	w.broken.Store(&f)
	return func() { w.broken.Store(nil) }
}

// verify proves that index and bucket agree, to the last byte.
func (w *world) verify() {
	w.t.Helper()
	report, err := archive.Verify(context.WithoutCancel(w.t.Context()), w.objects, w.meta.Store, archive.Options{Whole: true})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, p := range report.Problems {
		w.t.Errorf("index and bucket: %v", p)
	}
}

// keys lists the bucket.
func (w *world) keys() (keys []string) {
	w.t.Helper()
	for info, err := range w.objects.List(w.t.Context(), "") {
		if err != nil {
			w.t.Fatal(err)
		}
		keys = append(keys, info.Key)
	}
	return keys
}

// settings are those of tests: no loop does anything by itself; a test takes each step when it wants it.
func settings(dir string) []string {
	return []string{"data.dir=" + dir, "listeners=PLAINTEXT://127.0.0.1:0", "http.listen=127.0.0.1:0", "store.url=memory:",
		"flush.interval.ms=1", "journal.file.bytes=1048576", "journal.bytes=33554432", "session.beat.ms=60000", "session.ttl.ms=120000",
		"catalog.poll.ms=60000", "seal.check.interval.ms=3600000", "gc.interval.ms=86400000", "gc.grace.ms=120000",
		"log.retention.check.interval.ms=86400000", "group.initial.rebalance.delay.ms=0", "log.level=warn"}
}

// life is one agent that runs.
type life struct {
	*node
	t      testing.TB
	w      *world
	dir    string
	cancel context.CancelFunc // drains
	kill   context.CancelFunc // does not
	ended  chan struct{}
	err    error // of run, after ended
}

// start runs an agent on the world's folder until the test ends; set overrides settings.
func (w *world) start(set ...string) *life {
	w.t.Helper()
	l, err := w.tryStart(set...)
	if err != nil {
		w.t.Fatal(err)
	}
	return l
}

func (w *world) tryStart(set ...string) (*life, error) {
	w.t.Helper()
	cfg, err := config.Load(nil, nil, append(settings(w.dir), set...))
	if err != nil {
		return nil, err
	}
	log := slog.New(slog.NewTextHandler(w.t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.t.Context()))
	alive, kill := context.WithCancel(context.WithoutCancel(ctx))
	n, err := open(ctx, Outside{Metadata: w.meta, Objects: w.rec, Listen: w.listen, Life: alive}, cfg, log)
	if err != nil {
		kill()
		cancel()
		return nil, err
	}
	l := &life{node: n, t: w.t, w: w, dir: w.dir, cancel: cancel, kill: kill, ended: make(chan struct{})}
	ready := make(announced)
	go func() {
		l.err = n.run(ctx, ready)
		n.close()
		close(l.ended)
	}()
	w.t.Cleanup(func() { kill(); <-l.ended; cancel() })
	select {
	case <-ready:
		poll(w.t, "groups are loaded", n.groups.Ready)
		return l, nil
	case <-l.ended:
		return nil, l.err
	}
}

// announced is closed by the line that says that the agent is ready.
type announced chan struct{}

func (a announced) Write(p []byte) (int, error) {
	close(a)
	return len(p), nil
}

// stop drains, and wants that to succeed.
func (l *life) stop() {
	l.t.Helper()
	l.cancel()
	<-l.ended
	if l.err != nil {
		l.t.Fatalf("stopping: %v", l.err)
	}
}

// crash leaves the world as a power cut at this moment would: the next life starts on a copy of the folder, taken while
// this one goes on. Then this one is killed.
func (l *life) crash() {
	l.t.Helper()
	next := filepath.Join(l.t.TempDir(), "next")
	if err := os.CopyFS(next, os.DirFS(l.dir)); err != nil {
		l.t.Fatal(err)
	}
	l.w.dir = next
	l.kill()
	<-l.ended
}

// wait polls until ok answers true.
func (l *life) wait(what string, ok func() bool) {
	l.t.Helper()
	poll(l.t, what, ok)
}

func poll(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s for: %s", patience, what)
		}
	}
}

// idle returns when nothing waits for the object store and nothing else is on its way.
func (l *life) idle() {
	l.t.Helper()
	if err := l.buffer.Quiesce(l.t.Context()); err != nil {
		l.t.Fatal(err)
	}
}

// seal merges everything that is not sealed, session by session; segment.ms decides what leaves.
func (l *life) seal() {
	l.t.Helper()
	l.idle()
	for {
		var run []*object.Stored
		for _, o := range l.unseal.Objects() {
			if o.Kind == metadata.WAL && (len(run) == 0 || run[0].Session.Epoch == o.Session.Epoch) {
				run = append(run, o)
			}
		}
		if len(run) == 0 {
			return
		}
		born := run[len(run)-1].Dir.Header.CreatedAt
		l.wait("segment.ms=1 has passed", func() bool { return time.Now().UnixMilli() > born+1 })
		if err := l.sealer.Merge(l.t.Context(), run); err != nil {
			l.t.Fatal(err)
		}
	}
}

// evictAll drops every local copy.
func (l *life) evictAll() {
	l.t.Helper()
	if err := l.evict(); err != nil {
		l.t.Fatal(err)
	}
}

// collect runs the garbage collection until nothing is left to do: rewrites, merges of what is deleted, deletions.
func (l *life) collect() {
	l.t.Helper()
	ctx := l.t.Context()
	if err := l.gc.Rewrite(ctx); err != nil {
		l.t.Fatal(err)
	}
	l.wait("every tombstone is swept", func() bool {
		if err := l.gc.Sweep(ctx); err != nil {
			l.t.Fatal(err)
		}
		inv, err := l.w.meta.Store.Referenced(ctx)
		if err != nil {
			l.t.Fatal(err)
		}
		return len(inv.Tombstones) == 0
	})
}

// held lists the objects of topics in the bucket.
func (w *world) held() []string {
	return slices.DeleteFunc(w.keys(), func(k string) bool { return strings.HasPrefix(k, "incarnation/") })
}

func (l *life) kafka(opts ...kgo.Opt) *kgo.Client {
	l.t.Helper()
	base := []kgo.Opt{kgo.SeedBrokers(l.listeners[0].Addr().String()), kgo.RetryTimeout(patience), kgo.MetadataMinAge(10 * time.Millisecond)}
	c, err := kgo.NewClient(append(base, opts...)...)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(c.Close)
	return c
}

// create makes a topic; configs are names and values in turn.
func (l *life) create(topic string, partitions int32, configs ...string) {
	l.t.Helper()
	set := map[string]*string{}
	for i := 0; i < len(configs); i += 2 {
		set[configs[i]] = &configs[i+1]
	}
	c := l.kafka()
	defer c.Close()
	if _, err := kadm.NewClient(c).CreateTopic(l.t.Context(), partitions, 1, set, topic); err != nil {
		l.t.Fatal(err)
	}
}

// alter sets one config of a topic.
func (l *life) alter(topic, name, value string) {
	l.t.Helper()
	c := l.kafka()
	defer c.Close()
	answers, err := kadm.NewClient(c).AlterTopicConfigs(l.t.Context(), []kadm.AlterConfig{{Name: name, Value: &value}}, topic)
	if err == nil {
		_, err = answers.On(topic, nil)
	}
	if err == nil {
		err = answers[0].Err
	}
	if err != nil {
		l.t.Fatal(err)
	}
}

// conn is one raw connection.
type conn struct {
	t testing.TB
	net.Conn
	sent []kmsg.Request // that no answer has come for
}

func (l *life) dial() *conn {
	l.t.Helper()
	var d net.Dialer
	c, err := d.DialContext(l.t.Context(), "tcp", l.listeners[0].Addr().String())
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { c.Close() })
	return &conn{t: l.t, Conn: c}
}

// send sends a request in a version without waiting for the answer.
func (c *conn) send(version int16, req kmsg.Request) {
	c.t.Helper()
	req.SetVersion(version)
	if p, ok := req.(*kmsg.ProduceRequest); !ok || p.Acks != 0 {
		c.sent = append(c.sent, req)
	}
	f := kmsg.NewRequestFormatter(kmsg.FormatterClientID("test"))
	if _, err := c.Write(f.AppendRequest(nil, req, int32(len(c.sent)))); err != nil {
		c.t.Fatal(err)
	}
}

// receive reads the answer to the oldest request, and holds it to its number.
func (c *conn) receive() kmsg.Response {
	c.t.Helper()
	resp, err := c.tryReceive()
	if err != nil {
		c.t.Fatal(err)
	}
	return resp
}

func (c *conn) tryReceive() (kmsg.Response, error) {
	var head [4]byte
	c.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return nil, fmt.Errorf("reading an answer: %w", err)
	}
	body := make([]byte, binary.BigEndian.Uint32(head[:]))
	if _, err := io.ReadFull(c, body); err != nil {
		return nil, err
	}
	resp := c.sent[0].ResponseKind()
	resp.SetVersion(c.sent[0].GetVersion())
	c.sent = c.sent[1:]
	skip := 4
	if resp.IsFlexible() && resp.Key() != int16(kmsg.ApiVersions) {
		skip++
	}
	if err := resp.ReadFrom(body[skip:]); err != nil {
		return nil, fmt.Errorf("decoding an answer of %T: %w", resp, err)
	}
	return resp, nil
}

func ask[R kmsg.Response](c *conn, version int16, req kmsg.Request) R {
	c.t.Helper()
	c.send(version, req)
	return c.receive().(R)
}

// put is one batch for one partition.
type put struct {
	topic     string
	partition int32
	records   []byte
}

const (
	produceVersion = 12 // the last with names
	fetchVersion   = 12
)

func produceRequest(acks int16, puts ...put) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = acks, int32(patience.Milliseconds())
	for _, p := range puts {
		if n := len(req.Topics); n == 0 || req.Topics[n-1].Topic != p.topic {
			t := kmsg.NewProduceRequestTopic()
			t.Topic = p.topic
			req.Topics = append(req.Topics, t)
		}
		t := &req.Topics[len(req.Topics)-1]
		q := kmsg.NewProduceRequestTopicPartition()
		q.Partition, q.Records = p.partition, p.records
		t.Partitions = append(t.Partitions, q)
	}
	return req
}

// produce sends one batch and answers what came of it.
func (c *conn) produce(acks int16, topic string, partition int32, records []byte) kmsg.ProduceResponseTopicPartition {
	c.t.Helper()
	return ask[*kmsg.ProduceResponse](c, produceVersion, produceRequest(acks, put{topic, partition, records})).Topics[0].Partitions[0]
}

// append wants a batch to be acknowledged, and answers its offset.
func (c *conn) append(acks int16, topic string, partition int32, records []byte) int64 {
	c.t.Helper()
	got := c.produce(acks, topic, partition, records)
	if err := kerr.ErrorForCode(got.ErrorCode); err != nil {
		c.t.Fatalf("produce to %s/%d: %v", topic, partition, err)
	}
	return got.BaseOffset
}

func fetchRequest(topic string, partition int32, offset int64, maxBytes int32) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.SessionEpoch = int32(patience.Milliseconds()), 1, maxBytes, -1
	t := kmsg.NewFetchRequestTopic()
	t.Topic = topic
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.FetchOffset, p.PartitionMaxBytes, p.CurrentLeaderEpoch, p.LastFetchedEpoch = partition, offset, maxBytes, -1, -1
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	return req
}

// fetch answers one partition from an offset on.
func (c *conn) fetch(topic string, partition int32, offset int64, maxBytes int32) kmsg.FetchResponseTopicPartition {
	c.t.Helper()
	return ask[*kmsg.FetchResponse](c, fetchVersion, fetchRequest(topic, partition, offset, maxBytes)).Topics[0].Partitions[0]
}

// read answers all batches from an offset to the high watermark, and holds them to be whole and in order.
func (c *conn) read(topic string, partition int32, from int64) (all []batch.Batch) {
	c.t.Helper()
	for next := from; ; {
		got := c.fetchNow(topic, partition, next)
		if err := kerr.ErrorForCode(got.ErrorCode); err != nil {
			c.t.Fatalf("fetch %s/%d from %d: %v", topic, partition, next, err)
		}
		if got.HighWatermark == next {
			return all
		}
		for rest := got.RecordBatches; len(rest) > 0; {
			b, after, err := batch.Parse(rest)
			if err == nil {
				err = b.Verify()
			}
			if err != nil {
				c.t.Fatalf("fetch %s/%d from %d: %v", topic, partition, next, err)
			}
			if b.Base() != next && !(len(all) == 0 && b.Base() < next) {
				c.t.Fatalf("fetch %s/%d: a batch at %d, want %d", topic, partition, b.Base(), next)
			}
			all, next, rest = append(all, b), b.End(), after
		}
	}
}

// fetchNow is a fetch that does not wait for records.
func (c *conn) fetchNow(topic string, partition int32, offset int64) kmsg.FetchResponseTopicPartition {
	c.t.Helper()
	req := fetchRequest(topic, partition, offset, 1<<20)
	req.MinBytes, req.MaxWaitMillis = 0, 0
	return ask[*kmsg.FetchResponse](c, fetchVersion, req).Topics[0].Partitions[0]
}

// wantSame holds what is read to what was sent, byte for byte but for offset and leader epoch.
func wantSame(t testing.TB, got []batch.Batch, want ...[]byte) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("got %d batches, want %d", len(got), len(want))
	}
	for i, b := range got {
		if !bytes.Equal(b[8:12], want[i][8:12]) || !bytes.Equal(b[16:], want[i][16:]) {
			t.Fatalf("batch %d at offset %d is not what was sent", i, b.Base())
		}
	}
}

// offset asks for one of a partition's offsets, by a time or a special one; -1 where there is none.
func (c *conn) offset(topic string, partition int32, millis int64) kmsg.ListOffsetsResponseTopicPartition {
	c.t.Helper()
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	t := kmsg.NewListOffsetsRequestTopic()
	t.Topic = topic
	p := kmsg.NewListOffsetsRequestTopicPartition()
	p.Partition, p.Timestamp, p.CurrentLeaderEpoch = partition, millis, -1
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	got := ask[*kmsg.ListOffsetsResponse](c, 11, req).Topics[0].Partitions[0]
	if err := kerr.ErrorForCode(got.ErrorCode); err != nil {
		c.t.Fatalf("offset of %s/%d at %d: %v", topic, partition, millis, err)
	}
	return got
}

func wantCode(t testing.TB, what string, got int16, want *kerr.Error) {
	t.Helper()
	if want == nil && got != 0 || want != nil && got != want.Code {
		t.Errorf("%s: got %v, want %v", what, kerr.ErrorForCode(got), want)
	}
}

// options of a batch that a test makes.
type options struct {
	id         int64 // producer id; 0: none
	epoch      int16
	sequence   int32
	times      []int64 // of the records, in milliseconds; none: an hour and more ago, so that directories have one length
	attributes int16
}

// records makes one batch of values, as a producer would.
func records(o options, values ...string) []byte {
	rb := kmsg.RecordBatch{Magic: 2, PartitionLeaderEpoch: -1, ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1,
		LastOffsetDelta: int32(len(values) - 1), NumRecords: int32(len(values)), Attributes: o.attributes}
	if o.id > 0 {
		rb.ProducerID, rb.ProducerEpoch, rb.FirstSequence = o.id, o.epoch, o.sequence
	}
	if o.times == nil {
		o.times = slices.Repeat([]int64{time.Now().Add(-time.Hour).Truncate(time.Hour).UnixMilli()}, len(values))
	}
	rb.FirstTimestamp, rb.MaxTimestamp = o.times[0], slices.Max(o.times)
	for i, v := range values {
		r := kmsg.Record{TimestampDelta64: o.times[i] - o.times[0], OffsetDelta: int32(i), Value: []byte(v)}
		body := r.AppendTo(nil)[1:] // without the length, which is 0 here
		rb.Records = binary.AppendVarint(rb.Records, int64(len(body)))
		rb.Records = append(rb.Records, body...)
	}
	raw := rb.AppendTo(nil)
	binary.BigEndian.PutUint32(raw[8:], uint32(len(raw)-12))
	binary.BigEndian.PutUint32(raw[17:], crc(raw[21:]))
	return raw
}

func crc(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// filler makes a batch of about size bytes that no codec would shrink.
func filler(size int, seed uint64) []byte {
	v := make([]byte, size)
	for i := range v {
		seed = seed*6364136223846793005 + 1442695040888963407
		v[i] = byte(seed >> 56)
	}
	return records(options{}, string(v))
}

// fallible is a metadata store that can be away. What it refuses is surely not done.
type fallible struct {
	metadata.Store
	away atomic.Bool
	lose atomic.Int32 // replies of commits that are lost after they were executed
	// stopTakes is how long the reply to the end of a session is on its way.
	stopTakes time.Duration
}

func (f *fallible) gone() error {
	if f.away.Load() {
		return fmt.Errorf("%w: away", metadata.ErrUnavailable)
	}
	return nil
}

func (f *fallible) Commit(ctx context.Context, s metadata.Session, c metadata.Commit) error {
	if err := f.gone(); err != nil {
		return err
	}
	err := f.Store.Commit(ctx, s, c)
	if err == nil && f.lose.Add(-1) >= 0 {
		return metadata.ErrUnknown
	}
	return err
}

func (f *fallible) Settle(ctx context.Context, s metadata.Session, from, to int64) (int64, error) {
	if err := f.gone(); err != nil {
		return 0, err
	}
	return f.Store.Settle(ctx, s, from, to)
}

func (f *fallible) Beat(ctx context.Context, s metadata.Session, synced int64) error {
	if err := f.gone(); err != nil {
		return err
	}
	return f.Store.Beat(ctx, s, synced)
}

func (f *fallible) Catalog(ctx context.Context, known int64) (metadata.Catalog, error) {
	if err := f.gone(); err != nil {
		return metadata.Catalog{}, err
	}
	return f.Store.Catalog(ctx, known)
}

func (f *fallible) Find(ctx context.Context, p metadata.PartitionID, offset int64, limit int) ([]metadata.Segment, error) {
	if err := f.gone(); err != nil {
		return nil, err
	}
	return f.Store.Find(ctx, p, offset, limit)
}

func (f *fallible) Stop(ctx context.Context, s metadata.Session) error {
	err := f.Store.Stop(ctx, s)
	time.Sleep(f.stopTakes) // virtual
	return err
}

func (f *fallible) Write(ctx context.Context, s metadata.Session, gw metadata.GroupWrite) ([]int32, error) {
	if err := f.gone(); err != nil {
		return nil, err
	}
	return f.Store.Write(ctx, s, gw)
}

func (f *fallible) ProducerIDs(ctx context.Context, n int64) (int64, error) {
	if err := f.gone(); err != nil {
		return 0, err
	}
	return f.Store.ProducerIDs(ctx, n)
}

// plainKey replaces what is random in an object's key.
func plainKey(key string) string {
	parts := strings.Split(key, "/")
	if len(parts) == 4 {
		return parts[0] + "/" + parts[3]
	}
	return key
}

// ledger is every request to either store, in order. One that runs while another begins would tear a line: tests that
// read it do one thing at a time.
type ledger struct {
	mu    sync.Mutex
	rec   *objectstore.Recorder
	lines []string
}

func (g *ledger) sql(statement string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lines = append(append(g.lines, g.rec.Take()...), "sql "+strings.Join(strings.Fields(statement), " "))
}

// take answers what was asked since the last take.
func (g *ledger) take() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	lines := append(g.lines, g.rec.Take()...)
	g.lines = nil
	return lines
}
