package group

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

func (g *Group) join(in Join) {
	refuse := func(member string, err error) {
		g.out = append(g.out, JoinReply{To: in.To, Err: err, Member: member})
	}
	switch {
	case g.state == Dead:
		refuse(in.Member, kerr.CoordinatorNotAvailable)
	case in.Member != "" && g.blank():
		refuse(in.Member, kerr.UnknownMemberID)
	case !g.accepts(in):
		refuse("", kerr.GroupMaxSizeReached)
		if g.byID[in.Member] != nil {
			g.remove(in.Member)
			g.afterLoss()
		}
	case !g.understands(in):
		refuse(in.Member, kerr.InconsistentGroupProtocol)
	case in.Member == "" && in.Instance != "" && g.static[in.Instance] != "":
		g.replaceStatic(in)
	case in.Member == "" && in.Instance == "" && in.RequireKnownID:
		g.pending[in.NewID] = g.now.Add(in.Session)
		g.arm(g.pending[in.NewID])
		refuse(in.NewID, kerr.MemberIDRequired)
	case in.Member == "":
		g.admit(in, in.NewID)
	default:
		g.joinKnown(in)
	}
}

// accepts applies the bounds on a group's size. While members join, those that wait are counted, so that the last ones of a
// group that is too large are left out.
func (g *Group) accepts(in Join) bool {
	m := g.byID[in.Member]
	if m == nil && in.Instance != "" {
		m = g.byID[g.static[in.Instance]]
	}
	n := memberOverhead + len(in.NewID) + len(in.Instance) + len(in.ClientID)
	for _, p := range in.Protocols {
		n += protocolOverhead + len(p.Name) + len(p.Metadata)
	}
	if m != nil {
		n -= m.bytes()
	}
	if g.bytes+len(g.pending)*memberOverhead+n > g.rules.MaxBytes {
		return false
	}
	switch g.state {
	case Preparing:
		return m != nil && m.joining != 0 || g.joining < g.rules.MaxSize
	case Completing, Stable:
		return m != nil || len(g.members) < g.rules.MaxSize
	}
	return true
}

// understands says whether the member and the group have a protocol in common.
func (g *Group) understands(in Join) bool {
	if in.ProtocolType == "" || len(in.Protocols) == 0 {
		return false
	}
	if g.state == Empty {
		return true
	}
	if len(g.members) > 0 && in.ProtocolType != g.protocolType {
		return false
	}
	for _, p := range in.Protocols {
		if g.supportedByAll(p.Name) {
			return true
		}
	}
	return len(g.members) == 0
}

// joinKnown is a join under a member id.
func (g *Group) joinKnown(in Join) {
	if _, ok := g.pending[in.Member]; ok && in.Instance == "" {
		g.admit(in, in.Member)
		return
	}
	if err := g.validate(in.Member, in.Instance); err != nil {
		g.out = append(g.out, JoinReply{To: in.To, Err: err, Member: in.Member})
		return
	}
	m := g.byID[in.Member]
	again := m.matches(in.Protocols)
	switch {
	case g.state == Completing && again:
		// It has lost our reply.
		g.out = append(g.out, g.joined(m, in.To))
	case g.state == Stable && again && g.leader != m.id:
		// The leader's join is how it asks for another sharing-out, a follower's changes nothing.
		r := g.joined(m, in.To)
		r.Members = nil
		g.out = append(g.out, r)
	default:
		g.update(m, in)
		g.awaitJoin(m, in.To)
		g.settle()
	}
}

// admit makes a new member.
func (g *Group) admit(in Join, id string) {
	if len(g.members) == 0 {
		g.protocolType = in.ProtocolType
	}
	m := &member{
		id: id, instance: in.Instance, client: in.ClientID, host: in.Host,
		rebalance: in.Rebalance, session: in.Session, protocols: in.Protocols, isNew: true,
	}
	if g.state == Preparing && g.previous == Empty {
		g.newMemberAdded = true
	}
	g.add(m)
	g.awaitJoin(m, in.To)
	g.keep(m, newMemberJoinTimeout)
	g.settle()
}

func (g *Group) update(m *member, in Join) {
	g.count(m, -1)
	m.protocols, m.rebalance, m.session = in.Protocols, in.Rebalance, in.Session
	g.count(m, +1)
}

// replaceStatic puts a new life in the place of an old one with the same instance id. In a stable group whose protocol does
// not change nobody else notices.
func (g *Group) replaceStatic(in Join) {
	old := g.byID[g.static[in.Instance]]
	wasLeader, formerLeader := g.leader == old.id, g.leader
	g.answerJoin(old, JoinReply{Err: kerr.FencedInstanceID, Member: old.id})
	g.answerSync(old, SyncReply{Err: kerr.FencedInstanceID})
	delete(g.byID, old.id)
	delete(g.unsure, old.id)
	g.count(old, -1)
	old.id, old.client, old.host = in.NewID, in.ClientID, in.Host
	g.count(old, +1)
	g.byID[old.id], g.static[in.Instance] = old, old.id
	if wasLeader {
		g.leader = old.id
	}
	g.update(old, in)
	old.isNew = false
	g.keep(old, in.Session)
	switch {
	case g.state == Stable && g.elect() == g.protocol:
		// Its subscription may have changed; the leader was not asked, so the old sharing-out stands.
		g.topics = g.subscribed()
		t := g.write(Write{Row: g.row(nil)})
		t.static = &staticJoin{
			to: in.To, member: old.id, instance: in.Instance, leader: formerLeader, skip: in.CanSkipAssigning,
		}
	case g.state == Completing:
		// The leader may be sharing out to the old id at this moment.
		g.awaitJoin(old, in.To)
		g.prepare()
	default:
		g.awaitJoin(old, in.To)
		g.settle()
	}
}

// joined tells a member about the current generation.
func (g *Group) joined(m *member, to Ref) JoinReply {
	r := JoinReply{
		To: to, Generation: g.generation, ProtocolType: g.protocolType, Protocol: g.protocol,
		Leader: g.leader, Member: m.id,
	}
	if m.id == g.leader {
		r.Members = g.roster()
	}
	return r
}

// settle starts a rebalance, or ends its first phase if all have come.
func (g *Group) settle() {
	switch g.state {
	case Stable, Completing:
		g.prepare()
	case Empty:
		if len(g.members) > 0 {
			g.prepare()
		}
	case Preparing:
		if g.previous != Empty && g.allJoined() {
			g.barrierFalls()
		}
	}
}

// prepare starts a rebalance: everybody must join again.
func (g *Group) prepare() {
	if g.state == Completing {
		for _, m := range g.members {
			m.assignment = nil
			g.answerMemberSync(m, SyncReply{Err: kerr.RebalanceInProgress})
		}
	}
	clear(g.unsure)
	g.syncAt = time.Time{}
	g.storingSync = false
	first := g.state == Empty
	g.become(Preparing)
	switch {
	case first:
		g.initial, g.newMemberAdded = true, false
		g.step = g.rules.InitialDelay
		g.remaining = max(g.rebalanceTimeout()-g.step, 0)
		g.fallAt(g.step)
	case g.allJoined():
		g.barrierFalls()
	default:
		g.fallAt(g.rebalanceTimeout())
	}
}

func (g *Group) fallAt(d time.Duration) {
	g.joinAt = g.now.Add(d)
	g.arm(g.joinAt)
}

// barrierFalls ends the join phase: whoever has not joined is out, unless it is static, and the next generation begins.
func (g *Group) barrierFalls() {
	if g.state != Preparing {
		return
	}
	if g.initial && g.newMemberAdded && g.remaining > 0 {
		g.newMemberAdded = false
		step := min(g.rules.InitialDelay, g.remaining)
		g.remaining = max(g.remaining-g.step, 0)
		g.step = step
		g.fallAt(step)
		return
	}
	g.initial, g.joinAt = false, time.Time{}
	var absent []string
	for _, m := range g.members {
		if m.joining == 0 && m.instance == "" {
			absent = append(absent, m.id)
		}
	}
	for _, id := range absent {
		g.remove(id)
	}
	if len(g.members) > 0 && g.joining == 0 {
		// Only static members are left and none has come: wait for them, or for the end of their sessions.
		g.fallAt(max(g.rebalanceTimeout(), barrierRetry))
		return
	}
	g.nextGeneration()
}

func (g *Group) nextGeneration() {
	g.generation++
	if len(g.members) == 0 {
		g.protocol, g.leader = "", ""
		g.become(Empty)
		g.topics = g.subscribed()
		g.write(Write{Row: g.row(nil)})
		return
	}
	if g.byID[g.leader].joining == 0 {
		for _, m := range g.members {
			if m.joining != 0 {
				g.leader = m.id
				break
			}
		}
	}
	g.protocol = g.elect()
	g.become(Completing)
	g.topics = g.subscribed()
	for _, m := range g.members {
		g.unsure[m.id] = true
		r := g.joined(m, 0)
		if m.joining != 0 {
			g.answerJoin(m, r)
		}
		m.isNew = false
		g.keep(m, m.session)
	}
	g.syncAt = g.now.Add(g.rebalanceTimeout())
	g.arm(g.syncAt)
}
