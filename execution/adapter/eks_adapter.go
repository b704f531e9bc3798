// Package adapter decides the size of a run (Adaptive Resource Allocation). Every kind of cluster gets it from here, so
// that a run is the same wherever it goes. Talking to a cluster is the engines' part and not done here.
package adapter

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/stitchfix/flotilla-os/config"
	"github.com/stitchfix/flotilla-os/execution/ara"
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
	policy    ara.OOMHistory
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
		policy: ara.OOMHistory{
			Enabled: cfg.ARA.Enabled,
			Least:   state.Size{Memory: cfg.ARA.MinMemory, CPU: cfg.ARA.MinCPU},
			Most:    state.Size{Memory: cfg.ARA.MaxMemory, CPU: cfg.ARA.MaxCPU},
			MostGPU: state.Size{Memory: cfg.ARA.MaxMemoryGPU, CPU: cfg.ARA.MaxCPUGPU},
		},
		metrics: cfg.Metrics, logger: cfg.Logger, estimator: cfg.Estimator,
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

// adaptiveResources looks up what memory kills of the run's command taught, has
// the policy decide, and measures the decision, once for each run.
func (a *Adapter) adaptiveResources(ctx context.Context, executable state.Executable, run state.Run) (Resources, error) {
	ask := ara.Ask{Asked: defaultSize(executable, run), GPU: gpus(executable, run)}
	if wish := executable.GetExecutableResources().AdaptiveResourceAllocation; wish != nil {
		ask.Disabled = !*wish
	}
	if run.CommandHash != nil {
		ask.CommandHash = *run.CommandHash
	}
	var history ara.History
	skip := a.policy.Skip(ask)
	if skip == "" {
		learnt, err := a.learnt(ctx, executable, run)
		if err != nil {
			return Resources{}, err
		}
		history.Learnt = learnt
	}
	d := a.policy.Decide(history, ask)
	if a.sized.add(run.RunID) {
		if skip == ara.SkipNullHash {
			a.metrics.Increment(metrics.EngineEKSARANullCommandHash, runTags(run), 1)
			a.logger.WarnContext(ctx, "Skipping ARA - NULL command_hash",
				"reason", "Job has no command (malformed definition)",
				"run_id", run.RunID, "definition_id", *executable.GetExecutableID())
		}
		a.report(ctx, executable, run, d)
	}
	return Resources{Size: d.Given, Limit: d.Given, GPU: ask.GPU}, nil
}

// learnt is what memory kills of the run's command taught, nothing where there were none or where the look failed.
// The error is that of ctx: who is told to stop must not hand out a size that was not looked up.
func (a *Adapter) learnt(ctx context.Context, executable state.Executable, run state.Run) (state.Size, error) {
	executableID := *executable.GetExecutableID()
	lookup, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	found, err := a.estimator.EstimateRunResources(lookup, executableID, *run.CommandHash)
	if err != nil && ctx.Err() != nil {
		return state.Size{}, ctx.Err()
	}
	tags := runTags(run)
	a.metrics.Increment(metrics.EngineEKSARAEstimationAttempted, tags, 1)
	log := a.logger.With("run_id", run.RunID, "definition_id", executableID, "command_hash", *run.CommandHash)
	var missing state.MissingResource
	switch {
	case errors.As(err, &missing):
		a.metrics.Increment(metrics.EngineEKSARANoHistoricalData, tags, 1)
		log.InfoContext(ctx, "ARA: No historical resource data found")
		return state.Size{}, nil
	case err != nil:
		a.metrics.Increment(metrics.EngineEKSARAEstimationFailed, tags, 1)
		log.ErrorContext(ctx, "ARA: Error querying historical resource data", "error", err)
		return state.Size{}, nil
	}
	a.metrics.Increment(metrics.EngineEKSARAEstimationSucceeded, tags, 1)
	log.InfoContext(ctx, "ARA: Historical resource data found",
		"estimated_memory_mb", found.Memory, "estimated_cpu_millicores", found.CPU)
	return found, nil
}

// runTags are the tags of every measurement of ARA. The engine is that of container jobs on any kind of cluster.
func runTags(run state.Run) []string {
	return metrics.EngineTags(state.EKSEngine, run.ClusterName)
}

// report measures and logs the size of a run, once for each run.
func (a *Adapter) report(ctx context.Context, executable state.Executable, run state.Run, d ara.Decision) {
	tags := runTags(run)
	a.metrics.Distribution(metrics.EngineEKSARAFinalMemoryMB, tags, float64(d.Given.Memory))
	a.metrics.Distribution(metrics.EngineEKSARAFinalCPUMillicores, tags, float64(d.Given.CPU))
	if d.Adjusted() {
		a.reportAdjusted(ctx, executable, run, d)
	}
	a.reportMaximum(ctx, executable, run, d)
}

func (a *Adapter) reportAdjusted(ctx context.Context, executable state.Executable, run state.Run, d ara.Decision) {
	tags := runTags(run)
	memoryRatio := float64(d.Wanted.Memory) / float64(d.Asked.Memory)
	cpuRatio := float64(d.Wanted.CPU) / float64(d.Asked.CPU)
	a.metrics.Increment(metrics.EngineEKSARAResourceAdjustment, tags, 1)
	for metric, value := range map[metrics.Metric]float64{
		metrics.EngineEKSARAMemoryIncreaseRatio: memoryRatio,
		metrics.EngineEKSARACPUIncreaseRatio:    cpuRatio,
		metrics.EngineEKSARADefaultMemory:       float64(d.Asked.Memory),
		metrics.EngineEKSARAARAMemory:           float64(d.Wanted.Memory),
		metrics.EngineEKSARAMemoryIncrease:      float64(d.Wanted.Memory - d.Asked.Memory),
		metrics.EngineEKSARADefaultCPU:          float64(d.Asked.CPU),
		metrics.EngineEKSARAARACPU:              float64(d.Wanted.CPU),
		metrics.EngineEKSARACPUIncrease:         float64(d.Wanted.CPU - d.Asked.CPU),
	} {
		a.metrics.Distribution(metric, tags, value)
	}
	a.logger.InfoContext(ctx, "ARA adjusted resources",
		"definition_id", *executable.GetExecutableID(), "run_id", run.RunID, "cluster", run.ClusterName,
		"default_cpu_millicores", d.Asked.CPU, "adjusted_cpu_millicores", d.Wanted.CPU, "cpu_millicores_ratio", cpuRatio,
		"default_memory_mb", d.Asked.Memory, "adjusted_memory_mb", d.Wanted.Memory, "memory_mb_ratio", memoryRatio)
}

// reportMaximum warns where a maximum cut the run's size. Rounding of cpu is no cut.
func (a *Adapter) reportMaximum(ctx context.Context, executable state.Executable, run state.Run, d ara.Decision) {
	tags := runTags(run)
	if !d.HitMemory && !d.HitCPU {
		return
	}
	message := "ARA resource allocation hit maximum limit"
	fields := []any{"run_id", run.RunID, "definition_id", *executable.GetExecutableID(), "cluster", run.ClusterName}
	if d.HitMemory {
		message = "ARA memory allocation hit maximum limit - potential over-provisioning"
		a.metrics.Increment(metrics.EngineEKSARAHitMaxMemory, tags, 1)
		fields = append(fields, "default_memory_mb", d.Asked.Memory, "requested_memory_mb", d.Wanted.Memory,
			"final_memory_mb", d.Given.Memory, "memory_overage_mb", d.Wanted.Memory-d.Most.Memory)
	}
	if d.HitCPU {
		a.metrics.Increment(metrics.EngineEKSARAHitMaxCPU, tags, 1)
		fields = append(fields, "default_cpu_millicores", d.Asked.CPU, "requested_cpu_millicores", d.Wanted.CPU,
			"final_cpu_millicores", d.Given.CPU, "cpu_overage_millicores", d.Wanted.CPU-d.Most.CPU)
	}
	a.logger.WarnContext(ctx, message, fields...) //nolint:sloglint // one of two constants
}
