package flush

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"varve.dev/metadata"
	"varve.dev/objectstore"
	"varve.dev/tiering/batch"
	"varve.dev/tiering/journal"
	"varve.dev/tiering/object"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// newBatch is a batch of n records with size bytes of payload, all of them fill.
func newBatch(base int64, n int32, size int, fill byte) batch.Batch {
	b := make(batch.Batch, batch.HeaderSize+size)
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)-12))
	b[16] = 2
	binary.BigEndian.PutUint32(b[23:], uint32(n-1))
	binary.BigEndian.PutUint64(b[27:], 1000)
	binary.BigEndian.PutUint64(b[35:], 1000)
	binary.BigEndian.PutUint64(b[43:], ^uint64(0))
	binary.BigEndian.PutUint16(b[51:], ^uint16(0))
	binary.BigEndian.PutUint32(b[53:], ^uint32(0))
	binary.BigEndian.PutUint32(b[57:], uint32(n))
	for i := batch.HeaderSize; i < len(b); i++ {
		b[i] = fill
	}
	b.Assign(base, 7)
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], castagnoli))
	return b
}

// fault is what happens to one request of a fake.
type fault struct {
	delay time.Duration
	err   error // the reply
	lost  bool  // the request takes effect all the same
	late  bool  // it takes effect before the next request
}

type fakeStore struct {
	mu      sync.Mutex
	objects map[string][]byte
	puts    []string
	plan    func(key string, nth int) fault
}

func (s *fakeStore) Put(ctx context.Context, key string, body objectstore.Body) error {
	s.mu.Lock()
	s.puts = append(s.puts, key)
	var f fault
	if s.plan != nil {
		f = s.plan(key, len(s.puts))
	}
	s.mu.Unlock()
	if f.delay > 0 {
		select {
		case <-time.After(f.delay):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if f.err != nil && !f.lost {
		return f.err
	}
	data, err := io.ReadAll(body.Open())
	if err != nil {
		return err
	}
	if crc32.Checksum(data, castagnoli) != body.CRC32C() || int64(len(data)) != body.Size() {
		return errors.New("the bytes are not what the body says")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.objects[key]; ok {
		return objectstore.ErrExists
	}
	s.objects[key] = data
	return f.err
}

func (s *fakeStore) keys() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.objects))
}

func (s *fakeStore) Stat(_ context.Context, key string) (objectstore.Info, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	data, ok := s.objects[key]
	if !ok {
		return objectstore.Info{}, objectstore.ErrNotFound
	}
	return objectstore.Info{Key: key, Size: int64(len(data)), CRC32C: crc32.Checksum(data, castagnoli), HasCRC32C: true}, nil
}

// fakeIndex is one session's row and its objects.
type fakeIndex struct {
	t        *testing.T
	store    *fakeStore
	mu       sync.Mutex
	fenced   bool
	seq      int64
	rows     []metadata.WALObject
	released []metadata.PartitionID
	commits  int
	settles  int
	plan     func(nth int) fault // of commits
	settle   func(nth int) fault
	pending  []metadata.Commit // on the wire
	ends     map[metadata.PartitionID]int64
}

// apply is the statement; it answers as the store does.
func (x *fakeIndex) apply(c metadata.Commit) error {
	if x.fenced {
		return metadata.ErrFenced
	}
	if x.seq != c.From {
		return metadata.ErrConflict
	}
	for i, o := range c.Objects {
		if want := c.From + int64(i) + 1; o.First != want || o.Last != want {
			x.t.Errorf("object %s has numbers %d to %d, want %d", o.Object.Key, o.First, o.Last, want)
		}
		x.store.mu.Lock()
		data, ok := x.store.objects[o.Object.Key]
		x.store.mu.Unlock()
		if !ok || int64(len(data)) != o.Object.Length || crc32.Checksum(data, castagnoli) != o.Object.CRC32C {
			x.t.Errorf("commit of %s: stored %v, %d bytes, the row says %d", o.Object.Key, ok, len(data), o.Object.Length)
		}
		dir, err := object.Decode(o.Directory)
		if err != nil {
			x.t.Errorf("directory of %s: %v", o.Object.Key, err)
			continue
		}
		for j := range dir.Ranges {
			r := &dir.Ranges[j]
			if r.Base != x.ends[r.Partition] {
				x.t.Errorf("%s: range [%d, %d) of %s, want it to start at %d", o.Object.Key, r.Base, r.End, r.Partition, x.ends[r.Partition])
			}
			x.ends[r.Partition] = r.End
		}
	}
	x.rows = append(x.rows, c.Objects...)
	x.released = append(x.released, c.Release...)
	x.seq = c.To()
	return nil
}

func (x *fakeIndex) arrive() {
	for _, c := range x.pending {
		_ = x.apply(c) // nobody hears the reply
	}
	x.pending = nil
}

func wait(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return nil
	}
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (x *fakeIndex) Commit(ctx context.Context, _ metadata.Session, c metadata.Commit) error {
	x.mu.Lock()
	x.commits++
	var f fault
	if x.plan != nil {
		f = x.plan(x.commits)
	}
	x.mu.Unlock()
	if err := wait(ctx, f.delay); err != nil {
		return fmt.Errorf("%w: %w", metadata.ErrUnknown, err)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.arrive()
	switch {
	case f.late:
		x.pending = append(x.pending, c)
		return f.err
	case f.err != nil && !f.lost:
		return f.err
	}
	if err := x.apply(c); err != nil && f.err == nil {
		return err
	}
	return f.err
}

func (x *fakeIndex) Settle(_ context.Context, _ metadata.Session, from, to int64) (int64, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.settles++
	var f fault
	if x.settle != nil {
		f = x.settle(x.settles)
	}
	if f.err != nil {
		return 0, f.err
	}
	switch {
	case x.fenced:
		return 0, metadata.ErrFenced
	case x.seq < from || x.seq > to:
		return 0, metadata.ErrConflict
	}
	return x.seq, nil
}

// now is what it holds at this moment.
func (x *fakeIndex) now() (y struct {
	seq      int64
	commits  int
	rows     []metadata.WALObject
	released []metadata.PartitionID
	ends     map[metadata.PartitionID]int64
}) {
	x.mu.Lock()
	defer x.mu.Unlock()
	y.seq, y.commits, y.rows, y.released, y.ends = x.seq, x.commits, slices.Clone(x.rows), slices.Clone(x.released), maps.Clone(x.ends)
	return y
}

func (x *fakeIndex) end(id metadata.PartitionID) int64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.ends[id]
}

// fakeJournal keeps which batches it holds.
type fakeJournal struct {
	t        *testing.T
	mu       sync.Mutex
	last     int64
	written  map[string]bool
	synced   map[string]bool
	released int64
	syncs    int
	frames   int
	room     func() int64 // nil: without end
	plan     func() error // of Write
	syncPlan func() fault
	stuck    chan struct{} // not nil: Write waits for it
}

func name(id metadata.PartitionID, base int64) string { return fmt.Sprintf("%s@%d", id, base) }

func (j *fakeJournal) Write(window int64, chunks ...[]byte) error {
	j.mu.Lock()
	stuck := j.stuck
	j.mu.Unlock()
	if stuck != nil {
		<-stuck
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.plan != nil {
		if err := j.plan(); err != nil {
			return err
		}
	}
	if window < j.last {
		j.t.Errorf("journal window %d after %d", window, j.last)
	}
	j.last = window
	for _, c := range chunks {
		for len(c) > 0 {
			n := int(binary.BigEndian.Uint32(c[4:]))
			if w := int64(binary.BigEndian.Uint64(c[40:])); w != window {
				return fmt.Errorf("a frame of window %d in window %d", w, window)
			}
			b, _, err := batch.Parse(c[journal.HeaderSize : journal.HeaderSize+n])
			if err != nil {
				return err
			}
			id := metadata.PartitionID{Topic: int32(binary.BigEndian.Uint32(c[24:])), Partition: int32(binary.BigEndian.Uint32(c[28:]))}
			if j.written[name(id, b.Base())] {
				j.t.Errorf("%s is written twice", name(id, b.Base()))
			}
			j.written[name(id, b.Base())] = true
			j.frames++
			c = c[journal.FrameSize(n):]
		}
	}
	return nil
}

func (j *fakeJournal) Sync() error {
	j.mu.Lock()
	var f fault
	if j.syncPlan != nil {
		f = j.syncPlan()
	}
	var now []string
	for s := range j.written {
		now = append(now, s)
	}
	j.mu.Unlock()
	if f.delay > 0 {
		time.Sleep(f.delay) // virtual: the time that a disk takes
	}
	if f.err != nil {
		return f.err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, s := range now {
		j.synced[s] = true
	}
	j.syncs++
	return nil
}

func (j *fakeJournal) Release(window int64) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if window < j.released {
		j.t.Errorf("journal window %d released after %d", window, j.released)
	}
	j.released = window
	return nil
}

func (j *fakeJournal) Room() int64 {
	if j.room == nil {
		return 1 << 40
	}
	return j.room()
}

func (j *fakeJournal) SyncedPosition() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return int64(len(j.synced))
}

func (j *fakeJournal) now() (y struct {
	syncs, frames int
	released      int64
}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	y.syncs, y.frames, y.released = j.syncs, j.frames, j.released
	return y
}

func (j *fakeJournal) has(s string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.synced[s]
}

// fakeSink releases images at once, or keeps them.
type fakeSink struct {
	mu      sync.Mutex
	keep    bool
	images  []*object.Image
	flushed []*object.Stored
}

func (s *fakeSink) Keep(_ *object.Stored, im *object.Image) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keep {
		s.images = append(s.images, im)
		return
	}
	im.Release()
}

func (s *fakeSink) Flushed(o *object.Stored) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flushed = append(s.flushed, o)
}

func (s *fakeSink) all() []*object.Stored {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.flushed)
}

// fakeOwner is a partition: its lock is held while it appends.
type fakeOwner struct {
	w         *world
	id        metadata.PartitionID
	mu        sync.Mutex
	next      int64
	synced    int64
	committed int64
}

func (o *fakeOwner) ID() metadata.PartitionID { return o.id }
func (o *fakeOwner) Topic() object.TopicName {
	return object.TopicName{Num: o.id.Topic, Name: fmt.Sprint("topic", o.id.Topic)}
}
func (o *fakeOwner) Epoch() metadata.EpochStart { return metadata.EpochStart{Epoch: 7} }

func (o *fakeOwner) Synced(end int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if end <= o.synced {
		o.w.t.Errorf("%s: synced to %d after %d", o.id, end, o.synced)
	}
	o.synced = end
}

func (o *fakeOwner) Committed(_ *object.Stored, r *object.Range) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if r.Base != o.committed {
		o.w.t.Errorf("%s: told of [%d, %d) after %d", o.id, r.Base, r.End, o.committed)
	}
	if known := o.w.index.end(o.id); r.End > known {
		o.w.t.Errorf("%s: told of [%d, %d), the index ends at %d", o.id, r.Base, r.End, known)
	}
	o.committed = r.End
}

// appended is one batch on its way, and what its waiter was told.
type appended struct {
	w     *world
	owner *fakeOwner
	end   int64
	name  string
	need  Need
	order int
	at    time.Time

	told   []error
	toldAt time.Time
	held   Held
}

// Done checks that what it is told is true now.
func (a *appended) Done(slot int, err error) {
	a.w.mu.Lock()
	a.told = append(a.told, err)
	a.toldAt = time.Now()
	earlier := a.w.appends[:a.order+1]
	a.w.mu.Unlock()
	if slot != a.order {
		a.w.t.Errorf("slot %d, want %d", slot, a.order)
	}
	if err != nil {
		return
	}
	committed := func(x *appended) bool { return a.w.index.end(x.owner.id) >= x.end }
	if a.need == Stored && !committed(a) {
		a.w.t.Errorf("%s is answered as stored, the index ends at %d", a.name, a.w.index.end(a.owner.id))
	}
	if (a.need == Local || a.need == Synced) && !committed(a) {
		for _, x := range earlier {
			if !committed(x) && !a.w.journal.has(x.name) {
				a.w.t.Errorf("%s is answered as synced; %s, appended before, is neither on disk nor committed", a.name, x.name)
			}
		}
	}
}

// world is a Buffer among fakes.
type world struct {
	t *testing.T
	*Buffer
	store   *fakeStore
	index   *fakeIndex
	journal *fakeJournal
	sink    *fakeSink
	owners  map[metadata.PartitionID]*fakeOwner
	ended   chan error
	stop    context.CancelFunc
	logs    *bytes.Buffer

	mu      sync.Mutex
	appends []*appended
}

func config() Config {
	return Config{Interval: 250 * time.Millisecond, IdleInterval: time.Second, WindowBytes: 8 << 20, BufferBytes: 64 << 20, InFlight: 4, MaxTries: MaxTries,
		Prefix: func(seq int64, try int32) string { return fmt.Sprintf("wal/%d.%d", seq, try) }}
}

// newWorld runs a Buffer; finish stops it and checks what must hold at every end. It is called in a synctest bubble.
func newWorld(t *testing.T, cfg Config) *world {
	w := &world{t: t, owners: map[metadata.PartitionID]*fakeOwner{}, ended: make(chan error, 1), logs: &bytes.Buffer{}}
	w.store = &fakeStore{objects: map[string][]byte{}}
	w.index = &fakeIndex{t: t, store: w.store, ends: map[metadata.PartitionID]int64{}}
	w.journal = &fakeJournal{t: t, written: map[string]bool{}, synced: map[string]bool{}}
	w.sink = &fakeSink{}
	cfg.Logger = slog.New(slog.NewTextHandler(w.logs, nil))
	cfg.Metrics = NewMetrics(prometheus.NewRegistry())
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	w.Buffer = New(w.journal, w.store, w.index, w.sink, metadata.Session{Agent: 1, Epoch: 3, Nonce: 9}, cfg)
	var ctx context.Context
	ctx, w.stop = context.WithCancel(context.Background())
	go func() { w.ended <- w.Run(ctx) }()
	return w
}

// finish stops the buffer and answers what Run did. Every waiter must then have been told once.
func (w *world) finish() error {
	w.t.Helper()
	w.stop()
	err := <-w.ended
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range w.appends {
		want := 1
		if a.need == Nobody {
			want = 0
		}
		if len(a.told) != want {
			w.t.Errorf("%s (need %d) was told %d times: %v", a.name, a.need, len(a.told), a.told)
		}
	}
	if w.t.Failed() {
		w.t.Log(w.logs.String())
	}
	return err
}

func (w *world) owner(topic, partition int32) *fakeOwner {
	id := metadata.PartitionID{Topic: topic, Partition: partition}
	w.mu.Lock()
	defer w.mu.Unlock()
	o := w.owners[id]
	if o == nil {
		o = &fakeOwner{w: w, id: id}
		w.owners[id] = o
	}
	return o
}

// append appends one batch of size bytes of payload.
func (w *world) append(o *fakeOwner, need Need, size int) *appended {
	w.t.Helper()
	a, err := w.tryAppend(o, need, size)
	if err != nil {
		w.t.Fatalf("append to %s: %v", o.id, err)
	}
	return a
}

func (w *world) tryAppend(o *fakeOwner, need Need, size int) (*appended, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	bt := newBatch(o.next, 2, size, byte(o.next))
	w.mu.Lock()
	a := &appended{w: w, owner: o, end: bt.End(), name: name(o.id, bt.Base()), need: need, order: len(w.appends), at: time.Now()}
	w.appends = append(w.appends, a)
	w.mu.Unlock()
	held, err := w.Append(o, bt, need, a, a.order)
	if err != nil {
		w.mu.Lock()
		w.appends = w.appends[:len(w.appends)-1]
		w.mu.Unlock()
		return nil, err
	}
	a.held = held
	o.next = bt.End()
	return a, nil
}

// answers is what a was told, nil before it is.
func (a *appended) answer() (err error, told bool) {
	a.w.mu.Lock()
	defer a.w.mu.Unlock()
	if len(a.told) == 0 {
		return nil, false
	}
	return a.told[0], true
}

func (w *world) wantTold(as ...*appended) {
	w.t.Helper()
	for _, a := range as {
		if err, told := a.answer(); !told || err != nil {
			w.t.Errorf("%s: told %v, %v; want success", a.name, told, err)
		}
	}
}

func (w *world) wantWaiting(as ...*appended) {
	w.t.Helper()
	for _, a := range as {
		if err, told := a.answer(); told {
			w.t.Errorf("%s: was told %v, want it to wait", a.name, err)
		}
	}
}

func (w *world) puts() int {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	return len(w.store.puts)
}

func (w *world) counts() (puts, commits, syncs int) {
	puts = w.puts()
	w.index.mu.Lock()
	commits = w.index.commits
	w.index.mu.Unlock()
	w.journal.mu.Lock()
	syncs = w.journal.syncs
	w.journal.mu.Unlock()
	return puts, commits, syncs
}

// gapOf gives up the next n offsets of o.
func gapOf(o *fakeOwner, n int64) batch.Batch {
	o.mu.Lock()
	defer o.mu.Unlock()
	g := batch.Gap(o.next, o.next+n, 7, 1000)
	o.next += n
	return g
}

// dice are thrown by many goroutines.
type dice struct {
	mu sync.Mutex
	r  *rand.Rand
}

func (d *dice) IntN(n int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.r.IntN(n)
}
