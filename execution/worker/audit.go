package worker

import (
	"log/slog"

	"github.com/stitchfix/flotilla-os/metrics"
	"github.com/stitchfix/flotilla-os/state"
)

// logStatus writes the one audit line of a change that was committed.
func logStatus(logger *slog.Logger, run state.Run, to state.Status, u state.RunUpdate) {
	attrs := []any{
		"event", state.EventTaskStatus, "run_id", run.RunID, "status", to, "cluster", run.ClusterName,
		"definition_id", run.DefinitionID, "alias", run.Alias, "owner", run.User, "attempt", run.Attempt(),
	}
	if u.ExitCode != nil {
		attrs = append(attrs, "exit_code", *u.ExitCode)
	}
	if u.ExitReason != nil {
		attrs = append(attrs, "exit_reason", *u.ExitReason)
	}
	logger.Info("audit", attrs...)
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
