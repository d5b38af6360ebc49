package gc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"varve.dev/metadata"
	"varve.dev/objectstore"
	"varve.dev/objectstore/cache"
	"varve.dev/tiering/batch"
	"varve.dev/tiering/object"
)

// world is everything around a Collector.
type world struct {
	*Collector
	t        *testing.T
	kept     []Kept
	segments map[metadata.PartitionID][]metadata.Segment
	expired  map[metadata.PartitionID]int64
	asked    int64 // sealed end of the last question
	deleted  []int32
	unsealed map[int32]bool

	finds, trimCalls int
	trims            []metadata.Trim
	trimmed          map[metadata.PartitionID]int64
	mixed            []metadata.MixedObject
	moves            []metadata.Moving
	intents          []string
	dead             []metadata.Tombstone
	forgotten        []int32
	log              []string
	fail             map[string]error
	dirs             map[string]*object.Directory
	objects          map[string][]byte
	keys             int
	again            bool // log starts never move, so that every turn trims
	onTrim           func(n int) error
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, segments: map[metadata.PartitionID][]metadata.Segment{}, expired: map[metadata.PartitionID]int64{}, unsealed: map[int32]bool{},
		trimmed: map[metadata.PartitionID]int64{}, fail: map[string]error{}, dirs: map[string]*object.Directory{}, objects: map[string][]byte{}}
	w.Collector = New(w, index{w}, reader{w}, w, w, metadata.Session{Agent: 1, Epoch: 2, Nonce: 3}, Config{Retention: time.Minute, Interval: time.Hour,
		Key:    func() string { w.keys++; return fmt.Sprint("moved-", w.keys) },
		Logger: slog.New(slog.DiscardHandler), Metrics: NewMetrics(prometheus.NewRegistry())})
	return w
}

func (w *world) Kept() []Kept { return w.kept }
func (w *world) moved(id metadata.PartitionID, start int64) {
	w.trimmed[id] = start
	for i := range w.kept {
		if w.kept[i].ID == id && !w.again {
			w.kept[i].LogStart = start
		}
	}
}
func (w *world) Expired(id metadata.PartitionID, sealedEnd int64, _ time.Time) int64 {
	w.asked = sealedEnd
	return w.expired[id]
}
func (w *world) DeletedTopics() []int32    { return w.deleted }
func (w *world) Unsealed(topic int32) bool { return w.unsealed[topic] }

func (w *world) Find(_ context.Context, p metadata.PartitionID, offset int64, limit int) (found []metadata.Segment, err error) {
	w.finds++
	for _, s := range w.segments[p] {
		if s.End > offset && len(found) < min(limit, 3) { // small pages
			found = append(found, s)
		}
	}
	return found, w.fail["find"]
}
func (w *world) Trim(_ context.Context, ts []metadata.Trim) error {
	w.trimCalls++
	if w.onTrim != nil {
		if err := w.onTrim(w.trimCalls); err != nil {
			return err
		}
	}
	if err := w.fail["trim"]; err != nil {
		return err
	}
	w.trims = append(w.trims, ts...)
	for _, t := range ts {
		w.moved(t.Partition, t.LogStart)
	}
	return nil
}
func (w *world) Mixed(_ context.Context, limit int) ([]metadata.MixedObject, error) {
	return w.mixed[:min(limit, len(w.mixed))], w.fail["mixed"]
}
func (w *world) Intend(_ context.Context, _ metadata.Session, keys []string) error {
	w.intents = append(w.intents, keys...)
	return nil
}
func (w *world) Move(_ context.Context, _ metadata.Session, m metadata.Moving) error {
	if err := w.fail["move"]; err != nil {
		return err
	}
	w.moves = append(w.moves, m)
	return nil
}
func (w *world) ForgetTopic(_ context.Context, num int32) error {
	w.forgotten = append(w.forgotten, num)
	return w.fail["topic"]
}
func (w *world) Dead(_ context.Context, limit int) ([]metadata.Tombstone, error) {
	return slices.Clone(w.dead[:min(limit, len(w.dead))]), nil
}

// index and reader are the world with one Forget or the other.
type (
	index  struct{ *world }
	reader struct{ *world }
)

func (reader) Forget(metadata.PartitionID) {}

func (x index) Forget(_ context.Context, keys []string) error {
	x.log = append(x.log, fmt.Sprint("forget ", len(keys)))
	if err := x.fail["forget"]; err != nil {
		return err
	}
	x.dead = x.dead[len(keys):]
	return nil
}

func (w *world) Directory(_ context.Context, o metadata.Object) (*object.Directory, error) {
	if d := w.dirs[o.Key]; d != nil {
		return d, nil
	}
	return nil, errors.New("no such object")
}
func (w *world) View(_ context.Context, o cache.Object, off, n int64) (cache.View, error) {
	return cache.View{Slices: [][]byte{w.objects[o.Key][off : off+n]}}, w.fail["view"]
}
func (w *world) Drop(keys ...string) { w.log = append(w.log, fmt.Sprint("drop ", len(keys))) }
func (w *world) Put(_ context.Context, key string, body objectstore.Body) error {
	if !slices.Contains(w.intents, key) {
		w.t.Errorf("%s is stored without an intent", key)
	}
	data, err := io.ReadAll(body.Open())
	w.objects[key] = data
	return err
}
func (w *world) Delete(_ context.Context, keys []string) error {
	w.log = append(w.log, fmt.Sprint("delete ", len(keys)))
	return w.fail["delete"]
}

var one = metadata.PartitionID{Topic: 1}

// segmentsOf makes n segments of 10 offsets and 100 bytes, one for each hour before now, the last one an hour old.
func (w *world) segmentsOf(p metadata.PartitionID, n int, now time.Time) {
	for i := range int64(n) {
		at := now.Add(-time.Duration(int64(n)-i) * time.Hour)
		w.segments[p] = append(w.segments[p], metadata.Segment{Extent: metadata.Extent{Partition: p, Base: 10 * i, End: 10*i + 10, Len: 100, MaxTimestamp: at.UnixMilli()}})
	}
	w.kept = append(w.kept, Kept{ID: p, LeaderEpoch: 4, SealedEnd: int64(10 * n), Committed: int64(10*n) + 5, RetentionTime: -1, RetentionBytes: -1})
}

func TestRetention(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		name   string
		change func(*world, *Kept)
		want   int64
	}{
		{"for ever", func(_ *world, k *Kept) {}, 0},
		{"by time", func(_ *world, k *Kept) { k.RetentionTime = 3*time.Hour + time.Minute }, 70},
		{"by time, nothing is left", func(_ *world, k *Kept) { k.RetentionTime = time.Minute }, 100},
		{"by time, unsealed heads too", func(w *world, k *Kept) { k.RetentionTime = time.Minute; w.expired[one] = 103 }, 103},
		{"unsealed heads only behind what is sealed", func(w *world, k *Kept) { k.RetentionTime = 5 * time.Hour; w.expired[one] = 103 }, 50},
		{"nothing kept at all", func(_ *world, k *Kept) { k.RetentionTime = 0 }, 100},
		{"one young segment keeps what follows", func(w *world, k *Kept) {
			k.RetentionTime = time.Minute
			w.segments[one][4].MaxTimestamp = now.UnixMilli()
		}, 40},
		{"records without a time", func(w *world, k *Kept) {
			k.RetentionTime = time.Minute
			w.segments[one][2].MaxTimestamp = -1
		}, 20},
		{"by bytes, whole segments", func(_ *world, k *Kept) { k.RetentionBytes = 350 }, 60},
		{"by bytes, exactly", func(_ *world, k *Kept) { k.RetentionBytes = 300 }, 70},
		{"by bytes, unsealed count", func(_ *world, k *Kept) { k.RetentionBytes, k.UnsealedBytes = 350, 120 }, 70},
		{"by bytes, nothing but unsealed", func(_ *world, k *Kept) { k.RetentionBytes, k.UnsealedBytes = 100, 120 }, 100},
		{"by bytes, all fits", func(_ *world, k *Kept) { k.RetentionBytes = 1000 }, 0},
		{"both: the stricter", func(_ *world, k *Kept) { k.RetentionBytes, k.RetentionTime = 500, 2*time.Hour+time.Minute }, 80},
		{"from a log start within a segment", func(_ *world, k *Kept) { k.LogStart, k.RetentionTime = 15, 9*time.Hour+time.Minute }, 15},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.segmentsOf(one, 10, now)
			c.change(w, &w.kept[0])
			before := w.kept[0].LogStart
			if err := w.Retain(t.Context(), now); err != nil {
				t.Fatal(err)
			}
			got := before
			if len(w.trims) > 0 {
				got = w.trims[0].LogStart
				if w.trims[0].LeaderEpoch != 4 || w.trimmed[one] != got {
					t.Errorf("trim %+v, told %d", w.trims[0], w.trimmed[one])
				}
			}
			if got != c.want {
				t.Errorf("log start %d, want %d", got, c.want)
			}
		})
	}
}

func TestRetentionLooksAgainOnlyWhenSomethingMayHaveExpired(t *testing.T) {
	w := newWorld(t)
	now := time.Now()
	w.segmentsOf(one, 10, now)
	w.kept[0].RetentionTime = 5*time.Hour + time.Minute
	retain := func(at time.Time, finds int, start int64) {
		t.Helper()
		w.finds = 0
		if err := w.Retain(t.Context(), at); err != nil {
			t.Fatal(err)
		}
		if w.finds != finds || w.kept[0].LogStart != start {
			t.Errorf("%d looks, log start %d, want %d and %d", w.finds, w.kept[0].LogStart, finds, start)
		}
	}
	retain(now, 2, 50)
	retain(now.Add(time.Second), 0, 50)
	retain(now.Add(2*time.Minute), 1, 60)
	w.kept[0].RetentionTime = 2*time.Hour + time.Minute // lowered
	retain(now.Add(2*time.Minute), 2, 90)
}

func TestRefusedTrimTellsNobody(t *testing.T) {
	w := newWorld(t)
	w.segmentsOf(one, 10, time.Now())
	w.segmentsOf(metadata.PartitionID{Topic: 2}, 10, time.Now())
	for i := range w.kept {
		w.kept[i].RetentionTime = 0
	}
	w.fail["trim"] = metadata.ErrConflict
	if err := w.Retain(t.Context(), time.Now()); !errors.Is(err, metadata.ErrConflict) || len(w.trimmed) > 0 {
		t.Errorf("%v, told %v", err, w.trimmed)
	}
	delete(w.fail, "trim")
	w.trimCalls = 0
	if err := w.Retain(t.Context(), time.Now()); err != nil || w.trimCalls != 1 || len(w.trimmed) != 2 {
		t.Errorf("%v, %d requests for %d partitions", err, w.trimCalls, len(w.trimmed))
	}
}

func TestSweepDeletesThenForgets(t *testing.T) {
	w := newWorld(t)
	c := w.Collector
	for i := range maxSweep + 5 {
		w.dead = append(w.dead, metadata.Tombstone{Key: fmt.Sprint(i)})
	}
	if err := c.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := []string{"drop 1000", "delete 1000", "forget 1000", "drop 5", "delete 5", "forget 5"}
	if !slices.Equal(w.log, want) {
		t.Errorf("%v, want %v", w.log, want)
	}
	w.dead = []metadata.Tombstone{{Key: "a"}}
	w.log, w.fail["delete"] = nil, errors.New("away")
	if err := c.Sweep(t.Context()); err == nil || slices.Contains(w.log, "forget 1") {
		t.Errorf("%v: %v; a tombstone goes only after its object", err, w.log)
	}
}

func newBatch(base int64, size int) batch.Batch {
	b := make(batch.Batch, batch.HeaderSize+size)
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)-12))
	b[16] = 2
	binary.BigEndian.PutUint32(b[23:], 9)
	binary.BigEndian.PutUint64(b[43:], ^uint64(0))
	binary.BigEndian.PutUint32(b[57:], 10)
	b.Assign(base, 1)
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// sealed makes an object of one range of each topic; live ones have segments.
func (w *world) sealed(key string, topics []int32, live ...int32) {
	var names []object.TopicName
	for _, n := range topics {
		names = append(names, object.TopicName{Num: n})
	}
	b := object.NewBuilder(object.Header{Kind: metadata.Sealed}, names)
	for _, n := range topics {
		b.Begin(object.Range{Partition: metadata.PartitionID{Topic: n}, Base: 100})
		b.Add(newBatch(100, 1000))
	}
	im := b.Finish(nil)
	w.objects[key], _ = io.ReadAll(im.Open())
	w.dirs[key] = im.Directory()
	m := metadata.MixedObject{Object: im.Object(key)}
	for i := range im.Directory().Ranges {
		r := &im.Directory().Ranges[i]
		if slices.Contains(live, r.Partition.Topic) {
			m.Segments = append(m.Segments, metadata.Segment{Extent: r.Extent(&m.Object), Records: r.Records})
		}
	}
	w.mixed = append(w.mixed, m)
}

func TestRewriteMovesWhatLives(t *testing.T) {
	w := newWorld(t)
	w.sealed("mostly-live", []int32{1, 2, 3}, 1, 2)
	w.sealed("mostly-dead", []int32{1, 2, 3}, 3)
	w.sealed("deleted-topic", []int32{4, 5, 6}, 4, 5)
	w.deleted = []int32{6}
	if err := w.Rewrite(t.Context()); err != nil {
		t.Fatal(err)
	}
	var from []string
	for _, m := range w.moves {
		from = append(from, m.From)
		data := w.objects[m.To.Key]
		dir, err := object.Decode(data[len(data)-int(m.To.DirectoryLength):])
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range m.Segments {
			b, _, err := batch.Parse(data[g.Pos : g.Pos+g.Len])
			if err != nil || b.Base() != g.Base || b.Verify() != nil || dir.Find(g.Partition, g.Base) == nil {
				t.Errorf("%s: segment %+v has a batch at %d: %v", m.From, g, b.Base(), err)
			}
		}
		for _, topic := range dir.Topics {
			if topic.Num == 6 {
				t.Error("the new object names the deleted topic")
			}
		}
	}
	if want := []string{"mostly-dead", "deleted-topic"}; !slices.Equal(from, want) {
		t.Errorf("moved %v, want %v", from, want)
	}
	if len(w.moves[0].Segments) != 1 || len(w.moves[1].Segments) != 2 {
		t.Errorf("%d and %d segments", len(w.moves[0].Segments), len(w.moves[1].Segments))
	}
}

func TestRewriteOfWhatChangedMeanwhile(t *testing.T) {
	w := newWorld(t)
	w.sealed("a", []int32{1, 2, 3}, 3)
	w.fail["move"] = metadata.ErrConflict
	if err := w.Rewrite(t.Context()); err != nil {
		t.Errorf("a conflict is no failure: %v", err)
	}
	w.fail["move"] = metadata.ErrUnknown
	if err := w.Rewrite(t.Context()); !errors.Is(err, metadata.ErrUnknown) {
		t.Errorf("%v", err)
	}
	w.mixed[0].Segments[0].End++
	if err := w.Rewrite(t.Context()); !errors.Is(err, object.ErrCorrupt) {
		t.Errorf("a segment that the object does not have: %v", err)
	}
}

// Objects that are not worth it yet must not be in the way of those that are.
func TestRewriteLooksBeyondTheFirst(t *testing.T) {
	w := newWorld(t)
	for i := range 2 * maxRewrites {
		w.sealed(fmt.Sprint("live-", i), []int32{1, 2, 3}, 1, 2)
	}
	w.sealed("dead", []int32{1, 2, 3}, 3)
	if err := w.Rewrite(t.Context()); err != nil || len(w.moves) != 1 {
		t.Errorf("%d moved, %v", len(w.moves), err)
	}
}

func TestTopicsAreForgottenWhenNothingHoldsThem(t *testing.T) {
	w := newWorld(t)
	c := w.Collector
	w.deleted = []int32{3, 7, 8}
	w.unsealed[7] = true
	w.sealed("a", []int32{1, 3}, 1)
	if err := c.Sweep(t.Context()); err != nil || !slices.Equal(w.forgotten, []int32{8}) {
		t.Errorf("forgot %v, %v, want the one that nothing holds", w.forgotten, err)
	}
	w.mixed, w.unsealed, w.forgotten = nil, nil, nil
	w.fail["topic"] = metadata.ErrNotFound
	if err := c.Sweep(t.Context()); err != nil || !slices.Equal(w.forgotten, []int32{3, 7, 8}) {
		t.Errorf("forgot %v, %v", w.forgotten, err)
	}
}

func TestRunKeepsItsTurnsAndEndsWithTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.Collector
		w.segmentsOf(one, 2, time.Now())
		w.kept[0].RetentionTime = 0
		w.dead = []metadata.Tombstone{{Key: "a"}}
		w.again = true
		w.onTrim = func(n int) error {
			switch n {
			case 1:
				return metadata.ErrUnavailable // tried again at the next turn
			case 70:
				return metadata.ErrFenced
			}
			return nil
		}
		start := time.Now()
		done := make(chan error, 1)
		go func() { done <- c.Run(t.Context()) }()
		if err := <-done; !errors.Is(err, metadata.ErrFenced) {
			t.Errorf("ended with %v", err)
		}
		if took := time.Since(start); took != 70*time.Minute || w.trimmed[one] != 20 || len(w.log) != 3 {
			t.Errorf("ended after %s, log start %d, swept %v", took, w.trimmed[one], w.log)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := c.Run(ctx); err != nil {
			t.Error(err)
		}
	})
}
