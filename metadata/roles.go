package metadata

import "context"

// Clusters says which cluster this is.
type Clusters interface {
	// Join returns the cluster's row, creating it from fresh if there is none.
	Join(ctx context.Context, fresh Cluster) (Cluster, error)
}

// Sessions says who lives. No clock is stored and none decides: an observer fences what it has seen stand still.
type Sessions interface {
	// Start takes a new epoch for a.ID, whatever the row said: it fences the life before. In the same transaction it
	// tombstones, after grace, what that life may have uploaded and not committed: the keys that doomed names for it, and
	// its upload intents.
	Start(ctx context.Context, a Agent, nonce uint64, doomed func(Ended) []string, grace Grace) (Session, Ended, error)
	// Beat shows life when no commit has: it fails with ErrFenced when the session is over.
	Beat(ctx context.Context, s Session, journalSynced int64) error
	// Watch lists every session that is not over.
	Watch(ctx context.Context) ([]Pulse, error)
	// Fence ends a session by compare-and-set on epoch and beat: ErrConflict if it has moved.
	Fence(ctx context.Context, p Pulse) error
	// Stop ends the own session. What it still led stays its own until somebody acquires it.
	Stop(ctx context.Context, s Session) error
}

// Leases says who leads which partition.
type Leases interface {
	// Read answers the rows of ids (nil: of every partition of every topic that is not being deleted) and the unsealed
	// objects of all sessions that they name, in one snapshot.
	Read(ctx context.Context, ids []PartitionID) (State, error)
	// Acquire makes s the leader of those whose row is as it was seen and whose leader is gone: released, fenced, or an
	// earlier session of the same agent. The others are left out of the answer. The tail must be ours (TailJournal none or
	// the session's journal) unless Unclean is set.
	Acquire(ctx context.Context, s Session, as []Acquisition) ([]PartitionID, error)
	// Lost lists the recorded lost ranges, newest first, at most limit.
	Lost(ctx context.Context, limit int) ([]LostRange, error)
	// SetJournal changes TailJournal of partitions that s leads: when a topic becomes `local`, or stops being it.
	SetJournal(ctx context.Context, s Session, ids []PartitionID, journal UUID) error
}

// Index is the object index.
type Index interface {
	// Commit is one numbered statement: fence, order, renewal, objects and releases. ErrFenced: this session is over.
	// ErrConflict: the session's number is not c.From. ErrUnknown: Settle, and nothing else, tells.
	Commit(ctx context.Context, s Session, c Commit) error
	// Settle answers the last number that is committed, by an acknowledged write on the session's row that demands it to
	// be in [from, to].
	Settle(ctx context.Context, s Session, from, to int64) (last int64, err error)
	// Intend records keys that are about to be uploaded, so that nothing is forgotten if this life ends before Replace or
	// Move names them.
	Intend(ctx context.Context, s Session, keys []string) error
	// Replace puts the outcome of a merge in the place of its run, in one transaction: exactly the run's rows, and for each
	// partition exactly the leader epoch and sealed end that were seen, or ErrConflict and nothing is changed. Repeating
	// one that has succeeded answers ErrConflict; the caller reads to find out.
	Replace(ctx context.Context, s Session, out Sealing) error
	// Move puts one sealed object in the place of another, in one transaction; ErrConflict unless exactly the segments
	// named are there. To nil: none live, only the row and a tombstone.
	Move(ctx context.Context, s Session, m Moving) error
	// Mixed lists sealed objects with dead extents beside live ones, at most limit.
	Mixed(ctx context.Context, limit int) ([]MixedObject, error)
	// Find answers the segments from the one that contains offset on, or the next, in order, at most limit.
	Find(ctx context.Context, p PartitionID, offset int64, limit int) ([]Segment, error)
	// FindTime answers the first segment whose running maximum is at least millis, or ErrNotFound.
	FindTime(ctx context.Context, p PartitionID, millis int64) (Segment, error)
	// LastSegments answers the newest segment of each of ids that has one.
	LastSegments(ctx context.Context, ids []PartitionID) ([]Segment, error)
	// ProducerStates answers the newest state that a Trim has left of each of ids, if one has.
	ProducerStates(ctx context.Context, ids []PartitionID) ([]ProducerState, error)
	// Trim moves log starts forward (never back: a smaller one is ignored), drops the segments below, and tombstones, after
	// grace, the objects that nothing refers to any more. It keeps the producers' states that come with it, where none at a
	// later offset is there. Partitions whose leader epoch differs fail it with ErrConflict.
	Trim(ctx context.Context, s Session, ts []Trim, grace Grace) error
}

// Topics holds topics and dynamic configuration. A change raises the catalog's version.
type Topics interface {
	// Catalog answers the current image, or only its version if that is known.
	Catalog(ctx context.Context, known int64) (Catalog, error)
	// CreateTopic creates a topic with its partitions and gives it a number. ErrExists: the name is taken.
	CreateTopic(ctx context.Context, t Topic, target int32) (Topic, error)
	// AddPartitions raises the number of partitions from one count to another, or ErrConflict.
	AddPartitions(ctx context.Context, num int32, from, to int32, target int32) error
	// DeleteTopic hides the topic, frees its name, drops its partitions, segments and committed offsets, and tombstones
	// the objects that nothing refers to any more.
	DeleteTopic(ctx context.Context, num int32, grace Grace) error
	// ForgetTopic removes a deleted topic's row, when no object contains it any more.
	ForgetTopic(ctx context.Context, num int32) error
	// SetTopicConfig replaces what is set on a topic.
	SetTopicConfig(ctx context.Context, num int32, config map[string]string) error
	// SetBrokerConfig replaces the dynamic config of one agent, or of all (NoAgent).
	SetBrokerConfig(ctx context.Context, agent int32, config map[string]string) error
	// SetGroupConfig replaces the dynamic config of a group.
	SetGroupConfig(ctx context.Context, group string, config map[string]string) error
}

// Groups holds the coordinators' shards, groups and offsets.
type Groups interface {
	// AcquireShards takes the leases of shards whose holder is gone, or an earlier session of the same agent.
	AcquireShards(ctx context.Context, s Session, shards []int32) ([]ShardLease, error)
	// LoadShards reads every group and offset of shards.
	LoadShards(ctx context.Context, shards []int32) ([]GroupRow, []GroupOffset, error)
	// Write applies w. Shards whose lease is not held any more are left out and answered in lost; nothing of them was done.
	Write(ctx context.Context, s Session, w GroupWrite) (lost []int32, err error)
}

// Producers hands out producer ids.
type Producers interface {
	// ProducerIDs reserves n ids, never given out before: the incarnation stands in their top 15 bits below the sign.
	ProducerIDs(ctx context.Context, n int64) (first int64, err error)
}

// Garbage is what no row refers to any more.
type Garbage interface {
	// Dead lists tombstones whose grace has passed by the store's clock, oldest first.
	Dead(ctx context.Context, limit int) ([]Tombstone, error)
	// Forget removes tombstones after their objects are gone.
	Forget(ctx context.Context, keys []string) error
	// Referenced lists every object that a row, an intent or a tombstone names: for `storage verify`. Referenced reads all
	// of them in one snapshot.
	Referenced(ctx context.Context) (Inventory, error)
}

// Store is every role. Only the composition root and the suites name it.
type Store interface {
	Clusters
	Sessions
	Leases
	Index
	Topics
	Groups
	Producers
	Garbage
	Close() error
}
