package broker

import (
	"context"
	"maps"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/catalog"
	"varve.dev/agent/wire"
)

// listConfigResources is API key 74, v0-1.
//
//   - v0 is ListClientMetricsResources: there are none
//   - v1: resources of the asked types, of all without any
type listConfigResources struct {
	self   Self
	images Images
	agents Agents
}

// ListConfigResources makes API key 74.
func ListConfigResources(self Self, images Images, agents Agents) API {
	h := &listConfigResources{self, images, agents}
	return Message(0, 1, 0, h.handle)
}

func (h *listConfigResources) handle(
	_ context.Context, r *wire.Request, req *kmsg.ListConfigResourcesRequest,
) (kmsg.Response, error) {
	resp := kmsg.NewPtrListConfigResourcesResponse()
	resp.ConfigResources = []kmsg.ListConfigResourcesResponseConfigResource{}
	if r.Version == 0 {
		return resp, nil
	}
	kinds := []kmsg.ConfigResourceType{
		kmsg.ConfigResourceTypeTopic, kmsg.ConfigResourceTypeBroker, kmsg.ConfigResourceTypeBrokerLogger,
		kmsg.ConfigResourceTypeClientMetrics, kmsg.ConfigResourceTypeGroupConfig,
	}
	for _, asked := range req.ResourceTypes {
		if !slices.Contains(kinds, kmsg.ConfigResourceType(asked)) {
			resp.ErrorCode = kerr.UnsupportedVersion.Code // as Kafka says it
			return resp, nil
		}
	}
	image := h.images.Image()
	for _, kind := range kinds {
		if len(req.ResourceTypes) > 0 && !slices.Contains(req.ResourceTypes, int8(kind)) {
			continue
		}
		for _, name := range h.names(image, kind, r.Conn) {
			out := kmsg.NewListConfigResourcesResponseConfigResource()
			out.Name, out.Type = name, int8(kind)
			resp.ConfigResources = append(resp.ConfigResources, out)
		}
	}
	return resp, nil
}

func (h *listConfigResources) names(image *catalog.Image, kind kmsg.ConfigResourceType, conn *wire.Conn) (names []string) {
	switch kind {
	case kmsg.ConfigResourceTypeTopic:
		for _, t := range image.Topics {
			names = append(names, t.Name)
		}
	case kmsg.ConfigResourceTypeBroker, kmsg.ConfigResourceTypeBrokerLogger:
		for _, n := range place(h.self, nil, h.agents, conn).nodes {
			names = append(names, strconv.Itoa(int(n.id)))
		}
	case kmsg.ConfigResourceTypeGroupConfig:
		names = slices.Sorted(maps.Keys(image.Groups))
	}
	return names
}
