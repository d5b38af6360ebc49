package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"varve.dev/tiering/batch/codec"
)

// scenario is one row of a table, for each kind of broker.
type scenario struct {
	table string
	name  string
	kinds []kind
	run   func(ctx context.Context, b *bench, k kind) (figures, error)
}

const (
	gib = 1 << 30
	mib = 1 << 20
)

// The loads: 8 connections with 5 requests in flight each, as clients have them. Where a flush comes every 20 ms that makes
// windows of 640 KiB at 16 KiB a request; the deep load fills them.
const (
	conns   = 8
	shallow = 5
	deep    = 64
)

func (b *bench) bytes(n int64) int64 { return max(mib, int64(float64(n)*b.scale)) }

func (b *bench) scenarios() []scenario {
	var all []scenario
	all = append(all, b.objectScenarios()...)
	all = append(all, b.localScenarios()...)
	all = append(all, b.latencyScenarios()...)
	all = append(all, b.fetchScenarios()...)
	all = append(all, b.replayScenarios()...)
	all = append(all, b.lifeScenarios()...)
	return all
}

// objectScenarios send less than makes the agent seal early, half of cache.memory.bytes, so that all sealing comes behind the
// last answer; but for the last: a load that memory does not hold, and what it costs when it lasts.
func (b *bench) objectScenarios() (all []scenario) {
	add := func(l load, kinds ...kind) {
		all = append(all, scenario{"produce, acks=all on object", l.name(), kinds,
			func(ctx context.Context, b *bench, k kind) (figures, error) { return b.object(ctx, k, l, 64<<10) }})
	}
	one := func(c codec.Codec, batchBytes, partitions, depth int, total int64) load {
		return load{codec: c, batchBytes: batchBytes, batches: 1, partitions: partitions, conns: conns, depth: depth, acks: -1, total: b.bytes(total)}
	}
	for _, partitions := range []int{1, 16, 1000} {
		add(one(codec.None, 16<<10, partitions, shallow, 192*mib), varve, bare, kafka)
	}
	add(one(codec.None, 1<<20, 16, shallow, 192*mib), varve, bare, kafka)
	add(one(codec.None, 1<<10, 16, shallow, 16*mib), varve, bare, kafka)
	for _, c := range []codec.Codec{codec.LZ4, codec.Zstd} {
		add(one(c, 16<<10, 16, shallow, 192*mib), varve, kafka)
	}
	filled := one(codec.None, 16<<10, 16, deep, 192*mib)
	add(filled, varve, bare, kafka)
	add(one(codec.None, 1<<10, 16, deep, 96*mib), varve, bare)
	add(load{batchBytes: 4 << 10, batches: 50, partitions: 1000, conns: conns, depth: shallow, acks: -1, total: b.bytes(192 * mib)}, varve, bare, kafka)
	lasting := filled
	lasting.total = b.bytes(384 * mib)
	return append(all, scenario{"produce, acks=all on object", lasting.name() + ", cache.memory.bytes=96 MiB", []kind{varve, bare},
		func(ctx context.Context, b *bench, k kind) (figures, error) {
			return b.object(ctx, k, lasting, 16*mib, "cache.memory.bytes", fmt.Sprint(96*mib))
		}})
}

// sealAge is when sealing begins after a load: later than the load takes, or the two costs cannot be told apart.
const sealAge = 8 * time.Second

// object measures a load to its last answer, and to rest: until everything is sealed and nothing moves.
// keepMost is the largest object that the stub keeps, more are settings of the agent.
func (b *bench) object(ctx context.Context, k kind, l load, keepMost int64, more ...string) (figures, error) {
	set := map[string]string{"seal.age.ms": fmt.Sprint(sealAge.Milliseconds()), "seal.check.interval.ms": "200", "again": "true"}
	for i := 0; i+1 < len(more); i += 2 {
		set[more[i]] = more[i+1]
	}
	t, err := b.start(ctx, k, keepMost, forVarve(k, set))
	defer b.stop(t)
	if err != nil {
		return nil, err
	}
	if err := t.create(ctx, []string{"t"}, l.partitions, nil); err != nil {
		return nil, err
	}
	m, err := b.measure(ctx, t, l)
	if err != nil {
		return nil, err
	}
	f := m.figures()
	if k == kafka {
		return f, nil // it uploads nothing: there is no rest to wait for
	}
	profiled := b.profile(ctx, t)
	rest, err := t.rest(ctx)
	if err != nil {
		return nil, err
	}
	profiled()
	u := rest.since(m.before)
	per := gib / float64(m.sent.bytes)
	f = append(f, figure{"CPU-s/GiB to rest", u.cpu().Seconds() * per},
		figure{"PUT", float64(t.stub.puts.Load() - m.puts)}, figure{"GET", float64(t.stub.gets.Load() - m.gets)},
		figure{"LIST", float64(t.stub.lists.Load() - m.lists)})
	if k == varve {
		c, err := t.counts(ctx)
		if err != nil {
			return nil, err
		}
		f = append(f, figure{"journal syncs", c["varve_journal_syncs_total"] - m.counts["varve_journal_syncs_total"]})
	}
	return f, nil
}

func forVarve(k kind, set map[string]string) map[string]string {
	if k == bare {
		return map[string]string{"again": set["again"], "keep": set["keep"]}
	}
	if k == kafka {
		return nil
	}
	set = maps.Clone(set)
	delete(set, "again")
	delete(set, "keep")
	return set
}

func (b *bench) stop(t *target) {
	if t == nil {
		return
	}
	if err := t.stop(b.keep); err != nil {
		b.say("stop: %v", err)
	}
}

// measured is one load and what it cost the broker.
type measured struct {
	sent              produced
	before, after     usage
	counts            counts // before
	allocs            float64
	puts, gets, lists int64 // at the stub, before
}

// warmShare of a load goes ahead of it, so that pools are filled. Kafka gets kafkaWarm whole loads and, before them,
// kafkaSmall of small requests, on a topic of its own that syncs nothing: its code is compiled by count of calls, and costs
// several times as much until it is.
const (
	warmShare      = 8
	kafkaWarm      = 2
	kafkaSmall     = 128 * mib
	warmPartitions = 16
	kafkaTouches   = 4 // batches for each partition of the topic itself
)

// kafkaReads is how often Kafka is read ahead of a measurement, for the same reason.
const kafkaReads = 3

func warmUp(ctx context.Context, t *target, l load) error {
	if t.kind == kafka {
		warm := l
		warm.partitions = min(l.partitions, warmPartitions)
		if err := t.create(ctx, []string{"warm"}, warm.partitions, nil); err != nil {
			return err
		}
		warm.total *= kafkaWarm
		small := warm
		small.batchBytes, small.batches, small.depth, small.total = 1<<10, 1, 128, kafkaSmall
		for _, w := range []load{small, warm} {
			if _, err := produce(ctx, t.kafka, "warm", w); err != nil {
				return err
			}
		}
	}
	l.total /= warmShare
	if t.kind == kafka { // a log's first batches cost it far more than the rest
		l.total = max(l.total, kafkaTouches*int64(l.partitions*l.batchBytes))
	}
	_, err := produce(ctx, t.kafka, "t", l)
	return err
}

func (b *bench) measure(ctx context.Context, t *target, l load) (m measured, err error) {
	if err := warmUp(ctx, t, l); err != nil {
		return m, fmt.Errorf("warm up: %w", err)
	}
	if m.counts, err = t.counts(ctx); err != nil {
		return m, err
	}
	if t.stub != nil {
		m.puts, m.gets, m.lists = t.stub.puts.Load(), t.stub.gets.Load(), t.stub.lists.Load()
	}
	if m.before, err = t.usage(); err != nil {
		return m, err
	}
	profiled := b.profile(ctx, t)
	if m.sent, err = produce(ctx, t.kafka, "t", l); err != nil {
		return m, err
	}
	profiled()
	if m.after, err = t.usage(); err != nil {
		return m, err
	}
	c, err := t.counts(ctx)
	m.allocs = c["go_memstats_mallocs_total"] - m.counts["go_memstats_mallocs_total"]
	return m, err
}

func (m measured) figures() figures {
	u := m.after.since(m.before)
	per := gib / float64(m.sent.bytes)
	requests := float64(m.sent.requests)
	f := figures{
		{"wire MiB", float64(m.sent.bytes) / mib}, {"MiB/s", float64(m.sent.bytes) / mib / m.sent.took.Seconds()},
		{"CPU-s/GiB to ack", u.cpu().Seconds() * per}, {"user", u.user.Seconds() * per}, {"sys", u.sys.Seconds() * per},
		{"µs/request", float64(u.cpu().Microseconds()) / requests},
		{"syscalls/request", float64(u.reads+u.writes) / requests},
	}
	if m.allocs > 0 {
		f = append(f, figure{"allocs/request", m.allocs / requests})
	}
	return append(f, figure{"dirtied MiB", float64(u.written) / mib}, figure{"RSS MiB", float64(u.peak) / mib})
}

// rest waits until the broker has sealed everything and is idle. The agent's metrics are asked for only where the store has
// been silent for a while: to be asked is work, too.
func (t *target) rest(ctx context.Context) (usage, error) {
	const look, silence = 200 * time.Millisecond, 6
	limit := time.Now().Add(5 * time.Minute)
	quiet, last := 0, int64(-1)
	for ctx.Err() == nil {
		time.Sleep(look)
		if puts := t.stub.putBytes.Load(); puts != last {
			quiet, last = 0, puts
			continue
		}
		if quiet++; quiet < silence {
			continue
		}
		quiet = 0
		u, err := t.usage()
		if err != nil {
			return u, err
		}
		c, err := t.counts(ctx)
		if err != nil {
			return u, err
		}
		// What stays too small for a segment is in packs, and rests there.
		if t.kind != varve || c["varve_unsealed_objects"] <= c["varve_packs_total"] {
			return u, nil
		}
		if time.Now().After(limit) {
			return u, fmt.Errorf("%s does not come to rest: %v objects are unsealed, %v packs", t.kind, c["varve_unsealed_objects"], c["varve_packs_total"])
		}
	}
	return usage{}, ctx.Err()
}

// durable is a topic whose answers mean an fsync.
func durable(k kind) map[string]string {
	if k == kafka {
		return map[string]string{"flush.messages": "1"}
	}
	return map[string]string{"varve.durability": "local"}
}

func (b *bench) localScenarios() (all []scenario) {
	for _, partitions := range []int{1, 16, 1000} {
		l := load{batchBytes: 16 << 10, batches: 1, partitions: partitions, conns: conns, depth: shallow, acks: -1, total: b.bytes(256 * mib)}
		all = append(all, scenario{"produce, acks=all, fsync before each answer", l.name(), []kind{varve, kafka}, local(l)})
	}
	small := load{batchBytes: 1 << 10, batches: 1, partitions: 16, conns: conns, depth: shallow, acks: -1, total: b.bytes(64 * mib)}
	return append(all, scenario{"produce, acks=all, fsync before each answer", small.name(), []kind{varve, kafka}, local(small)})
}

func local(l load) func(ctx context.Context, b *bench, k kind) (figures, error) {
	return func(ctx context.Context, b *bench, k kind) (figures, error) {
		l := l
		if k == kafka {
			l.total = max(8*mib, l.total/4) // it syncs each batch of each partition by itself
		}
		t, err := b.start(ctx, k, 64<<10, nil)
		defer b.stop(t)
		if err != nil {
			return nil, err
		}
		if err := t.create(ctx, []string{"t"}, l.partitions, durable(k)); err != nil {
			return nil, err
		}
		m, err := b.measure(ctx, t, l)
		if err != nil {
			return nil, err
		}
		f := m.figures()
		c, err := t.counts(ctx)
		if k == varve {
			f = append(f, figure{"journal syncs", c["varve_journal_syncs_total"] - m.counts["varve_journal_syncs_total"]})
		}
		return f, err
	}
}

func (b *bench) latencyScenarios() (all []scenario) {
	l := load{batchBytes: 64 << 10, batches: 1, partitions: 16, conns: conns, depth: shallow, acks: -1, total: b.bytes(192 * mib)}
	all = append(all, scenario{"ack latency, fsync before each answer, from the intended time", "64 KiB × 16 partitions, none, 250 requests/s", []kind{varve, kafka},
		func(ctx context.Context, b *bench, k kind) (figures, error) {
			return b.latency(ctx, k, l, durable(k), 250, 0)
		}})
	for _, share := range []int{10, 50, 80} {
		all = append(all, scenario{"ack latency, fsync before each answer, from the intended time",
			fmt.Sprintf("64 KiB × 16 partitions, none, at %d %% of its own most", share), []kind{varve, kafka},
			func(ctx context.Context, b *bench, k kind) (figures, error) {
				return b.latency(ctx, k, l, durable(k), 0, float64(share)/100)
			}})
	}
	return append(all, scenario{"ack latency on object, from the intended time", "64 KiB × 16 partitions, none, 250 requests/s, stub without delay", []kind{varve, bare},
		func(ctx context.Context, b *bench, k kind) (figures, error) { return b.latency(ctx, k, l, nil, 250, 0) }})
}

// latencyFor is how long an open loop lasts.
const latencyFor = 6 * time.Second

// latency finds the most that the broker takes if share is given, then sends at that share of it.
func (b *bench) latency(ctx context.Context, k kind, l load, topic map[string]string, rate, share float64) (figures, error) {
	t, err := b.start(ctx, k, 64<<10, forVarve(k, map[string]string{"again": "false"}))
	defer b.stop(t)
	if err != nil {
		return nil, err
	}
	if err := t.create(ctx, []string{"t"}, l.partitions, topic); err != nil {
		return nil, err
	}
	most, err := produce(ctx, t.kafka, "t", l) // warms up, too
	if err != nil {
		return nil, err
	}
	if share > 0 {
		rate = share * float64(most.requests) / most.took.Seconds()
	}
	before, err := t.usage()
	if err != nil {
		return nil, err
	}
	profiled := b.profile(ctx, t)
	out, err := openLoop(ctx, t.kafka, "t", l, rate, latencyFor, nil)
	if err != nil {
		return nil, err
	}
	profiled()
	after, err := t.usage()
	u := after.since(before)
	return append(figures{{"requests/s", rate}}, append(out.late.figures(), figure{"CPU-s/GiB", u.cpu().Seconds() * gib / float64(out.bytes)})...), err
}

func (h *histogram) figures() figures {
	ms := func(q float64) float64 { return float64(h.quantile(q)) / float64(time.Millisecond) }
	return figures{{"p50 ms", ms(0.5)}, {"p99 ms", ms(0.99)}, {"p99.9 ms", ms(0.999)}, {"max ms", ms(1)}}
}

func (b *bench) fetchScenarios() (all []scenario) {
	for _, n := range []int{1, 8} {
		l := load{batchBytes: 16 << 10, batches: 1, partitions: 16, conns: conns, depth: 64, acks: -1, total: b.bytes(256 * mib)}
		all = append(all, scenario{"fetch of what was just written (memory)", fmt.Sprintf("16 KiB × 16 partitions, none, %d consumers of all", n), []kind{varve, bare, kafka},
			func(ctx context.Context, b *bench, k kind) (figures, error) { return b.memory(ctx, k, l, n) }})
	}
	for _, n := range []int{1, 8} {
		all = append(all, scenario{"tail: 16 KiB batches at 1,000/s, acks=all on object", fmt.Sprintf("16 partitions, %d consumers of all", n), []kind{varve, kafka},
			func(ctx context.Context, b *bench, k kind) (figures, error) { return b.tail(ctx, k, n) }})
	}
	return all
}

// memory reads again and again what is still in memory.
func (b *bench) memory(ctx context.Context, k kind, l load, n int) (figures, error) {
	t, err := b.start(ctx, k, 64<<10, forVarve(k, map[string]string{"again": "false", "keep": "true"}))
	defer b.stop(t)
	if err != nil {
		return nil, err
	}
	if err := t.create(ctx, []string{"t"}, l.partitions, nil); err != nil {
		return nil, err
	}
	if _, err := produce(ctx, t.kafka, "t", l); err != nil {
		return nil, err
	}
	if k == bare { // it answers all that it has, again and again
		return b.reading(ctx, t, func(ctx context.Context) (consumed, error) {
			return bareFetches(ctx, t.kafka, n, int(4*l.total/floorFetch)/n)
		})
	}
	ends, err := t.ends(ctx, "t", l.partitions)
	if err != nil {
		return nil, err
	}
	a, rounds := newAppetite(l.partitions), max(1, 4/n)
	return b.reading(ctx, t, func(ctx context.Context) (sum consumed, err error) {
		for range rounds {
			one, err := replay(ctx, t.kafka, "t", a, n, false, ends)
			if err != nil {
				return sum, err
			}
			sum = consumed{sum.bytes + one.bytes, sum.answers + one.answers, sum.took + one.took}
		}
		return sum, nil
	})
}

// bareFetches asks the control so many times on each of n connections.
func bareFetches(ctx context.Context, address string, n, times int) (sum consumed, err error) {
	began := time.Now()
	type result struct {
		c   *consumer
		err error
	}
	done := make(chan result, n)
	for range n {
		go func() {
			c, err := newConsumer(ctx, address, "t", 0, newAppetite(1))
			for i := 0; err == nil && i < times; i++ {
				err = c.once()
			}
			if c != nil {
				c.conn.close()
			}
			done <- result{c, err}
		}()
	}
	for range n {
		r := <-done
		if err = errors.Join(err, r.err); r.c != nil {
			sum.bytes, sum.answers = sum.bytes+r.c.bytes, sum.answers+r.c.answers
		}
	}
	sum.took = time.Since(began)
	return sum, err
}

// reading measures what consumers cost the broker.
func (b *bench) reading(ctx context.Context, t *target, read func(context.Context) (consumed, error)) (figures, error) {
	if t.kind == kafka {
		for range kafkaReads {
			if _, err := read(ctx); err != nil {
				return nil, fmt.Errorf("warm up: %w", err)
			}
		}
	}
	c0, err := t.counts(ctx)
	if err != nil {
		return nil, err
	}
	before, err := t.usage()
	if err != nil {
		return nil, err
	}
	profiled := b.profile(ctx, t)
	out, err := read(ctx)
	if err != nil {
		return nil, err
	}
	profiled()
	after, err := t.usage()
	if err != nil {
		return nil, err
	}
	c1, err := t.counts(ctx)
	u := after.since(before)
	per := gib / float64(out.bytes)
	f := figures{{"MiB", float64(out.bytes) / mib}, {"MiB/s", float64(out.bytes) / mib / out.took.Seconds()},
		{"CPU-s/GiB", u.cpu().Seconds() * per}, {"user", u.user.Seconds() * per}, {"sys", u.sys.Seconds() * per},
		{"KiB/answer", float64(out.bytes) / 1024 / float64(out.answers)}, {"syscalls/answer", float64(u.reads+u.writes) / float64(out.answers)}}
	if t.kind == varve {
		f = append(f, figure{"allocs/answer", (c1["go_memstats_mallocs_total"] - c0["go_memstats_mallocs_total"]) / float64(out.answers)})
	}
	return append(f, figure{"RSS MiB", float64(after.peak) / mib}), err
}

// tail measures a steady stream first without readers, then with: the difference is what they cost.
func (b *bench) tail(ctx context.Context, k kind, n int) (figures, error) {
	t, err := b.start(ctx, k, 64<<10, nil)
	defer b.stop(t)
	if err != nil {
		return nil, err
	}
	const rate, lasting = 1000, 6 * time.Second
	l := load{batchBytes: 16 << 10, batches: 1, partitions: 16, conns: 1, depth: 256, acks: -1}
	if err := t.create(ctx, []string{"warm", "alone", "read"}, l.partitions, nil); err != nil {
		return nil, err
	}
	if _, err := openLoop(ctx, t.kafka, "warm", l, rate, time.Second, nil); err != nil {
		return nil, err
	}
	u0, err := t.usage()
	if err != nil {
		return nil, err
	}
	alone, err := openLoop(ctx, t.kafka, "alone", l, rate, lasting, nil)
	if err != nil {
		return nil, err
	}
	u1, err := t.usage()
	if err != nil {
		return nil, err
	}
	late := &arrivals{per: int64(l.batchBytes / recordBytes), partitions: int64(l.partitions), each: time.Second / rate}
	following, stop := context.WithCancel(ctx)
	defer stop()
	failed := make(chan error, n)
	consumers := make([]*consumer, n)
	for i := range consumers {
		if consumers[i], err = newConsumer(following, t.kafka, "read", 0, newAppetite(l.partitions)); err != nil {
			return nil, err
		}
		consumers[i].seen = late.seen
	}
	for _, c := range consumers {
		go func() { failed <- c.follow(following) }()
	}
	sent, err := openLoop(ctx, t.kafka, "read", l, rate, lasting, late.start)
	if err != nil {
		return nil, err
	}
	u2, e1 := t.usage()
	stop()
	var bytes, answers int64
	for range consumers {
		err = errors.Join(err, <-failed)
	}
	for _, c := range consumers {
		bytes, answers = bytes+c.bytes, answers+c.answers
	}
	if err = errors.Join(err, e1); err != nil {
		return nil, err
	}
	cost := u2.since(u1).cpu() - u1.since(u0).cpu()
	f := figures{{"MiB read", float64(bytes) / mib}, {"read of written", float64(bytes) / float64(sent.bytes)},
		{"CPU-s/GiB of reading", cost.Seconds() * gib / float64(max(bytes, 1))},
		{"CPU-s/GiB of writing", u1.since(u0).cpu().Seconds() * gib / float64(alone.bytes)},
		{"µs/answer", float64(cost.Microseconds()) / float64(max(answers, 1))}, {"KiB/answer", float64(bytes) / 1024 / float64(max(answers, 1))}}
	return append(f, late.late.figures()...), nil
}

func (b *bench) replayScenarios() (all []scenario) {
	for _, partitions := range []int{1, 64} {
		l := load{batchBytes: 64 << 10, batches: 1, partitions: partitions, conns: conns, depth: 16, acks: -1, total: b.bytes(512 * mib)}
		name := fmt.Sprintf("%d partitions, 64 KiB batches, one consumer", partitions)
		all = append(all,
			scenario{"replay of sealed segments from local disk", name, []kind{varve, kafka},
				func(ctx context.Context, b *bench, k kind) (figures, error) { return b.replayed(ctx, k, l, false) }},
			scenario{"cold replay through a store with S3-like delays", name, []kind{varve},
				func(ctx context.Context, b *bench, k kind) (figures, error) { return b.replayed(ctx, k, l, true) }})
	}
	return all
}

// replayed reads what is sealed: from local disk (Kafka: from its page cache), or from a store that is as slow as S3.
func (b *bench) replayed(ctx context.Context, k kind, l load, cold bool) (figures, error) {
	set := map[string]string{"seal.age.ms": "1000", "seal.check.interval.ms": "100"}
	if !cold {
		set["cache.memory.bytes"] = fmt.Sprint(64 * mib) // else it would be read from memory
	}
	t, err := b.start(ctx, k, 1<<40, forVarve(k, set))
	defer b.stop(t)
	if err != nil {
		return nil, err
	}
	if err := t.create(ctx, []string{"t"}, l.partitions, nil); err != nil {
		return nil, err
	}
	if _, err := produce(ctx, t.kafka, "t", l); err != nil {
		return nil, err
	}
	if k == varve {
		if _, err := t.rest(ctx); err != nil {
			return nil, err
		}
	}
	ends, err := t.ends(ctx, "t", l.partitions)
	if err != nil {
		return nil, err
	}
	if !cold {
		return b.reading(ctx, t, func(ctx context.Context) (consumed, error) {
			return replay(ctx, t.kafka, "t", newAppetite(l.partitions), 1, true, ends)
		})
	}
	if err := t.evict(ctx); err != nil {
		return nil, err
	}
	t.stub.likeS3(1)
	gets, bytes := t.stub.gets.Load(), t.stub.getBytes.Load()
	f, err := b.reading(ctx, t, func(ctx context.Context) (consumed, error) {
		return replay(ctx, t.kafka, "t", newAppetite(l.partitions), 1, true, ends)
	})
	if err != nil {
		return nil, err
	}
	gets, bytes = t.stub.gets.Load()-gets, t.stub.getBytes.Load()-bytes
	raw := 0.0
	for _, parallel := range rawGetParallel {
		rate, err := t.stub.rawGets(ctx, "p/", rawGetBytes, parallel)
		if err != nil {
			return nil, err
		}
		raw = max(raw, rate)
	}
	return append(f, figure{"GET", float64(gets)}, figure{"GET MiB", float64(bytes) / mib},
		figure{"raw GETs MiB/s", raw / mib}, figure{"of raw", f.get("MiB/s") / (raw / mib)}), nil
}

// rawGetBytes is what the control of a cold replay asks for at a time, as the agent does. Of the numbers of requests at once
// the fastest counts.
const rawGetBytes = 4 << 20

var rawGetParallel = [...]int{8, 16, 32}

func (b *bench) lifeScenarios() (all []scenario) {
	add := func(table, name string, kinds []kind, run func(ctx context.Context, b *bench, k kind) (figures, error)) {
		all = append(all, scenario{table, name, kinds, run})
	}
	both := []kind{varve, kafka}
	add("start of a fresh broker", "from its command until it is ready", both, func(ctx context.Context, b *bench, k kind) (figures, error) {
		t, err := b.start(ctx, k, 64<<10, nil)
		defer b.stop(t)
		if err != nil {
			return nil, err
		}
		u, err := t.usage()
		return figures{{"seconds", t.readyAfter.Seconds()}, {"CPU-s", u.cpu().Seconds()}, {"RSS MiB", float64(u.rss) / mib}}, err
	})
	for _, topics := range []int{1, 10} {
		add("partitions created until every one answers", fmt.Sprintf("%d × 1,000", topics), both, func(ctx context.Context, b *bench, k kind) (figures, error) {
			return b.creation(ctx, k, topics)
		})
	}
	add("idle with 1,000 partitions, each written once", "after 5 s", both, func(ctx context.Context, b *bench, k kind) (figures, error) { return b.idle(ctx, k) })
	for _, partitions := range []int{16, 1000} {
		add("kill -9 under load, from the command to the first answer", fmt.Sprintf("%d partitions, fsync before each answer", partitions), both,
			func(ctx context.Context, b *bench, k kind) (figures, error) { return b.crash(ctx, k, partitions) })
	}
	return all
}

func (b *bench) creation(ctx context.Context, k kind, topics int) (figures, error) {
	t, err := b.start(ctx, k, 64<<10, nil)
	defer b.stop(t)
	if err != nil {
		return nil, err
	}
	names := make([]string, topics)
	for i := range names {
		names[i] = fmt.Sprintf("t%d", i)
	}
	before, err := t.usage()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	for _, name := range names { // Kafka takes no more than 10,000 partitions a request, or not quite
		if err := t.create(ctx, []string{name}, 1000, nil); err != nil {
			return nil, err
		}
	}
	took := time.Since(began)
	after, err := t.usage()
	return figures{{"seconds", took.Seconds()}, {"CPU-s", after.since(before).cpu().Seconds()}, {"RSS MiB", float64(after.rss) / mib}}, err
}

func (b *bench) idle(ctx context.Context, k kind) (figures, error) {
	t, err := b.start(ctx, k, 64<<10, nil)
	defer b.stop(t)
	if err != nil {
		return nil, err
	}
	if err := t.create(ctx, []string{"t"}, 1000, nil); err != nil {
		return nil, err
	}
	l := load{batchBytes: 1 << 10, batches: 50, partitions: 1000, conns: 1, depth: 5, acks: -1, total: 1000 << 10}
	if _, err := produce(ctx, t.kafka, "t", l); err != nil {
		return nil, err
	}
	const lasting = 5 * time.Second
	time.Sleep(lasting)
	before, err := t.usage()
	if err != nil {
		return nil, err
	}
	time.Sleep(lasting)
	after, err := t.usage()
	u := after.since(before)
	return figures{{"RSS MiB", float64(after.rss) / mib}, {"peak MiB", float64(after.peak) / mib}, {"CPU %", 100 * u.cpu().Seconds() / lasting.Seconds()}}, err
}

// crash kills the broker under load and starts it again on what it left.
func (b *bench) crash(ctx context.Context, k kind, partitions int) (figures, error) {
	t, err := b.start(ctx, k, 1<<40, nil)
	defer func() { b.stop(t) }()
	if err != nil {
		return nil, err
	}
	if err := t.create(ctx, []string{"t"}, partitions, durable(k)); err != nil {
		return nil, err
	}
	l := load{batchBytes: 16 << 10, batches: 1, partitions: partitions, conns: conns, depth: shallow, acks: -1, total: b.bytes(64 * mib)}
	if _, err := produce(ctx, t.kafka, "t", l); err != nil {
		return nil, err
	}
	under, stopLoad := context.WithCancel(ctx)
	defer stopLoad()
	ended := make(chan error, 1)
	go func() {
		endless := l
		endless.total = 1 << 40
		_, err := produce(under, t.kafka, "t", endless)
		ended <- err
	}()
	time.Sleep(time.Second)
	if err := t.crashed(); err != nil {
		return nil, err
	}
	stopLoad()
	<-ended
	began := time.Now()
	if err := t.again(ctx, b); err != nil {
		return nil, err
	}
	ready := time.Since(began)
	first, err := firstAck(ctx, t.kafka, "t", l)
	if err != nil {
		return nil, err
	}
	if _, err := t.ends(ctx, "t", partitions); err != nil {
		return nil, err
	}
	all := time.Since(began)
	u, err := t.usage()
	return figures{{"s to ready", ready.Seconds()}, {"s to first ack", first.Sub(began).Seconds()}, {"s to all partitions", all.Seconds()}, {"CPU-s", u.cpu().Seconds()}}, err
}

// crashed is kill -9.
func (t *target) crashed() error {
	if t.broker != nil {
		return t.broker.Kill()
	}
	return t.kill()
}

// again starts the broker on the folder and the store that it had.
func (t *target) again(ctx context.Context, b *bench) error {
	if t.broker == nil {
		return t.run(ctx, t.args[0], t.args[1:]...)
	}
	err := t.broker.Restart(ctx)
	t.pid = t.broker.PID()
	return err
}
