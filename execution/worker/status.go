package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/fault"
	"github.com/stitchfix/flotilla-os/metrics"
	"github.com/stitchfix/flotilla-os/state"
)

// followLock returns the name of the lock under which an engine is followed. For container jobs it is the name from when
// there was one engine per cluster: during a rolling update servers of both versions share it, and no cluster is
// followed, and no log archived, twice.
func followLock(key state.EngineKey) string {
	if key.Engine == state.EKSEngine {
		return leadFollow + key.Cluster
	}
	return leadFollow + key.String()
}

// errReopened ends following because the cluster has another engine now.
var errReopened = errors.New("the cluster was changed")

// statusWorker follows every engine, each once whatever the count of
// workers, and sweeps up what no cluster reports. A cluster whose row is gone is
// followed as long as it has active runs.
type statusWorker struct {
	tools
	store    statusStore
	observed observerStore
	clusters Clusters
	locker   Locker
	engines  []string
	interval time.Duration
	sweep    *sweep
	grace    time.Duration // of fleet
}

func newStatusWorker(cfg SupervisorConfig) *statusWorker {
	return &statusWorker{
		tools: cfg.tools(), store: cfg.Store, observed: cfg.Store, clusters: cfg.Clusters, locker: cfg.Locker,
		engines: cfg.Engines, interval: cfg.StatusInterval, sweep: newSweep(cfg),
	}
}

// Run follows until ctx ends. A count above 1 changes nothing: nothing is
// gained by following a cluster twice.
func (w *statusWorker) Run(ctx context.Context, _ int) error {
	fleet := fleet{
		tools: w.tools, clusters: w.clusters, engines: w.engines, what: "cannot follow the cluster",
		run: w.follow, let: w.clusters.Drop, grace: w.grace,
		idle: func(ctx context.Context, key state.EngineKey) (bool, error) {
			active, err := w.store.ActiveRuns(ctx, key, "", "", 1)
			return len(active) == 0, err
		},
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return fleet.Run(ctx) })
	group.Go(func() error { return w.locker.Lead(ctx, leadSweep, w.sweep.Run) })
	return group.Wait()
}

// follow reports an engine's changes to an observer, as one server among all
// or, if the runs are on this server's machine, as this one.
func (w *statusWorker) follow(ctx context.Context, key state.EngineKey) error {
	eng, err := w.clusters.Engine(ctx, key)
	if err != nil {
		return fmt.Errorf("opening the cluster: %w", err)
	}
	if _, ok := eng.(engine.OnNode); ok {
		return w.followEngine(ctx, key, eng)
	}
	following := w.loop("cannot follow the cluster", 0, func(ctx context.Context) error {
		// Another engine may have been opened since this server last led.
		eng, err := w.clusters.Engine(ctx, key)
		if err != nil {
			return fmt.Errorf("opening the cluster: %w", err)
		}
		return w.followEngine(ctx, key, eng)
	})
	following.Logger = following.Logger.With("cluster", key.Cluster, "engine", key.Engine)
	return w.locker.Lead(ctx, followLock(key), func(ctx context.Context) error {
		// After a failure another server gets its turn.
		engine.Pause(ctx, following.once(ctx))
		return nil
	})
}

// followEngine follows until ctx ends or the key has another engine.
func (w *statusWorker) followEngine(ctx context.Context, key state.EngineKey, eng engine.Engine) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		for engine.Pause(ctx, w.interval) {
			if now, err := w.clusters.Engine(ctx, key); ctx.Err() == nil && (err != nil || now != eng) {
				return errReopened
			}
		}
		return nil
	})
	group.Go(func() error {
		err := eng.Follow(ctx, &observer{w.tools, w.observed, w.clusters, key})
		if err == nil && ctx.Err() == nil {
			return errors.New("the engine stopped following")
		}
		return err
	})
	if err := group.Wait(); !errors.Is(err, errReopened) {
		return err
	}
	return nil
}

// observer records what an engine sees. Each observation is one guarded UPDATE,
// so it does not matter how often, or by how many servers, it is made.
type observer struct {
	tools
	store    observerStore
	clusters Clusters
	key      state.EngineKey
}

var _ engine.Observer = (*observer)(nil)

// Observe implements engine.Observer.
func (o *observer) Observe(ctx context.Context, seen engine.Observation) error {
	began := o.clock()
	defer func() { o.metrics.Timing(metrics.StatusWorkerObserve, keyTags(o.key), o.clock().Sub(began)) }()
	if seen.Status == "" {
		_, err := o.store.AnnotateRun(ctx, seen.RunID, seen.Attempt, seen.Update)
		return err
	}
	moved, err := o.store.MoveRun(ctx, seen.RunID, seen.Attempt, seen.Status, seen.Update)
	switch {
	case err != nil:
		o.countUpdate(metrics.StatusFailure)
		return err
	case !moved:
		return o.notMoved(ctx, seen)
	}
	happened := seen.Update.StartedAt // as the cluster reports it
	switch seen.Status {
	case state.StatusRunning:
		fault.Point(fault.RunningCommitted)
	case state.StatusStopped:
		fault.Point(fault.StoppedCommitted)
		happened = seen.Update.FinishedAt
	case state.StatusNeedsRetry:
		fault.Point(fault.NeedsRetryCommitted)
	}
	run, err := o.store.GetRun(ctx, seen.RunID)
	if err != nil {
		// The move stands; only its audit line has fewer details.
		run = state.Run{RunID: seen.RunID, AttemptCount: &seen.Attempt, ClusterName: o.key.Cluster, Engine: o.key.Engine}
	}
	o.logStatus(run, seen.Status, seen.Update)
	o.countUpdate(metrics.StatusSuccess)
	if happened != nil {
		o.metrics.Timing(metrics.StatusWorkerEventLag, keyTags(o.key), max(o.clock().Sub(*happened), 0))
	}
	return nil
}

func (o *observer) countUpdate(outcome string) {
	o.metrics.Increment(metrics.EngineUpdateRun, append(keyTags(o.key), metrics.Tag(metrics.TagStatus, outcome)), 1)
}

// notMoved keeps the details of a run that is in that status already, or
// further on, and ends what the cluster still has of a run that is over.
func (o *observer) notMoved(ctx context.Context, seen engine.Observation) error {
	if _, err := o.store.AnnotateRun(ctx, seen.RunID, seen.Attempt, seen.Update); err != nil {
		return err
	}
	if seen.Status != state.StatusPending && seen.Status != state.StatusRunning {
		return nil
	}
	run, err := o.store.GetRun(ctx, seen.RunID)
	if errors.As(err, new(state.MissingResource)) {
		return nil
	}
	if err != nil || !run.Status.Final() {
		return err
	}
	eng, err := o.clusters.Engine(ctx, run.EngineKey())
	if err != nil {
		return fmt.Errorf("terminating what is left of a stopped run: %w", err)
	}
	o.logger.Info("terminating what is left of a stopped run", "run_id", run.RunID, "cluster", run.ClusterName)
	return eng.Terminate(ctx, run)
}
