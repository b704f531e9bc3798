// Package kubernetes is the engine of Kubernetes clusters: it creates the Jobs of runs, follows them and their pods by
// watching, keeps their logs, and ends them. What a Job looks like, and what a pod's state means for its run, are pure
// functions of package job; package clients/kube reaches the cluster.
package kubernetes

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
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

// defaultLostAfter is the default of Config.LostAfter.
const defaultLostAfter = 30 * time.Minute

// Store is the part of the database that the engine needs; *state.Manager.
type Store interface {
	ActiveRuns(ctx context.Context, key state.EngineKey, node, after string, limit int) ([]state.Run, error)
	StoppedAmong(ctx context.Context, runIDs []string) ([]string, error)
}

// Sizer decides what a run gets, and reports a decision once it is accepted; *adapter.Adapter.
type Sizer interface {
	Resources(ctx context.Context, executable state.Executable, run state.Run, capacity state.Size) (adapter.Sized, error)
	Report(ctx context.Context, run state.Run, sized adapter.Sized)
}

// Config configures an Engine.
type Config struct {
	Cluster state.Cluster
	Kube    *kube.Cluster
	// Mode is flotilla_mode.
	Mode      string
	EKS       config.EKS
	Deadlines config.Deadlines
	// LostAfter is how long the cluster may not know an active run; 30 minutes if it is not positive.
	LostAfter time.Duration
	// DataDir holds the manifests.
	DataDir string
	Archive logs.Archive
	// Capacity is what the cluster can hold for one run; 0 is unknown.
	Capacity state.Size
	Sizer    Sizer
	Store    Store
	Logger   *slog.Logger
	// Metrics counts what the cluster did for runs; may be nil.
	Metrics metrics.Client
	// Clock defaults to time.Now.
	Clock func() time.Time
}

// Engine executes runs as Jobs of one cluster.
type Engine struct {
	cfg        Config
	logger     *slog.Logger
	now        func() time.Time
	settings   job.Settings
	can        state.Capabilities
	logStreams *logStreams

	// teams holds the teams whose ConfigMap is known to exist.
	teams sync.Map
	// following is what the follower knows, nil while this server does not follow.
	following atomic.Pointer[attempts]

	// life ends with Close; started counts what has to end with it.
	life    context.Context //nolint:containedctx // the life of log streams, which outlive whoever asked for them
	end     context.CancelFunc
	mu      sync.Mutex
	closed  bool
	started sync.WaitGroup
}

var (
	_ engine.Engine = (*Engine)(nil)
	_ engine.Ageing = (*Engine)(nil)
)

// New returns the engine of a cluster without talking to the cluster. Close it when it is no longer used.
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
		cfg.LostAfter = defaultLostAfter
	}
	e := &Engine{
		cfg: cfg, now: cfg.Clock,
		logger:   cfg.Logger.With("cluster", cfg.Cluster.Name),
		settings: job.Settings{Mode: cfg.Mode, EKS: cfg.EKS, Deadlines: cfg.Deadlines},
		can:      cfg.Cluster.EffectiveCapabilities(cfg.Kube.ImpliedCapabilities()...),
	}
	e.life, e.end = context.WithCancel(context.Background())
	e.logStreams = &logStreams{Engine: e, streams: map[logs.Key]*logStream{}}
	return e, nil
}

// Close ends what the engine started, which is Follow and the streams of logs, and waits for it. Follow returns an error
// then. Other methods still work.
func (e *Engine) Close() {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.end()
	e.started.Wait()
	e.cfg.Kube.Close()
}

// begin counts something that Close waits for; started.Done ends it. It returns false if the engine is closed.
func (e *Engine) begin() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.closed {
		e.started.Add(1)
	}
	return !e.closed
}

// Outdated implements engine.Ageing: it reports whether the cluster's kubeconfig has changed.
func (e *Engine) Outdated() bool { return e.cfg.Kube.Outdated() }

// namespaceOf returns the namespace of a run's Jobs: where its first one was made.
func (e *Engine) namespaceOf(run state.Run) string {
	if run.Namespace != nil && *run.Namespace != "" {
		return *run.Namespace
	}
	return e.cfg.EKS.JobNamespace
}
