// Package metatest is the one suite that holds every metadata store to the contract of package metadata.
package metatest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"varve.dev/metadata"
)

// Open gives an empty store, which ends with the test.
type Open func(t *testing.T) metadata.Store

// Run runs the suite.
func Run(t *testing.T, open Open) {
	for _, group := range []struct {
		name  string
		tests []test
	}{
		{"Clusters", clusters}, {"Sessions", sessions}, {"Leases", leases}, {"Index", index}, {"Replace", replaces},
		{"Trim", trims}, {"Topics", topics}, {"Groups", groups}, {"Producers", producers}, {"Races", races},
	} {
		t.Run(group.name, func(t *testing.T) {
			for _, tt := range group.tests {
				t.Run(tt.name, func(t *testing.T) {
					w := newWorld(t, open(t))
					tt.run(w)
					w.audit()
				})
			}
		})
	}
	t.Run("Model", func(t *testing.T) { checkModel(t, open(t)) })
}

type test struct {
	name string
	run  func(*world)
}

// world is a store with a cluster, and how tests speak to it.
type world struct {
	*testing.T
	metadata.Store
	ctx   context.Context
	grace metadata.Grace
	nonce uint64
}

const incarnation = 3

func newWorld(t *testing.T, s metadata.Store) *world {
	w := &world{T: t, Store: s, ctx: t.Context()}
	_, err := s.Join(w.ctx, metadata.Cluster{ID: metadata.UUID{0xc1}, Incarnation: incarnation, Shards: 8, Format: 1})
	w.must(err)
	return w
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) want(err, sentinel error) {
	w.Helper()
	if !errors.Is(err, sentinel) {
		w.Fatalf("got error %v, want %v", err, sentinel)
	}
}

func same[T any](w *world, what string, got, want T) {
	w.Helper()
	if reflect.DeepEqual(want, got) {
		return // cmp takes seconds over ten thousand rows under the race detector
	}
	if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
		w.Fatalf("%s (-want +got):\n%s", what, d)
	}
}

// journalOf is the journal that agents bring by default.
func journalOf(agent int32) metadata.UUID { return metadata.UUID{0x10, byte(agent)} }

func (w *world) start(agent int32, doomed ...string) (metadata.Session, metadata.Ended) {
	w.Helper()
	w.nonce++
	s, e, err := w.Start(w.ctx, metadata.Agent{ID: agent, Journal: journalOf(agent), Address: "a:1", Rack: "r", Version: "v"},
		w.nonce, func(metadata.Ended) []string { return doomed }, w.grace)
	w.must(err)
	return s, e
}

func (w *world) topic(name string, partitions int32) metadata.Topic {
	w.Helper()
	w.nonce++
	t, err := w.CreateTopic(w.ctx, metadata.Topic{ID: metadata.UUID{0x70, byte(w.nonce), byte(w.nonce >> 8)}, Name: name,
		Partitions: partitions}, metadata.NoAgent)
	w.must(err)
	return t
}

func ids(t metadata.Topic) []metadata.PartitionID {
	out := make([]metadata.PartitionID, t.Partitions)
	for i := range out {
		out[i] = metadata.PartitionID{Topic: t.Num, Partition: int32(i)}
	}
	return out
}

func (w *world) read(ids ...metadata.PartitionID) metadata.State {
	w.Helper()
	st, err := w.Read(w.ctx, ids)
	w.must(err)
	return st
}

func (w *world) partition(id metadata.PartitionID) metadata.Partition {
	w.Helper()
	ps := w.read(id).Partitions
	if len(ps) != 1 {
		w.Fatalf("partition %v: got %d rows, want 1", id, len(ps))
	}
	return ps[0]
}

// bid is how s would take a partition that it sees like this.
func bid(s metadata.Session, p metadata.Partition) metadata.Acquisition {
	start := p.SealedEnd
	return metadata.Acquisition{
		Partition: p.ID, SeenEpoch: p.LeaderEpoch, Start: start,
		Epochs:   append(p.Epochs, metadata.EpochStart{Epoch: p.LeaderEpoch + 1, Start: start}),
		Unsealed: append(p.Unsealed, metadata.SessionRef{Agent: s.Agent, Epoch: s.Epoch}),
		TailCap:  1 << 20,
	}
}

func (w *world) bids(s metadata.Session, ids ...metadata.PartitionID) []metadata.Acquisition {
	w.Helper()
	var out []metadata.Acquisition
	for _, p := range w.read(ids...).Partitions {
		out = append(out, bid(s, p))
	}
	return out
}

// lead acquires ids, all of them.
func (w *world) lead(s metadata.Session, ids ...metadata.PartitionID) {
	w.Helper()
	got, err := w.Acquire(w.ctx, s, w.bids(s, ids...))
	w.must(err)
	same(w, "acquired", got, ids)
}

func wal(key string) metadata.WALObject {
	return metadata.WALObject{Object: metadata.Object{Key: key, Length: 100, DirectoryLength: 7, CRC32C: 0xfedcba98, Format: 1},
		Tries: 1, Directory: []byte("dir of " + key)}
}

func flush(from int64, keys ...string) metadata.Commit {
	c := metadata.Commit{From: from, JournalSynced: from * 10}
	for _, key := range keys {
		c.Objects = append(c.Objects, wal(key))
	}
	return c
}

func (w *world) commit(s metadata.Session, from int64, keys ...string) {
	w.Helper()
	w.must(w.Commit(w.ctx, s, flush(from, keys...)))
}

func sealed(key string) metadata.Object {
	return metadata.Object{Key: key, Length: 1000, DirectoryLength: 50, CRC32C: 0x89abcdef, Format: 1}
}

func segment(id metadata.PartitionID, base, end, maxTS int64, o *metadata.Object) metadata.Segment {
	return metadata.Segment{Extent: metadata.Extent{Partition: id, Base: base, End: end, MaxTimestamp: maxTS, Object: o,
		Pos: base, Len: end - base}, Records: end - base}
}

func (w *world) seal(s metadata.Session, out metadata.Sealing) {
	w.Helper()
	w.intend(s, out)
	w.must(w.Replace(w.ctx, s, out))
}

func (w *world) intend(s metadata.Session, out metadata.Sealing) {
	w.Helper()
	var keys []string
	for _, o := range out.Objects {
		keys = append(keys, o.Key)
	}
	if out.Pack != nil {
		keys = append(keys, out.Pack.Object.Key)
	}
	w.must(w.Intend(w.ctx, s, keys))
}

// fill makes s lead a partition and seals [base of each, end of each) of it into objects of their own: the ends are given,
// with the largest timestamp of each.
func (w *world) fill(s metadata.Session, from int64, id metadata.PartitionID, ends ...[2]int64) {
	w.Helper()
	p := w.partition(id)
	base := p.SealedEnd
	for i, e := range ends {
		number := from + int64(i)
		key := fmt.Sprintf("wal/%v/%d", id, number)
		w.commit(s, number, key)
		o := sealed(fmt.Sprintf("seg/%v/%d", id, number))
		w.seal(s, metadata.Sealing{
			Of: s, First: number + 1, Last: number + 1, Keys: []string{key},
			Partitions: []metadata.SealedPartition{{ID: id, LeaderEpoch: p.LeaderEpoch, Base: base, End: e[0]}},
			Segments:   []metadata.Segment{segment(id, base, e[0], e[1], &o)},
			Objects:    []metadata.Object{o}, Grace: w.grace.Superseded,
		})
		base = e[0]
	}
}

func (w *world) inventory() metadata.Inventory {
	w.Helper()
	inv, err := w.Referenced(w.ctx)
	w.must(err)
	return inv
}

func (w *world) tombstones() map[string]string {
	w.Helper()
	out := map[string]string{}
	for _, t := range w.inventory().Tombstones {
		out[t.Key] = t.Reason
	}
	return out
}

func unsealedKeys(st metadata.State) []string {
	var out []string
	for _, o := range st.Unsealed {
		out = append(out, o.Object.Key)
	}
	return out
}

// audit checks what must hold of any index.
func (w *world) audit() {
	w.Helper()
	inv := w.inventory()
	live, dead := map[string]int{}, map[string]bool{}
	running := map[metadata.PartitionID]metadata.Segment{}
	for _, g := range inv.Segments {
		live[g.Object.Key]++
		want := g.MaxTimestamp
		if last, ok := running[g.Partition]; ok {
			want = max(want, last.RunningMax)
			if g.Base < last.End {
				w.Errorf("segments of %v overlap at %d", g.Partition, g.Base)
			}
		}
		if g.RunningMax != want {
			w.Errorf("segment %d of %v: got running maximum %d, want %d", g.Base, g.Partition, g.RunningMax, want)
		}
		running[g.Partition] = g
	}
	known := map[metadata.PartitionID]metadata.Partition{}
	for _, p := range inv.Partitions {
		known[p.ID] = p
	}
	for id, last := range running {
		if p, ok := known[id]; !ok || last.End > p.SealedEnd {
			w.Errorf("segments of %v end at %d, want at most %d", id, last.End, p.SealedEnd)
		}
	}
	for _, t := range inv.Tombstones {
		dead[t.Key] = true
	}
	for _, o := range inv.Objects {
		if o.Live != live[o.Key] {
			w.Errorf("object %s: got %d live extents, want %d", o.Key, o.Live, live[o.Key])
		}
		if (o.Kind == metadata.Sealed) != (o.Live > 0) {
			w.Errorf("object %s of kind %d has %d live extents", o.Key, o.Kind, o.Live)
		}
		if dead[o.Key] {
			w.Errorf("object %s is tombstoned and in the index", o.Key)
		}
	}
	for _, key := range inv.Intents {
		if dead[key] {
			w.Errorf("upload %s is tombstoned and intended", key)
		}
	}
}

// together runs functions at the same time and answers their errors.
func together(fns ...func() error) []error {
	errs := make([]error, len(fns))
	var ready, done sync.WaitGroup
	ready.Add(1)
	for i, fn := range fns {
		done.Go(func() {
			ready.Wait()
			errs[i] = fn()
		})
	}
	ready.Done()
	done.Wait()
	return errs
}

// Recorder collects the statements of a store whose Config.Trace it is.
type Recorder struct {
	mu         sync.Mutex
	statements []string
}

// Trace records one statement.
func (r *Recorder) Trace(sql string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.statements = append(r.statements, sql)
}

// Take answers the statements since the last call.
func (r *Recorder) Take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.statements
	r.statements = nil
	return out
}

const hour = time.Hour
