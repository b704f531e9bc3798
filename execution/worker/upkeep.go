package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/metrics"
	"github.com/stitchfix/flotilla-os/state"
)

const (
	// measureEvery is how often the queue is counted.
	measureEvery = 10 * time.Second
	// explainPage bounds how many waiting runs are told at once why they wait.
	explainPage = 1000
	// orphansEvery and retainEvery are how often runs of deleted definitions
	// and old runs are looked for; retainPage and retainPause keep the deletion
	// slow and its transactions small.
	orphansEvery = time.Minute
	retainEvery  = time.Hour
	retainPage   = 500
	retainPause  = 200 * time.Millisecond
)

// upkeep measures the queue, tells runs that nobody here can take why they
// wait, and deletes what is kept no longer. It depends on no worker count.
type upkeep struct {
	SupervisorConfig
	store upkeepStore
}

func newUpkeep(cfg SupervisorConfig) *upkeep { return &upkeep{cfg, cfg.Store} }

// Run works until ctx ends. Every server measures; one of them deletes.
func (u *upkeep) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return u.every(ctx, measureEvery, "cannot measure the queue", u.measure) })
	group.Go(func() error {
		return u.Locker.Lead(ctx, leadUpkeep, u.delete)
	})
	return group.Wait()
}

// delete removes what is kept no longer, until ctx ends.
func (u *upkeep) delete(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return u.every(ctx, orphansEvery, "cannot delete the runs of deleted definitions", u.deleteOrphans)
	})
	group.Go(func() error { return u.every(ctx, retainEvery, "cannot delete old runs", u.retain) })
	return group.Wait()
}

// every calls fn at once and then at each interval, until ctx ends.
func (u *upkeep) every(ctx context.Context, interval time.Duration, failure string, fn func(context.Context) error) error {
	failed := false
	for {
		err := fn(ctx)
		if err != nil && ctx.Err() == nil && !failed {
			u.Logger.Warn("upkeep failed; trying again", "what", failure, "error", err)
		}
		failed = err != nil
		if !engine.Pause(ctx, interval) {
			return nil
		}
	}
}

// measure sets the gauges of each cluster that has, or may have, runs.
func (u *upkeep) measure(ctx context.Context) error {
	depths, err := u.store.QueueDepths(ctx)
	if err != nil {
		return err
	}
	listed, err := u.Clusters.List(ctx)
	if err != nil {
		return err
	}
	clusters := map[string]state.Cluster{}
	idle := map[string]bool{} // has no row in depths, and must not keep its last value
	for _, cluster := range listed {
		clusters[cluster.Name], idle[cluster.Name] = cluster, true
	}
	for _, depth := range depths {
		delete(idle, depth.Cluster)
		u.gauge(depth)
		if depth.Queued == 0 {
			continue
		}
		if err := u.explain(ctx, depth.Cluster, clusters); err != nil {
			return err
		}
	}
	for name := range idle {
		u.gauge(state.QueueDepth{Cluster: name})
	}
	return nil
}

func (u *upkeep) gauge(depth state.QueueDepth) {
	tags := []string{metrics.Tag(metrics.TagCluster, depth.Cluster)}
	u.Metrics.Gauge(metrics.QueueDepth, tags, float64(depth.Queued))
	u.Metrics.Gauge(metrics.QueueOldestAgeSeconds, tags, depth.OldestAge)
	u.Metrics.Gauge(metrics.RunsActive, tags, float64(depth.Active))
}

// explain gives the queued runs of a cluster that no submit worker of this
// server asks for the reason why they wait.
func (u *upkeep) explain(ctx context.Context, name string, clusters map[string]state.Cluster) error {
	reason := u.whyWaiting(ctx, name, clusters)
	if reason == "" {
		return nil
	}
	_, err := u.store.ExplainQueued(ctx, name, reason, explainPage)
	return err
}

func (u *upkeep) whyWaiting(ctx context.Context, name string, clusters map[string]state.Cluster) string {
	cluster, known := clusters[name]
	switch {
	case !known:
		return fmt.Sprintf("There is no cluster named %s; the run waits until there is one.", name)
	case cluster.Status == state.ClusterOffline && cluster.StatusReason != "":
		return fmt.Sprintf("Cluster %s is offline: %s", name, cluster.StatusReason)
	case cluster.Status == state.ClusterOffline:
		return fmt.Sprintf("Cluster %s is offline.", name)
	}
	_, err := u.Clusters.Engine(ctx, name)
	var notNow engine.NotNow
	switch {
	case err == nil || ctx.Err() != nil:
		return ""
	case errors.As(err, &notNow):
		return notNow.Reason
	}
	return fmt.Sprintf("Cluster %s cannot be reached, which is tried again: %v", name, err)
}

// deleteOrphans deletes the runs of deleted definitions.
func (u *upkeep) deleteOrphans(ctx context.Context) error {
	return u.drain(ctx, func() (int, error) { return u.store.DeleteOrphanRuns(ctx, retainPage) })
}

// retain deletes runs older than the configuration keeps.
func (u *upkeep) retain(ctx context.Context) error {
	days := u.Config.RunsRetentionDays
	if days <= 0 {
		return nil
	}
	before := u.Clock().AddDate(0, 0, -days)
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
