package worker

import (
	"context"

	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/fault"
	"github.com/stitchfix/flotilla-os/metrics"
	"github.com/stitchfix/flotilla-os/state"
)

// retryPage bounds one statement's rows.
const retryPage = 100

// retryWorker queues runs again that their cluster failed, and stops those
// that have no attempt left.
type retryWorker struct {
	SupervisorConfig
	store retryStore
}

func newRetryWorker(cfg SupervisorConfig) *retryWorker { return &retryWorker{cfg, cfg.Store} }

// Run looks every retry interval until ctx ends. The count only says whether:
// one statement serves many runs.
func (w *retryWorker) Run(ctx context.Context, _ int) error {
	failed := false
	for {
		began := w.Clock()
		err := w.runOnce(ctx)
		w.Metrics.Timing(metrics.RetryWorkerRunOnce, nil, w.Clock().Sub(began))
		if err != nil && ctx.Err() == nil && !failed {
			w.Logger.Warn("cannot queue runs again; trying again", "error", err)
		}
		failed = err != nil
		if !engine.Pause(ctx, w.Config.Workers.RetryInterval) {
			return nil
		}
	}
}

func (w *retryWorker) runOnce(ctx context.Context) error {
	policy := state.RetryPolicy{
		MaxAttempts: w.Config.Retry.MaxAttempts, BaseDelay: w.Config.Retry.BaseDelay,
		MaxDelay: w.Config.Retry.MaxDelay, Limit: retryPage,
	}
	for {
		requeued, stopped, err := w.store.RequeueRetries(ctx, policy)
		if err != nil {
			return err
		}
		if len(requeued) > 0 {
			fault.Point(fault.RetryRequeued)
			w.Notifier.Wake() // a delay of 0 is due at once
		}
		for _, run := range requeued {
			logStatus(w.Logger, run, state.StatusQueued, state.RunUpdate{ExitReason: run.ExitReason})
		}
		for _, run := range stopped {
			logStatus(w.Logger, run, state.StatusStopped, state.RunUpdate{ExitCode: run.ExitCode, ExitReason: run.ExitReason})
		}
		if len(requeued)+len(stopped) < retryPage {
			return nil
		}
	}
}
