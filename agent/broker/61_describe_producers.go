package broker

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/catalog"
	"varve.dev/agent/wire"
	"varve.dev/metadata"
)

// DescribeProducers (key 61), v0: the producers that a partition remembers (KIP-664).

// DescribeProducers is the handler of key 61.
func DescribeProducers(topics *catalog.Catalog, led Led) API {
	return Message(0, 0, 0, func(ctx context.Context, r *wire.Request, req *kmsg.DescribeProducersRequest) (kmsg.Response, error) {
		resp := kmsg.NewPtrDescribeProducersResponse()
		image := topics.Image()
		for i := range req.Topics {
			t := &req.Topics[i]
			out := kmsg.NewDescribeProducersResponseTopic()
			out.Topic = t.Topic
			for _, index := range t.Partitions {
				p := kmsg.NewDescribeProducersResponseTopicPartition()
				p.Partition = index
				if err := describeProducers(led, t.Topic, image.ByName(t.Topic), &p); err != nil {
					p.ErrorCode, p.ErrorMessage = Code(err), text(err)
				}
				out.Partitions = append(out.Partitions, p)
			}
			resp.Topics = append(resp.Topics, out)
		}
		return resp, nil
	})
}

func describeProducers(led Led, name string, topic *catalog.Topic, out *kmsg.DescribeProducersResponseTopicPartition) error {
	if err := checkName(name); err != nil {
		return err
	}
	if topic == nil || out.Partition < 0 || out.Partition >= topic.Partitions {
		return kerr.UnknownTopicOrPartition
	}
	p, err := led.Get(metadata.PartitionID{Topic: topic.Num, Partition: out.Partition})
	if err != nil {
		return err
	}
	entries := p.Producers(time.Now())
	for i := range entries {
		e := &entries[i]
		if i+1 < len(entries) && entries[i+1].ID == e.ID {
			continue // only the newest batch of each
		}
		a := kmsg.NewDescribeProducersResponseTopicPartitionActiveProducer()
		a.ProducerID, a.ProducerEpoch, a.LastSequence = e.ID, int32(e.Epoch), e.LastSeq
		a.LastTimestamp, a.CoordinatorEpoch, a.CurrentTxnStartOffset = e.Timestamp, -1, -1
		out.ActiveProducers = append(out.ActiveProducers, a)
	}
	return nil
}
