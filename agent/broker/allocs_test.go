package broker

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"varve.dev/agent/wire"
	"varve.dev/metadata"
	"varve.dev/objectstore/cache"
	"varve.dev/tiering/batch"
	"varve.dev/tiering/fetch"
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
func (w *windowOf) Reserve(context.Context, int64, flush.Need) error          { return nil }
func (w *windowOf) Unreserve(int64)                                           {}
func (w *windowOf) Away() bool                                                { return false }

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
		api := Produce(l.catalog, w, w, confirmed(nil), 0)
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

// images answers views that it has given before without an allocation, as the cache does.
type images struct {
	*logs
	views map[imageRange]cache.View
}

type imageRange struct {
	key    string
	off, n int64
}

func (i images) Some(ctx context.Context, o cache.Object, off, n int64, _ cache.Effort) (cache.View, error) {
	return i.View(ctx, o, off, n)
}

func (i images) Borrow(o cache.Object, off, n int64) (cache.View, bool) {
	at := imageRange{o.Key, off, n}
	v, ok := i.views[at]
	if !ok {
		v, ok = i.logs.Borrow(o, off, n)
		i.views[at] = v
	}
	return v, ok
}

// fetchAllocs bounds what a fetch that finds everything in memory allocates in its handler: the list of a topic's partitions.
// With the connection's three, for the request, its body and its answer, that makes four.
const fetchAllocs = 1

func TestAFetchAllocatesLittleAndNothingPerPartitionOrBatch(t *testing.T) {
	if raceFactor > 1 {
		t.Skip("the race detector allocates, and empties pools")
	}
	l := newLogs(t)
	for range 20 {
		l.fill(0, 300, 3000)
		l.fill(1, 3000, 20)
	}
	reader, err := fetch.New(images{l, map[imageRange]cache.View{}}, l, l, fetch.Config{Directories: 1, FindLimit: 1, RecordBytes: 1, ConcurrentMax: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	for _, partitions := range [][]int32{{0}, {0, 1}} {
		req := fetchRequestOf(partitions...)
		req.SetVersion(12)
		r := &wire.Request{Key: 1, Version: 12, Body: req.AppendTo(nil)}
		api := Fetch(l.catalog, l, reader, 1<<30)
		size := 0
		reply := func(r wire.Reply) {
			size = 0
			for _, p := range r.Parts {
				size += len(p)
			}
			r.Release()
		}
		got := testing.AllocsPerRun(200, func() { api.Handle(context.Background(), r, reply) })
		if got > fetchAllocs || size < 20*3000*len(partitions) {
			t.Errorf("%d partitions: %v allocations for %d bytes, want at most %d", len(partitions), got, size, fetchAllocs)
		}
	}
}

// One request after another in the same memory answers as each would alone.
func TestReusedFetchesDoNotMeet(t *testing.T) {
	l := newLogs(t)
	l.fill(0, 300, 2000)
	l.fill(1, 20, 5000)
	api := Fetch(l.catalog, l, l.reader, 1<<20)
	ask := func(api API, partitions ...int32) (answer []byte) {
		req := fetchRequestOf(partitions...)
		req.SetVersion(12)
		api.Handle(context.Background(), &wire.Request{Key: 1, Version: 12, Body: req.AppendTo(nil)}, func(r wire.Reply) {
			answer = bytes.Join(r.Parts, nil)
			if r.Release != nil {
				r.Release()
			}
		})
		return answer
	}
	want := map[string][]byte{}
	requests := [][]int32{{0, 1}, {1}, {2, 0}, {9}, {1, 0}, {0}}
	for _, ps := range requests {
		want[fmt.Sprint(ps)] = ask(Fetch(l.catalog, l, l.reader, 1<<20), ps...)
	}
	for round := range 4 {
		l.elsewhere = round%2 == 1 // the way that may wait
		for _, ps := range requests {
			if got := ask(api, ps...); !bytes.Equal(got, want[fmt.Sprint(ps)]) {
				t.Errorf("round %d, partitions %v: %d bytes, want the %d of a request of its own", round, ps, len(got), len(want[fmt.Sprint(ps)]))
			}
		}
		slices.Reverse(requests)
	}
}
