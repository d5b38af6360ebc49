package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// conversation is one case.
type conversation struct {
	name string // "item: what is tried"
	hold func(t *talk)
}

// workers is how many conversations a broker holds at once: most wait for it rather than load it.
const workers = 6

// talk is one conversation with one broker. What it asks is recorded; what only prepares it is not.
type talk struct {
	ctx      context.Context
	addr     string
	versions map[int16]span
	prefix   string // of every topic and group of this case; it does not appear in the record, and cannot in a uuid
	links    map[string]*link
	normal   *normal
	record   []answer
	asked    map[string]bool
}

// span is a range of versions, both ends included.
type span struct{ min, max int16 }

// advertised asks a broker for the versions it speaks. Produce below v3 is advertised, and refused.
func advertised(ctx context.Context, addr string) (map[int16]span, error) {
	t := &talk{ctx: ctx, addr: addr, links: map[string]*link{}}
	defer t.hangUp()
	resp, err := t.exchange("", 0, kmsg.NewPtrApiVersionsRequest())
	if err != nil {
		return nil, fmt.Errorf("ask %s for its versions: %w", addr, err)
	}
	out := map[int16]span{}
	for _, k := range resp.(*kmsg.ApiVersionsResponse).ApiKeys {
		out[k.ApiKey] = span{k.MinVersion, k.MaxVersion}
		if k.ApiKey == int16(kmsg.Produce) {
			out[k.ApiKey] = span{3, k.MaxVersion}
		}
	}
	return out, nil
}

// askAll holds every conversation whose name contains only.
func askAll(ctx context.Context, addr string, versions map[int16]span, only string) (answers, error) {
	if err := warmUp(ctx, addr); err != nil {
		return nil, err
	}
	var (
		mu   sync.Mutex
		wg   sync.WaitGroup
		all  = answers{}
		errs []error
		turn = make(chan struct{}, workers)
	)
	for i, c := range conversations() {
		if !strings.Contains(c.name, only) {
			continue
		}
		turn <- struct{}{}
		wg.Go(func() {
			defer func() { <-turn }()
			got, err := holdOne(ctx, addr, versions, c, i)
			mu.Lock()
			defer mu.Unlock()
			if all[c.name] != nil {
				err = errors.Join(err, fmt.Errorf("two cases are called %q", c.name))
			}
			all[c.name], errs = got, append(errs, err)
		})
	}
	wg.Wait()
	return all, errors.Join(errs...)
}

// stuck ends a conversation that cannot go on.
type stuck struct{ err error }

func holdOne(ctx context.Context, addr string, versions map[int16]span, c conversation, number int) (got []answer, err error) {
	t := &talk{ctx: ctx, addr: addr, versions: versions, prefix: fmt.Sprintf("x%03d-", number), links: map[string]*link{}, asked: map[string]bool{}}
	t.normal = newNormal(t.prefix)
	defer t.hangUp()
	defer func() {
		if p := recover(); p != nil {
			s, ok := p.(stuck)
			if !ok {
				panic(p)
			}
			err = fmt.Errorf("case %q: %w", c.name, s.err)
		}
	}()
	c.hold(t)
	return t.record, nil
}

// warmUp returns when the broker has what Kafka makes on first use: the topic of offsets, and a block of producer ids.
func warmUp(ctx context.Context, addr string) (err error) {
	t := &talk{ctx: ctx, addr: addr, prefix: "warm-", links: map[string]*link{}, asked: map[string]bool{}}
	defer t.hangUp()
	defer func() {
		if s, ok := recover().(stuck); ok {
			err = fmt.Errorf("warm up: %w", s.err)
		}
	}()
	t.until("groups are served", func() bool {
		find := kmsg.NewPtrFindCoordinatorRequest()
		find.CoordinatorKey = "warm"
		if t.call(0, find).(*kmsg.FindCoordinatorResponse).ErrorCode != 0 {
			return false
		}
		beat := kmsg.NewPtrHeartbeatRequest()
		beat.Group, beat.MemberID = "warm", "nobody"
		return t.call(0, beat).(*kmsg.HeartbeatResponse).ErrorCode == 25 // UNKNOWN_MEMBER_ID: the group is being looked for
	})
	t.until("producer ids are given out", func() bool {
		return t.call(0, kmsg.NewPtrInitProducerIDRequest()).(*kmsg.InitProducerIDResponse).ErrorCode == 0
	})
	return nil
}

func (t *talk) hangUp() {
	for _, l := range t.links {
		l.nc.Close()
	}
}

func (t *talk) fail(format string, args ...any) { panic(stuck{fmt.Errorf(format, args...)}) }

// link is the connection of this name, made on first use.
func (t *talk) link(name string) *link {
	if t.links[name] == nil {
		l, err := dial(t.ctx, t.addr)
		if err != nil {
			t.fail("connect: %w", err)
		}
		t.links[name] = l
	}
	return t.links[name]
}

// lose forgets a connection that the broker has closed, or that is out of step.
func (t *talk) lose(name string) {
	if l := t.links[name]; l != nil {
		l.nc.Close()
		delete(t.links, name)
	}
}

// pending is a request whose answer has not been asked for.
type pending struct {
	t           *talk
	link        string
	version     int16
	req         kmsg.Request
	correlation int32
}

// send writes a request to the connection of this name.
func (t *talk) send(link string, version int16, req kmsg.Request) *pending {
	req.SetVersion(version)
	l := t.link(link)
	frame, id := l.frame(req)
	l.write(frame)
	return &pending{t, link, version, req, id}
}

func (p *pending) answer(within time.Duration) (kmsg.Response, error) {
	return p.answerAs(p.version, within)
}

// answerAs decodes the answer as one of another version.
func (p *pending) answerAs(version int16, within time.Duration) (kmsg.Response, error) {
	b, err := p.t.link(p.link).take(p.correlation, within)
	if err != nil {
		p.t.lose(p.link)
		return nil, err
	}
	resp, err := decode(p.req, version, b)
	if err != nil {
		p.t.fail("%w", err)
	}
	return resp, nil
}

func (t *talk) exchange(link string, version int16, req kmsg.Request) (kmsg.Response, error) {
	return t.send(link, version, req).answer(answerWithin)
}

// call asks without a record; there must be an answer.
func (t *talk) call(version int16, req kmsg.Request) kmsg.Response {
	resp, err := t.exchange("preparing", version, req)
	if err != nil {
		t.fail("%s v%d: %w", kmsg.NameForKey(req.Key()), version, err)
	}
	return resp
}

// until repeats a question that prepares a case: Kafka's metadata follows its answers by milliseconds.
func (t *talk) until(what string, yes func() bool) {
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	late := time.NewTimer(answerWithin)
	defer late.Stop()
	for !yes() {
		select {
		case <-again.C:
		case <-late.C:
			t.fail("it does not come about that %s", what)
		case <-t.ctx.Done():
			t.fail("waiting until %s: %w", what, t.ctx.Err())
		}
	}
}

// ask sends a request on the first connection and records what comes of it. The answer is nil if there is none.
func (t *talk) ask(step string, version int16, req kmsg.Request) kmsg.Response {
	return t.take(step, t.send("a", version, req))
}

// take records what comes of a request that was sent.
func (t *talk) take(step string, p *pending) kmsg.Response {
	resp, err := p.answer(answerWithin)
	t.note(step, p.version, t.normal.fields(resp, err))
	return resp
}

// perhaps asks what Kafka leaves unanswered, and so waits for less long.
func (t *talk) perhaps(step string, req kmsg.Request) {
	p := t.send("a", t.newest(req.Key()), req)
	resp, err := p.answer(perhapsWithin)
	t.note(step, p.version, t.normal.fields(resp, err))
}

// perhapsWithin is how long an answer that may not come is waited for.
const perhapsWithin = 3 * time.Second

// each asks in every version.
func (t *talk) each(step string, req func(version int16) kmsg.Request) {
	t.from(step, 0, req)
}

// from asks in every version from the first on.
func (t *talk) from(step string, first int16, req func(version int16) kmsg.Request) {
	key := req(first).Key()
	s, ok := t.versions[key]
	if !ok {
		t.fail("%s is not advertised", kmsg.NameForKey(key))
	}
	for v := max(s.min, first); v <= s.max; v++ {
		t.ask(step, v, req(v))
	}
}

// newest is the newest version of a key.
func (t *talk) newest(key int16) int16 { return t.versions[key].max }

// last asks in the newest version.
func (t *talk) last(step string, req kmsg.Request) kmsg.Response {
	return t.ask(step, t.newest(req.Key()), req)
}

func (t *talk) note(step string, version int16, fields map[string]string) {
	if id := fmt.Sprintf("%s v%d", step, version); t.asked[id] {
		t.fail("step %q is there twice", id)
	} else {
		t.asked[id] = true
	}
	t.record = append(t.record, answer{Step: step, First: version, Last: version, Fields: fields})
}

// say records something that is no answer.
func (t *talk) say(step, what string) { t.note(step, 0, map[string]string{"": what}) }

// raw writes bytes on a new connection and records whether the broker hangs up.
func (t *talk) raw(step string, b []byte) {
	t.lose("raw")
	l := t.link("raw")
	l.write(b)
	if _, err := l.take(-1<<31, closeWithin); errors.Is(err, errClosed) && len(l.sequence) == 0 {
		t.say(step, closed)
	} else if len(l.sequence) > 0 {
		t.say(step, "answered")
	} else {
		t.say(step, silent)
	}
	t.lose("raw")
}

// closeWithin is how long a broker may take to hang up where it may also wait for more.
const closeWithin = 500 * time.Millisecond
