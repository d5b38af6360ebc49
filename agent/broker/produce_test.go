package broker

import (
	"bytes"
	"errors"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/wire"
	"varve.dev/metadata"
	"varve.dev/tiering/partition"
)

// The answer that is written by hand is, byte for byte, what kmsg would write.
func TestTheProduceResponseIsEncodedLikeKmsg(t *testing.T) {
	for version := int16(3); version <= 13; version++ {
		for _, sizes := range [][]int{{}, {1}, {2}, {3, 0, 2}} {
			req, want := kmsg.NewPtrProduceRequest(), kmsg.NewPtrProduceResponse()
			req.Acks = -1
			want.SetVersion(version)
			n := 0
			for i, size := range sizes {
				topic, answer := kmsg.NewProduceRequestTopic(), kmsg.NewProduceResponseTopic()
				topic.Topic, topic.TopicID = []string{"a", "orders", "öffentlich"}[i], metadata.UUID{byte(i + 1)}
				answer.Topic, answer.TopicID = topic.Topic, topic.TopicID
				for k := range size {
					p, a := kmsg.NewProduceRequestTopicPartition(), kmsg.NewProduceResponseTopicPartition()
					p.Partition, a.Partition = int32(10*i+k), int32(10*i+k)
					a.BaseOffset, a.LogAppendTime, a.LogStartOffset = int64(1000+n), -1, int64(n)
					if n%2 == 1 {
						a.ErrorCode, a.ErrorMessage = kerr.InvalidRecord.Code, kmsg.StringPtr("no good")
						a.BaseOffset, a.LogStartOffset = -1, -1
					}
					topic.Partitions, answer.Partitions = append(topic.Partitions, p), append(answer.Partitions, a)
					n++
				}
				req.Topics, want.Topics = append(req.Topics, topic), append(want.Topics, answer)
			}
			var got []byte
			p := newProducing(&wire.Request{Version: version}, req, func(r wire.Reply) { got = r.Parts[0] })
			for slot := range n {
				if slot%2 == 1 {
					p.set(slot, partition.Appended{}, explain(kerr.InvalidRecord, "no good"))
					continue
				}
				p.set(slot, partition.Appended{Base: int64(1000 + slot), AppendTime: -1, LogStart: int64(slot)}, nil)
				p.Done(slot, nil)
			}
			p.appended(0)
			if expected := want.AppendTo(nil); !bytes.Equal(got, expected) {
				t.Errorf("v%d, topics of %v partitions:\n got %x\nwant %x", version, sizes, got, expected)
			}
			if cap(got) > 2*len(got)+64 || p.encodedSize() < len(got) {
				t.Errorf("v%d: %d bytes estimated, capacity %d, for an answer of %d", version, p.encodedSize(), cap(got), len(got))
			}
		}
	}
}

// What the handler keeps of a request does not lie in the connection's buffer, which the next request overwrites.
func TestAnAnswerOutlivesTheConnectionsBuffer(t *testing.T) {
	l := newLogs(t)
	l.full = errors.New("no")
	req := l.produceRequest(-1, map[int32][]byte{0: oneBatch(0, 0, "x")})
	req.SetVersion(9)
	body := req.AppendTo(nil)
	decoded := kmsg.NewPtrProduceRequest()
	r := &wire.Request{Key: 0, Version: 9, Body: body}
	if err := decodeProduce(r, decoded); err != nil {
		t.Fatal(err)
	}
	var got []byte
	p := newProducing(r, decoded, func(r wire.Reply) { got = r.Parts[0] })
	clear(body)
	p.refuse(kerr.NotEnoughReplicas)
	resp := kmsg.NewPtrProduceResponse()
	resp.SetVersion(9)
	if err := resp.ReadFrom(got); err != nil || resp.Topics[0].Topic != "a" {
		t.Errorf("answer %+v, %v; want one for topic a", resp.Topics, err)
	}
}
