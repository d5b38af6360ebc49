package group

import (
	"time"

	"varve.dev/metadata"
)

// Ref names a request that waits for its reply. Zero is nobody.
type Ref uint64

// Input is what happens to a group.
type Input interface{ input() }

// Protocol is one way of sharing out the work that a member understands; Metadata is opaque but for "consumer" groups.
type Protocol struct {
	Name     string
	Metadata []byte
}

// Join asks to become, or to stay, a member of the next generation.
type Join struct {
	To               Ref
	Member           string // empty: not yet known
	Instance         string // empty: a dynamic member
	ClientID, Host   string
	Session          time.Duration
	Rebalance        time.Duration
	ProtocolType     string
	Protocols        []Protocol // in the member's order of preference
	NewID            string     // the id to give if Member is empty
	RequireKnownID   bool       // KIP-394: JoinGroup v4 and later
	CanSkipAssigning bool       // KIP-814: JoinGroup v9 and later
}

// Sync asks for the member's share; the leader brings everybody's.
type Sync struct {
	To               Ref
	Member, Instance string
	Generation       int32
	ProtocolType     *string // nil: not said
	Protocol         *string
	Assignments      []Assignment
}

// Assignment is one member's share, as the leader decided it.
type Assignment struct {
	Member string
	Data   []byte
}

// Heartbeat says that a member lives.
type Heartbeat struct {
	To               Ref
	Member, Instance string
	Generation       int32
}

// Leave takes members out.
type Leave struct {
	To      Ref
	Members []Leaver
}

// Leaver is a member that leaves; with an instance and no member id it is removed by an operator.
type Leaver struct{ Member, Instance string }

// Commit stores offsets.
type Commit struct {
	To               Ref
	Member, Instance string
	Generation       int32 // negative: not by a member
	Offsets          []metadata.GroupOffset
	// KnowsGroupIDNotFound is set for OffsetCommit v9 and later.
	KnowsGroupIDNotFound bool
}

// DeleteOffsets removes committed offsets of topics that nobody is subscribed to.
type DeleteOffsets struct {
	To         Ref
	Partitions []TopicPartition
}

// TopicPartition is a partition with its topic's name, since subscriptions are by name.
type TopicPartition struct {
	ID    metadata.PartitionID
	Topic string
}

// Delete ends an empty group.
type Delete struct{ To Ref }

// Barrier waits until everything that was asked to be stored before it is.
type Barrier struct{ To Ref }

// ForgetTopic drops the offsets of a topic that the store has dropped already.
type ForgetTopic struct{ Topic int32 }

// Expire removes offsets that nobody came back for (KIP-211), and the group if nothing is left of it. Name answers a topic's
// name, false if there is no such topic any more.
type Expire struct {
	Name func(topic int32) (string, bool)
}

// Tick says that time has passed. Hold keeps every session alive.
type Tick struct{ Hold bool }

// Written answers a Write: it is stored (nil), or it surely is not.
type Written struct {
	Ticket uint64
	Err    error
}

func (Join) input()          {}
func (Sync) input()          {}
func (Heartbeat) input()     {}
func (Leave) input()         {}
func (Commit) input()        {}
func (DeleteOffsets) input() {}
func (Delete) input()        {}
func (Barrier) input()       {}
func (ForgetTopic) input()   {}
func (Expire) input()        {}
func (Tick) input()          {}
func (Written) input()       {}

// Action is what a group wants done. A Reply goes to the request that its Ref names; every Ref gets exactly one.
// Errors in replies are kerr's: the words of the protocol itself.
type Action interface{ action() }

// JoinReply answers Join.
type JoinReply struct {
	To                     Ref
	Err                    error
	Generation             int32
	ProtocolType, Protocol string
	Leader, Member         string
	SkipAssignment         bool
	Members                []JoinedMember // for the leader only
}

// JoinedMember is what the leader learns of a member.
type JoinedMember struct {
	Member, Instance string
	Metadata         []byte
}

// SyncReply answers Sync.
type SyncReply struct {
	To                     Ref
	Err                    error
	ProtocolType, Protocol string
	Assignment             []byte
}

// LeaveReply answers Leave; Errs is per member, in order.
type LeaveReply struct {
	To   Ref
	Errs []error
}

// DeleteOffsetsReply answers DeleteOffsets; Errs is per partition, in order, and empty if Err is set.
type DeleteOffsetsReply struct {
	To   Ref
	Err  error
	Errs []error
}

// Reply answers Heartbeat, Commit, Delete and Barrier.
type Reply struct {
	To  Ref
	Err error
}

// Write asks the store for changes, after every Write before it. Written with the same ticket answers.
type Write struct {
	Ticket        uint64
	Row           []byte // nil: as it was
	Offsets       []metadata.GroupOffset
	DeleteOffsets []metadata.PartitionID
	Delete        bool // the whole group
}

// Cancel says that nobody waits for a write any more: if it has not been sent, it need not be.
type Cancel struct{ Ticket uint64 }

// Gone says that nothing is left of the group.
type Gone struct{}

func (JoinReply) action()          {}
func (SyncReply) action()          {}
func (LeaveReply) action()         {}
func (DeleteOffsetsReply) action() {}
func (Reply) action()              {}
func (Write) action()              {}
func (Cancel) action()             {}
func (Gone) action()               {}
