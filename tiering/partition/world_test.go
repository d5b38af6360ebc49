package partition_test

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"varve.dev/metadata"
	"varve.dev/tiering/batch"
	"varve.dev/tiering/batch/codec"
	"varve.dev/tiering/fetch"
	"varve.dev/tiering/flush"
	"varve.dev/tiering/object"
	"varve.dev/tiering/partition"
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	here       = metadata.PartitionID{Topic: 1, Partition: 2}
	start      = time.UnixMilli(1700000000000)
)

// sent is a batch as a producer sends it; the zero value of producer is none.
type sent struct {
	producer int64 // the id plus one
	epoch    int16
	sequence int32
	n        int32
	time     int64 // 0: start
	size     int
}

func (s sent) batch() batch.Batch {
	b := make(batch.Batch, batch.HeaderSize+max(s.size, 7*int(min(s.n, 100))))
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)-12))
	b[16] = 2
	if s.time == 0 {
		s.time = start.UnixMilli()
	}
	if s.producer == 0 {
		s.epoch, s.sequence = -1, -1
	}
	binary.BigEndian.PutUint32(b[23:], uint32(s.n-1))
	binary.BigEndian.PutUint64(b[27:], uint64(s.time))
	binary.BigEndian.PutUint64(b[35:], uint64(s.time))
	binary.BigEndian.PutUint64(b[43:], uint64(s.producer-1))
	binary.BigEndian.PutUint16(b[51:], uint16(s.epoch))
	binary.BigEndian.PutUint32(b[53:], uint32(s.sequence))
	binary.BigEndian.PutUint32(b[57:], uint32(s.n))
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], castagnoli))
	return b
}

// settings of a topic as most tests want them.
func settings() partition.Config {
	return partition.Config{MaxMessageBytes: 1 << 20, TimestampBefore: 1 << 62, TimestampAfter: time.Hour, Codec: codec.None, KeepCodec: true,
		ProducerExpiry: 24 * time.Hour}
}

type appended struct {
	b    batch.Batch
	need flush.Need
	w    flush.Waiter
	slot int
}

// window stands for the flush: it keeps what partitions append until a test syncs or commits it. Batches also go to a
// buffer that never runs, since only that can lend their memory.
type window struct {
	lender  *flush.Buffer
	pending []appended
	told    int // of pending, by a sync
	objects []*object.Stored
	created int64 // of the next object
	fail    error
}

func newWindow() *window {
	return &window{lender: flush.New(nil, nil, nil, nil, metadata.Session{Agent: 1, Epoch: 1}, flush.Config{WindowBytes: 1 << 40}), created: start.UnixMilli()}
}

func (w *window) Append(o flush.Owner, b batch.Batch, need flush.Need, wt flush.Waiter, slot int) (flush.Held, error) {
	if w.fail != nil {
		return flush.Held{}, w.fail
	}
	held, err := w.lender.Append(o, b, flush.Nobody, nil, 0)
	if need == flush.Nobody {
		wt = nil
	}
	w.pending = append(w.pending, appended{held.Batch, need, wt, slot})
	return held, err
}

// sync tells what flush tells when everything is in the journal.
func (w *window) sync(p *partition.Partition) {
	for i := range w.pending {
		a := &w.pending[i]
		if a.need != flush.Stored && i >= w.told {
			p.Synced(a.b.End())
		}
		if (a.need == flush.Local || a.need == flush.Synced) && a.w != nil {
			a.w.Done(a.slot, nil)
			a.w = nil
		}
	}
	w.told = len(w.pending)
}

// commit makes an object of the first n pending batches (0: all) and tells what flush tells.
func (w *window) commit(p *partition.Partition, n int) *object.Stored {
	if n == 0 {
		n = len(w.pending)
	}
	b := object.NewBuilder(object.Header{Session: 1, First: int64(len(w.objects)) + 1, CreatedAt: w.created}, nil)
	begun := false
	for i := range w.pending[:n] {
		bt := w.pending[i].b
		if gap := bt.IsControl(); !begun || gap {
			b.Begin(object.Range{Partition: p.ID(), Base: bt.Base(), LeaderEpoch: p.Epoch().Epoch, EpochStart: p.Epoch().Start, Gap: gap})
			begun = !gap
		}
		b.Add(slices.Clone(bt))
	}
	im := b.Finish(nil)
	o := &object.Stored{Dir: im.Directory(), WALObject: metadata.WALObject{Object: im.Object(fmt.Sprint("wal/", len(w.objects)))}}
	w.objects = append(w.objects, o)
	done := w.pending[:n]
	w.pending, w.told = slices.Clone(w.pending[n:]), max(0, w.told-n)
	for i := range o.Dir.Ranges {
		p.Committed(o, &o.Dir.Ranges[i])
	}
	for i := range done {
		if done[i].w != nil {
			done[i].w.Done(done[i].slot, nil)
		}
	}
	return o
}

// waiter notes by name who was told.
type waiter struct {
	mu   sync.Mutex
	told []string
	on   func()
}

func (w *waiter) Done(slot int, err error) {
	if w.on != nil {
		w.on()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	name := string(rune('a' + slot))
	if err != nil {
		name += " " + word(err)
	}
	w.told = append(w.told, name)
}

func (w *waiter) take() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	sort.Strings(w.told)
	s := strings.Join(w.told, " ")
	w.told = nil
	return s
}

// lead makes the partition that nobody has led.
func lead(w *window, cfg partition.Config) *partition.Partition {
	return partition.New(partition.Start{ID: here, Topic: object.TopicName{Num: here.Topic, Name: "t"}, Epochs: []metadata.EpochStart{{Epoch: 1, Start: 0}}}, w, cfg)
}

// bytesOf is where a plan says that bytes lie.
func bytesOf(p fetch.Plan) string {
	var s []string
	if p.Sealed {
		s = append(s, fmt.Sprintf("sealed to %d", p.SealedEnd))
	}
	for _, x := range p.Pieces {
		s = append(s, fmt.Sprintf("%s[%d,%d)", x.Stored.Object.Key, x.Range.Base, x.Range.End))
	}
	for _, h := range p.Held {
		s = append(s, fmt.Sprintf("held[%d,%d)", h.Batch.Base(), h.Batch.End()))
	}
	return strings.Join(s, " ")
}

// must fails the test on an error.
func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}
