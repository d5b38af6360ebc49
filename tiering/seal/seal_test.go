package seal

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"varve.dev/metadata"
	"varve.dev/objectstore"
	"varve.dev/objectstore/cache"
	"varve.dev/tiering/batch"
	"varve.dev/tiering/object"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// newBatch is a batch of n records, of a producer where producer is not negative.
func newBatch(base int64, n int32, size int, producer int64) batch.Batch {
	b := make(batch.Batch, batch.HeaderSize+size)
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)-12))
	b[16] = 2
	binary.BigEndian.PutUint32(b[23:], uint32(n-1))
	binary.BigEndian.PutUint64(b[43:], uint64(producer))
	binary.BigEndian.PutUint32(b[57:], uint32(n))
	b.Assign(base, 1)
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], castagnoli))
	return b
}

func id(topic, partition int32) metadata.PartitionID {
	return metadata.PartitionID{Topic: topic, Partition: partition}
}

type fakePartition struct {
	id        metadata.PartitionID
	state     State
	producers []object.Producer
	merged    []int64 // sealed ends
	pack      *object.Stored
	end       int64 // of what was written
}

func (p *fakePartition) Topic() object.TopicName    { return object.TopicName{Num: p.id.Topic} }
func (p *fakePartition) Epoch() metadata.EpochStart { return metadata.EpochStart{Epoch: 1} }
func (p *fakePartition) Sealing() State             { return p.state }
func (p *fakePartition) ProducersAt(end int64) []object.Producer {
	return slices.DeleteFunc(slices.Clone(p.producers), func(e object.Producer) bool { return e.LastOffset >= end })
}
func (p *fakePartition) EpochsIn(base, _ int64) []metadata.EpochStart {
	return []metadata.EpochStart{{Epoch: 1, Start: base}}
}
func (p *fakePartition) Merged(_ map[*object.Stored]bool, sealedEnd int64, pack *object.Stored) {
	p.merged = append(p.merged, sealedEnd)
	p.state.SealedEnd = max(p.state.SealedEnd, sealedEnd)
	p.pack = pack
}

// world is a Sealer among fakes, all of them here.
type world struct {
	*Sealer
	t       *testing.T
	led     map[metadata.PartitionID]*fakePartition
	gone    map[int32]bool
	objects map[string][]byte
	puts    int
	refuses atomic.Bool // Put, for lack of a store
	views   int
	rows    map[string]metadata.WALObject
	intents []string
	out     []metadata.Sealing
	replace func(n int) (err error, effect bool)
	calls   int
	late    []metadata.Sealing
	learnt  []string
	told    []metadata.Segment
	dropped []string
	paused  bool
	onPause func()
	number  int64
}

func newWorld(t *testing.T, change func(*Config)) *world {
	w := &world{t: t, led: map[metadata.PartitionID]*fakePartition{}, gone: map[int32]bool{}, objects: map[string][]byte{}, rows: map[string]metadata.WALObject{}}
	cfg := Config{UnsealedBytes: 1 << 40, UnsealedObjects: 1 << 20, DirectoryBytes: 1 << 40, Age: time.Hour, MinExtent: 4 << 20, MaxObject: 256 << 20,
		Check: time.Second, Logger: slog.New(slog.DiscardHandler), Metrics: NewMetrics(prometheus.NewRegistry()),
		Key:         func(kind metadata.Kind, n int64) string { return fmt.Sprint(kind, "-", n) },
		DoomedTries: func(o *object.Stored) []string { return nil }}
	if change != nil {
		change(&cfg)
	}
	w.Sealer = New(NewLog(), w, w, w, w, w, metadata.Session{Agent: 1, Epoch: 5, Nonce: 6}, cfg)
	return w
}

func (w *world) partition(topic, partition int32) *fakePartition {
	p := w.led[id(topic, partition)]
	if p == nil {
		p = &fakePartition{id: id(topic, partition), state: State{SegmentAge: 7 * 24 * time.Hour, LastStable: 1 << 40}}
		w.led[p.id] = p
	}
	return p
}

// wrote is what one partition adds to an object.
type wrote struct {
	p        *fakePartition
	batches  int
	size     int
	producer int64
	gap      bool
}

// wal adds the next WAL object.
func (w *world) wal(age time.Duration, parts ...wrote) *object.Stored {
	w.t.Helper()
	w.number++
	return w.add(metadata.WAL, 5, age, 0, parts...)
}

func (w *world) add(kind metadata.Kind, epoch int32, age time.Duration, level int32, parts ...wrote) *object.Stored {
	w.t.Helper()
	var topics []object.TopicName
	for _, x := range parts {
		if n := len(topics); n == 0 || topics[n-1].Num != x.p.id.Topic {
			topics = append(topics, object.TopicName{Num: x.p.id.Topic, Name: fmt.Sprint(x.p.id.Topic)})
		}
	}
	b := object.NewBuilder(object.Header{Kind: kind, CreatedAt: time.Now().Add(-age).UnixMilli(), Level: level}, topics)
	for _, x := range parts {
		b.Begin(object.Range{Partition: x.p.id, Base: x.p.end, LeaderEpoch: 1, Gap: x.gap})
		for range x.batches {
			bt := newBatch(x.p.end, 2, x.size, cmpOr(x.producer, -1))
			b.Add(bt)
			if x.producer > 0 {
				x.p.producers = append(x.p.producers, object.Producer{Entry: bt.Producer()})
			}
			x.p.end = bt.End()
		}
	}
	im := b.Finish(nil)
	key := fmt.Sprintf("wal-%d-%d", epoch, w.number)
	w.objects[key], _ = io.ReadAll(im.Open())
	o := &object.Stored{Dir: im.Directory(), WALObject: metadata.WALObject{Session: metadata.Session{Agent: 1, Epoch: epoch}, First: w.number, Last: w.number, Kind: kind,
		Object: im.Object(key), Tries: 1, Directory: im.Bytes()}}
	w.rows[key] = o.WALObject
	w.log.Add(o)
	return o
}

func cmpOr(a, b int64) int64 {
	if a != 0 {
		return a
	}
	return b
}

func (w *world) Sealable(id metadata.PartitionID) (Partition, bool) {
	if p := w.led[id]; p != nil && !w.gone[id.Topic] {
		return p, false
	}
	return nil, w.gone[id.Topic]
}
func (w *world) Deleted() bool { return len(w.gone) > 0 }
func (w *world) Pause(context.Context) (func(), error) {
	if w.onPause != nil {
		w.onPause()
	}
	w.paused = true
	return func() { w.paused = false }, nil
}

func (w *world) View(_ context.Context, o cache.Object, off, n int64) (cache.View, error) {
	data, ok := w.objects[o.Key]
	if !ok {
		return cache.View{}, objectstore.ErrNotFound
	}
	w.views++
	v := cache.View{}
	for rest := data[off : off+n]; len(rest) > 0; { // a view may be cut wherever batches end
		b, next, err := batch.Parse(rest)
		if err != nil {
			return v, err
		}
		v.Slices, rest = append(v.Slices, b), next
	}
	return v, nil
}
func (w *world) Keep(string, objectstore.Body, time.Time) error { return errors.New("no disk") }
func (w *world) Succeed(old []string, heirs []cache.Heir, _ int64) {
	w.dropped = append(w.dropped, old...)
	if len(heirs) > 0 {
		w.t.Errorf("%d heirs of bytes that were in no image", len(heirs))
	}
}
func (w *world) Learn(key string, _ *object.Directory) { w.learnt = append(w.learnt, key) }
func (w *world) Sealed(p metadata.PartitionID, segments []metadata.Segment) {
	w.told = append(w.told, segments...)
}

func (w *world) Put(_ context.Context, key string, body objectstore.Body) error {
	if err := objectstore.CheckPut(key, body); err != nil {
		return err
	}
	if !slices.Contains(w.intents, key) {
		w.t.Errorf("%s is stored without an intent", key)
	}
	w.puts++
	if w.refuses.Load() {
		return objectstore.ErrUnavailable
	}
	data, err := io.ReadAll(body.Open())
	if err == nil && crc32.Checksum(data, castagnoli) != body.CRC32C() {
		err = errors.New("the bytes are not what the body says")
	}
	w.objects[key] = data
	return err
}

func (w *world) Intend(_ context.Context, _ metadata.Session, keys []string) error {
	w.intents = append(w.intents, keys...)
	return nil
}

func (w *world) Replace(_ context.Context, _ metadata.Session, out metadata.Sealing) error {
	if !w.paused {
		w.t.Error("a run is replaced while partitions may be opened")
	}
	for _, late := range w.late {
		_ = w.apply(late)
	}
	w.late = nil
	w.calls++
	if w.replace != nil {
		if err, effect := w.replace(w.calls); err != nil {
			if effect {
				_ = w.apply(out)
			} else if errors.Is(err, errLate) {
				w.late = append(w.late, out)
			}
			return err
		}
	}
	return w.apply(out)
}

// errLate is a lost reply of a statement that is executed before the next one.
var errLate = fmt.Errorf("late: %w", metadata.ErrUnknown)

func (w *world) apply(out metadata.Sealing) error {
	for _, key := range out.Keys {
		if _, ok := w.rows[key]; !ok {
			return metadata.ErrConflict
		}
	}
	for _, p := range out.Partitions {
		if led := w.led[p.ID]; led == nil || led.state.SealedEnd != p.Base {
			return metadata.ErrConflict
		}
	}
	for _, key := range out.Keys {
		delete(w.rows, key)
	}
	if out.Pack != nil {
		w.rows[out.Pack.Object.Key] = *out.Pack
	}
	w.out = append(w.out, out)
	return nil
}

func (w *world) Read(context.Context, []metadata.PartitionID) (s metadata.State, err error) {
	for _, r := range w.rows {
		s.Unsealed = append(s.Unsealed, r)
	}
	return s, nil
}

func (w *world) merge(run ...*object.Stored) metadata.Sealing {
	w.t.Helper()
	if err := w.Merge(w.t.Context(), run); err != nil {
		w.t.Fatal(err)
	}
	w.check()
	return w.out[len(w.out)-1]
}

// check holds what was made so far to what readers rely on: of every partition, segments up to the sealed end and then
// unsealed ranges, each batch once, in order; and rows and log agree.
func (w *world) check() {
	w.t.Helper()
	type extent struct{ base, end int64 }
	found := map[metadata.PartitionID][]extent{}
	told := map[metadata.PartitionID][]extent{}
	for _, g := range w.told {
		told[g.Partition] = append(told[g.Partition], extent{g.Base, g.End})
	}
	for _, out := range w.out {
		for _, g := range out.Segments {
			found[g.Partition] = append(found[g.Partition], extent{g.Base, g.End})
			data := w.objects[g.Object.Key][g.Pos : g.Pos+g.Len]
			for at := g.Base; len(data) > 0; {
				b, rest, err := batch.Parse(data)
				if err != nil || b.Base() != at {
					w.t.Fatalf("segment [%d, %d) of %s: a batch at %d, want %d: %v", g.Base, g.End, g.Partition, b.Base(), at, err)
				}
				at, data = b.End(), rest
			}
		}
	}
	for id, xs := range found {
		if w.led[id] == nil {
			continue
		}
		slices.SortFunc(xs, func(a, b extent) int { return int(a.base - b.base) })
		if !slices.Equal(told[id], xs) {
			w.t.Errorf("%s: readers were told of %v, the index has %v", id, told[id], xs)
		}
	}
	for _, o := range w.log.Objects() {
		if _, ok := w.rows[o.Object.Key]; !ok {
			w.t.Errorf("%s is in the log and has no row", o.Object.Key)
		}
		for _, r := range o.Dir.Ranges {
			if p := w.led[r.Partition]; p != nil && r.End > p.state.SealedEnd {
				found[r.Partition] = append(found[r.Partition], extent{r.Base, r.End})
			}
		}
	}
	if len(w.rows) != len(w.log.Objects()) {
		w.t.Errorf("%d rows, %d objects in the log", len(w.rows), len(w.log.Objects()))
	}
	for _, p := range w.led {
		if w.gone[p.id.Topic] {
			continue
		}
		xs := found[p.id]
		slices.SortFunc(xs, func(a, b extent) int { return int(a.base - b.base) })
		at := p.state.LogStart
		for _, x := range xs {
			if x.end <= at {
				continue
			}
			if x.base > at {
				w.t.Errorf("%s has a hole at [%d, %d)", p.id, at, x.base)
			}
			at = x.end
		}
		if at < p.end {
			w.t.Errorf("%s ends at %d, want %d", p.id, at, p.end)
		}
	}
}

func TestWhatIsMadeFromMemoryStaysThereAndIsNotWritten(t *testing.T) {
	const size = 8 << 20
	dir := t.TempDir()
	c, err := cache.New(nil, cache.Config{Dir: dir, MemoryBytes: 1 << 30, DiskBytes: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	w := newWorld(t, nil)
	w.Sealer.cache = c
	big, small := w.partition(1, 0), w.partition(1, 1)
	released := 0
	objects := []*object.Stored{
		w.wal(0, wrote{p: big, batches: 4, size: size / 4}, wrote{p: small, batches: 1, size: 100}),
		w.wal(0, wrote{p: big, batches: 4, size: size / 4}, wrote{p: small, batches: 1, size: 100}),
	}
	held := int64(0)
	for _, o := range objects {
		c.AddImage(o.Object.Key, &lent{Bytes: objectstore.NewBytes(w.objects[o.Object.Key]), data: w.objects[o.Object.Key], refs: 1, released: &released})
		held += o.Object.Length
	}
	w.replace = func(n int) (error, bool) {
		if n == 1 {
			return errors.New("not now"), false
		}
		return nil, false
	}
	if err := w.Merge(t.Context(), objects); err == nil {
		t.Fatal("a merge succeeded that was not committed")
	}
	if s := c.Stats(); s.Images != 2 || s.ImageBytes != held || released != 0 {
		t.Fatalf("after a merge that failed: %+v, %d released", s, released)
	}
	out := w.merge(objects...)
	entries, err := os.ReadDir(dir)
	if s := c.Stats(); err != nil || len(entries) > 0 || s.Images != 2 || s.ImageBytes != held || released != 0 {
		t.Fatalf("%d files (%v), %+v, %d released", len(entries), err, s, released)
	}
	for _, key := range []string{out.Objects[0].Key, out.Pack.Object.Key} {
		data := w.objects[key]
		v, err := c.View(t.Context(), cache.Object{Key: key, Length: int64(len(data))}, 0, int64(len(data)))
		if err != nil || !bytes.Equal(slices.Concat(v.Slices...), data) {
			t.Fatalf("%s is not in memory as it was stored: %v", key, err)
		}
		v.Release()
	}
	c.Drop(out.Objects[0].Key)
	if released != 0 {
		t.Fatal("memory is released that the pack borrows")
	}
	c.Drop(out.Pack.Object.Key)
	if released != 2 || c.Stats().ImageBytes != 0 {
		t.Fatalf("%d of 2 images are released, %+v", released, c.Stats())
	}
}

// lent is an image that counts when its memory goes back.
type lent struct {
	objectstore.Bytes
	data     []byte
	refs     int
	released *int
}

func (l *lent) Slices(dst [][]byte, off, n int64) [][]byte { return append(dst, l.data[off:off+n]) }
func (l *lent) Retain()                                    { l.refs++ }
func (l *lent) Release() {
	if l.refs--; l.refs == 0 {
		*l.released++
	}
}

// A view takes whole blocks, and holds them until the merge is done: small ranges share theirs.
func TestNeighbouringRangesAreReadAtOnce(t *testing.T) {
	w := newWorld(t, nil)
	var small []wrote
	for p := range int32(500) {
		small = append(small, wrote{p: w.partition(1, p), batches: 1, size: 50})
	}
	var run []*object.Stored
	for range 4 {
		run = append(run, w.wal(time.Minute, small...))
	}
	w.merge(run...)
	if w.views != len(run) {
		t.Errorf("%d views of %d objects, want one each", w.views, len(run))
	}

	// Two small ones far apart in an object are read by themselves.
	w = newWorld(t, nil)
	first, large, last := w.partition(1, 0), w.partition(1, 1), w.partition(1, 2)
	run = run[:0]
	for range 2 {
		run = append(run, w.wal(time.Minute, wrote{p: first, batches: 1, size: 50}, wrote{p: large, batches: 3, size: 1 << 20}, wrote{p: last, batches: 1, size: 50}))
	}
	w.merge(run...)
	if want := 3 * len(run); w.views != want { // one for what leaves, two for what stays
		t.Errorf("%d views of %d objects, want %d", w.views, len(run), want)
	}
}

func TestWhatMemoryHoldsIsSealedFromThere(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.MemoryBytes, c.MinExtent, c.MaxObject = 100_000, 20_000, 600_000 })
	p, q := w.partition(1, 0), w.partition(1, 1)
	turn := func() int {
		t.Helper()
		n, err := w.Turn(t.Context(), time.Now(), false)
		if err != nil {
			t.Fatal(err)
		}
		w.check()
		return n
	}
	for i := range 9 {
		w.wal(0, wrote{p: p, batches: 1, size: 10_000})
		if n := turn(); n != 0 {
			t.Fatalf("%d merges of %d objects: less than memory is for", n, i+1)
		}
	}
	w.wal(0, wrote{p: p, batches: 1, size: 10_000})
	if n := turn(); n != 1 || len(w.log.Objects()) != 2 || w.out[0].Pack != nil {
		t.Fatalf("%d merges, %d objects are left, want the newest fifth", n, len(w.log.Objects()))
	}
	for range 20 { // q's part is too small to leave, and too much to be written twice
		w.wal(0, wrote{p: p, batches: 1, size: 2_500}, wrote{p: q, batches: 1, size: 900})
	}
	for range 3 {
		w.wal(0, wrote{p: p, batches: 1, size: 4_000})
	}
	if n := turn(); n != 0 {
		t.Fatalf("%d merges though an eighth and more would be packed", n)
	}
	looked := w.Sealer.looked
	w.wal(0, wrote{p: p, batches: 1, size: 1_000})
	if n := turn(); n != 0 || w.Sealer.looked != looked {
		t.Errorf("%d merges; looked at %d bytes, and before at %d", n, w.Sealer.looked, looked)
	}
	w.wal(0, wrote{p: p, batches: 10, size: 20_000})
	if n := turn(); n != 0 || w.Sealer.looked != looked {
		t.Errorf("%d merges of more than memory holds", n)
	}
}

func TestLargeLeavesSmallIsPacked(t *testing.T) {
	w := newWorld(t, nil)
	big, small := w.partition(1, 0), w.partition(1, 1)
	var run []*object.Stored
	for range 3 {
		run = append(run, w.wal(0, wrote{p: big, batches: 3, size: 600 << 10}, wrote{p: small, batches: 1, size: 100}))
	}
	out := w.merge(run...)
	if w.puts != 2 || len(out.Segments) != 1 || len(out.Partitions) != 1 || out.Pack == nil {
		t.Fatalf("%d puts, %d segments, %d sealed partitions, pack %v", w.puts, len(out.Segments), len(out.Partitions), out.Pack)
	}
	if g := out.Segments[0]; g.Base != 0 || g.End != 18 || g.Records != 18 {
		t.Errorf("segment [%d, %d) of %d records", g.Base, g.End, g.Records)
	}
	if n := len(w.log.Objects()); n != 1 || small.pack == nil || len(w.dropped) != 3 {
		t.Errorf("%d objects left, %v dropped", n, w.dropped)
	}
	if r := w.log.Objects()[0].Dir.Ranges; len(r) != 1 || r[0].End != 6 || !r[0].Snapshot {
		t.Errorf("the pack has %+v", r)
	}
	if _, err := object.Open(*out.Pack); err != nil {
		t.Error(err)
	}
}

func TestWhatLeavesBeginsInOlderPacksAndSessions(t *testing.T) {
	w := newWorld(t, nil)
	p := w.partition(1, 0)
	w.number++
	w.add(metadata.WAL, 3, 0, 0, wrote{p: p, batches: 1, size: 1 << 20}) // an older session
	first := w.wal(0, wrote{p: p, batches: 1, size: 1 << 20})
	w.merge(first) // a pack of one
	second := w.wal(0, wrote{p: p, batches: 3, size: 1 << 20})
	out := w.merge(second)
	if len(out.Segments) != 1 || out.Segments[0].Base != 0 || out.Segments[0].End != p.end || out.Pack != nil {
		t.Errorf("segments %+v, pack %v", out.Segments, out.Pack)
	}
	// What lies in the older objects is dead now, and goes with the next merge of them.
	for _, o := range w.log.Objects() {
		if out := w.merge(o); out.Pack != nil || len(out.Segments) > 0 {
			t.Errorf("merge of %s made %v", o.Object.Key, out)
		}
	}
	if w.puts != 2 {
		t.Errorf("%d puts, want the pack and the segment", w.puts)
	}
}

func TestWhatDoesNotGoOnStays(t *testing.T) {
	w := newWorld(t, nil)
	p := w.partition(1, 0)
	p.end = 100 // what lies before is in no object that is known here
	o := w.wal(0, wrote{p: p, batches: 5, size: 1 << 20})
	if err := w.Merge(t.Context(), []*object.Stored{o}); err != nil {
		t.Fatal(err)
	}
	if out := w.out[0]; len(out.Segments) > 0 || out.Pack == nil {
		t.Errorf("a hole was sealed: %+v", out.Segments)
	}
}

func TestNothingBeyondTheCommittedEndIsSealed(t *testing.T) {
	w := newWorld(t, nil)
	p := w.partition(1, 0)
	o := w.wal(0, wrote{p: p, batches: 5, size: 1 << 20})
	p.state.LastStable = 9
	if out := w.merge(o); len(out.Segments) > 0 || out.Pack == nil {
		t.Errorf("sealed %+v", out.Segments)
	}
}

func TestLargeObjectsArePromotedWhereTheyLie(t *testing.T) {
	w := newWorld(t, nil)
	p, q := w.partition(1, 0), w.partition(1, 1)
	a := w.wal(0, wrote{p: p, batches: 5, size: 1 << 20}, wrote{p: q, batches: 5, size: 1 << 20})
	out := w.merge(a)
	if w.puts != 0 || !slices.Equal(out.Promote, []string{a.Object.Key}) || len(out.Segments) != 2 || len(w.dropped) != 0 {
		t.Errorf("%d puts, promoted %v, %d segments, dropped %v", w.puts, out.Promote, len(out.Segments), w.dropped)
	}
	// A WAL object tells of its own batches only: whoever restores from it must know of no other producer.
	b := w.wal(0, wrote{p: p, batches: 5, size: 1 << 20, producer: 7}, wrote{p: q, batches: 5, size: 1 << 20})
	if out := w.merge(b); len(out.Promote) != 1 {
		t.Error("all that there is to tell is told, and it is not promoted")
	}
	c := w.wal(0, wrote{p: p, batches: 5, size: 1 << 20}, wrote{p: q, batches: 5, size: 1 << 20})
	if out := w.merge(c); len(out.Promote) != 0 || w.puts != 1 {
		t.Errorf("promoted %v: its ranges say nothing of producer 7", out.Promote)
	}
	r := w.partition(1, 2)
	d := w.wal(0, wrote{p: q, batches: 5, size: 1 << 20}, wrote{p: r, batches: 1, size: 10})
	if out := w.merge(d); len(out.Promote) != 0 {
		t.Error("an object with a small range was promoted")
	}
}

func TestDeadRangesAreDropped(t *testing.T) {
	w := newWorld(t, nil)
	p, q, r := w.partition(1, 0), w.partition(2, 0), w.partition(3, 0)
	a := w.wal(0, wrote{p: p, batches: 1, size: 100}, wrote{p: q, batches: 1, size: 100}, wrote{p: r, batches: 1, size: 100})
	b := w.wal(0, wrote{p: p, batches: 1, size: 100}, wrote{p: r, batches: 1, size: 100})
	w.gone[2] = true
	p.state.LogStart = 2 // the first batch is deleted
	r.state.LogStart = 4 // all of it
	out := w.merge(a, b)
	if len(out.Segments) != 0 || out.Pack == nil {
		t.Fatalf("segments %+v", out.Segments)
	}
	dir, _ := object.Decode(out.Pack.Directory)
	if len(dir.Ranges) != 1 || dir.Ranges[0].Base != 2 || dir.Ranges[0].Partition != p.id {
		t.Errorf("the pack has %+v", dir.Ranges)
	}
	if r.state.SealedEnd != 4 {
		t.Errorf("a partition of which all is deleted is sealed up to %d", r.state.SealedEnd)
	}
	c := w.wal(0, wrote{p: q, batches: 1, size: 100})
	if due := w.due(time.Now(), true); due == nil || due.run[0] != c {
		t.Error("an object with a deleted topic is not due")
	}
	before := w.puts
	if n, err := w.Turn(t.Context(), time.Now(), true); n != 1 || err != nil || w.puts != before {
		t.Errorf("%d merges, %d puts, %v: nothing of it lives", n, w.puts-before, err)
	}
}

func TestGapsStandApart(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.MinExtent = 1 })
	p := w.partition(1, 0)
	a := w.wal(0, wrote{p: p, batches: 1, size: 100})
	b := w.wal(0, wrote{p: p, batches: 1, size: 50, gap: true})
	c := w.wal(0, wrote{p: p, batches: 2, size: 100})
	out := w.merge(a, b, c)
	if len(out.Segments) != 3 {
		t.Fatalf("%d segments, want the gap by itself", len(out.Segments))
	}
	dir, _ := object.Decode(w.objects[out.Objects[0].Key][out.Objects[0].Length-int64(out.Objects[0].DirectoryLength):])
	if len(dir.Ranges) != 3 || !dir.Ranges[1].Gap || dir.Ranges[0].Gap || dir.Ranges[2].Gap {
		t.Errorf("ranges %+v", dir.Ranges)
	}
}

func TestPutsAreWhatTheBytesNeed(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.MaxObject, c.MinExtent = 1<<20, 100<<10 })
	var parts []wrote
	var bytes int64
	for i := range int32(40) {
		parts = append(parts, wrote{p: w.partition(1, i), batches: 1, size: 100 << 10})
		bytes += 100 << 10
	}
	out := w.merge(w.wal(0, parts...))
	if want := int(bytes/(1<<20)) + 1; w.puts > want {
		t.Errorf("%d puts, want at most %d", w.puts, want)
	}
	for _, o := range out.Objects {
		if o.Length > 1<<20 {
			t.Errorf("an object of %d bytes", o.Length)
		}
	}
	if len(out.Segments) != 40 {
		t.Errorf("%d segments", len(out.Segments))
	}
}

// Batches and directory together must fit into what a driver takes: many small ranges have a large directory.
func TestDirectoriesCount(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.MaxObject = 64 << 10 })
	var parts []wrote
	for i := range int32(600) {
		parts = append(parts, wrote{p: w.partition(1, i), batches: 1, size: 20, producer: int64(i + 1)})
	}
	out := w.merge(w.wal(0, parts...))
	for _, o := range append(out.Objects, out.Pack.Object) {
		if o.Length > 64<<10 {
			t.Errorf("an object of %d bytes", o.Length)
		}
	}
	if len(out.Segments) == 0 {
		t.Error("the pack should not have had room for all")
	}
}

func TestSixteenPacksMakeOne(t *testing.T) {
	w := newWorld(t, nil)
	p := w.partition(1, 0)
	for range mergePacks {
		w.merge(w.wal(0, wrote{p: p, batches: 1, size: 100}))
	}
	if n, err := w.Turn(t.Context(), time.Now(), true); n != 1 || err != nil {
		t.Fatalf("%d merges, %v", n, err)
	}
	w.check()
	objects := w.log.Objects()
	if len(objects) != 1 || objects[0].Dir.Header.Level != 2 || len(objects[0].Dir.Ranges) != 1 || objects[0].First != 1 || objects[0].Last != mergePacks {
		t.Errorf("%d objects, %+v", len(objects), objects[0].Dir.Header)
	}
}

func TestAgedPackLeaves(t *testing.T) {
	w := newWorld(t, nil)
	p := w.partition(1, 0)
	w.merge(w.wal(0, wrote{p: p, batches: 1, size: 100}))
	if due := w.due(time.Now(), true); due != nil {
		t.Error("a young pack is due")
	}
	if n, err := w.Turn(t.Context(), time.Now().Add(8*24*time.Hour), true); n != 1 || err != nil {
		t.Fatalf("%d merges, %v", n, err)
	}
	w.check()
	if len(w.log.Objects()) != 0 || p.state.SealedEnd != p.end {
		t.Errorf("%d objects left, sealed up to %d", len(w.log.Objects()), p.state.SealedEnd)
	}
}

// More than one tick looks at: the one that is old is found by the next.
func TestAgesOfManyRangesAreLookedAtInTurn(t *testing.T) {
	w := newWorld(t, nil)
	var many []wrote
	for i := range int32(agedRanges/2 + 1) {
		many = append(many, wrote{p: w.partition(1, i), batches: 1, size: 20})
	}
	for range 3 {
		w.merge(w.wal(0, many...))
	}
	hasty := w.partition(2, 0)
	hasty.state.SegmentAge = time.Minute
	w.merge(w.wal(0, wrote{p: hasty, batches: 1, size: 20}))
	if len(w.log.Objects()) != 4 {
		t.Fatalf("%d packs", len(w.log.Objects()))
	}
	merged := 0
	for range 3 {
		n, err := w.Turn(t.Context(), time.Now().Add(time.Hour), true)
		if err != nil {
			t.Fatal(err)
		}
		merged += n
	}
	if merged != 1 || hasty.state.SealedEnd != hasty.end {
		t.Errorf("%d merges, sealed up to %d of %d", merged, hasty.state.SealedEnd, hasty.end)
	}
}

// A pack that cannot leave yet must not be written again and again.
func TestNothingIsRewrittenForNothing(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.UnsealedBytes = 1000 })
	p := w.partition(1, 0)
	p.state.LastStable = 1
	waits := w.partition(2, 0)
	o := w.wal(0, wrote{p: p, batches: 1, size: 2000}, wrote{p: waits, batches: 1, size: 2000})
	delete(w.led, waits.id) // its tail lies in another journal
	w.merge(o)
	before := w.puts
	for range 3 {
		if n, err := w.Turn(t.Context(), time.Now().Add(30*24*time.Hour), true); n != 0 || err != nil {
			t.Errorf("%d merges, %v", n, err)
		}
	}
	if w.puts != before {
		t.Errorf("%d puts for nothing", w.puts-before)
	}
}

func TestFullOfPacksSealsThemHoweverSmall(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.UnsealedBytes = 10_000 })
	p := w.partition(1, 0)
	for range 5 {
		w.merge(w.wal(0, wrote{p: p, batches: 1, size: 2500}))
	}
	if n, err := w.Turn(t.Context(), time.Now(), false); n == 0 || err != nil {
		t.Fatalf("%d merges, %v", n, err)
	}
	w.check()
	if _, bytes, _ := w.log.Size(); bytes > 10_000 {
		t.Errorf("%d bytes are not sealed", bytes)
	}
}

func TestBounds(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"bytes":       func(c *Config) { c.UnsealedBytes = 20 * 1300 },
		"objects":     func(c *Config) { c.UnsealedObjects = 20 },
		"directories": func(c *Config) { c.DirectoryBytes = 20 * 140 },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, change)
			p := w.partition(1, 0)
			at := 0
			for i := range 60 {
				w.wal(0, wrote{p: p, batches: 1, size: 1000})
				if due := w.due(time.Now(), false); due != nil {
					if n := len(due.run); at == 0 && (n < 5 || n > 2*(i+1)/3+1) {
						t.Fatalf("a run of %d of %d", n, i+1)
					}
					if at == 0 {
						at = i + 1
					}
					if _, err := w.Turn(t.Context(), time.Now(), false); err != nil {
						t.Fatal(err)
					}
					w.check()
				}
			}
			if at < 10 || at > 40 {
				t.Errorf("the bound was passed at object %d", at)
			}
		})
	}
	t.Run("age", func(t *testing.T) {
		w := newWorld(t, nil)
		p := w.partition(1, 0)
		for _, age := range []int{70, 50, 40, 20, 10} { // minutes
			w.wal(time.Duration(age)*time.Minute, wrote{p: p, batches: 1, size: 100})
		}
		if due := w.due(time.Now(), false); due != nil {
			t.Error("age is looked at without a tick")
		}
		if due := w.due(time.Now(), true); due == nil || len(due.run) != 3 {
			t.Errorf("want the three that are older than half the age")
		}
	})
	t.Run("one session at a time", func(t *testing.T) {
		w := newWorld(t, func(c *Config) { c.UnsealedObjects = 2 })
		p := w.partition(1, 0)
		w.number++
		w.add(metadata.WAL, 4, 0, 0, wrote{p: p, batches: 1, size: 100})
		w.wal(0, wrote{p: p, batches: 1, size: 100})
		w.wal(0, wrote{p: p, batches: 1, size: 100})
		if due := w.due(time.Now(), false); due == nil || len(due.run) != 1 {
			t.Error("a run of two sessions")
		}
	})
}

func TestOutcomesOfACommit(t *testing.T) {
	for _, c := range []struct {
		name   string
		plan   func(n int) (error, bool)
		merged bool
		calls  int
	}{
		{"lost, executed", func(n int) (error, bool) {
			if n == 1 {
				return metadata.ErrUnknown, true
			}
			return nil, false
		}, true, 2},
		{"lost, not executed", func(n int) (error, bool) {
			if n == 1 {
				return metadata.ErrUnknown, false
			}
			return nil, false
		}, true, 2},
		{"lost, executed late, away meanwhile", func(n int) (error, bool) {
			switch n {
			case 1:
				return errLate, false
			case 2, 3:
				return metadata.ErrUnavailable, false
			}
			return nil, false
		}, true, 4},
		{"away", func(int) (error, bool) { return metadata.ErrUnavailable, false }, false, 1},
		{"conflict", func(int) (error, bool) { return metadata.ErrConflict, false }, false, 1},
		{"conflict after a lost reply, rows there", func(n int) (error, bool) {
			if n == 1 {
				return metadata.ErrUnknown, false
			}
			return metadata.ErrConflict, false
		}, false, 2},
		{"fenced", func(int) (error, bool) { return metadata.ErrFenced, false }, false, 1},
		{"lost, then fenced", func(n int) (error, bool) {
			if n == 1 {
				return metadata.ErrUnknown, true
			}
			return metadata.ErrFenced, false
		}, false, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, nil)
				p, q := w.partition(1, 0), w.partition(1, 1)
				o := w.wal(0, wrote{p: p, batches: 5, size: 1 << 20}, wrote{p: q, batches: 1, size: 10})
				w.replace = c.plan
				err := w.Merge(t.Context(), []*object.Stored{o})
				if merged := err == nil; merged != c.merged || w.calls != c.calls {
					t.Errorf("%v after %d calls, want merged %v after %d", err, w.calls, c.merged, c.calls)
				}
				if told := len(p.merged) == 1 && p.merged[0] == p.end; told != c.merged {
					t.Errorf("the partition was told %v", p.merged)
				}
				if stays := slices.Contains(w.log.Objects(), o); stays == c.merged {
					t.Errorf("the object stays in the log: %v", stays)
				}
				if c.merged {
					w.check()
				}
			})
		})
	}
}

// A partition that is opened between decision and commit has extents in the run: it must hear of the pack.
func TestPartitionThatIsOpenedMeanwhile(t *testing.T) {
	w := newWorld(t, nil)
	p := w.partition(1, 0)
	o := w.wal(0, wrote{p: p, batches: 1, size: 100})
	delete(w.led, p.id)
	w.onPause = func() { w.led[p.id] = p }
	w.merge(o)
	if p.pack == nil || p.merged[0] != 0 {
		t.Errorf("told %v, pack %v", p.merged, p.pack)
	}
}

func TestRunMergesWhatComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(c *Config) { c.UnsealedObjects = 3 })
		p := w.partition(1, 0)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.Run(ctx) }()
		for range 10 {
			w.wal(0, wrote{p: p, batches: 1, size: 100})
			synctest.Wait()
			if n, _, _ := w.log.Size(); n > 3 {
				t.Errorf("%d objects", n)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		w.replace = func(int) (error, bool) { return metadata.ErrFenced, false }
		for range 4 {
			w.wal(0, wrote{p: p, batches: 1, size: 100})
		}
		if err := w.Run(t.Context()); !errors.Is(err, metadata.ErrFenced) {
			t.Errorf("ended with %v", err)
		}
	})
}

func TestAMergeThatFailsIsNotRepeatedWithEveryFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(c *Config) { c.UnsealedObjects = 3 })
		p := w.partition(1, 0)
		w.refuses.Store(true)
		for range 4 {
			w.wal(0, wrote{p: p, batches: 1, size: 100})
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.Run(ctx) }()
		for range 600 {
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
			w.wal(0, wrote{p: p, batches: 1, size: 100})
		}
		synctest.Wait()
		if n := testutil.ToFloat64(w.cfg.Metrics.Failures); n != 9 { // after 0, 1, 3, 7, 15, 25, 35, 45 and 55 s
			t.Errorf("%v attempts within a minute", n)
		}
		w.refuses.Store(false)
		time.Sleep(lastPause)
		synctest.Wait()
		if n, _, _ := w.log.Size(); n > 3 {
			t.Errorf("%d objects are unsealed when the store is back", n)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A merge leaves the processor to those who produce: it takes half of the time in which its bytes came, unless they came
// slowly, and none where a bound is passed.
func TestAMergeTakesItsTime(t *testing.T) {
	const size = 2 << 20
	for _, c := range []struct {
		name        string
		apart       time.Duration
		bound       int64
		old         bool // it is due for its age
		least, most time.Duration
	}{
		{"half of theirs", 10 * time.Millisecond, 1 << 40, true, 32 * time.Millisecond, 36 * time.Millisecond},
		{"no more than disturbs nobody", time.Second, 1 << 40, true, 230 * time.Millisecond, 255 * time.Millisecond},
		{"none when room is short", time.Second, 14 << 20, false, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, func(cfg *Config) { cfg.UnsealedBytes, cfg.MinExtent = c.bound, 1 })
				p := w.partition(1, 0)
				for i := range 8 {
					w.wal(2*time.Hour-time.Duration(i)*c.apart, wrote{p: p, batches: 1, size: size})
				}
				began := time.Now()
				if n, err := w.Turn(t.Context(), began, c.old); n == 0 || err != nil {
					t.Fatalf("%d merges, %v", n, err)
				}
				if took := time.Since(began); took < c.least || took > c.most {
					t.Errorf("it takes %s, want %s to %s", took, c.least, c.most)
				}
				w.check()
			})
		})
	}
}
