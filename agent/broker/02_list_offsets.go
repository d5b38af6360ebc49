package broker

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/catalog"
	"varve.dev/agent/wire"
	"varve.dev/metadata"
	"varve.dev/tiering/fetch"
	"varve.dev/tiering/partition"
)

// ListOffsets (key 2), v1–11.
//
// A time is answered exactly, decoded inside the batch, over local and tiered history alike. Special times: −1 latest, −2
// earliest, −3 largest timestamp (v7, KIP-734), −4 earliest local (v8, KIP-405), −5 latest tiered (v9, KIP-1005), −6
// earliest pending upload (v11, KIP-1023); below its version one is UNSUPPORTED_VERSION.

const (
	latest                = -1
	earliest              = -2
	maxTimestamp          = -3
	earliestLocal         = -4
	latestTiered          = -5
	earliestPendingUpload = -6
)

// specialSince is the first version that knows a special time.
func specialSince(t int64) int16 {
	switch t {
	case maxTimestamp:
		return 7
	case earliestLocal:
		return 8
	case latestTiered:
		return 9
	case earliestPendingUpload:
		return 11
	}
	return 0
}

// Seeker finds records by time (fetch.Reader).
type Seeker interface {
	SeekTime(ctx context.Context, p fetch.Plan, millis int64) (fetch.Found, error)
}

// Newest answers the newest segments of partitions (metadata.Index).
type Newest interface {
	LastSegments(ctx context.Context, ids []metadata.PartitionID) ([]metadata.Segment, error)
}

type listOffsets struct {
	topics *catalog.Catalog
	led    Led
	seeker Seeker
	newest Newest
}

// ListOffsets is the handler of key 2.
func ListOffsets(topics *catalog.Catalog, led Led, seeker Seeker, newest Newest) API {
	h := &listOffsets{topics, led, seeker, newest}
	return Message(1, 11, 0, h.do)
}

// seekTimeout bounds one request's reading of history.
const seekTimeout = 30 * time.Second

func (h *listOffsets) do(ctx context.Context, r *wire.Request, req *kmsg.ListOffsetsRequest) (kmsg.Response, error) {
	ctx, cancel := context.WithTimeout(ctx, seekTimeout)
	defer cancel()
	resp := kmsg.NewPtrListOffsetsResponse()
	image := h.topics.Image()
	asked := map[topicPartition]int{}
	for i := range req.Topics {
		for k := range req.Topics[i].Partitions {
			asked[topicPartition{req.Topics[i].Topic, req.Topics[i].Partitions[k].Partition}]++
		}
	}
	for i := range req.Topics {
		t := &req.Topics[i]
		out := kmsg.NewListOffsetsResponseTopic()
		out.Topic = t.Topic
		topic := image.ByName(t.Topic)
		for k := range t.Partitions {
			q := &t.Partitions[k]
			p := kmsg.NewListOffsetsResponseTopicPartition()
			p.Partition, p.Timestamp, p.Offset, p.LeaderEpoch = q.Partition, -1, -1, -1
			var found fetch.Found
			var err error
			switch n := asked[topicPartition{t.Topic, q.Partition}]; {
			case n == 0:
				continue // one answer for all of them
			case n > 1:
				asked[topicPartition{t.Topic, q.Partition}] = 0
				err = kerr.InvalidRequest
			default:
				found, err = h.one(ctx, r.Version, topic, q)
			}
			if err != nil {
				p.ErrorCode = Code(err)
			} else {
				p.Timestamp, p.Offset, p.LeaderEpoch = found.Timestamp, found.Offset, found.LeaderEpoch
			}
			out.Partitions = append(out.Partitions, p)
		}
		if len(out.Partitions) > 0 || len(t.Partitions) == 0 {
			resp.Topics = append(resp.Topics, out)
		}
	}
	return resp, nil
}

type topicPartition struct {
	topic     string
	partition int32
}

func (h *listOffsets) one(ctx context.Context, version int16, topic *catalog.Topic, q *kmsg.ListOffsetsRequestTopicPartition) (fetch.Found, error) {
	none := fetch.Found{Offset: -1, Timestamp: -1, LeaderEpoch: -1}
	if version < specialSince(q.Timestamp) || q.Timestamp < earliestPendingUpload {
		return none, kerr.UnsupportedVersion
	}
	if topic == nil || q.Partition < 0 || q.Partition >= topic.Partitions {
		return none, kerr.UnknownTopicOrPartition
	}
	p, err := h.led.Get(metadata.PartitionID{Topic: topic.Num, Partition: q.Partition})
	if err != nil {
		return none, err
	}
	if err := p.CheckEpoch(q.CurrentLeaderEpoch); err != nil {
		return none, err
	}
	at := p.Offsets()
	special := func(offset int64) (fetch.Found, error) {
		return fetch.Found{Offset: offset, Timestamp: -1, LeaderEpoch: p.EpochAt(offset)}, nil
	}
	switch q.Timestamp {
	case latest:
		return special(at.LastStable)
	case earliest:
		return special(at.LogStart)
	case earliestLocal, earliestPendingUpload:
		return special(max(at.SealedEnd, at.LogStart))
	case latestTiered:
		if at.SealedEnd <= at.LogStart {
			return none, nil
		}
		return special(at.SealedEnd - 1)
	case maxTimestamp:
		return h.largest(ctx, p)
	}
	plan, _ := p.PlanTime()
	return h.seeker.SeekTime(ctx, plan, q.Timestamp)
}

// largest finds the first record that has the partition's largest timestamp.
func (h *listOffsets) largest(ctx context.Context, p *partition.Partition) (fetch.Found, error) {
	plan, at := p.PlanTime()
	newest := p.MaxTimestamp()
	if plan.Sealed {
		segments, err := h.newest.LastSegments(ctx, []metadata.PartitionID{p.ID()})
		if err != nil {
			plan.Release()
			return fetch.Found{}, err
		}
		if len(segments) > 0 {
			newest = max(newest, segments[0].RunningMax)
		}
	}
	if newest < 0 || at.LogStart == at.HighWatermark {
		plan.Release()
		return fetch.Found{Offset: -1, Timestamp: -1, LeaderEpoch: -1}, nil
	}
	found, err := h.seeker.SeekTime(ctx, plan, newest)
	if err != nil || found.Offset >= 0 {
		return found, err
	}
	return h.largestLeft(ctx, p, newest)
}

// largestLeft finds the largest timestamp where DeleteRecords has taken the record that had it: by halves, since a seek says
// whether there is a record as late as a time.
func (h *listOffsets) largestLeft(ctx context.Context, p *partition.Partition, deleted int64) (fetch.Found, error) {
	seek := func(millis int64) (fetch.Found, error) {
		plan, _ := p.PlanTime()
		return h.seeker.SeekTime(ctx, plan, millis)
	}
	best, err := seek(0)
	for low, high := best.Timestamp, deleted-1; err == nil && best.Offset >= 0 && low < high; {
		middle := low + (high-low+1)/2
		var found fetch.Found
		if found, err = seek(middle); found.Offset >= 0 {
			best, low = found, found.Timestamp
		} else {
			high = middle - 1
		}
	}
	return best, err
}
