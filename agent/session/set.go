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
	me      metadata.Session
	journal metadata.UUID
	store   Store
	buffer  *flush.Buffer
	dirs    Directories
	log     *seal.Log
	topics  Topics
	cfg     Config

	led  atomic.Pointer[map[metadata.PartitionID]*partition.Partition]
	turn chan struct{} // one slot: who changes what is led

	mu      sync.Mutex
	waiting map[metadata.PartitionID]metadata.UUID // tails that other journals hold
	topic   map[int32]Topic
	gone    []int32
	goneHas map[int32]bool
}

// NewSet leads nothing yet.
func NewSet(me metadata.Session, journalID metadata.UUID, store Store, b *flush.Buffer, dirs Directories, log *seal.Log, topics Topics, cfg Config) *Set {
	s := &Set{me: me, journal: journalID, store: store, buffer: b, dirs: dirs, log: log, topics: topics, cfg: cfg, turn: make(chan struct{}, 1),
		waiting: map[metadata.PartitionID]metadata.UUID{}}
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
// committed and every partition is open.
func (s *Set) Start(ctx context.Context, j Recoverer, dbSynced int64) (journal.Report, error) {
	unlock, err := s.lock(ctx)
	if err != nil {
		return journal.Report{}, err
	}
	defer unlock()
	s.refresh()
	state, opened, err := s.read(ctx, nil)
	if err != nil {
		return journal.Report{}, err
	}
	for _, o := range opened {
		s.log.Add(o)
	}
	tails, report, err := s.recover(state, opened, j, dbSynced)
	if err != nil {
		return report, err
	}
	if err := s.lead(ctx, state, opened, tails, nil); err != nil {
		return report, err
	}
	if len(tails) > 0 {
		if err := s.buffer.Quiesce(ctx); err != nil {
			return report, fmt.Errorf("commit the recovered tail: %w", err)
		}
	}
	return report, nil
}

// refresh takes the catalog's newest image.
func (s *Set) refresh() {
	topics, gone := s.topics.Wanted()
	has := make(map[int32]bool, len(gone))
	for _, num := range gone {
		has[num] = true
	}
	s.mu.Lock()
	s.topic, s.gone, s.goneHas = topics, gone, has
	s.mu.Unlock()
}

// read answers rows and unsealed objects of one snapshot; objects that are known already keep their identity.
func (s *Set) read(ctx context.Context, ids []metadata.PartitionID) (metadata.State, []*object.Stored, error) {
	state, err := s.store.Read(ctx, ids)
	if err != nil {
		return state, nil, fmt.Errorf("read partitions: %w", err)
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
			return state, nil, err
		}
	}
	return state, opened, nil
}

// committedEnds is max(sealed end, ends in unsealed objects) of each partition.
func committedEnds(state metadata.State, opened []*object.Stored) map[metadata.PartitionID]int64 {
	ends := make(map[metadata.PartitionID]int64, len(state.Partitions))
	for i := range state.Partitions {
		p := &state.Partitions[i]
		ends[p.ID] = max(p.SealedEnd, p.LogStart)
	}
	for _, o := range opened {
		for i := range o.Dir.Ranges {
			r := &o.Dir.Ranges[i]
			if end, ok := ends[r.Partition]; ok && r.End > end {
				ends[r.Partition] = r.End
			}
		}
	}
	return ends
}

// recover collects, for each partition, the batches that the journal holds beyond the committed end. A frame counts if it
// goes on where the last one ended and its leader epoch is the one that the partition's history has there: so nothing that
// another leader has meanwhile replaced comes back.
func (s *Set) recover(state metadata.State, opened []*object.Stored, j Recoverer, dbSynced int64) (map[metadata.PartitionID][]batch.Batch, journal.Report, error) {
	ends := committedEnds(state, opened)
	rows := make(map[metadata.PartitionID]*metadata.Partition, len(state.Partitions))
	for i := range state.Partitions {
		rows[state.Partitions[i].ID] = &state.Partitions[i]
	}
	tails := map[metadata.PartitionID][]batch.Batch{}
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
		end := ends[f.Partition]
		if b.End() <= end {
			return nil // committed since
		}
		if b.Base() != end || b.LeaderEpoch() != partition.EpochAt(row.Epochs, b.Base()) || !s.mine(row) {
			aside++
			return s.cfg.SetAside(f)
		}
		tails[f.Partition] = append(tails[f.Partition], slices.Clone(b))
		ends[f.Partition] = b.End()
		return nil
	})
	if aside > 0 {
		s.cfg.Logger.Error("records of the journal belong to no partition that this agent leads: they were set aside", "batches", aside)
	}
	return tails, report, err
}

// mine says whether the row's last leader was an earlier life of this agent, or nobody has led since.
func (s *Set) mine(row *metadata.Partition) bool {
	return row.Leader == s.me.Agent
}

// lead acquires those of state that this agent may lead and opens them. give names partitions whose tail is given up.
func (s *Set) lead(ctx context.Context, state metadata.State, opened []*object.Stored, tails map[metadata.PartitionID][]batch.Batch, give map[metadata.PartitionID]bool) error {
	ends := committedEnds(state, opened)
	alive := map[metadata.SessionRef]bool{}
	for _, o := range opened {
		alive[metadata.SessionRef{Agent: o.Session.Agent, Epoch: o.Session.Epoch}] = true
	}
	var as []metadata.Acquisition
	rows := map[metadata.PartitionID]*metadata.Partition{}
	for i := range state.Partitions {
		row := &state.Partitions[i]
		a, ok := s.acquisition(row, ends[row.ID], tails[row.ID], alive, give[row.ID])
		if ok {
			as = append(as, a)
			rows[row.ID] = row
		}
	}
	if len(as) == 0 {
		return nil
	}
	got, err := s.store.Acquire(ctx, s.me, as)
	if err != nil {
		return fmt.Errorf("acquire %d partitions: %w", len(as), err)
	}
	history := make(map[metadata.PartitionID]metadata.Acquisition, len(as))
	for _, a := range as {
		history[a.Partition] = a
	}
	producers, err := s.producers(ctx, got, rows)
	if err != nil {
		return err
	}
	next := maps.Clone(*s.led.Load())
	for _, id := range got {
		p, err := s.open(rows[id], history[id], opened, producers[id], tails[id], give[id])
		if err != nil {
			return err
		}
		next[id] = p
	}
	s.mu.Lock()
	for _, id := range got {
		delete(s.waiting, id)
	}
	s.mu.Unlock()
	s.led.Store(&next)
	return nil
}

// acquisition says how a partition would be acquired, or that it may not be.
func (s *Set) acquisition(row *metadata.Partition, end int64, tail []batch.Batch, alive map[metadata.SessionRef]bool, give bool) (metadata.Acquisition, bool) {
	topic, ok := s.topicOf(row.ID.Topic)
	switch {
	case !ok,
		row.Leader == s.me.Agent && row.LeaderSession == s.me.Epoch && !give,
		row.Leader != metadata.NoAgent && row.Leader != s.me.Agent && !row.LeaderFenced:
		return metadata.Acquisition{}, false
	}
	a := metadata.Acquisition{Partition: row.ID, SeenEpoch: row.LeaderEpoch, Start: end, TailCap: partition.TailCap}
	if row.TailJournal != (metadata.UUID{}) && row.TailJournal != s.journal {
		if !give && !topic.Unclean {
			s.mu.Lock()
			if _, known := s.waiting[row.ID]; !known {
				s.cfg.Logger.Error("partition waits for the journal that holds its acknowledged tail; give it up with an unclean election",
					"topic", topic.Name.Name, "partition", row.ID.Partition, "journal", row.TailJournal)
			}
			s.waiting[row.ID] = row.TailJournal
			s.mu.Unlock()
			return metadata.Acquisition{}, false
		}
		a.Unclean = true
		a.Lost = &metadata.LostRange{Partition: row.ID, From: end, To: end + partition.TailCap, Epoch: row.LeaderEpoch + 1, Journal: row.TailJournal,
			Why: "unclean election: the journal that held the tail was given up"}
	}
	if len(tail) > 0 {
		a.Start = tail[len(tail)-1].End()
	}
	for _, e := range row.Epochs {
		// An epoch that started beyond here has never held a record: the tail that it counted on was not all on disk.
		if e.Start <= a.Start {
			a.Epochs = append(a.Epochs, e)
		}
	}
	for len(a.Epochs) > 1 && a.Epochs[1].Start <= row.LogStart {
		a.Epochs = a.Epochs[1:]
	}
	a.Epochs = append(a.Epochs, metadata.EpochStart{Epoch: row.LeaderEpoch + 1, Start: a.Start})
	me := metadata.SessionRef{Agent: s.me.Agent, Epoch: s.me.Epoch}
	for _, ref := range row.Unsealed {
		if alive[ref] && ref != me {
			a.Unsealed = append(a.Unsealed, ref)
		}
	}
	a.Unsealed = append(a.Unsealed, me)
	if topic.Config.Local || len(tail) > 0 && row.TailJournal == s.journal {
		a.Journal = s.journal
	}
	return a, true
}

func (s *Set) topicOf(num int32) (Topic, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.topic[num]
	return t, ok
}

// producers reads the producers' state at the sealed end of each partition: it stands in the directory of its newest
// segment. A segment older than every producer's expiry has nothing to tell.
func (s *Set) producers(ctx context.Context, ids []metadata.PartitionID, rows map[metadata.PartitionID]*metadata.Partition) (map[metadata.PartitionID][]object.Producer, error) {
	var sealed []metadata.PartitionID
	for _, id := range ids {
		if rows[id].SealedEnd > 0 {
			sealed = append(sealed, id)
		}
	}
	if len(sealed) == 0 {
		return nil, nil
	}
	segments, err := s.store.LastSegments(ctx, sealed)
	if err != nil {
		return nil, fmt.Errorf("find newest segments: %w", err)
	}
	states := make(map[metadata.PartitionID][]object.Producer, len(segments))
	now := time.Now()
	for i := range segments {
		g := &segments[i]
		topic, _ := s.topicOf(g.Partition.Topic)
		if g.MaxTimestamp < now.Add(-topic.Config.ProducerExpiry).UnixMilli() {
			continue
		}
		dir, err := s.dirs.Directory(ctx, *g.Object)
		if err != nil {
			return nil, err
		}
		if r := dir.Find(g.Partition, g.Base); r != nil {
			states[g.Partition] = r.Producers
		}
	}
	return states, nil
}

// open makes the partition, puts its tail, or the gap of an unclean election, behind the committed end.
func (s *Set) open(row *metadata.Partition, a metadata.Acquisition, opened []*object.Stored, producers []object.Producer, tail []batch.Batch, give bool) (*partition.Partition, error) {
	topic, _ := s.topicOf(row.ID.Topic)
	p := partition.New(partition.Start{ID: row.ID, Topic: topic.Name, Epochs: a.Epochs, LogStart: row.LogStart, Sealed: row.SealedEnd,
		Unsealed: opened, Producers: producers}, s.buffer, topic.Config)
	if a.Unclean {
		if err := p.Skip(a.Lost.To-a.Lost.From, time.Now()); err != nil {
			return nil, err
		}
		s.cfg.Logger.Error("unclean election: acknowledged records may be lost", "topic", topic.Name.Name, "partition", row.ID.Partition,
			"from", a.Lost.From, "to", a.Lost.To, "journal", a.Lost.Journal)
	}
	for _, b := range tail {
		if err := p.Replay(b); err != nil {
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
	s.refresh()
	s.mu.Lock()
	topics := s.topic
	s.mu.Unlock()
	s.drop(topics)
	if err := s.configure(ctx, topics); err != nil {
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
	state, opened, err := s.read(ctx, missing)
	if err != nil {
		return err
	}
	return s.lead(ctx, state, opened, nil, nil)
}

// drop closes partitions of topics that are gone.
func (s *Set) drop(topics map[int32]Topic) {
	led := *s.led.Load()
	next := maps.Clone(led)
	for id, p := range led {
		if _, ok := topics[id.Topic]; !ok {
			p.Close(fmt.Errorf("%w: the topic is deleted", partition.ErrNotLeader))
			delete(next, id)
			s.dirs.Forget(id)
		}
	}
	if len(next) < len(led) {
		s.led.Store(&next)
	}
}

// configure applies settings. A partition that becomes `local` has its journal named in its row before the journal alone
// counts; one that stops being it, after everything is committed.
func (s *Set) configure(ctx context.Context, topics map[int32]Topic) error {
	var begin, end []metadata.PartitionID
	led := *s.led.Load()
	for id, p := range led {
		if want := topics[id.Topic].Config.Local; want && !p.Local() {
			begin = append(begin, id)
		} else if !want && p.Local() {
			end = append(end, id)
		}
	}
	if len(begin) > 0 {
		if err := s.store.SetJournal(ctx, s.me, begin, s.journal); err != nil {
			return fmt.Errorf("name the journal of %d partitions: %w", len(begin), err)
		}
	}
	for id, p := range led {
		if !p.Configure(topics[id.Topic].Config) {
			end = slices.DeleteFunc(end, func(e metadata.PartitionID) bool { return e == id }) // later: its tail is on its way
		}
	}
	if len(end) > 0 {
		if err := s.store.SetJournal(ctx, s.me, end, metadata.UUID{}); err != nil {
			return fmt.Errorf("release the journal of %d partitions: %w", len(end), err)
		}
	}
	return nil
}

// Elect leads partitions that wait for another journal by giving up the tail that it holds. Those that do not wait are
// left alone.
func (s *Set) Elect(ctx context.Context, ids []metadata.PartitionID) error {
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	s.refresh()
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
	state, opened, err := s.read(ctx, wanted)
	if err != nil {
		return err
	}
	if err := s.lead(ctx, state, opened, nil, give); err != nil {
		return err
	}
	return s.buffer.Quiesce(ctx)
}

// Trim moves log starts forward: DeleteRecords.
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
	if err := s.store.Trim(ctx, s.me, ts, s.cfg.Grace); err != nil {
		return err
	}
	for _, t := range ts {
		s.Trimmed(t.Partition, t.LogStart)
		s.dirs.Forget(t.Partition)
	}
	return nil
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

// Unsealed implements gc.Partitions.
func (s *Set) Unsealed(topic int32) bool { return s.log.Holds(topic) }

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
func (s *Set) Expired(id metadata.PartitionID, before time.Time) int64 {
	if p := (*s.led.Load())[id]; p != nil {
		return p.Expired(before)
	}
	return 0
}

// Trimmed implements gc.Partitions.
func (s *Set) Trimmed(id metadata.PartitionID, logStart int64) {
	if p := (*s.led.Load())[id]; p != nil {
		p.SetLogStart(logStart)
	}
}
