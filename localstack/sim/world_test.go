package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"varve.dev/agent/config"
	"varve.dev/agent/node"
	"varve.dev/metadata"
	"varve.dev/metadata/sqlite"
	"varve.dev/objectstore/memory"
	"varve.dev/tiering/journal/journaltest"
)

// machine is a disk and a folder: what a life leaves behind.
type machine struct {
	name string
	disk *journaltest.Disk
	dir  string // of the next life
}

// world is everything outside of the agent, and the agent's lives in it.
type world struct {
	t       *testing.T
	plan    *plan
	scratch string
	meta    metadata.Store // without faults
	objects *memory.Store  // without faults
	network *network
	log     *eventLog
	lie     string // of this world, if it tells one

	trimming atomic.Bool // a DeleteRecords is on its way

	own     *machine
	lives   int
	current *life

	mu      sync.Mutex
	commits map[string]bool // keys that a commit has named
	newest  newest
	uploads int // PUTs of WAL objects on their way
	offsets *ledger
	pending sync.WaitGroup // what is done later
	ended   sync.WaitGroup // lives
	failed  []error
	load    *load
}

func newWorld(t *testing.T, p *plan) *world {
	w := &world{t: t, plan: p, scratch: scratch(t), objects: memory.New(), network: newNetwork(p), log: newEventLog(p), lie: os.Getenv(lieName),
		commits: map[string]bool{}, offsets: newLedger()}
	meta, err := sqlite.Open(t.Context(), filepath.Join(w.scratch, "metadata.db"), sqlite.Config{})
	if err != nil {
		t.Fatal(err)
	}
	w.meta = meta
	w.own = w.machine("own")
	return w
}

// scratch is a folder in memory where there is one: nothing in it outlives the test, and an fsync costs nothing.
func scratch(t *testing.T) string {
	if dir := os.Getenv(scratchName); dir != "" {
		dir, err := os.MkdirTemp(dir, "")
		if err != nil {
			t.Fatal(err)
		}
		return dir
	}
	const shm = "/dev/shm"
	if _, err := os.Stat(shm); err != nil {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp(shm, "varve-sim-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func (w *world) machine(name string) *machine {
	m := &machine{name: name, disk: journaltest.New(), dir: filepath.Join(w.scratch, name)}
	w.breaking(m.disk)
	return m
}

// fail notes what no fault excuses.
func (w *world) fail(format string, args ...any) {
	err := fmt.Errorf(format, args...)
	w.log.note("FAILURE: %v", err)
	w.plan.verdict(err)
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.failed) < 20 {
		w.failed = append(w.failed, err)
	}
}

// takeOver: another journal leads from here on.
func (w *world) takeOver() { w.load.rec.TakeOver() }

// committed remembers keys that a commit has named.
func (w *world) committed(c metadata.Commit) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, o := range c.Objects {
		w.commits[o.Object.Key] = true
	}
}

func (w *world) uploading(key string, n int) {
	if strings.HasPrefix(key, "wal/") {
		w.mu.Lock()
		w.uploads += n
		w.mu.Unlock()
	}
}

// later does something after a while, whatever becomes of the life that asked for it.
func (w *world) later(after time.Duration, f func()) {
	w.pending.Add(1)
	time.AfterFunc(after, func() {
		defer w.pending.Done()
		f()
	})
}

// trips ends a life behind one of its requests.
type trips struct {
	mu   sync.Mutex
	step string
	trip func(step string)
}

func (t *trips) arm(step string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.step = step
}

func (t *trips) behind(what string) {
	t.mu.Lock()
	hit := t.step != "" && strings.HasPrefix(what, t.step)
	step := t.step
	if hit {
		t.step = ""
	}
	t.mu.Unlock()
	if hit {
		t.trip(step)
	}
}

// life is one process.
type life struct {
	n       int
	on      *machine
	gate    *gate
	trips   *trips
	objects *bucket
	drain   context.CancelFunc
	kill    context.CancelFunc
	ready   chan struct{}
	ended   chan struct{}
	err     error // after ended
	reaped  bool
	tripped event // of midway, if that comes
}

func (l *life) isReady() bool {
	select {
	case <-l.ready:
		return true
	default:
		return false
	}
}

// settings are those of every life; the plan's mood comes on top.
func settings(dir string) []string {
	return []string{"data.dir=" + dir, "listeners=PLAINTEXT://127.0.0.1:9092", "http.listen=127.0.0.1:8092", "store.url=memory:",
		"journal.file.bytes=1048576", "session.beat.ms=500", "session.ttl.ms=3000", "catalog.poll.ms=500",
		"seal.check.interval.ms=500", "gc.interval.ms=2000", "gc.grace.ms=8000", "gc.orphan.grace.ms=15000",
		"log.retention.check.interval.ms=2000", "group.initial.rebalance.delay.ms=0", "group.min.session.timeout.ms=1000",
		"auto.create.topics.enable=false", "shutdown.timeout.ms=5000", "cluster.shards=4", "log.level=info"}
}

// start begins a life on a machine.
func (w *world) start(on *machine) *life {
	w.mu.Lock()
	w.lives++
	n := w.lives
	w.mu.Unlock()
	l := &life{n: n, on: on, gate: newGate(), ready: make(chan struct{}), ended: make(chan struct{})}
	l.trips = &trips{trip: func(step string) {
		w.plan.count("ended behind " + step)
		l.gate.trip()
	}}
	l.objects = &bucket{next: w.objects, w: w, gate: l.gate, trips: l.trips}
	seen := &witness{Store: w.meta, w: w, gate: l.gate, did: map[string]int{}}
	database := newDatabase(w, l.gate, l.trips)
	database.next = seen
	cfg, err := config.Load(nil, nil, append(settings(on.dir), w.plan.mood...))
	if err != nil {
		w.t.Fatal(err)
	}
	alive, kill := context.WithCancel(context.Background())
	ctx, drain := context.WithCancel(alive)
	l.kill, l.drain = kill, drain
	out := node.Outside{
		Metadata: &asker{database, seen},
		Objects:  l.objects,
		Disk:     &disk{on.disk, on.dir, w, l.gate, l.trips},
		Listen:   w.network.listen(l.gate),
		Life:     alive,
	}
	w.ended.Go(func() {
		defer close(l.ended)
		defer kill()
		l.err = node.RunIn(ctx, out, cfg, announce{l.ready}, w.log.of(l.n))
	})
	w.current = l
	w.log.note("life %d starts on the %s disk", l.n, on.name)
	return l
}

// announce is closed by the line that says that the agent is ready.
type announce struct{ ready chan struct{} }

func (a announce) Write(p []byte) (int, error) {
	close(a.ready)
	return len(p), nil
}

// reap ends a life as the end of its process, or of its machine, would, and leaves its folder to the next one under another
// name: what goroutines of the dead still do to files finds nothing.
func (w *world) reap(l *life, hard bool, rng *rand.Rand) {
	if l.reaped {
		return
	}
	l.reaped = true
	w.mu.Lock()
	if w.uploads > 0 && !l.gate.isDead() {
		w.plan.counts["killed mid-upload"]++
	}
	w.mu.Unlock()
	l.gate.trip()
	l.gate.settle()
	if unsynced := l.on.disk.Unsynced(); unsynced > 0 && hard {
		w.plan.count("un-synced bytes at a power cut")
	}
	if hard {
		l.on.disk.Crash(rng)
	} else {
		l.on.disk.CrashAfter(l.on.disk.Unsynced())
	}
	w.network.cut(l.gate)
	l.kill()
	next := filepath.Join(w.scratch, fmt.Sprintf("%s-%d", l.on.name, l.n))
	if err := os.Rename(l.on.dir, next); err != nil && !errors.Is(err, os.ErrNotExist) {
		w.t.Error(err)
	}
	l.on.dir = next
	w.log.note("life %d is dead, hard %v", l.n, hard)
}

// rotten cuts or changes local copies of objects.
func (w *world) rotten(m *machine, rng *rand.Rand) {
	files, err := filepath.Glob(filepath.Join(m.dir, "cache", "*"))
	if err != nil {
		w.t.Error(err)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil || len(data) == 0 || rng.IntN(2) == 0 {
			continue
		}
		if at := rng.IntN(len(data)); rng.IntN(2) == 0 {
			data = data[:at]
		} else {
			data[at] ^= 1
		}
		if err := os.WriteFile(name, data, 0o600); err != nil {
			w.t.Error(err)
		}
		w.plan.count("local copy damaged")
	}
}

// eventLog keeps what the agent and the world say, and counts what is worth it.
type eventLog struct {
	plan *plan
	torn chan struct{} // one slot: a recovery has cut a torn tail

	mu    sync.Mutex
	lines []string
}

func newEventLog(p *plan) *eventLog { return &eventLog{plan: p, torn: make(chan struct{}, 1)} }

// maxLines bounds what a failure prints.
const maxLines = 4000

func (e *eventLog) note(format string, args ...any) {
	e.add(fmt.Sprintf("%7.3f ", e.plan.now().Seconds()) + fmt.Sprintf(format, args...))
}

func (e *eventLog) add(line string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.lines = append(e.lines, line); len(e.lines) > 2*maxLines {
		e.lines = append([]string(nil), e.lines[maxLines:]...)
	}
}

func (e *eventLog) String() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return strings.Join(e.lines, "\n")
}

func (e *eventLog) of(life int) *lifeLog { return &lifeLog{e, life} }

type lifeLog struct {
	*eventLog
	life int
}

func (l *lifeLog) Write(p []byte) (int, error) {
	line := strings.TrimSpace(string(p))
	if _, rest, ok := strings.Cut(line, " "); ok && strings.HasPrefix(line, "time=") {
		line = rest
	}
	l.note("%d: %s", l.life, line)
	for part, what := range map[string]string{"set aside": "tail set aside", "quarantine=": "journal quarantined", "handler panicked": "handler panicked",
		"cache found bad bytes": "bad bytes found", "a foreign object holds our key": "foreign object at our key", "hole": "hole in the index",
		"waits for the journal that holds its acknowledged tail": "a partition waited for its journal"} {
		if strings.Contains(line, part) && !strings.Contains(line, "quarantined=[]") {
			l.plan.count(what)
		}
	}
	if strings.Contains(line, "msg=\"journal recovered\"") {
		if !strings.Contains(line, " frames=0 ") {
			l.plan.count("tail recovered")
		}
		if !strings.Contains(line, " torn=0 ") {
			l.plan.count("torn tail cut")
			select {
			case l.torn <- struct{}{}:
			default: // the nemesis knows of one already
			}
		}
	}
	return len(p), nil
}
