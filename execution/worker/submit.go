package worker

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/fault"
	"github.com/stitchfix/flotilla-os/metrics"
	"github.com/stitchfix/flotilla-os/state"
)

// slotsPerWorker is how many runs of one cluster one submit worker hands over
// at a time. Handing over is waiting, for the database and for the cluster.
const slotsPerWorker = 16

// finishGrace is how long runs that are being handed over may take to get
// there after the end was ordered; the whole program has 30 s.
const finishGrace = 10 * time.Second

// releaseTimeout bounds the hand-back of claims at the end.
const releaseTimeout = 5 * time.Second

// gather is how long a full worker waits after a slot became free for others
// to become free, so that one claim serves them all.
const gather = 5 * time.Millisecond

// submitWorker claims queued runs and hands them to their clusters.
type submitWorker struct {
	SupervisorConfig
	store submitStore
}

func newSubmitWorker(cfg SupervisorConfig) *submitWorker {
	return &submitWorker{cfg, cfg.Store}
}

// Run submits, with count workers' slots per cluster, until ctx ends; it then
// finishes what is under way and hands back the other claims.
func (w *submitWorker) Run(ctx context.Context, count int) error {
	fleet := fleet{
		clusters: w.Clusters,
		logger:   w.Logger.With("worker_type", state.WorkerSubmit),
		wanted:   takesRuns,
		run: func(ctx context.Context, cluster string) error {
			return newSubmitLoop(w, cluster, count*slotsPerWorker).run(ctx)
		},
	}
	err := fleet.Run(ctx)
	release, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	if released := w.store.ReleaseClaims(release, w.Name); released != nil {
		w.Logger.Warn("cannot hand back claims; they end by themselves", "lease", w.Config.ClaimLease, "error", released)
	}
	return err
}

// takesRuns is whether queued runs go to a cluster. One in maintenance is not
// chosen for new runs, but serves those that asked for it.
func takesRuns(c state.Cluster) bool { return c.Status != state.ClusterOffline }

// submitLoop submits the runs of one cluster.
type submitLoop struct {
	*submitWorker
	cluster string
	claims  *claims
}

func newSubmitLoop(w *submitWorker, cluster string, slots int) *submitLoop {
	return &submitLoop{submitWorker: w, cluster: cluster, claims: newClaims(slots)}
}

// run claims and hands over until ctx ends and what was claimed is handed
// over.
func (l *submitLoop) run(ctx context.Context) error {
	woken, cancel := l.Notifier.Subscribe()
	defer cancel()
	working, finished := outlive(ctx, finishGrace)
	defer finished()
	renewing, stopRenewing := context.WithCancel(working)
	var renewals, runs errgroup.Group
	renewals.Go(func() error { return l.renew(renewing) })
	l.claimUntilDone(ctx, woken, func(eng engine.Engine, run state.Run) {
		runs.Go(func() error {
			defer l.claims.done(run.RunID)
			l.submit(working, eng, run)
			return nil
		})
	})
	_ = runs.Wait()
	stopRenewing()
	return renewals.Wait()
}

func (l *submitLoop) claimUntilDone(ctx context.Context, woken <-chan struct{}, start func(engine.Engine, state.Run)) {
	failing := false
	for ctx.Err() == nil {
		full, err := l.claimOnce(ctx, start)
		if err != nil && ctx.Err() == nil && !failing {
			l.Logger.Warn("cannot submit runs; trying again", "cluster", l.cluster, "error", err)
		}
		failing = err != nil
		if full {
			l.claims.awaitFree(ctx)
			continue
		}
		timer := time.NewTimer(l.Config.Workers.SubmitInterval)
		select {
		case <-ctx.Done():
		case <-woken:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// claimOnce claims as many runs as there are free slots and starts each; full
// says that there may be more of them than slots.
func (l *submitLoop) claimOnce(ctx context.Context, start func(engine.Engine, state.Run)) (full bool, err error) {
	free := l.claims.free()
	if free == 0 {
		return true, nil
	}
	eng, err := l.Clusters.Engine(ctx, l.cluster)
	if err != nil {
		return false, fmt.Errorf("opening the cluster: %w", err)
	}
	began := l.Clock()
	runs, err := l.store.ClaimRuns(ctx, state.ClaimRequest{
		Cluster: l.cluster, Worker: l.Name, Lease: l.Config.ClaimLease, Limit: free,
	})
	if err != nil {
		return false, fmt.Errorf("claiming runs: %w", err)
	}
	l.Metrics.Timing(metrics.SubmitWorkerRunOnce, nil, l.Clock().Sub(began))
	if len(runs) > 0 {
		fault.Point(fault.ClaimCommitted)
		l.Metrics.Increment(metrics.QueueClaims, []string{metrics.Tag(metrics.TagCluster, l.cluster)}, int64(len(runs)))
	}
	for _, run := range runs {
		l.claims.add(run.RunID)
		start(eng, run)
	}
	return len(runs) == free, nil
}

// renew keeps the claims of the runs that are being handed over.
func (l *submitLoop) renew(ctx context.Context) error {
	for engine.Pause(ctx, l.Config.ClaimLease/3) {
		ids := l.claims.ids()
		if len(ids) == 0 {
			continue
		}
		if err := l.store.RenewClaims(ctx, l.Name, ids, l.Config.ClaimLease); err != nil && ctx.Err() == nil {
			l.Logger.Warn("cannot renew claims", "cluster", l.cluster, "error", err)
		}
	}
	return nil
}
