package group

import (
	"bytes"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"varve.dev/metadata"
)

// State of a group, in Kafka's words.
type State uint8

const (
	Empty      State = iota // no members; perhaps offsets
	Preparing               // members join
	Completing              // all have joined; the leader shares out
	Stable                  // everybody has a share
	Dead                    // being deleted
)

func (s State) String() string {
	return [...]string{"Empty", "PreparingRebalance", "CompletingRebalance", "Stable", "Dead"}[s]
}

const (
	// newMemberJoinTimeout bounds a JoinGroup of a member that has no id yet and so cannot send heartbeats: Kafka's 5 min.
	newMemberJoinTimeout = 5 * time.Minute
	// barrierRetry is the least time between two attempts to complete a join for which nobody has come.
	barrierRetry = time.Second
	// memberOverhead and protocolOverhead are what a member, and each of its protocols, cost beyond the bytes that it sent.
	memberOverhead   = 512
	protocolOverhead = 64
	// consumerProtocol is the protocol type whose metadata we can read.
	consumerProtocol = "consumer"
)

// Rules are what the operator decides about groups.
type Rules struct {
	// InitialDelay is how long the first rebalance of an empty group waits for more members
	// (group.initial.rebalance.delay.ms, 3 s).
	InitialDelay time.Duration
	// MaxSize is the most members of a group (group.max.size).
	MaxSize int
	// MaxBytes bounds what the members of one group may make us remember, and what its leader is sent: 64 MiB. It is what
	// bounds the number of members when MaxSize does not: 64 MiB / 512 bytes = 131,072.
	MaxBytes int
	// StoreTimeout is how long a request waits for the store (offsets.commit.timeout.ms, 5 s).
	StoreTimeout time.Duration
	// OffsetsRetention is how long offsets outlive their use (offsets.retention.minutes, 7 days).
	OffsetsRetention time.Duration
}

// Offset is a committed offset.
type Offset struct {
	Offset      int64
	LeaderEpoch int32 // -1: unknown
	Metadata    string
	Commit      int64 // milliseconds
	Expire      int64 // milliseconds, -1: by the retention
}

type member struct {
	id, instance, client, host string
	rebalance, session         time.Duration
	protocols                  []Protocol
	assignment                 []byte

	joining, syncing Ref       // the requests that wait
	isNew            bool      // never yet in a generation: it cannot send heartbeats
	deadline         time.Time // of the session; zero: not running
}

func (m *member) metadata(protocol string) []byte {
	for _, p := range m.protocols {
		if p.Name == protocol {
			return p.Metadata
		}
	}
	return nil
}

func (m *member) bytes() int {
	n := memberOverhead + len(m.id) + len(m.instance) + len(m.client)
	for _, p := range m.protocols {
		n += protocolOverhead + len(p.Name) + len(p.Metadata)
	}
	return n
}

func (m *member) matches(ps []Protocol) bool {
	return slices.EqualFunc(m.protocols, ps, func(a, b Protocol) bool {
		return a.Name == b.Name && bytes.Equal(a.Metadata, b.Metadata)
	})
}

// Group is the state of one group. It belongs to one caller at a time.
type Group struct {
	rules Rules

	state    State
	previous State
	since    int64 // milliseconds: when it came into its state

	generation             int32
	protocolType, protocol string
	leader                 string
	members                []*member // in the order in which they joined
	byID                   map[string]*member
	static                 map[string]string // instance → member id
	bytes                  int               // of all members
	support                map[string]int    // protocol → members that understand it
	joining                int               // members whose JoinGroup waits

	pending map[string]time.Time // ids given out (KIP-394) → until when
	unsure  map[string]bool      // members that have not sent Sync for this generation

	topics      map[string]bool // subscribed; nil: not known
	offsets     map[metadata.PartitionID]Offset
	stored      bool // there is a row
	tickets     []*ticket
	lastTicket  uint64
	storingSync bool // the leader's assignment is on its way to the store

	joinAt         time.Time // the barrier falls
	initial        bool      // … of a first rebalance, which may be extended by
	remaining      time.Duration
	step           time.Duration
	newMemberAdded bool
	syncAt         time.Time // members that have not sent Sync are dropped

	now  time.Time
	wake time.Time // no deadline is earlier; zero: none
	out  []Action
}

// NewGroup is an empty group that nobody knows yet.
func NewGroup(rules Rules, now time.Time) *Group {
	return &Group{
		rules: rules, since: now.UnixMilli(), now: now,
		byID: map[string]*member{}, static: map[string]string{}, support: map[string]int{},
		pending: map[string]time.Time{}, unsure: map[string]bool{},
		offsets: map[metadata.PartitionID]Offset{},
	}
}

// Step advances the group.
func (g *Group) Step(now time.Time, in Input) []Action {
	g.now, g.out = now, nil
	switch in := in.(type) {
	case Join:
		g.join(in)
	case Sync:
		g.sync(in)
	case Heartbeat:
		g.reply(in.To, g.heartbeat(in))
	case Leave:
		g.leave(in)
	case Commit:
		g.commit(in)
	case DeleteOffsets:
		g.deleteOffsets(in)
	case Delete:
		g.delete(in)
	case Barrier:
		g.barrier(in)
	case ForgetTopic:
		g.forgetTopic(in.Topic)
	case Expire:
		g.expire(in)
	case Written:
		g.written(in)
	case Tick:
		g.endSessions(in.Hold)
	}
	g.fire()
	if g.blank() {
		g.state = Dead
		g.out = append(g.out, Gone{})
	}
	return g.out
}

// Wake says when Tick is due. It may be early, never late.
func (g *Group) Wake() (time.Time, bool) { return g.wake, !g.wake.IsZero() }

// State of the group.
func (g *Group) State() State { return g.state }

// Generation of the group; it only grows.
func (g *Group) Generation() int32 { return g.generation }

// ProtocolType is "consumer", "connect", …; empty if nobody has ever joined.
func (g *Group) ProtocolType() string { return g.protocolType }

// blank is a group that has no past: nothing is lost when it is forgotten.
func (g *Group) blank() bool {
	return g.state == Empty && g.generation == 0 && !g.stored &&
		len(g.members) == 0 && len(g.pending) == 0 && len(g.offsets) == 0 && len(g.tickets) == 0
}

func (g *Group) reply(to Ref, err error) { g.out = append(g.out, Reply{To: to, Err: err}) }

// arm remembers that something is due at t.
func (g *Group) arm(t time.Time) {
	if g.wake.IsZero() || t.Before(g.wake) {
		g.wake = t
	}
}

func (g *Group) due(t time.Time) bool { return !t.IsZero() && !g.now.Before(t) }

func (g *Group) become(s State) {
	g.previous, g.state, g.since = g.state, s, g.now.UnixMilli()
}

// fire does what is due, except ending sessions.
func (g *Group) fire() {
	if !g.due(g.wake) {
		return
	}
	for g.due(g.joinAt) || g.due(g.syncAt) {
		if g.due(g.joinAt) {
			g.joinAt = time.Time{}
			g.barrierFalls()
		}
		if g.due(g.syncAt) {
			g.syncAt = time.Time{}
			g.dropUnsynced()
		}
	}
	g.giveUpWaiting()
	g.rewake()
}

// rewake finds the earliest deadline again. A session that is over but not ended stays due.
func (g *Group) rewake() {
	g.wake = time.Time{}
	set := func(t time.Time) {
		if !t.IsZero() {
			g.arm(t)
		}
	}
	set(g.joinAt)
	set(g.syncAt)
	for _, m := range g.members {
		set(m.deadline)
	}
	for _, t := range g.pending {
		set(t)
	}
	for _, t := range g.tickets {
		if t.waits() {
			set(t.deadline)
		}
	}
}

// keep starts a member's session anew.
func (g *Group) keep(m *member, d time.Duration) {
	m.deadline = g.now.Add(d)
	g.arm(m.deadline)
}

func (g *Group) add(m *member) {
	if g.leader == "" {
		g.leader = m.id
	}
	if m.instance != "" {
		g.static[m.instance] = m.id
	}
	g.members = append(g.members, m)
	g.byID[m.id] = m
	g.count(m, +1)
	delete(g.pending, m.id)
}

// count keeps the sums over all members.
func (g *Group) count(m *member, sign int) {
	g.bytes += sign * m.bytes()
	for i, p := range m.protocols {
		if !slices.ContainsFunc(m.protocols[:i], func(q Protocol) bool { return q.Name == p.Name }) {
			g.support[p.Name] += sign
		}
		if g.support[p.Name] == 0 {
			delete(g.support, p.Name)
		}
	}
}

// remove takes a member or a pending id out. What it waits for is answered UNKNOWN_MEMBER_ID, so that it joins anew if it
// still lives.
func (g *Group) remove(id string) {
	delete(g.pending, id)
	delete(g.unsure, id)
	m := g.byID[id]
	if m == nil {
		return
	}
	g.answerJoin(m, JoinReply{Err: kerr.UnknownMemberID})
	g.answerSync(m, SyncReply{Err: kerr.UnknownMemberID})
	delete(g.byID, id)
	g.members = slices.DeleteFunc(g.members, func(o *member) bool { return o == m })
	g.count(m, -1)
	if m.instance != "" && g.static[m.instance] == id {
		delete(g.static, m.instance)
	}
	if g.leader == id {
		g.leader = ""
		if len(g.members) > 0 {
			g.leader = g.members[0].id
		}
	}
}

func (g *Group) answerJoin(m *member, r JoinReply) {
	if m.joining != 0 {
		r.To, m.joining = m.joining, 0
		g.joining--
		g.out = append(g.out, r)
	}
}

// awaitJoin parks a member's JoinGroup. If an earlier one is parked still, its connection has most likely gone.
func (g *Group) awaitJoin(m *member, to Ref) {
	g.answerJoin(m, JoinReply{Err: kerr.RebalanceInProgress, Member: m.id})
	m.joining = to
	g.joining++
}

func (g *Group) awaitSync(m *member, to Ref) {
	g.answerSync(m, SyncReply{Err: kerr.RebalanceInProgress})
	m.syncing = to
}

func (g *Group) answerSync(m *member, r SyncReply) {
	if m.syncing != 0 {
		r.To, m.syncing = m.syncing, 0
		g.out = append(g.out, r)
	}
}

// validate checks that the member is one, and still the one behind its instance id.
func (g *Group) validate(id, instance string) error {
	if instance != "" {
		switch existing, ok := g.static[instance]; {
		case !ok:
			return kerr.UnknownMemberID
		case existing != id:
			return kerr.FencedInstanceID
		}
	}
	if g.byID[id] == nil {
		return kerr.UnknownMemberID
	}
	return nil
}

func (g *Group) allJoined() bool {
	return len(g.pending) == 0 && g.joining == len(g.members)
}

// rebalanceTimeout is the longest of all members'.
func (g *Group) rebalanceTimeout() (d time.Duration) {
	for _, m := range g.members {
		d = max(d, m.rebalance)
	}
	return d
}

// supportedByAll says whether every member understands the protocol.
func (g *Group) supportedByAll(protocol string) bool { return g.support[protocol] == len(g.members) }

// elect chooses the protocol: among those that all understand each member votes for the one it likes best. Of several with
// the same number of votes the one that the oldest member likes best wins, so that the outcome does not depend on chance.
func (g *Group) elect() string {
	votes := map[string]int{}
	for _, m := range g.members {
		for _, p := range m.protocols {
			if g.supportedByAll(p.Name) {
				votes[p.Name]++
				break
			}
		}
	}
	best := ""
	for _, m := range g.members {
		for _, p := range m.protocols {
			if votes[p.Name] > votes[best] {
				best = p.Name
			}
		}
	}
	return best
}

// roster is what the leader needs to share out.
func (g *Group) roster() []JoinedMember {
	out := make([]JoinedMember, len(g.members))
	for i, m := range g.members {
		out[i] = JoinedMember{Member: m.id, Instance: m.instance, Metadata: m.metadata(g.protocol)}
	}
	return out
}
