package broker

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/catalog"
	"varve.dev/agent/wire"
	"varve.dev/metadata"
	"varve.dev/tiering/fetch"
	"varve.dev/tiering/partition"
)

// Fetch (key 1), v4–18.
//
// The answer is session id 0: every client falls back to full fetches (KIP-227). v11 knows racks, v12 the last fetched
// epoch (a divergence is answered, KIP-595), v13 topic ids. A fetch waits without polling: on its partitions' watchers and
// one timer, no goroutine. The response is encoded here as a list of slices, since kmsg's encoder copies every record.

// Reader turns plans into bytes (fetch.Reader).
type Reader interface {
	// FromMemory is Read where nothing must be waited for; else it answers false.
	FromMemory(plans []fetch.Plan, maxBytes int) (*fetch.Result, bool)
	Read(ctx context.Context, plans []fetch.Plan, maxBytes int) *fetch.Result
}

const (
	// coldWait is how long a fetch that has only cold partitions may take.
	coldWait = 10 * time.Second
	// hotWait is how long one that has hot data at hand waits for its cold partitions: their downloads go on, and the next
	// fetch joins them.
	hotWait = 50 * time.Millisecond
)

type fetching struct {
	topics   *catalog.Catalog
	led      Led
	reader   Reader
	maxBytes int
	requests sync.Pool // *request
}

// Fetch is the handler of key 1. maxBytes is fetch.max.bytes.
func Fetch(topics *catalog.Catalog, led Led, reader Reader, maxBytes int) API {
	h := &fetching{topics: topics, led: led, reader: reader, maxBytes: maxBytes}
	h.requests.New = func() any {
		f := &request{h: h}
		f.release = f.give
		return f
	}
	return API{Key: 1, Min: 4, Max: 18, Handle: h.handle}
}

// wanted is one partition of a request, and what is answered.
type wanted struct {
	q     *kmsg.FetchRequestTopicPartition
	p     *partition.Partition // nil: err says why
	at    partition.Offsets
	err   error
	plan  int // index in the plans, -1: none
	epoch int32
	end   int64 // of a divergence: of the largest epoch that is ours too; -1: none
}

// request is a fetch on its way. One that is answered at once is reused, with all the memory that it has taken: so a fetch
// allocates nothing for a partition.
type request struct {
	h        *fetching
	ctx      context.Context
	r        *wire.Request
	req      kmsg.FetchRequest
	reply    func(wire.Reply)
	wants    []wanted
	plans    []fetch.Plan
	encoder  fetchEncoder
	res      *fetch.Result
	release  func() // give
	deadline time.Time

	mu      sync.Mutex
	parked  bool // others may still come to it: it is not reused
	done    bool
	cancels []func()
	timer   *time.Timer
}

func (h *fetching) handle(ctx context.Context, r *wire.Request, reply func(wire.Reply)) {
	f := h.requests.Get().(*request)
	f.ctx, f.r, f.reply = ctx, r, reply
	if err := f.decode(); err != nil {
		f.reuse()
		reply(refuse(err))
		return
	}
	if code := h.refused(&f.req); code != nil {
		f.reuse()
		resp := kmsg.NewPtrFetchResponse()
		resp.ErrorCode = code.Code
		reply(encode(r, resp))
		return
	}
	f.deadline = time.Now().Add(time.Duration(max(f.req.MaxWaitMillis, 0)) * time.Millisecond)
	f.find()
	if f.ready() {
		f.answer()
		return
	}
	f.park()
}

// decode reads the request's body, which is the handler's own: names stay where they are.
func (f *request) decode() (err error) {
	defer func() {
		if p := recover(); p != nil { // kmsg is generated and large
			err = fmt.Errorf("Fetch version %d: decoding panicked: %v", f.r.Version, p)
		}
	}()
	f.req.SetVersion(f.r.Version)
	if f.req.IsFlexible() {
		if err := scan(f.r); err != nil {
			return err
		}
	}
	if err := f.req.UnsafeReadFrom(f.r.Body); err != nil {
		return fmt.Errorf("Fetch version %d: %w", f.r.Version, err)
	}
	return nil
}

// give is the end of an answer: its bytes were written, or never will be.
func (f *request) give() {
	f.res.Release()
	if !f.parked {
		f.reuse()
	}
}

// keptPartitions bounds what a request that is reused holds on to: some 500 bytes for each.
const keptPartitions = 1 << 10

// reuse keeps the request's memory for the next, and lets everything go that it points to.
func (f *request) reuse() {
	e := &f.encoder
	if cap(f.wants) > keptPartitions || cap(f.plans) > keptPartitions || cap(e.cuts) > keptPartitions || cap(f.req.Topics) > keptPartitions {
		return
	}
	clear(f.req.Topics)
	clear(f.wants)
	for i := range f.plans {
		clear(f.plans[i].Pieces)
		clear(f.plans[i].Held[:cap(f.plans[i].Held)])
	}
	clear(e.cuts)
	clear(e.out)
	*f = request{h: f.h, release: f.release, wants: f.wants[:0], plans: f.plans[:0], req: kmsg.FetchRequest{Topics: f.req.Topics[:0]},
		encoder: fetchEncoder{head: e.head[:0], cuts: e.cuts[:0], out: e.out[:0]}}
	f.h.requests.Put(f)
}

// refused answers what no session, and no client, may ask.
func (h *fetching) refused(req *kmsg.FetchRequest) *kerr.Error {
	switch {
	case req.SessionEpoch != 0 && req.SessionEpoch != -1: // those begin and end a session, and ask for everything
		return kerr.FetchSessionIDNotFound
	case req.ReplicaID >= 0 || req.ReplicaState.ID >= 0:
		return kerr.InvalidRequest // brokers replicate through the object store: a client that claims to be one lies
	}
	return nil
}

// find looks the partitions up.
func (f *request) find() {
	image := f.h.topics.Image()
	for i := range f.req.Topics {
		t := &f.req.Topics[i]
		topic, err := topicOf(image, f.r.Version >= 13, t.Topic, t.TopicID)
		for k := range t.Partitions {
			w := wanted{q: &t.Partitions[k], err: err, plan: -1, end: -1}
			if err == nil {
				w.p, w.err = f.h.partition(topic, w.q.Partition)
			}
			if w.p != nil {
				w.check(f.r.Version)
			}
			f.wants = append(f.wants, w)
		}
	}
}

func (h *fetching) partition(t *catalog.Topic, index int32) (*partition.Partition, error) {
	if index < 0 || index >= t.Partitions {
		return nil, kerr.UnknownTopicOrPartition
	}
	return h.led.Get(metadata.PartitionID{Topic: t.Num, Partition: index})
}

// check holds the client's epochs to ours.
func (w *wanted) check(version int16) {
	if w.err = w.p.CheckEpoch(w.q.CurrentLeaderEpoch); w.err != nil || version < 12 || w.q.LastFetchedEpoch < 0 {
		return
	}
	switch epoch, end := w.p.EpochEnd(w.q.LastFetchedEpoch); {
	case epoch < 0:
		w.at, w.err = w.p.Offsets(), kerr.OffsetOutOfRange // an epoch that has not been: as in Kafka, where it ends is unknown
	case epoch < w.q.LastFetchedEpoch || end < w.q.FetchOffset:
		w.epoch, w.end = epoch, end
	}
}

// ready says whether an answer is due: enough bytes, an error, a divergence, or no time left. Once the request is parked it
// is called with the lock held.
func (f *request) ready() bool {
	var n int64
	for i := range f.wants {
		w := &f.wants[i]
		if w.err != nil || w.end >= 0 {
			return true
		}
		n += w.p.Readable(w.q.FetchOffset)
	}
	return n > 0 && n >= int64(f.req.MinBytes) || len(f.wants) > 0 && f.req.MinBytes <= 0 || !time.Now().Before(f.deadline)
}

// park waits for news of any partition, or for the deadline. What arrived before a watch stood is not news to it: so after
// every watch the request looks again.
func (f *request) park() {
	f.mu.Lock()
	f.parked = true
	f.timer = time.AfterFunc(time.Until(f.deadline), f.finish)
	stop := context.AfterFunc(f.ctx, f.finish)
	f.cancels = append(f.cancels, func() { stop() })
	for i := range f.wants {
		f.watch(&f.wants[i])
	}
	ready := f.ready()
	f.mu.Unlock()
	if ready {
		f.finish()
	}
}

// watch is called with the lock held. A wake-up may come from inside Watch, or from whoever commits: it must not block.
func (f *request) watch(w *wanted) {
	from := max(w.q.FetchOffset, w.p.Offsets().HighWatermark)
	f.cancels = append(f.cancels, w.p.Watch(from, func() { go f.news(w) }))
}

func (f *request) news(w *wanted) {
	f.mu.Lock()
	if f.done { // what is answered belongs to who answers
		f.mu.Unlock()
		return
	}
	over := w.p.Err() != nil
	if !over {
		f.watch(w)
		over = f.ready()
	}
	f.mu.Unlock()
	if over {
		f.finish()
	}
}

// finish answers once.
func (f *request) finish() {
	f.mu.Lock()
	if f.done {
		f.mu.Unlock()
		return
	}
	f.done = true
	f.timer.Stop()
	cancels := f.cancels
	f.mu.Unlock()
	for _, cancel := range cancels {
		cancel()
	}
	f.answer()
}

// answer plans, reads and replies.
func (f *request) answer() {
	hot := f.plan()
	f.read(hot, min(max(int(f.req.MaxBytes), 1), f.h.maxBytes))
	f.reply(wire.Reply{Parts: f.encode(), Release: f.release}) // from here on it is no longer ours
}

func (f *request) read(hot bool, maxBytes int) {
	var ok bool
	if f.res, ok = f.h.reader.FromMemory(f.plans, maxBytes); ok {
		return
	}
	wait := max(time.Until(f.deadline), hotWait)
	if hot {
		wait = hotWait
	} else if len(f.plans) > 0 {
		wait = coldWait
	}
	ctx, cancel := context.WithTimeout(f.ctx, wait)
	defer cancel()
	f.res = f.h.reader.Read(ctx, f.plans, maxBytes)
}

// plan asks every partition where its bytes lie. hot: some of them are not sealed history.
func (f *request) plan() (hot bool) {
	for i := range f.wants {
		w := &f.wants[i]
		if w.p == nil || w.err != nil {
			continue
		}
		if w.err = w.p.Err(); w.err != nil {
			continue
		}
		if w.end >= 0 {
			w.at = w.p.Offsets() // the divergence is the answer, wherever the offset lies
			continue
		}
		n := len(f.plans)
		if n == cap(f.plans) {
			f.plans = slices.Grow(f.plans, len(f.wants)-i)
		}
		f.plans = f.plans[:n+1]
		plan := &f.plans[n]
		w.at, w.err = w.p.PlanInto(plan, w.q.FetchOffset, max(int(w.q.PartitionMaxBytes), 1)) // KIP-74: the first batch, whatever the limit
		if w.err == nil && (plan.Sealed || len(plan.Pieces)+len(plan.Held) > 0) {
			w.plan = n
			hot = hot || !plan.Sealed
			continue
		}
		plan.Release()
		clear(plan.Pieces)
		f.plans = f.plans[:n]
	}
	return hot
}

// encode writes the response around the records.
func (f *request) encode() net.Buffers {
	e := &f.encoder
	e.version, e.flexible, e.committed = f.r.Version, f.r.Version >= 12, f.req.IsolationLevel == 1
	e.head = slices.Grow(e.head[:0], 64+64*len(f.req.Topics)+64*len(f.wants))
	e.head = kbin.AppendInt32(e.head, 0) // throttle
	if e.version >= 7 {
		e.head = kbin.AppendInt16(e.head, 0)
		e.head = kbin.AppendInt32(e.head, 0) // session id 0: no session
	}
	e.array(len(f.req.Topics))
	next := 0
	for i := range f.req.Topics {
		t := &f.req.Topics[i]
		e.topic(t)
		e.array(len(t.Partitions))
		for range t.Partitions {
			w := &f.wants[next]
			next++
			var part fetch.Part
			if w.plan >= 0 {
				part = f.res.Parts[w.plan]
			}
			if w.err == nil {
				w.err = part.Err
			}
			e.partition(w, part)
		}
		e.tags()
	}
	e.tags()
	return e.parts()
}

// smallSlice is the size below which records are copied: an iovec costs more than their copy.
const smallSlice = 1 << 10

// fetchEncoder collects what is written around the records in one buffer, and remembers where they go.
type fetchEncoder struct {
	version             int16
	flexible, committed bool
	head                []byte
	cuts                []cut
	out                 net.Buffers
}

// cut: before head[at] goes records.
type cut struct {
	at      int
	records []byte
}

func (e *fetchEncoder) array(n int) {
	if e.flexible {
		e.head = kbin.AppendCompactArrayLen(e.head, n)
	} else {
		e.head = kbin.AppendArrayLen(e.head, n)
	}
}

func (e *fetchEncoder) tags() {
	if e.flexible {
		e.head = append(e.head, 0)
	}
}

func (e *fetchEncoder) topic(t *kmsg.FetchRequestTopic) {
	switch {
	case e.version >= 13:
		e.head = kbin.AppendUuid(e.head, t.TopicID)
	case e.flexible:
		e.head = kbin.AppendCompactString(e.head, t.Topic)
	default:
		e.head = kbin.AppendString(e.head, t.Topic)
	}
}

func (e *fetchEncoder) partition(w *wanted, part fetch.Part) {
	hw, lso, start := w.at.HighWatermark, w.at.LastStable, w.at.LogStart
	code := Code(w.err)
	if code != 0 {
		hw, lso = -1, -1
		if code != kerr.OffsetOutOfRange.Code { // there the client needs it
			start = -1
		}
		part = fetch.Part{}
	}
	e.head = kbin.AppendInt32(e.head, w.q.Partition)
	e.head = kbin.AppendInt16(e.head, code)
	e.head = kbin.AppendInt64(e.head, hw)
	e.head = kbin.AppendInt64(e.head, lso)
	if e.version >= 5 {
		e.head = kbin.AppendInt64(e.head, start)
	}
	// Aborted transactions: none to read_committed and of what is not there, null to read_uncommitted.
	none := e.committed || w.p == nil
	switch {
	case e.flexible && none:
		e.head = kbin.AppendCompactArrayLen(e.head, 0)
	case e.flexible:
		e.head = append(e.head, 0)
	case none:
		e.head = kbin.AppendArrayLen(e.head, 0)
	default:
		e.head = kbin.AppendArrayLen(e.head, -1)
	}
	if e.version >= 11 {
		e.head = kbin.AppendInt32(e.head, -1) // preferred read replica
	}
	if e.flexible {
		e.head = kbin.AppendUvarint(e.head, uint32(part.Bytes)+1)
	} else {
		e.head = kbin.AppendInt32(e.head, int32(part.Bytes))
	}
	for _, s := range part.Slices {
		if len(s) < smallSlice {
			e.head = append(e.head, s...)
		} else {
			e.cuts = append(e.cuts, cut{len(e.head), s})
		}
	}
	if e.flexible && w.end >= 0 && code == 0 {
		e.head = append(e.head, 1, 0) // one tag: the diverging epoch, of 13 bytes
		e.head = kbin.AppendUvarint(e.head, 13)
		e.head = kbin.AppendInt32(e.head, w.epoch)
		e.head = kbin.AppendInt64(e.head, w.end)
		e.head = append(e.head, 0)
		return
	}
	e.tags()
}

func (e *fetchEncoder) parts() net.Buffers {
	e.out = slices.Grow(e.out[:0], 2*len(e.cuts)+1)
	last := 0
	for _, c := range e.cuts {
		if c.at > last {
			e.out = append(e.out, e.head[last:c.at])
		}
		e.out = append(e.out, c.records)
		last = c.at
	}
	if last < len(e.head) {
		e.out = append(e.out, e.head[last:])
	}
	return e.out
}
