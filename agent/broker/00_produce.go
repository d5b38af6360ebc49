package broker

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/catalog"
	"varve.dev/agent/wire"
	"varve.dev/metadata"
	"varve.dev/tiering/batch"
	"varve.dev/tiering/batch/codec"
	"varve.dev/tiering/flush"
	"varve.dev/tiering/partition"
)

// Produce (key 0), v3–13, advertised from v0 (KAFKA-18659).
//
// Requests of one connection are appended in their order and answered when what they wait for is durable; the next one is
// read meanwhile. Before append an error means «not written»; after append the only answers are success,
// REQUEST_TIMED_OUT, or a closed connection. What would end a producer, OUT_OF_ORDER_SEQUENCE_NUMBER and
// INVALID_PRODUCER_EPOCH, is said only when the session has been confirmed since, and NOT_LEADER_OR_FOLLOWER else. acks=0 is
// never answered: an error closes the connection.
//
// So long as a store is away or the disk is full, a request waits for room, at most produce.wait.ms and never longer than its
// own timeout, and is then refused with NOT_ENOUGH_REPLICAS. What was appended before is answered with REQUEST_TIMED_OUT when
// its timeout has passed or, while the stores are away, produce.wait.ms.
//
// v8 adds messages to errors, v10 hints of leaders (KIP-951; there is no other leader to hint at), v13 topic ids.
//
// A request of one partition costs eight allocations, and none for each further batch: the answer is encoded here, since
// kmsg's encoder compares by reflection for each partition.

// maxDecompressed bounds what a topic that asks for another codec opens of one batch: 128 MiB.
const maxDecompressed = 128 << 20

// Led finds partitions that this agent leads (session.Set).
type Led interface {
	Get(id metadata.PartitionID) (*partition.Partition, error)
}

// Room is the bound on what waits for the stores (flush.Buffer).
type Room interface {
	// TryReserve is Reserve where there is room at once, whatever the need.
	TryReserve(n int64) bool
	Reserve(ctx context.Context, n int64, need flush.Need) error
	Unreserve(n int64)
	// Away says that nothing has been stored for long.
	Away() bool
}

type produce struct {
	topics   *catalog.Catalog
	led      Led
	room     Room
	session  Session
	wait     time.Duration // for room, before a request is refused
	refused  sync.Map      // *wire.Conn: when (time.Time) a request of it was last refused after waiting
	requests sync.Pool     // *kmsg.ProduceRequest
}

// Session is what this agent leads under.
type Session interface {
	// Confirm returns nil if it was the agent's when it was called.
	Confirm(ctx context.Context) error
}

// Produce is the handler of key 0.
func Produce(topics *catalog.Catalog, led Led, room Room, session Session, wait time.Duration) API {
	h := &produce{topics: topics, led: led, room: room, session: session, wait: wait}
	h.requests.New = func() any { return kmsg.NewPtrProduceRequest() }
	return API{Key: 0, Min: 3, Max: 13, FrameCap: wire.MaxFrame, Weight: 1, Handle: h.handle}
}

func (h *produce) handle(ctx context.Context, r *wire.Request, reply func(wire.Reply)) {
	req := h.requests.Get().(*kmsg.ProduceRequest)
	defer h.reuse(req)
	if err := decodeProduce(r, req); err != nil {
		reply(refuse(err))
		return
	}
	p := newProducing(r, req, reply)
	waited, err := h.admit(ctx, r, req)
	if err != nil {
		p.refuse(err)
		return
	}
	defer h.room.Unreserve(int64(len(r.Body)))
	image, now, slot := h.topics.Image(), time.Now(), 0
	var ends []refusal
	for i := range req.Topics {
		t := &req.Topics[i]
		topic, err := topicOf(image, r.Version >= 13, t.Topic, t.TopicID)
		if internal(t.Topic) {
			err = kerr.InvalidTopicException
		}
		for k := range t.Partitions {
			if err != nil {
				p.set(slot, partition.Appended{}, err)
			} else {
				done, err := h.append(topic, &t.Partitions[k], req.Acks, r.Version, now, p, slot)
				if endsProducer(err) {
					ends = append(ends, refusal{slot, err})
				} else {
					p.set(slot, done, err)
				}
			}
			slot++
		}
	}
	h.end(ctx, p, ends)
	p.room, p.patience = h.room, max(h.wait, leastPatience)
	p.appended(time.Duration(req.TimeoutMillis)*time.Millisecond - waited)
}

// reusedTopics bounds what a request that is reused may hold on to.
const reusedTopics = 64

// reuse keeps a request for the next, without the connection's bytes that it lies on.
func (h *produce) reuse(req *kmsg.ProduceRequest) {
	if cap(req.Topics) > reusedTopics {
		return
	}
	clear(req.Topics[:cap(req.Topics)])
	*req = kmsg.ProduceRequest{Topics: req.Topics[:0]}
	h.requests.Put(req)
}

// admit waits for room, as long as the request and the agent allow, and says how long that took.
func (h *produce) admit(ctx context.Context, r *wire.Request, req *kmsg.ProduceRequest) (waited time.Duration, err error) {
	if req.Acks < -1 || req.Acks > 1 {
		return 0, kerr.InvalidRequiredAcks
	}
	if h.room.TryReserve(int64(len(r.Body))) {
		return 0, nil
	}
	began, patience := time.Now(), h.patience(r.Conn, req)
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err = h.room.Reserve(wait, int64(len(r.Body)), h.need(r.Version, req))
	if errors.Is(err, flush.ErrBusy) && patience > 0 {
		if _, known := h.refused.Swap(r.Conn, time.Now()); !known {
			context.AfterFunc(ctx, func() { h.refused.Delete(r.Conn) })
		}
	}
	return time.Since(began), err
}

// behind is how soon after a refusal a request must come to have been sent before it: clients pause at least twice as long
// before they repeat what was refused.
const behind = 50 * time.Millisecond

// patience is how long a request may wait for room. What a client had sent behind a request that was refused has waited with
// it: were it to wait again, the last of many in flight would be answered long after its client has given up.
func (h *produce) patience(c *wire.Conn, req *kmsg.ProduceRequest) time.Duration {
	if at, ok := h.refused.Load(c); ok && time.Since(at.(time.Time)) < behind {
		return 0
	}
	if timeout := time.Duration(req.TimeoutMillis) * time.Millisecond; req.Acks != 0 && timeout > 0 {
		return min(h.wait, timeout)
	}
	return h.wait
}

// leastPatience is how long what is appended waits while the stores are away, however impatient produce is before that.
const leastPatience = time.Second

// need is what the slowest partition of a request waits for.
func (h *produce) need(version int16, req *kmsg.ProduceRequest) flush.Need {
	switch req.Acks {
	case 0:
		return flush.Nobody
	case 1:
		return flush.Synced
	}
	image := h.topics.Image()
	for i := range req.Topics {
		t, err := topicOf(image, version >= 13, req.Topics[i].Topic, req.Topics[i].TopicID)
		if err == nil && !t.Settings.Local {
			return flush.Stored
		}
	}
	return flush.Local
}

func topicOf(image *catalog.Image, byID bool, name string, id [16]byte) (*catalog.Topic, error) {
	if byID {
		if t := image.ByID(id); t != nil {
			return t, nil
		}
		return nil, kerr.UnknownTopicID
	}
	if t := image.ByName(name); t != nil {
		return t, nil
	}
	return nil, kerr.UnknownTopicOrPartition
}

// append holds one batch to what may be written, in the order of Kafka's UnifiedLog.append, and hands it to its partition.
func (h *produce) append(t *catalog.Topic, q *kmsg.ProduceRequestTopicPartition, acks, version int16, now time.Time, p *producing, slot int) (partition.Appended, error) {
	var none partition.Appended
	if q.Partition < 0 || q.Partition >= t.Partitions {
		return none, kerr.UnknownTopicOrPartition
	}
	led, err := h.led.Get(metadata.PartitionID{Topic: t.Num, Partition: q.Partition})
	if err != nil {
		return none, err
	}
	b, rest, err := parseOne(q.Records)
	if err != nil {
		return none, err
	}
	if len(rest) > 0 {
		return none, explain(kerr.InvalidRecord, "a partition of a produce request has exactly one record batch, this has more")
	}
	cfg := led.Config()
	if len(b) > cfg.MaxMessageBytes && b.ProducerID() < 0 { // a retry of what is stored is answered whatever the limit is now
		return none, fmt.Errorf("%w: %d bytes, max.message.bytes is %d", partition.ErrTooLarge, len(b), cfg.MaxMessageBytes)
	}
	if err := b.Verify(); err != nil {
		return none, err
	}
	if err := b.CheckProduced(); err != nil {
		return none, err
	}
	if b.Codec() == codec.Zstd && version < 7 {
		return none, kerr.UnsupportedCompressionType
	}
	if !cfg.KeepCodec && b.Codec() != cfg.Codec {
		if b, err = b.Recompress(cfg.Codec, maxDecompressed); err != nil {
			return none, err
		}
	}
	return led.Append(b, acks, now, p, slot)
}

// endsProducer tells refusals that a producer takes for the end of its sequence, or of its epoch.
func endsProducer(err error) bool {
	return errors.Is(err, partition.ErrOutOfOrder) || errors.Is(err, partition.ErrProducerFenced)
}

// refusal is one that waits until the session is confirmed.
type refusal struct {
	slot int
	err  error
}

// confirmWait bounds how long a request's refusals wait for the store.
const confirmWait = time.Second

// end says what ends a producer if the session is confirmed: an agent that has stood still may be long succeeded, and not know
// what its successor has acknowledged since.
func (h *produce) end(ctx context.Context, p *producing, refusals []refusal) {
	if len(refusals) == 0 {
		return
	}
	doubt := errAway
	if !h.room.Away() {
		ctx, cancel := context.WithTimeout(ctx, min(h.wait, confirmWait))
		defer cancel()
		doubt = h.session.Confirm(ctx)
	}
	for _, r := range refusals {
		if doubt != nil {
			r.err = fmt.Errorf("%w for sure: %v, and %v", partition.ErrNotLeader, r.err, doubt)
		}
		p.set(r.slot, partition.Appended{}, r.err)
	}
}

var errAway = errors.New("the stores are away")

// parseOne takes the first batch of a partition off its records. CORRUPT_MESSAGE, which producers repeat, is only for what
// may have been damaged on its way: not for what is no whole batch, nor for a wrong batch that its own CRC vouches for.
func parseOne(records []byte) (b batch.Batch, rest []byte, err error) {
	const lengthEnd = 12 // base offset and length
	var n int64
	if len(records) >= lengthEnd {
		n = lengthEnd + int64(int32(binary.BigEndian.Uint32(records[lengthEnd-4:])))
	}
	b, rest, err = batch.Parse(records)
	switch {
	case !errors.Is(err, batch.ErrCorrupt):
		return b, rest, err
	case n > int64(len(records)) || len(records) < batch.HeaderSize:
		return nil, nil, explain(kerr.InvalidRecord, "a partition of a produce request has exactly one record batch, this has none")
	case n >= batch.HeaderSize && batch.Batch(records[:n]).Verify() == nil:
		return nil, nil, explain(kerr.InvalidRecord, err.Error())
	}
	return nil, nil, err
}

// producing is one request on its way: the answer, and what it still waits for.
type producing struct {
	version int16
	acks    int16
	reply   func(wire.Reply)

	mu      sync.Mutex
	topics  []producedTopic
	slots   []produced // of all topics, one behind the other
	waiting int        // slots that are appended and not yet durable, plus one until all are appended
	failed  error      // of acks=0
	timer   *time.Timer
	left    time.Duration // of the request's timeout when the timer fires
	sent    bool

	room     Room
	patience time.Duration // while the stores are away; 0: as long as the timeout

	// Most requests are for one partition, and need no more memory than this.
	topic [1]producedTopic
	slot  [1]produced
	parts [1][]byte
}

// producedTopic is what the answer says of a topic.
type producedTopic struct {
	name       string
	id         [16]byte
	partitions int
}

// produced is what the answer says of one partition.
type produced struct {
	partition          int32
	code               int16
	pending            bool // appended and not yet durable
	base, time, oldest int64
	message            *string
}

func newProducing(r *wire.Request, req *kmsg.ProduceRequest, reply func(wire.Reply)) *producing {
	p := &producing{version: r.Version, acks: req.Acks, reply: reply, waiting: 1}
	n := 0
	for i := range req.Topics {
		n += len(req.Topics[i].Partitions)
	}
	p.topics, p.slots = p.topic[:0], p.slot[:0]
	if n > 1 || len(req.Topics) > 1 {
		p.topics, p.slots = make([]producedTopic, 0, len(req.Topics)), make([]produced, 0, n)
	}
	for i := range req.Topics {
		t := &req.Topics[i]
		p.topics = append(p.topics, producedTopic{strings.Clone(t.Topic), t.TopicID, len(t.Partitions)}) // the name lies in the connection's buffer
		for k := range t.Partitions {
			p.slots = append(p.slots, produced{partition: t.Partitions[k].Partition, base: -1, time: -1, oldest: -1})
		}
	}
	return p
}

// set says what came of one slot's append. A nil error means that Done will be called, unless acks is 0.
func (p *producing) set(slot int, done partition.Appended, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &p.slots[slot]
	if err != nil {
		s.code, s.message = Code(err), text(err)
		p.failed = errors.Join(p.failed, err)
		return
	}
	s.base, s.time, s.oldest = done.Base, done.AppendTime, done.LogStart
	if p.acks != 0 {
		// Done may have come first: then it has left its mark.
		if s.pending {
			s.pending = false
		} else {
			s.pending = true
			p.waiting++
		}
	}
}

// Done implements flush.Waiter. Whatever the error is: the record may be there.
func (p *producing) Done(slot int, err error) {
	p.mu.Lock()
	s := &p.slots[slot]
	if err != nil {
		s.code, s.message = kerr.RequestTimedOut.Code, text(err)
	}
	if !s.pending {
		s.pending = true // before set
		p.mu.Unlock()
		return
	}
	s.pending = false
	p.waiting--
	p.finish()
}

// appended: all slots are set.
func (p *producing) appended(timeout time.Duration) {
	p.mu.Lock()
	p.waiting--
	if p.waiting > 0 {
		p.left = timeout
		p.timer = time.AfterFunc(p.step(), p.expire)
	}
	p.finish()
}

// step takes the next piece of what is left of the timeout.
func (p *producing) step() time.Duration {
	d := p.left
	if p.patience > 0 {
		d = min(d, p.patience)
	}
	p.left -= d
	return d
}

// expire answers what is known when the client's timeout has passed, or the agent's patience with stores that are away.
func (p *producing) expire() {
	p.mu.Lock()
	if p.left > 0 && !p.sent && !p.room.Away() {
		p.timer.Reset(p.step())
		p.mu.Unlock()
		return
	}
	for i := range p.slots {
		if p.slots[i].pending {
			p.slots[i].code = kerr.RequestTimedOut.Code
		}
	}
	p.waiting = 0
	p.finish()
}

// finish answers once nothing is waited for, and unlocks.
func (p *producing) finish() {
	if p.waiting > 0 || p.sent {
		p.mu.Unlock()
		return
	}
	p.sent = true
	if p.timer != nil {
		p.timer.Stop()
	}
	var out wire.Reply
	switch {
	case p.acks == 0 && p.failed != nil:
		out = refuse(fmt.Errorf("acks=0: %w", p.failed))
	case p.acks == 0:
		out = wire.Reply{NoReply: true}
	default:
		p.parts[0] = p.encode()
		out = wire.Reply{Parts: p.parts[:]}
	}
	p.mu.Unlock()
	p.reply(out)
}

// refuse answers every slot with one error: nothing was appended.
func (p *producing) refuse(err error) {
	for i := range p.slots {
		p.set(i, partition.Appended{}, err)
	}
	p.appended(0)
}
