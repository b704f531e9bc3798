package engine

import (
	"context"
	"time"

	"github.com/stitchfix/flotilla-os/state"
)

// AskOutdatedEvery is the time between two looks at what an engine depends on.
const AskOutdatedEvery = 10 * time.Second

// Ageing is implemented by engines that depend on more than their cluster's row, such as a kubeconfig file.
type Ageing interface {
	// Outdated says that an engine opened now would be another one. It may read files, and is asked at most once in
	// AskOutdatedEvery.
	Outdated() bool
}

// renewed is the cluster's engine, opened anew where it is outdated. Where that fails the old one stays: a file that is
// just being written must not stop what runs.
func (c *Clusters) renewed(ctx context.Context, entry *opened, cluster state.Cluster, now time.Time) Engine {
	ageing, ok := entry.engine.(Ageing)
	if !ok || now.Sub(entry.checkedAt) < AskOutdatedEvery {
		return entry.engine
	}
	entry.checkedAt = now
	if !ageing.Outdated() {
		return entry.engine
	}
	made, err := c.cfg.Open(ctx, cluster)
	if err != nil {
		c.cfg.Logger.Warn("cannot open the changed cluster, the old connection stays", "cluster", cluster.Name, "error", err)
		return entry.engine
	}
	entry.engine = made
	c.cfg.Logger.Info("cluster opened anew", "cluster", cluster.Name)
	return made
}
