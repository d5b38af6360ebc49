package main

import (
	"context"
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
