package services

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/state"
)

const (
	// terminateTimeout bounds how long an engine is asked to end one run.
	terminateTimeout = 30 * time.Second
	// maxTerminating bounds how many engines are asked at the same time.
	maxTerminating = 16
)

// terminator asks engines to end runs that are STOPPED, behind the back of the
// request that stopped them. It is only the quick way: an engine also ends
// what it sees of a STOPPED run by itself, so that nothing is lost when asking
// fails.
type terminator struct {
	engines EngineRegistry
	log     *slog.Logger
	slots   chan struct{}

	mu      sync.Mutex
	closed  bool
	ongoing sync.WaitGroup
	cancel  context.CancelFunc
	ctx     context.Context //nolint:containedctx // The life of the terminator itself, which outlives requests.
}

func newTerminator(engines EngineRegistry, log *slog.Logger) *terminator {
	ctx, cancel := context.WithCancel(context.Background())
	return &terminator{engines: engines, log: log, slots: make(chan struct{}, maxTerminating), ctx: ctx, cancel: cancel}
}

// end has the engine of a run asked; it returns at once.
func (t *terminator) end(run state.Run) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	t.ongoing.Go(func() {
		select {
		case t.slots <- struct{}{}:
			defer func() { <-t.slots }()
		case <-t.ctx.Done():
			return
		}
		if err := t.ask(run); err != nil {
			t.log.Warn("engine not asked to end the run; its follower will", "run_id", run.RunID, "cluster", run.ClusterName, "error", err)
		}
	})
}

func (t *terminator) ask(run state.Run) error {
	ctx, cancel := context.WithTimeout(t.ctx, terminateTimeout)
	defer cancel()
	e, err := t.engines.Engine(ctx, run.ClusterName)
	if errors.As(err, new(engine.NotNow)) {
		return nil
	}
	if err != nil {
		return err
	}
	return e.Terminate(ctx, run)
}

// close waits for what is under way, until ctx ends; then it gives up on it.
func (t *terminator) close(ctx context.Context) error {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	done := make(chan struct{})
	go func() {
		t.ongoing.Wait()
		close(done)
	}()
	select {
	case <-done:
		t.cancel()
		return nil
	case <-ctx.Done():
		t.cancel()
		<-done
		return ctx.Err()
	}
}
