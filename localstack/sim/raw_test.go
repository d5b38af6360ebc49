package sim

import (
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/localstack/chaos/kcheck"
)

// wire is one raw connection: what no client would send can be sent, and every answer is taken at its word.
type wire struct {
	net.Conn
	sent []kmsg.Request // that no answer has come for
	next int32
	plan *plan
}

// answered counts what a produce request was answered with.
func (c *wire) answered(code int16) {
	if err := kerr.ErrorForCode(code); err != nil {
		c.plan.count("produce answered " + strings.SplitN(err.Error(), ":", 2)[0])
	}
}

func (w *world) connect(ctx context.Context) (*wire, error) {
	c, err := w.network.dial(ctx, "tcp", "127.0.0.1:9092")
	if err != nil {
		return nil, err
	}
	return &wire{Conn: c, plan: w.plan}, nil
}

const patience = 30 * time.Second

func (c *wire) send(version int16, req kmsg.Request) error {
	req.SetVersion(version)
	c.sent = append(c.sent, req)
	c.next++
	_, err := c.Write(kmsg.NewRequestFormatter(kmsg.FormatterClientID("raw")).AppendRequest(nil, req, c.next))
	return err
}

func (c *wire) receive(wait time.Duration) (kmsg.Response, error) {
	if err := c.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return nil, err
	}
	var head [4]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return nil, err
	}
	body := make([]byte, binary.BigEndian.Uint32(head[:]))
	if _, err := io.ReadFull(c, body); err != nil {
		return nil, err
	}
	req := c.sent[0]
	c.sent = c.sent[1:]
	resp := req.ResponseKind()
	resp.SetVersion(req.GetVersion())
	skip := 4
	if resp.IsFlexible() {
		skip++
	}
	return resp, resp.ReadFrom(body[skip:])
}

const produceVersion = 12 // the last with names

func produceRequest(acks int16, timeout time.Duration, log place, records []byte) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = acks, int32(timeout.Milliseconds())
	t := kmsg.NewProduceRequestTopic()
	t.Topic = log.topic.name
	q := kmsg.NewProduceRequestTopicPartition()
	q.Partition, q.Records = log.partition, records
	t.Partitions = append(t.Partitions, q)
	req.Topics = append(req.Topics, t)
	return req
}

// place is one partition of one life of a topic.
type place struct {
	topic     *topic
	partition int32
}

// answer is what a produce request came to.
type answer struct {
	outcome kcheck.Outcome
	code    int16
	base    int64
	text    string
}

var unanswered = answer{kcheck.Unknown, -1, -1, ""}

func (c *wire) produced(wait time.Duration) answer {
	resp, err := c.receive(wait)
	if err != nil {
		return unanswered
	}
	p := resp.(*kmsg.ProduceResponse).Topics[0].Partitions[0]
	a := answer{outcomeOf(p.ErrorCode), p.ErrorCode, p.BaseOffset, ""}
	c.answered(p.ErrorCode)
	if p.ErrorMessage != nil {
		a.text = *p.ErrorMessage
	}
	return a
}

// outcomeOf reads an error code as the contract has it: only these leave open what happened.
func outcomeOf(code int16) kcheck.Outcome {
	switch kerr.ErrorForCode(code) {
	case nil:
		return kcheck.OK
	case kerr.RequestTimedOut, kerr.NotEnoughReplicasAfterAppend, kerr.KafkaStorageError, kerr.UnknownServerError:
		return kcheck.Unknown
	}
	return kcheck.Failed
}

// sent is a batch of an idempotent producer.
type sentBatch struct {
	raw  []byte
	ids  []uint64
	seq  int32
	base int64 // once acknowledged
	life int   // of the agent then
}

// idempotent is a producer that sends batches again: after an unknown outcome until it is known, now and then without
// need, now and then on two connections at once. It holds every answer to the rules of sequence numbers.
type idempotent struct {
	l      *load
	number int
	log    place
	id     int64
	seq    int32
	recent []*sentBatch // acknowledged, the last five
	rng    *rand.Rand
	conns  [2]*wire
}

func (l *load) idempotent(t *topic, partition int32) worker {
	number := l.nextProducer()
	return func(ctx context.Context, rng *rand.Rand) {
		p := &idempotent{l: l, number: number, log: place{t, partition}, rng: rng}
		defer p.hangUp()
		for ctx.Err() == nil {
			if p.id == 0 {
				p.identify(ctx)
			} else {
				p.step(ctx)
			}
			pause1(ctx, rng, 400*time.Millisecond)
		}
	}
}

// returning is a producer that falls silent for longer than its records live: when it comes back, what it sends again was
// deleted long ago, and is a duplicate all the same.
func (l *load) returning(t *topic, partition int32) worker {
	number := l.nextProducer()
	return func(ctx context.Context, rng *rand.Rand) {
		p := &idempotent{l: l, number: number, log: place{t, partition}, rng: rng}
		defer p.hangUp()
		for ctx.Err() == nil {
			for n := 1 + rng.IntN(4); n > 0 && ctx.Err() == nil; {
				if p.id == 0 {
					p.identify(ctx)
				} else if p.sendAll(ctx, []*sentBatch{p.make(0)}); len(p.recent) > 0 {
					n--
				}
				pause1(ctx, rng, 300*time.Millisecond)
			}
			if !sleep(ctx, 18*time.Second+part(rng, 6*time.Second)) {
				return
			}
			if start, end, ok := l.bounds(ctx, t, partition); ok && start == end && p.id != 0 {
				l.w.plan.count("a producer outlived its records")
				p.again(ctx)
			}
		}
	}
}

func (p *idempotent) hangUp() {
	for i, c := range p.conns {
		if c != nil {
			c.Close()
		}
		p.conns[i] = nil
	}
}

// conn is one of two connections, or nil: the agent is away.
func (p *idempotent) conn(ctx context.Context, i int) *wire {
	if p.conns[i] == nil {
		c, err := p.l.w.connect(ctx)
		if err != nil {
			return nil
		}
		p.conns[i] = c
	}
	return p.conns[i]
}

func (p *idempotent) drop(i int) {
	if p.conns[i] != nil {
		p.conns[i].Close()
	}
	p.conns[i] = nil
}

func (p *idempotent) identify(ctx context.Context) {
	c := p.conn(ctx, 0)
	if c == nil {
		return
	}
	req := kmsg.NewPtrInitProducerIDRequest()
	req.ProducerID, req.ProducerEpoch = -1, -1
	if c.send(4, req) == nil {
		if resp, err := c.receive(5 * time.Second); err == nil {
			if got := resp.(*kmsg.InitProducerIDResponse); got.ErrorCode == 0 {
				p.id = got.ProducerID
				p.l.producerID(got.ProducerID)
			}
			return
		}
	}
	p.drop(0)
}

// make is a new batch behind ahead others that are on their way.
func (p *idempotent) make(ahead int32) *sentBatch {
	n := 1 + p.rng.IntN(3)
	b := &sentBatch{seq: p.seq + ahead, base: -1}
	var values [][]byte
	for range n {
		id := p.l.newID(p.number)
		b.ids = append(b.ids, id)
		values = append(values, valueOf(id, p.l.size(p.rng)))
		p.l.rec.Send(kcheck.Send{ID: id, Producer: p.number, Log: p.log.of(), Acks: -1, Once: true, Ordered: true})
	}
	b.raw = batchOf(identity{p.id, b.seq}, values...)
	return b
}

func (p *idempotent) step(ctx context.Context) {
	if p.rng.IntN(40) == 0 { // a new producer takes its place
		p.id, p.seq, p.recent = 0, 0, nil
		p.identify(ctx)
		if p.id == 0 {
			return
		}
	}
	switch x := p.rng.IntN(10); {
	case x < 4:
		p.sendAll(ctx, []*sentBatch{p.make(0)})
	case x < 6 && len(p.recent) > 0: // a broker that knows nothing of a producer takes any number for its first
		bs := []*sentBatch{p.make(0)}
		for range 1 + p.rng.IntN(4) {
			last := bs[len(bs)-1]
			bs = append(bs, p.make(last.seq+int32(len(last.ids))-p.seq))
		}
		p.sendAll(ctx, bs)
	case x < 8 && len(p.recent) > 0:
		p.again(ctx)
	default:
		p.twins(ctx, p.make(0))
	}
}

const answerWait = 8 * time.Second

// exchange sends batches on one connection without waiting, and collects what is answered.
func (p *idempotent) exchange(ctx context.Context, i int, bs []*sentBatch) []answer {
	out := slices.Repeat([]answer{unanswered}, len(bs))
	c := p.conn(ctx, i)
	if c == nil {
		for k := range out { // nothing has left
			out[k] = answer{kcheck.Failed, kerr.LeaderNotAvailable.Code, -1, ""}
		}
		return out
	}
	for _, b := range bs {
		if err := c.send(produceVersion, produceRequest(-1, answerWait, p.log, b.raw)); err != nil {
			p.drop(i)
			return out
		}
	}
	for k := range bs {
		if out[k] = c.produced(answerWait + time.Second); out[k].code == -1 {
			p.drop(i)
			break
		}
	}
	for k := range out {
		if p.wrong(out[k].code) && (k == 0 || out[k-1].outcome == kcheck.OK) {
			p.l.w.fail("producer %d: batch with sequence %d of id %d on %s: %v: %s", p.number, bs[k].seq, p.id, p.log.of(), kerr.ErrorForCode(out[k].code), out[k].text)
		}
	}
	return out
}

// wrong says that no fault explains an answer: the sequence number was right and the batch whole.
func (p *idempotent) wrong(code int16) bool {
	switch kerr.ErrorForCode(code) {
	case kerr.OutOfOrderSequenceNumber, kerr.InvalidProducerEpoch, kerr.UnknownProducerID, kerr.DuplicateSequenceNumber, kerr.InvalidRecord, kerr.CorruptMessage:
		return true
	}
	return false
}

// sendAll sends new batches in one go. Refused as a whole, they are given up; otherwise they are sent again until each is
// known to be there.
func (p *idempotent) sendAll(ctx context.Context, bs []*sentBatch) {
	as := p.exchange(ctx, 0, bs)
	from := 0
	for from < len(bs) && as[from].outcome == kcheck.OK {
		p.acked(bs[from], as[from])
		from++
	}
	if from == len(bs) {
		return
	}
	if !slices.ContainsFunc(as[from:], func(a answer) bool { return a.outcome != kcheck.Failed }) {
		for _, b := range bs[from:] {
			p.ended(b, kcheck.Failed)
		}
		return
	}
	p.insist(ctx, bs[from:])
}

// insist sends batches one by one until each is there; what is not known when ctx ends stays so.
func (p *idempotent) insist(ctx context.Context, bs []*sentBatch) {
	for len(bs) > 0 {
		a := p.exchange(ctx, p.rng.IntN(2), bs[:1])[0]
		if a.outcome == kcheck.OK {
			p.acked(bs[0], a)
			bs = bs[1:]
			continue
		}
		if !pause1(ctx, p.rng, 600*time.Millisecond) {
			for _, b := range bs {
				p.ended(b, kcheck.Unknown)
			}
			p.id = 0
			return
		}
	}
}

// again sends one of the last five batches without need: the answer is the original's.
func (p *idempotent) again(ctx context.Context) {
	b := p.recent[p.rng.IntN(len(p.recent))]
	a := p.exchange(ctx, p.rng.IntN(2), []*sentBatch{b})[0]
	if a.outcome != kcheck.OK {
		return
	}
	if a.base != b.base {
		p.l.w.fail("producer %d: batch with sequence %d of id %d on %s was acknowledged at %d, sent again at %d", p.number, b.seq, p.id, p.log.of(), b.base, a.base)
	}
	if now := p.l.w.life(); now != b.life {
		p.l.w.plan.count("dedupe hit after a restart")
	} else {
		p.l.w.plan.count("dedupe hit")
	}
}

// twins sends one batch on two connections at once.
func (p *idempotent) twins(ctx context.Context, b *sentBatch) {
	answers := make(chan answer, 2)
	for i := range 2 {
		go func() { answers <- p.exchange(ctx, i, []*sentBatch{b})[0] }()
	}
	failed := 0
	base := int64(-1)
	for range 2 {
		a := <-answers
		switch {
		case a.outcome == kcheck.OK && base < 0:
			base = a.base
			p.acked(b, a)
		case a.outcome == kcheck.OK && base != a.base:
			p.l.w.fail("producer %d: one batch on two connections has the offsets %d and %d", p.number, base, a.base)
		case a.outcome == kcheck.Failed:
			failed++
		}
	}
	switch {
	case base >= 0:
	case failed == 2:
		p.ended(b, kcheck.Failed)
	default:
		p.insist(ctx, []*sentBatch{b})
	}
}

func (p *idempotent) acked(b *sentBatch, a answer) {
	b.base, b.life = a.base, p.l.w.life()
	for i, id := range b.ids {
		p.l.rec.Sent(id, kcheck.OK, a.base+int64(i))
	}
	p.seq = b.seq + int32(len(b.ids))
	if p.recent = append(p.recent, b); len(p.recent) > 5 {
		p.recent = p.recent[1:]
	}
}

func (p *idempotent) ended(b *sentBatch, o kcheck.Outcome) {
	for _, id := range b.ids {
		p.l.rec.Sent(id, o, -1)
	}
}

// plain is a producer without idempotence, which sends each batch once: what is refused must never be there.
func (l *load) plain(topics ...*topic) worker {
	number := l.nextProducer()
	return func(ctx context.Context, rng *rand.Rand) {
		var c *wire
		for pause1(ctx, rng, 500*time.Millisecond) {
			if c == nil {
				var err error
				if c, err = l.w.connect(ctx); err != nil {
					continue
				}
			}
			if !l.single(c, number, topics[rng.IntN(len(topics))], rng) {
				c.Close()
				c = nil
			}
		}
		if c != nil {
			c.Close()
		}
	}
}

// single sends one batch, now and then a wrong one, and answers whether the connection is good.
func (l *load) single(c *wire, number int, t *topic, rng *rand.Rand) bool {
	at := place{t, rng.Int32N(t.partitions)}
	acks := []int16{-1, -1, 1, 1, 0}[rng.IntN(5)]
	var ids []uint64
	var values [][]byte
	for i := range 1 + rng.IntN(3) {
		id, size := l.newID(number), l.size(rng)
		if t.large && i == 0 && rng.IntN(4) == 0 {
			size = largeValue
		}
		ids, values = append(ids, id), append(values, valueOf(id, size))
		l.rec.Send(kcheck.Send{ID: id, Producer: number, Log: at.of(), Acks: acks, Provisional: acks == 1 && !t.local, Once: true})
	}
	raw := batchOf(identity{}, values...)
	wrong := rng.IntN(12) == 0
	if wrong {
		raw[len(raw)-1] ^= 1
	}
	timeout := []time.Duration{time.Millisecond, 50 * time.Millisecond, 10 * time.Second}[rng.IntN(3)]
	a := unanswered
	good := c.send(produceVersion, produceRequest(acks, timeout, at, raw)) == nil
	if acks == 0 {
		c.sent = c.sent[:len(c.sent)-1]
		a.outcome = kcheck.OK
		if wrong {
			a.outcome, good = kcheck.Failed, false // the connection ends
		}
	} else if good {
		a = c.produced(timeout + 12*time.Second)
		good = a.code != -1
	}
	if wrong && acks != 0 && a.outcome == kcheck.OK {
		l.w.fail("a batch whose CRC does not match was acknowledged")
	}
	if wrong && a.outcome == kcheck.Unknown {
		a.outcome = kcheck.Failed
	}
	for i, id := range ids {
		if a.outcome == kcheck.OK && acks != 0 {
			l.rec.Sent(id, kcheck.OK, a.base+int64(i))
		} else {
			l.rec.Sent(id, a.outcome, -1)
		}
	}
	return good
}

// accepts wants every partition to take a write within patience.
func (l *load) accepts(ctx context.Context, topics []*topic) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	number := l.nextProducer()
	for _, t := range topics {
		for i := range t.partitions {
			at := place{t, i}
			for {
				id := l.newID(number)
				l.rec.Send(kcheck.Send{ID: id, Producer: number, Log: at.of(), Acks: -1, Once: true})
				a := answer{kcheck.Failed, -1, -1, ""}
				if c, err := l.w.connect(ctx); err == nil {
					a.outcome = kcheck.Unknown
					if c.send(produceVersion, produceRequest(-1, 5*time.Second, at, batchOf(identity{}, valueOf(id, 20)))) == nil {
						a = c.produced(6 * time.Second)
					}
					c.Close()
				}
				l.rec.Sent(id, a.outcome, a.base)
				if a.outcome == kcheck.OK {
					break
				}
				if !sleep(ctx, 100*time.Millisecond) {
					l.w.fail("%s takes no write %s after everything is healed: %v", at.of(), patience, kerr.ErrorForCode(a.code))
					return
				}
			}
		}
	}
}

func (p place) of() kcheck.Log { return p.topic.log(p.partition) }

// pause1 waits a part of d; it is false when ctx has ended.
func pause1(ctx context.Context, rng *rand.Rand, d time.Duration) bool {
	return sleep(ctx, part(rng, d))
}
