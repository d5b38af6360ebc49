package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	topic = "demo"
	group = "demo-replay"

	// sealTimeout bounds the wait for the last segment; the agent's own bound on age is seconds.
	sealTimeout = 3 * time.Minute
	// stallTimeout is how long a replay may bring nothing.
	stallTimeout = time.Minute
	pollEvery    = 250 * time.Millisecond
	// bufferedBytes is what waits for the agent's answers: a few of its flushes.
	bufferedBytes = 64 << 20
)

// outcome is what the table shows.
type outcome struct {
	in, out                      *stream
	partitions                   int32
	produced, sealed, replayed   time.Duration
	before, sealedAt, replayedAt figures
}

// demo is one run of the main job against a running agent.
type demo struct {
	at         endpoints
	data       dataset
	partitions int32
	show       reporter
}

// run puts the data set in, waits until all of it is in segments, evicts the local copies, and replays it.
func (d *demo) run(ctx context.Context) (o outcome, err error) {
	o.partitions = d.partitions
	if o.before, err = d.at.figures(ctx); err != nil {
		return o, err
	}
	start := time.Now()
	if o.in, err = d.produce(ctx); err != nil {
		return o, fmt.Errorf("produce: %w", err)
	}
	o.produced = time.Since(start)
	d.show.say("waiting until every record is in a segment")
	start = time.Now()
	if o.sealedAt, err = d.awaitSealed(ctx, o.before); err != nil {
		return o, err
	}
	o.sealed = time.Since(start)
	if err = d.at.evict(ctx); err != nil {
		return o, fmt.Errorf("evict the local copies: %w", err)
	}
	d.show.say("local copies evicted, replaying from offset 0")
	start = time.Now()
	if o.out, err = d.replay(ctx); err != nil {
		return o, fmt.Errorf("replay: %w", err)
	}
	o.replayed = time.Since(start)
	if o.replayedAt, err = d.at.figures(ctx); err != nil {
		return o, err
	}
	if o.replayedAt.gets <= o.sealedAt.gets {
		return o, errors.New("the replay read nothing from the object store: the local copies were not evicted")
	}
	return o, differs(o.in, o.out)
}

// produce creates the topic and writes the data set to it. Old records are kept: their times are the data's own.
func (d *demo) produce(ctx context.Context) (*stream, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(d.at.kafka), kgo.DefaultProduceTopic(topic), kgo.MaxBufferedBytes(bufferedBytes),
		kgo.MaxBufferedRecords(1<<20), kgo.ProducerBatchCompression(kgo.Lz4Compression()))
	if err != nil {
		return nil, err
	}
	defer client.Close()
	forever := "-1"
	created, err := kadm.NewClient(client).CreateTopic(ctx, d.partitions, -1, map[string]*string{"retention.ms": &forever}, topic)
	if err = errors.Join(err, created.Err); err != nil {
		return nil, fmt.Errorf("create the topic: %w", err)
	}
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	bar := d.show.bar("producing", d.data.records)
	in, number := newStream(), int64(0)
	for e, err := range d.data.entries {
		if err != nil {
			return nil, err
		}
		r := &kgo.Record{Key: e.key, Value: e.value, Timestamp: e.time, Headers: []kgo.RecordHeader{{Key: numberHeader, Value: formatNumber(number)}}}
		if err := in.add(r.Key, r.Value, r.Timestamp, number); err != nil {
			return nil, err
		}
		client.Produce(ctx, r, func(_ *kgo.Record, err error) {
			if err != nil {
				fail(err)
				return
			}
			bar.add(1)
		})
		if ctx.Err() != nil {
			break
		}
		number++
	}
	err = client.Flush(ctx)
	bar.end()
	if cause := context.Cause(ctx); cause != nil {
		return nil, cause
	}
	return in, err
}

// awaitSealed waits until nothing is unsealed and there are new segments.
func (d *demo) awaitSealed(ctx context.Context, before figures) (f figures, err error) {
	limited, cancel := context.WithTimeout(ctx, sealTimeout)
	defer cancel()
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for {
		if f, err = d.at.figures(limited); err != nil && limited.Err() == nil {
			return f, err
		}
		if err == nil && f.unsealedObjects == 0 && f.unsealedBytes == 0 && f.segments > before.segments {
			return f, nil
		}
		select {
		case <-limited.Done():
			if ctx.Err() != nil {
				return f, ctx.Err()
			}
			return f, fmt.Errorf("after %v there are still %.0f unsealed objects with %.0f bytes, and %.0f new segments", sealTimeout, f.unsealedObjects, f.unsealedBytes, f.segments-before.segments)
		case <-ticker.C:
		}
	}
}

// replay reads the topic from offset 0 as a consumer group, up to its end, and commits.
func (d *demo) replay(ctx context.Context) (*stream, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(d.at.kafka), kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		return nil, err
	}
	defer client.Close()
	adm := kadm.NewClient(client)
	ends, err := adm.ListEndOffsets(ctx, topic)
	if err = errors.Join(err, ends.Error()); err != nil {
		return nil, fmt.Errorf("list end offsets: %w", err)
	}
	p := playback{stream: newStream(), next: map[int32]int64{}, ends: ends.Offsets()[topic]}
	bar := d.show.bar("replaying", d.data.records)
	defer bar.end()
	for !p.done() {
		fetches, err := poll(ctx, client)
		if err != nil {
			return nil, err
		}
		for it := fetches.RecordIter(); !it.Done(); {
			if err := p.take(it.Next()); err != nil {
				return nil, err
			}
		}
		bar.add(fetches.NumRecords())
	}
	if err := client.CommitUncommittedOffsets(ctx); err != nil {
		return nil, fmt.Errorf("commit: %w", err)
	}
	return p.stream, p.checkCommits(ctx, adm)
}

func poll(ctx context.Context, client *kgo.Client) (kgo.Fetches, error) {
	limited, cancel := context.WithTimeout(ctx, stallTimeout)
	defer cancel()
	fetches := client.PollFetches(limited)
	if err := fetches.Err0(); errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return nil, fmt.Errorf("nothing came for %v", stallTimeout)
	}
	for _, e := range fetches.Errors() {
		return nil, fmt.Errorf("partition %d: %w", e.Partition, e.Err)
	}
	return fetches, nil
}

// playback checks records as they come out.
type playback struct {
	*stream
	next map[int32]int64 // by partition, the offset that comes next
	ends map[int32]kadm.Offset
}

// take checks that offsets have no holes: one idempotent producer wrote the log, and nothing else did.
func (p *playback) take(r *kgo.Record) error {
	if want := p.next[r.Partition]; r.Offset != want {
		return fmt.Errorf("partition %d: got offset %d, want %d", r.Partition, r.Offset, want)
	}
	p.next[r.Partition]++
	if len(r.Headers) != 1 || r.Headers[0].Key != numberHeader {
		return fmt.Errorf("partition %d offset %d: got headers %v, want one, %s", r.Partition, r.Offset, r.Headers, numberHeader)
	}
	number, err := strconv.ParseInt(string(r.Headers[0].Value), 10, 64)
	if err != nil {
		return fmt.Errorf("partition %d offset %d: %w", r.Partition, r.Offset, err)
	}
	return p.add(r.Key, r.Value, r.Timestamp, number)
}

func (p *playback) done() bool {
	for partition, end := range p.ends {
		if p.next[partition] < end.At {
			return false
		}
	}
	return true
}

// checkCommits checks that the group's offsets are where it stopped.
func (p *playback) checkCommits(ctx context.Context, adm *kadm.Client) error {
	committed, err := adm.FetchOffsets(ctx, group)
	if err != nil {
		return fmt.Errorf("read the group's offsets: %w", err)
	}
	for partition, end := range p.ends {
		if got, ok := committed.Lookup(topic, partition); end.At > 0 && (!ok || got.At != end.At) {
			return fmt.Errorf("partition %d: the group has committed offset %d, want %d", partition, got.At, end.At)
		}
	}
	return nil
}

// reporter shows how far the demo is.
type reporter interface {
	say(line string)
	bar(what string, total int64) meter
}

type meter interface {
	add(n int)
	end()
}

// plain reports by lines, one for each tenth: for logs.
type plain struct{ write func(string) }

func (p plain) say(line string) { p.write(line) }

func (p plain) bar(what string, total int64) meter {
	return &plainMeter{plain: p, what: what, total: total}
}

type plainMeter struct {
	plain
	what  string
	total int64

	mu   sync.Mutex // guards seen: answers come from the client's goroutines
	seen int64
}

func (m *plainMeter) add(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	step := max(1, m.total/10)
	before := m.seen / step
	m.seen += int64(n)
	if m.seen/step > before {
		m.write(fmt.Sprintf("%s: %d of %d records", m.what, m.seen, m.total))
	}
}

func (m *plainMeter) end() {}
