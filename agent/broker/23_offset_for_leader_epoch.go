package broker

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/catalog"
	"varve.dev/agent/wire"
	"varve.dev/metadata"
)

// OffsetForLeaderEpoch (key 23), v2–4: the largest epoch not above the one asked for, and where it ends (KIP-320).

// OffsetForLeaderEpoch is the handler of key 23.
func OffsetForLeaderEpoch(topics *catalog.Catalog, led Led) API {
	return Message(2, 4, 0, func(ctx context.Context, r *wire.Request, req *kmsg.OffsetForLeaderEpochRequest) (kmsg.Response, error) {
		resp := kmsg.NewPtrOffsetForLeaderEpochResponse()
		image := topics.Image()
		for i := range req.Topics {
			t := &req.Topics[i]
			out := kmsg.NewOffsetForLeaderEpochResponseTopic()
			out.Topic = t.Topic
			topic := image.ByName(t.Topic)
			for k := range t.Partitions {
				q := &t.Partitions[k]
				p := kmsg.NewOffsetForLeaderEpochResponseTopicPartition()
				p.Partition, p.LeaderEpoch, p.EndOffset = q.Partition, -1, -1
				epoch, end, err := epochEnd(led, topic, q)
				if err != nil {
					p.ErrorCode = Code(err)
				} else {
					p.LeaderEpoch, p.EndOffset = epoch, end
				}
				out.Partitions = append(out.Partitions, p)
			}
			resp.Topics = append(resp.Topics, out)
		}
		return resp, nil
	})
}

func epochEnd(led Led, topic *catalog.Topic, q *kmsg.OffsetForLeaderEpochRequestTopicPartition) (int32, int64, error) {
	if topic == nil || q.Partition < 0 || q.Partition >= topic.Partitions {
		return -1, -1, kerr.UnknownTopicOrPartition
	}
	p, err := led.Get(metadata.PartitionID{Topic: topic.Num, Partition: q.Partition})
	if err != nil {
		return -1, -1, err
	}
	if err := p.CheckEpoch(q.CurrentLeaderEpoch); err != nil {
		return -1, -1, err
	}
	epoch, end := p.EpochEnd(q.LeaderEpoch)
	return epoch, end, nil
}
