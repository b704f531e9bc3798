package flotilla_test

import (
	"context"
	"sync"

	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/services"
	"github.com/stitchfix/flotilla-os/state"
)

// cluster is a fake cluster with the logs, events and manifests of a test. It starts nothing.
type cluster struct {
	mu        sync.Mutex
	logs      map[string]string
	events    map[string]state.PodEvents
	manifests map[string]string
	ended     []string
}

var (
	_ engine.Engine           = (*cluster)(nil)
	_ services.EngineRegistry = (*cluster)(nil)
)

func newCluster() *cluster {
	return &cluster{logs: map[string]string{}, events: map[string]state.PodEvents{}, manifests: map[string]string{}}
}

func (c *cluster) Engine(context.Context, state.EngineKey) (engine.Engine, error) { return c, nil }

func (c *cluster) Wake() {}

func (c *cluster) Execute(context.Context, engine.Submission) error { return nil }

func (c *cluster) Follow(ctx context.Context, _ engine.Observer) error {
	<-ctx.Done()
	return nil
}

func (c *cluster) Terminate(_ context.Context, run state.Run) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = append(c.ended, run.RunID)
	return nil
}

func (c *cluster) Events(_ context.Context, run state.Run) (state.PodEvents, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.events[run.RunID], nil
}

func (c *cluster) Manifest(_ context.Context, run state.Run) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	manifest, ok := c.manifests[run.RunID]
	if !ok {
		return nil, state.Missingf("nothing was submitted for run %s", run.RunID)
	}
	return []byte(manifest), nil
}

func (c *cluster) Logs(_ context.Context, run state.Run, q engine.LogQuery) (engine.LogChunk, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	log := c.logs[run.RunID]
	start := min(q.Offset, int64(len(log)))
	end := min(start+q.Limit, int64(len(log)))
	return engine.LogChunk{Data: []byte(log[start:end]), Next: end}, nil
}

// write appends to a run's log.
func (c *cluster) write(runID, text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.logs[runID] += text
}
