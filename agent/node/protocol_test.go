package node

import (
	"errors"
	"io"
	"net"
	"reflect"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// The items of the protocol's checklist that neither a client can trigger nor another broker be compared in: by number.

// A connection without a request for connections.max.idle.ms is closed; one whose fetch waits is not idle.
func TestItem5IdleConnectionsAreClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, dial := virtual(t)
		l := w.start("connections.max.idle.ms=60000", "session.ttl.ms=600000")
		dial().newTopic("a", 1)
		idle, waiting := dial(), dial()
		req := fetchRequest("a", 0, 0, 1<<20)
		req.MaxWaitMillis = 10 * 60 * 1000
		waiting.send(fetchVersion, req)
		begin := time.Now()
		if _, err := idle.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("an idle connection: got %v, want EOF", err)
		}
		if took := time.Since(begin); took < time.Minute || took > 2*time.Minute {
			t.Errorf("it was closed after %s, want a minute", took)
		}
		time.Sleep(5 * time.Minute)
		other := dial()
		other.append(-1, "a", 0, records(options{}, "x"))
		waiting.SetReadDeadline(time.Time{})
		wantBatches(t, waiting.receive().(*kmsg.FetchResponse).Topics[0].Partitions[0], 1)
		l.stop()
	})
}

// Who connects while the agent stops is closed like everybody else, and not left to wait.
func TestItem5ConnectionsAtShutdownSeeTheEnd(t *testing.T) {
	l := newWorld(t, nil).start()
	address := l.listeners[0].Addr().String()
	settled := l.dial()
	ask[*kmsg.ApiVersionsResponse](settled, 2, kmsg.NewPtrApiVersionsRequest())
	var wg sync.WaitGroup
	dialled := make(chan struct{}, 200)
	for range 10 {
		wg.Go(func() {
			for range 20 {
				c, err := net.DialTimeout("tcp", address, patience)
				dialled <- struct{}{}
				if err != nil {
					continue // the listener is closed
				}
				c.SetReadDeadline(time.Now().Add(patience))
				var ne net.Error
				if _, err := c.Read(make([]byte, 1)); err == nil || errors.As(err, &ne) && ne.Timeout() {
					t.Errorf("connected while the agent stops, and read %v: want the connection's end", err)
				}
				c.Close()
			}
		})
	}
	<-dialled
	l.stop()
	wg.Wait()
	settled.SetReadDeadline(time.Now().Add(patience))
	if _, err := settled.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("an idle connection at the end: got %v, want EOF", err)
	}
}

// Nothing expires where nobody logs in: a listener without SASL says so to both halves of a login, and goes on.
func TestItem8NoSessionLifetimeWithoutSASL(t *testing.T) {
	c := newWorld(t, nil).start().dial()
	for version := range int16(3) {
		req := kmsg.NewPtrSASLAuthenticateRequest()
		req.SASLAuthBytes = []byte("\x00user\x00secret")
		got := ask[*kmsg.SASLAuthenticateResponse](c, version, req)
		wantCode(t, "authenticate", got.ErrorCode, kerr.IllegalSaslState)
		if got.SessionLifetimeMillis != 0 {
			t.Errorf("v%d: a session of %d ms", version, got.SessionLifetimeMillis)
		}
	}
	ask[*kmsg.MetadataResponse](c, 12, kmsg.NewPtrMetadataRequest())
}

// There are no quotas, so that no answer of any API tells a client to wait.
func TestItem9NothingIsThrottled(t *testing.T) {
	l := newWorld(t, nil).start()
	l.create("a", 1)
	c := l.dial()
	told := 0
	for _, api := range ask[*kmsg.ApiVersionsResponse](c, 2, kmsg.NewPtrApiVersionsRequest()).ApiKeys {
		for version := api.MinVersion; version <= api.MaxVersion; version++ {
			req := kmsg.RequestForKey(api.ApiKey)
			switch req := req.(type) {
			case *kmsg.ProduceRequest:
				if version < 3 {
					continue // advertised, and refused
				}
				req.Acks = -1
			case *kmsg.JoinGroupRequest:
				req.Group, req.SessionTimeoutMillis = "g", 1 // refused at once
			}
			c.send(version, req)
			resp, err := c.tryReceive()
			if err != nil {
				t.Errorf("%s v%d: %v", kmsg.NameForKey(api.ApiKey), version, err)
				c = l.dial()
				continue
			}
			if f := reflect.ValueOf(resp).Elem().FieldByName("ThrottleMillis"); f.IsValid() {
				told++
				if f.Int() != 0 {
					t.Errorf("%s v%d: throttled for %d ms", kmsg.NameForKey(api.ApiKey), version, f.Int())
				}
			}
		}
	}
	if told < 50 {
		t.Errorf("only %d answers can tell it: too few to prove anything", told)
	}
}

// Metadata, batches and epoch ends agree on a partition's leader epoch, and no life of the agent tells a smaller one.
func TestItem11LeaderEpochsNeverGoBack(t *testing.T) {
	w := newWorld(t, nil)
	l := w.start()
	l.create("a", 1)
	last := int32(-1)
	for range 3 {
		c := l.dial()
		at := c.append(-1, "a", 0, records(options{}, "x"))
		all := c.read("a", 0, at)
		epoch := all[len(all)-1].LeaderEpoch()
		for version := int16(7); version <= 13; version++ {
			req := kmsg.NewPtrMetadataRequest()
			topic := kmsg.NewMetadataRequestTopic()
			topic.Topic = kmsg.StringPtr("a")
			req.Topics = append(req.Topics, topic)
			if got := ask[*kmsg.MetadataResponse](c, version, req).Topics[0].Partitions[0].LeaderEpoch; got != epoch {
				t.Errorf("Metadata v%d says epoch %d, the batch %d", version, got, epoch)
			}
		}
		if got, _ := c.epochEnd("a", epoch); got != epoch {
			t.Errorf("the epoch's end is that of %d, want %d", got, epoch)
		}
		if epoch <= last {
			t.Errorf("epoch %d after %d", epoch, last)
		}
		last = epoch
		l.stop()
		l = w.start()
	}
	// There is no other agent in any rack to read from.
	c := l.dial()
	req := fetchRequest("a", 0, 0, 1<<20)
	req.Rack = "elsewhere"
	if got := ask[*kmsg.FetchResponse](c, fetchVersion, req).Topics[0].Partitions[0].PreferredReadReplica; got != -1 {
		t.Errorf("preferred read replica %d, want none", got)
	}
}

// What this version does not do it refuses by name, and the log's end does not move for it.
func TestItem32CompactionIsRefused(t *testing.T) {
	l := newWorld(t, nil).start()
	l.create("a", 1)
	c := l.dial()
	c.append(-1, "a", 0, records(options{}, "x"))
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic, topic.NumPartitions, topic.ReplicationFactor = "b", 1, 1
	set := kmsg.NewCreateTopicsRequestTopicConfig()
	set.Name, set.Value = "cleanup.policy", kmsg.StringPtr("compact")
	topic.Configs = append(topic.Configs, set)
	create := kmsg.NewPtrCreateTopicsRequest()
	create.Topics = append(create.Topics, topic)
	wantCode(t, "create a compacted topic", ask[*kmsg.CreateTopicsResponse](c, 7, create).Topics[0].ErrorCode, kerr.InvalidConfig)
	alter := kmsg.NewPtrIncrementalAlterConfigsRequest()
	resource := kmsg.NewIncrementalAlterConfigsRequestResource()
	resource.ResourceType, resource.ResourceName = kmsg.ConfigResourceTypeTopic, "a"
	config := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
	config.Name, config.Value = "cleanup.policy", kmsg.StringPtr("compact,delete")
	resource.Configs = append(resource.Configs, config)
	alter.Resources = append(alter.Resources, resource)
	wantCode(t, "compact a topic", ask[*kmsg.IncrementalAlterConfigsResponse](c, 1, alter).Resources[0].ErrorCode, kerr.InvalidConfig)
	if got := c.offset("a", 0, -1).Offset; got != 1 {
		t.Errorf("the log ends at %d, want 1", got)
	}
}

// A producer that was replaced is fenced where it writes, in every version, whatever it sends.
func TestItem35AnOldEpochIsFenced(t *testing.T) {
	l := newWorld(t, nil).start()
	l.create("a", 1)
	c := l.dial()
	id := c.producerID()
	c.append(-1, "a", 0, records(options{id: id, epoch: 1}, "new"))
	for version := int16(3); version <= produceVersion; version++ {
		for _, b := range [][]byte{records(options{id: id, epoch: 0}, "new"), records(options{id: id, epoch: 0, sequence: 1}, "old")} {
			got := ask[*kmsg.ProduceResponse](c, version, produceRequest(-1, put{"a", 0, b})).Topics[0].Partitions[0]
			wantCode(t, "under the old epoch", got.ErrorCode, kerr.InvalidProducerEpoch)
		}
	}
	if got := c.offset("a", 0, -1).Offset; got != 1 {
		t.Errorf("the log ends at %d, want 1", got)
	}
}

// Without transactions all that is committed is stable, and nobody but the agent writes markers.
func TestItem36TheLastStableOffsetIsTheHighWatermark(t *testing.T) {
	const control, transactional = 0x20, 0x10
	l := newWorld(t, nil).start()
	l.create("a", 1)
	c := l.dial()
	id := c.producerID()
	c.append(-1, "a", 0, records(options{}, "x", "y"))
	for _, attributes := range []int16{control, control | transactional} {
		wantCode(t, "a marker of a client", c.produce(-1, "a", 0, records(options{id: id, attributes: attributes}, "x")).ErrorCode, kerr.InvalidRecord)
	}
	for version := int16(4); version <= fetchVersion; version++ {
		for isolation := range int8(2) {
			req := fetchRequest("a", 0, 0, 1<<20)
			req.IsolationLevel = isolation
			got := ask[*kmsg.FetchResponse](c, version, req).Topics[0].Partitions[0]
			if got.HighWatermark != 2 || got.LastStableOffset != 2 || (got.AbortedTransactions != nil) != (isolation == 1) || len(got.AbortedTransactions) > 0 {
				t.Errorf("v%d, isolation %d: high watermark %d, stable %d, aborted %v", version, isolation, got.HighWatermark, got.LastStableOffset,
					got.AbortedTransactions)
			}
		}
	}
}

// Without transactions every offset that is committed is stable.
func TestItem38StableOffsetsAreAnsweredAtOnce(t *testing.T) {
	l := newWorld(t, nil).start()
	l.create("a", 1)
	c := l.dial()
	wantCode(t, "commit", ask[*kmsg.OffsetCommitResponse](c, 8, offsetCommit("g", "a", 0, 7)).Topics[0].Partitions[0].ErrorCode, nil)
	for _, stable := range []bool{false, true} {
		req := kmsg.NewPtrOffsetFetchRequest()
		req.Group, req.RequireStable = "g", stable
		topic := kmsg.NewOffsetFetchRequestTopic()
		topic.Topic, topic.Partitions = "a", []int32{0}
		req.Topics = append(req.Topics, topic)
		got := ask[*kmsg.OffsetFetchResponse](c, 7, req).Topics[0].Partitions[0]
		if got.ErrorCode != 0 || got.Offset != 7 {
			t.Errorf("stable=%v: offset %d, %v; want 7", stable, got.Offset, kerr.ErrorForCode(got.ErrorCode))
		}
	}
}
