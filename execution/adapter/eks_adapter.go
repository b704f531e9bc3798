// Package adapter decides the size of a run (Adaptive Resource Allocation, ara.md) for every kind of cluster, so that a
// run is the same size on each. It looks up what was learnt, has execution/ara decide, and reports decisions. It does
// not talk to clusters; the engines do.
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

// lookupTimeout bounds the lookup of history: a database that hangs must not delay a run.
const lookupTimeout = 5 * time.Second

// The size of a run if neither it nor its definition requests one (ara.md section 3, step 1).
const (
	fallbackCPU    = 256 // millicores
	fallbackMemory = 512 // MB
)

// ResourceEstimator looks up what memory kills taught about a command.
type ResourceEstimator interface {
	// EstimateRunResources returns state.MissingResource if nothing was learnt.
	EstimateRunResources(ctx context.Context, executableID, commandHash string) (state.Size, error)
}

// AdapterConfig is what New needs. Metrics may be nil.
type AdapterConfig struct {
	ARA       config.ARA
	Metrics   metrics.Client
	Logger    *slog.Logger
	Estimator ResourceEstimator
}

// Adapter sizes runs. It is safe for concurrent use.
type Adapter struct {
	policy    ara.OOMHistory
	metrics   metrics.Client
	logger    *slog.Logger
	estimator ResourceEstimator
}

// New returns an Adapter.
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
	}, nil
}

// Resources is what a run gets. A process that exceeds the memory of Limit is killed; one that wants more than its cpu
// is slowed down. GPU counts devices.
type Resources struct {
	state.Size // requested of the cluster
	Limit      state.Size
	GPU        int64
}

// Sized is what a run gets and why.
type Sized struct {
	Resources
	// Decision is nil if nothing was decided now: the run keeps what it was given before.
	Decision *ara.Decision

	executableID string
	failure      error // of the lookup
}

// Resources sizes a run for a cluster that can hold capacity for one run; 0 is unknown. Whoever calls it calls Report
// once the run is accepted with this size. A lookup of history that fails is no error of Resources. Its errors: ctx
// ended, or the run has no executable.
func (a *Adapter) Resources(ctx context.Context, executable state.Executable, run state.Run, capacity state.Size) (Sized, error) {
	if executable == nil || executable.GetExecutableID() == nil {
		return Sized{}, errors.New("adapter: the run's executable is not known")
	}
	if given, ok := givenBefore(executable, run); ok {
		return Sized{Resources: given}, nil
	}
	return a.adaptiveResources(ctx, executable, run, capacity)
}

// adaptiveResources looks up what memory kills of the run's command taught and has the policy decide.
func (a *Adapter) adaptiveResources(ctx context.Context, executable state.Executable, run state.Run, capacity state.Size) (Sized, error) {
	ask := askOf(executable, run)
	ask.Capacity = capacity
	sized := Sized{executableID: *executable.GetExecutableID()}
	var history ara.History
	if a.policy.Skip(ask) == "" {
		lookup, cancel := context.WithTimeout(ctx, lookupTimeout)
		defer cancel()
		learnt, err := a.estimator.EstimateRunResources(lookup, sized.executableID, ask.CommandHash)
		switch {
		case err != nil && ctx.Err() != nil:
			return Sized{}, ctx.Err() // the caller gave up; the default size would ignore what was learnt
		case errors.As(err, new(state.MissingResource)):
		case err != nil:
			history.Failed, sized.failure = true, err
		default:
			history.Learnt = learnt
		}
	}
	decision := a.policy.Decide(history, ask)
	sized.Decision = &decision
	sized.Resources = Resources{Size: decision.Given, Limit: decision.Given, GPU: ask.GPU}
	return sized, nil
}

// askOf returns what the run asks for, else what its executable does, else the fallback. Rows of the program before
// this one hold what was asked for in memory and cpu alone.
func askOf(executable state.Executable, run state.Run) ara.Ask {
	resources := executable.GetExecutableResources()
	ask := ara.Ask{
		Asked: state.Size{
			Memory: firstPositive(run.RequestedMemory, run.Memory, resources.Memory, new(int64(fallbackMemory))),
			CPU:    firstPositive(run.RequestedCPU, run.CPU, resources.CPU, new(int64(fallbackCPU))),
		},
		GPU:      firstPositive(run.GPU, resources.GPU),
		Disabled: resources.AdaptiveResourceAllocation != nil && !*resources.AdaptiveResourceAllocation,
	}
	if run.CommandHash != nil {
		ask.CommandHash = *run.CommandHash
	}
	return ask
}

// AskedSize returns the size that was asked for, before history or an earlier attempt changed it.
func AskedSize(executable state.Executable, run state.Run) state.Size {
	if _, ok := givenBefore(executable, run); ok {
		run.Memory, run.CPU = nil, nil
	}
	return askOf(executable, run).Default()
}

// firstPositive returns the first value above 0, or 0 if there is none.
func firstPositive(values ...*int64) int64 {
	for _, value := range values {
		if value != nil && *value > 0 {
			return *value
		}
	}
	return 0
}

// givenBefore returns the size that an earlier acceptance stored in the run's row, if the run has to keep it. It does:
//   - in every attempt after the first, which keeps what the first was given (ara.md section 3, step 7);
//   - in a first attempt that was accepted and returned to the queue before it started. Only an acceptance stores
//     limits, which tells its memory and cpu from those that were asked for.
func givenBefore(executable state.Executable, run state.Run) (Resources, bool) {
	given := state.Size{Memory: firstPositive(run.Memory), CPU: firstPositive(run.CPU)}
	limit := state.Size{Memory: firstPositive(run.MemoryLimit), CPU: firstPositive(run.CPULimit)}
	returned := limit.Memory > 0 && limit.CPU > 0
	if given.Memory == 0 || given.CPU == 0 || run.Attempt() == 1 && !returned {
		return Resources{}, false
	}
	return Resources{
		Size: given, Limit: limit.AtLeast(given), GPU: firstPositive(run.GPU, executable.GetExecutableResources().GPU),
	}, true
}

// Report measures and logs the decision on a run's size (ara.md sections 4 and 5). An engine calls it after the run was
// accepted with that size, so that a run which waits and is sized several times counts once. It does nothing if there
// was no decision.
func (a *Adapter) Report(ctx context.Context, run state.Run, sized Sized) {
	d := sized.Decision
	if d == nil {
		return
	}
	// The engine is that of container jobs on any kind of cluster.
	tags := metrics.EngineTags(state.EKSEngine, run.ClusterName)
	log := a.logger.With("run_id", run.RunID, "definition_id", sized.executableID)
	if d.Skip == ara.SkipNullHash {
		a.metrics.Increment(metrics.EngineEKSARANullCommandHash, tags, 1)
		log.WarnContext(ctx, "Skipping ARA - NULL command_hash", "reason", "Job has no command (malformed definition)")
	}
	if d.Skip == "" || d.Skip == ara.SkipNoHistory || d.Skip == ara.SkipFailed {
		a.metrics.Increment(metrics.EngineEKSARAEstimationAttempted, tags, 1)
		log := log.With("command_hash", *run.CommandHash)
		switch d.Skip {
		case ara.SkipNoHistory:
			a.metrics.Increment(metrics.EngineEKSARANoHistoricalData, tags, 1)
			log.InfoContext(ctx, "ARA: No historical resource data found")
		case ara.SkipFailed:
			a.metrics.Increment(metrics.EngineEKSARAEstimationFailed, tags, 1)
			log.ErrorContext(ctx, "ARA: Error querying historical resource data", "error", sized.failure)
		default:
			a.metrics.Increment(metrics.EngineEKSARAEstimationSucceeded, tags, 1)
			log.InfoContext(ctx, "ARA: Historical resource data found",
				"estimated_memory_mb", d.Learnt.Memory, "estimated_cpu_millicores", d.Learnt.CPU)
		}
	}
	log = log.With("cluster", run.ClusterName)
	if d.Rule == ara.RuleOOMHistory {
		a.reportAdjusted(ctx, log, tags, *d)
	}
	if d.HitMemory || d.HitCPU {
		a.reportMaximum(ctx, log, tags, *d)
	}
	a.metrics.Distribution(metrics.EngineEKSARAFinalMemoryMB, tags, float64(d.Given.Memory))
	a.metrics.Distribution(metrics.EngineEKSARAFinalCPUMillicores, tags, float64(d.Given.CPU))
}

func (a *Adapter) reportAdjusted(ctx context.Context, log *slog.Logger, tags []string, d ara.Decision) {
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
	log.InfoContext(ctx, "ARA adjusted resources",
		"default_cpu_millicores", d.Asked.CPU, "adjusted_cpu_millicores", d.Wanted.CPU, "cpu_millicores_ratio", cpuRatio,
		"default_memory_mb", d.Asked.Memory, "adjusted_memory_mb", d.Wanted.Memory, "memory_mb_ratio", memoryRatio)
}

func (a *Adapter) reportMaximum(ctx context.Context, log *slog.Logger, tags []string, d ara.Decision) {
	message := "ARA resource allocation hit maximum limit"
	var fields []any
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
	log.WarnContext(ctx, message, fields...) //nolint:sloglint // one of two constants
}
