// Package seal merges runs of WAL objects into segments, and what is still small into one larger WAL object.
//
// A run is the oldest stretch of one session's objects. What a partition has there (and in older packs) leaves as segment
// extents if it is large or old enough; the rest becomes one pack, and dead ranges are dropped. One transaction replaces
// the run. So local disk, index rows and takeover are bounded by constants, whatever the number and pace of partitions.
package seal

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"varve.dev/metadata"
	"varve.dev/objectstore"
	"varve.dev/objectstore/cache"
	"varve.dev/tiering/object"
)

// Partition is what the seal asks of, and tells, a partition that this agent leads.
type Partition interface {
	Topic() object.TopicName
	Epoch() metadata.EpochStart
	Sealing() State
	// ProducersAt is the producers' state at an offset that is committed.
	ProducersAt(end int64) []object.Producer
	// EpochsIn is the history within [base, end), the epoch at base first.
	EpochsIn(base, end int64) []metadata.EpochStart
	Merged(run map[*object.Stored]bool, sealedEnd int64, pack *object.Stored)
}

// State of a partition as the seal needs it.
type State struct {
	LogStart, SealedEnd, LastStable int64
	SegmentAge                      time.Duration // segment.ms: older data leave as a segment, however small
	LocalRetention                  time.Duration // how long a segment stays on local disk
}

// Partitions finds partitions.
type Partitions interface {
	// Sealable answers a partition that this agent leads; gone says that its topic is deleted.
	Sealable(id metadata.PartitionID) (p Partition, gone bool)
	// Deleted says whether any topic is deleted whose bytes may still be there.
	Deleted() bool
	// Pause keeps partitions from being opened until resume is called: one that were opened between a merge's commit and
	// its news would read from objects that are not named any more.
	Pause(ctx context.Context) (resume func(), err error)
}

// Index is where a run is replaced.
type Index interface {
	Intend(ctx context.Context, s metadata.Session, keys []string) error
	Replace(ctx context.Context, s metadata.Session, out metadata.Sealing) error
	Read(ctx context.Context, ids []metadata.PartitionID) (metadata.State, error)
}

// Cache holds the bytes of the run, and may keep those of the segments.
type Cache interface {
	View(ctx context.Context, o cache.Object, off, n int64) (cache.View, error)
	Keep(key string, body objectstore.Body, until time.Time) error
	// Succeed drops old, and takes over what was made of their memory.
	Succeed(old []string, heirs []cache.Heir, held int64)
}

// Putter stores objects.
type Putter interface {
	Put(ctx context.Context, key string, body objectstore.Body) error
}

// Learner is told of new directories, and of a partition's new segments, in order (fetch.Reader).
type Learner interface {
	Learn(key string, d *object.Directory)
	Sealed(p metadata.PartitionID, segments []metadata.Segment)
}

// Config of a Sealer: the bounds of what is unsealed, and the sizes of what is made.
type Config struct {
	UnsealedBytes   int64
	UnsealedObjects int
	DirectoryBytes  int64
	// MemoryBytes of unsealed objects are worth a run, where nearly all of it becomes segments: half of what memory holds, so
	// that it is sealed from there, and need not be written to local disk and read again. 0: never.
	MemoryBytes int64
	Age         time.Duration // of the oldest WAL object
	MinExtent   int64         // bytes of a partition in a run that make a segment
	MaxObject   int64         // bytes of a sealed object
	Check       time.Duration // how often age is looked at
	Grace       time.Duration // of superseded objects
	Cluster     metadata.UUID
	Key         func(kind metadata.Kind, n int64) string
	DoomedTries func(o *object.Stored) []string // keys of earlier tries
	Logger      *slog.Logger
	Metrics     *Metrics
}

// PromoteExtent is how large every extent of an object must be for it to become segments where it lies: from there on
// merging costs more than the reads that it saves.
const PromoteExtent = 4 << 20

// mergePacks is how many packs of one level make one of the next.
const mergePacks = 16

// Metrics of a Sealer.
type Metrics struct {
	Segments, Sealed, Packs, Promoted, Bytes, Failures prometheus.Counter
}

// NewMetrics registers them with r.
func NewMetrics(r prometheus.Registerer) *Metrics {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		r.MustRegister(c)
		return c
	}
	return &Metrics{
		Segments: counter("varve_segments_total", "Segments entered in the index."),
		Sealed:   counter("varve_sealed_objects_total", "Sealed objects written."),
		Packs:    counter("varve_packs_total", "Packs written."),
		Promoted: counter("varve_promoted_objects_total", "WAL objects that became sealed objects where they lie."),
		Bytes:    counter("varve_sealed_bytes_total", "Bytes of sealed objects and packs written."),
		Failures: counter("varve_seal_failures_total", "Merges that were abandoned and will be tried again."),
	}
}

// Sealer merges runs for one session.
type Sealer struct {
	log        *Log
	partitions Partitions
	cache      Cache
	store      Putter
	index      Index
	reader     Learner
	me         metadata.Session
	cfg        Config
	made       int64 // objects of this life, for their keys
	aging      int   // the object that was looked at last for its age
	looked     int64 // unsealed bytes when too little of them would have become segments
}

// New is a Sealer over log.
func New(log *Log, ps Partitions, c Cache, s Putter, i Index, r Learner, me metadata.Session, cfg Config) *Sealer {
	return &Sealer{log: log, partitions: ps, cache: c, store: s, index: i, reader: r, me: me, cfg: cfg}
}

// lastPause is the longest pause after a merge that failed; from Config.Check on it doubles. A merge is up to 256 MiB that
// are read and sent again, so it is not repeated with every flush while a store errs.
const lastPause = 10 * time.Second

// Run merges the oldest run whenever a bound is passed, until ctx or the session ends.
func (s *Sealer) Run(ctx context.Context) error {
	tick := time.NewTicker(s.cfg.Check)
	defer tick.Stop()
	pause := time.Duration(0)
	for ticked := true; ; {
		_, err := s.Turn(ctx, time.Now(), ticked)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, metadata.ErrFenced) {
			return err
		}
		changed, again := s.log.changed, tick.C
		if err != nil {
			pause = min(max(2*pause, s.cfg.Check), max(lastPause, s.cfg.Check))
			s.cfg.Metrics.Failures.Inc()
			s.cfg.Logger.Warn("seal failed", "again in", pause, "err", err)
			changed, again = nil, time.After(pause)
		} else {
			pause = 0
		}
		select {
		case <-again:
			ticked = true
		case <-changed:
			ticked = false
		case <-ctx.Done():
			return nil
		}
	}
}

// Turn merges whatever is due at a moment, run by run, and says how many runs that were; ticked looks at age too.
func (s *Sealer) Turn(ctx context.Context, now time.Time, ticked bool) (merged int, err error) {
	for due := s.due(now, ticked); due != nil; due = s.due(now, ticked) {
		if err := s.merge(ctx, due); err != nil {
			return merged, err
		}
		merged++
	}
	return merged, nil
}

// due plans the merge that is to be made now, or nil. Size is looked at whenever an object comes, age only on a tick.
// Whatever it answers makes progress: fewer objects, or fewer bytes that are not sealed.
func (s *Sealer) due(now time.Time, ticked bool) *plan {
	count, bytes, dirs := s.log.Size()
	full := near(bytes, s.cfg.UnsealedBytes) || near(int64(count), int64(s.cfg.UnsealedObjects)) || near(dirs, s.cfg.DirectoryBytes)
	early := s.worthLooking(bytes)
	if !full && !early && !ticked {
		return nil
	}
	objects := s.log.Objects()
	if full {
		if p := s.relieve(objects, now); p != nil {
			p.hasty = true
			return p
		}
	}
	if early {
		if p := s.early(objects, bytes, now); p != nil {
			return p
		}
	}
	if run := packsDue(objects); len(run) > 0 {
		if p := s.fitting(objects, run, now); p.progress() {
			return p
		}
	}
	if s.partitions.Deleted() {
		for _, o := range objects {
			if s.holdsDeleted(o) {
				return s.plan(objects, []*object.Stored{o}, now, false)
			}
		}
	}
	if run := s.agedWAL(objects, now); len(run) > 0 {
		return s.fitting(objects, run, now)
	}
	return s.agedPack(objects, now)
}

// nearShare of a bound is what flushes may still bring while a merge reads and writes.
const nearShare = 8

// near says whether a merge must begin, so that the bound holds.
func near(n, bound int64) bool { return n > bound-bound/nearShare }

const (
	// earlyMost times MemoryBytes can be in memory.
	earlyMost = 2
	// earlyKeeps a share of what is unsealed where it is: those who read the tail find it without the index.
	earlyKeeps = 5
	// earlyRest is the largest share of an early run that may go into a pack, to be written once more.
	earlyRest = 8
	// earlyLeast is the share of the largest object that a run must have: smaller ones cost more requests than they save.
	earlyLeast = 8
)

// worthLooking says whether another MemoryBytes have come, and all that is unsealed may be in memory.
func (s *Sealer) worthLooking(bytes int64) bool {
	if bytes < s.looked {
		s.looked = 0 // something was sealed meanwhile
	}
	return s.cfg.MemoryBytes > 0 && bytes >= s.looked+s.cfg.MemoryBytes && bytes <= earlyMost*s.cfg.MemoryBytes
}

// early plans the oldest of what is in memory, if nearly all of it leaves.
func (s *Sealer) early(objects []*object.Stored, bytes int64, now time.Time) *plan {
	if run := s.prefix(objects, func(_ int, n, _ int64) bool { return n >= bytes-bytes/earlyKeeps }); len(run) > 0 {
		var size int64
		for _, o := range run {
			size += o.Object.Length
		}
		if size >= s.maxObject()/earlyLeast {
			if p := s.plan(objects, run, now, false); p.progress() && p.rest <= size/earlyRest {
				return p
			}
		}
	}
	s.looked = bytes
	return nil
}

// fitting plans as much of a run as can be merged at once: what cannot leave must fit into one pack.
func (s *Sealer) fitting(objects, run []*object.Stored, now time.Time) *plan {
	for {
		p := s.plan(objects, run, now, false)
		if p.fits() || len(run) == 1 {
			return p
		}
		run = run[:len(run)/2]
	}
}

// relieve makes room where a bound is passed: by a run of WAL objects where these take more than half of a bound, else by
// sealing a pack, however small its extents: packed once more they would take as much.
func (s *Sealer) relieve(objects []*object.Stored, now time.Time) *plan {
	over := func(n int, bytes, dirs int64) bool {
		return bytes > s.cfg.UnsealedBytes/2 || n > s.cfg.UnsealedObjects/2 || dirs > s.cfg.DirectoryBytes/2
	}
	var n int
	var bytes, dirs int64
	for _, o := range objects {
		if o.Kind == metadata.WAL {
			n, bytes, dirs = n+1, bytes+o.Object.Length, dirs+int64(len(o.Directory))
		}
	}
	if over(n, bytes, dirs) {
		return s.fitting(objects, s.prefix(objects, over), now)
	}
	for _, o := range objects {
		if o.Kind == metadata.Pack {
			if p := s.plan(objects, []*object.Stored{o}, now, true); p.progress() {
				return p
			}
		}
	}
	return nil
}

// prefix is the oldest WAL objects of one session, up to enough.
func (s *Sealer) prefix(objects []*object.Stored, enough func(n int, bytes, dirs int64) bool) (run []*object.Stored) {
	var bytes, dirs int64
	for _, o := range objects {
		if o.Kind != metadata.WAL {
			if len(run) > 0 {
				break
			}
			continue
		}
		if len(run) > 0 && (!sameSession(o, run[0]) || enough(len(run), bytes, dirs) || bytes+o.Object.Length > maxRunObjects*s.cfg.MaxObject) {
			break
		}
		run = append(run, o)
		bytes, dirs = bytes+o.Object.Length, dirs+int64(len(o.Directory))
	}
	return run
}

// maxRunObjects bounds a run by what it can become: four sealed objects.
const maxRunObjects = 4

// agedWAL is the oldest WAL objects where any is older than the age: down to half of it, so that merges stay rare.
func (s *Sealer) agedWAL(objects []*object.Stored, now time.Time) []*object.Stored {
	old := func(o *object.Stored, age time.Duration) bool {
		return o.Kind == metadata.WAL && o.Dir.Header.CreatedAt <= now.Add(-age).UnixMilli()
	}
	if !slices.ContainsFunc(objects, func(o *object.Stored) bool { return old(o, s.cfg.Age) }) {
		return nil
	}
	run := s.prefix(objects, func(int, int64, int64) bool { return false })
	n := 1
	for n < len(run) && old(run[n], s.cfg.Age/2) {
		n++
	}
	return run[:n]
}

func sameSession(a, b *object.Stored) bool {
	return a.Session.Agent == b.Session.Agent && a.Session.Epoch == b.Session.Epoch
}

// packsDue finds mergePacks neighbouring packs of one level and session.
func packsDue(objects []*object.Stored) (run []*object.Stored) {
	for _, o := range objects {
		if o.Kind != metadata.Pack {
			run = nil
			continue
		}
		if len(run) > 0 && (!sameSession(o, run[0]) || o.Dir.Header.Level != run[0].Dir.Header.Level) {
			run = nil
		}
		if run = append(run, o); len(run) == mergePacks {
			return run
		}
	}
	return nil
}

func (s *Sealer) holdsDeleted(o *object.Stored) bool {
	for i := range o.Dir.Ranges {
		if _, gone := s.partitions.Sealable(o.Dir.Ranges[i].Partition); gone {
			return true
		}
	}
	return false
}

// agedRanges is how many ranges of packs one tick looks at: ten thousand partitions leave half a million of them, and their
// ages are days.
const agedRanges = 1 << 16

// agedPack plans the next pack that holds something old enough to leave it, going on where the last look stopped.
func (s *Sealer) agedPack(objects []*object.Stored, now time.Time) *plan {
	for n, ranges := 0, 0; n < len(objects) && ranges < agedRanges; n++ {
		s.aging = (s.aging + 1) % len(objects)
		o := objects[s.aging]
		if o.Kind != metadata.Pack {
			continue
		}
		ranges += len(o.Dir.Ranges)
		if !s.aged(o, now) {
			continue
		}
		if p := s.plan(objects, []*object.Stored{o}, now, false); p.progress() {
			return p
		}
	}
	return nil
}

// aged says whether a pack holds something that is old enough to leave it.
func (s *Sealer) aged(o *object.Stored, now time.Time) bool {
	age := now.Sub(time.UnixMilli(o.Dir.Header.CreatedAt))
	for i := range o.Dir.Ranges {
		if p, _ := s.partitions.Sealable(o.Dir.Ranges[i].Partition); p != nil && age >= p.Sealing().SegmentAge {
			return true
		}
	}
	return false
}

// Holds says whether any unsealed object contains a topic.
func (l *Log) Holds(topic int32) bool {
	for _, o := range l.Objects() {
		for i := range o.Dir.Ranges {
			if o.Dir.Ranges[i].Partition.Topic == topic {
				return true
			}
		}
	}
	return false
}
