package wire

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// apiVersionsKey is the one API whose response header never has tags.
const apiVersionsKey = int16(kmsg.ApiVersions)

// restAfter is how long a connection keeps a large reading buffer without a request.
const restAfter = 5 * time.Second

var (
	errDrained = errors.New("server stops")
	errIdle    = errors.New("connection was idle")
	errStopped = errors.New("no more requests are read")
	errPanic   = errors.New("handler panicked")
)

// errRefused closes a connection that sent what may not be answered.
type errRefused struct{ reason, detail string }

func (e errRefused) Error() string { return e.detail }

// errClosed is a handler's wish.
type errClosed struct{ error }

// Conn is one client's connection.
type Conn struct {
	s        *Server
	nc       net.Conn
	listener string
	host     string // advertised
	port     int32
	in       *inbox
	out      *outbox
	client   string      // the last client id, so that it is not allocated for each request
	sending  net.Buffers // what WriteTo uses up
	born     time.Time
	sent     atomic.Int64 // when the last answer was written, in nanoseconds after born

	ctx     context.Context // of the connection: handlers get it
	cancel  context.CancelCauseFunc
	reading context.Context // ends before ctx does, when no more requests are to be read
	stop    context.CancelFunc
	stopped atomic.Bool
}

func (s *Server) newConn(ctx context.Context, nc net.Conn, l net.Listener) *Conn {
	c := &Conn{
		s: s, nc: nc, in: newInbox(s.buffers), out: newOutbox(s.cfg.MaxPipelined, s.cfg.MaxUnwrittenBytes), born: time.Now(),
	}
	c.listener, c.host, c.port = identity(l)
	// The end of ctx stops the reading only: requests that were read are answered.
	c.ctx, c.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	c.reading, c.stop = context.WithCancel(c.ctx)
	return c
}

// Context ends when the connection does.
func (c *Conn) Context() context.Context { return c.ctx }

// Listener is the name of the listener through which the client came.
func (c *Conn) Listener() string { return c.listener }

// Advertised is the address that clients of this listener are told.
func (c *Conn) Advertised() (host string, port int32) { return c.host, c.port }

// RemoteAddr is the client's address.
func (c *Conn) RemoteAddr() net.Addr { return c.nc.RemoteAddr() }

// LocalAddr is the address that the client reached.
func (c *Conn) LocalAddr() net.Addr { return c.nc.LocalAddr() }

// run returns when the connection is closed and both its goroutines have ended.
func (c *Conn) run() {
	written := make(chan struct{})
	go func() {
		defer close(written)
		c.kill(c.write())
	}()
	err := c.read()
	if errors.Is(err, errStopped) {
		c.out.end()
		// What was asked before may still take its time; a client that was told to go does not get more than a drain's.
		impatience := time.AfterFunc(c.s.cfg.DrainTimeout, func() { c.kill(errDrained) })
		defer impatience.Stop()
	} else {
		c.kill(err)
	}
	<-written
	c.in.close()
	c.log(context.Cause(c.ctx))
}

// log tells the operator about what is worth it, and counts every end by its reason.
func (c *Conn) log(cause error) {
	reason := "closed"
	var (
		refused errRefused
		closed  errClosed
	)
	switch {
	case errors.As(cause, &closed):
		reason = "handler"
		if closed.error != nil {
			c.s.tell(slog.LevelInfo, "connection closed by its handler", "remote", c.nc.RemoteAddr().String(), "client", c.client,
				"error", closed.error)
		}
	case errors.As(cause, &refused):
		reason = refused.reason
		c.s.tell(slog.LevelWarn, "connection refused a request", "remote", c.nc.RemoteAddr().String(), "client", c.client,
			"reason", reason, "error", cause)
	case errors.Is(cause, errPanic):
		reason = "panic" // logged where it happened
	case errors.Is(cause, errIdle):
		reason = "idle"
	case errors.Is(cause, os.ErrDeadlineExceeded):
		reason = "slow"
		c.s.tell(slog.LevelWarn, "connection was too slow", "remote", c.nc.RemoteAddr().String(), "client", c.client, "error", cause)
	case errors.Is(cause, errDrained), errors.Is(cause, errStopped):
		reason = "drained"
	}
	c.s.metrics.closed.WithLabelValues(reason).Inc()
}

// kill ends the connection at once: the first cause counts. It may be called from anywhere, any number of times.
func (c *Conn) kill(cause error) {
	c.cancel(cause)
	c.nc.Close()
	c.out.die()
}

// stopReading makes the reader end before its next request. What was read is answered.
func (c *Conn) stopReading() {
	c.stopped.Store(true)
	c.stop()
	c.nc.SetReadDeadline(time.Unix(1, 0)) // wakes a reader that is waiting; one that is not looks at stopped
}

// read takes requests off the connection until it ends. errStopped means that it was asked to.
func (c *Conn) read() error {
	for {
		if err := c.next(); err != nil {
			if c.stopped.Load() {
				return errStopped
			}
			return err
		}
		if c.stopped.Load() {
			return errStopped
		}
		c.in.settle()
	}
}

// next reads one request and starts it.
func (c *Conn) next() error {
	if err := c.out.waitForRoom(c.reading); err != nil {
		return err
	}
	if err := c.await(); err != nil {
		return err
	}
	length, err := c.length()
	if err != nil {
		return err
	}
	charge, err := c.body(length)
	if err != nil {
		return err
	}
	frame := c.in.bytes()[4 : 4+length]
	c.s.metrics.bytesIn.Add(float64(4 + length))
	err = c.start(frame, charge)
	c.in.consume(4 + length)
	return err
}

// await waits for the first bytes of a frame, for as long as the connection may be idle.
func (c *Conn) await() error {
	since := time.Now()
	for c.in.len() == 0 {
		wait := c.s.cfg.IdleTimeout - c.idle(since)
		if !c.in.resting() {
			wait = min(wait, restAfter)
		}
		err := c.fill(1, wait)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return err
		case c.stopped.Load():
			return errStopped
		case c.out.waiting():
			since = time.Now() // a client that waits for us is not idle
		case c.idle(since) >= c.s.cfg.IdleTimeout:
			return errIdle
		}
		c.in.shrink()
	}
	return nil
}

// idle is how long nothing has happened, if nothing has come in since then.
func (c *Conn) idle(since time.Time) time.Duration {
	return min(time.Since(since), time.Since(c.born)-time.Duration(c.sent.Load()))
}

// fill reads until n bytes are there, within a time.
func (c *Conn) fill(n int, within time.Duration) error {
	if c.in.len() >= n {
		return nil
	}
	if err := c.nc.SetReadDeadline(time.Now().Add(within)); err != nil {
		return err
	}
	if c.stopped.Load() { // stopReading may have set its deadline before ours
		return errStopped
	}
	err := c.in.fill(c.nc, n)
	if err == io.EOF && c.in.len() > 0 {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// length reads a frame's length, key and version, and refuses what is too long before anything is allocated for it.
func (c *Conn) length() (int, error) {
	if err := c.fill(4, c.s.cfg.FrameTimeout); err != nil {
		return 0, err
	}
	length := int32(binary.BigEndian.Uint32(c.in.bytes()))
	if largest := c.s.cfg.MaxFrameBytes; length < minFrame || int64(length) > largest {
		return 0, errRefused{"frame-length", fmt.Sprintf("frame of %d bytes, want %d to %d", length, minFrame, largest)}
	}
	if err := c.fill(4+minFrame, c.s.cfg.FrameTimeout); err != nil {
		return 0, err
	}
	key, version := c.api()
	limit := c.s.cfg.FrameCap(key, version)
	if limit < 0 {
		return 0, errRefused{"unsupported", fmt.Sprintf("API key %d version %d is not supported", key, version)}
	}
	if length > limit {
		return 0, errRefused{"frame-cap", fmt.Sprintf("frame of %d bytes for API key %d, want at most %d", length, key, limit)}
	}
	return int(length), nil
}

// api reads key and version where length has made sure of them.
func (c *Conn) api() (key, version int16) {
	b := c.in.bytes()[4:]
	return int16(binary.BigEndian.Uint16(b)), int16(binary.BigEndian.Uint16(b[2:]))
}

// charge is what a request has taken from its budget: during is given back when Handle returns, after with the answer.
type charge struct {
	during, after int64
	last          bool // of Produce: see room
}

// body reads the rest of a frame, after its first bytes have come.
func (c *Conn) body(length int) (charge, error) {
	by := time.Now().Add(c.s.cfg.allow(c.s.cfg.FrameTimeout, int64(length)))
	if err := c.arrive(4+min(length, firstGrowth), by); err != nil {
		return charge{}, err
	}
	key, _ := c.api()
	weight := c.s.cfg.Weight(key)
	if key == produceKey {
		return c.produced(length, weight, by)
	}
	// It is taken in one piece, so that no two frames wait for each other's rest.
	total := min(weight*int64(length), c.s.cfg.othersShare())
	began := time.Now()
	if err := c.s.others.Acquire(c.reading, total); err != nil {
		return charge{}, context.Cause(c.reading)
	}
	if err := c.arrive(4+length, by.Add(time.Since(began))); err != nil {
		c.s.others.Release(total)
		return charge{}, err
	}
	after := min(int64(length), total)
	return charge{during: total - after, after: after}, nil
}

// produced reads the rest of a Produce frame: room is taken for what comes next, as much again as is there.
func (c *Conn) produced(length int, weight int64, by time.Time) (paid charge, err error) {
	for there := 0; there < length && err == nil; {
		there = min(length, max(2*there, pace))
		if n := min(weight*int64(there), c.s.cfg.produceShare()) - paid.during; n > 0 && !paid.last {
			began := time.Now()
			if paid.last, err = c.s.produce.take(c.reading, n, paid.during > 0); err != nil {
				break
			}
			if !paid.last {
				paid.during += n
			}
			by = by.Add(time.Since(began))
		}
		err = c.arrive(4+there, by)
	}
	if err != nil {
		c.s.produce.give(paid.during, paid.last)
		return charge{}, err
	}
	return paid, nil
}

// pace is what a client that has stopped is waited for: the next of so many bytes, or as many as have come.
const pace = 1 << 20

// arrive reads until n bytes are there, or a time has come. But who stops in the middle holds what the frame has taken no
// longer than its next step would take.
func (c *Conn) arrive(n int, by time.Time) error {
	cfg := &c.s.cfg
	for c.in.len() < n {
		step := min(n-c.in.len(), max(c.in.len(), pace))
		if err := c.fill(c.in.len()+step, min(time.Until(by), cfg.allow(cfg.FrameTimeout, int64(step)))); err != nil {
			return err
		}
	}
	return nil
}

// refund gives back what a request had taken while its handler ran.
func (s *Server) refund(key int16, paid charge) {
	if key == produceKey {
		s.produce.give(paid.during, paid.last)
		return
	}
	s.others.Release(paid.during)
}

// start parses a frame's header and calls the handler.
func (c *Conn) start(frame []byte, paid charge) error {
	key, version := c.api()
	defer c.s.refund(key, paid)
	flexible := c.s.isFlexible(key, version)
	h, err := parseHeader(frame, flexible)
	if err != nil {
		c.s.others.Release(paid.after)
		return errRefused{"header", fmt.Sprintf("API key %d version %d: %v", key, version, err)}
	}
	if string(h.client) != c.client {
		c.client = string(h.client)
	}
	x := &exchange{
		Request: Request{Key: key, Version: version, Correlation: h.correlation, ClientID: c.client, Body: frame[h.size:], Conn: c},
		slot:    slot{key: key, tags: flexible && key != apiVersionsKey, correlation: h.correlation, arrived: time.Now()},
		paid:    paid.after,
	}
	if key != produceKey {
		x.Body = append(make([]byte, 0, len(x.Body)), x.Body...)
	}
	c.out.add(&x.slot)
	err = c.handle(&x.Request, x.reply)
	if key == produceKey {
		x.Body = nil // lent for the call only
	}
	return err
}

// exchange is a request and the place of its answer, in one allocation.
type exchange struct {
	Request
	slot slot
	paid int64 // given back with the answer
}

func (x *exchange) reply(r Reply) { x.Conn.reply(&x.slot, x.paid, r) }

// handle runs the handler; its panic ends the connection and nothing else.
func (c *Conn) handle(r *Request, reply func(Reply)) (err error) {
	defer func() {
		if p := recover(); p != nil {
			c.s.log.Error("handler panicked", "api", r.Key, "version", r.Version, "client", r.ClientID,
				"remote", c.nc.RemoteAddr().String(), "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = errPanic
		}
	}()
	c.s.handler.Handle(c.ctx, r, reply)
	return nil
}

// reply takes a handler's answer.
func (c *Conn) reply(s *slot, paid int64, r Reply) {
	closes := r.Close
	if !c.out.put(s, r) {
		c.s.log.Error("request was answered twice", "api", s.key)
		return
	}
	c.s.others.Release(paid)
	c.s.metrics.observe(s.key, time.Since(s.arrived))
	if closes {
		c.stopReading()
	}
}

// write sends answers until there are no more, and says why.
func (c *Conn) write() error {
	var (
		slots   []*slot
		buffers net.Buffers
		heads   []byte
		total   int64
	)
	for {
		slots = c.out.take(slots[:0])
		if len(slots) == 0 {
			return errStopped
		}
		for i, s := range slots {
			if s.reply.Close { // what stands behind it is not sent
				c.out.written(slots[i+1:])
				slots = slots[:i+1]
				break
			}
		}
		last := slots[len(slots)-1].reply
		buffers, heads, total = gather(buffers[:0], heads, slots)
		err := c.send(buffers, total)
		clear(buffers)
		c.out.written(slots)
		if err != nil {
			return err
		}
		if last.Close {
			return errClosed{last.Err}
		}
	}
}

// send writes buffers with as few calls as the system allows.
func (c *Conn) send(buffers net.Buffers, total int64) error {
	if total == 0 {
		return nil
	}
	if err := c.nc.SetWriteDeadline(time.Now().Add(c.s.cfg.allow(c.s.cfg.WriteTimeout, total))); err != nil {
		return err
	}
	c.sending = buffers
	n, err := c.sending.WriteTo(c.nc)
	c.s.metrics.bytesOut.Add(float64(n))
	c.sent.Store(int64(time.Since(c.born)))
	return err
}
