package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kbin"

	"varve.dev/tiering/batch"
)

// appetite is what consumers ask for: Java's defaults, but for the partitions that each reads.
type appetite struct {
	partitions     int
	partitionBytes int32 // max.partition.fetch.bytes
	maxBytes       int32 // fetch.max.bytes
	minBytes       int32
	maxWait        time.Duration
}

func newAppetite(partitions int) appetite {
	return appetite{partitions: partitions, partitionBytes: 1 << 20, maxBytes: 50 << 20, minBytes: 1, maxWait: 500 * time.Millisecond}
}

// fetchFrame is a fetch of partitions from first on; offsets says where their offsets stand.
func fetchFrame(topic string, first int, a appetite) (f *frame, offsets []int) {
	f = &frame{}
	b := appendHeader(nil, fetchKey, fetchVersion)
	b = kbin.AppendInt32(b, -1) // a consumer
	b = kbin.AppendInt32(b, int32(a.maxWait.Milliseconds()))
	b = kbin.AppendInt32(b, a.minBytes)
	b = kbin.AppendInt32(b, a.maxBytes)
	b = kbin.AppendInt8(b, 0)
	b = kbin.AppendInt32(b, 0)  // no session
	b = kbin.AppendInt32(b, -1) // and none to be made
	b = kbin.AppendCompactArrayLen(b, 1)
	b = kbin.AppendCompactString(b, topic)
	b = kbin.AppendCompactArrayLen(b, a.partitions)
	for p := range a.partitions {
		b = kbin.AppendInt32(b, int32(first+p))
		b = kbin.AppendInt32(b, -1)
		offsets = append(offsets, len(b))
		b = kbin.AppendInt64(b, 0)
		b = kbin.AppendInt32(b, -1)
		b = kbin.AppendInt64(b, -1)
		b = kbin.AppendInt32(b, a.partitionBytes)
		b = append(b, 0)
	}
	b = append(b, 0)
	b = kbin.AppendCompactArrayLen(b, 0)
	b = kbin.AppendCompactString(b, "")
	f.bytes = finish(append(b, 0))
	return f, offsets
}

// eachFetched walks over a Fetch answer behind its length and correlation id.
func eachFetched(body []byte, yield func(partition int32, records []byte)) error {
	r := kbin.Reader{Src: body}
	r.Uvarint() // tags of the header
	r.Int32()
	if code := r.Int16(); code != 0 {
		return brokerError{"fetch", -1, code}
	}
	r.Int32()
	for range r.CompactArrayLen() {
		r.Span(int(r.Uvarint()) - 1)
		for range r.CompactArrayLen() {
			p := r.Int32()
			if code := r.Int16(); code != 0 {
				return brokerError{"fetch", p, code}
			}
			r.Span(8 + 8 + 8)
			if n := r.CompactArrayLen(); n > 0 {
				return fmt.Errorf("fetch: %d aborted transactions in partition %d", n, p)
			}
			r.Int32()
			if n := int(r.Uvarint()) - 1; n > 0 {
				yield(p, r.Span(n))
			}
			for range r.Uvarint() {
				r.Uvarint()
				r.Span(int(r.Uvarint()))
			}
		}
		r.Uvarint()
	}
	r.Uvarint()
	return r.Complete()
}

// afterLast walks over whole batches: the offset behind the last one, and their bytes. Kafka cuts the last one short.
func afterLast(records []byte, each func(b batch.Batch)) (next int64, whole int) {
	next = -1
	for len(records)-whole >= batch.HeaderSize {
		n := 12 + int(int32(binary.BigEndian.Uint32(records[whole+8:])))
		if n < batch.HeaderSize || n > len(records)-whole {
			break
		}
		b := batch.Batch(records[whole : whole+n])
		if each != nil {
			each(b)
		}
		next, whole = b.End(), whole+n
	}
	return next, whole
}

// consumer reads partitions from offset 0 on.
type consumer struct {
	conn    *conn
	frame   *frame
	offsets []int // where the next offsets stand in frame
	next    []int64
	first   int
	bytes   int64
	answers int64
	asked   int32
	seen    func(partition int32, b batch.Batch) // nil: nobody asks
}

func newConsumer(ctx context.Context, address, topic string, first int, a appetite) (*consumer, error) {
	c, err := dial(ctx, address)
	if err != nil {
		return nil, err
	}
	f, offsets := fetchFrame(topic, first, a)
	return &consumer{conn: c, frame: f, offsets: offsets, next: make([]int64, a.partitions), first: first}, nil
}

// once asks and takes one answer.
func (c *consumer) once() error {
	for i, at := range c.offsets {
		binary.BigEndian.PutUint64(c.frame.bytes[at:], uint64(c.next[i]))
	}
	binary.BigEndian.PutUint32(c.frame.bytes[correlationAt:], uint32(c.asked))
	if _, err := c.conn.nc.Write(c.frame.bytes); err != nil {
		return err
	}
	correlation, body, err := c.conn.next()
	if err != nil {
		return err
	}
	if correlation != c.asked {
		return fmt.Errorf("answer to fetch %d, want %d", correlation, c.asked)
	}
	c.asked++
	c.answers++
	return eachFetched(body, func(p int32, records []byte) {
		next, whole := afterLast(records, func(b batch.Batch) {
			if c.seen != nil && b.Base() >= c.next[int(p)-c.first] {
				c.seen(p, b)
			}
		})
		if next >= 0 {
			c.next[int(p)-c.first] = next
			c.bytes += int64(whole)
		}
	})
}

// until reads until the partitions have reached their ends.
func (c *consumer) until(ctx context.Context, ends []int64) error {
	stop := context.AfterFunc(ctx, c.conn.close)
	defer stop()
	defer c.conn.close()
	for {
		left := false
		for i, end := range ends {
			left = left || c.next[i] < end
		}
		if !left {
			return nil
		}
		if err := c.once(); err != nil {
			return err
		}
	}
}

// consumed is what consumers have read together.
type consumed struct {
	bytes, answers int64
	took           time.Duration
}

// replay reads a whole topic by n consumers, each of which reads everything, or its part where they split the partitions.
func replay(ctx context.Context, address, topic string, a appetite, n int, split bool, ends []int64) (consumed, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	began := time.Now()
	var wg sync.WaitGroup
	all := make([]*consumer, n)
	for i := range n {
		mine, first := a, 0
		if split {
			first = i * a.partitions / n
			mine.partitions = (i+1)*a.partitions/n - first
		}
		c, err := newConsumer(ctx, address, topic, first, mine)
		if err != nil {
			return consumed{}, err
		}
		all[i] = c
		wg.Go(func() {
			if err := c.until(ctx, ends[first:first+mine.partitions]); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	out := consumed{took: time.Since(began)}
	for _, c := range all {
		out.bytes, out.answers = out.bytes+c.bytes, out.answers+c.answers
	}
	return out, context.Cause(ctx)
}

// arrivals times every batch from the moment at which it was meant to be sent: one connection sends to partitions in
// turn, so a batch's offset says which it was.
type arrivals struct {
	per, partitions int64         // records of a batch, partitions in turn
	each            time.Duration // between two batches

	mu    sync.Mutex
	began time.Time
	late  histogram
}

func (a *arrivals) start(at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.began = at
}

func (a *arrivals) seen(p int32, b batch.Batch) {
	nth := b.Base()/a.per*a.partitions + int64(p)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.late.add(time.Since(a.began.Add(time.Duration(nth) * a.each)))
}

// follow reads the tail until ctx ends.
func (c *consumer) follow(ctx context.Context) error {
	stop := context.AfterFunc(ctx, c.conn.close)
	defer stop()
	defer c.conn.close()
	for ctx.Err() == nil {
		if err := c.once(); err != nil && ctx.Err() == nil {
			return errors.Join(errors.New("a tailing consumer ended"), err)
		}
	}
	return nil
}
