// Package catalog is this agent's read-only image of topics and dynamic configuration, refreshed by version.
package catalog

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"varve.dev/agent/config"
	"varve.dev/metadata"
)

// Source is where the image comes from: metadata.Topics.
type Source interface {
	Catalog(ctx context.Context, known int64) (metadata.Catalog, error)
}

// Config is how often to look.
type Config struct {
	// Interval is the longest time that another agent's change stays unseen (catalog.poll.ms). Default 1 s: one small
	// query, which answers a number while nothing has changed.
	Interval time.Duration
}

// Catalog holds the newest image.
type Catalog struct {
	source Source
	base   *config.Agent
	self   int32
	log    *slog.Logger
	cfg    Config

	image     atomic.Pointer[Image]
	requested atomic.Int64  // calls of Refresh
	turn      chan struct{} // one slot: who reads the source and tells the subscribers
	covered   int64         // calls of Refresh that a finished reading began after; guarded by turn
	tell      []func(*Image)
	mu        sync.Mutex // guards tell
}

// New makes an empty catalog: Refresh fills it. base is this agent's configuration without what is altered while it runs.
func New(source Source, base *config.Agent, self int32, log *slog.Logger, cfg Config) *Catalog {
	if cfg.Interval == 0 {
		cfg.Interval = time.Second
	}
	c := &Catalog{source: source, base: base, self: self, log: log, cfg: cfg, turn: make(chan struct{}, 1)}
	c.image.Store(newImage(metadata.Catalog{}, base, self))
	return c
}

// Image is the newest one. It never changes; a later call may answer another.
func (c *Catalog) Image() *Image { return c.image.Load() }

// Subscribe asks to be called after each change, in order, before the Refresh that found it returns. tell must not call
// Refresh.
func (c *Catalog) Subscribe(tell func(*Image)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tell = append(c.tell, tell)
}

// Refresh returns when the image contains everything that was written before the call. Calls that wait for each other
// share one reading.
func (c *Catalog) Refresh(ctx context.Context) error {
	call := c.requested.Add(1)
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return fmt.Errorf("refresh the catalog: %w", ctx.Err())
	}
	if c.covered >= call {
		return nil
	}
	covers := c.requested.Load()
	known := c.Image().Version
	got, err := c.source.Catalog(ctx, known)
	if err != nil {
		return fmt.Errorf("refresh the catalog: %w", err)
	}
	c.covered = covers
	if got.Version != known { // after a restore it may be smaller
		image := newImage(got, c.base, c.self)
		c.image.Store(image)
		for _, tell := range c.subscribers() {
			tell(image)
		}
	}
	return nil
}

func (c *Catalog) subscribers() []func(*Image) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tell[:len(c.tell):len(c.tell)]
}

// Run refreshes until ctx ends. While the store is away the last image stays.
func (c *Catalog) Run(ctx context.Context) error {
	tick := time.NewTicker(c.cfg.Interval)
	defer tick.Stop()
	away := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		err := c.Refresh(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !away:
			c.log.Warn("catalog cannot be refreshed", "error", err)
		case err == nil && away:
			c.log.Info("catalog is refreshed again", "version", c.Image().Version)
		}
		away = err != nil
	}
}
