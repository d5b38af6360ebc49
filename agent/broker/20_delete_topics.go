package broker

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/catalog"
	"varve.dev/agent/wire"
	"varve.dev/metadata"
)

// deleteTopics is API key 20, v1-6.
//
//   - v5: error messages
//   - v6: topics by name or by id
type deleteTopics struct {
	changes *Changes
}

// DeleteTopics makes API key 20.
func DeleteTopics(changes *Changes) API {
	h := &deleteTopics{changes}
	return Message(1, 6, 0, h.handle)
}

func (h *deleteTopics) handle(ctx context.Context, r *wire.Request, req *kmsg.DeleteTopicsRequest) (kmsg.Response, error) {
	ctx, cancel := within(ctx, req.TimeoutMillis)
	defer cancel()
	asked := req.Topics
	for _, name := range req.TopicNames { // v1-5
		asked = append(asked, kmsg.DeleteTopicsRequestTopic{Topic: &name})
	}
	resp := kmsg.NewPtrDeleteTopicsResponse()
	resp.Topics = []kmsg.DeleteTopicsResponseTopic{}
	h.changes.do(ctx, func(image *catalog.Image, err error) (changed bool) {
		count, named, byID := map[deletion]int{}, map[deletion]bool{}, map[deletion]bool{}
		for _, a := range asked {
			which := deletionOf(image, a)
			count[which]++
			named[which], byID[which] = named[which] || a.Topic != nil, byID[which] || a.Topic == nil
		}
		for _, a := range asked {
			out := kmsg.NewDeleteTopicsResponseTopic()
			out.Topic, out.TopicID = a.Topic, a.TopicID
			topic, failure := h.find(image, a, r.Version)
			if err != nil {
				failure = err
			}
			if topic != nil {
				out.Topic, out.TopicID = &topic.Name, topic.ID
			}
			// Which of them is meant is not ours to guess, so none is done; one answer for all of them.
			which := deletionOf(image, a)
			if n := count[which]; which != (deletion{}) && n == 0 {
				continue
			} else if which != (deletion{}) && n > 1 {
				count[which] = 0
				failure = explain(kerr.InvalidRequest, "The topic was named more than once.")
				if !named[which] || !byID[which] {
					out.Topic, out.TopicID = a.Topic, a.TopicID // as it was named, like Kafka
				}
			}
			if failure == nil {
				failure = h.delete(ctx, topic)
				changed = changed || failure == nil
			}
			out.ErrorCode, out.ErrorMessage = Code(failure), text(failure)
			resp.Topics = append(resp.Topics, out)
		}
		return changed
	})
	return resp, nil
}

// deletion is what a line of the request names, however it does; empty if it names nothing.
type deletion struct {
	name string
	id   metadata.UUID
}

func deletionOf(image *catalog.Image, a kmsg.DeleteTopicsRequestTopic) deletion {
	id := metadata.UUID(a.TopicID)
	switch {
	case a.Topic != nil && id == metadata.UUID{}:
		return deletion{name: *a.Topic}
	case a.Topic != nil:
		return deletion{}
	}
	if t := image.ByID(id); t != nil {
		return deletion{name: t.Name}
	}
	return deletion{id: id}
}

// find answers the topic, or why it is not deleted.
func (h *deleteTopics) find(image *catalog.Image, a kmsg.DeleteTopicsRequestTopic, version int16) (*catalog.Topic, error) {
	if !image.Agent.Bool("delete.topic.enable") {
		if version < 3 {
			return nil, kerr.InvalidRequest
		}
		return nil, kerr.TopicDeletionDisabled
	}
	id := metadata.UUID(a.TopicID)
	switch {
	case a.Topic != nil && id != metadata.UUID{}:
		return nil, explain(kerr.InvalidRequest, "You may not specify both topic name and topic id.")
	case a.Topic == nil && id == metadata.UUID{}:
		return nil, explain(kerr.InvalidRequest, "Neither topic name nor id were specified.")
	case a.Topic != nil:
		if t := image.ByName(*a.Topic); t != nil {
			return t, nil
		}
		return nil, kerr.UnknownTopicOrPartition
	}
	if t := image.ByID(id); t != nil {
		return t, nil
	}
	return nil, kerr.UnknownTopicID
}

func (h *deleteTopics) delete(ctx context.Context, t *catalog.Topic) error {
	err := again(func() error { return h.changes.store.DeleteTopic(ctx, t.Num, h.changes.grace) })
	if err != nil {
		h.changes.log.Warn("topic was not deleted", "topic", t.Name, "error", err)
		return err
	}
	h.changes.log.Info("topic deleted", "topic", t.Name, "id", t.ID.String())
	return nil
}
