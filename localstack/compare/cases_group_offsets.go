package main

import (
	"fmt"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// groupOffsetCases are items 39, 43 and what 46 says of offsets.
func groupOffsetCases() []conversation {
	return []conversation{
		{"39 OffsetFetch of an unknown group", func(t *talk) {
			a := t.topic("a", 2)
			t.each("some partitions", func(v int16) kmsg.Request { return committed(v, t.prefix+"none", a, 0, 1) })
			t.each("no such partition", func(v int16) kmsg.Request { return committed(v, t.prefix+"none", a, 7, -1) })
			t.each("no such topic", func(v int16) kmsg.Request {
				return committed(v, t.prefix+"none", topic{name: t.prefix + "none", id: strangerID}, 0)
			})
			t.from("everything", 2, func(v int16) kmsg.Request { return committed(v, t.prefix+"none", a) })
			t.each("no topics", func(v int16) kmsg.Request {
				req := committed(v, t.prefix+"none", a)
				req.Topics = []kmsg.OffsetFetchRequestTopic{}
				for i := range req.Groups {
					req.Groups[i].Topics = []kmsg.OffsetFetchRequestGroupTopic{}
				}
				return req
			})
			t.each("no partitions", func(v int16) kmsg.Request { return committed(v, t.prefix+"none", a, []int32{}...) })
			t.each("empty group", func(v int16) kmsg.Request { return committed(v, "", a, 0) })
			t.from("stable", 7, func(v int16) kmsg.Request {
				req := committed(v, t.prefix+"none", a, 0)
				req.RequireStable = true
				return req
			})
			t.from("no group at all", 8, func(int16) kmsg.Request { return kmsg.NewPtrOffsetFetchRequest() })
			t.from("two groups", 8, func(v int16) kmsg.Request {
				req := committed(v, t.prefix+"none", a, 0)
				req.Groups = append(req.Groups, committed(v, t.prefix+"other", a).Groups...)
				return req
			})
			t.from("a group twice", 8, func(v int16) kmsg.Request {
				req := committed(v, t.prefix+"none", a, 0)
				req.Groups = append(req.Groups, committed(v, t.prefix+"none", a, 1).Groups...)
				return req
			})
			t.each("a partition twice", func(v int16) kmsg.Request { return committed(v, t.prefix+"none", a, 0, 0) })
		}},
		{"39 OffsetFetch under a member's name", func(t *talk) {
			a := t.topic("a", 1)
			g := t.prefix + "g"
			m := t.settled("m", g, nil)
			t.call(8, m.commits(a, 5))
			ask := func(step, member string, epoch int32) {
				t.from(step, 9, func(v int16) kmsg.Request {
					req := committed(v, g, a, 0)
					req.Groups[0].MemberID, req.Groups[0].MemberEpoch = ptr(member), epoch
					return req
				})
			}
			ask("good", m.id, m.gen)
			ask("another epoch", m.id, m.gen+1)
			ask("nobody", "nobody", 1)
			ask("no epoch", m.id, -1)
		}},
		{"39 metadata of a commit", func(t *talk) {
			a := t.topic("a", 4)
			for v := t.versions[8].min; v <= t.versions[8].max; v++ {
				g := fmt.Sprintf("%sg-%d", t.prefix, v)
				put := func(step string, partition int32, metadata *string) {
					t.ask(step, v, commit(g, a.name, a.id, partition, 10+int64(partition), metadata))
				}
				put("null", 0, nil)
				put("empty", 1, ptr(""))
				put("text", 2, ptr("some text, ä"))
				put("4096 bytes", 3, ptr(strings.Repeat("x", 4096)))
				put("4097 bytes", 3, ptr(strings.Repeat("y", 4097)))
				t.ask(fmt.Sprintf("what is committed, by v%d", v), 7, committed(7, g, a, 0, 1, 2, 3))
			}
			g := t.prefix + "g-" + fmt.Sprint(t.newest(8))
			t.each("in every version", func(v int16) kmsg.Request { return committed(v, g, a, 0, 1, 2) })
			t.from("everything", 2, func(v int16) kmsg.Request { return committed(v, g, a) })
			t.from("stable", 7, func(v int16) kmsg.Request {
				req := committed(v, g, a, 0)
				req.RequireStable = true
				return req
			})
		}},
		{"43 OffsetCommit outside of groups", func(t *talk) {
			a := t.topic("a", 1)
			ask := func(step string, change func(*kmsg.OffsetCommitRequest)) {
				t.each(step, func(v int16) kmsg.Request {
					req := commit(fmt.Sprintf("%s%s-%d", t.prefix, step, v), a.name, a.id, 0, 5, nil)
					change(req)
					return req
				})
			}
			ask("good", func(*kmsg.OffsetCommitRequest) {})
			ask("empty group", func(r *kmsg.OffsetCommitRequest) { r.Group = "" })
			ask("no such topic", func(r *kmsg.OffsetCommitRequest) {
				r.Topics[0].Topic, r.Topics[0].TopicID = t.prefix+"none", strangerID
			})
			ask("no such partition", func(r *kmsg.OffsetCommitRequest) { r.Topics[0].Partitions[0].Partition = 1 })
			ask("negative partition", func(r *kmsg.OffsetCommitRequest) { r.Topics[0].Partitions[0].Partition = -1 })
			ask("offset -1", func(r *kmsg.OffsetCommitRequest) { r.Topics[0].Partitions[0].Offset = -1 })
			ask("offset -5", func(r *kmsg.OffsetCommitRequest) { r.Topics[0].Partitions[0].Offset = -5 })
			ask("beyond the log's end", func(r *kmsg.OffsetCommitRequest) { r.Topics[0].Partitions[0].Offset = 1 << 60 })
			ask("leader epoch 3", func(r *kmsg.OffsetCommitRequest) { r.Topics[0].Partitions[0].LeaderEpoch = 3 })
			ask("as a member of generation 1", func(r *kmsg.OffsetCommitRequest) { r.MemberID, r.Generation = "nobody", 1 })
			ask("as a member of no generation", func(r *kmsg.OffsetCommitRequest) { r.MemberID = "nobody" })
			ask("generation 0", func(r *kmsg.OffsetCommitRequest) { r.Generation = 0 })
			ask("no topics", func(r *kmsg.OffsetCommitRequest) { r.Topics = nil })
			ask("no partitions", func(r *kmsg.OffsetCommitRequest) { r.Topics[0].Partitions = nil })
			ask("a good and an unknown topic", func(r *kmsg.OffsetCommitRequest) {
				r.Topics = append(r.Topics, commit("", t.prefix+"none", strangerID, 0, 5, nil).Topics...)
			})
			ask("a partition twice", func(r *kmsg.OffsetCommitRequest) {
				r.Topics[0].Partitions = append(r.Topics[0].Partitions, commit("", "", a.id, 0, 6, nil).Topics[0].Partitions...)
			})
			t.last("what is there of the one with an epoch", committed(10, fmt.Sprintf("%sleader epoch 3-10", t.prefix), a, 0))
			t.last("what is there of the one with offset -1", committed(10, fmt.Sprintf("%soffset -1-10", t.prefix), a, 0))
			t.last("what is there of the one twice", committed(10, fmt.Sprintf("%sa partition twice-10", t.prefix), a, 0))
		}},
		{"43 OffsetCommit of members", func(t *talk) {
			a := t.topic("a", 1)
			for v := t.versions[8].min; v <= t.versions[8].max; v++ {
				g := fmt.Sprintf("%sg-%d", t.prefix, v)
				m := t.alone("m", g, nil)
				ask := func(step string, change func(*kmsg.OffsetCommitRequest)) {
					req := m.commits(a, 5)
					change(req)
					t.ask(step, v, req)
				}
				keep := func(*kmsg.OffsetCommitRequest) {}
				ask("before the sync", keep)
				m.shares(map[string]string{m.id: "all"})
				ask("good", keep)
				ask("old generation", func(r *kmsg.OffsetCommitRequest) { r.Generation-- })
				ask("generation of the future", func(r *kmsg.OffsetCommitRequest) { r.Generation++ })
				ask("no generation", func(r *kmsg.OffsetCommitRequest) { r.Generation = -1 })
				ask("unknown member", func(r *kmsg.OffsetCommitRequest) { r.MemberID = "nobody" })
				ask("no member", func(r *kmsg.OffsetCommitRequest) { r.MemberID = "" })
				ask("from outside", func(r *kmsg.OffsetCommitRequest) { r.MemberID, r.Generation = "", -1 })
				ask("unknown topic", func(r *kmsg.OffsetCommitRequest) {
					r.Topics[0].Topic, r.Topics[0].TopicID = t.prefix+"none", strangerID
				})
				ask("unknown topic, old generation", func(r *kmsg.OffsetCommitRequest) {
					r.Topics[0].Topic, r.Topics[0].TopicID = t.prefix+"none", strangerID
					r.Generation--
				})
				if v >= 7 {
					ask("a stranger's instance", func(r *kmsg.OffsetCommitRequest) { r.InstanceID = ptr("stranger") })
				}
				t.call(4, leaving(g, m.id, nil))
				ask("after it has left", keep)
				ask("from outside, when it has left", func(r *kmsg.OffsetCommitRequest) { r.MemberID, r.Generation = "", -1 })
			}
		}},
		{"46 OffsetDelete", func(t *talk) {
			a, b := t.topic("a", 2), t.topic("b", 1)
			remove := func(group, name string, partitions ...int32) *kmsg.OffsetDeleteRequest {
				req := kmsg.NewPtrOffsetDeleteRequest()
				req.Group = group
				rt := kmsg.NewOffsetDeleteRequestTopic()
				rt.Topic = name
				for _, p := range partitions {
					rt.Partitions = append(rt.Partitions, kmsg.OffsetDeleteRequestTopicPartition{Partition: p})
				}
				req.Topics = append(req.Topics, rt)
				return req
			}
			t.ask("unknown group", 0, remove(t.prefix+"none", a.name, 0))
			t.ask("unknown group, unknown topic", 0, remove(t.prefix+"none", t.prefix+"none", 0))
			t.ask("empty group", 0, remove("", a.name, 0))
			g := t.prefix + "g"
			t.call(8, commit(g, a.name, a.id, 0, 5, nil))
			t.ask("no such topic", 0, remove(g, t.prefix+"none", 0))
			t.ask("partition without an offset", 0, remove(g, a.name, 1))
			t.ask("no such partition", 0, remove(g, a.name, 9))
			none := remove(g, a.name)
			t.ask("no partitions", 0, none)
			none.Topics = nil
			t.ask("no topics", 0, none)
			t.ask("good", 0, remove(g, a.name, 0, 1))
			t.ask("what is left", 7, committed(7, g, a, 0))
			h := t.prefix + "h"
			m := t.settled("m", h, func(r *kmsg.JoinGroupRequest) {
				r.Protocols = []kmsg.JoinGroupRequestProtocol{protocol("range", "", a.name)}
			})
			t.call(8, m.commits(a, 5))
			t.call(8, m.commits(b, 5))
			two := remove(h, a.name, 0)
			two.Topics = append(two.Topics, remove(h, b.name, 0).Topics...)
			t.ask("subscribed, and not", 0, two)
			t.ask("what is left of the group's", 7, committed(7, h, a, 0))
			c := t.prefix + "connect"
			t.settled("c", c, func(r *kmsg.JoinGroupRequest) { r.ProtocolType = "connect" })
			t.ask("of a group of another type", 0, remove(c, a.name, 0))
		}},
		{"46 offsets of a deleted topic", func(t *talk) {
			a := t.topic("a", 1)
			g := t.prefix + "g"
			t.call(8, commit(g, a.name, a.id, 0, 5, nil))
			t.deletes(a)
			t.until("its offset is gone", func() bool {
				return t.call(7, committed(7, g, a, 0)).(*kmsg.OffsetFetchResponse).Topics[0].Partitions[0].Offset == -1
			})
			t.from("ask", 1, func(v int16) kmsg.Request { return committed(v, g, a, 0) })
			t.from("everything", 2, func(v int16) kmsg.Request { return committed(v, g, a) })
		}},
	}
}
