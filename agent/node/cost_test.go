package node

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/localstack/pgserver/pgtest"
	"varve.dev/metadata"
	"varve.dev/metadata/postgres"
	"varve.dev/objectstore"
	"varve.dev/tiering/batch"
)

var (
	update = flag.Bool("update", false, "write the golden files of testdata/cost instead of comparing with them")
	server pgtest.Shared
)

func TestMain(m *testing.M) {
	code := m.Run()
	if err := server.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// Every request that leaves the process costs money or a round trip, so their exact list is a golden file for each thing
// that an agent does: a regression is a diff. Statements are shortened to what they touch; the SQL itself is held by the
// metadata packages.
func TestRequestCost(t *testing.T) {
	if testing.Short() {
		t.Skip("costs are counted at full speed: a window gathers a request for ten milliseconds")
	}
	costs := []struct {
		name string
		run  func(t *testing.T, w *world)
	}{
		{"start fresh", costOfFreshStart},
		{"start after a clean stop", costOfCleanStart},
		{"start after a crash", costOfStartAfterCrash},
		{"produce", costOfProduce},
		{"flush", costOfFlush},
		{"fetch from memory", costOfTailFetch},
		{"fetch from disk", costOfDiskFetch},
		{"fetch from the object store", costOfColdFetch},
		{"replay", costOfReplay},
		{"seal", costOfSeal},
		{"pack", costOfPack},
		{"commit offsets", costOfOffsetCommit},
		{"delete", costOfDelete},
	}
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			for _, c := range costs {
				t.Run(c.name, func(t *testing.T) { c.run(t, newWorld(t, opener(t, engine))) })
			}
		})
	}
}

// opener opens a new database of an engine; nil is the default.
func opener(t *testing.T, engine string) func(trace func(string)) (metadata.Store, error) {
	if engine == "sqlite" {
		return nil
	}
	url := server.Database(t)
	return func(trace func(string)) (metadata.Store, error) {
		return postgres.Open(t.Context(), url, postgres.Config{AllowFsyncOff: true, Trace: trace})
	}
}

// golden holds lines to a file under testdata/cost that is named like the subtest.
func golden(t *testing.T, lines []string) {
	t.Helper()
	parts := strings.Split(t.Name(), "/")
	path := filepath.Join(append([]string{"testdata", "cost"}, parts[1:]...)...) + ".txt"
	text := strings.Join(shorten(lines), "\n") + "\n"
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), text); diff != "" {
		t.Errorf("requests differ from %s (go test -update writes it anew):\n%s", path, diff)
	}
}

// shorten makes statements readable and counts repetitions.
func shorten(lines []string) (out []string) {
	count := 0
	flush := func() {
		if count > 1 {
			out[len(out)-1] += fmt.Sprintf(" × %d", count)
		}
		count = 0
	}
	for _, line := range lines {
		if sql, ok := strings.CutPrefix(line, "sql "); ok {
			line = "sql " + touches(sql)
		}
		if len(out) > 0 && count > 0 && out[len(out)-1] == line {
			count++
			continue
		}
		flush()
		out, count = append(out, line), 1
	}
	flush()
	return out
}

var named = regexp.MustCompile(`(INSERT INTO|UPDATE|DELETE FROM|FROM|JOIN) ([a-z_]+)\b`)

// tables tells them from what a statement names itself.
var tables = []string{"cluster", "sessions", "topics", "partitions", "objects", "segments", "uploads", "tombstones", "counters", "configs",
	"leases", "groups", "group_offsets", "lost_ranges"}

// touches is a statement without all but its tables.
func touches(sql string) string {
	var parts []string
	for _, m := range named.FindAllStringSubmatch(sql, -1) {
		verb, table := strings.Fields(m[1])[0], m[2]
		if verb == "FROM" || verb == "JOIN" {
			verb = "select"
		}
		part := strings.ToLower(verb) + " " + table
		if slices.Contains(tables, table) && !slices.Contains(parts, part) {
			parts = append(parts, part)
		}
	}
	if len(parts) == 0 {
		return strings.ToLower(sql)
	}
	return strings.Join(parts, ", ")
}

// counted is how many lines begin with a word.
func counted(lines []string, word string) (n int) {
	for _, l := range lines {
		if strings.HasPrefix(l, word) {
			n++
		}
	}
	return n
}

func costOfFreshStart(t *testing.T, w *world) {
	w.ledger.take() // migrations
	w.start()
	golden(t, w.ledger.take())
}

func costOfCleanStart(t *testing.T, w *world) {
	l := w.start()
	l.create("a", 3)
	l.dial().append(-1, "a", 0, records(options{}, "x"))
	w.ledger.take()
	l.stop()
	lines := append([]string{"stop"}, w.ledger.take()...)
	w.start()
	golden(t, slices.Concat(lines, []string{"", "start"}, w.ledger.take()))
}

func costOfStartAfterCrash(t *testing.T, w *world) {
	l := w.start()
	l.create("a", 3)
	c := l.dial()
	c.append(-1, "a", 0, records(options{}, "in the object store"))
	heal := w.breakStore(objectstore.KindPut)
	c.append(1, "a", 1, records(options{}, "in the journal"))
	l.crash()
	heal()
	w.ledger.take()
	l = w.start()
	golden(t, w.ledger.take())
	if got := l.dial().read("a", 1, 0); len(got) != 1 {
		t.Errorf("got %d batches of the tail, want 1", len(got))
	}
}

func costOfProduce(t *testing.T, w *world) {
	l := w.start()
	l.create("a", 1)
	c := l.dial()
	var lines []string
	for _, acks := range []int16{-1, 1, 0} {
		w.ledger.take()
		if acks == 0 {
			c.send(produceVersion, produceRequest(0, put{"a", 0, records(options{}, "x")}))
			l.wait("the record", func() bool { return c.offset("a", 0, -1).Offset == 3 })
		} else {
			c.append(acks, "a", 0, records(options{}, "x"))
		}
		l.idle()
		lines = append(append(lines, fmt.Sprintf("acks=%d", acks)), w.ledger.take()...)
	}
	golden(t, lines)
}

// One flush costs one PUT and one statement, whatever the number of partitions.
func costOfFlush(t *testing.T, w *world) {
	l := w.start("num.partitions=1000")
	l.create("a", 1000)
	size := regexp.MustCompile(` \d+$`)
	var first []string
	for _, n := range []int32{1, 1000} {
		var puts []put
		for p := range n {
			puts = append(puts, put{"a", p, records(options{}, "x")})
		}
		w.ledger.take()
		c := l.dial()
		for _, p := range ask[*kmsg.ProduceResponse](c, produceVersion, produceRequest(-1, puts...)).Topics[0].Partitions {
			wantCode(t, "produce", p.ErrorCode, nil)
		}
		lines := w.ledger.take()
		for i := range lines {
			lines[i] = size.ReplaceAllString(lines[i], "")
			lines[i] = regexp.MustCompile(`\d+\.0`).ReplaceAllString(lines[i], "n.0")
		}
		if first == nil {
			first = lines
		} else if diff := cmp.Diff(first, lines); diff != "" {
			t.Errorf("%d partitions cost other requests than 1:\n%s", n, diff)
		}
	}
	golden(t, first)
}

func costOfTailFetch(t *testing.T, w *world) {
	l := w.start()
	l.create("a", 1)
	c := l.dial()
	c.append(-1, "a", 0, records(options{}, "x"))
	w.ledger.take()
	wantBatches(t, c.fetch("a", 0, 0, 1<<20), 1)
	golden(t, w.ledger.take())
}

func wantBatches(t testing.TB, p kmsg.FetchResponseTopicPartition, want int) {
	t.Helper()
	n := 0
	for rest := p.RecordBatches; len(rest) > 0; n++ {
		_, after, err := batch.Parse(rest)
		if err != nil {
			t.Fatal(err)
		}
		rest = after
	}
	if p.ErrorCode != 0 || n != want {
		t.Errorf("fetch: got error %d and %d batches, want %d", p.ErrorCode, n, want)
	}
}

// What was sealed here is one look into the index and no request for bytes.
func costOfDiskFetch(t *testing.T, w *world) {
	l := w.start()
	l.create("a", 1, "segment.ms", "1")
	c := l.dial()
	for i := range 3 {
		c.append(-1, "a", 0, filler(100<<10, uint64(i)))
	}
	l.seal()
	w.ledger.take()
	wantBatches(t, c.fetch("a", 0, 0, 1<<20), 3)
	lines := append([]string{"first"}, w.ledger.take()...)
	wantBatches(t, c.fetch("a", 0, 0, 1<<20), 3)
	golden(t, slices.Concat(lines, []string{"", "second"}, w.ledger.take()))
}

// Without any local state a cold fetch costs one look into the index, one GET for the directory and one for each 4 MiB;
// whoever comes next costs nothing.
func costOfColdFetch(t *testing.T, w *world) {
	l := w.start()
	l.create("a", 1, "segment.ms", "1")
	c := l.dial()
	for i := range 6 {
		c.append(-1, "a", 0, filler(1000<<10, uint64(i)))
	}
	l.seal()
	c.append(-1, "a", 0, records(options{}, "the newest segment, whose directory a start reads"))
	l.seal()
	l.stop()
	w.ledger.take()
	l = w.start("fetch.readahead.bytes=0")
	lines := []string{"start"}
	for _, line := range w.ledger.take() {
		if strings.Contains(line, "seg/") {
			lines = append(lines, line)
		}
	}
	l.evictAll()
	c = l.dial()
	wantBatches(t, c.fetch("a", 0, 0, 1<<20), 1)
	lines = append(append(lines, "", "first MiB"), w.ledger.take()...)
	wantBatches(t, c.fetch("a", 0, 0, 8<<20), 7)
	lines = append(append(lines, "", "all"), w.ledger.take()...)
	wantBatches(t, l.dial().fetch("a", 0, 0, 8<<20), 7)
	golden(t, slices.Concat(lines, []string{"", "another reader"}, w.ledger.take()))
}

// A replay of history costs one GET for each 4 MiB, one for each object's directory, and hardly anything else.
func costOfReplay(t *testing.T, w *world) {
	const mib = 24
	l := w.start("seal.object.bytes=8388608", "flush.bytes=2097152")
	l.create("a", 1, "segment.ms", "1")
	c := l.dial()
	var sent [][]byte
	for i := range mib {
		b := filler(1<<20-1000, uint64(i))
		sent = append(sent, b)
		c.append(-1, "a", 0, b)
	}
	l.seal()
	l.stop()
	l = w.start()
	l.evictAll()
	w.ledger.take()
	wantSame(t, l.dial().read("a", 0, 0), sent...)
	lines := w.ledger.take()
	objects := 0
	for _, k := range w.keys() {
		if strings.HasPrefix(k, "seg/") {
			objects++
		}
	}
	bytes := 0
	for _, b := range sent {
		bytes += len(b)
	}
	if most := 1.1*float64(bytes)/(4<<20) + float64(2*objects); float64(counted(lines, "get")) > most {
		t.Errorf("%d bytes in %d objects cost %d GETs, want at most %.1f:\n%s", bytes, objects, counted(lines, "get"), most, strings.Join(lines, "\n"))
	}
	if got := counted(lines, "list") + counted(lines, "head") + counted(lines, "put"); got > 0 {
		t.Errorf("a replay lists, heads or puts:\n%s", strings.Join(lines, "\n"))
	}
	golden(t, slices.DeleteFunc(lines, func(l string) bool { return !strings.HasPrefix(l, "sql") }))
}

func costOfSeal(t *testing.T, w *world) {
	l := w.start()
	l.create("a", 3, "segment.ms", "1")
	c := l.dial()
	for i := range int32(6) {
		c.append(-1, "a", i%3, records(options{}, "x"))
	}
	w.ledger.take()
	l.seal()
	golden(t, w.ledger.take())
}

func costOfPack(t *testing.T, w *world) {
	l := w.start()
	l.create("a", 3)
	c := l.dial()
	for i := range int32(6) {
		c.append(-1, "a", i%3, records(options{}, "x"))
	}
	w.ledger.take()
	l.seal()
	golden(t, w.ledger.take())
}

func offsetCommit(group, topic string, partition int32, offset int64) *kmsg.OffsetCommitRequest {
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group, req.Generation = group, -1
	t := kmsg.NewOffsetCommitRequestTopic()
	t.Topic = topic
	p := kmsg.NewOffsetCommitRequestTopicPartition()
	p.Partition, p.Offset, p.LeaderEpoch = partition, offset, -1
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	return req
}

func costOfOffsetCommit(t *testing.T, w *world) {
	l := w.start()
	l.create("a", 3)
	c := l.dial()
	commit := func(offset int64) {
		got := ask[*kmsg.OffsetCommitResponse](c, 8, offsetCommit("g", "a", 0, offset))
		wantCode(t, "commit", got.Topics[0].Partitions[0].ErrorCode, nil)
	}
	w.ledger.take()
	commit(1)
	lines := append([]string{"first of a group"}, w.ledger.take()...)
	commit(2)
	golden(t, slices.Concat(lines, []string{"", "second"}, w.ledger.take()))
}

func costOfDelete(t *testing.T, w *world) {
	l := w.start("catalog.poll.ms=10", "gc.grace.ms=20")
	l.create("a", 1, "segment.ms", "1")
	l.dial().append(-1, "a", 0, records(options{}, "x"))
	l.seal()
	w.ledger.take()
	req := kmsg.NewPtrDeleteTopicsRequest()
	topic := kmsg.NewDeleteTopicsRequestTopic()
	topic.Topic = kmsg.StringPtr("a")
	req.Topics, req.TimeoutMillis = append(req.Topics, topic), 1000
	wantCode(t, "delete", ask[*kmsg.DeleteTopicsResponse](l.dial(), 6, req).Topics[0].ErrorCode, nil)
	l.collect()
	if keys := w.held(); len(keys) > 0 {
		t.Errorf("left in the bucket: %v", keys)
	}
	var deleted []string // in one request, or in one for each turn that found some
	for _, line := range w.ledger.take() {
		switch fields := strings.Fields(line); fields[0] {
		case "sql":
		case "delete":
			deleted = append(deleted, fields[2:]...)
		default:
			t.Errorf("got request %q", line)
		}
	}
	slices.Sort(deleted)
	golden(t, deleted)
}

// An agent that nobody talks to beats, and looks whether others have changed the catalog. It asks nothing of the bucket.
func TestIdleAgentOnlyBeats(t *testing.T) {
	t.Run("idle for a minute", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, nil)
			w.listen = func(context.Context, string, string) (net.Listener, error) { return newPipes(), nil }
			l := w.start("session.beat.ms=1000", "session.ttl.ms=6000", "catalog.poll.ms=1000", "seal.check.interval.ms=1000",
				"gc.interval.ms=60000", "log.retention.check.interval.ms=300000")
			synctest.Wait()
			w.ledger.take()
			time.Sleep(time.Minute - time.Millisecond)
			synctest.Wait()
			lines := w.ledger.take()
			slices.Sort(lines)
			l.stop()
			golden(t, lines)
		})
	})
}
