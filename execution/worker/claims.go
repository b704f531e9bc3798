package worker

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/stitchfix/flotilla-os/execution/engine"
)

// claims are the runs that a submit loop holds at this moment, at most as
// many as it has slots.
type claims struct {
	mu    sync.Mutex
	slots int
	held  map[string]bool
	freed chan struct{} // a value when a slot became free since it was last read
}

func newClaims(slots int) *claims {
	return &claims{slots: slots, held: map[string]bool{}, freed: make(chan struct{}, 1)}
}

func (c *claims) free() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return max(c.slots-len(c.held), 0)
}

func (c *claims) add(runID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held[runID] = true
}

func (c *claims) done(runID string) {
	c.mu.Lock()
	delete(c.held, runID)
	c.mu.Unlock()
	select {
	case c.freed <- struct{}{}:
	default:
	}
}

func (c *claims) ids() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(maps.Keys(c.held))
}

// awaitFree waits until a slot is free, and a moment longer.
func (c *claims) awaitFree(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			return
		case <-c.freed:
		}
		if c.free() > 0 {
			engine.Pause(ctx, gather)
			return
		}
	}
}
