package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/fault"
	"github.com/stitchfix/flotilla-os/metrics"
	"github.com/stitchfix/flotilla-os/state"
)

// How long a run whose cluster did not take it waits: a quarter of the time
// that it has waited already, within these bounds.
const (
	shortestDeferral = time.Second
	longestDeferral  = time.Minute
)

// submit hands one claimed run to its cluster. Whatever comes of it is
// recorded, or the claim ends by itself and the run is claimed again.
func (l *submitLoop) submit(ctx context.Context, eng engine.Engine, run state.Run) {
	err := l.execute(ctx, eng, run)
	if err == nil {
		l.countExecute(run, metrics.StatusSuccess)
		return
	}
	if ctx.Err() != nil {
		return // the program ends; the claim is handed back
	}
	l.countExecute(run, metrics.StatusFailure)
	log := l.Logger.With("run_id", run.RunID, "cluster", l.cluster)
	var rejected engine.Rejected
	if errors.As(err, &rejected) {
		log.Info("run rejected", "reason", rejected.Reason)
		if err := l.reject(ctx, run, rejected.Reason); err != nil {
			log.Warn("cannot record the rejection; the run is tried again", "error", err)
		}
		return
	}
	log.Warn("run not accepted by its cluster", "error", err)
	if err := l.deferRun(ctx, run, err); err != nil {
		log.Warn("cannot give the run back; its claim ends by itself", "error", err)
	}
}

func (l *submitLoop) execute(ctx context.Context, eng engine.Engine, run state.Run) error {
	executable, err := l.executable(ctx, run)
	if err != nil {
		return err
	}
	return eng.Execute(ctx, engine.Submission{
		Run: run, Executable: executable,
		Accept: func(ctx context.Context, a state.Acceptance) (bool, error) { return l.accept(ctx, run, a) },
	})
}

// executable is what the run was made from; where it is gone, the run can
// never be executed.
func (l *submitLoop) executable(ctx context.Context, run state.Run) (state.Executable, error) {
	typ, id := run.ExecutableType, run.DefinitionID
	if run.ExecutableID != nil && *run.ExecutableID != "" {
		id = *run.ExecutableID
	}
	if typ == "" {
		typ = state.ExecutableTypeDefinition
	}
	executable, err := l.store.GetExecutable(ctx, typ, id)
	var missing state.MissingResource
	if errors.As(err, &missing) {
		return nil, engine.Rejected{Reason: fmt.Sprintf("The %s %s of this run no longer exists.", typ, id)}
	}
	return executable, err
}

func (l *submitLoop) accept(ctx context.Context, run state.Run, a state.Acceptance) (bool, error) {
	accepted, err := l.store.AcceptRun(ctx, run.RunID, l.Name, a)
	if err != nil || !accepted {
		return false, err
	}
	logStatus(l.Logger, run, state.StatusPending, state.RunUpdate{})
	return true, nil
}

func (l *submitLoop) reject(ctx context.Context, run state.Run, reason string) error {
	hit, err := l.store.RejectRun(ctx, run.RunID, l.Name, reason)
	if hit {
		code := state.ExitCodeNeverStarted
		logStatus(l.Logger, run, state.StatusStopped, state.RunUpdate{ExitCode: &code, ExitReason: &reason})
	}
	return err
}

// deferRun gives the claim back: the run stays QUEUED, says why, and is
// claimed again later.
func (l *submitLoop) deferRun(ctx context.Context, run state.Run, cause error) error {
	reason := fmt.Sprintf("Cluster %s did not take the run, which is tried again: %v", l.cluster, cause)
	var notNow engine.NotNow
	if errors.As(cause, &notNow) {
		reason = notNow.Reason
	}
	now := l.Clock()
	if err := l.store.DeferRun(ctx, run.RunID, l.Name, reason, now.Add(deferral(run, now))); err != nil {
		return err
	}
	fault.Point(fault.Deferred)
	return nil
}

func deferral(run state.Run, now time.Time) time.Duration {
	if run.QueuedAt == nil {
		return shortestDeferral
	}
	return min(max(now.Sub(*run.QueuedAt)/4, shortestDeferral), longestDeferral)
}

func (l *submitLoop) countExecute(run state.Run, outcome string) {
	l.Metrics.Increment(executeMetric(run.Engine), runTags(run, outcome), 1)
}
