package broker

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/catalog"
	"varve.dev/agent/group"
	"varve.dev/agent/wire"
	"varve.dev/metadata"
)

// maxOffsetMetadata bounds what a client may leave beside an offset: Kafka's offset.metadata.max.bytes.
const maxOffsetMetadata = 4096

// topicImages is where the group APIs look up topics: names and ids outside, numbers inside.
type topicImages interface{ Image() *catalog.Image }

// OffsetCommit is API key 8. A commit is answered after it is stored. From v10 on topics are named by id.
//
// A topic or partition that does not exist, and metadata that is too large, fail alone; everything else is decided by the
// group, and is then every partition's error.
func OffsetCommit(groups *group.Coordinator, topics topicImages) API {
	return Async(2, 10, 0, func(_ context.Context, _ *wire.Request, req *kmsg.OffsetCommitRequest, reply func(kmsg.Response)) {
		resp := kmsg.NewPtrOffsetCommitResponse()
		in := group.Commit{
			Member: req.MemberID, Instance: orEmpty(req.InstanceID), Generation: req.Generation,
			KnowsGroupIDNotFound: req.Version >= 9,
		}
		image, now := topics.Image(), time.Now().UnixMilli()
		exist := false
		for _, t := range req.Topics {
			if len(t.Partitions) == 0 {
				continue // Kafka leaves it out of the answer too
			}
			topic, unknown := resolve(image, req.Version >= 10, t.Topic, t.TopicID)
			rt := kmsg.NewOffsetCommitResponseTopic()
			rt.Topic, rt.TopicID = t.Topic, t.TopicID
			for _, p := range t.Partitions {
				rp := kmsg.NewOffsetCommitResponseTopicPartition()
				rp.Partition = p.Partition
				switch {
				case topic == nil || p.Partition < 0 || p.Partition >= topic.Partitions:
					rp.ErrorCode = unknown.Code
				case len(orEmpty(p.Metadata)) > maxOffsetMetadata:
					exist = true
					rp.ErrorCode = kerr.OffsetMetadataTooLarge.Code
				default:
					exist = true
					in.Offsets = append(in.Offsets, offsetOf(req, topic.Num, p, now))
				}
				rt.Partitions = append(rt.Partitions, rp)
			}
			resp.Topics = append(resp.Topics, rt)
		}
		if !exist {
			reply(resp) // as in Kafka: the group is not even asked
			return
		}
		groups.Commit(req.Group, in, func(err error) {
			if err != nil {
				failCommit(resp, Code(err))
			}
			reply(resp)
		})
	})
}

// resolve finds a topic by id or by name, and says how the answer calls one that is not there.
func resolve(image *catalog.Image, byID bool, name string, id metadata.UUID) (*catalog.Topic, *kerr.Error) {
	if byID {
		if t := image.ByID(id); t != nil {
			return t, kerr.UnknownTopicOrPartition
		}
		return nil, kerr.UnknownTopicID
	}
	return image.ByName(name), kerr.UnknownTopicOrPartition
}

func offsetOf(req *kmsg.OffsetCommitRequest, topic int32, p kmsg.OffsetCommitRequestTopicPartition, now int64) metadata.GroupOffset {
	o := metadata.GroupOffset{
		Partition: metadata.PartitionID{Topic: topic, Partition: p.Partition},
		Offset:    p.Offset, LeaderEpoch: p.LeaderEpoch, Metadata: orEmpty(p.Metadata),
		CommitTime: now, ExpireTime: -1,
	}
	if req.Version <= 4 && req.RetentionTimeMillis >= 0 {
		o.ExpireTime = now + req.RetentionTimeMillis
	}
	return o
}

func failCommit(resp *kmsg.OffsetCommitResponse, code int16) {
	for i := range resp.Topics {
		for j := range resp.Topics[i].Partitions {
			if p := &resp.Topics[i].Partitions[j]; p.ErrorCode == 0 {
				p.ErrorCode = code
			}
		}
	}
}

// orEmpty is "" for null.
func orEmpty(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// nullable is nil for the empty string.
func nullable(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
