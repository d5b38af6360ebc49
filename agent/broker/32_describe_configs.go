package broker

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/wire"
)

// maxDescribed bounds the resources of one request, each of which is answered with all its keys: 10,000 topics with
// documentation are some 100 MiB.
const maxDescribed = 10_000

// describeConfigs is API key 32, v1-4.
//
//   - v3: types and documentation
//
// Every known key is answered, set or not: clients read all of them, change one and write all of them back. Null and no
// names at all both ask for all keys.
type describeConfigs struct {
	self   Self
	images Images
}

// DescribeConfigs makes API key 32.
func DescribeConfigs(self Self, images Images) API {
	h := &describeConfigs{self, images}
	return Message(1, 4, 0, h.handle)
}

func (h *describeConfigs) handle(
	_ context.Context, _ *wire.Request, req *kmsg.DescribeConfigsRequest,
) (kmsg.Response, error) {
	resp := kmsg.NewPtrDescribeConfigsResponse()
	resp.Resources = []kmsg.DescribeConfigsResponseResource{}
	if len(req.Resources) > maxDescribed {
		return nil, fmt.Errorf("DescribeConfigs of %d resources, want at most %d", len(req.Resources), maxDescribed)
	}
	seen := map[resource]bool{}
	for _, r := range req.Resources {
		if this := (resource{r.ResourceType, r.ResourceName}); seen[this] {
			continue // asked twice, answered once
		} else {
			seen[this] = true
		}
		out := kmsg.NewDescribeConfigsResponseResource()
		out.ResourceType, out.ResourceName = r.ResourceType, r.ResourceName
		out.Configs = []kmsg.DescribeConfigsResponseResourceConfig{}
		entries, err := h.entries(r.ResourceType, r.ResourceName)
		out.ErrorCode, out.ErrorMessage = Code(err), kmsg.StringPtr("") // not null beside success, as in Kafka
		if err != nil {
			out.ErrorMessage = text(err)
		}
		for _, e := range entries {
			if len(r.ConfigNames) == 0 || slices.Contains(r.ConfigNames, e.key.Name) {
				out.Configs = append(out.Configs, describeEntry(e, req.IncludeSynonyms, req.IncludeDocumentation))
			}
		}
		resp.Resources = append(resp.Resources, out)
	}
	return resp, nil
}

func (h *describeConfigs) entries(kind kmsg.ConfigResourceType, name string) ([]entry, error) {
	image := h.images.Image()
	switch kind {
	case kmsg.ConfigResourceTypeTopic:
		if err := checkName(name); err != nil {
			return nil, err
		}
		t := image.ByName(name)
		if t == nil {
			return nil, kerr.UnknownTopicOrPartition
		}
		return topicEntries(image, h.self.ID, t.Config), nil
	case kmsg.ConfigResourceTypeBroker:
		if name == "" {
			return defaultEntries(image), nil
		}
		if err := h.checkSelf(name); err != nil {
			return nil, err
		}
		return agentEntries(image, h.self.ID), nil
	case kmsg.ConfigResourceTypeBrokerLogger:
		return nil, h.checkSelf(name) // there is no logger whose level could be set
	case kmsg.ConfigResourceTypeClientMetrics:
		if name == "" {
			return nil, explain(kerr.InvalidRequest, "Client metrics subscription name must not be empty")
		}
		return nil, nil // none exist
	case kmsg.ConfigResourceTypeGroupConfig:
		if name == "" {
			return nil, explain(kerr.InvalidRequest, "Group name must not be empty")
		}
		return groupEntries(image, name), nil
	}
	return nil, explain(kerr.InvalidRequest, fmt.Sprintf("Unsupported resource type: %d", kind))
}

// checkSelf: another agent's file is not known here; clients ask each broker for its own.
func (h *describeConfigs) checkSelf(name string) error {
	if name != strconv.Itoa(int(h.self.ID)) {
		return explain(kerr.InvalidRequest, fmt.Sprintf("Unexpected broker id, expected %d or empty string, but received %s", h.self.ID, name))
	}
	return nil
}

func describeEntry(e entry, synonyms, documentation bool) kmsg.DescribeConfigsResponseResourceConfig {
	c := kmsg.NewDescribeConfigsResponseResourceConfig()
	c.Name, c.Value, c.ReadOnly, c.IsSensitive = e.key.Name, e.shown(e.values[0].value), e.readOnly, e.key.Sensitive
	c.Source = e.values[0].source
	c.ConfigType = kmsg.ConfigType(e.key.Type)
	c.ConfigSynonyms = []kmsg.DescribeConfigsResponseResourceConfigConfigSynonym{}
	if synonyms {
		for _, v := range e.values {
			s := kmsg.NewDescribeConfigsResponseResourceConfigConfigSynonym()
			s.Name, s.Value, s.Source = v.name, e.shown(v.value), v.source
			c.ConfigSynonyms = append(c.ConfigSynonyms, s)
		}
	}
	if documentation {
		doc := e.key.Doc
		if e.key.Inert != "" {
			doc += " Without effect: " + e.key.Inert + "."
		}
		c.Documentation = &doc
	}
	return c
}
