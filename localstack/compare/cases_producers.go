package main

import (
	"fmt"
	"math"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// producerCases are items 33 to 37: idempotence, and what is said of transactions.
func producerCases() []conversation {
	return []conversation{
		{"33 sequences", func(t *talk) {
			for v := t.versions[0].min; v <= t.versions[0].max; v++ {
				a := t.topic(fmt.Sprintf("a-%d", v), 1)
				p := t.producer()
				put := func(step string, epoch int16, seq int32, vs ...string) {
					t.ask(step, v, produce(a, 0, -1, values(vs...).from(p, epoch, seq).bytes()))
				}
				put("first", 0, 0, "0", "1")
				put("second", 0, 2, "2")
				put("second again", 0, 2, "2")
				put("first again", 0, 0, "0", "1")
				put("a gap", 0, 4, "4")
				put("part of the first", 0, 1, "1")
				put("first and more", 0, 0, "0", "1", "2")
				put("another record in place of the second", 0, 2, "two")
				for i := range int32(5) {
					put(fmt.Sprintf("go on %d", i), 0, 3+i, "x")
				}
				put("the fifth last again", 0, 3, "x")
				put("the sixth last again", 0, 2, "2")
				put("the first of all again", 0, 0, "0", "1")
				put("a new epoch not from 0", 1, 8, "x")
				put("a new epoch from 0", 1, 0, "x")
				put("the old epoch", 0, 8, "x")
				put("the old epoch, a duplicate", 0, 7, "x")
				put("a much newer epoch", 100, 0, "x")
				put("it again", 100, 0, "x")
				t.ask(fmt.Sprintf("what is stored, of v%d", v), 11, fetch(a, 0))
			}
		}},
		{"33 sequences with acks=1", func(t *talk) {
			a := t.topic("a", 1)
			p := t.producer()
			for i, seq := range []int32{0, 0, 5, 1, 0, 1} {
				t.last(fmt.Sprintf("%d: sequence %d", i, seq), produce(a, 0, 1, values("x").from(p, 0, seq).bytes()))
			}
		}},
		{"33 sequences begin and wrap", func(t *talk) {
			a, b := t.topic("a", 2), t.topic("b", 1)
			p := t.producer()
			put := func(step string, to topic, seq int32, vs ...string) {
				t.ask(step, 11, produce(to, 0, -1, values(vs...).from(p, 0, seq).bytes()))
			}
			put("no state, sequence 17", a, 17, "x")
			put("next", a, 18, "x")
			put("another topic, sequence 2^31-2", b, math.MaxInt32-1, "x", "y")
			put("wraps to 0", b, 0, "x")
			put("and goes on", b, 1, "x")
			put("the one before the wrap again", b, math.MaxInt32-1, "x", "y")
			c := t.topic("c", 1)
			put("wraps within a batch", c, math.MaxInt32-1, "a", "b", "c", "d")
			put("after it", c, 2, "x")
			put("it again", c, math.MaxInt32-1, "a", "b", "c", "d")
		}},
		{"33 two producers, and none", func(t *talk) {
			a := t.topic("a", 1)
			p, q := t.producer(), t.producer()
			t.say("they differ", fmt.Sprint(p != q))
			for i, s := range []spec{values("x").from(p, 0, 0), values("x").from(q, 0, 0), values("x"), values("x").from(q, 0, 1), values("x").from(p, 0, 1),
				values("x").from(p, 0, 0)} {
				t.last(fmt.Sprint(i), produce(a, 0, -1, s.bytes()))
			}
			t.last("an id that nobody gave out", produce(a, 0, -1, values("x").from(1<<40, 0, 0).bytes()))
		}},
		{"33 a producer after DeleteRecords", func(t *talk) {
			a := t.topic("a", 1)
			p := t.producer()
			t.write(a, values("0").from(p, 0, 0), values("1").from(p, 0, 1))
			t.trim(a, 2)
			t.last("its last batch again", produce(a, 0, -1, values("1").from(p, 0, 1).bytes()))
			t.last("the next", produce(a, 0, -1, values("2").from(p, 0, 2).bytes()))
		}},
		{"34 InitProducerId", func(t *talk) {
			ask := func(step string, from int16, change func(*kmsg.InitProducerIDRequest)) {
				t.from(step, from, func(int16) kmsg.Request {
					req := kmsg.NewPtrInitProducerIDRequest()
					req.TransactionTimeoutMillis = 60_000
					change(req)
					return req
				})
			}
			ask("a fresh one", 0, func(*kmsg.InitProducerIDRequest) {})
			ask("without a timeout", 0, func(r *kmsg.InitProducerIDRequest) { r.TransactionTimeoutMillis = 0 })
			ask("a huge timeout", 0, func(r *kmsg.InitProducerIDRequest) { r.TransactionTimeoutMillis = math.MaxInt32 })
			ask("a negative timeout", 0, func(r *kmsg.InitProducerIDRequest) { r.TransactionTimeoutMillis = -1 })
			p := t.producer()
			ask("of an id that is known", 3, func(r *kmsg.InitProducerIDRequest) { r.ProducerID, r.ProducerEpoch = p, 0 })
			ask("of an id without an epoch", 3, func(r *kmsg.InitProducerIDRequest) { r.ProducerID = p })
			ask("of an epoch without an id", 3, func(r *kmsg.InitProducerIDRequest) { r.ProducerEpoch = 3 })
			ask("of an id at its last epoch", 3, func(r *kmsg.InitProducerIDRequest) { r.ProducerID, r.ProducerEpoch = p, 32767 })
			ask("an empty transactional id", 0, func(r *kmsg.InitProducerIDRequest) { r.TransactionalID = ptr("") })
		}},
		{"37 a transactional batch outside of a transaction", func(t *talk) {
			a := t.topic("a", 1)
			p := t.producer()
			t.each("ask", func(int16) kmsg.Request {
				req := produce(a, 0, -1, values("x").from(p, 0, 0).with(func(s *spec) { s.attributes = 0x10 }).bytes())
				req.TransactionID = ptr(t.prefix + "txn")
				return req
			})
			t.each("without a transactional id", func(int16) kmsg.Request {
				return produce(a, 0, -1, values("x").from(p, 0, 0).with(func(s *spec) { s.attributes = 0x10 }).bytes())
			})
			t.each("a plain batch under a transactional id", func(int16) kmsg.Request {
				req := produce(a, 0, -1, values("x").bytes())
				req.TransactionID = ptr(t.prefix + "txn")
				return req
			})
		}},
	}
}
