package engine

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/stitchfix/flotilla-os/state"
)

// openAgainAfter is how long after a failure an engine is not opened again.
const openAgainAfter = 5 * time.Second

// ClustersConfig is what NewClusters needs.
type ClustersConfig struct {
	// Known returns every cluster, of the configuration and of the table, each
	// name once. It is called often and may be some seconds behind.
	Known func(ctx context.Context) ([]state.Cluster, error)
	// Open makes the engine of a cluster for one kind of runs. It returns
	// NotNow if this program has no driver for them.
	Open   func(ctx context.Context, cluster state.Cluster, engine string) (Engine, error)
	Logger *slog.Logger
	// Clock is time.Now if nil.
	Clock func() time.Time
}

// Clusters is the registry of engines: at most one for each state.EngineKey,
// opened when it is first needed and closed when it is replaced or dropped.
type Clusters struct {
	cfg ClustersConfig

	mu      sync.Mutex
	engines map[state.EngineKey]*opened
}

// opened is one engine. Its lock is held while it is opened, so that a cluster
// that hangs delays no other.
type opened struct {
	lock    chan struct{} // holds one token
	cluster state.Cluster
	engine  Engine
	err     error
	triedAt time.Time
	// checkedAt is when Outdated was last called.
	checkedAt time.Time
	// dropped entries are no longer in the registry.
	dropped bool
}

// NewClusters makes the registry. It opens nothing.
func NewClusters(cfg ClustersConfig) (*Clusters, error) {
	if cfg.Known == nil || cfg.Open == nil || cfg.Logger == nil {
		return nil, errors.New("engine: NewClusters needs Known, Open and Logger")
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	return &Clusters{cfg: cfg, engines: map[state.EngineKey]*opened{}}, nil
}

// List returns every cluster, as ClustersConfig.Known does.
func (c *Clusters) List(ctx context.Context) ([]state.Cluster, error) { return c.cfg.Known(ctx) }

// Engine returns the engine of a key, opened at the first call and again if the
// cluster has changed in what its engine depends on. The engine of a cluster
// whose row is gone stays, for the runs that it still has, until it is dropped;
// so does every engine while the database cannot be read. Errors:
// state.MissingResource for an unknown cluster, else what Open returned.
func (c *Clusters) Engine(ctx context.Context, key state.EngineKey) (Engine, error) {
	cluster, err := c.find(ctx, key.Cluster)
	c.mu.Lock()
	entry := c.engines[key]
	if entry == nil && err == nil {
		entry = &opened{lock: make(chan struct{}, 1)}
		c.engines[key] = entry
	}
	c.mu.Unlock()
	if entry == nil {
		return nil, err
	}
	select {
	case entry.lock <- struct{}{}:
		defer func() { <-entry.lock }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	switch {
	case entry.dropped && err == nil: // between the two locks
		return nil, NotNow{Reason: "Cluster " + key.Cluster + " is being opened again."}
	case err != nil && entry.engine == nil:
		return nil, err
	case err != nil:
		return entry.engine, nil
	}
	return c.open(ctx, entry, cluster, key.Engine)
}

// open returns the entry's engine, opened again if the cluster has changed. An
// engine that reports to be outdated is replaced only once another could be
// opened: a file that is just being written must not stop what runs.
func (c *Clusters) open(ctx context.Context, entry *opened, cluster state.Cluster, engine string) (Engine, error) {
	now := c.cfg.Clock()
	same := sameEngine(entry.cluster, cluster)
	if same && entry.engine != nil {
		ageing, ok := entry.engine.(Ageing)
		if !ok || now.Sub(entry.checkedAt) < AskOutdatedEvery {
			return entry.engine, nil
		}
		if entry.checkedAt = now; !ageing.Outdated() {
			return entry.engine, nil
		}
	}
	if same && entry.err != nil && now.Sub(entry.triedAt) < openAgainAfter {
		return nil, entry.err
	}
	made, err := c.cfg.Open(ctx, cluster, engine)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, err // the caller gave up, which is no failure of the cluster
	case err != nil && same && entry.engine != nil:
		c.cfg.Logger.Warn("cannot open the changed cluster, the old connection stays", "cluster", cluster.Name, "error", err)
		return entry.engine, nil
	case err != nil:
		made = nil
	}
	old := entry.engine
	entry.cluster, entry.engine, entry.err, entry.triedAt, entry.checkedAt = cluster, made, err, now, now
	if old != made {
		closeEngine(old)
	}
	if err != nil {
		return nil, err
	}
	c.cfg.Logger.Info("cluster opened", "cluster", cluster.Name, "driver", cluster.Driver, "engine", engine, "again", old != nil)
	return made, nil
}

// Drop closes and forgets the engine of a cluster that is gone. If the cluster
// comes back, Engine opens it anew.
func (c *Clusters) Drop(key state.EngineKey) {
	c.mu.Lock()
	entry := c.engines[key]
	delete(c.engines, key)
	c.mu.Unlock()
	if entry == nil {
		return
	}
	entry.lock <- struct{}{}
	defer func() { <-entry.lock }()
	entry.dropped = true
	closeEngine(entry.engine)
	entry.engine = nil
	c.cfg.Logger.Info("cluster closed", "cluster", key.Cluster, "engine", key.Engine)
}

// Close closes every engine.
func (c *Clusters) Close() {
	c.mu.Lock()
	keys := slices.Collect(maps.Keys(c.engines))
	c.mu.Unlock()
	for _, key := range keys {
		c.Drop(key)
	}
}

func closeEngine(e Engine) {
	if closer, ok := e.(interface{ Close() }); ok {
		closer.Close()
	}
}

func (c *Clusters) find(ctx context.Context, name string) (state.Cluster, error) {
	listed, err := c.List(ctx)
	if err != nil {
		return state.Cluster{}, err
	}
	for _, cluster := range listed {
		if cluster.Name == name {
			return cluster, nil
		}
	}
	return state.Cluster{}, state.Missingf("There is no cluster named %q.", name)
}

// sameEngine reports whether one engine serves both readings of a cluster. Its
// status, tiers and times are not the engine's business.
func sameEngine(a, b state.Cluster) bool {
	return a.Name == b.Name && a.Driver == b.Driver && a.Namespace == b.Namespace && a.Region == b.Region &&
		a.EMRVirtualCluster == b.EMRVirtualCluster && a.SparkServerURI == b.SparkServerURI &&
		slices.Equal(a.Capabilities, b.Capabilities)
}
