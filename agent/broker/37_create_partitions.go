package broker

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/catalog"
	"varve.dev/agent/wire"
	"varve.dev/metadata"
)

// createPartitions is API key 37, v0-3.
type createPartitions struct {
	agents  Agents
	changes *Changes
}

// CreatePartitions makes API key 37.
func CreatePartitions(agents Agents, changes *Changes) API {
	h := &createPartitions{agents, changes}
	return Message(0, 3, 0, h.handle)
}

func (h *createPartitions) handle(
	ctx context.Context, _ *wire.Request, req *kmsg.CreatePartitionsRequest,
) (kmsg.Response, error) {
	ctx, cancel := within(ctx, req.TimeoutMillis)
	defer cancel()
	resp := kmsg.NewPtrCreatePartitionsResponse()
	resp.Topics = []kmsg.CreatePartitionsResponseTopic{}
	count := map[string]int{}
	for _, t := range req.Topics {
		count[t.Topic]++
	}
	h.changes.do(ctx, func(image *catalog.Image, err error) (changed bool) {
		for _, t := range req.Topics {
			topic, failure := image.ByName(t.Topic), err
			if n := count[t.Topic]; n == 0 {
				continue // one answer for all of them
			} else if n > 1 {
				count[t.Topic] = 0
				if failure == nil {
					failure = explain(kerr.InvalidRequest, "Duplicate topic name.")
				}
			}
			if failure == nil {
				failure = h.check(topic, t)
			}
			if failure == nil && !req.ValidateOnly {
				failure = h.add(ctx, topic, t.Count)
				changed = changed || failure == nil
			}
			out := kmsg.NewCreatePartitionsResponseTopic()
			out.Topic, out.ErrorCode, out.ErrorMessage = t.Topic, Code(failure), text(failure)
			resp.Topics = append(resp.Topics, out)
		}
		return changed
	})
	return resp, nil
}

func (h *createPartitions) check(topic *catalog.Topic, t kmsg.CreatePartitionsRequestTopic) error {
	if topic == nil {
		return kerr.UnknownTopicOrPartition
	}
	switch {
	case t.Count == topic.Partitions:
		return explain(kerr.InvalidPartitions, fmt.Sprintf("Topic already has %d partition(s).", t.Count))
	case t.Count < topic.Partitions:
		return explain(kerr.InvalidPartitions, fmt.Sprintf(
			"The topic %s currently has %d partition(s); %d would not be an increase.", topic.Name, topic.Partitions, t.Count))
	case t.Count-topic.Partitions > maxPartitionsPerRequest:
		return explain(kerr.InvalidPartitions, fmt.Sprintf("%d partitions are more than %d in one request.",
			t.Count-topic.Partitions, maxPartitionsPerRequest))
	case t.Assignment == nil:
		return nil
	case len(t.Assignment) != int(t.Count-topic.Partitions):
		return explain(kerr.InvalidReplicaAssignment, fmt.Sprintf("Attempted to add %d additional partition(s), but only %d assignment(s) were specified.",
			t.Count-topic.Partitions, len(t.Assignment)))
	}
	assigned := make([][]int32, len(t.Assignment))
	for i, a := range t.Assignment {
		assigned[i] = a.Replicas
	}
	return checkAssigned(assigned, topic.Replicas, func(agent int32) bool { return isAlive(h.agents, h.changes.self, agent) })
}

// add may meet a conflict: another's change, or its own whose reply was lost. The image says which.
func (h *createPartitions) add(ctx context.Context, t *catalog.Topic, to int32) error {
	err := again(func() error { return h.changes.store.AddPartitions(ctx, t.Num, t.Partitions, to, h.changes.self.ID) })
	if errors.Is(err, metadata.ErrConflict) {
		if refresh := h.changes.catalog.Refresh(ctx); refresh != nil {
			return refresh
		}
		now := h.changes.catalog.Image().ByNum(t.Num)
		switch {
		case now == nil:
			return kerr.UnknownTopicOrPartition
		case now.Partitions == to:
			return nil
		}
		return explain(kerr.InvalidPartitions, fmt.Sprintf("The topic has changed to %d partition(s) meanwhile.", now.Partitions))
	}
	if err != nil {
		h.changes.log.Warn("partitions were not added", "topic", t.Name, "error", err)
		return err
	}
	h.changes.log.Info("partitions added", "topic", t.Name, "from", t.Partitions, "to", to)
	return nil
}
