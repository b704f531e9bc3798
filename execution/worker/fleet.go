package worker

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/state"
)

// lookForClusters is how often a fleet looks for clusters that came or went.
const lookForClusters = time.Second

// fleet runs one goroutine per cluster, so that a cluster that is down or
// hangs delays nobody's runs but its own.
type fleet struct {
	clusters Clusters
	logger   *slog.Logger
	// wanted is whether a cluster gets a goroutine; nil means every one does,
	// and keeps it when the cluster is gone from the list.
	wanted func(c state.Cluster) bool
	// run works on one cluster until ctx ends; after an error it is called
	// again with a growing delay.
	run func(ctx context.Context, cluster string) error
}

// Run works until ctx ends and all goroutines have ended.
func (f *fleet) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	members := &members{cancels: map[string]context.CancelFunc{}}
	failed := false
	for {
		listed, err := f.clusters.List(ctx)
		if err != nil && ctx.Err() == nil && !failed {
			f.logger.Warn("cannot read the clusters; going on with those that are known", "error", err)
		}
		failed = err != nil
		if err == nil {
			f.adjust(ctx, group, members, listed)
		}
		if !engine.Pause(ctx, lookForClusters) {
			return group.Wait()
		}
	}
}

// members are the clusters that have a goroutine.
type members struct {
	mu      sync.Mutex
	cancels map[string]context.CancelFunc
}

func (f *fleet) adjust(ctx context.Context, group *errgroup.Group, m *members, listed []state.Cluster) {
	m.mu.Lock()
	defer m.mu.Unlock()
	keep := map[string]bool{}
	for _, cluster := range listed {
		name := cluster.Name
		if f.wanted != nil && !f.wanted(cluster) {
			continue
		}
		keep[name] = true
		if m.cancels[name] != nil {
			continue
		}
		member, cancel := context.WithCancel(ctx)
		m.cancels[name] = cancel
		group.Go(func() error {
			defer m.left(name)
			defer cancel()
			f.keep(member, name)
			return nil
		})
	}
	for name, cancel := range m.cancels {
		if f.wanted != nil && !keep[name] {
			cancel()
		}
	}
}

func (m *members) left(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.cancels, name)
}

// keep calls run again and again until ctx ends.
func (f *fleet) keep(ctx context.Context, cluster string) {
	var delay backoff
	for ctx.Err() == nil {
		began := time.Now()
		err := f.run(ctx, cluster)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > longestBackoff {
			delay.reset()
		}
		wait := delay.next()
		f.logger.Warn("cluster interrupted", "cluster", cluster, "error", err, "again_in", wait)
		if !engine.Pause(ctx, wait) {
			return
		}
	}
}
