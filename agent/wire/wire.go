// Package wire carries Kafka frames over connections: limits, order, pipelining, deadlines. Bytes, no meaning.
//
// A connection has two goroutines. The reading one takes frames off the socket and calls the Handler for each, one after
// another: a handler that blocks holds up what is behind it on its connection, and only that. The writing one sends
// answers strictly in the order of their requests, all that are ready with one writev. Answers may be given later and by
// any goroutine, so requests are pipelined up to Config.MaxPipelined.
//
// What a stranger can make the server hold is bounded before it is held: frames by a cap for each API, all frames
// together by a budget in bytes that is taken before a frame's body is read (of Produce: as it arrives), a frame's memory by
// the bytes that have really arrived, answers that nobody reads by Config.MaxUnwrittenBytes and a deadline.
package wire

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/semaphore"
)

// Request is one frame. Body is the connection's own buffer and valid only during Handle when the key is Produce; for
// every other key it is a copy that belongs to the handler.
type Request struct {
	Key, Version int16
	Correlation  int32
	ClientID     string // "" also where the client sent null
	Body         []byte
	Conn         *Conn
}

// Reply is one answer. Parts is the body behind the response header, which wire writes itself.
type Reply struct {
	Parts net.Buffers
	// Release, if set, is called exactly once: after the bytes were written, or when they never will be.
	Release func()
	// NoReply means that nothing is written (acks=0). The reply must be given all the same: it keeps the order.
	NoReply bool
	// Close ends the connection after this answer, or in its place where NoReply is set. Earlier answers still go out.
	Close bool
	// Err says why Close is set, for the log.
	Err error
}

// Handler starts a request. reply is called exactly once, at once or later, from any goroutine, and never blocks; the
// connection keeps the order. ctx ends with the connection.
type Handler interface {
	Handle(ctx context.Context, r *Request, reply func(Reply))
}

// Kafka's own bounds on a frame's length.
const (
	// MaxFrame is the default of socket.request.max.bytes.
	MaxFrame = 100 << 20
	// minFrame is key, version and correlation id.
	minFrame = 8
	// produceKey is the one API whose body is lent, not copied.
	produceKey = 0
)

// Config is the server's limits. A zero field means its default.
type Config struct {
	// MaxFrameBytes bounds every frame, whatever its API (socket.request.max.bytes). Default MaxFrame.
	MaxFrameBytes int64
	// FrameCap is the largest frame in bytes of an API at a version, header included. Negative: unknown, the connection
	// is closed before the body is read. Default: MaxFrame for all.
	FrameCap func(key, version int16) int32
	// Weight is how many bytes decoding may make of one byte of this API's frames; the budget counts with it while
	// Handle runs. Default: 1 for all.
	Weight func(key int16) int64
	// MaxInFlightBytes bounds the frames of all connections from their reading to their answer (of Produce: to the end of
	// Handle, since its records are then in a window that has its own bound). Three quarters are for Produce, of which one
	// frame may exceed them; a quarter is for all others. Default 512 MiB: five of the largest frames.
	MaxInFlightBytes int64
	// MaxPipelined bounds the unanswered requests of one connection. Default 256: a producer's 5 in flight, many times.
	MaxPipelined int
	// MaxUnwrittenBytes bounds the answers that wait for one slow reader: while they are more, its next request waits.
	// Default 16 MiB.
	MaxUnwrittenBytes int64
	// MaxConnections bounds the open connections. Default 10,000: some 30 KiB each when idle, 300 MiB.
	MaxConnections int
	// MaxConnectionsPerIP bounds those from one address. Default: MaxConnections.
	MaxConnectionsPerIP int
	// IdleTimeout closes a connection without requests or answers (connections.max.idle.ms). Default 10 min.
	IdleTimeout time.Duration
	// FrameTimeout is how long a frame may take to arrive after its first byte, and WriteTimeout how long answers may take
	// to be taken by the client; both are longer by the frame's or the answers' bytes at MinBytesPerSecond. Default 30 s.
	FrameTimeout, WriteTimeout time.Duration
	// MinBytesPerSecond is the slowest client that is waited for. Default 256 KiB/s: a 2 Mbit/s line.
	MinBytesPerSecond int64
	// DrainTimeout is how long Serve waits for open requests after its context has ended. Default 10 s.
	DrainTimeout time.Duration
}

func (c Config) withDefaults() Config {
	if c.FrameCap == nil {
		c.FrameCap = func(int16, int16) int32 { return MaxFrame }
	}
	if c.Weight == nil {
		c.Weight = func(int16) int64 { return 1 }
	}
	orDefault(&c.MaxFrameBytes, MaxFrame)
	orDefault(&c.MaxInFlightBytes, 512<<20)
	orDefault(&c.MaxPipelined, 256)
	orDefault(&c.MaxUnwrittenBytes, 16<<20)
	orDefault(&c.MaxConnections, 10_000)
	orDefault(&c.MaxConnectionsPerIP, c.MaxConnections)
	orDefault(&c.IdleTimeout, 10*time.Minute)
	orDefault(&c.FrameTimeout, 30*time.Second)
	orDefault(&c.WriteTimeout, 30*time.Second)
	orDefault(&c.MinBytesPerSecond, 256<<10)
	orDefault(&c.DrainTimeout, 10*time.Second)
	return c
}

// produceShare is what of the budget Produce may take: three quarters. Its requests wait for room where a store is away, and
// nobody else is to wait with them.
func (c *Config) produceShare() int64 { return c.MaxInFlightBytes - c.othersShare() }

func (c *Config) othersShare() int64 { return c.MaxInFlightBytes / 4 }

func orDefault[T int | int64 | time.Duration](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}

// allow is a timeout plus the time that n bytes take at the slowest pace.
func (c *Config) allow(timeout time.Duration, n int64) time.Duration {
	return timeout + time.Duration(n)*time.Second/time.Duration(c.MinBytesPerSecond)
}

// Server serves any number of listeners under common limits.
type Server struct {
	handler  Handler
	log      *slog.Logger
	cfg      Config
	metrics  *metrics
	produce  room                // what of the budget Produce may take
	others   *semaphore.Weighted // and all others
	buffers  *buffers
	flexible [kmsg.MaxKey + 1]int16 // first flexible version of each key; -1: none

	told   atomic.Int64 // when strangers were last written about, in nanoseconds of the Unix epoch
	untold atomic.Int64 // lines about them that were left out since

	open  atomic.Int64 // connections
	mu    sync.Mutex   // guards perIP
	perIP map[netip.Addr]int
}

// New makes a server that hands every request to h.
func New(h Handler, log *slog.Logger, reg prometheus.Registerer, cfg Config) *Server {
	cfg = cfg.withDefaults()
	s := &Server{
		handler:  h,
		log:      log,
		cfg:      cfg,
		metrics:  newMetrics(reg),
		produce:  room{free: cfg.produceShare()},
		others:   semaphore.NewWeighted(cfg.othersShare()),
		buffers:  new(buffers),
		flexible: firstFlexible(),
		perIP:    map[netip.Addr]int{},
	}
	return s
}

// firstFlexible asks kmsg from which version on each key's request header carries tags.
func firstFlexible() (first [kmsg.MaxKey + 1]int16) {
	for key := range first {
		first[key] = -1
		r := kmsg.RequestForKey(int16(key))
		if r == nil {
			continue
		}
		for v := int16(0); v <= r.MaxVersion(); v++ {
			if r.SetVersion(v); r.IsFlexible() {
				first[key] = v
				break
			}
		}
	}
	return first
}

// isFlexible also answers for versions that we do not know: a client may ask for ApiVersions of the future.
func (s *Server) isFlexible(key, version int16) bool {
	if key < 0 || int(key) >= len(s.flexible) {
		return false
	}
	first := s.flexible[key]
	return first >= 0 && version >= first
}

// Serve accepts connections from l, which it closes, until ctx ends; then it reads no more requests, answers those that
// were read within Config.DrainTimeout, and returns nil when no connection is left.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer l.Close()
	set := &connSet{conns: map[*Conn]struct{}{}}
	err := s.accept(ctx, l, set)
	set.drain(s.cfg.DrainTimeout)
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("listener %s: %w", l.Addr(), err)
}

// accept returns when the listener is closed or broken. Running out of descriptors is neither: it waits and goes on.
func (s *Server) accept(ctx context.Context, l net.Listener, set *connSet) error {
	const firstPause, lastPause = 5 * time.Millisecond, time.Second
	pause := firstPause
	for {
		nc, err := l.Accept()
		if err != nil {
			var ne net.Error
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) || !errors.As(err, &ne) {
				return err
			}
			s.log.Warn("accept failed", "listener", l.Addr().String(), "error", err)
			select {
			case <-ctx.Done():
				return err
			case <-time.After(pause):
			}
			pause = min(2*pause, lastPause)
			continue
		}
		pause = firstPause
		ip := remoteIP(nc)
		if why := s.admit(ip); why != "" {
			s.metrics.refused.WithLabelValues(why).Inc()
			s.log.Debug("connection refused", "remote", nc.RemoteAddr().String(), "reason", why)
			nc.Close()
			continue
		}
		c := s.newConn(ctx, nc, l)
		set.add(c)
		set.running.Go(func() {
			c.run()
			set.remove(c)
			s.leave(ip)
		})
	}
}

func remoteIP(nc net.Conn) netip.Addr {
	if a, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// admit counts a connection, or says why it may not come in.
func (s *Server) admit(ip netip.Addr) string {
	if s.open.Add(1) > int64(s.cfg.MaxConnections) {
		s.open.Add(-1)
		return "connections"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if ip.IsValid() && s.perIP[ip] >= s.cfg.MaxConnectionsPerIP {
		s.open.Add(-1)
		return "connections-per-ip"
	}
	s.perIP[ip]++
	s.metrics.connections.Inc()
	return ""
}

func (s *Server) leave(ip netip.Addr) {
	s.mu.Lock()
	if s.perIP[ip]--; s.perIP[ip] == 0 {
		delete(s.perIP, ip)
	}
	s.mu.Unlock()
	s.open.Add(-1)
	s.metrics.connections.Dec()
}

// tellEvery bounds the lines that strangers can make the log grow by; metrics count every one of them.
const tellEvery = time.Second

// tell writes about a stranger, unless one was written about just now.
func (s *Server) tell(level slog.Level, message string, attrs ...any) {
	last, now := s.told.Load(), time.Now().UnixNano()
	if last != 0 && now-last < int64(tellEvery) || !s.told.CompareAndSwap(last, now) {
		s.untold.Add(1)
		return
	}
	if n := s.untold.Swap(0); n > 0 {
		attrs = append(attrs, "untold", n)
	}
	s.log.Log(context.Background(), level, message, attrs...)
}

// connSet is the connections of one listener.
type connSet struct {
	running sync.WaitGroup
	mu      sync.Mutex
	conns   map[*Conn]struct{}
}

func (s *connSet) add(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[c] = struct{}{}
}

func (s *connSet) remove(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

func (s *connSet) each(do func(*Conn)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		do(c)
	}
}

// drain ends all connections: gently at first, after the timeout at once.
func (s *connSet) drain(timeout time.Duration) {
	s.each((*Conn).stopReading)
	impatience := time.AfterFunc(timeout, func() {
		s.each(func(c *Conn) { c.kill(errDrained) })
	})
	defer impatience.Stop()
	s.running.Wait()
}
