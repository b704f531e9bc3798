package worker

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/state"
)

// Names under which one server is elected (Locker.Lead).
const (
	leadFollow = "follow/" // and the cluster's name
	leadSweep  = "sweep"
	leadUpkeep = "upkeep"
)

// errReopened ends following because the cluster has another engine now.
var errReopened = errors.New("the cluster was changed")

// statusWorker follows every cluster, each once however many workers are
// asked for, and sweeps up what no cluster reports.
type statusWorker struct {
	SupervisorConfig
	observer *observer
}

func newStatusWorker(cfg SupervisorConfig) *statusWorker {
	return &statusWorker{SupervisorConfig: cfg, observer: newObserver(cfg)}
}

// Run follows until ctx ends. The count only says whether: nothing is gained
// by following a cluster twice.
func (w *statusWorker) Run(ctx context.Context, _ int) error {
	group, ctx := errgroup.WithContext(ctx)
	fleet := fleet{
		clusters: w.Clusters,
		logger:   w.Logger.With("worker_type", state.WorkerStatus),
		run:      w.follow,
	}
	group.Go(func() error { return fleet.Run(ctx) })
	group.Go(func() error { return w.Locker.Lead(ctx, leadSweep, newSweep(w.SupervisorConfig).Run) })
	return group.Wait()
}

// follow reports a cluster's changes to the observer, as one server among all
// or, where the runs are on this server's machine, as this one.
func (w *statusWorker) follow(ctx context.Context, cluster string) error {
	eng, err := w.Clusters.Engine(ctx, cluster)
	if err != nil {
		return fmt.Errorf("opening the cluster: %w", err)
	}
	if _, ok := eng.(engine.OnNode); ok {
		return w.followEngine(ctx, cluster, eng)
	}
	return w.Locker.Lead(ctx, leadFollow+cluster, func(ctx context.Context) error {
		// Whoever leads again after a failure may find another engine.
		eng, err := w.Clusters.Engine(ctx, cluster)
		if err != nil {
			return fmt.Errorf("opening the cluster: %w", err)
		}
		return w.followEngine(ctx, cluster, eng)
	})
}

// followEngine follows until ctx ends, or the cluster's engine is another.
func (w *statusWorker) followEngine(ctx context.Context, cluster string, eng engine.Engine) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return w.awaitReopened(ctx, cluster, eng) })
	group.Go(func() error {
		err := eng.Follow(ctx, w.observer)
		if err == nil && ctx.Err() == nil {
			return errors.New("following ended by itself")
		}
		return err
	})
	return group.Wait()
}

func (w *statusWorker) awaitReopened(ctx context.Context, cluster string, eng engine.Engine) error {
	for engine.Pause(ctx, w.Config.Workers.StatusInterval) {
		if now, err := w.Clusters.Engine(ctx, cluster); err == nil && now != eng {
			return errReopened
		}
	}
	return nil
}
