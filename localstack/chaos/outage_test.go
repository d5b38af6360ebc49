package chaos

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/localstack/chaos/kcheck"
)

const (
	// produceWait is produce.wait.ms. Whatever the timeout of a request, and a prober is patient, its answer takes at most twice
	// as long, where the stores go away behind its append, but for slack, which is the machine's.
	produceWait    = 1500 * time.Millisecond
	proberPatience = 30 * time.Second
	slack          = 3 * time.Second
	// backWithin is how soon after an outage everything must work again.
	backWithin = 30 * time.Second
	// readWithin bounds one reading of what is committed, while the store is away.
	readWithin = 10 * time.Second
)

// outageTime is how long a store or the disk is away: a minute in a long run, which -rounds asks for.
func outageTime() time.Duration {
	switch {
	case *roundsFlag > ciRounds:
		return time.Minute
	case os.Getenv("VARVE_TEST_ALL") == "":
		return 5 * time.Second
	}
	return 6 * time.Second
}

// outageSettings bound what an agent holds so that a short outage fills it.
func outageSettings() []string {
	return []string{fmt.Sprintf("produce.wait.ms=%d", produceWait.Milliseconds()), "produce.buffer.bytes=33554432",
		"journal.bytes=8388608", "flush.bytes=1048576"}
}

// prober asks all the time, one request after another, and remembers how it was answered.
type prober struct {
	*few
	kinds []*kind
	kept  *topic // sealed and read before: its bytes are local copies
	stop  context.CancelFunc
	busy  sync.WaitGroup

	mu      sync.Mutex
	reads   int
	slowest time.Duration // reading of kept
	problem []error
}

// kind is one way to produce.
type kind struct {
	name     string
	producer *producer
	client   *kgo.Client
	codes    map[string]int
	slowest  time.Duration
	acked    time.Time // the last acknowledgement, by when it was sent
}

const keptRecords = 400

func newProber(t *testing.T, addr string) *prober {
	t.Helper()
	p := &prober{few: newFew(t, addr)}
	p.kept = p.topic("kept", 1, map[string]string{"segment.ms": "100"})
	for range keptRecords / 20 {
		p.send(p.kept, 0, -1, 20)
	}
	// An agent that is cut off from its metadata knows where those segments are that it has looked up: so they are read once.
	eventually(t, "everything that is kept is sealed", func() error { return want(int(p.sealedEnd(p.kept)), keptRecords) })
	p.readKept()
	object := p.topic("probed", 1, nil)
	local := p.topic("probed-local", 1, map[string]string{"varve.durability": "local"})
	for _, k := range []struct {
		topic *topic
		acks  int16
	}{{object, -1}, {object, 1}, {local, -1}, {local, 1}} {
		cl, err := newClient(addr, rawOptions(k.acks)...)
		if err != nil {
			t.Fatal(err)
		}
		p.clients = append(p.clients, cl)
		p.kinds = append(p.kinds, &kind{name: fmt.Sprintf("%s acks=%d", k.topic.name, k.acks), client: cl, codes: map[string]int{},
			producer: &producer{number: p.nextProducer(), topic: k.topic, acks: k.acks, provisional: k.acks == 1 && !k.topic.local, once: true}})
	}
	return p
}

// sealedEnd asks for the end of what lies in segments; -1: no answer.
func (p *prober) sealedEnd(t *topic) int64 {
	const latestTiered = -5
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	q := kmsg.NewListOffsetsRequestTopic()
	q.Topic = t.name
	at := kmsg.NewListOffsetsRequestTopicPartition()
	at.Timestamp, at.CurrentLeaderEpoch = latestTiered, -1
	q.Partitions = append(q.Partitions, at)
	req.Topics = append(req.Topics, q)
	answer, err := p.raw.Broker(1).Request(p.t.Context(), req)
	if err != nil {
		return -1
	}
	got := answer.(*kmsg.ListOffsetsResponse).Topics[0].Partitions[0]
	if got.ErrorCode != 0 {
		return -1
	}
	return got.Offset + 1
}

// start probes until halt.
func (p *prober) start() {
	var ctx context.Context
	ctx, p.stop = context.WithCancel(p.t.Context())
	for _, k := range p.kinds {
		p.busy.Go(func() {
			for ctx.Err() == nil {
				p.produce(k)
				pause(ctx, 50*time.Millisecond)
			}
		})
	}
	p.busy.Go(func() {
		for ctx.Err() == nil {
			p.readKept()
			pause(ctx, 100*time.Millisecond)
		}
	})
}

func (p *prober) halt() {
	p.stop()
	p.busy.Wait()
}

func (p *prober) fail(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.problem) < 20 {
		p.problem = append(p.problem, fmt.Errorf(format, args...))
	}
}

// produce sends one batch of one record: its answer must come in time and be one that clients repeat.
func (p *prober) produce(k *kind) {
	p.mu.Lock()
	id := p.newID(k.producer)
	p.mu.Unlock()
	log := k.producer.topic.log(0)
	p.rec.Send(kcheck.Send{ID: id, Producer: k.producer.number, Log: log, Acks: k.producer.acks, Provisional: k.producer.provisional, Once: true})
	records := []*kgo.Record{newRecord(log, k.producer.topic.name, id, 20_000)}
	began := time.Now()
	code, err := p.put(k.client, k.producer, int32(proberPatience.Milliseconds()), rawBatch(identity{}, records...), records)
	took := time.Since(began)
	what := "acknowledged"
	switch {
	case err != nil:
		p.fail("%s: no answer: %w", k.name, err)
		what = "none"
	case code != 0:
		what = kerr.TypedErrorForCode(code).Message
		if code != kerr.RequestTimedOut.Code && code != kerr.NotEnoughReplicas.Code {
			p.fail("%s: answered %s, want an error that says that there is no room, or that nothing is known", k.name, what)
		}
	}
	if took > 2*produceWait+slack {
		p.fail("%s: answered %s after %s, want %s at most", k.name, what, took, 2*produceWait)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	k.codes[what]++
	k.slowest = max(k.slowest, took)
	if what == "acknowledged" {
		k.acked = began
	}
}

// readKept reads everything of a topic that was committed before, as a new client.
func (p *prober) readKept() {
	ctx, cancel := context.WithTimeout(p.t.Context(), readWithin)
	defer cancel()
	began := time.Now()
	cl, err := newClient(p.addr, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{p.kept.name: {0: kgo.NewOffset().AtStart()}}))
	if err != nil {
		p.fail("%w", err)
		return
	}
	defer cl.Close()
	next := int64(0)
	var last error
	for next < keptRecords {
		fetches := cl.PollFetches(ctx)
		fetches.EachError(func(_ string, _ int32, err error) { last = err })
		if ctx.Err() != nil {
			if p.t.Context().Err() == nil {
				p.fail("what was committed could be read up to %d of %d within %s: %v", next, keptRecords, readWithin, last)
			}
			return
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if id, damage := judge(r); r.Offset != next || damage != "" {
				p.fail("record %x at %d, want offset %d; damage: %q", id, r.Offset, next, damage)
			}
			next = r.Offset + 1
		})
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reads++
	p.slowest = max(p.slowest, time.Since(began))
}

// reset forgets how it was answered so far.
func (p *prober) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reads, p.slowest = 0, 0
	for _, k := range p.kinds {
		clear(k.codes)
		k.slowest = 0
	}
}

// report tells how it was answered since reset, and wants all that must hold during an outage: reads went on, and each way
// to produce that the outage concerns was refused.
func (p *prober) report(t *testing.T, what string, refused ...string) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	var lines []string
	for _, k := range p.kinds {
		lines = append(lines, fmt.Sprintf("%s: %v, slowest %s", k.name, k.codes, k.slowest.Round(time.Millisecond)))
		if slices.Contains(refused, k.name) && k.codes[kerr.NotEnoughReplicas.Message] == 0 {
			t.Errorf("%s: %s was never refused: %v", what, k.name, k.codes)
		}
	}
	t.Logf("%s: %d readings of %d committed records, slowest %s; %s", what, p.reads, keptRecords, p.slowest.Round(time.Millisecond), strings.Join(lines, "; "))
	if p.reads == 0 {
		t.Errorf("%s: what was committed could not be read", what)
	}
	for _, err := range p.problem {
		t.Errorf("%s: %v", what, err)
	}
	p.problem = nil
}

// back waits until every way to produce has been acknowledged for a request that was sent after since.
func (p *prober) back(t *testing.T, since time.Time) {
	t.Helper()
	waiting := func() (names []string) {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, k := range p.kinds {
			if k.acked.Before(since) {
				names = append(names, k.name)
			}
		}
		return names
	}
	for len(waiting()) > 0 {
		if time.Since(since) > backWithin {
			t.Fatalf("%s after its end the outage is not over for %v", backWithin, waiting())
		}
		pause(t.Context(), 20*time.Millisecond)
	}
	t.Logf("everything is acknowledged again %s after the end of the outage", time.Since(since).Round(time.Millisecond))
}

// outage is what goes away, and comes back.
type outage struct {
	name       string
	away, back func() error
	// local: bytes that are not on the agent's machine cannot be read meanwhile.
	local bool
	// refused are the ways to produce that it must concern.
	refused []string
}

// TestOutagesOfTheStores stops, and then hangs, PostgreSQL and the S3 server under load.
func TestOutagesOfTheStores(t *testing.T) {
	s := newStores(t, 0)
	w := s.world(build(t), "s3").with(outageSettings()...)
	underLoad(t, w, []outage{
		{"PostgreSQL is stopped", s.pg.Kill, func() error { return s.pg.Restart(t.Context()) }, false, []string{"probed acks=-1"}},
		{"PostgreSQL hangs", s.pg.Pause, s.pg.Continue, false, []string{"probed acks=-1"}},
		{"the S3 server is stopped", func() error { s.proxy.point(""); return s.s3.Stop() },
			func() error { s.startS3(); s.proxy.point(s.s3.Endpoint); return nil }, true, []string{"probed acks=-1"}},
		{"the S3 server hangs", func() error { s.signalS3(syscall.SIGSTOP); return nil }, func() error { s.signalS3(syscall.SIGCONT); return nil }, true, []string{"probed acks=-1"}},
	})
}

// underLoad holds one agent against outages: what is committed is read meanwhile, produce is answered in time, and
// afterwards work goes on and nothing is lost.
func underLoad(t *testing.T, w *world, outages []outage) {
	a := w.mustStart(t)
	for i, o := range outages {
		t.Run(o.name, func(t *testing.T) {
			during := outageTime()
			l, err := newLoad(t.Context(), w.kafka, uint64(i+1), uint64(i+1))
			if err != nil {
				t.Fatal(err)
			}
			defer l.close()
			p := newProber(t, w.kafka)
			if !o.local {
				l.agent.Store(a) // copies are dropped all the time
			}
			working, stop := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- l.work(t.Context(), working, i) }()
			p.start()
			defer p.halt()
			pause(t.Context(), time.Second)
			p.report(t, "before")
			if err := o.away(); err != nil {
				t.Fatal(err)
			}
			p.reset()
			pause(t.Context(), during)
			p.report(t, o.name, o.refused...)
			if err := o.back(); err != nil {
				t.Fatal(err)
			}
			p.back(t, time.Now())
			pause(t.Context(), time.Second)
			p.halt()
			stop()
			if err := <-done; err != nil {
				t.Error(err)
			}
			select {
			case <-a.exited:
				t.Fatalf("the agent has ended: %v\n%s", a.err, a.log)
			default:
			}
			p.check(p.kept, p.kinds[0].producer.topic, p.kinds[2].producer.topic)
			l.judge(t.Context(), t, p.rng, o.name)
			acked, read := l.rec.Counts()
			t.Logf("the load: %d records acknowledged, %d read", acked, read)
			for _, top := range []*topic{p.kept, p.kinds[0].producer.topic, p.kinds[2].producer.topic} {
				if err := p.remove(t.Context(), top); err != nil {
					t.Error(err)
				}
			}
			if t.Failed() {
				t.Logf("the agent's log:\n%s", a.log)
			} else if err := l.deleteAll(t.Context()); err != nil {
				t.Error(err)
			}
		})
		if t.Failed() {
			return
		}
	}
	if err := a.stop(); err != nil {
		t.Errorf("the agent ended with %v after SIGTERM\n%s", err, a.log)
	}
	if out, err := w.verify(t); err != nil {
		t.Errorf("storage verify: %v\n%s", err, out)
	}
}
