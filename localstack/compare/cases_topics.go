package main

import (
	"fmt"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// topicCases are items 11 to 17: metadata and topics.
func topicCases() []conversation {
	return []conversation{
		{"12 Metadata of what is not there", func(t *talk) {
			t.from("a name", 4, func(int16) kmsg.Request { return metadata(false, t.prefix+"none") })
			t.from("an id", 10, func(int16) kmsg.Request { return metadataByID(strangerID) })
			t.from("the id 0", 10, func(int16) kmsg.Request { return metadataByID([16]byte{}) })
			t.from("a name and an id", 10, func(int16) kmsg.Request {
				req := metadata(false, t.prefix+"none")
				req.Topics[0].TopicID = strangerID
				return req
			})
		}},
		{"12 a topic that was made again has another id", func(t *talk) {
			old := t.topic("a", 1)
			t.deletes(old)
			made := t.topic("a", 1)
			t.say("another id", fmt.Sprint(made.id != old.id))
			t.ask("the old id", 12, metadataByID(old.id))
			t.ask("fetch by the old id", 13, fetch(old, 0))
			t.ask("produce by the old id", 13, produce(old, 0, -1, values("x").bytes()))
		}},
		{"13 auto-create by name", func(t *talk) {
			t.each("first answer", func(v int16) kmsg.Request { return metadata(true, fmt.Sprintf("%sauto-%d", t.prefix, v)) })
			for v := t.versions[3].min; v <= t.versions[3].max; v++ {
				made := topic{name: fmt.Sprintf("%sauto-%d", t.prefix, v), partitions: 2}
				t.serves(made)
			}
		}},
		{"13 auto-create only where it is allowed", func(t *talk) {
			t.from("not allowed", 4, func(v int16) kmsg.Request { return metadata(false, fmt.Sprintf("%snot-%d", t.prefix, v)) })
			t.normal.own = true
			t.each("all topics", func(v int16) kmsg.Request {
				req := metadata(true)
				req.Topics = nil
				if v == 0 {
					req.Topics = []kmsg.MetadataRequestTopic{}
				}
				return req
			})
		}},
		{"13 auto-create under illegal names", func(t *talk) {
			for _, name := range illegalNames() {
				t.last(called(name), metadata(true, name))
			}
			t.last("one good, one bad", metadata(true, t.prefix+"good", "b d"))
			t.serves(topic{name: t.prefix + "good", partitions: 2})
			t.last("named twice", metadata(true, t.prefix+"twice", t.prefix+"twice"))
			t.serves(topic{name: t.prefix + "twice", partitions: 2})
			t.topic("dotted.name", 1)
			t.last("collides", metadata(true, t.prefix+"dotted_name"))
			t.last("the colliding one is not there", metadata(false, t.prefix+"dotted_name"))
		}},
		{"14 Metadata of one topic", func(t *talk) {
			a := t.topic("a", 3)
			t.each("ask", func(int16) kmsg.Request { return metadata(false, a.name) })
			t.each("named twice", func(int16) kmsg.Request { return metadata(false, a.name, a.name) })
			t.from("by id", 10, func(int16) kmsg.Request { return metadataByID(a.id) })
			t.from("by name and by id", 12, func(int16) kmsg.Request {
				req := metadata(false, a.name)
				req.Topics = append(req.Topics, metadataByID(a.id).Topics...)
				return req
			})
			t.from("operations", 8, func(int16) kmsg.Request {
				req := metadata(false, a.name)
				req.IncludeTopicAuthorizedOperations, req.IncludeClusterAuthorizedOperations = true, true
				return req
			})
		}},
		{"14 null topics and no topics", func(t *talk) {
			t.topic("a", 1)
			t.topic("b", 2)
			t.normal.own = true
			t.each("none", func(int16) kmsg.Request { return metadata(false) })
			t.from("null", 1, func(int16) kmsg.Request {
				req := metadata(false)
				req.Topics = nil
				return req
			})
		}},
		{"14 internal topics", func(t *talk) {
			t.last("offsets", metadata(false, "__consumer_offsets"))
		}},
		{"15 what CreateTopics says of configs", func(t *talk) {
			t.normal.whole = true
			t.each("made", func(v int16) kmsg.Request {
				return t.creates(t.newTopic(fmt.Sprintf("a-%d", v), 3, 1, "retention.ms=5"))
			})
			t.each("only validated", func(int16) kmsg.Request {
				req := t.creates(t.newTopic("validated", 3, 1, "retention.ms=5"))
				req.ValidateOnly = true
				return req
			})
			t.last("refused", t.creates(t.newTopic("refused", 0, 1)))
		}},
		{"15 CreateTopics", func(t *talk) {
			t.each("made", func(v int16) kmsg.Request { return t.creates(t.newTopic(fmt.Sprintf("a-%d", v), 3, 1)) })
			t.each("there already", func(v int16) kmsg.Request { return t.creates(t.newTopic(fmt.Sprintf("a-%d", v), 3, 1)) })
			t.each("defaults", func(v int16) kmsg.Request { return t.creates(t.newTopic(fmt.Sprintf("d-%d", v), -1, -1)) })
			t.each("only validated", func(v int16) kmsg.Request {
				req := t.creates(t.newTopic("validated", 3, 1))
				req.ValidateOnly = true
				return req
			})
			t.last("was only validated", metadata(false, t.prefix+"validated"))
			t.each("only validated, there already", func(v int16) kmsg.Request {
				req := t.creates(t.newTopic(fmt.Sprintf("a-%d", v), 3, 1))
				req.ValidateOnly = true
				return req
			})
			t.each("none", func(int16) kmsg.Request { return t.creates() })
			for _, timeout := range []int32{0, -1} {
				req := t.creates(t.newTopic("timeout", 1, 1))
				req.TimeoutMillis, req.ValidateOnly = timeout, true
				t.last(fmt.Sprintf("timeout %d", timeout), req)
			}
		}},
		{"15 CreateTopics with configs", func(t *talk) {
			t.last("set", t.creates(t.newTopic("a", 1, 1, "retention.ms=1000", "max.message.bytes=2000")))
			t.each("unknown key", func(int16) kmsg.Request { return t.creates(t.newTopic("b", 1, 1, "no.such.key=1")) })
			for _, c := range []string{"retention.ms=x", "retention.ms=", "retention.ms=-2", "retention.ms=9223372036854775808",
				"cleanup.policy=nothing", "cleanup.policy=", "max.message.bytes=-1", "segment.bytes=1", "min.insync.replicas=0",
				"compression.type=fast", "message.timestamp.type=Never", "unclean.leader.election.enable=maybe", "retention.bytes=-2"} {
				t.last(c, t.creates(t.newTopic("b-"+strings.Map(letters, c), 1, 1, c)))
			}
			t.last("twice the same key", t.creates(t.newTopic("c", 1, 1, "retention.ms=1000", "retention.ms=2000")))
			null := t.newTopic("b", 1, 1, "retention.ms=1")
			null.Configs[0].Value = nil
			t.last("null value", t.creates(null))
			t.last("compacted", t.creates(t.newTopic("compacted", 1, 1, "cleanup.policy=compact")))
			t.last("compacted and deleted", t.creates(t.newTopic("both", 1, 1, "cleanup.policy=compact,delete")))
			t.last("nothing was made", metadata(false, t.prefix+"b"))
		}},
		{"15 CreateTopics under illegal names", func(t *talk) {
			for _, name := range illegalNames() {
				bad := t.newTopic("", 1, 1)
				bad.Topic = name
				t.each(called(name), func(int16) kmsg.Request { return t.creates(bad) })
			}
			long := t.newTopic("", 1, 1)
			long.Topic = t.prefix + strings.Repeat("x", 249-len(t.prefix))
			t.last("249 letters", t.creates(long))
			t.topic("with.dot", 1)
			t.last("collides with one that is there", t.creates(t.newTopic("with_dot", 1, 1)))
			t.last("two that collide", t.creates(t.newTopic("x.y", 1, 1), t.newTopic("x_y", 1, 1)))
		}},
		{"15 CreateTopics with wrong counts", func(t *talk) {
			for _, n := range []int32{0, -2, -1 << 31} {
				t.each(fmt.Sprintf("%d partitions", n), func(int16) kmsg.Request { return t.creates(t.newTopic("a", n, 1)) })
			}
			for _, n := range []int16{0, -2, 2, 3, 6, 32767} {
				name := fmt.Sprintf("%d replicas", n)
				t.last(name, t.creates(t.newTopic(strings.ReplaceAll(name, " ", "-"), 1, n)))
			}
			validated := func(step string, req *kmsg.CreateTopicsRequest) {
				req.ValidateOnly = true // Kafka would be busy for minutes
				t.last(step, req)
			}
			validated("10,001 partitions", t.creates(t.newTopic("huge", 10_001, 1)))
			validated("2^31-1 partitions", t.creates(t.newTopic("huge", 1<<31-1, 1)))
			validated("10,002 partitions in two topics", t.creates(t.newTopic("half", 5_001, 1), t.newTopic("other-half", 5_001, 1)))
		}},
		{"15 CreateTopics with assignments", func(t *talk) {
			assigned := func(name string, partitions int32, replicas int16, as ...[]int32) kmsg.CreateTopicsRequestTopic {
				out := t.newTopic(name, partitions, replicas)
				for i, a := range as {
					ra := kmsg.NewCreateTopicsRequestTopicReplicaAssignment()
					ra.Partition, ra.Replicas = int32(i), a
					out.ReplicaAssignment = append(out.ReplicaAssignment, ra)
				}
				return out
			}
			t.each("good", func(v int16) kmsg.Request {
				return t.creates(assigned(fmt.Sprintf("good-%d", v), -1, -1, []int32{1}, []int32{1}))
			})
			t.each("with a count", func(int16) kmsg.Request { return t.creates(assigned("a", 2, -1, []int32{1}, []int32{1})) })
			t.each("with a factor", func(int16) kmsg.Request { return t.creates(assigned("a", -1, 1, []int32{1}, []int32{1})) })
			t.last("with both", t.creates(assigned("a", 2, 1, []int32{1}, []int32{1})))
			t.last("no replicas", t.creates(assigned("a", -1, -1, []int32{})))
			t.last("unknown broker", t.creates(assigned("a", -1, -1, []int32{7})))
			t.last("negative broker", t.creates(assigned("a", -1, -1, []int32{-1})))
			t.last("broker twice", t.creates(assigned("a", -1, -1, []int32{1, 1})))
			t.last("unequal", t.creates(assigned("a", -1, -1, []int32{1}, []int32{1, 7})))
			gap := assigned("a", -1, -1, []int32{1}, []int32{1})
			gap.ReplicaAssignment[1].Partition = 2
			t.last("a gap", t.creates(gap))
			twice := assigned("a", -1, -1, []int32{1}, []int32{1})
			twice.ReplicaAssignment[1].Partition = 0
			t.last("a partition twice", t.creates(twice))
			negative := assigned("a", -1, -1, []int32{1})
			negative.ReplicaAssignment[0].Partition = -1
			t.last("a negative partition", t.creates(negative))
			t.last("nothing was made", metadata(false, t.prefix+"a"))
		}},
		{"15 one bad topic does not fail the others", func(t *talk) {
			t.each("named twice", func(v int16) kmsg.Request {
				return t.creates(t.newTopic("twice", 1, 1), t.newTopic(fmt.Sprintf("good-%d", v), 1, 1), t.newTopic("twice", 2, 1))
			})
			bad := t.newTopic("", 1, 1)
			bad.Topic = "b d"
			t.last("many mistakes", t.creates(bad, t.newTopic("good", 1, 1), t.newTopic("zero", 0, 1), t.newTopic("key", 1, 1, "no.such.key=1")))
			t.last("the named twice is not there", metadata(false, t.prefix+"twice"))
		}},
		{"16 CreatePartitions", func(t *talk) {
			for v := t.versions[37].min; v <= t.versions[37].max; v++ {
				t.ask("up", v, t.partitions(t.topic(fmt.Sprintf("up-%d", v), 1).name, 3))
			}
			a := t.topic("a", 2)
			for _, n := range []int32{2, 1, 0, -1, 10_003, 1<<31 - 1} {
				t.each(fmt.Sprintf("to %d", n), func(int16) kmsg.Request {
					req := t.partitions(a.name, n)
					req.ValidateOnly = n > 10_000 // Kafka would be busy for minutes
					return req
				})
			}
			t.each("unknown topic", func(int16) kmsg.Request { return t.partitions(t.prefix+"none", 3) })
			t.each("illegal topic", func(int16) kmsg.Request { return t.partitions("b d", 3) })
			t.each("only validated", func(int16) kmsg.Request {
				req := t.partitions(a.name, 5)
				req.ValidateOnly = true
				return req
			})
			t.last("was only validated", metadata(false, a.name))
			t.each("named twice", func(int16) kmsg.Request {
				req := t.partitions(a.name, 5)
				req.Topics = append(req.Topics, req.Topics[0], t.partitions(t.prefix+"none", 3).Topics[0])
				return req
			})
			t.each("none", func(int16) kmsg.Request {
				req := t.partitions(a.name, 5)
				req.Topics = nil
				return req
			})
		}},
		{"16 CreatePartitions with assignments", func(t *talk) {
			a := t.topic("a", 1)
			assigned := func(n int32, as ...[]int32) kmsg.Request {
				req := t.partitions(a.name, n)
				req.Topics[0].Assignment = []kmsg.CreatePartitionsRequestTopicAssignment{}
				for _, r := range as {
					req.Topics[0].Assignment = append(req.Topics[0].Assignment, kmsg.CreatePartitionsRequestTopicAssignment{Replicas: r})
				}
				return req
			}
			t.last("too few", assigned(3, []int32{1}))
			t.last("too many", assigned(2, []int32{1}, []int32{1}))
			t.last("none", assigned(2))
			t.last("unknown broker", assigned(2, []int32{7}))
			t.last("no replicas", assigned(2, []int32{}))
			t.last("broker twice", assigned(2, []int32{1, 1}))
			t.last("another factor", assigned(2, []int32{1, 7}))
			t.last("good", assigned(3, []int32{1}, []int32{1}))
		}},
		{"16 DeleteTopics", func(t *talk) {
			for v := t.versions[20].min; v <= t.versions[20].max; v++ {
				t.ask("by name", v, deletes(t.topic(fmt.Sprintf("a-%d", v), 1).name))
			}
			t.each("unknown name", func(int16) kmsg.Request { return deletes(t.prefix + "none") })
			t.each("illegal name", func(int16) kmsg.Request { return deletes("b d") })
			t.each("named twice", func(int16) kmsg.Request { return deletes(t.prefix+"none", t.prefix+"none") })
			t.each("none", func(int16) kmsg.Request { return deletes() })
			b := t.topic("b", 1)
			t.each("there and named twice", func(int16) kmsg.Request { return deletes(b.name, t.prefix+"none", b.name) })
			t.last("it is still there", metadata(false, b.name))
			for _, timeout := range []int32{0, -1} {
				req := deletes(t.prefix + "none")
				req.TimeoutMillis = timeout
				t.last(fmt.Sprintf("timeout %d", timeout), req)
			}
		}},
		{"16 DeleteTopics by id", func(t *talk) {
			by := func(as ...kmsg.DeleteTopicsRequestTopic) kmsg.Request {
				req := deletes()
				req.Topics = as
				return req
			}
			a, b := t.topic("a", 1), t.topic("b", 1)
			t.last("unknown id", by(kmsg.DeleteTopicsRequestTopic{TopicID: strangerID}))
			t.last("neither name nor id", by(kmsg.DeleteTopicsRequestTopic{}))
			t.last("name and id", by(kmsg.DeleteTopicsRequestTopic{Topic: &a.name, TopicID: a.id}))
			t.last("name and another's id", by(kmsg.DeleteTopicsRequestTopic{Topic: &a.name, TopicID: b.id}))
			t.last("id twice", by(kmsg.DeleteTopicsRequestTopic{TopicID: a.id}, kmsg.DeleteTopicsRequestTopic{TopicID: a.id}))
			t.last("by name and by id", by(kmsg.DeleteTopicsRequestTopic{Topic: &a.name}, kmsg.DeleteTopicsRequestTopic{TopicID: a.id}))
			t.last("unknown id twice", by(kmsg.DeleteTopicsRequestTopic{TopicID: strangerID}, kmsg.DeleteTopicsRequestTopic{TopicID: strangerID}))
			t.last("they are still there", metadata(false, a.name, b.name))
			t.last("good", by(kmsg.DeleteTopicsRequestTopic{TopicID: a.id}))
		}},
		{"17 DescribeTopicPartitions", func(t *talk) {
			a, b, c := t.topic("a", 2), t.topic("b", 3), t.topic("c", 1)
			pages := func(limit int32, cursor *kmsg.DescribeTopicPartitionsRequestCursor, names ...string) *kmsg.DescribeTopicPartitionsRequest {
				req := kmsg.NewPtrDescribeTopicPartitionsRequest()
				req.ResponsePartitionLimit, req.Cursor = limit, cursor
				for _, n := range names {
					req.Topics = append(req.Topics, kmsg.DescribeTopicPartitionsRequestTopic{Topic: n})
				}
				return req
			}
			at := func(name string, p int32) *kmsg.DescribeTopicPartitionsRequestCursor {
				return &kmsg.DescribeTopicPartitionsRequestCursor{Topic: name, Partition: p}
			}
			order := func(step string, req *kmsg.DescribeTopicPartitionsRequest) {
				resp, ok := t.ask(step, 0, req).(*kmsg.DescribeTopicPartitionsResponse)
				if !ok {
					return
				}
				var names []string
				for _, rt := range resp.Topics {
					names = append(names, strings.TrimPrefix(*rt.Topic, t.prefix))
				}
				t.say(step+": order", strings.Join(names, " "))
			}
			order("whole", pages(2000, nil, c.name, b.name, a.name))
			for _, limit := range []int32{1, 2, 3, 5, 6, 0, -1, 1 << 30} {
				order(fmt.Sprintf("limit %d", limit), pages(limit, nil, a.name, b.name, c.name))
			}
			order("from within", pages(2, at(b.name, 1), a.name, b.name, c.name))
			order("from its end", pages(2000, at(b.name, 3), a.name, b.name, c.name))
			order("from beyond its end", pages(2000, at(b.name, 9), a.name, b.name, c.name))
			order("from a topic that is not asked for", pages(2000, at(t.prefix+"bb", 0), a.name, b.name, c.name))
			order("from within a topic that is not asked for", pages(2000, at(t.prefix+"bb", 1), a.name, b.name, c.name))
			order("from behind all", pages(2000, at(t.prefix+"z", 0), a.name, b.name, c.name))
			order("from a negative partition", pages(2000, at(b.name, -1), a.name, b.name, c.name))
			order("unknown", pages(2000, nil, t.prefix+"none", a.name))
			order("illegal", pages(2000, nil, "b d", a.name))
			order("unknown behind the limit", pages(2, nil, a.name, t.prefix+"aa", b.name))
			order("twice", pages(2000, nil, a.name, a.name))
			t.normal.own = true
			t.ask("all", 0, pages(2000, at(t.prefix, 0)))
		}},
		{"17 DescribeCluster", func(t *talk) {
			for _, kind := range []int8{0, 1, 2, 3, -1} {
				t.each(fmt.Sprintf("endpoint type %d", kind), func(int16) kmsg.Request {
					req := kmsg.NewPtrDescribeClusterRequest()
					req.EndpointType = kind
					return req
				})
			}
			t.each("operations", func(int16) kmsg.Request {
				req := kmsg.NewPtrDescribeClusterRequest()
				req.IncludeClusterAuthorizedOperations, req.IncludeFencedBrokers = true, true
				return req
			})
		}},
	}
}

func illegalNames() []string {
	return []string{"", ".", "..", "a b", "a/b", "a\\b", "a,b", "a:b", "a\x00b", "ä", "a\nb", strings.Repeat("x", 250), strings.Repeat("x", 1000)}
}

// letters leaves in a name what may stand there.
func letters(r rune) rune {
	if r == '=' {
		return '-'
	}
	return r
}

// called names a step after a name, however long.
func called(name string) string {
	if len(name) > 20 {
		return fmt.Sprintf("%d letters", len(name))
	}
	return fmt.Sprintf("%q", name)
}

func metadataByID(id [16]byte) *kmsg.MetadataRequest {
	req := metadata(false)
	req.Topics = append(req.Topics, kmsg.MetadataRequestTopic{TopicID: id})
	return req
}

func (t *talk) creates(topics ...kmsg.CreateTopicsRequestTopic) *kmsg.CreateTopicsRequest {
	req := kmsg.NewPtrCreateTopicsRequest()
	req.TimeoutMillis, req.Topics = waitForever, topics
	return req
}

func (t *talk) partitions(name string, count int32) *kmsg.CreatePartitionsRequest {
	req := kmsg.NewPtrCreatePartitionsRequest()
	req.TimeoutMillis = waitForever
	rt := kmsg.NewCreatePartitionsRequestTopic()
	rt.Topic, rt.Count = name, count
	req.Topics = append(req.Topics, rt)
	return req
}

// deletes names topics in both forms of the request.
func deletes(names ...string) *kmsg.DeleteTopicsRequest {
	req := kmsg.NewPtrDeleteTopicsRequest()
	req.TimeoutMillis, req.TopicNames = waitForever, names
	for _, n := range names {
		req.Topics = append(req.Topics, kmsg.DeleteTopicsRequestTopic{Topic: &n})
	}
	return req
}

// deletes removes a topic, and returns when it is gone.
func (t *talk) deletes(a topic) {
	t.call(5, deletes(a.name))
	t.until(a.name+" is gone", func() bool { return t.describe(a.name).ErrorCode == 3 })
}
