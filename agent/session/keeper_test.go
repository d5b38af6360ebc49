package session

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"varve.dev/metadata"
)

// slowBeats is a store that takes a while for a beat, and answers what it is told to.
type slowBeats struct {
	n    atomic.Int64
	took time.Duration
	err  func() error
}

func (b *slowBeats) Beat(ctx context.Context, _ metadata.Session, _ int64) error {
	b.n.Add(1)
	select {
	case <-time.After(b.took):
	case <-ctx.Done():
		return metadata.ErrUnknown
	}
	if b.err != nil {
		return b.err()
	}
	return nil
}

func keeper(b *slowBeats) *Keeper {
	return NewKeeper(b, metadata.Session{Agent: 1, Epoch: 2}, func() int64 { return 0 }, time.Second, 10*time.Second, slog.New(slog.DiscardHandler))
}

func TestConfirmIsABeatThatLeftAfterwards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &slowBeats{took: 3 * time.Millisecond}
		k := keeper(b)
		time.Sleep(time.Minute)
		// One is on its way when the others come: what it says is too old for them, and one more is enough for all.
		var all sync.WaitGroup
		for i := range 10 {
			all.Go(func() {
				time.Sleep(time.Duration(i) * 100 * time.Microsecond)
				if err := k.Confirm(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if n := b.n.Load(); n != 2 {
			t.Errorf("%d beats for ten who ask at once, want 2", n)
		}
		began, before := time.Now(), b.n.Load()
		for range 50 {
			if err := k.Confirm(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if took := time.Since(began); b.n.Load()-before != 50 || took < 49*confirmPause {
			t.Errorf("%d beats in %v for 50 who ask in turn", b.n.Load()-before, took)
		}
		began, before = time.Now(), b.n.Load()
		b.err = func() error { return metadata.ErrUnavailable }
		for range 50 {
			if err := k.Confirm(t.Context()); !errors.Is(err, metadata.ErrUnavailable) {
				t.Errorf("got %v of a store that is away", err)
			}
		}
		if took := time.Since(began); b.n.Load()-before != 50 || took < 49*confirmPause {
			t.Errorf("%d beats in %v while the store is away", b.n.Load()-before, took)
		}
		b.err = func() error { return metadata.ErrFenced }
		if err := k.Confirm(t.Context()); !errors.Is(err, metadata.ErrFenced) {
			t.Errorf("got %v, want that the session is over", err)
		}
	})
}

func TestConfirmEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := keeper(&slowBeats{took: time.Hour})
		began := time.Now()
		for _, patience := range []time.Duration{time.Millisecond, 100 * time.Millisecond} {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			if err := k.Confirm(ctx); err == nil {
				t.Error("confirmed by nobody")
			}
			cancel()
		}
		if took := time.Since(began); took != 101*time.Millisecond {
			t.Errorf("it took %v", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		done := make(chan error, 1)
		go func() { done <- k.Confirm(ctx) }()
		synctest.Wait()
		hasty, end := context.WithTimeout(t.Context(), time.Millisecond)
		defer end()
		if err := k.Confirm(hasty); !errors.Is(err, context.DeadlineExceeded) { // while another has the turn
			t.Errorf("got %v", err)
		}
		<-done
	})
}
