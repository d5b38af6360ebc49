package group

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"varve.dev/metadata"
	"varve.dev/metadata/sqlite"
)

// ready waits for real I/O.
func ready(t *testing.T, c *Coordinator) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for !c.Ready() {
		select {
		case <-deadline:
			t.Fatal("the shards are not loaded after 10s")
		case <-time.After(time.Millisecond):
		}
	}
}

// TestOnSQLite holds the coordinator to the real store: groups and offsets outlive it, a deleted topic takes its offsets
// along, and a session that was fenced writes nothing more.
func TestOnSQLite(t *testing.T) {
	ctx := t.Context()
	store, err := sqlite.Open(ctx, filepath.Join(t.TempDir(), "m.db"), sqlite.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	if _, err := store.Join(ctx, metadata.Cluster{ID: metadata.UUID{1}, Shards: 4, Format: 1}); err != nil {
		t.Fatal(err)
	}
	life := func(nonce uint64) metadata.Session {
		s, _, err := store.Start(ctx, metadata.Agent{ID: 1, Journal: metadata.UUID{2}}, nonce,
			func(metadata.Ended) []string { return nil }, metadata.Grace{Superseded: time.Hour, Orphan: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	var topics [2]metadata.Topic
	for i, name := range []string{"a", "b"} {
		if topics[i], err = store.CreateTopic(ctx, metadata.Topic{ID: metadata.UUID{byte(i + 3)}, Name: name, Partitions: 4}, 1); err != nil {
			t.Fatal(err)
		}
	}
	on := func(topic int, partition int32, n int64) metadata.GroupOffset {
		o := offset(partition, n)
		o.Partition.Topic, o.Metadata = topics[topic].Num, "\x00é"
		return o
	}

	c, stop := runAs(t, store, life(1))
	ready(t, c)
	id, generation := joinAlone(t, c, "g")
	a := pending[error]()
	c.Commit("g", Commit{Member: id, Generation: generation, Offsets: []metadata.GroupOffset{on(0, 1, 5), on(1, 2, 6)}}, a.done)
	wantErr(t, a.get(t), nil)
	wantErr(t, commit(c, "simple", on(1, 0, 7)).get(t), nil)
	wantErr(t, commit(c, "gone", on(1, 0, 8)).get(t), nil)
	d := pending[error]()
	c.Delete("gone", d.done)
	wantErr(t, d.get(t), nil)
	wantErr(t, stop(), nil)

	// The next life.
	c, stop = runAs(t, store, life(2))
	ready(t, c)
	wantErr(t, heartbeat(c, "g", id, generation), nil)
	if list, err := c.List(); err != nil || len(list) != 2 || list[0].State != Stable || list[1].State != Empty {
		t.Fatalf("groups %+v, %v", list, err)
	}
	c.Fetch("g", nil, true, false, func(cs []Committed, err error) {
		if err != nil || len(cs) != 2 || cs[0].Offset.Offset != 5 || cs[0].Metadata != "\x00é" || cs[1].Partition.Partition != 2 {
			t.Errorf("offsets %+v, %v", cs, err)
		}
	})

	if err := store.DeleteTopic(ctx, topics[1].Num, metadata.Grace{}); err != nil {
		t.Fatal(err)
	}
	c.TopicDeleted(topics[1].Num)
	if got := fetched(t, c, "g"); len(got) != 1 || got[1] != 5 {
		t.Fatalf("offsets %v, want those of the topic that is left", got)
	}

	// A commit that was on its way when the topic went harms nobody.
	late := commit(c, "late", on(1, 0, 9))
	wantErr(t, commit(c, "g3", on(0, 0, 9)).get(t), nil)
	wantErr(t, late.get(t), nil)

	// Another life has begun elsewhere: this one ends with its next write.
	life(3)
	wantErr(t, commit(c, "g2", on(0, 0, 1)).get(t), kerr.NotCoordinator)
	if err := stop(); err != nil {
		wantErr(t, err, metadata.ErrFenced)
	}
}
