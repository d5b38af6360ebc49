package sim

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/localstack/chaos/kcheck"
)

// members is the group of member. It is not kgo's own: that holds a mutex while it joins, which stops virtual time.
const members = "members"

// member is one of a group that commits what it has read; it comes and goes, sometimes without leaving.
type member struct {
	l          *load
	rng        *rand.Rand
	c          *wire
	id         string
	generation int32
	mine       []place
}

func (l *load) member() worker {
	return func(ctx context.Context, rng *rand.Rand) {
		for ctx.Err() == nil {
			m := &member{l: l, rng: rng}
			stay, cancel := context.WithTimeout(ctx, 5*time.Second+part(rng, 30*time.Second))
			for stay.Err() == nil {
				if err := m.join(stay); err == nil {
					m.consume(stay)
				}
				pause1(stay, rng, 500*time.Millisecond)
			}
			cancel()
			m.leave()
			pause1(ctx, rng, 3*time.Second)
		}
	}
}

var errRejoin = errors.New("sim: join again")

// request asks on the member's connection.
func (m *member) request(ctx context.Context, version int16, req kmsg.Request) (kmsg.Response, error) {
	if m.c == nil {
		c, err := m.l.w.connect(ctx)
		if err != nil {
			return nil, err
		}
		m.c = c
	}
	err := m.c.send(version, req)
	var resp kmsg.Response
	if err == nil {
		resp, err = m.c.receive(10 * time.Second)
	}
	if err != nil {
		m.c.Close()
		m.c = nil
	}
	return resp, err
}

func (m *member) places() (all []place) {
	for _, t := range []*topic{m.l.object, m.l.local} {
		for i := range t.partitions {
			all = append(all, place{t, i})
		}
	}
	return all
}

func (m *member) join(ctx context.Context) error {
	req := kmsg.NewPtrJoinGroupRequest()
	req.Group, req.MemberID, req.SessionTimeoutMillis, req.RebalanceTimeoutMillis, req.ProtocolType = members, m.id, 6000, 6000, "consumer"
	proto := kmsg.NewJoinGroupRequestProtocol()
	proto.Name = "sim"
	req.Protocols = append(req.Protocols, proto)
	resp, err := m.request(ctx, 5, req)
	if err != nil {
		return err
	}
	j := resp.(*kmsg.JoinGroupResponse)
	switch kerr.ErrorForCode(j.ErrorCode) {
	case nil:
	case kerr.MemberIDRequired:
		m.id = j.MemberID
		return errRejoin
	default:
		m.id = ""
		return errRejoin
	}
	former := m.generation
	m.id, m.generation = j.MemberID, j.Generation
	sync := kmsg.NewPtrSyncGroupRequest()
	sync.Group, sync.MemberID, sync.Generation = members, m.id, m.generation
	if j.LeaderID == m.id {
		all := m.places()
		for i, who := range j.Members {
			a := kmsg.NewSyncGroupRequestGroupAssignment()
			a.MemberID = who.MemberID
			for k := range all {
				if k%len(j.Members) == i {
					a.MemberAssignment = binary.BigEndian.AppendUint32(a.MemberAssignment, uint32(k))
				}
			}
			sync.GroupAssignment = append(sync.GroupAssignment, a)
		}
	}
	if resp, err = m.request(ctx, 3, sync); err != nil {
		return err
	}
	s := resp.(*kmsg.SyncGroupResponse)
	if s.ErrorCode != 0 {
		return errRejoin
	}
	m.mine = nil
	for b := s.MemberAssignment; len(b) >= 4; b = b[4:] {
		m.mine = append(m.mine, m.places()[binary.BigEndian.Uint32(b)])
	}
	return m.commitAs(ctx, former)
}

// commitAs asks now and then for a commit under a generation that is over.
func (m *member) commitAs(ctx context.Context, former int32) error {
	if former <= 0 || former >= m.generation || m.rng.IntN(4) > 0 {
		return nil
	}
	const nowhere = 0
	at := m.places()[0]
	ended := m.l.rec.Commit(members, at.of(), nowhere)
	q := kmsg.NewOffsetCommitRequestTopicPartition()
	q.Partition, q.Offset = at.partition, nowhere
	t := kmsg.NewOffsetCommitRequestTopic()
	t.Topic, t.Partitions = at.topic.name, append(t.Partitions, q)
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group, req.MemberID, req.Generation, req.Topics = members, m.id, former, append(req.Topics, t)
	resp, err := m.request(ctx, 7, req)
	if err != nil {
		return nil // unknown, as it began
	}
	code := resp.(*kmsg.OffsetCommitResponse).Topics[0].Partitions[0].ErrorCode
	ended(commitOutcome(code))
	if code != 0 {
		m.l.w.plan.count("commit of an old generation refused")
	} else {
		m.l.w.fail("a commit of generation %d was taken in generation %d", former, m.generation)
	}
	return nil
}

// consume reads on where the group stands, until the group changes or ctx ends.
func (m *member) consume(ctx context.Context) {
	l := m.l
	call, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	offsets, err := l.admin.FetchOffsetsForTopics(call, members, l.object.name, l.local.name)
	if err != nil {
		return
	}
	from := map[string]map[int32]kgo.Offset{}
	readers, byName := map[kcheck.Log]int{}, map[string]*topic{}
	next, done := map[place]int64{}, map[place]int64{}
	for _, p := range m.mine {
		at := kgo.NewOffset().AtStart()
		o, ok := offsets.Lookup(p.topic.name, p.partition)
		if !ok || o.Err != nil {
			return
		}
		if o.At >= 0 {
			at = kgo.NewOffset().At(o.At)
			done[p], next[p] = o.At, o.At
		}
		if from[p.topic.name] == nil {
			from[p.topic.name] = map[int32]kgo.Offset{}
		}
		from[p.topic.name][p.partition] = at
		readers[p.of()], byName[p.topic.name] = l.rec.Reader(), p.topic
	}
	if len(from) == 0 {
		for m.beat(ctx) == nil && sleep(ctx, time.Second) {
		}
		return
	}
	cl, err := l.newClient(kgo.ConsumePartitions(from), kgo.FetchMaxWait(time.Second), kgo.ConsumeResetOffset(kgo.NoResetOffset()))
	if err != nil {
		l.w.fail("%w", err)
		return
	}
	defer cl.Close()
	for pause1(ctx, m.rng, 300*time.Millisecond) { // each turn is a write of the coordinator
		poll, cancel := context.WithTimeout(ctx, time.Second)
		fetches := cl.PollFetches(poll)
		cancel()
		l.fetchErrors(fetches)
		got := reads(fetches, byName, func(log kcheck.Log) int { return readers[log] })
		l.rec.Read(got...)
		for _, r := range got {
			next[place{byName[r.Topic], r.Partition}] = r.Offset + 1
		}
		if m.beat(ctx) != nil || m.commit(ctx, next, done) != nil {
			return
		}
	}
}

func (m *member) beat(ctx context.Context) error {
	req := kmsg.NewPtrHeartbeatRequest()
	req.Group, req.MemberID, req.Generation = members, m.id, m.generation
	resp, err := m.request(ctx, 3, req)
	if err != nil {
		return nil // it will be known at the next one
	}
	switch kerr.ErrorForCode(resp.(*kmsg.HeartbeatResponse).ErrorCode) {
	case nil, kerr.CoordinatorLoadInProgress, kerr.CoordinatorNotAvailable, kerr.NotCoordinator:
		return nil
	case kerr.UnknownMemberID:
		m.id = ""
	}
	return errRejoin
}

// commit commits what was read and is not committed yet.
func (m *member) commit(ctx context.Context, next, done map[place]int64) error {
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group, req.MemberID, req.Generation = members, m.id, m.generation
	ended := map[string]map[int32]func(kcheck.Outcome){}
	asked := map[place]int64{}
	for _, p := range m.mine {
		if next[p] <= done[p] {
			continue
		}
		at := next[p]
		asked[p] = at
		i := slices.IndexFunc(req.Topics, func(t kmsg.OffsetCommitRequestTopic) bool { return t.Topic == p.topic.name })
		if i < 0 {
			i = len(req.Topics)
			t := kmsg.NewOffsetCommitRequestTopic()
			t.Topic = p.topic.name
			req.Topics = append(req.Topics, t)
			ended[p.topic.name] = map[int32]func(kcheck.Outcome){}
		}
		q := kmsg.NewOffsetCommitRequestTopicPartition()
		q.Partition, q.Offset = p.partition, at
		req.Topics[i].Partitions = append(req.Topics[i].Partitions, q)
		ended[p.topic.name][p.partition] = m.l.rec.Commit(members, p.of(), at)
	}
	if len(req.Topics) == 0 {
		return nil
	}
	resp, err := m.request(ctx, 7, req)
	if err != nil {
		return nil // unknown, as they began
	}
	for _, t := range resp.(*kmsg.OffsetCommitResponse).Topics {
		for _, p := range t.Partitions {
			outcome := commitOutcome(p.ErrorCode)
			if outcome == kcheck.Failed {
				m.l.w.plan.count("commit of an old generation refused")
			}
			ended[t.Topic][p.Partition](outcome)
			if err = kerr.ErrorForCode(p.ErrorCode); outcome == kcheck.Failed {
				return errRejoin
			}
		}
	}
	if err == nil {
		for p, at := range asked {
			done[p] = at
		}
	}
	return nil
}

func commitOutcome(code int16) kcheck.Outcome {
	switch kerr.ErrorForCode(code) {
	case nil:
		return kcheck.OK
	case kerr.IllegalGeneration, kerr.UnknownMemberID, kerr.RebalanceInProgress, kerr.NotCoordinator, kerr.CoordinatorLoadInProgress:
		return kcheck.Failed
	}
	return kcheck.Unknown
}

// leave says goodbye, or does not.
func (m *member) leave() {
	if m.c != nil && m.id != "" && m.rng.IntN(2) == 0 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		req := kmsg.NewPtrLeaveGroupRequest()
		req.Group, req.MemberID = members, m.id
		_, _ = m.request(ctx, 2, req) // the agent may be away: then the session ends by itself
	}
	if m.c != nil {
		m.c.Close()
	}
}
