package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/stitchfix/flotilla-os/clients/expiry"
	"github.com/stitchfix/flotilla-os/clients/kube"
	"github.com/stitchfix/flotilla-os/clients/logs"
	"github.com/stitchfix/flotilla-os/execution/adapter"
	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/execution/engine/kubernetes"
	"github.com/stitchfix/flotilla-os/state"
)

// fileExpiry is how often files past their retention are looked for.
const fileExpiry = time.Hour

// logsFolder is where, within the data directory, the archive of logs is.
const logsFolder = "logs"

// kubeClusters makes the engines of Kubernetes clusters and closes those that it has replaced.
type kubeClusters struct {
	connector *kube.Connector
	archive   *logs.Files
	sizer     *adapter.Adapter

	mu     sync.Mutex
	opened map[string]*kubernetes.Engine
}

func (p *program) newKubeClusters(sizer *adapter.Adapter) (*kubeClusters, error) {
	connector, err := kube.NewConnector(kube.ConnectorConfig{EKS: p.cfg.EKS, Logger: p.logger})
	if err != nil {
		return nil, err
	}
	archive, err := logs.NewFiles(filepath.Join(p.cfg.Local.DataDir, logsFolder))
	if err != nil {
		return nil, err
	}
	return &kubeClusters{connector: connector, archive: archive, sizer: sizer, opened: map[string]*kubernetes.Engine{}}, nil
}

// openEngine makes the engine of a cluster, by its driver.
func (p *program) openEngine(_ context.Context, cluster state.Cluster) (engine.Engine, error) {
	if cluster.Driver == state.DriverLocal && p.local != nil && cluster.Name == p.cfg.Local.ClusterName {
		return p.local, nil
	}
	if cluster.Driver == state.DriverLocal {
		return nil, engine.NotNow{Reason: fmt.Sprintf("this server has no driver for cluster %s", cluster.Name)}
	}
	return p.openKubernetes(cluster)
}

func (p *program) openKubernetes(cluster state.Cluster) (engine.Engine, error) {
	connection, err := p.kube.connector.Open(cluster.Name)
	if errors.As(err, new(kube.NoConfiguration)) || errors.As(err, new(kube.BadConfiguration)) {
		return nil, engine.NotNow{Reason: err.Error()}
	}
	if err != nil {
		return nil, err
	}
	made, err := kubernetes.New(kubernetes.Config{
		Cluster: cluster, Kube: connection, Mode: p.cfg.Mode, EKS: p.cfg.EKS, Deadlines: p.cfg.Deadlines,
		LostAfter: p.cfg.LostAfter, DataDir: p.cfg.Local.DataDir, Archive: p.kube.archive,
		Sizer: p.kube.sizer, Store: p.manager, Logger: p.logger, Metrics: p.metrics, Fingerprint: p.kube.connector.Fingerprint,
	})
	if err != nil {
		return nil, err
	}
	p.kube.mu.Lock()
	replaced := p.kube.opened[cluster.Name]
	p.kube.opened[cluster.Name] = made
	p.kube.mu.Unlock()
	if replaced != nil {
		replaced.Close()
	}
	return made, nil
}

// close ends what the engines do by themselves.
func (k *kubeClusters) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, e := range k.opened {
		e.Close()
	}
}

// expireFiles deletes archived logs and manifests past eks_log_retention_days until ctx ends.
func (p *program) expireFiles(ctx context.Context) error {
	keep := time.Duration(p.cfg.EKS.LogRetentionDays) * 24 * time.Hour
	tick := time.NewTicker(fileExpiry)
	defer tick.Stop()
	for keep > 0 {
		for _, folder := range []string{logsFolder, kubernetes.ManifestsFolder} {
			deleted, err := expiry.Files(ctx, filepath.Join(p.cfg.Local.DataDir, folder), time.Now().Add(-keep))
			if err != nil && ctx.Err() == nil {
				p.logger.Warn("cannot delete old files", "folder", folder, "error", err)
			}
			if deleted > 0 {
				p.logger.Info("deleted old files", "folder", folder, "files", deleted)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
	return nil
}
