package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/stitchfix/flotilla-os/clients/kube"
	"github.com/stitchfix/flotilla-os/clients/logs"
	"github.com/stitchfix/flotilla-os/config"
	"github.com/stitchfix/flotilla-os/execution/adapter"
	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/execution/engine/kubernetes"
	"github.com/stitchfix/flotilla-os/execution/engine/local"
	"github.com/stitchfix/flotilla-os/execution/worker"
	"github.com/stitchfix/flotilla-os/metrics"
	"github.com/stitchfix/flotilla-os/state"
)

// logsFolder is the folder of archived logs within the data directory.
const logsFolder = "logs"

// engineOpener makes the engine of a cluster from the engine of its runs and its driver.
type engineOpener struct {
	cfg       config.Config
	local     *local.Engine // nil if the local driver is off
	connector *kube.Connector
	archive   *logs.Files
	sizer     *adapter.Adapter
	manager   *state.Manager
	metrics   metrics.Client
	logger    *slog.Logger
}

// open implements engine.ClustersConfig.Open.
func (o *engineOpener) open(_ context.Context, cluster state.Cluster, runs string) (engine.Engine, error) {
	if runs != state.EKSEngine {
		return nil, engine.NotNow{Reason: fmt.Sprintf("This version of Flotilla does not execute runs of engine %s.", runs)}
	}
	if cluster.Driver == state.DriverLocal {
		if o.local == nil || cluster.Name != o.cfg.Local.ClusterName {
			return nil, engine.NotNow{Reason: fmt.Sprintf("this server has no driver for cluster %s", cluster.Name)}
		}
		return o.local, nil
	}
	connection, err := o.connector.Open(cluster.Name)
	if errors.As(err, new(kube.NoConfiguration)) || errors.As(err, new(kube.BadConfiguration)) {
		return nil, engine.NotNow{Reason: err.Error()}
	}
	if err != nil {
		return nil, err
	}
	return kubernetes.New(kubernetes.Config{
		Cluster: cluster, Kube: connection, Mode: o.cfg.Mode, EKS: o.cfg.EKS, Deadlines: o.cfg.Deadlines,
		LostAfter: o.cfg.LostAfter, DataDir: o.cfg.Local.DataDir, Archive: o.archive,
		Capacity: state.Size{Memory: o.cfg.ARA.MaxMemoryOf(cluster.Name)},
		Sizer:    o.sizer, Store: o.manager, Logger: o.logger, Metrics: o.metrics,
	})
}

// expireInterval is how often expireFiles looks for files past their retention.
const expireInterval = time.Hour

// expireFiles deletes archived logs and manifests past eks_log_retention_days until ctx ends.
func (s *Server) expireFiles(ctx context.Context) error {
	keep := time.Duration(s.cfg.EKS.LogRetentionDays) * 24 * time.Hour
	if keep <= 0 {
		return nil
	}
	expiring := worker.Loop{What: "cannot delete old files", Every: expireInterval, Logger: s.logger, Step: func(ctx context.Context) error {
		var failed []error
		for _, folder := range []string{logsFolder, kubernetes.ManifestsFolder} {
			deleted, err := logs.DeleteOlder(ctx, filepath.Join(s.cfg.Local.DataDir, folder), time.Now().Add(-keep))
			failed = append(failed, err)
			if deleted > 0 {
				s.logger.Info("deleted old files", "folder", folder, "files", deleted)
			}
		}
		return errors.Join(failed...)
	}}
	return expiring.Run(ctx)
}
