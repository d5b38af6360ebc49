package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// fetchCases are items 25 to 28.
func fetchCases() []conversation {
	return []conversation{
		{"25 whole batches", func(t *talk) {
			a := t.topic("a", 1)
			t.write(a, values("0", "1", "2"), values("3", "4", "5"), values("6", "7", "8"))
			for _, from := range []int64{0, 1, 3, 5, 8, 9} {
				t.each(fmt.Sprintf("from %d", from), func(int16) kmsg.Request { return fetch(a, from) })
			}
			one := int32(len(values("0", "1", "2").bytes()))
			for _, max := range []int32{0, 1, one - 1, one, one + 1, 2 * one, -1} {
				t.last(fmt.Sprintf("partition max bytes %+d of a batch", max-one), limited(fetch(a, 0), max, 1<<20))
				t.last(fmt.Sprintf("max bytes %+d of a batch", max-one), limited(fetch(a, 0), 1<<20, max))
			}
			t.last("max bytes of one from its middle", limited(fetch(a, 4), one, one))
		}},
		{"25 several partitions share the bytes", func(t *talk) {
			a := t.topic("a", 3)
			for p := range int32(3) {
				t.call(9, produce(a, p, -1, values("0", "1", "2").bytes()))
				t.call(9, produce(a, p, -1, values("3", "4", "5").bytes()))
			}
			one := int32(len(values("0", "1", "2").bytes()))
			t.last("one batch in all", limited(fetch(a, 0, 0, 0), 1<<20, one))
			t.last("no byte at all", limited(fetch(a, 0, 0, 0), 1<<20, 0))
			t.last("one batch each", limited(fetch(a, 0, 0, 0), one, 1<<20))
			t.last("the first is at its end", limited(fetch(a, 6, 0, 0), 1<<20, one))
			t.last("the first is an error", limited(fetch(a, 7, 0, 0), 1<<20, one))
			large := t.topic("large", 2)
			t.write(large, values(strings.Repeat("x", 100_000)))
			t.call(9, produce(large, 1, -1, values("small").bytes()))
			t.last("a batch larger than the limits", limited(fetch(large, 0, 0), 1000, 1000))
			t.last("a batch larger than its partition's limit", limited(fetch(large, 0, 0), 1000, 1<<20))
		}},
		{"26 out of range", func(t *talk) {
			a := t.topic("a", 1)
			t.write(a, values("0", "1", "2", "3"))
			t.trim(a, 2)
			for _, from := range []int64{-1, -2, 0, 1, 2, 3, 4, 5, 1 << 62} {
				t.each(fmt.Sprintf("from %d", from), func(int16) kmsg.Request { return fetch(a, from) })
			}
			b := t.topic("b", 1)
			t.last("an empty log from 0", fetch(b, 0))
			t.last("an empty log from 1", fetch(b, 1))
			t.write(b, values("0"))
			t.trim(b, 1)
			t.last("an emptied log from 0", fetch(b, 0))
			t.last("an emptied log from 1", fetch(b, 1))
		}},
		{"26 where from", func(t *talk) {
			a := t.topic("a", 1)
			t.write(a, values("0"))
			t.each("no such topic", func(int16) kmsg.Request { return fetch(topic{name: t.prefix + "none", id: strangerID}, 0) })
			t.each("illegal topic", func(int16) kmsg.Request { return fetch(topic{name: "b d"}, 0) })
			t.each("no such partition", func(int16) kmsg.Request { return fetch(a, 0, 0) })
			t.each("negative partition", func(int16) kmsg.Request {
				req := fetch(a, 0)
				req.Topics[0].Partitions[0].Partition = -1
				return req
			})
			t.each("a topic twice", func(int16) kmsg.Request {
				req := fetch(a, 0)
				req.Topics = append(req.Topics, fetch(a, 1).Topics...)
				return req
			})
			t.each("a good and an unknown topic", func(int16) kmsg.Request {
				req := fetch(a, 0)
				req.Topics = append(req.Topics, fetch(topic{name: t.prefix + "none", id: strangerID}, 0).Topics...)
				return req
			})
			t.each("nothing", func(int16) kmsg.Request {
				req := fetch(a, 0)
				req.Topics = nil
				return req
			})
			t.each("as a broker", func(int16) kmsg.Request {
				req := fetch(a, 0)
				req.ReplicaID = 7
				req.ReplicaState.ID, req.ReplicaState.Epoch = 7, 1
				return req
			})
		}},
		{"26 what a fetch waits for", func(t *talk) {
			a := t.topic("a", 2)
			waiting := func(min, millis int32, offsets ...int64) *kmsg.FetchRequest {
				req := fetch(a, offsets...)
				req.MinBytes, req.MaxWaitMillis = min, millis
				return req
			}
			timed := func(step string, req *kmsg.FetchRequest) {
				began := time.Now()
				t.last(step, req)
				t.say(step+": within its time", fmt.Sprint(time.Since(began) >= time.Duration(req.MaxWaitMillis)*time.Millisecond))
			}
			timed("nothing for 200 ms", waiting(1, 200, 0, 0))
			t.last("min bytes 0", waiting(0, waitForever, 0, 0))
			t.last("negative min bytes", waiting(-1, waitForever, 0, 0))
			t.last("negative wait", waiting(1, -1, 0, 0))
			t.last("an error ends it", waiting(1, waitForever, 0, 5))
			parked := t.send("b", t.newest(1), waiting(1, waitForever, 0, 0))
			t.write(a, values("0"))
			t.take("news end it", parked)
			t.last("there is something", waiting(1, waitForever, 0, 0))
			timed("not yet enough for 200 ms", waiting(1000, 200, 0, 0))
			parked = t.send("b", t.newest(1), waiting(100, waitForever, 0, 0))
			t.call(9, produce(a, 1, -1, values("1").bytes()))
			t.take("two partitions together are enough", parked)
			t.each("an unknown partition is no reason to wait longer", func(int16) kmsg.Request { return waiting(1, 20, 1, 1, 0) })
		}},
		{"27 fetch sessions", func(t *talk) {
			a := t.topic("a", 2)
			t.write(a, values("0"))
			session := func(id, epoch int32, offsets ...int64) *kmsg.FetchRequest {
				req := fetch(a, offsets...)
				req.SessionID, req.SessionEpoch = id, epoch
				if len(offsets) == 0 {
					req.Topics = nil
				}
				return req
			}
			t.from("none", 7, func(int16) kmsg.Request { return session(0, -1, 0) })
			t.from("an unknown id", 7, func(int16) kmsg.Request { return session(12345, 1, 0) })
			t.from("an unknown id, to be closed", 7, func(int16) kmsg.Request { return session(12345, -1, 0) })
			t.from("an unknown id, from its beginning", 7, func(int16) kmsg.Request { return session(12345, 0, 0) })
			t.from("id 0, epoch 5", 7, func(int16) kmsg.Request { return session(0, 5, 0) })
			t.from("epoch -2", 7, func(int16) kmsg.Request { return session(0, -2, 0) })
			t.from("forgotten topics without a session", 7, func(int16) kmsg.Request {
				req := session(0, -1, 0)
				f := kmsg.NewFetchRequestForgottenTopic()
				f.Topic, f.TopicID, f.Partitions = a.name, a.id, []int32{1}
				req.ForgottenTopics = append(req.ForgottenTopics, f)
				return req
			})
			for v := int16(7); v <= t.newest(1); v++ {
				resp, ok := t.ask("opened", v, session(0, 0, 0, 0)).(*kmsg.FetchResponse)
				if !ok {
					return
				}
				t.ask("next, nothing changed", v, session(resp.SessionID, 1))
			}
		}},
		{"11 a rack that no replica is in", func(t *talk) {
			a := t.topic("a", 1)
			t.write(a, values("0"))
			t.from("fetch", 11, func(int16) kmsg.Request {
				req := fetch(a, 0)
				req.Rack = "nowhere"
				return req
			})
			t.each("leader epochs", func(int16) kmsg.Request { return metadata(false, a.name) })
		}},
		{"28 read_committed without transactions", func(t *talk) {
			a := t.topic("a", 1)
			t.write(a, values("0", "1"))
			t.each("ask", func(int16) kmsg.Request {
				req := fetch(a, 0)
				req.IsolationLevel = 1
				return req
			})
			t.each("at the end", func(int16) kmsg.Request {
				req := fetch(a, 2)
				req.IsolationLevel = 1
				return req
			})
			t.last("isolation level 2", func() kmsg.Request {
				req := fetch(a, 0)
				req.IsolationLevel = 2
				return req
			}())
		}},
	}
}

func limited(req *kmsg.FetchRequest, partition, all int32) *kmsg.FetchRequest {
	req.MaxBytes = all
	for i := range req.Topics[0].Partitions {
		req.Topics[0].Partitions[i].PartitionMaxBytes = partition
	}
	return req
}
