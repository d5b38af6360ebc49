package broker

import (
	"context"
	"testing"
	"time"

	"varve.dev/agent/wire"
	"varve.dev/metadata"
	"varve.dev/tiering/batch"
	"varve.dev/tiering/flush"
	"varve.dev/tiering/object"
	"varve.dev/tiering/partition"
)

// windowOf takes batches without a copy, and remembers who waits.
type windowOf struct {
	led   map[metadata.PartitionID]*partition.Partition
	calls []heldBatch
}

func (w *windowOf) Append(o flush.Owner, b batch.Batch, need flush.Need, waiter flush.Waiter, slot int) (flush.Held, error) {
	w.calls = append(w.calls, heldBatch{o, b, need, waiter, slot})
	return flush.Held{Batch: b}, nil
}

func (w *windowOf) Get(id metadata.PartitionID) (*partition.Partition, error) { return w.led[id], nil }
func (w *windowOf) TryReserve(int64) bool                                     { return true }
func (w *windowOf) Reserve(context.Context, int64) error                      { return nil }
func (w *windowOf) Unreserve(int64)                                           {}

// produceAllocs bounds what a produce request allocates in its handler: with the connection's own two that makes eight.
const produceAllocs = 6

func TestAProduceRequestAllocatesLittleAndNothingPerBatch(t *testing.T) {
	if raceFactor > 1 {
		t.Skip("the race detector allocates, and empties pools")
	}
	l := newLogs(t)
	measure := func(partitions int) float64 {
		w := &windowOf{led: map[metadata.PartitionID]*partition.Partition{}}
		batches := map[int32][]byte{}
		for p := range int32(partitions) {
			id := metadata.PartitionID{Topic: 1, Partition: p}
			w.led[id] = partition.New(partition.Start{ID: id, Topic: object.TopicName{Num: 1, Name: "a"}, Epochs: []metadata.EpochStart{{Epoch: 1}}},
				w, partition.Config{MaxMessageBytes: 1 << 20, KeepCodec: true, TimestampAfter: time.Hour, TimestampBefore: 1 << 62})
			batches[p] = oneBatch(0, 0, "x")
		}
		req := l.produceRequest(-1, batches)
		req.TimeoutMillis = 30_000
		req.SetVersion(11)
		body := req.AppendTo(nil)
		lent := make([]byte, len(body))
		api := Produce(l.catalog, w, w, 0)
		answered := 0
		reply := func(wire.Reply) { answered++ }
		r := &wire.Request{Key: 0, Version: 11}
		const runs = 200
		got := testing.AllocsPerRun(runs, func() {
			copy(lent, body)
			r.Body = lent
			api.Handle(context.Background(), r, reply)
			for _, c := range w.calls {
				c.waiter.Done(c.slot, nil)
			}
			w.calls = w.calls[:0]
		})
		if answered != runs+1 {
			t.Fatalf("%d partitions: %d answers, want %d", partitions, answered, runs+1)
		}
		return got
	}
	if got := measure(1); got > produceAllocs {
		t.Errorf("one partition: %v allocations, want at most %d", got, produceAllocs)
	}
	// What is answered of several partitions stands in slices of their own.
	if few, many := measure(2), measure(4); many > few || few > produceAllocs+2 {
		t.Errorf("%v allocations for two partitions, %v for four: want the same, and at most %d", few, many, produceAllocs+2)
	}
}
