package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/fault"
	"github.com/stitchfix/flotilla-os/metrics"
	"github.com/stitchfix/flotilla-os/state"
)

// observer records what engines see: each observation is one guarded UPDATE,
// so that it does not matter how often, or by how many servers, it is made.
type observer struct {
	SupervisorConfig
	store observerStore
}

var _ engine.Observer = (*observer)(nil)

func newObserver(cfg SupervisorConfig) *observer { return &observer{cfg, cfg.Store} }

// Observe implements engine.Observer.
func (o *observer) Observe(ctx context.Context, seen engine.Observation) error {
	began := o.Clock()
	defer func() { o.Metrics.Timing(metrics.StatusWorkerRunOnce, nil, o.Clock().Sub(began)) }()
	if seen.Status == "" {
		_, err := o.store.AnnotateRun(ctx, seen.RunID, seen.Attempt, seen.Update)
		return err
	}
	moved, err := o.store.MoveRun(ctx, seen.RunID, seen.Attempt, seen.Status, seen.Update)
	if err != nil {
		o.Metrics.Increment(metrics.EngineUpdateRun, []string{metrics.Tag(metrics.TagStatus, metrics.StatusFailure)}, 1)
		return err
	}
	if moved {
		return o.recordMove(ctx, seen)
	}
	return o.notMoved(ctx, seen)
}

// recordMove says what has just been committed.
func (o *observer) recordMove(ctx context.Context, seen engine.Observation) error {
	switch seen.Status {
	case state.StatusRunning:
		fault.Point(fault.RunningCommitted)
	case state.StatusStopped:
		fault.Point(fault.StoppedCommitted)
	case state.StatusNeedsRetry:
		fault.Point(fault.NeedsRetryCommitted)
	}
	run, err := o.store.GetRun(ctx, seen.RunID)
	if err != nil {
		// The move stands; only its audit line has less to say.
		run = state.Run{RunID: seen.RunID, AttemptCount: &seen.Attempt}
	}
	logStatus(o.Logger, run, seen.Status, seen.Update)
	o.Metrics.Increment(metrics.EngineUpdateRun, runTags(run, metrics.StatusSuccess), 1)
	if at := happenedAt(seen); at != nil {
		o.Metrics.Timing(metrics.StatusWorkerEventLag, nil, max(o.Clock().Sub(*at), 0))
	}
	return nil
}

// happenedAt is when the cluster says that it happened, nil where it does not.
func happenedAt(seen engine.Observation) *time.Time {
	if seen.Status == state.StatusStopped {
		return seen.Update.FinishedAt
	}
	return seen.Update.StartedAt
}

// notMoved keeps the details of a run that stands there already, or further
// on, and ends what the cluster still has of a run that is over.
func (o *observer) notMoved(ctx context.Context, seen engine.Observation) error {
	if _, err := o.store.AnnotateRun(ctx, seen.RunID, seen.Attempt, seen.Update); err != nil {
		return err
	}
	if seen.Status != state.StatusPending && seen.Status != state.StatusRunning {
		return nil
	}
	run, err := o.store.GetRun(ctx, seen.RunID)
	var missing state.MissingResource
	if errors.As(err, &missing) {
		return nil
	}
	if err != nil || !run.Status.Final() {
		return err
	}
	eng, err := o.Clusters.Engine(ctx, run.ClusterName)
	if err != nil {
		return fmt.Errorf("terminating what is left of a stopped run: %w", err)
	}
	o.Logger.Info("terminating what is left of a stopped run", "run_id", run.RunID, "cluster", run.ClusterName)
	return eng.Terminate(ctx, run)
}
