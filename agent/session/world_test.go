package session

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"varve.dev/metadata"
	"varve.dev/metadata/sqlite"
	"varve.dev/objectstore"
	"varve.dev/objectstore/cache"
	"varve.dev/objectstore/memory"
	"varve.dev/tiering/batch"
	"varve.dev/tiering/fetch"
	"varve.dev/tiering/flush"
	"varve.dev/tiering/gc"
	"varve.dev/tiering/journal"
	"varve.dev/tiering/journal/journaltest"
	"varve.dev/tiering/object"
	"varve.dev/tiering/partition"
	"varve.dev/tiering/seal"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// newBatch is a batch of n records whose payload begins with id.
func newBatch(id uint64, n int32, size int) batch.Batch {
	b := make(batch.Batch, batch.HeaderSize+max(size, 8))
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)-12))
	b[16] = 2
	binary.BigEndian.PutUint32(b[23:], uint32(n-1))
	now := uint64(time.Now().UnixMilli())
	binary.BigEndian.PutUint64(b[27:], now)
	binary.BigEndian.PutUint64(b[35:], now)
	binary.BigEndian.PutUint64(b[43:], ^uint64(0))
	binary.BigEndian.PutUint16(b[51:], ^uint16(0))
	binary.BigEndian.PutUint32(b[53:], ^uint32(0))
	binary.BigEndian.PutUint32(b[57:], uint32(n))
	binary.BigEndian.PutUint64(b[batch.HeaderSize:], id)
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], castagnoli))
	return b
}

func idOf(b batch.Batch) uint64 { return binary.BigEndian.Uint64(b[batch.HeaderSize:]) }

// errDead is what a process gets from the outside once it has died.
var errDead = errors.New("the process is dead")

// reaper kills a process at its nth request to the outside: before it has an effect, or after.
type reaper struct {
	mu    sync.Mutex
	at    int // 0: never
	after bool
	count int
	dead  bool
	last  string
	died  func() // once
}

// step answers what becomes of one request: nothing at all, or its effect without a reply.
func (r *reaper) step(what string) (refuse, lose bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.dead {
		return true, false
	}
	if r.count++; r.count == r.at {
		r.dead, r.last = true, what
		if r.died != nil {
			go r.died()
		}
		return !r.after, r.after
	}
	return false, false
}

func (r *reaper) isDead() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dead
}

// mortal is the metadata store as one process reaches it.
type mortal struct {
	metadata.Store
	reaper *reaper
	mu     sync.Mutex
	fault  func(what string) (err error, effect bool) // tests of lost replies
}

func (m *mortal) call(what string, do func() error) error {
	m.mu.Lock()
	fault := m.fault
	m.mu.Unlock()
	if fault != nil {
		if err, effect := fault(what); err != nil {
			if effect {
				_ = do()
			}
			return err
		}
	}
	refuse, lose := m.reaper.step(what)
	if refuse {
		return fmt.Errorf("%w: %w", metadata.ErrUnavailable, errDead)
	}
	err := do()
	if lose {
		return fmt.Errorf("%w: %w", metadata.ErrUnknown, errDead)
	}
	return err
}

func (m *mortal) Start(ctx context.Context, a metadata.Agent, nonce uint64, doomed func(metadata.Ended) []string, g metadata.Grace) (s metadata.Session, e metadata.Ended, err error) {
	err = m.call("start", func() error { s, e, err = m.Store.Start(ctx, a, nonce, doomed, g); return err })
	return s, e, err
}

func (m *mortal) Read(ctx context.Context, ids []metadata.PartitionID) (s metadata.State, err error) {
	err = m.call("read", func() error { s, err = m.Store.Read(ctx, ids); return err })
	return s, err
}

func (m *mortal) Acquire(ctx context.Context, s metadata.Session, as []metadata.Acquisition) (got []metadata.PartitionID, err error) {
	err = m.call("acquire", func() error { got, err = m.Store.Acquire(ctx, s, as); return err })
	return got, err
}

func (m *mortal) SetJournal(ctx context.Context, s metadata.Session, ids []metadata.PartitionID, j metadata.UUID) error {
	return m.call("set journal", func() error { return m.Store.SetJournal(ctx, s, ids, j) })
}

func (m *mortal) LastSegments(ctx context.Context, ids []metadata.PartitionID) (g []metadata.Segment, err error) {
	err = m.call("last segments", func() error { g, err = m.Store.LastSegments(ctx, ids); return err })
	return g, err
}

func (m *mortal) ProducerStates(ctx context.Context, ids []metadata.PartitionID) (p []metadata.ProducerState, err error) {
	err = m.call("producer states", func() error { p, err = m.Store.ProducerStates(ctx, ids); return err })
	return p, err
}

func (m *mortal) Commit(ctx context.Context, s metadata.Session, c metadata.Commit) error {
	return m.call("commit", func() error { return m.Store.Commit(ctx, s, c) })
}

func (m *mortal) Settle(ctx context.Context, s metadata.Session, from, to int64) (last int64, err error) {
	err = m.call("settle", func() error { last, err = m.Store.Settle(ctx, s, from, to); return err })
	return last, err
}

func (m *mortal) Intend(ctx context.Context, s metadata.Session, keys []string) error {
	return m.call("intend", func() error { return m.Store.Intend(ctx, s, keys) })
}

func (m *mortal) Replace(ctx context.Context, s metadata.Session, out metadata.Sealing) error {
	return m.call("replace", func() error { return m.Store.Replace(ctx, s, out) })
}

func (m *mortal) Trim(ctx context.Context, s metadata.Session, ts []metadata.Trim, g metadata.Grace) error {
	return m.call("trim", func() error { return m.Store.Trim(ctx, s, ts, g) })
}

func (m *mortal) Stop(ctx context.Context, s metadata.Session) error {
	return m.call("stop", func() error { return m.Store.Stop(ctx, s) })
}

// cluster is what outlives processes: a metadata store, a bucket, and topics.
type cluster struct {
	t      *testing.T
	meta   *sqlite.Store
	bucket *memory.Store
	id     metadata.UUID
	mu     sync.Mutex
	topics map[int32]Topic
	gone   []int32
	nonce  uint64
	nextID uint64
	aside  []journal.Frame
	sent   map[uint64]*sent
	puts   int
	held   chan struct{} // not nil: what PUTs wait for
}

// holdPuts keeps every PUT from being answered until release is called.
func (c *cluster) holdPuts() (release func()) {
	held := make(chan struct{})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = held
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.held = nil
		close(held)
	}
}

func newCluster(t *testing.T) *cluster {
	c := &cluster{t: t, bucket: memory.New(), id: metadata.UUID{1, 2, 3}, topics: map[int32]Topic{}, sent: map[uint64]*sent{}}
	var err error
	if c.meta, err = sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "meta"), sqlite.Config{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.meta.Close() })
	if _, err := c.meta.Join(t.Context(), metadata.Cluster{ID: c.id, Incarnation: 1, Shards: 1, Format: object.Version}); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *cluster) Wanted() (map[int32]Topic, []int32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.topics), slices.Clone(c.gone)
}

// create makes a topic; change its settings with set.
func (c *cluster) create(name string, partitions int32, local bool) int32 {
	c.t.Helper()
	made, err := c.meta.CreateTopic(c.t.Context(), metadata.Topic{ID: metadata.UUID{byte(len(name)), name[0], byte(partitions)}, Name: name, Partitions: partitions}, metadata.NoAgent)
	if err != nil {
		c.t.Fatal(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.topics[made.Num] = Topic{Name: object.TopicName{Num: made.Num, ID: made.ID, Name: name}, Partitions: partitions, Retention: -1, RetentionBytes: -1,
		Config: partition.Config{Local: local, MaxMessageBytes: 16 << 20, TimestampBefore: time.Hour, TimestampAfter: time.Hour, KeepCodec: true,
			SegmentAge: time.Hour, ProducerExpiry: time.Hour}}
	return made.Num
}

func (c *cluster) set(num int32, change func(*Topic)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.topics[num]
	change(&t)
	c.topics[num] = t
}

func (c *cluster) remove(num int32) {
	c.t.Helper()
	if err := c.meta.DeleteTopic(c.t.Context(), num, metadata.Grace{}); err != nil {
		c.t.Fatal(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.topics, num)
	c.gone = append(c.gone, num)
}

func (c *cluster) row(id metadata.PartitionID) metadata.Partition {
	c.t.Helper()
	s, err := c.meta.Read(c.t.Context(), []metadata.PartitionID{id})
	if err != nil || len(s.Partitions) != 1 {
		c.t.Fatalf("read %s: %d rows, %v", id, len(s.Partitions), err)
	}
	return s.Partitions[0]
}

// process is one life of one agent on one disk.
type process struct {
	*cluster
	*Set
	disk    *journaltest.Disk
	reaper  *reaper
	store   *mortal
	objects objectstore.Store
	journal *journal.Journal
	me      metadata.Session
	ended   metadata.Ended
	buffer  *flush.Buffer
	log     *seal.Log
	cache   *cache.Cache
	reader  *fetch.Reader
	sealer  *seal.Sealer
	gc      *gc.Collector
	life    context.Context // until it dies
	stop    context.CancelFunc
	loops   sync.WaitGroup
	killed  bool
}

// limits of the seals of this test: small enough for several merges in a few hundred batches.
var sealing = seal.Config{UnsealedBytes: 60 << 10, UnsealedObjects: 12, DirectoryBytes: 1 << 20, Age: time.Hour, MinExtent: 6 << 10, MaxObject: 24 << 10, Check: time.Hour}

// start is a life up to its session, without its partitions.
func (c *cluster) process(agent int32, disk *journaltest.Disk, r *reaper) (*process, error) {
	if r == nil {
		r = &reaper{}
	}
	p := &process{cluster: c, disk: disk, reaper: r, store: &mortal{Store: c.meta, reaper: r}}
	p.objects = objectstore.NewFaults(c.bucket, func(call objectstore.Call) (f objectstore.Fault) {
		if call.Kind == objectstore.KindPut {
			c.mu.Lock()
			c.puts++
			held := c.held
			c.mu.Unlock()
			if held != nil {
				<-held
			}
		}
		switch refuse, lose := r.step(fmt.Sprint(call.Kind)); {
		case refuse:
			f.Before = fmt.Errorf("%w: %w", objectstore.ErrUnavailable, errDead)
		case lose:
			f.Lost = fmt.Errorf("%w: %w", objectstore.ErrUnavailable, errDead)
		}
		return f
	})
	disk.Fail(func(string) error {
		if refuse, lose := r.step("journal write"); refuse || lose {
			return errDead
		}
		return nil
	}, func(string) error {
		if refuse, lose := r.step("journal sync"); refuse || lose {
			return errDead
		}
		return nil
	})
	logger := slog.New(slog.DiscardHandler)
	var err error
	if p.journal, err = journal.Open("/journal", journal.Config{Disk: disk, MaxBytes: 4 << 20, FileBytes: 128 << 10}); err != nil {
		return p, err
	}
	c.nonce++
	key := func(kind string, s metadata.Session, n int64, try int32) string {
		return fmt.Sprintf("%s/%d/%d.%d", kind, s.Nonce, n, try)
	}
	doomed := func(e metadata.Ended) []string {
		return flush.Doomed(e.Seq, func(n int64, try int32) string { return key("wal", e.Session, n, try) })
	}
	p.me, p.ended, err = p.store.Start(c.t.Context(), metadata.Agent{ID: agent, Journal: p.journal.ID()}, c.nonce, doomed, metadata.Grace{})
	if err != nil {
		return p, err
	}
	if p.cache, err = cache.New(c.bucket, cache.Config{MemoryBytes: 64 << 10, ColdBytes: 64 << 10}); err != nil {
		return p, err
	}
	if p.reader, err = fetch.New(p.cache, c.meta, c.bucket, fetch.Config{Directories: 1 << 20, FindLimit: 4, ConcurrentMax: 4, RecordBytes: 1 << 20, Logger: logger}); err != nil {
		return p, err
	}
	p.log = seal.NewLog()
	p.buffer = flush.New(p.journal, p.objects, p.store, sinkOf{p}, p.me, flush.Config{IdleInterval: time.Hour, WindowBytes: 8 << 20,
		BufferBytes: 64 << 20, InFlight: 4, MaxTries: 3, Cluster: c.id, Logger: logger, Metrics: flush.NewMetrics(prometheus.NewRegistry()),
		Prefix: func(n int64, try int32) string { return key("wal", p.me, n, try) }})
	p.Set = NewSet(p.me, p.journal.ID(), p.store, p.buffer, p.reader, p.log, c, Config{Logger: logger, SetAside: func(f journal.Frame) error {
		f.Batch = slices.Clone(f.Batch)
		c.aside = append(c.aside, f)
		return nil
	}})
	cfg := sealing
	cfg.Cluster, cfg.Logger, cfg.Metrics = c.id, logger, seal.NewMetrics(prometheus.NewRegistry())
	cfg.Key = func(kind metadata.Kind, n int64) string { return key(fmt.Sprint("sealed", kind), p.me, n, 0) }
	cfg.DoomedTries = func(*object.Stored) []string { return nil }
	p.sealer = seal.New(p.log, p.Set, p.cache, p.objects, p.store, p.reader, p.me, cfg)
	moved := int64(0)
	p.gc = gc.New(p.Set, p.store, p.reader, p.cache, p.objects, p.me, gc.Config{Logger: logger, Metrics: gc.NewMetrics(prometheus.NewRegistry()),
		Key: func() string { moved++; return key("moved", p.me, moved, 0) }})
	ctx, cancel := context.WithCancel(context.Background())
	p.life, p.stop = ctx, cancel
	r.mu.Lock()
	r.died = cancel // nobody waits for a dead process
	if r.dead {
		cancel()
	}
	r.mu.Unlock()
	p.loops.Go(func() { _ = p.buffer.Run(ctx) })
	c.t.Cleanup(p.kill)
	return p, nil
}

type sinkOf struct{ p *process }

func (s sinkOf) Keep(o *object.Stored, im *object.Image) { s.p.cache.AddImage(o.Object.Key, im) }
func (s sinkOf) Flushed(o *object.Stored)                { s.p.log.Add(o) }

// lead does what a start does after its session.
func (p *process) lead() error {
	synced := int64(0)
	if p.ended.Journal == p.journal.ID() {
		synced = p.ended.JournalSynced
	}
	report, err := p.Set.Start(p.t.Context(), p.journal, synced)
	if err != nil {
		return err
	}
	return p.journal.Release(report.LastWindow)
}

// begin is a life that leads, or the test ends.
func (c *cluster) begin(agent int32, disk *journaltest.Disk) *process {
	c.t.Helper()
	p, err := c.process(agent, disk, nil)
	if err == nil {
		err = p.lead()
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return p
}

// kill ends the process without a word. Its disk is as it was.
func (p *process) kill() {
	if p.killed {
		return
	}
	p.killed = true
	p.reaper.mu.Lock()
	p.reaper.dead = true
	p.reaper.mu.Unlock()
	p.stop()
	p.loops.Wait()
	p.Set.Close(errDead)
	p.cache.Close()
}

// crash is kill, and the power: un-synced bytes are there or not.
func (p *process) crash(r *rand.Rand) {
	p.kill()
	p.disk.Crash(r)
}

// halt is a clean stop.
func (p *process) halt() error {
	ctx := p.t.Context()
	if err := p.buffer.Drain(ctx); err != nil {
		return err
	}
	if err := p.Set.Release(ctx); err != nil {
		return err
	}
	if err := p.store.Stop(ctx, p.me); err != nil {
		return err
	}
	p.kill()
	p.disk.CrashAfter(0)
	return nil
}

// sent is one batch that was appended, and what its producer was told.
type sent struct {
	id   uint64
	at   metadata.PartitionID
	base int64
	n    int64
	acks int16
	mu   sync.Mutex
	told chan struct{}
	err  error
}

func (s *sent) Done(_ int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
	close(s.told) // a second time would panic
}

func (s *sent) acked() bool {
	select {
	case <-s.told:
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.err == nil
	default:
		return false
	}
}

func (s *sent) await(t *testing.T) {
	t.Helper()
	select {
	case <-s.told:
	case <-time.After(20 * time.Second):
		t.Fatalf("batch %d of %s was never answered", s.id, s.at)
	}
	if s.err != nil {
		t.Fatalf("batch %d of %s: %v", s.id, s.at, s.err)
	}
}

// produce appends one batch.
func (p *process) produce(id metadata.PartitionID, acks int16, n int32, size int) (*sent, error) {
	led, err := p.Get(id)
	if err != nil {
		return nil, err
	}
	p.nextID++
	s := &sent{id: p.nextID, at: id, n: int64(n), acks: acks, told: make(chan struct{})}
	done, err := led.Append(newBatch(s.id, n, size), acks, time.Now(), s, 0)
	if err != nil {
		return nil, err
	}
	s.base = done.Base
	p.sent[s.id] = s
	return s, nil
}

func (p *process) mustProduce(id metadata.PartitionID, acks int16) *sent {
	p.t.Helper()
	s, err := p.produce(id, acks, 2, 100)
	if err != nil {
		p.t.Fatal(err)
	}
	return s
}

func (p *process) quiesce() {
	p.t.Helper()
	if err := p.buffer.Quiesce(p.t.Context()); err != nil {
		p.t.Fatal(err)
	}
}

// read reads a partition from its log start to its high watermark, and holds what it finds to what any log must be.
func (p *process) read(id metadata.PartitionID) (got []batch.Batch, err error) {
	led, err := p.Get(id)
	if err != nil {
		return nil, err
	}
	from := led.Offsets().LogStart
	for first := true; from < led.Offsets().HighWatermark; first = false {
		plan, _, err := led.Plan(from, 8<<10)
		if err != nil {
			return got, err
		}
		more, err := p.fetch(plan)
		if err != nil {
			return got, fmt.Errorf("from %d: %w", from, err)
		}
		if len(more) == 0 {
			return got, fmt.Errorf("nothing at %d, the high watermark is %d", from, led.Offsets().HighWatermark)
		}
		for _, b := range more {
			if b.Base() != from && !(first && b.Base() < from) {
				return got, fmt.Errorf("a batch at %d, want %d", b.Base(), from)
			}
			from, first = b.End(), false
			got = append(got, b)
		}
	}
	return got, nil
}

// fetch reads one plan and copies what it yields.
func (p *process) fetch(plan fetch.Plan) (got []batch.Batch, err error) {
	res := p.reader.Read(p.t.Context(), []fetch.Plan{plan}, 1<<20)
	defer res.Release()
	if err := res.Parts[0].Err; err != nil {
		return nil, err
	}
	for _, s := range res.Parts[0].Slices {
		for rest := slices.Clone(s); len(rest) > 0; {
			var b batch.Batch
			if b, rest, err = batch.Parse(rest); err != nil {
				return nil, err
			}
			if err := b.Verify(); err != nil {
				return nil, err
			}
			got = append(got, b)
		}
	}
	return got, nil
}

// verify holds what is readable to what was answered: what was acknowledged is there once, at its offset; nothing is there
// that was never sent, or twice.
func (p *process) verify(all []*sent, must func(*sent) bool) {
	p.t.Helper()
	found := map[uint64]bool{}
	for _, led := range p.All() {
		id := led.ID()
		got, err := p.read(id)
		if err != nil {
			p.t.Errorf("read %s: %v", id, err)
		}
		for _, b := range got {
			if b.IsControl() {
				continue
			}
			s := p.sent[idOf(b)]
			if s == nil || s.at != id || found[idOf(b)] || s.acked() && b.Base() != s.base {
				p.t.Errorf("%s has batch %d at %d: sent %+v, found before %v", id, idOf(b), b.Base(), s, found[idOf(b)])
			}
			found[idOf(b)] = true
		}
	}
	for _, s := range all {
		if must(s) && !found[s.id] {
			led, _ := p.Get(s.at)
			if led != nil && s.base+s.n <= led.Offsets().LogStart {
				continue
			}
			p.t.Errorf("batch %d (acks=%d) was acknowledged at %d of %s and is lost", s.id, s.acks, s.base, s.at)
		}
	}
}
