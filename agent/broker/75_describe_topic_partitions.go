package broker

import (
	"context"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/catalog"
	"varve.dev/agent/wire"
)

// maxPartitionsPerPage is Kafka's max.request.partition.size.limit.
const maxPartitionsPerPage = 2000

// describeTopicPartitions is API key 75, v0 (KIP-966): Metadata in pages, sorted by name.
//
// No list may be null, whatever the schema says: Java dies of it.
type describeTopicPartitions struct {
	self    Self
	images  Images
	leaders Leaders
	agents  Agents
}

// DescribeTopicPartitions makes API key 75.
func DescribeTopicPartitions(self Self, images Images, leaders Leaders, agents Agents) API {
	h := &describeTopicPartitions{self, images, leaders, agents}
	return Message(0, 0, 0, h.handle)
}

func (h *describeTopicPartitions) handle(
	_ context.Context, r *wire.Request, req *kmsg.DescribeTopicPartitionsRequest,
) (kmsg.Response, error) {
	image := h.images.Image()
	if !validCursor(req) {
		return refusedPage(req), nil
	}
	names, from := h.asked(image, req)
	where := place(h.self, h.leaders, h.agents, r.Conn)
	room := max(1, min(req.ResponsePartitionLimit, maxPartitionsPerPage))
	resp := kmsg.NewPtrDescribeTopicPartitionsResponse()
	resp.Topics = []kmsg.DescribeTopicPartitionsResponseTopic{}
	for _, name := range names {
		if room == 0 {
			resp.NextCursor = &kmsg.DescribeTopicPartitionsResponseNextCursor{Topic: name}
			break
		}
		t := image.ByName(name)
		if t == nil {
			resp.Topics = append(resp.Topics, absentPaged(name))
			continue
		}
		from = min(from, t.Partitions) // the topic may be another one than that of the first page
		end := min(t.Partitions, from+room)
		resp.Topics = append(resp.Topics, describePaged(t, where, from, end))
		if end < t.Partitions {
			resp.NextCursor = &kmsg.DescribeTopicPartitionsResponseNextCursor{Topic: name, Partition: end}
			break
		}
		room -= end - from
		from = 0
	}
	return resp, nil
}

// asked are the names to describe in order, and the partition of the first one to begin with.
func (h *describeTopicPartitions) asked(image *catalog.Image, req *kmsg.DescribeTopicPartitionsRequest) (names []string, from int32) {
	if len(req.Topics) == 0 {
		for _, t := range image.Topics {
			names = append(names, t.Name)
		}
	}
	for _, t := range req.Topics {
		names = append(names, t.Topic)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if req.Cursor == nil {
		return names, 0
	}
	first, found := slices.BinarySearch(names, req.Cursor.Topic)
	if found && image.ByName(req.Cursor.Topic) != nil {
		from = req.Cursor.Partition
	}
	return names[first:], from
}

func absentPaged(name string) kmsg.DescribeTopicPartitionsResponseTopic {
	t := kmsg.NewDescribeTopicPartitionsResponseTopic()
	t.Topic, t.ErrorCode = &name, kerr.UnknownTopicOrPartition.Code
	if checkName(name) != nil {
		t.ErrorCode = kerr.InvalidTopicException.Code
	}
	t.Partitions = []kmsg.DescribeTopicPartitionsResponseTopicPartition{}
	t.AuthorizedOperations = topicOperations
	return t
}

// validCursor: it points into a topic that is asked for.
func validCursor(req *kmsg.DescribeTopicPartitionsRequest) bool {
	c := req.Cursor
	return c == nil || c.Partition >= 0 && (len(req.Topics) == 0 ||
		slices.ContainsFunc(req.Topics, func(t kmsg.DescribeTopicPartitionsRequestTopic) bool { return t.Topic == c.Topic }))
}

func refusedPage(req *kmsg.DescribeTopicPartitionsRequest) *kmsg.DescribeTopicPartitionsResponse {
	resp := kmsg.NewPtrDescribeTopicPartitionsResponse()
	resp.Topics = []kmsg.DescribeTopicPartitionsResponseTopic{}
	for _, t := range req.Topics {
		out := absentPaged(t.Topic)
		out.ErrorCode, out.AuthorizedOperations = kerr.InvalidRequest.Code, noOperations
		resp.Topics = append(resp.Topics, out)
	}
	return resp
}

func describePaged(topic *catalog.Topic, where placement, from, end int32) kmsg.DescribeTopicPartitionsResponseTopic {
	t := kmsg.NewDescribeTopicPartitionsResponseTopic()
	t.Topic, t.TopicID, t.IsInternal = &topic.Name, topic.ID, internal(topic.Name)
	t.AuthorizedOperations = topicOperations
	t.Partitions = []kmsg.DescribeTopicPartitionsResponseTopicPartition{}
	for i := from; i < end; i++ {
		seat := where.seat(topic, i)
		p := kmsg.NewDescribeTopicPartitionsResponseTopicPartition()
		p.Partition, p.ErrorCode, p.LeaderID, p.LeaderEpoch = i, seat.code, seat.leader, seat.epoch
		p.Replicas, p.ISR, p.OfflineReplicas = seat.replicas, seat.replicas, []int32{}
		p.EligibleLeaderReplicas, p.LastKnownELR = []int32{}, []int32{}
		t.Partitions = append(t.Partitions, p)
	}
	return t
}
