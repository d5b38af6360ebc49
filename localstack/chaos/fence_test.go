package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"varve.dev/localstack/pgserver/pgtest"
)

// refused starts a process that must end by itself, in order, with a sentence that holds the words.
func refused(t *testing.T, w *world, words ...string) {
	t.Helper()
	p, err := w.start()
	if err == nil {
		p.kill()
		t.Fatalf("the agent started, want a refusal with %q", words)
	}
	sentence(t, p, words...)
}

// sentence holds the last line of a process that has ended to what a person needs.
func sentence(t *testing.T, p *process, words ...string) {
	t.Helper()
	var exit *exec.ExitError
	if !errors.As(p.err, &exit) || exit.ExitCode() != 1 && exit.ExitCode() != 2 {
		t.Errorf("the process ended with %v, want exit code 1 or 2", p.err)
	}
	log := strings.TrimSpace(p.log.String())
	if strings.Contains(log, "goroutine ") {
		t.Fatalf("the process panicked:\n%s", log)
	}
	for _, word := range words {
		if !p.log.has("varve: ", word) {
			t.Errorf("no line that begins with «varve:» says %q:\n%s", word, log)
		}
	}
}

func TestASecondProcessOnOneSQLiteFileIsRefused(t *testing.T) {
	w := embedded(t, build(t))
	w.mustStart(t)
	f := newFew(t, w.kafka)
	orders := f.topic("orders", 1, nil)
	f.send(orders, 0, -1, 10)
	other := w.with("data.dir=" + t.TempDir())
	other.kafka = freeAddress(t)
	refused(t, other, "metadata.db is held by another process")
	f.send(orders, 0, -1, 10)
	f.check(orders)
}

func TestASecondProcessInOneFolderIsRefused(t *testing.T) {
	w := embedded(t, build(t))
	w.mustStart(t)
	f := newFew(t, w.kafka)
	orders := f.topic("orders", 1, nil)
	f.send(orders, 0, -1, 10)
	other := w.with("metadata.url=sqlite:" + filepath.Join(t.TempDir(), "metadata.db"))
	other.kafka = freeAddress(t)
	refused(t, other, "another process")
	f.send(orders, 0, -1, 10)
	f.check(orders)
}

// TestASecondProcessFencesTheFirst: same agent.id, same stores, another disk.
func TestASecondProcessFencesTheFirst(t *testing.T) {
	var pg pgtest.Shared
	t.Cleanup(func() {
		if err := pg.Stop(); err != nil {
			t.Error(err)
		}
	})
	database := pg.Database(t)
	t.Setenv("VARVE_TEST_FSYNC_OFF", "1")
	first := embedded(t, build(t)).with("metadata.url=" + database)
	a := first.mustStart(t)
	f := newFew(t, first.kafka)
	object, local := f.topic("object", 1, nil), f.topic("local", 1, map[string]string{"varve.durability": "local"})
	for range 20 {
		f.send(object, 0, -1, 5)
		f.send(local, 0, -1, 5)
	}
	second := first.with("data.dir=" + t.TempDir())
	second.kafka = freeAddress(t)
	b := second.mustStart(t)
	f.rec.TakeOver()
	acknowledged := 0
	for {
		if refused, err := f.via(f.raw, object, 0, -1, 1); err != nil {
			break // it is gone
		} else if refused == nil {
			acknowledged++
		}
	}
	if acknowledged > 0 {
		t.Errorf("the first process acknowledged %d batches after the second was ready", acknowledged)
	}
	if err := a.wait(); err == nil {
		t.Errorf("the first process ended with exit code 0")
	}
	sentence(t, a, "another process has started as agent 1", "acknowledges nothing more")

	// The second leads what is not tied to the first one's disk.
	f.reach(second.kafka)
	f.send(object, 0, -1, 5)
	f.check(object)
	if refused, err := f.via(f.raw, local, 0, -1, 1); err != nil || refused != kerr.NotLeaderForPartition {
		t.Errorf("a local partition whose journal is away answers %v, %v, want %v", refused, err, kerr.NotLeaderForPartition)
	}
	b.says(t, "waits for the journal", "topic=local")

	// The first one's disk comes back.
	a = first.mustStart(t)
	if err := b.wait(); err == nil {
		t.Errorf("the second process ended with exit code 0")
	}
	sentence(t, b, "another process has started as agent 1")
	f.reach(first.kafka)
	f.send(local, 0, -1, 5)
	f.send(object, 0, -1, 5)
	f.check(object, local)
	if err := a.stop(); err != nil {
		t.Errorf("the agent ended with %v after SIGTERM", err)
	}
}

// slowFlush keeps what a `local` topic acknowledges in the journal alone.
const slowFlush = "flush.interval.ms=3600000"

// TestAnEmptyDiskUnderAnOldName: what the lost disk alone held is waited for, and given up only on demand.
func TestAnEmptyDiskUnderAnOldName(t *testing.T) {
	w := embedded(t, build(t))
	dir := w.get("data.dir")
	a := w.mustStart(t)
	f := newFew(t, w.kafka)
	object, local := f.topic("object", 1, nil), f.topic("local", 1, map[string]string{"varve.durability": "local"})
	f.send(object, 0, -1, 10)
	f.send(local, 0, -1, 10)
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	a = w.with(slowFlush).mustStart(t)
	f.reach(w.kafka)
	const tail = 7
	f.send(local, 0, -1, tail)
	a.kill()

	away := dir + ".away"
	move := func(from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	move(dir, away)
	a = w.mustStart(t)
	f.reach(w.kafka)
	waits := func(stage string) {
		t.Helper()
		if refused, err := f.via(f.raw, local, 0, -1, 1); err != nil || refused != kerr.NotLeaderForPartition {
			t.Errorf("%s: produce answers %v, %v, want %v", stage, refused, err, kerr.NotLeaderForPartition)
		}
		if _, _, err := f.fetch(local, 0, 0); err != kerr.NotLeaderForPartition {
			t.Errorf("%s: fetch answers %v, want %v", stage, err, kerr.NotLeaderForPartition)
		}
		f.send(object, 0, -1, 1)
	}
	waits("with an empty disk")
	a.kill()
	a = w.mustStart(t)
	f.reach(w.kafka)
	waits("with an empty disk, once more")
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}

	// The disk comes back: so does the tail.
	move(dir, dir+".empty")
	move(away, dir)
	a = w.mustStart(t)
	f.reach(w.kafka)
	f.send(local, 0, -1, 1)
	f.check(object, local)
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}

	// Now it is given up.
	a = w.with(slowFlush).mustStart(t)
	f.reach(w.kafka)
	f.send(local, 0, -1, tail)
	_, end, _ := f.bounds(local, 0)
	a.kill()
	move(dir, away)
	a = w.mustStart(t)
	f.reach(w.kafka)
	waits("once more")
	if out, err := w.cli(t, "topic", "elect", "local"); err == nil || !strings.Contains(out, "waits for the journal") {
		t.Errorf("a clean election of a partition that waits: %v\n%s", err, out)
	}
	waits("after a clean election")
	if out, err := w.cli(t, "topic", "elect", "local", "--unclean"); err != nil {
		t.Fatalf("an unclean election: %v\n%s", err, out)
	}
	a.says(t, "unclean election", "topic=local", fmt.Sprintf("from=%d", end-tail))
	f.send(local, 0, -1, 3)
	from, to := end-tail, end-tail+1<<20
	if _, got, ok := f.bounds(local, 0); !ok || got != to+3 {
		t.Errorf("the log ends at %d, want %d: behind a gap of %d", got, to+3, 1<<20)
	}
	passGap(t, w, local, from, to, 3)
	a.kill()

	// The old disk comes back too late: its tail is set aside, and what the new disk holds is waited for.
	move(dir, dir+".new")
	move(away, dir)
	a = w.mustStart(t)
	f.reach(w.kafka)
	a.says(t, "set aside", "batches=1")
	waits("with the old disk")
	a.kill()
	aside, err := filepath.Glob(filepath.Join(dir, "set-aside", "*"))
	if err != nil || len(aside) != 1 {
		t.Errorf("set aside are %v (%v), want one file", aside, err)
	}
	move(dir, away)
	move(dir+".new", dir)
	a = w.mustStart(t)
	f.reach(w.kafka)
	passGap(t, w, local, from, to, 3)
	f.check(object)
	if err := a.stop(); err != nil {
		t.Errorf("the agent ended with %v after SIGTERM", err)
	}
}

// passGap reads a log with a gap through real clients: before it from records, behind it n.
func passGap(t *testing.T, w *world, top *topic, from, to int64, n int) {
	t.Helper()
	cl, err := newClient(w.kafka, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{top.name: {0: kgo.NewOffset().AtStart()}}))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var offsets []int64
	for len(offsets) < int(from)+n {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			t.Fatalf("after offsets %v: %v", offsets, err)
		}
		fetches.EachRecord(func(r *kgo.Record) { offsets = append(offsets, r.Offset) })
	}
	var want []int64
	for i := range from {
		want = append(want, i)
	}
	for i := range n {
		want = append(want, to+int64(i))
	}
	if fmt.Sprint(offsets) != fmt.Sprint(want) {
		t.Errorf("franz-go read offsets %v, want %v", offsets, want)
	}
	kcat, err := exec.LookPath("kcat")
	if err != nil {
		t.Log("SKIP the same with kcat: it is not installed")
		return
	}
	out, err := exec.CommandContext(ctx, kcat, "-C", "-q", "-e", "-b", w.kafka, "-t", top.name, "-p", "0", "-o", "beginning", "-f", "%o ").Output()
	if got := "[" + strings.TrimSpace(string(out)) + "]"; err != nil || got != fmt.Sprint(want) {
		t.Errorf("kcat read offsets %s (%v), want %v", got, err, want)
	}
}

// TestSIGTERMUnderLoad: nothing is lost, and nothing is left for the next start.
func TestSIGTERMUnderLoad(t *testing.T) {
	w := embedded(t, build(t))
	a := w.mustStart(t)
	l, err := newLoad(t.Context(), w.kafka, 1, 5)
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	l.agent.Store(a)
	working, stop := context.WithCancel(t.Context())
	defer stop()
	done := make(chan error, 1)
	go func() { done <- l.work(t.Context(), working, 0) }()
	for range 3 {
		pause(t.Context(), 500*time.Millisecond)
		if err := a.stop(); err != nil {
			t.Errorf("the agent ended with %v after SIGTERM, want exit code 0\n%s", err, a.log)
		}
		a = w.mustStart(t)
		l.agent.Store(a)
		a.says(t, "serving", "torn_bytes=0")
		if a.log.has("took back the tail") {
			t.Errorf("an agent that was stopped in order left a tail:\n%s", a.log)
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	l.judge(t.Context(), t, newFew(t, w.kafka).rng, "after SIGTERM")
}

// TestADamagedObject: one flipped bit in the object store costs one extent, loudly, and nothing else.
func TestADamagedObject(t *testing.T) {
	w := embedded(t, build(t))
	a := w.mustStart(t)
	f := newFew(t, w.kafka)
	good, bad := f.topic("good", 1, nil), f.topic("bad", 1, nil)
	sealed := func() []string {
		files, err := filepath.Glob(filepath.Join(strings.TrimPrefix(w.get("store.url"), "file://"), "seg", "*", "*", "*"))
		if err != nil {
			t.Fatal(err)
		}
		return files
	}
	f.send(good, 0, -1, 50)
	eventually(t, "a segment", func() error { return want(a.log.count("msg=sealed"), 1) })
	before := sealed()
	f.send(bad, 0, -1, 50)
	eventually(t, "a second segment", func() error { return want(a.log.count("msg=sealed"), 2) })
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	for _, file := range sealed() {
		if file != before[0] {
			flip(t, file, 300)
		}
	}
	if err := os.RemoveAll(filepath.Join(w.get("data.dir"), "cache")); err != nil {
		t.Fatal(err)
	}
	a = w.mustStart(t)
	f.reach(w.kafka)
	if _, _, err := f.fetch(bad, 0, 0); !kerr.IsRetriable(err) {
		t.Errorf("a fetch of damaged bytes answers %v, want an error that clients retry", err)
	}
	a.says(t, "level=WARN", "seg/")
	f.send(bad, 0, -1, 5)
	if _, end, ok := f.bounds(bad, 0); !ok || end != 55 {
		t.Errorf("the log ends at %d, want 55", end)
	}
	if records, _, err := f.fetch(bad, 0, 50); err != nil || len(records) == 0 {
		t.Errorf("a fetch behind the damage answers %d bytes, %v", len(records), err)
	}
	f.check(good)
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	if out, err := w.verify(t); err == nil || !strings.Contains(out, "seg/") {
		t.Errorf("storage verify found nothing (%v):\n%s", err, out)
	}
}

func want(got, want int) error {
	if got != want {
		return fmt.Errorf("there are %d, want %d", got, want)
	}
	return nil
}

// flip changes one bit of a file.
func flip(t *testing.T, file string, at int64) {
	t.Helper()
	h, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	var b [1]byte
	if _, err := h.ReadAt(b[:], at); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	b[0] ^= 4
	if _, err := h.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
}
