package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"varve.dev/localstack/chaos/kcheck"
	"varve.dev/tiering/seal"
)

// topic is one life of a topic.
type topic struct {
	name       string // as the broker knows it
	life       string // as the history knows it
	partitions int32
	local      bool
	large      bool // it takes batches that fill a segment
}

func (t *topic) log(partition int32) kcheck.Log {
	return kcheck.Log{Topic: t.life, Partition: partition}
}

// worker works until ctx ends.
type worker func(ctx context.Context, rng *rand.Rand)

// load is everybody who works on the agent, and what they saw.
type load struct {
	w     *world
	rec   *kcheck.Recorder
	admin *kadm.Client

	object, local, one, trimmed, retained *topic

	mu        sync.Mutex
	producers int
	sent      uint64
	ids       map[int64]bool // producer ids that were given out
	clients   []*kgo.Client
	live      map[string]*topic // churned topics that exist, by life
}

func (l *load) all() []*topic { return []*topic{l.object, l.local, l.one, l.trimmed, l.retained} }

func newLoad(w *world) (*load, error) {
	l := &load{w: w, rec: kcheck.NewRecorder(), ids: map[int64]bool{}, live: map[string]*topic{}}
	cl, err := l.client(kgo.RequestRetries(3))
	if err != nil {
		return nil, err
	}
	l.admin = kadm.NewClient(cl)
	return l, nil
}

// begin creates the topics.
func (l *load) begin(ctx context.Context) error {
	for _, t := range []struct {
		at         **topic
		name       string
		partitions int32
		configs    map[string]string
	}{
		{&l.object, "object", 2, nil},
		{&l.local, "local", 2, map[string]string{"varve.durability": "local"}},
		{&l.one, "one", 1, map[string]string{"segment.ms": "5000"}},
		{&l.trimmed, "trimmed", 1, nil},
		{&l.retained, "retained", 2, map[string]string{"retention.ms": "15000", "segment.ms": "1000"}},
	} {
		made, err := l.create(ctx, t.name, t.name, t.partitions, t.configs)
		if err != nil {
			return err
		}
		*t.at = made
	}
	l.local.local = true
	l.rec.Retained(l.retained.life)
	return nil
}

func (l *load) client(opts ...kgo.Opt) (*kgo.Client, error) {
	cl, err := l.newClient(opts...)
	if err == nil {
		l.mu.Lock()
		l.clients = append(l.clients, cl)
		l.mu.Unlock()
	}
	return cl, err
}

func (l *load) newClient(opts ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers("127.0.0.1:9092"), kgo.Dialer(l.w.network.dial), kgo.MetadataMinAge(100 * time.Millisecond),
		kgo.MetadataMaxAge(20 * time.Second), kgo.RetryBackoffFn(func(int) time.Duration { return 100 * time.Millisecond }),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.UnknownTopicRetries(-1), kgo.AlwaysRetryEOF(), kgo.RequestTimeoutOverhead(5 * time.Second),
		kgo.ProducerBatchCompression(kgo.NoCompression())}, opts...)...)
}

func (l *load) close() {
	for _, cl := range l.clients {
		cl.Close()
	}
}

func (l *load) nextProducer() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.producers++
	return l.producers
}

func (l *load) newID(producer int) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent++
	return uint64(producer)<<40 | l.sent
}

// producerID holds the agent to its word that no id is given out twice.
func (l *load) producerID(id int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ids[id] {
		go l.w.fail("producer id %d was given out twice", id)
	}
	l.ids[id] = true
}

// size is that of a value: mostly small, now and then more than a sector.
func (l *load) size(rng *rand.Rand) int {
	switch x := rng.IntN(100); {
	case x < 70:
		return 16 + rng.IntN(100)
	case x < 98:
		return 600 + rng.IntN(2000)
	default:
		return 40_000
	}
}

// largeValue makes an extent that is sealed where it lies (seal.PromoteExtent).
const largeValue = seal.PromoteExtent + 100_000

// create makes a topic, however often the agent dies meanwhile.
func (l *load) create(ctx context.Context, name, life string, partitions int32, configs map[string]string) (*topic, error) {
	values := map[string]*string{}
	for k, v := range configs {
		values[k] = &v
	}
	for {
		_, err := l.admin.CreateTopic(ctx, partitions, 1, values, name)
		if err == nil || errors.Is(err, kerr.TopicAlreadyExists) {
			return &topic{name: name, life: life, partitions: partitions}, nil
		}
		if !sleep(ctx, 100*time.Millisecond) {
			return nil, fmt.Errorf("create topic %s: %w", name, err)
		}
	}
}

// remove deletes a topic, however often the agent dies meanwhile.
func (l *load) remove(ctx context.Context, t *topic) error {
	for {
		_, err := l.admin.DeleteTopic(ctx, t.name)
		if err == nil || errors.Is(err, kerr.UnknownTopicOrPartition) {
			return nil
		}
		if !sleep(ctx, 100*time.Millisecond) {
			return fmt.Errorf("delete topic %s: %w", t.name, err)
		}
	}
}

// work runs everybody until stop ends, then waits for what is on its way.
func (l *load) work(ctx, stop context.Context) {
	workers, err := l.workers()
	if err != nil {
		l.w.fail("%w", err)
		return
	}
	var wg sync.WaitGroup
	for i, work := range workers {
		rng := l.w.plan.rng(fmt.Sprintf("worker %d", i))
		wg.Go(func() { work(stop, rng) })
	}
	wg.Wait()
	flush, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, cl := range l.clients {
		if err := cl.Flush(flush); err != nil {
			l.w.fail("records are unanswered long after everything is healed: %w", err)
			return
		}
	}
}

func (l *load) workers() ([]worker, error) {
	var out []worker
	one := func(t *topic) []*topic { return []*topic{t} }
	for _, k := range []struct {
		topics []*topic
		p      producer
		opts   []kgo.Opt
	}{
		{one(l.object), producer{acks: -1, once: true, ordered: true}, nil},
		{one(l.local), producer{acks: -1, once: true, ordered: true}, nil},
		{one(l.one), producer{acks: 1, provisional: true}, []kgo.Opt{kgo.RequiredAcks(kgo.LeaderAck()), kgo.DisableIdempotentWrite()}},
		{[]*topic{l.trimmed, l.retained}, producer{acks: -1, once: true, ordered: true}, nil},
	} {
		cl, err := l.client(append([]kgo.Opt{kgo.MaxBufferedRecords(64), kgo.StopProducerOnDataLossDetected()}, k.opts...)...)
		if err != nil {
			return nil, err
		}
		p := k.p
		p.number, p.client, p.topics = l.nextProducer(), cl, k.topics
		out = append(out, func(ctx context.Context, rng *rand.Rand) { l.produce(ctx, &p, rng) })
	}
	follow, err := l.follower(kgo.NoResetOffset(), l.object, l.local, l.one)
	if err != nil {
		return nil, err
	}
	chase, err := l.follower(kgo.NewOffset().AtStart(), l.trimmed, l.retained)
	if err != nil {
		return nil, err
	}
	straggle, err := l.straggler(l.trimmed, l.retained)
	if err != nil {
		return nil, err
	}
	return append(out, l.idempotent(l.object, 0), l.idempotent(l.object, 1), l.idempotent(l.local, 0), l.idempotent(l.trimmed, 0), l.returning(l.retained, 1), l.plain(l.object, l.local), l.plain(l.local, l.one),
		follow, chase, straggle, l.member(), l.member(), l.clerk(), l.trimmer(), l.look, l.churn(0), l.churn(1)), nil
}

// producer is one client that produces.
type producer struct {
	number                     int
	client                     *kgo.Client
	topics                     []*topic
	acks                       int16
	provisional, once, ordered bool
}

func (l *load) produce(ctx context.Context, p *producer, rng *rand.Rand) {
	for pause1(ctx, rng, 700*time.Millisecond) {
		for range 1 + rng.IntN(4) {
			t := p.topics[rng.IntN(len(p.topics))]
			partition, id := rng.Int32N(t.partitions), l.newID(p.number)
			if t == l.retained {
				partition = 0 // the other one falls silent
			}
			l.rec.Send(kcheck.Send{ID: id, Producer: p.number, Log: t.log(partition), Acks: p.acks, Provisional: p.provisional,
				Once: p.once, Ordered: p.ordered})
			r := &kgo.Record{Topic: t.name, Partition: partition, Value: valueOf(id, l.size(rng))}
			p.client.Produce(context.Background(), r, func(r *kgo.Record, err error) {
				if err == nil {
					l.rec.Sent(id, kcheck.OK, r.Offset)
					return
				}
				l.rec.Sent(id, kcheck.Unknown, -1)
				l.w.fail("producer %d gave up a record of %s: %w", p.number, t.life, err)
			})
		}
	}
}

// follower reads everything as it comes, through every restart.
func (l *load) follower(reset kgo.Offset, topics ...*topic) (worker, error) {
	return l.reader(topics, func(context.Context, *rand.Rand) bool { return true }, kgo.ConsumeResetOffset(reset))
}

// straggler reads slowly from the start of topics whose start moves: it is overtaken, and goes on behind what is gone.
func (l *load) straggler(topics ...*topic) (worker, error) {
	slowly := func(ctx context.Context, rng *rand.Rand) bool { return pause1(ctx, rng, 2*time.Second) }
	return l.reader(topics, slowly, kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxPartitionBytes(1))
}

// overtaken counts readers of what is deleted that were in the middle of it.
func (l *load) overtaken(next map[kcheck.Log]int64, got []kcheck.Read) {
	for _, r := range got {
		if want, known := next[r.Log]; known && r.Offset > want {
			switch r.Topic {
			case l.retained.life:
				l.w.plan.count("a reader was overtaken by retention")
			case l.trimmed.life:
				l.w.plan.count("a reader was overtaken by DeleteRecords")
			}
		}
		next[r.Log] = r.Offset + 1
	}
}

// reader reads while next says so.
func (l *load) reader(topics []*topic, next func(context.Context, *rand.Rand) bool, opts ...kgo.Opt) (worker, error) {
	from := map[string]map[int32]kgo.Offset{}
	readers := map[kcheck.Log]int{}
	byName := map[string]*topic{}
	for _, t := range topics {
		from[t.name], byName[t.name] = map[int32]kgo.Offset{}, t
		for p := range t.partitions {
			from[t.name][p] = kgo.NewOffset().AtStart()
			readers[t.log(p)] = l.rec.Reader()
		}
	}
	cl, err := l.client(append([]kgo.Opt{kgo.ConsumePartitions(from), kgo.FetchMaxWait(2 * time.Second)}, opts...)...)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, rng *rand.Rand) {
		at := map[kcheck.Log]int64{}
		for ctx.Err() == nil && next(ctx, rng) {
			fetches := cl.PollFetches(ctx)
			l.fetchErrors(fetches)
			got := reads(fetches, byName, func(log kcheck.Log) int { return readers[log] })
			l.rec.Read(got...)
			l.overtaken(at, got)
		}
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

// fetchErrors: the agent may be away, but it may never say that what was read is gone, or answer with damaged bytes.
func (l *load) fetchErrors(fetches kgo.Fetches) {
	fetches.EachError(func(name string, partition int32, err error) {
		var loss *kgo.ErrDataLoss
		if errors.As(err, &loss) && name != l.trimmed.name && name != l.retained.name {
			l.w.fail("a reader of %s/%d was told of lost data: %w", name, partition, err)
		}
		if errors.Is(err, kerr.OffsetOutOfRange) && name != l.trimmed.name && name != l.retained.name {
			l.w.fail("a reader of %s/%d was told that its offset is out of range", name, partition)
		}
		if strings.Contains(strings.ToLower(err.Error()), "crc") {
			l.w.fail("a reader of %s/%d got damaged bytes: %w", name, partition, err)
		}
	})
}

// clerk commits offsets without being a member, and looks at those of both groups.
func (l *load) clerk() worker {
	const group = "clerk"
	next := int64(0)
	return func(ctx context.Context, rng *rand.Rand) {
		for pause1(ctx, rng, 1500*time.Millisecond) {
			next++
			ended := map[int32]func(kcheck.Outcome){}
			var offsets kadm.Offsets
			for p := range l.object.partitions {
				offsets.AddOffset(l.object.name, p, next, -1)
				ended[p] = l.rec.Commit(group, l.object.log(p), next)
			}
			call, cancel := context.WithTimeout(ctx, 3*time.Second)
			resp, err := l.admin.CommitOffsets(call, group, offsets)
			cancel()
			if err == nil {
				resp.Each(func(r kadm.OffsetResponse) {
					if r.Err == nil {
						ended[r.Partition](kcheck.OK)
					}
				})
			}
			l.fetched(ctx, group, l.object)
			l.fetched(ctx, members, l.object, l.local)
		}
	}
}

// fetched looks at a group's offsets.
func (l *load) fetched(ctx context.Context, group string, topics ...*topic) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
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
func (l *load) trimmer() worker {
	before := int64(0)
	log := l.trimmed.log(0)
	return func(ctx context.Context, rng *rand.Rand) {
		for pause1(ctx, rng, 5*time.Second) {
			_, end, ok := l.bounds(ctx, l.trimmed, 0)
			if !ok || end <= before+1 {
				continue
			}
			if before += rng.Int64N(end-before) / 2; rng.IntN(4) == 0 {
				before = end // nothing is left, but who has written it
			}
			ended := l.rec.Trim(log, before)
			var offsets kadm.Offsets
			offsets.AddOffset(l.trimmed.name, 0, before, -1)
			call, cancel := context.WithTimeout(ctx, 5*time.Second)
			l.w.trimming.Store(true)
			resp, err := l.admin.DeleteRecords(call, offsets)
			l.w.trimming.Store(false)
			cancel()
			if r, found := resp.Lookup(l.trimmed.name, 0); err == nil && found && r.Err == nil {
				ended(kcheck.OK)
				if r.LowWatermark < before {
					l.w.fail("records before %d were deleted, the answer says %d", before, r.LowWatermark)
				}
			}
		}
	}
}

// bounds looks at a partition's log start and high watermark.
func (l *load) bounds(ctx context.Context, t *topic, partition int32) (start, end int64, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
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
func (l *load) look(ctx context.Context, rng *rand.Rand) {
	topics := l.all()
	for pause1(ctx, rng, time.Second) {
		t := topics[rng.IntN(len(topics))]
		l.bounds(ctx, t, rng.Int32N(t.partitions))
	}
}

// churn makes topics, fills them, reads some back and deletes them, under names that come again.
func (l *load) churn(number int) worker {
	return func(ctx context.Context, rng *rand.Rand) {
		for n := 0; pause1(ctx, rng, 4*time.Second); n++ {
			name := fmt.Sprintf("churn-%d", number)
			configs := map[string]string{}
			local, large := rng.IntN(3) == 0, rng.IntN(12) == 0
			if local {
				configs["varve.durability"] = "local"
			}
			if large {
				configs["max.message.bytes"] = strconv.Itoa(2 * largeValue)
			}
			lasting, cancel := context.WithTimeout(context.WithoutCancel(ctx), length)
			t, err := l.create(lasting, name, fmt.Sprintf("%s#%d", name, n), 1+rng.Int32N(3), configs)
			cancel()
			if err != nil {
				l.w.fail("%w", err)
				return
			}
			t.local, t.large = local, large
			l.mu.Lock()
			l.live[t.life] = t
			l.mu.Unlock()
			l.oneLife(ctx, t, rng)
			if ctx.Err() != nil {
				return // it is read back at the end
			}
			l.mu.Lock()
			delete(l.live, t.life)
			l.mu.Unlock()
			lasting, cancel = context.WithTimeout(context.WithoutCancel(ctx), length)
			err = l.remove(lasting, t)
			cancel()
			if err != nil {
				l.w.fail("%w", err)
				return
			}
		}
	}
}

func (l *load) oneLife(ctx context.Context, t *topic, rng *rand.Rand) {
	number := l.nextProducer()
	var c *wire
	defer func() {
		if c != nil {
			c.Close()
		}
	}()
	busy, cancel := context.WithTimeout(ctx, part(rng, 8*time.Second))
	defer cancel()
	for pause1(busy, rng, 300*time.Millisecond) {
		if c == nil {
			var err error
			if c, err = l.w.connect(busy); err != nil {
				continue
			}
		}
		if !l.single(c, number, t, rng) {
			c.Close()
			c = nil
		}
	}
}

// scan reads topics from their start to the end that they have now.
func (l *load) scan(ctx context.Context, topics []*topic) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	open := map[kcheck.Log]*scanning{}
	from, byName := map[string]map[int32]kgo.Offset{}, map[string]*topic{}
	for _, t := range topics {
		from[t.name], byName[t.name] = map[int32]kgo.Offset{}, t
		for p := range t.partitions {
			s := &scanning{topic: t}
			s.Log, s.Reader, s.Begun = t.log(p), l.rec.Reader(), l.rec.Now()
			for ok := false; !ok; {
				if _, s.End, ok = l.bounds(ctx, t, p); !ok && !sleep(ctx, 50*time.Millisecond) {
					l.w.fail("offsets of %s could not be listed", s.Log)
					return
				}
			}
			open[s.Log], from[t.name][p] = s, kgo.NewOffset().AtStart()
		}
	}
	cl, err := l.newClient(kgo.ConsumePartitions(from), kgo.FetchMaxWait(100*time.Millisecond), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		l.w.fail("%w", err)
		return
	}
	defer cl.Close()
	for len(open) > 0 {
		if ctx.Err() != nil {
			for _, s := range open {
				l.w.fail("%s could not be read to its end: got to %d of %d", s.Log, s.next, s.End)
			}
			return
		}
		poll, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		fetches := cl.PollFetches(poll)
		cancel()
		l.fetchErrors(fetches)
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
			if start, _, ok := l.bounds(ctx, s.topic, log.Partition); ok && max(start, s.next) >= s.End {
				s.Start = start
				l.rec.Scan(s.Scan)
				delete(open, log)
			}
		}
	}
}

type scanning struct {
	kcheck.Scan
	topic *topic
	next  int64
}
