package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"varve.dev/objectstore"
)

// Producers and readers go on while the agent is killed, drained and started again, while everything is sealed, packed,
// evicted and collected as fast as it can be, and while the store fails at random. In the end each acknowledged record is
// at its offset, once, and readers have seen nothing else there.
func TestEverythingAtOnce(t *testing.T) {
	const (
		lives      = 5
		span       = 300 * time.Millisecond
		partitions = 3
		producers  = 3
	)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	w := newWorld(t, nil)
	rates := objectstore.FaultRates{Delay: 0.05, Unavailable: 0.02, Lost: 0.02, Truncate: 0.02, Corrupt: 0.02, MaxDelay: 20 * time.Millisecond}
	faults := objectstore.RandomFaults(seed, rates)
	set := []string{"catalog.poll.ms=10", "gc.interval.ms=10", "gc.grace.ms=20", "gc.orphan.grace.ms=20", "seal.check.interval.ms=10", "seal.age.ms=30",
		"seal.extent.min.bytes=20000", "cache.memory.bytes=1048576", "cache.disk.bytes=1048576", "session.beat.ms=50", "session.ttl.ms=500",
		"log.retention.check.interval.ms=10"}
	var address atomic.Pointer[string]
	dial := kgo.Dialer(func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", *address.Load())
	})
	start := func() *life {
		l := w.start(set...)
		a := l.listeners[0].Addr().String()
		address.Store(&a)
		return l
	}
	l := start()
	l.create("object", partitions, "segment.ms", "60")
	l.create("local", partitions, "varve.durability", "local", "segment.ms", "60")
	// An agent that is killed closes connections that have just come, and no client is to take that for a missing password.
	patient := []kgo.Opt{kgo.SeedBrokers("agent:1"), dial, kgo.AlwaysRetryEOF(), kgo.RetryBackoffFn(func(int) time.Duration { return 5 * time.Millisecond }),
		kgo.MetadataMinAge(10 * time.Millisecond), kgo.RecordDeliveryTimeout(patience), kgo.RecordRetries(1 << 30), kgo.RetryTimeout(patience)}

	// What was acknowledged: value by partition and offset.
	var mu sync.Mutex
	acked := map[place]string{}
	var refused error
	working, rest := context.WithCancel(t.Context())
	defer rest()
	var wg sync.WaitGroup
	for p := range producers {
		c, err := kgo.NewClient(append(patient, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(time.Millisecond))...)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			defer c.Close()
			for i := 0; working.Err() == nil; i++ {
				topic := []string{"object", "local"}[i%2]
				r := &kgo.Record{Topic: topic, Partition: int32(i % partitions), Value: fmt.Appendf(nil, "%d-%d-%0*d", p, i, i%2000, 0)}
				c.Produce(context.WithoutCancel(working), r, func(r *kgo.Record, err error) {
					mu.Lock()
					defer mu.Unlock()
					if err != nil {
						refused = err
						return
					}
					at := place{r.Topic, r.Partition, r.Offset}
					if before, ok := acked[at]; ok {
						t.Errorf("%+v was acknowledged to %.20s and to %.20s", at, before, r.Value)
					}
					acked[at] = string(r.Value)
				})
				if i%20 == 19 {
					c.Flush(working)
				}
			}
			ctx, cancel := context.WithTimeout(context.WithoutCancel(working), patience)
			defer cancel()
			if err := c.Flush(ctx); err != nil {
				t.Errorf("flush: %v", err)
			}
		})
	}
	shown := map[place]string{}
	reader, err := kgo.NewClient(append(patient, kgo.ConsumeTopics("object", "local"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(20*time.Millisecond))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(reader.Close)
	readingDone := make(chan struct{})
	wg.Go(func() {
		defer close(readingDone)
		for working.Err() == nil {
			fetches := reader.PollFetches(working)
			fetches.EachError(func(topic string, p int32, err error) {
				var lost *kgo.ErrDataLoss
				if errors.As(err, &lost) {
					t.Errorf("a reader of %s/%d is told that records were lost: %v", topic, p, err)
				}
			})
			fetches.EachRecord(func(r *kgo.Record) { shown[place{r.Topic, r.Partition, r.Offset}] = string(r.Value) })
		}
	})

	w.broken.Store(&faults)
	for i := range lives {
		end := time.After(span)
		for waiting := true; waiting; {
			select {
			case <-end:
				waiting = false
			case <-time.After(time.Duration(random.IntN(50)) * time.Millisecond):
				l.evictAll()
			}
		}
		if i%2 == 0 {
			l.kill()
			<-l.ended
		} else {
			l.stop()
		}
		l = start()
	}
	rest()
	w.broken.Store(nil)
	wg.Wait()
	<-readingDone

	if refused != nil {
		t.Errorf("a producer that tries again and again is refused for good: %v", refused)
	}
	got := map[place]string{}
	seen := map[string]bool{}
	c := l.dial()
	for _, topic := range []string{"object", "local"} {
		for p := range int32(partitions) {
			next := int64(0)
			for _, b := range c.read(topic, p, 0) {
				if b.IsControl() {
					t.Errorf("%s/%d: a control batch at %d", topic, p, b.Base())
				}
				next = b.End()
			}
			end := c.offset(topic, p, -1).Offset
			if next != end {
				t.Errorf("%s/%d: the last batch ends at %d, the log at %d", topic, p, next, end)
			}
		}
	}
	final, err := kgo.NewClient(append(patient, kgo.ConsumeTopics("object", "local"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(final.Close)
	want := 0
	for _, topic := range []string{"object", "local"} {
		for p := range int32(partitions) {
			want += int(c.offset(topic, p, -1).Offset)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for len(got) < want && ctx.Err() == nil {
		final.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
			got[place{r.Topic, r.Partition, r.Offset}] = string(r.Value)
			if seen[string(r.Value)] {
				t.Errorf("%.20s is there twice, again at %s/%d/%d", r.Value, r.Topic, r.Partition, r.Offset)
			}
			seen[string(r.Value)] = true
		})
	}
	for at, value := range acked {
		if got[at] != value {
			t.Errorf("%+v was acknowledged as %.20s and holds %.20q", at, value, got[at])
		}
	}
	for at, value := range shown {
		if got[at] != value {
			t.Errorf("%+v was shown as %.20s and holds %.20q", at, value, got[at])
		}
	}
	if len(acked) < 100 || len(shown) == 0 {
		t.Errorf("%d records were acknowledged, %d shown: too few to prove anything", len(acked), len(shown))
	}
	t.Logf("%d acknowledged, %d shown, %d read", len(acked), len(shown), len(got))
	l.stop()
	w.verify()
}

type place struct {
	topic     string
	partition int32
	offset    int64
}
