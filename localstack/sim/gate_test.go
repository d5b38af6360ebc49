package sim

import (
	"context"
	"errors"
	"sync"
)

// errDead is what a dead life hears of the world.
var errDead = errors.New("sim: this process is dead")

// gate stands between one life of the agent and the world. Once it is dead, nothing that the life does has an effect; while
// it is paused, nothing passes.
type gate struct {
	effects sync.RWMutex // held for reading while an effect happens, so that none happens behind trip

	mu     sync.Mutex
	dead   bool
	died   chan struct{} // closed with dead
	paused chan struct{} // nil: it runs; closed when it runs again
}

func newGate() *gate { return &gate{died: make(chan struct{})} }

// trip ends all effects. It may be called from within one that has just happened: the rest of that does not.
func (g *gate) trip() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.dead {
		g.dead = true
		close(g.died)
	}
	if g.paused != nil {
		close(g.paused)
		g.paused = nil
	}
}

// settle returns when no effect is happening any more.
func (g *gate) settle() {
	g.effects.Lock()
	defer g.effects.Unlock()
}

func (g *gate) isDead() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.dead
}

func (g *gate) pause() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.dead && g.paused == nil {
		g.paused = make(chan struct{})
	}
}

func (g *gate) resume() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.paused != nil {
		close(g.paused)
		g.paused = nil
	}
}

// pass waits while the life is paused; it is false when the life is dead or ctx, if there is one, has ended.
func (g *gate) pass(ctx context.Context) bool {
	var done <-chan struct{}
	if ctx != nil {
		done = ctx.Done()
	}
	for {
		g.mu.Lock()
		dead, paused := g.dead, g.paused
		g.mu.Unlock()
		if dead || paused == nil {
			return !dead
		}
		select {
		case <-paused:
		case <-done:
			return false
		}
	}
}

// do performs an effect, unless the life is dead.
func (g *gate) do(effect func()) bool {
	g.effects.RLock()
	defer g.effects.RUnlock()
	if g.isDead() {
		return false
	}
	effect()
	return true
}
