package group

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"golang.org/x/sync/errgroup"
	"varve.dev/metadata"
)

// TopicName answers the name of a topic, false if there is none with this number any more.
type TopicName func(num int32) (string, bool)

// Coordinator owns the groups of the shards that its session holds.
type Coordinator struct {
	store   metadata.Groups
	session metadata.Session
	topics  TopicName
	log     *slog.Logger
	metrics *Metrics
	cfg     Config

	shards    []*shard
	shardLost chan struct{} // wakes holdShards
	window    window
	groups    atomic.Int64  // in all shards
	refs      atomic.Uint64 // the last Ref given out
	// awayUntil is in Unix nanoseconds: until then the store counts as away. It lapses by itself, since only a write can
	// tell, and while nobody is let in there may be none.
	awayUntil atomic.Int64
}

type phase uint8

const (
	loading phase = iota
	elsewhere
	serving
)

// shard is the part of the groups that one lease covers.
type shard struct {
	mu    sync.RWMutex
	phase phase
	lease metadata.ShardLease
	slots map[string]*slot
}

// slot serializes what happens to one group.
type slot struct {
	id    string
	shard *shard

	mu      sync.Mutex
	group   *Group
	over    bool // not in the shard's table any more
	inDoubt bool // a write that may have been done, or may yet be, holds something of it
	waiting map[Ref]func(Action)
	timer   *time.Timer
	armed   time.Time // when timer fires; zero: it does not
}

// failed stands for any reply when the group is not ours any more.
type failed struct{ err error }

func (failed) action() {}

// New is a coordinator that answers COORDINATOR_LOAD_IN_PROGRESS until Run has loaded its shards.
func New(store metadata.Groups, session metadata.Session, topics TopicName, log *slog.Logger, metrics *Metrics, cfg Config) (*Coordinator, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	c := &Coordinator{store: store, session: session, topics: topics, log: log, metrics: metrics, cfg: cfg}
	c.window.wake, c.shardLost = make(chan struct{}, 1), make(chan struct{}, 1)
	c.shards = make([]*shard, cfg.Shards)
	for i := range c.shards {
		c.shards[i] = &shard{slots: map[string]*slot{}}
	}
	return c, nil
}

// Run acquires the shards, loads and serves them until ctx ends; then it writes what is still queued and answers everybody
// who waits NOT_COORDINATOR, or COORDINATOR_NOT_AVAILABLE where it may have been written. An error means that the session is
// over.
func (c *Coordinator) Run(ctx context.Context) error {
	defer func() {
		for i := range c.shards {
			c.unload(int32(i), kerr.NotCoordinator)
		}
	}()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.writeWindows(ctx) })
	g.Go(func() error { return c.holdShards(ctx) })
	g.Go(func() error { return c.expireOffsets(ctx) })
	return g.Wait()
}

// Ready says that every shard has been asked for, and those that we were given are loaded.
func (c *Coordinator) Ready() bool {
	for _, s := range c.shards {
		s.mu.RLock()
		p := s.phase
		s.mu.RUnlock()
		if p == loading {
			return false
		}
	}
	return true
}

// Shard of a group: FNV-1a, 32 bit, modulo the number of shards. Part of the stored format.
func Shard(group string, shards int32) int32 {
	h := uint32(2166136261)
	for i := range len(group) {
		h = (h ^ uint32(group[i])) * 16777619
	}
	return int32(h % uint32(shards))
}

func (c *Coordinator) shardOf(group string) *shard { return c.shards[Shard(group, c.cfg.Shards)] }

// holdShards keeps asking for the shards that are not ours, and loads those that become ours. While all are, it sleeps.
func (c *Coordinator) holdShards(ctx context.Context) error {
	pause := c.cfg.RetryMin
	for {
		err := c.acquire(ctx)
		switch {
		case errors.Is(err, metadata.ErrFenced):
			return fmt.Errorf("acquire coordinator shards: %w", err)
		case ctx.Err() != nil:
			return nil
		case err != nil:
			c.log.Warn("coordinator shards are not loaded", "err", err)
			pause = min(2*pause, c.cfg.RetryMax)
		case len(c.absent()) == 0:
			select {
			case <-c.shardLost:
			case <-ctx.Done():
				return nil
			}
			pause = c.cfg.RetryMin
		default:
			pause = c.cfg.RetryMax
		}
		if !sleep(ctx, pause) {
			return nil
		}
	}
}

// absent are the shards that we do not serve.
func (c *Coordinator) absent() (out []int32) {
	for i, s := range c.shards {
		s.mu.RLock()
		if s.phase != serving {
			out = append(out, int32(i))
		}
		s.mu.RUnlock()
	}
	return out
}

func (c *Coordinator) acquire(ctx context.Context) error {
	want := c.absent()
	if len(want) == 0 {
		return nil
	}
	leases, err := c.store.AcquireShards(ctx, c.session, want)
	if err != nil {
		return err
	}
	held := make(map[int32]metadata.ShardLease, len(leases))
	nums := make([]int32, 0, len(leases))
	for _, l := range leases {
		if l.Shard < 0 || l.Shard >= c.cfg.Shards {
			return fmt.Errorf("acquired shard %d of %d", l.Shard, c.cfg.Shards)
		}
		held[l.Shard] = l
		nums = append(nums, l.Shard)
	}
	for _, n := range want {
		if _, ok := held[n]; !ok {
			c.shards[n].setPhase(elsewhere)
		} else {
			c.shards[n].setPhase(loading)
		}
	}
	if len(nums) == 0 {
		return nil
	}
	rows, offsets, err := c.store.LoadShards(ctx, nums)
	if err != nil {
		return err
	}
	c.serve(held, rows, offsets)
	c.log.Info("coordinator shards loaded", "shards", len(nums), "groups", len(rows), "offsets", len(offsets))
	return nil
}

func (s *shard) setPhase(p phase) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.phase = p
}

// serve builds the groups of the shards held and opens them.
func (c *Coordinator) serve(held map[int32]metadata.ShardLease, rows []metadata.GroupRow, offsets []metadata.GroupOffset) {
	now := time.Now()
	tables := map[int32]map[string]*slot{}
	for n := range held {
		tables[n] = map[string]*slot{}
	}
	get := func(group string) *slot {
		n := Shard(group, c.cfg.Shards)
		table, ok := tables[n]
		if !ok {
			return nil
		}
		if table[group] == nil {
			table[group] = c.newSlot(group, now)
		}
		return table[group]
	}
	for _, r := range rows {
		if s := get(r.Group); s != nil {
			if err := s.group.Restore(now, r.State); err != nil {
				// Its offsets are what matters; the members will find out that they have to join again.
				c.log.Error("a group's row cannot be read", "group", r.Group, "err", err)
			}
		}
	}
	for _, o := range offsets {
		if s := get(o.Group); s != nil {
			s.group.RestoreOffset(o)
		}
	}
	for n, lease := range held {
		sh := c.shards[n]
		sh.mu.Lock()
		sh.slots, sh.lease, sh.phase = tables[n], lease, serving
		sh.mu.Unlock()
		c.groups.Add(int64(len(tables[n])))
		for _, s := range tables[n] {
			s.mu.Lock()
			c.rearm(s)
			s.mu.Unlock()
		}
	}
}

func (c *Coordinator) newSlot(group string, now time.Time) *slot {
	return &slot{
		id: group, shard: c.shardOf(group), group: NewGroup(c.cfg.Rules, now), waiting: map[Ref]func(Action){},
	}
}

// unload gives up a shard: everybody who waits is told.
func (c *Coordinator) unload(n int32, err error) {
	sh := c.shards[n]
	sh.mu.Lock()
	slots := sh.slots
	sh.slots, sh.phase = map[string]*slot{}, elsewhere
	sh.mu.Unlock()
	select {
	case c.shardLost <- struct{}{}:
	default: // it has been said already
	}
	c.groups.Add(-int64(len(slots)))
	for _, s := range slots {
		s.mu.Lock()
		waiting, answer := s.waiting, err
		s.over, s.waiting = true, nil
		if s.inDoubt {
			answer = kerr.CoordinatorNotAvailable // err would say that nothing was written
		}
		if s.timer != nil {
			s.timer.Stop()
		}
		s.mu.Unlock()
		for _, done := range waiting {
			done(failed{answer})
		}
	}
}

// find answers the group's slot. Without create a group that does not exist is an empty one that nobody remembers.
func (c *Coordinator) find(group string, create bool) (*slot, error) {
	sh := c.shardOf(group)
	sh.mu.RLock()
	p, s := sh.phase, sh.slots[group]
	sh.mu.RUnlock()
	switch {
	case p == loading:
		return nil, kerr.CoordinatorLoadInProgress
	case p == elsewhere:
		return nil, kerr.NotCoordinator
	case s != nil:
		return s, nil
	case !create:
		return c.newSlot(group, time.Now()), nil
	case c.groups.Load() >= int64(c.cfg.MaxGroups):
		return nil, kerr.PolicyViolation
	}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.phase != serving {
		return nil, kerr.NotCoordinator
	}
	if s = sh.slots[group]; s == nil {
		s = c.newSlot(group, time.Now())
		sh.slots[group] = s
		c.groups.Add(1)
	}
	return s, nil
}

// ask steps a group with the input that in makes of a fresh Ref, and hands the reply to done, now or later.
func (c *Coordinator) ask(group string, create bool, in func(Ref) Input, done func(Action)) {
	to := Ref(c.refs.Add(1))
	for {
		s, err := c.find(group, create)
		if err != nil {
			done(failed{err})
			return
		}
		if c.step(s, in(to), to, done) {
			return
		}
	}
}

// tell steps a group that may be over.
func (c *Coordinator) tell(s *slot, in Input) { c.step(s, in, 0, nil) }

// step runs one input through a group and carries out what it asks for. False: the slot is over, look again.
func (c *Coordinator) step(s *slot, in Input, to Ref, done func(Action)) bool {
	s.mu.Lock()
	if s.over {
		s.mu.Unlock()
		return false
	}
	if done != nil {
		s.waiting[to] = done
	}
	before := s.group.State()
	actions := s.group.Step(time.Now(), in)
	if s.group.State() == Completing && before != Completing {
		c.metrics.Rebalances.Inc()
	}
	var replies []func()
	gone := false
	for _, a := range actions {
		switch a := a.(type) {
		case Write:
			c.window.push(&op{slot: s, Write: a})
		case Cancel:
			c.window.cancel(s, a.Ticket)
		case Gone:
			s.over, gone = true, true
		default:
			if f := s.take(a); f != nil {
				replies = append(replies, func() { f(a) })
			}
		}
	}
	if !s.over {
		c.rearm(s)
	} else if s.timer != nil {
		s.timer.Stop()
	}
	s.mu.Unlock()
	if gone {
		c.drop(s) // before the replies: whoever gets one may ask for the group again
	}
	for _, r := range replies {
		r()
	}
	return true
}

// take finds who waits for a reply.
func (s *slot) take(a Action) func(Action) {
	var to Ref
	switch a := a.(type) {
	case JoinReply:
		to = a.To
	case SyncReply:
		to = a.To
	case LeaveReply:
		to = a.To
	case DeleteOffsetsReply:
		to = a.To
	case Reply:
		to = a.To
	}
	f := s.waiting[to]
	delete(s.waiting, to)
	return f
}

// drop takes a group of which nothing is left out of its shard.
func (c *Coordinator) drop(s *slot) {
	s.shard.mu.Lock()
	defer s.shard.mu.Unlock()
	if s.shard.slots[s.id] == s {
		delete(s.shard.slots, s.id)
		c.groups.Add(-1)
	}
}

// rearm makes sure that the group is woken in time. A timer that fires too early costs one step, so a deadline that has
// moved away, as a session's does with every heartbeat, is left alone.
func (c *Coordinator) rearm(s *slot) {
	at, ok := s.group.Wake()
	if !ok || !s.armed.IsZero() && !at.Before(s.armed) {
		return
	}
	s.armed = at
	if s.timer == nil {
		s.timer = time.AfterFunc(time.Until(at), func() { c.wake(s) })
		return
	}
	s.timer.Reset(time.Until(at))
}

func (c *Coordinator) wake(s *slot) {
	s.mu.Lock()
	s.armed = time.Time{}
	s.mu.Unlock()
	c.tell(s, Tick{Hold: c.away()})
}

func (c *Coordinator) away() bool { return time.Now().UnixNano() < c.awayUntil.Load() }

// each calls f for every group that is loaded.
func (c *Coordinator) each(f func(*slot)) {
	for _, sh := range c.shards {
		sh.mu.RLock()
		slots := make([]*slot, 0, len(sh.slots))
		for _, s := range sh.slots {
			slots = append(slots, s)
		}
		sh.mu.RUnlock()
		for _, s := range slots {
			f(s)
		}
	}
}

func (c *Coordinator) expireOffsets(ctx context.Context) error {
	for sleep(ctx, c.cfg.ExpiryInterval) {
		if !c.away() {
			c.each(func(s *slot) { c.tell(s, Expire{Name: c.topics}) })
		}
		c.metrics.Groups.Set(float64(c.groups.Load()))
	}
	return nil
}

// TopicDeleted forgets a topic's offsets; the store has deleted them with the topic.
func (c *Coordinator) TopicDeleted(num int32) {
	c.each(func(s *slot) { c.tell(s, ForgetTopic{Topic: num}) })
}

// sleep is false when ctx has ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
