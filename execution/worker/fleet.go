package worker

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stitchfix/flotilla-os/state"
)

const (
	// lookForClusters is how often a fleet looks for clusters that came or went.
	lookForClusters = time.Second
	// goneGrace is how long a cluster that is gone is kept at least, and how often fleet.idle is then called. It is
	// longer than what is under way at a submit worker may take (finishGrace).
	goneGrace = 30 * time.Second
)

// fleet runs one goroutine per engine, so that a cluster that is down or hangs delays no runs but its own.
type fleet struct {
	tools
	clusters Clusters
	engines  []string
	what     string // for the log, if run fails
	// wanted reports whether a cluster gets goroutines; nil means that every cluster does.
	wanted func(c state.Cluster) bool
	// run works on one engine until ctx ends. After an error it is called again with a growing delay.
	run func(ctx context.Context, key state.EngineKey) error
	// idle reports whether the engine of a cluster that is gone can be let go; nil means always. let is called once
	// it was.
	idle func(ctx context.Context, key state.EngineKey) (bool, error)
	let  func(key state.EngineKey)
	// grace is goneGrace if 0.
	grace time.Duration
}

// member is the goroutine of one engine.
type member struct {
	cancel    context.CancelFunc
	ended     chan struct{}
	goneSince time.Time // zero while the cluster is known
	letGo     bool
}

// Run works until ctx ends and all goroutines have ended.
func (f *fleet) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	members := map[state.EngineKey]*member{}
	group.Go(func() error {
		return f.loop("cannot read the clusters", lookForClusters, func(ctx context.Context) error {
			return f.adjust(ctx, group, members)
		}).Run(ctx)
	})
	return group.Wait()
}

// adjust starts goroutines for new clusters and ends those of clusters that are not wanted or gone. One that is ending
// is not started again before it has ended.
func (f *fleet) adjust(ctx context.Context, group *errgroup.Group, members map[state.EngineKey]*member) error {
	listed, err := f.clusters.List(ctx)
	if err != nil {
		return err
	}
	for key, m := range members {
		select {
		case <-m.ended:
			delete(members, key)
			if m.letGo {
				f.let(key)
			}
		default:
		}
	}
	wanted := map[state.EngineKey]bool{}
	for _, cluster := range listed {
		if f.wanted != nil && !f.wanted(cluster) {
			continue
		}
		for _, engine := range f.engines {
			key := state.EngineKey{Cluster: cluster.Name, Engine: engine}
			wanted[key] = true
			if members[key] == nil {
				members[key] = f.start(ctx, group, key)
			}
		}
	}
	for key, m := range members {
		switch {
		case wanted[key]:
			m.goneSince = time.Time{}
		case f.idle == nil:
			m.cancel()
		default:
			if err := f.letGo(ctx, key, m); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *fleet) start(ctx context.Context, group *errgroup.Group, key state.EngineKey) *member {
	ctx, cancel := context.WithCancel(ctx)
	m := &member{cancel: cancel, ended: make(chan struct{})}
	working := f.loop(f.what, firstBackoff, func(ctx context.Context) error { return f.run(ctx, key) })
	working.Logger = working.Logger.With("cluster", key.Cluster, "engine", key.Engine)
	group.Go(func() error {
		defer close(m.ended)
		defer cancel()
		return working.Run(ctx)
	})
	return m
}

// letGo ends the goroutine of a cluster that is gone as soon as nothing needs it.
func (f *fleet) letGo(ctx context.Context, key state.EngineKey, m *member) error {
	grace, now := f.grace, f.clock()
	if grace == 0 {
		grace = goneGrace
	}
	if m.goneSince.IsZero() {
		m.goneSince = now
	}
	if m.letGo || now.Sub(m.goneSince) < grace {
		return nil
	}
	m.goneSince = now
	idle, err := f.idle(ctx, key)
	if err == nil && idle {
		m.letGo = true
		m.cancel()
	}
	return err
}
