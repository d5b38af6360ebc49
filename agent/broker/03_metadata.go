package broker

import (
	"context"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/catalog"
	"varve.dev/agent/wire"
	"varve.dev/metadata"
)

// maxAutoCreate bounds the topics that one Metadata request creates; its sender asks again for the rest.
const maxAutoCreate = 100

// metadataAPI is API key 3, v0-13.
//
//   - v0: an empty list asks for all topics; from v1 on null does, and an empty list for none
//   - v4: allow_auto_topic_creation; before, it is always allowed
//   - v10: topic ids in answers; v12: topics can be asked for by id, with a null name
//   - v13: a top-level error (KIP-1102), which we never set
type metadataAPI struct {
	self    Self
	images  Images
	leaders Leaders
	agents  Agents
	changes *Changes
}

// Metadata makes API key 3.
func Metadata(self Self, images Images, leaders Leaders, agents Agents, changes *Changes) API {
	h := &metadataAPI{self, images, leaders, agents, changes}
	return Message(0, 13, 0, h.handle)
}

func (h *metadataAPI) handle(ctx context.Context, r *wire.Request, req *kmsg.MetadataRequest) (kmsg.Response, error) {
	resp := kmsg.NewPtrMetadataResponse()
	if r.Version < 12 && asksByID(req) {
		for _, t := range req.Topics { // the version has ids in answers only
			resp.Topics = append(resp.Topics, absentTopic(orEmptyName(t.Topic), metadata.UUID(t.TopicID), kerr.InvalidRequest.Code))
		}
		resp.ErrorCode = kerr.InvalidRequest.Code
		return resp, nil
	}
	where := place(h.self, h.leaders, h.agents, r.Conn)
	resp.ClusterID = &h.self.Cluster
	resp.ControllerID = h.self.ID // any agent takes administrative requests
	resp.Brokers = []kmsg.MetadataResponseBroker{}
	for _, n := range where.nodes {
		b := kmsg.NewMetadataResponseBroker()
		b.NodeID, b.Host, b.Port, b.Rack = n.id, n.host, n.port, n.rack
		resp.Brokers = append(resp.Brokers, b)
	}
	resp.AuthorizedOperations = operations(req.IncludeClusterAuthorizedOperations, clusterOperations)
	resp.Topics = h.topics(ctx, r.Version, req, where)
	return resp, nil
}

func (h *metadataAPI) topics(
	ctx context.Context, version int16, req *kmsg.MetadataRequest, where placement,
) []kmsg.MetadataResponseTopic {
	image := h.images.Image()
	ops := operations(req.IncludeTopicAuthorizedOperations, topicOperations)
	out := []kmsg.MetadataResponseTopic{}
	if req.Topics == nil || version == 0 && len(req.Topics) == 0 {
		for _, t := range image.Topics {
			out = append(out, describeTopic(t, where, ops))
		}
		return out
	}
	var (
		missing []string
		named   = map[string]bool{}
		byID    = map[metadata.UUID]bool{}
	)
	onlyIDs := slices.ContainsFunc(req.Topics, func(t kmsg.MetadataRequestTopic) bool { return t.TopicID != [16]byte{} })
	for _, asked := range req.Topics {
		if id := metadata.UUID(asked.TopicID); asked.Topic == nil || onlyIDs { // v12+
			if !byID[id] && (id != metadata.UUID{} || !onlyIDs) { // as in Kafka, one id makes names count for nothing
				byID[id] = true
				out = append(out, h.byID(image, id, where, ops))
			}
			continue
		}
		name := *asked.Topic
		if named[name] {
			continue // so that an answer is never larger than the cluster
		}
		named[name] = true
		if t := image.ByName(name); t != nil {
			out = append(out, describeTopic(t, where, ops))
			continue
		}
		code := kerr.UnknownTopicOrPartition.Code
		if checkName(name) != nil {
			code = kerr.InvalidTopicException.Code
		} else {
			missing = append(missing, name)
		}
		out = append(out, absentTopic(&name, metadata.UUID{}, code))
	}
	if (req.AllowAutoTopicCreation || version < 4) && image.Agent.Bool("auto.create.topics.enable") {
		h.autoCreate(ctx, missing)
	}
	return out
}

func (h *metadataAPI) byID(image *catalog.Image, id metadata.UUID, where placement, ops int32) kmsg.MetadataResponseTopic {
	if t := image.ByID(id); t != nil {
		return describeTopic(t, where, ops)
	}
	return absentTopic(nil, id, kerr.UnknownTopicID.Code)
}

// asksByID says whether a request names a topic by anything but its name.
func asksByID(req *kmsg.MetadataRequest) bool {
	return slices.ContainsFunc(req.Topics, func(t kmsg.MetadataRequestTopic) bool { return t.Topic == nil || t.TopicID != [16]byte{} })
}

// orEmptyName is a name for versions in which it may not be null.
func orEmptyName(name *string) *string {
	if name == nil {
		return new(string)
	}
	return name
}

// autoCreate creates what was asked for by name and is not there. The answer says "unknown" all the same: the client asks
// again, and by then this agent leads the new partitions.
func (h *metadataAPI) autoCreate(ctx context.Context, missing []string) {
	if len(missing) == 0 {
		return
	}
	ctx, cancel := within(ctx, 0)
	defer cancel()
	h.changes.do(ctx, func(image *catalog.Image, err error) (changed bool) {
		if err != nil {
			h.changes.log.Warn("topics were not created on demand", "topics", len(missing), "error", err)
			return false
		}
		taken := collisions(image)
		for _, name := range missing[:min(len(missing), maxAutoCreate)] {
			spec, err := topicSpec{name: name, partitions: -1, replicas: -1}.resolve(image, nil)
			if err != nil || taken.check(name) != nil || image.ByName(name) != nil {
				continue
			}
			if _, err := h.changes.create(ctx, spec); err == nil {
				taken[metricName(name)] = name
				changed = true
			}
		}
		return changed
	})
}

func absentTopic(name *string, id metadata.UUID, code int16) kmsg.MetadataResponseTopic {
	t := kmsg.NewMetadataResponseTopic()
	t.Topic, t.TopicID, t.ErrorCode = name, id, code
	t.Partitions = []kmsg.MetadataResponseTopicPartition{}
	t.AuthorizedOperations = noOperations
	return t
}

func describeTopic(topic *catalog.Topic, where placement, ops int32) kmsg.MetadataResponseTopic {
	t := kmsg.NewMetadataResponseTopic()
	t.Topic, t.TopicID, t.IsInternal, t.AuthorizedOperations = &topic.Name, topic.ID, internal(topic.Name), ops
	t.Partitions = make([]kmsg.MetadataResponseTopicPartition, 0, topic.Partitions)
	for i := range topic.Partitions {
		seat := where.seat(topic, i)
		p := kmsg.NewMetadataResponseTopicPartition()
		p.Partition, p.ErrorCode, p.Leader, p.LeaderEpoch = i, seat.code, seat.leader, seat.epoch
		p.Replicas, p.ISR, p.OfflineReplicas = seat.replicas, seat.replicas, []int32{}
		t.Partitions = append(t.Partitions, p)
	}
	return t
}
