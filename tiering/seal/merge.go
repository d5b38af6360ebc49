package seal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"varve.dev/metadata"
	"varve.dev/objectstore"
	"varve.dev/objectstore/cache"
	"varve.dev/tiering/object"
)

// source is one range of an unsealed object.
type source struct {
	o *object.Stored
	r *object.Range
}

// share is what one partition has to do with a run.
type share struct {
	id      metadata.PartitionID
	p       Partition // nil: not led here
	state   State
	inRun   []source
	all     []source  // from the sealed end to the run's end, wherever it lies
	size    int64     // of all
	oldest  time.Time // when the first of all was written, at the earliest
	broken  bool      // all has a hole
	base    int64     // sealed end before and after
	end     int64
	leaves  bool
	sources []source // all where it leaves, else inRun; live only

	producers int // batches of producers that a directory tells of
}

// plan is what is decided of a run, before anything is read or written.
type plan struct {
	run     []*object.Stored
	in      map[*object.Stored]bool
	shares  []*share
	promote map[*object.Stored]bool
	ranges  int   // of the run
	packed  int   // of these, and
	rest    int64 // bytes that go into a pack
	maxPack int64
	hasty   bool // a bound is passed: nothing is spared
}

// progress says whether carrying it out leaves less than there was.
func (p *plan) progress() bool {
	return p.fits() && (len(p.run) > 1 || p.run[0].Kind == metadata.WAL || p.packed < p.ranges)
}

// fits says whether what cannot leave fits into one pack.
func (p *plan) fits() bool { return p.rest <= p.maxPack }

// merge is one plan that is carried out.
type merge struct {
	*Sealer
	*plan
	out  metadata.Sealing
	made []made
	pack *object.Stored
	pace int64 // bytes per second; 0: as fast as it can

	heirs []cache.Heir            // what was made of bytes in memory alone
	held  map[*object.Stored]bool // whose memory that is
}

type made struct {
	object metadata.Object
	dir    *object.Directory
}

// Merge rewrites one run and replaces its rows.
func (s *Sealer) Merge(ctx context.Context, run []*object.Stored) error {
	return s.merge(ctx, s.plan(s.log.Objects(), run, time.Now(), false))
}

// merge reads and writes object by object, then commits; until the commit nothing is changed, so that it is safe to begin
// anew.
func (s *Sealer) merge(ctx context.Context, p *plan) error {
	if !p.fits() {
		return fmt.Errorf("%d bytes of partitions that cannot leave do not fit into a pack of %d", p.rest, p.maxPack)
	}
	m := &merge{Sealer: s, plan: p, held: map[*object.Stored]bool{}}
	if !p.hasty {
		m.pace = paceOf(p.run)
	}
	defer m.disinherit()
	run := p.run
	m.out = metadata.Sealing{Of: run[0].Session, First: run[0].First, Last: run[len(run)-1].Last, Grace: s.cfg.Grace}
	for _, o := range run {
		m.out.Keys = append(m.out.Keys, o.Object.Key)
		m.out.Dead = append(m.out.Dead, s.cfg.DoomedTries(o)...)
	}
	if err := m.segments(ctx); err != nil {
		return err
	}
	if err := m.packRest(ctx); err != nil {
		return err
	}
	for _, sh := range m.shares {
		if sh.leaves && sh.end > sh.base {
			m.out.Partitions = append(m.out.Partitions, metadata.SealedPartition{ID: sh.id, LeaderEpoch: sh.p.Epoch().Epoch, Base: sh.base, End: sh.end})
		}
	}
	resume, err := s.partitions.Pause(ctx)
	if err != nil {
		return err
	}
	defer resume()
	if err := m.commit(ctx); err != nil {
		return fmt.Errorf("replace %d objects up to %d: %w", len(run), m.out.Last, err)
	}
	m.publish()
	return nil
}

// plan says of each partition whether it leaves the run as segments. force: it does, however small it is.
func (s *Sealer) plan(objects, run []*object.Stored, now time.Time, force bool) *plan {
	p := &plan{run: run, in: map[*object.Stored]bool{}, promote: map[*object.Stored]bool{}, maxPack: s.maxObject()}
	by := map[metadata.PartitionID]*share{}
	for _, o := range run {
		p.in[o] = true
		for i := range o.Dir.Ranges {
			r := &o.Dir.Ranges[i]
			p.ranges++
			sh := by[r.Partition]
			if sh == nil {
				led, gone := s.partitions.Sealable(r.Partition)
				if gone {
					continue // dead: dropped
				}
				sh = &share{id: r.Partition, p: led}
				if led != nil {
					sh.state = led.Sealing()
					sh.base, sh.end = sh.state.SealedEnd, sh.state.SealedEnd
				}
				by[r.Partition] = sh
				p.shares = append(p.shares, sh)
			}
			sh.inRun = append(sh.inRun, source{o, r})
		}
	}
	slices.SortFunc(p.shares, func(a, b *share) int {
		return cmp.Or(cmp.Compare(a.id.Topic, b.id.Topic), cmp.Compare(a.id.Partition, b.id.Partition))
	})
	// What leaves must start at the sealed end: older packs and other sessions may hold the beginning.
	for _, o := range objects {
		for i := range o.Dir.Ranges {
			r := &o.Dir.Ranges[i]
			if sh := by[r.Partition]; sh != nil && sh.p != nil && r.End > sh.state.SealedEnd && r.End <= sh.inRun[len(sh.inRun)-1].r.End {
				sh.all = append(sh.all, source{o, r})
			}
		}
	}
	for _, sh := range p.shares {
		if sh.p != nil {
			sh.reach()
			sh.producers = len(sh.p.ProducersAt(sh.end))
		}
		sh.decide(s.cfg.MinExtent, now, force)
	}
	p.makeFit()
	p.shares = slices.DeleteFunc(p.shares, func(sh *share) bool { return len(sh.sources) == 0 && !sh.leaves })
	for _, sh := range p.shares {
		if !sh.leaves {
			p.packed += len(sh.sources)
		}
	}
	p.choosePromotions()
	return p
}

// reach follows the ranges beyond the sealed end, in the order of offsets: agents may have taken turns, and sessions are
// in the order of agents. A range that does not go on where the one before ended, but for records that are deleted, means
// that something between lies elsewhere: then the partition stays.
func (sh *share) reach() {
	slices.SortStableFunc(sh.all, func(a, b source) int { return cmp.Compare(a.r.Base, b.r.Base) })
	for i, x := range sh.all {
		at := time.UnixMilli(x.o.Dir.Header.CreatedAt)
		if i == 0 || at.Before(sh.oldest) {
			sh.oldest = at
		}
		sh.broken = sh.broken || x.r.Base > max(sh.end, sh.state.LogStart) || x.r.Base < sh.end
		sh.size, sh.end = sh.size+x.r.Len, max(sh.end, x.r.End)
	}
}

func (sh *share) decide(minExtent int64, now time.Time, force bool) {
	if sh.p == nil {
		sh.sources = sh.inRun // not led here: it stays in the pack as it is
		return
	}
	sh.leave(sh.mayLeave() && (force || sh.size >= minExtent || now.Sub(sh.oldest) >= sh.state.SegmentAge || sh.end <= sh.state.LogStart))
}

// mayLeave: nothing is missing before the end, and all of it is committed for good.
func (sh *share) mayLeave() bool {
	return sh.p != nil && !sh.broken && len(sh.all) > 0 && sh.end <= sh.state.LastStable
}

// leave takes what leaves from the sealed end on; what stays, from the run. Dead ranges are dropped.
func (sh *share) leave(leaves bool) {
	sh.leaves = leaves
	from := sh.inRun
	if leaves {
		from = sh.all
	}
	sh.sources = slices.DeleteFunc(slices.Clone(from), func(x source) bool {
		return x.r.End <= max(sh.state.LogStart, sh.state.SealedEnd)
	})
}

// makeFit makes the largest leave as long as the rest is too much for one object.
func (p *plan) makeFit() {
	var staying []*share
	for _, sh := range p.shares {
		if !sh.leaves {
			p.rest += sh.bytes()
			if sh.mayLeave() {
				staying = append(staying, sh)
			}
		}
	}
	slices.SortFunc(staying, func(a, b *share) int { return cmp.Compare(b.bytes(), a.bytes()) })
	for _, sh := range staying {
		if p.fits() {
			return
		}
		p.rest -= sh.bytes()
		sh.leave(true)
	}
}

// maxObject is what an object may take, its directory included.
func (s *Sealer) maxObject() int64 { return min(s.cfg.MaxObject, objectstore.MaxObjectBytes) }

// bytes is what the share takes in an object, at the most.
func (sh *share) bytes() (n int64) {
	for _, x := range sh.sources {
		n += sh.cost(x)
	}
	return n
}

// cost is what a range takes in an object: its batches, and its part of the directory. Of that a block's sum and an entry of
// the index take less than 32 bytes for every 256 KiB, a producer's batch less than 48.
func (sh *share) cost(x source) int64 {
	producers := len(x.r.Producers)
	if sh.p != nil {
		producers = max(producers, sh.producers)
	}
	return x.r.Len + x.r.Len>>12 + 48*int64(producers) + 256
}

// choosePromotions finds objects of the run whose ranges all leave and are all large. A WAL object only tells the
// producers' batches that it holds: it is promoted where that is all there is to tell.
func (p *plan) choosePromotions() {
	leaving := map[*object.Range]*share{}
	for _, sh := range p.shares {
		if sh.leaves {
			for _, x := range sh.sources {
				leaving[x.r] = sh
			}
		}
	}
	for _, o := range p.run {
		ok := true
		for i := range o.Dir.Ranges {
			r := &o.Dir.Ranges[i]
			sh := leaving[r]
			ok = ok && sh != nil && r.Len >= PromoteExtent && (r.Snapshot || tellsAll(r, sh.p.ProducersAt(r.End)))
		}
		if ok {
			p.promote[o] = true
		}
	}
}

func tellsAll(r *object.Range, state []object.Producer) bool {
	for i := range state {
		if state[i].BaseOffset < r.Base {
			return false
		}
	}
	return true
}

func (m *merge) header(kind metadata.Kind, o metadata.WALObject, created int64, level int32) object.Header {
	return object.Header{Cluster: m.cfg.Cluster, Incarnation: m.me.Incarnation, Agent: o.Session.Agent, Session: o.Session.Epoch, Nonce: m.me.Nonce,
		First: m.out.First, Last: m.out.Last, Kind: kind, CreatedAt: created, Level: level}
}

// segments writes what leaves, in objects of at most MaxObject bytes: each holds one large or many small extents.
func (m *merge) segments(ctx context.Context) error {
	var batchOf []source
	var parts []*share
	var size int64
	flush := func() error {
		if len(batchOf) == 0 {
			return nil
		}
		err := m.writeSealed(ctx, batchOf, parts)
		batchOf, parts, size = nil, nil, 0
		return err
	}
	for _, sh := range m.shares {
		if !sh.leaves {
			continue
		}
		for _, x := range sh.sources {
			if m.promote[x.o] {
				m.promoteRange(sh, x)
				continue
			}
			if n := sh.cost(x); size > 0 && size+n > m.maxObject() {
				if err := flush(); err != nil {
					return err
				}
			}
			batchOf, parts, size = append(batchOf, x), append(parts, sh), size+sh.cost(x)
		}
	}
	for _, o := range m.run {
		if m.promote[o] {
			m.out.Promote = append(m.out.Promote, o.Object.Key)
			m.made = append(m.made, made{object: o.Object, dir: o.Dir})
		}
	}
	return flush()
}

func (m *merge) promoteRange(sh *share, x source) {
	o := x.o.Object
	m.out.Segments = append(m.out.Segments, metadata.Segment{Extent: x.r.Extent(&o), Records: x.r.Records, Generation: x.r.Generation})
}

// writeSealed makes one sealed object of sources that are in order of partition and offset.
func (m *merge) writeSealed(ctx context.Context, xs []source, parts []*share) error {
	key := m.cfg.Key(metadata.Sealed, m.next())
	im, borrowed, err := m.build(ctx, m.header(metadata.Sealed, m.run[0].WALObject, oldest(m.run), 0), xs, parts)
	if err != nil {
		return err
	}
	defer im.Release()
	if err := m.put(ctx, key, im); err != nil {
		return err
	}
	obj := im.Object(key)
	m.out.Objects = append(m.out.Objects, obj)
	m.made = append(m.made, made{obj, im.Directory()})
	for i := range im.Directory().Ranges {
		r := &im.Directory().Ranges[i]
		m.out.Segments = append(m.out.Segments, metadata.Segment{Extent: r.Extent(&obj), Records: r.Records, Generation: r.Generation})
	}
	var until time.Time
	for _, sh := range parts {
		if t := time.Now().Add(sh.state.LocalRetention); t.After(until) {
			until = t
		}
	}
	m.keep(key, im, until, borrowed, xs)
	m.cfg.Metrics.Sealed.Inc()
	return nil
}

// keep leaves a copy of what was made to its readers. One that borrows all its bytes from memory stays there, in place of
// the run: nothing is written, until memory is short.
func (m *merge) keep(key string, im *object.Image, until time.Time, borrowed bool, xs []source) {
	if !borrowed {
		if err := m.cache.Keep(key, im, until); err != nil {
			m.cfg.Logger.Warn("no local copy of what was sealed", "key", key, "err", err)
		}
		return
	}
	im.Retain()
	m.heirs = append(m.heirs, cache.Heir{Key: key, Image: im, Until: until, Pace: m.pace})
	for _, x := range xs {
		m.held[x.o] = true
	}
}

// disinherit releases heirs of a run that was not replaced.
func (m *merge) disinherit() {
	for _, h := range m.heirs {
		h.Image.Release()
	}
}

func (s *Sealer) next() int64 {
	s.made++
	return s.made
}

func (m *merge) put(ctx context.Context, key string, im *object.Image) error {
	if err := m.index.Intend(ctx, m.me, []string{key}); err != nil {
		return fmt.Errorf("intend %s: %w", key, err)
	}
	if err := m.store.Put(ctx, key, objectstore.Paced(im, m.pace)); err != nil {
		return fmt.Errorf("store %s: %w", key, err)
	}
	m.cfg.Metrics.Bytes.Add(float64(im.Size()))
	return nil
}

const (
	// paceOver is how many times faster than its bytes came a merge sends them: it keeps up, and has time to read and commit.
	// As fast as it can, it would take a processor from those who produce, for a third of a second in each.
	paceOver = 2
	// leastPace, in bytes per second, disturbs nobody.
	leastPace = 64 << 20
)

// paceOf is how many bytes a second the merge of a run sends and writes.
func paceOf(run []*object.Stored) int64 {
	var bytes int64
	last := run[0].Dir.Header.CreatedAt
	for _, o := range run {
		bytes += o.Object.Length
		last = max(last, o.Dir.Header.CreatedAt)
	}
	took := max(last-oldest(run), 1) // milliseconds
	return max(paceOver*bytes*1000/took, leastPace)
}

func oldest(run []*object.Stored) int64 {
	at := run[0].Dir.Header.CreatedAt
	for _, o := range run {
		at = min(at, o.Dir.Header.CreatedAt)
	}
	return at
}

// build lays sources out as an object: neighbouring ranges of a partition become one, but for gaps. The views are held
// until the image is released. borrowed says that all of its bytes lie in memory where WAL objects were built.
func (m *merge) build(ctx context.Context, h object.Header, xs []source, parts []*share) (im *object.Image, borrowed bool, err error) {
	stretches, of := stretchesOf(xs)
	release := func() {
		for _, s := range stretches {
			s.view.Release()
		}
	}
	var names []object.TopicName
	for i, x := range xs {
		if i == 0 || xs[i-1].r.Partition.Topic != x.r.Partition.Topic {
			names = append(names, topicOf(x))
		}
	}
	b := object.NewBuilder(h, names)
	for i := 0; i < len(xs); {
		j := i + 1
		for j < len(xs) && parts[i].p != nil && joins(xs[j-1], xs[j]) {
			j++
		}
		b.Begin(rangeOf(xs[i:j], parts[i]))
		for ; i < j; i++ {
			if err := m.add(ctx, b, xs[i], of[i]); err != nil {
				release()
				return nil, false, err
			}
		}
	}
	borrowed = !slices.ContainsFunc(stretches, func(s *stretch) bool { return !s.view.Borrowed() })
	return b.Finish(release), borrowed, nil
}

func (m *merge) add(ctx context.Context, b *object.Builder, x source, from *stretch) error {
	if err := from.open(ctx, m.cache); err != nil {
		return err
	}
	for _, s := range from.take(x.r) {
		if err := b.AddRun(s); err != nil {
			return fmt.Errorf("merge %s: %w", x.o.Object.Key, err)
		}
	}
	return nil
}

func joins(a, b source) bool {
	return a.r.Partition == b.r.Partition && a.r.End == b.r.Base && !a.r.Gap && !b.r.Gap
}

func topicOf(x source) object.TopicName {
	for _, t := range x.o.Dir.Topics {
		if t.Num == x.r.Partition.Topic {
			return t
		}
	}
	return object.TopicName{Num: x.r.Partition.Topic}
}

// rangeOf describes the range that neighbouring sources become, with the producers' state at its end.
func rangeOf(xs []source, sh *share) object.Range {
	if sh.p == nil {
		return *xs[0].r // not led here: nobody knows more of it than its range says
	}
	first, last := xs[0].r, xs[len(xs)-1].r
	r := object.Range{Partition: first.Partition, Base: first.Base, LeaderEpoch: last.LeaderEpoch, EpochStart: last.EpochStart,
		Gap: first.Gap, Snapshot: true}
	r.Producers = sh.p.ProducersAt(last.End)
	if epochs := sh.p.EpochsIn(first.Base, last.End); len(epochs) > 1 {
		r.Rare = &object.Rare{Epochs: epochs}
	}
	return r
}

// packRest writes what stays small as one pack in the run's place.
func (m *merge) packRest(ctx context.Context) error {
	var xs []source
	var parts []*share
	for _, sh := range m.shares {
		if sh.leaves {
			continue
		}
		for _, x := range sh.sources {
			xs, parts = append(xs, x), append(parts, sh)
		}
	}
	if len(xs) == 0 {
		return nil
	}
	level := m.run[0].Dir.Header.Level
	for _, o := range m.run {
		level = max(level, o.Dir.Header.Level)
	}
	if len(m.run) > 1 || m.run[0].Kind == metadata.WAL {
		level++
	}
	key := m.cfg.Key(metadata.Pack, m.next())
	im, borrowed, err := m.build(ctx, m.header(metadata.Pack, m.run[0].WALObject, oldest(m.run), level), xs, parts)
	if err != nil {
		return err
	}
	defer im.Release()
	if err := m.put(ctx, key, im); err != nil {
		return err
	}
	m.out.Pack = &metadata.WALObject{Session: m.run[0].Session, First: m.out.First, Last: m.out.Last, Kind: metadata.Pack, Object: im.Object(key), Tries: 1, Directory: im.Bytes()}
	m.pack = &object.Stored{WALObject: *m.out.Pack, Dir: im.Directory()}
	m.keep(key, im, time.Now().Add(packLocal), borrowed, xs)
	m.cfg.Metrics.Packs.Inc()
	return nil
}

// packLocal is how long a pack stays on local disk: it will be merged again.
const packLocal = 24 * time.Hour

// commit replaces the run's rows, and returns when it is known whether it has. After a lost reply the same statement goes
// again until an answer comes: only this life takes these rows away, so that when they are gone it was this merge. To give
// up in doubt and begin anew would be to look for rows that a late statement has taken.
func (m *merge) commit(ctx context.Context) error {
	doubt := false
	for backoff := firstBackoff; ; backoff = min(2*backoff, lastBackoff) {
		err := m.index.Replace(ctx, m.me, m.out)
		switch {
		case err == nil, errors.Is(err, metadata.ErrFenced):
			return err
		case errors.Is(err, metadata.ErrUnknown):
			doubt = true
		case !doubt:
			return err
		case errors.Is(err, metadata.ErrConflict):
			there, readErr := m.index.Read(ctx, nil)
			if readErr == nil && !slices.ContainsFunc(there.Unsealed, func(o metadata.WALObject) bool { return o.Object.Key == m.out.Keys[0] }) {
				return nil
			}
			if readErr == nil {
				return err // another precondition does not hold, and will not
			}
		}
		select {
		case <-time.After(backoff):
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		}
	}
}

// Backoff between the repetitions of a commit in doubt.
const (
	firstBackoff = 50 * time.Millisecond
	lastBackoff  = 3 * time.Second
)

// publish tells everybody, after the commit: readers first learn where the bytes are, then lose the old places.
func (m *merge) publish() {
	for _, x := range m.made {
		m.reader.Learn(x.object.Key, x.dir)
	}
	segments := map[metadata.PartitionID][]metadata.Segment{}
	slices.SortFunc(m.out.Segments, func(a, b metadata.Segment) int { return cmp.Compare(a.Base, b.Base) }) // what was promoted came first
	for _, g := range m.out.Segments {
		segments[g.Partition] = append(segments[g.Partition], g)
	}
	for _, sh := range m.shares {
		if sh.p == nil {
			// It may have been opened since, from rows as they were.
			if sh.p, _ = m.partitions.Sealable(sh.id); sh.p == nil {
				continue
			}
		}
		end := int64(0)
		if sh.leaves {
			end = sh.end
			m.reader.Sealed(sh.id, segments[sh.id])
		}
		sh.p.Merged(m.in, end, m.pack)
	}
	m.log.replace(m.in, m.pack)
	var drop []string
	for _, o := range m.run {
		if !m.promote[o] {
			drop = append(drop, o.Object.Key)
		}
	}
	var held int64
	for o := range m.held {
		held += o.Object.Length
	}
	heirs := m.heirs
	m.heirs = nil
	m.cache.Succeed(drop, heirs, held)
	m.cfg.Metrics.Segments.Add(float64(len(m.out.Segments)))
	m.cfg.Metrics.Promoted.Add(float64(len(m.out.Promote)))
	if len(m.out.Segments) > 0 || m.pack != nil {
		m.cfg.Logger.Info("sealed", "objects", len(m.run), "segments", len(m.out.Segments), "sealed_objects", len(m.out.Objects),
			"promoted", len(m.out.Promote), "packed", m.pack != nil)
	}
}
