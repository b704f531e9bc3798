package adapter

import (
	"context"

	"github.com/stitchfix/flotilla-os/metrics"
	"github.com/stitchfix/flotilla-os/state"
)

// runTags are the tags of every measurement of ARA. The engine is that of container jobs on any kind of cluster.
func runTags(run state.Run) []string {
	return []string{metrics.Tag(metrics.TagEngine, state.EKSEngine), metrics.Tag(metrics.TagCluster, run.ClusterName)}
}

func (a *Adapter) reportNullHash(ctx context.Context, executable state.Executable, run state.Run) {
	a.metrics.Increment(metrics.EngineEKSARANullCommandHash, runTags(run), 1)
	a.logger.WarnContext(ctx, "Skipping ARA - NULL command_hash",
		"reason", "Job has no command (malformed definition)",
		"run_id", run.RunID, "definition_id", *executable.GetExecutableID())
}

// report measures and logs the size of a run, once for each run.
func (a *Adapter) report(ctx context.Context, executable state.Executable, run state.Run, d decision) {
	if d.nullHash {
		a.reportNullHash(ctx, executable, run)
	}
	tags := runTags(run)
	a.metrics.Distribution(metrics.EngineEKSARAFinalMemoryMB, tags, float64(d.final.memory))
	a.metrics.Distribution(metrics.EngineEKSARAFinalCPUMillicores, tags, float64(d.final.cpu))
	if d.adjusted() {
		a.reportAdjusted(ctx, executable, run, d)
	}
	a.reportMaximum(ctx, executable, run, d)
}

func (a *Adapter) reportAdjusted(ctx context.Context, executable state.Executable, run state.Run, d decision) {
	tags := runTags(run)
	memoryRatio := float64(d.wanted.memory) / float64(d.standard.memory)
	cpuRatio := float64(d.wanted.cpu) / float64(d.standard.cpu)
	a.metrics.Increment(metrics.EngineEKSARAResourceAdjustment, tags, 1)
	for metric, value := range map[metrics.Metric]float64{
		metrics.EngineEKSARAMemoryIncreaseRatio: memoryRatio,
		metrics.EngineEKSARACPUIncreaseRatio:    cpuRatio,
		metrics.EngineEKSARADefaultMemory:       float64(d.standard.memory),
		metrics.EngineEKSARAARAMemory:           float64(d.wanted.memory),
		metrics.EngineEKSARAMemoryIncrease:      float64(d.wanted.memory - d.standard.memory),
		metrics.EngineEKSARADefaultCPU:          float64(d.standard.cpu),
		metrics.EngineEKSARAARACPU:              float64(d.wanted.cpu),
		metrics.EngineEKSARACPUIncrease:         float64(d.wanted.cpu - d.standard.cpu),
	} {
		a.metrics.Distribution(metric, tags, value)
	}
	a.logger.InfoContext(ctx, "ARA adjusted resources",
		"definition_id", *executable.GetExecutableID(), "run_id", run.RunID, "cluster", run.ClusterName,
		"default_cpu_millicores", d.standard.cpu, "adjusted_cpu_millicores", d.wanted.cpu, "cpu_millicores_ratio", cpuRatio,
		"default_memory_mb", d.standard.memory, "adjusted_memory_mb", d.wanted.memory, "memory_mb_ratio", memoryRatio)
}

// reportMaximum warns where a maximum cut the run's size. Rounding of cpu is no cut.
func (a *Adapter) reportMaximum(ctx context.Context, executable state.Executable, run state.Run, d decision) {
	most, tags := a.boundsFor(d.gpu).most, runTags(run)
	memoryHit, cpuHit := d.wanted.memory > most.memory, d.wanted.cpu > most.cpu
	if !memoryHit && !cpuHit {
		return
	}
	message := "ARA resource allocation hit maximum limit"
	fields := []any{"run_id", run.RunID, "definition_id", *executable.GetExecutableID(), "cluster", run.ClusterName}
	if memoryHit {
		message = "ARA memory allocation hit maximum limit - potential over-provisioning"
		a.metrics.Increment(metrics.EngineEKSARAHitMaxMemory, tags, 1)
		fields = append(fields, "default_memory_mb", d.standard.memory, "requested_memory_mb", d.wanted.memory,
			"final_memory_mb", d.final.memory, "memory_overage_mb", d.wanted.memory-most.memory)
	}
	if cpuHit {
		a.metrics.Increment(metrics.EngineEKSARAHitMaxCPU, tags, 1)
		fields = append(fields, "default_cpu_millicores", d.standard.cpu, "requested_cpu_millicores", d.wanted.cpu,
			"final_cpu_millicores", d.final.cpu, "cpu_overage_millicores", d.wanted.cpu-most.cpu)
	}
	a.logger.WarnContext(ctx, message, fields...) //nolint:sloglint // one of two constants
}
