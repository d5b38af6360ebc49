package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"varve.dev/metadata"
	"varve.dev/tiering/batch"
	"varve.dev/tiering/flush"
	"varve.dev/tiering/journal/journaltest"
	"varve.dev/tiering/object"
	"varve.dev/tiering/partition"
)

func part(topic, partition int32) metadata.PartitionID {
	return metadata.PartitionID{Topic: topic, Partition: partition}
}

func acked(s *sent) bool { return s.acked() }

func TestStartLeadsAndACleanStopReleases(t *testing.T) {
	c := newCluster(t)
	object, local := c.create("object", 2, false), c.create("local", 1, true)
	p := c.begin(1, journaltest.New())
	if n := len(p.All()); n != 3 {
		t.Fatalf("leads %d partitions, want 3", n)
	}
	if row := c.row(part(local, 0)); row.TailJournal != p.journal.ID() || row.Leader != 1 || row.LeaderEpoch != 0 {
		t.Errorf("row of a local partition: %+v", row)
	}
	if row := c.row(part(object, 1)); row.TailJournal != (metadata.UUID{}) {
		t.Errorf("row of an object partition: %+v", row)
	}
	all := []*sent{p.mustProduce(part(object, 0), -1), p.mustProduce(part(local, 0), -1), p.mustProduce(part(object, 1), 1)}
	for _, s := range all {
		s.await(t)
	}
	if err := p.halt(); err != nil {
		t.Fatal(err)
	}
	if row := c.row(part(local, 0)); row.Leader != metadata.NoAgent || row.TailJournal != (metadata.UUID{}) {
		t.Errorf("row after the release: %+v", row)
	}
	q := c.begin(2, journaltest.New()) // another agent, another disk
	q.verify(all, acked)
	if len(c.aside) > 0 {
		t.Errorf("%d frames were set aside", len(c.aside))
	}
}

func TestTailsComeBackWithTheirJournal(t *testing.T) {
	c := newCluster(t)
	object, local := c.create("object", 1, false), c.create("local", 1, true)
	disk := journaltest.New()
	p := c.begin(1, disk)
	var all []*sent
	for range 3 {
		p.mustProduce(part(object, 0), -1)
		for range 3 {
			all = append(all, p.mustProduce(part(object, 0), 1), p.mustProduce(part(local, 0), 1))
		}
	}
	for _, s := range all {
		s.await(t)
	}
	at := c.row(part(local, 0)).LeaderEpoch
	p.crash(rand.New(rand.NewPCG(1, 1)))
	for range 3 { // the third start finds nothing new
		p = c.begin(1, disk)
		p.verify(all, acked)
		p.crash(rand.New(rand.NewPCG(2, 2)))
	}
	if row := c.row(part(local, 0)); row.LeaderEpoch != at+3 {
		t.Errorf("leader epoch %d, want %d", row.LeaderEpoch, at+3)
	}
	if len(c.aside) > 0 {
		t.Errorf("%d frames were set aside", len(c.aside))
	}
}

func TestSecondProcessFencesTheFirstAndWaitsForLocal(t *testing.T) {
	c := newCluster(t)
	object, local := c.create("object", 1, false), c.create("local", 1, true)
	first, second := journaltest.New(), journaltest.New()
	p := c.begin(1, first)
	var all []*sent
	for range 5 {
		all = append(all, p.mustProduce(part(local, 0), -1), p.mustProduce(part(object, 0), -1))
	}
	for _, s := range all {
		s.await(t)
	}
	provisional := p.mustProduce(part(object, 0), 1) // acks=1: until its commit, which may come before the fence or never
	provisional.await(t)
	q := c.begin(1, second)
	taken, err := q.Get(part(object, 0))
	if err != nil {
		t.Fatal(err)
	}
	kept := taken.Offsets().Committed > provisional.base
	if _, err := q.Get(part(local, 0)); !errors.Is(err, ErrWaiting) {
		t.Errorf("a local partition whose journal is away: %v", err)
	}
	if w := q.Waiting(); len(w) != 1 || w[part(local, 0)] != p.journal.ID() {
		t.Errorf("waiting %v", w)
	}
	if agent, _, err := q.Leader(part(local, 0)); agent != metadata.NoAgent || err == nil {
		t.Errorf("leader %d, %v", agent, err)
	}
	// The first one may still append, unless it knows already, and never answers.
	late, err := p.produce(part(object, 0), -1, 2, 100)
	if err != nil && !errors.Is(err, partition.ErrNotLeader) {
		t.Fatal(err)
	}
	select {
	case <-p.buffer.Ended():
	case <-time.After(20 * time.Second):
		t.Fatal("the first process was never fenced")
	}
	if late != nil && late.acked() || !errors.Is(p.buffer.Err(), metadata.ErrFenced) {
		t.Errorf("acknowledged %v, ended with %v", late != nil && late.acked(), p.buffer.Err())
	}
	q.verify(all, func(s *sent) bool { return s.at.Topic == object && s.acked() })
	mine := q.mustProduce(part(object, 0), -1)
	mine.await(t)
	p.crash(rand.New(rand.NewPCG(1, 1)))
	q.kill()

	// The first comes back: it has the local tail, and its tail of the object topic belongs to nobody.
	back := c.begin(1, first)
	back.verify(append(all, mine), acked)
	if len(c.aside) == 0 && !kept {
		t.Error("the tail that lost its partition was not set aside")
	}
	for _, f := range c.aside {
		if f.Partition.Topic != object {
			t.Errorf("a frame of %s was set aside", f.Partition)
		}
	}
}

func TestElectionSkipsEveryOffsetThatMayHaveBeenShown(t *testing.T) {
	c := newCluster(t)
	local := c.create("local", 2, true)
	first, second := journaltest.New(), journaltest.New()
	p := c.begin(1, first)
	stays := p.mustProduce(part(local, 0), -1)
	p.quiesce()
	given := p.mustProduce(part(local, 0), -1)
	other := p.mustProduce(part(local, 1), -1)
	for _, s := range []*sent{stays, given, other} {
		s.await(t)
	}
	p.crash(rand.New(rand.NewPCG(1, 1)))
	q := c.begin(1, second)
	if err := q.Elect(t.Context(), []metadata.PartitionID{part(local, 0), part(9, 9)}); err != nil {
		t.Fatal(err)
	}
	if _, err := q.Get(part(local, 1)); !errors.Is(err, ErrWaiting) {
		t.Errorf("a partition that was not elected: %v", err)
	}
	if row := c.row(part(local, 0)); row.TailJournal != q.journal.ID() {
		t.Errorf("the row names journal %s", row.TailJournal)
	}
	after := q.mustProduce(part(local, 0), -1)
	after.await(t)
	if want := stays.base + stays.n + partition.TailCap; after.base != want {
		t.Errorf("the first record after the gap is at %d, want %d", after.base, want)
	}
	lost, err := c.meta.Lost(t.Context(), 10)
	if err != nil || len(lost) != 1 || lost[0].From != 2 || lost[0].To != 2+partition.TailCap || lost[0].Journal != p.journal.ID() {
		t.Errorf("lost ranges %+v, %v", lost, err)
	}
	got, err := q.read(part(local, 0))
	if err != nil || len(got) != 3 || !got[1].IsControl() || idOf(got[2]) != after.id {
		t.Errorf("reads %d batches, %v", len(got), err)
	}
	q.crash(rand.New(rand.NewPCG(1, 1)))

	back := c.begin(1, first) // what was given up stays given up
	if _, err := back.Get(part(local, 0)); !errors.Is(err, ErrWaiting) {
		t.Errorf("the partition that another journal holds now: %v", err)
	}
	back.verify([]*sent{other}, acked)
	back.crash(rand.New(rand.NewPCG(1, 1)))
	q = c.begin(1, second)
	q.verify([]*sent{stays, after}, acked)
}

// An unclean election may end at every step: whoever comes then skips the tail, and no offset has two values.
func TestElectionThatDiesAtEveryStep(t *testing.T) {
	for n := 1; ; n++ {
		reached := false
		for _, after := range []bool{false, true} {
			c := newCluster(t)
			local := c.create("local", 1, true)
			first := journaltest.New()
			p := c.begin(1, first)
			given := p.mustProduce(part(local, 0), -1)
			given.await(t)
			p.crash(rand.New(rand.NewPCG(1, 1)))
			second := journaltest.New()
			q := c.begin(1, second)
			q.reaper.at, q.reaper.after = q.reaper.count+n, after
			err := q.Elect(t.Context(), []metadata.PartitionID{part(local, 0)})
			var all []*sent
			if err == nil {
				if s, err := q.produce(part(local, 0), -1, 1, 10); err == nil {
					<-s.told
					all = append(all, s)
				}
			}
			reached = reached || q.reaper.isDead()
			q.crash(rand.New(rand.NewPCG(uint64(n), 1)))
			comes := []*journaltest.Disk{second, first}[n%2]
			r := c.begin(1, comes)
			if _, err := r.Get(part(local, 0)); err != nil {
				if err := r.Elect(t.Context(), []metadata.PartitionID{part(local, 0)}); err != nil {
					t.Fatalf("step %d: %v", n, err)
				}
			}
			s := r.mustProduce(part(local, 0), -1)
			s.await(t)
			if lead, _ := r.Get(part(local, 0)); given.base+given.n > lead.Offsets().LogStart && s.base < given.base+partition.TailCap {
				got, err := r.read(part(local, 0))
				if err != nil || len(got) == 0 || idOf(got[0]) != given.id {
					t.Errorf("step %d (%s): record at %d, where one was shown before: %v", n, q.reaper.last, s.base, err)
				}
			}
			if comes == second {
				r.verify(append(all, s), acked)
			}
			r.kill()
		}
		if !reached {
			if n < 5 {
				t.Errorf("the election has only %d steps", n)
			}
			return
		}
	}
}

func TestTopicThatAllowsUncleanElectionsNeedsNobody(t *testing.T) {
	c := newCluster(t)
	local := c.create("local", 1, true)
	c.set(local, func(t *Topic) { t.Unclean = true })
	p := c.begin(1, journaltest.New())
	p.mustProduce(part(local, 0), -1).await(t)
	p.crash(rand.New(rand.NewPCG(1, 1)))
	q := c.begin(1, journaltest.New())
	s := q.mustProduce(part(local, 0), -1)
	s.await(t)
	if s.base != partition.TailCap {
		t.Errorf("the first record after the gap is at %d", s.base)
	}
}

func TestLostReplyOfAnAcquisition(t *testing.T) {
	for _, effect := range []bool{true, false} {
		c := newCluster(t)
		p := c.begin(1, journaltest.New())
		object := c.create("object", 1, false)
		lose := true
		p.store.fault = func(what string) (error, bool) {
			if what == "acquire" && lose {
				lose = false
				return metadata.ErrUnknown, effect
			}
			return nil, false
		}
		if err := p.Reconcile(t.Context()); err == nil {
			t.Error("the reply was lost, and nobody says so")
		}
		if err := p.Reconcile(t.Context()); err != nil {
			t.Fatal(err)
		}
		s := p.mustProduce(part(object, 0), -1)
		s.await(t)
		if row := c.row(part(object, 0)); row.LeaderEpoch != 0 {
			t.Errorf("leader epoch %d, want 0", row.LeaderEpoch)
		}
		p.verify([]*sent{s}, acked)
	}
}

func TestReconcileFollowsTheCatalog(t *testing.T) {
	c := newCluster(t)
	a := c.create("a", 1, false)
	p := c.begin(1, journaltest.New())
	s := p.mustProduce(part(a, 0), -1)
	b := c.create("bb", 2, true)
	if _, err := p.Get(part(b, 0)); !errors.Is(err, partition.ErrNotLeader) {
		t.Errorf("before: %v", err)
	}
	if err := c.meta.AddPartitions(t.Context(), a, 1, 3, metadata.NoAgent); err != nil {
		t.Fatal(err)
	}
	c.set(a, func(t *Topic) { t.Partitions = 3 })
	if err := p.Reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(p.All()); n != 5 {
		t.Errorf("leads %d, want 5", n)
	}
	x, y := p.mustProduce(part(a, 2), -1), p.mustProduce(part(b, 1), 1)
	for _, s := range []*sent{s, x, y} {
		s.await(t)
	}
	held := p.mustProduce(part(a, 1), 1) // stays in the window
	held.await(t)
	old, _ := p.Get(part(a, 0))
	c.remove(a)
	if err := p.Reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Get(part(a, 0)); !errors.Is(err, partition.ErrNotLeader) {
		t.Errorf("a deleted topic: %v", err)
	}
	if _, err := old.Append(newBatch(1, 1, 10), -1, time.Now(), held, 0); !errors.Is(err, partition.ErrNotLeader) {
		t.Errorf("append to a deleted topic: %v", err)
	}
	if !p.Unsealed(a) || !slices.Equal(p.DeletedTopics(), []int32{a}) || !p.Deleted() {
		t.Errorf("unsealed %v, deleted %v", p.Unsealed(a), p.DeletedTopics())
	}
	if _, gone := p.Sealable(part(a, 0)); !gone {
		t.Error("a partition of a deleted topic is not gone")
	}
	p.quiesce() // its window is committed all the same
	if err := p.sealer.Merge(t.Context(), p.log.Objects()); err != nil {
		t.Fatal(err)
	}
	if p.Unsealed(a) {
		t.Error("the merge has kept a deleted topic")
	}
	if err := p.gc.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if catalog, err := c.meta.Catalog(t.Context(), -1); err != nil || len(catalog.Topics) != 1 {
		t.Errorf("%d topics, %v: the deleted one is not forgotten", len(catalog.Topics), err)
	}
	p.verify([]*sent{y}, acked)
}

// A topic's row must stay until no window holds it: nobody would know any more that its ranges are dead.
func TestTopicInAWindowIsNotForgotten(t *testing.T) {
	c := newCluster(t)
	a := c.create("a", 1, false)
	p := c.begin(1, journaltest.New())
	p.mustProduce(part(a, 0), 1).await(t)
	c.remove(a)
	if err := p.Reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.gc.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	catalog, err := c.meta.Catalog(t.Context(), -1)
	if err != nil || len(catalog.Topics) != 1 {
		t.Errorf("%d topics, %v: the deleted one is in the window", len(catalog.Topics), err)
	}
}

func TestDurabilityChangesWhenTheTailIsCommitted(t *testing.T) {
	c := newCluster(t)
	num := c.create("topic", 1, false)
	id := part(num, 0)
	disk := journaltest.New()
	p := c.begin(1, disk)
	reconcile := func(local, unsettled bool) {
		t.Helper()
		c.set(num, func(t *Topic) { t.Config.Local = local })
		if err := p.Reconcile(t.Context()); err != nil {
			t.Fatal(err)
		}
		if p.Unsettled() != unsettled {
			t.Errorf("unsettled %v, want %v", p.Unsettled(), unsettled)
		}
	}
	release := c.holdPuts()
	all := []*sent{p.mustProduce(id, 1)}
	reconcile(true, true)
	led, _ := p.Get(id)
	if led.Local() || c.row(id).TailJournal != p.journal.ID() {
		t.Errorf("local %v, journal %s: the row comes first, the partition when it is committed", led.Local(), c.row(id).TailJournal)
	}
	release()
	p.quiesce()
	reconcile(true, false)
	if !led.Local() {
		t.Error("is not local yet")
	}
	all = append(all, p.mustProduce(id, -1))
	all[1].await(t)
	reconcile(false, true) // what only a `local` partition's producers wait for stays for the idle interval
	if c.row(id).TailJournal != p.journal.ID() {
		t.Error("the journal holds acknowledged records, and the row does not name it")
	}
	p.quiesce()
	reconcile(false, false)
	if c.row(id).TailJournal != (metadata.UUID{}) || led.Local() {
		t.Errorf("local %v, journal %s", led.Local(), c.row(id).TailJournal)
	}

	// Back again, and the change comes while the agent is down: the tail is taken back, then the row names nobody.
	reconcile(true, false)
	all = append(all, p.mustProduce(id, -1))
	all[2].await(t)
	c.set(num, func(t *Topic) { t.Config.Local = false })
	p.crash(rand.New(rand.NewPCG(1, 1)))
	p = c.begin(1, disk)
	p.verify(all, acked)
	if row := c.row(id); row.TailJournal != (metadata.UUID{}) {
		t.Errorf("the row still names journal %s", row.TailJournal)
	}
}

// Two agents take turns: the order of their objects is that of the partition's history, not of their numbers.
func TestAgentsTakeTurns(t *testing.T) {
	c := newCluster(t)
	id := part(c.create("topic", 1, false), 0)
	var all []*sent
	disk := map[int32]*journaltest.Disk{1: journaltest.New(), 2: journaltest.New()}
	for _, agent := range []int32{2, 1, 2, 1, 1} {
		p := c.begin(agent, disk[agent])
		for range 2 {
			all = append(all, p.mustProduce(id, -1))
			p.quiesce()
		}
		p.verify(all, acked)
		for i, s := range all {
			if s.base != int64(2*i) {
				t.Fatalf("batch %d is at %d", i, s.base)
			}
		}
		if err := p.halt(); err != nil {
			t.Fatal(err)
		}
	}
	p := c.begin(1, disk[1])
	for _, o := range p.log.Objects() { // merged one by one, whatever the order
		if err := p.sealer.Merge(t.Context(), p.log.Objects()[:1]); err != nil {
			t.Fatalf("merge of %s: %v", o.Object.Key, err)
		}
		p.verify(all, acked)
	}
}

// The journal's windows go on above what its files name, whoever wrote them: a folder may change its agent's number.
func TestFolderMayChangeItsAgent(t *testing.T) {
	c := newCluster(t)
	id := part(c.create("topic", 1, true), 0)
	disk := journaltest.New()
	for range 3 {
		p := c.begin(1, disk)
		p.mustProduce(id, -1).await(t)
		if err := p.halt(); err != nil {
			t.Fatal(err)
		}
	}
	p := c.begin(2, disk)
	s := p.mustProduce(id, -1)
	s.await(t)
	p.crash(rand.New(rand.NewPCG(1, 1)))
	c.begin(2, disk).verify([]*sent{s}, acked)
}

// TestDeathAtEveryStep kills a process at its nth request to the outside, before or after that takes effect, for every n of
// a life: start with a tail, produce, merge, trim, clean stop. The next life must find all that was acknowledged, once.
func TestDeathAtEveryStep(t *testing.T) {
	if testing.Short() {
		t.Skip("a minute under the race detector, of the same steps as the other tests")
	}
	steps := 0
	for n := 1; ; n++ {
		died := false
		for _, after := range []bool{false, true} {
			c := newCluster(t)
			ids := []metadata.PartitionID{part(c.create("object", 1, false), 0), part(c.create("local", 1, true), 0)}
			disk := journaltest.New()
			p := c.begin(1, disk)
			var all []*sent
			life := func(p *process) error {
				for i := range 12 {
					s, err := p.produce(ids[i%2], []int16{1, -1, 1}[i%3], 2, 1500)
					if err != nil {
						return err
					}
					all = append(all, s)
					if i%3 != 2 {
						continue
					}
					if err := p.buffer.Quiesce(t.Context()); err != nil {
						return err
					}
				}
				return nil
			}
			if err := life(p); err != nil {
				t.Fatal(err)
			}
			for i := range 4 {
				all = append(all, p.mustProduce(ids[i%2], 1))
				all[len(all)-1].await(t)
			}
			p.crash(rand.New(rand.NewPCG(uint64(n), 1)))

			r := &reaper{at: n, after: after}
			if q, err := c.process(1, disk, r); err == nil {
				wholeLife(q, ids[0], life)
				q.kill()
			}
			if r.isDead() && r.last != "" {
				died = true
			}
			steps = r.count
			disk.Crash(rand.New(rand.NewPCG(uint64(n), 2)))
			next := c.begin(1, disk)
			next.verify(all, acked)
			s := next.mustProduce(ids[1], -1)
			s.await(t)
			next.kill()
			if t.Failed() {
				t.Fatalf("death at request %d (%s), after its effect: %v", n, r.last, after)
			}
		}
		if !died {
			t.Logf("a life has %d requests", steps)
			return
		}
		if testing.Short() && n > 20 {
			return
		}
	}
}

// wholeLife is start with a tail, produce, merge, trim and clean stop, as far as it comes.
func wholeLife(q *process, id metadata.PartitionID, life func(*process) error) {
	ctx := q.life
	if q.lead() != nil || life(q) != nil {
		return
	}
	if run := q.log.Objects(); q.sealer.Merge(ctx, run[:len(run)/2]) != nil {
		return
	}
	led, err := q.Get(id)
	if err != nil || q.Trim(ctx, []metadata.Trim{{Partition: id, LeaderEpoch: led.Epoch().Epoch, LogStart: 4}}) != nil {
		return
	}
	if q.buffer.Drain(ctx) == nil && q.Set.Release(ctx) == nil {
		_ = q.store.Stop(ctx, q.me)
	}
}

// TestATrimWhoseReplyIsLostIsNoHole: readers who ask for what is gone are told so, at the latest when they miss it.
func TestATrimWhoseReplyIsLostIsNoHole(t *testing.T) {
	c := newCluster(t)
	id := part(c.create("a", 1, false), 0)
	p := c.begin(1, journaltest.New())
	p.mustProduce(id, -1).await(t)
	p.mustProduce(id, -1).await(t)
	led, err := p.Get(id)
	if err != nil {
		t.Fatal(err)
	}
	start := led.Offsets().HighWatermark - 1
	trim := []metadata.Trim{{Partition: id, LeaderEpoch: led.Epoch().Epoch, LogStart: start}}
	if err := c.meta.Trim(t.Context(), p.me, trim, metadata.Grace{}); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		offset int64
		want   bool
	}{{start - 1, false}, {start, true}} {
		if got, err := p.Hole(t.Context(), id, x.offset); got != x.want || err != nil {
			t.Errorf("offset %d, log start %d: missing %v, %v; want %v", x.offset, start, got, err, x.want)
		}
	}
	if got := led.Offsets().LogStart; got != start {
		t.Errorf("the leader's log start is %d, want %d", got, start)
	}
	if got, err := p.Hole(t.Context(), part(99, 0), 0); got || err != nil {
		t.Errorf("of a topic that is gone: missing %v, %v", got, err)
	}
}

// TestRandomLives mixes appends, merges, trims, deletions, retention, clean stops and crashes of two agents that take
// turns; readers plan before a merge and read after it. Whatever happens, all that is kept is found once, at its offset.
func TestRandomLives(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 7))
			c := newCluster(t)
			nums := []int32{c.create("a", 3, false), c.create("bb", 2, true), c.create("ccc", 2, false)}
			parts := func() (ids []metadata.PartitionID) {
				for num, topic := range c.topics {
					for i := range topic.Partitions {
						ids = append(ids, part(num, i))
					}
				}
				slices.SortFunc(ids, func(a, b metadata.PartitionID) int {
					if a.Less(b) {
						return -1
					}
					return 1
				})
				return ids
			}
			disks := map[int32]*journaltest.Disk{1: journaltest.New(), 2: journaltest.New()}
			agent := int32(1)
			p := c.begin(agent, disks[agent])
			var all []*sent
			merges := 0
			alive := func() (kept []*sent) {
				for _, s := range all {
					if _, ok := c.topics[s.at.Topic]; ok {
						kept = append(kept, s)
					}
				}
				return kept
			}
			for step := range 260 {
				ids := parts()
				id := ids[r.IntN(len(ids))]
				switch k := r.IntN(100); {
				case k < 62:
					size := 1 + r.IntN(2500)
					if r.IntN(12) == 0 {
						size = 7000
					}
					s, err := p.produce(id, []int16{-1, 1}[r.IntN(2)], int32(1+r.IntN(5)), size)
					if err != nil {
						t.Fatalf("step %d: %v", step, err)
					}
					all = append(all, s)
				case k < 78:
					p.quiesce()
				case k < 86:
					if objects := p.log.Objects(); len(objects) > 0 {
						from := r.IntN(len(objects))
						to := from + 1
						for to < len(objects) && to-from < 6 && objects[to].Session == objects[from].Session {
							to++
						}
						merges++
						p.mergeWithReaders(t, r, objects[from:to], ids)
					}
				case k < 92:
					led, _ := p.Get(id)
					at := led.Offsets()
					if at.HighWatermark > at.LogStart {
						start := at.LogStart + 1 + r.Int64N(at.HighWatermark-at.LogStart)
						if err := p.Trim(t.Context(), []metadata.Trim{{Partition: id, LeaderEpoch: at.LeaderEpoch, LogStart: start}}); err != nil {
							t.Fatalf("step %d: trim: %v", step, err)
						}
					}
				case k < 94:
					if err := errors.Join(p.gc.Rewrite(t.Context()), p.gc.Sweep(t.Context())); err != nil {
						t.Fatalf("step %d: gc: %v", step, err)
					}
				case k < 95 && step > 150 && len(c.topics) > 2:
					c.remove(nums[2])
					if err := p.Reconcile(t.Context()); err != nil {
						t.Fatal(err)
					}
				case k < 98:
					p.crash(rand.New(rand.NewPCG(seed, uint64(step))))
					p = c.begin(agent, disks[agent])
				default:
					if err := p.halt(); err != nil {
						t.Fatalf("step %d: halt: %v", step, err)
					}
					agent = 3 - agent
					p = c.begin(agent, disks[agent])
				}
				if step%20 == 0 {
					p.quiesce() // what acks=1 has answered is readable once it is committed
					p.verify(alive(), acked)
				}
				if t.Failed() {
					t.Fatalf("at step %d", step)
				}
			}
			p.quiesce()
			for {
				n := len(p.log.Objects())
				if _, err := p.sealer.Turn(t.Context(), time.Now().Add(2*time.Hour), true); err != nil {
					t.Fatal(err)
				}
				p.verify(alive(), acked)
				if len(p.log.Objects()) == n {
					break
				}
			}
			for _, o := range p.log.Objects() {
				t.Errorf("%s is not sealed after twice segment.ms", o.Object.Key)
			}
			p.halt()
			p = c.begin(agent, disks[agent])
			p.verify(alive(), acked)
			if merges < 5 {
				t.Errorf("only %d merges", merges)
			}
		})
	}
}

// mergeWithReaders merges while plans that were made before are read, before and after.
func (p *process) mergeWithReaders(t *testing.T, r *rand.Rand, run []*object.Stored, ids []metadata.PartitionID) {
	t.Helper()
	type planned struct {
		id   metadata.PartitionID
		from int64
		want []batch.Batch
		read func() ([]batch.Batch, error)
	}
	var plans []planned
	for _, id := range ids {
		led, _ := p.Get(id)
		at := led.Offsets()
		if at.HighWatermark == at.LogStart {
			continue
		}
		from := at.LogStart + r.Int64N(at.HighWatermark-at.LogStart)
		plan, _, err := led.Plan(from, 64<<10)
		if err != nil {
			t.Fatal(err)
		}
		again, _, err := led.Plan(from, 64<<10)
		if err != nil {
			t.Fatal(err)
		}
		want, err := p.fetch(again)
		if err != nil {
			t.Fatalf("read %s from %d before the merge: %v", id, from, err)
		}
		plans = append(plans, planned{id, from, want, func() ([]batch.Batch, error) { return p.fetch(plan) }})
	}
	if err := p.sealer.Merge(t.Context(), run); err != nil {
		t.Fatalf("merge of %d: %v", len(run), err)
	}
	for _, x := range plans {
		got, err := x.read()
		if err != nil || len(got) == 0 {
			t.Errorf("plan of %s from %d, read after the merge: %d batches, %v", x.id, x.from, len(got), err)
			continue
		}
		for i := range min(len(got), len(x.want)) {
			if !slices.Equal(got[i], x.want[i]) {
				t.Errorf("%s from %d: batch %d differs after the merge", x.id, x.from, i)
			}
		}
	}
}

// beats is a Beater that answers as told.
type beats struct {
	errs  []error
	count int
}

func (b *beats) Beat(context.Context, metadata.Session, int64) error {
	b.count++
	if len(b.errs) == 0 {
		return nil
	}
	err := b.errs[0]
	b.errs = b.errs[1:]
	return err
}

func TestKeeper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		store := &beats{errs: []error{nil, metadata.ErrUnavailable, metadata.ErrUnavailable, metadata.ErrUnknown, nil, metadata.ErrFenced}}
		k := NewKeeper(store, metadata.Session{Agent: 4}, func() int64 { return 7 }, time.Second, 3*time.Second, slog.New(slog.NewTextHandler(&log, nil)))
		if !k.Live() {
			t.Error("a session that has just started does not live")
		}
		done := make(chan error, 1)
		go func() { done <- k.Run(t.Context()) }()
		time.Sleep(4500 * time.Millisecond)
		if k.Live() {
			t.Error("lives without an answer for its time to live")
		}
		time.Sleep(time.Second)
		if !k.Live() {
			t.Error("the store answers again")
		}
		if err := <-done; !errors.Is(err, metadata.ErrFenced) {
			t.Errorf("ended with %v", err)
		}
		if n := strings.Count(log.String(), "could not be renewed"); n != 1 {
			t.Errorf("an outage is logged %d times", n)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := k.Run(ctx); err != nil {
			t.Errorf("a clean end: %v", err)
		}
	})
}

// The buffer must satisfy what a partition appends to, and the set what the seal and the collector ask.
var _ partition.Appender = (*flush.Buffer)(nil)
