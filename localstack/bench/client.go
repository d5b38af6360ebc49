package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// stuckAfter ends a connection on which nothing comes: the broker's own timeouts are shorter.
const stuckAfter = 60 * time.Second

// conn is one raw connection: frames out, answers in, in order.
type conn struct {
	nc   net.Conn
	buf  []byte
	r, w int
}

func dial(ctx context.Context, address string) (*conn, error) {
	nc, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return &conn{nc: nc, buf: make([]byte, 256<<10)}, nil
}

func (c *conn) close() { c.nc.Close() }

// buffered says whether a whole answer is there.
func (c *conn) buffered() bool {
	return c.w-c.r >= 4 && c.w-c.r >= 4+int(binary.BigEndian.Uint32(c.buf[c.r:]))
}

// maxAnswer bounds what an answer may claim: fetch.max.bytes and more.
const maxAnswer = 256 << 20

// next reads one answer: its correlation id and what stands behind it, which is valid until the next call.
func (c *conn) next() (correlation int32, body []byte, err error) {
	for !c.buffered() {
		need := 4
		if c.w-c.r >= 4 {
			need += int(binary.BigEndian.Uint32(c.buf[c.r:]))
		}
		if need > maxAnswer {
			return 0, nil, fmt.Errorf("answer of %d bytes, want at most %d", need, maxAnswer)
		}
		if len(c.buf)-c.r < need {
			to := c.buf
			if len(to) < need {
				to = make([]byte, need+need/4)
			}
			c.w = copy(to, c.buf[c.r:c.w])
			c.r, c.buf = 0, to
		}
		if err := c.nc.SetReadDeadline(time.Now().Add(stuckAfter)); err != nil {
			return 0, nil, err
		}
		n, err := c.nc.Read(c.buf[c.w:])
		c.w += n
		if err != nil && !c.buffered() {
			return 0, nil, err
		}
	}
	n := int(binary.BigEndian.Uint32(c.buf[c.r:]))
	if n < 4 {
		return 0, nil, fmt.Errorf("answer of %d bytes", n)
	}
	f := c.buf[c.r+4 : c.r+4+n]
	if c.r += 4 + n; c.r == c.w {
		c.r, c.w = 0, 0
	}
	return int32(binary.BigEndian.Uint32(f)), f[4:], nil
}

// produced is what a load came to.
type produced struct {
	requests int64
	bytes    int64 // of batches, on the wire
	took     time.Duration
	late     histogram // from the intended time to the answer, of an open loop
}

// produce sends a load in a closed loop: every connection keeps its depth in flight until all is acknowledged.
func produce(ctx context.Context, address, topic string, l load) (produced, error) {
	var left, sent atomic.Int64
	left.Store(int64(l.requests()))
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	sources, err := sourcesOf(ctx, address, topic, l)
	if err != nil {
		return produced{}, err
	}
	began := time.Now()
	var wg sync.WaitGroup
	for _, s := range sources {
		wg.Go(func() {
			defer s.conn.close()
			if err := s.closedLoop(ctx, &left, &sent); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	out := produced{requests: int64(l.requests()), bytes: sent.Load(), took: time.Since(began)}
	return out, context.Cause(ctx)
}

// source is one producing connection.
type source struct {
	conn      *conn
	frames    []*frame
	load      load
	partition int32 // of the next batch
	next      int   // frame
	sentIndex int32
}

func sourcesOf(ctx context.Context, address, topic string, l load) ([]*source, error) {
	sources := make([]*source, l.conns)
	for i := range sources {
		frames, err := l.frames(topic, uint64(i))
		if err != nil {
			return nil, err
		}
		c, err := dial(ctx, address)
		if err != nil {
			return nil, err
		}
		sources[i] = &source{conn: c, frames: frames, load: l, partition: int32(i * l.partitions / l.conns)}
	}
	return sources, nil
}

// take patches the next frame.
func (s *source) take() *frame {
	f := s.frames[s.next]
	s.next = (s.next + 1) % len(s.frames)
	f.patch(s.sentIndex, func(int) int32 {
		p := s.partition
		s.partition = (s.partition + 1) % int32(s.load.partitions)
		return p
	})
	s.sentIndex++
	return f
}

func (s *source) closedLoop(ctx context.Context, left, sent *atomic.Int64) error {
	stop := context.AfterFunc(ctx, s.conn.close)
	defer stop()
	inflight, answered := 0, int32(0)
	var out net.Buffers
	for {
		var bytes int64
		out = out[:0]
		for inflight+len(out) < s.load.depth && len(out) < len(s.frames) && left.Add(-1) >= 0 {
			f := s.take()
			out, bytes = append(out, f.bytes), bytes+int64(len(f.bytes))
		}
		if n := len(out); n > 0 {
			inflight += n
			sending := out
			if _, err := sending.WriteTo(s.conn.nc); err != nil {
				return err
			}
			sent.Add(bytes)
		}
		if inflight == 0 {
			return nil
		}
		for first := true; first || s.conn.buffered(); first = false {
			if err := s.answer(answered); err != nil {
				return err
			}
			answered++
			inflight--
		}
	}
}

func (s *source) answer(want int32) error {
	correlation, body, err := s.conn.next()
	if err != nil {
		return err
	}
	if correlation != want {
		return fmt.Errorf("answer to request %d, want %d", correlation, want)
	}
	return checkProduced(body)
}

// openLoop sends at a rate whatever the broker does: a request that cannot be sent in time is late, and its lateness
// counts. rate is of requests a second over all connections; started, if set, is told when the first one is meant to go.
func openLoop(ctx context.Context, address, topic string, l load, rate float64, lasting time.Duration, started func(time.Time)) (produced, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	sources, err := sourcesOf(ctx, address, topic, l)
	if err != nil {
		return produced{}, err
	}
	each := time.Duration(float64(time.Second) * float64(l.conns) / rate)
	count := max(1, int(lasting/each))
	began := time.Now().Add(20 * time.Millisecond)
	if started != nil {
		started(began)
	}
	late := make([]histogram, l.conns)
	var wg sync.WaitGroup
	for i, s := range sources {
		first := began.Add(each * time.Duration(i) / time.Duration(l.conns))
		at := func(k int32) time.Time { return first.Add(each * time.Duration(k)) }
		fail := func(err error) {
			if err != nil {
				cancel(err)
				s.conn.close()
			}
		}
		stop := context.AfterFunc(ctx, s.conn.close)
		defer stop()
		wg.Go(func() { fail(s.sendTimed(count, at)) })
		wg.Go(func() {
			defer s.conn.close()
			for k := range int32(count) {
				if err := s.answer(k); err != nil {
					fail(err)
					return
				}
				late[i].add(time.Since(at(k)))
			}
		})
	}
	wg.Wait()
	out := produced{requests: int64(count * l.conns), bytes: int64(count*l.conns) * int64(len(sources[0].frames[0].bytes)), took: time.Since(began)}
	for i := range late {
		out.late.merge(&late[i])
	}
	return out, context.Cause(ctx)
}

func (s *source) sendTimed(count int, at func(int32) time.Time) error {
	for k := range int32(count) {
		time.Sleep(time.Until(at(k)))
		if _, err := s.conn.nc.Write(s.take().bytes); err != nil {
			return err
		}
	}
	return nil
}

// firstAck tries until one batch is acknowledged, and says when.
func firstAck(ctx context.Context, address, topic string, l load) (time.Time, error) {
	l.conns, l.depth, l.total = 1, 1, int64(l.batchBytes)
	for {
		_, err := produce(ctx, address, topic, l)
		if err == nil {
			return time.Now(), nil
		}
		var refused brokerError
		var network *net.OpError
		if ctx.Err() != nil || !errors.As(err, &refused) && !errors.As(err, &network) {
			return time.Time{}, fmt.Errorf("no acknowledgement: %w", err)
		}
		time.Sleep(2 * time.Millisecond)
	}
}
