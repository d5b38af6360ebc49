package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

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
