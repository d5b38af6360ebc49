package group

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

func (g *Group) sync(in Sync) {
	refuse := func(err error) { g.out = append(g.out, SyncReply{To: in.To, Err: err}) }
	differs := func(said *string, is string) bool { return said != nil && *said != is }
	if g.state == Dead {
		refuse(kerr.CoordinatorNotAvailable)
		return
	}
	if err := g.validate(in.Member, in.Instance); err != nil {
		refuse(err)
		return
	}
	switch {
	case in.Generation != g.generation:
		refuse(kerr.IllegalGeneration)
	case differs(in.ProtocolType, g.protocolType) || differs(in.Protocol, g.protocol):
		refuse(kerr.InconsistentGroupProtocol)
	case g.state == Preparing:
		refuse(kerr.RebalanceInProgress)
	case g.state == Completing:
		m := g.byID[in.Member]
		g.synced(m.id)
		g.awaitSync(m, in.To)
		if m.id == g.leader && !g.storingSync {
			g.share(in.Assignments)
		} else if g.storingSync {
			g.waitForStore()
		}
	case g.state == Stable:
		m := g.byID[in.Member]
		g.synced(m.id)
		g.out = append(g.out, g.shareOf(m, in.To))
	}
}

func (g *Group) shareOf(m *member, to Ref) SyncReply {
	return SyncReply{To: to, ProtocolType: g.protocolType, Protocol: g.protocol, Assignment: m.assignment}
}

func (g *Group) synced(id string) {
	delete(g.unsure, id)
	if len(g.unsure) == 0 {
		g.syncAt = time.Time{}
	}
}

// share stores the leader's decision; nobody learns of it before it is there.
func (g *Group) share(as []Assignment) {
	shares := make(map[string][]byte, len(as))
	for _, a := range as {
		if g.byID[a.Member] != nil {
			shares[a.Member] = a.Data
		}
	}
	t := g.write(Write{Row: g.row(shares)})
	t.shares, t.generation = shares, g.generation
	g.storingSync = true
}

// shared is told when the leader's decision is stored.
func (g *Group) shared(t *ticket, err error) {
	if g.state != Completing || t.generation != g.generation {
		return // another rebalance has overtaken it
	}
	g.storingSync = false
	if err != nil {
		for _, m := range g.members {
			g.answerMemberSync(m, SyncReply{Err: err})
		}
		g.prepare()
		return
	}
	for _, m := range g.members {
		m.assignment = t.shares[m.id]
		g.answerMemberSync(m, g.shareOf(m, 0))
	}
	g.become(Stable)
}

// answerMemberSync also starts the session anew: it did not run while the member waited.
func (g *Group) answerMemberSync(m *member, r SyncReply) {
	if m.syncing != 0 {
		g.answerSync(m, r)
		g.keep(m, m.session)
	}
}

// dropUnsynced takes out the members that joined and then fell silent.
func (g *Group) dropUnsynced() {
	if g.state != Completing && g.state != Stable || len(g.unsure) == 0 {
		return
	}
	silent := make([]string, 0, len(g.unsure))
	for _, m := range g.members {
		if g.unsure[m.id] {
			silent = append(silent, m.id)
		}
	}
	for _, id := range silent {
		g.remove(id)
	}
	g.prepare()
}
