package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"varve.dev/metadata"
	"varve.dev/tiering/batch"
	"varve.dev/tiering/flush"
	"varve.dev/tiering/gc"
	"varve.dev/tiering/journal"
	"varve.dev/tiering/object"
	"varve.dev/tiering/partition"
	"varve.dev/tiering/seal"
)

// ErrWaiting: the partition's acknowledged tail lies in another journal. It waits for that, or for an unclean election.
var ErrWaiting = errors.New("the partition waits for the journal that holds its tail")

// Topic is what the catalog says of one topic.
type Topic struct {
	Name           object.TopicName
	Partitions     int32
	Config         partition.Config
	Retention      time.Duration // negative: for ever
	RetentionBytes int64         // negative: no bound
	Unclean        bool          // unclean.leader.election.enable
}

// Topics is what the catalog says now, by number; gone are those that are deleted while their bytes may still be there.
type Topics interface {
	Wanted() (topics map[int32]Topic, gone []int32)
}

// Store is what leading asks of the metadata.
type Store interface {
	Read(ctx context.Context, ids []metadata.PartitionID) (metadata.State, error)
	Acquire(ctx context.Context, s metadata.Session, as []metadata.Acquisition) ([]metadata.PartitionID, error)
	SetJournal(ctx context.Context, s metadata.Session, ids []metadata.PartitionID, journal metadata.UUID) error
	LastSegments(ctx context.Context, ids []metadata.PartitionID) ([]metadata.Segment, error)
	ProducerStates(ctx context.Context, ids []metadata.PartitionID) ([]metadata.ProducerState, error)
	Trim(ctx context.Context, s metadata.Session, ts []metadata.Trim, grace metadata.Grace) error
}

// Directories opens sealed objects (fetch.Reader).
type Directories interface {
	Directory(ctx context.Context, o metadata.Object) (*object.Directory, error)
	Forget(p metadata.PartitionID)
}

// Config of a Set.
type Config struct {
	Grace metadata.Grace
	// SetAside takes a recovered batch that belongs to no partition that this agent leads: it is kept and reported, never
	// merged.
	SetAside func(f journal.Frame) error
	Logger   *slog.Logger
}

// Set is the partitions that this agent leads.
type Set struct {
	me     metadata.Session
	claim  claimant
	store  Store
	buffer *flush.Buffer
	dirs   Directories
	log    *seal.Log
	topics Topics
	cfg    Config

	led  atomic.Pointer[map[metadata.PartitionID]*partition.Partition]
	turn chan struct{} // one slot: who changes what is led. Its holder owns named and gapped

	named  map[metadata.PartitionID]bool                 // led, and their rows name the own journal
	gapped map[metadata.PartitionID]*partition.Partition // acquired, but the gap behind their end is not yet known committed

	unsettled atomic.Bool

	mu      sync.Mutex
	waiting map[metadata.PartitionID]metadata.UUID // tails that other journals hold
	topic   map[int32]Topic
	gone    []int32
	goneHas map[int32]bool
}

// NewSet leads nothing yet.
func NewSet(me metadata.Session, journalID metadata.UUID, store Store, b *flush.Buffer, dirs Directories, log *seal.Log, topics Topics, cfg Config) *Set {
	s := &Set{me: me, claim: claimant{metadata.SessionRef{Agent: me.Agent, Epoch: me.Epoch}, journalID}, store: store, buffer: b, dirs: dirs, log: log, topics: topics, cfg: cfg, turn: make(chan struct{}, 1),
		named: map[metadata.PartitionID]bool{}, gapped: map[metadata.PartitionID]*partition.Partition{}, waiting: map[metadata.PartitionID]metadata.UUID{}}
	s.led.Store(&map[metadata.PartitionID]*partition.Partition{})
	return s
}

// Get answers a partition that this agent leads, ErrWaiting, or partition.ErrNotLeader.
func (s *Set) Get(id metadata.PartitionID) (*partition.Partition, error) {
	if p := (*s.led.Load())[id]; p != nil {
		return p, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if j, ok := s.waiting[id]; ok {
		return nil, fmt.Errorf("%w: %s, journal %s", ErrWaiting, id, j)
	}
	return nil, fmt.Errorf("%w: %s", partition.ErrNotLeader, id)
}

// Leader says who leads a partition, as far as this agent knows: itself, or nobody.
func (s *Set) Leader(id metadata.PartitionID) (agent, leaderEpoch int32, err error) {
	p, err := s.Get(id)
	if err != nil {
		return metadata.NoAgent, -1, err
	}
	return s.me.Agent, p.Epoch().Epoch, nil
}

// All is every partition that this agent leads, in order.
func (s *Set) All() []*partition.Partition {
	led := *s.led.Load()
	ids := slices.SortedFunc(maps.Keys(led), func(a, b metadata.PartitionID) int {
		if a.Less(b) {
			return -1
		}
		return 1
	})
	all := make([]*partition.Partition, len(ids))
	for i, id := range ids {
		all[i] = led[id]
	}
	return all
}

// Waiting lists the partitions whose tail another journal holds.
func (s *Set) Waiting() map[metadata.PartitionID]metadata.UUID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.waiting)
}

// Pause implements seal.Partitions: nothing is opened or dropped until resume is called.
func (s *Set) Pause(ctx context.Context) (resume func(), err error) { return s.lock(ctx) }

func (s *Set) lock(ctx context.Context) (unlock func(), err error) {
	select {
	case s.turn <- struct{}{}:
		return func() { <-s.turn }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Recoverer reads the journal (journal.Journal).
type Recoverer interface {
	Recover(dbSynced int64, frame func(journal.Frame) error) (journal.Report, error)
}

// Start leads what this agent may lead, and takes back the tail that its journal holds. When it returns, the tail is
// committed or set aside and every partition is open: nothing of the journal up to the report's last window is needed any
// more.
func (s *Set) Start(ctx context.Context, j Recoverer, dbSynced int64) (journal.Report, error) {
	unlock, err := s.lock(ctx)
	if err != nil {
		return journal.Report{}, err
	}
	defer unlock()
	s.refresh()
	v, opened, err := s.read(ctx, nil)
	if err != nil {
		return journal.Report{}, err
	}
	for _, o := range opened {
		s.log.Add(o)
	}
	tails, report, err := s.recover(v, j, dbSynced)
	if err != nil {
		return report, err
	}
	s.buffer.Continue(report.LastWindow)
	if err := s.lead(ctx, v, tails, nil); err != nil {
		return report, err
	}
	if err := s.setAsideUnled(tails); err != nil {
		return report, err
	}
	if len(tails) > 0 {
		if err := s.buffer.Quiesce(ctx); err != nil {
			return report, fmt.Errorf("commit the recovered tail: %w", err)
		}
		s.cfg.Logger.Info("took back the tail that the journal held", "partitions", len(tails))
	}
	return report, s.configure(ctx)
}

// setAsideUnled keeps the tails of partitions that somebody else has taken since they were read.
func (s *Set) setAsideUnled(tails map[metadata.PartitionID][]journal.Frame) error {
	led := *s.led.Load()
	for id, frames := range tails {
		if led[id] != nil {
			continue
		}
		s.cfg.Logger.Error("a recovered tail has lost its partition: it was set aside", "partition", id.String(), "batches", len(frames))
		for _, f := range frames {
			if err := s.cfg.SetAside(f); err != nil {
				return err
			}
		}
	}
	return nil
}

// refresh takes the catalog's newest image.
func (s *Set) refresh() map[int32]Topic {
	topics, gone := s.topics.Wanted()
	has := make(map[int32]bool, len(gone))
	for _, num := range gone {
		has[num] = true
	}
	s.mu.Lock()
	s.topic, s.gone, s.goneHas = topics, gone, has
	s.mu.Unlock()
	return topics
}

// read answers rows and unsealed objects of one snapshot; objects that are known already keep their identity.
func (s *Set) read(ctx context.Context, ids []metadata.PartitionID) (*snapshot, []*object.Stored, error) {
	state, err := s.store.Read(ctx, ids)
	if err != nil {
		return nil, nil, fmt.Errorf("read partitions: %w", err)
	}
	known := map[string]*object.Stored{}
	for _, o := range s.log.Objects() {
		known[o.Object.Key] = o
	}
	opened := make([]*object.Stored, len(state.Unsealed))
	for i, row := range state.Unsealed {
		if o := known[row.Object.Key]; o != nil {
			opened[i] = o
			continue
		}
		if opened[i], err = object.Open(row); err != nil {
			return nil, nil, err
		}
	}
	return newSnapshot(state, opened), opened, nil
}

// recover collects, for each partition, the frames that the journal holds beyond the committed end.
func (s *Set) recover(v *snapshot, j Recoverer, dbSynced int64) (map[metadata.PartitionID][]journal.Frame, journal.Report, error) {
	rows := make(map[metadata.PartitionID]*metadata.Partition, len(v.state.Partitions))
	for i := range v.state.Partitions {
		rows[v.state.Partitions[i].ID] = &v.state.Partitions[i]
	}
	ends := maps.Clone(v.ends)
	tails := map[metadata.PartitionID][]journal.Frame{}
	aside := 0
	report, err := j.Recover(dbSynced, func(f journal.Frame) error {
		b, _, err := batch.Parse(f.Batch)
		if err != nil {
			return fmt.Errorf("journal frame of %s: %w", f.Partition, err)
		}
		row := rows[f.Partition]
		if row == nil {
			return nil // the topic is deleted
		}
		switch s.claim.accept(row, ends[f.Partition], b.Base(), b.End(), b.LeaderEpoch()) {
		case tail:
			f.Batch = slices.Clone(f.Batch)
			tails[f.Partition] = append(tails[f.Partition], f)
			ends[f.Partition] = b.End()
		case foreign:
			aside++
			return s.cfg.SetAside(f)
		}
		return nil
	})
	if aside > 0 {
		s.cfg.Logger.Error("records of the journal belong to no partition that this agent leads: they were set aside", "batches", aside)
	}
	return tails, report, err
}

// lead acquires those of the snapshot that this agent may lead and opens them. give names partitions whose tail is given
// up.
func (s *Set) lead(ctx context.Context, v *snapshot, tails map[metadata.PartitionID][]journal.Frame, give map[metadata.PartitionID]bool) error {
	var as []metadata.Acquisition
	var ids []metadata.PartitionID
	rows := map[metadata.PartitionID]*metadata.Partition{}
	how := map[metadata.PartitionID]metadata.Acquisition{}
	for i := range v.state.Partitions {
		row := &v.state.Partitions[i]
		topic, ok := s.topicOf(row.ID.Topic)
		if !ok {
			continue
		}
		what := seen{row: row, end: v.ends[row.ID], tail: v.ends[row.ID], unsealed: v.unsealed(row), local: topic.Config.Local,
			unclean: topic.Unclean || give[row.ID]}
		if t := tails[row.ID]; len(t) > 0 {
			what.tail = batch.Batch(t[len(t)-1].Batch).End()
		}
		a, verdict := s.claim.decide(what)
		switch verdict {
		case take:
			as = append(as, a)
		case resume:
			ids = append(ids, row.ID)
		case await:
			s.await(row, topic)
			continue
		case leave:
			continue
		}
		rows[row.ID], how[row.ID] = row, a
	}
	if len(as) > 0 {
		got, err := s.store.Acquire(ctx, s.me, as)
		if err != nil {
			return fmt.Errorf("acquire %d partitions: %w", len(as), err)
		}
		ids = append(ids, got...)
	}
	if len(ids) == 0 {
		return nil
	}
	states, err := s.producerStates(ctx, ids, rows)
	if err != nil {
		return err
	}
	next := maps.Clone(*s.led.Load())
	for _, id := range ids {
		p, err := s.open(rows[id], how[id], v.of(rows[id]), states[id], tails[id])
		if err != nil {
			return err
		}
		if how[id].Unclean {
			s.gapped[id] = p
			s.await(rows[id], Topic{})
			continue
		}
		next[id] = p
		if how[id].Journal == s.claim.journal {
			s.named[id] = true
		}
	}
	s.publish(next)
	return s.closeGaps(ctx)
}

// await notes that a partition waits, and says so once.
func (s *Set) await(row *metadata.Partition, topic Topic) {
	s.mu.Lock()
	_, known := s.waiting[row.ID]
	s.waiting[row.ID] = row.TailJournal
	s.mu.Unlock()
	if !known && topic.Name.Name != "" {
		s.cfg.Logger.Error("partition waits for the journal that holds its acknowledged tail; give it up with an unclean election",
			"topic", topic.Name.Name, "partition", row.ID.Partition, "journal", row.TailJournal)
	}
}

// publish makes next what is led.
func (s *Set) publish(next map[metadata.PartitionID]*partition.Partition) {
	s.led.Store(&next)
	s.mu.Lock()
	for id := range next {
		delete(s.waiting, id)
	}
	s.mu.Unlock()
}

// closeGaps opens partitions whose tail was given up, once their gaps are committed. Not before: what is acknowledged
// behind a gap that then is lost would have its offsets given to others.
func (s *Set) closeGaps(ctx context.Context) error {
	if len(s.gapped) == 0 {
		return nil
	}
	if err := s.buffer.Quiesce(ctx); err != nil {
		return fmt.Errorf("commit the gaps of %d partitions: %w", len(s.gapped), err)
	}
	next := maps.Clone(*s.led.Load())
	var local, object []metadata.PartitionID
	for id, p := range s.gapped {
		next[id] = p
		if p.Local() {
			local = append(local, id)
		} else {
			object = append(object, id)
		}
	}
	if err := s.name(ctx, local, s.claim.journal); err != nil {
		return err
	}
	if err := s.name(ctx, object, metadata.UUID{}); err != nil {
		return err
	}
	clear(s.gapped)
	s.publish(next)
	return nil
}

// name puts a journal, or none, into the rows of partitions.
func (s *Set) name(ctx context.Context, ids []metadata.PartitionID, journal metadata.UUID) error {
	if len(ids) == 0 {
		return nil
	}
	if err := s.store.SetJournal(ctx, s.me, ids, journal); err != nil {
		return fmt.Errorf("name journal %s in %d partitions: %w", journal, len(ids), err)
	}
	for _, id := range ids {
		if journal == s.claim.journal {
			s.named[id] = true
		} else {
			delete(s.named, id)
		}
	}
	return nil
}

func (s *Set) topicOf(num int32) (Topic, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.topic[num]
	return t, ok
}

// open makes the partition, puts its tail, or the gap of an unclean election, behind the committed end.
func (s *Set) open(row *metadata.Partition, a metadata.Acquisition, unsealed []*object.Stored, at object.State, frames []journal.Frame) (*partition.Partition, error) {
	topic, _ := s.topicOf(row.ID.Topic)
	p := partition.New(partition.Start{ID: row.ID, Topic: topic.Name, Epochs: a.Epochs, LogStart: row.LogStart, Sealed: row.SealedEnd,
		Unsealed: unsealed, State: at}, s.buffer, topic.Config)
	if a.Unclean {
		from := p.Offsets().End
		if err := p.Skip(gapOf(row), time.Now()); err != nil {
			return nil, err
		}
		s.cfg.Logger.Error("unclean election: acknowledged records may be lost", "topic", topic.Name.Name, "partition", row.ID.Partition,
			"from", from, "to", from+gapOf(row), "journal", row.TailJournal)
		return p, nil
	}
	for _, f := range frames {
		if err := p.Replay(batch.Batch(f.Batch)); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// Reconcile brings what this agent leads in line with the catalog: it leads what is new, closes what is gone, and applies
// settings.
func (s *Set) Reconcile(ctx context.Context) error {
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	topics := s.refresh()
	s.drop(topics)
	if err := s.closeGaps(ctx); err != nil {
		return err
	}
	if err := s.configure(ctx); err != nil {
		return err
	}
	led := *s.led.Load()
	var missing []metadata.PartitionID
	for num, t := range topics {
		for i := range t.Partitions {
			id := metadata.PartitionID{Topic: num, Partition: i}
			if led[id] == nil {
				missing = append(missing, id)
			}
		}
	}
	if len(missing) == 0 {
		return nil
	}
	v, _, err := s.read(ctx, missing)
	if err != nil {
		return err
	}
	return s.lead(ctx, v, nil, nil)
}

// Unsettled says that a topic's durability has changed and some of its partitions still go by the old one: their tail is on
// its way. Reconcile tries again.
func (s *Set) Unsettled() bool { return s.unsettled.Load() }

// drop closes partitions of topics that are gone.
func (s *Set) drop(topics map[int32]Topic) {
	led := *s.led.Load()
	next := maps.Clone(led)
	gone := func(id metadata.PartitionID) bool { _, ok := topics[id.Topic]; return !ok }
	for id, p := range led {
		if gone(id) {
			p.Close(fmt.Errorf("%w: the topic is deleted", partition.ErrNotLeader))
			delete(next, id)
			delete(s.named, id)
			s.dirs.Forget(id)
		}
	}
	maps.DeleteFunc(s.gapped, func(id metadata.PartitionID, _ *partition.Partition) bool { return gone(id) })
	s.mu.Lock()
	maps.DeleteFunc(s.waiting, func(id metadata.PartitionID, _ metadata.UUID) bool { return gone(id) })
	s.mu.Unlock()
	if len(next) < len(led) {
		s.led.Store(&next)
	}
}

// configure applies settings. A partition that becomes `local` has its journal named in its row before the journal alone
// counts; one that stops being it keeps it there until everything is committed.
func (s *Set) configure(ctx context.Context) error {
	led := *s.led.Load()
	var begin, end []metadata.PartitionID
	for id, p := range led {
		if topic, _ := s.topicOf(id.Topic); topic.Config.Local && !p.Local() && !s.named[id] {
			begin = append(begin, id)
		}
	}
	if err := s.name(ctx, begin, s.claim.journal); err != nil {
		return err
	}
	unsettled := false
	for id, p := range led {
		topic, ok := s.topicOf(id.Topic)
		if !ok {
			continue
		}
		switch {
		case !p.Configure(topic.Config):
			unsettled = true
		case !topic.Config.Local && s.named[id]:
			end = append(end, id)
		}
	}
	s.unsettled.Store(unsettled)
	return s.name(ctx, end, metadata.UUID{})
}

// Elect leads partitions that wait for another journal by giving up the tail that it holds. Those that do not wait are
// left alone.
func (s *Set) Elect(ctx context.Context, ids []metadata.PartitionID) error {
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	s.drop(s.refresh())
	if err := s.closeGaps(ctx); err != nil {
		return err
	}
	give := map[metadata.PartitionID]bool{}
	waiting := s.Waiting()
	var wanted []metadata.PartitionID
	for _, id := range ids {
		if _, ok := waiting[id]; ok {
			give[id], wanted = true, append(wanted, id)
		}
	}
	if len(wanted) == 0 {
		return nil
	}
	v, _, err := s.read(ctx, wanted)
	if err != nil {
		return err
	}
	if err := s.lead(ctx, v, nil, give); err != nil {
		return err
	}
	var errs []error
	for _, id := range wanted {
		if _, err := s.Get(id); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Trim moves log starts forward: DeleteRecords and retention (gc.Partitions).
func (s *Set) Trim(ctx context.Context, ts []metadata.Trim) error {
	for _, t := range ts {
		// A log start is in the index, so it may not lie beyond what the index holds.
		if p := (*s.led.Load())[t.Partition]; p != nil && p.Offsets().Committed < t.LogStart {
			if err := s.buffer.Quiesce(ctx); err != nil {
				return err
			}
			break
		}
	}
	led, now := *s.led.Load(), time.Now()
	ts = slices.Clone(ts)
	for i := range ts {
		t := &ts[i]
		if p := led[t.Partition]; p != nil {
			if state, needed := p.Remember(t.LogStart, now); needed {
				t.Producers = &metadata.ProducerState{Partition: t.Partition, End: state.End, State: state.Append(nil)}
			}
		}
	}
	if err := s.store.Trim(ctx, s.me, ts, s.cfg.Grace); err != nil {
		return err
	}
	for _, t := range ts {
		if p := (*s.led.Load())[t.Partition]; p != nil {
			p.SetLogStart(t.LogStart)
		}
		s.dirs.Forget(t.Partition)
	}
	return nil
}

// Hole says whether no object holds an offset that a reader was promised. A trim whose reply was lost, or is still on its
// way, and the deletion of a topic look the same to that reader: the index knows better, and the leader learns it.
func (s *Set) Hole(ctx context.Context, id metadata.PartitionID, offset int64) (bool, error) {
	state, err := s.store.Read(ctx, []metadata.PartitionID{id})
	if err != nil {
		return false, err
	}
	if len(state.Partitions) == 0 {
		return false, nil
	}
	start := state.Partitions[0].LogStart
	if p := (*s.led.Load())[id]; p != nil {
		p.SetLogStart(start)
	}
	return offset >= start, nil
}

// Release closes every partition and gives them up by a numbered commit, for whoever comes next.
func (s *Set) Release(ctx context.Context) error {
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	led := *s.led.Load()
	if len(led) == 0 {
		return nil
	}
	for _, p := range led {
		p.Close(fmt.Errorf("%w: the agent stops", partition.ErrNotLeader))
	}
	return s.buffer.Release(ctx, slices.Collect(maps.Keys(led)))
}

// Close refuses further appends with err, everywhere.
func (s *Set) Close(err error) {
	for _, p := range *s.led.Load() {
		p.Close(err)
	}
}

// Sealable implements seal.Partitions.
func (s *Set) Sealable(id metadata.PartitionID) (p seal.Partition, gone bool) {
	if led := (*s.led.Load())[id]; led != nil {
		return led, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return nil, s.goneHas[id.Topic]
}

// Deleted implements seal.Partitions.
func (s *Set) Deleted() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.gone) > 0
}

// DeletedTopics implements gc.Partitions.
func (s *Set) DeletedTopics() []int32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.gone)
}

// Unsealed implements gc.Partitions. It looks in the order in which records travel: while partitions are open, in the
// buffer, in unsealed objects; so that nothing can slip by.
func (s *Set) Unsealed(topic int32) bool {
	for id := range *s.led.Load() {
		if id.Topic == topic {
			return true
		}
	}
	return s.buffer.Holds(topic) || s.log.Holds(topic)
}

// Kept implements gc.Partitions.
func (s *Set) Kept() (kept []gc.Kept) {
	for _, p := range s.All() {
		topic, ok := s.topicOf(p.ID().Topic)
		if !ok {
			continue
		}
		at := p.Offsets()
		kept = append(kept, gc.Kept{ID: p.ID(), LeaderEpoch: at.LeaderEpoch, LogStart: at.LogStart, SealedEnd: at.SealedEnd, Committed: at.Committed,
			UnsealedBytes: p.Bytes(), RetentionTime: topic.Retention, RetentionBytes: topic.RetentionBytes})
	}
	return kept
}

// Expired implements gc.Partitions.
func (s *Set) Expired(id metadata.PartitionID, sealedEnd int64, before time.Time) int64 {
	p := (*s.led.Load())[id]
	if p == nil {
		return 0
	}
	expired := p.Expired(before)
	if p.Offsets().SealedEnd != sealedEnd {
		return 0 // a merge came between: what it sealed has not been looked at
	}
	return expired
}
