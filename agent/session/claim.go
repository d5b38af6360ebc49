package session

import (
	"slices"

	"varve.dev/metadata"
	"varve.dev/tiering/object"
	"varve.dev/tiering/partition"
)

// givenUp stands in a partition's row, where the tail's journal stands, from the moment an unclean election has given the
// tail up until the gap behind it is committed. No journal has this id: whoever comes next puts a gap too, the journal
// that was given up included.
var givenUp = metadata.UUID{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// claimant is who wants to lead: this life of this agent, with this journal.
type claimant struct {
	me      metadata.SessionRef
	journal metadata.UUID
}

// seen is what one snapshot of the index, the journal and the catalog say of a partition.
type seen struct {
	row      *metadata.Partition
	end      int64                 // committed
	tail     int64                 // end of what the own journal holds beyond it; end: nothing
	unsealed []metadata.SessionRef // those of the row's that have unsealed objects
	local    bool                  // the topic's durability
	unclean  bool                  // the tail may be given up: the topic allows it, or an operator has said so
}

// verdict on a partition.
type verdict uint8

const (
	leave  verdict = iota // another agent leads it
	await                 // its tail lies in another journal
	take                  // to be acquired
	resume                // acquired by this life already, by a request whose reply was lost
)

// fate of a frame of the journal.
type fate uint8

const (
	committed fate = iota // the index has it
	tail                  // it goes on where the committed records, or the frame before, end
	foreign               // it is of no history that this agent may continue
)

// accept says what becomes of a frame at [base, next), written under a leader epoch, where the partition ends at end. It
// counts if it goes on there and its epoch is the one that the partition's history has at its base: so nothing comes back
// that another leader has replaced meanwhile, even if that leader has written nothing yet, and what its gap or its records
// have replaced is not taken for committed. And only the journal that the row names, or any of this agent's if it names
// none, may hold what the index lacks.
func (c claimant) accept(row *metadata.Partition, end, base, next int64, epoch int32) fate {
	switch {
	case next <= row.LogStart:
		return committed // and deleted since; its epoch may be forgotten
	case epoch != partition.EpochAt(row.Epochs, max(base, row.LogStart)):
		return foreign
	case next <= end:
		return committed
	case base != end, row.Leader != c.me.Agent, !c.mayHold(row):
		return foreign
	}
	return tail
}

// mayHold says whether the own journal may hold records that were acknowledged and are not committed.
func (c claimant) mayHold(row *metadata.Partition) bool {
	return row.TailJournal == (metadata.UUID{}) || row.TailJournal == c.journal
}

// decide says how the partition is acquired, or that it may not be. What an unclean election puts behind the committed end
// is a gap as long as any tail can be; until that is committed nobody else may take the partition without one.
func (c claimant) decide(s seen) (metadata.Acquisition, verdict) {
	row := s.row
	if row.Leader == c.me.Agent && row.LeaderSession == c.me.Epoch {
		return c.acquired(row), resume
	}
	if row.Leader != metadata.NoAgent && row.Leader != c.me.Agent && !row.LeaderFenced {
		return metadata.Acquisition{}, leave
	}
	a := metadata.Acquisition{Partition: row.ID, SeenEpoch: row.LeaderEpoch, Start: s.end, TailCap: partition.TailCap}
	switch {
	case c.mayHold(row):
		a.Start = s.tail
		if s.local || s.tail > s.end && row.TailJournal == c.journal {
			a.Journal = c.journal
		}
	case row.TailJournal == givenUp: // and is recorded as lost
		a.Unclean, a.Journal = true, givenUp
	case s.unclean:
		a.Unclean, a.Journal = true, givenUp
		a.Lost = &metadata.LostRange{Partition: row.ID, From: s.end, To: s.end + gapOf(row), Epoch: row.LeaderEpoch + 1, Journal: row.TailJournal,
			Why: "unclean election: the journal that held the tail was given up"}
	default:
		return metadata.Acquisition{}, await
	}
	a.Epochs = history(row, a.Start)
	for _, ref := range s.unsealed {
		if ref != c.me {
			a.Unsealed = append(a.Unsealed, ref)
		}
	}
	a.Unsealed = append(a.Unsealed, c.me)
	return a, take
}

// acquired is the acquisition that the row tells of.
func (c claimant) acquired(row *metadata.Partition) metadata.Acquisition {
	start := row.Epochs[len(row.Epochs)-1].Start
	return metadata.Acquisition{Partition: row.ID, SeenEpoch: row.LeaderEpoch - 1, Start: start, Epochs: row.Epochs, Unsealed: row.Unsealed,
		Journal: row.TailJournal, TailCap: row.TailCap, Unclean: row.TailJournal == givenUp}
}

// gapOf is how many records an unclean election skips: as many as could lie beyond the committed end.
func gapOf(row *metadata.Partition) int64 { return max(row.TailCap, partition.TailCap) }

// history is the row's, as far as it holds, and the new epoch from start on. An epoch that started beyond there has never
// held a record: the tail that it counted on was not all on disk.
func history(row *metadata.Partition, start int64) (epochs []metadata.EpochStart) {
	for _, e := range row.Epochs {
		if e.Start <= start {
			epochs = append(epochs, e)
		}
	}
	for len(epochs) > 1 && epochs[1].Start <= row.LogStart {
		epochs = epochs[1:]
	}
	return append(epochs, metadata.EpochStart{Epoch: row.LeaderEpoch + 1, Start: start})
}

// snapshot is rows, and the unsealed objects that may hold their partitions, of one moment.
type snapshot struct {
	state   metadata.State
	objects map[metadata.PartitionID][]*object.Stored // those that hold it, in no order of sessions
	alive   map[metadata.SessionRef]bool              // sessions with unsealed objects
	ends    map[metadata.PartitionID]int64            // committed
}

func newSnapshot(state metadata.State, opened []*object.Stored) *snapshot {
	v := &snapshot{state: state, objects: map[metadata.PartitionID][]*object.Stored{}, alive: map[metadata.SessionRef]bool{},
		ends: make(map[metadata.PartitionID]int64, len(state.Partitions))}
	for i := range state.Partitions {
		p := &state.Partitions[i]
		v.ends[p.ID] = max(p.SealedEnd, p.LogStart)
	}
	for _, o := range opened {
		v.alive[refOf(o)] = true
		for i := range o.Dir.Ranges {
			r := &o.Dir.Ranges[i]
			end, wanted := v.ends[r.Partition]
			if !wanted {
				continue
			}
			if xs := v.objects[r.Partition]; len(xs) == 0 || xs[len(xs)-1] != o {
				v.objects[r.Partition] = append(xs, o)
			}
			v.ends[r.Partition] = max(end, r.End)
		}
	}
	return v
}

func refOf(o *object.Stored) metadata.SessionRef {
	return metadata.SessionRef{Agent: o.Session.Agent, Epoch: o.Session.Epoch}
}

// unsealed is the row's sessions that have unsealed objects, oldest first.
func (v *snapshot) unsealed(row *metadata.Partition) (refs []metadata.SessionRef) {
	for _, ref := range row.Unsealed {
		if v.alive[ref] {
			refs = append(refs, ref)
		}
	}
	return refs
}

// of is the objects that hold a partition, in the order in which its sessions led it. Numbers of agents say nothing of that
// order.
func (v *snapshot) of(row *metadata.Partition) []*object.Stored {
	turn := make(map[metadata.SessionRef]int, len(row.Unsealed))
	for i, ref := range row.Unsealed {
		turn[ref] = i
	}
	xs := slices.DeleteFunc(slices.Clone(v.objects[row.ID]), func(o *object.Stored) bool {
		_, named := turn[refOf(o)]
		return !named
	})
	slices.SortStableFunc(xs, func(a, b *object.Stored) int { return turn[refOf(a)] - turn[refOf(b)] })
	return xs
}
