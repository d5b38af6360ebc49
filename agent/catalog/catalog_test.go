package catalog

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"varve.dev/agent/config"
	"varve.dev/metadata"
)

// source is a catalog that tests change; each reading takes a second of virtual time.
type source struct {
	mu    sync.Mutex
	now   metadata.Catalog
	err   error
	reads int
	full  int // of reads, those that answered more than the version
}

func (s *source) Catalog(_ context.Context, known int64) (metadata.Catalog, error) {
	s.mu.Lock()
	got, err := s.now, s.err
	s.reads++
	s.mu.Unlock()
	time.Sleep(time.Second)
	if err != nil {
		return metadata.Catalog{}, err
	}
	if got.Version == known {
		return metadata.Catalog{Version: known}, nil
	}
	s.full++
	return got, nil
}

func (s *source) set(version int64, topics ...metadata.Topic) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now.Version, s.now.Topics = version, topics
}

func agent(t *testing.T) *config.Agent {
	t.Helper()
	a, err := config.Load(nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func names(i *Image) []string {
	var out []string
	for _, t := range i.Topics {
		out = append(out, t.Name)
	}
	return out
}

func TestAnImageAnswersByNameIDAndNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{now: metadata.Catalog{
			Version: 3,
			Topics: []metadata.Topic{
				{Num: 2, ID: metadata.UUID{2}, Name: "b", Partitions: 4, Config: map[string]string{"retention.ms": "7", ReplicasKey: "3"}},
				{Num: 1, ID: metadata.UUID{1}, Name: "a", Partitions: 1},
				{Num: 3, ID: metadata.UUID{3}, Name: "gone", Deleting: true},
			},
			Brokers: map[int32]map[string]string{
				metadata.NoAgent: {"log.retention.ms": "11"},
				9:                {"log.retention.ms": "12"},
			},
		}}
		c := New(s, agent(t), 9, slog.New(slog.DiscardHandler), Config{})
		if i := c.Image(); i.Agent == nil || len(i.Topics) != 0 || i.ByName("a") != nil {
			t.Fatal("the first image is not an empty one")
		}
		if err := c.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		i := c.Image()
		if got := names(i); !slices.Equal(got, []string{"a", "b"}) {
			t.Errorf("got topics %v", got)
		}
		b := i.ByName("b")
		if b == nil || i.ByID(metadata.UUID{2}) != b || i.ByNum(2) != b {
			t.Fatal("b is not found by name, id and number alike")
		}
		if b.Settings.RetentionMillis != 7 || b.Replicas != 3 || i.ByName("a").Settings.RetentionMillis != 12 || i.ByName("a").Replicas != 1 {
			t.Errorf("got retention %d and %d, replicas %d and %d", b.Settings.RetentionMillis,
				i.ByName("a").Settings.RetentionMillis, b.Replicas, i.ByName("a").Replicas)
		}
		if i.ByName("gone") != nil || i.ByID(metadata.UUID{3}) != nil || i.ByNum(3) != nil || len(i.Deleting) != 1 {
			t.Error("a deleted topic is seen")
		}
		if !i.Has(metadata.PartitionID{Topic: 2, Partition: 3}) || i.Has(metadata.PartitionID{Topic: 2, Partition: 4}) ||
			i.Has(metadata.PartitionID{Topic: 2, Partition: -1}) || i.Has(metadata.PartitionID{Topic: 3}) {
			t.Error("Has is wrong about partitions")
		}
	})
}

func TestSubscribersHearOfEachChangeInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(source)
		c := New(s, agent(t), 1, slog.New(slog.DiscardHandler), Config{})
		var heard []int64
		c.Subscribe(func(i *Image) {
			if c.Image() != i {
				t.Error("a subscriber is told of an image that is not the current one")
			}
			heard = append(heard, i.Version)
		})
		for _, version := range []int64{1, 1, 2, 2, 1} { // a restore may take the version back
			s.set(version)
			if err := c.Refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if !slices.Equal(heard, []int64{1, 2, 1}) || s.full != 3 {
			t.Errorf("heard %v, %d full readings", heard, s.full)
		}
	})
}

// Whoever calls Refresh after a write sees the write, and a hundred callers cost two readings.
func TestWaitingRefreshesShareOneReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(source)
		c := New(s, agent(t), 1, slog.New(slog.DiscardHandler), Config{})
		go c.Refresh(t.Context())
		synctest.Wait() // that one has read, and holds the others up for a second
		s.set(5)
		var done sync.WaitGroup
		for range 100 {
			done.Go(func() {
				if err := c.Refresh(t.Context()); err != nil || c.Image().Version != 5 {
					t.Errorf("got version %d, %v, want 5", c.Image().Version, err)
				}
			})
		}
		done.Wait()
		if s.reads != 2 {
			t.Errorf("got %d readings, want 2", s.reads)
		}
	})
}

func TestRefreshGivesUpWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(new(source), agent(t), 1, slog.New(slog.DiscardHandler), Config{})
		var first sync.WaitGroup
		first.Go(func() { c.Refresh(t.Context()) })
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := c.Refresh(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		first.Wait()
	})
}

func TestRunFollowsTheSourceAndOutlivesItsAbsence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(source)
		s.set(1)
		var log strings.Builder
		c := New(s, agent(t), 1, slog.New(slog.NewTextHandler(&log, nil)), Config{Interval: 5 * time.Second})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- c.Run(ctx) }()
		wait := func(d time.Duration) { time.Sleep(d); synctest.Wait() }
		if wait(7 * time.Second); c.Image().Version != 1 {
			t.Errorf("got version %d after an interval, want 1", c.Image().Version)
		}
		s.mu.Lock()
		s.err = metadata.ErrUnavailable
		s.mu.Unlock()
		if wait(time.Minute); c.Image().Version != 1 {
			t.Error("the image is gone with its source")
		}
		s.mu.Lock()
		s.err = nil
		s.mu.Unlock()
		s.set(2)
		if wait(7 * time.Second); c.Image().Version != 2 {
			t.Errorf("got version %d, want 2", c.Image().Version)
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if n := strings.Count(log.String(), "cannot be refreshed"); n != 1 || !strings.Contains(log.String(), "refreshed again") {
			t.Errorf("an outage of twelve readings is logged %d times:\n%s", n, log.String())
		}
	})
}
