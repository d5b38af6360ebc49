package wire

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// The keys that tests use, with flexible and inflexible versions.
const (
	metadataKey = 3
	fetchKey    = 1
)

// memory is a listener whose connections are pipes.
type memory struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newMemory() *memory { return &memory{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (m *memory) Accept() (net.Conn, error) {
	select {
	case c := <-m.conns:
		return c, nil
	case <-m.closed:
		return nil, net.ErrClosed
	}
}

func (m *memory) Close() error {
	m.once.Do(func() { close(m.closed) })
	return nil
}

func (m *memory) Addr() net.Addr { return memoryAddr{} }

type memoryAddr struct{}

func (memoryAddr) Network() string { return "memory" }
func (memoryAddr) String() string  { return "memory" }

// seen is a request as the test's handler got it.
type seen struct {
	*Request
	reply func(Reply)
	lent  []byte // its body, as it was during Handle
}

type handlerFunc func(context.Context, *Request, func(Reply))

func (f handlerFunc) Handle(ctx context.Context, r *Request, reply func(Reply)) { f(ctx, r, reply) }

// fixture is a server on a listener in memory; its requests arrive in a channel and wait for the test's answers.
type fixture struct {
	t        *testing.T
	l        *memory
	requests chan seen
	stop     context.CancelFunc
	served   chan error
	log      *bytes.Buffer
	mu       sync.Mutex
}

func (f *fixture) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.log.Write(p)
}

func (f *fixture) logged() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.log.String()
}

func serve(t *testing.T, cfg Config) *fixture {
	t.Helper()
	f := &fixture{t: t, l: newMemory(), requests: make(chan seen, 1000), served: make(chan error, 1), log: new(bytes.Buffer)}
	h := handlerFunc(func(_ context.Context, r *Request, reply func(Reply)) {
		if r.ClientID == "panic" {
			panic("told to")
		}
		f.requests <- seen{r, reply, r.Body}
	})
	s := New(h, slog.New(slog.NewTextHandler(f, nil)), prometheus.NewRegistry(), cfg)
	ctx, stop := context.WithCancel(t.Context())
	f.stop = stop
	go func() { f.served <- s.Serve(ctx, f.l) }()
	t.Cleanup(func() {
		stop()
		if err := <-f.served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return f
}

func (f *fixture) dial() net.Conn {
	here, there := net.Pipe()
	f.l.conns <- there
	f.t.Cleanup(func() { here.Close() })
	return here
}

// next is the next request that the handler got.
func (f *fixture) next() seen {
	f.t.Helper()
	synctest.Wait()
	select {
	case r := <-f.requests:
		return r
	default:
		f.t.Fatal("no request reached the handler")
		panic("unreachable")
	}
}

func (f *fixture) noRequest() {
	f.t.Helper()
	synctest.Wait()
	select {
	case r := <-f.requests:
		f.t.Fatalf("request %d reached the handler, want none", r.Correlation)
	default:
	}
}

func frame(key, version int16, correlation int32, client string, body string) []byte {
	b := make([]byte, 4)
	b = binary.BigEndian.AppendUint16(b, uint16(key))
	b = binary.BigEndian.AppendUint16(b, uint16(version))
	b = binary.BigEndian.AppendUint32(b, uint32(correlation))
	b = binary.BigEndian.AppendUint16(b, uint16(len(client)))
	b = append(b, client...)
	b = append(b, body...)
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

func send(t *testing.T, c net.Conn, b []byte) {
	t.Helper()
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
}

// answer reads one response: its correlation id and what follows.
func answer(t *testing.T, c net.Conn) (int32, string) {
	t.Helper()
	var head [8]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		t.Fatalf("reading a response: %v", err)
	}
	rest := make([]byte, binary.BigEndian.Uint32(head[:4])-4)
	if _, err := io.ReadFull(c, rest); err != nil {
		t.Fatalf("reading a response's body: %v", err)
	}
	return int32(binary.BigEndian.Uint32(head[4:])), string(rest)
}

func wantAnswer(t *testing.T, c net.Conn, correlation int32, body string) {
	t.Helper()
	if id, b := answer(t, c); id != correlation || b != body {
		t.Fatalf("got answer %d %q, want %d %q", id, b, correlation, body)
	}
}

func wantClosed(t *testing.T, c net.Conn) {
	t.Helper()
	if n, err := c.Read(make([]byte, 1)); err == nil {
		t.Fatalf("got %d bytes, want a closed connection", n)
	} else if errors.Is(err, io.ErrNoProgress) {
		t.Fatal(err)
	}
}

func text(s string) Reply { return Reply{Parts: net.Buffers{[]byte(s)}} }

func TestAnswersKeepTheOrderOfTheirRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, Config{})
		c := f.dial()
		send(t, c, bytes.Join([][]byte{
			frame(metadataKey, 0, 1, "a", "one"), frame(metadataKey, 0, 2, "a", "two"), frame(metadataKey, 0, 3, "b", "three"),
		}, nil))
		first, second, third := f.next(), f.next(), f.next()
		if string(second.Body) != "two" || second.ClientID != "a" || third.ClientID != "b" {
			t.Fatalf("got body %q of %q and client %q", second.Body, second.ClientID, third.ClientID)
		}
		third.reply(text("3"))
		second.reply(Reply{NoReply: true})
		synctest.Wait()
		first.reply(Reply{Parts: net.Buffers{[]byte("1"), []byte("!")}})
		wantAnswer(t, c, 1, "1!")
		wantAnswer(t, c, 3, "3")
	})
}

func TestHeadersFollowTheVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, Config{})
		c := f.dial()
		tags := "\x01\x05\x02xy" // one tag, number 5, two bytes
		send(t, c, frame(metadataKey, 9, 7, "a", tags+"flexible"))
		r := f.next()
		if string(r.Body) != "flexible" {
			t.Fatalf("got body %q, want it without the header's tags", r.Body)
		}
		r.reply(text("x"))
		wantAnswer(t, c, 7, "\x00x")

		send(t, c, frame(apiVersionsKey, 3, 8, "a", "\x00body"))
		r = f.next()
		if string(r.Body) != "body" {
			t.Fatalf("got body %q", r.Body)
		}
		r.reply(text("x"))
		wantAnswer(t, c, 8, "x")

		null := frame(metadataKey, 0, 9, "", "body")
		binary.BigEndian.PutUint16(null[12:], 0xffff)
		send(t, c, null)
		if r = f.next(); r.ClientID != "" || string(r.Body) != "body" {
			t.Fatalf("got client %q, body %q", r.ClientID, r.Body)
		}
		r.reply(text(""))
		wantAnswer(t, c, 9, "")
	})
}

func TestAReplyMayCloseInItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, Config{})
		c := f.dial()
		send(t, c, append(frame(metadataKey, 0, 1, "", ""), frame(metadataKey, 0, 2, "", "")...))
		first, second := f.next(), f.next()
		second.reply(Reply{NoReply: true, Close: true})
		synctest.Wait()
		first.reply(text("late but first"))
		wantAnswer(t, c, 1, "late but first")
		wantClosed(t, c)
	})
}

func TestFramesAreRefusedBeforeTheirBodies(t *testing.T) {
	for _, tc := range []struct {
		name   string
		head   []byte
		reason string
	}{
		{"negative", []byte{0xff, 0xff, 0xff, 0xff}, "frame-length"},
		{"above the largest", []byte{0x06, 0x40, 0x00, 0x01}, "frame-length"},
		{"too short for a header", []byte{0, 0, 0, 7}, "frame-length"},
		{"above the API's cap", frame(metadataKey, 0, 1, "", strings.Repeat("x", 2000))[:12], "frame-cap"},
		{"unknown", frame(77, 0, 1, "", "")[:12], "unsupported"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := serve(t, Config{FrameCap: func(key, version int16) int32 {
					if key == 77 {
						return -1
					}
					return 1000
				}})
				c := f.dial()
				send(t, c, tc.head)
				wantClosed(t, c)
				f.noRequest()
				if !strings.Contains(f.logged(), "reason="+tc.reason) {
					t.Errorf("got log %q, want reason %s", f.logged(), tc.reason)
				}
			})
		})
	}
}

// Strangers fill no disk: of what they do one line a second is written, with how many there were.
func TestStrangersAreWrittenAboutSparingly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, Config{})
		refused := func(n int) {
			for range n {
				c := f.dial()
				send(t, c, []byte{0xff, 0xff, 0xff, 0xff})
				wantClosed(t, c)
				synctest.Wait()
			}
		}
		refused(100)
		if got := strings.Count(f.logged(), "refused a request"); got != 1 {
			t.Errorf("%d lines of 100 connections in one moment, want 1", got)
		}
		time.Sleep(tellEvery)
		refused(1)
		if text := f.logged(); strings.Count(text, "refused a request") != 2 || !strings.Contains(text, "untold=99") {
			t.Errorf("want a second line that tells of 99 more, got\n%s", text)
		}
	})
}

func TestAFrameArrivesInAnyPieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, Config{})
		c := f.dial()
		large := strings.Repeat("0123456789abcdef", 20_000) // 320 KB: grows the buffer twice
		stream := bytes.Join([][]byte{
			frame(metadataKey, 0, 1, "a", "small"), frame(metadataKey, 0, 2, "a", large), frame(metadataKey, 0, 3, "a", "small"),
			frame(produceKey, 3, 4, "a", large), frame(metadataKey, 0, 5, "a", "last"),
		}, nil)
		go func() {
			for at, step := 0, 1; at < len(stream); step = step*3%4093 + 1 {
				n := min(step, len(stream)-at)
				c.Write(stream[at : at+n])
				at += n
			}
		}()
		for i, want := range []string{"small", large, "small", large, "last"} {
			r := <-f.requests
			if r.Key != produceKey && string(r.Body) != want {
				t.Errorf("request %d: got %d bytes, want %d", i+1, len(r.Body), len(want))
			}
			r.reply(text("ok"))
			wantAnswer(t, c, int32(i+1), "ok")
		}
	})
}

// A body that was copied stays as it is while the next frame comes in; the buffer itself is lent to Produce alone.
func TestBodiesBelongToTheirHandlersButForProduce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, Config{})
		c := f.dial()
		send(t, c, frame(metadataKey, 0, 1, "", "mine"))
		first := f.next()
		send(t, c, frame(metadataKey, 0, 2, "", "next"))
		f.next()
		if string(first.Body) != "mine" {
			t.Errorf("got %q, want the first body unharmed", first.Body)
		}
		send(t, c, frame(produceKey, 3, 3, "", "lent"))
		first = f.next()
		send(t, c, frame(produceKey, 3, 4, "", "over"))
		if f.next(); string(first.lent) != "over" || first.Body != nil {
			t.Errorf("got %q: Produce bodies are copied, and nobody needs that; %d bytes are held after Handle", first.lent, len(first.Body))
		}
	})
}

func TestAHalfReceivedFrameHasADeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, Config{})
		c := f.dial()
		whole := frame(metadataKey, 0, 1, "", "body")
		begin := time.Now()
		send(t, c, whole[:len(whole)-1])
		wantClosed(t, c)
		if took := time.Since(begin); took < 30*time.Second || took > 31*time.Second {
			t.Errorf("closed after %v, want FrameTimeout", took)
		}
	})
}

// A large frame has its time, but not for standing still: it has taken its bytes from the budget of all.
func TestAFrameThatStandsStillIsGivenUpSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, Config{MaxInFlightBytes: MaxFrame})
		claim := frame(produceKey, 3, 1, "", strings.Repeat("x", 2*firstGrowth))
		binary.BigEndian.PutUint32(claim, MaxFrame)
		c := f.dial()
		begin := time.Now()
		send(t, c, claim)
		slow := f.dial()
		whole := frame(produceKey, 3, 2, "", strings.Repeat("x", 20<<20))
		go func() { // at the slowest pace
			for rest := whole; len(rest) > 0; time.Sleep(time.Second / 4) {
				n := min(len(rest), 64<<10)
				slow.Write(rest[:n])
				rest = rest[n:]
			}
		}()
		wantClosed(t, c)
		if took := time.Since(begin); took > 35*time.Second {
			t.Errorf("closed after %v, want FrameTimeout and the time of a MiB", took)
		}
		time.Sleep(2 * time.Minute)
		if r := f.next(); len(r.lent) < 20<<20 {
			t.Errorf("a body of %d bytes", len(r.lent))
		}
	})
}

func TestAnIdleConnectionIsClosedUnlessItWaitsForUs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, Config{})
		c := f.dial()
		send(t, c, frame(fetchKey, 4, 1, "", strings.Repeat("x", 3*restBytes)))
		r := f.next()
		time.Sleep(25 * time.Minute) // virtual: longer than the client may be idle
		r.reply(text("at last"))
		wantAnswer(t, c, 1, "at last")
		begin := time.Now()
		wantClosed(t, c)
		if took := time.Since(begin); took < 9*time.Minute || took > 20*time.Minute {
			t.Errorf("closed after %v, want about IdleTimeout", took)
		}
	})
}

func TestAnswersNobodyReadsEndTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, Config{})
		c := f.dial()
		send(t, c, append(frame(fetchKey, 4, 1, "", ""), frame(fetchKey, 4, 2, "", "")...))
		first, second := f.next(), f.next()
		var released int
		first.reply(Reply{Parts: net.Buffers{[]byte("nobody reads this")}, Release: func() { released++ }})
		time.Sleep(31 * time.Second) // virtual
		synctest.Wait()
		if released != 1 {
			t.Errorf("released %d times after the write deadline, want once", released)
		}
		select {
		case <-first.Conn.Context().Done():
		default:
			t.Error("the connection's context goes on")
		}
		second.reply(Reply{Release: func() { released++ }})
		if released != 2 {
			t.Error("an answer to a dead connection was not released")
		}
	})
}

func TestUnreadAnswersHoldUpTheNextRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, Config{MaxUnwrittenBytes: 10})
		c := f.dial()
		send(t, c, frame(fetchKey, 4, 1, "", ""))
		f.next().reply(text("more than ten bytes"))
		go c.Write(append(frame(fetchKey, 4, 2, "", ""), frame(fetchKey, 4, 3, "", "")...))
		f.next() // had been waited for before the first was answered
		f.noRequest()
		wantAnswer(t, c, 1, "more than ten bytes")
		f.next()
	})
}

func TestPipelinedRequestsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, Config{MaxPipelined: 2})
		c := f.dial()
		go func() {
			for i := range int32(3) {
				c.Write(frame(fetchKey, 4, i, "", ""))
			}
		}()
		first := f.next()
		f.next()
		f.noRequest()
		first.reply(text("ok"))
		wantAnswer(t, c, 0, "ok")
		f.next()
	})
}

func TestTheByteBudgetIsBackPressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, Config{MaxInFlightBytes: 1500})
		body := strings.Repeat("x", 1000)
		one, two := f.dial(), f.dial()
		send(t, one, frame(fetchKey, 4, 1, "", body))
		first := f.next()
		send(t, two, frame(fetchKey, 4, 2, "", body))
		f.noRequest()
		first.reply(text("ok"))
		wantAnswer(t, one, 1, "ok")
		f.next()

		// Produce gives its bytes back when Handle returns: they are copied by then.
		three, four := f.dial(), f.dial()
		send(t, three, frame(produceKey, 3, 3, "", "small enough beside the second"))
		f.next()
		send(t, four, frame(produceKey, 3, 4, "", strings.Repeat("x", 400)))
		f.next()
	})
}

// Produce that waits for room keeps nobody else from being read.
func TestProduceDoesNotTakeTheWholeBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		var running atomic.Int32
		h := handlerFunc(func(_ context.Context, r *Request, reply func(Reply)) {
			if r.Key == produceKey {
				running.Add(1)
				<-hold
			}
			reply(text("ok"))
		})
		l := newMemory()
		s := New(h, slog.New(slog.DiscardHandler), prometheus.NewRegistry(), Config{MaxInFlightBytes: 4000})
		ctx, stop := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() { served <- s.Serve(ctx, l) }()
		dial := func() net.Conn {
			here, there := net.Pipe()
			l.conns <- there
			return here
		}
		for i := range int32(10) {
			c := dial()
			go func() {
				send(t, c, frame(produceKey, 3, i, "", strings.Repeat("x", 900)))
				io.Copy(io.Discard, c)
			}()
		}
		synctest.Wait()
		if n := running.Load(); n != 3 {
			t.Errorf("%d requests of 900 bytes run, want 3 in three quarters of 4,000", n)
		}
		c := dial()
		send(t, c, frame(fetchKey, 4, 7, "", "x"))
		wantAnswer(t, c, 7, "ok")
		close(hold)
		synctest.Wait()
		if n := running.Load(); n != 10 {
			t.Errorf("%d requests ran in the end, want 10", n)
		}
		stop()
		<-served
	})
}

func TestAHeavyFrameIsChargedForItsDecoding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		var got []int32
		var mu sync.Mutex
		h := handlerFunc(func(_ context.Context, r *Request, reply func(Reply)) {
			mu.Lock()
			got = append(got, r.Correlation)
			mu.Unlock()
			<-hold
			reply(text("ok"))
		})
		l := newMemory()
		s := New(h, slog.New(slog.DiscardHandler), prometheus.NewRegistry(),
			Config{MaxInFlightBytes: 10_000, Weight: func(int16) int64 { return 80 }})
		ctx, stop := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() { served <- s.Serve(ctx, l) }()
		for i := range int32(2) {
			here, there := net.Pipe()
			l.conns <- there
			go io.Copy(io.Discard, here)
			send(t, here, frame(metadataKey, 0, i, "", strings.Repeat("x", 100)))
		}
		synctest.Wait()
		mu.Lock()
		if len(got) != 1 {
			t.Errorf("%d requests of 114 bytes with weight 80 run in a budget of 10,000, want 1", len(got))
		}
		mu.Unlock()
		close(hold)
		synctest.Wait()
		if len(got) != 2 {
			t.Errorf("got %d requests in the end, want 2", len(got))
		}
		stop()
		<-served
	})
}

func TestAPanicEndsItsConnectionOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, Config{})
		bad, good := f.dial(), f.dial()
		send(t, bad, frame(metadataKey, 0, 1, "panic", ""))
		wantClosed(t, bad)
		if !strings.Contains(f.logged(), "told to") || !strings.Contains(f.logged(), "api=3") {
			t.Errorf("got log %q, want the panic and the key", f.logged())
		}
		send(t, good, frame(metadataKey, 0, 2, "", ""))
		f.next().reply(text("fine"))
		wantAnswer(t, good, 2, "fine")
	})
}

func TestASecondAnswerIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, Config{})
		c := f.dial()
		send(t, c, frame(metadataKey, 0, 1, "", ""))
		r := f.next()
		r.reply(text("one"))
		var released bool
		r.reply(Reply{Parts: net.Buffers{[]byte("two")}, Release: func() { released = true }})
		wantAnswer(t, c, 1, "one")
		if !released || !strings.Contains(f.logged(), "answered twice") {
			t.Errorf("released %v, log %q", released, f.logged())
		}
	})
}

func TestServeAnswersWhatItReadBeforeItReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, Config{})
		c, idle := f.dial(), f.dial()
		send(t, c, frame(metadataKey, 0, 1, "", ""))
		r := f.next()
		f.stop()
		wantClosed(t, idle)
		select {
		case <-r.Conn.Context().Done():
			t.Fatal("the request's context ended with the server's")
		default:
		}
		r.reply(text("still"))
		wantAnswer(t, c, 1, "still")
		wantClosed(t, c)
	})
}

func TestServeDoesNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, Config{})
		c := f.dial()
		send(t, c, frame(metadataKey, 0, 1, "", ""))
		r := f.next()
		begin := time.Now()
		f.stop()
		wantClosed(t, c)
		if took := time.Since(begin); took != 10*time.Second {
			t.Errorf("closed after %v, want DrainTimeout", took)
		}
		<-r.Conn.Context().Done()
	})
}

func TestConnectionsAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, Config{MaxConnections: 1})
		one, two := f.dial(), f.dial()
		wantClosed(t, two)
		one.Close()
		synctest.Wait()
		three := f.dial()
		send(t, three, frame(metadataKey, 0, 1, "", ""))
		f.next().reply(text("in"))
		wantAnswer(t, three, 1, "in")
	})
}

func TestAListenerAdvertisesWhatItIsTold(t *testing.T) {
	for _, tc := range []struct {
		l          Listener
		host, fail string
		port       int32 // -1: the bound one
	}{
		{Listener{Name: "A", Host: "127.0.0.1"}, "127.0.0.1", "", -1},
		{Listener{Name: "A", Host: "127.0.0.1", AdvertisedHost: "broker.example", AdvertisedPort: 29092}, "broker.example", "", 29092},
		{Listener{Name: "A", Host: "127.0.0.1", AdvertisedHost: "::1"}, "::1", "", -1},
		{Listener{Name: "A", Host: "0.0.0.0"}, "", "no client can reach", 0},
		{Listener{Name: "A", Host: "127.0.0.1", AdvertisedHost: "::"}, "", "no client can reach", 0},
	} {
		b, err := tc.l.Open(t.Context())
		if tc.fail != "" {
			if err == nil || !strings.Contains(err.Error(), tc.fail) {
				t.Errorf("%+v: got %v, want %q", tc.l, err, tc.fail)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		if tc.port == -1 {
			tc.port = int32(b.Addr().(*net.TCPAddr).Port)
		}
		host, port, ok := Endpoint(Advertise(&Bound{Name: "OTHER", Host: "h", Port: 1}, b), "A")
		if !ok || host != tc.host || port != tc.port {
			t.Errorf("%+v: got %s %d %v, want %s %d", tc.l, host, port, ok, tc.host, tc.port)
		}
	}
	if _, _, ok := Endpoint("A://h:1", "B"); ok {
		t.Error("an endpoint was found under a name that is not there")
	}
	for _, wrong := range []string{"A://h", "A://h:70000", "A://h:x"} {
		if _, _, ok := Endpoint(wrong, "A"); ok {
			t.Errorf("%q was read as an endpoint", wrong)
		}
	}
}

func TestOverTCP(t *testing.T) {
	l, err := Listener{Name: "CLIENTS", Host: "127.0.0.1"}.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	h := handlerFunc(func(_ context.Context, r *Request, reply func(Reply)) {
		host, _ := r.Conn.Advertised()
		go reply(text(r.Conn.Listener() + " " + host + " " + string(r.Body)))
	})
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	s := New(h, slog.New(slog.DiscardHandler), prometheus.NewRegistry(), Config{MaxConnectionsPerIP: 1})
	go func() { served <- s.Serve(ctx, l) }()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var all []byte
	for i := range int32(100) {
		all = append(all, frame(metadataKey, 0, i, "", "hello")...)
	}
	send(t, c, all)
	for i := range int32(100) {
		wantAnswer(t, c, i, "CLIENTS 127.0.0.1 hello")
	}
	second, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	wantClosed(t, second)
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// A claim of 100 MiB gets what an honest small client gets, until bytes follow.
func TestMemoryFollowsTheBytesNotTheClaim(t *testing.T) {
	in := newInbox(new(buffers))
	claim := io.MultiReader(bytes.NewReader(make([]byte, 20)))
	if err := in.fill(claim, MaxFrame); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	if len(in.buf) > firstGrowth {
		t.Errorf("got a buffer of %d for 20 bytes, want at most %d", len(in.buf), firstGrowth)
	}
	in = newInbox(new(buffers))
	in.fill(bytes.NewReader(make([]byte, 3<<20)), MaxFrame)
	if len(in.buf) > 4*3<<20 {
		t.Errorf("got a buffer of %d for 3 MiB", len(in.buf))
	}
	in.close()
	if !in.resting() || in.from.kept.Load() != 0 {
		t.Errorf("after close a buffer of %d is held and %d counted", len(in.buf), in.from.kept.Load())
	}
}

func TestBuffersAreKeptWithinABound(t *testing.T) {
	pool := new(buffers)
	var all []*inbox
	for range 100 {
		in := newInbox(pool)
		in.fill(bytes.NewReader(make([]byte, 1<<20)), 1<<20)
		in.consume(1 << 20)
		in.settle()
		all = append(all, in)
	}
	if got := pool.kept.Load(); got > maxKeptTotal || got == 0 {
		t.Errorf("100 connections keep %d bytes, want at most %d, and some", got, maxKeptTotal)
	}
	for _, in := range all {
		in.close()
	}
	if got := pool.kept.Load(); got != 0 {
		t.Errorf("%d bytes are still counted", got)
	}
}
