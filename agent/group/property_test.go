package group

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"pgregory.net/rapid"
	"varve.dev/metadata"
)

// TestGroupProperties drives a group with whatever comes and holds it to what must always be true.
func TestGroupProperties(t *testing.T) { rapid.Check(t, groupProperties) }

// FuzzGroup is the same, with the fuzzer's bytes as the source of what comes.
func FuzzGroup(f *testing.F) { f.Fuzz(rapid.MakeFuzz(groupProperties)) }

// world is a group with clients that may say anything, and a store that answers late or refuses.
type world struct {
	*rapid.T
	g    *Group
	now  time.Time
	refs Ref
	ids  int

	waiting    map[Ref]string
	known      []string // member ids that were given out
	generation int32
	shares     map[string][]byte // generation/member → what it was told
	writes     []Write
}

func groupProperties(t *rapid.T) {
	rules := Rules{
		InitialDelay: time.Duration(rapid.IntRange(0, 3).Draw(t, "delay")) * time.Second,
		MaxSize:      rapid.IntRange(1, 5).Draw(t, "size"), MaxBytes: 8192,
		StoreTimeout: 5 * time.Second, OffsetsRetention: time.Hour,
	}
	w := &world{T: t, g: NewGroup(rules, epoch), now: epoch, waiting: map[Ref]string{}, shares: map[string][]byte{}}
	t.Repeat(map[string]func(*rapid.T){
		"join":   func(t *rapid.T) { w.T = t; w.join() },
		"rejoin": func(t *rapid.T) { w.T = t; w.rejoinAll() },
		"sync":   func(t *rapid.T) { w.T = t; w.sync() },
		"beat":   func(t *rapid.T) { w.T = t; w.beat() },
		"leave":  func(t *rapid.T) { w.T = t; w.leave() },
		"commit": func(t *rapid.T) { w.T = t; w.commit() },
		"store":  func(t *rapid.T) { w.T = t; w.store() },
		"time":   func(t *rapid.T) { w.T = t; w.pass(time.Duration(rapid.IntRange(1, 20).Draw(t, "s")) * time.Second) },
		"other":  func(t *rapid.T) { w.T = t; w.other() },
		"":       func(t *rapid.T) { w.T = t; w.check() },
	})
	// Whatever has happened: once the store answers and time passes, nobody waits and nobody is left.
	w.T = t
	for range 5 {
		for len(w.writes) > 0 {
			w.answer(nil)
		}
		w.pass(20 * time.Minute)
	}
	if len(w.waiting) > 0 {
		t.Fatalf("still waiting after hours of silence: %v in %v", slices.Collect(maps.Values(w.waiting)), w.g.State())
	}
	if n := len(w.g.members); n > 0 {
		t.Fatalf("%d members after hours of silence", n)
	}
}

func (w *world) ask(what string) Ref {
	w.refs++
	w.waiting[w.refs] = what
	return w.refs
}

// member is most often one of the group, sometimes one that was, or never was.
func (w *world) member() string {
	if n := len(w.g.members); n > 0 && rapid.IntRange(0, 3).Draw(w.T, "stranger") > 0 {
		return w.g.members[rapid.IntRange(0, n-1).Draw(w.T, "member")].id
	}
	return rapid.SampledFrom(append([]string{"nobody"}, w.known...)).Draw(w.T, "member")
}

func (w *world) someGeneration() int32 {
	return w.generation + int32(rapid.IntRange(-1, 1).Draw(w.T, "generation"))*int32(rapid.IntRange(0, 1).Draw(w.T, "wrong"))
}

func (w *world) join() {
	w.ids++
	in := Join{
		To: w.ask("join"), ClientID: "c", NewID: fmt.Sprintf("m%d", w.ids), ProtocolType: "consumer",
		Session:   time.Duration(rapid.IntRange(1, 30).Draw(w.T, "session")) * time.Second,
		Rebalance: time.Duration(rapid.IntRange(0, 60).Draw(w.T, "rebalance")) * time.Second,
		Instance:  rapid.SampledFrom([]string{"", "", "i1", "i2"}).Draw(w.T, "instance"),
	}
	in.RequireKnownID = rapid.Bool().Draw(w.T, "known id")
	in.CanSkipAssigning = rapid.Bool().Draw(w.T, "v9")
	if rapid.Bool().Draw(w.T, "again") {
		in.Member = w.member()
		if m := w.g.byID[in.Member]; m != nil {
			in.Instance = m.instance
		}
	}
	for _, p := range rapid.SampledFrom([][]string{{"range"}, {"range", "sticky"}, {"sticky", "range"}, {"other"}, {}}).Draw(w.T, "protocols") {
		in.Protocols = append(in.Protocols, Protocol{p, subscription("t")})
	}
	w.step(in)
}

// rejoinAll is what lets a rebalance complete: every member does as it is told.
func (w *world) rejoinAll() {
	for _, m := range slices.Clone(w.g.members) {
		if m.joining == 0 && w.g.State() == Preparing {
			w.step(Join{
				To: w.ask("join"), Member: m.id, Instance: m.instance, Session: m.session, Rebalance: m.rebalance,
				ProtocolType: w.g.protocolType, Protocols: m.protocols,
			})
		}
	}
}

func (w *world) sync() {
	in := Sync{To: w.ask("sync"), Member: w.member(), Generation: w.someGeneration()}
	if m := w.g.byID[in.Member]; m != nil {
		in.Instance = m.instance
	}
	w.ids++
	for _, m := range w.g.members {
		in.Assignments = append(in.Assignments, Assignment{m.id, fmt.Append(nil, w.ids)})
	}
	w.step(in)
}

func (w *world) beat() {
	for _, m := range slices.Clone(w.g.members) {
		w.step(Heartbeat{To: w.ask("heartbeat"), Member: m.id, Instance: m.instance, Generation: w.g.Generation()})
	}
	w.step(Heartbeat{To: w.ask("heartbeat"), Member: w.member(), Generation: w.someGeneration()})
}

func (w *world) leave() {
	w.step(Leave{To: w.ask("leave"), Members: []Leaver{
		{Member: w.member()}, {Instance: rapid.SampledFrom([]string{"", "i1"}).Draw(w.T, "instance")},
	}})
}

func (w *world) commit() {
	in := Commit{To: w.ask("commit"), Member: w.member(), Generation: w.someGeneration()}
	if rapid.Bool().Draw(w.T, "simple") {
		in.Member, in.Generation = "", -1
	}
	in.Offsets = []metadata.GroupOffset{{Offset: int64(w.ids), CommitTime: w.now.UnixMilli(), ExpireTime: -1}}
	state, generation := w.g.State(), w.g.Generation()
	_, isMember := w.g.byID[in.Member]
	for _, a := range w.step(in) {
		wr, ok := a.(Write)
		if !ok || len(wr.Offsets) == 0 {
			continue
		}
		byMember := isMember && in.Generation == generation && (state == Stable || state == Preparing)
		if simple := in.Generation < 0 && state == Empty; !byMember && !simple {
			w.Fatalf("commit %+v taken in %v, generation %d", in, state, generation)
		}
	}
}

func (w *world) store() {
	if len(w.writes) > 0 {
		w.answer(rapid.SampledFrom([]error{nil, nil, nil, kerr.UnknownServerError}).Draw(w.T, "outcome"))
	}
}

func (w *world) answer(err error) {
	wr := w.writes[0]
	w.writes = w.writes[1:]
	w.step(Written{Ticket: wr.Ticket, Err: err})
}

func (w *world) pass(d time.Duration) {
	for end, n := w.now.Add(d), 0; ; n++ {
		at, ok := w.g.Wake()
		if !ok || at.After(end) {
			w.now = end
			return
		}
		if n > 10_000 {
			w.Fatalf("woken %d times in %v", n, d)
		}
		if at.After(w.now) {
			w.now = at
		}
		w.step(Tick{})
	}
}

func (w *world) other() {
	switch rapid.IntRange(0, 4).Draw(w.T, "other") {
	case 0:
		w.step(Delete{To: w.ask("delete")})
	case 1:
		w.step(DeleteOffsets{To: w.ask("delete offsets"), Partitions: []TopicPartition{{Topic: "u"}}})
	case 2:
		w.step(Barrier{To: w.ask("barrier")})
	case 3:
		w.step(Expire{Name: func(int32) (string, bool) { return "", false }})
	case 4:
		w.step(Tick{Hold: true})
	}
}

// step also checks every answer.
func (w *world) step(in Input) []Action {
	actions := w.g.Step(w.now, in)
	for _, a := range actions {
		switch a := a.(type) {
		case Write:
			w.writes = append(w.writes, a)
		case JoinReply:
			w.answered(a.To)
			if a.Member != "" && (a.Err == nil || a.Err == kerr.MemberIDRequired) {
				w.known = append(w.known, a.Member)
			}
			if a.Err == nil && a.Generation < w.generation {
				w.Fatalf("joined generation %d after %d", a.Generation, w.generation)
			}
		case SyncReply:
			w.answered(a.To)
		case LeaveReply:
			w.answered(a.To)
		case DeleteOffsetsReply:
			w.answered(a.To)
		case Reply:
			w.answered(a.To)
		case Gone:
			w.g = NewGroup(w.g.rules, w.now)
			w.generation, w.writes = 0, nil
			clear(w.shares)
		}
	}
	w.oneShareEach()
	return actions
}

func (w *world) answered(to Ref) {
	if _, ok := w.waiting[to]; !ok {
		w.Fatalf("an answer to %d, who does not wait", to)
	}
	delete(w.waiting, to)
}

// oneShareEach: in one generation a member never has two different shares.
func (w *world) oneShareEach() {
	if w.g.State() != Stable {
		return
	}
	for _, m := range w.g.members {
		key := fmt.Sprint(w.g.Generation(), "/", m.id)
		if old, ok := w.shares[key]; ok && !bytes.Equal(old, m.assignment) {
			w.Fatalf("%s has share %q after %q", key, m.assignment, old)
		}
		w.shares[key] = m.assignment
	}
}

// check holds the group's sums to what they sum up.
func (w *world) check() {
	g := w.g
	if g.Generation() < w.generation {
		w.Fatalf("generation %d after %d", g.Generation(), w.generation)
	}
	w.generation = g.Generation()
	joining, size, support := 0, 0, map[string]int{}
	for _, m := range g.members {
		if m.joining != 0 {
			joining++
		}
		size += m.bytes()
		for _, p := range m.protocols {
			support[p.Name]++
		}
		if g.byID[m.id] != m || m.instance != "" && g.static[m.instance] != m.id {
			w.Fatalf("member %s is not where its id or instance %q points", m.id, m.instance)
		}
	}
	if joining != g.joining || size != g.bytes || !maps.Equal(support, g.support) || len(g.byID) != len(g.members) {
		w.Fatalf("sums are %d joining, %d bytes, %v; want %d, %d, %v", g.joining, g.bytes, g.support, joining, size, support)
	}
	if (g.state == Empty) != (len(g.members) == 0) && g.state != Preparing && g.state != Dead {
		w.Fatalf("%d members in %v", len(g.members), g.state)
	}
	if len(g.members) > 0 && g.byID[g.leader] == nil {
		w.Fatalf("the leader %q is no member", g.leader)
	}
	if g.bytes > g.rules.MaxBytes {
		w.Fatalf("%d bytes, at most %d", g.bytes, g.rules.MaxBytes)
	}
	w.rowRoundTrips()
}

func (w *world) rowRoundTrips() {
	if w.g.State() != Stable {
		return
	}
	r := NewGroup(w.g.rules, w.now)
	if err := r.Restore(w.now, w.g.row(nil)); err != nil {
		w.Fatalf("restore: %v", err)
	}
	if got, want := fmt.Sprintf("%+v", r.Describe()), fmt.Sprintf("%+v", w.g.Describe()); got != want {
		w.Fatalf("restored %s, want %s", got, want)
	}
}

func FuzzSubscription(f *testing.F) {
	f.Add(subscription("a", "bc"))
	f.Add(subscription())
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		if subscriptionTopics(b, func(topic string) { n += 2 + len(topic) }); n > len(b) {
			t.Fatalf("%d bytes of topics out of %d", n, len(b))
		}
	})
}

func FuzzRestore(f *testing.F) {
	g := NewGroup(testRules(), epoch)
	g.Step(epoch, Join{To: 1, NewID: "m", Instance: "i", ProtocolType: "consumer", Protocols: []Protocol{{"range", subscription("t")}}})
	f.Add(g.row(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		g := NewGroup(testRules(), epoch)
		if g.Restore(epoch, b) != nil {
			return
		}
		g.Step(epoch, Tick{})
		if len(g.members) > 0 && g.byID[g.leader] == nil {
			t.Fatalf("the leader %q is no member", g.leader)
		}
	})
}
