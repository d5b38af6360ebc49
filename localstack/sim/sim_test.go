package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"varve.dev/tiering/archive"
)

// quick is how many schedules run where nobody asks for more.
const quick = 6

func number(t *testing.T, name string, otherwise uint64) uint64 {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// sometimes is what must have happened at least once in a long run, or the run has tested less than it says.
var sometimes = []string{"tail recovered", "torn tail cut", "un-synced bytes at a power cut", "unknown commit: it was done", "unknown commit: it was not",
	"killed mid-upload", "dedupe hit after a restart", "orphan collected", "tail set aside", "life fenced", "commit fenced", "late statement fenced",
	"late statement refused", "PUT came late", "body cut", "bad bytes found", "local copy damaged", "connection cut", "fsync failed", "disk full"}

// never is what no fault explains.
var never = []string{"handler panicked", "hole in the index", "journal quarantined", "foreign object at our key", "life ended without a word"}

// enough is how many schedules make a long run.
const enough = 100

func TestSchedules(t *testing.T) {
	n, first := number(t, "VARVE_SIM", quick), uint64(1)
	if testing.Short() {
		n = min(n, 2)
	}
	if os.Getenv("VARVE_SIM_SEED") != "" {
		n, first = 1, number(t, "VARVE_SIM_SEED", 1)
	}
	first = number(t, "VARVE_SIM_FROM", first)
	var mu sync.Mutex
	counts := map[string]int{}
	began := time.Now()
	t.Run("seed", func(t *testing.T) {
		for seed := first; seed < first+n; seed++ {
			t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
				t.Parallel()
				got := schedule(t, seed)
				mu.Lock()
				defer mu.Unlock()
				for what, times := range got {
					counts[what] += times
				}
			})
		}
	})
	var lines []string
	for _, what := range slices.Sorted(maps.Keys(counts)) {
		lines = append(lines, fmt.Sprintf("%7d %s", counts[what], what))
	}
	t.Logf("%d schedules in %s\n%s", n, time.Since(began).Round(time.Millisecond), strings.Join(lines, "\n"))
	for _, what := range sometimes {
		if n >= enough && counts[what] == 0 {
			t.Errorf("in %d schedules this never happened: %s", n, what)
		}
	}
}

// stuck is how long no schedule takes on the slowest machine; most take a second or two.
const stuck = 3 * time.Minute

// schedule runs one and answers what was counted.
func schedule(t *testing.T, seed uint64) map[string]int {
	p := newPlan(seed)
	var w *world
	defer func() {
		if t.Failed() && w != nil {
			w.report(t)
		}
	}()
	// Virtual time stands still while anything is busy: a loop without an end would be seen by nobody.
	watchdog := time.AfterFunc(stuck, func() {
		fmt.Fprintf(os.Stderr, "seed %d is stuck after %s\n%s", seed, stuck, p)
		if w != nil {
			w.keep(os.Stderr)
		}
		panic("a schedule is stuck") // nothing else ends it
	})
	defer watchdog.Stop()
	synctest.Test(t, func(t *testing.T) {
		p.begin()
		w = newWorld(t, p)
		w.run()
	})
	return p.counted()
}

// report says how to run a schedule again, and what happened in it.
func (w *world) report(t *testing.T) {
	t.Errorf("seed %d fails; again: VARVE_SIM_SEED=%d go test ./localstack/sim -run TestSchedules", w.plan.seed, w.plan.seed)
	w.keep(t.Output())
}

// keep writes the log and the history to the folder that VARVE_SIM_OUT names.
func (w *world) keep(out io.Writer) {
	dir := os.Getenv("VARVE_SIM_OUT")
	if dir == "" {
		fmt.Fprintf(out, "VARVE_SIM_OUT=DIR keeps its log and its history\n%s", w.plan)
		return
	}
	path := filepath.Join(dir, fmt.Sprintf("seed-%d", w.plan.seed))
	err := os.WriteFile(path+".log", []byte(w.plan.String()+w.log.String()+"\n"), 0o600)
	if w.load != nil {
		err = errors.Join(err, w.load.rec.Save(path+".json"))
	}
	fmt.Fprintf(out, "log and history: %s.log and .json %v\n", path, err)
}

func (w *world) run() {
	t := w.t
	load, err := newLoad(w)
	if err != nil {
		t.Fatal(err)
	}
	w.load = load
	// A bubble's test context would end with it; clients and agent are ended by hand.
	ctx, cancel := context.WithTimeout(context.Background(), 3*length)
	defer cancel()
	living, stop := context.WithCancel(ctx)
	n := &nemesis{w: w, rng: w.plan.rng("nemesis")}
	var wg sync.WaitGroup
	wg.Go(func() { n.run(living) })
	w.play(ctx)
	stop()
	wg.Wait()
	w.settle(ctx)
	load.close()
	w.ended.Wait()
	w.pending.Wait()
	if err := w.meta.Close(); err != nil {
		t.Error(err)
	}
	counts := w.plan.counted()
	for _, what := range never {
		if counts[what] > 0 {
			w.fail("%s", what)
		}
	}
	for _, err := range w.failed {
		t.Error(err)
	}
}

// play is the schedule: work under faults, then without, then nobody works, and everything is read back.
func (w *world) play(ctx context.Context) {
	l := w.load
	if err := l.begin(ctx); err != nil {
		w.fail("%w", err)
		return
	}
	working, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { l.work(ctx, working) })
	sleep(ctx, healed-w.plan.now())
	w.log.note("everything is healed")
	w.plan.heal()
	l.accepts(ctx, l.all())
	sleep(ctx, rest-w.plan.now())
	stop()
	wg.Wait()
	w.log.note("nobody works any more")
	topics := l.all()
	l.mu.Lock()
	for _, t := range l.live {
		topics = append(topics, t)
	}
	l.mu.Unlock()
	sleep(ctx, 2*time.Second) // acks=1 is answered before the high watermark moves
	l.scan(ctx, topics)
	l.fetched(ctx, "clerk", l.object)
	l.fetched(ctx, members, l.object, l.local)
	for i, a := range l.rec.Check() {
		if i == 10 {
			break
		}
		w.fail("%s", a)
	}
	w.collected(ctx)
}

// collected waits until no garbage is left: orphans and superseded objects go when their time has come.
func (w *world) collected(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	for {
		inv, err := w.meta.Referenced(context.Background())
		if err == nil && len(inv.Tombstones) == 0 {
			return
		}
		if !sleep(ctx, time.Second) {
			w.fail("garbage is left after a minute without work: %d tombstones, %v", len(inv.Tombstones), err)
			return
		}
	}
}

// settle proves, once the last life has ended, that index and bucket agree to the last byte.
func (w *world) settle(context.Context) {
	w.pending.Wait()
	report, err := archive.Verify(context.Background(), w.objects, w.meta, archive.Options{Whole: true})
	if err != nil {
		w.fail("%w", err)
		return
	}
	for i, p := range report.Problems {
		if i < 10 {
			w.fail("index and bucket: %w", p)
		}
	}
}

// life is the number of the newest one.
func (w *world) life() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lives
}
