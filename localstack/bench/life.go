package main

import (
	"context"
	"fmt"
	"time"
)

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
