package worker

import (
	"context"
	"time"

	"github.com/stitchfix/flotilla-os/fault"
	"github.com/stitchfix/flotilla-os/metrics"
	"github.com/stitchfix/flotilla-os/state"
)

// retryPage bounds one statement's rows.
const retryPage = 100

// retryWorker queues runs again that their cluster failed, and stops those
// that have no attempt left.
type retryWorker struct {
	tools
	store    retryStore
	notifier Notifier
	policy   state.RetryPolicy
	interval time.Duration
}

func newRetryWorker(cfg SupervisorConfig) *retryWorker {
	w := &retryWorker{cfg.tools(), cfg.Store, cfg.Notifier, cfg.Retry, cfg.RetryInterval}
	w.policy.Limit, w.policy.Engines = retryPage, cfg.Engines
	return w
}

// Run looks every retry interval until ctx ends. A count above 1 changes
// nothing: one statement serves many runs.
func (w *retryWorker) Run(ctx context.Context, _ int) error {
	looking := w.loop("cannot queue runs for another attempt", w.interval, w.runOnce)
	looking.Timed = w.timed(metrics.RetryWorkerRunOnce)
	return looking.Run(ctx)
}

func (w *retryWorker) runOnce(ctx context.Context) error {
	for {
		requeued, stopped, err := w.store.RequeueRetries(ctx, w.policy)
		if err != nil {
			return err
		}
		if len(requeued) > 0 {
			fault.Point(fault.RetryRequeued)
			w.notifier.Wake() // a delay of 0 is due at once
		}
		for _, run := range requeued {
			w.logStatus(run, state.StatusQueued, state.RunUpdate{ExitReason: run.ExitReason})
		}
		for _, run := range stopped {
			w.logStatus(run, state.StatusStopped, state.RunUpdate{ExitCode: run.ExitCode, ExitReason: run.ExitReason})
		}
		if len(requeued)+len(stopped) < retryPage {
			return nil
		}
	}
}
