package kubernetes

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/stitchfix/flotilla-os/clients/kube"
	"github.com/stitchfix/flotilla-os/clients/logs"
	"github.com/stitchfix/flotilla-os/config"
	"github.com/stitchfix/flotilla-os/execution/adapter"
	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/execution/engine/kubernetes/job"
	"github.com/stitchfix/flotilla-os/metrics"
	"github.com/stitchfix/flotilla-os/state"
)

// Store is what the engine needs of the database.
type Store interface {
	ActiveRuns(ctx context.Context, cluster, node, after string, limit int) ([]state.Run, error)
	StoppedAmong(ctx context.Context, runIDs []string) ([]string, error)
}

// Sizer decides what a run gets; *adapter.Adapter.
type Sizer interface {
	Resources(ctx context.Context, executable state.Executable, run state.Run) (adapter.Resources, error)
}

// Config is what New needs.
type Config struct {
	Cluster state.Cluster
	Kube    *kube.Cluster
	// Fingerprint says what Kube would be made from now, by the cluster's name; may be nil.
	Fingerprint func(cluster string) (string, error)
	// Mode is flotilla_mode.
	Mode      string
	EKS       config.EKS
	Deadlines config.Deadlines
	// LostAfter is how long the cluster may not know an active run.
	LostAfter time.Duration
	// DataDir holds the manifests.
	DataDir string
	Archive logs.Archive
	Sizer   Sizer
	Store   Store
	Logger  *slog.Logger
	// Metrics counts what the cluster did for runs; nil counts nothing.
	Metrics metrics.Client
	// Clock is time.Now where nil.
	Clock func() time.Time
}

// Engine executes runs as Jobs of one cluster.
type Engine struct {
	cfg       Config
	logger    *slog.Logger
	now       func() time.Time
	settings  job.Settings
	can       state.Capabilities
	manifests manifests
	logbook   *logbook

	// teams holds the teams whose ConfigMap is known to be there.
	teams sync.Map
	// board is what the follower knows, nil while this server does not follow.
	boardMu sync.Mutex
	board   *board
}

var (
	_ engine.Engine = (*Engine)(nil)
	_ engine.Ageing = (*Engine)(nil)
)

// New makes the engine of a cluster; it does not talk to it. Close it when it is no longer used.
func New(cfg Config) (*Engine, error) {
	if cfg.Kube == nil || cfg.Archive == nil || cfg.Sizer == nil || cfg.Store == nil || cfg.Logger == nil {
		return nil, errors.New("kubernetes: a connection, an archive, a sizer, a store and a logger are needed")
	}
	if cfg.Metrics == nil {
		cfg.Metrics = metrics.Nop{}
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.LostAfter <= 0 {
		cfg.LostAfter = 30 * time.Minute
	}
	e := &Engine{
		cfg: cfg, now: cfg.Clock,
		logger:    cfg.Logger.With("cluster", cfg.Cluster.Name),
		settings:  job.Settings{Mode: cfg.Mode, EKS: cfg.EKS, Deadlines: cfg.Deadlines},
		can:       cfg.Cluster.EffectiveCapabilities(cfg.Kube.ImpliedCapabilities()...),
		manifests: manifests{dir: filepath.Join(cfg.DataDir, ManifestsFolder)},
	}
	e.logbook = newLogbook(e)
	return e, nil
}

// Close ends what the engine does by itself: the streams of logs. It waits for them.
func (e *Engine) Close() {
	e.logbook.close()
	e.cfg.Kube.Close()
}

// Outdated implements engine.Ageing: the cluster's kubeconfig is another one now. One that is gone changes nothing.
func (e *Engine) Outdated() bool {
	if e.cfg.Fingerprint == nil {
		return false
	}
	now, err := e.cfg.Fingerprint(e.cfg.Cluster.Name)
	return err == nil && now != e.cfg.Kube.Fingerprint
}

// namespaceOf is where a run's Jobs are: where its first one was made.
func (e *Engine) namespaceOf(run state.Run) string {
	if run.Namespace != nil && *run.Namespace != "" {
		return *run.Namespace
	}
	return e.cfg.EKS.JobNamespace
}

// following is the follower's board, nil where this server does not follow.
func (e *Engine) following() *board {
	e.boardMu.Lock()
	defer e.boardMu.Unlock()
	return e.board
}

func (e *Engine) follows(b *board) {
	e.boardMu.Lock()
	defer e.boardMu.Unlock()
	e.board = b
}
