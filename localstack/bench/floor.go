package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kbin"

	"varve.dev/tiering/batch"
)

// floor is the control: the least that a process must do with a producer's bytes. It receives frames, checks each CRC,
// copies once into a window, PUTs the window, and only then answers; with again it PUTs every byte a second time, as
// sealing does. It keeps no offsets, no index and no promise. A fetch is answered with slices of one window by writev.
type floor struct {
	floorConfig
	client *http.Client
	mu     sync.Mutex
	open   *floorWindow
	free   [][]byte
	wake   chan struct{}
	kept   [][]byte // batches, in the order in which they came: what fetches are answered with

	settled []*floorWindow // stored once
	seals   int
}

type floorConfig struct {
	url      string // of the bucket
	interval time.Duration
	bytes    int // of a window
	again    bool
	keep     bool // what was stored, for fetches
}

type floorWindow struct {
	chunks [][]byte
	bytes  int
	sum    uint32
	wait   []floorAnswer
}

type floorAnswer struct {
	c     *floorConn
	bytes []byte
}

const floorChunk = 1 << 20

// floorMain runs the control until its standard input ends.
func floorMain(cfg floorConfig, stdin io.Reader, stdout io.Writer) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	f := &floor{floorConfig: cfg, open: &floorWindow{}, wake: make(chan struct{}, 1),
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 32, DisableCompression: true}}}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { f.flush(ctx) })
	wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { f.serve(ctx, nc) })
		}
	})
	fmt.Fprintf(stdout, "ready kafka=%s http=none\n", l.Addr())
	_, err = io.Copy(io.Discard, stdin)
	cancel()
	l.Close()
	wg.Wait()
	return err
}

type floorConn struct {
	*conn
	mu    sync.Mutex // of writes
	fetch net.Buffers
	at    int // batch to be fetched
}

func (f *floor) serve(ctx context.Context, nc net.Conn) {
	defer nc.Close()
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	defer stop()
	c := &floorConn{conn: &conn{nc: nc, buf: make([]byte, 1<<20)}}
	for {
		// A request begins with key and version where an answer has its correlation id.
		api, body, err := c.next()
		if err != nil {
			return
		}
		correlation := int32(binary.BigEndian.Uint32(body))
		switch api >> 16 {
		case produceKey:
			err = f.produce(c, correlation, body[4:])
		case fetchKey:
			err = f.fetch(c, correlation)
		default:
			err = fmt.Errorf("the control knows no API key %d", api>>16)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "floor:", err)
			return
		}
	}
}

func (f *floor) produce(c *floorConn, correlation int32, body []byte) error {
	r := kbin.Reader{Src: body}
	r.NullableString()
	r.Uvarint()
	r.Uvarint() // no transactional id
	r.Span(2 + 4)
	r.CompactArrayLen()
	topic := r.CompactString()
	n := r.CompactArrayLen()
	out := make([]byte, 0, 64+40*int(n))
	out = kbin.AppendInt32(out, 0)
	out = kbin.AppendInt32(out, correlation)
	out = append(out, 0)
	out = kbin.AppendCompactArrayLen(out, 1)
	out = kbin.AppendCompactString(out, topic)
	out = kbin.AppendCompactArrayLen(out, int(n))
	f.mu.Lock()
	defer f.mu.Unlock()
	for range n {
		p := r.Int32()
		b := batch.Batch(r.Span(int(r.Uvarint()) - 1))
		r.Uvarint()
		if !r.Ok() || b.Verify() != nil {
			return errors.New("a batch is damaged")
		}
		f.add(b)
		out = kbin.AppendInt32(out, p)
		out = append(out, make([]byte, 2+8+8+8)...)
		out = append(out, 1, 0, 0)
	}
	out = append(out, 0, 0, 0, 0, 0, 0)
	f.open.wait = append(f.open.wait, floorAnswer{c, finish(out)})
	if len(f.open.wait) == 1 || f.open.bytes >= f.bytes {
		f.signal()
	}
	return nil
}

func (f *floor) signal() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// add copies a batch into the open window.
func (f *floor) add(b batch.Batch) {
	w := f.open
	last := len(w.chunks) - 1
	if last < 0 || cap(w.chunks[last])-len(w.chunks[last]) < len(b) {
		w.chunks = append(w.chunks, f.chunk(len(b)))
		last++
	}
	at := len(w.chunks[last])
	w.chunks[last] = append(w.chunks[last], b...)
	if f.keep {
		f.kept = append(f.kept, w.chunks[last][at:])
	}
	w.bytes += len(b)
	w.sum = batch.Concat(w.sum, b.Sum(), int64(len(b)))
}

func (f *floor) chunk(n int) []byte {
	if k := len(f.free); k > 0 && n <= floorChunk {
		c := f.free[k-1]
		f.free = f.free[:k-1]
		return c
	}
	return make([]byte, 0, max(n, floorChunk))
}

// flushInFlight is the agent's own default.
const flushInFlight = 8

// flush stores windows as they fall due, several at a time.
func (f *floor) flush(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	inflight := make(chan struct{}, flushInFlight)
	timer := time.NewTimer(time.Hour)
	last := time.Time{}
	before := make(chan struct{}) // closed when the window before is answered
	close(before)
	for n := 1; ctx.Err() == nil; {
		w, wait := f.due(last)
		if w == nil {
			timer.Reset(wait)
			select {
			case <-f.wake:
			case <-timer.C:
				if wait == restAfter && f.again {
					f.settle(ctx)
				}
			case <-ctx.Done():
			}
			continue
		}
		last = time.Now()
		key := fmt.Sprintf("wal/%d", n)
		n++
		inflight <- struct{}{}
		earlier, done := before, make(chan struct{})
		before = done
		wg.Go(func() {
			defer func() { <-inflight }()
			f.report(ctx, f.put(ctx, key, []*floorWindow{w}))
			<-earlier // a client takes answers in its own order only
			f.answer(w.wait)
			close(done)
			w.wait = nil
			f.mu.Lock()
			f.settled = append(f.settled, w)
			f.mu.Unlock()
			if !f.again {
				f.settle(ctx)
			}
		})
	}
}

// restAfter is the silence after which what is left is settled too.
const restAfter = 500 * time.Millisecond

// due closes the open window, or says how long to wait.
func (f *floor) due(last time.Time) (*floorWindow, time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := f.open
	if w.bytes == 0 {
		return nil, restAfter
	}
	if wait := time.Until(last.Add(f.interval)); wait > 0 && w.bytes < f.bytes {
		return nil, wait
	}
	f.open = &floorWindow{}
	return w, 0
}

// settleBytes is the size of an object that sealing makes.
const settleBytes = 256 << 20

// settle recycles what is stored; with again, after it was stored a second time. That waits for a silence, as the agent's
// sealing waits for its age: else the control would have sealed a part of what it has only acknowledged.
func (f *floor) settle(ctx context.Context) {
	f.mu.Lock()
	ws := f.settled
	f.settled = nil
	f.mu.Unlock()
	for len(ws) > 0 && f.again {
		n, bytes := 0, 0
		for n < len(ws) && (n == 0 || bytes+ws[n].bytes <= settleBytes) {
			bytes += ws[n].bytes
			n++
		}
		f.mu.Lock()
		f.seals++
		key := fmt.Sprintf("seg/%d", f.seals)
		f.mu.Unlock()
		f.report(ctx, f.put(ctx, key, ws[:n]))
		f.recycle(ws[:n])
		ws = ws[n:]
	}
	f.recycle(ws)
}

func (f *floor) report(ctx context.Context, err error) {
	if err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "floor:", err)
	}
}

func (f *floor) recycle(ws []*floorWindow) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, w := range ws {
		for _, c := range w.chunks {
			if cap(c) == floorChunk && !f.keep {
				f.free = append(f.free, c[:0])
			}
		}
	}
}

func (f *floor) put(ctx context.Context, key string, ws []*floorWindow) error {
	var chunks net.Buffers
	var sum uint32
	size := 0
	for _, w := range ws {
		chunks, size = append(chunks, w.chunks...), size+w.bytes
		sum = batch.Concat(sum, w.sum, int64(w.bytes))
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, f.url+"/"+key, &chunks)
	if err != nil {
		return err
	}
	req.ContentLength = int64(size)
	req.Header.Set("X-Amz-Checksum-Crc32c", encodeSum(sum))
	resp, err := f.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("PUT %s: %s", key, resp.Status)
	}
	return nil
}

// answer writes one piece to each connection.
func (f *floor) answer(wait []floorAnswer) {
	by := map[*floorConn]net.Buffers{}
	for _, a := range wait {
		by[a.c] = append(by[a.c], a.bytes)
	}
	for c, out := range by {
		c.mu.Lock()
		_, _ = out.WriteTo(c.nc) // a client that went away is its own affair
		c.mu.Unlock()
	}
}

// floorFetch is what one fetch of the control answers: as much as a consumer asks of sixteen partitions.
const floorFetch = 16 << 20

// fetch answers with the batches that follow those of the connection's last fetch, each a slice of its own, from the first
// again when the last is reached: all of them are read, as a consumer does, and not what the processor's cache still has.
func (f *floor) fetch(c *floorConn, correlation int32) error {
	f.mu.Lock()
	kept := f.kept
	f.mu.Unlock()
	if len(kept) == 0 {
		return errors.New("nothing is kept")
	}
	out := append(c.fetch[:0], nil) // the head
	records := 0
	if c.at == len(kept) {
		c.at = 0
	}
	for ; c.at < len(kept) && (records == 0 || records+len(kept[c.at]) <= floorFetch); c.at++ {
		out = append(out, kept[c.at])
		records += len(kept[c.at])
	}
	head := make([]byte, 0, 128)
	head = kbin.AppendInt32(head, 0)
	head = kbin.AppendInt32(head, correlation)
	head = append(head, 0)
	head = append(head, make([]byte, 4+2+4)...)
	head = kbin.AppendCompactArrayLen(head, 1)
	head = kbin.AppendCompactString(head, "")
	head = kbin.AppendCompactArrayLen(head, 1)
	head = append(head, make([]byte, 4+2+8+8+8)...)
	head = append(head, 0)
	head = kbin.AppendInt32(head, -1)
	head = kbin.AppendUvarint(head, uint32(records)+1)
	const end = 3 // tags of partition, topic and answer
	binary.BigEndian.PutUint32(head, uint32(len(head)-4+records+end))
	out[0] = head
	out = append(out, make([]byte, end))
	c.fetch = out
	_, err := out.WriteTo(c.nc)
	return err
}
