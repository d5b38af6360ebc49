package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// waitForever is the timeout of requests that must not time out while a case runs.
const waitForever = 30_000

// topic is one that this case has created.
type topic struct {
	name       string
	id         [16]byte
	partitions int32
}

// topic creates one, and returns when every partition answers. configs are key=value.
func (t *talk) topic(name string, partitions int32, configs ...string) topic {
	req := kmsg.NewPtrCreateTopicsRequest()
	req.TimeoutMillis = waitForever
	req.Topics = []kmsg.CreateTopicsRequestTopic{t.newTopic(name, partitions, 1, configs...)}
	resp := t.call(7, req).(*kmsg.CreateTopicsResponse).Topics[0]
	if resp.ErrorCode != 0 {
		t.fail("create topic %s: %s", name, errorName(resp.ErrorCode))
	}
	made := topic{t.prefix + name, resp.TopicID, partitions}
	t.normal.knowTopic(made.id, name)
	t.serves(made)
	return made
}

// fresh makes topics with one partition, one after the other: for steps that must not see what others have left.
func (t *talk) fresh() func() topic {
	n := 0
	return func() topic {
		n++
		return t.topic(fmt.Sprintf("t%d", n), 1)
	}
}

// newTopic is a line of CreateTopics under this case's prefix.
func (t *talk) newTopic(name string, partitions int32, replicas int16, configs ...string) kmsg.CreateTopicsRequestTopic {
	out := kmsg.NewCreateTopicsRequestTopic()
	out.Topic, out.NumPartitions, out.ReplicationFactor = t.prefix+name, partitions, replicas
	for _, c := range configs {
		k, v, _ := strings.Cut(c, "=")
		rc := kmsg.NewCreateTopicsRequestTopicConfig()
		rc.Name, rc.Value = k, &v
		out.Configs = append(out.Configs, rc)
	}
	return out
}

// serves returns when every partition answers, and learns the leader epoch of new topics.
func (t *talk) serves(made topic) {
	t.until(made.name+" is served", func() bool {
		meta := t.describe(made.name)
		if meta.ErrorCode != 0 || len(meta.Partitions) != int(made.partitions) {
			return false
		}
		for _, p := range meta.Partitions {
			if p.ErrorCode != 0 || p.Leader != 1 {
				return false
			}
			t.normal.epoch = p.LeaderEpoch
		}
		for p := range made.partitions {
			if t.offset(made, p, -1) != 0 {
				return false
			}
		}
		return true
	})
}

// describe asks Metadata for one topic.
func (t *talk) describe(name string) kmsg.MetadataResponseTopic {
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{{Topic: &name}}
	return t.call(12, req).(*kmsg.MetadataResponse).Topics[0]
}

// offset asks for a special offset; -1 is also any error.
func (t *talk) offset(of topic, partition int32, time int64) int64 {
	resp := t.call(7, listOffsets(of.name, partition, time)).(*kmsg.ListOffsetsResponse).Topics[0].Partitions[0]
	if resp.ErrorCode != 0 {
		return -1
	}
	return resp.Offset
}

func listOffsets(topic string, partition int32, times ...int64) *kmsg.ListOffsetsRequest {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	rt := kmsg.NewListOffsetsRequestTopic()
	rt.Topic = topic
	for _, time := range times {
		rp := kmsg.NewListOffsetsRequestTopicPartition()
		rp.Partition, rp.Timestamp = partition, time
		rt.Partitions = append(rt.Partitions, rp)
	}
	req.Topics = append(req.Topics, rt)
	return req
}

// produce is a request with one entry for a partition.
func produce(to topic, partition int32, acks int16, records []byte) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = acks, waitForever
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic, rt.TopicID = to.name, to.id
	rp := kmsg.NewProduceRequestTopicPartition()
	rp.Partition, rp.Records = partition, records
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	return req
}

// write produces batches to partition 0, each with a request of its own; they must be accepted.
func (t *talk) write(to topic, batches ...spec) {
	for _, b := range batches {
		resp := t.call(9, produce(to, 0, -1, b.bytes())).(*kmsg.ProduceResponse).Topics[0].Partitions[0]
		if resp.ErrorCode != 0 {
			t.fail("produce to %s: %s", to.name, errorName(resp.ErrorCode))
		}
	}
}

// fetch asks for partitions at offsets, without a session and without waiting.
func fetch(from topic, offsets ...int64) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.ReplicaID, req.SessionEpoch, req.MaxWaitMillis, req.MinBytes, req.MaxBytes = -1, -1, 0, 0, 1<<20
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic, rt.TopicID = from.name, from.id
	for i, o := range offsets {
		rp := kmsg.NewFetchRequestTopicPartition()
		rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes = int32(i), o, 1<<20
		rt.Partitions = append(rt.Partitions, rp)
	}
	req.Topics = append(req.Topics, rt)
	return req
}

// trim deletes the records before an offset, and returns when that has taken effect.
func (t *talk) trim(of topic, to int64) {
	t.call(2, deleteRecords(of.name, 0, to))
	t.until("the log starts anew", func() bool { return t.offset(of, 0, -2) == to })
}

func deleteRecords(topic string, partition int32, offset int64) *kmsg.DeleteRecordsRequest {
	req := kmsg.NewPtrDeleteRecordsRequest()
	req.TimeoutMillis = waitForever
	rt := kmsg.NewDeleteRecordsRequestTopic()
	rt.Topic = topic
	rp := kmsg.NewDeleteRecordsRequestTopicPartition()
	rp.Partition, rp.Offset = partition, offset
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	return req
}

// metadata asks for topics by name.
func metadata(autoCreate bool, names ...string) *kmsg.MetadataRequest {
	req := kmsg.NewPtrMetadataRequest()
	req.AllowAutoTopicCreation = autoCreate
	req.Topics = []kmsg.MetadataRequestTopic{}
	for _, n := range names {
		req.Topics = append(req.Topics, kmsg.MetadataRequestTopic{Topic: &n})
	}
	return req
}

// producer is a fresh producer id.
func (t *talk) producer() int64 {
	req := kmsg.NewPtrInitProducerIDRequest()
	req.TransactionTimeoutMillis = waitForever
	resp := t.call(4, req).(*kmsg.InitProducerIDResponse)
	if resp.ErrorCode != 0 {
		t.fail("InitProducerId: %s", errorName(resp.ErrorCode))
	}
	return resp.ProducerID
}

func commit(group, topic string, id [16]byte, partition int32, offset int64, metadata *string) *kmsg.OffsetCommitRequest {
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group, req.Generation = group, -1
	rt := kmsg.NewOffsetCommitRequestTopic()
	rt.Topic, rt.TopicID = topic, id
	rp := kmsg.NewOffsetCommitRequestTopicPartition()
	rp.Partition, rp.Offset, rp.LeaderEpoch, rp.Metadata = partition, offset, -1, metadata
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	return req
}

// committed asks for offsets in whatever form the version has. No partitions ask for everything.
func committed(version int16, group string, of topic, partitions ...int32) *kmsg.OffsetFetchRequest {
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Group = group
	g := kmsg.NewOffsetFetchRequestGroup()
	g.Group, g.MemberEpoch = group, -1
	if partitions != nil {
		rt := kmsg.NewOffsetFetchRequestTopic()
		rt.Topic, rt.Partitions = of.name, partitions
		req.Topics = append(req.Topics, rt)
		gt := kmsg.NewOffsetFetchRequestGroupTopic()
		gt.Topic, gt.TopicID, gt.Partitions = of.name, of.id, partitions
		g.Topics = append(g.Topics, gt)
	}
	if version >= 8 {
		req.Groups = append(req.Groups, g)
	}
	return req
}

// joining is a JoinGroup of a consumer with one protocol, "range".
func joining(group, member string) *kmsg.JoinGroupRequest {
	req := kmsg.NewPtrJoinGroupRequest()
	req.Group, req.MemberID, req.ProtocolType = group, member, "consumer"
	req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = waitForever, waitForever
	req.Protocols = []kmsg.JoinGroupRequestProtocol{protocol("range", "")}
	return req
}

// protocol carries a consumer's subscription to topics, or other bytes where none are given.
func protocol(name, other string, topics ...string) kmsg.JoinGroupRequestProtocol {
	p := kmsg.NewJoinGroupRequestProtocol()
	p.Name, p.Metadata = name, []byte(other)
	if other == "" {
		m := kmsg.NewConsumerMemberMetadata()
		m.Topics = topics
		p.Metadata = m.AppendTo(nil)
	}
	return p
}

// member is one that this case has brought into a group.
type member struct {
	t     *talk
	link  string
	group string
	id    string
	join  *kmsg.JoinGroupRequest
	gen   int32
	name  string // of the protocol that was chosen
}

// enters joins a member under a fresh id, in the version that needs no second request. It waits for nobody.
func (t *talk) enters(link, group string, change func(*kmsg.JoinGroupRequest)) (*member, *pending) {
	join := joining(group, "")
	if change != nil {
		change(join)
	}
	m := &member{t: t, link: link, group: group, join: join}
	if join.InstanceID != nil {
		return m, t.send(link, 5, join)
	}
	return m, t.send(link, 3, join)
}

// rejoins sends the member's JoinGroup again.
func (m *member) rejoins(change func(*kmsg.JoinGroupRequest)) *pending {
	again := *m.join
	again.MemberID = m.id
	if change != nil {
		change(&again)
	}
	return m.t.send(m.link, 5, &again)
}

// joined takes in what a JoinGroup was answered, which must be success.
func (m *member) joined(p *pending) *kmsg.JoinGroupResponse {
	resp, err := p.answer(answerWithin)
	if err != nil {
		m.t.fail("JoinGroup: %w", err)
	}
	r := resp.(*kmsg.JoinGroupResponse)
	if r.ErrorCode != 0 {
		m.t.fail("JoinGroup: %s", errorName(r.ErrorCode))
	}
	m.learn(r)
	return r
}

// alone is a group with one member, which has joined and not yet synced.
func (t *talk) alone(link, group string, change func(*kmsg.JoinGroupRequest)) *member {
	m, p := t.enters(link, group, change)
	m.joined(p)
	return m
}

// settled is a group with one member in Stable.
func (t *talk) settled(link, group string, change func(*kmsg.JoinGroupRequest)) *member {
	m := t.alone(link, group, change)
	m.shares(map[string]string{m.id: "all"})
	return m
}

// sync is the member's SyncGroup.
func (m *member) sync(shares map[string]string) *kmsg.SyncGroupRequest {
	req := kmsg.NewPtrSyncGroupRequest()
	req.Group, req.MemberID, req.Generation, req.InstanceID = m.group, m.id, m.gen, m.join.InstanceID
	req.ProtocolType, req.Protocol = &m.join.ProtocolType, &m.name
	for _, id := range sorted(shares) {
		a := kmsg.NewSyncGroupRequestGroupAssignment()
		a.MemberID, a.MemberAssignment = id, []byte(shares[id])
		req.GroupAssignment = append(req.GroupAssignment, a)
	}
	return req
}

// shares syncs as the leader; it must succeed.
func (m *member) shares(shares map[string]string) {
	resp, err := m.t.exchange(m.link, 4, m.sync(shares))
	if err != nil {
		m.t.fail("SyncGroup: %w", err)
	}
	if code := resp.(*kmsg.SyncGroupResponse).ErrorCode; code != 0 {
		m.t.fail("SyncGroup: %s", errorName(code))
	}
}

func (m *member) heartbeat() *kmsg.HeartbeatRequest {
	req := kmsg.NewPtrHeartbeatRequest()
	req.Group, req.MemberID, req.Generation, req.InstanceID = m.group, m.id, m.gen, m.join.InstanceID
	return req
}

// hears returns when a heartbeat of m is answered with this error: a rebalance that another's request began, perhaps.
func (m *member) hears(code int16) {
	m.t.until(fmt.Sprintf("the member hears %s", errorName(code)), func() bool {
		return m.t.call(3, m.heartbeat()).(*kmsg.HeartbeatResponse).ErrorCode == code
	})
}

// commits is an OffsetCommit as this member.
func (m *member) commits(to topic, offset int64) *kmsg.OffsetCommitRequest {
	req := commit(m.group, to.name, to.id, 0, offset, nil)
	req.MemberID, req.Generation, req.InstanceID = m.id, m.gen, m.join.InstanceID
	return req
}

func leaving(group, member string, instance *string) *kmsg.LeaveGroupRequest {
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Group, req.MemberID = group, member
	rm := kmsg.NewLeaveGroupRequestMember()
	rm.MemberID, rm.InstanceID = member, instance
	req.Members = append(req.Members, rm)
	return req
}

func sorted(m map[string]string) (keys []string) {
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// ptr is the address of a value.
func ptr[T any](v T) *T { return &v }
