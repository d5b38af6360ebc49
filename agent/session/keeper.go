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
	last   atomic.Int64 // when the store last answered, in nanoseconds after began
	began  time.Time
}

// NewKeeper keeps the session me, which has just started: a beat every so often, by the agent's own clock.
func NewKeeper(store Beater, me metadata.Session, synced func() int64, every, ttl time.Duration, log *slog.Logger) *Keeper {
	return &Keeper{store: store, me: me, synced: synced, every: every, ttl: ttl, log: log, began: time.Now()}
}

// Live says whether the store has confirmed the session within its time to live. Availability only: safety rests on the
// numbered commit.
func (k *Keeper) Live() bool {
	return time.Since(k.began)-time.Duration(k.last.Load()) < k.ttl
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
		sent := time.Since(k.began)
		err := k.store.Beat(ctx, k.me, k.synced())
		switch {
		case err == nil:
			k.last.Store(int64(sent))
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
