package partition_test

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"varve.dev/tiering/flush"
	"varve.dev/tiering/partition"
)

// word is an error in a script.
func word(err error) string {
	for w, e := range map[string]error{
		"not-leader": partition.ErrNotLeader, "out-of-range": partition.ErrOutOfRange, "out-of-order": partition.ErrOutOfOrder,
		"fenced": partition.ErrProducerFenced, "too-large": partition.ErrTooLarge, "bad-time": partition.ErrTimestamp,
		"tail-full": partition.ErrTailFull, "no-transactions": partition.ErrTransactions,
	} {
		if errors.Is(err, e) {
			return w
		}
	}
	return err.Error()
}

// play runs a script: one event a line, and what must come of it behind "→". Producers' requests are named a, b, c … in
// their order.
//
//	produce id= epoch= seq= n= acks= time= size=   → where it was appended, or the error
//	sync | commit [n]                              the journal's news, the index's (of the first n batches)
//	plan FROM [max] | offsets | close | epoch E
//
// "told …" after a semicolon names the requests that were answered by the event.
func play(t *testing.T, w *window, p *partition.Partition, script string) {
	t.Helper()
	wt := &waiter{}
	slot, now := 0, start
	for i, line := range strings.Split(strings.TrimSpace(script), "\n") {
		line, _, _ = strings.Cut(line, "#")
		do, want, ok := strings.Cut(line, "→")
		if !ok {
			continue
		}
		f := strings.Fields(do)
		arg := func(name string, usual int64) int64 {
			for _, x := range f[1:] {
				if v, found := strings.CutPrefix(x, name+"="); found {
					if v == "all" {
						return -1
					}
					n, err := strconv.ParseInt(v, 10, 64)
					must(t, err)
					return n
				}
			}
			return usual
		}
		plain := func(i int, usual int64) int64 {
			if len(f) <= i {
				return usual
			}
			n, err := strconv.ParseInt(f[i], 10, 64)
			must(t, err)
			return n
		}
		var got string
		switch f[0] {
		case "produce":
			s := sent{producer: arg("id", -1) + 1, epoch: int16(arg("epoch", 0)), sequence: int32(arg("seq", 0)), n: int32(arg("n", 1)),
				time: arg("time", 0), size: int(arg("size", 0))}
			done, err := p.Append(s.batch(), int16(arg("acks", -1)), now, wt, slot)
			got = string(rune('a'+slot)) + " " + fmt.Sprintf("at %d", done.Base)
			if err != nil {
				got = word(err)
			}
			slot++
		case "sync":
			w.sync(p)
			got = "hw " + strconv.FormatInt(p.Offsets().HighWatermark, 10)
		case "commit":
			w.commit(p, int(plain(1, 0)))
			got = "hw " + strconv.FormatInt(p.Offsets().HighWatermark, 10)
		case "plan":
			plan, _, err := p.Plan(plain(1, 0), int(plain(2, 1<<30)))
			got = bytesOf(plan)
			plan.Release()
			if err != nil {
				got = word(err)
			}
		case "offsets":
			at := p.Offsets()
			got = fmt.Sprintf("start %d sealed %d committed %d hw %d end %d", at.LogStart, at.SealedEnd, at.Committed, at.HighWatermark, at.End)
			if at.LastStable != at.HighWatermark {
				t.Errorf("last stable offset %d, high watermark %d", at.LastStable, at.HighWatermark)
			}
		case "close":
			p.Close(fmt.Errorf("%w: test", partition.ErrNotLeader))
		case "wait":
			now = now.Add(time.Duration(plain(1, 0)) * time.Millisecond)
		case "epoch":
			e, end := p.EpochEnd(int32(plain(1, 0)))
			got = fmt.Sprintf("%d to %d", e, end)
		default:
			t.Fatalf("line %d: what is %q?", i+1, f[0])
		}
		if told := wt.take(); told != "" {
			got += "; told " + told
		}
		got, want = strings.TrimPrefix(got, "; "), strings.Join(strings.Fields(want), " ")
		if got != want {
			t.Errorf("line %d: %s\n got %q\nwant %q", i+1, strings.TrimSpace(do), got, want)
		}
	}
}

func TestObjectTopicsAcknowledgeWhatIsCommitted(t *testing.T) {
	w := newWindow()
	play(t, w, lead(w, settings()), `
		offsets                     → start 0 sealed 0 committed 0 hw 0 end 0
		plan 0                      →
		plan 1                      → out-of-range
		plan -1                     → out-of-range
		produce n=3                 → a at 0
		produce n=2 acks=1          → b at 3
		produce n=1 acks=0          → c at 5
		offsets                     → start 0 sealed 0 committed 0 hw 0 end 6
		plan 6                      →                        # exactly the end: nothing, and no error
		sync                        → hw 0; told b           # acks=1 is provisional: nobody is shown it
		plan 0                      →
		commit 2                    → hw 5; told a
		plan 0                      → wal/0[0,5)
		plan 4                      → wal/0[0,5)
		plan 5                      →
		commit                      → hw 6                   # acks=0 is never answered
		plan 4                      → wal/0[0,5) wal/1[5,6)
		plan 4 1                    → wal/0[0,5)
		plan 4 0                    → wal/0[0,5)             # never nothing where there is something
		plan 7                      → out-of-range
	`)
}

func TestLocalTopicsAcknowledgeWhatTheJournalHas(t *testing.T) {
	cfg := settings()
	cfg.Local = true
	w := newWindow()
	play(t, w, lead(w, cfg), `
		produce n=3                 → a at 0
		produce n=2 acks=1          → b at 3
		produce n=1 acks=0          → c at 5
		plan 0                      →
		sync                        → hw 6; told a b         # acks=0 moves the high watermark, and is not answered
		plan 0                      → held[0,3) held[3,5) held[5,6)
		plan 3                      → held[3,5) held[5,6)
		plan 3 1                    → held[3,5)
		plan 3 0                    → held[3,5)
		commit 1                    → hw 6
		plan 0                      → wal/0[0,3) held[3,5) held[5,6)
		produce n=4                 → d at 6
		plan 0                      → wal/0[0,3) held[3,5) held[5,6)
		offsets                     → start 0 sealed 0 committed 3 hw 6 end 10
		commit                      → hw 10; told d
		plan 4                      → wal/1[3,10)
	`)
}

func TestDuplicatesWaitWithTheirOriginal(t *testing.T) {
	t.Run("object", func(t *testing.T) {
		w := newWindow()
		play(t, w, lead(w, settings()), `
			produce id=7 seq=0 n=3           → a at 0
			produce id=7 seq=0 n=3           → b at 0
			produce id=7 seq=0 n=3 acks=1    → c at 0
			produce id=7 seq=0 n=3 acks=0    → d at 0
			sync                             → hw 0
			commit                           → hw 3; told a b c
			produce id=7 seq=0 n=3           → e at 0; told e
			produce id=7 seq=0 n=3 acks=1    → f at 0; told f
			produce id=7 seq=0 n=3 acks=0    → g at 0
			produce id=7 seq=3 n=2 acks=1    → h at 3
			produce id=7 seq=3 n=2 acks=1    → i at 3
			sync                             → hw 3; told h i
			produce id=7 seq=3 n=2 acks=1    → j at 3; told j     # in the journal already
			produce id=7 seq=3 n=2           → k at 3
			commit                           → hw 5; told k
		`)
	})
	t.Run("local", func(t *testing.T) {
		cfg := settings()
		cfg.Local = true
		w := newWindow()
		play(t, w, lead(w, cfg), `
			produce id=7 seq=0 n=3           → a at 0
			produce id=7 seq=0 n=3 acks=1    → b at 0
			produce id=7 seq=0 n=3 acks=0    → c at 0
			sync                             → hw 3; told a b
			produce id=7 seq=0 n=3           → d at 0; told d
			produce id=7 seq=0 n=3 acks=0    → e at 0
			produce id=7 seq=3               → f at 3
			produce id=7 seq=3               → g at 3
			commit                           → hw 4; told f g
		`)
	})
	t.Run("and is told when leadership ends", func(t *testing.T) {
		w := newWindow()
		play(t, w, lead(w, settings()), `
			produce id=7 seq=0               → a at 0
			produce id=7 seq=0               → b at 0
			close                            → told b not-leader
			produce id=7 seq=0               → not-leader
			commit                           → hw 1; told a
		`)
	})
}

// PROTOCOL item 33, Kafka's ProducerStateEntry and ProducerAppendInfo.
func TestSequences(t *testing.T) {
	w := newWindow()
	play(t, w, lead(w, settings()), `
		produce id=7 seq=900             → a at 0               # nothing is known: any number
		produce id=7 seq=902             → out-of-order
		produce id=7 seq=899             → out-of-order
		produce id=7 seq=901 n=2         → d at 1
		produce id=7 seq=901             → out-of-order          # half of what was sent is not what was sent
		produce id=7 seq=900 n=3         → out-of-order
		produce id=7 seq=903             → g at 3
	`)
	w = newWindow()
	play(t, w, lead(w, settings()), `
		produce id=7 seq=0               → a at 0
		produce id=7 seq=1               → b at 1
		produce id=7 seq=2               → c at 2
		produce id=7 seq=3               → d at 3
		produce id=7 seq=4               → e at 4
		commit                           → hw 5; told a b c d e
		produce id=7 seq=0               → f at 0; told f         # the fifth before the next
		produce id=7 seq=5               → g at 5
		produce id=7 seq=0               → out-of-order           # six are too many
		produce id=7 seq=1               → i at 1; told i
		produce id=8 seq=0               → j at 6                 # another producer
		produce id=7 epoch=1 seq=6       → out-of-order           # a new epoch starts at 0
		produce id=7 epoch=1 seq=0       → l at 7
		produce id=7 epoch=0 seq=6       → fenced
		produce id=7 epoch=0 seq=1       → fenced                 # a duplicate of an old epoch too
		produce id=7 epoch=1 seq=1       → o at 8
		produce id=7 epoch=3 seq=0       → p at 9
	`)
	w = newWindow()
	play(t, w, lead(w, settings()), `
		produce id=7 seq=2147483646 n=2  → a at 0                 # to 2³¹−1
		produce id=7 seq=2147483647      → out-of-order
		produce id=7 seq=1               → out-of-order
		produce id=7 seq=0 n=3           → d at 2
		produce id=7 seq=3               → e at 5
		produce id=9 seq=2147483646 n=4  → f at 6                 # over the end: 2³¹−2, 2³¹−1, 0, 1
		produce id=9 seq=2               → g at 10
		commit                           → hw 11; told a d e f g
		produce id=9 seq=2147483646 n=4  → h at 6; told h
		produce id=7 seq=2147483646 n=2  → i at 0; told i
	`)
}

// Whatever has changed since the original was appended: a retry of it is answered, or the client would be told that what
// can be read was not written.
func TestARetryOfWhatIsThereIsNotRefused(t *testing.T) {
	cfg := settings()
	cfg.TimestampBefore = time.Minute
	w := newWindow()
	p := lead(w, cfg)
	play(t, w, p, `
		produce id=7 seq=0 n=1048576     → a at 0
		produce id=7 seq=1048576         → tail-full
		produce id=7 seq=0 n=1048576     → c at 0
		commit                           → hw 1048576; told a c
		produce id=7 seq=1048576 n=2 size=500   → d at 1048576
		commit                           → hw 1048578; told d
	`)
	cfg.MaxMessageBytes = 100
	p.Configure(cfg)
	b := sent{producer: 8, sequence: 1048576, n: 2, size: 500}.batch()
	done, err := p.Append(b, -1, start.Add(time.Hour), &waiter{}, 0)
	if err != nil || done.Base != 1048576 {
		t.Errorf("too large and too old by now: at %d, %v", done.Base, err)
	}
}

func TestWhatIsRefused(t *testing.T) {
	cfg := settings()
	cfg.TimestampBefore, cfg.MaxMessageBytes = time.Hour, 1000
	w := newWindow()
	p := lead(w, cfg)
	play(t, w, p, `
		produce time=1700003600000       → a at 0                 # an hour ahead
		produce time=1700003600001       → bad-time
		produce time=1699996400000       → c at 1                 # an hour ago
		produce time=1699996399999       → bad-time
		produce time=-1                  → e at 2                 # none
		produce size=939                 → f at 3                 # exactly max.message.bytes
		produce size=940                 → too-large
		produce n=1048577                → too-large              # more than any tail takes: never, not later
		offsets                          → start 0 sealed 0 committed 0 hw 0 end 4
	`)
	early := sent{n: 1}.batch()
	early[34]-- // base timestamp; the largest is now
	for i := 27; i < 34; i++ {
		early[i] = 0
	}
	if _, err := p.Append(early, -1, start, &waiter{}, 0); !errors.Is(err, partition.ErrTimestamp) {
		t.Errorf("first record decades old: %v, want ErrTimestamp", err)
	}
	txn := sent{producer: 3, n: 1}.batch()
	txn[22] |= 0x10
	if _, err := p.Append(txn, -1, start, &waiter{}, 0); !errors.Is(err, partition.ErrTransactions) {
		t.Errorf("transactional: %v", err)
	}
	w.fail = flush.ErrEnded
	if _, err := p.Append(sent{producer: 6, n: 1}.batch(), -1, start, &waiter{}, 0); !errors.Is(err, partition.ErrNotLeader) || !errors.Is(err, flush.ErrEnded) {
		t.Errorf("session over: %v", err)
	}
	w.fail = nil
	play(t, w, p, `
		offsets                          → start 0 sealed 0 committed 0 hw 0 end 4
		produce id=5 seq=4               → a at 4                 # what was refused left no state
	`)
}

// Rule 8: nobody is shown or acknowledged an offset beyond the committed end and the cap.
func TestTheTailIsBounded(t *testing.T) {
	local := settings()
	local.Local = true
	for name, cfg := range map[string]partition.Config{"object": settings(), "local": local} {
		t.Run(name, func(t *testing.T) {
			w := newWindow()
			play(t, w, lead(w, cfg), `
				produce n=1048570 acks=1  → a at 0
				produce n=7               → tail-full
				produce n=6 acks=0        → c at 1048570
				produce acks=0            → tail-full
				commit 1                  → hw 1048570; told a
				produce n=1048570 acks=0  → e at 1048576
				produce acks=0            → tail-full
			`)
		})
	}
	cfg := settings()
	cfg.Local, cfg.MaxUnflushedRecords, cfg.MaxUnflushedBytes, cfg.MaxUnflushedAge = true, 10, 1000, time.Second
	w := newWindow()
	play(t, w, lead(w, cfg), `
		produce n=5           → a at 0
		produce n=6           → tail-full
		produce n=5           → c at 5
		produce               → tail-full
		commit                → hw 10; told a c
		produce n=3           → e at 10
		produce size=900      → tail-full
		wait 1001             →
		produce               → tail-full              # the oldest waits for longer than it may
		commit                → hw 13; told e
		produce n=50          → h at 13                # one batch is always taken
	`)
}
