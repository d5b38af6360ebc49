// Package session holds this agent's lease and what it leads under it.
package session

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"varve.dev/metadata"
)

// Beater is what the keeper asks of the store.
type Beater interface {
	Beat(ctx context.Context, s metadata.Session, journalSynced int64) error
}

// Keeper renews this agent's session while it has nothing to commit, and notices when it is over.
type Keeper struct {
	store  Beater
	me     metadata.Session
	synced func() int64
	every  time.Duration
	ttl    time.Duration
	log    *slog.Logger
	last   atomic.Int64 // when the beat left that the store last answered, in nanoseconds after began
	began  time.Time
	asking chan struct{} // one turn: for Confirm, and tried
	tried  time.Duration // when its last beat left, after began
}

// NewKeeper keeps the session me, which has just started: a beat every so often, by the agent's own clock.
func NewKeeper(store Beater, me metadata.Session, synced func() int64, every, ttl time.Duration, log *slog.Logger) *Keeper {
	return &Keeper{store: store, me: me, synced: synced, every: every, ttl: ttl, log: log, began: time.Now(), asking: make(chan struct{}, 1)}
}

// Live says whether the store has confirmed the session within its time to live. Availability only: safety rests on the
// numbered commit.
func (k *Keeper) Live() bool {
	return time.Since(k.began)-time.Duration(k.last.Load()) < k.ttl
}

// confirmPause is the least time between two beats of Confirm: whoever is refused again and again costs the store no more.
const confirmPause = 20 * time.Millisecond

// Confirm returns nil if the session was the agent's when it was called: a beat that left afterwards was answered. Who has
// stood still may have been fenced long ago, and what he knows is old.
func (k *Keeper) Confirm(ctx context.Context) error {
	asked := time.Since(k.began)
	select {
	case k.asking <- struct{}{}:
		defer func() { <-k.asking }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if time.Duration(k.last.Load()) > asked {
		return nil // somebody else's beat
	}
	if wait := k.tried + confirmPause - time.Since(k.began); k.tried > 0 && wait > 0 {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	k.tried = time.Since(k.began)
	return k.beat(ctx)
}

// beat renews the session once.
func (k *Keeper) beat(ctx context.Context) error {
	sent := int64(time.Since(k.began))
	if err := k.store.Beat(ctx, k.me, k.synced()); err != nil {
		return err
	}
	for last := k.last.Load(); last < sent && !k.last.CompareAndSwap(last, sent); last = k.last.Load() {
	}
	return nil
}

// Run beats until ctx ends, or answers metadata.ErrFenced when another life of this agent has begun. A store that is away
// ends nothing: nobody can fence through it either.
func (k *Keeper) Run(ctx context.Context) error {
	tick := time.NewTicker(k.every)
	defer tick.Stop()
	away := false
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		err := k.beat(ctx)
		switch {
		case err == nil:
			if away {
				k.log.Info("metadata store answers again")
			}
			away = false
		case errors.Is(err, metadata.ErrFenced):
			return err
		case ctx.Err() != nil:
			return nil
		default:
			if !away {
				k.log.Warn("session could not be renewed", "err", err)
			}
			away = true
		}
	}
}
