package worker

import (
	"log/slog"

	"github.com/stitchfix/flotilla-os/metrics"
	"github.com/stitchfix/flotilla-os/state"
)

// logStatus writes the audit line of a change that was committed.
func logStatus(logger *slog.Logger, run state.Run, to state.Status, u state.RunUpdate) {
	logger.Info("audit", state.AuditStatus(state.Program, run, to, u)...)
}

func executeMetric(engine string) metrics.Metric {
	if engine == state.EKSSparkEngine {
		return metrics.EngineEMRExecute
	}
	return metrics.EngineEKSExecute
}

// runTags are the tags of what an engine did with a run.
func runTags(run state.Run, outcome string) []string {
	return []string{
		metrics.Tag(metrics.TagEngine, run.Engine), metrics.Tag(metrics.TagCluster, run.ClusterName),
		metrics.Tag(metrics.TagTier, run.Tier), metrics.Tag(metrics.TagStatus, outcome),
	}
}
