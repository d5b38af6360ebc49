package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/localstack/chaos/kcheck"
)

// few are a few records, sent one request at a time: for tests of one event.
type few struct {
	*load
	t   *testing.T
	raw *kgo.Client
	rng *rand.Rand
	by  map[*topic]*producer
}

func newFew(t *testing.T, addr string) *few {
	t.Helper()
	l, err := newIdle(addr, 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	f := &few{load: l, t: t, rng: rand.New(rand.NewPCG(1, 1)), by: map[*topic]*producer{}}
	f.reach(addr)
	return f
}

// reach takes new connections: to another process, or to one that has been started again.
func (f *few) reach(addr string) {
	f.t.Helper()
	raw, err := newClient(addr, kgo.RequestRetries(0))
	if err != nil {
		f.t.Fatal(err)
	}
	cl, err := newClient(addr)
	if err != nil {
		f.t.Fatal(err)
	}
	f.clients = append(f.clients, raw, cl)
	f.addr, f.raw, f.admin = addr, raw, kadm.NewClient(cl)
}

func (f *few) topic(name string, partitions int32, configs map[string]string) *topic {
	f.t.Helper()
	t, err := f.create(f.t.Context(), name, name, partitions, configs)
	if err != nil {
		f.t.Fatal(err)
	}
	t.local = configs["varve.durability"] == "local"
	return t
}

// via sends n records in one batch through cl, and answers the error code that came back.
func (f *few) via(cl *kgo.Client, t *topic, partition int32, acks int16, n int) (*kerr.Error, error) {
	p := f.by[t]
	if p == nil {
		p = &producer{number: f.nextProducer(), topic: t, once: true, ordered: true}
		f.by[t] = p
	}
	p.acks, p.provisional = acks, acks == 1 && !t.local
	var records []*kgo.Record
	for range n {
		id := f.newID(p)
		log := t.log(partition)
		f.rec.Send(kcheck.Send{ID: id, Producer: p.number, Log: log, Acks: acks, Provisional: p.provisional, Once: true, Ordered: true})
		records = append(records, newRecord(log, t.name, id, 200))
	}
	code, err := f.put(cl, p, 10_000, rawBatch(identity{}, records...), records)
	if err != nil {
		return nil, err
	}
	if code == 0 {
		return nil, nil
	}
	return kerr.TypedErrorForCode(code), nil
}

// send sends n records that must be acknowledged.
func (f *few) send(t *topic, partition int32, acks int16, n int) {
	f.t.Helper()
	if refused, err := f.via(f.raw, t, partition, acks, n); err != nil || refused != nil {
		f.t.Fatalf("%s/%d: %v %v, want an acknowledgement", t.name, partition, refused, err)
	}
}

// check reads topics back and judges.
func (f *few) check(topics ...*topic) {
	f.t.Helper()
	if err := f.scan(f.t.Context(), topics, f.rng); err != nil {
		f.t.Error(err)
	}
	for _, a := range f.rec.Check() {
		f.t.Error(a)
	}
	if err := f.failures(); err != nil {
		f.t.Error(err)
	}
}

// fetch asks once for what lies at an offset and answers the bytes, or the error code.
func (f *few) fetch(t *topic, partition int32, offset int64) (records []byte, highWatermark int64, err error) {
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.SessionEpoch = 100, 0, 1<<20, -1
	q := kmsg.NewFetchRequestTopic()
	q.Topic, q.TopicID = t.name, t.id
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.FetchOffset, p.PartitionMaxBytes = partition, offset, 1<<20
	q.Partitions = append(q.Partitions, p)
	req.Topics = append(req.Topics, q)
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	answer, err := f.raw.Broker(1).Request(ctx, req)
	if err != nil {
		return nil, 0, err
	}
	resp := answer.(*kmsg.FetchResponse)
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return nil, 0, fmt.Errorf("fetch of %s/%d: answer about %d topics, code %d", t.name, partition, len(resp.Topics), resp.ErrorCode)
	}
	got := resp.Topics[0].Partitions[0]
	return got.RecordBatches, got.HighWatermark, kerr.ErrorForCode(got.ErrorCode)
}
