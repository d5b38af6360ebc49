package group

import (
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

func (g *Group) heartbeat(in Heartbeat) error {
	if g.state == Dead {
		return kerr.CoordinatorNotAvailable
	}
	if err := g.validate(in.Member, in.Instance); err != nil {
		return err
	}
	if in.Generation != g.generation {
		return kerr.IllegalGeneration
	}
	m := g.byID[in.Member]
	g.keep(m, m.session)
	if g.state == Preparing {
		return kerr.RebalanceInProgress
	}
	return nil
}

func (g *Group) leave(in Leave) {
	errs := make([]error, len(in.Members))
	left := false
	for i, l := range in.Members {
		errs[i] = g.leaveOne(l)
		left = left || errs[i] == nil
	}
	g.out = append(g.out, LeaveReply{To: in.To, Errs: errs})
	if left {
		g.afterLoss()
	}
}

func (g *Group) leaveOne(l Leaver) error {
	id := l.Member
	if id == "" {
		if id = g.static[l.Instance]; l.Instance == "" || id == "" {
			return kerr.UnknownMemberID
		}
	} else if _, ok := g.pending[id]; !ok {
		if err := g.validate(id, l.Instance); err != nil {
			return err
		}
	}
	g.remove(id)
	return nil
}

// afterLoss goes on without somebody.
func (g *Group) afterLoss() {
	if g.state != Empty {
		g.settle()
	}
}

// endSessions takes out members that have not been heard of. One that waits for us is alive, unless it is new: then it
// could never tell us that it has gone.
func (g *Group) endSessions(hold bool) {
	var over []string
	lost := false
	for _, m := range g.members {
		switch {
		case !g.due(m.deadline):
		case hold:
			g.keep(m, m.session)
		case !m.isNew && (m.joining != 0 || m.syncing != 0):
			m.deadline = time.Time{}
		default:
			over = append(over, m.id)
			lost = true
		}
	}
	for _, id := range slices.Sorted(maps.Keys(g.pending)) {
		if g.due(g.pending[id]) {
			over = append(over, id)
		}
	}
	if len(over) == 0 {
		return
	}
	for _, id := range over {
		g.remove(id)
	}
	switch {
	case lost && (g.state == Stable || g.state == Completing):
		g.prepare()
	case g.state == Preparing && g.allJoined():
		g.initial = false
		g.barrierFalls()
	}
}
