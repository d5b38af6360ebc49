package sim

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

// network is connections in memory. A packet takes its time; a connection may break, in the middle of a packet too.
type network struct {
	plan *plan

	mu    sync.Mutex
	ports map[string]*listener // by port, of whoever listened last
	rng   *rand.Rand
	conns map[*conn]*gate // server's ends, and whose they are
}

func newNetwork(p *plan) *network {
	return &network{plan: p, ports: map[string]*listener{}, rng: p.rng("network"), conns: map[*conn]*gate{}}
}

// What a client hears of an agent that is not there, and of a connection that is gone.
var (
	errRefused = &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	errReset   = &net.OpError{Op: "write", Net: "tcp", Err: os.NewSyscallError("write", syscall.ECONNRESET)}
)

// listen is what one life listens with.
func (n *network) listen(g *gate) func(context.Context, string, string) (net.Listener, error) {
	return func(_ context.Context, _, address string) (net.Listener, error) {
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		l := &listener{n: n, gate: g, port: port, queue: make(chan *conn, 64), closed: make(chan struct{})}
		n.mu.Lock()
		n.ports[port] = l
		n.mu.Unlock()
		return l, nil
	}
}

// dial reaches whoever listens now.
func (n *network) dial(ctx context.Context, _, address string) (net.Conn, error) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	l := n.ports[port]
	delay := time.Duration(n.rng.IntN(2000)) * time.Microsecond
	n.mu.Unlock()
	if !sleep(ctx, delay) {
		return nil, ctx.Err()
	}
	if l == nil || l.gate.isDead() {
		return nil, errRefused
	}
	client, server := n.pipe(l.gate)
	select {
	case l.queue <- server:
		return client, nil
	case <-l.closed:
		return nil, errRefused
	}
}

func (n *network) pipe(g *gate) (client, server *conn) {
	up, down := newHalf(), newHalf()
	client = &conn{n: n, in: down, out: up}
	server = &conn{n: n, in: up, out: down, gate: g}
	client.peer, server.peer = server, client
	n.mu.Lock()
	n.conns[server] = g
	n.mu.Unlock()
	return client, server
}

// cut ends every connection of a life: what it has sent before is on its way.
func (n *network) cut(g *gate) {
	n.mu.Lock()
	var of []*conn
	for c, owner := range n.conns {
		if owner == g {
			of = append(of, c)
		}
	}
	n.mu.Unlock()
	for _, c := range of {
		c.end(true)
	}
}

// fate of one packet.
type fate struct {
	delay time.Duration
	cut   bool // the connection ends behind it
	keep  int  // bytes that arrive; -1: all
}

func (n *network) fate(size int) fate {
	n.mu.Lock()
	defer n.mu.Unlock()
	f := fate{delay: time.Duration(50+n.rng.IntN(1500)) * time.Microsecond, keep: -1}
	if rate, on := n.plan.rate(netSlow); on && n.rng.Float64() < rate {
		f.delay += time.Duration(n.rng.IntN(1500)) * time.Millisecond
		n.plan.count(fault(netSlow))
	}
	if rate, on := n.plan.rate(netCut); on && n.rng.Float64() < rate {
		f.cut = true
		n.plan.count(fault(netCut))
		f.keep = []int{-1, 0, n.rng.IntN(size + 1)}[n.rng.IntN(3)]
	}
	return f
}

type listener struct {
	n      *network
	gate   *gate
	port   string
	queue  chan *conn
	closed chan struct{}
	once   sync.Once
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.n.mu.Lock()
		if l.n.ports[l.port] == l {
			delete(l.n.ports, l.port)
		}
		l.n.mu.Unlock()
	})
	for {
		select {
		case c := <-l.queue:
			c.Close()
		default:
			return nil
		}
	}
}

func (l *listener) Addr() net.Addr { return loopback{} }

// loopback is every address: this machine.
type loopback struct{}

func (loopback) Network() string { return "tcp" }
func (loopback) String() string  { return "127.0.0.1:9092" }

type packet struct {
	at time.Time
	b  []byte
}

// half is one direction.
type half struct {
	mu       sync.Mutex
	queue    []packet
	last     time.Time // when the newest packet arrives: they do not overtake each other
	ended    bool      // nothing comes behind what is queued
	reset    bool      // and not in peace
	closed   bool      // the reader is gone
	deadline time.Time
	news     chan struct{} // closed when anything of this changes
}

func newHalf() *half { return &half{news: make(chan struct{})} }

// tell wakes the reader. The caller holds mu.
func (h *half) tell() {
	close(h.news)
	h.news = make(chan struct{})
}

func (h *half) read(p []byte) (int, error) {
	for {
		h.mu.Lock()
		now := time.Now()
		var wait time.Duration = -1
		switch {
		case h.closed:
			h.mu.Unlock()
			return 0, net.ErrClosed
		case !h.deadline.IsZero() && !now.Before(h.deadline):
			h.mu.Unlock()
			return 0, os.ErrDeadlineExceeded
		case len(h.queue) > 0 && !now.Before(h.queue[0].at):
			n := copy(p, h.queue[0].b)
			if h.queue[0].b = h.queue[0].b[n:]; len(h.queue[0].b) == 0 {
				h.queue = h.queue[1:]
			}
			h.mu.Unlock()
			return n, nil
		case len(h.queue) > 0:
			wait = h.queue[0].at.Sub(now)
		case h.ended:
			defer h.mu.Unlock()
			if h.reset {
				return 0, errReset
			}
			return 0, io.EOF
		}
		if !h.deadline.IsZero() && (wait < 0 || h.deadline.Sub(now) < wait) {
			wait = h.deadline.Sub(now)
		}
		news := h.news
		h.mu.Unlock()
		if wait < 0 {
			<-news
			continue
		}
		t := time.NewTimer(wait)
		select {
		case <-news:
		case <-t.C:
		}
		t.Stop()
	}
}

func (h *half) write(b []byte, delay time.Duration) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || h.ended {
		return false
	}
	if len(b) > 0 {
		at := time.Now().Add(delay)
		if at.Before(h.last) {
			at = h.last
		}
		h.last = at
		h.queue = append(h.queue, packet{at, slices.Clone(b)})
		h.tell()
	}
	return true
}

func (h *half) end(closed, reset bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reset = h.reset || reset && !h.ended
	h.ended = true
	h.closed = h.closed || closed
	h.tell()
}

// conn is one end. gate is nil at the client's.
type conn struct {
	n       *network
	in, out *half
	gate    *gate
	peer    *conn
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.in.read(p)
	if c.gate != nil && !c.gate.pass(context.Background()) {
		return 0, net.ErrClosed
	}
	return n, err
}

func (c *conn) Write(p []byte) (int, error) {
	if c.gate != nil && !c.gate.pass(context.Background()) {
		return 0, net.ErrClosed
	}
	f := c.n.fate(len(p))
	b := p
	if f.keep >= 0 {
		b = p[:f.keep]
	}
	if !c.out.write(b, f.delay) {
		return 0, errReset
	}
	if f.cut {
		c.end(true)
		return 0, errReset
	}
	return len(p), nil
}

// Close ends both directions: what was written before arrives.
func (c *conn) Close() error { return c.end(false) }

func (c *conn) end(reset bool) error {
	c.in.end(true, reset)
	c.out.end(false, reset)
	server := c
	if c.gate == nil {
		server = c.peer
	}
	c.n.mu.Lock()
	delete(c.n.conns, server)
	c.n.mu.Unlock()
	return nil
}

func (c *conn) LocalAddr() net.Addr  { return loopback{} }
func (c *conn) RemoteAddr() net.Addr { return loopback{} }
func (c *conn) SetDeadline(t time.Time) error {
	return c.SetReadDeadline(t)
}
func (c *conn) SetReadDeadline(t time.Time) error {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	c.in.deadline = t
	c.in.tell()
	return nil
}

// SetWriteDeadline is nothing: a write never waits.
func (c *conn) SetWriteDeadline(time.Time) error { return nil }

// sleep is false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
