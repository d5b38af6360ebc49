package broker

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/catalog"
	"varve.dev/agent/wire"
	"varve.dev/metadata"
	"varve.dev/tiering/partition"
)

// DeleteRecords (key 21), v0–2: moves the log start, also into the middle of a batch; −1 is the high watermark.

// Trimmer moves log starts (session.Set).
type Trimmer interface {
	Trim(ctx context.Context, ts []metadata.Trim) error
}

// DeleteRecords is the handler of key 21.
func DeleteRecords(topics *catalog.Catalog, led Led, trimmer Trimmer) API {
	return Message(0, 2, 0, func(ctx context.Context, r *wire.Request, req *kmsg.DeleteRecordsRequest) (kmsg.Response, error) {
		ctx, cancel := context.WithTimeout(ctx, time.Duration(max(req.TimeoutMillis, 1))*time.Millisecond)
		defer cancel()
		resp := kmsg.NewPtrDeleteRecordsResponse()
		image := topics.Image()
		var trims []metadata.Trim
		var slots []*kmsg.DeleteRecordsResponseTopicPartition
		resp.Topics = make([]kmsg.DeleteRecordsResponseTopic, len(req.Topics))
		for i := range req.Topics {
			t, out := &req.Topics[i], &resp.Topics[i]
			out.Topic = t.Topic
			out.Partitions = make([]kmsg.DeleteRecordsResponseTopicPartition, len(t.Partitions))
			topic := image.ByName(t.Topic)
			for k := range t.Partitions {
				p := &out.Partitions[k]
				p.Partition, p.LowWatermark = t.Partitions[k].Partition, -1
				trim, low, err := trimOf(led, topic, &t.Partitions[k])
				switch {
				case err != nil:
					p.ErrorCode = Code(err)
				case trim.LogStart <= low:
					p.LowWatermark = low
				default:
					p.LowWatermark = trim.LogStart
					trims, slots = append(trims, trim), append(slots, p)
				}
			}
		}
		if len(trims) > 0 {
			if err := trimmer.Trim(ctx, trims); err != nil {
				for _, p := range slots {
					p.ErrorCode, p.LowWatermark = Code(err), -1
				}
			}
		}
		return resp, nil
	})
}

func trimOf(led Led, topic *catalog.Topic, q *kmsg.DeleteRecordsRequestTopicPartition) (trim metadata.Trim, low int64, err error) {
	if topic == nil || q.Partition < 0 || q.Partition >= topic.Partitions {
		return trim, -1, kerr.UnknownTopicOrPartition
	}
	p, err := led.Get(metadata.PartitionID{Topic: topic.Num, Partition: q.Partition})
	if err != nil {
		return trim, -1, err
	}
	at := p.Offsets()
	to := q.Offset
	if to == -1 {
		to = at.HighWatermark
	}
	if to < 0 || to > at.HighWatermark {
		return trim, -1, fmt.Errorf("%w: %d is beyond the high watermark %d", partition.ErrOutOfRange, to, at.HighWatermark)
	}
	return metadata.Trim{Partition: p.ID(), LeaderEpoch: at.LeaderEpoch, LogStart: to}, at.LogStart, nil
}
