package e2e

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"varve.dev/localstack/e2e/contract"
)

const (
	groupPartitions = 4
	phaseRecords    = 200 // produced in each phase of a rebalance
	resumeRecords   = 100 // produced while nobody consumes
	resumeFirst     = 37  // of which a first member reads so many
)

// testGroup takes a group of c through its life: one member, a second one joins and leaves, nobody, then two members
// one after the other of which each reads a part.
func testGroup(t *testing.T, s *suite, c client, assignor string) {
	g := newGroup(t, s, c, assignor)
	first := g.join(0)
	g.await("the first member owns all partitions", func() bool { return first.owns() == groupPartitions })
	g.produce(phaseRecords)
	g.await("the first member has seen all", g.sawAll)

	second := g.join(0)
	g.await("two members share the partitions", func() bool {
		return first.owns() > 0 && second.owns() > 0 && g.tiled()
	})
	g.produce(phaseRecords)
	g.await("both have seen all", g.sawAll)
	if second.seen == 0 {
		t.Error("the second member has seen nothing")
	}

	second.leave()
	g.await("the first member owns all partitions again", func() bool { return second.left && first.owns() == groupPartitions })
	g.produce(phaseRecords)
	g.await("the first member has seen the rest", g.sawAll)
	first.leave()
	g.await("the first member has left", func() bool { return first.left })
	g.committedAll()

	g.produce(resumeRecords)
	third := g.join(resumeFirst)
	g.await("a member has read its part and left", func() bool { return third.left })
	if third.seen != resumeFirst {
		t.Fatalf("it read %d records, want %d", third.seen, resumeFirst)
	}
	fourth := g.join(resumeRecords - resumeFirst)
	g.await("another has read the rest and left", func() bool { return fourth.left })
	if !g.sawAll() {
		t.Fatalf("%s", g.state())
	}
	g.committedAll()
	if g.again > 0 {
		t.Errorf("%d records came twice, although every member commits before it gives a partition up", g.again)
	}
}

// testStatic restarts two static members, the group's leader first: each gets back what it had and the other notices
// nothing.
func testStatic(t *testing.T, s *suite, c client) {
	g := newGroup(t, s, c, "eager")
	names := [...]string{"one", "two"}
	members := [...]*member{g.join(0, names[0]), nil}
	g.await("the first member owns all partitions", func() bool { return members[0].owns() == groupPartitions })
	members[1] = g.join(0, names[1])
	g.await("two members share the partitions", func() bool {
		return members[0].owns() > 0 && members[1].owns() > 0 && g.tiled()
	})
	for i, name := range names {
		g.produce(phaseRecords)
		g.await("all are seen", g.sawAll)
		had, other := members[i].owned, members[1-i]
		changes := other.changes
		members[i].leave()
		g.await("the member has ended", func() bool { return members[i].left })
		g.produce(phaseRecords)
		members[i] = g.join(0, name)
		g.await("the restarted member has said what it owns, and seen what waited for it", func() bool {
			return members[i].owns() > 0 && g.sawAll() // in any order: kcat tells of them in two streams
		})
		if !slices.Equal(members[i].owned, had) {
			t.Errorf("after a restart it owns %v, want %v as before", members[i].owned, had)
		}
		if other.changes != changes {
			t.Errorf("the restart changed what the other member owns %d times", other.changes-changes)
		}
	}
	if g.again > 0 {
		t.Errorf("%d records came twice", g.again)
	}
}

// place is where a record lies.
type place struct {
	partition int32
	offset    int64
}

// group is one consumer group of one client and all that it was given to read. Only the test's goroutine uses it.
type group struct {
	t        *testing.T
	s        *suite
	c        client
	assignor string
	topic    string
	name     string
	events   chan memberEvent
	members  []*member
	produced map[place]contract.Record
	seen     map[place]bool
	again    int // records seen a second time
	next     int // number of the next record
}

// member is one process in the group.
type member struct {
	process *process
	owned   []int32
	changes int // of what it owns
	seen    int
	done    bool // it says so
	left    bool // it has ended
	t       *testing.T
}

type memberEvent struct {
	member *member
	contract.Event
	exited bool
}

func newGroup(t *testing.T, s *suite, c client, assignor string) *group {
	topic := s.topic(t, groupPartitions)
	return &group{t: t, s: s, c: c, assignor: assignor, topic: topic, name: "group-" + topic,
		events: make(chan memberEvent), produced: map[place]contract.Record{}, seen: map[place]bool{}}
}

// join starts a member that reads limit records (0: until told to leave), static under the name in instance if there is one.
func (g *group) join(limit int, instance ...string) *member {
	m := &member{t: g.t}
	emit := func(e contract.Event) { g.send(memberEvent{member: m, Event: e}) }
	args := append([]string{"group", g.topic, g.name, g.assignor, strconv.Itoa(limit)}, instance...)
	m.process = g.c.start(g.t, emit, args...)
	go func() { // ends with the process, or with the test
		<-m.process.exited
		g.send(memberEvent{member: m, exited: true})
	}()
	g.members = append(g.members, m)
	return m
}

// send gives up when the test has ended: nobody reads then.
func (g *group) send(e memberEvent) {
	select {
	case g.events <- e:
	case <-g.t.Context().Done():
	}
}

func (m *member) leave() {
	if err := m.process.stdin.Close(); err != nil {
		m.t.Fatal(err)
	}
}

func (m *member) owns() int { return len(m.owned) }

// await takes events until done.
func (g *group) await(what string, done func() bool) {
	g.t.Helper()
	late := time.NewTimer(patience)
	defer late.Stop()
	for !done() {
		select {
		case e := <-g.events:
			g.apply(e)
		case <-late.C:
			g.t.Fatalf("not within %s: %s; %s", patience, what, g.state())
		}
	}
}

func (g *group) apply(e memberEvent) {
	g.t.Helper()
	switch {
	case e.exited:
		if e.member.process.err != nil || !e.member.done {
			g.t.Fatalf("a member ended with %v, done %v; %s", e.member.process.err, e.member.done, g.state())
		}
		e.member.left, e.member.owned = true, nil
	case e.Event.Event == "done":
		e.member.done = true
	case e.Event.Event == "assignment":
		slices.Sort(e.Partitions)
		e.member.owned = e.Partitions
		e.member.changes++
	case e.Event.Event == "record":
		at := place{e.Record.Partition, e.Record.Offset}
		same(g.t, "consumed in a group", *e.Record, g.produced[at])
		if g.seen[at] {
			g.again++
		}
		g.seen[at] = true
		e.member.seen++
	}
}

func (g *group) state() string {
	s := fmt.Sprintf("seen %d of %d", len(g.seen), len(g.produced))
	for i, m := range g.members {
		s += fmt.Sprintf("; member %d: owns %v, saw %d, left %v", i, m.owned, m.seen, m.left)
	}
	return s
}

func (g *group) sawAll() bool { return len(g.seen) == len(g.produced) }

// tiled says whether each partition has exactly one owner.
func (g *group) tiled() bool {
	var all []int32
	for _, m := range g.members {
		all = append(all, m.owned...)
	}
	slices.Sort(all)
	return slices.Equal(all, []int32{0, 1, 2, 3})
}

func (g *group) produce(n int) {
	g.t.Helper()
	records := make([]contract.Record, n)
	for i := range records {
		records[i] = contract.Record{Partition: int32(i % groupPartitions), Key: fmt.Append(nil, g.next),
			Value: fmt.Appendf(nil, "value %d", g.next), Timestamp: time.Now().UnixMilli()}
		g.next++
	}
	for _, r := range g.s.produce(g.t, g.topic, records) {
		g.produced[place{r.Partition, r.Offset}] = r
	}
}

// committedAll wants the group's offsets at the end of each partition.
func (g *group) committedAll() {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), patience)
	defer cancel()
	committed, err := g.s.admin.FetchOffsets(ctx, g.name)
	if err != nil {
		g.t.Fatalf("fetch offsets: %v", err)
	}
	for p := range int32(groupPartitions) {
		want := int64(len(g.produced)) / groupPartitions
		if o, ok := committed.Lookup(g.topic, p); !ok || o.Err != nil || o.At != want {
			g.t.Errorf("partition %d: committed %d (found %v, %v), want %d", p, o.At, ok, o.Err, want)
		}
	}
}
