package group

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"varve.dev/metadata"
)

// fakeStore is metadata.Groups in memory. script decides each write's fate; nil applies it at once.
type fakeStore struct {
	mu      sync.Mutex
	rows    map[string]metadata.GroupRow
	offsets map[metadata.OffsetKey]metadata.GroupOffset
	epochs  map[int32]int32
	writes  []metadata.GroupWrite
	script  func(n int, w metadata.GroupWrite) fate
	load    func() error
}

type fate struct {
	lost bool // the write's first shard
	skip bool // do not apply
	err  error
	took time.Duration
}

func newFakeStore() *fakeStore {
	return &fakeStore{
		rows: map[string]metadata.GroupRow{}, offsets: map[metadata.OffsetKey]metadata.GroupOffset{}, epochs: map[int32]int32{},
	}
}

func (s *fakeStore) AcquireShards(_ context.Context, _ metadata.Session, shards []int32) (out []metadata.ShardLease, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.load != nil {
		if err := s.load(); err != nil {
			return nil, err
		}
	}
	for _, n := range shards {
		s.epochs[n]++
		out = append(out, metadata.ShardLease{Shard: n, Epoch: s.epochs[n]})
	}
	return out, nil
}

func (s *fakeStore) LoadShards(_ context.Context, shards []int32) (rows []metadata.GroupRow, offsets []metadata.GroupOffset, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.rows {
		if slices.Contains(shards, r.Shard) {
			rows = append(rows, r)
		}
	}
	for _, o := range s.offsets {
		if slices.Contains(shards, o.Shard) {
			offsets = append(offsets, o)
		}
	}
	return rows, offsets, nil
}

func (s *fakeStore) Write(ctx context.Context, _ metadata.Session, w metadata.GroupWrite) ([]int32, error) {
	s.mu.Lock()
	s.writes = append(s.writes, w)
	n, script := len(s.writes), s.script
	s.mu.Unlock()
	var f fate
	if script != nil {
		f = script(n, w)
	}
	if f.took > 0 && !sleep(ctx, f.took) {
		return nil, fmt.Errorf("no reply: %w", metadata.ErrUnknown)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case f.lost:
		return []int32{w.Leases[0].Shard}, nil
	case f.skip:
		return nil, f.err
	}
	return nil, errors.Join(s.apply(w), f.err)
}

func (s *fakeStore) apply(w metadata.GroupWrite) error {
	for _, l := range w.Leases {
		if s.epochs[l.Shard] != l.Epoch {
			return fmt.Errorf("lease of shard %d has epoch %d, want %d", l.Shard, l.Epoch, s.epochs[l.Shard])
		}
	}
	for _, o := range w.Offsets {
		s.offsets[metadata.OffsetKey{Group: o.Group, Shard: o.Shard, Partition: o.Partition}] = o
	}
	for _, k := range w.DeleteOffsets {
		delete(s.offsets, k)
	}
	for _, r := range w.Groups {
		s.rows[r.Group] = r
	}
	for _, k := range w.DeleteGroups {
		delete(s.rows, k.Group)
		maps.DeleteFunc(s.offsets, func(o metadata.OffsetKey, _ metadata.GroupOffset) bool { return o.Group == k.Group })
	}
	return nil
}

func (s *fakeStore) plan(script func(n int, w metadata.GroupWrite) fate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes, s.script = nil, script
}

func (s *fakeStore) written() []metadata.GroupWrite {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.writes)
}

func run(t testing.TB, store metadata.Groups, change ...func(*Config)) (c *Coordinator, stop func() error) {
	return runAs(t, store, metadata.Session{Agent: 1, Epoch: 1}, change...)
}

// runAs starts a coordinator; stop waits for its end.
func runAs(t testing.TB, store metadata.Groups, me metadata.Session, change ...func(*Config)) (c *Coordinator, stop func() error) {
	t.Helper()
	cfg := DefaultConfig(4)
	cfg.InitialDelay = 0
	for _, f := range change {
		f(&cfg)
	}
	c, err := New(store, me, func(int32) (string, bool) { return "t", true },
		slog.New(slog.DiscardHandler), NewMetrics(nil), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	var once sync.Once
	var result error
	stop = func() error {
		once.Do(func() {
			cancel()
			result = <-ended
		})
		return result
	}
	t.Cleanup(func() { stop() })
	return c, stop
}

// answer is a reply that a test waits for.
type answer[T any] struct{ ch chan T }

func pending[T any]() answer[T] { return answer[T]{make(chan T, 2)} }

func (a answer[T]) done(v T) { a.ch <- v }

func (a answer[T]) get(t testing.TB) T {
	t.Helper()
	select {
	case v := <-a.ch:
		return v
	case <-time.After(time.Hour): // of virtual time
		t.Fatal("no answer within an hour")
	}
	panic("unreachable")
}

func (a answer[T]) open() bool { return len(a.ch) == 0 }

func offset(partition int32, n int64) metadata.GroupOffset {
	return metadata.GroupOffset{
		Partition: metadata.PartitionID{Topic: 1, Partition: partition}, Offset: n, LeaderEpoch: -1,
		CommitTime: time.Now().UnixMilli(), ExpireTime: -1,
	}
}

func commit(c *Coordinator, group string, offsets ...metadata.GroupOffset) answer[error] {
	a := pending[error]()
	c.Commit(group, Commit{Generation: -1, Offsets: offsets}, a.done)
	return a
}

func fetched(t testing.TB, c *Coordinator, group string) map[int32]int64 {
	t.Helper()
	out := map[int32]int64{}
	c.Fetch(group, nil, true, false, func(cs []Committed, err error) {
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range cs {
			out[o.Partition.Partition] = o.Offset.Offset
		}
	})
	return out
}

// joinAlone joins a group and is alone in it, with a share.
func joinAlone(t testing.TB, c *Coordinator, group string) (id string, generation int32) {
	t.Helper()
	j := pending[JoinReply]()
	c.Join(group, Join{
		ClientID: "c", Session: 10 * time.Second, Rebalance: time.Minute, ProtocolType: "consumer",
		Protocols: []Protocol{{"range", subscription("t")}},
	}, j.done)
	r := j.get(t)
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	s := pending[SyncReply]()
	c.Sync(group, Sync{Member: r.Member, Generation: r.Generation, Assignments: []Assignment{{r.Member, []byte("all")}}}, s.done)
	if r := s.get(t); r.Err != nil || string(r.Assignment) != "all" {
		t.Fatalf("synced %q, %v", r.Assignment, r.Err)
	}
	return r.Member, r.Generation
}

func heartbeat(c *Coordinator, group, id string, generation int32) (out error) {
	c.Heartbeat(group, Heartbeat{Member: id, Generation: generation}, func(err error) { out = err })
	return out
}

func wantErr(t testing.TB, got, want error) {
	t.Helper()
	if !errors.Is(got, want) || want == nil && got != nil {
		t.Fatalf("got %v, want %v", got, want)
	}
}

func TestACommitIsAnsweredAndVisibleOnlyOnceItIsStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		c, _ := run(t, store)
		synctest.Wait()
		store.plan(func(int, metadata.GroupWrite) fate { return fate{took: time.Second} })
		a := commit(c, "g", offset(0, 5))
		stable := pending[int]()
		c.Fetch("g", nil, true, true, func(cs []Committed, err error) { stable.done(len(cs)) })
		time.Sleep(time.Second - time.Millisecond)
		synctest.Wait()
		if !a.open() || !stable.open() || len(fetched(t, c, "g")) != 0 {
			t.Fatal("answered or visible before the store has said so")
		}
		wantErr(t, a.get(t), nil)
		if n := stable.get(t); n != 1 || fetched(t, c, "g")[0] != 5 {
			t.Fatalf("a stable fetch saw %d offsets", n)
		}
	})
}

func TestWhatWaitsIsOneWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		c, _ := run(t, store)
		synctest.Wait()
		store.plan(func(int, metadata.GroupWrite) fate { return fate{took: time.Second} })
		all := []answer[error]{commit(c, "first", offset(0, 1))}
		synctest.Wait()
		for i := range 100 {
			all = append(all, commit(c, fmt.Sprintf("g%d", i%10), offset(0, int64(i)), offset(1, int64(i))))
		}
		for _, a := range all {
			wantErr(t, a.get(t), nil)
		}
		ws := store.written()
		if len(ws) != 2 || len(ws[1].Offsets) != 20 || len(ws[1].Leases) > 4 || ws[1].Counter <= ws[0].Counter {
			t.Fatalf("%d writes, the second %+v; want 2, with 20 offsets", len(ws), ws[len(ws)-1])
		}
		if got := fetched(t, c, "g9")[1]; got != 99 {
			t.Fatalf("offset %d, want the last one, 99", got)
		}
	})
}

func TestALostReplyIsSettledByTheSameWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		c, _ := run(t, store)
		synctest.Wait()
		store.plan(func(n int, _ metadata.GroupWrite) fate {
			switch n {
			case 1:
				return fate{err: metadata.ErrUnknown} // applied
			case 2:
				return fate{err: metadata.ErrUnknown, skip: true}
			case 3:
				return fate{err: metadata.ErrUnavailable, skip: true} // says nothing about the first two
			}
			return fate{}
		})
		a := commit(c, "g", offset(0, 5))
		synctest.Wait()
		b := commit(c, "g", offset(0, 6))
		wantErr(t, a.get(t), nil)
		wantErr(t, b.get(t), nil)
		ws := store.written()
		if len(ws) != 5 {
			t.Fatalf("%d writes, want 4 tries and another", len(ws))
		}
		for _, w := range ws[:4] {
			if w.Counter != ws[0].Counter || fmt.Sprint(w.Offsets) != fmt.Sprint(ws[0].Offsets) {
				t.Fatalf("repeated as %+v, was %+v", w, ws[0])
			}
		}
		if fetched(t, c, "g")[0] != 6 {
			t.Fatal("the later commit does not count")
		}
	})
}

func TestWhileTheStoreIsAwayGroupsStandStill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		c, _ := run(t, store)
		synctest.Wait()
		id, generation := joinAlone(t, c, "g")
		outage := time.Now().Add(2 * time.Minute)
		store.plan(func(int, metadata.GroupWrite) fate {
			if time.Now().Before(outage) {
				return fate{err: metadata.ErrUnavailable, skip: true}
			}
			return fate{}
		})
		// Somebody commits all the time; so the coordinator knows.
		for time.Now().Before(outage) {
			begin := time.Now()
			wantErr(t, commit(c, "x", offset(0, 13)).get(t), kerr.CoordinatorNotAvailable)
			if took := time.Since(begin); took != 5*time.Second {
				t.Fatalf("refused after %v, want 5s", took)
			}
			j := pending[JoinReply]()
			c.Join("g", Join{Session: 10 * time.Second, ProtocolType: "consumer"}, j.done)
			wantErr(t, j.get(t).Err, kerr.CoordinatorNotAvailable)
		}
		// For two minutes the member has not been heard of. It is a member all the same.
		wantErr(t, heartbeat(c, "g", id, generation), nil)
		wantErr(t, commit(c, "y", offset(0, 7)).get(t), nil)
		time.Sleep(time.Minute)
		if got := fetched(t, c, "x"); len(got) != 0 {
			t.Fatalf("a commit that was refused before it was sent is stored: %v", got)
		}
		joinAlone(t, c, "g")
	})
}

func TestAFencedSessionEndsTheCoordinator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		c, stop := run(t, store)
		synctest.Wait()
		store.plan(func(int, metadata.GroupWrite) fate { return fate{err: metadata.ErrFenced, skip: true} })
		wantErr(t, commit(c, "g", offset(0, 5)).get(t), kerr.NotCoordinator)
		wantErr(t, stop(), metadata.ErrFenced)
		wantErr(t, heartbeat(c, "g", "m", 1), kerr.NotCoordinator)
	})
}

// NOT_COORDINATOR says that nothing was written. Who cannot know says COORDINATOR_NOT_AVAILABLE, to whoever waits for it.
func TestACommitInDoubtIsNotCalledRefused(t *testing.T) {
	for _, end := range []fate{{err: metadata.ErrFenced, skip: true}, {lost: true}} {
		for _, late := range []bool{false, true} { // or the first write was done, and its reply lost
			synctest.Test(t, func(t *testing.T) {
				store := newFakeStore()
				c, stop := run(t, store)
				synctest.Wait()
				store.plan(func(n int, _ metadata.GroupWrite) fate {
					if n == 1 {
						return fate{err: metadata.ErrUnknown, skip: late}
					}
					return end
				})
				wantErr(t, commit(c, "g", offset(0, 5)).get(t), kerr.CoordinatorNotAvailable)
				wantErr(t, stop(), end.err)
			})
		}
	}
}

func TestDoubtEndsWithItsWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		c, stop := run(t, store)
		synctest.Wait()
		store.plan(func(n int, _ metadata.GroupWrite) fate {
			switch n {
			case 1:
				return fate{err: metadata.ErrUnknown}
			case 2:
				return fate{}
			}
			return fate{err: metadata.ErrFenced, skip: true}
		})
		wantErr(t, commit(c, "g", offset(0, 5)).get(t), nil)
		wantErr(t, commit(c, "g", offset(0, 6)).get(t), kerr.NotCoordinator)
		wantErr(t, stop(), metadata.ErrFenced)
	})
}

func TestALostShardIsGivenUpAndTakenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		c, _ := run(t, store)
		synctest.Wait()
		id, generation := joinAlone(t, c, "g")
		wantErr(t, commit(c, "g2", offset(0, 1)).get(t), nil)
		store.plan(func(n int, _ metadata.GroupWrite) fate { return fate{lost: n == 1} })
		wantErr(t, commit(c, "g2", offset(0, 2)).get(t), kerr.NotCoordinator)
		time.Sleep(2 * time.Second)
		wantErr(t, commit(c, "g2", offset(0, 3)).get(t), nil)
		if fetched(t, c, "g2")[0] != 3 {
			t.Fatal("the shard has not come back")
		}
		wantErr(t, heartbeat(c, "g", id, generation), nil)
	})
}

func TestMembersGoOnAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		c, stop := run(t, store)
		synctest.Wait()
		id, generation := joinAlone(t, c, "g")
		a := pending[error]()
		c.Commit("g", Commit{Member: id, Generation: generation, Offsets: []metadata.GroupOffset{offset(0, 5)}}, a.done)
		wantErr(t, a.get(t), nil)
		wantErr(t, stop(), nil)
		wantErr(t, heartbeat(c, "g", id, generation), kerr.NotCoordinator)

		c, _ = run(t, store)
		synctest.Wait()
		wantErr(t, heartbeat(c, "g", id, generation), nil)
		s := pending[SyncReply]()
		c.Sync("g", Sync{Member: id, Generation: generation}, s.done)
		if r := s.get(t); string(r.Assignment) != "all" || fetched(t, c, "g")[0] != 5 {
			t.Fatalf("share %q, offsets %v", r.Assignment, fetched(t, c, "g"))
		}
		// It is a session like any other.
		time.Sleep(11 * time.Second)
		wantErr(t, heartbeat(c, "g", id, generation), kerr.UnknownMemberID)
	})
}

func TestOneBadWriteDoesNotSpoilTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		c, _ := run(t, store)
		synctest.Wait()
		store.plan(func(n int, w metadata.GroupWrite) fate {
			if n == 1 {
				return fate{took: time.Second}
			}
			if slices.ContainsFunc(w.Offsets, func(o metadata.GroupOffset) bool { return o.Group == "bad" }) {
				return fate{skip: true, err: errors.New("no such partition")}
			}
			return fate{}
		})
		commit(c, "first", offset(0, 1))
		synctest.Wait()
		var good []answer[error]
		for i := range 20 {
			good = append(good, commit(c, fmt.Sprintf("g%d", i), offset(0, 1)))
		}
		bad := commit(c, "bad", offset(0, 1))
		for i := range 20 {
			good = append(good, commit(c, fmt.Sprintf("g%d", i), offset(0, 2)))
		}
		for _, a := range good {
			wantErr(t, a.get(t), nil)
		}
		wantErr(t, bad.get(t), kerr.UnknownServerError)
		if len(store.written()) > 50 {
			t.Fatalf("%d writes", len(store.written()))
		}
		if _, err := c.Describe("bad"); err != kerr.GroupIDNotFound {
			t.Fatalf("a group of which nothing is stored: %v", err)
		}
	})
}

func TestWhatComesAfterADeletionIsAnotherGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		c, _ := run(t, store)
		synctest.Wait()
		store.plan(func(int, metadata.GroupWrite) fate { return fate{took: time.Second} })
		a := commit(c, "g", offset(0, 1), offset(1, 1))
		synctest.Wait()
		d := pending[error]()
		c.Delete("g", d.done)
		wantErr(t, commit(c, "g", offset(0, 2)).get(t), kerr.CoordinatorNotAvailable)
		wantErr(t, a.get(t), nil)
		wantErr(t, d.get(t), nil)
		wantErr(t, commit(c, "g", offset(0, 3)).get(t), nil)
		if got := fetched(t, c, "g"); len(got) != 1 || got[0] != 3 {
			t.Fatalf("offsets %v, want those of the new group only", got)
		}
		c.Delete("g", d.done)
		wantErr(t, d.get(t), nil)
		c.Delete("g", d.done)
		wantErr(t, d.get(t), kerr.GroupIDNotFound)
	})
}

func TestBeforeTheShardsAreLoaded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		away := true
		store.load = func() error {
			if away {
				return metadata.ErrUnavailable
			}
			return nil
		}
		c, _ := run(t, store)
		synctest.Wait()
		if c.Ready() {
			t.Fatal("ready without shards")
		}
		wantErr(t, commit(c, "g", offset(0, 1)).get(t), kerr.CoordinatorLoadInProgress)
		wantErr(t, heartbeat(c, "g", "m", 1), nil)
		if _, err := c.List(); err != kerr.CoordinatorLoadInProgress {
			t.Fatalf("list: %v", err)
		}
		store.mu.Lock()
		away = false
		store.mu.Unlock()
		time.Sleep(2 * time.Second)
		wantErr(t, commit(c, "g", offset(0, 1)).get(t), nil)
		if l, err := c.List(); err != nil || len(l) != 1 || l[0].Group != "g" || l[0].State != Empty {
			t.Fatalf("list: %+v, %v", l, err)
		}
	})
}

func TestRunWritesWhatIsQueuedBeforeItEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		c, stop := run(t, store)
		synctest.Wait()
		store.plan(func(int, metadata.GroupWrite) fate { return fate{took: time.Second} })
		a := commit(c, "g", offset(0, 1))
		synctest.Wait()
		b := commit(c, "h", offset(0, 1))
		go stop()
		wantErr(t, a.get(t), nil)
		wantErr(t, b.get(t), nil)
	})
}

func TestRunDoesNotWaitForAStoreThatIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		c, stop := run(t, store, func(cfg *Config) { cfg.StoreTimeout = time.Hour })
		synctest.Wait()
		store.plan(func(int, metadata.GroupWrite) fate { return fate{err: metadata.ErrUnavailable, skip: true} })
		a := commit(c, "g", offset(0, 1))
		begin := time.Now()
		wantErr(t, stop(), nil)
		wantErr(t, a.get(t), kerr.NotCoordinator)
		if took := time.Since(begin); took > 6*time.Second {
			t.Fatalf("ended after %v, want 5s", took)
		}
	})
}

func TestForgottenOffsetsExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		c, _ := run(t, store)
		synctest.Wait()
		wantErr(t, commit(c, "g", offset(0, 1), offset(1, 1)).get(t), nil)
		time.Sleep(6 * 24 * time.Hour)
		wantErr(t, commit(c, "g", offset(1, 2)).get(t), nil)
		time.Sleep(24*time.Hour + 11*time.Minute)
		if got := fetched(t, c, "g"); len(got) != 1 || got[1] != 2 {
			t.Fatalf("offsets %v, want only the newer one", got)
		}
		time.Sleep(7 * 24 * time.Hour)
		if l, _ := c.List(); len(l) != 0 || len(store.offsets) != 0 {
			t.Fatalf("%v in memory, %v stored, want nothing", l, store.offsets)
		}
	})
}

func TestADeletedTopicIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := run(t, newFakeStore())
		synctest.Wait()
		other := offset(0, 2)
		other.Partition.Topic = 2
		wantErr(t, commit(c, "g", offset(0, 1), other).get(t), nil)
		c.TopicDeleted(1)
		if got := fetched(t, c, "g"); len(got) != 1 || got[0] != 2 {
			t.Fatalf("offsets %v, want the other topic's", got)
		}
	})
}

func TestBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		c, _ := run(t, store, func(cfg *Config) { cfg.MaxGroups, cfg.MaxQueued = 2, 3 })
		synctest.Wait()
		wantErr(t, commit(c, "a", offset(0, 1), offset(1, 1), offset(2, 1), offset(3, 1)).get(t), kerr.CoordinatorNotAvailable)
		wantErr(t, commit(c, "a", offset(0, 1)).get(t), nil)
		wantErr(t, commit(c, "b", offset(0, 1)).get(t), nil)
		wantErr(t, commit(c, "c", offset(0, 1)).get(t), kerr.PolicyViolation)
		wantErr(t, heartbeat(c, "c", "m", 1), kerr.UnknownMemberID)
		j := pending[JoinReply]()
		c.Join("a", Join{Session: time.Second}, j.done)
		wantErr(t, j.get(t).Err, kerr.InvalidSessionTimeout)
		c.Join("", Join{Session: 10 * time.Second}, j.done)
		wantErr(t, j.get(t).Err, kerr.InvalidGroupID)
	})
}

func TestConfigSaysEverythingThatIsWrong(t *testing.T) {
	err := Config{}.Validate()
	if n := len(err.(interface{ Unwrap() []error }).Unwrap()); n < 10 {
		t.Fatalf("%d problems: %v", n, err)
	}
	wantErr(t, DefaultConfig(1).Validate(), nil)
}

// Many clients at once: under -race this is the test of the locks.
func TestManyClientsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := run(t, newFakeStore())
		synctest.Wait()
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				group := fmt.Sprintf("g%d", i%3)
				for n := range 50 {
					if err := <-commit(c, group, offset(int32(i), int64(n))).ch; err != nil {
						t.Error(err)
					}
					fetched(t, c, group)
					c.List()
					c.Describe(group)
					heartbeat(c, group, "m", 1)
					c.TopicDeleted(99)
				}
			})
		}
		wg.Wait()
		for i := range 8 {
			if got := fetched(t, c, fmt.Sprintf("g%d", i%3))[int32(i)]; got != 49 {
				t.Errorf("offset %d, want 49", got)
			}
		}
	})
}
