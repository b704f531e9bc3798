package worker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/fault"
	"github.com/stitchfix/flotilla-os/metrics"
	"github.com/stitchfix/flotilla-os/state"
)

const (
	// slotsPerWorker is how many runs of one engine one submit worker hands
	// over at a time. Most of that time it waits for the database and the cluster.
	slotsPerWorker = 16
	// finishGrace is how long runs that are being handed over may take once ctx
	// has ended; the whole program has 30 s.
	finishGrace = 10 * time.Second
	// releaseTimeout bounds the hand-back of claims at the end.
	releaseTimeout = 5 * time.Second
	// gather is how long a full worker waits after a slot became free for
	// others to become free, so that one claim serves them all.
	gather = 5 * time.Millisecond
	// shortestDeferral and longestDeferral bound how long a run that its
	// cluster did not take waits: a quarter of the time that it has waited.
	shortestDeferral = time.Second
	longestDeferral  = time.Minute
)

// submitWorker claims queued runs and hands them to their clusters.
type submitWorker struct {
	tools
	store           submitStore
	clusters        Clusters
	notifier        Notifier
	locker          Locker
	engines         []string
	name            string // as a claimant
	interval, lease time.Duration
}

func newSubmitWorker(cfg SupervisorConfig) *submitWorker {
	return &submitWorker{
		tools: cfg.tools(), store: cfg.Store, clusters: cfg.Clusters, notifier: cfg.Notifier, locker: cfg.Locker,
		engines: cfg.Engines, name: cfg.Name, interval: cfg.SubmitInterval, lease: cfg.ClaimLease,
	}
}

// Run submits, with count workers' slots per engine, until ctx ends; it then
// finishes what is under way and hands back the other claims.
func (w *submitWorker) Run(ctx context.Context, count int) error {
	fleet := fleet{
		tools: w.tools, clusters: w.clusters, engines: w.engines, what: "cannot submit runs",
		// A cluster in maintenance is not chosen for new runs, but serves those
		// that asked for it.
		wanted: func(c state.Cluster) bool { return c.Status != state.ClusterOffline },
		run: func(ctx context.Context, key state.EngineKey) error {
			return newSubmitLoop(w, key, count*slotsPerWorker).run(ctx)
		},
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error { return fleet.Run(groupCtx) })
	group.Go(func() error {
		return w.locker.Lead(groupCtx, leadSubmit, func(ctx context.Context) error { <-ctx.Done(); return nil })
	})
	err := group.Wait()
	release, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	if released := w.store.ReleaseClaims(release, w.name); released != nil {
		w.logger.Warn("cannot hand back claims, which expire", "lease", w.lease, "error", released)
	}
	return err
}

// submitLoop submits the runs of one engine.
type submitLoop struct {
	*submitWorker
	key    state.EngineKey
	claims *claims
}

func newSubmitLoop(w *submitWorker, key state.EngineKey, slots int) *submitLoop {
	return &submitLoop{submitWorker: w, key: key, claims: &claims{
		slots: slots, held: map[string]bool{}, freed: make(chan struct{}, 1),
	}}
}

// run claims and hands over until ctx ends and what was claimed is handed over.
func (l *submitLoop) run(ctx context.Context) error {
	woken, cancel := l.notifier.Subscribe()
	defer cancel()
	// What is under way outlives ctx by finishGrace.
	working, finished := context.WithCancel(context.WithoutCancel(ctx))
	defer finished()
	defer context.AfterFunc(ctx, func() { engine.Pause(working, finishGrace); finished() })()

	renewing, stopRenewing := context.WithCancel(working)
	defer stopRenewing()
	var renewals, runs errgroup.Group
	renewals.Go(func() error {
		return l.keyLoop("cannot renew claims", l.lease/3, func(ctx context.Context) error {
			ids := l.claims.ids()
			if len(ids) == 0 {
				return nil
			}
			return l.store.RenewClaims(ctx, l.name, ids, l.lease)
		}).Run(renewing)
	})
	claiming := l.keyLoop("cannot submit runs", l.interval, func(ctx context.Context) error {
		for ctx.Err() == nil {
			full, err := l.claimOnce(ctx, func(eng engine.Engine, run state.Run) {
				runs.Go(func() error {
					defer l.claims.done(run.RunID)
					l.submit(working, eng, run)
					return nil
				})
			})
			if err != nil || !full {
				return err
			}
			l.claims.awaitFree(ctx)
		}
		return nil
	})
	claiming.Woken = woken
	err := claiming.Run(ctx)
	_ = runs.Wait()
	stopRenewing()
	return errors.Join(err, renewals.Wait())
}

func (l *submitLoop) keyLoop(what string, every time.Duration, step func(context.Context) error) *Loop {
	loop := l.loop(what, every, step)
	loop.Logger = loop.Logger.With("cluster", l.key.Cluster, "engine", l.key.Engine)
	return loop
}

// claimOnce claims as many runs as there are free slots and starts each. full
// reports that there may be more of them than slots.
func (l *submitLoop) claimOnce(ctx context.Context, start func(engine.Engine, state.Run)) (full bool, err error) {
	free := l.claims.free()
	if free == 0 {
		return true, nil
	}
	eng, err := l.clusters.Engine(ctx, l.key)
	if err != nil {
		return false, fmt.Errorf("opening the cluster: %w", err)
	}
	began := l.clock()
	runs, err := l.store.ClaimRuns(ctx, state.ClaimRequest{EngineKey: l.key, Worker: l.name, Lease: l.lease, Limit: free})
	if err != nil {
		return false, fmt.Errorf("claiming runs: %w", err)
	}
	l.metrics.Timing(metrics.SubmitWorkerRunOnce, keyTags(l.key), l.clock().Sub(began))
	if len(runs) > 0 {
		fault.Point(fault.ClaimCommitted)
		l.metrics.Increment(metrics.QueueClaims, keyTags(l.key), int64(len(runs)))
	}
	for _, run := range runs {
		l.claims.add(run.RunID)
		start(eng, run)
	}
	return len(runs) == free, nil
}

// submit hands one claimed run to its cluster. What comes of it is recorded,
// or the claim expires and the run is claimed again.
func (l *submitLoop) submit(ctx context.Context, eng engine.Engine, run state.Run) {
	executable, err := l.executable(ctx, run)
	if err == nil {
		err = eng.Execute(ctx, engine.Submission{
			Run: run, Executable: executable,
			Accept: func(ctx context.Context, a state.Acceptance) (bool, error) {
				accepted, err := l.store.AcceptRun(ctx, run.RunID, l.name, a)
				if err == nil && accepted {
					l.logStatus(run, state.StatusPending, state.RunUpdate{})
				}
				return accepted && err == nil, err
			},
		})
	}
	if err != nil && ctx.Err() != nil {
		return // the program ends; the claim is handed back
	}
	outcome := metrics.StatusSuccess
	if err != nil {
		outcome = metrics.StatusFailure
	}
	l.metrics.Increment(metrics.OfEngine(run.Engine, metrics.EngineEKSExecute, metrics.EngineEMRExecute),
		metrics.RunTags(run.Engine, run.ClusterName, run.Tier, outcome), 1)
	if err == nil {
		return
	}
	log := l.logger.With("run_id", run.RunID, "cluster", run.ClusterName)
	var rejected engine.Rejected
	if errors.As(err, &rejected) {
		log.Info("run rejected", "reason", rejected.Reason)
		hit, err := l.store.RejectRun(ctx, run.RunID, l.name, rejected.Reason)
		if err != nil {
			log.Warn("cannot record the rejection; the run is tried again", "error", err)
		}
		if hit {
			l.logStatus(run, state.StatusStopped, state.RunUpdate{
				ExitCode: new(state.ExitCodeNeverStarted), ExitReason: &rejected.Reason,
			})
		}
		return
	}
	reason := fmt.Sprintf("Cluster %s did not take the run, which is tried again: %v", run.ClusterName, err)
	var notNow engine.NotNow
	if errors.As(err, &notNow) {
		reason = notNow.Reason
	}
	// A run that waits for the same reason as before was logged before.
	if run.StatusReason == nil || *run.StatusReason != reason {
		log.Warn("run not accepted by its cluster", "error", err)
	}
	now := l.clock()
	if err := l.store.DeferRun(ctx, run.RunID, l.name, reason, now.Add(deferral(run, now))); err != nil {
		log.Warn("cannot give the run back; its claim expires", "error", err)
		return
	}
	fault.Point(fault.Deferred)
}

// executable returns what the run was made from. If that is gone, the run can
// never be executed.
func (l *submitLoop) executable(ctx context.Context, run state.Run) (state.Executable, error) {
	typ, id := run.ExecutableType, run.DefinitionID
	if run.ExecutableID != nil && *run.ExecutableID != "" {
		id = *run.ExecutableID
	}
	if typ == "" {
		typ = state.ExecutableTypeDefinition
	}
	executable, err := l.store.GetExecutable(ctx, typ, id)
	if errors.As(err, new(state.MissingResource)) {
		return nil, engine.Rejected{Reason: fmt.Sprintf("The %s %s of this run no longer exists.", typ, id)}
	}
	return executable, err
}

func deferral(run state.Run, now time.Time) time.Duration {
	if run.QueuedAt == nil {
		return shortestDeferral
	}
	return min(max(now.Sub(*run.QueuedAt)/4, shortestDeferral), longestDeferral)
}

// claims holds the runs of a submit loop, at most as many as it has slots.
type claims struct {
	mu    sync.Mutex
	slots int
	held  map[string]bool
	freed chan struct{} // a value when a slot became free since it was last read
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

// awaitFree waits until a slot is free, and then for gather.
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
