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
	// overdueGrace is how far past its deadline a run is stopped here. The
	// cluster enforces the deadline itself (kubernetes.md, The Job).
	overdueGrace = time.Minute
	// deadAfter is how long a node is silent before the runs that it has not
	// started are given to others.
	deadAfter = 10 * engine.Heartbeat
	// sweepPage bounds one statement's rows.
	sweepPage = 100
)

// sweep finds what no cluster reports: runs past their deadline, and runs whose
// node is gone. One server at a time does it.
type sweep struct {
	tools
	store               sweepStore
	clusters            Clusters
	notifier            Notifier
	engines             []string
	interval, lostAfter time.Duration
}

func newSweep(cfg SupervisorConfig) *sweep {
	return &sweep{cfg.tools(), cfg.Store, cfg.Clusters, cfg.Notifier, cfg.Engines, cfg.StatusInterval, cfg.LostAfter}
}

// Run sweeps every status interval until ctx ends.
func (s *sweep) Run(ctx context.Context) error {
	sweeping := s.loop("cannot sweep up overdue and lost runs", s.interval, s.runOnce)
	sweeping.Timed = s.timed(metrics.StatusWorkerRunOnce)
	return sweeping.Run(ctx)
}

func (s *sweep) runOnce(ctx context.Context) error {
	for full := true; full; {
		runs, err := s.store.OverdueRuns(ctx, s.engines, overdueGrace, sweepPage)
		for i := 0; err == nil && i < len(runs); i++ {
			err = s.stopAtDeadline(ctx, runs[i])
		}
		if err != nil {
			return fmt.Errorf("stopping runs past their deadline: %w", err)
		}
		full = len(runs) == sweepPage
	}
	orphans, err := s.store.RequeueOrphans(ctx, deadAfter)
	if err != nil {
		return fmt.Errorf("queueing the runs of dead nodes again: %w", err)
	}
	if orphans > 0 {
		s.logger.Warn("runs of a silent node queued again", "runs", orphans)
		s.notifier.Wake()
	}
	if err := s.stopLost(ctx); err != nil {
		return fmt.Errorf("stopping lost runs: %w", err)
	}
	return nil
}

// stopAtDeadline stops and terminates a run that its cluster let go on past its
// deadline.
func (s *sweep) stopAtDeadline(ctx context.Context, run state.Run) error {
	reason := "The run exceeded its deadline."
	if run.ActiveDeadlineSeconds != nil {
		reason = fmt.Sprintf("The run exceeded its deadline of %d seconds.", *run.ActiveDeadlineSeconds)
	}
	update := state.RunUpdate{ExitCode: new(state.ExitCodeDeadline), ExitReason: &reason}
	moved, err := s.store.MoveRun(ctx, run.RunID, run.Attempt(), state.StatusStopped, update)
	if err != nil || !moved {
		return err
	}
	fault.Point(fault.DeadlineCommitted)
	s.logStatus(run, state.StatusStopped, update)
	eng, err := s.clusters.Engine(ctx, run.EngineKey())
	if err == nil {
		err = eng.Terminate(ctx, run)
	}
	if err != nil {
		// The cluster's follower sees the process of a stopped run and ends it.
		s.logger.Warn("cannot terminate a run past its deadline", "run_id", run.RunID, "cluster", run.ClusterName, "error", err)
	}
	return nil
}

// stopLost stops runs of machines that have been silent for too long. Runs of
// other clusters are missed by the engine that follows the cluster.
func (s *sweep) stopLost(ctx context.Context) error {
	clusters, err := s.clusters.List(ctx)
	if err != nil {
		return err
	}
	for _, cluster := range clusters {
		for _, kind := range s.engines {
			key := state.EngineKey{Cluster: cluster.Name, Engine: kind}
			for full := cluster.Driver == state.DriverLocal; full; {
				lost, err := s.store.StopLost(ctx, key, s.lostAfter, sweepPage)
				if err != nil {
					return err
				}
				for _, run := range lost {
					s.logStatus(run, state.StatusStopped, state.RunUpdate{ExitReason: new(state.ReasonLost)})
				}
				full = len(lost) == sweepPage
			}
		}
	}
	return nil
}
