package services

import (
	"context"
	"errors"
	"fmt"

	"github.com/stitchfix/flotilla-os/fault"
	"github.com/stitchfix/flotilla-os/metrics"
	"github.com/stitchfix/flotilla-os/state"
)

// Stop ends a run and the runs that it spawned, however deep. Each is STOPPED
// when Stop returns; their containers may go on for their grace period. by is
// the email of who asks, empty where unknown. Stopping a run that has stopped
// is no error; state.MissingResource where there is no such run.
func (s *ExecutionService) Stop(ctx context.Context, runID, by string) error {
	reason := state.ReasonTerminated
	if by != "" {
		reason = "Task terminated by - " + by
	}
	var f faults
	f.text("the email of the request header", by, maxName)
	if err := f.err(); err != nil {
		return err
	}
	if err := s.stopOne(ctx, runID, reason); err != nil {
		return err
	}
	return s.stopChildren(ctx, runID, reason)
}

// stopChildren goes through the descendants of a run breadth first, each run
// once: a run's env is the client's, so that runs may name each other as
// parents in a circle.
func (s *ExecutionService) stopChildren(ctx context.Context, root, reason string) error {
	seen := map[string]bool{root: true}
	parents := []string{root}
	var failed []error
	for len(parents) > 0 {
		children, err := s.c.Store.ListChildRuns(ctx, parents[0])
		parents = parents[1:]
		if err != nil {
			return errors.Join(append(failed, err)...)
		}
		for _, id := range children {
			if seen[id] {
				continue
			}
			seen[id] = true
			parents = append(parents, id)
			// A child that was deleted meanwhile has stopped, too.
			if err := s.stopOne(ctx, id, reason); err != nil && !errors.As(err, new(state.MissingResource)) {
				failed = append(failed, fmt.Errorf("stop child run %s: %w", id, err))
			}
		}
	}
	return errors.Join(failed...)
}

func (s *ExecutionService) stopOne(ctx context.Context, runID, reason string) error {
	run, stopped, err := s.c.Store.StopRun(ctx, runID, reason)
	if err != nil {
		return err
	}
	if stopped {
		fault.Point(fault.StopCommitted)
		s.endStopped(ctx, run)
	}
	return nil
}

// endStopped follows up on a run that this server has just moved to STOPPED.
func (s *ExecutionService) endStopped(ctx context.Context, run state.Run) {
	s.auditStatus(ctx, run)
	m := metrics.EngineEKSTerminate
	if run.Engine == state.EKSSparkEngine {
		m = metrics.EngineEMRTerminate
	}
	s.c.Metrics.Increment(m, []string{
		metrics.Tag(metrics.TagEngine, run.Engine), metrics.Tag(metrics.TagCluster, run.ClusterName),
		metrics.Tag(metrics.TagStatus, metrics.StatusSuccess), metrics.Tag(metrics.TagTier, run.Tier),
	}, 1)
	s.endings.end(run)
}

func (s *ExecutionService) auditStatus(ctx context.Context, run state.Run) {
	attrs := []any{"run_id", run.RunID, "definition_id", run.DefinitionID, "cluster", run.ClusterName, "status", run.Status}
	if run.ExitCode != nil {
		attrs = append(attrs, "exit_code", *run.ExitCode)
	}
	if run.ExitReason != nil {
		attrs = append(attrs, "exit_reason", *run.ExitReason)
	}
	audit(ctx, s.log, eventRunStatus, run.User, attrs...)
}

// Report takes what a run says of itself (rest-api.md, "Self-reported
// status"). Errors: state.MalformedInput for an unknown status,
// state.MissingResource. What the run's life does not allow changes nothing
// and is no error.
func (s *ExecutionService) Report(ctx context.Context, runID string, r state.SelfReport) error {
	if err := checkReport(r); err != nil {
		return err
	}
	r.ExitReason = present(r.ExitReason)
	if r.ExitReason == nil && len(r.RunExceptions) > 0 {
		r.ExitReason = new(reasonOf(r.RunExceptions))
	}
	run, moved, err := s.c.Store.SelfReportRun(ctx, runID, r)
	switch {
	case err != nil:
		return err
	case moved && run.Status.Final():
		s.endStopped(ctx, run)
	case moved:
		s.auditStatus(ctx, run)
	}
	return nil
}

func checkReport(r state.SelfReport) error {
	var f faults
	if !r.Status.Valid() {
		f.addf("status must be one of %s, not %q", listed(state.Statuses), r.Status)
	}
	f.number("exit_code", r.ExitCode, minInt32, maxInt32)
	f.optionalText("exit_reason", r.ExitReason, 0)
	for i, exception := range r.RunExceptions {
		f.text(fmt.Sprintf("run_exceptions[%d]", i), exception, 0)
	}
	return f.err()
}
