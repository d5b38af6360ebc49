package main

import (
	"fmt"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	topicResource   = kmsg.ConfigResourceTypeTopic
	brokerResource  = kmsg.ConfigResourceTypeBroker
	loggerResource  = kmsg.ConfigResourceTypeBrokerLogger
	metricsResource = kmsg.ConfigResourceTypeClientMetrics
	groupResource   = kmsg.ConfigResourceTypeGroupConfig
)

// configCases are items 18 and 19: configs and their defaults.
func configCases() []conversation {
	return []conversation{
		{"18 DescribeConfigs of a topic", func(t *talk) {
			a := t.topic("a", 1, "retention.ms=1000")
			t.each("all keys", func(int16) kmsg.Request { return configs(topicResource, a.name, nil) })
			t.each("some keys", func(int16) kmsg.Request {
				return configs(topicResource, a.name, []string{"retention.ms", "no.such.key", "max.message.bytes"})
			})
			t.each("no keys", func(int16) kmsg.Request { return configs(topicResource, a.name, []string{}) })
			t.each("synonyms", func(int16) kmsg.Request {
				req := configs(topicResource, a.name, []string{"retention.ms", "cleanup.policy", "message.timestamp.type"})
				req.IncludeSynonyms = true
				return req
			})
			t.each("documentation", func(int16) kmsg.Request {
				req := configs(topicResource, a.name, []string{"retention.ms"})
				req.IncludeDocumentation = true
				return req
			})
			t.each("twice", func(int16) kmsg.Request {
				req := configs(topicResource, a.name, []string{"retention.ms"})
				req.Resources = append(req.Resources, configs(topicResource, a.name, []string{"retention.bytes"}).Resources...)
				return req
			})
		}},
		{"18 DescribeConfigs of what is not there", func(t *talk) {
			t.each("unknown topic", func(int16) kmsg.Request { return configs(topicResource, t.prefix+"none", nil) })
			t.each("illegal topic", func(int16) kmsg.Request { return configs(topicResource, "b d", nil) })
			t.each("empty topic", func(int16) kmsg.Request { return configs(topicResource, "", nil) })
			t.each("nothing", func(int16) kmsg.Request { return kmsg.NewPtrDescribeConfigsRequest() })
			for _, kind := range []int8{0, 1, 3, 5, 64, -1} {
				t.last(fmt.Sprintf("resource type %d", kind), configs(kmsg.ConfigResourceType(kind), "x", nil))
			}
			t.last("a good one beside a bad one", func() kmsg.Request {
				a := t.topic("a", 1)
				req := configs(topicResource, a.name, []string{"retention.ms"})
				req.Resources = append(req.Resources, configs(topicResource, t.prefix+"none", nil).Resources...)
				return req
			}())
		}},
		{"18 DescribeConfigs of a broker", func(t *talk) {
			keys := []string{"num.partitions", "log.retention.ms", "message.max.bytes", "auto.create.topics.enable", "group.max.size",
				"default.replication.factor", "offsets.retention.minutes"}
			t.each("itself", func(int16) kmsg.Request { return configs(brokerResource, "1", keys) })
			t.each("synonyms", func(int16) kmsg.Request {
				req := configs(brokerResource, "1", []string{"log.retention.bytes"})
				req.IncludeSynonyms = true
				return req
			})
			t.each("the default", func(int16) kmsg.Request { return configs(brokerResource, "", nil) })
			t.each("another", func(int16) kmsg.Request { return configs(brokerResource, "7", nil) })
			t.each("no number", func(int16) kmsg.Request { return configs(brokerResource, "x", nil) })
			t.last("logger of another", configs(loggerResource, "7", nil))
			t.last("logger without a name", configs(loggerResource, "", nil))
			t.last("client metrics without a name", configs(metricsResource, "", nil))
			t.last("client metrics", configs(metricsResource, "none", nil))
			t.last("group without a name", configs(groupResource, "", nil))
			t.last("group", configs(groupResource, t.prefix+"none", nil))
		}},
		{"18 IncrementalAlterConfigs", func(t *talk) {
			for v := t.versions[44].min; v <= t.versions[44].max; v++ {
				a := t.topic(fmt.Sprintf("a-%d", v), 1)
				step := func(name string, changes ...string) { t.ask(name, v, incremental(topicResource, a.name, changes...)) }
				shows := func(what, key, value string) {
					t.until("the config is shown", func() bool { return t.config(a.name, key) == value })
					t.ask(what, 4, configs(topicResource, a.name, []string{key}))
				}
				step("set", "0retention.ms=1000")
				shows(fmt.Sprintf("set, of v%d", v), "retention.ms", "1000")
				step("delete", "1retention.ms=")
				shows(fmt.Sprintf("deleted, of v%d", v), "retention.ms", "-1")
				step("delete what is not set", "1retention.ms=")
				step("append", "2leader.replication.throttled.replicas=0:1")
				step("append to what is no list", "2retention.ms=5")
				step("subtract from what is no list", "3retention.ms=5")
				step("subtract all of it", "3cleanup.policy=delete")
				step("append what is there", "2cleanup.policy=delete")
				step("append nonsense", "2cleanup.policy=nothing")
				step("operation 9", "9retention.ms=5")
				step("key twice", "0retention.ms=1", "0retention.ms=2")
				step("key set and deleted", "0retention.ms=1", "1retention.ms=")
				step("unknown key", "0no.such.key=1")
				step("delete unknown key", "1no.such.key=")
				step("append to unknown key", "2no.such.key=1")
				step("bad value", "0retention.ms=x")
				step("empty key", "0=1")
				step("one good and one bad", "0retention.bytes=1000", "0no.such.key=1")
				step("nothing")
			}
		}},
		{"18 IncrementalAlterConfigs without a value", func(t *talk) {
			a := t.topic("a", 1)
			for op := range 4 {
				t.each(fmt.Sprintf("operation %d", op), func(int16) kmsg.Request {
					req := incremental(topicResource, a.name, fmt.Sprintf("%dcleanup.policy=", op))
					req.Resources[0].Configs[0].Value = nil
					return req
				})
			}
			t.each("only validated", func(int16) kmsg.Request {
				req := incremental(topicResource, a.name, "0retention.ms=5")
				req.ValidateOnly = true
				return req
			})
			t.each("only validated, bad", func(int16) kmsg.Request {
				req := incremental(topicResource, a.name, "0retention.ms=x")
				req.ValidateOnly = true
				return req
			})
			t.last("was only validated", configs(topicResource, a.name, []string{"retention.ms"}))
			t.each("resource twice", func(int16) kmsg.Request {
				req := incremental(topicResource, a.name, "0retention.ms=5")
				req.Resources = append(req.Resources, incremental(topicResource, a.name, "0retention.bytes=5").Resources...)
				return req
			})
			t.each("one good and one unknown", func(int16) kmsg.Request {
				req := incremental(topicResource, a.name, "0retention.ms=5")
				req.Resources = append(req.Resources, incremental(topicResource, t.prefix+"none", "0retention.bytes=5").Resources...)
				return req
			})
		}},
		{"18 IncrementalAlterConfigs of other resources", func(t *talk) {
			ask := func(step string, kind kmsg.ConfigResourceType, name string, changes ...string) {
				t.each(step, func(int16) kmsg.Request {
					req := incremental(kind, name, changes...)
					req.ValidateOnly = true // other cases run under the same broker's configs
					return req
				})
			}
			ask("unknown topic", topicResource, t.prefix+"none", "0retention.ms=5")
			ask("illegal topic", topicResource, "b d", "0retention.ms=5")
			ask("empty topic", topicResource, "", "0retention.ms=5")
			ask("broker, dynamic", brokerResource, "1", "0log.retention.bytes=-1")
			ask("broker, read only", brokerResource, "1", "0auto.create.topics.enable=false")
			ask("broker, only in its file", brokerResource, "1", "0offsets.retention.minutes=7")
			ask("broker, unknown key", brokerResource, "1", "0no.such.key=1")
			ask("broker, bad value", brokerResource, "1", "0log.retention.bytes=x")
			ask("all brokers", brokerResource, "", "0log.retention.bytes=-1")
			ask("all brokers, read only", brokerResource, "", "0auto.create.topics.enable=false")
			ask("another broker", brokerResource, "7", "0log.retention.bytes=-1")
			ask("broker that is no number", brokerResource, "x", "0log.retention.bytes=-1")
			for _, kind := range []kmsg.ConfigResourceType{0, 1, 3, 64, -1} {
				ask(fmt.Sprintf("resource type %d", kind), kind, "x", "0a=b")
			}
			ask("group without a name", groupResource, "", "0consumer.session.timeout.ms=50000")
			ask("group, unknown key", groupResource, t.prefix+"g", "0no.such.key=1")
			ask("client metrics without a name", metricsResource, "", "0interval.ms=1000")
		}},
		{"18 AlterConfigs", func(t *talk) {
			a := t.topic("a", 1, "retention.bytes=5000")
			for v := t.versions[33].min; v <= t.versions[33].max; v++ {
				ms := fmt.Sprint(1000 + int(v))
				t.ask("replace", v, alter(topicResource, a.name, "retention.ms="+ms))
				t.until("the config is shown", func() bool { return t.config(a.name, "retention.ms") == ms })
				t.ask(fmt.Sprintf("replaced, of v%d", v), 4, configs(topicResource, a.name, []string{"retention.ms", "retention.bytes"}))
			}
			ask := func(step string, kind kmsg.ConfigResourceType, name string, values ...string) {
				t.each(step, func(int16) kmsg.Request { return alter(kind, name, values...) })
			}
			ask("unknown key", topicResource, a.name, "no.such.key=1")
			ask("bad value", topicResource, a.name, "retention.ms=x")
			ask("key twice", topicResource, a.name, "retention.ms=1", "retention.ms=2")
			ask("unknown topic", topicResource, t.prefix+"none", "retention.ms=1")
			ask("illegal topic", topicResource, "b d", "retention.ms=1")
			ask("resource type 0", 0, "x", "a=b")
			ask("another broker", brokerResource, "7", "log.retention.bytes=-1")
			ask("broker that is no number", brokerResource, "x", "log.retention.bytes=-1")
			t.each("null value", func(int16) kmsg.Request {
				req := alter(topicResource, a.name, "retention.ms=1")
				req.Resources[0].Configs[0].Value = nil
				return req
			})
			t.each("only validated", func(int16) kmsg.Request {
				req := alter(topicResource, a.name, "retention.ms=77")
				req.ValidateOnly = true
				return req
			})
			twice := alter(topicResource, a.name, "retention.ms=78")
			twice.Resources = append(twice.Resources, alter(topicResource, a.name, "retention.ms=79").Resources...)
			t.perhaps("resource twice", twice)
			t.last("what is set now", configs(topicResource, a.name, []string{"retention.ms", "retention.bytes"}))
		}},
		{"18 ListConfigResources", func(t *talk) {
			t.topic("a", 1)
			t.normal.own = true
			ask := func(step string, version int16, kinds ...int8) {
				req := kmsg.NewPtrListConfigResourcesRequest()
				req.ResourceTypes = kinds
				t.ask(step, version, req)
			}
			ask("client metrics", 0)
			ask("topics", 1, 2)
			ask("groups", 1, 32)
			ask("client metrics", 1, 16)
			ask("topics twice", 1, 2, 2)
			ask("type 0", 1, 0)
			ask("type 3", 1, 3)
			ask("a good and a bad type", 1, 2, 99)
		}},
	}
}

func configs(kind kmsg.ConfigResourceType, name string, keys []string) *kmsg.DescribeConfigsRequest {
	req := kmsg.NewPtrDescribeConfigsRequest()
	r := kmsg.NewDescribeConfigsRequestResource()
	r.ResourceType, r.ResourceName, r.ConfigNames = kind, name, keys
	req.Resources = append(req.Resources, r)
	return req
}

// config is a topic's value of a key.
func (t *talk) config(topic, key string) string {
	resp := t.call(4, configs(topicResource, topic, []string{key})).(*kmsg.DescribeConfigsResponse)
	for _, c := range resp.Resources[0].Configs {
		if c.Value != nil {
			return *c.Value
		}
	}
	return ""
}

// incremental takes changes like 0key=value: the first digit is the operation.
func incremental(kind kmsg.ConfigResourceType, name string, changes ...string) *kmsg.IncrementalAlterConfigsRequest {
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	r := kmsg.NewIncrementalAlterConfigsRequestResource()
	r.ResourceType, r.ResourceName = kind, name
	for _, c := range changes {
		k, v, _ := strings.Cut(c[1:], "=")
		rc := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
		rc.Name, rc.Op, rc.Value = k, kmsg.IncrementalAlterConfigOp(c[0]-'0'), &v
		r.Configs = append(r.Configs, rc)
	}
	req.Resources = append(req.Resources, r)
	return req
}

func alter(kind kmsg.ConfigResourceType, name string, values ...string) *kmsg.AlterConfigsRequest {
	req := kmsg.NewPtrAlterConfigsRequest()
	r := kmsg.NewAlterConfigsRequestResource()
	r.ResourceType, r.ResourceName = kind, name
	for _, c := range values {
		k, v, _ := strings.Cut(c, "=")
		rc := kmsg.NewAlterConfigsRequestResourceConfig()
		rc.Name, rc.Value = k, &v
		r.Configs = append(r.Configs, rc)
	}
	req.Resources = append(req.Resources, r)
	return req
}
