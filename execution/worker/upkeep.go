package worker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/metrics"
	"github.com/stitchfix/flotilla-os/state"
)

const (
	// measureEvery is how often the queue is counted.
	measureEvery = 10 * time.Second
	// explainPage bounds how many waiting runs get their reason at once.
	explainPage = 1000
	// lookForWorkers is how often upkeep checks that some server runs workers.
	lookForWorkers = time.Minute
	// orphansEvery and retainEvery are how often runs of deleted definitions
	// and old runs are looked for; retainPage and retainPause keep the deletion
	// slow and its transactions small.
	orphansEvery = time.Minute
	retainEvery  = time.Hour
	retainPage   = 500
	retainPause  = 200 * time.Millisecond
)

// upkeep measures the queue, explains to runs that no worker can take why they
// wait, warns of a database that no server serves, and deletes what is kept no
// longer. It runs whatever the worker counts are.
type upkeep struct {
	tools
	store         upkeepStore
	clusters      Clusters
	locker        Locker
	engines       []string
	retentionDays int

	measured map[state.EngineKey]bool // what the gauges stand for
	warned   map[state.EngineKey]bool // engines whose runs nothing follows

	mu      sync.Mutex
	missing map[state.WorkerType]string
}

func newUpkeep(cfg SupervisorConfig) *upkeep {
	return &upkeep{
		tools: cfg.tools(), store: cfg.Store, clusters: cfg.Clusters, locker: cfg.Locker, engines: cfg.Engines,
		retentionDays: cfg.RetentionDays, measured: map[state.EngineKey]bool{}, warned: map[state.EngineKey]bool{}, missing: map[state.WorkerType]string{},
	}
}

// Run works until ctx ends. Every server measures; one of them deletes.
func (u *upkeep) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return u.loop("cannot measure the queue", measureEvery, u.measure).Run(ctx) })
	group.Go(func() error {
		// A server that has just started gets the time to elect who works.
		engine.Pause(ctx, lookForWorkers)
		return u.loop("cannot read whether this database is served", lookForWorkers, u.lookForWorkers).Run(ctx)
	})
	group.Go(func() error {
		return u.locker.Lead(ctx, leadUpkeep, func(ctx context.Context) error {
			group, ctx := errgroup.WithContext(ctx)
			group.Go(func() error {
				return u.loop("cannot delete the runs of deleted definitions", orphansEvery, u.deleteOrphans).Run(ctx)
			})
			group.Go(func() error { return u.loop("cannot delete old runs", retainEvery, u.retain).Run(ctx) })
			return group.Wait()
		})
	})
	return group.Wait()
}

// measure sets the gauges of each engine that has, or may have, runs, and explains to queued runs why they wait. Those of
// an engine that is gone are set to 0 once.
func (u *upkeep) measure(ctx context.Context) error {
	depths, err := u.store.QueueDepths(ctx)
	if err != nil {
		return err
	}
	listed, err := u.clusters.List(ctx)
	if err != nil {
		return err
	}
	clusters, now := map[string]state.Cluster{}, map[state.EngineKey]state.QueueDepth{}
	for _, cluster := range listed {
		clusters[cluster.Name] = cluster
		for _, kind := range u.engines {
			key := state.EngineKey{Cluster: cluster.Name, Engine: kind}
			now[key] = state.QueueDepth{EngineKey: key}
		}
	}
	for _, depth := range depths {
		now[depth.EngineKey] = depth
	}
	gone := maps.Clone(u.measured)
	for key, depth := range now {
		u.gauge(depth)
		delete(gone, key)
		u.measured[key] = true
	}
	for key := range gone {
		u.gauge(state.QueueDepth{EngineKey: key})
		delete(u.measured, key)
	}
	for _, depth := range depths {
		if _, known := clusters[depth.Cluster]; known {
			delete(u.warned, depth.EngineKey)
		} else if err := u.warnOfGone(ctx, depth); err != nil {
			return err
		}
		if depth.Queued == 0 {
			continue
		}
		if reason := u.whyWaiting(ctx, depth.EngineKey, clusters); reason != "" {
			if _, err := u.store.ExplainQueued(ctx, depth.EngineKey, reason, explainPage); err != nil {
				return err
			}
		}
	}
	return nil
}

func (u *upkeep) gauge(depth state.QueueDepth) {
	tags := keyTags(depth.EngineKey)
	u.metrics.Gauge(metrics.QueueDepth, tags, float64(depth.Queued))
	u.metrics.Gauge(metrics.QueueOldestAgeSeconds, tags, depth.OldestAge)
	u.metrics.Gauge(metrics.RunsActive, tags, float64(depth.Active))
}

// warnOfGone logs once that the active runs of a cluster that is gone are not followed: the cluster was removed, and
// then every server that still had its engine was restarted.
func (u *upkeep) warnOfGone(ctx context.Context, depth state.QueueDepth) error {
	if depth.Active == 0 || u.warned[depth.EngineKey] {
		return nil
	}
	if _, err := u.clusters.Engine(ctx, depth.EngineKey); !errors.As(err, new(state.MissingResource)) {
		return nil
	}
	followed, err := u.store.LockHeld(ctx, followLock(depth.EngineKey))
	if err != nil || followed {
		return err
	}
	u.warned[depth.EngineKey] = true
	u.logger.Warn("active runs of a cluster that is gone stay as they are until it is back or their deadline passes",
		"cluster", depth.Cluster, "engine", depth.Engine, "runs", depth.Active)
	return nil
}

// whyWaiting returns why no submit worker of this server takes queued runs of
// an engine, or "".
func (u *upkeep) whyWaiting(ctx context.Context, key state.EngineKey, clusters map[string]state.Cluster) string {
	name := key.Cluster
	cluster, known := clusters[name]
	switch {
	case !known:
		return fmt.Sprintf("There is no cluster named %s; the run waits until there is one.", name)
	case cluster.Status == state.ClusterOffline && cluster.StatusReason != "":
		return fmt.Sprintf("Cluster %s is offline: %s", name, cluster.StatusReason)
	case cluster.Status == state.ClusterOffline:
		return fmt.Sprintf("Cluster %s is offline.", name)
	}
	_, err := u.clusters.Engine(ctx, key)
	var notNow engine.NotNow
	switch {
	case err == nil || ctx.Err() != nil:
		return ""
	case errors.As(err, &notNow):
		return notNow.Reason
	}
	return fmt.Sprintf("Cluster %s cannot be reached, which is tried again: %v", name, err)
}

// lookForWorkers warns, each time, of worker types that no live server runs
// (rest-api.md, Worker). Submission that an operator paused, by a count of 0,
// is meant so.
func (u *upkeep) lookForWorkers(ctx context.Context) error {
	rows, err := u.store.ListWorkers(ctx, state.EKSEngine)
	if err != nil {
		return err
	}
	paused := map[state.WorkerType]bool{}
	for _, row := range rows {
		paused[row.WorkerType] = row.CountPerInstance == 0
	}
	missing := map[state.WorkerType]string{}
	for kind, lock := range map[state.WorkerType]string{state.WorkerSubmit: leadSubmit, state.WorkerStatus: leadSweep} {
		held, err := u.store.LockHeld(ctx, lock)
		if err != nil {
			return err
		}
		unserved := 0.0
		if !held && (kind != state.WorkerSubmit || !paused[kind]) {
			unserved = 1
			missing[kind] = fmt.Sprintf("no live server runs %s workers (worker_types, and their count in the table worker)", kind)
			u.logger.Warn("no live server runs workers of this type", "worker_type", kind)
		}
		u.metrics.Gauge(metrics.WorkersMissing, []string{metrics.Tag(metrics.TagWorkerType, string(kind))}, unserved)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.missing = missing
	return nil
}

func (u *upkeep) unfollowed() map[state.WorkerType]string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return maps.Clone(u.missing)
}

// deleteOrphans deletes the runs of deleted definitions.
func (u *upkeep) deleteOrphans(ctx context.Context) error {
	return u.drain(ctx, func() (int, error) { return u.store.DeleteOrphanRuns(ctx, retainPage) })
}

// retain deletes runs older than the configuration keeps.
func (u *upkeep) retain(ctx context.Context) error {
	if u.retentionDays <= 0 {
		return nil
	}
	before := u.clock().AddDate(0, 0, -u.retentionDays)
	return u.drain(ctx, func() (int, error) { return u.store.DeleteOldRuns(ctx, before, retainPage) })
}

// drain deletes page after page until one is not full.
func (u *upkeep) drain(ctx context.Context, page func() (int, error)) error {
	for {
		n, err := page()
		if err != nil || n < retainPage {
			return err
		}
		if !engine.Pause(ctx, retainPause) {
			return nil
		}
	}
}
