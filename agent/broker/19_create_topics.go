package broker

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/catalog"
	"varve.dev/agent/wire"
	"varve.dev/metadata"
)

// createTopics is API key 19, v2-7.
//
//   - v5: counts and configs of the created topic; v7: its id
//
// One bad topic does not fail the others. Configs must not be null and their sources must be real ones: Java dies of both.
type createTopics struct {
	agents  Agents
	changes *Changes
}

// CreateTopics makes API key 19.
func CreateTopics(agents Agents, changes *Changes) API {
	h := &createTopics{agents, changes}
	return Message(2, 7, 0, h.handle)
}

func (h *createTopics) handle(ctx context.Context, _ *wire.Request, req *kmsg.CreateTopicsRequest) (kmsg.Response, error) {
	ctx, cancel := within(ctx, req.TimeoutMillis)
	defer cancel()
	resp := kmsg.NewPtrCreateTopicsResponse()
	resp.Topics = []kmsg.CreateTopicsResponseTopic{}
	h.changes.do(ctx, func(image *catalog.Image, err error) (changed bool) {
		if err != nil {
			for _, t := range req.Topics {
				resp.Topics = append(resp.Topics, failedTopic(t.Topic, err))
			}
			return false
		}
		resp.Topics, changed = h.create(ctx, req, image)
		return changed
	})
	return resp, nil
}

func (h *createTopics) create(
	ctx context.Context, req *kmsg.CreateTopicsRequest, image *catalog.Image,
) (out []kmsg.CreateTopicsResponseTopic, made bool) {
	var (
		taken = collisions(image)
		count = map[string]int{}
	)
	for _, t := range req.Topics {
		count[t.Topic]++
	}
	tooMany := checkTotal(req, image)
	for _, t := range req.Topics {
		if n := count[t.Topic]; n != 1 {
			if n > 1 { // one answer for all of them
				out = append(out, failedTopic(t.Topic, explain(kerr.InvalidRequest, "Duplicate topic name.")))
				count[t.Topic] = 0
			}
			continue
		}
		spec, err := h.spec(t, image, taken)
		if tooMany != nil {
			err = tooMany
		}
		if err == nil && req.ValidateOnly && image.ByName(t.Topic) != nil {
			err = explain(kerr.TopicAlreadyExists, fmt.Sprintf("Topic '%s' already exists.", t.Topic))
		}
		done := createdTopic(spec, image, h.changes.self.ID)
		if err == nil && !req.ValidateOnly {
			var topic metadata.Topic
			topic, err = h.changes.create(ctx, spec)
			done.TopicID, made = topic.ID, made || err == nil
		}
		if err != nil {
			out = append(out, failedTopic(t.Topic, err))
			continue
		}
		taken[metricName(t.Topic)] = t.Topic
		out = append(out, done)
	}
	return out, made
}

// checkTotal bounds the partitions of one request; beyond it none of its topics is created.
func checkTotal(req *kmsg.CreateTopicsRequest, image *catalog.Image) error {
	total := int64(0)
	for _, t := range req.Topics {
		switch {
		case len(t.ReplicaAssignment) > 0:
			total += int64(len(t.ReplicaAssignment))
		case t.NumPartitions == -1:
			total += image.Agent.Int("num.partitions")
		default:
			total += int64(max(t.NumPartitions, 0))
		}
	}
	if total > maxPartitionsPerRequest {
		return explain(kerr.PolicyViolation, fmt.Sprintf(
			"Excessively large number of partitions per request: %d, want at most %d.", total, maxPartitionsPerRequest))
	}
	return nil
}

// spec reads and checks what is asked for one topic.
func (h *createTopics) spec(t kmsg.CreateTopicsRequestTopic, image *catalog.Image, taken names) (topicSpec, error) {
	s := topicSpec{name: t.Topic, partitions: t.NumPartitions, replicas: int32(t.ReplicationFactor), config: map[string]string{}}
	for _, c := range t.Configs {
		if c.Value == nil {
			return s, explain(kerr.InvalidConfig, "Null value not supported for topic configs: "+c.Name)
		}
		s.config[c.Name] = *c.Value
	}
	if err := taken.check(t.Topic); err != nil {
		return s, err
	}
	if len(t.ReplicaAssignment) > 0 {
		s.assigned = make([][]int32, len(t.ReplicaAssignment))
		for _, a := range t.ReplicaAssignment {
			if a.Partition < 0 || int(a.Partition) >= len(s.assigned) || s.assigned[a.Partition] != nil {
				return s, explain(kerr.InvalidReplicaAssignment, "partitions should be a consecutive 0-based integer sequence")
			}
			s.assigned[a.Partition] = append([]int32{}, a.Replicas...)
		}
	}
	return s.resolve(image, h.alive)
}

func (h *createTopics) alive(agent int32) bool { return isAlive(h.agents, h.changes.self, agent) }

func isAlive(agents Agents, self Self, agent int32) bool {
	if agent == self.ID {
		return true
	}
	for _, a := range agents.Agents() {
		if a.Agent == agent {
			return true
		}
	}
	return false
}

func failedTopic(name string, err error) kmsg.CreateTopicsResponseTopic {
	t := kmsg.NewCreateTopicsResponseTopic()
	t.Topic, t.ErrorCode, t.ErrorMessage = name, Code(err), text(err)
	t.NumPartitions, t.ReplicationFactor = -1, -1
	t.Configs = []kmsg.CreateTopicsResponseTopicConfig{}
	return t
}

func createdTopic(s topicSpec, image *catalog.Image, self int32) kmsg.CreateTopicsResponseTopic {
	t := kmsg.NewCreateTopicsResponseTopic()
	t.Topic, t.NumPartitions, t.ReplicationFactor = s.name, s.partitions, int16(s.replicas)
	t.Configs = []kmsg.CreateTopicsResponseTopicConfig{}
	for _, e := range topicEntries(image, self, s.config) {
		c := kmsg.NewCreateTopicsResponseTopicConfig()
		c.Name, c.Value, c.ReadOnly = e.key.Name, e.shown(e.values[0].value), e.readOnly
		c.Source, c.IsSensitive = int8(e.values[0].source), e.key.Sensitive
		t.Configs = append(t.Configs, c)
	}
	return t
}
