package main

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// groupCases are items 40 to 45: classic groups.
func groupCases() []conversation {
	return []conversation{
		{"40 JoinGroup that is refused", func(t *talk) {
			ask := func(step string, change func(*kmsg.JoinGroupRequest)) {
				t.each(step, func(v int16) kmsg.Request {
					req := joining(fmt.Sprintf("%srefused-%s-%d", t.prefix, step, v), "")
					change(req)
					return req
				})
			}
			ask("empty group", func(r *kmsg.JoinGroupRequest) { r.Group = "" })
			ask("session of 5999 ms", func(r *kmsg.JoinGroupRequest) { r.SessionTimeoutMillis = 5999 })
			ask("session of 31 minutes", func(r *kmsg.JoinGroupRequest) { r.SessionTimeoutMillis = 31 * 60_000 })
			ask("negative session", func(r *kmsg.JoinGroupRequest) { r.SessionTimeoutMillis = -1 })
			ask("no protocols", func(r *kmsg.JoinGroupRequest) { r.Protocols = nil })
			ask("no protocol type", func(r *kmsg.JoinGroupRequest) { r.ProtocolType = "" })
			ask("unknown member", func(r *kmsg.JoinGroupRequest) { r.MemberID = "nobody" })
			t.from("unknown static member", 5, func(v int16) kmsg.Request {
				req := joining(fmt.Sprintf("%sstatic-%d", t.prefix, v), "nobody")
				req.InstanceID = ptr("i")
				return req
			})
		}},
		{"40 the first member of a group", func(t *talk) {
			t.each("join", func(v int16) kmsg.Request { return joining(fmt.Sprintf("%sfirst-%d", t.prefix, v), "") })
			for v := int16(4); v <= t.newest(11); v++ {
				group := fmt.Sprintf("%sgiven-%d", t.prefix, v)
				resp, ok := t.ask("is given an id", v, joining(group, "")).(*kmsg.JoinGroupResponse)
				if !ok {
					return
				}
				t.ask("joins under the id", v, joining(group, resp.MemberID))
			}
			t.from("static", 5, func(v int16) kmsg.Request {
				req := joining(fmt.Sprintf("%sinstance-%d", t.prefix, v), "")
				req.InstanceID = ptr("i")
				return req
			})
			t.each("another type of protocol", func(v int16) kmsg.Request {
				req := joining(fmt.Sprintf("%sconnect-%d", t.prefix, v), "")
				req.ProtocolType, req.Protocols = "connect", []kmsg.JoinGroupRequestProtocol{protocol("sessioned", "bytes"), protocol("eager", "")}
				return req
			})
			t.each("no rebalance timeout", func(v int16) kmsg.Request {
				req := joining(fmt.Sprintf("%sinstantly-%d", t.prefix, v), "")
				req.RebalanceTimeoutMillis = -1
				return req
			})
		}},
		{"40 a protocol twice", func(t *talk) {
			twice := joining(t.prefix+"twice", "")
			twice.InstanceID, twice.Protocols = ptr("i"), append(twice.Protocols, protocol("range", "other"))
			t.perhaps("join", twice)
		}},
		{"40 protocols that do not fit", func(t *talk) {
			g := t.prefix + "g"
			t.settled("m", g, nil)
			ask := func(step string, change func(*kmsg.JoinGroupRequest)) {
				t.each(step, func(int16) kmsg.Request {
					req := joining(g, "")
					change(req)
					return req
				})
			}
			ask("another type", func(r *kmsg.JoinGroupRequest) { r.ProtocolType = "connect" })
			ask("another protocol", func(r *kmsg.JoinGroupRequest) {
				r.Protocols = []kmsg.JoinGroupRequestProtocol{protocol("roundrobin", "")}
			})
			ask("no protocol", func(r *kmsg.JoinGroupRequest) { r.Protocols = nil })
			ask("no type", func(r *kmsg.JoinGroupRequest) { r.ProtocolType = "" })
			ask("unknown member", func(r *kmsg.JoinGroupRequest) { r.MemberID = "nobody" })
			ask("unknown member and another type", func(r *kmsg.JoinGroupRequest) { r.MemberID, r.ProtocolType = "nobody", "connect" })
		}},
		{"40 members vote", func(t *talk) {
			g := t.prefix + "g"
			offer := func(names ...string) func(*kmsg.JoinGroupRequest) {
				return func(r *kmsg.JoinGroupRequest) {
					r.Protocols = nil
					for _, n := range names {
						r.Protocols = append(r.Protocols, protocol(n, n))
					}
				}
			}
			a := t.settled("1", g, offer("x", "y", "z"))
			b, second := t.enters("2", g, offer("z", "y"))
			a.hears(27)
			a.learn(t.take("the first joins again", a.rejoins(offer("y", "z", "x"))))
			b.joined(second)
			t.last("what was chosen", describeGroup(g))
			_, third := t.enters("3", g, offer("w", "z"))
			a.hears(27)
			again, twice := a.rejoins(offer("y", "z", "x")), b.rejoins(offer("z", "y"))
			t.take("of three, the leader", again)
			t.take("of three, the second", twice)
			t.take("of three, the third", third)
		}},
		{"40 a group that is full", func(t *talk) {
			g := t.prefix + "g"
			a := t.settled("1", g, nil)
			members := []*member{a}
			for i := 2; i <= 3; i++ {
				m, p := t.enters(fmt.Sprint(i), g, nil)
				a.hears(27)
				var again []*pending
				for _, o := range members {
					again = append(again, o.rejoins(nil))
				}
				m.joined(p)
				for k, o := range members {
					o.joined(again[k])
				}
				members = append(members, m)
				shares := map[string]string{}
				for _, o := range members {
					shares[o.id] = "x"
				}
				waits := []*pending{t.send(m.link, 4, m.sync(nil))}
				for _, o := range members[1 : len(members)-1] {
					waits = append(waits, t.send(o.link, 4, o.sync(nil)))
				}
				a.shares(shares)
				for _, w := range waits {
					if _, err := w.answer(answerWithin); err != nil {
						t.fail("SyncGroup of a follower: %w", err)
					}
				}
			}
			t.each("a fourth", func(int16) kmsg.Request { return joining(g, "") })
			t.from("a static fourth", 5, func(int16) kmsg.Request {
				req := joining(g, "")
				req.InstanceID = ptr("i")
				return req
			})
		}},
		{"41 SyncGroup", func(t *talk) {
			for v := t.versions[14].min; v <= t.versions[14].max; v++ {
				g := fmt.Sprintf("%sg-%d", t.prefix, v)
				ask := func(step string, req *kmsg.SyncGroupRequest) { t.ask(step, v, req) }
				nobody := kmsg.NewPtrSyncGroupRequest()
				nobody.Group, nobody.MemberID, nobody.Generation = g, "nobody", 1
				nobody.ProtocolType, nobody.Protocol = ptr("consumer"), ptr("range")
				ask("unknown group", nobody)
				empty := *nobody
				empty.Group = ""
				ask("empty group", &empty)
				m := t.alone("m", g, nil)
				ask("unknown member", nobody)
				wrong := m.sync(nil)
				wrong.Generation++
				ask("generation of the future", wrong)
				wrong = m.sync(nil)
				wrong.Generation = -1
				ask("no generation", wrong)
				wrong = m.sync(nil)
				wrong.ProtocolType = ptr("connect")
				ask("another type", wrong)
				wrong = m.sync(nil)
				wrong.Protocol = ptr("roundrobin")
				ask("another protocol", wrong)
				right := m.sync(map[string]string{m.id: "mine", "nobody": "his"})
				right.ProtocolType, right.Protocol = ptr("consumer"), ptr("range")
				t.take("shared out", t.send("m", v, right))
				ask("asked again", m.sync(nil))
				wrong = m.sync(nil)
				wrong.ProtocolType, wrong.Protocol = nil, nil
				ask("without type and protocol", wrong)
				ask("shared out again", m.sync(map[string]string{m.id: "other"}))
				wrong = m.sync(nil)
				wrong.Generation--
				ask("an old generation", wrong)
			}
		}},
		{"41 the leader shares out nothing", func(t *talk) {
			for v := t.versions[14].min; v <= t.versions[14].max; v++ {
				m := t.alone("m", fmt.Sprintf("%sg-%d", t.prefix, v), nil)
				t.ask("sync", v, m.sync(nil))
				t.ask(fmt.Sprintf("heartbeat, after v%d", v), 4, m.heartbeat())
			}
		}},
		{"41 two members", func(t *talk) {
			g := t.prefix + "g"
			a := t.settled("1", g, nil)
			a.learn(t.take("joins again unchanged as the leader", a.rejoins(nil)))
			a.shares(map[string]string{a.id: "x"})
			b, second := t.enters("2", g, nil)
			a.hears(27)
			t.last("sync while others join", a.sync(nil))
			t.last("describe while others join", describeGroup(g))
			a.learn(t.take("the leader", a.rejoins(nil)))
			b.learn(t.take("the follower", second))
			t.last("describe before the sync", describeGroup(g))
			t.last("heartbeat before the sync", a.heartbeat())
			t.take("joins again before the sync", b.rejoins(nil))
			waits := t.send("2", 5, b.sync(nil))
			t.take("the leader shares out", t.send("1", 5, a.sync(map[string]string{a.id: "first", b.id: "second"})))
			t.take("the follower gets its share", waits)
			t.last("describe in stable", describeGroup(g))
			t.take("the follower joins again unchanged", b.rejoins(nil))
			t.last("heartbeat of the follower", b.heartbeat())
			changed := b.rejoins(func(r *kmsg.JoinGroupRequest) {
				r.Protocols = []kmsg.JoinGroupRequestProtocol{protocol("range", "", "some-topic")}
			})
			a.hears(27)
			t.last("heartbeat of the one that changed", b.heartbeat())
			t.take("the leader joins again", a.rejoins(nil))
			t.take("the one that changed", changed)
		}},
		{"42 Heartbeat", func(t *talk) {
			for v := t.versions[12].min; v <= t.versions[12].max; v++ {
				g := fmt.Sprintf("%sg-%d", t.prefix, v)
				ask := func(step string, req *kmsg.HeartbeatRequest) { t.ask(step, v, req) }
				nobody := kmsg.NewPtrHeartbeatRequest()
				nobody.Group, nobody.MemberID = g, "nobody"
				ask("unknown group", nobody)
				empty := *nobody
				empty.Group = ""
				ask("empty group", &empty)
				m := t.alone("m", g, nil)
				ask("before the sync", m.heartbeat())
				ask("unknown member", nobody)
				m.shares(nil)
				ask("good", m.heartbeat())
				wrong := m.heartbeat()
				wrong.Generation++
				ask("generation of the future", wrong)
				wrong = m.heartbeat()
				wrong.Generation--
				ask("old generation", wrong)
				wrong = m.heartbeat()
				wrong.Generation = -1
				ask("no generation", wrong)
				wrong = m.heartbeat()
				wrong.InstanceID = ptr("stranger")
				ask("of a stranger's instance", wrong)
				ask("unknown member of the stable group", nobody)
				t.call(4, leaving(g, m.id, nil))
				ask("after it has left", m.heartbeat())
			}
		}},
		{"42 LeaveGroup", func(t *talk) {
			for v := t.versions[13].min; v <= t.versions[13].max; v++ {
				g := fmt.Sprintf("%sg-%d", t.prefix, v)
				t.ask("unknown group", v, leaving(g, "nobody", nil))
				t.ask("empty group", v, leaving("", "nobody", nil))
				m := t.settled("m", g, nil)
				t.ask("unknown member", v, leaving(g, "nobody", nil))
				t.ask("empty member", v, leaving(g, "", nil))
				if v >= 3 {
					t.ask("unknown instance", v, leaving(g, "", ptr("stranger")))
					t.ask("member under a stranger's instance", v, leaving(g, m.id, ptr("stranger")))
					two := leaving(g, m.id, nil)
					two.Members = append(two.Members, leaving(g, "nobody", nil).Members...)
					two.Members = append(two.Members, two.Members[0])
					t.ask("several", v, two)
					none := leaving(g, "", nil)
					none.Members = nil
					t.ask("nobody at all", v, none)
				} else {
					t.ask("good", v, leaving(g, m.id, nil))
				}
				t.ask("again", v, leaving(g, m.id, nil))
				t.ask(fmt.Sprintf("describe, after v%d", v), 5, describeGroup(g))
			}
		}},
		{"42 LeaveGroup of an id that has not joined", func(t *talk) {
			g := t.prefix + "g"
			resp, ok := t.ask("is given an id", 4, joining(g, "")).(*kmsg.JoinGroupResponse)
			if !ok {
				return
			}
			t.ask("describe", 5, describeGroup(g))
			beat := kmsg.NewPtrHeartbeatRequest()
			beat.Group, beat.MemberID, beat.Generation = g, resp.MemberID, -1
			t.ask("heartbeat", 4, beat)
			t.ask("leave", 4, leaving(g, resp.MemberID, nil))
			t.ask("join under it", 4, joining(g, resp.MemberID))
		}},
		{"44 static members", func(t *talk) {
			g := t.prefix + "g"
			static := func(r *kmsg.JoinGroupRequest) { r.InstanceID = ptr("one") }
			a := t.settled("1", g, static)
			old := *a
			t.last("describe", describeGroup(g))
			again := joining(g, "")
			static(again)
			resp, ok := t.last("comes back with nothing changed", again).(*kmsg.JoinGroupResponse)
			if !ok {
				return
			}
			a.id = resp.MemberID
			t.from("the old one's heartbeat", 3, func(int16) kmsg.Request { return old.heartbeat() })
			t.from("the old one's sync", 3, func(int16) kmsg.Request { return old.sync(nil) })
			t.from("the old one's join", 5, func(int16) kmsg.Request {
				r := joining(g, old.id)
				static(r)
				return r
			})
			b := t.topic("b", 1)
			t.from("the old one's commit", 7, func(int16) kmsg.Request { return old.commits(b, 1) })
			t.from("the old one leaves", 3, func(int16) kmsg.Request { return leaving(g, old.id, ptr("one")) })
			t.from("the old one's heartbeat without its instance", 0, func(v int16) kmsg.Request {
				r := old.heartbeat()
				r.InstanceID = nil
				return r
			})
			t.last("sync of the new one", a.sync(nil))
			t.last("heartbeat of the new one", a.heartbeat())
			t.from("comes back in old versions", 5, func(int16) kmsg.Request {
				r := joining(g, "")
				static(r)
				return r
			})
			t.last("describe again", describeGroup(g))
			t.last("leaves by its instance", leaving(g, "", ptr("one")))
			t.last("describe when it has left", describeGroup(g))
		}},
		{"44 a static member comes back changed", func(t *talk) {
			g := t.prefix + "g"
			t.settled("1", g, func(r *kmsg.JoinGroupRequest) { r.InstanceID = ptr("one") })
			again := joining(g, "")
			again.InstanceID, again.Protocols = ptr("one"), []kmsg.JoinGroupRequestProtocol{protocol("roundrobin", "")}
			t.last("with another protocol", again)
			more := joining(g, "")
			more.InstanceID, more.Protocols = ptr("one"), []kmsg.JoinGroupRequestProtocol{protocol("roundrobin", "", "topic")}
			t.last("with another subscription, before the sync", more)
		}},
		{"45 a commit while others join", func(t *talk) {
			b := t.topic("b", 1)
			g := t.prefix + "g"
			a := t.settled("1", g, nil)
			m, second := t.enters("2", g, nil)
			a.hears(27)
			t.each("while preparing", func(v int16) kmsg.Request { return a.commits(b, int64(v)) })
			rejoined := a.rejoins(nil)
			a.joined(rejoined)
			m.joined(second)
			t.each("before the sync", func(v int16) kmsg.Request { return a.commits(b, int64(v)) })
			old := *a
			old.gen--
			t.each("of the old generation, before the sync", func(v int16) kmsg.Request { return old.commits(b, int64(v)) })
			t.last("what is committed", committed(10, g, b, 0))
		}},
		{"46 DescribeGroups", func(t *talk) {
			t.each("unknown", func(int16) kmsg.Request { return describeGroup(t.prefix + "none") })
			t.each("empty name", func(int16) kmsg.Request { return describeGroup("") })
			t.each("none", func(int16) kmsg.Request { return kmsg.NewPtrDescribeGroupsRequest() })
			g := t.prefix + "g"
			t.settled("m", g, func(r *kmsg.JoinGroupRequest) {
				r.Protocols = []kmsg.JoinGroupRequestProtocol{protocol("range", "", "some", "topics"), protocol("other", "x")}
			})
			t.each("stable", func(int16) kmsg.Request { return describeGroup(g) })
			t.each("operations", func(int16) kmsg.Request {
				req := describeGroup(g, t.prefix+"none")
				req.IncludeAuthorizedOperations = true
				return req
			})
			t.each("twice", func(int16) kmsg.Request { return describeGroup(g, g) })
			h := t.prefix + "h"
			t.alone("h", h, nil)
			t.each("before the sync", func(int16) kmsg.Request { return describeGroup(h) })
		}},
		{"46 ListGroups", func(t *talk) {
			t.normal.own = true
			t.settled("m", t.prefix+"stable", nil)
			t.alone("n", t.prefix+"completing", nil)
			connect := t.settled("c", t.prefix+"empty", func(r *kmsg.JoinGroupRequest) { r.ProtocolType = "connect" })
			t.call(4, leaving(connect.group, connect.id, nil))
			a := t.topic("a", 1)
			t.call(8, commit(t.prefix+"simple", a.name, a.id, 0, 1, nil))
			t.each("all", func(int16) kmsg.Request { return kmsg.NewPtrListGroupsRequest() })
			filter := func(step string, first int16, states, types []string) {
				t.from(step, first, func(int16) kmsg.Request {
					req := kmsg.NewPtrListGroupsRequest()
					req.StatesFilter, req.TypesFilter = states, types
					return req
				})
			}
			filter("stable", 4, []string{"Stable"}, nil)
			filter("STABLE or empty", 4, []string{"STABLE", "empty"}, nil)
			filter("no such state", 4, []string{"Sleeping"}, nil)
			filter("one state and one that is none", 4, []string{"Sleeping", "Stable"}, nil)
			filter("classic", 5, nil, []string{"classic"})
			filter("Classic and stable", 5, []string{"Stable"}, []string{"Classic"})
			filter("consumer", 5, nil, []string{"consumer"})
			filter("no such type", 5, nil, []string{"nothing"})
			filter("classic and one that is none", 5, nil, []string{"nothing", "classic"})
		}},
		{"46 DeleteGroups", func(t *talk) {
			a := t.topic("a", 1)
			remove := func(groups ...string) func(int16) kmsg.Request {
				return func(int16) kmsg.Request {
					req := kmsg.NewPtrDeleteGroupsRequest()
					req.Groups = groups
					return req
				}
			}
			t.each("unknown", remove(t.prefix+"none"))
			t.each("empty name", remove(""))
			t.each("none", remove())
			t.settled("m", t.prefix+"stable", nil)
			t.each("not empty", remove(t.prefix+"stable"))
			for v := t.versions[42].min; v <= t.versions[42].max; v++ {
				g := fmt.Sprintf("%sg-%d", t.prefix, v)
				t.call(8, commit(g, a.name, a.id, 0, 1, nil))
				t.ask("only offsets, and others", v, remove(g, t.prefix+"none", t.prefix+"stable")(v))
				t.ask("again", v, remove(g)(v))
				t.ask(fmt.Sprintf("its offsets, after v%d", v), 7, committed(7, g, a, 0))
				m := t.settled("n", g, nil)
				t.call(4, leaving(g, m.id, nil))
				t.ask("empty", v, remove(g)(v))
				t.ask(fmt.Sprintf("describe, after v%d", v), 6, describeGroup(g))
				t.call(8, commit(g, a.name, a.id, 0, 1, nil))
				t.ask("named twice", v, remove(g, g)(v))
			}
		}},
	}
}

// learn takes in an answer to JoinGroup that was recorded.
func (m *member) learn(resp kmsg.Response) {
	if r, ok := resp.(*kmsg.JoinGroupResponse); ok && r.ErrorCode == 0 {
		m.id, m.gen = r.MemberID, r.Generation
		if r.Protocol != nil {
			m.name = *r.Protocol
		}
		m.t.normal.text(m.id) // gives the id its name
	}
}

func describeGroup(names ...string) *kmsg.DescribeGroupsRequest {
	req := kmsg.NewPtrDescribeGroupsRequest()
	req.Groups = names
	return req
}
