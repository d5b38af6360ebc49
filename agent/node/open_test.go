package node

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"varve.dev/metadata"
	"varve.dev/objectstore"
	"varve.dev/objectstore/memory"
)

// other puts another, empty bucket in the world.
func (w *world) other() (back func()) {
	w.t.Helper()
	store, err := memory.Open(w.t.Context(), memory.Config{})
	if err != nil {
		w.t.Fatal(err)
	}
	objects, rec := w.objects, w.rec
	w.objects, w.rec = store, objectstore.NewRecorder(store, objectstore.RecorderConfig{})
	return func() { w.objects, w.rec = objects, rec }
}

func (w *world) wantRefused(text string) {
	w.t.Helper()
	l, err := w.tryStart()
	if err == nil {
		l.stop()
		w.t.Fatalf("the agent starts, want: %s", text)
	}
	if !strings.Contains(err.Error(), text) {
		w.t.Errorf("got %q, want %q in it", err, text)
	}
}

// Metadata that know of records are not served from a bucket that has none, also when every agent was stopped cleanly.
func TestABucketBelongsToItsCluster(t *testing.T) {
	w := newWorld(t, nil)
	back := w.other()
	w.start().stop() // any bucket will do while nothing is there
	back()
	l := w.start()
	l.create("a", 1)
	l.dial().append(-1, "a", 0, records(options{}, "x"))
	l.stop()
	w.other()
	w.wantRefused("does not hold the objects of cluster")
	if keys := w.keys(); len(keys) > 0 {
		t.Errorf("a bucket that was refused holds %v", keys)
	}
	back()
	foreign := newWorld(t, nil)
	foreign.objects, foreign.rec = w.objects, w.rec
	foreign.wantRefused("belongs to another cluster")
	foreign = newWorld(t, nil)
	foreign.dir = w.dir
	foreign.wantRefused("belongs to cluster")
	w.start().stop()
}

// A first start that died before it named its cluster in the bucket is no obstacle to the next.
func TestAFirstStartMayDieAnywhere(t *testing.T) {
	w := newWorld(t, nil)
	if _, err := w.meta.Join(t.Context(), metadata.Cluster{ID: newUUID(), Incarnation: 1, Shards: 1, Format: 1}); err != nil {
		t.Fatal(err)
	}
	w.start()
}

// Whatever beats, merges or collects under a session ends before the session does.
func TestAnAgentDoesNotTakeItsOwnEndForAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.listen = func(context.Context, string, string) (net.Listener, error) { return newPipes(), nil }
		w.meta.stopTakes = time.Minute
		w.start("session.beat.ms=50", "session.ttl.ms=500", "seal.check.interval.ms=10", "gc.interval.ms=10", "log.retention.check.interval.ms=10",
			"catalog.poll.ms=10").stop()
	})
}

// Two agents on one folder, or under one number: the second is refused, or the first is over.
func TestTwoLivesOfOneAgent(t *testing.T) {
	w := newWorld(t, nil)
	first := w.start("session.beat.ms=50", "session.ttl.ms=500")
	first.create("a", 1)
	first.dial().append(-1, "a", 0, records(options{}, "x"))
	w.wantRefused("in use by another process")
	w.dir = t.TempDir()
	second := w.start()
	<-first.ended
	if first.err == nil || !strings.Contains(first.err.Error(), "taken over") {
		t.Errorf("the first ends with %v, want to be told that another has taken over", first.err)
	}
	if at := second.dial().append(-1, "a", 0, records(options{}, "y")); at != 1 {
		t.Errorf("the second goes on at %d, want 1", at)
	}
}

// A store that throttles for a moment does not keep an agent from starting; one that is away does, in the end.
func TestTheProbeIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, err := memory.Open(t.Context(), memory.Config{})
		if err != nil {
			t.Fatal(err)
		}
		fails := 0
		s := objectstore.NewFaults(store, func(c objectstore.Call) objectstore.Fault {
			if fails--; fails >= 0 {
				return objectstore.Fault{Before: objectstore.ErrThrottled}
			}
			return objectstore.Fault{}
		})
		for _, c := range []struct {
			fails int
			want  error
		}{{0, nil}, {probes - 1, nil}, {probes, objectstore.ErrThrottled}} {
			fails = c.fails
			found, err := probe(t.Context(), s, "probe/1-")
			if !errors.Is(err, c.want) || err == nil && !found.ConditionalPut {
				t.Errorf("after %d refusals: %+v, %v; want %v", c.fails, found, err, c.want)
			}
		}
	})
}
