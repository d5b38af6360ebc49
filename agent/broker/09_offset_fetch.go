package broker

import (
	"context"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/catalog"
	"varve.dev/agent/group"
	"varve.dev/agent/wire"
	"varve.dev/metadata"
)

// OffsetFetch is API key 9. Up to v7 it asks for one group, from v8 on for several; from v10 on topics are named by id.
//
// A group that does not exist is a group without offsets: -1 for each partition, and no error. Null topics ask for
// everything that is committed; topics that are gone are left out of it. RequireStable waits for the commits that are on
// their way. What is named twice is answered once.
func OffsetFetch(groups *group.Coordinator, topics topicImages) API {
	return Async(1, 10, 0, func(_ context.Context, _ *wire.Request, req *kmsg.OffsetFetchRequest, reply func(kmsg.Response)) {
		f := &offsetFetch{groups, topics.Image(), req.Version, req.RequireStable}
		resp := kmsg.NewPtrOffsetFetchResponse()
		if req.Version < 8 {
			f.group(asGroup(req), func(g kmsg.OffsetFetchResponseGroup) {
				asSingle(resp, req, g)
				reply(resp)
			})
			return
		}
		asked := unique(req.Groups, func(g kmsg.OffsetFetchRequestGroup) string { return g.Group })
		resp.Groups = make([]kmsg.OffsetFetchResponseGroup, len(asked))
		all := countdown(len(asked), func() { reply(resp) })
		for i, g := range asked {
			f.group(g, func(answer kmsg.OffsetFetchResponseGroup) {
				resp.Groups[i] = answer
				all()
			})
		}
	})
}

// countdown calls done when it has been called n times; at once if n is 0.
func countdown(n int, done func()) func() {
	if n == 0 {
		done()
	}
	var left atomic.Int64
	left.Store(int64(n))
	return func() {
		if left.Add(-1) == 0 {
			done()
		}
	}
}

// unique keeps the first of those with the same key.
func unique[T any, K comparable](in []T, key func(T) K) (out []T) {
	seen := make(map[K]bool, len(in))
	for _, t := range in {
		if k := key(t); !seen[k] {
			seen[k] = true
			out = append(out, t)
		}
	}
	return out
}

// asGroup puts the old form of the request into the new one.
func asGroup(req *kmsg.OffsetFetchRequest) kmsg.OffsetFetchRequestGroup {
	g := kmsg.NewOffsetFetchRequestGroup()
	g.Group = req.Group
	if req.Topics == nil {
		return g
	}
	g.Topics = make([]kmsg.OffsetFetchRequestGroupTopic, 0, len(req.Topics))
	for _, t := range req.Topics {
		gt := kmsg.NewOffsetFetchRequestGroupTopic()
		gt.Topic, gt.Partitions = t.Topic, t.Partitions
		g.Topics = append(g.Topics, gt)
	}
	return g
}

// asSingle puts an answer into the old form. v1 has no place for the group's error but its partitions.
func asSingle(resp *kmsg.OffsetFetchResponse, req *kmsg.OffsetFetchRequest, g kmsg.OffsetFetchResponseGroup) {
	resp.ErrorCode = g.ErrorCode
	if g.ErrorCode != 0 && req.Version < 2 {
		for _, t := range req.Topics {
			rt := kmsg.NewOffsetFetchResponseGroupTopic()
			rt.Topic = t.Topic
			for _, p := range t.Partitions {
				rp := noOffset(p)
				rp.ErrorCode = g.ErrorCode
				rt.Partitions = append(rt.Partitions, rp)
			}
			g.Topics = append(g.Topics, rt)
		}
	}
	for _, t := range g.Topics {
		rt := kmsg.NewOffsetFetchResponseTopic()
		rt.Topic = t.Topic
		for _, p := range t.Partitions {
			rp := kmsg.NewOffsetFetchResponseTopicPartition()
			rp.Partition, rp.Offset, rp.LeaderEpoch = p.Partition, p.Offset, p.LeaderEpoch
			rp.Metadata, rp.ErrorCode = p.Metadata, p.ErrorCode
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
}

type offsetFetch struct {
	groups  *group.Coordinator
	image   *catalog.Image
	version int16
	stable  bool
}

func (f *offsetFetch) group(g kmsg.OffsetFetchRequestGroup, done func(kmsg.OffsetFetchResponseGroup)) {
	var ps []metadata.PartitionID
	for _, t := range g.Topics {
		if topic, _ := resolve(f.image, f.version >= 10, t.Topic, t.TopicID); topic != nil {
			for _, p := range t.Partitions {
				ps = append(ps, metadata.PartitionID{Topic: topic.Num, Partition: p})
			}
		}
	}
	all := g.Topics == nil
	f.groups.Fetch(g.Group, ps, all, f.stable, func(committed []group.Committed, err error) {
		out := kmsg.NewOffsetFetchResponseGroup()
		out.Group = g.Group
		switch {
		case err == kerr.UnstableOffsetCommit && !all:
			f.fill(&out, g, nil, kerr.UnstableOffsetCommit.Code)
		case err != nil:
			out.ErrorCode = Code(err)
		case all:
			f.everything(&out, committed)
		default:
			f.fill(&out, g, committed, 0)
		}
		done(out)
	})
}

// fill answers what was asked for, in the order in which it was.
func (f *offsetFetch) fill(out *kmsg.OffsetFetchResponseGroup, g kmsg.OffsetFetchRequestGroup, committed []group.Committed, code int16) {
	found := make(map[metadata.PartitionID]group.Offset, len(committed))
	for _, c := range committed {
		found[c.Partition] = c.Offset
	}
	type key struct {
		topic string
		id    metadata.UUID
	}
	for _, t := range unique(g.Topics, func(t kmsg.OffsetFetchRequestGroupTopic) key { return key{t.Topic, t.TopicID} }) {
		topic, _ := resolve(f.image, f.version >= 10, t.Topic, t.TopicID)
		rt := kmsg.NewOffsetFetchResponseGroupTopic()
		rt.Topic, rt.TopicID = t.Topic, t.TopicID
		for _, p := range unique(t.Partitions, func(p int32) int32 { return p }) {
			rp := noOffset(p)
			rp.ErrorCode = code
			if topic == nil {
				if f.version >= 10 {
					rp.ErrorCode = kerr.UnknownTopicID.Code
				}
			} else if o, ok := found[metadata.PartitionID{Topic: topic.Num, Partition: p}]; ok {
				setOffset(&rp, o)
			}
			rt.Partitions = append(rt.Partitions, rp)
		}
		out.Topics = append(out.Topics, rt)
	}
}

// everything answers all that is committed; it comes ordered by topic.
func (f *offsetFetch) everything(out *kmsg.OffsetFetchResponseGroup, committed []group.Committed) {
	last := int32(-1)
	for _, c := range committed {
		topic := f.image.ByNum(c.Partition.Topic)
		if topic == nil {
			continue
		}
		if topic.Num != last {
			last = topic.Num
			rt := kmsg.NewOffsetFetchResponseGroupTopic()
			rt.Topic, rt.TopicID = topic.Name, topic.ID
			out.Topics = append(out.Topics, rt)
		}
		rp := noOffset(c.Partition.Partition)
		setOffset(&rp, c.Offset)
		rt := &out.Topics[len(out.Topics)-1]
		rt.Partitions = append(rt.Partitions, rp)
	}
}

func noOffset(partition int32) kmsg.OffsetFetchResponseGroupTopicPartition {
	p := kmsg.NewOffsetFetchResponseGroupTopicPartition()
	p.Partition, p.Offset, p.LeaderEpoch, p.Metadata = partition, -1, -1, new(string)
	return p
}

func setOffset(p *kmsg.OffsetFetchResponseGroupTopicPartition, o group.Offset) {
	p.Offset, p.LeaderEpoch, p.Metadata = o.Offset, o.LeaderEpoch, &o.Metadata
}
