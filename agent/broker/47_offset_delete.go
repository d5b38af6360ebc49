package broker

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/group"
	"varve.dev/agent/wire"
	"varve.dev/metadata"
)

// OffsetDelete is API key 47: it removes committed offsets of topics that the group is not subscribed to
// (GROUP_SUBSCRIBED_TO_TOPIC, per partition).
func OffsetDelete(groups *group.Coordinator, topics topicImages) API {
	return Async(0, 0, 0, func(_ context.Context, _ *wire.Request, req *kmsg.OffsetDeleteRequest, reply func(kmsg.Response)) {
		resp := kmsg.NewPtrOffsetDeleteResponse()
		image := topics.Image()
		var ps []group.TopicPartition
		type place struct{ topic, partition int }
		var places []place // of ps, in the response
		for _, t := range req.Topics {
			if len(t.Partitions) == 0 {
				continue
			}
			topic := image.ByName(t.Topic)
			rt := kmsg.NewOffsetDeleteResponseTopic()
			rt.Topic = t.Topic
			for _, p := range t.Partitions {
				rp := kmsg.NewOffsetDeleteResponseTopicPartition()
				rp.Partition = p.Partition
				if topic == nil || !image.Has(metadata.PartitionID{Topic: topic.Num, Partition: p.Partition}) {
					rp.ErrorCode = kerr.UnknownTopicOrPartition.Code
				} else {
					places = append(places, place{len(resp.Topics), len(rt.Partitions)})
					id := metadata.PartitionID{Topic: topic.Num, Partition: p.Partition}
					ps = append(ps, group.TopicPartition{ID: id, Topic: t.Topic})
				}
				rt.Partitions = append(rt.Partitions, rp)
			}
			resp.Topics = append(resp.Topics, rt)
		}
		groups.DeleteOffsets(req.Group, ps, func(errs []error, err error) {
			if err != nil {
				resp.ErrorCode, resp.Topics = Code(err), nil
			}
			for i, e := range errs {
				resp.Topics[places[i].topic].Partitions[places[i].partition].ErrorCode = Code(e)
			}
			reply(resp)
		})
	})
}
