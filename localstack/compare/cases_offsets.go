package main

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// offsetCases are items 29 to 31.
func offsetCases() []conversation {
	return []conversation{
		{"29 ListOffsets, special times", func(t *talk) {
			a := t.topic("a", 1)
			ask := func(what string) {
				for _, at := range []int64{-1, -2, -3, -4, -5, -6, -7, -8, -1 << 63} {
					t.each(fmt.Sprintf("%s: %d", what, at), func(int16) kmsg.Request { return listOffsets(a.name, 0, at) })
				}
			}
			ask("empty")
			t.write(a, values("0", "1").with(func(s *spec) { s.records[0].time, s.max = 500, longAgo+500 }), values("2", "3"))
			ask("four records")
			t.trim(a, 1)
			ask("the first one deleted")
			t.trim(a, 4)
			ask("all deleted")
		}},
		{"29 ListOffsets by time", func(t *talk) {
			a := t.topic("a", 1)
			timed := values("0", "1", "2")
			timed.records[1].time, timed.records[2].time, timed.max = 1000, 500, longAgo+1000
			later := values("3", "4").with(func(s *spec) { s.first, s.max, s.records[1].time = longAgo+5000, longAgo+6000, 1000 })
			t.write(a, timed, later, values("5"))
			for _, d := range []int64{-1000, 0, 1, 500, 1000, 1001, 5000, 5500, 6000, 6001} {
				t.each(fmt.Sprintf("%+d ms", d), func(int16) kmsg.Request { return listOffsets(a.name, 0, longAgo+d) })
			}
			t.each("time 0", func(int16) kmsg.Request { return listOffsets(a.name, 0, 0) })
			t.each("the end of time", func(int16) kmsg.Request { return listOffsets(a.name, 0, 1<<63-1) })
			t.trim(a, 2)
			t.last("from before the log's start", listOffsets(a.name, 0, longAgo))
			t.last("largest time, deleted in the middle of its batch", listOffsets(a.name, 0, -3))
		}},
		{"29 ListOffsets with log append time", func(t *talk) {
			a := t.topic("a", 1, "message.timestamp.type=LogAppendTime")
			t.write(a, values("0", "1"))
			t.last("by time", listOffsets(a.name, 0, longAgo))
			t.last("largest time", listOffsets(a.name, 0, -3))
			t.last("latest", listOffsets(a.name, 0, -1))
		}},
		{"29 ListOffsets, read_committed and brokers", func(t *talk) {
			a := t.topic("a", 1)
			t.write(a, values("0", "1"))
			for _, at := range []int64{-1, -2, -3, longAgo} {
				t.each(fmt.Sprintf("read_committed, %d", at), func(int16) kmsg.Request {
					req := listOffsets(a.name, 0, at)
					req.IsolationLevel = 1
					return req
				})
			}
			for _, id := range []int32{-2, 0, 7} {
				t.last(fmt.Sprintf("as replica %d", id), func() kmsg.Request {
					req := listOffsets(a.name, 0, -1)
					req.ReplicaID = id
					return req
				}())
			}
		}},
		{"29 ListOffsets of what is not there", func(t *talk) {
			a := t.topic("a", 1)
			for _, at := range []int64{-1, -6, longAgo} {
				t.each(fmt.Sprintf("no such topic, %d", at), func(int16) kmsg.Request { return listOffsets(t.prefix+"none", 0, at) })
				t.each(fmt.Sprintf("no such partition, %d", at), func(int16) kmsg.Request { return listOffsets(a.name, 1, at) })
			}
			t.each("negative partition", func(int16) kmsg.Request { return listOffsets(a.name, -1, -1) })
			t.each("illegal topic", func(int16) kmsg.Request { return listOffsets("b d", 0, -1) })
			t.each("partition twice", func(int16) kmsg.Request { return listOffsets(a.name, 0, -1, -2) })
			t.each("topic twice", func(int16) kmsg.Request {
				req := listOffsets(a.name, 0, -1)
				req.Topics = append(req.Topics, listOffsets(a.name, 0, -2).Topics...)
				return req
			})
			t.each("good and bad", func(int16) kmsg.Request {
				req := listOffsets(a.name, 0, -1)
				req.Topics = append(req.Topics, listOffsets(t.prefix+"none", 0, -2).Topics...)
				return req
			})
			t.each("nothing", func(int16) kmsg.Request { return kmsg.NewPtrListOffsetsRequest() })
		}},
		{"30 leader epochs in requests", func(t *talk) {
			a := t.topic("a", 1)
			t.write(a, values("0", "1"))
			for _, d := range []int32{-1, 0, 1, 100} {
				epoch := t.normal.epoch + d
				if d < 0 && epoch < 0 {
					epoch = -2 // Kafka's first epoch is 0: nothing is older
				}
				t.from(fmt.Sprintf("Fetch, %+d", d), 9, func(int16) kmsg.Request {
					req := fetch(a, 0)
					req.Topics[0].Partitions[0].CurrentLeaderEpoch = epoch
					return req
				})
				t.from(fmt.Sprintf("ListOffsets, %+d", d), 4, func(int16) kmsg.Request {
					req := listOffsets(a.name, 0, -1)
					req.Topics[0].Partitions[0].CurrentLeaderEpoch = epoch
					return req
				})
				t.each(fmt.Sprintf("OffsetForLeaderEpoch, %+d", d), func(int16) kmsg.Request { return epochEnd(a.name, 0, epoch, t.normal.epoch) })
			}
			t.from("Fetch, newer, out of range", 9, func(int16) kmsg.Request {
				req := fetch(a, 50)
				req.Topics[0].Partitions[0].CurrentLeaderEpoch = t.normal.epoch + 1
				return req
			})
		}},
		{"30 OffsetForLeaderEpoch", func(t *talk) {
			a := t.topic("a", 1)
			ask := func(what string) {
				for _, d := range []int32{0, 1, 100} {
					t.each(fmt.Sprintf("%s: %+d", what, d), func(int16) kmsg.Request { return epochEnd(a.name, 0, -1, t.normal.epoch+d) })
				}
				t.each(what+": -1", func(int16) kmsg.Request { return epochEnd(a.name, 0, -1, -1) })
				t.each(what+": -2", func(int16) kmsg.Request { return epochEnd(a.name, 0, -1, -2) })
			}
			ask("empty")
			t.write(a, values("0", "1"))
			ask("two records")
			t.trim(a, 2)
			ask("all deleted")
			t.each("no such topic", func(int16) kmsg.Request { return epochEnd(t.prefix+"none", 0, -1, 0) })
			t.each("no such partition", func(int16) kmsg.Request { return epochEnd(a.name, 1, -1, 0) })
			t.each("negative partition", func(int16) kmsg.Request { return epochEnd(a.name, -1, -1, 0) })
			t.each("nothing", func(int16) kmsg.Request {
				req := kmsg.NewPtrOffsetForLeaderEpochRequest()
				req.ReplicaID = -2
				return req
			})
		}},
		{"30 the last fetched epoch", func(t *talk) {
			a := t.topic("a", 1)
			t.write(a, values("0", "1"))
			for _, c := range []struct {
				name  string
				epoch int32
				at    int64
			}{{"its own", 0, 0}, {"its own, at the end", 0, 2}, {"newer", 1, 0}, {"newer, at the end", 1, 2}, {"beyond the end", 0, 5}} {
				t.from(c.name, 12, func(int16) kmsg.Request {
					req := fetch(a, c.at)
					req.Topics[0].Partitions[0].LastFetchedEpoch = t.normal.epoch + c.epoch
					return req
				})
			}
		}},
		{"31 DeleteRecords", func(t *talk) {
			for v := t.versions[21].min; v <= t.versions[21].max; v++ {
				a := t.topic(fmt.Sprintf("a-%d", v), 1)
				ask := func(step string, to int64) { t.ask(step, v, deleteRecords(a.name, 0, to)) }
				ask("an empty log, to 0", 0)
				ask("an empty log, to its end", -1)
				t.write(a, values("0", "1", "2"), values("3", "4", "5"))
				ask("beyond the end", 7)
				ask("to -2", -2)
				ask("into a batch", 1)
				t.ask(fmt.Sprintf("fetch within it, after v%d", v), 11, fetch(a, 1))
				t.ask(fmt.Sprintf("fetch before it, after v%d", v), 11, fetch(a, 0))
				ask("back", 0)
				ask("to the same", 1)
				ask("to a batch's end", 3)
				ask("to the end", -1)
				t.ask(fmt.Sprintf("where it begins, after v%d", v), 7, listOffsets(a.name, 0, -2))
				ask("to the end again", -1)
				ask("to the end by its number", 6)
				ask("beyond the end of an emptied log", 7)
				t.write(a, values("6"))
				t.ask(fmt.Sprintf("what is written after it, after v%d", v), 11, fetch(a, 6))
			}
			t.each("no such topic", func(int16) kmsg.Request { return deleteRecords(t.prefix+"none", 0, 0) })
			b := t.topic("b", 1)
			t.each("no such partition", func(int16) kmsg.Request { return deleteRecords(b.name, 1, 0) })
			t.each("negative partition", func(int16) kmsg.Request { return deleteRecords(b.name, -1, 0) })
			t.each("nothing", func(int16) kmsg.Request { return kmsg.NewPtrDeleteRecordsRequest() })
			t.each("partition twice", func(int16) kmsg.Request {
				req := deleteRecords(b.name, 0, 0)
				req.Topics[0].Partitions = append(req.Topics[0].Partitions, deleteRecords(b.name, 0, 9).Topics[0].Partitions...)
				return req
			})
			t.each("good and bad", func(int16) kmsg.Request {
				req := deleteRecords(b.name, 0, 0)
				req.Topics = append(req.Topics, deleteRecords(t.prefix+"none", 0, 0).Topics...)
				return req
			})
		}},
	}
}

func epochEnd(name string, partition, current, epoch int32) *kmsg.OffsetForLeaderEpochRequest {
	req := kmsg.NewPtrOffsetForLeaderEpochRequest()
	req.ReplicaID = -2 // a consumer
	rt := kmsg.NewOffsetForLeaderEpochRequestTopic()
	rt.Topic = name
	rp := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
	rp.Partition, rp.CurrentLeaderEpoch, rp.LeaderEpoch = partition, current, epoch
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	return req
}
