package engine

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/stitchfix/flotilla-os/state"
)

// openAgainAfter is how long a cluster whose engine could not be opened is
// left alone.
const openAgainAfter = 5 * time.Second

// ClustersConfig is what NewClusters needs.
type ClustersConfig struct {
	// Known answers every cluster, of the configuration and of the table,
	// each name once and some seconds old at most. It is asked often.
	Known func(ctx context.Context) ([]state.Cluster, error)
	// Open makes the engine of a cluster. NotNow says that this program has
	// no driver for it.
	Open   func(ctx context.Context, cluster state.Cluster) (Engine, error)
	Logger *slog.Logger
	// Clock is time.Now where nil.
	Clock func() time.Time
}

// Clusters keeps one engine for each cluster.
type Clusters struct {
	cfg ClustersConfig

	mu      sync.Mutex
	engines map[string]*opened
}

// opened is the engine of one cluster; its lock is held while it is opened,
// so that a cluster that hangs keeps nobody else waiting.
type opened struct {
	lock    chan struct{} // holds one token
	cluster state.Cluster
	engine  Engine
	err     error
	triedAt time.Time
	// checkedAt is when the engine was last asked whether it is outdated.
	checkedAt time.Time
}

// NewClusters makes the registry; it opens nothing yet.
func NewClusters(cfg ClustersConfig) (*Clusters, error) {
	if cfg.Known == nil || cfg.Open == nil || cfg.Logger == nil {
		return nil, errors.New("engine: NewClusters needs Known, Open and Logger")
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	return &Clusters{cfg: cfg, engines: map[string]*opened{}}, nil
}

// List answers every cluster, as ClustersConfig.Known does.
func (c *Clusters) List(ctx context.Context) ([]state.Cluster, error) { return c.cfg.Known(ctx) }

// Engine answers the engine of a cluster, opened at the first call and again
// where the cluster was changed in what its engine depends on. A cluster whose
// row is gone keeps the engine it had, for the runs that it still has; so does
// every cluster while the database cannot be read. Errors:
// state.MissingResource for an unknown name, else what Open said.
func (c *Clusters) Engine(ctx context.Context, name string) (Engine, error) {
	cluster, err := c.find(ctx, name)
	c.mu.Lock()
	entry := c.engines[name]
	if entry == nil && err == nil {
		entry = &opened{lock: make(chan struct{}, 1)}
		c.engines[name] = entry
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
	if err != nil {
		if entry.engine == nil {
			return nil, err
		}
		return entry.engine, nil
	}
	return c.open(ctx, entry, cluster)
}

func (c *Clusters) open(ctx context.Context, entry *opened, cluster state.Cluster) (Engine, error) {
	now := c.cfg.Clock()
	same := sameEngine(entry.cluster, cluster)
	if same && entry.engine != nil {
		return c.renewed(ctx, entry, cluster, now), nil
	}
	if same && entry.err != nil && now.Sub(entry.triedAt) < openAgainAfter {
		return nil, entry.err
	}
	made, err := c.cfg.Open(ctx, cluster)
	if err != nil && ctx.Err() != nil {
		return nil, err // the caller gave up; that says nothing of the cluster
	}
	entry.cluster, entry.engine, entry.err, entry.triedAt, entry.checkedAt = cluster, made, err, now, now
	if err != nil {
		entry.engine = nil
		return nil, err
	}
	c.cfg.Logger.Info("cluster opened", "cluster", cluster.Name, "driver", cluster.Driver)
	return made, nil
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

// sameEngine is whether one engine serves both readings of a cluster. Its
// status, tiers and times are not the engine's business.
func sameEngine(a, b state.Cluster) bool {
	return a.Name == b.Name && a.Driver == b.Driver && a.Namespace == b.Namespace && a.Region == b.Region &&
		a.EMRVirtualCluster == b.EMRVirtualCluster && a.SparkServerURI == b.SparkServerURI &&
		slices.Equal(a.Capabilities, b.Capabilities)
}
