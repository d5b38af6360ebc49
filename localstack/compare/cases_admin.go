package main

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// adminCases are what item 1's table offers administrators beside topics and configs.
func adminCases() []conversation {
	return []conversation{
		{"1 DescribeLogDirs", func(t *talk) {
			a := t.topic("a", 2)
			t.write(a, values("x"))
			t.normal.own = true
			ask := func(topics []kmsg.DescribeLogDirsRequestTopic) func(int16) kmsg.Request {
				return func(int16) kmsg.Request {
					req := kmsg.NewPtrDescribeLogDirsRequest()
					req.Topics = topics
					return req
				}
			}
			t.each("all", ask(nil))
			t.each("none", ask([]kmsg.DescribeLogDirsRequestTopic{}))
			t.each("one", ask([]kmsg.DescribeLogDirsRequestTopic{{Topic: a.name, Partitions: []int32{1}}}))
			t.each("no partitions", ask([]kmsg.DescribeLogDirsRequestTopic{{Topic: a.name}}))
			t.each("unknown", ask([]kmsg.DescribeLogDirsRequestTopic{{Topic: t.prefix + "none", Partitions: []int32{0}}, {Topic: a.name, Partitions: []int32{9, 0}}}))
		}},
		{"1 AlterReplicaLogDirs", func(t *talk) {
			a := t.topic("a", 1)
			t.each("to a folder that is not there", func(int16) kmsg.Request {
				req := kmsg.NewPtrAlterReplicaLogDirsRequest()
				d := kmsg.NewAlterReplicaLogDirsRequestDir()
				d.Dir = "/no/such/folder"
				d.Topics = []kmsg.AlterReplicaLogDirsRequestDirTopic{{Topic: a.name, Partitions: []int32{0}}}
				req.Dirs = append(req.Dirs, d)
				return req
			})
			t.each("nothing", func(int16) kmsg.Request { return kmsg.NewPtrAlterReplicaLogDirsRequest() })
		}},
		{"1 ElectLeaders", func(t *talk) {
			a := t.topic("a", 2)
			for _, kind := range []int8{0, 1, 2, -1} {
				t.each(fmt.Sprintf("type %d", kind), func(int16) kmsg.Request { return elect(kind, a.name, 0, 1) })
				t.each(fmt.Sprintf("type %d, no such partition", kind), func(int16) kmsg.Request { return elect(kind, a.name, 7, -1) })
				t.each(fmt.Sprintf("type %d, no such topic", kind), func(int16) kmsg.Request { return elect(kind, t.prefix+"none", 0) })
			}
			t.normal.own = true
			t.each("all", func(int16) kmsg.Request {
				req := elect(0, a.name)
				req.Topics = nil
				return req
			})
			t.each("none", func(int16) kmsg.Request {
				req := elect(0, a.name)
				req.Topics = []kmsg.ElectLeadersRequestTopic{}
				return req
			})
			t.each("named twice", func(int16) kmsg.Request { return elect(0, a.name, 0, 0) })
		}},
		{"1 AlterPartitionReassignments", func(t *talk) {
			a := t.topic("a", 1)
			move := func(name string, partition int32, replicas []int32) func(int16) kmsg.Request {
				return func(int16) kmsg.Request {
					req := kmsg.NewPtrAlterPartitionAssignmentsRequest()
					req.TimeoutMillis = waitForever
					rt := kmsg.NewAlterPartitionAssignmentsRequestTopic()
					rt.Topic = name
					rt.Partitions = []kmsg.AlterPartitionAssignmentsRequestTopicPartition{{Partition: partition, Replicas: replicas}}
					req.Topics = append(req.Topics, rt)
					return req
				}
			}
			t.each("cancel what is not there", move(a.name, 0, nil))
			t.each("no such topic", move(t.prefix+"none", 0, []int32{1}))
			t.each("no such partition", move(a.name, 9, []int32{1}))
			t.each("to nobody", move(a.name, 0, []int32{}))
			t.each("to a stranger", move(a.name, 0, []int32{7}))
			t.each("to where it is", move(a.name, 0, []int32{1}))
			t.each("twice to the same", move(a.name, 0, []int32{1, 1}))
		}},
		{"1 ListPartitionReassignments", func(t *talk) {
			a := t.topic("a", 1)
			req := kmsg.NewPtrListPartitionReassignmentsRequest()
			req.TimeoutMillis = waitForever
			t.ask("all", 0, req)
			one := kmsg.NewPtrListPartitionReassignmentsRequest()
			one.TimeoutMillis = waitForever
			one.Topics = []kmsg.ListPartitionReassignmentsRequestTopic{{Topic: a.name, Partitions: []int32{0, 9}}, {Topic: t.prefix + "none", Partitions: []int32{0}}}
			t.ask("one, and one that is not there", 0, one)
		}},
		{"1 DescribeProducers", func(t *talk) {
			a := t.topic("a", 2)
			p := t.producer()
			t.write(a, values("x", "y").from(p, 0, 0), values("z").from(p, 0, 2), values("plain"))
			req := kmsg.NewPtrDescribeProducersRequest()
			req.Topics = []kmsg.DescribeProducersRequestTopic{{Topic: a.name, Partitions: []int32{0, 1, 2, -1}}, {Topic: t.prefix + "none", Partitions: []int32{0}},
				{Topic: "b d", Partitions: []int32{0}}}
			t.ask("ask", 0, req)
			t.ask("nothing", 0, kmsg.NewPtrDescribeProducersRequest())
		}},
		{"10 FindCoordinator", func(t *talk) {
			find := func(kind int8, keys ...string) func(int16) kmsg.Request {
				return func(v int16) kmsg.Request {
					req := kmsg.NewPtrFindCoordinatorRequest()
					req.CoordinatorType, req.CoordinatorKeys = kind, keys
					if len(keys) > 0 {
						req.CoordinatorKey = keys[0]
					}
					return req
				}
			}
			t.each("group", find(0, t.prefix+"g"))
			t.each("empty group", find(0, ""))
			t.from("several", 4, find(0, t.prefix+"g", t.prefix+"h", ""))
			t.from("the same twice", 4, find(0, t.prefix+"g", t.prefix+"g"))
			t.from("none", 4, find(0))
			t.from("share", 1, find(2, t.prefix+"g:AAAAAAAAAAAAAAAAAAAAAA:0"))
			t.from("malformed share", 1, find(2, t.prefix+"g"))
			for _, kind := range []int8{3, 9, -1} {
				t.from(fmt.Sprintf("type %d", kind), 1, find(kind, t.prefix+"g"))
			}
		}},
		{"10 FindCoordinator for transactions", func(t *talk) {
			t.from("ask", 1, func(int16) kmsg.Request {
				req := kmsg.NewPtrFindCoordinatorRequest()
				req.CoordinatorType, req.CoordinatorKey, req.CoordinatorKeys = 1, "", []string{""}
				return req
			})
		}},
	}
}

func elect(kind int8, name string, partitions ...int32) *kmsg.ElectLeadersRequest {
	req := kmsg.NewPtrElectLeadersRequest()
	req.ElectionType, req.TimeoutMillis = kind, waitForever
	req.Topics = []kmsg.ElectLeadersRequestTopic{{Topic: name, Partitions: partitions}}
	return req
}
