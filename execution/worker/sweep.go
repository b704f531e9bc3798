package worker

import (
	"context"
	"fmt"
	"time"

	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/fault"
	"github.com/stitchfix/flotilla-os/metrics"
	"github.com/stitchfix/flotilla-os/state"
)

const (
	// overdueGrace is how far past its deadline a run is stopped by us; the
	// cluster enforces the deadline itself (kubernetes.md, The Job).
	overdueGrace = time.Minute
	// deadAfter is how long a node is silent before the runs that it has not
	// started are given to others.
	deadAfter = 10 * engine.Heartbeat
	// sweepPage bounds one statement's rows.
	sweepPage = 100
)

// sweep finds what no cluster reports: runs past their deadline, runs whose
// node is gone. One server at a time does it.
type sweep struct {
	SupervisorConfig
	store sweepStore
}

func newSweep(cfg SupervisorConfig) *sweep { return &sweep{cfg, cfg.Store} }

// Run sweeps every status interval until ctx ends.
func (s *sweep) Run(ctx context.Context) error {
	failed := false
	for {
		began := s.Clock()
		err := s.runOnce(ctx)
		s.Metrics.Timing(metrics.StatusWorkerRunOnce, nil, s.Clock().Sub(began))
		if err != nil && ctx.Err() == nil && !failed {
			s.Logger.Warn("cannot sweep up; trying again", "error", err)
		}
		failed = err != nil
		if !engine.Pause(ctx, s.Config.Workers.StatusInterval) {
			return nil
		}
	}
}

func (s *sweep) runOnce(ctx context.Context) error {
	if err := s.stopOverdue(ctx); err != nil {
		return fmt.Errorf("stopping runs past their deadline: %w", err)
	}
	orphans, err := s.store.RequeueOrphans(ctx, deadAfter)
	if err != nil {
		return fmt.Errorf("queueing the runs of dead nodes again: %w", err)
	}
	if orphans > 0 {
		s.Logger.Warn("runs of a silent node queued again", "runs", orphans)
		s.Notifier.Wake()
	}
	if err := s.stopLost(ctx); err != nil {
		return fmt.Errorf("stopping lost runs: %w", err)
	}
	return nil
}

// stopOverdue stops and terminates runs whose cluster let them go on past
// their deadline.
func (s *sweep) stopOverdue(ctx context.Context) error {
	for {
		runs, err := s.store.OverdueRuns(ctx, overdueGrace, sweepPage)
		if err != nil {
			return err
		}
		for _, run := range runs {
			if err := s.stopAtDeadline(ctx, run); err != nil {
				return err
			}
		}
		if len(runs) < sweepPage {
			return nil
		}
	}
}

func (s *sweep) stopAtDeadline(ctx context.Context, run state.Run) error {
	code, reason := state.ExitCodeDeadline, deadlineReason(run)
	update := state.RunUpdate{ExitCode: &code, ExitReason: &reason}
	moved, err := s.store.MoveRun(ctx, run.RunID, run.Attempt(), state.StatusStopped, update)
	if err != nil || !moved {
		return err
	}
	fault.Point(fault.DeadlineCommitted)
	logStatus(s.Logger, run, state.StatusStopped, update)
	eng, err := s.Clusters.Engine(ctx, run.ClusterName)
	if err == nil {
		err = eng.Terminate(ctx, run)
	}
	if err != nil {
		// Whoever follows the cluster sees the process of a stopped run and ends it.
		s.Logger.Warn("cannot terminate a run past its deadline", "run_id", run.RunID, "cluster", run.ClusterName, "error", err)
	}
	return nil
}

func deadlineReason(run state.Run) string {
	if run.ActiveDeadlineSeconds == nil {
		return "The run exceeded its deadline."
	}
	return fmt.Sprintf("The run exceeded its deadline of %d seconds.", *run.ActiveDeadlineSeconds)
}

// stopLost stops runs of machines that have been silent for too long. Runs of
// other clusters are missed by whoever follows the cluster.
func (s *sweep) stopLost(ctx context.Context) error {
	clusters, err := s.Clusters.List(ctx)
	if err != nil {
		return err
	}
	for _, cluster := range clusters {
		if cluster.Driver != state.DriverLocal {
			continue
		}
		for {
			lost, err := s.store.StopLost(ctx, cluster.Name, s.Config.LostAfter, sweepPage)
			if err != nil {
				return err
			}
			for _, run := range lost {
				reason := state.ReasonLost
				logStatus(s.Logger, run, state.StatusStopped, state.RunUpdate{ExitReason: &reason})
			}
			if len(lost) < sweepPage {
				break
			}
		}
	}
	return nil
}
