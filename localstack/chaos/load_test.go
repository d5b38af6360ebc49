package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/localstack/chaos/kcheck"
)

// topic is one life of a topic of the load.
type topic struct {
	name       string // as the broker knows it
	life       string // as the history knows it
	partitions int32
	id         [16]byte
	local      bool
}

func (t *topic) log(partition int32) kcheck.Log {
	return kcheck.Log{Topic: t.life, Partition: partition}
}

// load is one generation of topics, what works on them, and what was seen. Its clients outlive the agent's deaths.
type load struct {
	number uint64
	seed   uint64
	addr   string
	rec    *kcheck.Recorder
	admin  *kadm.Client
	topics map[string]*topic // by life

	object, local, one, trimmed, retained *topic

	producers int // numbers given out
	churned   int
	workers   []func(ctx context.Context, rng *rand.Rand) error
	clients   []*kgo.Client
	agent     atomic.Pointer[process] // the newest, for its http address

	mu     sync.Mutex
	failed []error
}

// client options that make restarts quick.
func (l *load) client(opts ...kgo.Opt) (*kgo.Client, error) {
	cl, err := newClient(l.addr, opts...)
	if err == nil {
		l.clients = append(l.clients, cl)
	}
	return cl, err
}

func newClient(addr string, opts ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(addr), kgo.MetadataMinAge(20 * time.Millisecond), kgo.DialTimeout(2 * time.Second),
		kgo.RetryBackoffFn(func(int) time.Duration { return 30 * time.Millisecond }), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.UnknownTopicRetries(-1), kgo.AlwaysRetryEOF()}, opts...)...)
}

// newIdle is a load that nobody works on.
func newIdle(addr string, number, seed uint64) (*load, error) {
	l := &load{number: number, seed: seed, addr: addr, rec: kcheck.NewRecorder(), topics: map[string]*topic{}}
	cl, err := l.client(kgo.RequestRetries(3))
	if err != nil {
		return nil, err
	}
	l.admin = kadm.NewClient(cl)
	return l, nil
}

// newLoad creates the topics and clients of one generation.
func newLoad(ctx context.Context, addr string, number, seed uint64) (l *load, err error) {
	if l, err = newIdle(addr, number, seed); err != nil {
		return nil, err
	}
	for _, t := range []struct {
		at         **topic
		name       string
		partitions int32
		configs    map[string]string
	}{
		{&l.object, "object", 3, nil},
		{&l.local, "local", 2, map[string]string{"varve.durability": "local"}},
		{&l.one, "one", 2, nil},
		{&l.trimmed, "trimmed", 1, nil},
		// So short that batches are retried that are deleted already.
		{&l.retained, "retained", 1, map[string]string{"retention.ms": "200", "segment.ms": "100"}},
	} {
		if *t.at, err = l.create(ctx, fmt.Sprintf("%s-%d", t.name, number), fmt.Sprintf("%s-%d", t.name, number), t.partitions, t.configs); err != nil {
			return nil, err
		}
	}
	l.local.local = true
	l.rec.Retained(l.retained.life)
	return l, l.employ()
}

func (l *load) close() {
	for _, cl := range l.clients {
		cl.Close()
	}
}

// create makes a topic, however often the agent dies meanwhile.
func (l *load) create(ctx context.Context, name, life string, partitions int32, configs map[string]string) (*topic, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	values := map[string]*string{}
	for k, v := range configs {
		values[k] = &v
	}
	for {
		_, err := l.admin.CreateTopic(ctx, partitions, 1, values, name)
		if err == nil || errors.Is(err, kerr.TopicAlreadyExists) {
			var meta kadm.Metadata
			if meta, err = l.admin.Metadata(ctx, name); err == nil {
				if err = meta.Topics[name].Err; err == nil {
					t := &topic{name: name, life: life, partitions: partitions, id: meta.Topics[name].ID}
					l.topics[life] = t
					return t, nil
				}
			}
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("create topic %s: %w", name, err)
		}
		pause(ctx, 20*time.Millisecond)
	}
}

// remove deletes a topic, however often the agent dies meanwhile.
func (l *load) remove(ctx context.Context, t *topic) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		_, err := l.admin.DeleteTopic(ctx, t.name)
		if err == nil || errors.Is(err, kerr.UnknownTopicOrPartition) {
			delete(l.topics, t.life)
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("delete topic %s: %w", t.name, err)
		}
		pause(ctx, 20*time.Millisecond)
	}
}

// fail notes what no crash excuses.
func (l *load) fail(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.failed) < 20 {
		l.failed = append(l.failed, fmt.Errorf(format, args...))
	}
}

func (l *load) failures() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(l.failed...)
}

// employ makes everybody who works in each round.
func (l *load) employ() error {
	rng := rand.New(rand.NewPCG(l.seed, 99))
	codecs := []kgo.CompressionCodec{kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression()}
	kinds := []struct {
		topic *topic
		opts  []kgo.Opt
		p     producer
	}{
		{l.object, nil, producer{acks: -1, once: true, ordered: true, burst: 40, size: 300}},
		{l.object, []kgo.Opt{kgo.ProducerLinger(5 * time.Millisecond)}, producer{acks: -1, once: true, ordered: true, burst: 3, size: 60_000}},
		{l.object, []kgo.Opt{kgo.AllowIdempotentProduceCancellation(), kgo.RecordDeliveryTimeout(time.Second), kgo.ProduceRequestTimeout(100 * time.Millisecond)},
			producer{acks: -1, once: true, mayFail: true, burst: 5, size: 500}},
		{l.local, nil, producer{acks: -1, once: true, ordered: true, burst: 30, size: 1000}},
		{l.local, []kgo.Opt{kgo.RequiredAcks(kgo.LeaderAck()), kgo.DisableIdempotentWrite()}, producer{acks: 1, burst: 10, size: 2000}},
		{l.one, []kgo.Opt{kgo.RequiredAcks(kgo.LeaderAck()), kgo.DisableIdempotentWrite()}, producer{acks: 1, provisional: true, burst: 20, size: 800}},
		{l.one, []kgo.Opt{kgo.RequiredAcks(kgo.NoAck()), kgo.DisableIdempotentWrite()}, producer{acks: 0, mayFail: true, burst: 4, size: 100}},
		{l.trimmed, nil, producer{acks: -1, once: true, ordered: true, burst: 10, size: 400}},
		{l.retained, nil, producer{acks: -1, once: true, ordered: true, burst: 10, size: 400}},
	}
	for _, k := range kinds {
		codec := codecs[rng.IntN(len(codecs))]
		cl, err := l.client(append([]kgo.Opt{kgo.ProducerBatchCompression(codec), kgo.MaxBufferedRecords(256), kgo.StopProducerOnDataLossDetected()}, k.opts...)...)
		if err != nil {
			return err
		}
		p := k.p
		p.number, p.client, p.topic = l.nextProducer(), cl, k.topic
		l.workers = append(l.workers, func(ctx context.Context, rng *rand.Rand) error { return l.produce(ctx, &p, rng) })
	}
	for _, make := range []func() (func(context.Context, *rand.Rand) error, error){l.rawProducer, l.follower, l.member, l.member, l.clerk, l.trimmer, l.churn} {
		w, err := make()
		if err != nil {
			return err
		}
		l.workers = append(l.workers, w)
	}
	l.workers = append(l.workers, l.look, l.evict)
	return nil
}

func (l *load) nextProducer() int {
	l.producers++
	return l.producers
}

// work runs everybody until stop ends, and waits for what is on its way.
func (l *load) work(ctx, stop context.Context, round int) error {
	var wg sync.WaitGroup
	for i, w := range l.workers {
		rng := rand.New(rand.NewPCG(l.seed+uint64(round)<<32, uint64(i)))
		wg.Go(func() {
			if err := w(stop, rng); err != nil {
				l.fail("%w", err)
			}
		})
	}
	wg.Wait()
	for _, cl := range l.clients {
		flush, cancel := context.WithTimeout(ctx, patience)
		err := cl.Flush(flush)
		cancel()
		if err != nil {
			return fmt.Errorf("records are still unanswered %s after the agent came back: %w", patience, err)
		}
	}
	return l.failures()
}

// producer is one client that produces.
type producer struct {
	number                              int
	client                              *kgo.Client
	topic                               *topic
	acks                                int16
	provisional, once, ordered, mayFail bool
	burst, size                         int
	sent                                uint64
}

func (l *load) newID(p *producer) uint64 {
	p.sent++
	return l.number<<48 | uint64(p.number)<<40 | p.sent
}

// next is a record of one of the sizes that matter: mostly small, now and then close to what a batch may hold.
func (l *load) next(p *producer, rng *rand.Rand) *kgo.Record {
	size := rng.IntN(p.size)
	if rng.IntN(200) == 0 {
		size = 500_000
	}
	partition := rng.Int32N(p.topic.partitions)
	id := l.newID(p)
	log := p.topic.log(partition)
	l.rec.Send(kcheck.Send{ID: id, Producer: p.number, Log: log, Acks: p.acks, Provisional: p.provisional, Once: p.once, Ordered: p.ordered})
	return newRecord(log, p.topic.name, id, size)
}

func (l *load) produce(ctx context.Context, p *producer, rng *rand.Rand) error {
	for ctx.Err() == nil {
		for range 1 + rng.IntN(p.burst) {
			r := l.next(p, rng)
			id, _ := judge(r)
			p.client.Produce(context.Background(), r, func(r *kgo.Record, err error) {
				switch {
				case err == nil && p.acks != 0:
					l.rec.Sent(id, kcheck.OK, r.Offset)
				case err == nil:
					l.rec.Sent(id, kcheck.OK, -1)
				default:
					l.rec.Sent(id, kcheck.Unknown, -1)
					if !p.mayFail {
						l.fail("producer %d gave up a record of %s: %w", p.number, p.topic.life, err)
					}
				}
			})
		}
		pause(ctx, time.Duration(rng.IntN(20))*time.Millisecond)
	}
	return nil
}

// rawProducer sends single requests and takes every answer at its word: what is refused must never be there.
func (l *load) rawProducer() (func(context.Context, *rand.Rand) error, error) {
	by := map[int16]*kgo.Client{}
	for _, acks := range []int16{-1, 1} {
		cl, err := l.client(rawOptions(acks)...)
		if err != nil {
			return nil, err
		}
		by[acks] = cl
	}
	producers := map[*topic]*producer{}
	for _, t := range []*topic{l.object, l.local} {
		producers[t] = &producer{number: l.nextProducer(), topic: t, once: true, size: 500}
	}
	return func(ctx context.Context, rng *rand.Rand) error {
		for ctx.Err() == nil {
			p := producers[[]*topic{l.object, l.local}[rng.IntN(2)]]
			p.acks = []int16{-1, -1, 1}[rng.IntN(3)]
			p.provisional = p.acks == 1 && !p.topic.local
			if !l.raw(by[p.acks], p, rng) {
				pause(ctx, 20*time.Millisecond)
			}
			pause(ctx, time.Duration(rng.IntN(10))*time.Millisecond)
		}
		return nil
	}, nil
}

// raw sends one batch, now and then a wrong one, and answers whether the agent did.
func (l *load) raw(cl *kgo.Client, p *producer, rng *rand.Rand) bool {
	first := l.next(p, rng)
	records := []*kgo.Record{first}
	for range rng.IntN(4) {
		r := l.next(p, rng)
		if r.Partition != first.Partition { // one batch, one partition
			id, _ := judge(r)
			l.rec.Sent(id, kcheck.Failed, -1)
			continue
		}
		records = append(records, r)
	}
	raw := rawBatch(identity{}, records...)
	wrong := rng.IntN(6)
	switch wrong {
	case 0:
		raw[len(raw)-1] ^= 1 // the CRC does not match
	case 1:
		raw = rawBatch(identity{id: 1 << 40, epoch: 0, seq: 0}, records...)
		raw[16] = 1 // magic
	case 2:
		raw = append(raw, raw...) // two batches
	}
	code, err := l.put(cl, p, []int32{1, 10_000}[rng.IntN(2)], raw, records)
	if err == nil && wrong <= 2 && outcomeOf(code) != kcheck.Failed {
		l.fail("a wrong batch (%d) was answered with code %d", wrong, code)
	}
	return err == nil
}

// rawOptions are those of a client whose produce requests go out with these acks: it writes its own into each.
func rawOptions(acks int16) []kgo.Opt {
	opts := []kgo.Opt{kgo.RequestRetries(0)}
	if acks == 1 {
		opts = append(opts, kgo.RequiredAcks(kgo.LeaderAck()), kgo.DisableIdempotentWrite())
	}
	return opts
}

// put sends one batch to one partition and notes what is answered. The client must have rawOptions of the producer's acks.
func (l *load) put(cl *kgo.Client, p *producer, timeoutMillis int32, raw []byte, records []*kgo.Record) (code int16, err error) {
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = p.acks, timeoutMillis
	t := kmsg.NewProduceRequestTopic()
	t.Topic, t.TopicID = p.topic.name, p.topic.id
	q := kmsg.NewProduceRequestTopicPartition()
	q.Partition, q.Records = records[0].Partition, raw
	t.Partitions = append(t.Partitions, q)
	req.Topics = append(req.Topics, t)
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	answer, err := cl.Broker(1).Request(ctx, req)
	if req.Acks != p.acks {
		err = fmt.Errorf("the client sent acks=%d, want %d", req.Acks, p.acks)
		l.fail("%w", err)
		return 0, err
	}
	outcome, base := kcheck.Unknown, int64(-1)
	if err == nil {
		got := answer.(*kmsg.ProduceResponse).Topics[0].Partitions[0]
		code, base = got.ErrorCode, got.BaseOffset
		outcome = outcomeOf(code)
	}
	for i, r := range records {
		id, _ := judge(r)
		if outcome == kcheck.OK {
			l.rec.Sent(id, outcome, base+int64(i))
		} else {
			l.rec.Sent(id, outcome, -1)
		}
	}
	return code, err
}

// outcomeOf reads an error code as the contract has it: only these leave open what happened.
func outcomeOf(code int16) kcheck.Outcome {
	switch kerr.ErrorForCode(code) {
	case nil:
		return kcheck.OK
	case kerr.RequestTimedOut, kerr.NotEnoughReplicasAfterAppend, kerr.KafkaStorageError, kerr.UnknownServerError:
		return kcheck.Unknown
	}
	return kcheck.Failed
}

// follower reads everything as it comes, through every restart.
func (l *load) follower() (func(context.Context, *rand.Rand) error, error) {
	from := map[string]map[int32]kgo.Offset{}
	readers := map[kcheck.Log]int{}
	byName := map[string]*topic{}
	for _, t := range []*topic{l.object, l.local, l.one, l.trimmed, l.retained} {
		from[t.name], byName[t.name] = map[int32]kgo.Offset{}, t
		for p := range t.partitions {
			from[t.name][p] = kgo.NewOffset().AtStart()
			readers[t.log(p)] = l.rec.Reader()
		}
	}
	cl, err := l.client(kgo.ConsumePartitions(from), kgo.FetchMaxWait(500*time.Millisecond), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, rng *rand.Rand) error {
		for ctx.Err() == nil {
			fetches := cl.PollRecords(ctx, 1+rng.IntN(5000))
			l.fetchErrors(fetches, byName)
			l.rec.Read(reads(fetches, byName, func(log kcheck.Log) int { return readers[log] })...)
		}
		return nil
	}, nil
}

func reads(fetches kgo.Fetches, byName map[string]*topic, reader func(kcheck.Log) int) (out []kcheck.Read) {
	fetches.EachRecord(func(r *kgo.Record) {
		log := byName[r.Topic].log(r.Partition)
		id, damage := judge(r)
		out = append(out, kcheck.Read{Reader: reader(log), Log: log, Offset: r.Offset, Epoch: r.LeaderEpoch, ID: id, Damage: damage})
	})
	return out
}

// fetchErrors: the agent may be away, but it may never tell a reader that what it has read is gone.
func (l *load) fetchErrors(fetches kgo.Fetches, byName map[string]*topic) {
	fetches.EachError(func(name string, partition int32, err error) {
		var loss *kgo.ErrDataLoss
		if errors.As(err, &loss) && name != l.trimmed.name && name != l.retained.name {
			l.fail("a reader of %s/%d was told of lost data: %w", name, partition, err)
		}
	})
}

// member is one of a group that commits what it has read.
func (l *load) member() (func(context.Context, *rand.Rand) error, error) {
	byName := map[string]*topic{l.object.name: l.object, l.local.name: l.local}
	group := l.group("live")
	return func(ctx context.Context, rng *rand.Rand) error {
		// A new member each round: joins and leaves are part of the load.
		var mu sync.Mutex
		readers := map[kcheck.Log]int{}
		cl, err := newClient(l.addr, kgo.ConsumerGroup(group), kgo.ConsumeTopics(l.object.name, l.local.name), kgo.DisableAutoCommit(),
			kgo.BlockRebalanceOnPoll(), kgo.SessionTimeout(6*time.Second), kgo.HeartbeatInterval(100*time.Millisecond), kgo.FetchMaxWait(200*time.Millisecond),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
			kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, got map[string][]int32) {
				mu.Lock()
				defer mu.Unlock()
				for name, ps := range got {
					for _, p := range ps {
						readers[byName[name].log(p)] = l.rec.Reader()
					}
				}
			}))
		if err != nil {
			return err
		}
		defer cl.CloseAllowingRebalance()
		for ctx.Err() == nil {
			fetches := cl.PollRecords(ctx, 1000)
			mu.Lock()
			l.rec.Read(reads(fetches, byName, func(log kcheck.Log) int { return readers[log] })...)
			mu.Unlock()
			l.commit(ctx, cl, group, byName)
			cl.AllowRebalance()
		}
		return nil
	}, nil
}

func (l *load) group(name string) string { return fmt.Sprintf("%s-%d", name, l.number) }

// commit commits what was polled.
func (l *load) commit(ctx context.Context, cl *kgo.Client, group string, byName map[string]*topic) {
	offsets := cl.UncommittedOffsets()
	ended := map[string]map[int32]func(kcheck.Outcome){}
	for name, ps := range offsets {
		ended[name] = map[int32]func(kcheck.Outcome){}
		for p, at := range ps {
			ended[name][p] = l.rec.Commit(group, byName[name].log(p), at.Offset)
		}
	}
	if len(ended) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	cl.CommitOffsetsSync(ctx, offsets, func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
		if err != nil {
			return // unknown, as they began
		}
		for _, t := range resp.Topics {
			for _, p := range t.Partitions {
				if f := ended[t.Topic][p.Partition]; f != nil {
					f(commitOutcome(p.ErrorCode))
				}
			}
		}
	})
}

func commitOutcome(code int16) kcheck.Outcome {
	switch kerr.ErrorForCode(code) {
	case nil:
		return kcheck.OK
	case kerr.IllegalGeneration, kerr.UnknownMemberID, kerr.RebalanceInProgress, kerr.NotCoordinator, kerr.CoordinatorLoadInProgress:
		return kcheck.Failed
	}
	return kcheck.Unknown
}

// clerk commits offsets without being a member, and looks at those of both groups.
func (l *load) clerk() (func(context.Context, *rand.Rand) error, error) {
	next := int64(0)
	group := l.group("clerk")
	return func(ctx context.Context, rng *rand.Rand) error {
		for ctx.Err() == nil {
			next++
			ended := map[int32]func(kcheck.Outcome){}
			var offsets kadm.Offsets
			for p := range l.object.partitions {
				offsets.AddOffset(l.object.name, p, next, -1)
				ended[p] = l.rec.Commit(group, l.object.log(p), next)
			}
			call, cancel := context.WithTimeout(context.Background(), 3*time.Second)
			resp, err := l.admin.CommitOffsets(call, group, offsets)
			cancel()
			if err == nil {
				resp.Each(func(r kadm.OffsetResponse) {
					if r.Err == nil {
						ended[r.Partition](kcheck.OK)
					}
				})
			}
			l.fetched(group, l.object)
			l.fetched(l.group("live"), l.object, l.local)
			pause(ctx, time.Duration(rng.IntN(40))*time.Millisecond)
		}
		return nil
	}, nil
}

// fetched looks at a group's offsets.
func (l *load) fetched(group string, topics ...*topic) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	var names []string
	for _, t := range topics {
		names = append(names, t.name)
	}
	begun := l.rec.Now()
	resp, err := l.admin.FetchOffsetsForTopics(ctx, group, names...)
	if err != nil {
		return
	}
	for _, t := range topics {
		for p := range t.partitions {
			if r, ok := resp.Lookup(t.name, p); ok && r.Err == nil {
				l.rec.Fetched(kcheck.Fetched{Group: group, Log: t.log(p), Offset: r.At, Begun: begun})
			}
		}
	}
}

// trimmer deletes records.
func (l *load) trimmer() (func(context.Context, *rand.Rand) error, error) {
	before := int64(0)
	log := l.trimmed.log(0)
	return func(ctx context.Context, rng *rand.Rand) error {
		for ctx.Err() == nil {
			pause(ctx, time.Duration(rng.IntN(200))*time.Millisecond)
			_, end, ok := l.bounds(l.trimmed, 0)
			if !ok || end <= before {
				continue
			}
			before += rng.Int64N(end-before) / 2
			ended := l.rec.Trim(log, before)
			var offsets kadm.Offsets
			offsets.AddOffset(l.trimmed.name, 0, before, -1)
			call, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			resp, err := l.admin.DeleteRecords(call, offsets)
			cancel()
			if r, found := resp.Lookup(l.trimmed.name, 0); err == nil && found && r.Err == nil {
				ended(kcheck.OK)
				if r.LowWatermark < before {
					l.fail("records before %d were deleted, the answer says %d", before, r.LowWatermark)
				}
			}
		}
		return nil
	}, nil
}

// bounds looks at a partition's log start and high watermark.
func (l *load) bounds(t *topic, partition int32) (start, end int64, ok bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	begun := l.rec.Now()
	ends, err := l.admin.ListEndOffsets(ctx, t.name)
	if err != nil {
		return 0, 0, false
	}
	starts, err := l.admin.ListStartOffsets(ctx, t.name)
	if err != nil {
		return 0, 0, false
	}
	e, ok1 := ends.Lookup(t.name, partition)
	s, ok2 := starts.Lookup(t.name, partition)
	if !ok1 || !ok2 || e.Err != nil || s.Err != nil {
		return 0, 0, false
	}
	l.rec.Bounds(kcheck.Bounds{Log: t.log(partition), Start: s.Offset, End: e.Offset, Begun: begun})
	return s.Offset, e.Offset, true
}

// look watches bounds.
func (l *load) look(ctx context.Context, rng *rand.Rand) error {
	topics := []*topic{l.object, l.local, l.one, l.trimmed, l.retained}
	for ctx.Err() == nil {
		t := topics[rng.IntN(len(topics))]
		l.bounds(t, rng.Int32N(t.partitions))
		pause(ctx, time.Duration(rng.IntN(30))*time.Millisecond)
	}
	return nil
}

// evict drops every local copy now and then.
func (l *load) evict(ctx context.Context, rng *rand.Rand) error {
	for ctx.Err() == nil {
		pause(ctx, time.Duration(rng.IntN(800))*time.Millisecond)
		if p := l.agent.Load(); p != nil {
			call, cancel := context.WithTimeout(ctx, 5*time.Second)
			_, _ = p.call(call, "POST", "/debug/evict") // it may be dead
			cancel()
		}
	}
	return nil
}

// churn makes topics, fills them, reads them and deletes them, under names that come again.
func (l *load) churn() (func(context.Context, *rand.Rand) error, error) {
	return func(ctx context.Context, rng *rand.Rand) error {
		for ctx.Err() == nil {
			l.churned++
			name := fmt.Sprintf("churn-%d", rng.IntN(2))
			t, err := l.create(context.WithoutCancel(ctx), name, fmt.Sprintf("%s-%d#%d", name, l.number, l.churned), 1+rng.Int32N(4), nil)
			if err != nil {
				return err
			}
			if err := l.oneLife(ctx, t, rng); err != nil {
				return err
			}
			pause(ctx, time.Duration(rng.IntN(100))*time.Millisecond)
		}
		return nil
	}, nil
}

func (l *load) oneLife(ctx context.Context, t *topic, rng *rand.Rand) error {
	cl, err := newClient(l.addr)
	if err != nil {
		return err
	}
	defer cl.Close()
	p := &producer{number: l.nextProducer(), client: cl, topic: t, acks: -1, once: true, ordered: true, burst: 20, size: 300}
	busy, cancel := context.WithTimeout(ctx, time.Duration(rng.IntN(300))*time.Millisecond)
	err = l.produce(busy, p, rng)
	cancel()
	if err != nil {
		return err
	}
	flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	if err := cl.Flush(flush); err != nil {
		return fmt.Errorf("flush %s: %w", t.life, err)
	}
	if rng.IntN(2) == 0 {
		if err := l.scan(flush, []*topic{t}, rng); err != nil {
			return err
		}
	}
	return l.remove(context.WithoutCancel(ctx), t)
}

// scan reads topics from their start to the end that they have now.
func (l *load) scan(ctx context.Context, topics []*topic, rng *rand.Rand) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	open := map[kcheck.Log]*scanning{}
	from, byName := map[string]map[int32]kgo.Offset{}, map[string]*topic{}
	for _, t := range topics {
		from[t.name], byName[t.name] = map[int32]kgo.Offset{}, t
		for p := range t.partitions {
			var s scanning
			s.Log, s.Reader, s.Begun = t.log(p), l.rec.Reader(), l.rec.Now()
			acked := l.rec.Acknowledged(s.Log)
			for ok := false; !ok || s.End < acked; _, s.End, ok = l.bounds(t, p) {
				// What acks=1 has acknowledged shows when it is committed.
				if ctx.Err() != nil {
					return fmt.Errorf("%s: high watermark %d, acknowledged are %d: %w", s.Log, s.End, acked, ctx.Err())
				}
				pause(ctx, time.Millisecond)
			}
			open[s.Log], from[t.name][p] = &s, kgo.NewOffset().AtStart()
		}
	}
	sizes := []int32{1 << 10, 64 << 10, 1 << 20}
	cl, err := newClient(l.addr, kgo.ConsumePartitions(from), kgo.FetchMaxPartitionBytes(sizes[rng.IntN(3)]), kgo.FetchMaxWait(100*time.Millisecond),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return err
	}
	defer cl.Close()
	var last error
	for len(open) > 0 {
		if ctx.Err() != nil {
			return fmt.Errorf("%d partitions could not be read to their end, such as %v: %w", len(open), first(open), last)
		}
		poll, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		fetches := cl.PollFetches(poll)
		cancel()
		l.fetchErrors(fetches, byName)
		fetches.EachError(func(t string, p int32, err error) { last = fmt.Errorf("%s/%d: %w", t, p, err) })
		got := slices.DeleteFunc(reads(fetches, byName, func(log kcheck.Log) int {
			if s := open[log]; s != nil {
				return s.Reader
			}
			return 0
		}), func(r kcheck.Read) bool { return r.Reader == 0 }) // beyond the end of a scan that is over
		l.rec.Read(got...)
		for _, r := range got {
			open[r.Log].next = r.Offset + 1
		}
		for log, s := range open {
			if s.next < s.End && len(got) > 0 {
				continue
			}
			if start, _, ok := l.bounds(byName[l.topics[log.Topic].name], log.Partition); ok && max(start, s.next) >= s.End {
				s.Start = start
				l.rec.Scan(s.Scan)
				delete(open, log)
			}
		}
	}
	return nil
}

type scanning struct {
	kcheck.Scan
	next int64
}

func first(open map[kcheck.Log]*scanning) string {
	for log, s := range open {
		return fmt.Sprintf("%s: read up to %d of %d", log, s.next, s.End)
	}
	return "none"
}

// judge reads everything back and holds it against what was acknowledged.
func (l *load) judge(ctx context.Context, t *testing.T, rng *rand.Rand, what string) bool {
	t.Helper()
	if err := l.scan(ctx, []*topic{l.object, l.local, l.one, l.trimmed, l.retained}, rng); err != nil {
		t.Errorf("%s: %v", what, err)
		return false
	}
	l.fetched(l.group("clerk"), l.object)
	l.fetched(l.group("live"), l.object, l.local)
	found := l.rec.Check()
	for i, a := range found {
		if i == 20 {
			t.Errorf("%s: and %d more", what, len(found)-i)
			break
		}
		t.Errorf("%s: %s", what, a)
	}
	return len(found) == 0
}

// deleteAll ends the generation.
func (l *load) deleteAll(ctx context.Context) error {
	for _, t := range []*topic{l.object, l.local, l.one, l.trimmed, l.retained} {
		if err := l.remove(ctx, t); err != nil {
			return err
		}
	}
	return nil
}
