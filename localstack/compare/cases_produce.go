package main

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/tiering/batch/codec"
)

// produceCases are items 20 to 24.
func produceCases() []conversation {
	return []conversation{
		{"20 a good batch", func(t *talk) {
			a := t.topic("a", 1)
			t.each("keyed", func(int16) kmsg.Request { return produce(a, 0, -1, values("x", "y").bytes()) })
			t.last("what is stored", fetch(a, 0))
		}},
		{"20 batches that are none", func(t *talk) {
			a := t.topic("a", 1)
			good := values("x").bytes()
			fresh := t.fresh()
			bad := func(step string, b []byte) {
				a := fresh()
				t.each(step, func(int16) kmsg.Request { return produce(a, 0, -1, b) })
			}
			t.perhaps("null", produce(a, 0, -1, nil))
			bad("empty", []byte{})
			bad("bad CRC", values("x").with(func(s *spec) { s.badCRC = true }).bytes())
			bad("two batches", append(bytes.Clone(good), good...))
			bad("a batch and some bytes", append(bytes.Clone(good), 1, 2, 3))
			bad("a batch and the beginning of another", append(bytes.Clone(good), good[:40]...))
			bad("cut", good[:len(good)-1])
			bad("cut in its header", good[:40])
			bad("cut before its magic", good[:16])
			bad("one byte", []byte{0})
			bad("length too small for a header", values("x").with(func(s *spec) { s.length = -20 }).bytes())
			bad("length too small for its records", values("x").with(func(s *spec) { s.length = -1 }).bytes())
			bad("length too large", values("x").with(func(s *spec) { s.length = 10 }).bytes())
			bad("negative length", values("x").with(func(s *spec) { s.length = -1000 }).bytes())
			bad("base offset 5", values("x").with(func(s *spec) { s.base = 5 }).bytes())
			bad("base offset -1", values("x").with(func(s *spec) { s.base = -1 }).bytes())
			bad("magic 3", values("x").with(func(s *spec) { s.magic = 3 }).bytes())
			bad("magic -1", values("x").with(func(s *spec) { s.magic = -1 }).bytes())
			bad("message format 0", oldMessage(0))
			bad("message format 1", oldMessage(1))
			bad("magic 1 in a batch", values("x").with(func(s *spec) { s.magic = 1 }).bytes())
		}},
		{"20 too large", func(t *talk) {
			a := t.topic("a", 1, "max.message.bytes=1000")
			large := values(strings.Repeat("x", 1000))
			t.each("by a record", func(int16) kmsg.Request { return produce(a, 0, -1, large.bytes()) })
			t.each("and corrupt", func(int16) kmsg.Request {
				return produce(a, 0, -1, large.with(func(s *spec) { s.badCRC = true }).bytes())
			})
			t.each("but compressed", func(int16) kmsg.Request {
				return produce(a, 0, -1, large.with(func(s *spec) { s.codec = codec.Gzip }).bytes())
			})
			exactly := values("")
			exactly.records[0].value = make([]byte, 1000-len(values("").bytes())-2) // its length takes one byte more, twice
			t.last(fmt.Sprintf("%d bytes", len(exactly.bytes())), produce(a, 0, -1, exactly.bytes()))
			exactly.records[0].value = append(exactly.records[0].value, 0)
			t.last(fmt.Sprintf("%d bytes", len(exactly.bytes())), produce(a, 0, -1, exactly.bytes()))
			b := t.topic("b", 1)
			t.last("for the default", produce(b, 0, -1, values(strings.Repeat("x", 1048588)).bytes()))
		}},
		{"20 where to", func(t *talk) {
			a := t.topic("a", 2)
			good := values("x").bytes()
			t.each("no such partition", func(int16) kmsg.Request { return produce(a, 2, -1, good) })
			t.each("negative partition", func(int16) kmsg.Request { return produce(a, -1, -1, good) })
			t.each("no such topic", func(int16) kmsg.Request { return produce(topic{name: t.prefix + "none", id: strangerID}, 0, -1, good) })
			t.each("illegal topic", func(int16) kmsg.Request { return produce(topic{name: "b d"}, 0, -1, good) })
			t.each("no such topic and a bad batch", func(int16) kmsg.Request {
				return produce(topic{name: t.prefix + "none", id: strangerID}, 0, -1, values("x").with(func(s *spec) { s.badCRC = true }).bytes())
			})
			t.each("one good and one bad", func(int16) kmsg.Request {
				req := produce(a, 0, -1, good)
				bad := produce(a, 1, -1, values("x").with(func(s *spec) { s.badCRC = true }).bytes())
				req.Topics[0].Partitions = append(req.Topics[0].Partitions, bad.Topics[0].Partitions...)
				return req
			})
			t.each("two topics, one unknown", func(int16) kmsg.Request {
				req := produce(a, 0, -1, good)
				req.Topics = append(req.Topics, produce(topic{name: t.prefix + "none", id: strangerID}, 0, -1, good).Topics...)
				return req
			})
			t.each("nothing", func(int16) kmsg.Request {
				req := produce(a, 0, -1, good)
				req.Topics = nil
				return req
			})
			t.each("no partitions", func(int16) kmsg.Request {
				req := produce(a, 0, -1, good)
				req.Topics[0].Partitions = nil
				return req
			})
		}},
		{"20 a partition twice", func(t *talk) {
			a := t.topic("a", 1)
			t.each("good batches", func(int16) kmsg.Request {
				req := produce(a, 0, -1, values("x").bytes())
				req.Topics[0].Partitions = append(req.Topics[0].Partitions, produce(a, 0, -1, values("y").bytes()).Topics[0].Partitions...)
				return req
			})
		}},
		{"21 counts", func(t *talk) {
			fresh := t.fresh()
			bad := func(step string, change func(*spec)) {
				a := fresh()
				t.each(step, func(int16) kmsg.Request { return produce(a, 0, -1, values("x", "y", "z").with(change).bytes()) })
			}
			bad("no records", func(s *spec) { s.records, s.count, s.lastDelta, s.body = nil, 0, 0, []byte{} })
			bad("no records and no offsets", func(s *spec) { s.records, s.count, s.lastDelta, s.body = nil, 0, -1, []byte{} })
			bad("fewer than offsets", func(s *spec) { s.lastDelta = 5 })
			bad("more than offsets", func(s *spec) { s.lastDelta = 1 })
			bad("negative count", func(s *spec) { s.count = -1 })
			bad("2^31-1 records", func(s *spec) { s.count, s.lastDelta = 1<<31-1, 1<<31-2 })
			bad("negative last offset", func(s *spec) { s.lastDelta = -1 })
			bad("says more than there are", func(s *spec) { s.count, s.lastDelta = 4, 3 })
			bad("says fewer than there are", func(s *spec) { s.count, s.lastDelta = 2, 1 })
		}},
		{"21 records", func(t *talk) {
			fresh := t.fresh()
			bad := func(step string, change func(*spec)) {
				a := fresh()
				t.last(step, produce(a, 0, -1, values("x", "y", "z").with(change).bytes()))
				t.last(step+": what is stored", fetch(a, 0))
			}
			bad("offsets do not go up", func(s *spec) { s.records[1].at = ptr[int32](2) })
			bad("offsets begin at 1", func(s *spec) { s.records[0].at = ptr[int32](1) })
			bad("a negative offset", func(s *spec) { s.records[0].at = ptr[int32](-1) })
			bad("garbage", func(s *spec) { s.body = []byte("this is no record at all") })
			bad("garbage, compressed", func(s *spec) { s.body, s.attributes = []byte("this is no gzip at all"), 1 })
			bad("garbage in gzip", func(s *spec) {
				packed, err := codec.Compress(codec.Gzip, []byte("this is no record at all"))
				if err != nil {
					t.fail("%w", err)
				}
				s.body, s.attributes = packed, 1
			})
			bad("bytes behind the last one", func(s *spec) { s.body = append(values("x", "y", "z").bytes()[61:], 1, 2, 3) })
			bad("a record with two keyless headers", func(s *spec) { s.records[0].headers = []byte{4, 1, 1, 1, 1} })
			bad("a negative number of headers", func(s *spec) { s.records[0].headers = []byte{1} })
			bad("null keys", func(s *spec) { s.records[0].nullKey, s.records[1].nullKey, s.records[2].nullKey = true, true, true })
		}},
		{"21 attributes", func(t *talk) {
			fresh := t.fresh()
			for _, b := range []struct {
				name string
				bits uint16
			}{{"log append time", 8}, {"transactional", 0x10}, {"control", 0x20}, {"transactional control", 0x30}, {"delete horizon", 0x40},
				{"unknown", 0x80}, {"all unknown", 0xff80}, {"codec 5", 5}, {"codec 7", 7}} {
				a := fresh()
				t.each(b.name, func(int16) kmsg.Request {
					return produce(a, 0, -1, values("x").with(func(s *spec) { s.attributes = b.bits }).bytes())
				})
				t.last(b.name+": what is stored", limited(fetch(a, 0), 1, 1))
			}
		}},
		{"21 a control record", func(t *talk) {
			a := t.topic("a", 1)
			p := t.producer()
			t.each("commit marker", func(v int16) kmsg.Request {
				s := values("x").from(p, 0, 0)
				s.attributes = 0x30
				s.records[0] = record{key: []byte{0, 0, 0, 1}, value: []byte{0, 0, 0, 0, 0, 0}}
				return produce(a, 0, -1, s.bytes())
			})
		}},
		{"21 codecs", func(t *talk) {
			for c := codec.Gzip; c <= codec.Zstd; c++ {
				a := t.topic(c.String(), 1)
				t.each(c.String(), func(int16) kmsg.Request {
					return produce(a, 0, -1, values("x", "y").with(func(s *spec) { s.codec = c }).bytes())
				})
			}
		}},
		{"21 producer ids and sequences", func(t *talk) {
			p, fresh := t.producer(), t.fresh()
			for _, c := range []struct {
				name     string
				producer int64
				epoch    int16
				sequence int32
			}{{"id without a sequence", p, 0, -1}, {"id without an epoch", p, -1, 0}, {"id without both", p, -1, -1}, {"sequence without an id", -1, -1, 0},
				{"epoch without an id", -1, 0, -1}, {"sequence -2", p, 0, -2}, {"epoch -2", p, -2, 0}, {"id -2", -2, 0, 0}} {
				a := fresh()
				t.each(c.name, func(int16) kmsg.Request {
					return produce(a, 0, -1, values("x").from(c.producer, c.epoch, c.sequence).bytes())
				})
			}
		}},
		{"21 times", func(t *talk) {
			fresh := t.fresh()
			now := time.Now().UnixMilli()
			at := func(first, max int64) func(*spec) { return func(s *spec) { s.first, s.max = first, max } }
			ask := func(step string, of topic, change func(*spec)) {
				t.each(step, func(int16) kmsg.Request { return produce(of, 0, -1, values("x").with(change).bytes()) })
			}
			ask("2 hours ahead", fresh(), at(now+2*3600_000, now+2*3600_000))
			ask("30 minutes ahead", fresh(), at(now+1800_000, now+1800_000))
			ask("1970", fresh(), at(0, 0))
			ask("none", fresh(), at(-1, -1))
			ask("-2", fresh(), at(-2, -2))
			ask("largest", fresh(), at(1<<63-1, 1<<63-1))
			ask("header says less than the record", fresh(), at(longAgo, longAgo-1000))
			ask("header says more than the record", fresh(), at(longAgo, longAgo+1000))
			b := t.topic("b", 1, "message.timestamp.before.max.ms=1000000", "message.timestamp.after.max.ms=1000")
			ask("too early", b, at(longAgo, longAgo))
			ask("too late", b, at(now+60_000, now+60_000))
			ask("in time", b, at(now, now))
			three := values("x", "y", "z", "u", "v").with(at(now, now+600_000))
			for i := range three.records {
				if i != 0 {
					three.records[i].time = 600_000
				}
			}
			t.each("several too late", func(int16) kmsg.Request { return produce(b, 0, -1, three.bytes()) })
		}},
		{"21 keyless records on a compacted topic", func(t *talk) {
			made := topic{name: t.prefix + "compacted", partitions: 1}
			resp := t.call(7, t.creates(t.newTopic("compacted", 1, 1, "cleanup.policy=compact"))).(*kmsg.CreateTopicsResponse)
			if resp.Topics[0].ErrorCode == 0 {
				t.serves(made)
			}
			t.ask("keyless", 9, produce(made, 0, -1, values("x").with(func(s *spec) { s.records[0].nullKey = true }).bytes()))
		}},
		{"22 what the broker writes over", func(t *talk) {
			a := t.topic("a", 1)
			t.write(a, values("x", "y"), values("z").with(func(s *spec) { s.codec = codec.LZ4 }))
			t.last("as it came", fetch(a, 0))
			b := t.topic("b", 1, "message.timestamp.type=LogAppendTime")
			t.each("log append time", func(int16) kmsg.Request { return produce(b, 0, -1, values("x").bytes()) })
			t.last("stored with log append time", fetch(b, 0))
			for _, c := range []string{"gzip", "snappy", "lz4", "zstd", "uncompressed"} {
				to := t.topic(c, 1, "compression.type="+c)
				t.write(to, values("x", "y"), values("z").with(func(s *spec) { s.codec = codec.Gzip }))
				t.last("stored in "+c, fetch(to, 0))
			}
			late := t.topic("late", 1, "compression.type=uncompressed", "max.message.bytes=500")
			t.last("too large once opened", produce(late, 0, -1, values(strings.Repeat("x", 1000)).with(func(s *spec) { s.codec = codec.Gzip }).bytes()))
		}},
		{"23 log start and append time in the answer", func(t *talk) {
			a := t.topic("a", 1)
			t.write(a, values("1", "2", "3"))
			t.trim(a, 2)
			t.each("after DeleteRecords", func(int16) kmsg.Request { return produce(a, 0, -1, values("x").bytes()) })
			t.each("acks=1", func(int16) kmsg.Request { return produce(a, 0, 1, values("x").bytes()) })
		}},
		{"24 internal topics", func(t *talk) {
			t.ask("by name", 12, produce(topic{name: "__consumer_offsets"}, 0, -1, values("x").bytes()))
			t.ask("of transactions, by name", 12, produce(topic{name: "__transaction_state"}, 0, -1, values("x").bytes()))
		}},
	}
}
