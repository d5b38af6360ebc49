// Package metadata says what the agents share: its types, its roles, its errors. It keeps state and refuses what is not
// valid; policy lives in the agents.
//
// Every write names the session in whose life it is made, and holds only while that session is not fenced. The roles are
// small so that each user takes only what it needs; metadata/sqlite and metadata/postgres implement all of them and
// metadata/metatest is the one suite that holds both to this text.
package metadata

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"time"
)

var (
	// ErrFenced means that the session is over: a newer epoch of the same agent exists. Nothing was done, and nothing that
	// this session sends will ever be done.
	ErrFenced = errors.New("session is fenced")
	// ErrUnknown means that the reply was lost: the statement may have been executed, may be executed later, or never.
	// For Index.Commit only Settle tells; every other statement may simply be repeated.
	ErrUnknown = errors.New("outcome unknown")
	// ErrConflict means that a precondition did not hold and nothing was done: read again and decide anew.
	ErrConflict = errors.New("precondition failed")
	// ErrNotFound means that what was named does not exist (any more).
	ErrNotFound = errors.New("not found")
	// ErrExists means that the name is taken.
	ErrExists = errors.New("already exists")
	// ErrUnavailable means that the store could not be reached and surely nothing was done. Retriable.
	ErrUnavailable = errors.New("metadata store unavailable")
)

// SetupError says what is wrong with the metadata store and what a person must do: unreachable at start, wrong
// credentials, a schema newer than this program, a replica, unsafe settings, another database than the one we knew.
type SetupError struct {
	Problem, Hint string
	Err           error
}

func (e *SetupError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("%s: %s", e.Problem, e.Hint)
	}
	return fmt.Sprintf("%s: %s (%v)", e.Problem, e.Hint, e.Err)
}

func (e *SetupError) Unwrap() error { return e.Err }

// UUID is a random 128-bit id; the zero value means none.
type UUID [16]byte

// String is Kafka's form: 22 characters of unpadded base64url.
func (u UUID) String() string { return base64.RawURLEncoding.EncodeToString(u[:]) }

// PartitionID is a topic's dense number, never used twice, and the partition's index.
type PartitionID struct{ Topic, Partition int32 }

func (p PartitionID) String() string { return fmt.Sprintf("%d/%d", p.Topic, p.Partition) }

// Less orders partitions as objects lay them out.
func (p PartitionID) Less(q PartitionID) bool {
	return p.Topic < q.Topic || p.Topic == q.Topic && p.Partition < q.Partition
}

// Cluster is the one row that says which cluster this is.
type Cluster struct {
	ID          UUID
	Incarnation int32 // raised by repair; in every key and every producer id
	Shards      int32 // of coordinators; fixed when the cluster is created
	Format      int32 // highest format version that may be written
}

// Agent is what a start says of itself.
type Agent struct {
	ID            int32
	Journal       UUID // of the journal on this disk
	Address, Rack string
	Version       string
}

// Session is one life of one agent. Every write names it; its commits are numbered from 1.
type Session struct {
	Agent, Epoch int32
	Nonce        uint64 // in the keys of everything that this life uploads
	Incarnation  int32  // of the cluster when the session started
}

// Ended is what the row said of the life before: its last committed number, and its journal.
type Ended struct {
	Session       Session // Epoch 0: there was none
	Seq           int64
	Journal       UUID
	JournalSynced int64
}

// Pulse is what an observer sees of a session.
type Pulse struct {
	Agent, Epoch int32
	Beat         int64
	Address      string
	Rack         string
}

// Object is one immutable stored object.
type Object struct {
	Key             string
	Length          int64
	DirectoryLength int32 // at the object's end: opening costs one exact ranged read
	CRC32C          uint32
	Format          int32
}

// Kind of an object's row.
type Kind uint8

const (
	WAL    Kind = iota // one flush
	Pack               // several merged, for partitions that do not fill a segment yet
	Sealed             // segments only
)

// WALObject is one committed flush, or several merged (Kind Pack). Directory holds, byte for byte, the directory of the
// object: one codec, and a lost row can be adopted again.
type WALObject struct {
	Session     Session // the writer's; Agent and Epoch only
	First, Last int64   // numbers that it covers
	Kind        Kind
	Object      Object
	Tries       int32 // the object was stored under this many tries; earlier ones may have left orphans
	Directory   []byte
}

// Extent says that [Base, End) of a partition lie in [Pos, Pos+Len) of an object.
type Extent struct {
	Partition    PartitionID
	Base, End    int64
	MaxTimestamp int64 // milliseconds
	Object       *Object
	Pos, Len     int64
}

// Segment is an extent in a sealed object, as the index holds it.
type Segment struct {
	Extent
	Records    int64 // may be fewer than End-Base once compaction or a gap made holes
	RunningMax int64 // largest MaxTimestamp of this and all earlier segments; the store computes it
	Generation int32 // of compaction
}

// SessionRef names a session whose unsealed objects may contain a partition.
type SessionRef struct{ Agent, Epoch int32 }

// EpochStart says that a leader epoch starts at an offset.
type EpochStart struct {
	Epoch int32
	Start int64
}

// NoAgent stands where no agent leads.
const NoAgent int32 = -1

// NeverLed is the leader epoch of a new partition. The first leader's is 0, as Kafka's is: clients seek with it.
const NeverLed int32 = -1

// Partition is a partition's row.
type Partition struct {
	ID            PartitionID
	Leader        int32        // NoAgent: released
	LeaderSession int32        // epoch of the leader's session
	LeaderEpoch   int32        // NeverLed: nobody has
	Epochs        []EpochStart // oldest first, the current one last; what lies below LogStart may be gone
	TailJournal   UUID         // only this journal may hold acknowledged records beyond the committed end
	TailCap       int64        // records that may lie beyond the committed end
	Unsealed      []SessionRef // oldest first
	SealedEnd     int64
	LogStart      int64
	CleanedEnd    int64
	Target        int32 // the controller's wish; NoAgent: none
	LeaderFenced  bool  // Leader's session is over
}

// Topic is a topic's row.
type Topic struct {
	Num        int32
	ID         UUID
	Name       string
	Partitions int32
	Config     map[string]string // what was set on the topic; the rest are defaults
	Deleting   bool              // gone for users; its bytes are still being removed
}

// Catalog is a consistent image of what all agents know of topics and dynamic configuration.
type Catalog struct {
	Version int64
	Topics  []Topic
	// Brokers holds dynamic broker configs by agent id; NoAgent is the cluster-wide default.
	Brokers map[int32]map[string]string
	// Groups holds dynamic group configs by group id.
	Groups map[string]map[string]string
}

// Commit is one numbered commit.
type Commit struct {
	// From is the session's last number before it. Objects take From+1, From+2, …; a commit that only releases takes one
	// number.
	From    int64
	Objects []WALObject
	Release []PartitionID
	// JournalSynced is a journal position that is known to be on disk.
	JournalSynced int64
}

// To is the session's last number after the commit.
func (c Commit) To() int64 {
	if len(c.Objects) == 0 {
		return c.From + 1
	}
	return c.From + int64(len(c.Objects))
}

// State is what one snapshot says of some partitions: their rows, and every unsealed object of the sessions that they
// name, in the order of session and number.
type State struct {
	Partitions []Partition
	Unsealed   []WALObject
}

// Acquisition asks to lead one partition.
type Acquisition struct {
	Partition PartitionID
	SeenEpoch int32        // the leader epoch that was read; the new one is one more
	Start     int64        // where the new epoch starts
	Epochs    []EpochStart // the history to store, the new epoch last
	Unsealed  []SessionRef // to store: sessions whose objects may still contain the partition, the own one last
	// Journal is what TailJournal becomes: the own journal for a `local` partition, zero for others.
	Journal UUID
	TailCap int64
	// Unclean gives up a tail that another journal may hold; Lost is recorded.
	Unclean bool
	Lost    *LostRange
}

// LostRange says that acknowledged records may have been given up.
type LostRange struct {
	Partition PartitionID
	From, To  int64 // [From, To)
	Epoch     int32 // the leader epoch that gave them up
	Journal   UUID
	Why       string
	At        time.Time // the store's clock; set on reading
}

// SealedPartition moves one partition's sealed end.
type SealedPartition struct {
	ID          PartitionID
	LeaderEpoch int32
	Base, End   int64 // SealedEnd before and after
}

// Sealing replaces the run [First, Last] of a session's unsealed objects.
type Sealing struct {
	Of          Session // the writer of the run: the caller's own session, or a fenced one. Agent and Epoch only
	First, Last int64
	Keys        []string // exactly the keys of the run's rows, in order
	Partitions  []SealedPartition
	Segments    []Segment // their Object names a new object or one of Promote
	Objects     []Object  // new sealed objects; their intents end here
	Promote     []string  // keys of the run that stay, as sealed objects
	Pack        *WALObject
	// Dead are keys to tombstone besides the run's own: earlier tries that may have left orphans.
	Dead  []string
	Grace time.Duration // of the superseded objects
}

// Moving replaces one sealed object by another with fewer extents: what lived in it stays readable at its offsets.
type Moving struct {
	From     string // key
	To       *Object
	Segments []Segment // every live segment of From, exactly, with its place in To
	Grace    time.Duration
}

// Trim moves a partition's log start and drops the segments that end at or below it.
type Trim struct {
	Partition   PartitionID
	LeaderEpoch int32
	LogStart    int64
	// Producers is what the leader knows where no segment is left to tell it, that is where LogStart passes the sealed
	// end; else nil.
	Producers *ProducerState
}

// ProducerState is the state of a partition's producers at End, an offset that was committed. The bytes are the agents'
// affair.
type ProducerState struct {
	Partition PartitionID
	End       int64
	State     []byte
}

// MixedObject is a sealed object some of whose extents are dead.
type MixedObject struct {
	Object   Object
	Segments []Segment // the live ones
}

// Tombstone is a key that nothing refers to and that may go.
type Tombstone struct {
	Key    string
	Reason string
}

// ShardLease is the right to write the groups of one shard.
type ShardLease struct{ Shard, Epoch int32 }

// GroupRow is the durable part of a group. State is opaque here.
type GroupRow struct {
	Group string
	Shard int32
	State []byte
}

// GroupOffset is one committed offset.
type GroupOffset struct {
	Group       string
	Shard       int32 // of the group; among the Leases of the write
	Partition   PartitionID
	Offset      int64
	LeaderEpoch int32 // -1: unknown
	Metadata    string
	CommitTime  int64 // milliseconds
	ExpireTime  int64 // milliseconds, -1: by the group's retention
}

// OffsetKey names a committed offset.
type OffsetKey struct {
	Group     string
	Shard     int32
	Partition PartitionID
}

// GroupWrite is what one window of a coordinator changes, in one transaction. Counter grows with each write of a lease:
// an older write never overwrites a newer one.
type GroupWrite struct {
	Leases        []ShardLease // of every shard that it touches
	Counter       int64
	Offsets       []GroupOffset // keys are unique
	DeleteOffsets []OffsetKey
	Groups        []GroupRow
	DeleteGroups  []GroupKey // with all their offsets
}

// GroupKey names a group and its shard.
type GroupKey struct {
	Group string
	Shard int32
}

// NoTimestamp is a record time that says nothing.
const NoTimestamp int64 = math.MinInt64

// Grace is how long a tombstoned object keeps its bytes: Superseded for one whose records live on elsewhere or were
// deleted (longer than twice the oldest index cache plus the longest fetch), Orphan for one that no commit ever named (the
// backup window: a repair may adopt it).
type Grace struct{ Superseded, Orphan time.Duration }

// Inventory is everything that the index says of the bucket, in one snapshot.
type Inventory struct {
	Topics     []Topic
	Partitions []Partition
	Objects    []InventoryObject
	Segments   []Segment // ordered by partition and base; Object is set
	Intents    []string
	Tombstones []Tombstone
	// Lives is the last life of every agent, over or not: what it has uploaded beyond Seq nothing names before its commit,
	// or before the agent's next start.
	Lives []Ended
}

// InventoryObject is an object's row.
type InventoryObject struct {
	Object
	Kind      Kind
	Live      int // extents that segments name; 0 for wal and pack
	Directory []byte
}
