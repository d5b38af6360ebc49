package group

import (
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
	"varve.dev/metadata"
)

// classicRow is the kind byte before a classic group's record.
const classicRow byte = 1

// row encodes the durable part of the group, with the members' shares as given, or as they are.
func (g *Group) row(shares map[string][]byte) []byte {
	v := kmsg.NewGroupMetadataValue()
	v.Version = 4
	v.ProtocolType = g.protocolType
	v.Generation = g.generation
	v.Protocol, v.Leader = nullable(g.protocol), nullable(g.leader)
	v.CurrentStateTimestamp = g.since
	for _, m := range g.members {
		w := kmsg.NewGroupMetadataValueMember()
		w.MemberID, w.InstanceID = m.id, nullable(m.instance)
		w.ClientID, w.ClientHost = m.client, m.host
		w.RebalanceTimeoutMillis = int32(m.rebalance.Milliseconds())
		w.SessionTimeoutMillis = int32(m.session.Milliseconds())
		w.Subscription = m.metadata(g.protocol)
		w.Assignment = m.assignment
		if shares != nil {
			w.Assignment = shares[m.id]
		}
		v.Members = append(v.Members, w)
	}
	return v.AppendTo([]byte{classicRow})
}

func nullable(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// Restore takes over what a former life stored. Its members have one session from now to be heard of.
func (g *Group) Restore(now time.Time, row []byte) error {
	if len(row) == 0 || row[0] != classicRow {
		return fmt.Errorf("group row of %d bytes is not of kind %d", len(row), classicRow)
	}
	var v kmsg.GroupMetadataValue
	if err := v.ReadFrom(row[1:]); err != nil {
		return fmt.Errorf("group row: %w", err)
	}
	if v.Version != 4 || v.Generation < 0 {
		return fmt.Errorf("group row of version %d, generation %d, want version 4", v.Version, v.Generation)
	}
	r := NewGroup(g.rules, now)
	r.offsets, r.stored = g.offsets, true
	r.generation, r.since = v.Generation, v.CurrentStateTimestamp
	r.protocolType, r.protocol = v.ProtocolType, deref(v.Protocol)
	for _, w := range v.Members {
		if w.MemberID == "" || r.byID[w.MemberID] != nil || w.InstanceID != nil && r.static[*w.InstanceID] != "" {
			return errors.New("group row names a member twice")
		}
		m := &member{
			id: w.MemberID, instance: deref(w.InstanceID), client: w.ClientID, host: w.ClientHost,
			rebalance:  millis(w.RebalanceTimeoutMillis),
			session:    millis(w.SessionTimeoutMillis),
			protocols:  []Protocol{{Name: r.protocol, Metadata: w.Subscription}},
			assignment: w.Assignment,
		}
		r.add(m)
		r.keep(m, m.session)
	}
	r.state = Empty
	if len(r.members) > 0 {
		r.state, r.previous = Stable, Completing
		r.leader = deref(v.Leader)
		if r.byID[r.leader] == nil {
			r.leader = r.members[0].id
		}
	}
	r.topics = r.subscribed()
	*g = *r
	return nil
}

func millis(n int32) time.Duration { return time.Duration(max(n, 0)) * time.Millisecond }

// RestoreOffset takes over a stored offset.
func (g *Group) RestoreOffset(o metadata.GroupOffset) {
	g.offsets[o.Partition] = Offset{
		Offset: o.Offset, LeaderEpoch: o.LeaderEpoch, Metadata: o.Metadata, Commit: o.CommitTime, Expire: o.ExpireTime,
	}
}

// Description is what DescribeGroups shows.
type Description struct {
	State                  State
	ProtocolType, Protocol string
	Members                []DescribedMember
}

// DescribedMember is one member; Metadata and Assignment only in a stable group.
type DescribedMember struct {
	Member, Instance, ClientID, Host string
	Metadata, Assignment             []byte
}

// Describe is a copy that stays as it is.
func (g *Group) Describe() Description {
	d := Description{State: g.state, ProtocolType: g.protocolType}
	stable := g.state == Stable
	if stable {
		d.Protocol = g.protocol
	}
	for _, m := range g.members {
		dm := DescribedMember{Member: m.id, Instance: m.instance, ClientID: m.client, Host: m.host, Assignment: m.assignment}
		if stable {
			dm.Metadata = m.metadata(g.protocol)
		}
		d.Members = append(d.Members, dm)
	}
	return d
}
