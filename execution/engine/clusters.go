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

// DefaultRefresh is how old the list of clusters may be.
const DefaultRefresh = 10 * time.Second

// openAgainAfter is how long a cluster whose engine could not be opened is
// left alone.
const openAgainAfter = 5 * time.Second

// ClusterLister reads the clusters that are rows of cluster_state.
type ClusterLister interface {
	ListClusters(ctx context.Context) ([]state.Cluster, error)
}

// ClustersConfig is what NewClusters needs.
type ClustersConfig struct {
	Store ClusterLister
	// Configured are the clusters of the configuration.
	Configured []state.Cluster
	// Open makes the engine of a cluster. NotNow says that this program has
	// no driver for it.
	Open   func(ctx context.Context, cluster state.Cluster) (Engine, error)
	Logger *slog.Logger
	// Refresh is how old the list may be; 0 means DefaultRefresh.
	Refresh time.Duration
	// Clock is time.Now where nil.
	Clock func() time.Time
}

// Clusters knows every cluster and keeps one engine for each.
type Clusters struct {
	cfg ClustersConfig

	mu      sync.Mutex
	listed  []state.Cluster
	readAt  time.Time // zero: never read, or no longer valid
	changes int       // counts Invalidate
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

// NewClusters makes the registry; it reads and opens nothing yet.
func NewClusters(cfg ClustersConfig) (*Clusters, error) {
	if cfg.Store == nil || cfg.Open == nil || cfg.Logger == nil {
		return nil, errors.New("engine: NewClusters needs Store, Open and Logger")
	}
	if cfg.Refresh <= 0 {
		cfg.Refresh = DefaultRefresh
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	return &Clusters{cfg: cfg, engines: map[string]*opened{}}, nil
}

// List answers every cluster, configured and stored, at most Refresh old. Of
// rows with one name the lowest id counts. A row takes the place of a
// configured cluster of its name, unless that is a local one: what this
// machine is cannot be changed by a row.
func (c *Clusters) List(ctx context.Context) ([]state.Cluster, error) {
	c.mu.Lock()
	listed, readAt, changes := c.listed, c.readAt, c.changes
	c.mu.Unlock()
	if !readAt.IsZero() && c.cfg.Clock().Sub(readAt) < c.cfg.Refresh {
		return slices.Clone(listed), nil
	}
	asked := c.cfg.Clock()
	rows, err := c.cfg.Store.ListClusters(ctx)
	if err != nil {
		return nil, err
	}
	merged := mergeClusters(c.cfg.Configured, rows)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.listed = merged
	if c.changes == changes { // else what was read may be older than the change
		c.readAt = asked
	}
	return slices.Clone(merged), nil
}

// Invalidate has the next List read anew; for whoever has just changed a
// cluster.
func (c *Clusters) Invalidate() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.readAt = time.Time{}
	c.changes++
}

// Run keeps the list fresh until ctx ends, so that nobody who asks has to
// wait for the database.
func (c *Clusters) Run(ctx context.Context) error {
	tick := time.NewTicker(c.cfg.Refresh)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		c.Invalidate()
		if _, err := c.List(ctx); err != nil && ctx.Err() == nil {
			c.cfg.Logger.Warn("cannot read the clusters", "error", err)
		}
	}
}

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

// mergeClusters lists each name once, configured clusters first.
func mergeClusters(configured, rows []state.Cluster) []state.Cluster {
	var merged []state.Cluster
	at := map[string]int{}
	for _, cluster := range configured {
		if _, dup := at[cluster.Name]; dup {
			continue
		}
		at[cluster.Name] = len(merged)
		merged = append(merged, cluster)
	}
	stored := map[string]bool{}
	for _, row := range slices.SortedStableFunc(slices.Values(rows), byNumericID) {
		i, known := at[row.Name]
		switch {
		case stored[row.Name] || known && merged[i].Driver == state.DriverLocal:
		case known:
			merged[i] = row
		default:
			at[row.Name] = len(merged)
			merged = append(merged, row)
		}
		stored[row.Name] = true
	}
	return merged
}

// byNumericID orders decimal ids without reading them as numbers: the shorter
// one is the lower.
func byNumericID(a, b state.Cluster) int {
	if len(a.ID) != len(b.ID) {
		return len(a.ID) - len(b.ID)
	}
	switch {
	case a.ID < b.ID:
		return -1
	case a.ID > b.ID:
		return 1
	}
	return 0
}

// sameEngine is whether one engine serves both readings of a cluster. Its
// status, tiers and times are not the engine's business.
func sameEngine(a, b state.Cluster) bool {
	return a.Name == b.Name && a.Driver == b.Driver && a.Namespace == b.Namespace && a.Region == b.Region &&
		a.EMRVirtualCluster == b.EMRVirtualCluster && a.SparkServerURI == b.SparkServerURI &&
		slices.Equal(a.Capabilities, b.Capabilities)
}
