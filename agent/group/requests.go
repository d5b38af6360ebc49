package group

import (
	"crypto/rand"
	"fmt"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"varve.dev/metadata"
)

// Join asks for membership. Its To and NewID are filled in here. done is called once, perhaps minutes later.
func (c *Coordinator) Join(group string, in Join, done func(JoinReply)) {
	refuse := func(err error) { done(JoinReply{Err: err, Member: in.Member}) }
	switch {
	case group == "":
		refuse(kerr.InvalidGroupID)
		return
	case in.Session < c.cfg.MinSession || in.Session > c.cfg.MaxSession:
		refuse(kerr.InvalidSessionTimeout)
		return
	case c.away():
		// The rebalance that would follow could not be stored, and those who read now would stop.
		refuse(kerr.CoordinatorNotAvailable)
		return
	}
	in.NewID = newMemberID(in)
	c.ask(group, in.Member == "", func(to Ref) Input {
		in.To = to
		return in
	}, func(a Action) {
		switch a := a.(type) {
		case JoinReply:
			done(a)
		case failed:
			refuse(a.err)
		}
	})
}

// newMemberID is the instance's or the client's name and a random UUID, as Kafka's are.
func newMemberID(in Join) string {
	prefix := in.Instance
	if prefix == "" {
		prefix = in.ClientID
	}
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%s-%x-%x-%x-%x-%x", prefix, b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// Sync asks for a member's share.
func (c *Coordinator) Sync(group string, in Sync, done func(SyncReply)) {
	if group == "" {
		done(SyncReply{Err: kerr.InvalidGroupID})
		return
	}
	c.ask(group, false, func(to Ref) Input {
		in.To = to
		return in
	}, func(a Action) {
		switch a := a.(type) {
		case SyncReply:
			done(a)
		case failed:
			done(SyncReply{Err: a.err})
		}
	})
}

// Heartbeat keeps a session alive. While the group is being loaded every heartbeat is good, as in Kafka: a member must not
// give up its work because we have just started.
func (c *Coordinator) Heartbeat(group string, in Heartbeat, done func(error)) {
	if group == "" {
		done(kerr.InvalidGroupID)
		return
	}
	c.ask(group, false, func(to Ref) Input {
		in.To = to
		return in
	}, errorOnly(func(err error) {
		if err == kerr.CoordinatorLoadInProgress {
			err = nil
		}
		done(err)
	}))
}

func errorOnly(done func(error)) func(Action) {
	return func(a Action) {
		switch a := a.(type) {
		case Reply:
			done(a.Err)
		case failed:
			done(a.err)
		}
	}
}

// Leave takes members out. errs is per member; err is set instead if the group could not be asked.
func (c *Coordinator) Leave(group string, members []Leaver, done func(errs []error, err error)) {
	if group == "" {
		done(nil, kerr.InvalidGroupID)
		return
	}
	c.ask(group, false, func(to Ref) Input { return Leave{To: to, Members: members} }, func(a Action) {
		switch a := a.(type) {
		case LeaveReply:
			done(a.Errs, nil)
		case failed:
			done(nil, a.err)
		}
	})
}

// Commit stores offsets. done is called after they are stored, or after Config.StoreTimeout.
func (c *Coordinator) Commit(group string, in Commit, done func(error)) {
	if c.window.queued()+len(in.Offsets) > c.cfg.MaxQueued {
		done(kerr.CoordinatorNotAvailable)
		return
	}
	c.ask(group, in.Generation < 0 && len(in.Offsets) > 0, func(to Ref) Input {
		in.To = to
		return in
	}, errorOnly(done))
}

// DeleteOffsets removes offsets. errs is per partition; err is set instead if it failed as a whole.
func (c *Coordinator) DeleteOffsets(group string, ps []TopicPartition, done func(errs []error, err error)) {
	if group == "" {
		done(nil, kerr.InvalidGroupID)
		return
	}
	c.ask(group, false, func(to Ref) Input { return DeleteOffsets{To: to, Partitions: ps} }, func(a Action) {
		switch a := a.(type) {
		case DeleteOffsetsReply:
			done(a.Errs, a.Err)
		case failed:
			done(nil, a.err)
		}
	})
}

// Delete removes an empty group with its offsets.
func (c *Coordinator) Delete(group string, done func(error)) {
	c.ask(group, false, func(to Ref) Input { return Delete{To: to} }, errorOnly(done))
}

// Committed is a partition's committed offset.
type Committed struct {
	Partition metadata.PartitionID
	Offset
}

// Fetch answers what is committed for ps, or for everything if all is set, in order; what has no offset is left out. Stable
// waits for the commits that are on their way.
func (c *Coordinator) Fetch(group string, ps []metadata.PartitionID, all, stable bool, done func([]Committed, error)) {
	if !stable {
		done(c.committed(group, ps, all))
		return
	}
	c.ask(group, false, func(to Ref) Input { return Barrier{To: to} }, func(a Action) {
		switch a := a.(type) {
		case Reply:
			if a.Err != nil {
				done(nil, kerr.UnstableOffsetCommit)
				return
			}
			done(c.committed(group, ps, all))
		case failed:
			done(nil, a.err)
		}
	})
}

func (c *Coordinator) committed(group string, ps []metadata.PartitionID, all bool) ([]Committed, error) {
	s, err := c.find(group, false)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over || s.group.State() == Dead {
		return nil, nil
	}
	if all {
		ps = s.group.Committed()
	}
	out := make([]Committed, 0, len(ps))
	for _, p := range ps {
		if o, ok := s.group.Offset(p); ok {
			out = append(out, Committed{Partition: p, Offset: o})
		}
	}
	return out, nil
}

// Describe answers what a group looks like; GROUP_ID_NOT_FOUND if there is none.
func (c *Coordinator) Describe(group string) (Description, error) {
	s, err := c.find(group, false)
	if err != nil {
		return Description{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over || s.group.State() == Dead || s.group.blank() {
		return Description{}, kerr.GroupIDNotFound
	}
	return s.group.Describe(), nil
}

// Listed is a group in a list.
type Listed struct {
	Group, ProtocolType string
	State               State
}

// List answers the groups of this coordinator by name. The error says that some are still being loaded.
func (c *Coordinator) List() ([]Listed, error) {
	if !c.Ready() {
		return nil, kerr.CoordinatorLoadInProgress
	}
	var out []Listed
	c.each(func(s *slot) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.over && s.group.State() != Dead {
			out = append(out, Listed{Group: s.id, ProtocolType: s.group.ProtocolType(), State: s.group.State()})
		}
	})
	slices.SortFunc(out, func(a, b Listed) int { return strings.Compare(a.Group, b.Group) })
	return out, nil
}
