// Package adapter decides the size of a run (Adaptive Resource Allocation). Every kind of cluster gets it from here, so
// that a run is the same wherever it goes. Talking to a cluster is the engines' part and not done here.
package adapter

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/stitchfix/flotilla-os/config"
	"github.com/stitchfix/flotilla-os/metrics"
	"github.com/stitchfix/flotilla-os/state"
)

// lookupTimeout bounds the look into the history: a database that hangs must not keep a run from going out.
const lookupTimeout = 5 * time.Second

// ResourceEstimator knows what memory kills taught about a command.
type ResourceEstimator interface {
	// EstimateRunResources answers state.MissingResource where nothing was learnt.
	EstimateRunResources(ctx context.Context, executableID, commandHash string) (state.Size, error)
}

// AdapterConfig is what an Adapter is made of. Metrics may be nil.
type AdapterConfig struct {
	ARA       config.ARA
	Metrics   metrics.Client
	Logger    *slog.Logger
	Estimator ResourceEstimator
}

// Adapter sizes runs. It may be used from many goroutines at once.
type Adapter struct {
	ara       config.ARA
	metrics   metrics.Client
	logger    *slog.Logger
	estimator ResourceEstimator
	sized     *recentRuns
}

// New makes an Adapter.
func New(cfg AdapterConfig) (*Adapter, error) {
	if cfg.Logger == nil || cfg.Estimator == nil {
		return nil, errors.New("adapter: a logger and an estimator are needed")
	}
	if cfg.Metrics == nil {
		cfg.Metrics = metrics.Nop{}
	}
	return &Adapter{
		ara: cfg.ARA, metrics: cfg.Metrics, logger: cfg.Logger, estimator: cfg.Estimator,
		sized: newRecentRuns(maxRecentRuns),
	}, nil
}

// Resources is what a run gets. A process that exceeds the memory of Limit is killed; one that wants more than its cpu
// is slowed down. GPU counts devices.
type Resources struct {
	state.Size // requested of the cluster
	Limit      state.Size
	GPU        int64
}

// Resources sizes a run. An attempt after the first gets what the first one got. An error means that ctx ended, or that
// there is no executable; a look into the history that fails is none.
func (a *Adapter) Resources(ctx context.Context, executable state.Executable, run state.Run) (Resources, error) {
	if executable == nil || executable.GetExecutableID() == nil {
		return Resources{}, errors.New("adapter: the run's executable is not known")
	}
	if given, ok := alreadyGiven(executable, run); ok {
		return given, nil
	}
	return a.adaptiveResources(ctx, executable, run)
}

// adaptiveResources is the decision of Adaptive Resource Allocation: the default size; where the command was killed
// for memory before, at least what that taught; all within bounds. ara.md section 3 numbers the steps.
func (a *Adapter) adaptiveResources(ctx context.Context, executable state.Executable, run state.Run) (Resources, error) {
	d := decision{standard: defaultSize(executable, run), gpu: gpus(executable, run)}
	d.wanted = d.standard
	switch {
	case !a.applies(executable, d.gpu):
	case run.CommandHash == nil || *run.CommandHash == "":
		d.nullHash = true
	default:
		learnt, err := a.learnt(ctx, executable, run)
		if err != nil {
			return Resources{}, err
		}
		d.wanted = d.standard.atLeast(learnt)
	}
	d.final = a.boundsFor(d.gpu).apply(d.wanted)
	if a.sized.add(run.RunID) {
		a.report(ctx, executable, run, d)
	}
	return Resources{
		Size:  state.Size{Memory: d.final.memory, CPU: d.final.cpu},
		Limit: state.Size{Memory: d.final.memory, CPU: d.final.cpu},
		GPU:   d.gpu,
	}, nil
}

// applies says whether history counts for this run: not with GPUs, not where its definition or the configuration
// turns that off.
func (a *Adapter) applies(executable state.Executable, gpu int64) bool {
	wish := executable.GetExecutableResources().AdaptiveResourceAllocation
	return a.ara.Enabled && gpu == 0 && (wish == nil || *wish)
}

// learnt is what memory kills of the run's command taught, nothing where there were none or where the look failed.
// The error is that of ctx: who is told to stop must not hand out a size that was not looked up.
func (a *Adapter) learnt(ctx context.Context, executable state.Executable, run state.Run) (size, error) {
	executableID := *executable.GetExecutableID()
	lookup, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	found, err := a.estimator.EstimateRunResources(lookup, executableID, *run.CommandHash)
	if err != nil && ctx.Err() != nil {
		return size{}, ctx.Err()
	}
	tags := runTags(run)
	a.metrics.Increment(metrics.EngineEKSARAEstimationAttempted, tags, 1)
	log := a.logger.With("run_id", run.RunID, "definition_id", executableID, "command_hash", *run.CommandHash)
	var missing state.MissingResource
	switch {
	case errors.As(err, &missing):
		a.metrics.Increment(metrics.EngineEKSARANoHistoricalData, tags, 1)
		log.InfoContext(ctx, "ARA: No historical resource data found")
		return size{}, nil
	case err != nil:
		a.metrics.Increment(metrics.EngineEKSARAEstimationFailed, tags, 1)
		log.ErrorContext(ctx, "ARA: Error querying historical resource data", "error", err)
		return size{}, nil
	}
	a.metrics.Increment(metrics.EngineEKSARAEstimationSucceeded, tags, 1)
	log.InfoContext(ctx, "ARA: Historical resource data found",
		"estimated_memory_mb", found.Memory, "estimated_cpu_millicores", found.CPU)
	return size{memory: found.Memory, cpu: found.CPU}, nil
}
