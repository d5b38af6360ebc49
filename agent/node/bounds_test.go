package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"os"
	"path/filepath"
	"runtime/metrics"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/metadata"
	"varve.dev/objectstore"
	"varve.dev/tiering/batch"
)

// virtual is a world whose clients come over pipes, so that all of it runs under virtual time.
func virtual(t *testing.T) (w *world, dial func() *conn) {
	w = newWorld(t, nil)
	var kafka *pipes // of every two that are listened on the first; the other is http's
	listened := 0
	w.listen = func(context.Context, string, string) (net.Listener, error) {
		p := newPipes()
		if listened++; listened%2 == 1 {
			kafka = p
		}
		return p, nil
	}
	return w, func() *conn {
		here, there := net.Pipe()
		kafka.conns <- there
		t.Cleanup(func() { here.Close() })
		return &conn{t: t, Conn: here}
	}
}

// newTopic makes a topic over a raw connection; configs are names and values in turn.
func (c *conn) newTopic(name string, partitions int32, configs ...string) {
	c.t.Helper()
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic, topic.NumPartitions, topic.ReplicationFactor = name, partitions, 1
	for i := 0; i < len(configs); i += 2 {
		set := kmsg.NewCreateTopicsRequestTopicConfig()
		set.Name, set.Value = configs[i], &configs[i+1]
		topic.Configs = append(topic.Configs, set)
	}
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Topics, req.TimeoutMillis = append(req.Topics, topic), int32(patience.Milliseconds())
	wantCode(c.t, "create "+name, ask[*kmsg.CreateTopicsResponse](c, 7, req).Topics[0].ErrorCode, nil)
}

// writeAll wants one batch for each of some partitions to be acknowledged, all in one request.
func (c *conn) writeAll(acks int16, topic string, records []byte, partitions ...int32) {
	c.t.Helper()
	puts := make([]put, 0, len(partitions))
	for _, p := range partitions {
		puts = append(puts, put{topic, p, records})
	}
	for _, p := range ask[*kmsg.ProduceResponse](c, produceVersion, produceRequest(acks, puts...)).Topics[0].Partitions {
		if p.ErrorCode != 0 {
			c.t.Fatalf("produce to %s/%d: error %d", topic, p.Partition, p.ErrorCode)
		}
	}
}

// watch looks at the bounds of an agent at every request that it sends to either store.
type watch struct {
	t testing.TB
	l *life

	mu                sync.Mutex
	looks             int
	objects           int   // most rows of unsealed objects that were seen
	dirs, image, disk int64 // and most bytes
	cold, heap        int64
	journal, pending  int64
}

// alive holds what is alive in this process to what may be: 64 MiB for the buffers that the test sets; what a merge reads;
// forty times the bytes of directories, which is what they take when they are decoded, those of a merge included; and what
// is no agent's: the bucket, which lies in memory here, and 64 MiB for the test itself and its requests.
func (w *watch) alive() {
	most := 64<<20 + 64<<20 + 40*w.l.cfg.Int("seal.directory.bytes") + 64<<20
	for info, err := range w.l.w.objects.List(context.WithoutCancel(w.t.Context()), "") {
		if err != nil {
			w.t.Error(err)
		}
		most += info.Size
	}
	heap := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(heap)
	live := int64(heap[0].Value.Uint64())
	w.heap = max(w.heap, live)
	if live > most {
		w.t.Errorf("look %d: bytes of the heap: got %d, want at most %d", w.looks, live, most)
	}
}

func (w *watch) look() {
	cfg := w.l.cfg
	rows, unsealed, dirs := w.l.unseal.Size()
	stats := w.l.cache.Stats()
	pending, _ := w.l.buffer.Pending()
	journal := w.l.journal.Bytes()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.looks++
	if w.looks%50 == 0 {
		w.alive()
	}
	w.objects, w.dirs, w.image, w.disk = max(w.objects, rows), max(w.dirs, dirs), max(w.image, stats.ImageBytes), max(w.disk, stats.DiskBytes)
	w.cold = max(w.cold, stats.ColdBytes)
	w.journal, w.pending = max(w.journal, journal), max(w.pending, pending)
	hold := func(what string, got, most int64) {
		if got > most {
			w.t.Errorf("look %d: %s: got %d, want at most %d", w.looks, what, got, most)
		}
	}
	hold("rows of unsealed objects", int64(rows), cfg.Int("seal.objects"))
	hold("bytes of directories", dirs, cfg.Int("seal.directory.bytes"))
	hold("bytes of images", stats.ImageBytes, cfg.Int("cache.memory.bytes")*5/4) // a quarter may wait for the disk beside it
	// A merge holds the blocks that it reads, each once, until what it makes is written.
	hold("bytes of cold blocks", stats.ColdBytes, cfg.Int("cache.cold.bytes")+unsealed)
	hold("bytes of cached files", stats.DiskBytes, cfg.Int("cache.disk.bytes"))
	hold("bytes of the journal", journal, cfg.Int("journal.bytes"))
	hold("bytes that wait for the store", pending, cfg.Int("produce.buffer.bytes"))
}

// onDisk measures what really lies in the agent's folder.
func (w *watch) onDisk() {
	for name, key := range map[string]string{"cache": "cache.disk.bytes", "journal": "journal.bytes"} {
		var sum int64
		err := filepath.WalkDir(filepath.Join(w.l.dir, name), func(_ string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return ignoreGone(err)
			}
			info, err := d.Info()
			if err == nil {
				sum += info.Size()
			}
			return ignoreGone(err)
		})
		if err != nil {
			w.t.Fatal(err)
		}
		if most := w.l.cfg.Int(key); sum > most {
			w.t.Errorf("folder %s: got %d bytes, want at most %s = %d", name, sum, key, most)
		}
	}
}

func ignoreGone(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// inDatabase counts the rows that a successor would read.
func (w *watch) inDatabase() {
	inv, err := w.l.w.meta.Store.Referenced(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	rows, dirs := int64(0), int64(0)
	for _, o := range inv.Objects {
		if o.Kind != metadata.Sealed {
			rows, dirs = rows+1, dirs+int64(len(o.Directory))
		}
	}
	if mostRows, mostDirs := w.l.cfg.Int("seal.objects"), w.l.cfg.Int("seal.directory.bytes"); rows > mostRows || dirs > mostDirs {
		w.t.Errorf("the index holds %d rows of unsealed objects with %d bytes of directories, want at most %d with %d", rows, dirs, mostRows, mostDirs)
	}
}

// boundsForm is how far the test goes: the bounds, and how many flushes come up to them.
type boundsForm struct {
	rows, directories int
	ofFew, ofAll      int
}

// Ten thousand partitions, written to in all ways, and one that stays silent after its first record: what is not sealed,
// what lies on local disk and what waits in memory stay within their bounds at every request that the agent makes.
func TestBoundsHoldForTenThousandPartitions(t *testing.T) {
	if testing.Short() {
		t.Skip("hundreds of flushes of ten thousand partitions")
	}
	form := boundsForm{rows: 256, directories: 2 << 20, ofFew: 300, ofAll: 24} // an eighth of what agents have
	if os.Getenv("VARVE_TEST_ALL") != "" {
		form = boundsForm{rows: 2048, directories: 16 << 20, ofFew: 3000, ofAll: 250}
	}
	synctest.Test(t, func(t *testing.T) {
		const partitions, silent = 10_000, 4711
		w, dial := virtual(t)
		l := w.start("flush.interval.ms=250", "journal.bytes=8388608", "produce.buffer.bytes=33554432", "cache.memory.bytes=4194304",
			"cache.disk.bytes=16777216", "cache.disk.free.bytes=0", "cache.cold.bytes=8388608", "seal.check.interval.ms=10000",
			"gc.interval.ms=60000", "session.ttl.ms=600000",
			fmt.Sprint("seal.objects=", form.rows), fmt.Sprint("seal.directory.bytes=", form.directories))
		c := dial()
		c.newTopic("a", partitions, "segment.ms", "3600000")
		all := make([]int32, 0, partitions)
		for p := range int32(partitions) {
			if p != silent {
				all = append(all, p)
			}
		}
		eye := &watch{t: t, l: l}
		seen := func(objectstore.Call) objectstore.Fault { eye.look(); return objectstore.Fault{} }
		w.broken.Store(&seen)

		c.writeAll(-1, "a", records(options{}, "the only one"), silent)
		costs := []cost{
			// Few partitions a flush: rows come to their bound first.
			w.spend("few partitions", l, func() {
				for i := range int32(form.ofFew) {
					c.writeAll([]int16{-1, 1}[i%8/7], "a", records(options{}, "small"), all[i%9000], all[i%9000+7], all[i%9000+900])
				}
			}),
			// All of them in every flush: directories do.
			w.spend("all partitions", l, func() {
				b := records(options{}, "small")
				for range form.ofAll {
					c.writeAll(-1, "a", b, all...)
				}
			}),
		}
		eye.onDisk()
		eye.inDatabase()
		costs[0].hold(t)
		if form.rows < 2048 { // lower bounds cost more merges
			costs[1].puts = costs[1].wal
		}
		costs[1].hold(t)
		// Age takes what is silent, too, into a segment.
		time.Sleep(3 * time.Hour / 2)
		synctest.Wait()
		if got := l.set.All(); len(got) != partitions {
			t.Fatalf("leads %d partitions, want %d", len(got), partitions)
		}
		id := l.set.All()[0].ID()
		id.Partition = silent
		p, err := l.set.Get(id)
		if err != nil {
			t.Fatal(err)
		}
		if at := p.Offsets(); at.SealedEnd != 1 {
			t.Errorf("the silent partition is sealed up to %d an hour after segment.ms, want 1", at.SealedEnd)
		}
		c = dial() // the first has been idle for too long
		wantBatches(t, c.fetch("a", silent, 0, 1<<20), 1)
		wantBatches(t, c.fetch("a", all[0], 0, 1), 1)
		eye.look()
		eye.onDisk()
		eye.inDatabase()
		t.Logf("%d looks: at most %d rows, %d bytes of directories, %d of images, %d of cold blocks, %d of files, %d of the journal, %d waiting, %d of the heap", eye.looks, eye.objects,
			eye.dirs, eye.image, eye.cold, eye.disk, eye.journal, eye.pending, eye.heap)
		if eye.objects < form.rows*7/8 || eye.dirs < int64(form.directories)*7/8 || eye.disk < l.cfg.Int("cache.disk.bytes")*7/8 {
			t.Error("the bounds were not approached: nothing is proven")
		}
		w.broken.Store(nil)
		l.stop()
		w.verify()
	})
}

// No disk has the room that copies are to leave at most: none is kept there, and all of it can be read.
func TestCopiesLeaveRoomOnTheDisk(t *testing.T) {
	for _, c := range []struct {
		leave string
		kept  bool
	}{{"0", true}, {fmt.Sprint(int64(1) << 50), false}} {
		synctest.Test(t, func(t *testing.T) {
			w, dial := virtual(t)
			l := w.start("cache.memory.bytes=1048576", "cache.disk.free.bytes="+c.leave)
			client := dial()
			client.newTopic("a", 1)
			for range 4 {
				client.writeAll(-1, "a", records(options{}, strings.Repeat("x", 400_000)), 0)
				synctest.Wait() // what memory has no room for is written
			}
			if s := l.cache.Stats(); s.Images == 4 || s.Files > 0 != c.kept {
				t.Errorf("with %s bytes to leave: %+v", c.leave, s)
			}
			wantBatches(t, client.fetch("a", 0, 0, 8<<20), 4)
			l.stop()
			w.verify()
		})
	}
}

// cost is what a stretch of time took of the stores.
type cost struct {
	name                    string
	took, interval          time.Duration
	puts, wal, lists, heads int
	commits                 int
	written, sealed         int64 // bytes of WAL objects, and of sealed objects
	window, largest         int64 // flush.bytes and seal.object.bytes
}

// commits counts the statements of flushes: several that are done may share one.
type commits struct {
	metadata.Store
	n atomic.Int64
}

func (c *commits) Commit(ctx context.Context, s metadata.Session, m metadata.Commit) error {
	c.n.Add(1)
	return c.Store.Commit(ctx, s, m)
}

// spend counts the requests of do, and what it leaves to be done until nothing waits any more.
func (w *world) spend(name string, l *life, do func()) cost {
	w.t.Helper()
	w.ledger.take()
	counted := &commits{Store: w.meta.Store}
	w.meta.Store = counted
	began := time.Now()
	do()
	l.idle()
	c := cost{name: name, commits: int(counted.n.Load()), took: time.Since(began), interval: l.cfg.Duration("flush.interval.ms"), window: l.cfg.Int("flush.bytes"), largest: l.cfg.Int("seal.object.bytes")}
	for _, line := range w.ledger.take() {
		kind, rest, _ := strings.Cut(line, " ")
		var key string
		var size int64
		switch fmt.Sscan(rest, &key, &size); {
		case kind == "put":
			c.puts++
			if strings.HasPrefix(key, "wal/") {
				c.wal++
				c.written += size
			} else if strings.HasPrefix(key, "seg/") {
				c.sealed += size
			}
		case kind == "list":
			c.lists++
		case kind == "head":
			c.heads++
		}
	}
	w.t.Logf("%s: %+v", name, c)
	return c
}

// hold is the bound: PUT <= 1.05 × (max(1/T, B/S) + sealed bytes / object), no LIST, and one statement for each flush.
func (c cost) hold(t testing.TB) {
	t.Helper()
	flushes := max(float64(c.took)/float64(c.interval), float64(c.written)/float64(c.window))
	most := 1.05 * (flushes + float64(c.sealed)/float64(c.largest))
	if float64(c.puts) > math.Ceil(most) {
		t.Errorf("%s: %d PUTs in %s for %d bytes, and %d sealed, want at most %.1f", c.name, c.puts, c.took, c.written, c.sealed, most)
	}
	if c.lists > 0 || c.heads > 0 {
		t.Errorf("%s: %d LISTs and %d HEADs, want none", c.name, c.lists, c.heads)
	}
	if c.commits > c.wal || c.commits == 0 {
		t.Errorf("%s: %d commits for %d flushes, want one each at most", c.name, c.commits, c.wal)
	}
}

// Where bytes come faster than flush.bytes in an interval, PUTs follow the bytes; seals add one for each object that they
// fill; and a cold replay of it all costs one GET for each 4 MiB, but for a tenth.
func TestRequestsFollowTheBytes(t *testing.T) {
	if testing.Short() {
		t.Skip("a quarter of a GiB")
	}
	synctest.Test(t, func(t *testing.T) {
		const rounds, pipelined, size = 85, 3, 1_000_000 // windows below 4 MiB, which become segments where they lie
		w, dial := virtual(t)
		set := []string{"flush.interval.ms=250", "flush.bytes=1048576", "seal.bytes=134217728", "seal.object.bytes=134217728",
			"seal.check.interval.ms=1000", "cache.memory.bytes=1048576", "cache.disk.bytes=0", "session.ttl.ms=600000",
			"seal.age.ms=60000"}
		l := w.start(set...)
		c := dial()
		c.newTopic("a", 1, "segment.ms", "1")
		var sent [][]byte
		for i := range pipelined {
			sent = append(sent, filler(size, uint64(i)))
		}
		cost := w.spend("fast", l, func() {
			for range rounds {
				for _, b := range sent {
					c.send(produceVersion, produceRequest(-1, put{"a", 0, b}))
				}
				for range sent {
					wantCode(t, "produce", c.receive().(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode, nil)
				}
			}
		})
		if rate := float64(cost.written) / cost.took.Seconds(); rate < 4*float64(cost.window) {
			t.Fatalf("%.0f bytes a second are no more than one window in each interval", rate)
		}
		if cost.sealed == 0 {
			t.Error("nothing was sealed")
		}
		cost.hold(t)

		time.Sleep(5 * time.Minute) // all of it is sealed by its age
		synctest.Wait()
		if objects, _, _ := l.unseal.Size(); objects > 0 {
			t.Fatalf("%d objects are not sealed", objects)
		}
		l.stop()
		w.ledger.take()
		l = w.start(set...)
		c = dial()
		lines := w.ledger.take()
		if got := counted(lines, "list"); got > 0 {
			t.Errorf("a start costs %d LISTs", got)
		}
		var read int64
		for next, end := int64(0), c.offset("a", 0, -1).Offset; next < end; {
			records := c.fetch("a", 0, next, 8<<20).RecordBatches
			read += int64(len(records))
			for len(records) > 0 {
				b, rest, err := batch.Parse(records)
				if err != nil || b.Base() != next {
					t.Fatalf("a batch at %d, want %d: %v", b.Base(), next, err)
				}
				next, records = b.End(), rest
			}
		}
		lines = w.ledger.take()
		if most := 1.1 * float64(read) / (4 << 20); float64(counted(lines, "get")) > most || read < rounds*pipelined*size {
			t.Errorf("%d bytes cost %d GETs, want at most %.1f", read, counted(lines, "get"), most)
		} else {
			t.Logf("%d bytes cost %d GETs of %.1f", read, counted(lines, "get"), most)
		}
		if got := counted(lines, "list") + counted(lines, "head") + counted(lines, "put"); got > 0 {
			t.Errorf("a replay costs %d other requests", got)
		}
		l.stop()
	})
}
