package broker

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/catalog"
	"varve.dev/agent/config"
	"varve.dev/metadata"
)

// entry is one key of a resource with every value that was given to it, the one in force first. There is at least one.
type entry struct {
	key      config.Key
	readOnly bool
	values   []value
}

// value is what one place says of a key. Its name there may be another: a topic's retention.ms is an agent's
// log.retention.ms.
type value struct {
	name, value string
	source      kmsg.ConfigSource
}

// shown hides what must not be read.
func (e entry) shown(v string) *string {
	if e.key.Sensitive {
		return nil
	}
	return &v
}

// given is what was set on a resource, if the key accepts it: a newer agent may have written it.
func given(k config.Key, set map[string]string, source kmsg.ConfigSource) []value {
	if v, ok := set[k.Name]; ok && k.Check(v) == nil {
		return []value{{k.Name, v, source}}
	}
	return nil
}

// agentValues are the values of an agent's key: altered for this agent, altered for all, its file, the default.
func agentValues(image *catalog.Image, self int32, k config.Key) []value {
	var out []value
	if k.Dynamic {
		out = append(out, given(k, image.Brokers[self], kmsg.ConfigSourceDynamicBrokerConfig)...)
		out = append(out, given(k, image.Brokers[metadata.NoAgent], kmsg.ConfigSourceDynamicDefaultBrokerConfig)...)
	}
	static := image.Static.String(k.Name)
	if image.Static.Source(k.Name) != config.FromDefault {
		out = append(out, value{k.Name, static, kmsg.ConfigSourceStaticBrokerConfig})
		static = k.Default
	}
	return append(out, value{k.Name, static, kmsg.ConfigSourceDefaultConfig})
}

// topicEntries are all keys of a topic that has set some.
func topicEntries(image *catalog.Image, self int32, set map[string]string) []entry {
	var out []entry
	for _, k := range config.TopicKeys() {
		e := entry{key: k, values: given(k, set, kmsg.ConfigSourceDynamicTopicConfig)}
		if agent, ok := config.AgentKey(k.AgentKey); ok {
			e.values = append(e.values, agentValues(image, self, agent)...)
		} else {
			e.values = append(e.values, value{k.Name, k.Default, kmsg.ConfigSourceDefaultConfig})
		}
		out = append(out, e)
	}
	return out
}

// agentEntries are all keys of this agent.
func agentEntries(image *catalog.Image, self int32) []entry {
	var out []entry
	for _, k := range config.AgentKeys() {
		out = append(out, entry{key: k, readOnly: !k.Dynamic, values: agentValues(image, self, k)})
	}
	return out
}

// defaultEntries are what was altered for all agents; Kafka shows nothing else there.
func defaultEntries(image *catalog.Image) []entry {
	var out []entry
	for _, k := range config.AgentKeys() {
		if vs := given(k, image.Brokers[metadata.NoAgent], kmsg.ConfigSourceDynamicDefaultBrokerConfig); vs != nil {
			out = append(out, entry{key: k, values: vs})
		}
	}
	return out
}

// groupEntries are all keys of a group.
func groupEntries(image *catalog.Image, group string) []entry {
	var out []entry
	for _, k := range config.GroupKeys() {
		vs := given(k, image.Groups[group], kmsg.ConfigSourceGroupConfig)
		out = append(out, entry{key: k, values: append(vs, value{k.Name, k.Default, kmsg.ConfigSourceDefaultConfig})})
	}
	return out
}
