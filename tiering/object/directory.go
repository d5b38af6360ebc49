package object

import (
	"errors"
	"fmt"
	"hash/crc32"
	"iter"
	"sort"

	"varve.dev/metadata"
	"varve.dev/objectstore"
	"varve.dev/tiering/batch"
)

const (
	// Version is the format that this program writes, MinReader the oldest program that may read it.
	Version   = 1
	MinReader = 1
	// BlockSize is the least number of bytes between two block ends, except at the end of the data.
	BlockSize = 256 << 10
	// IndexStep is the least number of bytes between two entries of a range's sparse index.
	IndexStep = 128 << 10
	// MaxDirectory bounds what a decoder accepts: 64 MiB hold 3 million ranges.
	MaxDirectory = 64 << 20

	head    = "VRVD"
	tail    = "VRVE"
	trailer = 12
)

var (
	// ErrCorrupt means that the bytes are no directory of this format.
	ErrCorrupt = errors.New("corrupt object directory")
	// ErrTooNew means that a newer program wrote what this one must not ignore.
	ErrTooNew = errors.New("object was written by a newer version")

	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// Header says who wrote an object, when in its session's order, and what it then knew.
type Header struct {
	Cluster                     metadata.UUID
	Incarnation, Agent, Session int32
	Nonce                       uint64
	First, Last                 int64 // numbers that it covers
	Try                         int32
	CommittedThrough            int64 // highest number known committed when the object was built
	Kind                        metadata.Kind
	CreatedAt                   int64 // milliseconds; of a pack: of the oldest object that went into it
	Level                       int32 // of a pack: how often it was merged
}

// TopicName is what an object says of a topic, so that it can be read without the service.
type TopicName struct {
	Num  int32
	ID   metadata.UUID
	Name string
}

// Range is a contiguous stretch of one partition in an object.
type Range struct {
	Partition    metadata.PartitionID
	Base, End    int64
	EpochStart   int64
	Pos, Len     int64
	Records      int64
	MinTimestamp int64 // smallest base timestamp of a batch
	// MaxTimestamp is the largest timestamp of a batch. Where no batch has one it is when the object was made: retention
	// must have a time to go by.
	MaxTimestamp int64
	// MaxAppendTime is the largest append time, or -1 where no batch has one.
	MaxAppendTime int64
	LeaderEpoch   int32 // of the writer
	Generation    int32
	Gap           bool // an unclean election gave these offsets up
	Snapshot      bool // Producers is the state at End; otherwise one entry for each batch
	Producers     []Producer
	Index         []IndexEntry
	Rare          *Rare // nil: nothing of it
}

// Rare is what few ranges have: an agent holds a million of them.
type Rare struct {
	DeleteHorizon int64
	Epochs        []metadata.EpochStart
	Markers       []Marker
	Open          []OpenTxn
	Aborted       []AbortedTxn
	Cipher        Cipher
}

func (r *Range) rare() Rare {
	if r.Rare == nil {
		return Rare{}
	}
	return *r.Rare
}

func (x *Rare) isZero() bool {
	return x.DeleteHorizon == 0 && len(x.Epochs)+len(x.Markers)+len(x.Open)+len(x.Aborted) == 0 && x.Cipher.Algorithm == 0
}

// Producer is one batch of an idempotent or transactional producer.
type Producer struct {
	batch.Entry
	CoordinatorEpoch int32
	TxnCounter       int64
	TxnFirst         int64 // first offset of the open transaction, -1: none
}

// IndexEntry says that the batch at Pos (from the range's start) starts at Offset and that no batch before it has a
// timestamp above MaxTimestamp.
type IndexEntry struct {
	Offset, Pos, MaxTimestamp int64
}

// Marker ends a transaction; Commit or abort.
type Marker struct {
	ID     int64
	Epoch  int16
	Commit bool
	Offset int64
}

// OpenTxn is a transaction that is open at the range's end.
type OpenTxn struct{ ID, First int64 }

// AbortedTxn is an aborted transaction that overlaps the range.
type AbortedTxn struct{ ID, First, Last int64 }

// Cipher says how a range is encrypted; the zero value: it is not.
type Cipher struct {
	Algorithm uint8
	KeyID     string
	Nonce     []byte
}

// Directory is the end of an object, and the bytes of its index row.
type Directory struct {
	Header Header
	Topics []TopicName
	Ranges []Range // by partition and base
	Blocks objectstore.Blocks
}

const (
	flagGap = 1 << iota
	flagSnapshot
	flagRecords
	flagAppendTime
	flagGeneration
	flagEpochs
	flagProducers
	flagIndex
	flagTxn
	flagCipher
	flagTxnProducers
	allFlags = 1<<iota - 1
)

const (
	sectionHeader = 1
	sectionTopics = 2
	sectionRanges = 3
	sectionBlocks = 4
	critical      = 1 << 15
)

// Size is the length of the batches before the directory.
func (d *Directory) Size() int64 {
	if n := len(d.Blocks.Ends); n > 0 {
		return d.Blocks.Ends[n-1]
	}
	return 0
}

// Extents yields every range as an extent of o.
func (d *Directory) Extents(o *metadata.Object) iter.Seq[metadata.Extent] {
	return func(yield func(metadata.Extent) bool) {
		for i := range d.Ranges {
			if !yield(d.Ranges[i].Extent(o)) {
				return
			}
		}
	}
}

// Extent is the range as the index knows it.
func (r *Range) Extent(o *metadata.Object) metadata.Extent {
	return metadata.Extent{Partition: r.Partition, Base: r.Base, End: r.End, MaxTimestamp: r.MaxTimestamp, Object: o, Pos: r.Pos, Len: r.Len}
}

// Find answers the range of p that contains offset, or nil.
func (d *Directory) Find(p metadata.PartitionID, offset int64) *Range {
	i := sort.Search(len(d.Ranges), func(i int) bool {
		r := &d.Ranges[i]
		return p.Less(r.Partition) || p == r.Partition && r.End > offset
	})
	if i < len(d.Ranges) && d.Ranges[i].Partition == p && d.Ranges[i].Base <= offset {
		return &d.Ranges[i]
	}
	return nil
}

// Of is the ranges of p, in order.
func (d *Directory) Of(p metadata.PartitionID) []Range {
	from := sort.Search(len(d.Ranges), func(i int) bool { return !d.Ranges[i].Partition.Less(p) })
	end := from
	for end < len(d.Ranges) && d.Ranges[end].Partition == p {
		end++
	}
	return d.Ranges[from:end:end]
}

// SeekOffset answers where reading must start, from the range's start, to find offset: at a batch that starts at or before it.
func (r *Range) SeekOffset(offset int64) (pos int64) {
	i := sort.Search(len(r.Index), func(i int) bool { return r.Index[i].Offset > offset })
	if i == 0 {
		return 0
	}
	return r.Index[i-1].Pos
}

// SeekTime answers where reading must start to find the first batch whose max timestamp is at least millis.
func (r *Range) SeekTime(millis int64) (pos int64) {
	i := sort.Search(len(r.Index), func(i int) bool { return r.Index[i].MaxTimestamp >= millis })
	if i == 0 {
		return 0
	}
	return r.Index[i-1].Pos
}

// Stored is an object in the store whose directory is known: what the leader keeps of every unsealed one.
type Stored struct {
	metadata.WALObject
	Dir *Directory
}

// Open decodes the directory of an unsealed object's row.
func Open(o metadata.WALObject) (*Stored, error) {
	d, err := Decode(o.Directory)
	if err != nil {
		return nil, fmt.Errorf("directory of %s: %w", o.Object.Key, err)
	}
	return &Stored{o, d}, nil
}
