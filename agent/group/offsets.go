package group

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"varve.dev/metadata"
)

// ticket is a Write that has not been answered.
type ticket struct {
	id       uint64
	deadline time.Time // of those who wait
	barriers []Ref

	to      Ref // of a commit, a deletion of offsets, a deletion
	kind    kind
	offsets []metadata.GroupOffset
	drop    []metadata.PartitionID
	errs    []error // per partition, of a deletion of offsets

	generation int32 // of a leader's sync
	shares     map[string][]byte
	static     *staticJoin
}

type kind uint8

const (
	rowWrite kind = iota
	offsetCommit
	offsetDelete
	offsetExpiry
	groupDelete
)

// staticJoin waits for the row that holds its new member id.
type staticJoin struct {
	to                       Ref
	member, instance, leader string
	skip                     bool
}

// waits says whether somebody must be answered at the deadline.
func (t *ticket) waits() bool {
	return !t.deadline.IsZero() && (t.to != 0 || len(t.barriers) > 0 || t.static != nil || t.shares != nil)
}

func (g *Group) write(w Write) *ticket {
	g.lastTicket++
	w.Ticket = g.lastTicket
	g.out = append(g.out, w)
	t := &ticket{id: w.Ticket, deadline: g.now.Add(g.rules.StoreTimeout)}
	g.tickets = append(g.tickets, t)
	g.arm(t.deadline)
	return t
}

// waitForStore gives whoever has come to wait for the newest sharing-out its time.
func (g *Group) waitForStore() {
	for _, t := range g.tickets {
		if t.shares != nil && t.generation == g.generation {
			t.deadline = g.now.Add(g.rules.StoreTimeout)
			g.arm(t.deadline)
		}
	}
}

// giveUpWaiting answers those who have waited for the store for long enough. What they asked for may still happen, except
// for commits that have not been sent: those are taken back.
func (g *Group) giveUpWaiting() {
	for _, t := range g.tickets {
		if !t.waits() || !g.due(t.deadline) {
			continue
		}
		t.deadline = time.Time{}
		g.answer(t, kerr.CoordinatorNotAvailable)
		if t.shares != nil && g.state == Completing && t.generation == g.generation {
			for _, m := range g.members {
				g.answerMemberSync(m, SyncReply{Err: kerr.CoordinatorNotAvailable})
			}
		}
		if t.kind == offsetCommit || t.kind == offsetDelete {
			g.out = append(g.out, Cancel{Ticket: t.id})
		}
	}
}

// answer tells those who wait for a ticket, once.
func (g *Group) answer(t *ticket, err error) {
	if t.to != 0 {
		if t.kind == offsetDelete {
			r := DeleteOffsetsReply{To: t.to, Err: err}
			if err == nil {
				r.Errs = t.errs
			}
			g.out = append(g.out, r)
		} else {
			g.reply(t.to, err)
		}
		t.to = 0
	}
	for _, b := range t.barriers {
		g.reply(b, err)
	}
	t.barriers = nil
	if t.static != nil {
		g.answerStatic(t.static, err)
		t.static = nil
	}
}

func (g *Group) answerStatic(s *staticJoin, err error) {
	m := g.byID[s.member]
	switch {
	case err != nil:
		g.out = append(g.out, JoinReply{To: s.to, Err: err})
	case m == nil && g.static[s.instance] != "":
		g.out = append(g.out, JoinReply{To: s.to, Err: kerr.FencedInstanceID, Member: s.member})
	case m == nil:
		g.out = append(g.out, JoinReply{To: s.to, Err: kerr.UnknownMemberID})
	case g.state != Stable:
		g.out = append(g.out, JoinReply{To: s.to, Err: kerr.RebalanceInProgress, Member: m.id})
	case s.skip:
		r := g.joined(m, s.to)
		r.SkipAssignment = m.id == g.leader
		g.out = append(g.out, r)
	default:
		// It must not think that it leads, or it would share out anew: so it hears of the leader that was.
		r := g.joined(m, s.to)
		r.Leader, r.Members = s.leader, nil
		g.out = append(g.out, r)
	}
}

func (g *Group) written(in Written) {
	i := slices.IndexFunc(g.tickets, func(t *ticket) bool { return t.id == in.Ticket })
	if i < 0 {
		return
	}
	t := g.tickets[i]
	g.tickets = slices.Delete(g.tickets, i, i+1)
	if in.Err == nil {
		g.apply(t)
	} else if t.kind == groupDelete {
		g.state = Empty
	}
	for _, b := range t.barriers {
		g.reply(b, nil) // whatever became of it, it is known now
	}
	t.barriers = nil
	g.answer(t, in.Err)
	if t.shares != nil {
		g.shared(t, in.Err)
	}
}

// apply makes visible what is stored.
func (g *Group) apply(t *ticket) {
	switch t.kind {
	case rowWrite:
		g.stored = true
	case offsetCommit:
		for _, o := range t.offsets {
			g.offsets[o.Partition] = Offset{
				Offset: o.Offset, LeaderEpoch: o.LeaderEpoch, Metadata: o.Metadata,
				Commit: o.CommitTime, Expire: o.ExpireTime,
			}
		}
	case offsetDelete, offsetExpiry:
		for _, p := range t.drop {
			delete(g.offsets, p)
		}
	case groupDelete:
		g.out = append(g.out, Gone{})
	}
}

func (g *Group) commit(in Commit) {
	if err := g.mayCommit(in); err != nil {
		g.reply(in.To, err)
		return
	}
	if m := g.byID[in.Member]; m != nil && (g.state == Stable || g.state == Preparing) {
		g.keep(m, m.session) // a member that commits lives
	}
	if len(in.Offsets) == 0 {
		g.reply(in.To, nil)
		return
	}
	t := g.write(Write{Offsets: in.Offsets})
	t.kind, t.to, t.offsets = offsetCommit, in.To, in.Offsets
}

// mayCommit: members under their generation, also while they prepare to rebalance (that is when they hand over), but not
// between join and sync. Others only while the group has no members.
func (g *Group) mayCommit(in Commit) error {
	switch {
	case g.state == Dead:
		return kerr.CoordinatorNotAvailable
	case g.blank() && in.Generation >= 0 && in.KnowsGroupIDNotFound:
		return kerr.GroupIDNotFound
	case g.blank() && in.Generation >= 0:
		return kerr.IllegalGeneration
	case in.Generation < 0 && g.state == Empty:
		return nil
	}
	if in.Generation < 0 && in.Member == "" && in.Instance == "" {
		return kerr.UnknownMemberID
	}
	if err := g.validate(in.Member, in.Instance); err != nil {
		return err
	}
	if in.Generation != g.generation {
		return kerr.IllegalGeneration
	}
	if g.state == Completing {
		return kerr.RebalanceInProgress
	}
	return nil
}

func (g *Group) deleteOffsets(in DeleteOffsets) {
	refuse := func(err error) { g.out = append(g.out, DeleteOffsetsReply{To: in.To, Err: err}) }
	switch {
	case g.state == Dead || g.blank():
		refuse(kerr.GroupIDNotFound)
		return
	case g.state != Empty && g.protocolType != consumerProtocol:
		refuse(kerr.NonEmptyGroup)
		return
	}
	errs := make([]error, len(in.Partitions))
	var drop []metadata.PartitionID
	for i, p := range in.Partitions {
		if g.subscribedTo(p.Topic) {
			errs[i] = kerr.GroupSubscribedToTopic
		} else if g.knows(p.ID) {
			drop = append(drop, p.ID)
		}
	}
	if len(drop) == 0 {
		g.out = append(g.out, DeleteOffsetsReply{To: in.To, Errs: errs})
		return
	}
	t := g.write(Write{DeleteOffsets: drop})
	t.kind, t.to, t.drop, t.errs = offsetDelete, in.To, drop, errs
}

// knows says whether p has an offset, stored or about to be.
func (g *Group) knows(p metadata.PartitionID) bool {
	if _, ok := g.offsets[p]; ok {
		return true
	}
	return g.committing(p)
}

func (g *Group) committing(p metadata.PartitionID) bool {
	return slices.ContainsFunc(g.tickets, func(t *ticket) bool {
		return slices.ContainsFunc(t.offsets, func(o metadata.GroupOffset) bool { return o.Partition == p })
	})
}

func (g *Group) delete(in Delete) {
	switch {
	case g.state == Dead || g.blank():
		g.reply(in.To, kerr.GroupIDNotFound)
	case g.state != Empty:
		g.reply(in.To, kerr.NonEmptyGroup)
	default:
		g.end(in.To)
	}
}

// end deletes the group. From here on it is Dead to everybody who asks.
func (g *Group) end(to Ref) {
	for _, id := range slices.Sorted(maps.Keys(g.pending)) {
		g.remove(id)
	}
	g.state = Dead
	t := g.write(Write{Delete: true})
	t.kind, t.to = groupDelete, to
}

func (g *Group) barrier(in Barrier) {
	if len(g.tickets) == 0 {
		g.reply(in.To, nil)
		return
	}
	t := g.tickets[len(g.tickets)-1]
	t.barriers = append(t.barriers, in.To)
	if t.deadline.IsZero() {
		t.deadline = g.now.Add(g.rules.StoreTimeout)
	}
	g.arm(t.deadline)
}

func (g *Group) forgetTopic(topic int32) {
	maps.DeleteFunc(g.offsets, func(p metadata.PartitionID, _ Offset) bool { return p.Topic == topic })
}

// expire implements KIP-211. The retention counts from the commit; in a group that has become empty from then, if that is
// later. What a group of consumers is subscribed to never expires.
func (g *Group) expire(in Expire) {
	if g.state == Dead {
		return
	}
	var drop []metadata.PartitionID
	for p, o := range g.offsets {
		if g.expired(o) && !g.inUse(p.Topic, in.Name) && !g.committing(p) {
			drop = append(drop, p)
		}
	}
	left := len(g.offsets) - len(drop)
	if left == 0 && g.state == Empty && len(g.pending) == 0 && len(g.tickets) == 0 {
		g.end(0)
		return
	}
	if len(drop) == 0 {
		return
	}
	slices.SortFunc(drop, order)
	t := g.write(Write{DeleteOffsets: drop})
	t.kind, t.drop = offsetExpiry, drop
}

func (g *Group) expired(o Offset) bool {
	from := o.Commit
	switch {
	case g.protocolType == "":
	case g.state == Empty:
		from = max(from, g.since)
	case g.state != Stable || g.protocolType != consumerProtocol || g.topics == nil:
		return false
	}
	if o.Expire >= 0 {
		return g.now.UnixMilli() >= o.Expire
	}
	return g.now.UnixMilli()-from >= g.rules.OffsetsRetention.Milliseconds()
}

func (g *Group) inUse(topic int32, name func(int32) (string, bool)) bool {
	n, ok := name(topic)
	return ok && g.subscribedTo(n)
}

// Offset answers what is committed for p.
func (g *Group) Offset(p metadata.PartitionID) (Offset, bool) {
	o, ok := g.offsets[p]
	return o, ok
}

// Committed lists every partition that has an offset, in order.
func (g *Group) Committed() []metadata.PartitionID {
	return slices.SortedFunc(maps.Keys(g.offsets), order)
}

func order(a, b metadata.PartitionID) int {
	return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
}
