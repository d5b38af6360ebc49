package cache_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"varve.dev/objectstore/cache"
)

const usual = 60 * time.Millisecond

// slowWorld has as many objects as it was asked for; a GET takes as long as took says, or until it is given up.
func slowWorld(t *testing.T, objects int, took func(key string, nth int) time.Duration) *world {
	w := newWorld(t, objects, cache.Config{ColdBytes: 1 << 20})
	nth := map[string]int{}
	w.store.then(func(ctx context.Context, key string, _ []byte, _ int64) error {
		w.store.mu.Lock()
		nth[key]++
		d := took(key, nth[key])
		w.store.mu.Unlock()
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	return w
}

// chunk reads the first chunk of an object and says how long that took.
func (w *world) chunk(o object) time.Duration {
	w.t.Helper()
	began := time.Now()
	w.read(o, 0, 10)
	return time.Since(began)
}

func TestAGetThatIsLateIsSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := slowWorld(t, 20, func(key string, nth int) time.Duration {
			if key == "wal/13/19" && nth == 1 {
				return time.Hour
			}
			return usual
		})
		for _, o := range w.objects[:19] {
			w.chunk(o)
		}
		held := w.Stats().ColdBytes
		w.gets(2, "the late one, and the same again", func() {
			if got, want := w.chunk(w.objects[19]), usual*3/2+usual; got != want {
				t.Errorf("it took %v, want %v: half as long again as usual, and as long as usual", got, want)
			}
		})
		synctest.Wait()
		if n := w.store.now.Load(); n != 0 {
			t.Errorf("%d GETs go on though their answer is here", n)
		}
		if s := w.Stats(); s.Hedges != 1 || s.ColdBytes != held/19*20 {
			t.Errorf("%d hedges, %d bytes held after %d for nineteen", s.Hedges, s.ColdBytes, held)
		}
		w.Close()
	})
}

func TestTheFirstGetCountsAllTheSame(t *testing.T) {
	refused := errors.New("refused")
	synctest.Test(t, func(t *testing.T) {
		w := slowWorld(t, 20, func(key string, nth int) time.Duration {
			if key == "wal/13/19" && nth == 1 {
				return 10 * usual
			}
			return usual
		})
		for _, o := range w.objects[:19] {
			w.chunk(o)
		}
		slow := w.store.after
		w.store.then(func(ctx context.Context, key string, dst []byte, off int64) error {
			if w.store.gets.Load() == 21 {
				return refused
			}
			return slow(ctx, key, dst, off)
		})
		if got := w.chunk(w.objects[19]); got != 10*usual {
			t.Errorf("it took %v, want the %v of the first", got, 10*usual)
		}
		if s := w.Stats(); s.Hedges != 1 {
			t.Errorf("%d hedges", s.Hedges)
		}
		w.Close()
	})
}

// A store that has become slow for all gets one GET in twenty more, and two that were saved.
func TestASlowStoreGetsFewSecondGets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := false
		w := slowWorld(t, 200, func(string, int) time.Duration {
			if slow {
				return 20 * usual
			}
			return usual
		})
		for _, o := range w.objects[:100] {
			w.chunk(o)
		}
		slow = true
		for _, o := range w.objects[100:] {
			w.chunk(o)
		}
		if n := w.Stats().Hedges; n < 2 || n > 100/20+2 {
			t.Errorf("%d hedges for 100 GETs", n)
		}
		w.Close()
	})
}

func TestAFastStoreGetsNoSecondGets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := slowWorld(t, 200, func(_ string, nth int) time.Duration { return time.Duration(nth) * time.Millisecond })
		slow := w.store.after
		w.store.then(func(ctx context.Context, key string, dst []byte, off int64) error {
			if w.store.gets.Load()%10 == 0 {
				time.Sleep(40 * time.Millisecond)
			}
			return slow(ctx, key, dst, off)
		})
		w.gets(200, "one for each", func() {
			for _, o := range w.objects {
				w.chunk(o)
			}
		})
		w.Close()
	})
}
