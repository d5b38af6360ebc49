package flush

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"varve.dev/metadata"
	"varve.dev/objectstore"
	"varve.dev/tiering/batch"
	"varve.dev/tiering/journal"
)

func TestFirstBatchOfAnIdleAgentGoesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		p := w.owner(1, 0)
		time.Sleep(time.Hour)
		a := w.append(p, Stored, 10)
		synctest.Wait()
		w.wantTold(a)
		if d := a.toldAt.Sub(a.at); d != 0 {
			t.Errorf("answered after %s, want at once", d)
		}
		b := w.append(p, Stored, 10)
		c := w.append(p, Stored, 10)
		synctest.Wait()
		w.wantWaiting(b, c)
		time.Sleep(250 * time.Millisecond)
		synctest.Wait()
		w.wantTold(b, c)
		if puts, commits, _ := w.counts(); puts != 2 || commits != 2 {
			t.Errorf("%d puts, %d commits, want 2 and 2: the interval limits the rate", puts, commits)
		}
		if err := w.finish(); err != nil {
			t.Error(err)
		}
	})
}

// A request of many partitions is appended one by one: the first must not go without the rest.
func TestWhatIsReservedTogetherGoesTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		time.Sleep(time.Hour)
		if err := w.Reserve(t.Context(), 30, Stored); err != nil {
			t.Fatal(err)
		}
		var all []*appended
		for i := range int32(3) {
			all = append(all, w.append(w.owner(1, i), Stored, 10))
			synctest.Wait()
			w.wantWaiting(all...)
		}
		w.Unreserve(30)
		synctest.Wait()
		w.wantTold(all...)
		if puts, commits, _ := w.counts(); puts != 1 || commits != 1 {
			t.Errorf("%d puts, %d commits, want 1 and 1", puts, commits)
		}
		// Somebody who reserves for ever holds nobody up.
		time.Sleep(time.Hour)
		if err := w.Reserve(t.Context(), 30, Stored); err != nil {
			t.Fatal(err)
		}
		a := w.append(w.owner(2, 0), Stored, 10)
		time.Sleep(gather)
		synctest.Wait()
		w.wantTold(a)
		w.Unreserve(30)
		if err := w.finish(); err != nil {
			t.Error(err)
		}
	})
}

func TestIdleAgentDoesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		time.Sleep(24 * time.Hour)
		if puts, commits, syncs := w.counts(); puts+commits+syncs != 0 {
			t.Errorf("%d puts, %d commits, %d syncs", puts, commits, syncs)
		}
		if err := w.Quiesce(t.Context()); err != nil {
			t.Error(err)
		}
		if err := w.finish(); err != nil {
			t.Error(err)
		}
	})
}

func TestOnlyLocalTrafficIsPatient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		local := w.append(w.owner(1, 0), Local, 10)
		synctest.Wait()
		w.wantTold(local)
		time.Sleep(999 * time.Millisecond)
		if n := w.puts(); n != 0 {
			t.Errorf("%d puts before the idle interval", n)
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if n := w.puts(); n != 1 {
			t.Errorf("%d puts at the idle interval, want 1", n)
		}
		time.Sleep(time.Hour)
		w.append(w.owner(2, 0), Nobody, 10) // acks=0: its readers wait for the commit
		synctest.Wait()
		if n := w.puts(); n != 2 {
			t.Errorf("%d puts, want 2", n)
		}
		w.finish()
	})
}

func TestWindowClosesEarlyByBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config()
		cfg.WindowBytes = 4000
		w := newWorld(t, cfg)
		p := w.owner(1, 0)
		w.append(p, Stored, 10)
		synctest.Wait()
		a := w.append(p, Stored, 3000)
		synctest.Wait()
		w.wantWaiting(a)
		b := w.append(p, Stored, 3000)
		synctest.Wait()
		w.wantTold(a, b)
		w.finish()
	})
}

func TestUploadsOverlapAndCommitsKeepTheirOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		w.store.plan = func(_ string, nth int) fault { // the first takes longest
			return fault{delay: time.Duration(10-2*nth) * time.Second}
		}
		p := w.owner(1, 0)
		var as []*appended
		for range 6 {
			as = append(as, w.append(p, Stored, 10))
			time.Sleep(300 * time.Millisecond)
		}
		synctest.Wait()
		if n := w.puts(); n != 4 {
			t.Errorf("%d uploads in flight, want the bound of 4", n)
		}
		time.Sleep(6 * time.Second) // the last three are stored, the first is not
		synctest.Wait()
		w.wantWaiting(as...)
		time.Sleep(time.Minute)
		synctest.Wait()
		w.wantTold(as...)
		if n := w.index.now().commits; n != 2 {
			t.Errorf("%d commits, want 2: four objects go in one", n)
		}
		if err := w.finish(); err != nil {
			t.Error(err)
		}
	})
}

// lost lists the ways in which the reply to a commit may be lost, and what Settle will then find.
var lost = map[string]fault{
	"executed":       {err: metadata.ErrUnknown, lost: true},
	"never executed": {err: metadata.ErrUnknown},
	"executed late":  {err: metadata.ErrUnknown, late: true},
	"not reached":    {err: metadata.ErrUnavailable},
	"strange error":  {err: errors.New("connection reset"), lost: true},
}

func TestLostRepliesAreSettledByWriting(t *testing.T) {
	for what, f := range lost {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, config())
				w.index.plan = func(nth int) fault {
					if nth <= 3 {
						return f
					}
					return fault{}
				}
				w.index.settle = func(nth int) fault {
					if nth <= 2 {
						return fault{err: metadata.ErrUnknown}
					}
					return fault{}
				}
				p, q := w.owner(1, 0), w.owner(1, 1)
				a := w.append(p, Stored, 10)
				synctest.Wait()
				w.wantWaiting(a)
				b := w.append(q, Stored, 10)
				time.Sleep(time.Minute)
				synctest.Wait()
				w.wantTold(a, b)
				if n := len(w.index.now().rows); n != 2 || w.index.now().seq != 2 {
					t.Errorf("%d rows, number %d, want 2 and 2", n, w.index.now().seq)
				}
				if puts, _, _ := w.counts(); puts != 2 {
					t.Errorf("%d puts, want 2: a commit in doubt uploads nothing again", puts)
				}
				if err := w.finish(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestNothingElseIsCommittedWhileOneIsInDoubt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		w.index.plan = func(nth int) fault { return fault{err: metadata.ErrUnknown} }
		w.index.settle = func(int) fault { return fault{err: metadata.ErrUnavailable} }
		p := w.owner(1, 0)
		for range 5 {
			w.append(p, Stored, 10)
			time.Sleep(time.Second)
		}
		if w.index.now().commits != 1 {
			t.Errorf("%d commits, want the one that is in doubt", w.index.now().commits)
		}
		w.finish()
		for _, a := range w.appends {
			if err, _ := a.answer(); !errors.Is(err, ErrEnded) {
				t.Errorf("%s: told %v, want ErrEnded", a.name, err)
			}
		}
	})
}

func TestFenceEndsTheSession(t *testing.T) {
	for what, plan := range map[string]func(*fakeIndex){
		"commit": func(x *fakeIndex) { x.fenced = true },
		"settle": func(x *fakeIndex) {
			x.plan = func(int) fault { x.fenced = true; return fault{err: metadata.ErrUnknown, late: true} }
		},
		"another number": func(x *fakeIndex) { x.seq = 77 },
		"settled as another number": func(x *fakeIndex) {
			x.plan = func(int) fault { x.seq = 4; return fault{err: metadata.ErrUnknown} }
		},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, config())
				p := w.owner(1, 0)
				w.store.plan = func(string, int) fault { return fault{delay: time.Second} }
				plan(w.index)
				for range 4 {
					w.append(p, Stored, 10)
					time.Sleep(200 * time.Millisecond)
				}
				synctest.Wait()
				if err := <-w.ended; err == nil {
					t.Error("Run ended without saying why")
				} else {
					w.ended <- err
				}
				<-w.Ended()
				for _, a := range w.appends {
					if err, told := a.answer(); !told || !errors.Is(err, ErrEnded) {
						t.Errorf("%s: told %v, %v, want ErrEnded", a.name, told, err)
					}
				}
				if _, err := w.tryAppend(p, Stored, 1); !errors.Is(err, ErrEnded) {
					t.Errorf("append: %v", err)
				}
				if err := w.Reserve(t.Context(), 1, Stored); !errors.Is(err, ErrEnded) {
					t.Errorf("reserve: %v", err)
				}
				if err := w.Release(t.Context(), []metadata.PartitionID{p.id}); err == nil {
					t.Error("release: nil")
				}
				if err := w.Quiesce(t.Context()); err == nil {
					t.Error("quiesce: nil")
				}
				if err := w.Drain(t.Context()); err == nil {
					t.Error("drain: nil")
				}
				w.finish()
			})
		})
	}
}

func TestReserveWaitsForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config()
		cfg.WindowBytes, cfg.BufferBytes = 2000, 2000
		w := newWorld(t, cfg)
		w.index.plan = func(nth int) fault { return fault{delay: 10 * time.Second} }
		p := w.owner(1, 0)
		if err := w.Reserve(t.Context(), 1900, Stored); err != nil {
			t.Fatal(err)
		}
		a := w.append(p, Stored, 1900)
		w.Unreserve(1900)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := w.Reserve(ctx, 500, Stored); !errors.Is(err, ErrBusy) {
			t.Errorf("reserve beyond the bound: %v, want ErrBusy", err)
		}
		if err := w.Reserve(t.Context(), 500, Stored); err != nil {
			t.Error(err)
		}
		w.wantTold(a)
		if since := time.Since(a.at); since != 10*time.Second {
			t.Errorf("room after %s, want it at the commit", since)
		}
		w.Unreserve(500)
		// One request that is larger than the buffer is let in alone: otherwise it would never be.
		if err := w.Reserve(t.Context(), 5000, Stored); err != nil {
			t.Error(err)
		}
		waits := make(chan error)
		go func() { waits <- w.Reserve(t.Context(), 1, Stored) }()
		synctest.Wait()
		w.Unreserve(5000)
		if err := <-waits; err != nil {
			t.Error(err)
		}
		w.Unreserve(1)
		if w.reserved != 0 || w.uncommit != 0 || len(w.room) != 0 {
			t.Errorf("reserved %d, uncommitted %d, %d wait", w.reserved, w.uncommit, len(w.room))
		}
		w.finish()
	})
}

// With a store away, who would wait for the commit waits before the append, and the journal's promise is given as far as
// the journal has room. acks=0 goes on: nobody waits for it.
func TestALateWindowMakesProduceWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config()
		cfg.Late = 5 * time.Second
		w := newWorld(t, cfg)
		const away = time.Minute
		back := time.Now().Add(away)
		w.store.plan = func(string, int) fault { return fault{delay: time.Until(back)} }
		var room atomic.Int64
		room.Store(2000)
		w.journal.room = func() int64 { return room.Load() - int64(w.journal.now().frames)*400 }
		refused := func(need Need, n int64) bool {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			began := time.Now()
			err := w.Reserve(ctx, n, need)
			if err == nil {
				w.Unreserve(n)
				return false
			}
			if since := time.Since(began); !errors.Is(err, ErrBusy) || since != time.Second {
				t.Errorf("%v after %s, want ErrBusy after a second", err, since)
			}
			return true
		}
		p := w.owner(1, 0)
		a := w.append(p, Stored, 200)
		time.Sleep(cfg.Late)
		for need := range Stored + 1 {
			if refused(need, 5000) {
				t.Errorf("need %d is refused %s after the upload began", need, cfg.Late)
			}
		}
		time.Sleep(time.Millisecond)
		for need, want := range map[Need]bool{Nobody: false, Local: false, Synced: false, Stored: true} {
			if got := refused(need, 100); got != want {
				t.Errorf("a late window: need %d refused %v, want %v", need, got, want)
			}
			if got := refused(need, 5000); got != (need != Nobody) {
				t.Errorf("a late window, and more than the journal takes: need %d refused %v", need, got)
			}
		}
		if w.TryReserve(1) {
			t.Error("room for any need, with a late window")
		}
		// What the journal lacks of earlier windows goes first, and counts.
		if refused(Synced, 1600) || !refused(Synced, 2000-199) {
			t.Error("the room in the journal is what is left behind all that came before")
		}
		b := w.append(p, Synced, 200)
		synctest.Wait()
		w.wantTold(b)
		w.wantWaiting(a)
		if refused(Synced, 1100) || !refused(Synced, 1300) {
			t.Error("what has been written does not count twice")
		}
		// Whoever waits is woken by the commit, or finds that somebody has made room on the disk.
		room.Store(0)
		went := func(need Need) <-chan time.Time {
			c := make(chan time.Time, 1)
			go func() {
				if err := w.Reserve(t.Context(), 100, need); err != nil {
					t.Error(err)
				}
				w.Unreserve(100)
				c <- time.Now()
			}()
			return c
		}
		synced, stored := went(Synced), went(Stored)
		time.Sleep(time.Second)
		freed := time.Now()
		room.Store(1 << 20)
		if since := (<-synced).Sub(freed); since > lookAgain {
			t.Errorf("room on the disk was found after %s, want %s at most", since, lookAgain)
		}
		if at := <-stored; at != back {
			t.Errorf("room %s after the store is back, want it at the commit", at.Sub(back))
		}
		w.wantTold(a)
		w.finish()
	})
}

// A store that is slow is not away: so long as something is committed now and then, produce is not kept waiting.
func TestSlowStoresAreNotAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config()
		cfg.Late = 5 * time.Second
		w := newWorld(t, cfg)
		w.store.plan = func(_ string, nth int) fault { return fault{delay: time.Duration(nth) * 4 * time.Second} }
		p := w.owner(1, 0)
		began := time.Now()
		for range cfg.InFlight {
			w.append(p, Stored, 10)
			time.Sleep(time.Second)
		}
		for range 4 * (cfg.InFlight - 1) { // the uploads end 5 s after one another
			if !w.TryReserve(1) {
				t.Fatalf("no room after %s", time.Since(began))
			}
			w.Unreserve(1)
			time.Sleep(time.Second)
		}
		w.store.mu.Lock()
		w.store.plan = func(string, int) fault { return fault{delay: time.Hour} }
		w.store.mu.Unlock()
		time.Sleep(time.Minute)
		w.append(p, Stored, 10)
		time.Sleep(cfg.Late)
		if !w.TryReserve(1) {
			t.Error("a window is late because of the time in which nothing was on its way")
		}
		w.Unreserve(1)
		time.Sleep(time.Millisecond)
		if w.TryReserve(1) {
			t.Error("nothing was committed for long, and there is room")
		}
		w.finish()
	})
}

func TestSyncedNeedsEveryEarlierWindowOnDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		w.index.plan = func(int) fault { return fault{delay: time.Hour} }
		p, q := w.owner(1, 0), w.owner(2, 0)
		a := w.append(p, Stored, 10)
		time.Sleep(time.Second)
		b := w.append(p, Stored, 10) // two windows in flight, and no byte of them is on disk
		time.Sleep(time.Second)
		synctest.Wait()
		if w.journal.now().frames != 0 {
			t.Errorf("%d frames in the journal, and nobody waits for it", w.journal.now().frames)
		}
		c := w.append(q, Local, 10)
		synctest.Wait()
		w.wantTold(c)
		w.wantWaiting(a, b)
		if w.journal.now().frames != 3 || w.journal.now().syncs != 1 {
			t.Errorf("%d frames, %d syncs, want 3 and 1", w.journal.now().frames, w.journal.now().syncs)
		}
		if q.synced != 2 || p.synced != 0 {
			t.Errorf("owners were told of %d and %d, want 2 and 0", q.synced, p.synced)
		}
		w.finish()
	})
}

func TestOneSyncServesAllWhoCameMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		w.journal.syncPlan = func() fault { return fault{delay: 10 * time.Millisecond} }
		var as []*appended
		as = append(as, w.append(w.owner(1, 0), Local, 10))
		synctest.Wait()
		for i := range int32(100) {
			as = append(as, w.append(w.owner(1, i), Local, 10))
		}
		time.Sleep(20 * time.Millisecond)
		synctest.Wait()
		w.wantTold(as...)
		if w.journal.now().syncs != 2 {
			t.Errorf("%d syncs, want 2", w.journal.now().syncs)
		}
		w.finish()
	})
}

func TestFullJournalFallsBackToTheCommitAndRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		full := true
		w.journal.plan = func() error {
			if full {
				return journal.ErrFull
			}
			return nil
		}
		p := w.owner(1, 0)
		a := w.append(p, Local, 10)
		synctest.Wait()
		w.wantTold(a) // by the commit
		if w.index.now().seq != 1 || w.journal.now().frames != 0 {
			t.Errorf("number %d, %d frames", w.index.now().seq, w.journal.now().frames)
		}
		w.index.plan = func(int) fault { return fault{delay: time.Minute} }
		time.Sleep(time.Second)
		b := w.append(p, Local, 10)
		synctest.Wait()
		w.wantWaiting(b)
		w.journal.mu.Lock()
		full = false
		w.journal.mu.Unlock()
		c := w.append(p, Local, 10)
		synctest.Wait()
		w.wantTold(b, c)
		if w.index.now().seq != 1 {
			t.Errorf("number %d, want 1: the journal has room again", w.index.now().seq)
		}
		if err := w.finish(); err != nil {
			t.Error(err)
		}
	})
}

func TestBrokenJournalFlushesMemoryThenEnds(t *testing.T) {
	for _, at := range []string{"write", "sync"} {
		t.Run(at, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, config())
				eio := errors.New("input/output error")
				if at == "write" {
					w.journal.plan = func() error { return eio }
				} else {
					w.journal.syncPlan = func() fault { return fault{err: eio} }
				}
				w.store.plan = func(_ string, nth int) fault {
					if nth < 3 {
						return fault{err: objectstore.ErrUnavailable}
					}
					return fault{delay: time.Second}
				}
				p := w.owner(1, 0)
				a, b := w.append(p, Stored, 10), w.append(p, Local, 10)
				synctest.Wait()
				w.wantWaiting(a, b)
				if _, err := w.tryAppend(p, Stored, 1); !errors.Is(err, ErrEnded) {
					t.Errorf("append to a buffer whose journal is broken: %v", err)
				}
				err := <-w.ended
				if !errors.Is(err, eio) {
					t.Errorf("ended with %v", err)
				}
				w.ended <- err
				w.wantTold(a, b) // their commit is known
				w.finish()
			})
		})
	}
}

func TestReleaseGoesBehindEveryWindowOfThePartition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		w.store.plan = func(_ string, nth int) fault { return fault{delay: time.Second} }
		p, q := w.owner(1, 0), w.owner(1, 1)
		w.append(p, Stored, 10) // window 1
		synctest.Wait()
		w.append(q, Stored, 10) // window 2, without p
		time.Sleep(500 * time.Millisecond)
		w.append(q, Stored, 10) // window 3
		start := time.Now()
		if err := w.Release(t.Context(), []metadata.PartitionID{p.id}); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d != 500*time.Millisecond {
			t.Errorf("released after %s, want with the first window", d)
		}
		if len(w.index.now().released) != 1 || w.index.now().seq != 1 {
			t.Errorf("released %v with number %d", w.index.now().released, w.index.now().seq)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if w.index.now().seq != 3 {
			t.Errorf("number %d, want 3", w.index.now().seq)
		}
		w.finish()
	})
}

// A release alone takes the number that the open window would have had; the window's frames are in the journal already.
func TestReleaseAloneTakesANumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		w.index.plan = func(int) fault { return fault{delay: 10 * time.Millisecond} }
		p, q := w.owner(1, 0), w.owner(1, 1)
		w.append(p, Stored, 10)
		if err := w.Quiesce(t.Context()); err != nil {
			t.Fatal(err)
		}
		a := w.append(q, Local, 10) // open, and on disk
		synctest.Wait()
		w.wantTold(a)
		released := make(chan error, 1)
		go func() { released <- w.Release(t.Context(), []metadata.PartitionID{p.id}) }()
		synctest.Wait()
		b := w.append(q, Stored, 10) // closes while the release is on its way
		c := w.append(q, Local, 10)
		synctest.Wait()
		w.wantTold(c)
		if err := <-released; err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		w.wantTold(b)
		if w.index.now().seq != 3 || len(w.index.now().rows) != 2 || w.index.now().rows[1].First != 3 {
			t.Errorf("number %d, %d rows", w.index.now().seq, len(w.index.now().rows))
		}
		if err := w.finish(); err != nil {
			t.Error(err)
		}
	})
}

func TestReleaseOfSeveralWithLostReplies(t *testing.T) {
	for what, f := range lost {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, config())
				w.index.plan = func(nth int) fault {
					if nth%2 == 0 {
						return f
					}
					return fault{}
				}
				var ids []metadata.PartitionID
				for i := range int32(10) {
					w.append(w.owner(1, i), Stored, 10)
					ids = append(ids, metadata.PartitionID{Topic: 1, Partition: i})
					time.Sleep(time.Second)
				}
				for _, id := range ids[1:] {
					if err := w.Release(t.Context(), []metadata.PartitionID{id}); err != nil {
						t.Fatal(err)
					}
				}
				a := w.append(w.owner(1, 0), Stored, 10)
				if err := w.Quiesce(t.Context()); err != nil {
					t.Fatal(err)
				}
				w.wantTold(a)
				if !slices.Equal(w.index.now().released, ids[1:]) {
					t.Errorf("released %v", w.index.now().released)
				}
				w.finish()
			})
		})
	}
}

func TestDrainRefusesAppendsAndCommitsWhatIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		w.store.plan = func(string, int) fault { return fault{delay: time.Second} }
		p := w.owner(1, 0)
		a := w.append(p, Local, 10)
		b := w.append(p, Nobody, 10)
		busy := make(chan error, 1)
		w.Buffer.mu.Lock()
		w.reserved = w.cfg.BufferBytes
		w.Buffer.mu.Unlock()
		go func() { busy <- w.Reserve(t.Context(), 100, Stored) }()
		synctest.Wait()
		if err := w.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-busy; !errors.Is(err, ErrEnded) {
			t.Errorf("reserve during a drain: %v", err)
		}
		if _, err := w.tryAppend(p, Stored, 1); !errors.Is(err, ErrEnded) {
			t.Errorf("append after a drain: %v", err)
		}
		w.wantTold(a)
		if p.committed != b.end {
			t.Errorf("committed to %d, want %d", p.committed, b.end)
		}
		if err := w.Release(t.Context(), []metadata.PartitionID{p.id}); err != nil {
			t.Error(err)
		}
		if bytes, oldest := w.Pending(); bytes != 0 || !oldest.IsZero() {
			t.Errorf("%d bytes pending since %s", bytes, oldest)
		}
		w.finish()
	})
}

func TestQuiesceDoesNotWaitForTheInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		p := w.owner(1, 0)
		w.append(p, Stored, 10)
		synctest.Wait()
		w.append(p, Local, 10)
		start := time.Now()
		if err := w.Quiesce(t.Context()); err != nil || time.Since(start) != 0 {
			t.Errorf("%v after %s", err, time.Since(start))
		}
		w.store.plan = func(string, int) fault { return fault{delay: time.Hour} }
		w.append(p, Stored, 10)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := w.Quiesce(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("quiesce: %v", err)
		}
		w.finish()
	})
}

func TestHoldsUntilTheSinkHasIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		w.store.plan = func(string, int) fault { return fault{delay: time.Second} }
		w.append(w.owner(5, 0), Stored, 10)
		w.append(w.owner(6, 0), Local, 10)
		synctest.Wait()
		if !w.Holds(5) || !w.Holds(6) || w.Holds(7) {
			t.Error("open or in flight, and not held")
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if w.Holds(5) || w.Holds(6) || len(w.sink.all()) == 0 {
			t.Error("committed, and held")
		}
		w.finish()
	})
}

func TestForeignObjectUnderOurKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		w.store.objects["wal/1.0"], w.store.objects["wal/1.1"] = []byte("foreign"), []byte("foreign")
		a := w.append(w.owner(1, 0), Stored, 10)
		synctest.Wait()
		w.wantTold(a)
		if r := w.index.now().rows[0]; r.Object.Key != "wal/1.2" || r.Tries != 3 {
			t.Errorf("key %s after %d tries", r.Object.Key, r.Tries)
		}
		for try := range MaxTries {
			w.store.objects[fmt.Sprintf("wal/2.%d", try)] = []byte("foreign")
		}
		time.Sleep(time.Second)
		b := w.append(w.owner(1, 0), Stored, 10)
		if err := <-w.ended; !errors.Is(err, objectstore.ErrExists) {
			t.Errorf("ended with %v", err)
		}
		if err, told := b.answer(); !told || !errors.Is(err, ErrEnded) {
			t.Errorf("told %v, %v", told, err)
		}
		w.ended <- nil
		w.finish()
	})
}

func TestLostReplyOfAPutIsFoundToBeOurs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		w.store.plan = func(_ string, nth int) fault {
			if nth == 1 {
				return fault{err: objectstore.ErrUnavailable, lost: true}
			}
			return fault{}
		}
		a := w.append(w.owner(1, 0), Stored, 10)
		time.Sleep(time.Second)
		synctest.Wait()
		w.wantTold(a)
		if r := w.index.now().rows[0]; r.Object.Key != "wal/1.0" || r.Tries != 1 || w.puts() != 2 {
			t.Errorf("key %s after %d tries, %d puts", r.Object.Key, r.Tries, w.puts())
		}
		w.finish()
	})
}

func TestUploadThatCanNeverSucceedEndsTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		w.store.plan = func(string, int) fault { return fault{err: objectstore.ErrChecksum} }
		a := w.append(w.owner(1, 0), Stored, 10)
		if err := <-w.ended; !errors.Is(err, objectstore.ErrChecksum) {
			t.Errorf("ended with %v", err)
		}
		if err, _ := a.answer(); !errors.Is(err, ErrEnded) {
			t.Errorf("told %v", err)
		}
		w.ended <- nil
		w.finish()
	})
}

func TestRequestsDoNotDependOnPartitions(t *testing.T) {
	for _, n := range []int32{1, 1000} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, config())
			w.append(w.owner(9, 0), Stored, 10)
			synctest.Wait()
			for i := range n {
				w.append(w.owner(i/10, i), Stored, 10)
			}
			time.Sleep(time.Second)
			synctest.Wait()
			if puts, commits, syncs := w.counts(); puts != 2 || commits != 2 || syncs != 0 {
				t.Errorf("%d partitions: %d puts, %d commits, %d syncs, want one put and one commit more than before", n, puts-1, commits-1, syncs)
			}
			w.finish()
		})
	}
}

func TestChunksAreReturnedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		w.sink.keep = true
		p := w.owner(1, 0)
		var helds []Held
		var want [][]byte
		for i := range 5 {
			a := w.append(p, []Need{Stored, Local}[i%2], 700<<10)
			a.held.Retain() // a reader of the tail
			helds, want = append(helds, a.held), append(want, bytes.Clone(a.held.Batch))
			if err := w.Quiesce(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if n := len(w.pool.free); n != 0 {
			t.Errorf("%d chunks are free, and all are read", n)
		}
		for _, im := range w.sink.images {
			im.Release()
		}
		if n := len(w.pool.free); n != 0 {
			t.Errorf("%d chunks are free, and all are held", n)
		}
		for i, h := range helds {
			if !bytes.Equal(h.Batch, want[i]) {
				t.Errorf("batch %d has changed while it was held", i)
			}
			h.Release()
			if n := len(w.pool.free); n != min(i+1, 4) { // the open window goes on in the last
				t.Errorf("%d chunks are free after %d releases", n, i+1)
			}
		}
		// A batch larger than a chunk has one of its own, which is not pooled.
		w.sink.keep = false
		w.append(p, Stored, 3<<20)
		if err := w.Quiesce(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := len(w.pool.free); n != 5 {
			t.Errorf("%d chunks are free", n)
		}
		w.finish()
	})
}

func TestSmallWindowsShareMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		w.sink.keep = true
		p := w.owner(1, 0)
		const windows = 2000
		chunks := map[*chunk]bool{}
		for i := range windows {
			a := w.append(p, []Need{Stored, Local}[i%2], 1000)
			for _, c := range a.held.window.memory {
				chunks[c] = true
			}
			if err := w.Quiesce(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if n := len(w.sink.images); n != windows {
			t.Fatalf("%d images, want %d", n, windows)
		}
		if n := len(chunks); n != 3 { // frames of 1,128 bytes
			t.Errorf("%d windows of a batch of 1,000 bytes hold %d chunks", windows, n)
		}
		for i, im := range w.sink.images {
			data, err := io.ReadAll(im.Open())
			if b, _, parsed := batch.Parse(data); err != nil || parsed != nil || b.Verify() != nil || b.Base() != im.Directory().Ranges[0].Base {
				t.Fatalf("image %d is damaged: %v, %v", i, err, parsed)
			}
			im.Release()
		}
		if n := len(w.pool.free); n != 2 {
			t.Errorf("%d chunks are free, want all but the open window's", n)
		}
		w.finish()
	})
}

// The journal still reads a window's chunks while its commit becomes known.
func TestCommitDuringAJournalWriteKeepsTheMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		w.journal.stuck = make(chan struct{})
		p := w.owner(1, 0)
		a := w.append(p, Local, 700<<10)
		synctest.Wait()
		w.wantWaiting(a)
		if err := w.Quiesce(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		w.wantTold(a)                // by the commit
		w.append(p, Stored, 700<<10) // and the open window goes on elsewhere
		if err := w.Quiesce(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := len(w.pool.free); n != 0 {
			t.Errorf("%d chunks are free while the journal reads them", n)
		}
		close(w.journal.stuck)
		synctest.Wait()
		if n := len(w.pool.free); n != 1 {
			t.Errorf("%d chunks are free, want 1", n)
		}
		w.finish()
	})
}

func TestJournalWindowsGoOnAboveThoseOnDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		w.journal.last = 9 << 36 // an earlier life under another number
		w.Continue(9 << 36)
		a := w.append(w.owner(1, 0), Local, 10)
		synctest.Wait()
		w.wantTold(a)
		w.append(w.owner(1, 0), Local, 10)
		if err := w.Quiesce(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // the journal is told last
		if w.journal.now().released <= 9<<36 {
			t.Errorf("released window %d", w.journal.now().released)
		}
		if err := w.finish(); err != nil {
			t.Error(err)
		}
	})
}

func TestGapStandsApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		p := w.owner(1, 0)
		w.append(p, Stored, 10)
		synctest.Wait()
		gap := gapOf(p, 100)
		if _, err := w.Append(p, gap, Stored, nil, 0); err != nil {
			t.Fatal(err)
		}
		w.append(p, Stored, 10)
		w.append(p, Stored, 10)
		if err := w.Quiesce(t.Context()); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range w.sink.all()[1].Dir.Ranges {
			got = append(got, fmt.Sprint(r.Base, r.End, r.Gap))
		}
		if want := []string{"2 102 true", "102 106 false"}; !slices.Equal(got, want) {
			t.Errorf("ranges %v, want %v", got, want)
		}
		w.finish()
	})
}

// A recovered tail comes at once and is reserved by nobody: no window may grow beyond what one object takes.
func TestWindowsStayWithinOneObject(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		w.store.plan = func(string, int) fault { return fault{delay: time.Minute} }
		p := w.owner(1, 0)
		const size = 1<<20 - 200
		for range 230 {
			w.append(p, Local, size)
		}
		synctest.Wait()
		if len(w.full) == 0 {
			t.Error("no window is full")
		}
		if err := w.Quiesce(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, o := range w.sink.all() {
			if o.Object.Length > maxWindow+2*size {
				t.Errorf("an object of %d bytes", o.Object.Length)
			}
		}
		if p.committed != p.next {
			t.Errorf("committed to %d, want %d", p.committed, p.next)
		}
		w.finish()
	})
}

func TestConfigNamesEveryProblem(t *testing.T) {
	err := Config{Interval: time.Second, BufferBytes: -1, InFlight: MaxInFlight + 1, MaxTries: MaxTries + 1}.Validate()
	for _, want := range []string{"idle", "window of 0", "buffer of -1", "in flight", "tries"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %q", err, want)
		}
	}
}

// A release may have taken a number ahead of as many windows as may be in flight: the next start must know all their keys.
func TestDoomedNamesEveryKeyThatMayExist(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config()
		cfg.InFlight = MaxInFlight
		w := newWorld(t, cfg)
		w.index.plan = func(int) fault { return fault{delay: time.Hour} }
		go func() { _ = w.Release(t.Context(), []metadata.PartitionID{{Topic: 1}}) }()
		synctest.Wait()
		for range MaxInFlight + 3 {
			w.append(w.owner(1, 1), Stored, 10)
			time.Sleep(300 * time.Millisecond)
		}
		doomed := Doomed(w.index.now().seq, w.cfg.Prefix)
		for _, key := range w.store.keys() {
			if !slices.Contains(doomed, key) {
				t.Errorf("%s is stored and not doomed", key)
			}
		}
		if len(w.store.keys()) != MaxInFlight {
			t.Errorf("%d objects", len(w.store.keys()))
		}
		w.finish()
	})
}

// TestRandomFaults mixes everything: whatever is answered is true when it is (appended.Done looks), every waiter is told
// once, and what is committed is what was appended, in order.
func TestRandomFaults(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &dice{r: rand.New(rand.NewPCG(seed, 1))}
				cfg := config()
				cfg.WindowBytes, cfg.InFlight = 2000, 1+r.IntN(6)
				w := newWorld(t, cfg)
				ms := func(n int) time.Duration { return time.Duration(r.IntN(n)) * time.Millisecond }
				w.store.plan = func(string, int) fault {
					switch r.IntN(6) {
					case 0:
						return fault{err: objectstore.ErrUnavailable, lost: r.IntN(2) == 0, delay: ms(300)}
					default:
						return fault{delay: ms(900)}
					}
				}
				w.index.plan = func(nth int) fault {
					if seed%5 == 4 && nth == 20 {
						w.index.fenced = true
					}
					switch r.IntN(8) {
					case 0:
						return fault{err: metadata.ErrUnknown, lost: true, delay: ms(50)}
					case 1:
						return fault{err: metadata.ErrUnknown, late: true}
					case 2:
						return fault{err: metadata.ErrUnknown}
					case 3:
						return fault{err: metadata.ErrUnavailable, delay: ms(500)}
					}
					return fault{delay: ms(20)}
				}
				w.index.settle = func(int) fault {
					if r.IntN(3) == 0 {
						return fault{err: metadata.ErrUnknown}
					}
					return fault{}
				}
				w.journal.plan = func() error {
					if r.IntN(5) == 0 {
						return journal.ErrFull
					}
					return nil
				}
				w.journal.syncPlan = func() fault { return fault{delay: ms(5)} }
				closed := map[*fakeOwner]bool{}
				for range 150 {
					o := w.owner(int32(r.IntN(3)), int32(r.IntN(3)))
					if closed[o] {
						continue
					}
					if _, err := w.tryAppend(o, Need(r.IntN(3)), r.IntN(600)); err != nil {
						break
					}
					if r.IntN(40) == 0 {
						closed[o] = true
						ctx, cancel := context.WithTimeout(t.Context(), time.Second)
						_ = w.Release(ctx, []metadata.PartitionID{o.id})
						cancel()
					}
					time.Sleep(ms(60))
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				if err := w.Drain(ctx); err != nil && w.Err() == nil {
					t.Errorf("drain: %v", err)
				}
				if w.Err() == nil {
					for id, o := range w.owners {
						if o.committed != o.next || w.index.now().ends[id] != o.next {
							t.Errorf("%s ends at %d, told %d, committed %d", id, o.next, o.committed, w.index.now().ends[id])
						}
					}
					if len(w.index.now().released) != len(closed) {
						t.Errorf("released %v, asked for %d", w.index.now().released, len(closed))
					}
				}
				w.finish()
			})
		})
	}
}

// acks=1 on an `object` topic is answered by the journal, but shown by the commit.
func TestReadersOfObjectTopicsDoNotWaitForTheIdleInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		w.append(w.owner(1, 0), Synced, 10)
		synctest.Wait()
		if n := w.puts(); n != 1 {
			t.Errorf("%d puts at once, want 1", n)
		}
		w.finish()
	})
}
